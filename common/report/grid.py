"""Reads the results of one task on one data set; names what it leaves out, and why.

A cell is a model at a size in a step or a variant of one (`probing-linear`). Its results differ in
the seed.
"""

import logging
from itertools import product
from pathlib import Path

import numpy as np

from common.cli import UNTRAINED
from common.files import read_jsonl
from common.models import MODELS
from common.report import statistics
from common.report.page import Estimate
from common.report.result import Result, main_score
from common.steps import STEPS

log = logging.getLogger(__name__)


class Grid:
    """The results of `task` in a data set's folder; `problems`: which are left out, and why."""

    def __init__(self, dataset: Path, task):
        self.folder, self.task, self.title = dataset, task, f"{task.NAME} on {dataset.name}"
        self.problems: list[str] = []
        read = [r for path in sorted(dataset.glob("*/*/seed-*/*")) if (r := self._read(path))]
        self.main = main_score(task, {key for result in read for key in result.metrics})
        self.results = self._alike(read)
        self.groups = next((result.groups for result in self.results if result.groups), [])
        self._resample()
        models = {result.model for result in self.results}
        self.models = [m for m in MODELS if m in models] + sorted(models - set(MODELS))
        self.sizes = sorted({result.size for result in self.results} - {UNTRAINED})
        self.trained = [size for size in self.sizes if size]
        # By a score of this task: grids of others with the same test examples, their score, and
        # whether they have the same groups.
        self.others: dict[str, list[tuple[Grid, str, bool]]] = {}

    def names(self, step: str) -> list[str]:
        """Of a step and its variants: those that have results."""
        return sorted({result.name for result in self.results if result.step == step})

    def cells(self, name: str) -> list[tuple[str, int | str]]:
        """(model, size) of its results, the untrained encoder before the sizes."""
        there = {(result.model, result.size) for result in self.results if result.name == name}
        return [cell for cell in product(self.models, (UNTRAINED, *self.sizes)) if cell in there]

    def cell(self, name: str, model: str, size: int | str, key: str = "") -> list[Result]:
        """The results of a cell (that have a metric); none if it is missing."""
        there = [r for r in self.results if (r.name, r.model, r.size) == (name, model, size)]
        return [r for r in there if not key or r.metrics.get(key) is not None]

    def samples(self, name: str, model: str, size: int | str, key: str) -> tuple | None:
        """The mean of a metric on all resamples of the test split; None if a seed has none."""
        each = [result.resampled.get(key) for result in self.cell(name, model, size, key)]
        whole = each and None not in each
        return tuple(np.mean(part, axis=0) for part in zip(*each, strict=True)) if whole else None

    def score(self, name: str, model: str, size: int | str, key: str) -> Estimate | str | None:
        """The mean of a metric over the seeds that have it. Its interval is that of the resamples,
        or of a single seed what its step wrote as `<key>_low` and `<key>_high`. Whole numbers and
        text are listed."""
        there = [result.metrics for result in self.cell(name, model, size, key)]
        values = [metrics[key] for metrics in there]
        if not all(isinstance(value, float) for value in values):
            ordered = sorted({*values}, key=lambda value: (isinstance(value, str), value))
            return ", ".join(map(str, ordered))
        resampled = self.samples(name, model, size, key)
        own = there[0] if len(there) == 1 else {}
        ends = own.get(f"{key}_low"), own.get(f"{key}_high")
        ends = statistics.interval(*resampled[1:]) if resampled else ends
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return Estimate(float(np.mean(values)), *ends, std, len(values)) if values else None

    def layers(self, name: str, model: str, size: int | str, curve: str) -> dict[int, Estimate]:
        """`{layer: mean over seeds}` of the metrics `<curve>_layer_<n>`; empty if missing."""
        keys = {key for result in self.cell(name, model, size) for key in result.metrics}
        start = f"{curve}_layer_"
        numbers = sorted(int(key.removeprefix(start)) for key in keys if key.startswith(start))
        return {n: self.score(name, model, size, f"{start}{n}") for n in numbers}

    def by_cell(self, name: str, key: str) -> dict[tuple[str, int], float]:
        """`{(model, size): mean}` of a metric."""
        cells = [(model, size) for model, size in self.cells(name) if size != UNTRAINED]
        return {c: score.value for c in cells if (score := self.score(name, *c, key))}

    def level(self, name: str, model: str, key: str) -> float | None:
        """A metric that is about the same at all sizes, such as the majority class's."""
        scores = [self.score(name, model, n, key) for n in (*reversed(self.sizes), UNTRAINED)]
        return next((score.value for score in scores if score), None)

    def _note(self, path: Path, reason: object, remedy: str = "") -> None:
        self.problems.append(f"{path.relative_to(self.folder).as_posix()}: {reason}")
        log.warning("%s is passed over: %s%s", path, reason, remedy and f". {remedy}")

    def _read(self, folder: Path) -> Result | None:
        """The result in a folder, with what its step and its predictions say; None of others."""
        result = Result(folder)
        known = result.cell.task in (None, self.task.NAME) and result.step in (None, *STEPS)
        if not (known and folder.is_dir()):
            return None
        try:
            result.check()
            if hasattr(step := STEPS[result.step], "read"):
                result.metrics.update(step.read(result, self.task))
            if (folder / "predictions.jsonl").is_file():
                self._read_predictions(result)
        except ValueError as reason:
            return self._note(folder, reason, result.remedy())
        return result

    def _read_predictions(self, result: Result) -> None:
        """Fill in `systems` and `groups`; the rows of probes have a layer."""
        try:
            rows = read_jsonl(result.folder / "predictions.jsonl")
            first = [row for row in rows if row.get("layer") == rows[0].get("layer")]
            result.groups = [str(row.get("group", row["id"])) for row in first]
            for layer in dict.fromkeys(row.get("layer") for row in rows):
                own = [row for row in rows if row.get("layer") == layer]
                counts = self.task.count(own)
                scores = [*self.task.SCORES, *self.task.parts(own)]
                keys = {f"test_{s.name}": s for s in scores if s.table in counts}
                if layer is not None:
                    main = main_score(self.task, keys, of_probes=True)
                    ends = {"best_layer": "", "last_layer": "_last_layer"}
                    ends = [ends[end] for end in ends if result.metrics[end] == layer]
                    keys = {f"test_{main.name}{end}": main for end in ends}
                    keys[f"{result.step}_layer_{layer}"] = main
                same = result.config.get("same_test", {})
                for key, s in keys.items():  # (..., how the groups of its part begin)
                    start = same[s.name][2] if s.name in same else ""
                    result.systems.append((key, start, counts[s.table], s.value))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError("predictions.jsonl is damaged") from None

    def _alike(self, read: list[Result]) -> list[Result]:
        """`read` without the results that are unlike most of their step."""
        steps = {one: [other for other in read if other.name == one.name] for one in read}
        votes = {one: sum(not one.unlike(other) for other in own) for one, own in steps.items()}
        kept = []
        # What size 0 has no settings of, it is like; so a trained one is the measure.
        for one in sorted(read, key=lambda one: (one.size == 0, not one.groups, -votes[one])):
            others = [other for other in kept if other in steps[one]]
            if reasons := next(filter(None, map(one.unlike, others)), None):
                self._note(one.folder, f"unlike most of its step: {', '.join(reasons)}")
            else:
                kept.append(one)
        return [one for one in read if one in kept]

    def _resample(self) -> None:
        """Score all results of a step on the same resamples of their test examples."""
        for name in dict.fromkeys(result.name for result in self.results):
            keys = [(r, *system) for r in self.results if r.name == name for system in r.systems]
            # Of a part its groups alone: the draws are those of the task that has the same.
            for part in dict.fromkeys(start for _, _, start, *_ in keys):
                own = [key for key in keys if key[2] == part]
                drawn = [i for i, group in enumerate(own[0][0].groups) if group.startswith(part)]
                groups = [own[0][0].groups[i] for i in drawn]
                systems = [(n[drawn] if part else n, value) for *_, n, value in own]
                samples = statistics.resample(systems, groups=groups)
                for (result, key, *_), sample in zip(own, samples, strict=True):
                    result.resampled[key] = sample
