"""What is written of two encoders' attention: heads.csv, floor.csv, metrics.json and the figures.

Layers count from 1, the first block (0 is the embeddings, as in probing), heads from 1.
"""

from contextlib import ExitStack
from pathlib import Path

from common import models
from common.cli import UserError
from common.files import read_json, write_csv
from common.results import Run, fingerprint

N_MOST_CHANGED = 5


def compare(data, args, runs: list[Run], checkpoints: dict) -> None:
    """The same inputs through all encoders; the pre-trained one runs once beside all the others.

    `data` is the task's module. Writes the results of all `runs`. Raises UserError.
    """
    from common import attention_similarity, representations
    from common.device import choose_device, set_seed

    device = choose_device(args.device, args.precision)
    dataset = data.load(args)
    full_sha256 = fingerprint(dataset.splits)
    for run in runs:
        run.check_data(checkpoints[run], full_sha256)
    if args.split not in dataset.splits:
        raise UserError(f"{dataset.name} has no {args.split} split. Choose another --split.")
    examples = dataset.splits[args.split][: args.max_examples]
    source = models.source(args)
    set_seed(args.seed)
    pretrained, tokenizer = models.load_encoder(source, "eager")
    others = {run: models.load_encoder(checkpoints[run] or source, "eager")[0] for run in runs}
    if args.floor:
        set_seed(args.seed)  # the untrained encoder that probing --random_init has, too
        others["floor"] = models.load_encoder(source, "eager", random_init=True)[0]
    limit = min(args.max_length, pretrained.config.max_position_embeddings)
    encoded, counts = data.encode(dataset, examples, tokenizer, limit)
    models.mark_special(encoded, tokenizer, pretrained.config)

    made_of = {"sha256": fingerprint({args.split: examples}), "counts": counts,
               "precision": device.precision,
               "encoder": representations.encoder_hash(pretrained)}  # fmt: skip
    totals = counts | {"parameters": pretrained.num_parameters()}
    files = {key: key.folder / "sums.npz" for key in runs}
    if args.floor:  # one comparison, whichever sizes it is written beside
        files["floor"] = runs[0].folder / "floor-sums.npz"
    with ExitStack() as stack:
        for run in runs:
            described = {"max_length": limit, "machine": device.describe()}
            stack.enter_context(run.open(made_of, checkpoints[run], **described))
        found = attention_similarity.compare(
            pretrained, others, encoded, device, metrics=args.metrics,
            drop_special=args.drop_special, pad_token_id=tokenizer.pad_token_id,
            batch_size=args.batch_size, files=files,
        )  # fmt: skip
        for run in runs:
            finish(run, found[run], found.get("floor"), totals, device)


def finish(run: Run, similarity, floor, totals: dict, device) -> None:
    """Write one size's results; `floor` (or None) is the comparison with an untrained encoder."""
    from common.device import peak_memory

    _write(run, run.folder / "heads.csv", similarity)
    if floor is not None:
        _write(run, run.folder / "floor.csv", floor)
    metrics = {"split": run.args.split, "examples": similarity.n}
    metrics |= {"skipped_examples": similarity.skipped, "empty_rows": similarity.empty_rows}
    for prefix, found in (("", similarity), ("floor_", floor)):
        for metric, mean in found.mean.items() if found is not None else ():
            metrics[f"{prefix}{metric}"] = _mean(mean)
            by_layer = enumerate(mean, 1)
            metrics |= {f"{prefix}{metric}_layer_{n}": _mean(row) for n, row in by_layer}
    means = similarity.mean
    if "cosine" in means:
        name, values = "cosine", means["cosine"]
    elif "js" in means:
        name, values = "js", means["js"]
    else:
        name = "entropy_change"
        values = abs(means["entropy_fine_tuned"] - means["entropy_pretrained"])
    metrics[name] = _mean(values)
    order = (values if name == "cosine" else -values).ravel().argsort(kind="stable")
    heads = _cells(values)
    metrics["most_changed_heads"] = [
        {"layer": heads[i][0], "head": heads[i][1], name: float(values.ravel()[i])}
        for i in order[:N_MOST_CHANGED]
        if values.ravel()[i] == values.ravel()[i]  # NaN: a head never compared
    ]
    run.finish(metrics | totals | peak_memory(device))


def _mean(values) -> float | None:
    """Over the heads that were compared at all; None (null) where none was."""
    known = values[values == values]
    return float(known.mean()) if known.size else None


def _write(run: Run, path: Path, similarity) -> None:
    rows = []
    for metric, mean in similarity.mean.items():
        for name, values in ((metric, mean), (f"{metric}_std", similarity.std[metric])):
            for (layer, head), value in zip(_cells(values), values.ravel(), strict=True):
                where = {"layer": layer, "head": head, "metric": name, "value": float(value)}
                rows.append(run.about | where)
    write_csv(path, rows)


def _cells(values):
    layers, heads = values.shape
    return [(layer, head) for layer in range(1, layers + 1) for head in range(1, heads + 1)]


def table(runs: list[Run]) -> str:
    """The mean and the most changed head of each size, as text."""
    lines = []
    for run in runs:
        found = read_json(run.folder / "metrics.json")
        head = found["most_changed_heads"][0]
        metric = [name for name in head if name not in ("layer", "head")][0]
        floor = found.get(f"floor_{metric}")
        shown = "" if floor is None else f" (untrained encoder {floor:.4f})"
        lines.append(
            f"{run.about['training_size']:>4} %: mean {metric} {found[metric]:.4f}{shown}, most "
            f"changed: layer {head['layer']}, head {head['head']}, {head[metric]:.4f}"
        )
    return "\n".join(lines)
