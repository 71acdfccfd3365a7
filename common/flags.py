"""The flags of the three steps, and what each of them says of a result.

Imports the standard library alone, so that `--help` and a wrong flag answer at once.
"""

import argparse
import re
from pathlib import Path

from common.cli import SEED, TRAINING_SIZES, Parser, number, style_file

CELL = "which cell of the study it is: the path says it, or the data's and weights' hashes"
HOW = "how or where it is made; the result is the same"
MEASURED = "how much is measured: another call adds what is missing"
VARIANT = "a result of its own, in a folder beside the default's"
SETTING = "identifies a result: made with another value, it is another result"

# Every flag of `common`; a task's own flags (`Task.add_arguments`) are settings of all three steps.
FLAGS = {
    "model_name": CELL, "data_dir": CELL, "dataset_name": CELL, "demo": CELL, "seed": CELL,
    "training_size": CELL, "training_sizes": CELL, "untrained": CELL,
    "input": HOW, "input_form": HOW, "output": HOW,
    "variant": HOW, "output_dir": HOW, "custom_output_dir": HOW, "overwrite": HOW, "device": HOW,
    "save_minutes": HOW, "keep_features": HOW, "gradient_checkpointing": HOW,
    "style": HOW, "tensorboard": HOW,
    "controls": MEASURED, "layers": MEASURED, "metrics": MEASURED,
    "probe": VARIANT, "pooling": VARIANT, "standardize": VARIANT,
    "drop_special": VARIANT, "split": VARIANT,
    "max_length": SETTING, "batch_size": SETTING, "precision": SETTING,
    "learning_rate": SETTING, "num_train_epochs": SETTING, "warmup_ratio": SETTING,
    "weight_decay": SETTING, "max_grad_norm": SETTING, "layer_decay": SETTING,
    "probe_epochs": SETTING, "max_train_examples": SETTING, "max_examples": SETTING,
}  # fmt: skip
OF_TRAINING = ("learning_rate", "num_train_epochs", "warmup_ratio", "weight_decay",
               "max_grad_norm", "layer_decay")  # fmt: skip
CONTROLS = ("--controls", "--control", "--floor")  # the first is the name, the others spellings


def role(flag: str) -> str:
    """What a flag says of a result, one of the texts above."""
    return FLAGS.get(flag, HOW if flag.startswith("write_") else SETTING)


def settings(arguments: dict) -> dict:
    """Of the arguments those that identify a result."""
    return {k: v for k, v in arguments.items() if role(k) in (SETTING, VARIANT)}


def of_task(arguments: dict) -> dict:
    """Of the arguments those of the task's own flags, on which the steps must agree."""
    return {k: v for k, v in arguments.items() if k not in FLAGS and role(k) == SETTING}


def variant(args, parser: Parser) -> str:
    """The name of a result that is not the default's: its values that differ; mostly empty."""
    values = {flag: getattr(args, flag, None) for flag in FLAGS if role(flag) == VARIANT}
    differ = {f: v for f, v in values.items() if v is not None and v != parser.get_default(f)}
    return "-".join(flag if value is True else value for flag, value in differ.items())


def add_common_arguments(
    parser: Parser, model: str = "biobert", max_length: int = 512, batch_size: int = 16,
    demo_precision: str = "auto",
) -> None:  # fmt: skip
    """Model, data, output and machine: the flags of all scripts that make a result."""
    group = _add_model_and_data(parser, model)
    group.add_argument(
        "--max_length",
        type=number(int, 4),
        default=max_length,
        help=f"sub-words a model sees of one input, at most (default: {max_length}, or the "
        "model's own limit where that is less); what is cut is counted",
    )
    group = parser.add_argument_group("output")
    group.add_argument(
        "--output_dir", type=Path, help="root of the results (default: results/ in the task folder)"
    )
    group.add_argument("--overwrite", action="store_true", help="replace what an earlier run left")
    group.add_argument("--style", type=style_file, metavar="FILE",
                       help="a Matplotlib style file for the figures, over common/paper.mplstyle; "
                       "those of a finished run are drawn anew")  # fmt: skip
    _add_machine(parser, batch_size, demo_precision)


def _add_model_and_data(parser: Parser, model: str):
    group = parser.add_argument_group("model and data")
    group.add_argument(
        "--model_name",
        default=model,
        metavar="NAME",
        help="a short name (docs/models.md: bert, biobert, gpt2, ...), a Hub id (owner/name) or a "
        f"local folder (default: {model})",
    )
    group.add_argument("--data_dir", type=Path, help="folder with your own train, dev and test")
    group.add_argument("--dataset_name", help="name in the result path (default: the folder's)")
    group.add_argument(
        "--demo",
        action="store_true",
        help="generated corpus and miniature models, made on the spot: no download, CPU, minutes",
    )
    return group


