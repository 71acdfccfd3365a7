"""Reads the results of one task on one data set; what is not whole, or not alike, is left out.

A cell of the grid is a step, or a variant of one (a folder beside it: probing-linear), of a model
at a size; its runs differ in the seed.
"""

import json
import logging
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pandas as pd

from common import identity
from common.cli import TRAINING_SIZES, UNTRAINED
from common.files import read_json
from common.models import MODELS
from common.report import statistics

log = logging.getLogger(__name__)
# Of config.json what is no condition of a run: which cell it is, and what `differences` compares.
_IDENTITY = {"task", "dataset", "model", "training_size", "seed", "step", "variant", "checkpoint",
             "weights"}  # fmt: skip


class Estimate(NamedTuple):
    """A mean over runs; where known its 95 % interval and, of several runs, their deviation."""

    value: float
    low: float | None = None
    high: float | None = None
    std: float | None = None
    n: int | None = None  # runs


@dataclass(eq=False)
class FinishedRun:
    """A finished run: what its files say."""

    folder: Path
    step: str
    variant: str  # "": the step with its default settings
    model: str
    size: int | str
    seed: int
    metrics: dict  # metrics.json; of a probe also the curves of layers.csv, see _read_layers
    config: dict
    counts: dict = field(default_factory=dict)  # `Task.count` of predictions.jsonl
    scores: tuple = ()  # of these counts
    examples: str | None = None  # what they predict
    groups: list | None = None  # an id for each example, if some are not independent
    resampled: dict[str, statistics.Resampled] = field(default_factory=dict)  # by score
    heads: pd.DataFrame | None = None  # heads.csv


def run_folders(dataset: Path) -> list[Path]:
    """The folders of all runs on a data set, finished or not."""
    folders = dataset.glob("*/*/seed-*/*")
    return sorted(f for f in folders if f.is_dir() and identity.split_step(f.name)[0])


