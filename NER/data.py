"""NER data: BioNLP2004 from the Hub, your own files, or the demo's; the classes to learn."""

from pathlib import Path
from typing import NamedTuple

from common.cli import UserError
from common.hub import load_dataset
from NER import demo_data
from NER.formats import FIELDS, read_folder, sentences
from NER.scores import OUTSIDE, word_class

HUB_ID, HUB_REVISION = "tner/bionlp2004", "refs/convert/parquet"
STUDY_ORDER = ("DNA", "protein", "cell_type", "cell_line", "RNA")
# By number: dataset/label.json of tner/bionlp2004. Its parquet files hold the numbers alone.
BIONLP2004 = dict(enumerate([OUTSIDE, *(f"{p}-{kind}" for kind in STUDY_ORDER for p in "BI")]))


class Example(NamedTuple):
    """A sentence: its words and their gold tags in IOB2."""

    id: str
    words: list[str]
    tags: list[str]


class Data(NamedTuple):
    """The splits train, dev, test; and the classes that a model's outputs stand for."""

    splits: dict[str, list[Example]]
    labels: list[str]
    iob2: bool  # whether labels are IOB2 tags, or the study's: O and the entity types


def add_arguments(parser, step: str) -> None:
    """The flag that only this task's scripts have."""
    text = "classes to learn: O and the entity types (io, the study's), or B-/I- tags (iob2)"
    parser.add_argument("--label_scheme", choices=("io", "iob2"), default="io", help=text)


def load(demo: bool, data_dir: Path | None, label_scheme: str = "io") -> Data:
    """The demo's sentences, those of a folder, or BioNLP2004.

    `label_scheme`: "io" or "iob2". Raises UserError if the data are not available or invalid.
    """
    if demo:
        made = demo_data.splits()
        rows = {split: [(row["tokens"], row["tags"]) for row in made[split]] for split in made}
    elif data_dir:
        rows = read_folder(data_dir)
    else:  # the Hub's parquet conversion: `datasets` refuses the set's loading script
        tables = load_dataset(HUB_ID, ("train", "dev", "test"), FIELDS, HUB_REVISION)
        rows = {split: list(sentences(tables[split], BIONLP2004)) for split in tables}
    splits = {
        split: [Example(f"{split}-{i}", words, tags) for i, (words, tags) in enumerate(own)]
        for split, own in rows.items()
    }
    types = {word_class(tag) for own in splits.values() for e in own for tag in e.tags} - {OUTSIDE}
    if not types:
        raise UserError(f"{data_dir}: no entity in any split, only O. Add sentences with entities.")
    ordered = [kind for kind in STUDY_ORDER if kind in types]
    ordered += sorted(types - set(ordered))
    if label_scheme == "iob2":
        ordered = [f"{prefix}-{kind}" for kind in ordered for prefix in "BI"]
    return Data(splits, [OUTSIDE, *ordered], label_scheme == "iob2")


def stratum(example: Example) -> str:
    """What subsets are stratified by: the set of entity types in the sentence."""
    return "+".join(sorted({word_class(tag) for tag in example.tags} - {OUTSIDE})) or OUTSIDE
