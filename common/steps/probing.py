"""Step 2: probe what each layer of a frozen encoder tells about the task."""

import argparse
import shutil

from common import flags, identity, models, probe_scores, probes, results
from common.cli import ROOT, UNTRAINED, Parser
from common.probe_scores import TASK


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
