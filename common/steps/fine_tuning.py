"""Step 1: fine-tune a model on a share of the training data, and score it."""

import time
from pathlib import Path
from typing import Any, NamedTuple

from common import card, files, flags, results, subsample, summary
from common.cli import RANK, UNTRAINED, Parser, UserError, number
from common.models import adapters, families
from common.report.shown.fine_tuning import ADVICE, NAME, above_majority, draw, sections
from common.task import evaluate, in_train, majority_scores

__all__ = ["sections"]
ORDER, NEEDS, SIZES = 1, (), "training_size"
FILES = "fine-tuning/: checkpoint/, history.csv, steps.csv, learning_curve.png, predictions.jsonl"
# What identifies a result besides the flags.
CONSTANTS = {
    "optimizer": "AdamW",
    "schedule": "linear warm-up and decay",
    "selection": "first epoch with the best dev score",
}
# The summary prints the counts whose names contain one of these.
CUT = ("truncated_", "too_long", "dev_cut_words", "test_cut_words")
# The peak learning rate of adapters, which start at zero (Hu et al. 2022), and of a miniature's.
LORA_RATES, LORA_RANK = (2e-4, 4e-3), 16
# To write the answers to dev after each epoch would take longer than to train.
OF_CAUSAL = {"selection": "first epoch with the lowest dev loss, a mean over the task's groups"}


def parse_args(task, doc: str, argv, *, demo: dict) -> flags.Call:
    """The call of a task's fine-tuning.py; `doc` is its help.

    `demo`: the defaults that differ for miniature models.
    """
    parser = Parser(doc, FILES)
    flags.add_common_arguments(parser, **task.DEFAULTS)
    group = parser.add_argument_group("fine-tuning")
    text = (
        "percentage of the training data, one of 0, 10, 30, 50, 100 (default: 100); 0 scores the "
    )
    flags.add_training_size(group, 100, text + "untrained head")

    def add(flag, kind, default, text):
        shown = f"{default}; {demo[flag]} with --demo" if flag in demo else f"{default}"
        group.add_argument(f"--{flag}", type=kind, help=f"{text} (default: {shown})")
        parser.fallbacks[flag] = (default, demo.get(flag, default))

    positive = number(float, 0, open_low=True)
    add("learning_rate", positive, 2e-5, "peak learning rate of AdamW")
    add("num_train_epochs", number(int, 1), 3, "passes over the subset; the best on dev is kept")
    add("warmup_ratio", number(float, 0, 1), 0.1, "share of steps with a rising learning rate")
    add("weight_decay", number(float, 0), 0.01, "decay of weights; biases and norms have none")
    add("max_grad_norm", positive, 1.0, "gradients are clipped to this norm")
    add("save_minutes", number(float, 0), 10.0, "minutes between two saved states, to resume")
    text = "also write event files (pip install tensorboard)"
    group.add_argument("--tensorboard", action="store_true", help=text)
    text = "layer-wise decay: the learning rate is multiplied by this for each layer below the "
    text += "head (default: as published for the model: ELECTRA 0.8, large 0.9; else 1)"
    group.add_argument("--layer_decay", type=number(float, 0, 1, open_low=True), help=text)
    text = "of the adapters (default: {}); --learning_rate is then {} by default, {} with --demo"
    text = text.format(LORA_RANK, *LORA_RATES)
    group.add_argument("--lora_rank", type=number(int, 1), help=f"of --lora: the rank {text}")
    usual = parser.fallbacks["learning_rate"]
    parser.fallbacks["learning_rate"] = lambda args: LORA_RATES if args.lora else usual
    parser.fallbacks["lora_rank"] = lambda args: ((None, LORA_RANK)[args.lora],) * 2
    flags.add_task_arguments(task, NAME, parser)
    call = flags.parse(task, NAME, parser, argv)
    if call.args.lora_rank and not call.args.lora:
        parser.error("--lora_rank: the rank of adapters; add --lora, or leave it out")
    return call


def calls(sizes: tuple, controls: bool) -> list[tuple]:
    return [((size,), []) for size in sizes if size != UNTRAINED]


