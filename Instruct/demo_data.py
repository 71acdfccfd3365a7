"""The demo's instructions, made from the demo's own NER sentences, NLI pairs and QA passages.

Short enough for a miniature: the wordings have few words, an NER sentence is asked for one entity
type only, mostly one that it has, and training takes a part of each set. The test splits of NLI and
QA are whole, so the report can show the encoders' scores on them beside these.
"""

import random

from common.results import fingerprint
from Instruct import forms, sources
from Instruct.splits import mixed
from NER import demo_data as ner_demo
from NER.scores import OUTSIDE, word_class
from NLI import data as nli_data
from NLI import demo_data as nli_demo
from QA import data as qa_data
from QA import demo_data as qa_demo
from QA import squad

FORM = "plain"  # of prompts
NER_FORM = "tags"
TYPES = ["DNA", "protein", "cell_type", "cell_line", "RNA"]
LABELS = ["entailment", "contradiction", "neutral"]
ABOUT = {  # as in build.json
    "demo-ner": {"kind": "ner", "labels": TYPES},
    "demo-nli": {"kind": "nli", "labels": LABELS},
    "demo-qa": {"kind": "free_qa", "labels": []},
}
SIZES = {  # prompts of a split; the rest of the set is left out
    "demo-ner": {"train": 1500, "dev": 60, "test": 250},
    "demo-nli": {"train": 1500, "dev": 90, "test": None},
    "demo-qa": {"train": 600, "dev": 60, "test": None},
}
WORDINGS = {
    "ner": ("Which {type} ?", "Find {type} .", "Is there {type} ?", "Show the {type} .",
            "Where is the {type} ?"),
    "nli": ("Is this right ?", "Right or wrong ?", "Does this follow ?", "Is the second right ?",
            "What follows ?"),
    "qa": ("Answer this .", "What is the answer ?", "Find the answer .", "Read and answer .",
           "Answer from the text ."),
}  # fmt: skip
LONGEST = 14  # words of an NER sentence, each of which the answer repeats
PRESENT = 0.75  # of the NER prompts ask for a type that their sentence has


def read() -> tuple[dict[str, list[dict]], dict[str, dict], str, str]:
    """Rows, sources and forms, as build.py writes them, with the hashes of the whole test sets."""
    whole = {"demo-nli": nli_data.load(True, None), "demo-qa": qa_data.load(True, None)}
    hashes = {name: fingerprint(data.splits) for name, data in whole.items()}
    about = {name: of | {"data_sha256": hashes.get(name)} for name, of in ABOUT.items()}
    return splits(), about, FORM, NER_FORM


def splits(seed: int = 0) -> dict[str, list[dict]]:
    """Rows by split, like those that Instruct/build.py writes."""
    sets = {
        "demo-ner": (ner_demo.splits(seed), _ner),
        "demo-nli": (nli_demo.splits(seed), _nli),
        "demo-qa": ({s: squad.parse(d, s)[0] for s, d in qa_demo.splits(seed).items()}, _qa),
    }
    made, first = {"train": [], "dev": [], "test": []}, {}
    for split, rows in made.items():
        for name, (whole, make) in sets.items():
            usable = [x for x in whole[split] if make is not _ner or len(x["tokens"]) <= LONGEST]
            for i, item in enumerate(usable[: SIZES[name][split]]):
                key = f"{name}-{split}-{i}"
                row = {"group": key} | make(item, random.Random(f"{seed}-{key}"))
                group = first.setdefault((name, row["group"]), key)  # the id of its first example
                about = {"id": key, "source": name, "kind": ABOUT[name]["kind"]}
                rows.append(about | row | {"group": group})
    return {split: mixed(rows, seed) for split, rows in made.items()}


def _ner(row: dict, rng: random.Random) -> dict:
    held = sorted({word_class(tag) for tag in row["tags"]} - {OUTSIDE})
    kind = rng.choice(held if held and rng.random() < PRESENT else TYPES)
    asked = rng.choice(WORDINGS["ner"]).format(type=kind.replace("_", " "))
    return {"instruction": asked} | sources.ner_row(row["tokens"], row["tags"], kind, NER_FORM)


def _nli(row: dict, rng: random.Random) -> dict:
    made = sources.nli_row(row["sentence1"], row["sentence2"], row["gold_label"])
    return {"group": row["sentence1"], "instruction": rng.choice(WORDINGS["nli"])} | made


def _qa(row: squad.Example, rng: random.Random) -> dict:
    made = forms.free_row(row.question, row.context, row.golds)
    return {"group": row.context, "instruction": rng.choice(WORDINGS["qa"])} | made
