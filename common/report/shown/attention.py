"""What the report shows of attention, and the figures of a result."""

import math
from itertools import product
from pathlib import Path

from common.cli import UNTRAINED
from common.report import drawing, page
from common.report.drawing import Heatmap, Line, Panel, size_look, size_name

NAME = "attention"

EXPLAINED = """\
Mean cosine of the attention maps of the fine-tuned and the pre-trained model over real tokens
(special tokens included), heads and examples. The untrained encoder, compared in the same way, is a
reference: two models that share only the architecture. A fine-tuned model can lie below it.

CKA compares the hidden states of one real token of each example, layer by layer: 1 means equal up
to a rotation, about 0 unrelated. A few large dimensions can decide it, so it is also given with
every dimension scaled to variance 1.
"""
LAYER = "layer (0 = embeddings)"
CKA = {"cka": "CKA of the hidden states", "cka_standardized": "CKA, dimensions scaled"}
# By name in heads.csv: title, short name, colours (unchanged attention is yellow).
MEASURES = {
    "cosine": ("cosine similarity of the attention maps", "cosine (1 = unchanged)", "viridis"),
    "js": ("Jensen-Shannon divergence", "JS (bits; 0 = unchanged)", "viridis_r"),
    "entropy_pretrained": ("entropy, pre-trained", "entropy (bits)", "cividis"),
    "entropy_fine_tuned": ("entropy, fine-tuned", "entropy (bits)", "cividis"),
}


def read(result, task) -> dict[str, float]:
    """The mean cosine over the compared heads: `cosine`, and by layer `attention_layer_<n>`; the
    CKA by layer: `cka_layer_<n>`, and of the layers above the embeddings the mean: `cka`."""
    if not (heatmap := _maps([result.table("heads.csv")]).get("cosine")):
        return {}
    layers = heatmap.grid.mean(axis=1).dropna()
    values = {f"{NAME}_layer_{n}": float(value) for n, value in layers.items()}
    for name, by_layer in _cka(result.table("cka.csv")).items():
        values |= {f"{name}_layer_{n}": float(value) for n, value in by_layer.items()}
        values |= {name: float(by_layer.drop(0).mean())} if len(by_layer) else {}
    return values | {"cosine": float(heatmap.grid.stack().mean())}


def _cka(table) -> dict:
    """{measure: Series by layer} of cka.csv, without layers that have none."""
    named = {name: table[table["metric"] == name].set_index("layer")["value"] for name in CKA}
    return {name: by_layer.dropna() for name, by_layer in named.items()}


def _scale(name: str, tables: list) -> tuple[float, float]:
    """Beginning and end of a measure's colours, for all that is compared: its tables. Of cosine and
    JS in tenths from "unchanged", at least one: on a scale from 0 to 1 no small change shows."""
    import pandas as pd

    table = pd.concat(tables)
    kind = name.partition("_")[0]  # both entropies share a scale
    values = table["value"][table["metric"].isin([key for key in MEASURES if kind in key])]
    if name == "cosine":
        return min(0.9, math.floor(10 * values.min() + 1e-6) / 10), 1
    if name == "js":
        return 0, max(0.1, math.ceil(10 * values.max() - 1e-6) / 10)
    return 0, max(1, math.ceil(values.max() - 1e-6))


def _maps(tables: list, start: str = "", beside: list = ()) -> dict[str, Heatmap]:
    """{measure: map} of heads.csv, the mean over seeds; `start` of the titles. The scale is that of
    these tables and of `beside`."""
    import pandas as pd

    maps, table = {}, pd.concat(tables)
    for name in (name for name in MEASURES if (table["metric"] == name).any()):
        means = table[table["metric"] == name].groupby(["layer", "head"])["value"].mean()
        title, label, colours = MEASURES[name]
        least, most = _scale(name, [*tables, *beside])
        maps[name] = Heatmap(start + title, means.unstack(), label, most, colours, least)
        if len(means) != maps[name].grid.size:
            raise ValueError("heads.csv is damaged (heads are missing)")
    return maps


def draw(folder: Path, task) -> None:
    """heads: a map of each measure; attention_all_sizes in the model's folder: means by layer."""
    from common.report.grid import Result

    own = Result(folder)
    ending, tables = own.of_all_sizes("heads.csv")
    beside = [table for size, table in tables.items() if size != UNTRAINED]
    sizes = {size: _maps([table], "", beside) for size, table in tables.items()}
    what = f"{task.NAME} {own.name}, pre-trained against"
    titles = [f"{what} this encoder: {size_name(own.size)}", own.title]
    drawing.draw(folder, "heads", titles, [list(sizes[own.size].values())])
    rows = []
    for name, heatmap in sizes[own.size].items():
        means = {size: maps[name].grid.mean(axis=1) for size, maps in sizes.items() if name in maps}
        lines = [Line(mean.index, mean, size_look(size)) for size, mean in means.items()]
        rows.append([Panel(lines, heatmap.title, LAYER, heatmap.label)])
    _, tables = own.of_all_sizes("cka.csv")
    states = {size: _cka(table) for size, table in tables.items() if size in sizes}
    for name, title in CKA.items():
        means = {size: values[name] for size, values in states.items() if len(values[name])}
        lines = [Line(mean.index, mean, size_look(size)) for size, mean in means.items()]
        rows += [[Panel(lines, title, LAYER, "CKA (1 = unchanged)")]] if lines else []
    titles = [f"{what} fine-tuned, mean of heads", own.title]
    drawing.draw(folder.parents[2], f"attention_all_sizes{ending}", titles, rows)


def sections(grid) -> list:
    """Similarity to the pre-trained model, and all layers; a section for each variant."""
    made, curves = [], {NAME: "mean cosine (1 = unchanged)"} | CKA
    for name in sorted({result.name for result in grid.results if result.step == NAME}):
        rows, maps = [], []
        every = [
            r.table("heads.csv") for r in grid.results if r.name == name and r.size in grid.sizes
        ]
        for model, size in product(grid.models, grid.sizes):
            if results := grid.cell(name, model, size):
                tables = [result.table("heads.csv") for result in results]
                means = _maps(tables, f"{size_name(size)}: ", every)
                maps += [(model, heatmap) for heatmap in means.values()]
            cosine = grid.score(name, model, size, "cosine")
            layers = grid.layers(name, model, size, NAME)
            row = {"model": model, "size": size_name(size), "mean cosine": cosine}
            row["change (1 - cosine)"] = cosine and cosine._replace(value=1 - cosine.value)
            row["mean CKA"] = grid.score(name, model, size, "cka")
            row["untrained encoder"] = grid.score(name, model, UNTRAINED, "cosine")
            row["most changed layer"] = min(layers, key=lambda n: layers[n].value, default=None)
            rows += [row] if size else []
        tables = page.tables(grid, name, f"{name}, fine-tuned against pre-trained", rows)
        section = page.by_layer(grid, name, EXPLAINED, tables, LAYER, curves)
        made.append(section._replace(maps=maps))
    return made


def link_measures(grid) -> dict[str, dict]:
    """`{measure: {(model, size): value}}`: what the downstream score is correlated with."""
    change = {cell: 1 - cosine for cell, cosine in grid.by_cell(NAME, "cosine").items()}
    moved = {cell: 1 - cka for cell, cka in grid.by_cell(NAME, "cka").items()}
    return {"attention change (1 - mean cosine)": change, "change of states (1 - mean CKA)": moved}
