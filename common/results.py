"""Run folders: where results go, what is written in which order, and what counts as finished.

`config.json` is written first and `metrics.json` last; both appear whole or not at all. A folder
with metrics.json is a result; one without is unfinished and is gone on with.
"""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from common.cli import RANK, ROOT, UserError
from common.files import read_json, write_json

# Flags that change where or how a run is made, not what it is.
_NOT_SETTINGS = ("output_dir", "custom_output_dir", "overwrite", "device", "save_minutes",
                 "keep_features", "training_sizes")  # fmt: skip
# An earlier result, until the run that takes its place has finished; and on its way there.
ASIDE, MOVING = ".replaced", ".replacing"


class Run:
    """One cell of the study: its folder, and what identifies it in every table.

    The folder is `<output_dir>/<dataset>/<model>/<size>/seed-<n>/<step>`.
    """

    def __init__(self, args, data, model: str, size: int | str, step: str):
        """`data` is the task's module, `model` a folder name, `size` a percentage or "random"."""
        self.args, self.step = args, step
        dataset = data.dataset_name(args)
        self.about = {"task": data.TASK, "dataset": dataset, "model": model,
                      "training_size": size, "seed": args.seed}  # fmt: skip
        self.folder = args.output_dir / dataset / model / str(size) / f"seed-{args.seed}" / step
        self.started = time.perf_counter()

    def finished(self, checkpoint: str | None = None) -> dict | None:
        """The metrics of a finished run; None if there is none, or with `--overwrite`.

        Raises UserError if what lies there, finished or not, was made with other settings or from
        another `checkpoint`.
        """
        if self.args.overwrite:
            return None
        config = read_json(self.folder / "config.json")
        if config is not None and config.get("checkpoint") != checkpoint_identity(checkpoint):
            raise UserError(
                f"{self.folder} was made from another fine-tuned model than lies there now. Add "
                "--overwrite to replace it."
            )
        if config is not None and (other := self._differences(config)):
            earlier = self.folder / ASIDE
            hint = f" (An earlier result is still in {earlier}.)" * earlier.is_dir()
            raise UserError(
                f"{self.folder} holds a run with other settings: {', '.join(other)}. Give the "
                f"same settings, or add --overwrite to replace it.{hint}"
            )
        metrics = read_json(self.folder / "metrics.json")
        if metrics is not None:
            self._tidy()  # in case it was killed between writing them and this
        return metrics

    def _differences(self, config: dict) -> list[str]:
        there, here = config.get("arguments", {}), arguments(self.args)
        return [
            f"--{flag} {there.get(flag)} (now {here[flag]})"
            for flag in here
            if flag not in _NOT_SETTINGS and here[flag] != there.get(flag)
        ]

    @contextmanager
    def open(self, data: dict, checkpoint: str | None = None, **more):
        """Lock the folder, clear it if it is not to be gone on with, write config.json.

        `data` describes what the run is made of: an unfinished run is gone on with only where it,
        and the arguments, are the same. `more` goes into config.json. A result that is to be
        replaced is put aside until the new one is finished, and comes back if the new run ends in
        an error of the user's. Raises UserError if another run is at work in the folder.
        """
        from filelock import FileLock, Timeout

        if RANK:  # under torchrun the first process writes
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)  # given back by the system, however the process ends
        except Timeout:
            raise UserError(
                f"another process is at work in {self.folder}. Wait for it, or give another "
                "--output_dir."
            ) from None
        try:
            if (self.folder / "metrics.json").exists() and not self.args.overwrite:
                raise UserError(
                    f"another process has just finished {self.folder}. Type the command again to "
                    "see its result."
                )
            for left in self.folder.glob(".*.tmp"):  # of a write that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if (self.folder / "metrics.json").exists() or (self.folder / MOVING).exists():
                self._put_aside()
            earlier = read_json(self.folder / "config.json") or {}
            if self.args.overwrite or earlier.get("data") != data or self._differences(earlier):
                self._remove()
            config = {**self.about, "step": self.step, "arguments": arguments(self.args),
                      "data": data, "checkpoint": checkpoint_identity(checkpoint),
                      **more, **environment()}  # fmt: skip
            write_json(self.folder / "config.json", config)
            try:
                yield
            except UserError:
                self._put_back()
                raise
        finally:
            lock.release()

    def _entries(self) -> list[Path]:
        # A probe's features are known by a hash of all they depend on, and kept on demand.
        apart = (".lock", ASIDE, MOVING, "features")
        return [entry for entry in self.folder.iterdir() if entry.name not in apart]

    def _put_aside(self) -> None:
        """Killed in the midst of it, the next call goes on; config.json is then still the old."""
        aside, moving = self.folder / ASIDE, self.folder / MOVING
        moving.mkdir(exist_ok=True)
        first = self.folder / "metrics.json"  # without it, there is no result any more
        for entry in sorted(self._entries(), key=lambda entry: entry != first):
            entry.rename(moving / entry.name)
        shutil.rmtree(aside, ignore_errors=True)
        moving.rename(aside)

    def _put_back(self) -> None:
        aside = self.folder / ASIDE
        if not (aside / "config.json").exists() or (self.folder / "metrics.json").exists():
            return
        self._remove()
        last = aside / "metrics.json"
        for entry in sorted(aside.iterdir(), key=lambda entry: entry == last):
            entry.rename(self.folder / entry.name)
        aside.rmdir()

    def _remove(self) -> None:
        for entry in self._entries():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def title(self) -> str:
        """Which cell this is, in words."""
        size = self.about["training_size"]
        which = size if size == "random" else f"{size} %"
        return f"{self.about['model']} on {self.about['dataset']}, {which}, seed {self.args.seed}"

    def command(self, step: str) -> str:
        """The command line of another step for the same model, data and size."""
        args, size = self.args, self.about["training_size"]
        flags = {"training_sizes" if step == "attention" else "training_size": size}
        flags |= {"model_name": args.model_name, "data_dir": args.data_dir}
        flags |= {"dataset_name": args.dataset_name, "seed": None if args.seed == 42 else args.seed}
        flags["output_dir"] = args.output_dir if args.custom_output_dir else None
        flags["label_scheme"] = getattr(args, "label_scheme", "io")
        if flags["label_scheme"] == "io":
            del flags["label_scheme"]
        parts = [f"--{k} {shlex.quote(str(v))}" for k, v in flags.items() if v is not None]
        script = os.path.relpath(ROOT / self.about["task"] / f"{step}.py")
        return " ".join([f"python {script}", *parts, *["--demo"] * args.demo])

    def check_data(self, checkpoint: str | None, sha256: str) -> None:
        """Raises UserError if `checkpoint` was fine-tuned on data of another `fingerprint`."""
        if checkpoint is None:
            return
        folder = Path(checkpoint).parent
        made_of = (read_json(folder / "config.json") or {}).get("data", {})
        if made_of.get("sha256") != sha256:
            raise UserError(
                f"{folder} was made from other data than lies there now. Make it again:\n"
                f"  {self.command('fine-tuning')} --overwrite\n"
                "or give other data a name of their own (--dataset_name)."
            )

    def finish(self, metrics: dict) -> dict:
        """Write metrics.json, which marks completion, then remove what was kept for a resume.

        `seconds` is what this process took; what a killed run had done before is not in it.
        """
        metrics = self.about | metrics | {"seconds": time.perf_counter() - self.started}
        write_json(self.folder / "metrics.json", metrics)
        self._tidy()
        return metrics

    def _tidy(self) -> None:
        shutil.rmtree(self.folder / ASIDE, ignore_errors=True)
        for leftover in (f for end in ("pt", "npz") for f in self.folder.glob(f"*.{end}")):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "layers", ignore_errors=True)


