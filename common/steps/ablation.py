"""Step 4: take heads or layers away from a fine-tuned model, and see what its scores lose."""

import time
from pathlib import Path

from common import checkpoints, flags, models, results, subsample, summary
from common.cli import UNTRAINED, Parser, UserError, number
from common.files import read_csv, read_json, write_csv, write_json, write_jsonl
from common.models import families
from common.report.shown.ablation import NAME, draw, read, sections
from common.report.shown.attention import mean_of_heads
from common.task import majority_scores

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
    if args.parts == LAYERS and not args.training_size:
        raise UserError("--training_size 0: no layer has changed. Give 10, 30, 50 or 100.")
    begun = results.begin(call)
    cell = begun.cell(args.training_size)
    where, checkpoint = checkpoints.find(begun, [cell])[cell] or (begun.source.where(), None)
    options = options_of(call, cell)
    config = begun.config(cell, CONSTANTS | options, checkpoint)
    compared = args.parts == HEADS and cell.size
    change = change_of(call, cell, config, str(where)) if compared else None
    metrics, state = results.finished(cell, config, args.overwrite), results.EARLIER
    if metrics is None:
        data = call.task.load(args.demo, args.data_dir, **options)
        metrics, state = make(begun, cell, config, str(where), data, change), "done"
    summarize(call, cell, metrics, state)


def options_of(call, cell) -> dict:
    """The task's flags that the model was fine-tuned with, or at size 0 scored with. What was
    chosen on dev, such as a threshold, is in its metrics under the flag's name, and stays.

    Raises UserError at size 0, but for a published head.
    """
    parser = Parser("")
    call.task.add_arguments(parser, checkpoints.TUNING)
    tuned = cell._replace(step=checkpoints.TUNING, variant=call.tuned(cell.size)).folder
    if not cell.size:
        check_head(call, tuned, "keep_head" in parser.flags())
    config, metrics = results.read(tuned)
    known = [flag for flag in parser.flags() if flag in config["settings"]]
    return {flag: metrics.get(flag, config["settings"][flag]) for flag in known}


def check_head(call, tuned: Path, keeps: bool) -> None:
    """Raises UserError unless a published head was scored in `tuned`, a result of size 0; `keeps`:
    the task has a flag for it. A causal model's head is always published."""
    from common import steps

    causal, there = call.task.HEAD == "causal", tuned.is_dir()
    if there and (causal or results.read(tuned)[0]["settings"].get("keep_head")):
        return
    text = "--training_size 0: the head is random, or was not scored. Give 10, 30, 50 or 100"
    if causal or keeps:
        command = call.next(steps.STEPS[checkpoints.TUNING], 0)
        flags_of = " --keep_head" * keeps + " --overwrite" * there
        text += f", or score a published head first:\n  {command}{flags_of}"
    raise UserError(text)


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
        cosine = table[table["metric"] == "cosine"]
        heads = shape.num_hidden_layers, shape.num_attention_heads
        change = 1 - mean_of_heads([cosine]).to_numpy()
        twice = cosine.duplicated(["layer", "head"]).any()
        if change.shape != heads or len(cosine) < change.size or twice:
            raise LookupError
    except (ValueError, LookupError):
        raise UserError(f"{own.folder / 'heads.csv'} is missing or damaged. {again}") from None
    config["inputs"][attention.NAME] = results.fingerprint({"change": change.tolist()})
    return change


