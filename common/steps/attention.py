"""Step 3: compare the attention of every head before and after fine-tuning.

Layers count from 1, the first block (0 is the embeddings, as in probing), heads from 1.
"""

import argparse
import csv
import math
from contextlib import ExitStack
from itertools import product
from pathlib import Path

from common import flags, identity, models, results
from common.cli import ROOT, UNTRAINED, Parser, UserError
from common.files import read_json, write_csv

NAME, NEEDS = "attention", ("fine-tuning",)
N_MOST_CHANGED = 5
CONSTANTS = {"average": "mean over examples of each head's measure, real tokens only"}


def parse_args(task, doc: str, argv, **defaults) -> argparse.Namespace:
    """The flags of a task's attention.py; `doc` is its help, `defaults` as in fine_tuning."""
    parser = Parser(doc)
    flags.add_common_arguments(parser, **defaults)
    flags.add_attention_arguments(parser)
    task.add_arguments(parser, "attention")
    return flags.parse(parser, argv, ROOT / task.NAME)


def run(task, args) -> None:
    """The same inputs through all encoders; the pre-trained one runs once beside the others.

    What a finished size lacks (a metric, the untrained encoder) is added to it. Raises UserError.
    """
    from common import figures, panels

    panels.use_style(args.style)
    runs = [results.Run(task, args, "attention", n, CONSTANTS) for n in args.training_sizes]
    checkpoints = results.checkpoints(runs)
    data = task.load(args)
    if args.split not in data.splits:
        raise UserError(f"the data set has no {args.split} split. Choose another --split.")
    sha256, weights = identity.fingerprint(data.splits), models.weights_identity(args)
    there, untrained = {}, {}
    for run in runs:
        run.identify(sha256, weights, checkpoints[run])
        done = run.finished() is not None
        there[run] = read_table(run.folder / "heads.csv") if done else {}
        untrained[run] = read_table(run.folder / "floor.csv") if done else {}
        if done and not there[run]:
            raise UserError(f"{run.folder} has lost its heads.csv. Make it anew with --overwrite.")
    pending = [run for run in runs if lacking(run, there[run], untrained[run])]
    for run in runs:
        if there[run] and run not in pending:
            mend(run, there[run], untrained[run])
    if pending:
        compare(task, args, data, pending, checkpoints, there, untrained)
    for run in runs:
        if run not in pending:
            run.tidy()
            if args.style:
                figures.attention_heads(run.folder)
    if pending or args.style:
        figures.attention_sizes((pending or runs)[-1].folder)
    summarize(args, runs, len(pending))


def lacking(run: results.Run, there: dict, untrained: dict) -> list[str]:
    """The metrics still to be computed for a size, of the fine-tuned or the untrained encoder."""
    wanted = [m for m in known(there) + run.args.metrics if m not in there]
    if run.args.controls or untrained:
        wanted += [m for m in known(there) + run.args.metrics if m not in untrained]
    return list(dict.fromkeys(wanted))


def mend(run: results.Run, there: dict, untrained: dict) -> None:
    """Write metrics.json anew where a kill, while something was added, left the tables newer."""
    metrics = read_json(run.folder / "metrics.json") or {}
    told = {*known(there), *(f"floor_{name}" for name in known(untrained))}
    if told <= metrics.keys():
        return
    run.config = read_json(run.folder / "config.json")
    finish(run, there, untrained, metrics)


def known(table: dict) -> list[str]:
    """The metrics of a table, without their deviations."""
    return [metric for metric in table if not metric.endswith("_std")]


