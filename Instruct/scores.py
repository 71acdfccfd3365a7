"""Scores of an instruction set, source by source, as an encoder's would be, and their mean.

A row, a line of predictions.jsonl: `id`, `group`, `source`, `kind`, `gold`, `predicted`,
`parse_failure`. Gold and predicted are IOB2 tags of one entity type; a label (predicted: or None);
a sorted list of labels; or (free text) None and the answer's own score. Rows of a relation source
have `negative`, the label that means "no relation", if it was given. Every score is a function of
counts that are added up over examples (see `common.task.Score`). What is undefined (0 / 0) is 0.
"""

import numpy as np

from Classification.scores import accuracy, count_labels
from common import scoring
from common.task import Score
from Instruct.prompts import LABEL_KINDS
from NER import scores as ner


def mean_ratio(sums: np.ndarray) -> np.ndarray:
    """Of sums `[..., sources, 2]`: the mean over the sources of one divided by the other."""
    return scoring.ratio(sums[..., 0], sums[..., 1]).mean(-1)


SCORES = (
    Score("mean", "main", mean_ratio, "mean over sources", by_layer=True),
    Score("parse_failures", "failures", mean_ratio, "parse failures"),
)
MACRO = ("macro_f1", scoring.macro_f1, "macro F1")
ONE = (("accuracy", accuracy, "accuracy"), MACRO)
SEVERAL = (("micro_f1", scoring.micro_f1, "micro F1"), MACRO)
ENTITY = ("entity_f1", scoring.micro_f1, "entity F1")
STRICT = ("entity_f1_strict", scoring.micro_f1, "strict F1")
FREE = (("f1", mean_ratio, "token F1"),)
# By kind: its scores, (name, value, title), the main one first.
KINDS = {"ner": (ENTITY, STRICT), "nli": ONE, "qa": ONE, "free_qa": FREE}
KINDS |= {"relation": SEVERAL, "classification": SEVERAL}


def parts(rows: list[dict], brief: bool = True) -> tuple[Score, ...]:
    """The scores of each source of `rows`, its main one first; of `count`'s tables.

    `brief`: only its main score and its parse failures.
    """
    made = []
    for source, kind in sources(rows).items():
        for name, value, title in KINDS[kind][: 1 if brief else None]:
            table = f"{source} {'strict' if name.endswith('_strict') else 'answers'}"
            probed = kind in LABEL_KINDS and name == KINDS[kind][0][0]
            made.append(Score(f"{source}_{name}", table, value, f"{source} {title}", probed))
        name, title = f"{source}_parse_failures", f"{source} parse failures"
        made.append(Score(name, f"{source} failures", mean_ratio, title))
    return tuple(made)


def sources(rows: list[dict]) -> dict[str, str]:
    """`{source: kind}` in the order of their names."""
    return dict(sorted({(row["source"], row["kind"]) for row in rows}))


def count(rows: list[dict]) -> dict[str, np.ndarray]:
    """What each example adds: `{table: array [examples, ...]}`, zeros in another source's tables.

    "main" and "failures" `[examples, sources, 2]`: numerator and denominator of the source's main
    score, and of its share of parse failures; "<source> main" and "<source> failures" are one of
    them. "<source> answers" (of NER entities, and also "<source> strict") `[examples, classes, 3]`
    = right, predicted, gold, without a relation's negative class; of free answers
    `[examples, 1, 2]` = score, 1.
    """
    tables: dict[str, np.ndarray] = {}
    kinds = sources(rows)
    for source, kind in kinds.items():
        places = [i for i, row in enumerate(rows) if row["source"] == source]
        for name, counts in _tables([rows[i] for i in places], kind).items():
            table = tables[f"{source} {name}"] = np.zeros((len(rows), *counts.shape[1:]))
            table[places] = counts
    for name in ("main", "failures"):
        tables[name] = np.concatenate([tables[f"{source} {name}"] for source in kinds], 1)
    return tables


def _tables(rows: list[dict], kind: str) -> dict[str, np.ndarray]:
    """The tables of one source's rows."""
    failures = np.array([[[bool(row["parse_failure"]), 1]] for row in rows], float)
    if kind == "free_qa":
        answers = np.array([[[float(row["predicted"]), 1.0]] for row in rows])
        return {"answers": answers, "main": answers, "failures": failures}
    counts = ner.count(rows) if kind == "ner" else {"entities": count_labels(rows)[1]}
    right, predicted, gold = np.moveaxis(counts["entities"].sum(1, keepdims=True), -1, 0)
    parts = (right, gold) if KINDS[kind] == ONE else (2 * right, predicted + gold)
    tables = {"answers": counts["entities"], "main": np.stack(parts, -1), "failures": failures}
    return tables | ({"strict": counts["strict"]} if kind == "ner" else {})


def details(rows: list[dict]) -> dict[str, float]:
    """All scores of all sources; of NER also precision, recall, and F1 a type."""
    tables = {name: table.sum(0) for name, table in count(rows).items()}
    values = {score.name: score.value(tables[score.table]) for score in parts(rows, brief=False)}
    for source in [name for name, kind in sources(rows).items() if kind == "ner"]:
        types = ner.classes([row for row in rows if row["source"] == source])[1:]
        sums = tables[f"{source} answers"]
        values[f"{source}_entity_precision"] = scoring.precision(sums.sum(0))
        values[f"{source}_entity_recall"] = scoring.recall(sums.sum(0))
        for name, totals in zip(types, sums, strict=True):
            values[f"{source}_entity_f1_{name}"] = scoring.f1(totals)
    return {name: float(value) for name, value in values.items()}
