"""What the report shows of ablation, and the figures of a result."""

from functools import partial
from itertools import product
from pathlib import Path

from common.report import drawing, page
from common.report.drawing import COLORS, Heatmap, Line, Panel, size_name
from common.report.shown import attention

NAME = "ablation"
LOOKS = {  # by order: colour, marker, name
    "most_changed": (COLORS[1], "o", "most changed heads first"),
    "least_changed": (COLORS[0], "v", "least changed heads first"),
    "importance": (COLORS[2], "s", "most important heads first"),
    "random": ("grey", "", "random heads of the same layers"),
    "from_below": (COLORS[0], "^", "from the lowest layer up"),
    "from_above": (COLORS[1], "v", "from the highest layer down"),
    "single": (COLORS[2], "s", "this layer alone"),
}
HEADS = "heads removed (% of all)"
LAYERS = "number of layers taken back (alone: which layer)"
EXPLAINED = """\
Heads of the fine-tuned model are removed in groups, and the test score is measured again. "Mean
score" is the mean height of a curve: the lower it is, the more that order costs. Random heads are
drawn many times, as many in each layer as among the most changed heads; the band of the figure is
one standard deviation of the draws. p is the share of draws that cost at least as much as the most
changed heads (one draw is added to both counts). Importance is the gradient of the loss with
respect to a head's gate.

If the most changed heads cost more than random heads, what fine-tuning changed in them matters for
the task. If they do not, the score does not show that it matters. That does not make the change
useless: other heads can take over, and nobody trained a model without some of its heads. Unless
the section says zero, a removed head's mean output takes its place. It is not neutral: it keeps
what the head always says.
"""
TAKEN_BACK = """\
Layers of the fine-tuned model get their pre-trained weights back; the embeddings and the task's
head stay fine-tuned. Where the score falls most, fine-tuning changed the layer in a way that the
layers above it need.
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
            draws = table[table["order"] == order].groupby(["removed", "seed"])["value"]
            spread = draws.std().fillna(0).groupby("removed").mean()  # not that of the seeds
            ends = [list(mean - spread), list(mean + spread), True]
            look["label"] += " (± deviation)"
        look |= {"linestyle": ""} if order == "single" else {}
        lines.append(Line(list(mean.index), list(mean), look, *ends))
    titles = {score.name: score.title for score in task.SCORES} | {"loss": "loss (nats)"}
    level = result.metrics and result.metrics.get(f"test_majority_{metric}")
    axis = LAYERS if (table["order"] == "single").any() else HEADS
    return Panel(lines, title, axis, f"{titles[metric]} on test", level)


def sections(grid) -> list:
    """Curves, their means, and the importance of heads by size; a section for each variant."""
    return [
        _section(grid, name)
        for name in sorted({result.name for result in grid.results if result.step == NAME})
    ]


def _section(grid, name: str) -> page.Section:
    curves, gaps, related, panels, maps, main = [], [], [], [], [], grid.main
    layers = "layers" in name
    half = f"half of the gain lost at ({'layers' if layers else '% of heads'})"
    for model, size in product(grid.models, grid.sizes):
        if not (results := grid.cell(name, model, size)):
            continue
        score = partial(grid.score, name, model, size)
        tables, title = [r.table("ablation.csv") for r in results], f"{model}, {size_name(size)}"
        panels.append(_panel(tables, main.name, grid.task, results[0], title))
        cell = {"model": model, "size": size_name(size)}
        row = {"order": "whole model", "mean score": score(f"test_{main.name}")}
        curves.append(cell | row)
        for order, (_, _, label) in LOOKS.items():
            lost = sorted({str(r.metrics.get(f"half_lost_{order}") or "never") for r in results})
            row = {"order": label, "mean score": score(f"area_{order}")}
            row |= {half: ", ".join(lost), "p: random heads cost as much": score(f"p_{order}")}
            curves += [cell | row] if row["mean score"] else []
        for share in sorted(set(tables[0]["removed"])):
            if value := score(f"difference_{share}"):
                row = {"heads removed": f"{share} %", f"difference in {main.title}": value}
                gaps.append(cell | row)
        row = {"all heads": score("spearman_over_heads")}
        related.append(cell | row | {"within layers": score("spearman_within_layers")})
        if (results[0].folder / "importance.csv").is_file():
            maps.append((model, _map(results, size, grid.cell(attention.NAME, model, size))))
    made = page.tables(grid, name, f"{name}, mean test {main.title} of each curve", curves)
    caption = f"{name}, most changed heads removed minus random heads removed"
    made += page.tables(grid, f"{name}_differences", caption, gaps)
    caption = f"{name}, Spearman's correlation of a head's change and its importance"
    made += page.tables(grid, f"{name}_correlation", caption, related)
    heading = "Layers taken back" if layers else name.capitalize().replace("-", ": ")
    figure = (name, [grid.title, f"{heading.lower()}: test {main.title}"], [panels])
    return page.Section(heading, TAKEN_BACK if layers else EXPLAINED, figure, made, maps)


def _map(results: list, size, compared: list) -> Heatmap:
    """The mean importance of the heads, over seeds; each layer has norm 1. Its notes are ranks:
    by importance and, where attention was `compared`, by change."""
    worth = _mean([result.table("importance.csv") for result in results])
    notes = "rank " + _ranks(worth) + f" of {worth.size} by importance"
    if compared:
        tables = [result.table("heads.csv") for result in compared]
        change = 1 - _mean([table[table["metric"] == "cosine"] for table in tables])
        notes += ", " + _ranks(change) + " by change"
    title = f"{size_name(size)}: importance of the heads (gradient)"
    return Heatmap(title, worth, "importance (norm 1 in each layer)", 1, "viridis", 0, notes)


def _mean(tables: list):
    """`[layers, heads]`, a DataFrame: the mean of the tables' values."""
    import pandas as pd

    return pd.concat(tables).groupby(["layer", "head"])["value"].mean().unstack()


def _ranks(values):
    """The place of each head from the highest value, 1, as text; "?" of one without a value."""
    places = values.stack().rank(ascending=False, method="first").unstack()
    return places.map(lambda place: f"{place:.0f}" if place > 0 else "?")
