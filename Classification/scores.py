"""Scores of labels, one a text or several; `Instruct/` scores answers that are labels with them.

A row, a line of predictions.jsonl: `id`, `group`, `kind` (see `Classification.data`), `gold`,
`predicted`: a label (predicted: or None), or a sorted list of labels. Rows of a relation set have
`negative`, the label that means "no relation", if it was given. What is undefined (0 / 0) is 0.
"""

from collections import Counter
from itertools import accumulate

from common import scoring
from common.task import Score

NEGATIVE = ("none", "0", "false")  # labels that mean "no relation", in any case


def accuracy(totals):
    """Right / gold of `[..., classes, 3]`, where each example has one label: -> [...]."""
    return scoring.recall(totals.sum(-2))


SCORES = (
    Score("micro_f1", "positive", scoring.micro_f1, "micro F1", by_layer=True),
    Score("accuracy", "answers", accuracy, "accuracy", by_layer=True),
    Score("macro_f1", "labels", scoring.macro_f1, "macro F1", by_layer=True),
)
TABLES = {  # by kind: those that its scores add up
    "relation": ("positive", "answers", "labels"),
    "classification": ("positive", "labels"),
    "qa": ("answers", "labels"),
}


def is_negative(label: str, negative: str | None = None) -> bool:
    """Whether a relation's label says that there is none: `negative`, else one of NEGATIVE."""
    return label == negative if negative else label.casefold() in NEGATIVE


def labels_of(row: dict, side: str) -> set[tuple[str]]:
    """The gold or the predicted labels of a row, as (label,); not a relation's negative one."""
    labels = row[side] if isinstance(row[side], list) else [row[side]]
    if row["kind"] == "relation":
        labels = [x for x in labels if x is None or not is_negative(x, row.get("negative"))]
    return {(label,) for label in labels if label is not None}


def constant(rows: list[dict]) -> list[str]:
    """The labels, sorted, that have the highest micro F1 as the answer to all `rows`.

    One, or where a text may have several the k most frequent ones. [] if no label counts.
    """
    counts = Counter(sorted(x for row in rows for (x,) in labels_of(row, "gold"))).most_common()
    most = len(counts) if isinstance(rows[0]["gold"], list) else 1
    right = list(accumulate(n for _, n in counts))[:most]
    f1 = [2 * n / (sum(n for _, n in counts) + k * len(rows)) for k, n in enumerate(right, 1)]
    return sorted(label for label, _ in counts[: 1 + f1.index(max(f1))]) if f1 else []


def count_labels(rows: list[dict]) -> tuple[list[str], "ndarray"]:  # noqa: F821
    """(The labels that occur, `[rows, labels, 3]` = right, predicted, gold), see `labels_of`."""
    sides = [[labels_of(row, side) for row in rows] for side in ("gold", "predicted")]
    classes = sorted({item[0] for side in sides for items in side for item in items})
    return classes, scoring.count(sides, classes)


def count(rows: list[dict]) -> dict:
    """See `Task.count`: "labels" (and "positive", the same) `[rows, labels, 3]`, without the
    negative one; "answers" `[rows, 1, 3]`, whether the one label is right, the negative one too."""
    import numpy as np

    (kind,) = {row["kind"] for row in rows}
    counts = count_labels(rows)[1]
    right = [row["gold"] == row["predicted"] for row in rows]
    answers = np.array([[[same, 1, 1]] for same in right], float)
    return {name: answers if name == "answers" else counts for name in TABLES[kind]}


def details(rows: list[dict]) -> dict[str, float]:
    """Precision, recall and F1 of each label but the negative one, and over all of them."""
    classes, counts = count_labels(rows)
    totals = counts.sum(0)
    parts = (scoring.precision, scoring.recall, scoring.f1)
    values = {f"micro_{part.__name__}": float(part(totals.sum(0))) for part in parts[:2]}
    for name, own in zip(classes, totals, strict=True):
        values |= {f"{part.__name__}_{name}": float(part(own)) for part in parts}
    return values
