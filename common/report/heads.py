"""The maps of heads.csv for the page: a coloured cell a head, with its value."""

from math import ceil, isfinite
from typing import NamedTuple

from common import figures, palette
from common.report.grid import Grid


class Map(NamedTuple):
    """One measure of a model at a size, the mean over seeds."""

    model: str
    title: str  # the size, and the measure
    heads: list[int]
    layers: dict[int, list]  # `{layer: [(head, value as text, colour or None)]}`


def maps(grid: Grid, variant: str = "") -> list[Map]:
    """The maps of all models and sizes, of the measures that figures show, on the same scales."""
    import pandas as pd

    found = []
    for model in grid.models:
        for size in grid.sizes:
            tables = [run.heads for run in grid.cell("attention", model, size, variant)
                      if run.heads is not None]  # fmt: skip
            if not tables:
                continue
            mean = pd.concat(tables).groupby(["metric", "layer", "head"])["value"].mean()
            entropies = mean[[name for name in figures.ENTROPIES if name in mean.index.levels[0]]]
            bits = [value for value in entropies if isfinite(value)]
            for metric in (name for name in figures.MAPS if name in mean.index.levels[0]):
                high = figures.MAPS[metric][2] or max(1, ceil(max(bits, default=1)))
                found.append(_map(model, size, metric, high, mean[metric].unstack()))
    return found


def _map(model: str, size: int | str, metric: str, high: int, table) -> Map:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    title, _, _, colors = figures.MAPS[metric]
    layers = {
        int(layer): [
            (int(head), f"{value:.4f}", to_hex(colormaps[colors](value / high)))
            if isfinite(value) else (int(head), "never compared", None)
            for head, value in row.items()
        ]
        for layer, row in table.iterrows()
    }  # fmt: skip
    return Map(model, f"{palette.size_name(size)}: {title}", list(map(int, table)), layers)
