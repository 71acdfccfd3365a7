"""What the report shows of attention, and the figure of a result."""

import math
from itertools import chain
from pathlib import Path

from common.cli import UNTRAINED
from common.report import drawing, page
from common.report.drawing import COLORS, Heatmap, Line, Panel, size_name
from common.report.result import Result

NAME = "attention"

CKA = {"cka": "CKA of the hidden states", "cka_standardized": "CKA, dimensions scaled"}
COLUMNS = {
    "mean cosine": NAME,
    "change (1 - cosine)": "change",
    "mean CKA": "cka",
    "most changed layer": "most_changed_layer",
}
CHANGES = {"change": NAME, "moved": "cka"}
# By name in heads.csv: title, short name, colours (unchanged attention is yellow).
MEASURES = {
    "cosine": ("cosine similarity of the attention maps", "cosine (1 = unchanged)", "viridis"),
    "js": ("Jensen-Shannon divergence", "JS (bits; 0 = unchanged)", "viridis_r"),
    "entropy_pretrained": ("entropy, pre-trained", "entropy (bits)", "cividis"),
    "entropy_fine_tuned": ("entropy, fine-tuned", "entropy (bits)", "cividis"),
}


def read(result, task) -> dict:
    """Of cosine (called `attention`) and the CKA the mean over the blocks, `<key>`, and by layer,
    `<key>_layer_<n>`; `change` and `moved`, 1 minus these means; `most_changed_layer`."""
    import pandas as pd

    heads = result.table("heads.csv")
    if len(heads) != heads["metric"].nunique() * heads["layer"].nunique() * heads["head"].nunique():
        raise ValueError("heads.csv is damaged (heads are missing)")
    table = pd.concat([heads, result.table("cka.csv")]).dropna(subset="value")
    table["metric"] = table["metric"].replace("cosine", NAME)
    by_layer = table.groupby(["metric", "layer"])["value"].mean()
    values = {f"{metric}_layer_{n}": value for (metric, n), value in by_layer.items()}
    values |= table[table["layer"] > 0].groupby("metric")["value"].mean()
    values |= {new: 1 - values[key] for new, key in CHANGES.items() if key in values}
    return values | ({"most_changed_layer": int(by_layer[NAME].idxmin())} if NAME in values else {})


def mean_of_heads(tables: list):
    """`[layers, heads]`, a DataFrame: the mean of the values in `tables`, one a seed."""
    import pandas as pd

    return pd.concat(tables).groupby(["layer", "head"])["value"].mean().unstack()


def _maps(tables: list, scaled: list = (), start: str = "") -> dict[str, Heatmap]:
    """{measure: map} of heads.csv, the mean over seeds; `start` of the titles. `scaled`: the tables
    that share the scales, if they are more."""
    import pandas as pd

    maps, every = {}, pd.concat(scaled or tables)
    for name, (title, label, colours) in MEASURES.items():
        own = [table[table["metric"] == name] for table in tables]
        if any(map(len, own)):
            least, most = _scale(name, every)
            maps[name] = Heatmap(start + title, mean_of_heads(own), label, most, colours, least)
    return maps


def _scale(name: str, table) -> tuple[float, float]:
    """Beginning and end of a measure's colours: in tenths from "unchanged", or no entropy, to the
    furthest value. On a scale from 0 to 1 no small change shows."""
    kind = name.partition("_")[0]  # both entropies share a scale
    values = table["value"][table["metric"].isin([key for key in MEASURES if kind in key])]
    far = (1 - values if name == "cosine" else values).max()
    end = max(1, math.ceil(10 * far - 1e-6)) / 10
    return (1 - end, 1) if name == "cosine" else (0, end)


def draw(folder: Path, task) -> None:
    """heads: a map of each measure, and the CKA by layer."""
    own = Result(folder)
    rows, lines = [list(_maps([own.table("heads.csv")]).values())], []
    table = own.table("cka.csv").dropna(subset="value")
    for (key, label), color in zip(CKA.items(), COLORS, strict=False):
        by_layer = table[table["metric"] == key]
        look = {"color": color, "marker": "o", "label": label}
        lines += [Line(by_layer["layer"], by_layer["value"], look)] if len(by_layer) else []
    rows += [[Panel(lines, "", page.LAYER, "CKA (1 = unchanged)")]] if lines else []
    what = f"{task.NAME} {own.name}, encoder: {size_name(own.size)}; against the pre-trained one"
    drawing.draw(folder, "heads", [what, own.title], rows)


def sections(grid) -> list:
    """Similarity to the pre-trained model, and all layers; a section for each variant."""
    made, curves = [], {NAME: "mean cosine (1 = unchanged)"} | CKA
    for name in grid.names(NAME):
        about = "against the pre-trained model", COLUMNS, curves
        heads = {
            (model, size): [result.table("heads.csv") for result in grid.cell(name, model, size)]
            for model, size in grid.cells(name)
            if size != UNTRAINED
        }
        maps = [
            (model, heatmap)
            for (model, size), own in heads.items()
            for heatmap in _maps(own, [*chain(*heads.values())], f"{size_name(size)}: ").values()
        ]
        made.append(page.by_layer(grid, name, *about)._replace(maps=maps))
    return made


def link_measures(grid) -> dict[str, dict]:
    titles = "attention change (1 - mean cosine)", "change of states (1 - mean CKA)"
    return {title: grid.by_cell(NAME, key) for title, key in zip(titles, CHANGES, strict=True)}
