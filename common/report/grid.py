"""Reads the results of one task on one data set; names what it leaves out, and why.

A cell is a model at a size in a step or a variant of one, by its folder's name (`probing-linear`).
Its results differ in the seed.
"""

import json
import logging
from math import isfinite
from pathlib import Path

import numpy as np

from common import results
from common.cli import SEED, TRAINING_SIZES, UNTRAINED
from common.files import read_csv, read_json
from common.models import MODELS
from common.report import statistics
from common.report.page import Estimate
from common.steps import STEPS, split

log = logging.getLogger(__name__)
# Models may be trained as suits them; what is measured inside must be measured alike in all.
DOWNSTREAM = next(name for name, step in STEPS.items() if not step.NEEDS)


class Result:
    """What the files of a result say; its folder may be unfinished (`.partial`)."""

    # What predictions.jsonl says: (metrics' key, counts, score) each; groups: an id an example.
    systems, groups = [], []

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder.name.removesuffix(results.PARTIAL)
        self.step, self.tuned, self.variant = split(self.file)
        self.name = "-".join(filter(None, (self.step, self.variant)))
        seed, size, self.model, self.dataset = (folder.parents[i].name for i in range(4))
        self.model += "+LoRA" * bool(self.tuned)  # a model of its own
        self.seed = int(seed.removeprefix("seed-"))
        self.size = int(size) if size.isdigit() else size
        self.config, self.metrics = (read_json(folder / f"{n}.json") for n in ("config", "metrics"))
        self.title = f"{self.model} on {self.dataset}, seed {self.seed}"  # of its figures
        self.resampled = {}  # by metrics' key: see `statistics.resample`

    def check(self) -> "Result":
        """Raises ValueError, with the reason, if the result is damaged, misplaced or stale."""
        if self.folder.name.endswith(results.PARTIAL):
            raise ValueError("not finished")
        for name, content in (("metrics.json", self.metrics), ("config.json", self.config)):
            if not isinstance(content, dict):
                raise ValueError(f"{name} is missing or damaged")
        model = self.folder.parents[2].name
        where = {"dataset": self.dataset, "model": model, "training_size": self.size}
        for key, value in (where | {"seed": self.seed}).items():
            if self.config.get(key) != value:
                raise ValueError(f"config.json is of {key} {self.config.get(key)}")
        for needed in STEPS[self.step].NEEDS:
            needed = "-".join(filter(None, (needed, self.tuned)))
            there = read_json(self.folder.parent / needed / "metrics.json")
            sha256 = there.get("checkpoint_sha256") if isinstance(there, dict) else None
            if sha256 and self.config["inputs"].get("checkpoint") not in (None, sha256):
                raise ValueError("made from another fine-tuned model than lies there now")
        return self

    def unlike(self, other: "Result") -> list[str]:
        """Why two results of a step cannot stand in one table, in words; empty if they can."""
        configs = [self.config, other.config]
        if self.step == DOWNSTREAM and self.model != other.model:
            configs = [config | {"settings": {}} for config in configs]
        same = not (self.groups and other.groups) or self.groups == other.groups
        return results.differences(*configs) + ([] if same else ["other test examples"])

    def table(self, file: str):
        """A CSV of the result, a DataFrame. Raises ValueError if it is missing or damaged."""
        try:
            table = read_csv(self.folder / file)
            table.iloc[:, -1].astype(float)
            if (self.folder / file).read_bytes()[-1:] == b"\n":
                return table
        except (OSError, ValueError, IndexError):
            pass
        raise ValueError(f"{file} is missing or damaged")

    def of_all_sizes(self, file: str) -> tuple[str, dict]:
        """For figures: the ending of their names, and {size: table} of all results like this."""
        tables, own = {self.size: self.table(file)}, self.folder.parent
        for place in own.parents[1].glob(f"*/{own.name}"):
            # What was not fine-tuned has no kind of fine-tuning.
            path = place / (self.name if place.parent.name in ("0", UNTRAINED) else self.file)
            try:
                if place == own or not path.is_dir():
                    continue
                if not self.unlike(other := Result(path).check()):
                    tables[other.size] = other.table(file)
            except ValueError as reason:
                log.warning("%s is passed over: %s", path, reason)
        parts = (self.tuned, self.variant, "" if self.seed == SEED else own.name)
        sizes = sorted(tables, key=lambda size: -1 if size == UNTRAINED else size)
        return "".join(f"_{part}" for part in parts if part), {n: tables[n] for n in sizes}


