"""The contract: what `common` asks of a task, and how it finds the tasks there are.

A task is a folder beside `common` with a module `task.py` that has every name of `Task`; nothing is
inherited. `common` imports no task by name. tests/test_task.py holds all of them to this page.
"""

import importlib
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from common.cli import ROOT

if TYPE_CHECKING:  # not at run time: a wrong flag must answer before torch is imported
    import numpy as np
    from torch import Tensor


class Score(NamedTuple):
    """A score of a split: a function of counts that are added up over its examples.

    That form is what the bootstrap needs (a resample is a weighted sum of counts), and the summary,
    metrics.json, the tables and the figures read the same function.
    """

    name: str  # the key in metrics.json, after `<split>_`
    table: str  # which of `Task.count`'s arrays is added up
    value: Callable[["np.ndarray"], "np.ndarray"]  # sums [..., *shape of a count] -> [...]
    title: str  # how tables and figures call it
    by_layer: bool = False  # whether the probes' figures draw it
    lowest: float = 0.0  # of its range; the highest is 1
    # Of one of the data set's parts, where another task's models are asked the same test examples:
    # the hash of that task's data, and the name of its score that measures the same.
    same: tuple[str, str] | None = None


class Data(NamedTuple):
    """A data set; a task may add fields of its own (settings that its functions need)."""

    splits: dict[str, list]  # "train", "test" and mostly "dev" -> examples, in the files' order
    labels: list[str]  # what a model's outputs stand for, by number; empty where there are none


class Sequences(NamedTuple):
    """Labelled sequences, such as the words of sentences: what a probe of each unit reads."""

    # {split: [(first row, last row + 1)]} of the features, a pair a sequence; equal numbers where a
    # sequence has no unit.
    spans: dict[str, list[tuple[int, int]]]
    labels: dict[str, list]  # {target: an int array a train sequence, a number a unit}


class Examples(NamedTuple):
    """Labelled examples, such as pairs of sentences: what a probe of each example reads."""

    # {split: int array [n, k]}: the k rows of the features that are concatenated for an example.
    rows: dict[str, Any]
    labels: dict[str, Any]  # {target: int array [n], of the train split}


class ProbeInputs(NamedTuple):
    """What probes read of a data set, whichever the encoder's layer."""

    # `input_ids` (, `token_type_ids`) and `units`, (start, end) token ranges whose mean vectors
    # are the rows of the features, in order over all of `encoded`.
    encoded: list[dict]
    sets: list[Sequences | Examples]  # each has probes of its own; they share the features
    n_labels: int
    counts: dict[str, int]  # what was cut, for metrics.json
    notes: Any = None  # what the task's `probe_predictions` needs besides


