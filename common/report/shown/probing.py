"""What the report shows of probing, and the figures of a result."""

from itertools import product
from pathlib import Path

from common.cli import UNTRAINED
from common.report import drawing, page
from common.report.drawing import Line, Panel, size_look, size_name

NAME = "probing"

EXPLAINED = """\
A probe on frozen vectors. The untrained encoder has the same architecture and random weights; 0 %
is the pre-trained model; the others were fine-tuned. The best layer is chosen on dev; its score is
that on test. Selectivity is the score minus that of the same probe trained on control labels, which
tell nothing about the task. If the probe can learn those by heart, a selectivity near 0 says that
it may have learned the task in this way. If it cannot, selectivity is its gain over guessing.
"""
LAYER = "layer (0 = embeddings)"
# Selectivity at which layer, by its key in metrics.json.
GAINS = {"selectivity": "best_layer", "selectivity_last_layer": "last_layer"}


def read(result, task) -> dict[str, float]:
    """The main score on test: `probing_layer_<n>`, `majority_probing`; with a control also
    `selectivity_layer_<n>`, `selectivity` (best layer), `selectivity_last_layer`: the task's score
    minus the control's (Hewitt & Liang 2019). Raises ValueError if layers.csv is damaged."""
    from common.report.grid import Result

    values, beside = _by_layer(result, task), f"{result.file}-{task.CONTROLS[0]}"
    try:
        control = _by_layer(Result(result.folder.with_name(beside)).check(), task)
    except ValueError:  # not there, or not whole: the grid names it
        return values
    layers = [key for key in values if key.startswith(NAME) and key in control]
    gains = {key.replace(NAME, "selectivity"): values[key] - control[key] for key in layers}
    ends = {
        key: gains.get(f"selectivity_layer_{result.metrics.get(n)}") for key, n in GAINS.items()
    }
    return values | gains | {key: gain for key, gain in ends.items() if gain is not None}


def _by_layer(result, task) -> dict[str, float]:
    table, main = result.table("layers.csv"), _main(task, result.metrics).name
    table = table[(table["split"] == "test") & (table["metric"] == main)]
    keys = f"{NAME}_layer_" + table["layer"].astype(str)
    keys = keys.where(table["probe"] != "majority", f"majority_{NAME}")
    return dict(zip(keys, table["value"], strict=True))


def _main(task, measured):
    """The score that probes are compared by: the one that only they have, or the task's."""
    scores = sorted(task.SCORES, key=lambda score: not score.of_probes)
    return next((s for s in scores if f"test_{s.name}" in measured), task.SCORES[0])


def _compared(grid) -> tuple[str, str]:
    """Name and title of the score that the probes of a grid are compared by."""
    measured = {key for result in grid.results if result.step == NAME for key in result.metrics}
    return (main := _main(grid.task, measured)).name, main.title


def draw(folder: Path, task) -> None:
    """layers: test scores by layer of the result, its control labels and the untrained encoder;
    layers_all_sizes in the model's folder: a curve for each size."""
    from common.report.grid import Result

    own = Result(folder)
    ending, tables = own.of_all_sizes("layers.csv")
    curves = {size: (table, size_look(size)) for size, table in tables.items()}
    shown = {size: curves[size] for size in (own.size, UNTRAINED) if size in curves}
    beside = f"{own.file}-{task.CONTROLS[0]}"
    for name in (beside, f"{beside}.partial"):
        if (control := Result(folder.with_name(name))).metrics:
            look = {"color": "black", "marker": "+", "label": f"{task.CONTROLS[0]} labels"}
            shown["control"] = (control.table("layers.csv"), look)
    probe = next(probe for probe in tables[own.size]["probe"] if probe != "majority")
    what = f"{task.NAME} {own.name} ({probe})"
    titles = [f"{what}, encoder: {size_name(own.size)}", own.title]
    drawing.draw(folder, "layers", titles, [_panels(task, list(shown.values()))])
    titles, panels = [f"{what}, all sizes", own.title], _panels(task, list(curves.values()))
    drawing.draw(folder.parents[2], f"layers_all_sizes{ending}", titles, [panels])


def _panels(task, curves: list[tuple]) -> list[Panel]:
    """The test scores by layer of each (layers.csv, look); the majority of the first."""
    panels = []
    for score in (score for score in task.SCORES if score.by_layer):
        where = f"split == 'test' and metric == '{score.name}' and probe"
        probed = [(table.query(f"{where} != 'majority'"), look) for table, look in curves]
        lines = [Line(rows["layer"], rows["value"], look) for rows, look in probed if len(rows)]
        level = max(curves[0][0].query(f"{where} == 'majority'")["value"], default=None)
        panels += [Panel(lines, score.title, LAYER, "score on test", level)] if lines else []
    return panels


def sections(grid) -> list:
    """Best and last layer of each encoder, and all layers; a section for each variant."""
    (main, title), made = _compared(grid), []
    columns = {f"best layer: {title}": f"test_{main}", "last layer": f"test_{main}_last_layer"}
    columns |= {f"selectivity, {n.replace('_', ' ')}": key for key, n in GAINS.items()}
    columns |= {"majority class": f"test_majority_{main}"}
    curves = {NAME: f"test {title}", "selectivity": f"selectivity ({title})"}
    controls = tuple(f"-{target}" for target in grid.task.CONTROLS)
    names = {result.name for result in grid.results if result.step == NAME}
    for name in sorted(name for name in names if not name.endswith(controls)):
        rows = []
        for model, size in product(grid.models, (UNTRAINED, *grid.sizes)):
            best = {r.metrics["best_layer"] for r in grid.cell(name, model, size, "best_layer")}
            best = ", ".join(map(str, sorted(best))) or None
            row = {"model": model, "encoder": size_name(size), "best layer (dev)": best}
            scores = {column: grid.score(name, model, size, key) for column, key in columns.items()}
            rows.append(row | scores)
        tables = page.tables(grid, name, f"{name}, test {title}", rows)
        made.append(page.by_layer(grid, name, EXPLAINED, tables, LAYER, curves))
    return made


def link_measures(grid) -> dict[str, dict]:
    """`{measure: {(model, size): value}}`: what the downstream score is correlated with."""
    main, title = _compared(grid)
    return {
        f"probe, best layer: {title}": grid.by_cell(NAME, f"test_{main}"),
        f"probe, last layer: {title}": grid.by_cell(NAME, f"test_{main}_last_layer"),
        "selectivity, best layer": grid.by_cell(NAME, "selectivity"),
    }
