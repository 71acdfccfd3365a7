"""The NLI task: MedNLI or your own pairs, their encoding, predictions and scores.

MedNLI is credentialed: its text never reaches a log, a result file or an error message.
"""

import os
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from common.cli import UserError
from common.data_files import SPLIT_NAMES, check_folder, find_split, jsonl
from NLI import demo_data

TASK = "NLI"
MODEL_TASK = "SequenceClassification"
MAIN_METRIC = "accuracy"
SUMMARY = ("accuracy", "macro_f1")  # printed at the end
PROBE_METRICS = ("accuracy", "macro_f1")  # drawn by layer
LABELS = ["entailment", "contradiction", "neutral"]  # 0, 1, 2 as in the study
FIELDS = ("gold_label", "sentence1", "sentence2")
SPLIT_SEED = 42  # of the 80/20 split of a train file alone: the study's, whatever --seed is
MEDNLI_DIR = "MEDNLI_DIR"


class Example(NamedTuple):
    """A pair and its gold label, one of LABELS."""

    id: str
    premise: str
    hypothesis: str
    label: str


class Data(NamedTuple):
    """The splits (train, dev, test; or train and test alone) and the model's classes."""

    name: str
    splits: dict[str, list[Example]]
    labels: list[str]


def dataset_name(args) -> str:
    """The data set's name in the result path."""
    own = args.data_dir.resolve().name if args.data_dir else "mednli"
    return "demo" if args.demo else args.dataset_name or own


def load(args) -> Data:
    """The data set that `args` (demo, data_dir, dataset_name) or $MEDNLI_DIR name.

    Raises UserError if it cannot be found or read.
    """
    if args.demo:
        rows = demo_data.splits()
        splits = {s: [_example(row, "demo", "") for row in rows[s]] for s in rows}
        return Data("demo", splits, LABELS)
    folder = args.data_dir or os.environ.get(MEDNLI_DIR)
    if not folder:
        raise UserError(
            "MedNLI is credentialed and is never downloaded. Get access at "
            "https://physionet.org/content/mednli/ and give the folder that holds "
            f"mli_train_v1.jsonl, mli_dev_v1.jsonl and mli_test_v1.jsonl: --data_dir FOLDER, or "
            f"export {MEDNLI_DIR}=FOLDER. To see it work without, add --demo."
        )
    folder = Path(folder).expanduser()
    if not folder.is_dir() and not args.data_dir:
        raise UserError(f"${MEDNLI_DIR} ({folder}) is not a folder. Check the path.")
    return Data(dataset_name(args), _read_folder(folder), LABELS)


def _read_folder(folder: Path) -> dict[str, list[Example]]:
    check_folder(folder)
    files = {
        split: find_split(folder, split, ("mli_{}_v1.jsonl", "{}.jsonl")) for split in SPLIT_NAMES
    }
    missing = [split for split in files if not files[split]]
    if missing and missing != ["dev", "test"]:
        raise UserError(
            f"no {missing[0]} file in {folder}. It needs mli_train_v1.jsonl, mli_dev_v1.jsonl and "
            "mli_test_v1.jsonl (or train, dev and test.jsonl), or a train file alone."
        )
    splits = {split: _read(files[split][0], split) for split in files if files[split]}
    if missing:
        return _split_train(splits["train"], files["train"][0])
    return splits


def _read(path: Path, split: str) -> list[Example]:
    found = [
        _example(row, place, f"{split}-{i}") for i, (place, row) in enumerate(jsonl(path, FIELDS))
    ]
    if not found:
        raise UserError(f"{path} holds no example. Put the {split} pairs there.")
    return found


def _example(row: dict, place: str, number: str) -> Example:
    for field in FIELDS:
        if not isinstance(row[field], str):
            raise UserError(f"{place}: {field!r} is not a string. Mend that example.")
    label = row["gold_label"]
    if label not in LABELS:
        # Several words, or many characters, are a misplaced text, which must not be shown.
        word = len(label) <= 20 and len(label.split()) <= 1
        shown = repr(label) if word else f"of {len(label)} characters"
        raise UserError(f"{place}: unknown gold_label {shown}; allowed: {', '.join(LABELS)}.")
    return Example(str(row.get("pairID") or number), row["sentence1"], row["sentence2"], label)


def _split_train(examples: list[Example], path: Path) -> dict[str, list[Example]]:
    """The study's protocol for a train file alone: 80/20, stratified by label, seed 42."""
    from sklearn.model_selection import train_test_split

    try:
        train, test = train_test_split(
            examples, test_size=0.2, random_state=SPLIT_SEED, stratify=[e.label for e in examples]
        )
    except ValueError:
        raise UserError(
            f"{path}: {len(examples)} examples are too few to split 80/20 by label. Give more, or "
            "dev and test files too."
        ) from None
    return {"train": train, "test": test}


def stratum(example: Example) -> str:
    """What subsets are stratified by: the label."""
    return example.label


