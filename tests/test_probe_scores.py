"""Scores by layer: which layer is the best, what a control leaves, what is still to be probed."""

import pytest

from common.probe_scores import Scores


def scores_of(tmp_path, by_layer, control=None):
    """`by_layer`: {layer: {split: accuracy}}."""
    found = Scores(tmp_path)
    for layer, splits in by_layer.items():
        found.add(layer, {"task": {split: {"accuracy": v} for split, v in splits.items()}})
    for layer, splits in (control or {}).items():
        found.add(layer, {"control": {split: {"accuracy": v} for split, v in splits.items()}})
    return found


def test_the_best_layer_is_that_of_dev_whatever_test_says(tmp_path):
    by_layer = {0: {"dev": 0.2, "test": 0.9}, 1: {"dev": 0.6, "test": 0.3},
                2: {"dev": 0.5, "test": 0.4}}  # fmt: skip
    control = {n: {"dev": 0.1 * n, "test": 0.2} for n in by_layer}
    found = scores_of(tmp_path, by_layer, control).summary(["accuracy"])
    assert (found["best_layer"], found["last_layer"], found["layers"]) == (1, 2, 3)
    assert (found["dev_accuracy"], found["test_accuracy"]) == (0.6, 0.3)
    assert found["test_accuracy_last_layer"] == 0.4
    assert found["test_control_accuracy"] == 0.2
    assert found["test_selectivity_accuracy"] == pytest.approx(0.1)
    assert found["dev_selectivity_accuracy_last_layer"] == pytest.approx(0.3)


def test_of_equal_layers_the_first_is_the_best_and_without_dev_the_last(tmp_path):
    equal = {n: {"dev": 0.5, "test": n / 10} for n in range(3)}
    assert scores_of(tmp_path, equal).summary(["accuracy"])["best_layer"] == 0
    (tmp_path / "no dev").mkdir()
    test_alone = {n: {"test": 0.5 - n / 10} for n in range(3)}
    assert scores_of(tmp_path / "no dev", test_alone).summary(["accuracy"])["best_layer"] == 2


def test_what_is_missing_is_asked_for_once(tmp_path):
    found = scores_of(tmp_path, {0: {"dev": 0.5}, 2: {"dev": 0.5}}, {2: {"dev": 0.1}})
    assert found.targets() == ["task", "control"]
    assert found.missing([0, 1, 2], ["task", "control"]) == {
        ("control",): [0], ("task", "control"): [1]
    }  # fmt: skip
    assert found.missing([2], ["task", "control"]) == {}
    again = Scores(tmp_path)  # as another process reads it
    assert again.by_layer == found.by_layer
