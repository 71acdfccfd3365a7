"""Exact match and F1 as the official SQuAD 2.0 script (evaluate-v2.0) defines them.

Rajpurkar, Jia & Liang 2018, "Know What You Don't Know". A row of predictions.jsonl has the numbers
that the scores are made of, so that they can be computed again without the text.
"""

import hashlib
import re
import string
from collections import Counter

import numpy as np

from common.scoring import ratio
from QA.squad import Example
from QA.windows import Prediction

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only, as in the script
NUMBER, EXACT, F1 = range(3)  # of the last axis of the table "answers"


def normalize(text: str) -> str:
    """Lower case, without punctuation, articles and superfluous white space."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_and_f1(text: str, golds: list[str]) -> tuple[float, float]:
    """The best exact match and the best F1 over the reference answers; without any, of "".

    Reference answers that are empty after normalization do not count.
    """
    predicted = normalize(text)
    wanted = [gold for gold in map(normalize, golds) if gold] or [""]
    if predicted in wanted:
        return 1.0, 1.0
    words, others = Counter(predicted.split()), [Counter(gold.split()) for gold in wanted]
    return 0.0, max(2 * (words & own).total() / (words.total() + own.total()) for own in others)


def row(example: Example, prediction: Prediction, threshold: float | None) -> dict:
    """A row of predictions.jsonl: the answer, and the scores of the best span and of the answer.

    The answer is the best span, unless the null difference is above the `threshold`.
    """
    n_best, difference, pointer = prediction
    best = next((entry for entry in n_best if entry["start"] is not None), None)
    start, end = (best["start"], best["end"]) if best else (None, None)
    of_span = exact_and_f1(example.context[start:end], example.golds) if best else (0.0, 0.0)
    of_answer = of_span
    if not best or None not in (threshold, difference) and difference > threshold:
        start = end = None
        of_answer = (float(not example.golds),) * 2
    group = hashlib.sha256(example.context.encode()).hexdigest()[:16]  # the passage's
    return {
        "id": example.id, "group": group, "has_answer": bool(example.golds),
        "start": start, "end": end, "exact": of_answer[0], "f1": of_answer[1],
        "span_exact": of_span[0], "span_f1": of_span[1],
        "null_difference": difference, "n_best": n_best,
    } | ({"pointer": pointer} if pointer else {})  # fmt: skip


def best_threshold(rows: list[dict], metric: str) -> tuple[float, float]:
    """The best mean of `metric` over all thresholds, and the lowest threshold that has it.

    As the official script's search, without two faults: examples of equal differences are all
    answered or all withheld, and the search starts with no answer at all.
    """
    differences, given, withheld = _compared(rows, metric)
    order = np.argsort(differences, kind="stable")
    sums = withheld.sum() + np.cumsum((given - withheld)[order])
    ordered = differences[order]
    last = np.append(ordered[1:] != ordered[:-1], True) & np.isfinite(ordered)  # of its equals
    sums, ordered = sums[last], ordered[last]
    if not len(sums) or sums.max() <= withheld.sum():
        return float(withheld.mean()), float(ordered.min(initial=1.0)) - 1.0
    at = int(sums.argmax())
    return float(sums[at] / len(rows)), float(ordered[at])


def _compared(rows: list[dict], metric: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Null differences (infinite if there is no span); scores of the span, and of no answer."""
    differences, given, answerable = _columns(
        rows, "null_difference", f"span_{metric}", "has_answer"
    )
    return np.nan_to_num(differences, nan=np.inf), given, 1 - answerable


def _columns(rows: list[dict], *names: str) -> np.ndarray:
    return np.array([[row.get(name) for name in names] for row in rows], float).T


def count(rows: list[dict]) -> np.ndarray:
    """`[examples, 2, 3]`: the example, its exact match and F1; first the row of no answer.

    Raises ValueError for rows that are no predictions.
    """
    answerable, exact, f1 = _columns(rows, "has_answer", "exact", "f1")
    if np.isnan(exact + f1 + answerable).any():
        raise ValueError("not a prediction of a question")
    scores = np.stack([np.ones_like(f1), exact, f1], 1)
    return np.stack([1 - answerable, answerable], 1)[:, :, None] * scores[:, None]


def mean(part: int, kind: int | None = None, number: int = NUMBER):
    """A function of sums `[..., kinds, parts]` -> `[...]`: a part over a number; 0 / 0 is 0.

    `kind`: only of questions without (0) or with (1) an answer.
    """

    def value(sums: np.ndarray) -> np.ndarray:
        chosen = sums.sum(-2) if kind is None else sums[..., kind, :]
        return ratio(chosen[..., part], chosen[..., number])

    return value


def details(rows: list[dict]) -> dict[str, float]:
    """How many of each kind; the scores at threshold 0 and at the split's own best threshold."""
    without, answerable = (int(n) for n in count(rows).sum(0)[:, NUMBER])
    values = {"questions_has_answer": answerable}
    if without:
        values["questions_no_answer"] = without
    if without and any(row["null_difference"] is not None for row in rows):
        for name in ("exact", "f1"):
            nulls, given, withheld = _compared(rows, name)
            values[f"{name}_at_threshold_0"] = float(np.where(nulls > 0, withheld, given).mean())
            values[f"best_{name}"], values[f"best_{name}_threshold"] = best_threshold(rows, name)
    return values
