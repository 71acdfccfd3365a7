"""Batches of similar length that stay random, and their padding."""

import random
from collections.abc import Sequence

INPUTS = ("input_ids", "token_type_ids")  # what a model reads of an example
# A pool of this many batches is shuffled, then sorted by length: large enough for little padding,
# small enough that an example meets others in every epoch.
POOL = 64


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int
) -> list[list[int]]:
    """Indices of one epoch's batches: every example once, in batches of similar length.

    A pure function of its arguments (the generator is private), so that a resumed run sees the
    batches it would have seen. All batches but one have `batch_size` examples.
    """
    generator = random.Random(f"{seed}-{epoch}")
    order = list(range(len(lengths)))
    generator.shuffle(order)
    # At least four pools: in a small set too, the epochs' batches then differ.
    pool = batch_size * max(1, min(POOL, len(order) // (4 * batch_size)))
    # The batch that is not full is cut off first; else each pool's end could leave one.
    rest = len(order) % batch_size
    batches = [order[:rest]] if rest else []
    for start in range(rest, len(order), pool):
        chunk = sorted(order[start : start + pool], key=lengths.__getitem__)
        batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
    generator.shuffle(batches)
    return batches


def sorted_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices of all examples in batches, the longest first: memory is short at once or never."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def pad(encoded: Sequence[dict], pad_token_id: int) -> dict:
    """Stack examples into `{name: int64 tensor [batch, tokens]}`, padded on the right.

    Adds `attention_mask`. `labels` becomes `[batch]` where it is one number an example, else
    `[batch, tokens]` with -100 at the padding.
    """
    import torch

    width = max(len(example["input_ids"]) for example in encoded)

    def stack(rows, filler):
        return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])

    batch = {
        "input_ids": stack([e["input_ids"] for e in encoded], pad_token_id),
        "attention_mask": stack([[1] * len(e["input_ids"]) for e in encoded], 0),
    }
    if "token_type_ids" in encoded[0]:
        batch["token_type_ids"] = stack([e["token_type_ids"] for e in encoded], 0)
    if "labels" in encoded[0]:
        labels = [e["labels"] for e in encoded]
        single = isinstance(labels[0], int)
        batch["labels"] = torch.tensor(labels) if single else stack(labels, -100)
    return batch
