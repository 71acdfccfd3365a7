"""Which examples of a source are train, dev and test, and which of them are taken."""

import random
from collections import Counter

from Classification.data import units as group_units
from common.cli import UserError
from common.subsample import permutation

SPLITS = ("train", "dev", "test")


def together(examples: list) -> list[int]:
    """The number of each example's group: those that share a document or a text, also via others.

    If all have one document, it does not count.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    several = len({e.document for e in examples}) > 1
    keys, pairs = {}, []
    for i, e in enumerate(examples):
        own = [*filter(None, e.texts), several and e.document or i]
        pairs += [(i, len(examples) + keys.setdefault(key, len(keys))) for key in own]
    size = len(examples) + len(keys)
    graph = coo_array(([True] * len(pairs), tuple(zip(*pairs, strict=True))), (size, size))
    return connected_components(graph, directed=False)[1][: len(examples)].tolist()


def divide(source, seed: int) -> tuple[dict[str, list], str]:
    """({split: examples}, in words where the splits come from).

    A source without dev gives a tenth of train, one with train alone or no splits is cut 80/10/10.
    Raises UserError for an empty split.
    """
    divided = {split: [e for e in source.examples if e.split == split] for split in SPLITS}
    key, how = f"{seed}-{source.name}", "given"
    if not divided["dev"] and not divided["test"]:
        divided, how = cut(source.examples, ("test", "dev"), key), "80/10/10"
    elif divided["train"] and not divided["dev"]:
        divided |= cut(divided["train"], ("dev",), key)
        how = "given; dev: a tenth of train"
    for split in SPLITS:
        if not divided[split]:
            raise UserError(f"source {source.name} has no {split} example ({how}). Give it some.")
    return divided, how


def cut(examples: list, others: tuple[str, ...], key: str) -> dict[str, list]:
    """About a tenth of the examples for each of `others`, the rest for train; whole groups."""
    numbers, tenth = together(examples), len(examples) / 10
    sizes = Counter(numbers)
    left = list(sizes)
    random.Random(key).shuffle(left)
    left.sort(key=lambda group: sizes[group] <= tenth)  # taken from the end: large ones last
    where = dict.fromkeys(left, "train")
    for n, split in enumerate(others):
        size = 0  # each later part, and train, needs a group, too
        while len(left) > len(others) - n and (not size or size + sizes[left[-1]] / 2 <= tenth):
            size += sizes[left[-1]]
            where[left.pop()] = split
    parts = {split: [] for split in ("train", *others)}
    for example, number in zip(examples, numbers, strict=True):
        parts[where[number]].append(example)
    return parts


def units(source, split: str, examples: list) -> tuple[list[str], list[int]]:
    """What subsets draw: (the stratum of each unit, the number of each example's unit).

    In training data that another task divides alike, that task's (`Source.units`). Else a unit is
    a group, its stratum what its answers hold.
    """
    if split != "train" or source.units is None:
        return group_units(examples)
    strata, numbers = source.units
    return strata, [numbers[e.number] for e in examples]


def limited(source, split: str, examples: list, most: int | None, seed: int) -> list:
    """At most `most` of the examples, in their order: whole units, as a subset draws them."""
    strata, numbers = units(source, split, examples)
    sizes, chosen, n = Counter(numbers), set(), 0
    for unit in permutation(strata, seed):
        if most is None or n + sizes[unit] <= most:
            chosen.add(unit)
            n += sizes[unit]
    return [e for e, number in zip(examples, numbers, strict=True) if number in chosen]


def overlaps(sets: dict[str, dict[str, list]]) -> dict[str, dict[str, int]]:
    """Of `{source: {split: examples}}`: {source: {"its own source": n, "other sources": n}}.

    How many of its test prompts share a text with the train split of whom.
    """
    train = {
        name: {text for e in divided["train"] for text in e.texts if text}
        for name, divided in sets.items()
    }
    counts = {}
    for name, divided in sets.items():
        others = set().union(*(own for other, own in train.items() if other != name))
        seen = {"its own source": train[name], "other sources": others}
        test = [e.texts for e in divided["test"]]
        counts[name] = {w: sum(not s.isdisjoint(own) for own in test) for w, s in seen.items()}
    return counts


def mixed(rows: list[dict], seed: int) -> list[dict]:
    """The rows in a random order; its first ones (--max_examples) are of all sources."""
    return [rows[i] for i in permutation([row["source"] for row in rows], seed)]
