"""Step 1: fine-tune a model on a share of the training data, and score it."""

import argparse
from pathlib import Path

from common import flags, identity, models, results
from common.cli import RANK, ROOT, Parser

NAME, NEEDS = "fine-tuning", ()
# What identifies a result besides the flags.
CONSTANTS = {"optimizer": "AdamW", "schedule": "linear warm-up and decay",
             "selection": "first epoch with the best dev score"}  # fmt: skip
# In the names of counts that the summary tells. (Training cuts no prompt, only what is asked.)
CUT = ("truncated_", "too_long", "dev_cut_words", "test_cut_words")
# To write the answers to dev after each epoch would take longer than to train.
OF_CAUSAL = {"selection": "first epoch with the lowest dev loss"}


def parse_args(task, doc: str, argv, *, demo: dict, **defaults) -> argparse.Namespace:
    """The flags of a task's fine-tuning.py; `doc` is its help.

    `demo`: the defaults that differ for miniature models; `defaults`: those of
    `flags.add_common_arguments` that differ for this task.
    """
    parser = Parser(doc)
    flags.add_common_arguments(parser, **defaults)
    flags.add_training_arguments(parser, demo)
    task.add_arguments(parser, "fine-tuning")
    return flags.parse(parser, argv, ROOT / task.NAME)


def run(task, args) -> None:
    """Fine-tune on `args.training_size` % of the data, and write the run's folder.

    `task`: a module as `common.task.Task` says. Raises UserError for whatever the user can mend.
    """
    from common import panels

    panels.use_style(args.style)
    by_loss = task.HEAD == "causal"
    constants = CONSTANTS | OF_CAUSAL if by_loss else CONSTANTS
    run = results.Run(task, args, "fine-tuning", args.training_size, constants)
    data = task.load(args)
    sha256 = identity.fingerprint(data.splits)
    run.identify(sha256, models.weights_identity(args))
    scores = task.scores(data)
    run.config["settings"]["selection_metric"] = "loss" if by_loss else scores[0].name
    if same := {score.name: score.same for score in scores if score.same}:
        run.config["same_test"] = same
    if metrics := run.finished():
        run.tidy()
        if not RANK:
            task.export(args, data, run.folder)
        if args.style and not RANK and (run.folder / "history.csv").is_file():
            from common import figures

            figures.learning_curve(run.folder, scores)
        return summarize(run, metrics, task.scores(data), results.EARLIER)

    from common import figures, files, forward, subsample
    from common.device import choose_device, peak_memory, set_seed
    from common.models import families
    from common.task import evaluate
    from common.training import events, loop, resume

    if args.tensorboard:
        events.check()
    device = choose_device(args.device, args.precision, torchrun=True)
    strata = [task.stratum(example) for example in data.splits["train"]]
    indices = subsample.subset(strata, args.training_size, args.seed)
    examples = data.splits | {"train": [data.splits["train"][i] for i in indices]}

    sharded = by_loss and device.processes > 1  # these are the models that may fit no single device
    set_seed(args.seed)
    model, tokenizer, new_head = task.load_model(args, data)
    parameters = model.num_parameters()  # later a frozen head may have its own, see shrink_frozen
    if not indices:
        model.requires_grad_(False)
    scores = task.scores(data)
    limit = min(args.max_length, families.positions(model.config))
    layer_decay = families.layer_decay(model.config, args.layer_decay)
    encoded, counts = {}, {}
    for split in examples:
        encoded[split], counts[split] = task.encode(data, examples[split], tokenizer, limit)

    def predict(split):
        some, inputs = examples[split], encoded[split]
        return task.predict(model, tokenizer, data, some, inputs, args, device, split)

    def dev_scores():
        if "dev" not in examples:
            return {}
        if by_loss:
            some = encoded["dev"], args.batch_size, device, task.loss, task.n_labels
            return {"loss": forward.mean_loss(model, *some)}
        rows, _ = task.rows(data, {"dev": examples["dev"]}, {"dev": predict("dev")})
        return evaluate(task, rows["dev"])

    subset = subsample.describe(indices, strata)
    made_of = {"sha256": sha256, "subset": subset, "counts": counts, "labels": data.labels,
               "precision": device.precision}  # fmt: skip
    how = {"max_length": limit, "layer_decay": layer_decay, "machine": device.describe()}
    with run.open(made_of, **how):
        metrics = {"trained": bool(indices), "train_examples": len(indices), "new_head": new_head}
        if indices:
            state, totals = loop.fit(
                model, encoded["train"], args, device, dev_scores,
                "loss" if by_loss else scores[0].name, run.folder,
                loss=task.loss, n_labels=task.n_labels, layer_decay=layer_decay, sharded=sharded,
            )  # fmt: skip
            metrics |= totals | {"layer_decay": layer_decay}
        scored = [split for split in ("dev", "test") if split in examples]
        predicted = {split: predict(split) for split in scored}
        weights = resume.weights_of(model) if sharded and indices else None
        if device.rank:
            return  # of torchrun's processes the first one writes
        if indices:
            saved = files.save_model(run.folder / "checkpoint", model, tokenizer, weights)
            metrics["checkpoint_sha256"] = saved
            files.write_csv(run.folder / "history.csv", history_rows(run.about, state.history))
            steps = [run.about | row for row in state.steps]
            files.write_csv(run.folder / "steps.csv", steps)
            figures.learning_curve(run.folder, scores)
        some = {split: examples[split] for split in scored}
        rows, more = task.rows(data, some, predicted)
        train = examples["train"] or data.splits["train"]
        guesses = {split: task.baseline(train, examples[split]) for split in scored}
        guessed, _ = task.rows(data, some, guesses)
        for split in scored:
            values = evaluate(task, rows[split]) | counts[split]
            baseline = evaluate(task, guessed[split])
            values |= {f"majority_{score.name}": baseline[score.name] for score in scores}
            metrics |= results.prefixed(split, values)
        files.write_jsonl(run.folder / "predictions.jsonl", rows["test"])
        metrics |= more | results.prefixed("train", counts["train"]) | peak_memory(device)
        metrics["parameters"] = parameters
        metrics = run.finish(metrics)
    task.export(args, data, run.folder)
    summarize(run, metrics, scores, "done")


