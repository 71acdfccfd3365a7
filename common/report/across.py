"""The sections about all steps: tests between scores, and their link to what is measured inside."""

from itertools import combinations, product

from common.report import statistics
from common.report.drawing import Line, Panel, model_look
from common.report.grid import Grid
from common.report.page import Estimate, Section, tables
from common.results import TUNING
from common.steps import STEPS


def differences(grid: Grid) -> Section:
    """Paired bootstrap tests: of models at a size and sizes of a model, on the main score; and of a
    model and another task's at a size, on the part of the test examples that both have."""
    main, title = grid.main.name, f"test {grid.main.title}"
    models, sizes = list(combinations(grid.models, 2)), list(combinations(grid.trained, 2))
    pairs = {
        f"{title} between models": [
            ((grid, a, size, main), (grid, b, size, main))
            for size in grid.trained
            for a, b in models
        ],
        f"{title} between sizes": [
            ((grid, model, b, main), (grid, model, a, main))
            for model in grid.models
            for a, b in sizes
        ],
        "the scores of parts between tasks": [
            ((grid, a, size, score), (other, b, size, theirs))
            for score, others in grid.others.items()
            for other, theirs, paired in others
            if paired
            for size, a, b in product(grid.trained, grid.models, other.models)
        ],
    }
    made = []
    for caption, cells in pairs.items():
        rows = []
        for sides in cells:
            samples = [s.samples(TUNING, model, n, f"test_{key}") for s, model, n, key in sides]
            if None not in samples:
                *difference, p = statistics.paired_difference(*samples)
                row = {side: _named(grid, *cell) for side, cell in zip("ab", sides, strict=True)}
                rows.append(row | {"a minus b": Estimate(*difference), "p": p})
        adjusted = statistics.holm([row["p"] for row in rows])
        rows = [row | {"p (Holm)": p} for row, p in zip(rows, adjusted, strict=True)]
        name = f"differences_{caption.split()[-1]}"
        caption = (
            f"differences in {caption}, paired bootstrap; tests in Holm's correction: {len(rows)}"
        )
        made += tables(grid, name, caption, rows)
    return Section("Differences", "", tables=made)


def _named(grid: Grid, source: Grid, model: str, size: int, score: str) -> str:
    """A side of a test, in words."""
    part = f" on {score}" * (score != grid.main.name and source is grid)
    return f"{model}{f' ({source.task.NAME})' * (source is not grid)}, {size} %{part}"


def link(grid: Grid) -> Section:
    """The correlation of the downstream score with each measure that a step offers."""
    rows, panels, title = [], [], f"test {grid.main.title} after fine-tuning"
    scores, measures = grid.by_cell(TUNING, f"test_{grid.main.name}"), {}
    for step in STEPS.values():
        measures |= step.link_measures(grid) if hasattr(step, "link_measures") else {}
    for measure, values in measures.items():
        points = {cell: (x, scores[cell]) for cell, x in values.items() if cell in scores}
        there = {size for _, size in points}
        trained, every = (tuple(n for n in own if n in there) for own in (grid.trained, grid.sizes))
        for sizes in filter(None, dict.fromkeys((trained, every))):
            chosen = [(*point, size) for (_, size), point in points.items() if size in sizes]
            pairs = [point[:2] for point in chosen]
            row = {"measure": measure, "sizes": f"{sizes[0]} to {sizes[-1]} %", "n": len(pairs)}
            for kind in ("Spearman", "Pearson"):
                r = statistics.correlation(pairs, kind.lower())
                row[kind] = r and Estimate(*r)
            partial = statistics.partial_correlation(chosen)
            row["size partialled out"] = None if partial is None else Estimate(partial)
            rows.append(row)
        own = {m: [point for cell, point in points.items() if cell[0] == m] for m in grid.models}
        lines = [
            Line(*zip(*xy, strict=True), model_look(m, grid.models)) for m, xy in own.items() if xy
        ]
        label = measure.replace(": ", ":\n")
        panels += [Panel(lines, "", label, title)] if len(points) > 2 else []
    titles = [grid.title, "downstream score against what is measured inside"]
    figure = ("link", titles, [panels]) if panels else None
    caption = f"correlation, over models and sizes, of {title} with what is measured inside"
    return Section("The link", "", figure, tables(grid, "link", caption, rows))
