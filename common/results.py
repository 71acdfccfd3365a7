"""Results: where they lie, what makes two of them the same, and how they are written once.

A result is a folder. It is made in `<step>.partial/`, and renamed when it is complete; after that
nothing in it changes. What a later call needs to resume lies in `<step>.partial/work/`.
"""

import functools
import hashlib
import logging
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from common import models
from common.cli import RANK, ROOT, UNTRAINED, UserError, relative
from common.files import read_json, write_json

ABOUT = ("task", "dataset", "model", "training_size", "seed")  # in every row of a result's tables
EARLIER = "finished earlier; --overwrite repeats it"  # how a summary calls it
log = logging.getLogger(__name__)
TUNING = "fine-tuning"  # the step whose results have checkpoints
PARTIAL, REPLACED, WORK = ".partial", ".replaced", "work"
# The metrics that are no numbers.
WORDS = {"task", "dataset", "model", "training_size", "split", "checkpoint_sha256"}
# What must be the same in two results that belong together: of results of one ...
INPUTS = {
    "data": ("data set", ("task", "dataset")),
    "model": ("base model", ("model",)),
    "checkpoint": ("fine-tuned model", ("model", "training_size", "seed", "variant")),
    "attention": ("attention result", ("model", "training_size", "seed", "variant")),
}


class Cell(NamedTuple):
    """One cell of the study, and the folder of its result."""

    root: Path  # <TASK>/results, or --output_dir
    task: str
    dataset: str
    model: str
    size: int | str  # a percentage, or "random": an encoder that was never trained
    seed: int
    step: str
    variant: str = ""

    @property
    def folder(self) -> Path:
        """`<root>/<dataset>/<model>/<size>/seed-<n>/<step>[-<variant>]`."""
        name = "-".join(filter(None, (self.step, self.variant)))
        parts = map(str, (self.dataset, self.model, self.size))
        return self.root.joinpath(*parts, f"seed-{self.seed}", name)

    @property
    def partial(self) -> Path:
        return self.folder.with_name(self.folder.name + PARTIAL)

    @property
    def about(self) -> dict:
        """What stands in every row of its tables."""
        return dict(zip(ABOUT, self[1:6], strict=True))

    def title(self) -> str:
        """Which cell this is, in words."""
        which = "untrained" if self.size == UNTRAINED else f"{self.size} %"
        return f"{self.model} on {self.dataset}, {which}, seed {self.seed}"


class Begun(NamedTuple):
    """What a script's call (`common.flags.Call`) reads before it knows whether there is work."""

    call: Any
    source: Any  # the model, see `common.models.Source`
    data: Any
    hashes: dict[str, str | None]  # of "data" and "model"; None: the model's name identifies it

    def cell(self, size: int | str) -> Cell:
        """The cell of a size."""
        call, args = self.call, self.call.args
        root = args.output_dir or ROOT / call.task.NAME / "results"
        own = args.data_dir.resolve().name if args.data_dir else call.task.DATASET
        dataset = "demo" if args.demo else args.dataset_name or own
        about = call.task.NAME, dataset, self.source.results, size, args.seed
        return Cell(root, *about, call.step, call.variant(size))

    def config(self, cell: Cell, settings: dict, checkpoint: str | None = None) -> dict:
        """config.json: the cell, what identifies the result, and how to make it again."""
        return {
            **cell.about,
            "step": cell.step,
            "variant": cell.variant,
            "settings": self.call.settings | settings,
            "inputs": self.hashes | {"checkpoint": checkpoint},
            "environment": environment(),
            "command": self.call.command,
        }


def begin(call) -> Begun:
    """Find the model and read the data that a call names. UserError if they do not fit the task."""
    args, task = call.args, call.task
    source = models.source(args.model_name, args.demo)
    if not models.fits(task.HEAD, source.name):
        raise UserError(
            f"{source.name} is no causal model, and {task.NAME} needs one. Give --model_name "
            f"{', '.join(models.CAUSAL)}, or another."
        )
    data = task.load(args.demo, args.data_dir, **call.options)
    hashes = {"data": fingerprint(data.splits), "model": source.identity()}
    return Begun(call, source, data, hashes)


def differences(one: dict, other: dict) -> list[str]:
    """In what two results differ, by their config.json, in words; empty: they are the same.

    What one of them leaves to the hardware or the model is no difference. Of the inputs, only those
    are compared that must be the same: results of two models have different weights.
    """
    a, b = one.get("settings", {}), other.get("settings", {})
    texts = [
        f"{key} {a[key]} against {b[key]}"
        for key in sorted(a.keys() & b.keys())
        if a[key] != b[key]
    ]
    for key, (name, cell) in INPUTS.items():
        together = all(one.get(part) == other.get(part) for part in cell)
        hashes = [config.get("inputs", {}).get(key) for config in (one, other)]
        if together and hashes[0] != hashes[1]:
            texts.append(f"another {name}")
    return texts


def read(folder: Path) -> tuple[dict, dict]:
    """(config.json, metrics.json) of a result. Raises UserError, with the remedy, for damage."""
    config, metrics = (read_json(folder / name) for name in ("config.json", "metrics.json"))
    if name := damaged(config, metrics):
        raise UserError(f"{folder / name} is missing or damaged. {again(folder, config)}")
    return config, metrics