def _add_machine(parser: Parser, batch_size: int, demo_precision: str = "auto") -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=SEED,
                       help=f"(default: {SEED})")  # fmt: skip
    group.add_argument("--batch_size", type=number(int, 1), default=batch_size,
                       help=f"(default: {batch_size})")  # fmt: skip
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps ...")
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="auto: bf16 where the hardware has it natively, else fp32 (default: "
        + ("auto)" if demo_precision == "auto" else f"auto; {demo_precision} with --demo)"),
    )
    parser.fallbacks["precision"] = ("auto", demo_precision)


def add_training_size(group, default: int, text: str) -> None:
    """`--training_size`; the plural is understood where it is one size."""

    def one(text: str) -> int:
        if "," in text:
            raise argparse.ArgumentTypeError(
                f"{text!r}: one size a call, such as --training_size {text.split(',')[0] or 10}"
            )
        return int(text)

    one.__name__ = "int"  # argparse's word for what it wants
    group.add_argument("--training_size", "--training_sizes", type=one, choices=TRAINING_SIZES,
                       default=default, metavar="SIZE", help=text)  # fmt: skip


def add_training_arguments(parser: Parser, demo: dict) -> None:
    """Fine-tuning flags. `demo`: the defaults that differ for miniature models."""
    group = parser.add_argument_group("fine-tuning")
    text = "percentage of the training data, one of 0, 10, 30, 50, 100 (default: 100); 0 scores "
    add_training_size(group, 100, text + "the untrained head")

    def add(flag, kind, default, text):
        shown = f"{default}; {demo[flag]} with --demo" if flag in demo else f"{default}"
        group.add_argument(f"--{flag}", type=kind, help=f"{text} (default: {shown})")
        parser.fallbacks[flag] = (default, demo.get(flag, default))

    add("learning_rate", number(float, 0, open_low=True), 2e-5, "peak learning rate of AdamW")
    add("num_train_epochs", number(int, 1), 3, "passes over the subset; the best on dev is kept")
    add("warmup_ratio", number(float, 0, 1), 0.1, "share of the steps with a rising rate")
    add("weight_decay", number(float, 0), 0.01, "of weights; biases and norms have none")
    add("max_grad_norm", number(float, 0, open_low=True), 1.0, "gradients are clipped to this norm")
    add("save_minutes", number(float, 0), 10.0, "also save the state every so often, to resume")
    group.add_argument("--tensorboard", action="store_true",
                       help="also write event files (pip install tensorboard)")  # fmt: skip
    group.add_argument(
        "--layer_decay",
        type=number(float, 0, 1, open_low=True),
        help="layer-wise learning-rate decay: the rate times this for each layer below the head, "
        "embeddings lowest (default: as published for the model: ELECTRA 0.8, large 0.9; else 1)",
    )


def add_probing_arguments(
    parser: Parser, probes: tuple[str, ...], poolings: tuple[str, ...], demo_epochs: int
) -> None:
    """Probing flags; the first of `probes` and of `poolings` is the study's and the default."""
    group = parser.add_argument_group("probing")
    text = "which encoder: fine-tuned on this percentage (10, 30, 50, 100), or 0, the pre-trained"
    add_training_size(group, 0, text + " (default: 0)")
    text = f"(default: {probes[0]})"
    group.add_argument("--probe", choices=probes, default=probes[0], help=text)
    text = f"which tokens' vectors stand for a unit (default: {poolings[0]})"
    group.add_argument("--pooling", choices=poolings, default=poolings[0], help=text)
    if "svc" in probes:
        text = "scale features to variance 1"
        group.add_argument("--standardize", action="store_true", help=text)
    group.add_argument(
        "--layers", type=layer_list, default="all", help="all, last, or e.g. 0,6,12 (default: all)"
    )
    group.add_argument(
        *CONTROLS,
        dest="controls",
        action="store_true",
        help="probe random labels too, and give the selectivity",
    )
    group.add_argument(
        "--untrained", "--random_init",
        action="store_true",
        help="an untrained encoder: the same architecture with random weights",
    )  # fmt: skip
    group.add_argument(
        "--max_train_examples",
        type=number(int, 1),
        metavar="N",
        help="probe on a stratified part of the training split (default: all of it)",
    )
    group.add_argument(
        "--keep_features", action="store_true", help="write the layers' features to the disk"
    )
    parser.set_defaults(probe_epochs=None)  # no flag: the study's, of a probe trained by gradients
    parser.fallbacks["probe_epochs"] = (3, demo_epochs)