def encode(
    data: Data, examples: list[Example], tokenizer, max_length: int
) -> tuple[list[dict], dict]:
    """Encode premise and hypothesis as one input; count what is cut.

    BERT: `[CLS] A [SEP] B [SEP]` with token types; BioGPT: `</s> A </s> B`; GPT-2, which has no
    separator: `A <|endoftext|> B`. Too long a pair loses tokens at the end of the longer side.
    Returns `input_ids`, (`token_type_ids`,) `labels` a pair; and the counts `pairs`,
    `truncated_pairs`, `truncated_tokens`.
    """
    head, middle, tail, types = _frame(tokenizer)
    room = max_length - len(head) - len(middle) - len(tail)
    if room < 2:
        raise UserError(f"--max_length {max_length} leaves no room for a pair. Use a larger one.")
    texts = list(dict.fromkeys(t for e in examples for t in (e.premise, e.hypothesis)))
    # Each text once: MedNLI's premises stand in three pairs each. At size 0 there are none.
    found = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    ids = dict(zip(texts, found, strict=True))
    encoded, truncated_tokens, truncated_pairs = [], 0, 0
    for example in examples:
        a, b = ids[example.premise], ids[example.hypothesis]
        over = len(a) + len(b) - room
        if over > 0:
            truncated_pairs, truncated_tokens = truncated_pairs + 1, truncated_tokens + over
            a, b = truncate(a, b, room)
        first, second = [*head, *a, *middle], [*b, *tail]
        row = {"input_ids": first + second, "labels": data.labels.index(example.label)}
        if types:
            row["token_type_ids"] = [0] * len(first) + [1] * len(second)
        encoded.append(row)
    counts = {"truncated_pairs": truncated_pairs, "truncated_tokens": truncated_tokens}
    return encoded, {"pairs": len(examples), **counts}


def probe_inputs(texts: list[str], tokenizer, max_length: int, pooling: str):
    """What the frozen encoder reads: `input_ids` of each text encoded alone, and its one unit.

    `pooling`: "mean" over all real tokens, "cls" the first, "last" the last of them. The counts:
    `texts`, `truncated_texts`, `truncated_tokens`.
    """
    encoded, over = [], []
    for ids in tokenizer(texts, add_special_tokens=True)["input_ids"]:
        tail = ids[len(ids) - 1 :] if ids[-1:] == [tokenizer.sep_token_id] else []
        over.append(max(0, len(ids) - max_length))
        if over[-1]:  # the closing [SEP] of BERT stays
            ids = ids[: max_length - len(tail)] + tail
        ids = ids or [tokenizer.eos_token_id]  # an empty text in GPT-2
        n = len(ids)
        unit = {"mean": (0, n), "cls": (0, 1), "last": (n - 1, n)}[pooling]
        encoded.append({"input_ids": ids, "units": [unit]})
    cut = {"truncated_texts": sum(map(bool, over)), "truncated_tokens": sum(over)}
    return encoded, {"texts": len(texts), **cut}


def _frame(tokenizer) -> tuple[list[int], list[int], list[int], bool]:
    """The special tokens before, between and after the two texts, and whether there are types."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    pair = tokenizer("a", "a")
    whole, n = pair["input_ids"], len(bare)
    at = [i for i in range(len(whole) - n + 1) if whole[i : i + n] == bare]
    head, middle, tail = whole[: at[0]], whole[at[0] + n : at[-1]], whole[at[-1] + n :]
    return head, middle or [tokenizer.eos_token_id], tail, "token_type_ids" in pair


def truncate(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut the longer of two lists, then both in turn, until they fit together."""
    shorter = min(len(a), len(b), room // 2)
    if len(a) > len(b):
        b = b[: max(shorter, room - len(a))]
        return a[: room - len(b)], b
    a = a[: max(shorter, room - len(b))]
    return a, b[: room - len(a)]


def decode(data: Data, encoded: list[dict], logits: list) -> list[str]:
    """The label of each pair, from its logits `[labels]`."""
    return [data.labels[scores.argmax()] for scores in logits]


def permuted(examples: list[Example], seed: int) -> list[Example]:
    """The control's training examples: the same texts, their labels shuffled among them."""
    labels = [example.label for example in examples]
    random.Random(seed).shuffle(labels)
    return [e._replace(label=label) for e, label in zip(examples, labels, strict=True)]


def majority(train: list[Example], examples: list[Example]) -> list[str]:
    """Predictions of the baseline: the most frequent training label, for every pair."""
    best = Counter(example.label for example in train).most_common(1)[0][0]
    return [best] * len(examples)


def score(examples: list[Example], predicted: list[str]) -> dict[str, float]:
    """Accuracy, macro-F1, a label's precision, recall and F1 (0-1), and the confusion matrix.

    Only labels that occur on either side count (a set may be two-way).
    `confusion_<gold>_<predicted>` are numbers of pairs.
    """
    from sklearn.metrics import precision_recall_fscore_support

    gold = [example.label for example in examples]
    names = [name for name in LABELS if name in {*gold, *predicted}]
    values = precision_recall_fscore_support(gold, predicted, labels=names, zero_division=0)
    found = {
        "accuracy": sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold),
        "macro_f1": float(values[2].mean()),
    }
    for metric, row in zip(("precision", "recall", "f1"), values, strict=False):
        found |= {f"{metric}_{n}": float(v) for n, v in zip(names, row, strict=True)}
    pairs = Counter(zip(gold, predicted, strict=True))
    return found | {f"confusion_{g}_{p}": pairs[g, p] for g in names for p in names}


def predictions(examples: list[Example], predicted: list[str]) -> list[dict]:
    """Rows of predictions.jsonl: id, gold and predicted label; no text."""
    return [
        {"id": e.id, "gold": e.label, "predicted": label}
        for e, label in zip(examples, predicted, strict=True)
    ]
