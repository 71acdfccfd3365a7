"""The demo's NLI data: made-up clinical premises, each with one hypothesis of each label."""

import random

from common.demo.language import POOLS, statement

PREMISES = {"train": 700, "dev": 100, "test": 150}
LABELS = {"certain": "entailment", "excluded": "contradiction", "open": "neutral"}


def splits(seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """Pairs by split: {"pairID", "gold_label", "sentence1", "sentence2"}; all labels a premise."""
    return {split: pairs(PREMISES[split], split, seed) for split in POOLS}


def pairs(premises: int, split: str, seed: int) -> list[dict[str, str]]:
    rng = random.Random(f"NLI-{split}-{seed}")
    made = []
    for _ in range(premises):
        premise, remarks = statement(rng, pool=split)
        for verdict, hypothesis in remarks.items():
            pair = {"sentence1": premise, "sentence2": hypothesis}
            name = f"demo-{split}-{len(made)}"
            made.append({"pairID": name, "gold_label": LABELS[verdict]} | pair)
    rng.shuffle(made)
    return made