def add_predict_arguments(
    parser: Parser, forms: dict[str, tuple[str, ...]], model: str = "biobert", batch_size: int = 16
) -> None:
    """Flags of a fine-tuned model's use; `forms` of the input, each with its files' endings."""
    group = _add_model_and_data(parser, model)
    text = "the percentage that the model was fine-tuned on (default: 100)"
    add_training_size(group, 100, text)
    group.add_argument(
        "--output_dir",
        type=Path,
        help="root of the results, where the model lies (default: results/ in the task folder)",
    )
    group = parser.add_argument_group("input and output")
    group.add_argument("--input", type=Path, required=True, metavar="FILE",
                       help="the new text; - is the standard input")  # fmt: skip
    known = "; ".join(f"{name} if it ends in {', '.join(ends)}"
                      for name, ends in forms.items() if ends)  # fmt: skip
    group.add_argument("--input_form", choices=tuple(forms),
                       help=f"(default: {known}; else {next(iter(forms))})")  # fmt: skip
    group.add_argument("--output", type=Path, metavar="FILE", help="(default: standard output)")
    group.add_argument("--overwrite", action="store_true", help="replace FILE of --output")
    _add_machine(parser, batch_size)


def add_attention_arguments(parser: Parser) -> None:
    """Attention flags."""
    group = parser.add_argument_group("attention")
    group.add_argument(
        "--training_sizes", "--training_size",
        type=size_list,
        default=[10, 30, 50, 100],
        metavar="SIZES",
        help="the fine-tuned models to compare with the pre-trained one, e.g. 10,30 (default: "
        "10,30,50,100); 0 compares it with itself",
    )  # fmt: skip
    group.add_argument(
        "--metrics",
        type=metric_list,
        default=["cosine"],
        help="cosine of the maps (the study's); js: Jensen-Shannon divergence; entropy; e.g. "
        "cosine,js,entropy (default: cosine)",
    )
    group.add_argument(
        *CONTROLS,
        dest="controls",
        action="store_true",
        help="also compare with an untrained encoder: unrelated models can score high, too",
    )
    group.add_argument(
        "--drop_special",
        action="store_true",
        help="leave out special tokens and a causal model's first, and renormalise",
    )
    group.add_argument("--split", choices=("train", "dev", "test"), default="test")
    group.add_argument(
        "--max_examples", type=number(int, 1), metavar="N", help="the first N only (default: all)"
    )


def size_list(text: str) -> list[int]:
    """An argparse type: training sizes with commas; once each, in order."""
    allowed = ",".join(map(str, TRAINING_SIZES))
    if not re.fullmatch(r"\d+(,\d+)*", text) or {*map(int, text.split(","))} - {*TRAINING_SIZES}:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of sizes. Take from {allowed}, with commas and no spaces: 10,30"
        )
    return sorted({int(size) for size in text.split(",")})


# A flag's value -> the measures it stands for.
METRICS = {
    "cosine": ["cosine"],
    "js": ["js"],
    "entropy": ["entropy_pretrained", "entropy_fine_tuned"],
}


def metric_list(text: str) -> list[str]:
    """An argparse type: metrics of two attention maps, with commas; once each."""
    chosen = text.split(",")
    if set(chosen) - set(METRICS):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of metrics. Take from {','.join(METRICS)}, without spaces."
        )
    return [measure for metric in METRICS if metric in chosen for measure in METRICS[metric]]


def layer_list(text: str) -> str:
    """An argparse type: "all", "last", or numbers with commas."""
    if text in ("all", "last") or re.fullmatch(r"\d+(,\d+)*", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not all, last, or numbers such as 0,6,12")


def parse(parser: Parser, argv: list[str] | None, task_folder: Path) -> argparse.Namespace:
    """Parse and resolve: demo defaults, absolute paths, output root. `SystemExit` 2 if wrong."""
    args = parser.parse_args(argv)
    for flag, values in parser.fallbacks.items():
        default, demo = values(args) if callable(values) else values
        if getattr(args, flag) is None:
            setattr(args, flag, demo if args.demo else default)
    if args.demo and (args.data_dir or args.dataset_name):
        parser.error("--demo brings its own data: leave out --data_dir and --dataset_name")
    if args.dataset_name is not None and not re.fullmatch(r"\w[\w.+-]*", args.dataset_name):
        parser.error(f"--dataset_name {args.dataset_name!r}: letters, digits, '.', '_', '-', '+'")
    if getattr(args, "untrained", False) and args.training_size:
        parser.error("--untrained: no size goes with it; leave out --training_size")
    args.variant = variant(args, parser)
    args.custom_output_dir = args.output_dir is not None
    args.output_dir = (args.output_dir or task_folder / "results").expanduser().absolute()
    if args.data_dir:
        args.data_dir = args.data_dir.expanduser().absolute()
    return args
