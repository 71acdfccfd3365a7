"""Training subsets: nested, stratified, seeded."""

import hashlib
import random
from collections import Counter
from collections.abc import Hashable, Sequence

from common.cli import UserError


def subset(strata: Sequence[Hashable], percentage: int, seed: int) -> list[int]:
    """Indices of `percentage` % of the examples, in training order.

    A prefix of one permutation, so that 10 % lies inside 30 % inside 50 % inside 100 %. In the
    permutation the k-th of a stratum's n members stands near the fraction (k + u) / n, with one
    random u a stratum: every prefix holds each stratum in proportion, to within one example, and
    a stratum of a single example is as likely in any tenth as in any other. A pure function of its
    arguments: the generator is private. Raises UserError if nothing is left.
    """
    generator = random.Random(seed)
    members: dict[Hashable, list[int]] = {}
    for index, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(index)
    place = {}
    for indices in members.values():
        generator.shuffle(indices)
        offset = generator.random()
        place.update({index: (k + offset) / len(indices) for k, index in enumerate(indices)})
    chosen = sorted(place, key=lambda index: (place[index], index))
    size = round(len(chosen) * percentage / 100)
    if percentage and not size:
        raise UserError(
            f"{percentage} % of {len(chosen)} training examples are none. Choose a larger "
            "--training_size, or give more data."
        )
    return chosen[:size]


def describe(indices: Sequence[int], strata: Sequence[Hashable]) -> dict:
    """For config.json: the subset's size, a hash of its indices, and how many of each stratum."""
    counts = Counter(str(strata[index]) for index in indices)
    digest = hashlib.sha256(",".join(map(str, indices)).encode()).hexdigest()
    return {"size": len(indices), "sha256": digest, "strata": dict(sorted(counts.items()))}
