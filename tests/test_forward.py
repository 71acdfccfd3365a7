"""The loop of frozen passes: each example once, whatever the batches, memory and processes."""

import numpy as np
import pytest
import torch

from common import forward
from common.cli import UserError
from common.device import choose_device
from common.training import losses
from tests import tiny

CPU = choose_device("cpu", "fp32")
LENGTHS = [3, 9, 1, 4, 4, 7, 2, 0]


def passes(run=list, batch_size=3, device=CPU):
    return list(forward.batches(LENGTHS, batch_size, device, "passes", run))


def test_batches_have_each_example_once_the_longest_first():
    assert passes() == [([1, 5, 3], [[1, 5, 3]]), ([4, 0, 6], [[4, 0, 6]]), ([2], [[2]])]
    assert passes(lambda indices: torch.is_grad_enabled())[0][1] == [False]
    assert torch.is_grad_enabled()
    parts = [passes(device=CPU._replace(rank=rank, processes=2)) for rank in (0, 1)]
    assert sorted(parts[0] + parts[1]) == sorted(passes()) and len(parts[0]) == 2


def test_memory_too_small_halves_the_pieces_from_there():
    asked = []

    def run(indices):
        asked.append(len(indices))
        if len(indices) > 2:
            raise RuntimeError("CUDA out of memory")
        return indices

    assert [pieces for _, pieces in passes(run)] == [[[1, 5], [3]], [[4, 0], [6]], [[2]]]
    assert asked == [3, 2, 1, 2, 1, 1]
    with pytest.raises(UserError, match="too little memory"):
        passes(lambda indices: torch.empty(2**60))


@pytest.fixture
def model(tmp_path):
    from transformers import AutoModelForTokenClassification

    tiny.make("bert", tmp_path / "bert", layers=1)
    return AutoModelForTokenClassification.from_pretrained(tmp_path / "bert", num_labels=3).eval()


def rows():
    drawn = [np.random.default_rng(n).integers(0, 3, n).tolist() for n in LENGTHS[:-1]]
    return [{"input_ids": [5 + y for y in row], "labels": [-100, *row[1:]]} for row in drawn]


def test_the_mean_loss_is_over_labels(model):
    total = n = 0
    for row in rows():
        labels = torch.tensor(row["labels"])
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0]
        summed = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        total, n = total + summed.item(), n + int((labels != -100).sum())
    model.train()  # there is no dropout, whatever mode the model comes in
    loss = forward.mean_loss(model, rows(), 3, CPU, losses.cross_entropy)
    assert loss == pytest.approx(total / n, rel=1e-5)


def test_predictions_come_in_order(model):
    examples = [{"input_ids": []}, *rows()]
    predicted = forward.predict_logits(model, examples, 3, CPU, "")
    assert [logits.shape for logits in predicted] == [(len(e["input_ids"]), 3) for e in examples]


def test_errors(model):
    with pytest.raises(UserError, match="no dev example has a label"):
        forward.mean_loss(model, rows()[2:3], 3, CPU, losses.cross_entropy)
    model.classifier.bias.data[0] = torch.nan
    with pytest.raises(UserError, match="not numbers any more"):
        forward.predict_logits(model, rows(), 3, CPU, "")
