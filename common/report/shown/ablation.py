"""What the report shows of ablation, and the figures of a result."""

from pathlib import Path

from common.report import drawing, page
from common.report.drawing import COLORS, Heatmap, Line, Panel, size_name
from common.report.result import Result, main_score
from common.report.shown import attention

NAME = "ablation"
LOOKS = {  # by order
    "most_changed": {"color": COLORS[1], "marker": "o", "label": "most changed heads first"},
    "least_changed": {"color": COLORS[0], "marker": "v", "label": "least changed heads first"},
    "importance": {"color": COLORS[2], "marker": "s", "label": "most important heads first"},
    "random": {"color": "grey", "label": "random heads of the same layers"},
    "from_below": {"color": COLORS[0], "marker": "^", "label": "from the lowest layer up"},
    "from_above": {"color": COLORS[1], "marker": "v", "label": "from the highest layer down"},
    "single": {"color": COLORS[2], "marker": "s", "linestyle": "", "label": "this layer alone"},
}
P = {"p: random heads cost as much": "p_most_changed", "p at 0 %": "p_importance"}
HEADS = "heads removed (% of all)"
LAYERS = "number of layers taken back (alone: which layer)"


def read(result, task) -> dict:
    """`half_lost_<order>` in words where there is no such point; p as text: it has no mean."""
    result.table("ablation.csv")  # the sections need it
    own, main = result.metrics, main_score(task, result.metrics).name
    never = "never" if own[f"test_{main}"] > own[f"test_majority_{main}"] else "no gain"
    words = {key: never for key in own if key.startswith("half_lost_") and own[key] is None}
    return words | {key: f"{own[key]:.3f}" for key in P.values() if key in own}


def draw(folder: Path, task) -> None:
    """ablation: the main score and the loss by what is removed, from ablation.csv."""
    own = Result(folder)
    titles = [f"{task.NAME} {own.name}: {size_name(own.size)}", own.title]
    main = main_score(task, own.metrics)
    panels = [_panel([own], main.name, main.title, ""), _panel([own], "loss", "loss (nats)", "")]
    drawing.draw(folder, "ablation", titles, [[panel] for panel in panels if panel.lines])


def _panel(results: list, metric: str, title: str, heading: str) -> Panel:
    """The curves of ablation.csv (of several seeds), one an order; of random draws also a band."""
    import pandas as pd

    table, lines = pd.concat(result.table("ablation.csv") for result in results), []
    for order, look in LOOKS.items():
        own = table[(table["order"] == order) & (table["metric"] == metric)]
        mean = own.groupby("removed")["value"].mean()
        draws = own.groupby(["removed", "seed"])["value"]
        spread = draws.std().groupby("removed").mean()  # not that of the seeds
        ends = [mean - spread, mean + spread, True] if order == "random" else []
        lines += [Line(mean.index, mean, look, *ends)] if len(own) else []
    level = results[0].metrics.get(f"test_majority_{metric}")
    axis = LAYERS if "layers" in results[0].name else HEADS
    return Panel(lines, heading, axis, f"{title} on test", level)


def sections(grid) -> list:
    """Curves, their means, and the importance of heads by size; a section for each variant."""
    return [_section(grid, name) for name in grid.names(NAME)]


def _section(grid, name: str) -> page.Section:
    panels, maps, made, main, layers = [], [], [], grid.main, "layers" in name
    for model, size in grid.cells(name):
        results = grid.cell(name, model, size)
        panels.append(_panel(results, main.name, main.title, f"{model}, {size_name(size)}"))
        if (results[0].folder / "importance.csv").is_file():
            maps.append((model, _map(results, size, grid.cell(attention.NAME, model, size))))
    keys = {key for result in grid.results if result.name == name for key in result.metrics}
    shares = sorted({*results[0].table("ablation.csv")["removed"]})
    labels = {order: LOOKS[order]["label"] for order in LOOKS if f"area_{order}" in keys}
    areas = {"whole model": f"test_{main.name}"}
    areas |= {label: f"area_{order}" for order, label in labels.items()}
    halves = {label: f"half_lost_{order}" for order, label in labels.items()}
    unit = "layers" if layers else "% of heads"
    related = {"all heads": "spearman_over_heads", "within layers": "spearman_within_layers"}
    for ending, caption, columns in (
        ("", f"mean test {main.title} of each curve", areas | P),
        ("_half_lost", f"where half of the gain over the majority is lost ({unit})", halves),
        (
            "_differences",
            f"test {main.title} without a share of the most changed heads, minus without random "
            "heads",
            {f"{share} %": f"difference_{share}" for share in shares},
        ),
        ("_correlation", "Spearman's correlation of a head's change and its importance", related),
    ):
        rows = page.by_encoder(grid, name, columns)
        made += page.tables(grid, name + ending, f"{name}, {caption}", rows)
    heading = "Layers taken back" if layers else page.heading(name)
    titles = [grid.title, f"{heading.lower()}: test {main.title}"]
    return page.Section(heading, "", (name, titles, [panels]), made, maps)


def _map(results: list, size, compared: list) -> Heatmap:
    """The mean importance of the heads, over seeds; each layer has norm 1. Its notes are ranks:
    by importance and, where attention was `compared`, by change."""
    worth = attention.mean_of_heads([result.table("importance.csv") for result in results])
    notes = "rank " + _ranks(worth) + f" of {worth.size} by importance"
    if compared:
        tables = [result.table("heads.csv") for result in compared]
        change = 1 - attention.mean_of_heads(
            [table[table["metric"] == "cosine"] for table in tables]
        )
        notes += ", " + _ranks(change) + " by change"
    title = f"{size_name(size)}: importance of the heads (gradient)"
    return Heatmap(title, worth, "importance (norm 1 in each layer)", 1, "viridis", 0, notes)


def _ranks(values):
    """The place of each head from the highest value, 1, as text; "?" of one without a value."""
    places = values.stack().rank(ascending=False, method="first").unstack()
    return places.map(lambda place: f"{place:.0f}" if place > 0 else "?")
