"""Batches of similar length that stay random, and their padding."""

import random

INPUTS = ("input_ids", "token_type_ids")  # what a model reads of an example
# For probes a pool of so many batches is shuffled, then sorted by length: large enough for little
# padding, small enough that an example meets others in every epoch.
POOL = 64


def epoch_batches(
    lengths: list[int], batch_size: int, seed: int, epoch: int, pool: int = POOL
) -> list[list[int]]:
    """Indices of one epoch's batches: every example once, each batch sorted by length.

    `pool`: so many batches hold the same random examples, sorted by length. With 1, length does not
    choose which examples make a gradient together. A pure function of its arguments, so that a
    resumed run sees the same batches. All batches but one have `batch_size` examples.
    """
    generator = random.Random(f"{seed}-{epoch}")
    order = list(range(len(lengths)))
    generator.shuffle(order)
    # At least four pools: in a small set too, the epochs' batches then differ.
    pool = batch_size * max(1, min(pool, len(order) // (4 * batch_size)))
    # The batch that is not full is cut off first; else each pool's end could leave one.
    rest = len(order) % batch_size
    batches = [sorted(order[:rest], key=lengths.__getitem__)] if rest else []
    for start in range(rest, len(order), pool):
        chunk = sorted(order[start : start + pool], key=lengths.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    generator.shuffle(batches)
    return batches


def sorted_batches(lengths: list[int], batch_size: int) -> list[list[int]]:
    """Indices in batches, the longest first: memory is short at once or never. Omits length 0."""
    order = sorted((i for i, n in enumerate(lengths) if n), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def pad(encoded: list[dict], pad_token_id: int) -> dict:
    """Stack examples into `{name: int64 tensor [batch, tokens]}`; add `attention_mask`.

    Padding is on the right, of labels -100. `labels` of one number an example become `[batch]`.
    """
    import torch

    width = max(len(example["input_ids"]) for example in encoded)
    rows = [example | {"attention_mask": [1] * len(example["input_ids"])} for example in encoded]

    def stack(values: list, filler: int):
        if isinstance(values[0], int):
            return torch.tensor(values)
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in values])

    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "token_type_ids": 0, "labels": -100}
    return {k: stack([row[k] for row in rows], x) for k, x in fillers.items() if k in rows[0]}
