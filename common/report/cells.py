"""Reads the results of one task on one data set; what is not whole, or not alike, is left out.

A cell of the study is a step of a model at a size; its runs differ in the seed.
"""

import csv
import json
import logging
import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.models import MODELS
from common.report import statistics

log = logging.getLogger(__name__)
STEPS = ("fine-tuning", "probing", "attention")
MAIN_METRICS = ("accuracy", "entity_f1")  # the first that was measured is a task's main score
# Arguments that say which cell it is, or where and how it was made: they may differ in a table.
_MAY_DIFFER = {"model_name", "training_size", "training_sizes", "seed", "output_dir", "overwrite",
               "custom_output_dir", "device", "save_minutes", "keep_features", "data_dir",
               "dataset_name", "random_init", "control", "floor", "layers"}  # fmt: skip


class Score(NamedTuple):
    """A mean over runs; where known its 95 % interval and, of several runs, their deviation."""

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None
    n: int | None = None  # runs


@dataclass(eq=False)
class Run:
    """A finished run: what its files say."""

    folder: Path
    step: str
    model: str
    size: int | str
    seed: int
    metrics: dict
    config: dict
    counts: dict = field(default_factory=dict)  # from predictions.jsonl, see statistics.counts
    examples: int | None = None  # a hash of what they predict
    resampled: dict[str, statistics.Resampled] = field(default_factory=dict)  # by metric
    layers: dict[str, dict[int, float]] = field(default_factory=dict)  # by curve, see _read_layers


def run_folders(dataset: Path) -> list[Path]:
    """The folders of all runs on a data set, finished or not."""
    return sorted(f for f in dataset.glob("*/*/seed-*/*") if f.name in STEPS and f.is_dir())


def task_of(folder: Path) -> str | None:
    """Which task a run is of; None if its config.json does not say."""
    try:
        return _object(folder / "config.json").get("task")
    except ValueError:
        return None


