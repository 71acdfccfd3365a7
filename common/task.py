"""The contract: what `common` asks of a task, and how it finds the tasks there are.

A task is a folder beside `common` with a module `task.py` that has every name of `Task`; nothing is
inherited. `common` imports no task by name. tests/test_task.py holds all of them to this page.
"""

import importlib
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from common.cli import ROOT

if TYPE_CHECKING:  # not at run time: a wrong flag must answer before torch is imported
    import numpy as np


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
    of_probes: bool = False  # only probes have it: `scores` leaves it out, `probe_scores` has it
    # Of one of the data set's parts, where another task's models are asked the same test examples:
    # the hash of that task's data, the name of its score that measures the same, how our rows'
    # groups begin, which go on as that task's, and which settings its results must have.
    same: tuple[str, str, str, dict] | None = None


class Data(NamedTuple):
    """A data set; a task may add fields of its own (settings that its functions need)."""

    splits: dict[str, list]  # "train", "test" and mostly "dev" -> examples, in the files' order
    labels: list[str]  # what a model's outputs stand for, by number; empty where there are none


class Sequences(NamedTuple):
    """Labelled sequences, such as the words of sentences: what a probe of each unit reads."""

    # {split: [(first row, last row + 1)]} of the features, a pair a sequence; equal numbers where a
    # sequence has no unit.
    spans: dict[str, list[tuple[int, int]]]
    # {target: an int array a train sequence}: a number a unit. Of the pointer probe the first and
    # the last unit of what is looked for, [sequences, 2]; there each train sequence has a unit.
    labels: dict[str, Any]


class Examples(NamedTuple):
    """Labelled examples, such as pairs of sentences: what a probe of each example reads."""

    # {split: int array [n, k]}: the k rows of the features that are concatenated for an example.
    rows: dict[str, Any]
    # {target: int array [n], of the train split}; of several labels [n, labels], each 0 or 1.
    labels: dict[str, Any]


class ProbeInputs(NamedTuple):
    """What probes read of a data set. It is the same for every layer."""

    # `input_ids` (, `token_type_ids`) and `units`, (start, end) token ranges whose mean vectors
    # are the rows of the features, in order over all of `encoded`.
    encoded: list[dict]
    # Each set has probes of its own; they share the features.
    sets: list[Sequences | Examples]
    n_labels: int
    counts: dict[str, int]  # what was cut, for metrics.json
    notes: Any = None  # what the task's `probe_predictions` needs besides


class Task(Protocol):
    """The names of a `task.py`; those with a default need not be there, see `defaults`.

    An `example` is whatever `load` makes. A prediction is whatever `predict` and
    `probe_predictions` return for an example. A row is a line of predictions.jsonl: JSON values,
    `id` first, and never any text of the data. `options` are the values of the flags that
    `add_arguments` adds, by name; one that is missing has its default.
    """

    NAME: str  # the folder's name
    HEAD: str  # "sequence", "token" or "span": what the model predicts of an input; "causal": text
    DATASET: str  # the name in the results of the data set that is read without --data_dir
    SCORES: tuple[Score, ...]  # all there are; which of them a data set has, `scores` says

    def load(self, demo: bool, data_dir: Path | None, **options) -> Data:
        """The data set: the demo's, that of a folder, or the published one. Deterministic.

        Raises UserError, with file and line, for what is not available or cannot be read.
        """

    def stratum(self, example) -> Hashable:
        """What training subsets are stratified by."""

    def encode(
        self, data: Data, examples: list, tokenizer, max_length: int
    ) -> tuple[list[dict], dict[str, int]]:
        """The model's inputs and counts (of examples, of truncation) for metrics.json.

        A dict an input, or several an example (windows): `input_ids` (, `token_type_ids`) and
        `labels`, a number, or a list of one a token, or of what the task's `loss` takes; -100 is
        none. An input without a label is not trained on. The summary prints the counts named as
        in `fine_tuning.CUT`. Raises UserError without room.
        """

    def predict(
        self, model, tokenizer, data, examples, encoded, batch_size: int, device, name: str
    ) -> list:
        """A prediction for each of `examples`, from their `encode`d inputs. `name`: the split's.

        Sets eval mode, shows a progress bar; under torchrun all processes get all predictions.
        """

    def rows(
        self, data: Data, examples: dict[str, list], predictions: dict[str, list]
    ) -> tuple[dict[str, list[dict]], dict[str, float]]:
        """`{split: rows}`, with all that `count` needs; further metrics (a threshold of dev)."""

    def baseline(self, train: list, examples: list) -> list:
        """Predictions that read no input: the majority class of `train`, no answer, ..."""

    def count(self, rows: list[dict]) -> dict[str, "np.ndarray"]:
        """`{table: array [examples, ...]}`: what each example adds to each of the `SCORES`' tables.

        Rows of another task raise ValueError, LookupError, TypeError or AttributeError.
        """

    def controls(self, data: Data, splits: dict[str, list], seed: int) -> dict[str, list[dict]]:
        """`{one of CONTROLS: [splits of each draw]}`: what tells nothing about the task."""

    def probe_inputs(
        self, data: Data, targets: dict[str, dict], tokenizer, max_length: int, pooling: str
    ) -> ProbeInputs:
        """What encoder and probe read; `targets`: the splits of "task", and of "control-1" ...

        `pooling` says which tokens' vectors stand for a unit.
        """

    def probe_predictions(
        self, data: Data, examples: list, inputs: ProbeInputs, target: str, split: str, found: list
    ) -> list:
        """Predictions in `rows`' form.

        `found`: for each of `inputs.sets` that has the target, what the probe says of it: an int
        array a sequence, `[n]` (or `[n, labels]`), or of the pointer probe a float array
        `[units, 2]` a sequence.
        """


