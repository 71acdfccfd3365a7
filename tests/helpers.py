"""What several test files need: small data sets, running a script, scores of lists."""

import importlib
import json
import random

from common.task import evaluate, find
from NER import task as ner
from NLI import task as nli

TASKS = find()
TAGS = {"O": 0, "B-protein": 1, "I-protein": 2, "B-DNA": 3, "I-DNA": 4}
LABELS = ("entailment", "contradiction", "neutral")
SPLITS = {"NER": ("train", "validation", "test"), "NLI": ("train", "dev", "test")}
# A word has one class, so tags can be learnt, and so can those of a control, which gives each word
# another one. The majority class, or label, is another in each split.
WORDS = {
    "protein": "IL-2 CD28 TNF-alpha GATA-1 interferon-gamma receptor".split(),
    "DNA": "promoter LTR c-fos gene NF-kappa site".split(),
    "O": "the of patient was treated with and human cells ; .".split(),
}
SHARES = {"train": (5, 2, 3), "validation": (2, 6, 2), "test": (2, 2, 6)}  # of WORDS' classes
MAJORITY = {"train": "entailment", "dev": "contradiction", "test": "neutral"}
CUES = {"entailment": "healthy normal heart".split(), "neutral": "morning river book".split(),
        "contradiction": "fever pain nausea".split()}  # fmt: skip


def ner_row(i: int, split: str = "train") -> dict:
    """A sentence of 3 to 12 words; entities of one type may follow upon each other."""
    rng = random.Random(f"{split}-{i}")
    kinds = rng.choices(list(WORDS), SHARES[split], k=rng.randint(3, 12))
    names, last = [], "O"
    for kind in kinds:
        inside = kind == last and rng.random() < 0.7
        names.append("O" if kind == "O" else f"{'I' if inside else 'B'}-{kind}")
        last = kind
    words = [rng.choice(WORDS[kind]) for kind in kinds]
    return {"tokens": words, "tags": [TAGS[name] for name in names]}


def nli_row(i: int, split: str = "train") -> dict:
    """A pair whose label one side tells: the premise where `i` is odd, else the hypothesis."""
    rng = random.Random(f"{split}-{i}")
    label = MAJORITY[split] if i % 5 == 4 else LABELS[i % 3]
    sides = [rng.choices(WORDS["O"], k=rng.randint(1, 4)) for _ in range(2)]
    cued = sides[1 - i % 2]
    for cue in rng.choices(CUES[label], k=4):
        cued.insert(rng.randrange(len(cued) + 1), cue)
    texts = {f"sentence{n}": " ".join(words) for n, words in enumerate(sides, 1)}
    return {"pairID": f"{split}-pair-{i}", "gold_label": label} | texts


ROW = {"NER": ner_row, "NLI": nli_row}


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_data(folder, task, train=9, dev=None, test=None):
    """A data set without a fault; dev has two thirds of train's examples and test half, if not
    said otherwise. No example is in two splits."""
    folder.mkdir()
    sizes = (train, dev or max(2, train * 2 // 3), test or max(2, train // 2))
    for split, n in zip(SPLITS[task], sizes, strict=True):
        write_jsonl(folder / f"{split}.jsonl", [ROW[task](i, split) for i in range(n)])
    if task == "NER":
        (folder / "label.json").write_text(json.dumps(TAGS))
    return folder


def read_rows(folder, task) -> dict[str, list[dict]]:
    """What `write_data` wrote, by split: train, dev, test; tags by name."""
    names = {number: name for name, number in TAGS.items()}
    found = {}
    for split, file in zip(("train", "dev", "test"), SPLITS[task], strict=True):
        lines = (folder / f"{file}.jsonl").read_text().splitlines()
        found[split] = [json.loads(line) for line in lines]
        for row in found[split] if task == "NER" else ():
            row["tags"] = [names[tag] for tag in row["tags"]]
    return found


def run_script(task, step, *argv):
    """A script's exit code."""
    return importlib.import_module(f"{task}.{step}").main([str(flag) for flag in argv])


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def ner_scores(gold, predicted):
    """All scores of IOB2 tags, one list a sentence."""
    pairs = enumerate(zip(gold, predicted, strict=True))
    return evaluate(ner, [{"id": i, "gold": g, "predicted": p} for i, (g, p) in pairs])


def nli_scores(gold, predicted):
    """All scores of labels."""
    pairs = enumerate(zip(gold, predicted, strict=True))
    return evaluate(nli, [{"id": i, "gold": g, "predicted": p} for i, (g, p) in pairs])
