"""Training subsets: nested, stratified, seeded."""

import hashlib
import random
from collections import Counter
from collections.abc import Hashable, Sequence

from common.cli import UserError


def permutation(strata: Sequence[Hashable], seed: int) -> list[int]:
    """All indices in a random order of which every prefix holds each stratum in proportion.

    The k-th of a stratum's n members is near the fraction (k + u) / n, with one random u a stratum:
    any prefix is within about one example of a stratum's share.
    """
    generator = random.Random(seed)
    members: dict[Hashable, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    placed = []
    for indices in members.values():
        generator.shuffle(indices)
        offset = generator.random()
        placed += [((k + offset) / len(indices), index) for k, index in enumerate(indices)]
    return [index for _, index in sorted(placed)]


def subset(strata: Sequence[Hashable], percentage: int, seed: int) -> list[int]:
    """The first `percentage` % of `permutation`: 10 % lies inside 30 %. UserError if it is none."""
    size = round(len(strata) * percentage / 100)
    if percentage and not size:
        raise UserError(
            f"{percentage} % of {len(strata)} training examples (or groups) are none. Choose a "
            "larger --training_size, or give more data."
        )
    return permutation(strata, seed)[:size]


def whole_groups(
    strata: Sequence[Hashable], groups: Sequence[Hashable], most: int, seed: int
) -> list[int]:
    """Indices, in order, of the first groups of a `permutation` that have `most` examples; 0: all.

    `groups`: one an example, such as the passage of a question. A group counts once, however large
    it is; its stratum is what its examples' are.
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    kinds = [tuple(sorted({str(strata[i]) for i in own})) for own in members.values()]
    units, kept = list(members.values()), []
    for unit in permutation(kinds, seed):
        if not most or len(kept) < most:
            kept += units[unit]
    return sorted(kept)


def limited(splits: dict[str, list], stratum, most: int | None, seed: int) -> dict[str, list]:
    """The splits with at most `most` training examples, a prefix of `permutation`; None: all."""
    if most is None or most >= len(splits["train"]):
        return splits
    order = permutation([stratum(example) for example in splits["train"]], seed)
    return splits | {"train": [splits["train"][i] for i in order[:most]]}


def describe(indices: Sequence[int], strata: Sequence[Hashable]) -> dict:
    """For config.json: the subset's size, a hash of its indices, and how many of each stratum."""
    counts = Counter(str(strata[index]) for index in indices)
    digest = hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest()
    return {"size": len(indices), "sha256": digest, "strata": dict(sorted(counts.items()))}
