"""Scores of an instruction set, source by source, as an encoder's would be, and their mean.

A row, a line of predictions.jsonl: `id`, mostly `group`, `source`, `kind`, `gold`, `predicted`,
`parse_failure`; gold and predicted are IOB2 tags of one entity type, a label (predicted: or None),
a sorted list of labels, or (free text) None and the answer's own score. Rows of a relation source
have `negative`, the label that says "no relation", if it has one. Every score is a function of
counts that are added up over examples (see `common.task.Score`). What is undefined (0 / 0) is 0.
"""

from collections.abc import Iterable

import numpy as np

from common import scoring
from common.task import Score
from Instruct.prompts import LABEL_KINDS
from NER.scores import entities
from QA.scores import exact_and_f1

NEGATIVE = ("none", "0", "false")  # labels that mean "no relation", in any case


def accuracy(sums: np.ndarray) -> np.ndarray:
    """Right / gold of `[..., classes, 3]`, where each example has one label."""
    return scoring.recall(sums.sum(-2))


def mean_ratio(sums: np.ndarray) -> np.ndarray:
    """Of sums `[..., sources, 2]`: the mean over the sources of one divided by the other."""
    return scoring.ratio(sums[..., 0], sums[..., 1]).mean(-1)


SCORES = (
    Score("mean", "main", mean_ratio, "mean over sources", by_layer=True),
    Score("parse_failures", "failures", mean_ratio, "parse failures"),
)
MICRO, MACRO = (
    ("micro_f1", scoring.micro_f1, "micro F1"),
    ("macro_f1", scoring.macro_f1, "macro F1"),
)
ACCURACY = ("accuracy", accuracy, "accuracy")
# By kind: its scores, (name, value, title), the main one first.
KINDS = {
    "ner": (
        ("entity_f1", scoring.micro_f1, "entity F1"),
        ("entity_f1_strict", scoring.micro_f1, "strict F1"),
    ),
    "nli": (ACCURACY, MACRO),
    "relation": (MICRO, MACRO),
    "classification": (MICRO, MACRO),
    "qa": (ACCURACY, MACRO),
    "free_qa": (("f1", mean_ratio, "token F1"),),
}


def source_scores(rows: list[dict], brief: bool = False) -> tuple[Score, ...]:
    """The scores of each source of `rows`, its main one first; of `count`'s tables.

    `brief`: its main one and its parse failures alone.
    """
    found = []
    for number, (source, kind) in enumerate(sources(rows).items()):
        for name, value, title in KINDS[kind][: 1 if brief else None]:
            table = f"{source} {'strict' if name.endswith('_strict') else 'answers'}"
            probed = kind in LABEL_KINDS and name == KINDS[kind][0][0]
            found.append(Score(f"{source}_{name}", table, value, f"{source} {title}", probed))

        def failures(sums, number=number):
            return scoring.ratio(sums[..., number, 0], sums[..., number, 1])

        name, title = f"{source}_parse_failures", f"{source} parse failures"
        found.append(Score(name, "failures", failures, title))
    return tuple(found)


def sources(rows: list[dict]) -> dict[str, str]:
    """`{source: kind}` in the order of their names. Raises ValueError for rows of another task."""
    try:
        found = {(row["source"], row["kind"]) for row in rows}
    except (KeyError, TypeError):
        raise ValueError("the rows are no predictions of Instruct") from None
    if len(found) > len(dict(found)) or {kind for _, kind in found} - set(KINDS):
        raise ValueError("a source is of two kinds, or of one that is not known")
    return dict(sorted(found))


