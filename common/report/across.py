"""The sections about all steps: tests between scores, and their link to what is measured inside."""

from itertools import combinations

from common.report import statistics
from common.report.drawing import Line, Panel, model_look
from common.report.grid import DOWNSTREAM, Grid
from common.report.page import Estimate, Section, tables
from common.steps import STEPS


def differences(grid: Grid) -> Section:
    """Paired bootstrap tests on the main score: of models at a size, and of sizes of a model."""
    models, sizes = list(combinations(grid.models, 2)), list(combinations(grid.trained, 2))
    pairs = {
        "models": [((a, size), (b, size)) for size in grid.trained for a, b in models],
        "sizes": [((model, b), (model, a)) for model in grid.models for a, b in sizes],
    }
    made = []
    for name, cells in pairs.items():
        rows = []
        for a, b in cells:
            samples = [grid.samples(DOWNSTREAM, *cell, f"test_{grid.main.name}") for cell in (a, b)]
            if None not in samples:
                *difference, p = statistics.paired_difference(*samples)
                row = {side: f"{model}, {size} %" for side, (model, size) in (("a", a), ("b", b))}
                rows.append(row | {"a minus b": Estimate(*difference), "p": p})
        adjusted = statistics.holm([row["p"] for row in rows])
        rows = [row | {"p (Holm)": p} for row, p in zip(rows, adjusted, strict=True)]
        caption = f"differences in test {grid.main.title} between {name}, paired bootstrap"
        caption += f", Holm's correction over {len(rows)} tests"
        made += tables(grid, f"differences_{name}", caption, rows)
    return Section("Differences", "", tables=made)


def link(grid: Grid) -> Section:
    """The correlation of the downstream score with each measure that a step offers."""
    rows, panels, title = [], [], f"test {grid.main.title} after fine-tuning"
    scores, measures = grid.by_cell(DOWNSTREAM, f"test_{grid.main.name}"), {}
    for step in STEPS.values():
        measures |= step.link_measures(grid) if hasattr(step, "link_measures") else {}
    for measure, values in measures.items():
        points = {cell: (x, scores[cell]) for cell, x in values.items() if cell in scores}
        for sizes in filter(None, dict.fromkeys((tuple(grid.trained), tuple(grid.sizes)))):
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
