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
import signal
import sys
import textwrap
import threading
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
MEANT = {"--lr": "--learning_rate", "--epochs": "--num_train_epochs"}  # what others call a flag
log = logging.getLogger(__name__)


def relative(*parts: str) -> str:
    """A path in the repository as it is typed from where the user is."""
    return os.path.relpath(ROOT.joinpath(*parts))


class UserError(Exception):
    """Something the user can fix. The message names the thing, the place, and what to type."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which Slurm sends before it kills: treated as Ctrl-C, but for the exit code."""


# What the operating system refuses and a user can fix: space, quota, size, rights, names.
_FIXABLE = "ENOSPC EDQUOT EFBIG EACCES EPERM EROFS ENOTDIR EEXIST ENAMETOOLONG".split()


def command(main):
    """Decorate a script's `main(argv=None)`: 0 when done, else `SystemExit`.

    2: the user can fix it; 130: Ctrl-C; 143: SIGTERM. Anything else is a bug and keeps its
    traceback (exit code 1).
    """

    @functools.wraps(main)
    def guarded(argv: list[str] | None = None) -> int:
        logging.basicConfig(
            level=logging.ERROR if RANK else logging.INFO, format="%(message)s", stream=sys.stderr
        )
        for chatty in ("httpx", "httpx2", "huggingface_hub", "filelock", "matplotlib", "fontTools"):
            logging.getLogger(chatty).setLevel(logging.ERROR)
        _raise_at_sigterm()
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
            if errno.errorcode.get(error.errno) not in _FIXABLE:
                raise
            where = f" {error.filename}" if error.filename else ""
            message = f"cannot use{where}: {error.strerror}. Fix that, or choose another place "
            message += "(--output_dir); then type the same command again."
        except KeyboardInterrupt as error:
            print("\ninterrupted. To go on, type the same command.", file=sys.stderr)
            raise SystemExit(143 if isinstance(error, Terminated) else 130) from None
        if RANK:  # where the first process has the same error, torchrun ends this one meanwhile
            time.sleep(3)
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)

    return guarded


def script(file: str, name: str, doc: str, **settings) -> tuple[Callable, Callable]:
    """(parse_args, main) of a task's script, whose path `file` names the task and the step; with
    the `name` "__main__" it runs. `settings`: those of the step's `parse_args`."""
    from common import predict, steps
    from common import task as contract

    path = Path(file).resolve()
    task = contract.load(path.parent.name)
    step = predict if path.stem == "predict" else steps.STEPS[path.stem]

    def parse_args(argv: list[str] | None = None):
        return step.parse_args(task, doc, argv, **settings)

    main = command(lambda argv=None: step.run(parse_args(argv)))
    if name == "__main__":
        sys.exit(main())
    return parse_args, main


def _raise_at_sigterm() -> None:
    def terminate(*_):
        raise Terminated

    usual = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if usual and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


class Parser(argparse.ArgumentParser):
    """`argparse`, with one line for an error and the script's docstring as its help."""

    def __init__(self, doc: str, writes: str = ""):
        """`writes`: for the help, the folder and the files of a step's result."""
        if writes:
            where = f"results/<dataset>/<model>/<size>/seed-<n>/{writes}"
            text = (
                f"Writes {where}, config.json, metrics.json. After a kill the same command resumes."
            )
            doc += "\n" + textwrap.fill(text, 100)
        script = sys.argv[0]  # as it is typed from where the user is
        super().__init__(
            prog=os.path.relpath(script) if script.endswith(".py") else None,
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        # By flag: its default, and that with --demo; or a function of the arguments, of both.
        self.fallbacks: dict[str, tuple | Callable[[argparse.Namespace], tuple]] = {}
        self.task_flags: list[str] = []  # those that the task has added

    def flags(self) -> list[str]:
        return [action.dest for action in self._actions if action.dest != "help"]

    def error(self, message: str):
        _, unknown, given = message.partition("unrecognized arguments: ")
        first = given.split(" ")[0]
        if first.startswith("-"):
            message += did_you_mean(first.split("=")[0], self._option_string_actions)
        elif unknown and first in sys.argv:  # a value too many
            before = map(self._option_string_actions.get, sys.argv[: sys.argv.index(first)])
            if taking := [action for action in before if action and action.nargs != 0]:
                several = isinstance(taking[-1].default, list)
                form = "values with commas and no spaces" if several else "one value"
                message += f"; {taking[-1].option_strings[0]} takes {form}"
        self.exit(2, f"error: {message} (all flags: python {self.prog} --help)\n")


def did_you_mean(text: str, known, cutoff: float = 0.7) -> str:
    """The end of a message, with what is nearest to `text`; "" where nothing is near."""
    near = [MEANT[text]] if MEANT.get(text) in known else []
    near += difflib.get_close_matches(text, known, 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def number(kind, low, high=math.inf, open_low=False):
    """An argparse type: an `int` or `float` between `low` and `high`."""

    def parse(text: str):
        with contextlib.suppress(ValueError):
            value = kind(text)
            if (low < value if open_low else low <= value) and value <= high:
                return value
        least = f"above {low}" if open_low else f"of at least {low}"
        most = f" and at most {high}" if high != math.inf else ""
        name = "a whole number" if kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{text!r} is not {name} {least}{most}")

    return parse


def list_of(kind, allowed=()):
    """An argparse type: values with commas, once each in the order given; of `allowed`, if any."""

    def parse(text: str) -> list:
        try:
            parts = [kind(part) for part in text.split(",")]
        except ValueError:
            parts = [""]
        wrong = [v for v in parts if v == "" or (allowed and v not in allowed)]
        if wrong or " " in text:
            form = f"take from {','.join(map(str, allowed))}, " if allowed else ""
            raise argparse.ArgumentTypeError(f"{text!r}: {form}with commas and no spaces")
        return list(dict.fromkeys(parts))

    return parse
