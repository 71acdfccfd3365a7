"""Reads one result: its files, whether it is whole, and whether another may stand beside it.

A cell is a model at a size in a step or a variant of one, called by the folder's name:
`probing`, `probing-linear`. Its results differ in the seed. This file names no step:
`common.steps.STEPS` says what each of them needs and how it is read.
"""

import logging
import math
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from common import results
from common.cli import SEED, UNTRAINED
from common.files import read_json
from common.report import statistics
from common.steps import STEPS, split

log = logging.getLogger(__name__)
# The step whose test score the study is about; it needs no other. Models may be trained as suits
# them (learning rate, epochs). What is measured inside has to be measured alike in all models.
DOWNSTREAM = next(name for name, step in STEPS.items() if not step.NEEDS)


@dataclass(eq=False)
class Result:
    """What the files of a result say."""

    folder: Path
    config: dict
    metrics: dict  # metrics.json, and what the step reads of its CSV
    counts: dict = field(default_factory=dict)  # `Task.count` of predictions.jsonl
    scores: tuple = ()  # of these counts
    examples: str | None = None  # what is predicted
    groups: list | None = None  # an id for each example, if some are not independent
    resampled: dict[str, statistics.Resampled] = field(default_factory=dict)  # by metrics' key

    def __post_init__(self):
        self.name = self.folder.name.removesuffix(".partial")
        self.step, self.variant = split(self.name)
        self.model, size = self.folder.parents[2].name, self.folder.parents[1].name
        self.size = int(size) if size.isdigit() else size
        self.seed = int(self.folder.parent.name.removeprefix("seed-"))

    def table(self, file: str, numbers: str = "value") -> pd.DataFrame:
        """A CSV with a column of `numbers`. Raises ValueError if it is missing or damaged."""
        path = self.folder / file
        try:
            table = pd.read_csv(path)
            table[numbers].astype(float)
            if not path.read_bytes().endswith(b"\n"):
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} is missing or damaged") from error
        return table

    def of_the_model(self, figure: str) -> Path:
        """Where a figure of all sizes lies: a file for each variant and other seed."""
        seed = f"seed-{self.seed}" if self.seed != SEED else ""
        return self.folder.parents[2] / "_".join(filter(None, (figure, self.variant, seed)))

    def title(self) -> str:
        """The last line of the title of its figures."""
        return f"{self.model} on {self.folder.parents[3].name}, seed {self.seed}"


def working(folder: Path) -> Result:
    """The result in a folder that may be unfinished (`.partial`), for its own figures."""
    config = {"settings": {}, "inputs": {}} | (read_json(folder / "config.json") or {})
    return Result(folder, config, {})


def load(folder: Path) -> Result:
    """The finished result in a folder.

    Raises ValueError, with the reason, if it is not whole, does not belong where it lies, or was
    made from another fine-tuned model than lies there now.
    """
    files = {name: read_json(folder / name) for name in ("metrics.json", "config.json")}
    for name, content in files.items():
        if not isinstance(content, dict):
            raise ValueError(f"{name} is missing or damaged")
    metrics, config = files.values()
    result = Result(folder, config, metrics)
    dataset = folder.parents[3].name
    where = {"dataset": dataset, "model": result.model, "training_size": result.size}
    for key, value in (where | {"seed": result.seed}).items():
        if config.get(key) != value:
            raise ValueError(f"config.json is of {key} {config.get(key)}")
    if not all(isinstance(config.get(key), dict) for key in ("settings", "inputs")):
        raise ValueError("config.json has no settings or no inputs")
    for key in (key for key in metrics if key.startswith("test_")):
        if not is_number(metrics[key]):
            raise ValueError(f"metrics.json has no number for {key}")
    for needed in STEPS[result.step].NEEDS:
        there = read_json(folder.parent / needed / "metrics.json")
        sha256 = there.get("checkpoint_sha256") if isinstance(there, dict) else None
        if sha256 and config["inputs"].get("checkpoint") not in (None, sha256):
            raise ValueError("made from another fine-tuned model than lies there now")
    return result


def is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def unlike(one: Result, other: Result) -> list[str]:
    """Why two results of a step cannot stand in one table, in words; empty if they can.

    Settings that only one of them has (size 0 has none of training) are no difference.
    """
    same_model = one.model == other.model
    shared = one.config["settings"].keys() & other.config["settings"].keys()
    keys = {"settings": shared, "inputs": {"data", "model"}}
    if not same_model:
        keys = {"settings": () if one.step == DOWNSTREAM else shared, "inputs": {"data"}}
    parts = [
        {part: {key: config[part].get(key) for key in keys[part]} for part in keys}
        for config in (one.config, other.config)
    ]
    other_examples = None not in (one.examples, other.examples) and one.examples != other.examples
    return results.differences(*parts) + ["other test examples"] * other_examples


def beside(own: Result, file: str) -> dict[int | str, pd.DataFrame]:
    """`{size: table}`: a CSV of a result, and of the same one at other sizes, if it is like it."""
    tables = {own.size: own.table(file)}
    for path in own.folder.parents[2].glob(f"*/{own.folder.parent.name}/{own.name}"):
        try:
            if path.parent != own.folder.parent and not unlike(other := load(path), own):
                tables[other.size] = other.table(file)
        except ValueError as reason:
            log.warning("%s is passed over: %s", path, reason)
    return {n: tables[n] for n in sorted(tables, key=lambda n: -1 if n == UNTRAINED else n)}