def run(call) -> None:
    """Fine-tune on `training_size` % of the data, or show the finished result."""
    task, begun = call.task, results.begin(call)
    cell, scores = begun.cell(call.args.training_size), task.scores(begun.data)
    by_loss = task.HEAD == "causal"
    constants = CONSTANTS | (OF_CAUSAL if by_loss else {})
    constants["selection_metric"] = "loss" if by_loss else scores[0].name
    config = begun.config(cell, constants)
    if same := {score.name: score.same for score in scores if score.same}:
        config["same_test"] = same
    metrics, state = results.finished(cell, config, call.args.overwrite), results.EARLIER
    if metrics is None:
        metrics, state = make(call, cell, config, begun), "done"
    if not RANK:
        task.export(cell.folder, begun.data, **call.options)
        summarize(call, cell, metrics, scores, state)


class Prepared(NamedTuple):
    """A model and the data that it is trained and scored on, as it reads them."""

    call: flags.Call
    data: Any
    device: Any
    model: Any
    tokenizer: Any
    new_head: bool
    examples: dict[str, list]  # of "train" the subset
    encoded: dict[str, list[dict]]
    counts: dict[str, dict[str, int]]
    subset: dict

    def predict(self, split: str) -> list:
        about = self.data, self.examples[split], self.encoded[split]
        where = self.call.args.batch_size, self.device, split
        return self.call.task.predict(self.model, self.tokenizer, *about, *where)

    def dev_scores(self) -> dict:
        """The scores by which epochs are compared, of a causal model the loss; {} without dev."""
        from common import forward

        task, some = self.call.task, {"dev": self.examples.get("dev")}
        if some["dev"] is None:
            return {}
        if task.HEAD == "causal":
            inputs = self.model, self.encoded["dev"], self.call.args.batch_size, self.device
            groups = list(map(task.loss_group, some["dev"]))
            return {"loss": forward.mean_loss(*inputs, task.loss, groups)}
        rows, _ = task.rows(self.data, some, {"dev": self.predict("dev")})
        return evaluate(task, rows["dev"])


def prepare(begun, device) -> Prepared:
    """Take the subset, load the model, encode all splits."""
    from common.device import set_seed

    call, data, where = begun.call, begun.data, begun.source.where()
    task, args = call.task, call.args
    if args.lora and adapters.base_of(where):
        remedy = "Leave out --lora, or give the model that they adapt."
        raise UserError(f"{where} already holds a model with adapters. {remedy}")
    strata = [task.stratum(example) for example in data.splits["train"]]
    indices = task.subset(data, args.training_size, args.seed)
    examples = data.splits | {"train": [data.splits["train"][i] for i in indices]}
    set_seed(args.seed)
    model, tokenizer, new_head = task.load_model(where, data, **call.options)
    if not indices:
        model.requires_grad_(False)
    elif args.lora:
        model = adapters.add(model, args.lora_rank)
    limit = min(args.max_length, families.positions(model.config))
    encoded, counts = {}, {}
    for split in examples:
        encoded[split], counts[split] = task.encode(data, examples[split], tokenizer, limit)
    subset = subsample.describe(indices, strata)
    inputs = examples, encoded, counts, subset
    return Prepared(call, data, device, model, tokenizer, new_head, *inputs)


def make(call, cell, config: dict, begun) -> dict:
    """Train, score, and write the result; returns its metrics."""
    from common.device import choose_device, peak_memory

    started, args = time.perf_counter(), call.args
    device = choose_device(args.device, args.precision, torchrun=True)
    ready = prepare(begun, device)
    size = len(ready.examples["train"])
    metrics = {"trained": bool(size), "train_examples": size, "new_head": ready.new_head}
    metrics["parameters"] = ready.model.num_parameters()
    metrics["trainable_parameters"] = ready.model.num_parameters(only_trainable=True)
    config |= {"subset": ready.subset, "labels": ready.data.labels}
    if size:
        metrics["layer_decay"] = families.layer_decay(ready.model.config, args.layer_decay)
        config["settings"]["layer_decay"] = metrics["layer_decay"]
    with results.making(cell, config, device) as folder:
        metrics |= train(ready, cell, folder, config["settings"]) if size else {}
        metrics |= score(ready, folder)
        if device.rank:  # of torchrun's processes the first one writes
            return {}
        if size:
            card.write(ready, begun.source, cell, config, metrics, folder / "checkpoint")
        return results.finish(cell, metrics | peak_memory(device), started)