def damaged(config, metrics) -> str:
    """Which of a result's two JSON files is not what a step wrote; "" if none is.

    All metrics are numbers, or None where nothing was measured, but for WORDS.
    """
    if not (isinstance(config, dict) and config.get("command")):
        return "config.json"
    whole = isinstance(metrics, dict) and "seconds" in metrics
    values = [value for key, value in metrics.items() if key not in WORDS] if whole else [""]
    return "" if all(isinstance(value, int | float | None) for value in values) else "metrics.json"


def again(folder: Path, config) -> str:
    """How to make a result again, by its config.json."""
    if not (isinstance(config, dict) and config.get("command")):
        return f"Delete the folder {folder}, then type the command that made it."
    python, script, *rest = config["command"].split(" ", 2)
    typed, root = shlex.split(config["command"]), folder.parents[4]
    place = typed[typed.index("--output_dir") + 1] if "--output_dir" in typed else ""
    if Path(place or ROOT / str(config.get("task")) / "results").resolve() != root.resolve():
        rest += ["--output_dir", shlex.quote(str(root))]  # it was moved; the last one counts
    command = " ".join([python, relative(script), *rest, "--overwrite"])
    return f"Make the result again:\n  {command}"


def finished(cell: Cell, config: dict, overwrite: bool) -> dict | None:
    """The metrics of the cell's result; None if there is none yet, or with `overwrite`.

    Raises UserError if the result that lies there was made in another way, or if another process is
    making it: before a model is loaded.
    """
    settle(cell)
    if overwrite or not cell.folder.is_dir():
        return None
    there, metrics = read(cell.folder)
    if texts := differences(there, config):
        keep = ", or keep both: give another --output_dir or --dataset_name"
        keep *= cell.step == TUNING  # other steps read its results, which lie there
        raise UserError(
            f"{cell.folder} holds another result: {', '.join(texts)} (there against here). Add "
            f"--overwrite to replace it{keep}."
        )
    return metrics


@contextmanager
def making(cell: Cell, config: dict, device=None) -> Iterator[Path]:
    """Yield the folder in which the result is made; it becomes the result if `finish` was called.

    `device`: the `common.device.Device` that computes it, which goes into `config`.
    What an unfinished call left there is kept if it has the same settings and inputs, else removed.
    Raises UserError if another process is at work in the folder.
    """
    folder = cell.partial
    if device:
        config["environment"] |= device.describe()
        config["settings"]["precision"] = device.precision
    if RANK:  # under torchrun the first process writes
        yield folder
        return
    with _locked(folder):
        there = read_json(folder / "config.json")
        texts = differences(there, config) if there else []
        if texts:
            begun = "an unfinished run with other settings or inputs lay there and is removed"
            log.warning("%s: %s (%s)", folder, begun, ", ".join(texts))
        if texts or not there:
            _remove(path for path in folder.iterdir() if path.name != ".lock")
        write_json(folder / "config.json", config)
        (folder / WORK).mkdir(exist_ok=True)
        yield folder
        _rename(cell)


def finish(cell: Cell, metrics: dict, started: float) -> dict:
    """Write metrics.json, the last file of a result; `started`: time.perf_counter() at its start.

    `seconds` is what this process took, without what a killed one had done.
    """
    metrics = cell.about | {"seconds": time.perf_counter() - started} | metrics
    write_json(cell.partial / "metrics.json", metrics)
    return metrics


def settle(cell: Cell) -> None:
    """Rename what a killed call had completed. Raises UserError if another process makes it."""
    if not RANK and cell.partial.is_dir():
        with _locked(cell.partial):
            _rename(cell)


@contextmanager
def _locked(folder: Path):
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):  # released however the process ends
            yield
    except Timeout:
        raise UserError(
            f"another process is at work in {folder}: {folder.stem} is in progress. Wait for it, "
            "then type the same command again, or give another --output_dir."
        ) from None


def _rename(cell: Cell) -> None:
    """A complete partial folder becomes the result; an earlier one goes when it is there."""
    if not (cell.partial / "metrics.json").is_file():
        return  # unfinished, or another process has renamed it
    shutil.rmtree(cell.partial / WORK, ignore_errors=True)
    _remove(cell.partial.glob(".*.tmp"))  # left by killed calls
    replaced = cell.folder.with_name(cell.folder.name + REPLACED)
    if cell.folder.is_dir():
        shutil.rmtree(replaced, ignore_errors=True)
        cell.folder.rename(replaced)
    cell.partial.rename(cell.folder)
    (cell.folder / ".lock").unlink(missing_ok=True)
    shutil.rmtree(replaced, ignore_errors=True)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fingerprint(splits: dict[str, list]) -> str:
    """A hash of all examples, to know the same data again."""
    return hashlib.sha256(repr(sorted(splits.items())).encode()).hexdigest()


@functools.cache
def environment() -> dict:
    """What a rerun elsewhere would need to know: versions, platform, and the code's commit.

    The commit is None outside a git checkout, and ends in "-dirty" if the code was edited.
    """
    packages = ("torch", "transformers", "tokenizers", "peft", "numpy", "scikit-learn")
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {
        "git_commit": commit or None,
        "python": sys.version.split()[0],
        "platform": sys.platform,
        **{name: version(name) for name in packages},
    }
