"""A table of the report, as Markdown, CSV and LaTeX (booktabs)."""

import re
from typing import NamedTuple

import pandas as pd

from common.report.grid import Estimate, Grid

MISSING = "–"
LONG = 40  # rows: more do not fit on one page
_FITTED = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"


class Table(NamedTuple):
    """A frame of text, numbers, Estimates and None (missing); `name` is that of its files."""

    name: str
    caption: str
    frame: pd.DataFrame

    def markdown(self) -> str:
        """The table in Markdown; scores with three digits."""
        return self.frame.map(text_of).to_markdown(index=False, disable_numparse=True) + "\n"

    def latex(self) -> str:
        """The table as LaTeX floats no wider than the text; a long one is split."""
        text = self.frame.map(text_of)
        starts = range(0, len(text), LONG)
        floats = []
        for n, start in enumerate(starts, 1):
            part = f" ({n} of {len(starts)})" if len(starts) > 1 else ""
            floats.append(_latex(self, text[start : start + LONG], part))
        return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(floats)

    def csv(self) -> str:
        """The table in CSV: all digits; an Estimate in several columns; nothing where missing."""
        columns = {}
        for name, cells in self.frame.items():
            columns[name] = [cell.value if isinstance(cell, Estimate) else cell for cell in cells]
            for part in Estimate._fields[1:]:
                values = [getattr(cell, part, None) for cell in cells]
                if any(value is not None for value in values):
                    columns[f"{name} {part}"] = values
        return pd.DataFrame(columns, dtype=object).to_csv(index=False)


def has_scores(row: dict) -> bool:
    """Whether a row has any Estimate."""
    return any(isinstance(cell, Estimate) for cell in row.values())


def make(grid: Grid, name: str, caption: str, rows: list[dict]) -> list[Table]:
    """The table of `rows`, in a list; an empty list if they have no score at all."""
    frame = pd.DataFrame(rows, dtype=object)
    return [Table(name, f"{grid.title()}: {caption}.", frame)] * any(map(has_scores, rows))


def text_of(cell) -> str:
    """How a cell is shown."""
    if cell is None:
        return MISSING
    if isinstance(cell, float):
        return f"{cell:.4f}"
    if not isinstance(cell, Estimate):
        return str(cell)
    text = f"{cell.value:.3f}"
    if cell.std is not None:
        text += f" ± {cell.std:.3f} (n={cell.n})"
    return text if cell.low is None else f"{text} [{cell.low:.3f}, {cell.high:.3f}]"


def number_of(cell) -> float | int | None:
    """The number by which a cell is sorted; None if it is sorted by its text."""
    cell = cell.value if isinstance(cell, Estimate) else cell
    return cell if isinstance(cell, int | float) else None


def _latex(table: Table, frame: pd.DataFrame, part: str) -> str:
    style = frame.style.hide(axis="index").format(escape="latex")
    text = style.format_index(escape="latex", axis=1).to_latex(
        hrules=True,
        environment="table*",
        position_float="centering",
        column_format="l" * frame.shape[1],
        caption=_escape(table.caption) + part,
        label="tab:" + re.sub(r"[^A-Za-z0-9.+]+", "-", table.name + part).strip("-"),
    )
    text = text.replace(r"\centering", r"\centering\footnotesize", 1)
    text = text.replace(r"\begin{tabular}", _FITTED + r"\begin{tabular}")
    text = text.replace(r"\end{tabular}", r"\end{tabular}}")
    text = text.replace(MISSING, "--").replace("±", r"$\pm$")
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)


def _escape(text: str) -> str:
    """What pandas does for cells; it takes the caption as LaTeX."""
    return re.sub(r"[&%$#_{}]|([~^])", lambda m: "\\" + m[0] + "{}" * bool(m[1]), text)
