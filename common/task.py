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
    """The names of a `task.py`; those with a default need not be there, see `defaults`.

    An `example` is whatever `load` makes; `common` only hands it on. A prediction is whatever
    `predict` and `probe_predictions` return for an example. A row is a line of predictions.jsonl:
    JSON values, `id` first, and never any text of the data. `options` are the values of the flags
    that the task's `add_arguments` has added, by name.
    """

    NAME: str  # the folder's name
    HEAD: str  # "sequence", "token" or "span": what the model predicts of an input; "causal": text
    DATASET: str  # the name in the results of the data set that is read without --data_dir
    SCORES: tuple[Score, ...]  # all there are; which of them a data set has, `scores` says
    NOTE: str  # default "": what readers of the scores must know, for the report's page
    IN_STUDY: bool  # default False: whether `common.study` runs it when no --tasks are given
    CONTROLS: tuple[str, ...]  # default ("control",): the names of what `controls` gives

    def load(self, demo: bool, data_dir: Path | None, **options) -> Data:
        """The data set: the demo's, that of a folder, or the published one.

        `options` may lack a flag, which then has its default. Deterministic. Raises UserError,
        with file and line, for what is not available or cannot be read.
        """

    def stratum(self, example) -> Hashable:
        """What training subsets are stratified by."""

    def encode(
        self, data: Data, examples: list, tokenizer, max_length: int
    ) -> tuple[list[dict], dict[str, int]]:
        """The model's inputs: at least `input_ids` (, `token_type_ids`) and `labels`; the counts.

        One dict an input, or several an example (windows). `labels`: a number, or one a token with
        -100 for none, or what the task's own `loss` takes. The counts (of examples, of what was
        cut) go into metrics.json; the summary prints those named as in `fine_tuning.CUT`, such as
        `truncated_words`. Raises UserError where `max_length` leaves no room.
        """

    def predict(
        self, model, tokenizer, data: Data, examples: list, encoded: list[dict], batch_size: int,
        device, name: str,
    ) -> list:  # fmt: skip
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

    def controls(self, data: Data, splits: dict[str, list], seed: int) -> dict[str, dict]:
        """`{target: splits}` whose labels or inputs tell nothing of the task; "control" is first.

        Selectivity is the task's score minus "control"'s (Hewitt & Liang 2019).
        """

    def probe_inputs(
        self, data: Data, targets: dict[str, dict[str, list]], tokenizer, max_length: int,
        pooling: str,
    ) -> ProbeInputs:  # fmt: skip
        """What the frozen encoder and the probe read; `targets`: "task" and the controls' splits.

        `pooling` says which tokens' vectors stand for a unit.
        """

    def probe_predictions(
        self, data: Data, examples: list, inputs: ProbeInputs, target: str, split: str, found: list
    ) -> list:
        """Predictions in `rows`' form from the probes'.

        `found`: for each of `inputs.sets` that has the target, an int array a sequence, or `[n]`.
        """

    # With a default:

    def add_arguments(self, parser, step: str) -> None:
        """Default: none. The flags that the script of a step has besides those of `common.flags`.

        Each is a setting: it identifies a result, and steps that share one must be given the same.
        But one that begins with "write_" asks for a further file, see `export`.
        """

    def scores(self, data: Data) -> tuple[Score, ...]:
        """Default: `SCORES`. Those that the data set has; the first chooses best epoch and layer.

        Others may follow that `details` has: of its `parts`. The best epoch of a causal model has
        the lowest dev loss.
        """

    def load_model(self, where: str, data: Data, **options) -> tuple[Any, Any, bool]:
        """Default: a new head for `data.labels`. (model, tokenizer, whether its head is new).

        `where`: a Hub id or a folder. New weights come from torch's global generator, which is
        seeded before.
        """

    def n_labels(self, row: dict) -> int:
        """Default: of labels. How many labels of an encoded input the loss is a mean over.

        0: the input is not trained on.
        """

    def loss(self, model, batch: dict) -> "Tensor":
        """Default: cross entropy. Of a padded batch, summed over its labels: a scalar."""

    def probed(self, examples: list) -> list:
        """Default: all. Those of a split's examples that probes are asked about."""

    def parts(self, rows: list[dict]) -> tuple[Score, ...]:
        """Default: none. The scores of the parts of a data set, of `count`'s tables."""

    def details(self, rows: list[dict]) -> dict[str, float]:
        """Default: none. Further numbers of a split for metrics.json: by class, ..."""

    def export(self, folder: Path, data: Data, **options) -> None:
        """Default: nothing. Write what "write_" flags ask for, from a finished result's files."""

    def attention_inputs(
        self, data: Data, examples: list, tokenizer, max_length: int
    ) -> tuple[list[dict], dict[str, int]]:
        """Default: `encode`. The inputs whose attention is compared, one an example; counts."""


def defaults(task) -> dict[str, Any]:
    """What a task has of the names that its module leaves out, see `Task`."""
    from common.training import losses

    def load_model(where, data, **options):
        from common import models

        return *models.load_task_model(where, task.HEAD, data.labels), True

    return {
        "NOTE": "", "IN_STUDY": False,
        "probed": lambda examples: examples,
        "add_arguments": lambda parser, step: None,
        "scores": lambda data: task.SCORES,
        "load_model": load_model,
        "n_labels": losses.labels_in, "loss": losses.cross_entropy,
        "parts": lambda rows: (), "details": lambda rows: {},
        "export": lambda folder, data, **options: None,
        "attention_inputs": task.encode,
    }  # fmt: skip


def find(root: Path = ROOT) -> list[str]:
    """The names of the tasks: the folders beside `common` that have a `task.py`, in order."""
    return sorted(
        path.parent.name for path in root.glob("*/task.py") if path.parent.name != "common"
    )


def load(name: str) -> Task:
    """The task's module, with the defaults for what it leaves out."""
    module = importlib.import_module(f"{name}.task")
    for key, value in defaults(module).items():
        vars(module).setdefault(key, value)
    return module


def evaluate(task: Task, rows: list[dict]) -> dict[str, float]:
    """All scores of a split's rows, and the task's details: `{name: value}`."""
    tables = {name: table.sum(0) for name, table in task.count(rows).items()}
    there = [score for score in task.SCORES if score.table in tables]
    scores = {score.name: float(score.value(tables[score.table])) for score in there}
    return scores | task.details(rows)


def majority_scores(task, data, train: list, examples: dict[str, list]) -> dict[str, dict]:
    """{split: {majority_<score>: value}} of predictions that read no input, see `Task.baseline`."""
    guesses = {split: task.baseline(train, some) for split, some in examples.items()}
    rows, _ = task.rows(data, examples, guesses)
    values = {split: evaluate(task, rows[split]) for split in examples}
    names = [score.name for score in task.scores(data)]
    return {
        split: {f"majority_{name}": own[name] for name in names if name in own}
        for split, own in values.items()
    }