def history_rows(about: dict, history: list[dict]) -> list[dict]:
    """Rows of history.csv, one measurement each, from `{split: {metric: value}}` of each epoch."""
    return [
        about | {"epoch": epoch, "split": split, "metric": metric, "value": value}
        for epoch, measured in enumerate(history, 1)
        for split, values in measured.items()
        for metric, value in values.items()
    ]


def summarize(run: results.Run, metrics: dict, scores, state: str) -> None:
    """Print what was trained on what, its scores, where it lies, what comes next."""
    examples = f"{metrics['train_examples']} training examples"
    print(f"\n{run.task.NAME} fine-tuning, {run.title()}, {examples}: {state}")
    if not metrics["trained"] and not metrics.get("new_head", True):
        print("No training (size 0): the model as it is, its own head included.")
    elif not metrics["trained"]:
        print(
            "No training (size 0), no checkpoint: the head is random, one arbitrary mapping. Its "
            "scores are no measure of chance; another --seed gives others."
        )
    if metrics.get("layer_decay", 1.0) != 1.0:
        print(f"layer-wise learning-rate decay: {metrics['layer_decay']}")
    print(results.score_table(metrics, scores))
    if cut := {k: n for k, n in metrics.items() if n and any(part in k for part in CUT)}:
        told = ", ".join(f"{n} {key.replace('_', ' ')}" for key, n in cut.items())
        print(f"not seen whole: {told}")
    print(f"results: {run.folder}\nnext:    {run.command('probing')}")


# What the report shows.

SCORES = """\
The highest possible score is 1. [a, b] is the 95 % percentile bootstrap interval over the test
examples. With several seeds, a cell is their mean ± sample standard deviation (n = seeds), and the
interval is that of the mean: it does not include the variation between seeds. "–" is a missing
cell. At 0 % nothing was fine-tuned: a new head is then one arbitrary mapping, not chance.
"""


def required(main: str) -> list[str]:
    """The metrics without which a result is passed over; `main`: the main score's name."""
    return [f"test_{main}"]


def read(result, task) -> dict[str, float]:
    """No values besides metrics.json."""
    return {}


