"""NLI's own labels, pairs that share a premise, and what test shares with train."""

import json

import numpy as np
import pytest

from common.cli import UserError
from common.task import evaluate, in_train
from NLI import data as nli
from NLI import task
from tests.helpers import write_jsonl


def folder_of(tmp_path, labels, test=None):
    for split, own in (("train", labels), ("dev", labels), ("test", test or labels)):
        rows = [{"gold_label": label, "sentence1": f"premise {i // 2}", "sentence2": f"{split} {i}"}
                for i, label in enumerate(own)]  # fmt: skip
        write_jsonl(tmp_path / f"{split}.jsonl", rows)
    return tmp_path


def test_the_labels_are_trains_and_mednlis_keep_their_order(tmp_path):
    own = nli.load(False, folder_of(tmp_path, ["SUPPORTS", "REFUTES", "NEI"] * 2))
    assert own.labels == ["NEI", "REFUTES", "SUPPORTS"]
    two = nli.load(False, folder_of(tmp_path, ["neutral", "entailment"] * 2))
    assert two.labels == nli.LABELS == ["entailment", "contradiction", "neutral"]
    rows = [{"id": i, "gold": g, "predicted": "NEI"} for i, g in enumerate(("NEI", "REFUTES"))]
    scores = evaluate(task, rows)
    assert scores["accuracy"] == 0.5 and scores["macro_f1"] == pytest.approx(1 / 3)
    assert scores["confusion_REFUTES_NEI"] == 1


def test_a_label_in_two_unicode_forms_is_one(tmp_path):
    own = nli.load(False, folder_of(tmp_path, ["é", "B"], ["e\u0301", "B"]))
    assert own.labels == ["B", "é"] and own.splits["test"][0].label == "é"


@pytest.mark.parametrize(
    ("train", "test", "place"),
    ((["A", "B"], ["A", "C"], "test.jsonl:2"), ([*nli.LABELS, "-"], None, "train.jsonl:4")),
)
def test_a_label_that_train_does_not_know(tmp_path, train, test, place):
    with pytest.raises(UserError, match=f"{place}: unknown gold_label '[C-]'; known"):
        nli.load(False, folder_of(tmp_path, train, test))


def test_pairs_of_a_premise_are_a_group_and_texts_shared_with_train_are_counted(tmp_path):
    data = nli.load(False, folder_of(tmp_path, ["A", "B"] * 3))
    rows, _ = task.rows(data, data.splits, {"test": ["A"] * 6})
    groups = [row["group"] for row in rows["test"]]
    assert groups == ["test-0", "test-0", "test-2", "test-2", "test-4", "test-4"]
    assert "premise" not in json.dumps(rows)
    counts = in_train(task, data.splits["train"], data.splits["test"])
    assert counts == {"pairs_in_train": 0, "premises_in_train": 6}
    assert in_train(task, data.splits["train"], data.splits["train"])["pairs_in_train"] == 6


def test_intervals_over_premises_are_wider_than_over_pairs():
    """Where all pairs of a premise are right or wrong together, there are half as many units."""
    from common.report import statistics

    right = np.repeat(np.arange(100) % 2, 4)
    counts, score = right[:, None].astype(float), lambda sums: sums[..., 0] / 400
    widths = []
    for groups in (None, [i // 4 for i in range(400)]):
        ((_, samples, *_),) = statistics.resample([(counts, score)], groups=groups)
        widths.append(np.subtract(*np.quantile(samples, (0.975, 0.025))))
    assert widths[1] == pytest.approx(2 * widths[0], rel=0.15)
