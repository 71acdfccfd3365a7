"""The demo's instructions, made from the demo's own NER sentences, NLI pairs and QA passages.

Short enough for a miniature: few words, one entity type for an NER sentence, a part of each set for
training. The test splits of NLI and QA are whole: the report shows the encoders' scores beside.
"""

import itertools
import random

from common.results import fingerprint
from Instruct import sources
from Instruct.splits import SPLITS, mixed
from NER import data as ner_data
from NER.scores import OUTSIDE, word_class
from NLI import data as nli_data
from NLI.task import stratum as nli_stratum
from QA import data as qa_data

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


def read() -> tuple[dict[str, list[dict]], dict, dict[str, list[str]]]:
    """(rows by split, build.json, the units' strata), as build.py makes them."""
    sets = {
        "demo-ner": (ner_data.load(True, None), ner_data.stratum, _ner),
        "demo-nli": (nli_data.load(True, None), nli_stratum, _nli),
        "demo-qa": (qa_data.load(True, None), qa_data.stratum, _qa),
    }
    rows: dict[str, list[dict]] = {split: [] for split in SPLITS}
    first: dict[tuple, str] = {}  # the id of each group's first example
    for split, name in itertools.product(SPLITS, sets):
        data, _, make = sets[name]
        numbered = [
            (unit, e)
            for unit, e in enumerate(data.splits[split])
            if name != "demo-ner" or len(e.words) <= LONGEST
        ]
        for i, (unit, e) in enumerate(numbered[: SIZES[name][split]]):
            key = f"{name}-{split}-{i}"
            row = {"group": key} | make(e, random.Random(f"0-{key}"))
            group = first.setdefault((name, row["group"]), key)
            about = {"id": key, "source": name, "kind": ABOUT[name]["kind"], "unit": unit}
            rows[split].append(about | row | {"group": group})
    whole = {name: fingerprint(sets[name][0].splits) for name in ("demo-nli", "demo-qa")}
    about = {name: of | {"data_sha256": whole.get(name)} for name, of in ABOUT.items()}
    about = {"sources": about, "prompt_form": FORM, "ner_form": NER_FORM}
    units = {
        name: [str(stratum(e)) for e in data.splits["train"]]
        for name, (data, stratum, _) in sets.items()
    }
    return {split: mixed(some, 0) for split, some in rows.items()}, about, units


def _ner(e: ner_data.Example, rng: random.Random) -> dict:
    held = sorted({word_class(tag) for tag in e.tags} - {OUTSIDE})
    kind = rng.choice(held if held and rng.random() < PRESENT else TYPES)
    asked = rng.choice(WORDINGS["ner"]).format(type=kind.replace("_", " "))
    return {"instruction": asked} | sources.ner_row(e.words, e.tags, kind, NER_FORM)


def _nli(e: nli_data.Example, rng: random.Random) -> dict:
    made = sources.row_of("nli", (e.premise, e.hypothesis), e.label)
    return {"group": e.premise, "instruction": rng.choice(WORDINGS["nli"])} | made


def _qa(e: qa_data.Example, rng: random.Random) -> dict:
    made = sources.row_of("free_qa", (e.question, e.context), e.golds)
    return {"group": e.context, "instruction": rng.choice(WORDINGS["qa"])} | made
