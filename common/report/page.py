"""The report's page: Markdown with files beside it, and one HTML file with all in it."""

import base64
from pathlib import Path
from typing import NamedTuple

from common.report.drawing import Heatmap, Line, Panel, draw, size_look, size_name

LAYER = "layer (0 = embeddings)"


class Estimate(NamedTuple):
    """A mean over seeds; where known its 95 % interval and, of several seeds, their deviation."""

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None
    n: int | None = None  # seeds

    def __str__(self):
        several = "" if self.std is None else f" ± {self.std:.3f} (n={self.n})"
        ends = "" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.value:.3f}{several}{ends}".replace("-0.000", "0.000")


class Table(NamedTuple):
    """A frame of text, numbers, Estimates and None (missing); `name` is that of its file."""

    name: str
    caption: str
    frame: object  # a DataFrame


class Section(NamedTuple):
    """A part of the page; shown if it has a figure or a table."""

    title: str
    text: str  # paragraphs, besides those that explained.md has under the title
    figure: tuple | None = None  # name, titles, rows: see `draw`
    tables: list[Table] = []
    maps: list[tuple[str, Heatmap]] = []  # of models, for the HTML page


def tables(grid, name: str, caption: str, rows) -> list[Table]:
    """The table of `rows` (dicts, or a DataFrame), in a list; rows that lack values and have no
    Estimate are left out, and columns without any value."""
    import pandas as pd

    frame = pd.DataFrame(rows, dtype=object)
    frame = frame[(frame.map(type) == Estimate).any(axis=1) | frame.notna().all(axis=1)]
    frame = frame.dropna(axis="columns", how="all")
    frame = frame.where(frame.notna(), None)
    return [Table(name, f"{grid.title}: {caption}.", frame)] if len(frame) else []


def by_encoder(grid, name: str, columns: dict[str, str]) -> list[dict]:
    """Rows of a step or variant, one an encoder; `columns`: {title: the metric}."""
    return [
        {"model": model, "encoder": size_name(size)}
        | {title: grid.score(name, model, size, key) for title, key in columns.items()}
        for model, size in grid.cells(name)
    ]


def by_layer(grid, name: str, about: str, columns: dict, curves: dict) -> Section:
    """The section of a step or variant: a table of `columns`, see `by_encoder`, and what is
    measured by layer: `curves`, {key: title} of `<key>_layer_<n>` and `majority_<key>`."""
    import pandas as pd

    made = tables(grid, name, f"{name}, {about}", by_encoder(grid, name, columns))
    rows, cells = [], grid.cells(name)
    for key, title in curves.items():
        panels, file = [], "-".join([key, *name.split("-")[1:]])
        for model in dict.fromkeys(model for model, _ in cells):
            layers = {n: grid.layers(name, model, n, key) for own, n in cells if own == model}
            frame = pd.DataFrame({size_name(n): pd.Series(own) for n, own in layers.items()})
            frame = frame.rename_axis("layer").reset_index()
            made += tables(grid, f"{file}_{model}", f"{name} of {model}, {title} by layer", frame)
            lines = [curve(own, size_look(size)) for size, own in layers.items() if own]
            level = grid.level(name, model, f"majority_{key}")
            panels += [Panel(lines, model, LAYER, title, level)] if lines else []
        rows += [panels] if panels else []
    bars = any(line.low for panels in rows for panel in panels for line in panel.lines)
    what = f"{name}, by the encoder's training data" + "; bars: 95 % intervals" * bars
    figure = (name, [grid.title, what], rows) if rows else None
    return Section(heading(name), "", figure, made)


def heading(name: str) -> str:
    return name.capitalize().replace("-", ": ", 1).replace("_", " ")


def curve(points: dict, look: dict) -> Line:
    """`{x: Estimate}` as a curve, with their intervals if all have one."""
    values, low, high = zip(*[estimate[:3] for estimate in points.values()], strict=True)
    bars = [] if None in low else [list(low), list(high)]
    return Line(list(points), list(values), look, *bars)


def text_of(cell) -> str:
    return "–" if cell is None else f"{cell:.4f}" if isinstance(cell, float) else str(cell)


def csv(table: Table) -> str:
    """All digits; an Estimate in several columns; nothing where missing."""
    import pandas as pd

    columns = {}
    for name, cells in table.frame.items():
        columns[name] = [cell.value if isinstance(cell, Estimate) else cell for cell in cells]
        for part in Estimate._fields[1:]:
            columns[f"{name} {part}"] = [getattr(cell, part, None) for cell in cells]
    frame = pd.DataFrame(columns, dtype=object)
    kept = [name for name in frame if name in table.frame or frame[name].notna().any()]
    return frame[kept].to_csv(index=False)


def write(folder: Path, title: str, notes: list, problems: list, sections: list, style=None):
    """Write report.md, report.html, the figures, and the tables as CSV into `folder`."""
    import jinja2

    def uri(kind: str, name: str) -> str:  # a file's content
        return f"data:{kind};base64,{base64.b64encode((folder / name).read_bytes()).decode()}"

    told = Path(__file__).with_name("explained.md").read_text(encoding="utf-8").split("\n## ")[1:]
    told = dict(part.split("\n\n", 1) for part in told)
    shown = [
        section._replace(text=told.get(section.title.split(":")[0], "") + section.text)
        for section in sections
        if section.figure or section.tables
    ]
    for section in shown:
        if section.figure:
            draw(folder, *section.figure, style)
        for table in section.tables:
            (folder / f"{table.name}.csv").write_text(csv(table), encoding="utf-8")
    options = {"trim_blocks": True, "lstrip_blocks": True, "undefined": jinja2.StrictUndefined}
    values = {"title": title, "notes": notes, "problems": problems, "sections": shown}
    for kind in ("md", "html"):
        source = Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8")
        template = jinja2.Template(source, autoescape=kind == "html", **options)
        text = template.render(**values, uri=uri, text_of=text_of)
        (folder / f"report.{kind}").write_text(text, encoding="utf-8")
