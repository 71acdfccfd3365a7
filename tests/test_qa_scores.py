"""QA's scores against an independent implementation of the official SQuAD 2.0 evaluation."""

import collections
import math
import random
import re
import string

import numpy as np
import pytest

from QA import scores
from QA.squad import Example
from QA.windows import Prediction

WORDS = ["the", "a", "p53", "TP53", "U.S.", "3.5", "don't", "cell line", "kinase,", "(IL-2)", "“x”"]


# --- The official script's definitions, written out once more


def slow_tokens(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", text).split()


def slow_pair(text, golds):
    golds = [g for g in golds if slow_tokens(g)] or [""]
    exact = max(int(slow_tokens(g) == slow_tokens(text)) for g in golds)
    best = 0.0
    for gold in golds:
        g, p = slow_tokens(gold), slow_tokens(text)
        same = sum((collections.Counter(g) & collections.Counter(p)).values())
        if not g or not p:
            best = max(best, float(g == p))
        elif same:
            precision, recall = same / len(p), same / len(g)
            best = max(best, 2 * precision * recall / (precision + recall))
    return exact, best


def slow_mean(questions, threshold, which):
    """`apply_no_ans_threshold`, then the mean."""
    total = 0.0
    for text, golds, na in questions:
        withheld = text is None or na > threshold
        total += float(not golds) if withheld else slow_pair(text, golds)[which]
    return total / len(questions)


def random_questions(rng, n, ties):
    made = []
    for _ in range(n):
        golds = [
            " ".join(rng.choices(WORDS, k=rng.randint(1, 3))) for _ in range(rng.randint(0, 3))
        ]
        guess = rng.random()
        text = " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))
        if golds and guess < 0.5:
            text = rng.choice(golds)
        elif guess > 0.95:
            text = None
        na = (
            None
            if text is None
            else rng.choice([-2.0, -0.5, 0.5, 1.0])
            if ties
            else rng.gauss(0, 3)
        )
        made.append((text, golds, na))
    return made


def rows_of(questions, threshold=None):
    made = []
    for i, (text, golds, na) in enumerate(questions):
        context = f"before {text} after"
        n_best = [{"start": None, "end": None, "probability": 0.5}]
        if text is not None:
            n_best.append({"start": 7, "end": 7 + len(text), "probability": 0.5})
        example = Example(str(i), "title", "?", context, [], golds)
        made.append(scores.row(example, Prediction(n_best, na), threshold))
    return made


@pytest.mark.parametrize("seed", range(20))
def test_exact_and_f1_equal_the_official_definition(seed):
    rng = random.Random(seed)
    for text, golds, _ in random_questions(rng, 200, False):
        assert scores.exact_and_f1(text or "", golds) == pytest.approx(slow_pair(text or "", golds))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(15))
def test_means_and_best_thresholds_equal_trying_them_all(seed, ties):
    rng = random.Random(seed)
    questions = random_questions(rng, rng.choice([1, 2, 7, 60]), ties)
    values = sorted({na for *_, na in questions if na is not None})
    for which, metric in enumerate(("exact", "f1")):
        possible = [min(values, default=1.0) - 1, *values]
        tried = [slow_mean(questions, t, which) for t in possible]
        found, threshold = scores.best_threshold(rows_of(questions), metric)
        assert found == pytest.approx(max(tried), abs=1e-12)
        assert math.isfinite(threshold)
        assert slow_mean(questions, threshold, which) == pytest.approx(found, abs=1e-12)
        best = [t for mean, t in zip(tried, possible, strict=True) if mean > found - 1e-12]
        assert threshold == min(best)
        rows = rows_of(questions)
        if not all(golds for _, golds, _ in questions) and values:
            expected = slow_mean(questions, 0.0, which)
            assert scores.details(rows)[f"{metric}_at_threshold_0"] == pytest.approx(expected)
        for threshold in (-1.0, 0.0, 0.5, rng.gauss(0, 2)):
            expected = slow_mean(questions, threshold, which)
            given = rows_of(questions, threshold)
            table = scores.count(given).sum(0)
            assert scores.mean(which + 1)(table) == pytest.approx(expected)


