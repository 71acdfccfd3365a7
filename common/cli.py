"""The command line: user errors -> exit code 2, a parser of few words, checked values.

Imports the standard library alone, so that `--help` and a wrong flag answer at once.
"""

import argparse
import contextlib
import difflib
import errno
import functools
import logging
import math
import os
import sys
import textwrap
import time
from collections.abc import Callable
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
SEED = 42  # where none is given
log = logging.getLogger(__name__)


def relative(*parts: str) -> str:
    """A path in the repository as it is typed from where the user is."""
    return os.path.relpath(ROOT.joinpath(*parts))


class UserError(Exception):
    """Something the user can mend. The message names the thing, the place, and what to type."""


# What the operating system refuses that a user can mend: space, quota, size limit, permission.
_MENDABLE = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some of your quota",
    errno.EFBIG: "Raise the limit on file sizes (ulimit -f)",
    errno.EACCES: "Make it writable, or choose another --output_dir",
    errno.EPERM: "Make it writable, or choose another --output_dir",
    errno.EROFS: "Choose another --output_dir",
    errno.ENOTDIR: "A file stands where a folder is needed: move it, or choose another folder",
    errno.EEXIST: "A file stands where a folder is needed: move it, or choose another folder",
    errno.ENAMETOOLONG: "Use shorter names (--dataset_name, --output_dir, the model's folder)",
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
        for chatty in ("httpx", "httpx2", "huggingface_hub", "filelock", "matplotlib", "fontTools"):
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
                f"cannot use{where}: {error.strerror}. {_MENDABLE[error.errno]}; then type the "
                "same command again: it goes on from what is complete."
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
        script = sys.argv[0]  # as it is typed from where the user is
        super().__init__(
            prog=os.path.relpath(script) if script.endswith(".py") else None,
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        # By flag: its default, and that with --demo; or a function of the arguments, of both.
        self.fallbacks: dict[str, tuple | Callable[[argparse.Namespace], tuple]] = {}

    def error(self, message: str):
        _, unknown, given = message.partition("unrecognized arguments: ")
        flag = given.split("=")[0].split(" ")[0]
        near = difflib.get_close_matches(flag, self._option_string_actions, 1, cutoff=0.7)
        if unknown and near:
            message += f"; did you mean {near[0]}?"
        self.exit(2, f"error: {message} (all flags: python {self.prog} --help)\n")


def style_file(text: str) -> Path:
    """An argparse type: a Matplotlib style file, tried at once, not when all is trained."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    path = Path(text).expanduser().absolute()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = matplotlib.rc_params_from_file(path, True, use_default_template=False)
        for n, line in enumerate(lines, 1):
            key = line.split("#")[0].partition(":")[0].strip()
            if key and key not in found:  # Matplotlib passes over what it does not know
                raise ValueError(f"line {n}: no setting {key!r}, or no colon after it")
        with matplotlib.rc_context(found):
            figure = Figure()
            figure.suptitle("0")
            figure.savefig(io.BytesIO(), format="pdf")
    except Exception as error:  # whatever Matplotlib finds wrong with it
        reason = textwrap.shorten(str(getattr(error, "strerror", None) or error), 200)
        raise argparse.ArgumentTypeError(
            f"{path}: {reason}. Give a style file as common/paper.mplstyle is one"
        ) from None
    return path


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
