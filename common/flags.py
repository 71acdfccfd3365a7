"""The flags of the steps, and what each of them says about a result.

Imports the standard library alone, so that `--help` and a wrong flag answer at once.
"""

import argparse
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from common.cli import SEED, TRAINING_SIZES, UNTRAINED, Parser, number, relative

# What a flag says about a result; those that are not named here are settings: they identify it.
CELL = "model_name data_dir dataset_name demo seed training_size training_sizes untrained controls"
HOW = "input input_form output output_dir overwrite device save_minutes keep_features tensorboard"
LORA = "lora"  # of a model that was fine-tuned with adapters, in the names of its results
# A result of its own, in a folder beside the default's.
VARIANT = "probe pooling standardize layers drop_special split method parts"
OF_TRAINING = "learning_rate num_train_epochs warmup_ratio weight_decay max_grad_norm layer_decay"
# What the next step of the same model is called with.
SHARED = "model_name data_dir dataset_name output_dir seed max_length precision"


class Call(NamedTuple):
    """A script's call: what was typed, and with which flags. Nobody changes it."""

    task: Any  # the module, see `common.task.Task`
    step: str
    parser: Parser
    args: argparse.Namespace

    @property
    def options(self) -> dict:
        """The values of the task's own flags, by name."""
        return {flag: getattr(self.args, flag) for flag in self.parser.task_flags}

    @property
    def settings(self) -> dict:
        """The values that identify a result.

        Without those that the hardware or the model decides: whoever makes the result adds what
        came of them. Without training there are no settings of training.
        """
        left_out = [LORA, *CELL.split(), *HOW.split()]
        left_out += [flag for flag in vars(self.args) if flag.startswith("write_")]
        if getattr(self.args, "training_size", 1) == 0:
            left_out += ["lora_rank", *OF_TRAINING.split()]
        undecided = {"precision": "auto", "layer_decay": None, "lora_rank": None}
        return {
            flag: value
            for flag, value in vars(self.args).items()
            if flag not in left_out and undecided.get(flag, ...) != value
        }

    def tuned(self, size: int | str) -> str:
        """How the model of a size was fine-tuned, in the names of its results: LORA, or ""."""
        return LORA if self.args.lora and size not in (0, UNTRAINED) else ""

    def variant(self, size: int | str) -> str:
        """The name of a result that is not the default's: its values that differ; mostly empty."""
        parts = [self.tuned(size)]
        for flag in VARIANT.split():
            value = getattr(self.args, flag, None)
            if value is not None and value != self.parser.get_default(flag):
                name = f"layers-{value.replace(',', '.')}" if flag == "layers" else value
                parts.append(flag if value is True else name)
        return "-".join(filter(None, parts))

    @property
    def typed(self) -> dict:
        """`{flag: value}` of all that differs from the defaults, but for --overwrite."""
        return {
            flag: value
            for flag, value in vars(self.args).items()
            if flag != "overwrite" and value != self.parser.get_default(flag)
        }

    @property
    def command(self) -> str:
        """The command line of this call, as it is typed in the repository's folder."""
        return command(f"{self.task.NAME}/{self.step}.py", self.typed)

    def next(self, step, size) -> str:
        """The command line of another step (its module) for the same model, data and size."""
        other = Parser("")
        self.task.add_arguments(other, step.NAME)
        known = (LORA, *SHARED.split(), *other.flags())
        given = {step.SIZES: size, "model_name": self.args.model_name}
        given |= {flag: value for flag, value in self.typed.items() if flag in known}
        script = relative(self.task.NAME, f"{step.NAME}.py")
        return command(script, given | {"demo": self.args.demo})


def command(script: str, values: dict) -> str:
    """The command line of a script with the flags `{name: value}`; None and False are not given."""
    parts = []
    for flag, value in values.items():
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        if value is True:
            parts.append(f"--{flag}")
        elif value is not None and value is not False:  # but 0 is a size
            parts.append(f"--{flag} {shlex.quote(text)}")
    return " ".join([f"python {script}", *parts])


