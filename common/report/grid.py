"""Reads the results of one task on one data set; names what it leaves out, and why."""

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from common.cli import TRAINING_SIZES, UNTRAINED
from common.models import MODELS
from common.report import statistics
from common.report.reading import DOWNSTREAM, Result, is_number, load, unlike
from common.steps import STEPS, split

log = logging.getLogger(__name__)


class Estimate(NamedTuple):
    """A mean over seeds; where known its 95 % interval and, of several seeds, their deviation."""

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None
    n: int | None = None  # seeds


def result_folders(dataset: Path) -> list[Path]:
    """The folders of all results on a data set, finished or not."""
    folders = [folder for folder in dataset.glob("*/*/seed-*/*") if folder.is_dir()]
    return sorted(f for f in folders if split(f.name.removesuffix(".partial"))[0])


class Grid:
    """The results of `task` (its module) in a data set's folder; `problems`: what is left out."""

    def __init__(self, dataset: Path, task: ModuleType):
        self.folder, self.task, self.dataset = dataset, task, dataset.name
        self.others: dict[str, list[tuple[Grid, str]]] = {}  # see `same_test`
        self.problems: list[str] = []
        folders = result_folders(dataset)
        whole = [result for result in map(self._read, folders) if result]
        measured = {key for result in whole for key in result.metrics}
        there = [score for score in task.SCORES if f"test_{score.name}" in measured]
        self.main = [*there, *task.SCORES][0]
        whole = [result for result in whole if self._complete(result)]
        alike = self._alike(whole, lambda result: (result.name, result.model))
        alike = self._alike(alike, lambda result: result.name)
        self.groups = next((result.groups for result in alike if result.groups), None)
        self.results = self._resample(alike)
        models = {folder.parents[2].name for folder in folders}  # a row even if nothing is whole
        self.models = [m for m in MODELS if m in models] + sorted(models - set(MODELS))
        sizes = {result.size for result in self.results} - {UNTRAINED}
        self.sizes = sorted({*TRAINING_SIZES, *sizes})
        self.trained = [size for size in self.sizes if size]
        self._cells = defaultdict(list)
        for result in self.results:
            self._cells[result.name, result.model, result.size].append(result)

    def title(self) -> str:
        return f"{self.task.NAME} on {self.dataset}"

    def names(self, step: str) -> list[str]:
        """A step and those of its variants that have results."""
        return sorted({step} | {result.name for result in self.results if result.step == step})

    def cell(self, name: str, model: str, size: int | str) -> list[Result]:
        """The results of a cell; none if it is missing."""
        return self._cells.get((name, model, size), [])

    def score(self, name: str, model: str, size: int | str, key: str) -> Estimate | None:
        """The mean of a metric over the seeds that have it; None if none has.

        With the bootstrap interval of the mean if the predictions of all those seeds are there.
        """
        cell = [result for result in self.cell(name, model, size) if key in result.metrics]
        if not cell:
            return None
        value, std, n = statistics.mean_std([result.metrics[key] for result in cell])
        each = [result.resampled.get(key) for result in cell]
        ends = () if None in each else statistics.interval(statistics.mean(each).samples)
        return Estimate(value, *ends)._replace(std=std, n=n)

    def layers(self, name: str, model: str, size: int | str, curve: str) -> dict[int, Estimate]:
        """`{layer: mean over seeds}` of the metrics `<curve>_layer_<n>`; empty if missing."""
        keys = {key for result in self.cell(name, model, size) for key in result.metrics}
        start = f"{curve}_layer_"
        numbers = sorted(int(key.removeprefix(start)) for key in keys if key.startswith(start))
        return {n: self.score(name, model, size, f"{start}{n}") for n in numbers}

    def by_cell(self, name: str, key: str) -> dict[tuple[str, int], float]:
        """`{(model, size): mean}` of a metric."""
        cells = [(model, size) for model in self.models for size in self.sizes]
        scores = {cell: self.score(name, *cell, key) for cell in cells}
        return {cell: score.value for cell, score in scores.items() if score}

    def downstream(self, model: str, size: int, score: str) -> Estimate | None:
        """A test score after fine-tuning."""
        return self.score(DOWNSTREAM, model, size, f"test_{score}")

    def resampled(self, model: str, size: int, score: str) -> statistics.Resampled | None:
        """The mean test score after fine-tuning on all resamples of the test split."""
        each = [r.resampled.get(f"test_{score}") for r in self.cell(DOWNSTREAM, model, size)]
        return statistics.mean(each) if each and None not in each else None

    def majority(self, model: str, score: str) -> Estimate | None:
        """The majority class's test score: that of the largest size that has it."""
        scores = (self.downstream(model, n, f"majority_{score}") for n in reversed(self.sizes))
        return next((Estimate(score.value) for score in scores if score), None)

    def same_test(self) -> dict[str, tuple[str, str]]:
        """{score: (hash of another task's data, its score)} of what has the same test examples.

        The grids of such results are put into `others`: {score: [(grid, its score)]}.
        """
        configs = [result.config.get("same_test", {}) for result in self.results]
        return {name: tuple(same) for config in configs for name, same in config.items()}

    def data_hashes(self) -> set[str]:
        """Those of the data that the models were fine-tuned on: one, or none."""
        tuned = (result for result in self.results if result.step == DOWNSTREAM)
        return {result.config["inputs"].get("data") for result in tuned}

    def conditions(self) -> list[str]:
        """In what the results of a step differ but may differ: code, machine, settings; as text."""
        values = defaultdict(Counter)
        for result in self.results:
            environment = result.config.get("environment", {})
            for key, value in (environment | result.config["settings"]).items():
                values[result.name, key][str(value)] += 1
        lines = []
        for (name, key), counts in sorted(values.items()):
            shown = ", ".join(f"{value} ({n})" for value, n in sorted(counts.items()))
            lines += [f"{name}, {key}: {shown}"] * (len(counts) > 1)
        return lines

    def _note(self, path: Path, reason: object) -> None:
        self.problems.append(f"{path.relative_to(self.folder).as_posix()}: {reason}")
        log.warning("%s is passed over: %s", path, reason)

    def _read(self, folder: Path) -> Result | None:
        """The result in a folder, with what its step and its predictions say."""
        if folder.name.endswith(".partial"):
            return self._note(folder, "not finished")
        try:
            result = load(folder)
            if result.config.get("task") != self.task.NAME:
                raise ValueError(f"config.json is of task {result.config.get('task')}")
            result.metrics |= STEPS[result.step].read(result, self.task)
        except ValueError as reason:
            return self._note(folder, reason)
        if (folder / "predictions.jsonl").exists() or result.step == DOWNSTREAM:
            self._read_predictions(result)
        return result

    def _read_predictions(self, result: Result) -> None:
        path = result.folder / "predictions.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            examples = json.dumps([[row["id"], row.get("group"), row.get("gold")] for row in rows])
            if not rows:
                raise ValueError
            result.counts = self.task.count(rows)
            result.scores = (*self.task.SCORES, *self.task.parts(rows))
            if any("group" in row for row in rows):
                result.groups = [row.get("group", f"id {row['id']}") for row in rows]
            result.examples = examples
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._note(path, "missing or damaged (no interval)")

    def _complete(self, result: Result) -> bool:
        required = getattr(STEPS[result.step], "required", lambda main: [])(self.main.name)
        missing = [key for key in required if not is_number(result.metrics.get(key))]
        if missing:
            self._note(result.folder, f"metrics.json has no number for {missing[0]}")
        return not missing

    def _alike(self, whole: list[Result], group_of: Callable) -> list[Result]:
        """`whole` without the results that are unlike most of their group."""
        kept = []
        for _, group in groupby(sorted(whole, key=group_of), group_of):
            group = list(group)
            votes = {
                one: sum(one is other or not unlike(one, other) for other in group) for one in group
            }
            # What size 0 has no settings of, it is like; so a trained one is the measure.
            most = max(group, key=lambda one: (one.size != 0, one.examples is not None, votes[one]))
            for result in group:
                if result is not most and (reasons := unlike(result, most)):
                    self._note(result.folder, f"unlike most of its step: {', '.join(reasons)}")
                else:
                    kept.append(result)
        return kept

    def _resample(self, alike: list[Result]) -> list[Result]:
        """All scores on the same resamples; without results whose two files disagree on a score."""
        keys = [(r, score) for r in alike for score in r.scores if score.table in r.counts]
        systems = [(result.counts[score.table], score.value) for result, score in keys]
        wrong = {}
        resampled = statistics.resample(systems, groups=self.groups)
        for (result, score), samples in zip(keys, resampled, strict=True):
            key = f"test_{score.name}"
            result.resampled[key] = samples
            if abs(result.metrics.get(key, samples.value) - samples.value) > 1e-6:
                wrong.setdefault(result, score.name)
        for result, name in wrong.items():
            self._note(result.folder, f"predictions.jsonl and metrics.json differ in {name}")
        return [result for result in alike if result not in wrong]
