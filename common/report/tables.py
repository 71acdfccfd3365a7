"""The report's tables: the numbers, and the same table as Markdown, CSV and LaTeX (booktabs)."""

import re
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import pandas as pd

from common.cli import UNTRAINED
from common.palette import size_name, variant_name
from common.report import statistics
from common.report.grid import Estimate, Grid

MISSING = "–"
LONG = 40  # rows: more do not fit on one page
_FITTED = r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{"


class Table(NamedTuple):
    """A frame of text, numbers, Estimates and None (missing); `name` is its file's."""

    name: str
    caption: str
    frame: pd.DataFrame

    def markdown(self) -> str:
        """The table in Markdown; scores with three digits."""
        return self.frame.map(text_of).to_markdown(index=False, disable_numparse=True) + "\n"

    def latex(self) -> str:
        """The table as LaTeX floats no wider than the text; a long one is parted."""
        text = self.frame.map(text_of)
        starts = range(0, len(text), LONG)
        parts = [_latex(self, text[start : start + LONG], f" ({n} of {len(starts)})" * (n > 1))
                 for n, start in enumerate(starts, 1)]  # fmt: skip
        return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(parts)

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


def _latex(table: Table, frame: pd.DataFrame, part: str) -> str:
    style = frame.style.hide(axis="index").format(escape="latex")
    text = style.format_index(escape="latex", axis=1).to_latex(
        hrules=True, environment="table*", position_float="centering",
        column_format="l" * frame.shape[1], caption=_escape(table.caption) + part,
        label="tab:" + re.sub(r"[^A-Za-z0-9.+]+", "-", table.name + part).strip("-"),
    )  # fmt: skip
    text = text.replace(r"\centering", r"\centering\footnotesize", 1)
    text = text.replace(r"\begin{tabular}", _FITTED + r"\begin{tabular}")
    text = text.replace(r"\end{tabular}", r"\end{tabular}}")
    text = text.replace(MISSING, "--").replace("±", r"$\pm$")
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", text)


def _escape(text: str) -> str:
    """What pandas does for cells, for the caption, which it takes as LaTeX."""
    return re.sub(r"[&%$#_{}]|([~^])", lambda m: "\\" + m[0] + "{}" * bool(m[1]), text)


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
    """By what a cell is sorted; None where that is its text."""
    cell = cell.value if isinstance(cell, Estimate) else cell
    return cell if isinstance(cell, int | float) else None


def _table(grid: Grid, name: str, caption: str, rows: list[dict]) -> Table:
    """A table; without a single score, it has no rows, and is not shown."""
    if not any(isinstance(cell, Estimate) for row in rows for cell in row.values()):
        rows = []
    return Table(
        name, f"{grid.task.NAME} on {grid.name}: {caption}.", pd.DataFrame(rows, dtype=object)
    )


def named(step: str, variant: str) -> tuple[str, str]:
    """How the files of a step's variant begin, and how it is called."""
    return (f"{step}-{variant}", f"{step} ({variant_name(variant)})") if variant else (step, step)


def downstream(grid: Grid) -> Iterator[Table]:
    """Test scores by model and size, a table a score, the main one first."""
    names = _sizes(grid)
    for score in grid.task.SCORES:
        rows = []
        for model in grid.models:
            cells = {name: grid.score("fine-tuning", model, size, f"test_{score.name}")
                     for size, name in names.items()}  # fmt: skip
            if score is grid.main or any(cells.values()):
                majority = grid.majority(model, score.name)
                rows.append({"model": model} | cells | {"majority class": majority})
        caption = f"test {score.title} after fine-tuning on a share of the training data"
        yield _table(grid, f"scores_{score.name}", caption, rows)
    yield _parts(grid)


def _sizes(grid: Grid) -> dict[int, str]:
    """How the columns of the training sizes are called."""
    untrained = "0 % (as loaded)" if grid.task.HEAD == "causal" else "0 % (untrained head)"
    return {size: size_name(size) if size else untrained for size in grid.sizes}


def _parts(grid: Grid) -> Table:
    """Test scores beyond `SCORES`: those of a data set's parts, as `Task.scores` has them."""
    start, known = "test_majority_", {score.name for score in grid.task.SCORES}
    measured = {key: None for run in grid.runs if run.step == "fine-tuning" for key in run.metrics}
    names = [key.removeprefix(start) for key in measured if key.startswith(start)]
    rows = []
    for name in (name for name in names if name not in known):
        for model in grid.models:
            cells = {title: grid.score("fine-tuning", model, size, f"test_{name}")
                     for size, title in _sizes(grid).items()}  # fmt: skip
            if any(cells.values()):
                majority = {"majority class": grid.majority(model, name)}
                rows.append({"score": name, "model": model} | cells | majority)
        for other, score in grid.others.get(name, []):
            for model in other.models:  # without 0 %, where their heads are untrained
                cells = {title: other.score("fine-tuning", model, size, f"test_{score}")
                         if size else None for size, title in _sizes(grid).items()}  # fmt: skip
                if any(cells.values()):
                    majority = {"majority class": other.majority(model, score)}
                    named = {"score": name, "model": f"{model} ({other.task.NAME})"}
                    rows.append(named | cells | majority)
    caption = "test scores of the data set's parts"
    if grid.others:
        caption += "; beside them those of models of other tasks on the same test examples"
    return _table(grid, "scores_parts", caption, rows)


def comparisons(grid: Grid) -> Iterator[Table]:
    """Paired bootstrap tests on the main score: of models at a size, and of sizes of a model.

    Size 0 is left out: its head is untrained. Holm's correction is over the tests of a table.
    """
    pairs = {
        "models": [((a, size), (b, size)) for size in grid.trained
                   for a, b in combinations(grid.models, 2)],
        "sizes": [((model, b), (model, a)) for model in grid.models
                  for a, b in combinations(grid.trained, 2)],
    }  # fmt: skip
    for name, chosen in pairs.items():
        rows = []
        for cells in chosen:
            row = {
                side: f"{model}, {size} %" for side, (model, size) in zip("ab", cells, strict=True)
            }
            rows.append(row | {"a less b": None, "p": None, "p (Holm)": None})
            systems = [grid.resampled(*cell, grid.main.name) for cell in cells]
            if None not in systems:
                *difference, rows[-1]["p"] = statistics.paired_difference(*systems)
                rows[-1]["a less b"] = Estimate(*difference)
        tested = [row for row in rows if row["p"] is not None]
        adjusted = statistics.holm([row["p"] for row in tested])
        for row, p in zip(tested, adjusted, strict=True):
            row["p (Holm)"] = p
        caption = (
            f"differences in test {grid.main.title} between {name}, paired bootstrap, Holm's "
            f"correction over {len(tested)} tests"
        )
        yield _table(grid, f"differences_{name}", caption, rows if tested else [])


def probing(grid: Grid, variant: str = "") -> Iterator[Table]:
    """Best and last layer of each encoder, with controls; then, for each model, all layers."""
    main, title, rows = grid.main.name, grid.main.title, []
    file, step = named("probing", variant)
    columns = {f"best layer: {title}": main, "last layer": f"{main}_last_layer",
               "selectivity, best layer": f"selectivity_{main}",
               "selectivity, last layer": f"selectivity_{main}_last_layer",
               "majority class": f"majority_{main}"}  # fmt: skip
    for model in grid.models:
        for size in (UNTRAINED, *grid.sizes):
            runs = grid.cell("probing", model, size, variant)
            best = ", ".join(map(str, sorted({run.metrics["best_layer"] for run in runs})))
            row = {"model": model, "encoder": size_name(size), "best layer (dev)": best or None}
            rows.append(row | {name: grid.score("probing", model, size, f"test_{key}", variant)
                               for name, key in columns.items()})  # fmt: skip
    yield _table(grid, file, f"{step}, test {title}", rows)
    selectivity = file.replace("probing", "selectivity")
    yield from _by_layer(grid, "probing", "probe", variant, file, f"test {title}")
    yield from _by_layer(grid, "probing", "selectivity", variant, selectivity,
                         f"selectivity ({title})")  # fmt: skip


def attention(grid: Grid, variant: str = "") -> Iterator[Table]:
    """Similarity to the pre-trained model's attention; then, for each model, all layers."""
    rows, (file, step) = [], named("attention", variant)
    for model in grid.models:
        for size in grid.trained:
            cosine, untrained = (grid.score("attention", model, size, key, variant)
                                 for key in ("cosine", "floor_cosine"))  # fmt: skip
            layers = grid.layers("attention", model, size, "cosine", variant)
            rows.append({
                "model": model, "size": size_name(size), "mean cosine": cosine,
                "change (1 - cosine)": cosine and cosine._replace(value=1 - cosine.value),
                size_name(UNTRAINED): untrained,
                "most changed layer": min(layers, key=lambda n: layers[n].value, default=None),
            })  # fmt: skip
    yield _table(grid, file, f"{step}, fine-tuned against pre-trained", rows)
    what = "mean cosine to the pre-trained model"
    yield from _by_layer(grid, "attention", "cosine", variant, file, what)


def _by_layer(
    grid: Grid, step: str, curve: str, variant: str, file: str, what: str
) -> Iterator[Table]:
    """A table a model, with a row a layer and a column a size."""
    for model in grid.models:
        curves = grid.curves(step, model, curve, variant)
        rows = [{"layer": layer} | {size_name(size): c.get(layer) for size, c in curves.items()}
                for layer in sorted({layer for c in curves.values() for layer in c})]  # fmt: skip
        caption = f"{named(step, variant)[1]} of {model}, {what} by layer"
        yield _table(grid, f"{file}_{model}", caption, rows)


def link_points(grid: Grid) -> dict[str, list[tuple[str, int, float, float]]]:
    """(model, size, x, downstream score) of the cells that have both, for each measure x."""
    main, points = grid.main.name, {}
    for name, step, key in (
        (f"probe, best layer: {grid.main.title}", "probing", f"test_{main}"),
        (f"probe, last layer: {grid.main.title}", "probing", f"test_{main}_last_layer"),
        ("selectivity, best layer", "probing", f"test_selectivity_{main}"),
        ("attention change (1 - mean cosine)", "attention", "cosine"),
    ):
        cells = [(model, size, grid.score(step, model, size, key),
                  grid.score("fine-tuning", model, size, f"test_{main}"))
                 for model in grid.models for size in grid.sizes]  # fmt: skip
        points[name] = [(model, size, 1 - x.value if key == "cosine" else x.value, y.value)
                        for model, size, x, y in cells if x and y]  # fmt: skip
    return points


def correlations(points: list, sizes: list[int]) -> tuple[int, dict[str, Estimate | None]]:
    """The number of a measure's `link_points` at `sizes`; both correlations of x and score."""
    x, y = ([point[i] for point in points if point[1] in sizes] for i in (2, 3))
    found = {kind: statistics.correlation(x, y, kind.lower()) for kind in ("Spearman", "Pearson")}
    return len(x), {kind: Estimate(*r) if r else None for kind, r in found.items()}


def link(grid: Grid) -> Iterator[Table]:
    """Correlation of the downstream score with each measure; without size 0, and with it."""
    rows = []
    for name, points in link_points(grid).items():
        for sizes in (grid.trained, grid.sizes):
            n, found = correlations(points, sizes)
            rows.append({"measure": name, "sizes": f"{sizes[0]} to {sizes[-1]} %", "n": n} | found)
    caption = (f"correlation, over models and sizes, of test {grid.main.title} after fine-tuning "
               "with what is measured inside")  # fmt: skip
    yield _table(grid, "link", caption, rows)
