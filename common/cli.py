"""What the scripts share at the command line: argument groups, and user errors -> exit code 2.

Imports the standard library alone, so that `--help` and a wrong flag answer at once.
"""

import argparse
import contextlib
import errno
import functools
import logging
import math
import os
import re
import sys
import time
from pathlib import Path

# Before torch is imported: a thread that waits must sleep soon. Where other work takes a core,
# endless spinning made small models 60 times slower; not spinning at all costs a tenth to a fifth.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
ROOT = Path(__file__).resolve().parents[1]
PROCESSES = int(os.environ.get("WORLD_SIZE") or 1)  # that torchrun started together
RANK = int(os.environ.get("RANK") or 0) if PROCESSES > 1 else 0  # which of them this is
UNTRAINED = "random"  # in place of a size: an encoder that was never trained
TRAINING_SIZES = (0, 10, 30, 50, 100)
log = logging.getLogger(__name__)


class UserError(Exception):
    """Something the user can mend. The message names the thing, the place, and what to type."""


# What the operating system refuses that a user can mend: space, quota, size limit, permission.
_MENDABLE = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EACCES: "make it writable, or choose another --output_dir",
    errno.EPERM: "make it writable, or choose another --output_dir",
    errno.EROFS: "choose another --output_dir",
    errno.ENOTDIR: "a file stands where a folder is needed: move it, or choose another folder",
    errno.EEXIST: "a file stands where a folder is needed: move it, or choose another folder",
    errno.ENAMETOOLONG: "use shorter names (--dataset_name, --output_dir, the model's folder)",
}


def command(main):
    """Decorate a script's `main(argv=None)`: 0 when done; `SystemExit` 2 (user) or 130 (Ctrl-C).

    Anything else is a bug and keeps its traceback (exit code 1).
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        logging.basicConfig(
            level=logging.ERROR if RANK else logging.INFO, format="%(message)s", stream=sys.stderr
        )
        for chatty in ("httpx", "httpx2", "huggingface_hub", "filelock", "matplotlib"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        try:
            with contextlib.redirect_stdout(None) if RANK else contextlib.nullcontext():
                main(argv)
                if not RANK:
                    sys.stdout.flush()  # a closed pipe shows here, not after this
            return 0
        except BrokenPipeError:  # `... | head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except UserError as error:
            message = str(error)
        except OSError as error:
            if error.errno not in _MENDABLE:
                raise
            where = f" {error.filename}" if error.filename else ""
            message = (
                f"cannot use{where}: {error.strerror}. Please {_MENDABLE[error.errno]}, and type "
                "the same command again: it goes on from what is complete."
            )
        except KeyboardInterrupt:
            overwrite = "--overwrite" in (sys.argv if argv is None else argv)
            same = "the same command" + " without --overwrite" * overwrite
            print(f"\ninterrupted: {same} goes on from here.", file=sys.stderr)
            raise SystemExit(130) from None
        if RANK:  # where the first process has the same error, torchrun ends this one meanwhile
            time.sleep(3)
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)

    return run


class Parser(argparse.ArgumentParser):
    """`argparse`, with one line for an error and the script's docstring as its help."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str):
        self.exit(2, f"error: {message} (all flags: python {self.prog} --help)\n")


