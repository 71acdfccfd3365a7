"""The numbers of an ablation's curves, each against a computation by hand."""

import numpy as np
import pytest
from scipy import stats

from common import curves
from common.files import read_jsonl, write_jsonl
from common.report import statistics
from common.task import Score


def measured(draws=3):
    points = {}
    for order, drop in (("most_changed", 0.6), ("importance", 0.8), ("least_changed", 0.2)):
        for removed in (0, 50, 100):
            points[order, 0, removed] = {"f1": 0.9 - drop * removed / 100, "loss": removed / 100}
    for n in range(1, draws + 1):
        for removed in (0, 50, 100):
            points["random", n, removed] = {"f1": 0.9 - 0.2 * n * removed / 100, "loss": 0.0}
    return points


def test_areas_and_where_half_of_the_gain_is_lost():
    found = curves.described(measured(), "f1", 0.1)
    assert found["area_most_changed"] == pytest.approx(0.9 - 0.3)
    assert found["area_loss_most_changed"] == pytest.approx(0.5)
    assert found["area_random"] == pytest.approx(0.9 - 0.2)  # the mean draw falls by .4
    # Half of the gain over .1 is lost at .5: .9 - .6 = .3 is, .9 - .3 = .6 is not.
    assert found["half_lost_most_changed"] == 100
    assert found["half_lost_random"] == 100
    assert curves.half_lost({0: 0.9, 50: 0.8, 100: 0.7}, 0.1) is None
    assert curves.half_lost({0: 0.1, 50: 0.0}, 0.1) is None  # there was no gain


def test_points_may_lie_at_any_distance():
    assert curves.area({0: 1.0, 10: 1.0, 100: 0.0}) == pytest.approx(0.1 + 0.45)


def test_p_counts_the_draws_that_lose_as_much():
    found = curves.against_random(measured(), "f1", 3)
    areas = [0.9 - 0.1 * n for n in (1, 2, 3)]
    assert [found[f"area_random_{n}"] for n in (1, 2, 3)] == pytest.approx(areas)
    assert found["area_random_std"] == pytest.approx(np.std(areas, ddof=1))
    assert found["p_most_changed"] == pytest.approx((1 + 1) / 4)  # the third equals it


ACCURACY = Score("accuracy", "right", lambda totals: totals[..., 0] / totals[..., 1], "accuracy")


def count(rows):
    return {"right": np.array([[row["gold"] == row["predicted"], 1.0] for row in rows])}


def written(folder, draws, shares=(50,), n=240, seed=0):
    """Files of guesses: of each point its own, or at share 30 the same for all."""
    rng, files = np.random.default_rng(seed), {}
    gold, same = rng.integers(2, size=(2, n))
    points = [("most_changed", 0), *(("random", d + 1) for d in range(draws)), ("importance", 0)]
    for order, draw in points:
        for share in (0, *shares, 100):
            files[order, draw, share] = folder / f"{order}-{draw}-{share}.jsonl"
            guesses = same if share == 30 else rng.integers(2, size=n)
            rows = [
                {"id": str(i), "group": str(i // 3), "gold": int(g), "predicted": int(p)}
                for i, (g, p) in enumerate(zip(gold, guesses, strict=True))
            ]
            write_jsonl(files[order, draw, share], rows)
    return files


def test_a_model_that_knows_nothing_differs_from_no_draw(tmp_path):
    found = curves.differences(written(tmp_path, 20, (30, 50)), count, ACCURACY, 20)
    assert found["difference_50_low"] < 0 < found["difference_50_high"]
    assert abs(found["difference_50"]) < 0.1
    assert [found[f"difference_30{end}"] for end in ("", "_low", "_high")] == pytest.approx([0] * 3)
    assert len(found) == 8  # not at 0 and 100 %, where all are the same
    assert found["p_30"] == 1 and 1 / 21 <= found["p_50"] <= 1


def test_the_difference_is_from_a_random_draw_on_the_same_resamples(tmp_path):
    files = written(tmp_path, 2)
    found = curves.differences(files, count, ACCURACY, 2)
    points = [("most_changed", 0, 50), ("random", 1, 50), ("random", 2, 50)]
    own, *others = (count(read_jsonl(files[point]))["right"] for point in points)
    expected = own[:, 0].mean() - np.mean([other[:, 0].mean() for other in others])
    assert found["difference_50"] == pytest.approx(expected)
    groups, each = [str(i // 3) for i in range(240)], []
    for other in others:
        delta = own - other
        delta[:, 1] = 1
        ((_, samples, _),) = statistics.resample(
            [(delta, ACCURACY.value)], curves.RESAMPLES, groups=groups
        )
        each.append(samples)
    ends = statistics.interval(np.concatenate(each), 80)  # half of the resamples take each draw
    assert [found["difference_50_low"], found["difference_50_high"]] == pytest.approx(
        ends, abs=0.01
    )


def test_a_random_draw_in_the_place_of_the_most_changed_is_seldom_significant(tmp_path):
    """Draws that differ in their heads: each gets the examples right with its own probability."""
    rng, wrong = np.random.default_rng(5), 0
    gold = rng.integers(2, size=300)
    for trial in range(40):
        files = {}
        for order, draw in (("most_changed", 0), *(("random", d + 1) for d in range(20))):
            right = rng.random(300) < rng.normal(0.6, 0.08)
            rows = [
                {"id": str(i), "gold": int(g), "predicted": int(g if r else 1 - g)}
                for i, (g, r) in enumerate(zip(gold, right, strict=True))
            ]
            files[order, draw, 50] = tmp_path / f"{trial}-{order}-{draw}.jsonl"
            write_jsonl(files[order, draw, 50], rows)
        found = curves.differences(files, count, ACCURACY, 20)
        wrong += not found["difference_50_low"] <= 0 <= found["difference_50_high"]
    assert wrong <= 4  # 5 % of 40 are 2


def test_change_and_importance_over_heads_and_within_layers():
    rng = np.random.default_rng(2)
    layer = np.arange(4)[:, None] * 10.0  # both grow with the layer
    change, importance = layer + rng.random((4, 12)), layer + rng.random((4, 12))
    found = curves.related(change, importance)
    assert found["spearman_over_heads"] == pytest.approx(
        stats.spearmanr(change.ravel(), importance.ravel()).statistic
    )
    each = [stats.spearmanr(a, b).statistic for a, b in zip(change, importance, strict=True)]
    assert found["spearman_within_layers"] == pytest.approx(np.mean(each))
    assert found["spearman_over_heads"] > 0.9 > 0.5 > abs(found["spearman_within_layers"])
    assert found["spearman_within_layers_low"] < 0 < found["spearman_within_layers_high"]


def test_heads_that_were_never_compared_are_left_out():
    rng = np.random.default_rng(3)
    change, importance = rng.random((2, 3, 8))
    change[0] = np.nan
    found = curves.related(change, importance)["spearman_over_heads"]
    expected = stats.spearmanr(change[1:].ravel(), importance[1:].ravel()).statistic
    assert found == pytest.approx(expected)
