"""The NLI task, as `common.task` asks for it: a premise and a hypothesis in, one label out."""

from collections import Counter
from typing import TYPE_CHECKING

from common import scoring
from common.controls import by_rarest_word
from common.task import Data, Examples, ProbeInputs, Score
from NLI.data import LABELS, Example, load
from NLI.encoding import encode_pairs, encode_texts

if TYPE_CHECKING:
    from numpy import ndarray

__all__ = ["load"]
NAME, HEAD, DATASET, IN_STUDY = "NLI", "sequence", "mednli", True
MCC = "matthews_correlation"
SCORES = (
    Score("accuracy", "confusion", scoring.accuracy, "accuracy", by_layer=True),
    Score("macro_f1", "confusion", scoring.macro_f1_of_classes, "macro F1", by_layer=True),
    Score(MCC, "confusion", scoring.matthews_correlation, "Matthews correlation", lowest=-1.0),
)


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


def predict(
    model, tokenizer, data: Data, examples, encoded, batch_size: int, device, name: str
) -> list[str]:
    """The label of each pair."""
    from common.forward import predict_logits

    logits = predict_logits(model, encoded, batch_size, device, name)
    return [data.labels[values.argmax()] for values in logits]


def rows(
    data: Data, examples: dict[str, list[Example]], predictions: dict[str, list]
) -> tuple[dict[str, list[dict]], dict]:
    """Rows of predictions.jsonl: id, gold and predicted label; no text."""
    made = {
        split: [
            {"id": example.id, "gold": example.label, "predicted": predicted}
            for example, predicted in zip(examples[split], predictions[split], strict=True)
        ]
        for split in predictions
    }
    return made, {}


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
    one = np.eye(len(LABELS))
    gold, predicted = np.array(cells, int).reshape(-1, 2).T
    return {"confusion": one[gold][:, :, None] * one[predicted][:, None, :]}


def details(rows: list[dict]) -> dict[str, float]:
    """A label's precision, recall and F1 (0-1), and `confusion_<gold>_<predicted>`, in pairs.

    Only labels that occur on either side count (a set may be two-way).
    """
    from sklearn.metrics import classification_report

    sides = [[row[side] for row in rows] for side in ("gold", "predicted")]
    labels = [label for label in LABELS if label in sides[0] or label in sides[1]]
    if not labels:
        return {}
    report = classification_report(*sides, labels=labels, output_dict=True, zero_division=0)
    parts = {"precision": "precision", "recall": "recall", "f1": "f1-score"}
    values = {f"{name}_{label}": report[label][parts[name]] for name in parts for label in labels}
    pairs = Counter(zip(*sides, strict=True))
    return values | {f"confusion_{g}_{p}": pairs[g, p] for g in labels for p in labels}


def controls(data: Data, splits: dict[str, list[Example]], seed: int) -> dict[str, list[dict]]:
    """The same pairs with labels that a word of the hypothesis decides, see `common.controls`."""
    texts = {split: [e.hypothesis for e in own] for split, own in splits.items()}
    drawn = by_rarest_word(texts, [e.label for e in splits["train"]], seed)
    return {"control": [
        {split: [e._replace(label=label) for e, label in zip(own, labels[split], strict=True)]
         for split, own in splits.items()} for labels in drawn
    ]}  # fmt: skip


def probe_inputs(
    data: Data, targets: dict, tokenizer, max_length: int, pooling: str
) -> ProbeInputs:
    """Each distinct sentence alone is a unit; an example is its premise's and hypothesis's vectors.

    The targets differ in their labels alone.
    """
    import numpy as np

    pairs = {s: [(e.premise, e.hypothesis) for e in own] for s, own in targets["task"].items()}
    texts = list(dict.fromkeys(text for own in pairs.values() for pair in own for text in pair))
    encoded, counts = encode_texts(texts, tokenizer, max_length, pooling)
    number = {text: i for i, text in enumerate(texts)}
    rows = {
        split: np.array([[number[text] for text in pair] for pair in own], int).reshape(-1, 2)
        for split, own in pairs.items()
    }
    labels = {
        target: np.array([data.labels.index(example.label) for example in splits["train"]])
        for target, splits in targets.items()
    }
    return ProbeInputs(encoded, [Examples(rows, labels)], len(data.labels), counts)


def probe_predictions(
    data: Data, examples: list[Example], inputs: ProbeInputs, target: str, split: str, found: list
) -> list[str]:
    """The label of each pair."""
    return [data.labels[i] for i in found[0]]