class Grid:
    """The runs of `task` (its module) in a data set's folder; `problems`: what was passed over."""

    def __init__(self, dataset: Path, task: ModuleType):
        self.folder, self.task, self.name = dataset, task, dataset.name
        self.others: dict[str, list[tuple[Grid, str]]] = {}  # see `same_test`
        self.problems: list[str] = []
        folders = run_folders(dataset)
        runs = [run for run in map(self._read, folders) if run]
        measured = {key for run in runs for key in run.metrics}
        there = [score for score in task.SCORES if f"test_{score.name}" in measured]
        self.main = [*there, *task.SCORES][0]
        for model in {run.model: None for run in runs}:
            runs = self._alike(runs, _unlike, lambda run, model=model: run.model == model)
        runs = self._alike(runs, _unlike)
        for run in runs:
            if run.step == "fine-tuning":
                self._read_predictions(run)
            elif run.step == "probing":
                self._read_layers(run)
            else:
                self._read_heads(run)
        runs = self._alike(runs, _other_examples, lambda run: run.examples)
        self.groups = next((run.groups for run in runs if run.groups), None)
        self.runs = [run for run in self._resample(runs) if self._complete(run)]
        names = {folder.parents[2].name for folder in folders}  # a row even if nothing is whole
        self.models = [m for m in MODELS if m in names] + sorted(names - set(MODELS))
        self.sizes = sorted({*TRAINING_SIZES, *(run.size for run in self.runs)} - {UNTRAINED})
        self.trained = [size for size in self.sizes if size]
        self._cells = defaultdict(list)
        for run in self.runs:
            self._cells[run.step, run.variant, run.model, run.size].append(run)

    def variants(self, step: str) -> list[str]:
        """The variants of a step, the default first."""
        return sorted({""} | {run.variant for run in self.runs if run.step == step})

    def cell(self, step: str, model: str, size: int | str, variant: str = "") -> list[FinishedRun]:
        """The runs of a cell, by seed; none if it is missing."""
        return self._cells.get((step, variant, model, size), [])

    def score(
        self, step: str, model: str, size: int | str, key: str, variant: str = ""
    ) -> Estimate | None:
        """The mean of metrics.json's `key` over the runs that have it; None if none has.

        With the bootstrap interval of the mean where the predictions of all those runs are there.
        """
        runs = [run for run in self.cell(step, model, size, variant) if key in run.metrics]
        if not runs:
            return None
        value, std, n = statistics.mean_std([run.metrics[key] for run in runs])
        found = self.resampled(model, size, key) if step == "fine-tuning" else None
        return Estimate(value, *(statistics.interval(found.samples) if found else ()))._replace(
            std=std, n=n
        )

    def resampled(self, model: str, size: int, key: str) -> statistics.Resampled | None:
        """The mean test score of a fine-tuned cell's runs on all resamples of the test split."""
        runs = self.cell("fine-tuning", model, size)
        each = [run.resampled.get(key.removeprefix("test_")) for run in runs]
        return statistics.mean(each) if each and None not in each else None

    def majority(self, model: str, name: str) -> Estimate | None:
        """The majority class's test score: of the largest size that has it."""
        found = (self.score("fine-tuning", model, size, f"test_majority_{name}")
                 for size in reversed(self.sizes))  # fmt: skip
        return next((Estimate(score.value) for score in found if score), None)

    def layers(
        self, step: str, model: str, size: int | str, curve: str, variant: str = ""
    ) -> dict[int, Estimate]:
        """A `curve` by layer, the mean over runs; empty if it is missing.

        Of attention: cosine, floor_cosine (untrained); of probing: see `_read_layers`.
        """
        keys = {key for run in self.cell(step, model, size, variant) for key in run.metrics}
        start = f"{curve}_layer_"
        numbers = sorted(int(key.removeprefix(start)) for key in keys if key.startswith(start))
        return {n: self.score(step, model, size, f"{start}{n}", variant) for n in numbers}

    def curves(self, step: str, model: str, curve: str, variant: str = "") -> dict:
        """`{size: its curve by layer}`; of attention with the untrained encoder's at the end.

        That knows no size: it is of the least size that has it.
        """
        sizes = self.trained if step == "attention" else (UNTRAINED, *self.sizes)
        found = {size: self.layers(step, model, size, curve, variant) for size in sizes}
        if step == "attention":
            references = (self.layers(step, model, n, f"floor_{curve}", variant) for n in sizes)
            found[UNTRAINED] = next(filter(None, references), {})
        return found

    def same_test(self) -> dict[str, tuple[str, str]]:
        """{score: (hash of another task's data, its score)}: what is asked the same examples.

        The grids of such results are put into `others`: {score: [(grid, its score)]}.
        """
        return {name: tuple(same) for run in self.runs
                for name, same in run.config.get("same_test", {}).items()}  # fmt: skip

    def data_hashes(self) -> set[str]:
        """Those of the data that the models were fine-tuned on: one, or none."""
        return {run.config["data"]["sha256"] for run in self.runs if run.step == "fine-tuning"}

    def conditions(self) -> list[str]:
        """In what the runs of a step differ besides the cell, as text: code, machine, versions.

        And, as models may need their own, the fine-tuning settings that differ between models.
        """
        lines = []
        for step in identity.STEPS:
            values = defaultdict(Counter)
            for run in (run for run in self.runs if run.step == step):
                for name, value in _conditions(run).items():
                    values[name][str(value)] += 1
            for name, found in sorted(values.items()):
                if len(found) > 1:
                    shown = ", ".join(f"{value} ({n})" for value, n in sorted(found.items()))
                    lines.append(f"{step}, {name}: {shown}")
        return lines

    def _note(self, path: Path, reason: str) -> None:
        self.problems.append(f"{path.relative_to(self.folder).as_posix()}: {reason}")
        log.warning("%s is passed over: %s", path, reason)

    def _read(self, folder: Path) -> FinishedRun | None:
        """config.json and metrics.json of a run, if they are whole and belong where they lie."""
        if not (folder / "metrics.json").exists():
            return self._note(folder, "not finished (no metrics.json)")
        files = {name: read_json(folder / name) for name in ("metrics.json", "config.json")}
        for name, found in files.items():
            if not isinstance(found, dict):
                return self._note(folder, f"{name} is missing or damaged")
        metrics, config = files.values()
        about = {"task": self.task.NAME, "dataset": self.name, "model": folder.parents[2].name,
                 "training_size": folder.parents[1].name,
                 "seed": folder.parent.name.removeprefix("seed-")}  # fmt: skip
        for key, expected in about.items():
            if str(metrics.get(key)) != expected:
                return self._note(folder, f"metrics.json is of {key} {metrics.get(key)}")
        for key, value in metrics.items():
            if _is_score(key) and not (type(value) in (int, float) and math.isfinite(value)):
                return self._note(folder, f"metrics.json has no number for {key}")
        if not isinstance(config.get("arguments"), dict):
            return self._note(folder, "config.json has no arguments")
        if identity.is_stale(folder):
            return self._note(folder, "made from another fine-tuned model than lies there now")
        cell = about["model"], metrics["training_size"], metrics["seed"]
        return FinishedRun(folder, *identity.split_step(folder.name), *cell, metrics, config)

    def _alike(self, runs: list[FinishedRun], unlike: Callable, chosen=lambda run: True) -> list:
        """`runs` less those of the `chosen` that are `unlike` most of them in their step."""
        steps, passed_over = defaultdict(list), set()
        # Size 0, without settings of training, goes with the runs that are most.
        for run in sorted(filter(chosen, runs), key=lambda run: run.size == 0):
            groups = steps[run.step, run.variant]
            fitting = [group for group in groups if not unlike(run, group[0])]
            same = max(fitting, key=len, default=None)
            groups.append([run]) if same is None else same.append(run)
        for groups in steps.values():
            most = max(groups, key=len)
            for run in (run for group in groups if group is not most for run in group):
                passed_over.add(run)
                reasons = ", ".join(unlike(run, most[0]))
                self._note(run.folder, f"unlike most of its step: {reasons}")
        return [run for run in runs if run not in passed_over]

    def _complete(self, run: FinishedRun) -> bool:
        main = f"test_{self.main.name}"
        needed = {"fine-tuning": [main], "attention": [],
                  "probing": ["best_layer", "last_layer", main, f"{main}_last_layer"]}  # fmt: skip
        missing = [key for key in needed[run.step] if key not in run.metrics]
        if missing:
            self._note(run.folder, f"metrics.json has no {missing[0]}")
        return not missing

    def _read_predictions(self, run: FinishedRun) -> None:
        path = run.folder / "predictions.jsonl"
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            run.examples = json.dumps([[r["id"], r.get("group"), r.get("gold")] for r in rows])
            if not rows:
                raise ValueError
            run.counts = self.task.count(rows)
            run.scores = (*self.task.SCORES, *self.task.parts(rows))
            if any("group" in row for row in rows):
                run.groups = [row.get("group", f"id {row['id']}") for row in rows]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            run.examples = None
            self._note(path, "missing or damaged (no interval)")

    def _resample(self, runs: list[FinishedRun]) -> list[FinishedRun]:
        """All scores on the same resamples; less the runs whose two files disagree on a score.

        A score that metrics.json does not have, as it was made before there was one, is added.
        """
        keys = [(run, score) for run in runs for score in run.scores if score.table in run.counts]
        systems = [(run.counts[score.table], score.value) for run, score in keys]
        found, wrong = statistics.resample(systems, groups=self.groups), set()
        for (run, score), resampled in zip(keys, found, strict=True):
            run.resampled[score.name] = resampled
            there = run.metrics.setdefault(f"test_{score.name}", resampled.value)
            if abs(there - resampled.value) > 1e-6 and run not in wrong:
                wrong.add(run)
                self._note(run.folder, f"predictions.jsonl and metrics.json differ in {score.name}")
        return [run for run in runs if run not in wrong]

    def _read_layers(self, run: FinishedRun) -> None:
        """The main score on test by layer, from layers.csv, as metrics `<curve>_layer_<n>`.

        The curves: `probe`, `control`, `selectivity`, `majority`.
        """
        path = run.folder / "layers.csv"
        try:
            table = pd.read_csv(path)
            table = table[(table["split"] == "test") & (table["metric"] == self.main.name)]
            curve = table["target"].replace("task", "probe")
            curve = curve.mask(table["probe"] == "majority", "majority")
            keys = curve + "_layer_" + table["layer"].astype(int).astype(str)
            found = dict(zip(keys, table["value"].astype(float).tolist(), strict=True))
            last = found[f"probe_layer_{run.metrics['last_layer']}"]
            whole = path.read_bytes().endswith(b"\n") and all(map(math.isfinite, found.values()))
            if not whole or last != run.metrics[f"test_{self.main.name}_last_layer"]:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError):
            self._note(path, "missing, damaged, or of another run (not in the curves by layer)")
        else:
            run.metrics |= found

    def _read_heads(self, run: FinishedRun) -> None:
        path = run.folder / "heads.csv"
        try:
            table = pd.read_csv(path)
            counts = table.groupby("metric")[["layer", "head"]].agg(["max", "size"])
            whole = counts["layer"]["max"] * counts["head"]["max"] == counts["head"]["size"]
            if not whole.all() or not path.read_bytes().endswith(b"\n"):
                raise ValueError
            run.heads = table.astype({"layer": int, "head": int, "value": float})
        except (OSError, ValueError, KeyError, TypeError):
            self._note(path, "missing or damaged (no map of heads)")


