"""Figures as values, and the one function that draws them.

Steps and report say what a figure shows. Layout, ranges, line breaks, legend and files are here.
"""

import textwrap
from collections.abc import Sequence
from math import ceil, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from common.files import replacing
from common.report import palette

if TYPE_CHECKING:
    from pandas import DataFrame

PAPER = Path(__file__).with_name("paper.mplstyle")
_TWO_COLUMNS = 2.06  # columns, with the space between them
_EM = 0.55  # mean width of a letter, as a share of the font's size
_LINE = 0.13  # inches: the height of a line of text


class Line(NamedTuple):
    """A curve; `low` and `high`, if given, are the ends of a bar at each point."""

    x: Sequence[float]
    y: Sequence[float]
    style: dict  # keywords of Matplotlib's `plot`
    label: str = ""  # in the legend, which lists each label once
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


class Panel(NamedTuple):
    """Curves. Panels of a row that have the same `ylabel` share their y range."""

    lines: Sequence[Line]
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    hline: float | None = None  # the majority class
    low: float = 0.0  # the y range fits the curves, between `low` and `high`
    high: float | None = 1.0
    from_zero: bool = False  # whether the y range includes 0
    xlim: tuple[float, float] | None = None
    xticks: Sequence[float] | None = None  # default: some whole numbers

    def size(self, style_height: float) -> tuple[float, float]:
        """The least width and the height, in inches."""
        return 1.6, 0.65 * style_height + _LINE * (self.title + self.xlabel).count("\n")

    def show(self, axes, width: float) -> None:
        """Draw into Matplotlib's `axes`; `width` in inches."""
        for line in self.lines:
            axes.plot(line.x, line.y, label=line.label, **line.style)
            if line.low is not None:
                color = line.style["color"]
                axes.vlines(line.x, line.low, line.high, color=color, alpha=0.5, linewidth=1)
        if self.hline is not None:
            axes.axhline(self.hline, **palette.MAJORITY)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if self.xticks is not None:
            axes.set_xticks(self.xticks)
        axes.set(xlabel=_wrapped(self.xlabel, width, "axes.labelsize"), xlim=self.xlim)
        axes.set_ylabel(textwrap.fill(self.ylabel, 22))

    def y_range(self, panels: Sequence["Panel"], least: float = 0.1) -> tuple[float, float] | None:
        """One range for all values of `panels`, with a margin; None if there are no values.

        It is at least `least` tall: in a smaller one, noise in the last digits looks like a slope.
        """
        lines = [line for panel in panels for line in panel.lines]
        parts = [part for line in lines for part in (line.y, line.low, line.high)]
        parts.append([panel.hline for panel in panels if panel.hline is not None])
        values = [float(value) for part in parts if part is not None for value in part]
        values = [value for value in values if isfinite(value)] + [0.0] * self.from_zero
        if not values:
            return None
        lowest, highest, top = min(values), max(values), np.inf if self.high is None else self.high
        margin = max(0.06 * (highest - lowest), (least - highest + lowest) / 2)
        bottom = max(self.low, min(lowest - margin, top - least))
        top = min(top, max(highest + margin, self.low + least))
        edge = 0.02 * (top - bottom)  # so that the frame hides no point at the end of the range
        return min(bottom, lowest - edge), max(top, highest + edge)


class Heatmap(NamedTuple):
    """A value for each head: `grid` has a row for each layer. Cells show their value if it fits."""

    title: str
    grid: "DataFrame"
    label: str  # of the colour bar
    vmin: float
    vmax: float
    colours: str  # a Matplotlib colormap

    def size(self, style_height: float) -> tuple[float, float]:
        """The least width and the height, in inches."""
        layers, heads = self.grid.shape
        return (6 if heads > 20 else 3), 1.1 + 0.13 * layers

    def colour(self, value: float) -> tuple[float, float, float] | None:
        """Red, green and blue of a value; None if it is not a number."""
        from matplotlib import colormaps

        share = (value - self.vmin) / (self.vmax - self.vmin)
        return colormaps[self.colours](share)[:3] if isfinite(value) else None

    def show(self, axes, width: float) -> None:
        """Draw into Matplotlib's `axes`; `width` in inches."""
        layers, heads = self.grid.shape
        looks = {"vmin": self.vmin, "vmax": self.vmax, "cmap": self.colours, "aspect": "auto"}
        image = axes.imshow(self.grid, **looks)
        cell = 72 * (width - 0.4) / heads  # points
        digits = next((n for n, least in ((3, 16), (2, 11)) if cell > least), 0)
        for (y, x), value in np.ndenumerate(self.grid) if digits else ():
            light = (
                self.colour(value) is None or self.colour(value) @ np.array([0.3, 0.59, 0.11]) > 0.5
            )
            text = {"ha": "center", "va": "center", "color": "black" if light else "white"}
            axes.text(x, y, _cell(value, digits), fontsize=6, **text)
        axes.set_xticks(range(heads), self.grid.columns)
        axes.set_yticks(range(layers), self.grid.index)
        axes.set(xlabel="head", ylabel="layer (1 = first block)")
        axes.grid(False)
        bar = {"location": "bottom", "aspect": 40, "pad": 0.02}
        axes.figure.colorbar(image, ax=axes, label=self.label, **bar)