def train(ready: Prepared, cell, folder: Path, settings: dict) -> dict:
    """Fine-tune, and write the checkpoint and how training went; returns its totals."""
    from common.training import loop, resume

    task, device = ready.call.task, ready.device
    values = vars(ready.call.args) | settings  # with the layer decay that goes with the model
    state, totals = loop.fit(
        ready.model,
        ready.encoded["train"],
        loop.Settings(*map(values.get, loop.Settings._fields)),
        device,
        ready.dev_scores,
        settings["selection_metric"],
        folder / results.WORK,
        loss=task.loss,
    )
    sharded = device.processes > 1
    weights = resume.weights_of(ready.model) if sharded else None  # all processes take part
    if device.rank:
        return {}
    saved = files.save_model(folder / "checkpoint", ready.model, ready.tokenizer, weights)
    rows = [
        cell.about | {"epoch": epoch, "split": split, "metric": metric, "value": value}
        for epoch, measured in enumerate(state.history, 1)
        for split, values in measured.items()
        for metric, value in values.items()
    ]
    files.write_csv(folder / "history.csv", rows)
    files.write_csv(folder / "steps.csv", [cell.about | row for row in state.steps])
    draw(folder, task)
    return totals | {"checkpoint_sha256": saved}


def score(ready: Prepared, folder: Path) -> dict:
    task, data, examples = ready.call.task, ready.data, ready.examples
    scored = {split: examples[split] for split in ("dev", "test") if split in examples}
    predicted = {split: ready.predict(split) for split in scored}
    if ready.device.rank:
        return {}
    rows, metrics = task.rows(data, scored, predicted)
    train = examples["train"] or data.splits["train"]
    majority = majority_scores(task, data, train, scored)
    for split in scored:
        values = evaluate(task, rows[split]) | ready.counts[split]
        values |= in_train(task, train, scored[split])
        values |= summary.prefixed("majority", majority[split])
        metrics = metrics | summary.prefixed(split, values)
    files.write_jsonl(folder / "predictions.jsonl", rows["test"])
    return metrics | summary.prefixed("train", ready.counts["train"])


def summarize(call, cell, metrics: dict, scores, state: str) -> None:
    examples = f"{metrics['train_examples']} training examples"
    print(f"\n{cell.task} fine-tuning, {cell.title()}, {examples}: {state}")
    if not metrics["trained"] and not metrics["new_head"]:
        print("No training (size 0): the model as it is, its own head included.")
    elif not metrics["trained"]:
        print(
            "No training (size 0), no checkpoint: the head is random, one arbitrary mapping. Its "
            "scores are no measure of chance; another --seed gives others."
        )
    if metrics.get("layer_decay", 1.0) != 1.0:
        print(f"layer-wise learning-rate decay: {metrics['layer_decay']}")
    if metrics["trained"]:
        adapters = f" (LoRA, rank {call.args.lora_rank})" * call.args.lora
        print(
            "trained {trainable_parameters:,} of {parameters:,} parameters{}, "
            "{train_examples_per_second:.1f} examples a second, peak memory "
            "{peak_memory_mib:,.0f} MiB".format(adapters, **metrics)
        )
    print(summary.score_table(metrics, scores))
    if not above_majority(metrics, scores[0].name):
        print(ADVICE.format("this model"))
    for title, parts in (("truncated", CUT), ("also in train", ("_in_train",))):
        counts = {key: n for key, n in metrics.items() if n and any(part in key for part in parts)}
        told = (f"{n} {key.removesuffix('_in_train')}" for key, n in counts.items())
        if counts:
            print(f"{title}: {', '.join(told).replace('_', ' ')}")
    print(f"results: {cell.folder}\nnext:    {summary.next_command(call, cell)}")
