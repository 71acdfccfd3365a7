"""The demo's NER data: made-up molecular-biology sentences with BioNLP2004's five entity types."""

import random

from common.demo.language import POOLS, chunks
from NER.scores import to_iob2

SIZES = {"train": 1500, "dev": 250, "test": 350}


def splits(seed: int = 0) -> dict[str, list[dict[str, list[str]]]]:
    """Sentences by split, each {"tokens": [...], "tags": [...]} in IOB2.

    No two splits share a gene or a cell line.
    """
    made = {split: [] for split in POOLS}
    for split, rows in made.items():
        rng = random.Random(f"NER-{split}-{seed}")
        for _ in range(SIZES[split]):
            parts = list(chunks(rng, pool=split))
            tags = [tag for words, kind in parts for tag in to_iob2([kind or "O"] * len(words))]
            rows.append({"tokens": [word for words, _ in parts for word in words], "tags": tags})
    return made