def test_equal_differences_go_one_way():
    """The official search cuts between two questions of one score, and reports 100."""
    for order in (1, -1):
        two = [("p53", ["p53"], 0.5), ("p53", [], 0.5)][::order]
        assert scores.best_threshold(rows_of(two), "exact")[0] == 0.5


def test_the_search_begins_where_nothing_is_answered():
    """The official one begins at 0, where negative differences are answered already."""
    wrong = [("p53", [], -3.0), ("p53", [], -2.0)]
    found, threshold = scores.best_threshold(rows_of(wrong), "f1")
    assert found == 1.0 and threshold < -3.0
    nothing = [(None, ["p53"], None)]
    assert scores.best_threshold(rows_of(nothing), "f1") == (0.0, 0.0)


def test_an_answer_is_given_where_the_difference_is_not_above_the_threshold():
    (row,) = rows_of([("p53", ["p53"], 0.5)], 0.5)
    assert (row["start"], row["end"], row["exact"], row["f1"]) == (7, 10, 1.0, 1.0)
    one = row
    (row,) = rows_of([("p53", ["p53"], 0.5)], 0.499)
    assert row["group"] == one["group"] != rows_of([("p54", [], 0.5)])[0]["group"]  # the passage's
    assert (row["start"], row["end"], row["exact"], row["span_exact"]) == (None, None, 0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "normal"),
    [("U.S.", "us"), ("3.5", "35"), ("a-b", "ab"), ("the", ""), ("An  apple, the A", "apple")]
    + [("“p53”", "“p53”"), ("x\u2011y", "x\u2011y"), ("theme", "theme"), ("", "")],
)
def test_normalization(text, normal):
    assert scores.normalize(text) == normal


def test_by_kind_of_question():
    rows = rows_of([("p53", ["p53 gene"], -1), ("x", ["y"], -1), ("x", [], 1), ("x", [], -1)], 0.0)
    found = scores.details(rows)
    assert found["questions_has_answer"] == found["questions_no_answer"] == 2
    assert found["f1_at_threshold_0"] == pytest.approx((2 / 3 + 1) / 4)
    assert found["best_f1"] == 0.5 and found["best_f1_threshold"] == -2.0
    table = scores.count(rows)
    by_kind = {(part, kind): scores.mean(part, kind)(table.sum(0))
               for part in (scores.EXACT, scores.F1) for kind in (0, 1)}  # fmt: skip
    assert by_kind[scores.EXACT, 1] == 0 and by_kind[scores.F1, 1] == pytest.approx(1 / 3)
    assert by_kind[scores.EXACT, 0] == by_kind[scores.F1, 0] == 0.5
    assert table.shape == (4, 2, 3)
    assert scores.mean(scores.F1)(table.sum(0)) == pytest.approx((2 / 3 + 1) / 4)
    weights = np.array([[1, 1, 1, 1], [0, 2, 2, 0]])  # resamples, as the bootstrap adds them up
    sums = np.einsum("se,e...->s...", weights, table)
    assert scores.mean(scores.EXACT)(sums) == pytest.approx([0.25, 0.5])
    assert scores.mean(scores.F1, 1)(sums) == pytest.approx([1 / 3, 0.0])


def test_without_unanswerable_questions_nothing_is_said_of_them():
    assert set(scores.details(rows_of([("p53", ["p53"], -1)]))) == {"questions_has_answer"}


@pytest.mark.parametrize("row", [{}, {"id": "x", "gold": "y"}, {"has_answer": True, "exact": None}])
def test_rows_of_another_task_are_refused(row):
    with pytest.raises(ValueError, match="not a prediction"):
        scores.count([row])
