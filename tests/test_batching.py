"""Batches of similar length: nothing lost, nothing repeated, little padding, still random."""

import random
from itertools import chain

import numpy as np
import pytest
import torch

from common.batching import epoch_batches, pad, sorted_batches


def lengths_like_text(n, seed=0):
    """Sentence lengths in sub-words: lognormal, median 30, a few above 100."""
    drawn = np.random.default_rng(seed).lognormal(np.log(30), 0.5, n)
    return [int(x) for x in drawn.clip(3, 512)]


def padding(batches, lengths):
    """The fraction of tokens that are padding."""
    held = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths) / held


@pytest.mark.parametrize("n", (0, 1, 2, 15, 16, 17, 31, 100, 1030, 4099))
@pytest.mark.parametrize("size", (1, 3, 16))
def test_every_example_once_in_full_batches(n, size):
    lengths = lengths_like_text(n)
    for batches in (epoch_batches(lengths, size, 42, 0), sorted_batches(lengths, size)):
        assert sorted(chain.from_iterable(batches)) == list(range(n))
        sizes = sorted(map(len, batches))
        assert sizes == [n % size] * (n % size > 0) + [size] * (n // size)


def test_a_pure_function_of_seed_and_epoch():
    lengths, state = lengths_like_text(1000), random.getstate()
    batches = epoch_batches(lengths, 16, 5, 1)
    assert random.getstate() == state
    random.seed(1)
    assert batches == epoch_batches(lengths, 16, 5, 1) != epoch_batches(lengths, 16, 6, 1)
    assert epoch_batches(lengths, 16, 5, 11) != epoch_batches(lengths, 16, 51, 1)


@pytest.mark.parametrize("n", (20, 33, 64, 200, 3000))
def test_another_epoch_composes_other_batches(n):
    """Not the same batches in another order: also in a small set an example meets others."""
    lengths = lengths_like_text(n)
    epochs = [{frozenset(b) for b in epoch_batches(lengths, 16, 0, epoch)} for epoch in range(6)]
    for one, two in zip(epochs, epochs[1:], strict=False):
        assert len(one & two) <= 0.1 * len(one)


def test_length_does_not_choose_a_training_batch_but_orders_it():
    """As many lengths in a batch as in a random draw; in four pieces little is padding."""
    lengths = lengths_like_text(4000)
    batches = epoch_batches(lengths, 16, 0, 0, pool=1)
    assert sorted(chain.from_iterable(batches)) == list(range(4000))
    assert all([lengths[i] for i in b] == sorted(lengths[i] for i in b) for b in batches)
    spread = np.mean([np.std([lengths[i] for i in b]) for b in batches])
    pooled = np.mean([np.std([lengths[i] for i in b]) for b in epoch_batches(lengths, 16, 0, 0)])
    assert spread > 0.85 * np.std(lengths) and pooled < 0.2 * np.std(lengths)
    pieces = [batch[i : i + 4] for batch in batches for i in range(0, 16, 4)]
    assert padding(pieces, lengths) < 0.2 and padding(batches, lengths) > 0.4


def test_little_padding_but_not_in_order_of_length():
    lengths = lengths_like_text(5000)
    batches = epoch_batches(lengths, 16, 0, 0)
    assert padding(batches, lengths) < 0.05 and padding(sorted_batches(lengths, 16), lengths) < 0.01
    longest = [max(lengths[i] for i in batch) for batch in batches]
    assert abs(np.corrcoef(np.arange(len(longest)), longest)[0, 1]) < 0.2
    assert sorted_batches([2, 0, 9, 2], 2) == [[2, 0], [3]]


@pytest.mark.parametrize("token_labels", (False, True))
def test_pad_position_by_position(token_labels):
    """GPT-2's padding is its end of text, 506, which may also be a real token."""
    given = []
    for n in (3, 7, 1, 7):
        labels = [-100, *range(n - 1)] if token_labels else n
        row = {"input_ids": [506, *range(5, 4 + n)], "token_type_ids": [i % 2 for i in range(n)]}
        given.append(row | {"labels": labels, "units": []})
    batch = pad(given, 506)
    fillers = {"input_ids": 506, "attention_mask": 0, "labels": -100, "token_type_ids": 0}
    assert set(batch) == set(fillers)
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    for name, tensor in batch.items():
        if name == "labels" and not token_labels:
            assert tensor.tolist() == [row["labels"] for row in given]
            continue
        assert tensor.shape == (4, 7)
        for row, padded in zip(given, tensor.tolist(), strict=True):
            values = row[name] if name in row else [1] * len(row["input_ids"])
            assert padded == values + [fillers[name]] * (7 - len(values))
    assert set(pad([{"input_ids": [4]}], 0)) == {"input_ids", "attention_mask"}
