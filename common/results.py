"""Run folders: where results go, what is written in which order, and what counts as finished.

`config.json` is written first and `metrics.json` last; both appear whole or not at all. A folder
with metrics.json is a result; one without is unfinished and is gone on with.
"""

import hashlib
import shlex
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from common import files, flags, identity, models
from common.cli import RANK, ROOT, SEED, UserError, relative
from common.files import read_json, write_json

# An earlier result, until the run that takes its place has finished; and on its way there.
ASIDE, MOVING = ".replaced", ".replacing"
EARLIER = "finished earlier; --overwrite repeats it"  # how a summary calls it


def fingerprint(splits: dict[str, list]) -> str:
    """A hash of all examples: it identifies the data."""
    return hashlib.sha256(repr(sorted(splits.items())).encode()).hexdigest()


def dataset_name(task, args) -> str:
    """The data set's name in the result path."""
    own = args.data_dir.resolve().name if args.data_dir else task.DATASET
    name = "demo" if args.demo else args.dataset_name or own
    if name == "demo" and not args.demo:
        raise UserError(
            "a data set called demo would be mixed with the demo's results. Give it another name: "
            "--dataset_name NAME."
        )
    return name


class Run:
    """One cell of the study: its folder, and what identifies it in every table.

    The folder is `<output_dir>/<dataset>/<model>/<size>/seed-<n>/<step>`, and that of a variant
    (another probe, say) `<step>-<variant>`, see `flags.variant`.
    """

    def __init__(self, task, args, step: str, size: int | str, constants: dict):
        """`size`: a percentage or "random"; `constants`: what else identifies the step's method."""
        self.task, self.args, self.step = task, args, step
        if not models.fits(task.HEAD, args.model_name):
            raise UserError(
                f"{args.model_name} is no causal model, and {task.NAME} needs one. Give "
                f"--model_name {', '.join(models.CAUSAL)}, or another."
            )
        model, dataset = models.folder_name(args), dataset_name(task, args)
        self.about = {"task": task.NAME, "dataset": dataset, "model": model,
                      "training_size": size, "seed": args.seed}  # fmt: skip
        name = f"{step}-{args.variant}" if args.variant else step
        self.folder = args.output_dir / dataset / model / str(size) / f"seed-{args.seed}" / name
        arguments = identity.arguments(args)
        self.config = {**self.about, "step": step, "variant": args.variant, "arguments": arguments,
                       "settings": flags.settings(arguments) | constants}  # fmt: skip
        self.started = time.perf_counter()

    def identify(self, sha256: str, weights: str | None, checkpoint: str | None = None) -> None:
        """State what the run is made from: hashes of the data, the base model, and its checkpoint.

        Raises UserError if `checkpoint`, a folder, was fine-tuned on other data.
        """
        self.config |= {"data": {"full_sha256": sha256}, "weights": weights, "checkpoint": None}
        if checkpoint is None:
            return
        folder = Path(checkpoint).parent
        there = read_json(folder / "config.json") or {}
        command = self.command("fine-tuning", like=there.get("arguments"))
        again = f"Make it again:\n  {command} --overwrite"
        if there.get("data", {}).get("sha256") != sha256:
            raise UserError(
                f"{folder} was made from other data than lies there now. {again}\n"
                "or give other data a name of their own (--dataset_name)."
            )
        if there.get("weights", weights) != weights:
            raise UserError(
                f"{folder} was fine-tuned from another base model than lies there now. {again}"
            )
        metrics = read_json(folder / "metrics.json")
        if metrics is None:
            raise UserError(f"{folder} is just being made again. Wait for it to finish.")
        self.config["checkpoint"] = metrics.get("checkpoint_sha256")

    def finished(self) -> dict | None:
        """The metrics of a finished run; None if there is none, or with `--overwrite`.

        Raises UserError if what lies there was made with other settings or, where it is finished,
        from other data or another model. What other code made is used, with a warning.
        """
        if self.args.overwrite:
            return None
        config = read_json(self.folder / "config.json")
        metrics = read_json(self.folder / "metrics.json")
        if config is None:
            return metrics
        made = identity.made_from(config, self.config)
        if made and (metrics is not None or "fine-tuned model" in made):
            keep = "other data a name of their own (--dataset_name)"
            if made[0] != "data set":
                keep = "another --output_dir"
            raise UserError(
                f"{self.folder} was made from another {made[0]} than lies there now. Add "
                f"--overwrite to replace it, or give {keep}."
            )
        if other := identity.other_settings(config, self.config):
            earlier = self.folder / ASIDE
            hint = f" (An earlier result is still in {earlier}.)" * earlier.is_dir()
            raise UserError(
                f"{self.folder} holds a run with other settings: {', '.join(other)}. Give the "
                f"same settings, another --output_dir, or --overwrite to replace it.{hint}"
            )
        if metrics is not None:
            identity.warn_of_other_code(self.folder, config)
        return metrics

    def check_addition(self, made_of: dict) -> None:
        """Raises UserError where what is to be added would not be made as the finished rest was.

        `made_of`: `precision`, `encoder` (a hash), `max_length` and more, as they are here.
        """
        config = read_json(self.folder / "config.json") or {}
        there = config.get("data", {}) | {"max_length": config.get("max_length")}
        for key in ("precision", "encoder", "max_length"):
            if there.get(key) not in (None, made_of[key]):
                raise UserError(
                    f"{self.folder} was made with {key} {there[key]}, here it is {made_of[key]}: "
                    "what is missing there cannot be added. Make it anew with --overwrite."
                )

    @contextmanager
    def open(self, data: dict, *, extend: bool = False, **more):
        """Lock the folder, clear it if it is not to be gone on with, write config.json.

        `data` describes what the run is made of: an unfinished run is gone on with only where it,
        and the settings, are the same. `more` goes into config.json. A result that is to be
        replaced is put aside until the new one is finished, and comes back if the new run ends in
        an error of the user's. `extend`: a finished result stays as it is until `finish` adds to
        it. Raises UserError if another run is at work in the folder.
        """
        from filelock import FileLock, Timeout

        self.config["data"] |= data
        self.config |= more | identity.environment()
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
            if extend:
                there = read_json(self.folder / "config.json") or {}
                before, now = ({k: c.get(k) for k in identity.environment()}
                               for c in (there, self.config))  # fmt: skip
                # What made the rest, where that was other code or other libraries.
                self.config["earlier"] = [*there.get("earlier", []), *[before] * (before != now)]
                yield
                return
            if (self.folder / "metrics.json").exists() and not self.args.overwrite:
                raise UserError(
                    f"another process has just finished {self.folder}. Type the command again to "
                    "see its result."
                )
            files.remove_leftovers(self.folder)
            if (self.folder / "metrics.json").exists() or (self.folder / MOVING).exists():
                self._put_aside()
            earlier = read_json(self.folder / "config.json") or {}
            same = earlier.get("data") == self.config["data"] and not (
                identity.other_settings(earlier, self.config)
                or identity.made_from(earlier, self.config)
            )
            if self.args.overwrite or not same:
                self._remove()
            write_json(self.folder / "config.json", self.config)
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

    def finish(self, metrics: dict) -> dict:
        """Write metrics.json, which marks completion, then remove what was kept for a resume.

        `seconds`, if not given, is what this process took, without what a killed one had done.
        """
        metrics = self.about | {"seconds": time.perf_counter() - self.started} | metrics
        write_json(self.folder / "config.json", self.config)  # of what was added, too
        write_json(self.folder / "metrics.json", metrics)
        self._tidy()
        return metrics

    def tidy(self) -> None:
        """Remove what a run left that was killed at its very end; not while another is at work."""
        from filelock import FileLock, Timeout

        if RANK:
            return
        lock = FileLock(self.folder / ".lock")
        try:
            with lock.acquire(timeout=0):
                self._tidy()
        except Timeout:
            pass

    def _tidy(self) -> None:
        shutil.rmtree(self.folder / ASIDE, ignore_errors=True)
        for leftover in (f for end in ("pt", "npz") for f in self.folder.glob(f"*.{end}")):
            leftover.unlink(missing_ok=True)
        for leftover in (self.folder / "layers", *self.folder.glob("shards-*")):
            shutil.rmtree(leftover, ignore_errors=True)

    def title(self) -> str:
        """Which cell this is, in words."""
        size = self.about["training_size"]
        which = "untrained" if isinstance(size, str) else f"{size} %"
        return f"{self.about['model']} on {self.about['dataset']}, {which}, seed {self.args.seed}"

    def command(self, step: str, like: dict | None = None) -> str:
        """The command line of another step for the same model, data and size.

        `like`: the arguments of an earlier run of that step, whose settings it has.
        """
        args = self.args
        size = "training_sizes" if step == "attention" else "training_size"
        given = {size: self.about["training_size"], "model_name": args.model_name,
                 "data_dir": args.data_dir, "dataset_name": args.dataset_name,
                 "output_dir": args.output_dir if args.custom_output_dir else None}  # fmt: skip
        shared = {flag: getattr(args, flag, None) for flag in ("seed", "max_length", "precision")}
        own = flags.of_task(vars(args)) | shared | flags.settings(like or {})
        default = identity.defaults(self.task.NAME, step, args.demo) | {"seed": SEED}
        given |= {  # a task may have flags that the other step has not
            flag: value for flag, value in own.items() if value != default.get(flag, value)
        }
        parts = [
            f"--{flag}" if value is True else f"--{flag} {shlex.quote(str(value))}"
            for flag, value in given.items()
            if value is not None and value is not False  # but 0 is a size
        ]
        script = relative(self.task.NAME, f"{step}.py")
        return " ".join([f"python {script}", *parts, *["--demo"] * args.demo])

    def report_command(self) -> str:
        """The command line that writes the report of what there is; works in any folder."""
        parts = ["--tasks", self.task.NAME, "--dataset", self.about["dataset"]]
        if self.args.custom_output_dir:
            parts += ["--output_dir", str(self.args.output_dir)]
        cd = f"cd {shlex.quote(relative())} && " if Path.cwd() != ROOT else ""
        return f"{cd}python -m common.report {shlex.join(parts)}"


