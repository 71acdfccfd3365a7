"""Figures: their values, how sizes and models look, and the one function that draws them.

Looks depend on the thing shown alone, so that it looks the same in every figure. Matplotlib is
imported when something is drawn: the steps import this module.
"""

from collections.abc import Sequence
from math import ceil, isfinite
from pathlib import Path
from textwrap import fill
from typing import NamedTuple
from zlib import crc32

from common.cli import UNTRAINED
from common.files import replacing

PAPER = Path(__file__).with_name("paper.mplstyle")
# The colours of Okabe and Ito, which most colour-blind readers can tell apart, without yellow and
# black.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4A1E")
MARKERS = "osD^vPX"
_TWO_COLUMNS = 2.06  # columns, with the space between them
_LINE = 0.13  # inches: the height of a line of text


def size_name(size: int | str) -> str:
    """What an encoder is called; `size`: the percentage it was fine-tuned on, or "random"."""
    return {UNTRAINED: "untrained encoder", 0: "0 % (pre-trained)"}.get(size, f"{size} %")


def size_style(size: int | str) -> dict:
    """Colour and line: lighter for less data; grey where nothing was fine-tuned."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if size in (UNTRAINED, 0):
        return {"color": "#808080", "marker": "o", "linestyle": "--" if size else "-"}
    color = to_hex(colormaps["viridis_r"](0.05 + 0.95 * (size / 100) ** 0.5))
    return {"color": color, "marker": "o", "linestyle": "-"}


def model_style(name: str) -> dict:
    """Colour, marker and filling: by the place in the registry, or by a hash for other models."""
    from common.models import MODELS

    known, n = list(MODELS), len(COLORS)
    turn, place = divmod(known.index(name) if name in known else crc32(name.encode()), n)
    fill, marker = ("full", "none", "left")[turn % 3], MARKERS[(place + turn) % n]
    return {"color": COLORS[place], "marker": marker, "fillstyle": fill}


class Line(NamedTuple):
    """A curve; `low` and `high`, if given, are the ends of a bar at each point."""

    x: Sequence[float]
    y: Sequence[float]
    style: dict  # keywords of Matplotlib's `plot`
    label: str = ""  # in the legend, which lists each label once
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


def size_line(size: int | str, x: Sequence[float], y: Sequence[float]) -> Line:
    """The curve of an encoder."""
    return Line(x, y, size_style(size), size_name(size))


class Panel(NamedTuple):
    """Curves. Panels of a row that have the same `ylabel` share their y range."""

    lines: Sequence[Line]
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    hline: float | None = None  # the majority class
    low: float = 0.0  # the y range fits the curves, between `low` and `high`,
    high: float | None = 1.0  # or begins at `low` if there is no `high`

    def show(self, axes) -> None:
        """Draw into Matplotlib's `axes`."""
        for line in self.lines:
            axes.plot(line.x, line.y, label=line.label, **line.style)
            if line.low is not None:
                axes.vlines(line.x, line.low, line.high, color=line.style["color"], alpha=0.5)
        if self.hline is not None:
            axes.axhline(self.hline, color="black", linestyle=":", label="majority class")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel=self.xlabel, ylabel=fill(self.ylabel, 22))

    def fit(self, axes) -> None:
        """Limit the y range; below 0.1, noise in the last digits would look like a slope."""
        bottom, top = axes.get_ylim()
        more = max(0, 0.1 - (top - bottom)) / 2
        if self.high is None:
            axes.set_ylim(bottom=self.low)
        else:  # 0.02: the frame hides no point at the end of the range
            axes.set_ylim(max(bottom - more, self.low - 0.02), min(top + more, self.high + 0.02))