def compare(task, args, data, runs: list, checkpoints: dict, there: dict, untrained: dict) -> None:
    """Compute what `runs` lack and write their folders."""
    import time

    from common import attention_maps, features
    from common.device import choose_device, peak_memory, set_seed, shrink_frozen
    from common.models import families

    device = choose_device(args.device, args.precision)
    examples = data.splits[args.split][: args.max_examples]
    source = models.source(args)
    set_seed(args.seed)
    pretrained, tokenizer = models.load_encoder(source, "eager")
    limit = min(args.max_length, families.positions(pretrained.config))
    encoded, counts = task.attention_inputs(data, examples, tokenizer, limit)
    models.mark_special(encoded, tokenizer, pretrained.config)
    made_of = {"sha256": identity.fingerprint({args.split: examples}), "counts": counts,
               "precision": device.precision,
               "encoder": features.encoder_hash(pretrained)}  # fmt: skip

    metrics = [m for m in attention_maps.METRICS
               if any(m in lacking(run, there[run], untrained[run]) for run in runs)]  # fmt: skip
    beside = [run for run in runs if args.controls or untrained[run]]

    def load(key):
        if key == UNTRAINED:
            set_seed(args.seed)  # the untrained encoder that probing --untrained has, too
            found = models.load_encoder(source, "eager", random_init=True)[0]
        elif checkpoints[key] is None:  # size 0: the pre-trained model itself
            return pretrained
        else:
            found = models.load_encoder(checkpoints[key], "eager")[0]
        shrink_frozen(found, device)  # before the next one is loaded
        return found

    keys = [*runs, *[UNTRAINED] * bool(beside)]
    files = {key: key.folder / "sums.npz" for key in runs}
    if beside:  # one comparison, whichever sizes it is written beside
        files[UNTRAINED] = runs[0].folder / "untrained-sums.npz"
    started, found = time.perf_counter(), {}
    with ExitStack() as stack:
        how = {"max_length": limit, "machine": device.describe()}
        for run in runs:
            if there[run]:
                run.check_addition(made_of | how)
            stack.enter_context(run.open(made_of, extend=bool(there[run]), **how))
            if there[run] and read_table(run.folder / "heads.csv").keys() != there[run].keys():
                raise UserError(
                    f"another process has just added to {run.folder}. Type the command again."
                )
        for group in attention_maps.groups(keys, pretrained, device):
            found |= attention_maps.compare(
                pretrained, {key: load(key) for key in group}, encoded, device, metrics=metrics,
                drop_special=args.drop_special, pad_token_id=tokenizer.pad_token_id,
                batch_size=args.batch_size, files={key: files[key] for key in group},
            )  # fmt: skip
        totals = counts | {"parameters": pretrained.num_parameters()}
        totals["seconds"] = (time.perf_counter() - started) / len(runs)  # of the call, a share
        for run in runs:
            new = found[run]
            there[run] |= table(new)
            if run in beside:
                untrained[run] |= table(found[UNTRAINED])
            seen = {"split": args.split, "examples": new.n, "skipped_examples": new.skipped,
                    "empty_rows": new.empty_rows}  # fmt: skip
            finish(run, there[run], untrained[run], seen | totals | peak_memory(device))


def table(similarity) -> dict:
    """{metric, metric_std: [layers, heads]} of a comparison."""
    return {
        name: values
        for metric, mean in similarity.mean.items()
        for name, values in ((metric, mean), (f"{metric}_std", similarity.std[metric]))
    }


def finish(run: results.Run, measured: dict, untrained: dict, totals: dict) -> None:
    """Write one size's results; `untrained`: the comparison with an untrained encoder, or empty."""
    from common import figures

    write_table(run, run.folder / "heads.csv", measured)
    if untrained:
        write_table(run, run.folder / "floor.csv", untrained)
    metrics = {}
    for prefix, found in (("", measured), ("floor_", untrained)):
        for metric in known(found):
            metrics[f"{prefix}{metric}"] = mean_of(found[metric])
            by_layer = enumerate(found[metric], 1)
            metrics |= {f"{prefix}{metric}_layer_{n}": mean_of(row) for n, row in by_layer}
    name, values = change(measured)
    metrics[name] = mean_of(values)
    order = (values if name == "cosine" else -values).ravel().argsort(kind="stable")
    heads = cells(values)
    metrics["most_changed_heads"] = [
        {"layer": heads[i][0], "head": heads[i][1], name: float(values.ravel()[i])}
        for i in order[:N_MOST_CHANGED]
        if values.ravel()[i] == values.ravel()[i]  # NaN: a head never compared
    ]
    run.config["arguments"] |= {"metrics": known(measured), "controls": bool(untrained)}
    figures.attention_heads(run.folder)
    run.finish(totals | metrics)


def change(measured: dict):
    """(name, values) of the measure by which heads are ranked: cosine, else js, else entropy's."""
    for name in ("cosine", "js"):
        if name in measured:
            return name, measured[name]
    return "entropy_change", abs(measured["entropy_fine_tuned"] - measured["entropy_pretrained"])