def draw(folder: Path, task) -> None:
    """learning_curve: training loss, and dev scores or loss, from history.csv and steps.csv."""
    from common.report import drawing, palette, reading

    if not (folder / "history.csv").is_file():  # size 0
        return
    result = reading.working(folder)
    table, steps = result.table("history.csv"), result.table("steps.csv", "loss")

    def line(split: str, metric: str, style: dict, label: str = ""):
        rows = table[(table["split"] == split) & (table["metric"] == metric)]
        return drawing.Line(rows["epoch"], rows["value"], style, label)

    epochs = table["epoch"].max()
    thin = {"marker": ".", "color": "grey", "linewidth": 0.7}
    of_steps = drawing.Line(
        steps["step"] / steps["step"].max() * epochs, steps["loss"], thin, "loss of a step"
    )
    dots = {"marker": "o", "color": "black"}
    of_loss = {"high": None, "from_zero": True, "ylabel": "loss (nats)"}
    above = [of_steps, line("train", "loss", dots, "mean of the epoch")]
    panels = [drawing.Panel(above, "training loss", **of_loss)]
    measured = set(table[table["split"] == "dev"]["metric"])
    scores = [score for score in task.SCORES if score.name in measured]
    if "loss" in measured:  # of a task whose epochs are compared by it
        panels.append(drawing.Panel([line("dev", "loss", dots)], "dev loss", **of_loss))
    else:
        looks = [palette.score_style(i, len(scores)) for i in range(len(scores))]
        lines = [line("dev", s.name, look, s.title) for s, look in zip(scores, looks, strict=True)]
        about = {"ylabel": "score (at most 1)", "low": min((s.lowest for s in scores), default=0)}
        panels.append(drawing.Panel(lines, "scores on dev" if lines else "no dev split", **about))
    what = f"{task.NAME} fine-tuning on {result.size} % of the training data"
    rows = [[p._replace(xlabel="epoch", xlim=(0, 1.05 * epochs))] for p in panels]
    drawing.draw(folder / "learning_curve", [what, result.title()], rows)


def sections(grid) -> list:
    """Test scores by model and size: a table for each score, and the learning curves."""
    from common.report import drawing, page, tables

    made = []
    for score in grid.task.SCORES:
        rows = [_row(grid, grid, m, score.name, {"model": m}) for m in grid.models]
        rows = [row for row in rows if score is grid.main or tables.has_scores(row)]
        caption = f"test {score.title} after fine-tuning on a share of the training data"
        made += tables.make(grid, f"scores_{score.name}", caption, rows)
    panel = _learning_curves(grid)
    titles = [grid.title(), "learning curves; bars: 95 % bootstrap intervals"]
    figure = drawing.Figure("learning_curves", titles, [[panel]]) if panel.lines else None
    note = f"\n{grid.task.NOTE}\n" if grid.task.NOTE else ""
    return [
        page.Section("Downstream scores", SCORES + note, tables=made + _parts(grid)),
        page.Section("Learning curves", "", figure),
    ]


def _row(grid, source, model: str, score: str, start: dict) -> dict:
    """Test scores by size. `source`: this grid, or another task's, which has no size 0 here."""
    from common.report.palette import size_name

    untrained = "0 % (as loaded)" if grid.task.HEAD == "causal" else "0 % (untrained head)"
    columns = {size: size_name(size) if size else untrained for size in grid.sizes}
    cells = {
        column: source.downstream(model, size, score) if size or source is grid else None
        for size, column in columns.items()
    }
    return start | cells | {"majority class": source.majority(model, score)}


def _parts(grid) -> list:
    """Test scores that are not in `SCORES`: those of the data set's parts, see `Task.scores`."""
    from common.report import tables

    prefix, known = "test_majority_", {score.name for score in grid.task.SCORES}
    measured = dict.fromkeys(key for result in grid.results for key in result.metrics)
    names = [key.removeprefix(prefix) for key in measured if key.startswith(prefix)]
    rows = []
    for name in (name for name in names if name not in known):
        rows += [_row(grid, grid, m, name, {"score": name, "model": m}) for m in grid.models]
        for other, score in grid.others.get(name, []):
            for m in other.models:
                start = {"score": name, "model": f"{m} ({other.task.NAME})"}
                rows.append(_row(grid, other, m, score, start))
    caption = "test scores of the data set's parts"
    if grid.others:
        caption += "; beside them those of models of other tasks on the same test examples"
    rows = [row for row in rows if tables.has_scores(row)]
    return tables.make(grid, "scores_parts", caption, rows)


def _learning_curves(grid):
    """The test score by training size: a curve for each model, with intervals."""
    from common.report import drawing, palette

    lines, main = [], grid.main
    for i, model in enumerate(grid.models):
        scores = {size: grid.downstream(model, size, main.name) for size in grid.sizes}
        points = [(size, score) for size, score in scores.items() if score]
        x = [size + 0.5 * (i - (len(grid.models) - 1) / 2) for size, _ in points]  # side by side
        y = [score.value for _, score in points]
        low = [score.value if score.low is None else score.low for _, score in points]
        high = [score.value if score.high is None else score.high for _, score in points]
        look = palette.model_style(model), palette.short(model)
        lines += [drawing.Line(x, y, *look, low, high)] * bool(points)
    levels = [level.value for m in grid.models if (level := grid.majority(m, main.name))]
    return drawing.Panel(
        lines,
        xlabel="training data (%); 0 = not fine-tuned",
        ylabel=f"test {main.title}",
        hline=levels[0] if levels else None,
        low=main.lowest,
        xticks=grid.sizes,
    )