class Results:
    """The runs of `task` in the folder of a data set; `problems` names what was passed over."""

    def __init__(self, dataset: Path, task: str):
        self.folder, self.task, self.name = dataset, task, dataset.name
        self.problems: list[str] = []
        folders = run_folders(dataset)
        runs = [run for run in map(self._read, folders) if run]
        measured = {key for run in runs for key in run.metrics}
        self.main = next((m for m in MAIN_METRICS if f"test_{m}" in measured), MAIN_METRICS[0])
        others = (key.removeprefix("test_majority_") for run in runs for key in run.metrics
                  if key.startswith("test_majority_"))  # fmt: skip
        self.metrics = list(dict.fromkeys([self.main, *others]))
        runs = [run for run in runs if self._complete(run)]
        for step in STEPS:
            runs = self._alike(runs, step, _made_from, "other data, or another part of it,")
        for run in runs:
            if run.step == "fine-tuning":
                self._read_predictions(run)
            elif run.step == "probing":
                self._read_layers(run)
        runs = self._alike(runs, "fine-tuning", lambda run: run.examples, "other test examples")
        self.runs = self._resample(runs)
        names = {folder.parents[2].name for folder in folders}  # a row even if nothing is whole
        self.models = [m for m in MODELS if m in names] + sorted(names - set(MODELS))
        self._cells = defaultdict(list)
        for run in self.runs:
            self._cells[run.step, run.model, run.size].append(run)

    def cell(self, step: str, model: str, size: int | str) -> list[Run]:
        """The runs of a cell, by seed; none if it is missing."""
        return self._cells.get((step, model, size), [])

    def score(self, step: str, model: str, size: int | str, key: str) -> Score | None:
        """The mean of metrics.json's `key` over the runs that have it; None if none has.

        With the bootstrap interval of the mean where the predictions of all those runs are there.
        """
        runs = [run for run in self.cell(step, model, size) if key in run.metrics]
        if not runs:
            return None
        value, std, n = statistics.mean_std([run.metrics[key] for run in runs])
        found = self.resampled(model, size, key) if step == "fine-tuning" else None
        low, high = statistics.interval(found.samples) if found else (None, None)
        return Score(value, low, high, std, n)

    def resampled(self, model: str, size: int, key: str) -> statistics.Resampled | None:
        """The mean test score of a fine-tuned cell's runs on all resamples of the test split."""
        runs = self.cell("fine-tuning", model, size)
        each = [run.resampled.get(key.removeprefix("test_")) for run in runs]
        return statistics.mean(each) if each and None not in each else None

    def curve(self, model: str, size: int | str, name: str) -> dict[int, Score]:
        """A probe's curve (see `_read_layers`) by layer, the mean over the runs that have it."""
        curves = [r.layers[name] for r in self.cell("probing", model, size) if name in r.layers]
        found = {}
        for layer in sorted({layer for curve in curves for layer in curve}):
            value, std, n = statistics.mean_std([c[layer] for c in curves if layer in c])
            found[layer] = Score(value, std=std, n=n)
        return found

    def differing_settings(self) -> list[str]:
        """Arguments (and commits) in which the runs of a step are not alike, as text."""
        lines = []
        for step in STEPS:
            values = defaultdict(Counter)
            for run in (run for run in self.runs if run.step == step):
                described = {"git_commit": run.config.get("git_commit")} | run.config["arguments"]
                for name in described.keys() - _MAY_DIFFER:
                    values[name][str(described[name])] += 1
            for name, found in sorted(values.items()):
                if len(found) > 1:
                    shown = ", ".join(f"{v} ({n} runs)" for v, n in sorted(found.items()))
                    lines.append(f"{step}, {name}: {shown}")
        return lines

    def _note(self, folder: Path, reason: str) -> None:
        self.problems.append(f"{folder.relative_to(self.folder).as_posix()}: {reason}")
        log.warning("%s is passed over: %s", folder, reason)

    def _read(self, folder: Path) -> Run | None:
        """config.json and metrics.json of a run, if they are whole and belong where they lie."""
        if not (folder / "metrics.json").exists():
            return self._note(folder, "not finished (no metrics.json)")
        try:
            metrics, config = (_object(folder / f"{name}.json") for name in ("metrics", "config"))
            size = metrics.get("training_size")
            about = {"task": self.task, "dataset": self.name, "model": folder.parents[2].name,
                     "training_size": folder.parents[1].name,
                     "seed": folder.parent.name.removeprefix("seed-")}  # fmt: skip
            for key, expected in about.items():
                if str(metrics.get(key)) != expected:
                    raise ValueError(f"metrics.json is of {key} {metrics.get(key)}")
            wrong = [k for k, v in metrics.items() if _is_score(k) and not _is_number(v)]
            if wrong:
                raise ValueError(f"metrics.json has no number for {wrong[0]}")
            if not isinstance(config.get("arguments"), dict):
                raise ValueError("config.json has no arguments")
        except ValueError as error:
            return self._note(folder, str(error))
        return Run(folder, folder.name, about["model"], size, metrics["seed"], metrics, config)

    def _complete(self, run: Run) -> bool:
        needed = {"fine-tuning": [f"test_{self.main}"], "attention": [],
                  "probing": ["best_layer", "last_layer", f"test_{self.main}",
                              f"test_{self.main}_last_layer"]}  # fmt: skip
        missing = [key for key in needed[run.step] if key not in run.metrics]
        if missing:
            self._note(run.folder, f"metrics.json has no {missing[0]}")
        try:
            fine_tuned = _object(run.folder.parent / "fine-tuning" / "metrics.json")
        except ValueError:  # is named where that run is read
            fine_tuned = {}
        weights = fine_tuned.get("checkpoint_sha256")
        outdated = weights and run.config.get("checkpoint") not in (None, weights)
        if outdated:
            self._note(run.folder, "made from another fine-tuned model than lies there now")
        return not missing and not outdated

    def _alike(self, runs: list[Run], step: str, key, what: str) -> list[Run]:
        """Of a step's runs, those whose `key` is the most frequent; two data sets are not mixed."""
        keys = {run: key(run) for run in runs if run.step == step and key(run) is not None}
        most = Counter(keys.values()).most_common(1)
        other = [run for run, value in keys.items() if value != most[0][0]]
        for run in other:
            self._note(run.folder, f"made from {what} than most of the step's runs")
        return [run for run in runs if run not in other]

    def _read_predictions(self, run: Run) -> None:
        try:
            text = (run.folder / "predictions.jsonl").read_text(encoding="utf-8")
            rows = [json.loads(line) for line in text.splitlines()]
            run.counts = statistics.counts(rows)
            run.examples = hash(json.dumps([[row["id"], row["gold"]] for row in rows]))
        except (OSError, ValueError, KeyError):
            run.counts = {}
            self._note(run.folder / "predictions.jsonl", "missing or damaged (no interval)")

    def _resample(self, runs: list[Run]) -> list[Run]:
        """All scores on the same resamples; less the runs whose two files disagree on a score."""
        keys = [(run, metric) for run in runs for metric in run.counts]
        systems = [run.counts[metric] for run, metric in keys]
        for (run, metric), found in zip(keys, statistics.resample(systems), strict=True):
            run.resampled[metric] = found
            differ = abs(run.metrics.get(f"test_{metric}", found.value) - found.value) > 1e-6
            if differ and run in runs:
                self._note(run.folder, f"predictions.jsonl and metrics.json differ in {metric}")
                runs = [other for other in runs if other is not run]
        return runs

    def _read_layers(self, run: Run) -> None:
        """The main score on test by layer, from layers.csv: `probe`, `control`, `majority`, ..."""
        path, found = run.folder / "layers.csv", defaultdict(dict)
        try:
            text = path.read_text(encoding="utf-8")
            for row in csv.DictReader(text.splitlines(), strict=True):
                if (row["split"], row["metric"]) == ("test", self.main):
                    majority = row["probe"] == "majority"
                    name = "majority" if majority else row["target"].replace("task", "probe")
                    found[name][int(row["layer"])] = float(row["value"])
            values = [value for curve in found.values() for value in curve.values()]
            last = found["probe"][run.metrics["last_layer"]]
            whole = text.endswith("\n") and all(map(math.isfinite, values))
            if not whole or last != run.metrics[f"test_{self.main}_last_layer"]:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error):
            self._note(path, "missing, damaged, or of another run (not in the curves by layer)")
        else:
            run.layers = dict(found)


def _object(path: Path) -> dict:
    """The JSON object in a file. Raises ValueError that names the file if it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path.name} is missing or damaged")
    return found


def _is_score(key: str) -> bool:
    return key.startswith(("test_", "cosine", "floor_cosine")) or key.endswith("_layer")


def _is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _made_from(run: Run):
    """What identifies a run's data. A limited probe's subset depends on the seed: its size does."""
    limit = run.config["arguments"].get("max_train_examples")
    data = run.config.get("data") or {}
    return (limit, data.get("full_sha256")) if limit else data.get("sha256")
