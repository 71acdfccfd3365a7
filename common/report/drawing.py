"""Figures: their values, how sizes and models look, and the one function that draws them."""

from math import ceil, isfinite
from pathlib import Path
from textwrap import fill
from typing import NamedTuple

from common.cli import UNTRAINED
from common.files import replacing

PAPER = Path(__file__).with_name("paper.mplstyle")
# Most colour-blind readers can tell them apart (Okabe and Ito, without yellow and black).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A4A1E")


def size_name(size: int | str) -> str:
    """What an encoder is called; `size`: the percentage it was fine-tuned on, or "random"."""
    return {UNTRAINED: "untrained encoder", 0: "0 % (pre-trained)"}.get(size, f"{size} %")


def size_look(size: int | str) -> dict:
    """Lighter for less data; grey where nothing was fine-tuned."""
    from matplotlib import colormaps

    tuned, line = size not in (UNTRAINED, 0), "--" if size == UNTRAINED else "-"
    color = colormaps["viridis_r"](0.05 + 0.95 * (size / 100) ** 0.5) if tuned else "grey"
    return {"color": color, "linestyle": line, "marker": "o", "label": size_name(size)}


def model_look(name: str, models: list[str]) -> dict:
    """By its place among the `models` of a report."""
    turn, place = divmod(models.index(name), len(COLORS))
    return {"color": COLORS[place], "marker": "osD^vPX"[(place + turn) % 7], "label": name}


def wrap(text: str, width: int) -> str:
    """In lines of at most `width` letters; a bracket begins a new one."""
    parts = text.replace(" (", "\n(").split("\n") if len(text) > width else [text]
    return "\n".join(fill(part, width) for part in parts)


class Line(NamedTuple):
    """A curve; `low` and `high`, if given, are the ends of a bar at each point, or of a band."""

    x: list
    y: list
    look: dict  # keywords of Matplotlib's `plot`; the legend lists each label once
    low: list = []
    high: list = []
    band: bool = False


class Panel(NamedTuple):
    """Curves. The panels of a row share their y range."""

    lines: list[Line]
    title: str
    xlabel: str
    ylabel: str
    hline: float | None = None  # the majority class
    SIZE = 1.6, 1.5  # the least width and the height, in inches

    def show(self, axes) -> None:
        for line in self.lines:
            axes.plot(line.x, line.y, **line.look)
            if line.band:
                look = {"color": line.look["color"], "alpha": 0.25, "linewidth": 0}
                look["label"] = "± standard deviation"
                axes.fill_between(line.x, line.low, line.high, **look)
            elif line.low:
                axes.vlines(line.x, line.low, line.high, color=line.look["color"], alpha=0.8)
        if self.hline is not None:
            axes.axhline(self.hline, color="black", linestyle=":", label="majority class")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel=self.xlabel, ylabel=wrap(self.ylabel, 24))
        bottom, top = axes.get_ylim()
        more = max(0, 0.1 - (top - bottom)) / 2  # in less, the last digits would look like a slope
        axes.set_ylim(bottom - more, top + more, auto=None)  # the row's next panel fits it again


class Heatmap(NamedTuple):
    """A value for each head: `grid` has a row for each layer."""

    title: str
    grid: object  # a DataFrame
    label: str  # of the colour bar
    most: float  # the end of the scale
    colours: str  # a Matplotlib colormap
    least: float = 0  # the beginning of the scale
    notes: object = None  # a DataFrame of text that the page says of a head, too
    SIZE = 2.4, 3.2

    def cell(self, layer: int, head: int) -> tuple[str, str | None]:
        """What the page says of a head, and its colour; None if it was never compared."""
        value, where = self.grid.at[layer, head], f"layer {layer}, head {head}"
        if not isfinite(value):
            return f"{where}: never compared", None
        note = "" if self.notes is None else f"; {self.notes.at[layer, head]}"
        share = (value - self.least) / (self.most - self.least)
        return f"{where}: {value:.4f}{note}", self.colour(share)

    def colour(self, share: float) -> str:
        from matplotlib import colormaps, colors

        return colors.to_hex(colormaps[self.colours](share))

    def show(self, axes) -> None:
        layers, heads = self.grid.shape
        look = {"vmin": self.least, "vmax": self.most, "cmap": self.colours, "aspect": "auto"}
        image = axes.imshow(self.grid, extent=(0.5, heads + 0.5, layers + 0.5, 0.5), **look)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="head", ylabel="layer (1 = first block)")
        axes.grid(False)
        label = f"{self.label}; scale from {self.least:g} to {self.most:g}"
        axes.figure.colorbar(image, ax=axes, label=label, location="bottom", aspect=40)


def draw(folder: Path, name: str, titles: list[str], rows: list[list], style=None) -> None:
    """Write <name>.png and .pdf, as wide as a column of text, or as two: titles, a row of panels
    (in several lines if need be) for each row, one legend. `style`: a file that takes precedence
    over paper.mplstyle. The same values give the same bytes."""
    import matplotlib.style
    from matplotlib.figure import Figure

    with matplotlib.style.context([PAPER, *filter(None, [style])], after_reset=True):
        width = matplotlib.rcParams["figure.figsize"][0]
        area = sum(panel.SIZE[0] * panel.SIZE[1] for row in rows for panel in row)
        if area > 20:  # square inches
            width *= 2.06  # columns, with the space between them
        lines = []
        for y, row in enumerate(rows):  # lines as long as each other
            across = ceil(len(row) / ceil(len(row) / max(1, int(width / row[0].SIZE[0]))))
            lines += [(y, row[x : x + across]) for x in range(0, len(row), across)]
        canvas, shared, entries = Figure(layout="constrained"), {}, {}
        heights = [panels[0].SIZE[1] for _, panels in lines]
        parts = canvas.subfigures(len(lines), squeeze=False, height_ratios=heights)[:, 0]
        for part, (y, panels) in zip(parts, lines, strict=True):
            letters = 26 if len(panels) > 1 else 60
            for x, panel in enumerate(panels, 1):
                axes = part.add_subplot(1, len(panels), x, sharey=shared.get(y))
                shared.setdefault(y, axes)
                panel.show(axes)
                axes.set_title(wrap(panel.title, letters))
                axes.set_xlabel(wrap(axes.get_xlabel(), letters))
                axes.label_outer()  # the numbers and the label are at the left
                entries |= dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        titles = titles if matplotlib.rcParams["figure.titlesize"] else []
        canvas.suptitle("\n".join(titles), wrap=True)
        letters = 130 * width / matplotlib.rcParams["font.size"]  # to a line
        columns = max(1, int(letters / (max(map(len, entries), default=0) + 7)))
        if entries:  # below all panels, where it hides no curve
            canvas.legend(entries.values(), entries, loc="outside lower center", ncols=columns)
        text = 0.13 * (2 + len(titles) + ceil(len(entries) / columns))
        canvas.set_size_inches(width, sum(heights) + text)
        save(canvas, folder / name)


def save(figure, path: Path) -> None:
    for kind, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        with replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
        figure.set_layout_engine("none")  # laying out once is enough
