"""What the report shows of attention, and the figures of a result."""

import math
from itertools import product
from pathlib import Path

from common.cli import UNTRAINED
from common.report import drawing, page
from common.report.drawing import Figure, Heatmap, Panel, size_line, size_name

NAME = "attention"

EXPLAINED = """\
Mean cosine of the attention maps of the fine-tuned and the pre-trained model over real tokens
(special tokens included), heads and examples. The untrained encoder, compared in the same way, is a
reference: the similarity of two models that share only the architecture. A fine-tuned model can lie
below it. Layer 1 is the first block.
"""
LAYER = "layer (1 = first block)"
BEFORE, AFTER = "entropy_pretrained", "entropy_fine_tuned"
# By name in heads.csv: title, short name, end of the scale (None: a whole number of bits above all
# values), colours. Scales are fixed, so figures can be compared; unchanged attention is yellow.
MEASURES = {
    "cosine": ("cosine similarity of the attention maps\n(1 = unchanged)", "cosine", 1, "viridis"),
    "js": ("Jensen-Shannon divergence\n(0: same, 1: disjoint)", "JS (bits)", 1, "viridis_r"),
    BEFORE: ("entropy of the attention, pre-trained", "entropy (bits)", None, "cividis"),
    AFTER: ("entropy of the attention, fine-tuned", "entropy (bits)", None, "cividis"),
}


def read(result, task) -> dict[str, float]:
    """The mean cosine over heads, `cosine`, and by layer, `attention_layer_<n>`.

    Heads that were never compared are left out. Raises ValueError if heads.csv is damaged.
    """
    heads = _heads(result.table("heads.csv")).get("cosine")
    if heads is None:
        return {}
    layers = heads.mean(axis=1).dropna()
    values = {f"{NAME}_layer_{n}": float(value) for n, value in layers.items()}
    return values | {"cosine": float(heads.stack().mean())}


def _heads(table) -> dict:
    """`{measure: its values [layers, heads]}` of heads.csv. ValueError if a head is missing."""
    measures = {}
    for measure, rows in table[table["metric"].isin(MEASURES)].groupby("metric", sort=False):
        if len(rows) != rows["layer"].max() * rows["head"].max():
            raise ValueError("heads.csv is damaged (heads are missing)")
        measures[measure] = rows.pivot(index="layer", columns="head", values="value")
    return measures


def _heatmaps(measures: dict) -> list[Heatmap]:
    """A map of each measure; the scale of both entropies is the same."""
    most = max([1, *(measures[name].max().max() for name in (BEFORE, AFTER) if name in measures)])
    looks = {name: MEASURES[name] for name in measures}
    return [
        Heatmap(title, measures[name], label, end or math.ceil(most), colours)
        for name, (title, label, end, colours) in looks.items()
    ]


def draw(folder: Path, task) -> None:
    """heads: a map of each measure; attention_all_sizes in the model's folder: means by layer."""
    from common.report.grid import Result

    own = Result(folder)
    ending, of_sizes = own.of_all_sizes("heads.csv")
    sizes = {size: _heads(table) for size, table in of_sizes.items()}
    settings = own.config["settings"]
    first = f", first {n} examples" if (n := settings.get("max_examples")) else ""
    special = "dropped" if settings.get("drop_special") else "included"
    inputs = f"{settings.get('split', 'test')} split{first}, special tokens {special}"
    titles = [f"{task.NAME} attention, encoder: {size_name(own.size)}", inputs, own.title]
    drawing.draw(folder, Figure("heads", titles, [_heatmaps(sizes[own.size])]))
    panels = []
    for name in sizes[own.size]:
        title, label, end, _ = MEASURES[name]
        means = {size: heads[name].mean(axis=1) for size, heads in sizes.items() if name in heads}
        lines = [size_line(size, mean.index, mean) for size, mean in means.items()]
        panels.append(Panel(lines, title, LAYER, f"mean {label}", high=end))
    titles[0] = f"{task.NAME} attention, pre-trained against fine-tuned"
    drawing.draw(folder.parents[2], Figure(f"attention_all_sizes{ending}", titles, [panels]))


def sections(grid) -> list:
    """Similarity to the pre-trained model, and all layers; a section for each variant."""
    made, curves = [], {NAME: ("mean cosine (1 = unchanged)", 0)}
    for name in grid.names(NAME):
        rows = []
        for model, size in product(grid.models, grid.trained):
            cosine = grid.score(name, model, size, "cosine")
            layers = grid.layers(name, model, size, NAME)
            row = {"model": model, "size": size_name(size), "mean cosine": cosine}
            row["change (1 - cosine)"] = cosine and cosine._replace(value=1 - cosine.value)
            row["untrained encoder"] = grid.score(name, model, UNTRAINED, "cosine")
            row["most changed layer"] = min(layers, key=lambda n: layers[n].value, default=None)
            rows.append(row)
        tables = page.tables(grid, name, f"{name}, fine-tuned against pre-trained", rows)
        section = page.by_layer(grid, NAME, name, EXPLAINED, tables, LAYER, curves)
        made.append(section._replace(maps=_maps(grid, name)))
    return made


def _maps(grid, name: str) -> list[tuple[str, Heatmap]]:
    """(model, map) of all models and sizes, the mean over seeds, for the page."""
    maps = []
    for model, size in product(grid.models, grid.sizes):
        seeds = [_heads(result.table("heads.csv")) for result in grid.cell(name, model, size)]
        shared = [measure for measure in MEASURES if seeds and all(measure in s for s in seeds)]
        means = {measure: sum(s[measure] for s in seeds) / len(seeds) for measure in shared}
        for heatmap in _heatmaps(means):
            title = f"{size_name(size)}: {heatmap.title}"
            maps.append((model, heatmap._replace(title=title)))
    return maps


def link_measures(grid) -> dict[str, dict]:
    """`{measure: {(model, size): value}}`: what the downstream score is correlated with."""
    change = {cell: 1 - cosine for cell, cosine in grid.by_cell(NAME, "cosine").items()}
    return {"attention change (1 - mean cosine)": change}
