"""The demo's instructions, made from the demo's own NER sentences, NLI pairs and QA passages.

Short enough for a miniature: few words, one entity type for an NER sentence, a part of each set for
training. The test splits of NLI and QA are whole: the report shows the encoders' scores beside.
"""

import random

from common import task as contract
from common.results import fingerprint
from Instruct import sources
from Instruct.splits import SPLITS, mixed
from NER import data as ner_data
from NER.scores import OUTSIDE, word_class
from NLI import data as nli_data
from QA import data as qa_data

NER_FORM = "tags"
TYPES = list(ner_data.STUDY_ORDER)
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


def _ner(e: ner_data.Example, rng: random.Random) -> dict:
    held = sorted({word_class(tag) for tag in e.tags} - {OUTSIDE})
    kind = rng.choice(held if held and rng.random() < PRESENT else TYPES)
    asked = rng.choice(WORDINGS["ner"]).format(type=kind.replace("_", " "))
    return {"instruction": asked} | sources.ner_row(e.words, e.tags, kind, NER_FORM)


def _nli(e: nli_data.Example, rng: random.Random) -> dict:
    made = sources.row_of("nli", (e.premise, e.hypothesis), e.label)
    return {"instruction": rng.choice(WORDINGS["nli"])} | made


def _qa(e: qa_data.Example, rng: random.Random) -> dict:
    made = sources.row_of("free_qa", (e.question, e.context), e.golds)
    return {"instruction": rng.choice(WORDINGS["qa"])} | made


SETS = {  # name: kind, labels, task, rows, and the prompts of train, dev, test (None: all)
    "demo-ner": ("ner", TYPES, "NER", _ner, (1500, 60, 250)),
    "demo-nli": ("nli", nli_data.LABELS, "NLI", _nli, (1500, 90, None)),
    "demo-qa": ("free_qa", [], "QA", _qa, (600, 60, None)),
}


def read() -> tuple[dict[str, list[dict]], dict, dict[str, list[str]]]:
    """(rows by split, build.json, the units' strata), as build.py makes them."""
    rows: dict[str, list[dict]] = {split: [] for split in SPLITS}
    about, units = {}, {}
    for name, (kind, labels, owner, make, sizes) in SETS.items():
        task = contract.load(owner)
        data = task.load(True, None)
        groups = sources.groups_of(task, data)
        same = fingerprint(data.splits) if sizes[-1] is None else None
        about[name] = {"kind": kind, "labels": labels, "data_sha256": same}
        units[name] = [str(task.stratum(e)) for e in data.splits["train"]]
        for split, size in zip(SPLITS, sizes, strict=True):
            numbered = enumerate(data.splits[split])
            short = [(n, e) for n, e in numbered if len(getattr(e, "words", ())) <= LONGEST]
            for i, (unit, e) in enumerate(short[:size]):
                key = f"{name}-{split}-{i}"
                group = f"{name}/{groups[split][unit]}"
                made = {"id": key, "source": name, "kind": kind, "unit": unit, "group": group}
                rows[split].append(made | make(e, random.Random(f"0-{key}")))
    about = {"sources": about, "prompt_form": "plain", "ner_form": NER_FORM}
    return {split: mixed(own, 0) for split, own in rows.items()}, about, units