class Grid:
    """The results of `task` (its module) in a data set's folder. `problems`: what is left out."""

    def __init__(self, dataset: Path, task):
        self.folder, self.task, self.title = dataset, task, f"{task.NAME} on {dataset.name}"
        self.problems: list[str] = []
        read = [r for path in sorted(dataset.glob("*/*/seed-*/*")) if (r := self._read(path))]
        measured = {key for result in read for key in result.metrics}
        there = [score for score in task.SCORES if f"test_{score.name}" in measured]
        self.main = [*there, *task.SCORES][0]
        alike = [result for result in read if self._has_numbers(result)]
        alike = self._alike(alike, lambda result: (result.name, result.model))
        alike = self._alike(alike, lambda result: result.name)
        self.groups = next((result.groups for result in alike if result.groups), [])
        self.results = self._resample(alike)
        models = {result.model for result in self.results}
        self.models = [m for m in MODELS if m in models] + sorted(models - set(MODELS))
        self.sizes = sorted({*TRAINING_SIZES, *(r.size for r in self.results)} - {UNTRAINED})
        self.trained = [size for size in self.sizes if size]
        # Grids of other tasks with the same test examples, and their score: by a score of this one.
        self.others: dict[str, list[tuple[Grid, str]]] = {}

    def cell(self, name: str, model: str, size: int | str, key: str = "") -> list[Result]:
        """The results of a cell (that have a metric); none if it is missing."""
        there = [r for r in self.results if (r.name, r.model, r.size) == (name, model, size)]
        return [result for result in there if not key or key in result.metrics]

    def samples(self, name: str, model: str, size: int | str, key: str) -> tuple | None:
        """The mean of a metric on all resamples of the test split; None if a seed has none."""
        each = [result.resampled.get(key) for result in self.cell(name, model, size, key)]
        whole = each and None not in each
        return tuple(np.mean(part, axis=0) for part in zip(*each, strict=True)) if whole else None

    def score(self, name: str, model: str, size: int | str, key: str) -> Estimate | None:
        """The mean of a metric over the seeds that have it."""
        values = [result.metrics[key] for result in self.cell(name, model, size, key)]
        resampled = self.samples(name, model, size, key)
        ends = statistics.interval(resampled[1]) if resampled else (None, None)
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
        cells = [(model, size) for model in self.models for size in self.sizes]
        scores = {cell: self.score(name, *cell, key) for cell in cells}
        return {cell: score.value for cell, score in scores.items() if score}

    def _note(self, path: Path, reason: object) -> None:
        self.problems.append(f"{path.relative_to(self.folder).as_posix()}: {reason}")
        log.warning("%s is passed over: %s", path, reason)

    def _read(self, folder: Path) -> Result | None:
        """The result in a folder, with what its step and its predictions say; None of others."""
        result, path = Result(folder), folder / "predictions.jsonl"
        task = result.config.get("task") if isinstance(result.config, dict) else None
        if not result.step or task not in (None, self.task.NAME):
            return None
        try:
            result.check().metrics.update(STEPS[result.step].read(result, self.task))
        except ValueError as reason:
            return self._note(folder, reason)
        if result.step != DOWNSTREAM and not path.is_file():
            return result
        try:
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if not rows:
                raise ValueError
            result.systems = self._systems(result, rows)
            first = [row for row in rows if row.get("layer") == rows[0].get("layer")]
            result.groups = [str(row.get("group", row["id"])) for row in first]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            result.systems, result.groups = [], []
            self._note(path, "missing or damaged (no interval)")
        return result

    def _systems(self, result: Result, rows: list[dict]) -> list[tuple]:
        """See `Result.systems`; rows of probes have a layer."""
        systems = []
        for layer in dict.fromkeys(row.get("layer") for row in rows):
            own = [row for row in rows if row.get("layer") == layer]
            counts = self.task.count(own)
            scores = [s for s in (*self.task.SCORES, *self.task.parts(own)) if s.table in counts]
            endings = [""]
            if layer is not None:
                main = min(scores, key=lambda score: not score.of_probes)  # the first of these
                systems.append((f"{result.step}_layer_{layer}", counts[main.table], main.value))
                at = {"": result.metrics["best_layer"], "_last_layer": result.metrics["last_layer"]}
                endings = [ending for ending, chosen in at.items() if chosen == layer]
            for score in scores:
                keys = [f"test_{score.name}{ending}" for ending in endings]
                systems += [(key, counts[score.table], score.value) for key in keys]
        return systems

    def _has_numbers(self, result: Result) -> bool:
        required = getattr(STEPS[result.step], "required", lambda main: [])(self.main.name)
        for key in [*required, *(key for key in result.metrics if key.startswith("test_"))]:
            value = result.metrics.get(key)
            if type(value) not in (int, float) or not isfinite(value):
                self._note(result.folder, f"metrics.json has no number for {key}")
                return False
        return True

    def _alike(self, whole: list[Result], group_of) -> list[Result]:
        """`whole` without the results that are unlike most of their group."""
        kept = []
        for key in dict.fromkeys(map(group_of, whole)):
            group = [result for result in whole if group_of(result) == key]
            votes = {one: sum(not one.unlike(other) for other in group) for one in group}
            # What size 0 has no settings of, it is like; so a trained one is the measure.
            most = max(group, key=lambda one: (one.size != 0, bool(one.groups), votes[one]))
            for result in group:
                if reasons := result.unlike(most):
                    self._note(result.folder, f"unlike most of its step: {', '.join(reasons)}")
                kept += [] if reasons else [result]
        return kept

    def _resample(self, alike: list[Result]) -> list[Result]:
        """The scores of a step on the same resamples; no results whose files disagree."""
        wrong = set()
        for name in dict.fromkeys(result.name for result in alike):
            keys = [(r, *system) for r in alike if r.name == name for system in r.systems]
            groups = next((result.groups for result, *_ in keys), None)
            samples = statistics.resample([system for _, _, *system in keys], groups=groups)
            for (result, key, *_), own in zip(keys, samples, strict=True):
                result.resampled[key] = own
                if abs(result.metrics.get(key, own[0]) - own[0]) > 1e-6 and result not in wrong:
                    wrong.add(result)
                    self._note(result.folder, "predictions.jsonl differs from metrics.json")
        return [result for result in alike if result not in wrong]