def checkpoints(runs: list[Run]) -> dict[Run, str | None]:
    """The checkpoint of each cell's fine-tuning run; None for size 0 and an untrained encoder.

    Raises UserError, with the commands that make them, if any of those runs is not finished.
    """
    folders = {
        run: run.folder.parent / "fine-tuning" for run in runs if run.about["training_size"] not in
        (0, "random")
    }  # fmt: skip
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
        here = identity.arguments(run.args)
        for flag in ("model_name", "demo", *flags.of_task(here)):
            default = identity.defaults(run.task.NAME, "fine-tuning", run.args.demo).get(flag)
            if there.get(flag, default) != here[flag]:
                raise UserError(
                    f"{folder} was made with --{flag} {there.get(flag)}, not {here[flag]}. Give "
                    "the same flags, or another --output_dir to both steps."
                )
    return {run: str(folders[run] / "checkpoint") if run in folders else None for run in runs}


def prefixed(prefix: str, values: dict) -> dict:
    """`values` with `prefix_` before every key."""
    return {f"{prefix}_{key}": value for key, value in values.items()}


def score_table(metrics: dict, scores) -> str:
    """A run's scores as text: by split, each beside the majority baseline's; "–" where missing."""
    splits = [split for split in ("dev", "test") if f"{split}_{scores[0].name}" in metrics]
    columns = [f"{split}{kind}" for split in splits for kind in ("", "_majority")]
    lines = [f"{'':28}" + "".join(f"{column.replace('_', ' '):>15}" for column in columns)]
    for score in scores:
        values = (metrics.get(f"{column}_{score.name}") for column in columns)
        cells = (f"{'–':>15}" if value is None else f"{value:15.4f}" for value in values)
        lines.append(f"{score.title:28}" + "".join(cells))
    return "\n".join(lines)
