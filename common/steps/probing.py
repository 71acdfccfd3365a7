"""Step 2: probe what each layer of a frozen encoder tells about the task."""

import argparse
import re
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev

from common import checkpoints, flags, models, probes, results, subsample, summary
from common.cli import UNTRAINED, Parser, UserError, number
from common.files import read_json, read_jsonl, write_csv, write_jsonl
from common.models import families
from common.report.result import Result
from common.report.shown.probing import NAME, draw, link_measures, read, sections
from common.task import evaluate, majority_scores

__all__ = ["link_measures", "read", "sections"]
FILES = "probing/: layers.csv, layers.png"
ORDER, NEEDS, SIZES = 2, ("fine-tuning",), "training_size"
TASK, MAJORITY = "task", "majority"  # the first is what a probe learns, a target, as controls are


def parse_args(task, doc: str, argv, *, probes: tuple, poolings: tuple) -> flags.Call:
    """The call of a task's probing.py; `doc` is its help.

    `probes`, `poolings`: those of the task, the default (the study's) first.
    """
    parser = Parser(doc, FILES)
    flags.add_common_arguments(parser, **task.DEFAULTS)
    group = parser.add_argument_group("probing")
    text = "which encoder: fine-tuned on this percentage (10, 30, 50, 100), or 0, the pre-trained"
    flags.add_training_size(group, 0, text + " (default: 0)")
    add = group.add_argument
    text = f"(default: {probes[0]})"
    add("--probe", choices=probes, default=probes[0], help=text)
    text = f"which tokens' vectors stand for a unit (default: {poolings[0]})"
    add("--pooling", choices=poolings, default=poolings[0], help=text)
    if "svc" in probes:
        add("--standardize", action="store_true", help="scale features to variance 1")
    text = "all, last, or e.g. 0,6,12 (default: all)"
    add("--layers", type=layer_list, default="all", help=text)
    text = "probe control labels too: a result beside this one, for the selectivity"
    add("--controls", action="store_true", help=text)
    text = "an untrained encoder: the same architecture with random weights"
    add("--untrained", action="store_true", help=text)
    text = "probe on a stratified part of the training split (default: all of it)"
    add("--max_train_examples", type=number(int, 1), metavar="N", help=text)
    add("--keep_features", action="store_true", help="keep the layers' features on the disk")
    parser.fallbacks["probe_epochs"] = (3, 5)  # no flag: the study's; the demo has few sentences
    flags.add_task_arguments(task, NAME, parser)
    call = flags.parse(task, NAME, parser, argv)
    if call.args.untrained and call.args.training_size:
        parser.error("--untrained: no size goes with it; leave out --training_size")
    return call