def add_common_arguments(
    parser: Parser,
    model: str = "biobert",
    max_length: int = 512,
    batch_size: int = 16,
    demo_precision: str = "auto",
) -> None:
    """Model, data, output and machine: the flags of all scripts that make a result."""
    group = add_model_and_data(parser, model)
    text = "the most sub-words that a model sees of one input (default: {}, or the limit of the "
    text = text.format(max_length) + "model if that is lower); truncation is counted"
    group.add_argument("--max_length", type=number(int, 4), default=max_length, help=text)
    group = parser.add_argument_group("output")
    text = "root of the results (default: results/ in the task folder)"
    group.add_argument("--output_dir", type=Path, help=text)
    text = "make a finished result again and replace it"
    group.add_argument("--overwrite", action="store_true", help=text)
    add_machine(parser, batch_size, demo_precision)


def add_model_and_data(parser: Parser, model: str):
    group = parser.add_argument_group("model and data")
    text = "a short name (docs/models.md: bert, biobert, gpt2, ...), a Hub id (owner/name) or a "
    text += f"local folder (default: {model})"
    group.add_argument("--model_name", default=model, metavar="NAME", help=text)
    group.add_argument("--data_dir", type=Path, help="folder with your own train, dev and test")
    group.add_argument("--dataset_name", help="name in the result path (default: the folder's)")
    text = "generated corpus and miniature models, made on the spot: no download, CPU, minutes"
    group.add_argument("--demo", action="store_true", help=text)
    text = "fine-tune low-rank adapters (LoRA), or use them; its results have folders of their own"
    group.add_argument("--lora", action="store_true", help=text)
    return group


def add_machine(parser: Parser, batch_size: int, demo_precision: str = "auto") -> None:
    add = parser.add_argument_group("machine").add_argument
    add("--seed", type=number(int, 0, 2**32 - 1), default=SEED, help=f"(default: {SEED})")
    add("--batch_size", type=number(int, 1), default=batch_size, help=f"(default: {batch_size})")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps ...")
    shown = "auto" if demo_precision == "auto" else f"auto; {demo_precision} with --demo"
    text = f"auto takes what is faster here: bf16 or fp32 (default: {shown})"
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), help=text)
    parser.fallbacks["precision"] = ("auto", demo_precision)


def add_training_size(group, default: int, text: str, sizes: tuple = TRAINING_SIZES) -> None:
    """`--training_size`; the plural is understood if it is one size."""

    def one(text: str) -> int:
        if "," in text:
            raise argparse.ArgumentTypeError(
                f"{text!r}: one size a call, such as --training_size {text.split(',')[0] or 10}"
            )
        return int(text)

    one.__name__ = "int"  # argparse's word for what it wants
    options = {"type": one, "choices": sizes, "default": default, "metavar": "SIZE"}
    group.add_argument("--training_size", "--training_sizes", help=text, **options)


def add_task_arguments(task, step: str, parser: Parser) -> None:
    before = parser.flags()
    task.add_arguments(parser, step)
    parser.task_flags = [flag for flag in parser.flags() if flag not in before]


def parse(task, step: str, parser: Parser, argv: list[str] | None) -> Call:
    """Parse, and put in the defaults that depend on other flags. `SystemExit` 2 if it is wrong."""
    from common.models import MODELS

    args = parser.parse_args(argv)
    for flag, pair in parser.fallbacks.items():
        pair = pair(args) if callable(pair) else pair
        parser.set_defaults(**{flag: pair[args.demo]})
    args = parser.parse_args(argv)  # again, with these defaults
    if args.demo and (args.data_dir or args.dataset_name):
        parser.error("--demo brings its own data: leave out --data_dir and --dataset_name")
    if args.model_name not in MODELS and Path(args.model_name).expanduser().is_dir():
        args.model_name = str(Path(args.model_name).expanduser().resolve())
    if args.dataset_name is not None and not re.fullmatch(r"\w[\w.+-]*", args.dataset_name):
        parser.error(f"--dataset_name {args.dataset_name!r}: letters, digits, '.', '_', '-', '+'")
    for flag in ("output_dir", "data_dir"):
        if getattr(args, flag):
            setattr(args, flag, getattr(args, flag).expanduser().absolute())
    folder = args.data_dir.resolve().name if args.data_dir else None
    if (args.dataset_name or folder) == "demo":
        parser.error("data called demo would be among the demo's results: give --dataset_name NAME")
    return Call(task, step, parser, args)
