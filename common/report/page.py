"""The report's page, as Markdown with files beside it, and as one HTML file with all in it."""

import base64
from pathlib import Path
from typing import NamedTuple

from common.report.tables import MISSING, Table, number_of, text_of

DEMO = "generated text and miniature models. No finding about real ones."


class Head(NamedTuple):
    """What stands at the top of the page."""

    title: str
    demo: bool
    runs: str  # which were read
    lists: dict[str, list[str]]  # what was passed over, what is not alike


class Section(NamedTuple):
    """A part of the page; it holds a figure or a table."""

    title: str
    text: str  # paragraphs
    figure: str | None  # its file, without the ending
    alt: str  # what the figure shows
    tables: list[Table]
    maps: list  # of heads, see `heads.maps`
    variant: bool  # of the step in the section before


def write(folder: Path, head: Head, sections: list[Section]) -> None:
    """Write report.md and report.html, and the tables as CSV and LaTeX, into `folder`."""
    for table in (table for section in sections for table in section.tables):
        (folder / f"{table.name}.csv").write_text(table.csv(), encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")
    numbered = _numbered(sections)
    (folder / "report.md").write_text(_markdown(head, numbered), encoding="utf-8")
    (folder / "report.html").write_text(_html(folder, head, numbered), encoding="utf-8")


def _numbered(sections: list[Section]) -> list[Section]:
    """With numbers in the titles; below the first section of a step, its other variants."""
    found, before, n = [], "", 0
    for section in sections:
        below = section.variant and section.text == before
        before, n = section.text, n + (not below)
        title = section.title if below else f"{n}. {section.title}"
        found.append(section._replace(title=title, text="" if below else before, variant=below))
    return found


def _markdown(head: Head, sections: list[Section]) -> str:
    parts = [f"# {head.title}\n", *[f"**Demo**: {DEMO}\n"] * head.demo, f"{head.runs}\n"]
    for title, lines in head.lists.items():
        parts.append(f"{title}:\n\n" + "".join(f"- {line}\n" for line in lines))
    for section in sections:
        parts.append(f"##{'#' * section.variant} {section.title}\n\n{section.text}")
        if section.figure:
            parts.append(f"![{section.alt}]({section.figure}.png)\n")
        for table in section.tables:
            name = f"({table.name}.csv, .tex)"
            parts.append(f"**{table.caption}** {name}\n\n{table.markdown()}")
    return "\n".join(parts)


def _html(folder: Path, head: Head, sections: list[Section]) -> str:
    """One file that needs no other, and no network: figures and CSV are in it as data URIs."""
    import jinja2

    def image(name: str) -> tuple[str, int]:
        png = (folder / f"{name}.png").read_bytes()
        return _data_uri("image/png", png), int.from_bytes(png[16:20]) // 2  # a PNG's width

    def csv(table: Table) -> str:
        return _data_uri("text/csv", table.csv().encode())

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html").render(
        head=head, demo=DEMO, sections=sections, image=image, csv=csv, text_of=text_of,
        number_of=number_of, missing=MISSING,
    )  # fmt: skip


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
