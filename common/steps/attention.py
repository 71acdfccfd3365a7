"""Step 3: compare the attention of every head before and after fine-tuning.

Layers count from 1, the first block (0 is the embeddings, as in probing), heads from 1.
"""

import time
from contextlib import ExitStack

from common import checkpoints, flags, models, results, summary
from common.cli import TRAINING_SIZES, UNTRAINED, Parser, UserError, list_of, number
from common.files import write_csv
from common.models import families, loading
from common.report.shown.attention import NAME, draw, link_measures, read, sections

__all__ = ["link_measures", "read", "sections"]
ORDER, NEEDS, SIZES = 3, ("fine-tuning",), "training_sizes"
FILES = "attention/: heads.csv, heads.png, cka.csv"
CONSTANTS = {"average": "mean over examples of each head's measure, real tokens only"}


def parse_args(task, doc: str, argv) -> flags.Call:
    """The call of a task's attention.py; `doc` is its help."""
    parser = Parser(doc, FILES)
    flags.add_common_arguments(parser, **task.DEFAULTS)
    add = parser.add_argument_group("attention").add_argument
    text = "the fine-tuned models to compare with the pre-trained one, e.g. 10,30 (default: "
    text += "10,30,50,100); 0 compares it with itself"
    options = {"default": [10, 30, 50, 100], "metavar": "SIZES", "help": text}
    add("--training_sizes", "--training_size", type=list_of(int, TRAINING_SIZES), **options)
    text = "also compare with an untrained encoder: unrelated models can score high, too"
    add("--controls", action="store_true", help=text)
    text = "leave out special tokens and a causal model's first, and renormalise"
    add("--drop_special", action="store_true", help=text)
    add("--split", choices=("train", "dev", "test"), default="test")
    text = "the first N only (default: all)"
    add("--max_examples", type=number(int, 1), metavar="N", help=text)
    flags.add_task_arguments(task, NAME, parser)
    return flags.parse(task, NAME, parser, argv)


def calls(sizes: tuple, controls: bool) -> list[tuple]:
    """One call for all sizes; 0 is what the others are compared with."""
    compared = tuple(size for size in sizes if size not in (0, UNTRAINED))
    return [(compared, ["--controls"] * controls)] if compared else []


def cells(begun) -> list:
    args = begun.call.args
    return [begun.cell(size) for size in [*args.training_sizes, *[UNTRAINED] * args.controls]]


def run(call) -> None:
    """The same inputs through all encoders; sizes that are finished stay as they are."""
    args, begun = call.args, results.begin(call)
    if args.split not in begun.data.splits:
        raise UserError(f"the data set has no {args.split} split. Choose another --split.")
    new, metrics = {}, {}
    for cell, made in checkpoints.find(begun, cells(begun)).items():
        where, checkpoint = made or (None, None)
        config = begun.config(cell, CONSTANTS, checkpoint)
        metrics[cell] = results.finished(cell, config, args.overwrite)
        if metrics[cell] is None:
            new[cell] = where, config
    if new:
        metrics |= compare(begun, new)
    summarize(call, metrics, len(new))


def compare(begun, new: dict) -> dict:
    """Compare `new`, {cell: (checkpoint, config)}, with the pre-trained encoder; their metrics."""
    from common import attention_maps
    from common.device import choose_device, peak_memory, set_seed, shrink_frozen

    started, task, args = time.perf_counter(), begun.call.task, begun.call.args
    data, base = begun.data, begun.source.where()
    device = choose_device(args.device, args.precision)
    examples = data.splits[args.split][: args.max_examples]
    set_seed(args.seed)
    pretrained, tokenizer = models.load_encoder(base, "eager", words=task.HEAD != "causal")
    limit = min(args.max_length, families.positions(pretrained.config))
    encoded, counts = task.attention_inputs(data, examples, tokenizer, limit)
    loading.mark_special(encoded, tokenizer, pretrained.config)

    def load(cell):
        if cell.size == UNTRAINED:
            set_seed(args.seed)  # the untrained encoder that probing --untrained has, too
            encoder, _ = models.load_encoder(base, "eager", random_init=True)
        elif new[cell][0] is None:  # size 0: the pre-trained model itself
            return pretrained
        else:
            encoder, _ = models.load_encoder(str(new[cell][0]), "eager")
        shrink_frozen(encoder, device)  # before the next one is loaded
        return encoder

    similarities = {}
    with ExitStack() as stack:
        for cell, (_, config) in new.items():
            stack.enter_context(results.making(cell, config, device))
        for group in attention_maps.groups(list(new), pretrained, device):
            similarities |= attention_maps.compare(
                pretrained,
                {cell: load(cell) for cell in group},
                encoded,
                device,
                drop_special=args.drop_special,
                pad_token_id=tokenizer.pad_token_id,
                batch_size=args.batch_size,
            )
        totals = counts | {"parameters": pretrained.num_parameters(), "split": args.split}
        totals |= peak_memory(device)
        # The seconds of the call, a share each.
        totals["seconds"] = (time.perf_counter() - started) / len(new)
        return {cell: write(cell, similarities[cell], totals, task) for cell in new}


def write(cell, similarity, totals: dict, task) -> dict:
    rows, metrics = [], {}
    for metric, mean in similarity.mean.items():
        for name, values in ((metric, mean), (f"{metric}_std", similarity.std[metric])):
            rows += [
                cell.about | {"layer": layer, "head": head, "metric": name, "value": float(value)}
                for (layer, head), value in numbered(values)
            ]
        metrics[metric] = mean_of(mean)
        metrics |= {f"{metric}_layer_{n}": mean_of(row) for n, row in enumerate(mean, 1)}
    write_csv(cell.partial / "heads.csv", rows)
    rows = [
        cell.about | {"layer": layer, "metric": name, "value": float(value)}
        for name, values in similarity.cka.items()
        for layer, value in enumerate(values)
    ]
    write_csv(cell.partial / "cka.csv", rows)
    draw(cell.partial, task)
    cosines = numbered(similarity.mean["cosine"])
    if compared := [pair for pair in cosines if pair[1] == pair[1]]:  # NaN: a head never compared
        (layer, head), value = min(compared, key=lambda pair: pair[1])
        most = {"layer": layer, "head": head, "cosine": float(value)}
        metrics |= summary.prefixed("most_changed", most)
    return results.finish(cell, totals | similarity.counts | metrics, 0.0)


def mean_of(values) -> float | None:
    """Over the heads that were compared at all; None (null) where none was."""
    compared = values[values == values]
    return float(compared.mean()) if compared.size else None


def numbered(values) -> list[tuple]:
    """((layer, head), value) of each value of [layers, heads], counted from 1."""
    layers, heads = values.shape
    return [((n + 1, m + 1), values[n, m]) for n in range(layers) for m in range(heads)]


def summarize(call, metrics: dict, n_new: int) -> None:
    first = next(iter(metrics))
    about = f"{first.model} on {first.dataset}, seed {first.seed}"
    print(f"\n{first.task} attention, {about}: {n_new} of {len(metrics)} results are new")
    for cell, own in metrics.items():
        which = "untrained encoder" if cell.size == UNTRAINED else f"{cell.size} %"
        line = f"{which:>18}: "
        if "most_changed_head" in own:
            line += f"mean cosine {own['cosine']:.4f}, most changed: "
            line += "layer {most_changed_layer}, head {most_changed_head}, ".format_map(own)
            line += f"{own['most_changed_cosine']:.4f}"
        print(line)
    print("results:", *(cell.folder for cell in metrics), sep="\n  ")
    print(f"next:    {summary.next_command(call, first)}")
