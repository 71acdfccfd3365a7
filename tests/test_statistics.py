"""Intervals and tests on synthetic data: equal to plain loops, and right as often as they say."""

import itertools
from functools import partial

import numpy as np
import pytest

from common import scoring
from common.report import statistics
from common.task import evaluate
from NER import task as ner
from NLI import task as nli
from tests import made_results

tag_rows = partial(made_results.rows, "NER", 0.7)
label_rows = partial(made_results.rows, "NLI", 0.6)


def systems(task, rows):
    """(counts, score) of each of a task's scores, by name."""
    tables = task.count(rows)
    return {score.name: (tables[score.table], score.value) for score in task.SCORES}


BOTH = pytest.mark.parametrize("task, make", ((ner, tag_rows), (nli, label_rows)))


@BOTH
def test_equals_a_plain_loop(task, make):
    """The interval of each score: draw examples, score them as any others, repeat."""
    rows, n = make(1, 25), 200
    scored, generator = systems(task, rows), np.random.default_rng(0)
    drawn = [generator.integers(25, size=25) for _ in range(n)]
    plain = [evaluate(task, [rows[i] for i in chosen]) for chosen in drawn]
    resampled = statistics.resample(list(scored.values()), n)
    for name, found in zip(scored, resampled, strict=True):
        np.testing.assert_allclose(found[1], [p[name] for p in plain], atol=1e-12)


def test_groups_are_drawn_whole():
    """Questions on one passage: a plain loop over passages, whose sizes differ."""
    rows = label_rows(3, 40)
    groups = [f"passage {i % 7 if i < 20 else i % 3}" for i in range(40)]
    names, generator = list(dict.fromkeys(groups)), np.random.default_rng(0)
    plain = []
    for _ in range(100):
        chosen = [names[i] for i in generator.integers(7, size=7)]
        some = [row for name in chosen for row, of in zip(rows, groups, strict=True) if of == name]
        plain.append(evaluate(nli, some)["macro_f1"])
    system = systems(nli, rows)["macro_f1"]
    (found,) = statistics.resample([system], 100, groups=groups)
    np.testing.assert_allclose(found[1], plain, atol=1e-12)
    assert found[2] == 7 and found[0] == evaluate(nli, rows)["macro_f1"]
    (alone,) = statistics.resample([system], 100)
    (each,) = statistics.resample([system], 100, groups=range(40))
    assert alone[2] == 40 and (alone[1] == each[1]).all()


def simulated_entities(generator, n, p_right):
    """Counts of n sentences with 0 to 4 entities, of which a share is found."""
    gold = generator.integers(0, 5, n)
    right = generator.binomial(gold, p_right)
    return np.stack([right, right + generator.poisson(0.5, n), gold], axis=1)


def test_coverage_is_about_95_percent():
    """The true value is the score of a very large sample."""
    generator = np.random.default_rng(5)
    truth = scoring.f1(simulated_entities(generator, 1_000_000, 0.7).sum(0))
    inside = 0
    for trial in range(400):
        system = (simulated_entities(generator, 200, 0.7), scoring.f1)
        found = statistics.resample([system], 400, seed=trial)[0]
        low, high = statistics.interval(*found[1:])
        assert low < found[0] < high
        inside += low <= truth <= high
    assert 0.90 < inside / 400 < 0.985


def p_values(effect, trials=400, n=300):
    """Paired tests of two systems with a shared difficulty of the sentences."""
    generator, found = np.random.default_rng(7), []
    for trial in range(trials):
        gold = generator.integers(1, 5, n)
        easy = generator.beta(4, 2, n)
        scored = []
        for p in (easy, np.clip(easy + effect, 0, 1)):
            right = generator.binomial(gold, p)
            wrong = generator.poisson(0.5, n)
            scored.append((np.stack([right, right + wrong, gold], axis=1), scoring.f1))
        a, b = statistics.resample(scored, 400, seed=trial)
        found.append(statistics.paired_difference(a, b)[3])
    return np.array(found)


def test_p_values_are_uniform_under_the_null_and_small_under_an_effect():
    p = p_values(0)
    for level in (0.05, 0.25, 0.5, 0.75):  # about three standard errors
        assert abs((p <= level).mean() - level) < 3.3 * np.sqrt(level * (1 - level) / len(p)), level
    assert (p_values(0.12, 100) < 0.05).mean() > 0.9


