"""Step 4: take heads or layers away from a fine-tuned model, and see what its scores lose."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

from common import checkpoints, flags, models, results, subsample, summary
from common.cli import UNTRAINED, Parser, UserError, number
from common.files import read_csv, read_json, write_csv, write_json, write_jsonl
from common.models import families
from common.report.shown.ablation import NAME, draw, read, sections

__all__ = ["read", "sections"]
ORDER, NEEDS, SIZES = 4, ("fine-tuning", "attention"), "training_size"
IN_STUDY = False  # unless it is named: it costs many passes
HEADS, LAYERS, PREDICTIONS = "heads", "layers", "predictions"
DRAWS = 20  # so that p can be below 0.05
SAMPLE = 1000  # training examples for the means and the importance
FILES = "ablation/: ablation.csv, importance.csv, ablation.png, predictions/"
CONSTANTS = {"draws": DRAWS, "sample": SAMPLE, "importance": "Michel et al. 2019, per example"}


def parse_args(task, doc: str, argv) -> flags.Call:
    """The call of a task's ablation.py; `doc` is its help."""
    parser = Parser(doc, FILES)
    flags.add_common_arguments(parser, **task.DEFAULTS)
    group = parser.add_argument_group("ablation")
    flags.add_training_size(group, 100, "which fine-tuned model (default: 100)")
    add = group.add_argument
    text = "remove heads, or give layers back their pre-trained weights (default: heads)"
    add("--parts", choices=(HEADS, LAYERS), default=HEADS, help=text)
    text = "what takes a removed head's place: its mean output, or zero (default: mean)"
    add("--method", choices=("mean", "zero"), default="mean", help=text)
    text = "score about this many test examples, stratified; 0: all (default: 1000)"
    add("--max_examples", type=number(int, 0), default=1000, metavar="N", help=text)
    flags.add_task_arguments(task, NAME, parser)
    return flags.parse(task, NAME, parser, argv)


def calls(sizes: tuple, controls: bool) -> list[tuple]:
    """A call for each size that was trained."""
    return [((size,), []) for size in sizes if size not in (0, UNTRAINED)]


def run(call) -> None:
    """Score the model without each group of heads, or with each group of layers taken back.

    Points that a killed call has scored are not scored again. Raises UserError.
    """
    args = call.args
    if not args.training_size:
        raise UserError("--training_size 0: no head has changed. Give 10, 30, 50 or 100.")
    begun = results.begin(call)
    cell = begun.cell(args.training_size)
    where, checkpoint = checkpoints.find(begun, [cell])[cell]
    options = options_of(call, where)
    config = begun.config(cell, CONSTANTS | options, checkpoint)
    change = change_of(call, cell, config, str(where)) if args.parts == HEADS else None
    metrics, state = results.finished(cell, config, args.overwrite), results.EARLIER
    if metrics is None:
        data = call.task.load(args.demo, args.data_dir, **options)
        metrics, state = make(begun, cell, config, str(where), data, change), "done"
    summarize(call, cell, metrics, state)


def options_of(call, checkpoint: Path) -> dict:
    """The task's flags that the checkpoint was made with. What fine-tuning chose on dev, such as a
    threshold, is in its metrics under the flag's name, and stays."""
    parser = Parser("")
    call.task.add_arguments(parser, checkpoints.TUNING)
    config, metrics = results.read(checkpoint.parent)
    known = [flag for flag in parser.flags() if flag in config["settings"]]
    return {flag: metrics.get(flag, config["settings"][flag]) for flag in known}


def change_of(call, cell, config: dict, where: str):
    """1 - cosine of each head's maps, `[layers, heads]`, of the cell's attention; its hash goes
    into `config`. Raises UserError if it is missing, damaged, or of another model than `where`."""
    from common.report.grid import Result
    from common.steps import attention

    own = cell._replace(step=attention.NAME, variant=call.tuned(cell.size))
    if not own.folder.is_dir():
        command = call.next(attention, cell.size)
        raise UserError(f"{own.folder} is missing: it says which heads changed. Type:\n  {command}")
    theirs, _ = results.read(own.folder)
    again = results.again(own.folder, theirs)
    if theirs["inputs"].get("checkpoint") != config["inputs"]["checkpoint"]:
        raise UserError(f"{own.folder} was made from another fine-tuned model. {again}")
    try:
        table, shape = Result(own.folder).table("heads.csv"), models.load_config(where)
        change = 1 - grid(table[table["metric"] == "cosine"])
        if change.shape != (shape.num_hidden_layers, shape.num_attention_heads):
            raise LookupError
    except (ValueError, LookupError):
        raise UserError(f"{own.folder / 'heads.csv'} is missing or damaged. {again}") from None
    config["inputs"][attention.NAME] = results.fingerprint({"change": change.tolist()})
    return change


