"""What the report shows of ablation, and the figures of a result."""

from itertools import product
from pathlib import Path

from common.report import drawing, page
from common.report.drawing import COLORS, Heatmap, Line, Panel, size_name

NAME = "ablation"
LOOKS = {  # by order: colour, marker, name
    "most_changed": (COLORS[1], "o", "most changed first"),
    "least_changed": (COLORS[0], "v", "least changed first"),
    "importance": (COLORS[2], "s", "most important first (gradient)"),
    "random": ("grey", "", "random, as many in each layer as most changed (± deviation)"),
    "from_below": (COLORS[0], "^", "from below"),
    "from_above": (COLORS[1], "v", "from above"),
    "single": (COLORS[2], "s", "this layer alone"),
}
HEADS = "heads removed (% of all)"
LAYERS = "layers taken back (or the layer's number)"
EXPLAINED = """\
Heads of the fine-tuned model are removed in groups, and the test score is measured again. If the
heads that changed most cost more than random heads of the same layers, then what fine-tuning
changed there matters for the task. If they cost as much as random ones, the score does not show
that it does. It does not show that the change is useless, either: other heads can take over, and a
model without some of its heads is one that nobody trained. The mean of a head's output is not
neutral: it keeps what the head always says. Area is the mean of a curve: lower means that more is
lost. p is the share of random draws with an area at most as large (one draw more on both sides).
"""
TAKEN_BACK = """\
Layers of the fine-tuned model get their pre-trained weights back; embeddings and head stay tuned.
Where the score falls, fine-tuning had put what the task needs.
"""


def read(result, task) -> dict[str, float]:
    """No values besides metrics.json."""
    return {}


def draw(folder: Path, task) -> None:
    """ablation: the main score and the loss by what is removed, from ablation.csv."""
    from common.report.grid import Result

    own = Result(folder)
    table = own.table("ablation.csv")
    titles = [f"{task.NAME} {own.name}: {size_name(own.size)}", own.title]
    names = [score.name for score in task.SCORES if (table["metric"] == score.name).any()]
    panels = [_panel([table], name, task, own, "") for name in [*names[:1], "loss"]]
    drawing.draw(folder, "ablation", titles, [[panel] for panel in panels if panel.lines])


def _panel(tables: list, metric: str, task, result, title: str) -> Panel:
    """The curves of ablation.csv (of several seeds), one an order; random draws as a band."""
    import pandas as pd

    table, lines = pd.concat(tables), []
    table = table[table["metric"] == metric]
    for order in (order for order in LOOKS if (table["order"] == order).any()):
        color, marker, label = LOOKS[order]
        values = table[table["order"] == order].groupby("removed")["value"]
        mean, look = values.mean(), {"color": color, "marker": marker, "label": label}
        ends = []
        if order == "random":
            spread = values.std().fillna(0)
            ends = [list(mean - spread), list(mean + spread)]
        look |= {"linestyle": ""} if order == "single" else {}
        lines.append(Line(list(mean.index), list(mean), look, *ends))
    titles = {score.name: score.title for score in task.SCORES} | {"loss": "loss (nats)"}
    level = result.metrics and result.metrics.get(f"test_majority_{metric}")
    axis = LAYERS if (table["order"] == "single").any() else HEADS
    return Panel(lines, title, axis, f"{titles[metric]} on test", level)


def sections(grid) -> list:
    """The curves by size, areas, and the heads' importance; a section for each variant."""
    return [
        _section(grid, name)
        for name in sorted({result.name for result in grid.results if result.step == NAME})
    ]


def _section(grid, name: str) -> page.Section:
    rows, panels, maps, main = [], [], [], grid.main
    for model, size in product(grid.models, grid.sizes):
        if not (results := grid.cell(name, model, size)):
            continue
        tables = [result.table("ablation.csv") for result in results]
        panel = _panel(tables, main.name, grid.task, results[0], f"{model}, {size_name(size)}")
        panels.append(panel)
        scores = {
            f"{column} {order.replace('_', ' ')}": grid.score(name, model, size, f"{key}_{order}")
            for order in LOOKS
            for column, key in (("area,", "area"), ("half lost,", "half_lost"), ("p,", "p"))
            if any(result.metrics.get(f"{key}_{order}") is not None for result in results)
        }
        whole = {"whole model": grid.score(name, model, size, f"test_{main.name}")}
        row = {"model": model, "size": size_name(size)} | whole | scores
        heads = "spearman_over_heads", "spearman_within_layers"
        for key, title in zip(heads, ("over all heads", "within layers"), strict=True):
            found = grid.score(name, model, size, key)
            row |= {f"Spearman of change and importance, {title}": found} if found else {}
        rows.append(row)
        if (results[0].folder / "importance.csv").is_file():
            maps.append((model, _map(results, size)))
    heading = "Layers taken back" if "layers" in name else "Ablation"
    caption = f"{name}, mean test {main.title} of each curve, and where half of the gain is lost"
    made = page.tables(grid, name, caption, rows)
    figure = (name, [grid.title, f"{name}: test {main.title}"], [panels]) if panels else None
    text = TAKEN_BACK if "layers" in name else EXPLAINED
    return page.Section(heading, text, figure, made, maps)


def _map(results: list, size) -> Heatmap:
    """The mean importance of the heads, over seeds; each layer has norm 1."""
    import pandas as pd

    table = pd.concat([result.table("importance.csv") for result in results])
    grid = table.groupby(["layer", "head"])["value"].mean().unstack()
    title = f"{size_name(size)}: importance of the heads (gradient)"
    return Heatmap(title, grid, "|dL/dxi|, norm 1 in each layer", 1.0, "viridis")
