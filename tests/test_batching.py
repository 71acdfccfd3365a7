"""Batches of similar length: nothing lost, nothing repeated, little padding, still random."""

import random
from itertools import chain

import numpy as np
import pytest
import torch

from common.batching import epoch_batches, pad, sorted_batches

SHAPES = [(n, size) for n in (0, 1, 2, 15, 16, 17, 31, 100, 1030, 4099) for size in (1, 3, 16)]


def lengths_like_text(n, seed=0):
    """Sentence lengths in sub-words: lognormal, median 30, a few above 100."""
    drawn = np.random.default_rng(seed).lognormal(np.log(30), 0.5, n)
    return [int(x) for x in drawn.clip(3, 512)]


def padding(batches, lengths):
    """The fraction of tokens that are padding."""
    held = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    return 1 - sum(lengths) / held


@pytest.mark.parametrize(("n", "size"), SHAPES)
@pytest.mark.parametrize("epoch", (0, 3))
def test_every_example_once_in_full_batches(n, size, epoch):
    for batches in (
        epoch_batches(lengths_like_text(n), size, 42, epoch),
        sorted_batches(lengths_like_text(n), size),
    ):
        assert sorted(chain.from_iterable(batches)) == list(range(n))
        sizes = sorted(map(len, batches))
        assert sizes == [n % size] * (n % size > 0) + [size] * (n // size)


@pytest.mark.parametrize("n", (40, 1000))
def test_a_pure_function_of_seed_and_epoch(n):
    lengths = lengths_like_text(n)
    found = []
    for state in (1, 2):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist()
        found.append(epoch_batches(lengths, 16, 5, 1))
        assert random.getstate() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])
        assert np.random.get_state()[1].tolist() == before[2]
    assert found[0] == found[1]
    assert found[0] != epoch_batches(lengths, 16, 6, 1)  # the seed reaches it
    assert epoch_batches(lengths, 16, 5, 11) != epoch_batches(lengths, 16, 51, 1)


@pytest.mark.parametrize("n", (20, 33, 64, 200, 3000))
def test_another_epoch_composes_other_batches(n):
    """Not the same batches in another order: also in a small set an example meets others."""
    lengths = lengths_like_text(n)
    epochs = [{frozenset(b) for b in epoch_batches(lengths, 16, 0, epoch)} for epoch in range(6)]
    for one, two in zip(epochs, epochs[1:], strict=False):
        assert len(one & two) <= 0.1 * len(one)
    met = {frozenset((i, j)) for epoch in epochs for b in epoch for i in b for j in b if i != j}
    once = {frozenset((i, j)) for b in epochs[0] for i in b for j in b if i != j}
    assert len(met) > 1.5 * len(once)


def test_batches_do_not_come_in_order_of_length():
    lengths = lengths_like_text(4000)
    longest = [max(lengths[i] for i in b) for b in epoch_batches(lengths, 16, 0, 0)]
    correlation = np.corrcoef(np.arange(len(longest)), longest)[0, 1]
    assert abs(correlation) < 0.2
    in_order = [max(lengths[i] for i in b) for b in sorted_batches(lengths, 16)]
    assert in_order == sorted(lengths, reverse=True)[::16]


@pytest.mark.parametrize("epoch", range(3))
def test_little_padding(epoch):
    lengths = lengths_like_text(5000)
    assert padding(epoch_batches(lengths, 16, 0, epoch), lengths) < 0.05
    assert padding(sorted_batches(lengths, 16), lengths) < 0.01
    shuffled = random.Random(epoch).sample(range(5000), 5000)
    plain = [shuffled[i : i + 16] for i in range(0, 5000, 16)]
    assert padding(plain, lengths) > 0.3  # what it saves


def test_equal_lengths_are_shuffled_too():
    first, second = (epoch_batches([7] * 64, 8, 0, epoch) for epoch in (0, 1))
    assert {frozenset(b) for b in first}.isdisjoint(frozenset(b) for b in second)


def rows(lengths, token_labels, types, seed=0):
    rng = random.Random(seed)
    found = []
    for n in lengths:
        row = {"input_ids": [rng.randrange(5, 99) for _ in range(n)]}
        row["labels"] = [rng.choice([-100, 0, 1]) for _ in range(n)] if token_labels else n % 3
        if types:
            row["token_type_ids"] = [int(i > n // 2) for i in range(n)]
        found.append(row)
    return found


@pytest.mark.parametrize("types", (False, True))
@pytest.mark.parametrize("token_labels", (False, True))
@pytest.mark.parametrize("pad_id", (0, 1, 506))
def test_pad_position_by_position(token_labels, types, pad_id):
    given = rows((3, 7, 1, 7), token_labels, types)
    batch = pad(given, pad_id)
    names = {"input_ids", "attention_mask", "labels"} | ({"token_type_ids"} if types else set())
    assert set(batch) == names
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    fillers = {"input_ids": pad_id, "attention_mask": 0, "labels": -100, "token_type_ids": 0}
    for name, tensor in batch.items():
        if name == "labels" and not token_labels:
            assert tensor.tolist() == [row["labels"] for row in given]
            continue
        assert tensor.shape == (4, 7)
        for r, row in enumerate(given):
            n = len(row["input_ids"])
            values = [1] * n if name == "attention_mask" else row[name]
            for c in range(7):
                assert tensor[r, c] == (values[c] if c < n else fillers[name])


def test_pad_keeps_a_real_token_that_equals_the_pad():
    """GPT-2's pad is its end of text, which also stands between two texts."""
    batch = pad([{"input_ids": [506, 4, 506]}, {"input_ids": [4, 5, 6, 506]}], 506)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert "labels" not in batch and "token_type_ids" not in batch


def test_pad_equals_the_librarys(tmp_path):
    from common.models import load_config, load_tokenizer
    from tests import tiny

    folder = str(tiny.make("bert", tmp_path))
    tokenizer = load_tokenizer(folder, load_config(folder))
    encoded = tokenizer(list(tiny.SENTENCES), [s[:20] for s in tiny.SENTENCES])
    given = [
        {name: encoded[name][i] for name in ("input_ids", "token_type_ids")}
        for i in range(len(tiny.SENTENCES))
    ]
    expected = tokenizer.pad(encoded, return_tensors="pt")
    for name, tensor in pad(given, tokenizer.pad_token_id).items():
        assert torch.equal(tensor, expected[name]), name
