"""The report's page, as Markdown with files beside it, and as one HTML file with all in it."""

import base64
from collections.abc import Sequence
from math import isfinite
from pathlib import Path
from typing import NamedTuple

from common.report.drawing import Figure, Heatmap, draw
from common.report.tables import MISSING, Table, number_of, text_of

DEMO = "generated text and miniature models. It says nothing about real ones."


class Head(NamedTuple):
    """What stands at the top of the page."""

    title: str
    demo: bool
    results: str  # which were read
    lists: dict[str, list[str]]  # what was passed over, what is not alike


class Section(NamedTuple):
    """A part of the page; shown if it has a figure or a table."""

    title: str
    text: str  # paragraphs
    figure: Figure | None = None
    tables: Sequence[Table] = ()
    maps: Sequence[tuple[str, Heatmap]] = ()  # of models, for the HTML page
    below: bool = False  # a variant of the section before, which explains it


def write(folder: Path, head: Head, sections: list[Section], style: Path | None = None) -> None:
    """Write the figures, the tables as CSV and LaTeX, report.md and report.html into `folder`."""
    shown = _numbered([section for section in sections if section.figure or section.tables])
    for section in shown:
        if section.figure:
            draw(folder / section.figure.name, section.figure.titles, section.figure.rows, style)
        for table in section.tables:
            (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
            (folder / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")
    (folder / "report.md").write_text(_markdown(head, shown), encoding="utf-8")
    (folder / "report.html").write_text(_html(folder, head, shown), encoding="utf-8")


def _numbered(sections: list[Section]) -> list[Section]:
    """With numbers in the titles, except for variants, which stand below their step."""
    numbered, before, n = [], "", 0
    for section in sections:
        below = section.below and section.text == before
        before, n = section.text, n + (not below)
        title = section.title if below else f"{n}. {section.title}"
        numbered.append(section._replace(title=title, text="" if below else before, below=below))
    return numbered


def _markdown(head: Head, sections: list[Section]) -> str:
    parts = [f"# {head.title}\n", *[f"**Demo**: {DEMO}\n"] * head.demo, f"{head.results}\n"]
    for title, lines in head.lists.items():
        parts.append(f"{title}:\n\n" + "".join(f"- {line}\n" for line in lines))
    for section in sections:
        parts.append(f"##{'#' * section.below} {section.title}\n\n{section.text}")
        if section.figure:
            parts.append(f"![{section.figure.titles[-1]}]({section.figure.name}.png)\n")
        for table in section.tables:
            name = f"({table.name}.csv, .tex)"
            parts.append(f"**{table.caption}** {name}\n\n{table.markdown()}")
    return "\n".join(parts)


def _html(folder: Path, head: Head, sections: list[Section]) -> str:
    """One file that needs no other file and no network: figures and CSV are in it as data URIs."""
    import jinja2

    def image(name: str) -> tuple[str, int]:
        png = (folder / f"{name}.png").read_bytes()
        return _data_uri("image/png", png), int.from_bytes(png[16:20]) // 2  # a PNG's width

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    helpers = {"image": image, "csv": _csv, "cells": cells, "text_of": text_of}
    return environment.get_template("page.html").render(
        head=head, demo=DEMO, sections=sections, number_of=number_of, missing=MISSING, **helpers
    )


def cells(heatmap: Heatmap) -> list[tuple[int, list[tuple[str, str | None]]]]:
    """(layer, [(text, colour) of each head]) of each row of a map."""
    from matplotlib.colors import to_hex

    def cell(layer: int, head: int, value: float) -> tuple[str, str | None]:
        shown = f"{value:.4f}" if isfinite(value) else "never compared"
        colour = heatmap.colour(value)
        return f"layer {layer}, head {head}: {shown}", colour and to_hex(colour)

    rows = heatmap.grid.iterrows()
    return [(layer, [cell(layer, *item) for item in row.items()]) for layer, row in rows]


def _csv(table: Table) -> str:
    return _data_uri("text/csv", table.csv().encode())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
