"""What all figures are made with: style, panels, the range of y, a title, a legend, files."""

import textwrap
from collections.abc import Sequence
from math import ceil
from pathlib import Path

import numpy as np

from common.files import replacing

PAPER = Path(__file__).with_name("paper.mplstyle")
_styles = [PAPER]
_TWO_COLUMNS = 2.06  # columns, with what is between them
_EM = 0.55  # the mean width of a letter, as a share of the font's size


def use_style(path: Path | None) -> None:
    """Draw what follows with the fonts and sizes of `path` over those of paper.mplstyle."""
    _styles[1:] = [path] if path else []


def panels(
    counts: Sequence[int], least: float = 1.6, height: float | None = None, wide: bool = False
):
    """A figure and, for each of `counts`, a list of so many axes in rows of their own.

    It is as wide as a column of text, or as two where that is not enough. `least`: the width of a
    panel, at least; `height`: of a panel (default: by the style); all in inches.
    """
    import matplotlib
    from matplotlib import style
    from matplotlib.figure import Figure

    matplotlib.rcdefaults()  # not what happens to be set on a machine
    style.use(_styles)
    width, tall = matplotlib.rcParams["figure.figsize"]
    width *= _TWO_COLUMNS if wide or sum(counts) > 8 else 1
    across = max(1, min(int(width / least), max(counts)))
    height = height or tall * (0.65 if across > 1 else 1)
    rows = [ceil(count / across) for count in counts]
    figure = Figure(figsize=(width, 0.1 + height * sum(rows)), layout="constrained")
    found, start = [], 0
    for count, n in zip(counts, rows, strict=True):
        places = range(start * across + 1, start * across + 1 + count)
        found.append([figure.add_subplot(sum(rows), across, place) for place in places])
        start += n
    return figure, found


def curve(axes, x, y, style: dict) -> None:
    """A line, if there is anything to draw; whole numbers on the x axis."""
    if len(x):
        axes.plot(x, y, **style)
        axes.xaxis.get_major_locator().set_params(integer=True)


def share_y(axes: Sequence) -> None:
    """The label and the numbers of y at the left of each row only; the range must be one."""
    for panel in axes:
        if not panel.get_subplotspec().is_first_col():
            panel.set_ylabel("")
            panel.tick_params(labelleft=False)


def fit(axes: Sequence, low: float = 0, high: float | None = 1, least: float = 0.1) -> None:
    """One y range for all `axes`: what they show with a margin, `least` tall, in low to high.

    Without a least height, noise on the last digits would look like a slope.
    """
    drawn = [line.get_ydata() for panel in axes for line in panel.lines]
    values = np.concatenate([np.asarray(y, dtype=float) for y in drawn]) if drawn else np.array([])
    values, high = values[np.isfinite(values)], np.inf if high is None else high
    if not len(values):
        return
    margin = max(0.06 * np.ptp(values), (least - np.ptp(values)) / 2)
    bottom = max(low, min(values.min() - margin, high - least))
    top = min(high, max(values.max() + margin, low + least))
    edge = 0.02 * (top - bottom)  # what lies at the end of the range is not hidden by the frame
    bottom, top = min(bottom, values.min() - edge), max(top, values.max() + edge)
    for panel in axes:
        panel.set_ylim(bottom, top)


def letters(inches: float, name: str) -> int:
    """How many letters of the style's font size `name` fit into a width."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    return max(1, int(inches * 72 / (_EM * FontProperties(size=rcParams[name]).get_size())))


def title(figure, *lines: str) -> None:
    """The figure's title, each line broken where it does not fit."""
    fits = letters(figure.get_figwidth(), "figure.titlesize")
    broken = [textwrap.fill(line, fits, break_on_hyphens=False) for line in lines if line]
    figure.suptitle(text := "\n".join(broken))
    _grow(figure, 1 + text.count("\n"))


def _grow(figure, lines: int) -> None:
    """Make room for so many lines above or below the panels."""
    figure.set_figheight(figure.get_figheight() + 0.1 + 0.13 * lines)


def legend(figure) -> None:
    """One for all panels, below them, where it hides no curve; as many columns as fit."""
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    entries = {label: handle for panel in pairs for handle, label in panel}
    if entries:
        fits = letters(figure.get_figwidth(), "legend.fontsize") // (max(map(len, entries)) + 7)
        columns = max(1, min(fits, len(entries)))
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns)
        _grow(figure, ceil(len(entries) / columns))


def save(figure, path: Path) -> None:
    """Write `figure` as `path`.png and, in vectors, `path`.pdf; the same bytes each time."""
    for kind, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        with replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # once is enough
