"""The NLI task, as `common.task` asks for it: a premise and a hypothesis in, one label out."""

import random
from collections import Counter
from typing import TYPE_CHECKING

from common import models, scoring
from common.task import Data, ProbeInputs, Score
from common.training.losses import cross_entropy as loss
from common.training.losses import labels_in as n_labels
from NLI.data import LABELS, Example, load
from NLI.encoding import encode_pairs, encode_texts

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["load", "loss", "n_labels"]
NAME, HEAD, DATASET, IN_STUDY = "NLI", "sequence", "mednli", True
NOTE = ""
SCORES = (
    Score("accuracy", "confusion", scoring.accuracy, "accuracy", by_layer=True),
    Score("macro_f1", "confusion", scoring.macro_f1_of_classes, "macro F1", by_layer=True),
    Score("matthews_correlation", "confusion", scoring.matthews_correlation,
          "Matthews correlation", lowest=-1.0),
)  # fmt: skip


def add_arguments(parser, step: str) -> None:
    """No flags of its own."""


def stratum(example: Example) -> str:
    """What subsets are stratified by: the label."""
    return example.label


def encode(
    data: Data, examples: list[Example], tokenizer, max_length: int
) -> tuple[list[dict], dict]:
    """Premise and hypothesis as one input with its label, see `NLI.encoding.encode_pairs`."""
    pairs = [(example.premise, example.hypothesis) for example in examples]
    encoded, counts = encode_pairs(pairs, tokenizer, max_length)
    for example, row in zip(examples, encoded, strict=True):
        row["labels"] = data.labels.index(example.label)
    return encoded, counts


attention_inputs = encode


def scores(data: Data) -> tuple[Score, ...]:
    """All of them."""
    return SCORES


def load_model(args, data: Data):
    """The model with a new head for the labels."""
    return *models.load_task_model(args, HEAD, data.labels), True


def export(args, data: Data, folder) -> None:
    """Nothing more than what every task writes."""


def predict(model, tokenizer, data: Data, examples, encoded, args, device, name) -> list[str]:
    """The label of each pair."""
    from common.forward import predict_logits

    found = predict_logits(model, encoded, args.batch_size, device, name)
    return [data.labels[logits.argmax()] for logits in found]


def rows(
    data: Data, examples: dict[str, list[Example]], predictions: dict[str, list]
) -> tuple[dict[str, list[dict]], dict]:
    """Rows of predictions.jsonl: id, gold and predicted label; no text."""
    found = {
        split: [
            {"id": e.id, "gold": e.label, "predicted": label}
            for e, label in zip(examples[split], predicted, strict=True)
        ]
        for split, predicted in predictions.items()
    }
    return found, {}


def baseline(train: list[Example], examples: list[Example]) -> list[str]:
    """The most frequent training label, for every pair."""
    counted = Counter(example.label for example in train)
    return [max(sorted(counted), key=counted.get)] * len(examples)


def count(rows: list[dict]) -> dict[str, "ndarray"]:
    """The confusion matrix of each pair, [pairs, gold, predicted]: a single 1."""
    import numpy as np

    try:
        cells = [[LABELS.index(row[side]) for side in ("gold", "predicted")] for row in rows]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"not all rows have gold and predicted labels of {LABELS}") from None
    table = np.zeros((len(rows), len(LABELS), len(LABELS)))
    for i, (gold, predicted) in enumerate(cells):
        table[i, gold, predicted] = 1
    return {"confusion": table}


def parts(rows: list[dict]) -> tuple:
    """None: its data sets are one."""
    return ()


def details(rows: list[dict]) -> dict[str, float]:
    """A label's precision, recall and F1 (0-1), and `confusion_<gold>_<predicted>`, in pairs.

    Only labels that occur on either side count (a set may be two-way).
    """
    confusion = count(rows)["confusion"].sum(0)
    totals = scoring.by_class(confusion)
    there = [i for i in range(len(LABELS)) if totals[i, 1:].any()]
    parts = {"precision": scoring.precision, "recall": scoring.recall, "f1": scoring.f1}
    found = {f"{p}_{LABELS[i]}": float(of(totals[i])) for p, of in parts.items() for i in there}
    cells = {(g, p): int(confusion[g, p]) for g in there for p in there}
    return found | {f"confusion_{LABELS[g]}_{LABELS[p]}": n for (g, p), n in cells.items()}


def controls(data: Data, splits: dict[str, list[Example]], seed: int) -> dict[str, dict]:
    """The same pairs, the training labels shuffled among them: only a guess is left to learn."""
    labels = [example.label for example in splits["train"]]
    random.Random(seed).shuffle(labels)
    train = [e._replace(label=new) for e, new in zip(splits["train"], labels, strict=True)]
    return {"control": splits | {"train": train}}


def probe_inputs(data: Data, targets: dict, tokenizer, max_length: int, args) -> ProbeInputs:
    """Each distinct sentence alone is a unit; an example is its premise's and hypothesis's vectors.

    The targets differ in their labels alone.
    """
    import numpy as np

    splits = targets["task"]
    pairs = {s: [(e.premise, e.hypothesis) for e in examples] for s, examples in splits.items()}
    texts = list(dict.fromkeys(text for s in pairs for pair in pairs[s] for text in pair))
    encoded, counts = encode_texts(texts, tokenizer, max_length, args.pooling)
    number = {text: i for i, text in enumerate(texts)}
    rows = {
        split: np.array([[number[text] for text in pair] for pair in some]).reshape(len(some), 2)
        for split, some in pairs.items()
    }
    labels = {
        target: np.array([data.labels.index(e.label) for e in splits["train"]])
        for target, splits in targets.items()
    }
    return ProbeInputs(encoded, dict.fromkeys(targets, rows), labels, len(data.labels), counts)


def probe_predictions(
    data: Data, examples: list[Example], inputs: ProbeInputs, target: str, split: str, found
) -> list[str]:
    """The label of each pair."""
    return [data.labels[i] for i in found]