def prepare(call, data, where: str, device) -> tuple:
    """The `ablating.Ready` model with its test inputs, and a stratified sample of training's."""
    from common import ablating
    from common.training import losses

    task, args = call.task, call.args
    model, tokenizer = models.load_task_model(where, task.HEAD, data.labels, keep_head=True)
    row = families.of(model.config)
    if args.parts == LAYERS and row.shared_layers:
        raise UserError(f"--parts layers: those of {row.name} share their weights. Leave it out.")
    limit = min(args.max_length, families.positions(model.config))
    size = args.training_size or 100  # size 0: all training examples can be drawn
    train = [data.splits["train"][i] for i in task.subset(data, size, args.seed)]
    order = subsample.permutation(list(map(task.stratum, train)), args.seed)[:SAMPLE]
    test = ablating.chosen(task, data, args.max_examples, args.seed)
    some = (test, [train[i] for i in order])
    encoded, sample = (task.encode(data, own, tokenizer, limit)[0] for own in some)
    about = model.requires_grad_(False).eval(), tokenizer, device, args.batch_size
    ready = ablating.Ready(task, data, *about, train, test, encoded)
    return ready, list(filter(losses.labels_in, sample))  # not what is too long to be read


def make(begun, cell, config: dict, where: str, data, change) -> dict:
    """Score all points, write the result; returns its metrics. `where`: the checkpoint."""
    from common import curves
    from common.device import choose_device, peak_memory

    started, args = time.perf_counter(), begun.call.args
    device = choose_device(args.device, args.precision)
    ready, sample = prepare(begun.call, data, where, device)
    with results.making(cell, config, device) as folder:
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
        test, main = {"test": ready.examples}, ready.task.scores(ready.data)[0]
        level = majority_scores(ready.task, ready.data, ready.train, test)["test"]
        values = next(iter(measured.values())) | summary.prefixed("majority", level)
        metrics = summary.prefixed("test", values) | {"test_examples": len(ready.examples)}
        metrics |= curves.described(measured, main.name, metrics[f"test_majority_{main.name}"])
        if args.parts == HEADS:
            metrics |= curves.against_random(measured, main.name, DRAWS)
            if change is not None:
                metrics |= curves.differences(files, ready.task.count, main, DRAWS)
                worth = mean_of_heads([read_csv(folder / "importance.csv")]).to_numpy()
                metrics |= curves.related(change, worth)
        metrics = results.finish(cell, metrics | peak_memory(device), started)
        draw(folder, ready.task)
        return metrics


def removals(ready, sample: list[dict], cell, change, args):
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
        about = model, sample, args.batch_size, device, task.loss
        values = numbered(ablating.importance(*about))
        rows = [{"layer": n, "head": m, "value": float(value)} for (n, m), value in values]
        write_csv(file, [cell.about | row for row in rows])
    worth = mean_of_heads([read_csv(file)]).to_numpy()
    to_device(model, device)
    fill = ablating.means(model, sample, args.batch_size, device) if args.method == "mean" else None
    points = ablating.plan(change, worth, DRAWS, args.seed)
    return points, lambda gone: ablating.removed(model, gone, fill)


def grafts(ready, base: str):
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


def measure(folder, points: dict, without, ready) -> tuple[dict, dict]:
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


def summarize(call, cell, metrics: dict, state: str) -> None:
    """Print the areas, where the result lies, what comes next."""
    main = next(score for score in call.task.SCORES if f"test_majority_{score.name}" in metrics)
    score, level = metrics[f"test_{main.name}"], metrics[f"test_majority_{main.name}"]
    print(f"\n{cell.task} ablation, {cell.title()}, {metrics['test_examples']} examples: {state}")
    print(f"{main.title} of the whole model {score:.4f}, of the majority baseline {level:.4f}")
    unit = "% of all heads" if call.args.parts == HEADS else "layers"
    print(f"mean of each curve; {unit} after which half of the gain is lost:")
    for key, lost in metrics.items():
        if key.startswith("half_lost_"):
            order = key.removeprefix("half_lost_")
            spread = f" ± {metrics['area_random_std']:.4f}" if order == "random" else ""
            area = f"{metrics[f'area_{order}']:.4f}{spread}"
            print(f"{order:>15}: {area}, {lost or 'not'}")
    for order in (key[2:] for key in metrics if key in ("p_most_changed", "p_importance")):
        p = f"p = {metrics[f'p_{order}']:.2f}"
        print(f"{p}: how often random heads of the same layers lose as much as {order}")
    print(f"results: {cell.folder}\nnext:    {summary.next_command(call, cell)}")
