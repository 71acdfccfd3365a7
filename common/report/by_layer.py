"""A section about what is measured at each layer: for each model, a curve and a column a size."""

from typing import NamedTuple

from common.cli import UNTRAINED
from common.report import page
from common.report.drawing import Figure, Panel, size_line, size_name


class Curve(NamedTuple):
    """What is shown by layer: the metrics `<key>_layer_<n>`."""

    key: str
    title: str
    file: str  # in place of the step's name in the names of its tables
    low: float = 0.0  # of its range


def section(grid, step: str, name: str, text: str, tables: list, layer: str, curves: list):
    """The section of a step or its variant (`name`): `tables`, then those of the layers.

    `layer`: the label of the x axis; `curves`: a row of panels each. A horizontal line shows
    `majority_<key>_layer_<n>`, where there is such a metric.
    """
    sizes = {result.size for result in grid.results if result.name == name}
    sizes, rows = [size for size in (UNTRAINED, *grid.sizes) if size in sizes], []
    for curve in curves:
        panels = []
        for model in grid.models:
            scores = {size: grid.layers(name, model, size, curve.key) for size in sizes}
            cells = [
                {"layer": n} | {size_name(size): scores[size].get(n) for size in sizes}
                for n in sorted(set().union(*scores.values()))
            ]
            file, caption = name.replace(step, curve.file, 1), f"{name} of {model}, {curve.title}"
            tables += page.tables(grid, f"{file}_{model}", f"{caption} by layer", cells)
            values = {n: [score.value for score in points.values()] for n, points in scores.items()}
            lines = [size_line(n, list(scores[n]), values[n]) for n in sizes if scores[n]]
            levels = [grid.layers(name, model, size, f"majority_{curve.key}") for size in sizes]
            level = next((score.value for points in levels for score in points.values()), None)
            if lines:
                panels.append(Panel(lines, model, layer, curve.title, level, curve.low))
        rows += [panels] if panels else []
    figure = Figure(name, [grid.title, f"{name}, by the encoder's training data"], rows)
    variant = name.removeprefix(step).removeprefix("-").replace("-", ", ").replace("_", " ")
    heading = f"{step.capitalize()}: {variant}".removesuffix(": ")
    return page.Section(heading, text, figure if rows else None, tables)
