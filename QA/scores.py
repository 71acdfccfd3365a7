"""Exact match and F1 as the official SQuAD 2.0 script (evaluate-v2.0) defines them.

Rajpurkar, Jia & Liang 2018, "Know What You Don't Know". A row of predictions.jsonl holds the small
numbers that the scores are made of, so that they can be computed again without the text.
"""

import re
import string
from collections import Counter

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII alone, as the script has it
NUMBER, EXACT, F1 = range(3)  # of the last axis of the table "answers"


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_and_f1(text: str, golds: list[str]) -> tuple[float, float]:
    """The best exact match and the best F1 over the reference answers; without any, of "nothing".

    Reference answers of which normalization leaves nothing do not count.
    """
    predicted = normalize(text)
    wanted = [gold for gold in map(normalize, golds) if gold] or [""]
    return (
        float(predicted in wanted),
        max(_f1(predicted.split(), gold.split()) for gold in wanted),
    )


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    shared = (Counter(predicted) & Counter(gold)).total()
    return 2 * shared / (len(predicted) + len(gold))


def row(key: str, group: str, context: str, golds: list[str], n_best: list[dict],
        null_difference: float | None, threshold: float | None) -> dict:  # fmt: skip
    """A row of predictions.jsonl: the answer, and the scores of the best span and of the answer.

    `n_best`: `{"start", "end", "probability"}` from the best on, None and None for no answer.
    `null_difference`: the score of no answer less that of the best span, None if there is no span.
    The answer is the best span, unless `threshold` is given and the difference is above it.
    """
    best = next((entry for entry in n_best if entry["start"] is not None), None)
    span = (best["start"], best["end"]) if best else (None, None)
    has_answer = bool(golds)
    found = (0.0, 0.0)
    if best:
        found = exact_and_f1(context[span[0] : span[1]], golds)
    withheld = best is None or (threshold is not None and null_difference > threshold)
    given = (float(not has_answer),) * 2 if withheld else found
    return {
        "id": key, "group": group, "has_answer": has_answer,
        "start": None if withheld else span[0], "end": None if withheld else span[1],
        "exact": given[0], "f1": given[1], "span_exact": found[0], "span_f1": found[1],
        "null_difference": null_difference, "n_best": n_best,
    }  # fmt: skip


def at_threshold(rows: list[dict], metric: str, threshold: float) -> float:
    """The mean of `metric` ("exact", "f1") if spans above `threshold` were withheld."""
    differences, given, withheld = _columns(rows, metric)
    return float(np.where(differences > threshold, withheld, given).mean())


def best_threshold(rows: list[dict], metric: str) -> tuple[float, float]:
    """The best mean of `metric` over all thresholds, and the lowest threshold that has it.

    As the official script's search, but for two faults of its: examples of the same difference go
    one way together, and the search begins where no answer is given at all.
    """
    differences, given, withheld = _columns(rows, metric)
    order = np.argsort(differences, kind="stable")
    sums = withheld.sum() + np.cumsum((given - withheld)[order])
    ordered = differences[order]
    last = np.append(ordered[1:] != ordered[:-1], True) & np.isfinite(ordered)  # of its equals
    sums, ordered = sums[last], ordered[last]
    if not len(sums) or sums.max() <= withheld.sum():
        return float(withheld.mean()), float(ordered.min(initial=1.0)) - 1.0
    at = int(sums.argmax())
    return float(sums[at] / len(rows)), float(ordered[at])


def _columns(rows: list[dict], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Null differences (infinite where there is no span); scores of the span, and of no answer."""
    differences = [row["null_difference"] for row in rows]
    infinite = [np.inf if difference is None else difference for difference in differences]
    given = np.array([row[f"span_{metric}"] for row in rows], float)
    withheld = np.array([not row["has_answer"] for row in rows], float)
    return np.array(infinite, float), given, withheld


def count(rows: list[dict]) -> np.ndarray:
    """`[examples, 2, 3]`: the example, its exact match and F1, in the row of no answer or answer.

    Raises ValueError for rows that are no predictions.
    """
    found = np.zeros((len(rows), 2, 3))
    try:
        for table, row in zip(found, rows, strict=True):
            table[int(row["has_answer"])] = 1.0, row["exact"], row["f1"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a prediction of a question: {error}") from None
    return found


def mean(metric: int, kind: int | None = None):
    """A function of sums `[..., 2, 3]` -> `[...]`: the mean of EXACT or F1; 0 / 0 is 0.

    `kind`: of questions without (0) or with (1) an answer alone.
    """

    def value(sums: np.ndarray) -> np.ndarray:
        chosen = sums.sum(-2) if kind is None else sums[..., kind, :]
        return chosen[..., metric] / np.maximum(chosen[..., NUMBER], 1)

    return value


def details(rows: list[dict]) -> dict[str, float]:
    """How many of each kind, and what other thresholds would give: 0, and the split's own best."""
    table = count(rows).sum(0)
    found = {"questions_has_answer": int(table[1, NUMBER])}
    if not table[0, NUMBER]:
        return found
    found["questions_no_answer"] = int(table[0, NUMBER])
    for name in ("exact", "f1"):
        if all("null_difference" in row for row in rows):
            found[f"{name}_at_threshold_0"] = at_threshold(rows, name, 0.0)
            best = best_threshold(rows, name)
            found[f"best_{name}"], found[f"best_{name}_threshold"] = best
    return found