def layer_list(text: str) -> str:
    """An argparse type: "all", "last", or numbers with commas."""
    if text in ("all", "last") or re.fullmatch(r"\d+(,\d+)*", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not all, last, or numbers such as 0,6,12")


def chosen_layers(text: str, n_layers: int) -> list[int]:
    """The layers that `--layers` names, of 0 (embeddings) to `n_layers`. Raises UserError."""
    if text == "all":
        return list(range(n_layers + 1))
    layers = [n_layers] if text == "last" else sorted({int(part) for part in text.split(",")})
    if layers[-1] > n_layers:
        raise UserError(f"--layers {text}: the model has layers 0 (embeddings) to {n_layers}.")
    return layers


def calls(sizes: tuple, controls: bool) -> list[tuple]:
    own = ["--controls"] * controls
    untrained = [((UNTRAINED,), ["--untrained", *own])] if controls else []
    return untrained + [((size,), own) for size in sizes if size != UNTRAINED]


def cells(begun) -> list[results.Cell]:
    args = begun.call.args
    cell = begun.cell(UNTRAINED if args.untrained else args.training_size)
    controls = begun.call.task.CONTROLS if args.controls else ()
    variants = ["-".join(filter(None, (cell.variant, name))) for name in controls]
    return [cell, *(cell._replace(variant=variant) for variant in variants)]


def run(call) -> None:
    """Probe the chosen layers of one encoder: the task's labels and, with --controls, others.
    Results that are finished stay as they are. Raises UserError."""
    task, args, begun = call.task, call.args, results.begin(call)
    cell, *controls = cells(begun)
    where, checkpoint = checkpoints.find(begun, [cell])[cell] or (begun.source.where(), None)
    new, metrics = {}, {}
    for name, own in zip((TASK, *task.CONTROLS), (cell, *controls), strict=False):
        _, constants = probes.KINDS[args.probe]
        constants = summary.prefixed("probe", constants)
        config = begun.config(own, constants | {"target": name}, checkpoint)
        metrics[name] = results.finished(own, config, args.overwrite)
        if metrics[name] is None:
            new[name] = own, config
    if new:
        metrics |= make(call, new, begun.data, str(where))
    state = "done" if new else results.EARLIER
    summarize(call, cell, metrics, task.probe_scores(begun.data), state)


def make(call, new: dict, data, where: str) -> dict[str, dict]:
    """Probe `new`, {target: (cell, config)}, on features computed once; returns their metrics."""
    from common.device import choose_device, peak_memory, set_seed

    started, task, args = time.perf_counter(), call.task, call.args
    device = choose_device(args.device, args.precision)
    examples = subsample.limited(data.splits, task.stratum, args.max_train_examples, args.seed)
    examples = {split: task.probed(some) for split, some in examples.items()}
    set_seed(args.seed)
    words = task.HEAD != "causal"
    encoder, tokenizer = models.load_encoder(where, random_init=args.untrained, words=words)
    layers = chosen_layers(args.layers, encoder.config.num_hidden_layers)
    draws = {TASK: {TASK: examples}}  # {target: {name of a draw: its splits}}
    if {*new} - {TASK}:
        for name, drawn in task.controls(data, examples, args.seed).items():
            draws[name] = {f"{name}-{n}": splits for n, splits in enumerate(drawn, 1)}
    limit = min(args.max_length, families.positions(encoder.config))
    splits = {name: own for drawn in draws.values() for name, own in drawn.items()}
    inputs = task.probe_inputs(data, splits, tokenizer, limit, args.pooling)
    with ExitStack() as stack:
        scores = []
        for name, (cell, config) in new.items():
            stack.enter_context(results.making(cell, config, device))
            scores.append(Scores(name, cell, task, data, inputs, draws[name]))
        probe(args, encoder, inputs, layers, scores, device)
        totals = inputs.counts | {"parameters": encoder.num_parameters()} | peak_memory(device)
        metrics = {own.name: own.write(args.probe, totals, started) for own in scores}
        for cell, _ in new.values():  # each shows the others beside it
            draw(cell.partial, task)
    return metrics


def probe(args, encoder, inputs, layers: list[int], scores: list, device) -> None:
    """Train the probes of all layers whose scores are missing, and keep the scores."""
    from common import features

    missing = [n for n in layers if any(n not in own.by_layer for own in scores)]
    if not missing:
        return
    work = scores[0].folder
    folder = (work.parent if args.keep_features else work) / "features"
    about = inputs.encoded, missing, device, args.batch_size, folder
    vectors = features.extract(encoder, *about)
    standardize = getattr(args, "standardize", False)
    options = probes.Options(inputs.n_labels, args.probe_epochs, standardize, args.seed, device)
    for layer, predictions in probes.predict_layers(args.probe, vectors, inputs.sets, options):
        for own in scores:
            own.add(layer, predictions)


class Scores:
    """The scores of a target by layer: `{split: {metric: value}}`, the mean over its draws.

    A layer has a file in the work folder: if the call is killed, it is not probed again."""

    def __init__(self, name: str, cell, task, data, inputs, draws: dict[str, dict]):
        """`draws`: {name: splits}; a task has one, a control as many as were drawn."""
        self.name, self.cell, self.task, self.data = name, cell, task, data
        self.inputs, self.draws = inputs, draws
        self.folder = cell.partial / results.WORK
        files = self.folder.glob("layer-*.jsonl")
        self.by_layer = {int(file.stem.split("-")[1]): read_jsonl(file)[0] for file in files}

    def file(self, layer: int) -> Path:
        """The scores, then the rows of the task's test split."""
        return self.folder / f"layer-{layer}.jsonl"

    def add(self, layer: int, predictions: dict[str, dict[str, list]]) -> None:
        """Score a layer's probes, `{draw: {split: [the predictions of each set]}}`."""
        by_draw, kept = defaultdict(list), []
        for name, examples in self.draws.items():
            for split, predicted in predictions[name].items():
                about = self.data, examples[split], self.inputs, name, split, predicted
                made = {split: self.task.probe_predictions(*about)}
                rows = self.task.rows(self.data, {split: examples[split]}, made)[0][split]
                by_draw[split].append(evaluate(self.task, rows))
                if split == "test" and name == TASK:
                    kept = [{"id": row["id"], "layer": layer} | row for row in rows]
        self.by_layer[layer] = {split: averaged(scores) for split, scores in by_draw.items()}
        write_jsonl(self.file(layer), [self.by_layer[layer], *kept])

    def write(self, probe: str, totals: dict, started: float) -> dict:
        """Write layers.csv, one measurement a row, the task's predictions, and the metrics, which
        are returned: `<split>_<score>` at the best layer, `<split>_<score>_last_layer`, and the
        majority baseline's; `totals`."""
        cell, examples = self.cell, next(iter(self.draws.values()))
        scored = [split for split in ("dev", "test") if split in examples]
        guessed = [
            majority_scores(self.task, self.data, own["train"], {s: own[s] for s in scored})
            for own in self.draws.values()
        ]
        majority = {split: averaged([own[split] for own in guessed]) for split in scored}
        layers, rows = sorted(self.by_layer), []
        for layer in layers:
            for kind, splits in ((probe, self.by_layer[layer]), (MAJORITY, majority)):
                where = {"layer": layer, "probe": kind, "target": self.name}
                rows += [
                    cell.about | where | {"split": split, "metric": metric, "value": value}
                    for split, values in splits.items()
                    for metric, value in values.items()
                ]
        write_csv(cell.partial / "layers.csv", rows)
        if self.name == TASK:
            kept = (read_jsonl(self.file(layer))[1:] for layer in layers)
            write_jsonl(cell.partial / "predictions.jsonl", chain.from_iterable(kept))
        names = [score.name for score in self.task.probe_scores(self.data)]
        best, last = best_layer(self.by_layer, names[0]), layers[-1]
        metrics = {"best_layer": best, "last_layer": last, "layers": len(layers)}
        metrics["train_examples"] = len(examples["train"])
        for split in scored:
            for layer, suffix in ((best, ""), (last, "_last_layer")):
                values = self.by_layer[layer][split]
                metrics |= {f"{split}_{m}{suffix}": values[m] for m in names if m in values}
            metrics |= summary.prefixed(f"{split}_majority", majority[split])
        return results.finish(cell, metrics | totals, started)


def selectivity(cell, task) -> float:
    """By layers.csv and the control's. Raises UserError, with the remedy, if one is damaged."""
    with suppress(ValueError, KeyError):
        if (gain := read(Result(cell.folder), task)["selectivity"]) is not None:
            return gain
    again = results.again(cell.folder, read_json(cell.folder / "config.json"))
    raise UserError(f"{cell.folder}: its layers.csv, or the control's, is damaged. {again}")


def averaged(scores: list[dict]) -> dict[str, float]:
    """The mean of each score over draws; of several draws also the deviation, `<score>_std`."""
    if len(scores) == 1:
        return scores[0]
    values = {name: [own[name] for own in scores if name in own] for name in scores[0]}
    means = {name: fmean(own) for name, own in values.items()}
    return means | {f"{name}_std": stdev(own) for name, own in values.items() if len(own) > 1}


def best_layer(by_layer: dict[int, dict], metric: str) -> int:
    """The layer with the best score on dev, the first of equals; without a dev split the last."""
    last = max(by_layer)
    if "dev" not in by_layer[last]:
        return last
    return max(by_layer, key=lambda n: (by_layer[n]["dev"][metric], -n))


def summarize(call, cell, metrics: dict[str, dict], scores, state: str) -> None:
    main, own = scores[0], metrics[TASK]
    probe = f"{call.args.probe} probe trained on {own['train_examples']} examples"
    print(f"\n{cell.task} probing, {cell.title()}, {probe}: {state}")
    best, last = own["best_layer"], own["last_layer"]
    by_dev = f"dev_{main.name}" in own
    which = "best layer on dev" if by_dev else "last layer (no dev split to choose one by)"
    print(f"{which}: {best}; 0 is the embeddings, {last} the last one probed")
    print(summary.score_table(own, scores))
    if len(metrics) > 1:
        gain, control = selectivity(cell, call.task), call.task.CONTROLS[0]
        print(f"selectivity on test ({main.title} minus that of {control!r}): {gain:.4f}")
    print(f"results: {cell.folder}\nnext:    {summary.next_command(call, cell)}")