def test_paired_difference_of_the_same_and_of_opposite_systems():
    rows = label_rows(3)
    system = systems(nli, rows)["accuracy"]
    right = systems(nli, [row | {"predicted": row["gold"]} for row in rows])["accuracy"]
    a, b, best = statistics.resample([system, system, right], 1000)
    assert statistics.paired_difference(a, b) == (0, 0, 0, 1)
    difference, low, high, p = statistics.paired_difference(best, a)
    assert 0 < low < difference < high and p == 1 / 1001
    assert statistics.paired_difference(a, best) == pytest.approx((-difference, -high, -low, p))


def test_degenerate_inputs():
    right = {"id": "0", "gold": ["B-DNA", "O"], "predicted": ["B-DNA", "O"]}
    none = {"id": "0", "gold": ["O"], "predicted": ["O"]}  # 0 / 0
    wrong, empty = right | {"predicted": ["O", "O"]}, {"id": "0", "gold": [], "predicted": []}
    for rows, expected in (([right] * 7, 1), ([wrong], 0), ([none], 0), ([empty], 0)):
        found, *others = statistics.resample(list(systems(ner, rows).values()), 20)
        assert np.isfinite([other[1] for other in others]).all()
        assert found[0] == expected and statistics.interval(*found[1:]) == (None, None)
    (found,) = statistics.resample([systems(ner, [right] * 8)["entity_f1"]], 20)
    assert (found[0], *statistics.interval(*found[1:])) == (1, 1, 1)
    one = [systems(ner, [row])["entity_f1"] for row in (right, right | {"predicted": ["O"] * 2})]
    assert statistics.paired_difference(*statistics.resample(one, 100))[3] == 1  # one example


def test_holm():
    found = statistics.holm([0.01, 0.04, 0.03, 0.005])  # R: p.adjust(c(...), "holm")
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert statistics.holm([0.6, 0.5]) == [1, 1] and statistics.holm([]) == []
    p = np.random.default_rng(0).random(9) ** 4
    for level in (0.01, 0.05, 0.2):  # rejects as Holm's steps do: the least first, until one fails
        steps = [q <= level / (9 - i) for i, q in enumerate(sorted(p))]
        rejected = len(list(itertools.takewhile(bool, steps)))
        assert sum(np.array(statistics.holm(p)) <= level) == rejected


def test_correlation_equals_scipy_and_covers():
    from scipy import stats

    generator = np.random.default_rng(2)
    x = generator.integers(0, 6, 15)  # ties
    y = x + generator.normal(0, 2, 15)
    for kind, reference in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        value, low, high = statistics.correlation(list(zip(x, y, strict=True)), kind)
        assert value == pytest.approx(reference(x, y)[0]) and -1 <= low < value < high <= 1
        drawn = np.random.default_rng(0).integers(15, size=(2000, 15))[:3]
        few = [reference(x[d], y[d])[0] for d in drawn]
        assert statistics.interval(np.array(few), 15) == pytest.approx(
            statistics.correlation(list(zip(x, y, strict=True)), kind, resamples=3)[1:]
        )
        assert statistics.correlation(list(zip(x, -y, strict=True)), kind)[0] == pytest.approx(
            -value
        )
    few = [(1, 10), (2, 20), (3, 90), (4, 91), (5, 92), (6, 93), (7, 99)]
    assert statistics.correlation(few, "spearman") == (pytest.approx(1), None, None)
    assert statistics.correlation([*few, (8, 100)], "spearman")[1:] == pytest.approx((1, 1))
    for x, y in (([1, 2], [1, 2]), ([], []), ([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [4, 4, 4])):
        assert statistics.correlation(list(zip(x, y, strict=True)), "spearman") is None


def test_a_partial_correlation_is_that_of_residuals_and_0_if_size_is_all():
    """Of ranks; two measures that only grow with the size have nothing left in common."""
    from scipy import stats

    generator = np.random.default_rng(5)
    z = np.repeat([10, 30, 50, 100], 10)
    x, y = generator.normal(0, 9, 40) + z, generator.normal(0, 9, 40) + z
    ranks = [stats.rankdata(values) for values in (x, y, z)]
    left = [r - np.polyval(np.polyfit(ranks[2], r, 1), ranks[2]) for r in ranks[:2]]
    found = statistics.partial_correlation(list(zip(x, y, z, strict=True)))
    assert found == pytest.approx(stats.pearsonr(*left)[0])
    assert stats.spearmanr(x, y)[0] > 0.8 and abs(found) < 0.35
    assert statistics.partial_correlation([(1, 2, 10), (2, 3, 30), (3, 5, 50)]) is None
    assert statistics.partial_correlation([(n, 2 * n, n) for n in range(6)]) is None