def mean_of(values) -> float | None:
    """Over the heads that were compared at all; None (null) where none was."""
    compared = values[values == values]
    return float(compared.mean()) if compared.size else None


def write_table(run: results.Run, path: Path, measured: dict) -> None:
    """One value a row: layer, head, metric."""
    write_csv(path, [
        run.about | {"layer": layer, "head": head, "metric": name, "value": float(value)}
        for name, values in measured.items()
        for (layer, head), value in zip(cells(values), values.ravel(), strict=True)
    ])  # fmt: skip


def read_table(path: Path) -> dict:
    """What `write_table` wrote, `{name: [layers, heads]}`; empty if there is none."""
    import numpy as np

    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    shape = [max(int(row[key]) for row in rows) for key in ("layer", "head")]
    found: dict = {}
    for row in rows:
        values = found.setdefault(row["metric"], np.full(shape, np.nan))
        values[int(row["layer"]) - 1, int(row["head"]) - 1] = float(row["value"])
    return found


def cells(values) -> list[tuple[int, int]]:
    """(layer, head) of each value of [layers, heads], counted from 1."""
    layers, heads = values.shape
    return [(layer, head) for layer in range(1, layers + 1) for head in range(1, heads + 1)]


def summarize(args, runs: list, n_new: int) -> None:
    """Print how far each size's attention has moved, where it lies, and what comes next."""
    about = f"{runs[0].about['model']} on {runs[0].about['dataset']}, seed {args.seed}"
    print(f"\n{runs[0].task.NAME} attention, {about}: {n_new} of {len(runs)} sizes new")
    for run in runs:
        found = read_json(run.folder / "metrics.json")
        if not found["most_changed_heads"]:
            continue
        head = found["most_changed_heads"][0]
        metric = next(name for name in head if name not in ("layer", "head"))
        reference = found.get(f"floor_{metric}")
        shown = "" if reference is None else f" (untrained encoder {reference:.4f})"
        print(
            f"{run.about['training_size']:>4} %: mean {metric} {found[metric]:.4f}{shown}, most "
            f"changed: layer {head['layer']}, head {head['head']}, {head[metric]:.4f}"
        )
    print("results:", *(run.folder for run in runs), sep="\n  ")
    print(f"next:    {runs[0].report_command()}")


# What the report shows.

EXPLAINED = """\
Mean cosine of the attention maps of the fine-tuned and the pre-trained model over real tokens
(special tokens included), heads and examples. The untrained encoder, compared in the same way, is a
reference: the similarity of two models that share only the architecture. A fine-tuned model can lie
below it. Layer 1 is the first block.
"""
LAYER = "layer (1 = first block)"
BEFORE, AFTER = "entropy_pretrained", "entropy_fine_tuned"
# By name in heads.csv: title, short name, end of the scale (None: a whole number of bits above all
# values), colours. Scales are fixed, so figures can be compared; unchanged attention is yellow. A
# measure that is not listed is drawn with its name.
MEASURES = {
    "cosine": ("cosine similarity of the attention maps\n(1 = unchanged)", "cosine", 1, "viridis"),
    "js": ("Jensen-Shannon divergence\n(0: same, 1: disjoint)", "JS (bits)", 1, "viridis_r"),
    BEFORE: ("entropy of the attention, pre-trained", "entropy (bits)", None, "cividis"),
    AFTER: ("entropy of the attention, fine-tuned", "entropy (bits)", None, "cividis"),
}


def read(result, task) -> dict[str, float]:
    """The mean of each measure over heads, `<measure>`, and by layer, `<measure>_layer_<n>`.

    Heads that were never compared are left out. Raises ValueError if heads.csv is damaged.
    """
    values = {}
    for measure, heads in _heads(result.table("heads.csv")).items():
        values[measure] = heads.stack().mean()
        values |= {f"{measure}_layer_{n}": value for n, value in heads.mean(axis=1).items()}
    return {name: float(value) for name, value in values.items() if value == value}


def _heads(table) -> dict:
    """`{measure: its values [layers, heads]}` of heads.csv. ValueError if a head is missing."""
    measures = {}
    for measure, rows in table.groupby("metric", sort=False):
        if not measure.endswith("_std"):
            if len(rows) != rows["layer"].max() * rows["head"].max():
                raise ValueError("heads.csv is damaged (heads are missing)")
            measures[measure] = rows.pivot(index="layer", columns="head", values="value")
    return measures


