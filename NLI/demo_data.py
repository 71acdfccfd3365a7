"""The demo's NLI data: made-up clinical premises, each with one hypothesis of each label."""

import random

from common.demo.language import POOLS, statement

PREMISES = {"train": 700, "dev": 100, "test": 150}
LABELS = {"certain": "entailment", "excluded": "contradiction", "open": "neutral"}


def splits(seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """Pairs by split: {"pairID", "gold_label", "sentence1", "sentence2"}; all labels a premise."""
    return {split: _pairs(split, random.Random(f"NLI-{split}-{seed}")) for split in POOLS}


def _pairs(split: str, rng: random.Random) -> list[dict[str, str]]:
    pairs = []
    for _ in range(PREMISES[split]):
        premise, remarks = statement(rng, pool=split)
        for verdict, hypothesis in remarks.items():
            about = {"pairID": f"demo-{split}-{len(pairs)}", "gold_label": LABELS[verdict]}
            pairs.append(about | {"sentence1": premise, "sentence2": hypothesis})
    rng.shuffle(pairs)
    return pairs
