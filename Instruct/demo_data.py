"""The demo's instructions, made from the demo's own NER sentences and NLI pairs.

Short enough for a miniature: the wordings are of few words, and an NER sentence is asked for one
entity type alone, mostly one that it has.
"""

import random

from Instruct import sources
from NER import demo_data as ner_demo
from NER.scores import OUTSIDE, word_class
from NLI import demo_data as nli_demo

FORM = "plain"  # of prompts
NER_FORM = "tags"
TYPES = ["DNA", "protein", "cell_type", "cell_line", "RNA"]
LABELS = ["entailment", "contradiction", "neutral"]
ABOUT = {  # as in build.json
    "demo-ner": {"kind": "ner", "labels": TYPES},
    "demo-nli": {"kind": "nli", "labels": LABELS},
}
WORDINGS = {
    "ner": ("Which {type} ?", "Find {type} .", "Is there {type} ?", "Show the {type} .",
            "Where is the {type} ?"),
    "nli": ("Is this right ?", "Right or wrong ?", "Does this follow ?", "Is the second right ?",
            "What follows ?"),
}  # fmt: skip
PRESENT = 0.75  # of the NER prompts ask for a type that their sentence has


def splits(seed: int = 0) -> dict[str, list[dict]]:
    """Rows by split, like those that Instruct/build.py writes."""
    pairs, sentences = nli_demo.splits(seed), ner_demo.splits(seed)
    return {
        split: [_ner(row, f"demo-ner-{split}-{i}", seed) for i, row in enumerate(sentences[split])]
        + [_nli(row, f"demo-nli-{split}-{i}", seed) for i, row in enumerate(pairs[split])]
        for split in sentences
    }


def _ner(row: dict, key: str, seed: int) -> dict:
    rng = random.Random(f"{seed}-{key}")
    held = sorted({word_class(tag) for tag in row["tags"]} - {OUTSIDE})
    kind = rng.choice(held if held and rng.random() < PRESENT else TYPES)
    asked = rng.choice(WORDINGS["ner"]).format(type=kind.replace("_", " "))
    made = sources.ner_row(row["tokens"], row["tags"], kind, NER_FORM)
    return {"id": key, "source": "demo-ner", "kind": "ner", "instruction": asked} | made


def _nli(row: dict, key: str, seed: int) -> dict:
    asked = random.Random(f"{seed}-{key}").choice(WORDINGS["nli"])
    made = sources.nli_row(row["sentence1"], row["sentence2"], row["gold_label"])
    return {"id": key, "source": "demo-nli", "kind": "nli", "instruction": asked} | made