class Heatmap(NamedTuple):
    """A value for each head: `grid` has a row for each layer. The scale begins at 0."""

    title: str
    grid: object  # a DataFrame
    label: str  # of the colour bar
    most: float  # the end of the scale
    colours: str  # a Matplotlib colormap

    def cell(self, layer: int, head: int) -> tuple[str, str | None]:
        """What the page says of a head, and its colour; None if it was never compared."""
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        value, where = self.grid.at[layer, head], f"layer {layer}, head {head}"
        if not isfinite(value):
            return f"{where}: never compared", None
        return f"{where}: {value:.4f}", to_hex(colormaps[self.colours](value / self.most))

    def show(self, axes) -> None:
        """Draw into Matplotlib's `axes`."""
        look = {"vmin": 0, "vmax": self.most, "cmap": self.colours, "aspect": "auto"}
        image = axes.imshow(self.grid, **look)
        axes.set_xticks(range(self.grid.shape[1]), self.grid.columns)
        axes.set_yticks(range(self.grid.shape[0]), self.grid.index)
        axes.set(xlabel="head", ylabel="layer (1 = first block)")
        axes.grid(False)
        bar = {"location": "bottom", "aspect": 40, "pad": 0.02}
        axes.figure.colorbar(image, ax=axes, label=self.label, **bar)


class Figure(NamedTuple):
    """What `draw` needs."""

    name: str  # of its files
    titles: Sequence[str]
    rows: Sequence[Sequence[Panel | Heatmap]]


def draw(folder: Path, figure: Figure, style: Path | None = None) -> None:
    """Write <name>.png and .pdf: titles, a row of panels (wrapped) for each row, one legend.

    The figure is as wide as a column of text, or as two if one is not enough. `style`: a Matplotlib
    style file that takes precedence over paper.mplstyle. The same values give the same bytes.
    """
    import matplotlib.style
    from matplotlib.figure import Figure as MatplotlibFigure

    with matplotlib.style.context([PAPER, *filter(None, [style])], after_reset=True):
        width, height = matplotlib.rcParams["figure.figsize"]
        panels = [panel for row in figure.rows for panel in row]
        maps = [panel.grid.shape for panel in panels if isinstance(panel, Heatmap)]
        least = (6 if max(maps)[1] > 20 else 3) if maps else 1.6  # inches: a panel's width
        width *= _TWO_COLUMNS if len(panels) * least > 14 or len(maps) > 1 or least > width else 1
        across = max(1, min(int(width / least), max(map(len, figure.rows))))
        parts = [
            (number, row[start : start + across])
            for number, row in enumerate(figure.rows)
            for start in range(0, len(row), across)
        ]
        text = max(panel.title.count("\n") for panel in panels)
        tall = 1.1 + _LINE * max(maps)[0] if maps else 0.65 * height + _LINE * text
        canvas = MatplotlibFigure(layout="constrained")
        cells, first = canvas.add_gridspec(len(parts), across), {}
        for y, (number, row) in enumerate(parts):
            for x, panel in enumerate(row):
                key = (number, panel.ylabel) if isinstance(panel, Panel) else (y, x)
                axes = canvas.add_subplot(cells[y, x], sharey=first.get(key))
                panel.show(axes)
                axes.set_title(fill(panel.title, 26) if len(row) > 1 else panel.title)
                if x and key in first:  # the numbers and the label are at the left
                    axes.set_ylabel("")
                    axes.tick_params(labelleft=False)
                first.setdefault(key, axes)
        for panel, axes in zip(panels, canvas.axes, strict=False) if not maps else ():
            panel.fit(axes)
        canvas.suptitle("\n".join(figure.titles), wrap=True)
        pairs = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in canvas.axes]
        entries = {label: handle for panel in pairs for handle, label in panel}
        letters = width * 72 / (0.55 * matplotlib.rcParams["font.size"])
        columns = min(max(1, int(letters / (max(map(len, entries), default=0) + 7))), 6)
        lines = 3 + len(figure.titles) + ceil(len(entries) / columns)
        if entries:  # below all panels, where it hides no curve
            where = {"loc": "outside lower center", "ncols": min(columns, len(entries))}
            canvas.legend(entries.values(), entries, **where)
        canvas.set_size_inches(width, tall * len(parts) + _LINE * lines)
        save(canvas, folder / figure.name)


def save(figure, path: Path) -> None:
    """Write `path`.png and, in vectors, `path`.pdf."""
    for kind, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        with replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # laying out once is enough