def _heatmaps(measures: dict) -> list:
    """A map of each measure; the scale of both entropies is the same."""
    from common.report.drawing import Heatmap

    most = max([1, *(measures[name].max().max() for name in (BEFORE, AFTER) if name in measures)])
    looks = {name: MEASURES.get(name, (name, name, None, "cividis")) for name in measures}
    return [
        Heatmap(title, measures[name], label, 0, end or math.ceil(most), colours)
        for name, (title, label, end, colours) in looks.items()
    ]


def draw(folder: Path, task) -> None:
    """heads: a map of each measure; attention_all_sizes in the model's folder: means by layer."""
    from common.report import drawing, palette, reading

    own = reading.working(folder)
    sizes = {size: _heads(table) for size, table in reading.beside(own, "heads.csv").items()}
    settings = own.config["settings"]
    first = f", first {n} examples" if (n := settings.get("max_examples")) else ""
    special = "dropped" if settings.get("drop_special") else "included"
    inputs = f"{settings.get('split', 'test')} split{first}, special tokens {special}"
    encoder = palette.encoder_name(own.size).removeprefix("encoder ")
    titles = [f"{task.NAME} attention, pre-trained against {encoder}", inputs, own.title()]
    drawing.draw(folder / "heads", titles, [_heatmaps(sizes[own.size])])

    def line(heads, size):
        mean = heads.mean(axis=1)
        return drawing.Line(mean.index, mean, palette.size_style(size), palette.size_name(size))

    panels = []
    for name in (name for name in sizes[own.size] if name != BEFORE):
        title, label, end, _ = MEASURES.get(name, (name, name, None, ""))
        lines = [line(measures[name], size) for size, measures in sizes.items() if name in measures]
        if name == AFTER:
            title = title.removesuffix(", fine-tuned")
            lines.append(line(sizes[own.size][BEFORE], 0))
        panels.append(drawing.Panel(lines, title, LAYER, f"mean {label}", high=end))
    titles[0] = f"{task.NAME} attention, pre-trained against fine-tuned"
    drawing.draw(own.of_the_model("attention_all_sizes"), titles, [panels])


def sections(grid) -> list:
    """Similarity to the pre-trained model, and all layers; a section for each variant."""
    from common.report import by_layer, palette, tables

    made, curves = [], [by_layer.Curve("cosine", "mean cosine (1 = unchanged)")]
    for name in grid.names(NAME):
        rows = []
        for model, size in product(grid.models, grid.trained):
            cosine = grid.score(name, model, size, "cosine")
            layers = grid.layers(name, model, size, "cosine")
            row = {"model": model, "size": palette.size_name(size), "mean cosine": cosine}
            row["change (1 - cosine)"] = cosine and cosine._replace(value=1 - cosine.value)
            row["untrained encoder"] = grid.score(name, model, UNTRAINED, "cosine")
            row["most changed layer"] = min(layers, key=lambda n: layers[n].value, default=None)
            rows.append(row)
        caption = f"{by_layer.called(name)}, fine-tuned against pre-trained"
        summary = tables.make(grid, name, caption, rows)
        section = by_layer.section(grid, name, EXPLAINED, summary, LAYER, curves)
        made.append(section._replace(maps=_maps(grid, name)))
    return made


def _maps(grid, name: str) -> list[tuple]:
    """(model, map) of all models and sizes, the mean over seeds, for the page."""
    from common.report import palette

    maps = []
    for model, size in product(grid.models, grid.sizes):
        seeds = [_heads(result.table("heads.csv")) for result in grid.cell(name, model, size)]
        shared = [measure for measure in MEASURES if seeds and all(measure in s for s in seeds)]
        means = {measure: sum(s[measure] for s in seeds) / len(seeds) for measure in shared}
        for heatmap in _heatmaps(means):
            title = f"{palette.size_name(size)}: {heatmap.title}"
            maps.append((model, heatmap._replace(title=title)))
    return maps


def link_measures(grid) -> dict[str, dict]:
    """`{measure: {(model, size): value}}`: what the downstream score is correlated with."""
    change = {cell: 1 - cosine for cell, cosine in grid.by_cell(NAME, "cosine").items()}
    return {"attention change (1 - mean cosine)": change}