def number(kind, low, high=math.inf, open_low=False):
    """An argparse type: an `int` or `float` between `low` and `high`."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (low < value if open_low else low <= value) or not value <= high:
            least = f"above {low}" if open_low else f"of at least {low}"
            most = f" and at most {high}" if high != math.inf else ""
            name = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {name} {least}{most}")
        return value

    return parse


def add_common_arguments(parser: Parser, max_length: int = 512, batch_size: int = 16) -> None:
    """Model, data, output and machine: the flags of all scripts."""
    group = parser.add_argument_group("model and data")
    group.add_argument(
        "--model_name",
        default="biobert",
        metavar="NAME",
        help="bert, biobert, gpt2, biogpt; or a Hub id (owner/name) or local folder of a BERT-, "
        "GPT-2- or BioGPT-like model (default: biobert)",
    )
    group.add_argument("--data_dir", type=Path, help="folder with your own train, dev and test")
    group.add_argument("--dataset_name", help="name in the result path (default: the folder's)")
    group.add_argument(
        "--demo",
        action="store_true",
        help="generated corpus and miniature models, made on the spot: no download, CPU, minutes",
    )
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
    group = parser.add_argument_group("machine")
    group.add_argument("--seed", type=number(int, 0, 2**32 - 1), default=42, help="(default: 42)")
    group.add_argument("--batch_size", type=number(int, 1), default=batch_size,
                       help=f"(default: {batch_size})")  # fmt: skip
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps ...")
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="auto: bf16 where the hardware has it natively, else fp32",
    )


def add_training_arguments(parser: Parser, demo: dict) -> None:
    """Fine-tuning flags. `demo`: the defaults that differ for miniature models."""
    group = parser.add_argument_group("fine-tuning")
    group.add_argument(
        "--training_size",
        type=int,
        choices=TRAINING_SIZES,
        default=100,
        help="percentage of the training data (default: 100); 0 scores the untrained head",
    )

    def add(flag, kind, default, text):
        shown = f"{default}; {demo[flag]} with --demo" if flag in demo else f"{default}"
        group.add_argument(f"--{flag}", type=kind, help=f"{text} (default: {shown})")
        parser.fallbacks[flag] = (default, demo.get(flag, default))

    parser.fallbacks = {}
    add("learning_rate", number(float, 0, open_low=True), 2e-5, "peak learning rate of AdamW")
    add("num_train_epochs", number(int, 1), 3, "passes over the subset; the best on dev is kept")
    add("warmup_ratio", number(float, 0, 1), 0.1, "share of the steps with a rising rate")
    add("weight_decay", number(float, 0), 0.01, "of weights; biases and norms have none")
    add("max_grad_norm", number(float, 0, open_low=True), 1.0, "gradients are clipped to this norm")
    add("save_minutes", number(float, 0), 10.0, "also save the state every so often, to resume")


def add_probing_arguments(parser: Parser, probes: tuple[str, ...], poolings: tuple[str, ...]):
    """Probing flags; the first of `probes` and of `poolings` is the study's and the default."""
    group = parser.add_argument_group("probing")
    group.add_argument(
        "--training_size",
        type=int,
        choices=TRAINING_SIZES,
        default=0,
        help="which encoder: fine-tuned on this percentage, or 0, the pre-trained (default: 0)",
    )
    text = f"(default: {probes[0]})"
    group.add_argument("--probe", choices=probes, default=probes[0], help=text)
    text = f"which tokens' vectors stand for a unit (default: {poolings[0]})"
    group.add_argument("--pooling", choices=poolings, default=poolings[0], help=text)
    group.add_argument(
        "--layers", type=layer_list, default="all", help="all, last, or e.g. 0,6,12 (default: all)"
    )
    group.add_argument(
        "--control", action="store_true", help="probe random labels too, and give the selectivity"
    )
    group.add_argument(
        "--random_init", action="store_true", help="the same architecture with untrained weights"
    )
    group.add_argument(
        "--max_train_examples",
        type=number(int, 1),
        metavar="N",
        help="probe on a stratified part of the training split (default: all of it)",
    )
    group.add_argument(
        "--keep_features", action="store_true", help="leave the layers' features on the disk"
    )


def add_attention_arguments(parser: Parser) -> None:
    """Attention flags."""
    group = parser.add_argument_group("attention")
    group.add_argument(
        "--training_sizes",
        type=size_list,
        default=[10, 30, 50, 100],
        metavar="SIZES",
        help="the fine-tuned models to compare with the pre-trained one, e.g. 10,30 (default: "
        "10,30,50,100); 0 compares it with itself",
    )
    group.add_argument(
        "--metrics",
        type=metric_list,
        default=["cosine"],
        help="cosine of the maps (the study's); js: Jensen-Shannon divergence; entropy; e.g. "
        "cosine,js,entropy (default: cosine)",
    )
    group.add_argument(
        "--floor",
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


def metric_list(text: str) -> list[str]:
    """An argparse type: metrics of two attention maps, with commas; once each."""
    columns = {
        "cosine": ["cosine"],
        "js": ["js"],
        "entropy": ["entropy_pretrained", "entropy_fine_tuned"],
    }
    chosen = text.split(",")
    if set(chosen) - set(columns):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of metrics. Take from {','.join(columns)}, without spaces."
        )
    return [column for metric in columns if metric in chosen for column in columns[metric]]


def layer_list(text: str) -> str:
    """An argparse type: "all", "last", or numbers with commas."""
    if text in ("all", "last") or re.fullmatch(r"\d+(,\d+)*", text):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not all, last, or numbers such as 0,6,12")


def parse(parser: Parser, argv: list[str] | None, task_folder: Path) -> argparse.Namespace:
    """Parse and resolve: demo defaults, absolute paths, output root. `SystemExit` 2 if wrong."""
    args = parser.parse_args(argv)
    for flag, (default, demo) in getattr(parser, "fallbacks", {}).items():
        if getattr(args, flag) is None:
            setattr(args, flag, demo if args.demo else default)
    if args.demo and (args.data_dir or args.dataset_name):
        parser.error("--demo brings its own data: leave out --data_dir and --dataset_name")
    if args.dataset_name is not None and not re.fullmatch(r"\w[\w.+-]*", args.dataset_name):
        parser.error(f"--dataset_name {args.dataset_name!r}: letters, digits, '.', '_', '-', '+'")
    if getattr(args, "random_init", False) and args.training_size:
        parser.error("--random_init is an untrained encoder: leave out --training_size")
    args.custom_output_dir = args.output_dir is not None
    args.output_dir = (args.output_dir or task_folder / "results").expanduser().absolute()
    if args.data_dir:
        args.data_dir = args.data_dir.expanduser().absolute()
    return args