class Figure(NamedTuple):
    """A figure of the report: what `draw` needs."""

    name: str  # of its files
    titles: Sequence[str]
    rows: Sequence[Sequence[Panel | Heatmap]]


def draw(
    path: Path,
    titles: Sequence[str],
    rows: Sequence[Sequence[Panel | Heatmap]],
    style: Path | None = None,
) -> None:
    """Write `path`.png and `path`.pdf: titles, a row of panels (wrapped) for each row, one legend.

    The figure is as wide as a column of text, or as two if one is not enough. `style`: a Matplotlib
    style file that takes precedence over paper.mplstyle. The same values give the same bytes.
    """
    import matplotlib.style
    from matplotlib.figure import Figure as MatplotlibFigure

    with matplotlib.style.context([PAPER, *filter(None, [style])], after_reset=True):
        width, tall = matplotlib.rcParams["figure.figsize"]
        sizes = [panel.size(tall) for row in rows for panel in row]
        widest = max(size[0] for size in sizes)
        if widest > width or sum(w * h for w, h in sizes) > 20:  # square inches
            width *= _TWO_COLUMNS
        across = max(1, min(int(width / widest), max(map(len, rows))))
        wrapped = [row[i : i + across] for row in rows for i in range(0, len(row), across)]
        heights = [max(panel.size(tall)[1] for panel in row) for row in wrapped]
        if across == 1:
            heights = [1.2 * height for height in heights]
        figure = MatplotlibFigure(figsize=(width, sum(heights)), layout="constrained")
        cells = figure.add_gridspec(len(wrapped), across, height_ratios=heights)
        places = [(i, j) for i, row in enumerate(wrapped) for j in range(len(row))]
        axes = [figure.add_subplot(cells[place]) for place in places]
        for row in rows:
            _show_row(row, axes[: len(row)], width / across - 0.4)
            axes = axes[len(row) :]
        title = _wrapped("\n".join(filter(None, titles)), width, "figure.titlesize")
        figure.suptitle(title)
        _grow(figure, 1 + title.count("\n"))
        _add_legend(figure)
        save(figure, path)


def _show_row(row: Sequence[Panel | Heatmap], axes: list, width: float) -> None:
    for panel, place in zip(row, axes, strict=True):
        panel.show(place, width)
        place.set_title(_wrapped(panel.title, width, "axes.titlesize"))
        if isinstance(panel, Heatmap):
            continue
        alike = [other for other in row if getattr(other, "ylabel", None) == panel.ylabel]
        place.set_ylim(panel.y_range(alike))
        if len(alike) > 1 and place.get_subplotspec().colspan.start:
            place.set_ylabel("")  # it is at the left
            place.tick_params(labelleft=False)


def _cell(value: float, digits: int) -> str:
    """A value with so many decimals; with one less from 1 on."""
    if not isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if text[0] == "0" else f"{value:.{max(1, digits - 1)}f}"


def _letters(inches: float, name: str) -> int:
    """How many letters of the style's font size `name` fit into a width."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties

    return max(8, int(inches * 72 / (_EM * FontProperties(size=rcParams[name]).get_size())))


def _wrapped(text: str, inches: float, name: str) -> str:
    fits = _letters(inches, name)
    lines = (textwrap.fill(line, fits, break_on_hyphens=False) for line in text.splitlines())
    return "\n".join(lines)


def _add_legend(figure) -> None:
    """One legend for all panels, below them, where it hides no curve."""
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    entries = {label: handle for panel in pairs for handle, label in panel}
    if entries:
        fits = _letters(figure.get_figwidth(), "legend.fontsize") // (max(map(len, entries)) + 7)
        columns = max(1, min(fits, len(entries)))
        figure.legend(entries.values(), entries, loc="outside lower center", ncols=columns)
        _grow(figure, ceil(len(entries) / columns))


def _grow(figure, lines: int) -> None:
    figure.set_figheight(figure.get_figheight() + 0.1 + _LINE * lines)


def save(figure, path: Path) -> None:
    """Write `path`.png and, in vectors, `path`.pdf."""
    for kind, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        with replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # laying out once is enough
