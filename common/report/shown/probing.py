"""What the report shows of probing, and the figure of a result."""

from pathlib import Path

from common.report import drawing, page
from common.report.drawing import Line, Panel, size_look, size_name
from common.report.result import Result, main_score

NAME = "probing"

MAJORITY = "majority"  # the probe's name in layers.csv


def read(result, task) -> dict[str, float]:
    """The main score on test: `probing_layer_<n>`, `majority_probing`; with a control also
    `selectivity_layer_<n>`, `selectivity` (best layer), `selectivity_last_layer`: the task's score
    minus the control's (Hewitt & Liang 2019). Raises ValueError if layers.csv is damaged."""
    main = main_score(task, result.metrics, of_probes=True).name
    own, level = _by_layer(result, main)
    values = {f"{NAME}_layer_{n}": value for n, value in own.items()} | {f"majority_{NAME}": level}
    try:
        control, _ = _by_layer(_control(result, task).check(), main)
    except ValueError:  # not there, or not whole: the grid names it
        return values
    gains = {n: own[n] - control[n] for n in own if n in control}
    for key, layer in (("selectivity", "best_layer"), ("selectivity_last_layer", "last_layer")):
        values[key] = gains.get(result.metrics.get(layer))
    return values | {f"selectivity_layer_{n}": gain for n, gain in gains.items()}


def _control(result, task, ending: str = ""):
    folder = result.cell.folder
    return Result(folder.with_name(f"{folder.name}-{task.CONTROLS[0]}{ending}"))


def _by_layer(result, metric: str) -> tuple[dict, float | None]:
    """({layer: test score}, the majority's) of layers.csv; nothing of a score that it lacks."""
    table = result.table("layers.csv")
    table = table[(table["split"] == "test") & (table["metric"] == metric)]
    level = max(table["value"][table["probe"] == MAJORITY], default=None)
    table = table[table["probe"] != MAJORITY]
    return dict(zip(table["layer"], table["value"], strict=True)), level


def draw(folder: Path, task) -> None:
    """layers: the test scores by layer of the result, beside those of its control labels."""
    own = Result(folder)
    curves = [(own, size_look(own.size))]
    for ending in ("", ".partial"):
        if (control := _control(own, task, ending)).metrics:
            look = {"color": "black", "marker": "+", "label": "control"}
            curves.append((control, look))
    panels, large = [], []  # apart: bits would flatten scores of at most 1
    for score in (score for score in task.SCORES if score.by_layer):
        made = [(*_by_layer(result, score.name), look) for result, look in curves]
        lines = [Line(list(own), list(own.values()), look) for own, _, look in made if own]
        if lines:
            row = large if max(map(max, (line.y for line in lines))) > 1 else panels
            row.append(Panel(lines, score.title, page.LAYER, "score on test", made[0][1]))
    probe = next(probe for probe in own.table("layers.csv")["probe"] if probe != MAJORITY)
    titles = [f"{task.NAME} {own.name} ({probe}), encoder: {size_name(own.size)}", own.title]
    drawing.draw(folder, "layers", titles, list(filter(None, [panels, large])))


def sections(grid) -> list:
    """Best and last layer of each encoder, and all layers; a section for each variant."""
    main = _compared(grid)
    columns = {
        "best layer (dev)": "best_layer",
        f"best layer: {main.title}": f"test_{main.name}",
        "last layer": f"test_{main.name}_last_layer",
        "selectivity, best layer": "selectivity",
        "selectivity, last layer": "selectivity_last_layer",
        "majority class": f"test_majority_{main.name}",
    }
    curves = {NAME: f"test {main.title}", "selectivity": f"selectivity ({main.title})"}
    controls = tuple(f"-{target}" for target in grid.task.CONTROLS)
    names = (name for name in grid.names(NAME) if not name.endswith(controls))
    about = f"test {main.title}", columns, curves
    return [page.by_layer(grid, name, *about) for name in names]


def _compared(grid):
    """The score that the probes of a grid are compared by."""
    measured = {key for result in grid.results if result.step == NAME for key in result.metrics}
    return main_score(grid.task, measured, of_probes=True)


def link_measures(grid) -> dict[str, dict]:
    main = _compared(grid)
    return {
        f"probe, best layer: {main.title}": grid.by_cell(NAME, f"test_{main.name}"),
        f"probe, last layer: {main.title}": grid.by_cell(NAME, f"test_{main.name}_last_layer"),
        "selectivity, best layer": grid.by_cell(NAME, "selectivity"),
    }