def checkpoints(runs: list[Run]) -> dict[Run, str | None]:
    """The checkpoint of each cell's fine-tuning run; None for size 0 and an untrained encoder.

    Raises UserError, with the commands that make them, if any of those runs is not finished.
    """
    folders = {
        run: run.folder.parent / "fine-tuning"
        for run in runs
        if run.about["training_size"] not in (0, "random")
    }
    missing = [
        run
        for run, folder in folders.items()
        if not (folder / "metrics.json").is_file() or not (folder / "checkpoint").is_dir()
    ]
    if missing:
        sizes = ", ".join(f"{run.about['training_size']} %" for run in missing)
        commands = "\n  ".join(run.command("fine-tuning") for run in missing)
        raise UserError(
            f"no fine-tuned {runs[0].about['model']} for {sizes} in "
            f"{folders[missing[0]].parents[2]}. Make it first:\n  {commands}"
        )
    for run, folder in folders.items():
        there = (read_json(folder / "config.json") or {}).get("arguments", {})
        here = arguments(run.args)
        for flag in ("model_name", "data_dir", "demo", "label_scheme"):
            if flag in here and there.get(flag) != here[flag]:
                raise UserError(
                    f"{folder} was made with --{flag} {there.get(flag)}, not {here[flag]}. Give "
                    "the same flags, or another --output_dir to both steps."
                )
    return {run: str(folders[run] / "checkpoint") if run in folders else None for run in runs}


def checkpoint_identity(checkpoint: str | None) -> str | None:
    """Tells a fine-tuned model from one made later in its place: the hash of its weights."""
    if checkpoint is None:
        return None
    folder = Path(checkpoint).parent
    metrics = read_json(folder / "metrics.json")
    if metrics is None:
        raise UserError(f"{folder} is just being made again. Wait for it to finish.")
    return metrics.get("checkpoint_sha256")


def arguments(args) -> dict:
    """Every resolved argument, as JSON values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in sorted(vars(args).items())}


def environment() -> dict:
    """What a rerun elsewhere would need to know: commit, versions, platform."""
    packages = ("torch", "transformers", "tokenizers", "numpy", "scikit-learn")
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


def fingerprint(splits: dict[str, list]) -> str:
    """A hash of all examples, to know the same data again."""
    return hashlib.sha256(repr(sorted(splits.items())).encode()).hexdigest()


def prefixed(prefix: str, values: dict) -> dict:
    """`values` with `prefix_` before every key."""
    return {f"{prefix}_{key}": value for key, value in values.items()}


def score_table(metrics: dict, scores: Iterable[str]) -> str:
    """A run's main scores as text: by split, each beside the majority baseline's."""
    splits = [split for split in ("dev", "test") if f"{split}_{next(iter(scores))}" in metrics]
    columns = [f"{split}{kind}" for split in splits for kind in ("", "_majority")]
    lines = [f"{'':22}" + "".join(f"{column.replace('_', ' '):>15}" for column in columns)]
    for score in scores:
        values = (metrics[f"{column}_{score}"] for column in columns)
        lines.append(f"{score:22}" + "".join(f"{value:15.4f}" for value in values))
    return "\n".join(lines)