def count(rows: list[dict]) -> dict[str, np.ndarray]:
    """What each example adds: `{table: array [examples, ...]}`, zeros in another source's tables.

    "main" and "failures" `[examples, sources, 2]`: what is above and below the line in the
    source's main score, and in its share of parse failures. "<source> answers" (of NER entities,
    also "<source> strict") `[examples, classes, 3]` = right, predicted, gold; a relation's negative
    class is none of them; of free answers `[examples, 1, 2]` = score, 1.
    """
    kinds = sources(rows)
    at: dict[str, list[int]] = {source: [] for source in kinds}
    for i, row in enumerate(rows):
        at[row["source"]].append(i)
    tables = {
        "main": np.zeros((len(rows), len(kinds), 2)),
        "failures": np.zeros((len(rows), len(kinds), 2)),
    }
    for number, (source, kind) in enumerate(kinds.items()):
        indices = at[source]
        mine = [rows[i] for i in indices]
        flags = [(bool(row["parse_failure"]), 1) for row in mine]
        tables["failures"][indices, number] = flags
        for name, counts in _tables(mine, kind).items():
            table = np.zeros((len(rows), *counts.shape[1:]), counts.dtype)
            table[indices] = counts
            tables[f"{source} {name}"] = table
        total = tables[f"{source} answers"][indices].sum(1)
        if KINDS[kind][0] == ACCURACY:
            total = total[:, [0, 2]]
        elif kind != "free_qa":
            total = np.stack([2 * total[:, 0], total[:, 1] + total[:, 2]], -1)
        tables["main"][indices, number] = total
    return tables


def _tables(rows: list[dict], kind: str) -> dict[str, np.ndarray]:
    """The tables of one source's rows."""
    try:
        if kind == "free_qa":
            return {"answers": np.array([[[float(row["predicted"]), 1.0]] for row in rows])}
        if kind == "ner":
            return {
                "answers": _right_predicted_gold(map(entity_pair, rows)),
                "strict": _right_predicted_gold(entity_pair(row, strict=True) for row in rows),
            }
        return {"answers": _right_predicted_gold(map(label_pair, rows))}
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"the rows are no predictions of kind {kind}") from None


def entity_pair(row: dict, strict: bool = False) -> tuple[set, set]:
    """The gold and the predicted entities of an NER row: (type, first word, last word + 1)."""
    return entities(row["gold"], strict), entities(row["predicted"], strict)


def label_pair(row: dict) -> tuple[set, set]:
    """The gold and the predicted labels of a row, as (label,); not a relation's negative one."""
    sides = []
    for side in (row["gold"], row["predicted"]):
        labels = side if isinstance(side, list) else [side] if side is not None else []
        if row["kind"] == "relation":
            labels = [label for label in labels if not is_negative(label, row.get("negative"))]
        sides.append({(label,) for label in labels})
    return sides[0], sides[1]


def is_negative(label: str, negative: str | None = None) -> bool:
    """Whether a relation's label says that there is none: `negative`, else one of NEGATIVE."""
    return label == negative if negative else label.casefold() in NEGATIVE


def _right_predicted_gold(pairs: Iterable[tuple[set, set]]) -> np.ndarray:
    """Counts `[examples, classes, 3]` of (gold, predicted) sets of tuples (class, ...)."""
    gold, predicted = zip(*pairs, strict=True)
    classes = sorted({item[0] for side in (*gold, *predicted) for item in side})
    return scoring.count([gold, predicted], classes)


def details(rows: list[dict]) -> dict[str, float]:
    """All scores of all sources; of NER also precision, recall, and F1 a type."""
    tables = {name: table.sum(0) for name, table in count(rows).items()}
    found = {s.name: float(s.value(tables[s.table])) for s in source_scores(rows)}
    for source, kind in sources(rows).items():
        if kind != "ner":
            continue
        mine = [row for row in rows if row["source"] == source]
        types = sorted({e[0] for row in mine for side in entity_pair(row) for e in side})
        sums = tables[f"{source} answers"]
        found[f"{source}_entity_precision"] = float(scoring.precision(sums.sum(0)))
        found[f"{source}_entity_recall"] = float(scoring.recall(sums.sum(0)))
        for name, values in zip(types, sums, strict=True):
            found[f"{source}_entity_f1_{name}"] = float(scoring.f1(values))
    return found


def free_score(answer: str, references: list[str], failed: bool) -> float:
    """SQuAD's F1 of an answer: the best over its references; no answer where there are none.

    Rajpurkar et al. 2018, evaluate-v2.0. An empty text, a parse failure, is not "no answer".
    """
    return 0.0 if failed else exact_and_f1(answer, references)[1]
