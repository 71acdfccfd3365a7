"""A section about what is measured at each layer: for each model, a curve and a column a size."""

from typing import NamedTuple

from common.cli import UNTRAINED
from common.report import palette, tables
from common.report.drawing import Figure, Line, Panel
from common.report.grid import Grid
from common.report.page import Section
from common.steps import split


class Curve(NamedTuple):
    """What is shown by layer: the metrics `<key>_layer_<n>`."""

    key: str
    title: str
    low: float = 0.0  # of its range
    file: str = ""  # in place of the step's name in the names of its tables


def called(name: str) -> str:
    """What a step or its variant is called in captions: `probing (linear)`."""
    step, variant = split(name)
    return f"{step} ({palette.variant_name(variant)})" if variant else step


def section(grid: Grid, name: str, text: str, summary: list, layer: str, curves: list) -> Section:
    """The section of a step or its variant.

    `summary`: its first tables; `layer`: the label of the x axis; `curves`: a row of panels each.
    A horizontal line shows `majority_layer_<n>`, where there is such a metric, in the first row.
    """
    step, variant = split(name)
    made, rows = list(summary), []
    measured = {result.size for result in grid.results if result.name == name}
    sizes = {n: palette.size_name(n) for n in (UNTRAINED, *grid.sizes) if n in measured}
    for curve in curves:
        row = []
        for model in grid.models:
            layers = {size: grid.layers(name, model, size, curve.key) for size in sizes}
            numbers = sorted({n for scores in layers.values() for n in scores})
            cells = [
                {"layer": n} | {sizes[size]: scores.get(n) for size, scores in layers.items()}
                for n in numbers
            ]
            file = f"{name.replace(step, curve.file or step, 1)}_{model}"
            caption = f"{called(name)} of {model}, {curve.title} by layer"
            made += tables.make(grid, file, caption, cells)
            if numbers:
                row.append(_panel(grid, name, model, layers, layer, curve))
        rows.append(row)
    titles = [grid.title(), f"{called(name)}, by the encoder's training data"]
    figure = Figure(name, titles, rows) if any(rows) else None
    heading = step.capitalize() + f": {palette.variant_name(variant)}" * bool(variant)
    return Section(heading, text, figure, made, below=bool(variant))


def _panel(grid: Grid, name: str, model: str, layers: dict, layer: str, curve: Curve) -> Panel:
    lines = [
        Line(
            list(scores),
            [score.value for score in scores.values()],
            palette.size_style(size),
            palette.size_name(size),
        )
        for size, scores in layers.items()
        if scores
    ]
    levels = [grid.layers(name, model, size, f"majority_{curve.key}") for size in layers]
    hline = next((score.value for scores in levels for score in scores.values()), None)
    return Panel(lines, palette.short(model), layer, curve.title, hline, curve.low)