def grid(table):
    """The column `value` by the columns `layer` and `head`: float64 `[layers, heads]`."""
    return table.pivot(index="layer", columns="head", values="value").to_numpy(float)


class Ready(NamedTuple):
    """A model, and the test examples that it is scored on, as it reads them."""

    task: Any
    data: Any
    model: Any
    tokenizer: Any
    device: Any
    batch_size: int
    train: list  # what the model was trained on
    examples: list  # of test
    encoded: list[dict]

    def score(self) -> tuple[list[dict], dict]:
        """(rows of predictions, {score: value, and "loss"}) of the model as it is now."""
        from common import ablating, forward
        from common.task import evaluate

        task, where = self.task, (self.batch_size, self.device)
        about = self.model, self.tokenizer, self.data, self.examples, self.encoded
        groups = list(map(task.loss_group, self.examples)) if task.HEAD == "causal" else None
        # A causal model's passes also depend on its cache.
        once = nullcontext() if task.HEAD == "causal" else ablating.remembering(self.model)
        with once:
            predicted = task.predict(*about, *where, "test")
            rows = task.rows(self.data, {"test": self.examples}, {"test": predicted})[0]["test"]
            measured = evaluate(task, rows)
            names = [score.name for score in task.scores(self.data)]
            values = {name: measured[name] for name in names if name in measured}
            if any(map(task.n_labels, self.encoded)):
                own = self.model, self.encoded, *where, task.loss, task.n_labels, groups
                values["loss"] = forward.mean_loss(*own)
        return rows, values


def prepare(call, data, where: str, device) -> tuple[Ready, list[dict]]:
    """The model, and its inputs: of test, and of a stratified sample of what it was trained on."""
    task, args = call.task, call.args
    model, tokenizer = models.load_task_model(where, task.HEAD, data.labels, keep_head=True)
    row = families.of(model.config)
    if args.parts == LAYERS and row.shared_layers:
        raise UserError(f"--parts layers: those of {row.name} share their weights. Leave it out.")
    limit = min(args.max_length, families.positions(model.config))
    train = [data.splits["train"][i] for i in task.subset(data, args.training_size, args.seed)]
    order = subsample.permutation(list(map(task.stratum, train)), args.seed)[:SAMPLE]
    test = chosen(task, data, args.max_examples, args.seed)
    some = (test, [train[i] for i in order])
    encoded, sample = (task.encode(data, own, tokenizer, limit)[0] for own in some)
    about = model.requires_grad_(False).eval(), tokenizer, device, args.batch_size
    ready = Ready(task, data, *about, train, test, encoded)
    return ready, list(filter(task.n_labels, sample))  # not what is too long to be read


def chosen(task, data, most: int, seed: int) -> list:
    """About `most` test examples, stratified, with groups whole: their rows say what is a group.

    All, if the task's rows are not one an example (BioASQ's are one a question).
    """
    examples = data.splits["test"]
    guesses = {"test": task.baseline(data.splits["train"], examples)}
    rows = task.rows(data, {"test": examples}, guesses)[0]["test"]
    groups = [row.get("group", row["id"]) for row in rows]
    if len(groups) != len(examples):
        return examples
    indices = subsample.whole_groups(list(map(task.stratum, examples)), groups, most, seed)
    return [examples[i] for i in indices]


def make(begun, cell, config: dict, where: str, data, change) -> dict:
    """Score all points, write the result; returns its metrics. `where`: the checkpoint."""
    from common import curves
    from common.device import choose_device, peak_memory

    started, args = time.perf_counter(), begun.call.args
    device = choose_device(args.device, args.precision)
    ready, sample = prepare(begun.call, data, where, device)
    config["environment"] |= device.describe()
    config["settings"]["precision"] = device.precision
    with results.making(cell, config) as folder:
        if args.parts == LAYERS:
            points, without = grafts(ready, begun.source.where())
        else:
            points, without = removals(ready, sample, cell, change, args)
        measured, files = measure(folder, points, without, ready)
        write_csv(folder / "ablation.csv", [
            cell.about | {"order": order, "draw": number or None, "removed": removed,
                          "metric": metric, "value": value}
            for (order, number, removed), values in measured.items()
            for metric, value in values.items()
        ])  # fmt: skip
        metrics = whole(ready, next(iter(measured.values())))
        main = ready.task.scores(ready.data)[0]
        metrics |= curves.described(measured, main.name, metrics[f"test_majority_{main.name}"])
        if args.parts == HEADS:
            metrics |= curves.against_random(measured, main.name, DRAWS)
            metrics |= curves.differences(files, ready.task.count, main, DRAWS)
            metrics |= curves.related(change, grid(read_csv(folder / "importance.csv")))
        metrics = results.finish(cell, metrics | peak_memory(device), started)
        draw(folder, ready.task)
        return metrics