def defaults(task) -> dict[str, Any]:
    """What a task has of the names that its module leaves out."""
    from common import subsample
    from common.training import losses

    def subset(data: Data, percentage: int, seed: int) -> list[int]:
        """The places in train of a share of its examples, see `common.subsample.subset`."""
        return subsample.subset(list(map(task.stratum, data.splits["train"])), percentage, seed)

    def load_model(where: str, data: Data, **options):
        """(model, tokenizer, whether the head is new); its weights are torch's global generator's.

        `where`: a Hub id or a folder.
        """
        from common import models

        return *models.load_task_model(where, task.HEAD, data.labels), True

    return {
        "NOTE": "",  # what readers of the scores must know, for the report's page
        # The public set on the Hub that is read without --data_dir, and its split that is `test`.
        "HUB_DATASET": (None, "test"),
        "DEFAULTS": {},  # of the scripts' flags that differ, see `flags.add_common_arguments`
        "IN_STUDY": False,  # whether `common.study` runs it when no --tasks are given
        "CONTROLS": ("control",),  # the names of what `controls` gives
        # A step's flags of the task are settings; "write_..." asks for a file, see `export`.
        "add_arguments": lambda parser, step: None,
        "scores": lambda data: task.SCORES,  # those of a data set, the one that chooses first
        "probe_scores": lambda data: task.scores(data),  # the same for probes
        "subset": subset,
        "load_model": load_model,
        # {score: a constant answer (of examples, as `baseline`)} where another one has more.
        "constants": lambda data, train: {},
        "loss": losses.cross_entropy,  # of (model, padded batch), summed over the labels
        # Where epochs are compared by the dev loss, it is the mean of the means of these groups.
        "loss_group": lambda example: None,
        "probed": lambda examples: examples,  # those of a split that probes are asked about
        "parts": lambda rows: (),  # scores of the parts of a data set, of `count`'s tables
        "shared": lambda example: {},  # {name: text} of what train and test should not both hold
        "details": lambda rows: {},  # further numbers of a split, by class, for metrics.json
        "export": lambda folder, data, **options: None,  # writes what "write_..." flags ask for
        "attention_inputs": task.encode,  # the inputs whose attention is compared, and counts
    }


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
    return task.details(rows) | scores  # a class may be called as a score is


def majority_scores(task, data, train: list, examples: dict[str, list]) -> dict[str, dict]:
    """{split: {score: value}} of predictions that read no input: `baseline`, or `constants`."""
    names, found = [score.name for score in task.scores(data)], {split: {} for split in examples}
    answers = dict.fromkeys(names, partial(task.baseline, train)) | task.constants(data, train)
    for answer in dict.fromkeys(answers.values()):
        guesses = {split: answer(some) for split, some in examples.items()}
        rows, _ = task.rows(data, examples, guesses)
        for split in examples:
            values = evaluate(task, rows[split])
            own = (name for name in names if answers[name] is answer and name in values)
            found[split] |= {name: values[name] for name in own}
    return found


def in_train(task, train: list, examples: list) -> dict[str, int]:
    """{<name>_in_train: of how many `examples` a text of `Task.shared` also stands in train}."""
    seen = {(name, text) for example in train for name, text in task.shared(example).items()}
    texts = [pair for example in examples for pair in task.shared(example).items()]
    counts = {f"{name}_in_train": 0 for name, _ in texts}
    for name, text in texts:
        counts[f"{name}_in_train"] += (name, text) in seen
    return counts