def _unlike(run: FinishedRun, other: FinishedRun) -> list[str]:
    """What keeps two runs of a step out of one table, in words; nothing if they may stand in it.

    A model may be fine-tuned as suits it (its rate, its epochs); what is measured inside has to be
    measured alike in all models.
    """
    config = run.config
    if run.step == "fine-tuning" and run.model != other.model:
        config = config | {key: other.config.get(key, {}) for key in ("arguments", "settings")}
    return identity.differences(config, other.config)


def _other_examples(run: FinishedRun, other: FinishedRun) -> list[str]:
    return ["other test examples"] if run.examples != other.examples else []


def _conditions(run: FinishedRun) -> dict:
    """Under what a run was made."""
    found = {key: value for key, value in run.config.items()
             if isinstance(value, str | int | float) and key not in _IDENTITY}  # fmt: skip
    if isinstance(machine := run.config.get("machine"), dict):
        found |= machine
    if "git_commit" in found:
        found["made by other code (commit)"] = found.pop("git_commit")
    if isinstance(precision := (run.config.get("data") or {}).get("precision"), str):
        found["precision"] = precision
    if run.step == "fine-tuning":
        found |= {f"--{name}": value for name, value in identity.settings_of(run.config).items()}
    return found


def _is_score(key: str) -> bool:
    return key.startswith(("test_", "cosine", "floor_cosine")) or key.endswith("_layer")
