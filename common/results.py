"""Results: where they lie, what makes two of them the same, and how they are written once.

A result is a folder. It is made in `<step>.partial/`, and renamed when it is complete; after that
nothing in it changes. What a later call needs to resume lies in `<step>.partial/work/`.
"""

import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from common import models
from common.cli import RANK, ROOT, UNTRAINED, UserError, from_here
from common.files import read_json, write_json

log = logging.getLogger(__name__)
EARLIER = "finished earlier; --overwrite repeats it"  # how a summary calls it
PARTIAL, REPLACED, WORK = ".partial", ".replaced", "work"
# What must be the same in two results that belong together: of results of one ...
INPUTS = {
    "data": ("data set", ("task", "dataset")),
    "model": ("base model", ("model",)),
    "checkpoint": ("fine-tuned model", ("model", "training_size", "seed", "variant")),
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
        return self.root / self.dataset / self.model / str(self.size) / f"seed-{self.seed}" / name

    @property
    def partial(self) -> Path:
        """Where the result is made."""
        return self.folder.with_name(self.folder.name + PARTIAL)

    @property
    def about(self) -> dict:
        """What stands in every row of its tables."""
        names = ("task", "dataset", "model", "training_size", "seed")
        return dict(zip(names, self[1:6], strict=True))

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
        args, task = self.call.args, self.call.task
        own = args.data_dir.resolve().name if args.data_dir else task.DATASET
        dataset = "demo" if args.demo else args.dataset_name or own
        root = args.output_dir or ROOT / task.NAME / "results"
        about = task.NAME, dataset, self.source.results, size, args.seed
        return Cell(root, *about, self.call.step, self.call.variant(size))

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
    """Find the model and read the data that a call names.

    Raises UserError if the task cannot use the model, or the data are called as the demo's.
    """
    args, task = call.args, call.task
    source = models.source(args.model_name, args.demo)
    if not models.fits(task.HEAD, source.name):
        raise UserError(
            f"{source.name} is no causal model, and {task.NAME} needs one. Give --model_name "
            f"{', '.join(models.CAUSAL)}, or another."
        )
    named = args.dataset_name or (args.data_dir and args.data_dir.resolve().name)
    if named == "demo" and not args.demo:
        raise UserError(
            "a data set called demo would be mixed with the demo's results. Give it another name: "
            "--dataset_name NAME."
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
    for name, content in (("config.json", config), ("metrics.json", metrics)):
        if not isinstance(content, dict):
            raise UserError(f"{folder / name} is missing or damaged. {again(folder, config)}")
    return config, metrics


def again(folder: Path, config) -> str:
    """How to make a result again, by its config.json."""
    if not (isinstance(config, dict) and config.get("command")):
        return f"Delete the folder {folder}, then type the command that made it."
    return f"Make the result again:\n  {from_here(config['command'])} --overwrite"


def finished(cell: Cell, config: dict, overwrite: bool) -> dict | None:
    """The metrics of the cell's result; None if there is none yet, or with `overwrite`.

    Raises UserError if the result that lies there was made in another way. A result of other code
    is used, with a warning.
    """
    if _finish_rename(cell, config):
        overwrite = False  # a killed call with --overwrite had just made it
    if overwrite or not cell.folder.is_dir():
        return None
    there, metrics = read(cell.folder)
    if texts := differences(there, config):
        raise UserError(
            f"{cell.folder} holds another result: {', '.join(texts)} (there against here). Add "
            "--overwrite to replace it, or keep both: give another --output_dir, or other data "
            "their own --dataset_name."
        )
    made_by, now = (c["environment"].get("git_commit") for c in (there, config))
    if made_by and now and made_by != now:
        path = os.path.relpath(cell.folder)
        log.warning("%s was made by other code (commit %s); it is used", path, made_by[:12])
    return metrics


@contextmanager
def making(cell: Cell, config: dict) -> Iterator[Path]:
    """Yield the folder in which the result is made; it becomes the result if `finish` was called.

    What an unfinished call left there is kept if it has the same settings and inputs, else removed.
    Raises UserError if another process is at work in the folder.
    """
    folder = cell.partial
    if RANK:  # under torchrun the first process writes
        yield folder
        return
    with _locked(folder):
        there = read_json(folder / "config.json")
        if not isinstance(there, dict) or differences(there, config):
            _clear(folder)
        write_json(folder / "config.json", config)
        (folder / WORK).mkdir(exist_ok=True)
        yield folder
        if (folder / "metrics.json").is_file():
            _rename(cell)


def finish(cell: Cell, metrics: dict, started: float) -> dict:
    """Write metrics.json, the last file of a result; `started`: time.perf_counter() at its start.

    `seconds` is what this process took, without what a killed one had done.
    """
    metrics = cell.about | {"seconds": time.perf_counter() - started} | metrics
    write_json(cell.partial / "metrics.json", metrics)
    return metrics


@contextmanager
def _locked(folder: Path):
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)  # the system releases it, however the process ends
    except Timeout:
        raise UserError(
            f"another process is at work in {folder}. Wait for it, or give another --output_dir."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _finish_rename(cell: Cell, config: dict) -> bool:
    """Rename a complete result that a killed process has not renamed any more."""
    if RANK or not (cell.partial / "metrics.json").is_file():
        return False
    there = read_json(cell.partial / "config.json")
    if not isinstance(there, dict) or differences(there, config):
        return False
    with _locked(cell.partial):
        _rename(cell)
    return True


def _rename(cell: Cell) -> None:
    """The complete partial folder becomes the result; an earlier one goes when it is there."""
    shutil.rmtree(cell.partial / WORK, ignore_errors=True)
    for leftover in cell.partial.glob(".*.tmp"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    replaced = cell.folder.with_name(cell.folder.name + REPLACED)
    if cell.folder.is_dir():
        shutil.rmtree(replaced, ignore_errors=True)
        cell.folder.rename(replaced)
    cell.partial.rename(cell.folder)
    (cell.folder / ".lock").unlink(missing_ok=True)
    shutil.rmtree(replaced, ignore_errors=True)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name != ".lock":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def fingerprint(splits: dict[str, list]) -> str:
    """A hash of all examples, to know the same data again."""
    return hashlib.sha256(repr(sorted(splits.items())).encode()).hexdigest()


@functools.cache
def environment() -> dict:
    """What a rerun elsewhere would need to know: commit, versions, platform."""
    packages = ("torch", "transformers", "tokenizers", "peft", "numpy", "scikit-learn")
    return {
        "git_commit": commit(),
        "python": sys.version.split()[0],
        "platform": sys.platform,
        **{name: version(name) for name in packages},
    }


@functools.cache
def commit() -> str | None:
    """The code's commit, `-dirty` where it was edited since; None outside a git checkout."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        printed = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return printed.strip() or None
