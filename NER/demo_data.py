"""The demo's NER data: made-up molecular-biology sentences with BioNLP2004's five entity types."""

import random

from common.demo.language import POOLS, chunks
from NER.scores import to_iob2

SIZES = {"train": 1500, "dev": 250, "test": 350}


def splits(seed: int = 0) -> dict[str, list[dict[str, list[str]]]]:
    """Sentences by split, each {"tokens": [...], "tags": [...]} in IOB2.

    No two splits share a gene or a cell line.
    """
    return {split: sentences(SIZES[split], split, seed) for split in POOLS}


def sentences(n: int, split: str, seed: int) -> list[dict[str, list[str]]]:
    rng = random.Random(f"NER-{split}-{seed}")
    made = []
    for _ in range(n):
        tokens, tags = [], []
        for words, kind in chunks(rng, pool=split):
            tokens += words
            tags += to_iob2([kind or "O"] * len(words))
        made.append({"tokens": tokens, "tags": tags})
    return made
