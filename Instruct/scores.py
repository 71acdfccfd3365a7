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
from QA.scores import exact_and_f1


def mean_ratio(sums: np.ndarray) -> np.ndarray:
    """Of sums `[..., sources, 2]`: the mean over the sources of one divided by the other."""
    return scoring.ratio(sums[..., 0], sums[..., 1]).mean(-1)


SCORES = (
    Score("mean", "main", mean_ratio, "mean over sources", by_layer=True),
    Score("parse_failures", "failures", mean_ratio, "parse failures"),
)
ACCURACY = ("accuracy", accuracy, "accuracy")
MICRO = ("micro_f1", scoring.micro_f1, "micro F1")
MACRO = ("macro_f1", scoring.macro_f1, "macro F1")
ENTITY = ("entity_f1", scoring.micro_f1, "entity F1")
STRICT = ("entity_f1_strict", scoring.micro_f1, "strict F1")
# By kind: its scores, (name, value, title), the main one first.
KINDS = {
    "ner": (ENTITY, STRICT),
    "nli": (ACCURACY, MACRO),
    "relation": (MICRO, MACRO),
    "classification": (MICRO, MACRO),
    "qa": (ACCURACY, MACRO),
    "free_qa": (("f1", mean_ratio, "token F1"),),
}


def source_scores(rows: list[dict], brief: bool = False) -> tuple[Score, ...]:
    """The scores of each source of `rows`, its main one first; of `count`'s tables.

    `brief`: only its main score and its parse failures.
    """
    made = []
    for number, (source, kind) in enumerate(sources(rows).items()):
        for place, (name, value, title) in enumerate(KINDS[kind][: 1 if brief else None]):
            table = f"{source} {'strict' if name.endswith('_strict') else 'answers'}"
            probed = kind in LABEL_KINDS and place == 0
            made.append(Score(f"{source}_{name}", table, value, f"{source} {title}", probed))

        def failures(sums, number=number):
            return scoring.ratio(sums[..., number, 0], sums[..., number, 1])

        name, title = f"{source}_parse_failures", f"{source} parse failures"
        made.append(Score(name, "failures", failures, title))
    return tuple(made)


def sources(rows: list[dict]) -> dict[str, str]:
    """`{source: kind}` in the order of their names. Raises ValueError for rows of another task."""
    try:
        pairs = {(row["source"], row["kind"]) for row in rows}
    except (KeyError, TypeError):
        raise ValueError("the rows are no predictions of Instruct") from None
    if len(pairs) > len(dict(pairs)) or {kind for _, kind in pairs} - set(KINDS):
        raise ValueError("a source has two kinds, or an unknown one")
    return dict(sorted(pairs))


def count(rows: list[dict]) -> dict[str, np.ndarray]:
    """What each example adds: `{table: array [examples, ...]}`, zeros in another source's tables.

    "main" and "failures" `[examples, sources, 2]`: numerator and denominator of the source's main
    score, and of its share of parse failures. "<source> answers" (of NER entities, and also
    "<source> strict") `[examples, classes, 3]` = right, predicted, gold, without a relation's
    negative class; of free answers `[examples, 1, 2]` = score, 1.
    """
    kinds = sources(rows)
    tables = {name: np.zeros((len(rows), len(kinds), 2)) for name in ("main", "failures")}
    for number, (source, kind) in enumerate(kinds.items()):
        indices = [i for i, row in enumerate(rows) if row["source"] == source]
        mine = [rows[i] for i in indices]
        try:
            counted = _tables(mine, kind)
        except (KeyError, TypeError, AttributeError):
            raise ValueError(f"the rows are no predictions of kind {kind}") from None
        for name, counts in counted.items():
            table = tables[f"{source} {name}"] = np.zeros((len(rows), *counts.shape[1:]))
            table[indices] = counts
        total = counted["answers"].sum(1)
        if KINDS[kind][0] == ACCURACY:
            total = total[:, [0, 2]]
        elif kind != "free_qa":
            total = np.stack([2 * total[:, 0], total[:, 1] + total[:, 2]], -1)
        tables["main"][indices, number] = total
        failures = [(bool(row["parse_failure"]), 1) for row in mine]
        tables["failures"][indices, number] = failures
    return tables


def _tables(rows: list[dict], kind: str) -> dict[str, np.ndarray]:
    """The tables of one source's rows."""
    if kind == "free_qa":
        return {"answers": np.array([[[float(row["predicted"]), 1.0]] for row in rows])}
    if kind == "ner":
        counts = ner.count(rows)
        return {"answers": counts["entities"], "strict": counts["strict"]}
    return {"answers": count_labels(rows)[1]}


def details(rows: list[dict]) -> dict[str, float]:
    """All scores of all sources; of NER also precision, recall, and F1 a type."""
    tables = {name: table.sum(0) for name, table in count(rows).items()}
    values = {score.name: score.value(tables[score.table]) for score in source_scores(rows)}
    for source, kind in sources(rows).items():
        if kind != "ner":
            continue
        own = [row["gold"] + row["predicted"] for row in rows if row["source"] == source]
        types = sorted({ner.word_class(tag) for tags in own for tag in tags} - {ner.OUTSIDE})
        sums = tables[f"{source} answers"]
        values[f"{source}_entity_precision"] = scoring.precision(sums.sum(0))
        values[f"{source}_entity_recall"] = scoring.recall(sums.sum(0))
        for name, totals in zip(types, sums, strict=True):
            values[f"{source}_entity_f1_{name}"] = scoring.f1(totals)
    return {name: float(value) for name, value in values.items()}


def free_score(answer: str, references: list[str], failed: bool) -> float:
    """SQuAD's F1 of an answer: the best over its references; no answer where there are none.

    Rajpurkar et al. 2018, evaluate-v2.0. An empty text, a parse failure, is not "no answer".
    """
    return 0.0 if failed else exact_and_f1(answer, references)[1]
