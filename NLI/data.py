"""NLI data: MedNLI, your own pairs, or the demo's.

MedNLI is credentialed: its text never reaches a log, a result file or an error message.
"""

import os
import unicodedata
from pathlib import Path
from typing import NamedTuple

from common.cli import UserError
from common.data_files import SPLIT_NAMES, find_split, jsonl, tables
from common.task import Data
from NLI import demo_data

LABELS = ["entailment", "contradiction", "neutral"]  # 0, 1, 2 as in the study
FILES = ("mli_{}_v1.jsonl", "{}.jsonl")  # of a split; the first that is there
FIELDS = ("gold_label", "sentence1", "sentence2")
SPLIT_SEED = 42  # of the 80/20 split of a train file alone: the study's, whatever --seed is
MEDNLI_DIR = "MEDNLI_DIR"


class Example(NamedTuple):
    """A pair and its gold label."""

    id: str
    premise: str
    hypothesis: str
    label: str


def load(demo: bool, data_dir: Path | None) -> Data:
    """The demo's pairs, those of a folder, or MedNLI from $MEDNLI_DIR.

    Raises UserError if the data are not available or invalid.
    """
    if demo:
        made = demo_data.splits()
        return Data({s: [_example(row, "demo", "") for row in made[s]] for s in made}, LABELS)
    given = data_dir or os.environ.get(MEDNLI_DIR)
    if not given:
        raise UserError(
            "MedNLI is credentialed and is never downloaded. Get access at "
            "https://physionet.org/content/mednli/ and give the folder that holds "
            f"mli_train_v1.jsonl, mli_dev_v1.jsonl and mli_test_v1.jsonl: --data_dir FOLDER, or "
            f"export {MEDNLI_DIR}=FOLDER. To try the script without MedNLI, add --demo."
        )
    folder = Path(given).expanduser()
    if not folder.is_dir():
        flag = "--data_dir" if data_dir else f"${MEDNLI_DIR}"
        raise UserError(f"{flag} {folder} is not a folder. Check the path.")
    files = {split: find_split(folder, split, FILES) for split in SPLIT_NAMES}
    missing = [split for split in files if not files[split]]
    if missing and missing != ["dev", "test"]:
        raise UserError(
            f"no {missing[0]} file in {folder}. It needs mli_train_v1.jsonl, mli_dev_v1.jsonl and "
            "mli_test_v1.jsonl (or train, dev and test.jsonl), or a train file alone."
            + tables(folder)
        )
    splits, labels = {}, LABELS
    for split, paths in files.items():
        if paths:
            places, splits[split] = zip(*_read(paths[0], split), strict=True)
            labels = label_set(splits[split]) if split == "train" else labels
            for place, example in zip(places, splits[split], strict=True):
                if example.label not in labels:
                    known = ", ".join(labels)
                    known += "" if labels == LABELS else " (from train)"
                    said = (
                        f"unknown gold_label {example.label!r}; known: {known}. Remove that line."
                    )
                    raise UserError(f"{place}: {said}")
    splits = {split: list(examples) for split, examples in splits.items()}
    return Data(_split_train(splits["train"], files["train"][0]) if missing else splits, labels)


def label_set(train) -> list[str]:
    """MedNLI's labels in the study's order if train has them all, or no others; else its own."""
    own = {example.label for example in train}
    return LABELS if own <= {*LABELS} or own >= {*LABELS} else sorted(own)


def _read(path: Path, split: str) -> list[tuple[str, Example]]:
    rows = enumerate(jsonl(path, FIELDS))
    return [(place, _example(row, place, f"{split}-{i}")) for i, (place, row) in rows]


def _example(row: dict, place: str, number: str) -> Example:
    for field in FIELDS:
        if not isinstance(row[field], str):
            raise UserError(f"{place}: {field!r} is not a string. Fix that example.")
    label = unicodedata.normalize("NFC", row["gold_label"])  # "é" in one character or two
    if not label.strip() or len(label) > 20 or len(label.split()) > 1:  # a misplaced text
        raise UserError(
            f"{place}: a gold_label of {len(label)} characters. It must be one word of at most 20, "
            f"such as {', '.join(LABELS)}."
        )
    return Example(str(row.get("pairID") or number), row["sentence1"], row["sentence2"], label)


def _split_train(examples: list[Example], path: Path) -> dict[str, list[Example]]:
    """The study's protocol for a train file alone: 80/20, stratified by label, seed 42."""
    from sklearn.model_selection import train_test_split

    labels = [example.label for example in examples]
    how = {"test_size": 0.2, "random_state": SPLIT_SEED, "stratify": labels}
    try:
        return dict(zip(("train", "test"), train_test_split(examples, **how), strict=True))
    except ValueError:
        raise UserError(
            f"{path}: {len(examples)} examples are too few to split 80/20 by label. Give more, or "
            "dev and test files too."
        ) from None
