"""What the report shows of probing, and the figures of a result."""

from itertools import product
from pathlib import Path

from common.cli import UNTRAINED

NAME = "probing"

EXPLAINED = """\
A probe on frozen vectors. The untrained encoder has the same architecture and random weights; 0 %
is the pre-trained model; the others were fine-tuned. The best layer is chosen on dev; its score is
that on test. Selectivity is the score minus that of the same probe trained on control labels, which
tell nothing about the task. If the probe can learn those by heart, a selectivity near 0 says that
it may have learned the task in this way. If it cannot, selectivity is its gain over guessing.
"""
LAYER = "layer (0 = embeddings)"


def required(main: str) -> list[str]:
    """The metrics without which a result is passed over; `main`: the main score's name."""
    return ["best_layer", "last_layer", f"test_{main}", f"test_{main}_last_layer"]


def read(result, task) -> dict[str, float]:
    """The main score on test: `probe_layer_<n>`, `majority_probe_layer_<n>`; with a control also
    `selectivity_layer_<n>`, `selectivity` (of the best layer) and `selectivity_last_layer`.

    Selectivity is the task's score minus the control's (Hewitt & Liang 2019). Raises ValueError if
    layers.csv is damaged or not of this result.
    """
    from common.report import reading

    main, values = _by_layer(result, task)
    best, last = (result.metrics.get(f"{which}_layer") for which in ("best", "last"))
    there = result.metrics.get(f"test_{main}_last_layer")
    if best is None or there is None or values.get(f"probe_layer_{last}") != there:
        raise ValueError("layers.csv is not of the same result as metrics.json")
    control = result.folder.with_name(f"{result.name}-control")
    if control.is_dir():
        try:
            _, controlled = _by_layer(reading.load(control), task)
        except ValueError:  # the report names it: it is one of the results that it reads
            return values
        for layer, score in controlled.items():
            if layer.startswith("probe") and layer in values:
                values[layer.replace("probe", "selectivity")] = values[layer] - score
        for name, layer in (("selectivity", best), ("selectivity_last_layer", last)):
            if f"selectivity_layer_{layer}" in values:
                values[name] = values[f"selectivity_layer_{layer}"]
    return values


def _by_layer(result, task) -> tuple[str, dict[str, float]]:
    table = result.table("layers.csv")
    table = table[table["split"] == "test"]
    main = next((s.name for s in task.SCORES if (table["metric"] == s.name).any()), "")
    rows = table[table["metric"] == main]
    curve = rows["probe"].eq("majority").map({True: "majority_probe", False: "probe"})
    keys = curve + "_layer_" + rows["layer"].astype(int).astype(str)
    return main, dict(zip(keys, rows["value"].tolist(), strict=True))


def draw(folder: Path, task) -> None:
    """layers: test scores by layer; in the model's folder layers_all_sizes: a curve a size."""
    from common.report import drawing, palette, reading

    own = reading.working(folder)
    table = own.table("layers.csv")
    probe = table["probe"][table["probe"] != "majority"].iloc[0]
    named = "; ".join(filter(None, (probe, palette.variant_name(own.variant))))
    what = f"{task.NAME} probing ({named})"
    scores = [s for s in task.SCORES if s.by_layer and (table["metric"] == s.name).any()]
    sizes = reading.beside(own, "layers.csv")
    curves = {n: (t, palette.size_style(n), palette.size_name(n)) for n, t in sizes.items()}
    panels = [_panel(score, table, [curves[own.size]]) for score in scores]
    titles = [what, palette.encoder_name(own.size), own.title()]
    drawing.draw(folder / "layers", titles, [panels])
    panels = [_panel(score, table, list(curves.values())) for score in scores]
    titles = [f"{what}, all sizes so far", own.title()]
    drawing.draw(own.of_the_model("layers_all_sizes"), titles, [panels])


def _panel(score, own, curves: list[tuple]):
    """A test score by layer of each (layers.csv, style, label); the majority class of `own`."""
    from common.report import drawing

    def rows(table, majority: bool):
        table = table[(table["split"] == "test") & (table["metric"] == score.name)]
        return table[table["probe"].eq("majority") == majority]

    probed = [(rows(table, False), style, label) for table, style, label in curves]
    lines = [drawing.Line(rows["layer"], rows["value"], *look) for rows, *look in probed]
    level = next(iter(rows(own, True)["value"]), None)
    return drawing.Panel(lines, "", LAYER, f"{score.title} on test", level, score.lowest)


def sections(grid) -> list:
    """Best and last layer of each encoder, and all layers; a section for each variant."""
    from common.report import by_layer, palette, tables

    main, title, made = grid.main.name, grid.main.title, []
    columns = {
        f"best layer: {title}": f"test_{main}",
        "last layer": f"test_{main}_last_layer",
        "selectivity, best layer": "selectivity",
        "selectivity, last layer": "selectivity_last_layer",
        "majority class": f"test_majority_{main}",
    }
    curves = [
        by_layer.Curve("probe", f"test {title}", grid.main.lowest),
        by_layer.Curve("selectivity", f"selectivity ({title})", -1, "selectivity"),
    ]
    results = [result for result in grid.results if result.step == NAME]
    controls = {r.name for r in results if r.table("layers.csv")["target"].iloc[0] != "task"}
    for name in (name for name in grid.names(NAME) if name not in controls):
        rows = []
        for model, size in product(grid.models, (UNTRAINED, *grid.sizes)):
            layers = {r.metrics["best_layer"] for r in grid.cell(name, model, size)}
            best = ", ".join(map(str, sorted(layers))) or None
            row = {"model": model, "encoder": palette.size_name(size), "best layer (dev)": best}
            scores = {column: grid.score(name, model, size, key) for column, key in columns.items()}
            rows.append(row | scores)
        summary = tables.make(grid, name, f"{by_layer.called(name)}, test {title}", rows)
        made.append(by_layer.section(grid, name, EXPLAINED, summary, LAYER, curves))
    return made


def link_measures(grid) -> dict[str, dict]:
    """`{measure: {(model, size): value}}`: what the downstream score is correlated with."""
    main, title = grid.main.name, grid.main.title
    return {
        f"probe, best layer: {title}": grid.by_cell(NAME, f"test_{main}"),
        f"probe, last layer: {title}": grid.by_cell(NAME, f"test_{main}_last_layer"),
        "selectivity, best layer": grid.by_cell(NAME, "selectivity"),
    }
