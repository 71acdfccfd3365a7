"""Step 2: probe what each layer of a frozen encoder tells about the task."""

import argparse
import shutil
from itertools import product
from pathlib import Path

from common import flags, identity, models, probe_scores, probes, results
from common.cli import ROOT, UNTRAINED, Parser
from common.probe_scores import TASK

NAME, NEEDS = "probing", ("fine-tuning",)


def parse_args(
    task, doc: str, argv, *, probes: tuple, poolings: tuple, demo_epochs: int, **defaults
) -> argparse.Namespace:
    """The flags of a task's probing.py; `doc` is its help.

    `probes` and `poolings`: those the task can use, the default first; `demo_epochs`: of a probe
    trained by gradients; `defaults`: those of `flags.add_common_arguments` that differ.
    """
    parser = Parser(doc)
    flags.add_common_arguments(parser, **defaults)
    flags.add_probing_arguments(parser, probes, poolings, demo_epochs)
    task.add_arguments(parser, "probing")
    return flags.parse(parser, argv, ROOT / task.NAME)


def run(task, args) -> None:
    """Probe the chosen layers of one encoder, and write the run's folder.

    A finished run to which layers or controls are to be added keeps what it has. Raises UserError.
    """
    from common import figures, panels

    panels.use_style(args.style)
    size = UNTRAINED if args.untrained else args.training_size
    constants = results.prefixed("probe", probes.constants(args.probe))
    run = results.Run(task, args, "probing", size, constants)
    checkpoint = results.checkpoints([run])[run]
    data = task.load(args)
    run.identify(identity.fingerprint(data.splits), models.weights_identity(args), checkpoint)
    metrics = run.finished()
    source = checkpoint or models.source(args)
    scores = probe_scores.Scores(run.folder) if metrics else None
    if scores:  # what there is stays; is there all that is asked for?
        n_layers = models.load_config(source).num_hidden_layers
        layers = sorted({*scores.by_layer, *probe_scores.choose(args.layers, n_layers)})
        controlled = len(scores.targets()) > 1
        missing = scores.missing(layers, scores.targets())
        # A kill while something was added can leave layers.csv newer than metrics.json.
        agree = metrics["layers"] == len(scores.by_layer) and controlled == any(
            "selectivity" in key for key in metrics
        )
        if agree and not missing and (controlled or not args.controls):
            run.tidy()
            if args.style:
                figures.probing_layers(run.folder, task.scores(data))
                figures.probing_sizes(run.folder, task.scores(data))
            return summarize(run, metrics, task.scores(data), results.EARLIER)

    from common import features, subsample
    from common.device import choose_device, set_seed
    from common.models import families
    from common.task import evaluate

    device = choose_device(args.device, args.precision)
    examples = subsample.limited(data.splits, task.stratum, args.max_train_examples, args.seed)
    set_seed(args.seed)
    encoder, tokenizer = models.load_encoder(source, random_init=args.untrained)
    limit = min(args.max_length, families.positions(encoder.config))
    layers = probe_scores.choose(args.layers, encoder.config.num_hidden_layers)
    targets = {TASK: examples}
    if args.controls or (scores and controlled):
        targets |= task.controls(data, examples, args.seed)
    inputs = task.probe_inputs(data, targets, tokenizer, limit, args)
    targets = inputs.targets or targets
    examples = targets[TASK]

    made_of = {"sha256": identity.fingerprint(examples), "counts": inputs.counts,
               "labels": data.labels, "precision": device.precision,
               "encoder": features.encoder_hash(encoder)}  # fmt: skip
    how = {"max_length": limit, "machine": device.describe()}
    extend = metrics is not None
    if extend:
        run.check_addition(made_of | how)
    with run.open(made_of, extend=extend, **how):
        scores = probe_scores.Scores(run.folder, list(targets))
        layers = sorted({*scores.by_layer, *layers})
        missing = scores.missing(layers, list(targets))

        def rows_of(target, split, found):
            some = targets[target][split]
            predicted = task.probe_predictions(data, some, inputs, target, split, found)
            return task.rows(data, {split: some}, {split: predicted})[0][split]

        def keep(layer, found):
            scores.add(layer, {
                target: {
                    split: evaluate(task, rows_of(target, split, predicted))
                    for split, predicted in splits.items()
                }
                for target, splits in found.items()
            })  # fmt: skip

        def probe(layers: list[int]) -> None:
            found = features.extract(
                encoder, inputs.encoded, layers, device, args.batch_size, folder, where
            )
            for some, of_layers in missing.items():
                chosen = {n: found[n] for n in of_layers if n in found}
                if not chosen:
                    continue
                part = inputs._replace(
                    rows={target: inputs.rows[target] for target in some},
                    labels={target: inputs.labels[target] for target in some},
                )
                probes.predict_layers(
                    args.probe, chosen, part,
                    epochs=args.probe_epochs, standardize=getattr(args, "standardize", False),
                    seed=args.seed, device=device, on_done=keep,
                )  # fmt: skip
            if not args.keep_features:
                features.forget(folder, layers)

        folder, wanted = run.folder / "features", sorted(set().union(*missing.values()))
        if wanted:
            where, most = features.place(
                encoder, inputs.encoded, wanted, device, folder, args.keep_features
            )
            for start in range(0, len(wanted), most):
                probe(wanted[start : start + most])
        totals = inputs.counts | {"parameters": encoder.num_parameters()}
        metrics = finish(run, scores, data, examples, totals, device)
    summarize(run, metrics, task.scores(data), "added to" if extend else "done")