def removals(ready: Ready, sample: list[dict], cell, change, args):
    """(points, a function of a point's heads: the context in which they are removed).

    The heads' importance is written to importance.csv; what a killed call wrote is read.
    """
    from common import ablating
    from common.device import to_device
    from common.steps.attention import numbered

    task, model, device = ready.task, ready.model, ready.device
    file = cell.partial / "importance.csv"
    if not file.is_file():
        to_device(model, device._replace(precision="fp32"))
        about = model, sample, args.batch_size, device, task.loss, task.n_labels
        values = numbered(ablating.importance(*about))
        rows = [{"layer": n, "head": m, "value": float(value)} for (n, m), value in values]
        write_csv(file, [cell.about | row for row in rows])
    worth = grid(read_csv(file))
    to_device(model, device)
    fill = ablating.means(model, sample, args.batch_size, device) if args.method == "mean" else None
    points = ablating.plan(change, worth, DRAWS, args.seed)
    return points, lambda gone: ablating.removed(model, gone, fill)


def grafts(ready: Ready, base: str):
    """(points, a function of a point's layers: the context in which they are pre-trained)."""
    from common import ablating
    from common.device import to_device

    model = ready.model
    # Layers of another kind of attention would lose their masks.
    donor, _ = models.load_encoder(base, model.config._attn_implementation)
    to_device(donor, ready.device)
    to_device(model, ready.device)
    points = ablating.grafts(model.config.num_hidden_layers)
    return points, lambda layers: ablating.grafted(model, donor, layers)


def measure(folder, points: dict, without, ready: Ready) -> tuple[dict, dict]:
    """({point: its scores}, {point: the file of its predictions}).

    What two points share, such as no head at all, is scored once.
    """
    from tqdm import tqdm

    work, distinct = folder / results.WORK / "points.json", {}
    for point, away in points.items():
        distinct.setdefault(away, []).append(point)
    saved, measured, files = read_json(work) or {}, {}, {}
    (folder / PREDICTIONS).mkdir(exist_ok=True)
    for same in tqdm(distinct.values(), desc="ablation", unit=" points"):
        order, number, removed = same[0]
        name = f"{order}-{number}-{removed}" if number else f"{order}-{removed}"
        file = folder / PREDICTIONS / f"{name}.jsonl"
        if name not in saved:
            with without(points[same[0]]):
                rows, saved[name] = ready.score()
            write_jsonl(file, rows)
            write_json(work, saved)
        measured |= dict.fromkeys(same, saved[name])
        files |= dict.fromkeys(same, file)
    return {point: measured[point] for point in points}, files


def whole(ready: Ready, values: dict) -> dict:
    """The metrics of the whole model, and of the majority, on the same test examples."""
    from common.task import majority_scores

    task, data, test = ready.task, ready.data, {"test": ready.examples}
    level = majority_scores(task, data, ready.train, test)["test"]
    both = values | {f"majority_{name}": value for name, value in level.items()}
    return {f"test_{name}": x for name, x in both.items()} | {"test_examples": len(ready.examples)}


def summarize(call, cell, metrics: dict, state: str) -> None:
    """Print the areas, where the result lies, what comes next."""
    main = next(score for score in call.task.SCORES if f"test_majority_{score.name}" in metrics)
    score, level = metrics[f"test_{main.name}"], metrics[f"test_majority_{main.name}"]
    print(f"\n{cell.task} ablation, {cell.title()}, {metrics['test_examples']} examples: {state}")
    print(f"{main.title} of the whole model {score:.4f}, of the majority baseline {level:.4f}")
    unit = "% of all heads" if call.args.parts == HEADS else "layers"
    print(f"mean of each curve, and at how many {unit} half of the gain is lost:")
    for key, lost in metrics.items():
        if key.startswith("half_lost_"):
            order = key.removeprefix("half_lost_")
            spread = f" ± {metrics['area_random_std']:.4f}" if order == "random" else ""
            area = f"{metrics[f'area_{order}']:.4f}{spread}"
            print(f"{order:>15}: {area}, {lost or 'not'}")
    if call.args.parts == HEADS:
        p = f"p = {metrics['p_most_changed']:.2f}"
        print(f"{p}: how often random heads of the same layers lose as much as most_changed")
    print(f"results: {cell.folder}\nnext:    {summary.next_command(call, cell)}")
