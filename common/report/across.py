"""The sections about all steps: tests between scores, and their link to what is measured inside."""

from itertools import combinations

from common.report import palette, statistics, tables
from common.report.drawing import Figure, Line, Panel
from common.report.grid import Estimate, Grid
from common.report.page import Section
from common.steps import STEPS

DIFFERENCES = """\
Paired bootstrap tests of no difference in the main score (two-sided, on the same test examples).
With 10,000 resamples no p is below 0.0001. Holm's correction is over the tests of a table. Only
trained models are compared. With one seed, a difference may be that of this seed.
"""
LINK = """\
Each point is a model at a size (the mean of its seeds). [a, b] is the 95 % percentile bootstrap
interval over points. The points are few and depend on each other (sizes of one model, nested
subsets), so the intervals are too narrow. At 0 % no head was trained and attention has not changed.
Size 0 would dominate the correlation, so each measure is first shown without it. "–": fewer than
three points, or all points are equal. Only results with the default settings of a step are used.
"""


def differences(grid: Grid) -> Section:
    """Paired bootstrap tests on the main score: of models at a size, and of sizes of a model."""
    pairs = {
        "models": [
            ((a, size), (b, size)) for size in grid.trained for a, b in combinations(grid.models, 2)
        ],
        "sizes": [
            ((model, b), (model, a))
            for model in grid.models
            for a, b in combinations(grid.trained, 2)
        ],
    }
    made = []
    for name, cells in pairs.items():
        rows = [_difference(grid, *pair) for pair in cells]
        tested = [row for row in rows if row["p"] is not None]
        adjusted = statistics.holm([row["p"] for row in tested])
        for row, p in zip(tested, adjusted, strict=True):
            row["p (Holm)"] = p
        caption = (
            f"differences in test {grid.main.title} between {name}, paired bootstrap, Holm's "
            f"correction over {len(tested)} tests"
        )
        made += tables.make(grid, f"differences_{name}", caption, rows)
    return Section("Differences", DIFFERENCES, tables=made)


def _difference(grid: Grid, a: tuple, b: tuple) -> dict:
    row = {side: f"{model}, {size} %" for side, (model, size) in (("a", a), ("b", b))}
    systems = [grid.resampled(*cell, grid.main.name) for cell in (a, b)]
    if None in systems:
        return row | {"a minus b": None, "p": None, "p (Holm)": None}
    *difference, p = statistics.paired_difference(*systems)
    return row | {"a minus b": Estimate(*difference), "p": p, "p (Holm)": None}


def link(grid: Grid) -> Section:
    """The correlation of the downstream score with each measure that a step offers."""
    rows, panels = [], []
    for name, points in link_points(grid).items():
        for sizes in (grid.trained, grid.sizes):
            n, r = _correlations(points, sizes)
            rows.append({"measure": name, "sizes": f"{sizes[0]} to {sizes[-1]} %", "n": n} | r)
        if points:
            panels.append(_link_panel(grid, name, points))
    caption = (
        f"correlation, over models and sizes, of test {grid.main.title} after fine-tuning with "
        "what is measured inside"
    )
    titles = [grid.title(), "downstream score against what is measured inside"]
    figure = Figure("link", titles, [panels]) if panels else None
    return Section("The link", LINK, figure, tables.make(grid, "link", caption, rows))


def link_points(grid: Grid) -> dict[str, list[tuple[str, int, float, float]]]:
    """(model, size, x, downstream score) of the cells that have both, for each measure x."""
    offers = [step.link_measures(grid) for step in STEPS.values() if hasattr(step, "link_measures")]
    points = {}
    for name, values in (item for measures in offers for item in measures.items()):
        scores = {cell: grid.downstream(*cell, grid.main.name) for cell in values}
        points[name] = [
            (*cell, x, scores[cell].value) for cell, x in values.items() if scores[cell]
        ]
    return points


def _correlations(points: list, sizes: list[int]) -> tuple[int, dict[str, Estimate | None]]:
    """The number of the points at `sizes`, and both correlations of x and score."""
    x, y = ([point[i] for point in points if point[1] in sizes] for i in (2, 3))
    r = {kind: statistics.correlation(x, y, kind.lower()) for kind in ("Spearman", "Pearson")}
    return len(x), {kind: Estimate(*value) if value else None for kind, value in r.items()}


def _link_panel(grid: Grid, name: str, points: list) -> Panel:
    """Colours are models, markers are sizes."""
    dots = {"linestyle": "", "markersize": 4, "alpha": 0.8}
    markers = {size: palette.size_style(size)["marker"] for _, size, _, _ in points}
    looks = {model: palette.model_style(model) for model, *_ in points}
    lines = [Line([x], [y], looks[m] | dots | {"marker": markers[n]}) for m, n, x, y in points]
    for model, look in looks.items():  # in the legend alone
        lines.append(Line([], [], look | {"marker": "o", "linestyle": ""}, palette.short(model)))
    for size in sorted(markers):
        look = {"color": "grey", "linestyle": "", "marker": markers[size]}
        lines.append(Line([], [], look, palette.size_name(size)))
    n, r = _correlations(points, grid.trained)
    said = ",\n".join(f"{kind} {f'{x.value:.2f}' if x else '–'}" for kind, x in r.items())
    title = f"{said}\n(n = {n}, without 0 %)"
    label = name.replace(": ", ":\n").replace(" (", "\n(")
    ylabel = f"test {grid.main.title} after fine-tuning"
    return Panel(lines, title, label, ylabel, low=grid.main.lowest)
