"""How sizes, models and scores look and are called: one place, the same in every figure.

Each is a function of what is shown alone, so that it does not depend on what else is in a figure.
"""

from bisect import bisect
from zlib import crc32

from common.cli import UNTRAINED

MAJORITY = {"color": "black", "linestyle": ":", "label": "majority class"}
# Okabe and Ito's colours, which most colour-blind readers tell apart, without yellow and black.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4A1E")
_MODEL_MARKERS = "osD^vPX"
_SIZE_MARKERS = ((0, "o"), (1, "*"), (5, "P"), (10, "v"), (20, "X"), (30, "s"), (40, "<"),
                 (50, "^"), (60, ">"), (70, "p"), (80, "h"), (100, "D"))  # fmt: skip
_LINES = ("-", "--", "-.", ":")


def size_name(size: int | str) -> str:
    """How an encoder is called by what it was fine-tuned on: `size` is a percentage or "random"."""
    names = {UNTRAINED: "untrained encoder", "0": "0 % (pre-trained)"}
    return names.get(str(size), f"{size} %")


def encoder_name(size: int | str) -> str:
    """The same, as a title says it."""
    names = {UNTRAINED: "untrained encoder", "0": "pre-trained encoder"}
    return names.get(str(size), f"encoder fine-tuned on {size}\u00a0%")  # no line ends there


def variant_name(variant: str) -> str:
    """How the variant of a step is called, from its folder's name: `linear-first`."""
    return variant.replace("-", ", ").replace("_", " ")


def size_style(size: int | str) -> dict:
    """Colour, marker and line: lighter for less data; grey where nothing was fine-tuned."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if str(size) in (UNTRAINED, "0"):
        line, marker = ("--", "x") if str(size) == UNTRAINED else ("-", "o")
        return {"color": "#808080", "marker": marker, "linestyle": line}
    share = float(size) / 100
    marker = _SIZE_MARKERS[bisect(_SIZE_MARKERS, (share * 100, "~")) - 1][1]
    color = to_hex(colormaps["viridis_r"](0.05 + 0.95 * share**0.5))
    return {"color": color, "marker": marker, "linestyle": "-"}


def model_style(name: str) -> dict:
    """Colour, marker and filling: by the place in the registry, by a hash for other models."""
    from common.models import MODELS

    known, n = list(MODELS), len(_COLORS)
    i = known.index(name) if name in known else crc32(name.encode())
    turn, place = i // n, i % n
    return {"color": _COLORS[place], "marker": _MODEL_MARKERS[(place + turn) % n],
            "fillstyle": ("full", "none", "left")[turn % 3]}  # fmt: skip


def score_style(i: int, n: int) -> dict:
    """Of the i-th of `n` scores in one panel: each is narrower than those before and below it."""
    return {"color": _COLORS[i % len(_COLORS)], "linestyle": _LINES[i % len(_LINES)],
            "marker": _MODEL_MARKERS[i % len(_MODEL_MARKERS)],
            "linewidth": 0.8 + 0.7 * (n - 1 - i),
            "markersize": 2.5 + 1.3 * (n - 1 - i)}  # fmt: skip


def short(name: str) -> str:
    """A model's name that fits into a panel's title."""
    return name if len(name) <= 24 else f"…{name[-23:]}"