def finish(run: results.Run, scores, data, examples: dict, totals: dict, device) -> dict:
    """Write layers.csv, the figures and metrics.json of a run whose layers are all probed."""
    from common import figures
    from common.device import peak_memory
    from common.task import evaluate

    task, args = run.task, run.args
    scored = {split: examples[split] for split in ("dev", "test") if split in examples}
    guesses = {split: task.baseline(examples["train"], some) for split, some in scored.items()}
    rows, _ = task.rows(data, scored, guesses)
    majority = {split: evaluate(task, rows[split]) for split in scored}
    scores.write(run, args.probe, majority)
    names = [score.name for score in task.scores(data)]
    metrics = scores.summary(names) | totals
    for split, values in majority.items():
        there = [name for name in names if name in values]
        metrics |= {f"{split}_majority_{name}": values[name] for name in there}
    metrics["train_examples"] = len(examples["train"])
    if not args.keep_features:  # of an earlier call
        shutil.rmtree(run.folder / "features", ignore_errors=True)
    measured = run.config["arguments"]
    if args.layers != "all":
        measured["layers"] = ",".join(map(str, sorted(scores.by_layer)))
    measured["controls"] = len(scores.targets()) > 1
    figures.probing_layers(run.folder, task.scores(data))
    metrics = run.finish(metrics | peak_memory(device))
    figures.probing_sizes(run.folder, task.scores(data))
    return metrics


def summarize(run: results.Run, metrics: dict, scores, state: str) -> None:
    """Print which layer tells most, where the results lie, what comes next."""
    task, main = run.task, scores[0]
    probe = f"{run.args.probe} probe trained on {metrics['train_examples']} examples"
    print(f"\n{task.NAME} probing, {run.title()}, {probe}: {state}")
    best, last = metrics["best_layer"], metrics["last_layer"]
    by_dev = f"dev_{main.name}" in metrics
    which = "best layer on dev" if by_dev else "last layer (no dev split to choose one by)"
    print(f"{which}: {best}; 0 is the embeddings, {last} the last one probed")
    print(results.score_table(metrics, scores))
    if (selectivity := metrics.get(f"test_selectivity_{main.name}")) is not None:
        print(f"selectivity on test ({main.title}, less that of control labels): "
              f"{selectivity:.4f}")  # fmt: skip
    print(f"results: {run.folder}")
    compared = run.args.training_size and not run.args.untrained
    print(f"next:    {run.command('attention') if compared else run.report_command()}")


# What the report shows.

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
    """The main score on test by layer: `probe_layer_<n>`, `majority_probe_layer_<n>`; with a
    control also `selectivity_layer_<n>`, `selectivity` (best layer), `selectivity_last_layer`.

    Selectivity is the task's score minus the control's (Hewitt & Liang 2019). Raises ValueError if
    layers.csv is damaged or not of this result.
    """
    main, values = _by_layer(result, task)
    best, last = (result.metrics.get(f"{which}_layer") for which in ("best", "last"))
    there = result.metrics.get(f"test_{main}_last_layer")
    if best is None or there is None or values.get(f"probe_layer_{last}") != there:
        raise ValueError("layers.csv is not of the same result as metrics.json")
    control = _finished(result.folder.with_name(f"{result.name}-control"))
    _, controlled = _by_layer(control, task) if control else ("", {})
    for layer in (layer for layer in controlled if layer.startswith("probe") and layer in values):
        values[layer.replace("probe", "selectivity")] = values[layer] - controlled[layer]
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
    """layers, and in the model's folder layers_all_sizes: test scores by layer.

    layers shows the task and its control labels, whichever of the two `folder` holds, the untrained
    encoder and the majority class; layers_all_sizes has a curve for each size.
    """
    from common.report import drawing, palette, reading

    own = reading.working(folder)
    names = own.name.removesuffix("-control"), f"{own.name.removesuffix('-control')}-control"
    there = [own if name == own.name else _finished(folder.with_name(name)) for name in names]
    home = there[0] or own
    table, style, name = (
        home.table("layers.csv"),
        palette.size_style(own.size),
        palette.size_name(own.size),
    )
    control = style | {"marker": "+", "linestyle": "-."}
    looks = (style, name), (control, f"{name}, control labels")
    curves = [(r.table("layers.csv"), *look) for r, look in zip(there, looks, strict=True) if r]
    sizes = reading.beside(home, "layers.csv")
    by_size = {n: (t, palette.size_style(n), palette.size_name(n)) for n, t in sizes.items()}
    if own.size != UNTRAINED and UNTRAINED in by_size:
        curves.append(by_size[UNTRAINED])
    probe = table["probe"][table["probe"] != "majority"].iloc[0]
    variant = palette.variant_name(home.variant)
    what = f"{task.NAME} probing ({'; '.join(filter(None, (probe, variant)))})"
    scores = [s for s in task.SCORES if s.by_layer and (table["metric"] == s.name).any()]
    titles = [what, palette.encoder_name(own.size), own.title()]
    drawing.draw(folder / "layers", titles, [[_panel(s, table, curves) for s in scores]])
    if home is own:
        path = own.of_the_model("layers_all_sizes")
        titles = [f"{what}, all sizes so far", own.title()]
        drawing.draw(path, titles, [[_panel(s, table, by_size.values()) for s in scores]])


def _finished(folder: Path):
    """The result in a folder; None if there is none that is whole."""
    from common.report import reading

    try:
        result = reading.load(folder)
        result.table("layers.csv")
    except ValueError:
        return None
    return result


def _panel(score, own, curves):
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
