"""How sizes, models and scores look and what they are called: the same in every figure.

Each look depends on the thing shown alone, not on what else is in a figure.
"""

from bisect import bisect
from zlib import crc32

from common.cli import UNTRAINED

MAJORITY = {"color": "black", "linestyle": ":", "label": "majority class"}
# The colours of Okabe and Ito, which most colour-blind readers can tell apart, without yellow and
# black.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4A1E")
_MODEL_MARKERS = "osD^vPX"
_SIZE_MARKERS = dict(
    zip((0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 100), "o*PvXs<^>phD", strict=True)
)
_LINES = ("-", "--", "-.", ":")


def size_name(size: int | str) -> str:
    """What an encoder is called; `size` is the percentage it was fine-tuned on, or "random"."""
    names = {UNTRAINED: "untrained encoder", "0": "0 % (pre-trained)"}
    return names.get(str(size), f"{size} %")


def encoder_name(size: int | str) -> str:
    """The same in the words of a title."""
    names = {UNTRAINED: "untrained encoder", "0": "pre-trained encoder"}
    return names.get(str(size), f"encoder fine-tuned on {size}\u00a0%")  # keeps "30 %" on one line


def variant_name(variant: str) -> str:
    """What a variant of a step is called; `variant` is from its folder's name: `linear-first`."""
    return variant.replace("-", ", ").replace("_", " ")


def size_style(size: int | str) -> dict:
    """Colour, marker and line: lighter for less data; grey where nothing was fine-tuned."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if str(size) in (UNTRAINED, "0"):
        line, marker = ("--", "x") if str(size) == UNTRAINED else ("-", "o")
        return {"color": "#808080", "marker": marker, "linestyle": line}
    share = float(size) / 100
    color = to_hex(colormaps["viridis_r"](0.05 + 0.95 * share**0.5))
    at_most = list(_SIZE_MARKERS)[bisect(list(_SIZE_MARKERS), float(size)) - 1]
    return {"color": color, "marker": _SIZE_MARKERS[at_most], "linestyle": "-"}


def model_style(name: str) -> dict:
    """Colour, marker and filling: by the place in the registry, or by a hash for other models."""
    from common.models import MODELS

    known, n = list(MODELS), len(_COLORS)
    turn, place = divmod(known.index(name) if name in known else crc32(name.encode()), n)
    fill = ("full", "none", "left")[turn % 3]
    marker = _MODEL_MARKERS[(place + turn) % n]
    return {"color": _COLORS[place], "marker": marker, "fillstyle": fill}


def score_style(i: int, n: int) -> dict:
    """The look of the i-th of `n` scores in one panel: thinner than those that lie below it."""
    above = n - 1 - i
    looks = {"color": _COLORS, "linestyle": _LINES, "marker": _MODEL_MARKERS}
    look = {name: values[i % len(values)] for name, values in looks.items()}
    return look | {"linewidth": 0.8 + 0.7 * above, "markersize": 2.5 + 1.3 * above}


def short(name: str) -> str:
    """A model's name, cut to fit into a panel's title."""
    return name if len(name) <= 24 else f"…{name[-23:]}"