class Task(Protocol):
    """The names of a `task.py`. `example` is whatever its `load` makes; `common` only hands it on.

    A prediction is whatever `predict` and `probe_predictions` return for an example; a row is a
    line of predictions.jsonl: JSON values, `id` first, and never any text of the data.
    """

    NAME: str  # the folder's name
    HEAD: str  # "sequence", "token" or "span": what the model predicts of an input; "causal": text
    DATASET: str  # the name in the results of the data set that is read without --data_dir
    SCORES: tuple[Score, ...]  # all there are; which of them a data set has, `scores` says
    NOTE: str  # what readers of the scores must know, for the report's page; mostly empty
    IN_STUDY: bool  # whether `common.study` runs it when no --tasks are given

    def add_arguments(self, parser, step: str) -> None:
        """Add the flags that the script of a step has besides those of `common.flags`.

        Each is a setting: it identifies a result, and steps that share one must be given the same.
        But one that begins with "write_" asks for a further file, see `export`.
        """

    def load(self, args) -> Data:
        """The data set that `args` name (`demo`, `data_dir`, the task's flags).

        Deterministic. Raises UserError, with file and line, for what cannot be had or read.
        """

    def scores(self, data: Data) -> tuple[Score, ...]:
        """Those of `SCORES` that the data set has; the first chooses the best epoch and layer.

        Others may follow that `details` has: of its `parts`. A causal model's best epoch has the
        lowest dev loss.
        """

    def load_model(self, args, data: Data) -> tuple[Any, Any, bool]:
        """(model, tokenizer, whether its head is new) to fine-tune, see `common.models`.

        New weights come from torch's global generator, which is seeded before.
        """

    def stratum(self, example) -> Hashable:
        """What training subsets are stratified by."""

    def encode(
        self, data: Data, examples: list, tokenizer, max_length: int
    ) -> tuple[list[dict], dict[str, int]]:
        """The model's inputs: at least `input_ids` (, `token_type_ids`) and `labels`; the counts.

        One dict an input, or several an example (windows). `labels`: a number, or one a token with
        -100 for none, or what the task's own `loss` takes. The counts (of examples, of what was
        cut) go into metrics.json; the summary tells those named as in `fine_tuning.CUT`, such as
        `truncated_words`. Raises UserError where `max_length` leaves no room.
        """

    def n_labels(self, row: dict) -> int:
        """How many labels of an encoded input the loss is a mean over; 0: it is not trained on."""

    def loss(self, model, batch: dict) -> "Tensor":
        """The loss of a padded batch (`common.batching.pad`), summed over its labels: a scalar."""

    def predict(self, model, tokenizer, data: Data, examples, encoded, args, device, name) -> list:
        """A prediction for each of `examples`, from their `encode`d inputs. `name`: the split's.

        Sets eval mode, shows a progress bar; under torchrun all processes get all predictions.
        """

    def rows(
        self, data: Data, examples: dict[str, list], predictions: dict[str, list]
    ) -> tuple[dict[str, list[dict]], dict[str, float]]:
        """`{split: rows of predictions.jsonl}`, and further metrics (a threshold chosen on dev).

        A row holds all that `count` needs: gold and predicted labels, or numbers made of them.
        """

    def baseline(self, train: list, examples: list) -> list:
        """Predictions that read no input: the majority class of `train`, no answer, ..."""

    def count(self, rows: list[dict]) -> dict[str, "np.ndarray"]:
        """`{table: array [examples, ...]}`: what each example adds to each of the `SCORES`' tables.

        Without the tables of scores that such rows have not. Raises ValueError for rows that are
        no predictions of this task.
        """

    def parts(self, rows: list[dict]) -> tuple[Score, ...]:
        """The scores of the parts of a data set that has some, of `count`'s tables; else none."""

    def details(self, rows: list[dict]) -> dict[str, float]:
        """Further numbers of a split for metrics.json: by class, the confusion matrix, ..."""

    def export(self, args, data: Data, folder: Path) -> None:
        """Write what the task's "write_" flags ask for, from the files of a finished run."""

    def controls(self, data: Data, splits: dict[str, list], seed: int) -> dict[str, dict]:
        """`{target: splits}` whose labels or inputs tell nothing of the task; "control" is first.

        Selectivity is the task's score less "control"'s (Hewitt & Liang 2019).
        """

    def probe_inputs(
        self, data: Data, targets: dict[str, dict[str, list]], tokenizer, max_length: int, args
    ) -> ProbeInputs:
        """What the frozen encoder and the probe read; `targets`: "task" and the controls' splits.

        `args.pooling` says which tokens' vectors stand for a unit.
        """

    def probe_predictions(self, data: Data, examples: list, inputs: ProbeInputs, target: str,
                          split: str, found) -> list:  # fmt: skip
        """Predictions in `rows`' form from a probe's: an int array a sequence, or `[n]`."""

    def attention_inputs(
        self, data: Data, examples: list, tokenizer, max_length: int
    ) -> tuple[list[dict], dict[str, int]]:
        """The inputs whose attention is compared, one an example, and counts: mostly `encode`."""


def find(root: Path = ROOT) -> list[str]:
    """The names of the tasks: the folders beside `common` that have a `task.py`, in order."""
    return sorted(
        path.parent.name for path in root.glob("*/task.py") if path.parent.name != "common"
    )


def load(name: str) -> Task:
    """The task's module."""
    return importlib.import_module(f"{name}.task")


def evaluate(task: Task, rows: list[dict]) -> dict[str, float]:
    """All scores of a split's rows, and the task's details: `{name: value}`."""
    tables = {name: table.sum(0) for name, table in task.count(rows).items()}
    there = [score for score in task.SCORES if score.table in tables]
    scores = {score.name: float(score.value(tables[score.table])) for score in there}
    return scores | task.details(rows)
