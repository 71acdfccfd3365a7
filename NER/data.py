"""NER data: BioNLP2004 from the Hub, your own files, or the demo's; the classes to learn."""

from collections.abc import Iterator
from typing import NamedTuple

from common.cli import UserError
from common.hub import load_dataset
from NER import demo_data
from NER.formats import FIELDS, read_folder, sentences
from NER.scores import OUTSIDE, to_iob2, word_class

HUB_ID, HUB_REVISION = "tner/bionlp2004", "refs/convert/parquet"
# dataset/label.json of tner/bionlp2004; its parquet files hold the numbers alone.
BIONLP2004 = ["O", "B-DNA", "I-DNA", "B-protein", "I-protein", "B-cell_type", "I-cell_type",
              "B-cell_line", "I-cell_line", "B-RNA", "I-RNA"]  # fmt: skip
STUDY_ORDER = ("DNA", "protein", "cell_type", "cell_line", "RNA")


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
    parser.add_argument(
        "--label_scheme",
        choices=("io", "iob2"),
        default="io",
        help="classes to learn: O and the entity types (io, the study's), or B-/I- tags (iob2)",
    )


def load(args) -> Data:
    """The data set that `args` (demo, data_dir, label_scheme) name.

    Raises UserError if it cannot be had or read.
    """
    names = None
    if args.demo:
        rows = demo_data.splits()
        rows = {split: [(r["tokens"], r["tags"]) for r in rows[split]] for split in rows}
    elif args.data_dir:
        rows, names = read_folder(args.data_dir)
    else:
        rows = _from_hub()
    splits = {
        split: [Example(f"{split}-{i}", words, tags) for i, (words, tags) in enumerate(sentences)]
        for split, sentences in rows.items()
    }
    declared = [to_iob2([tag]) if tag[:2] not in ("B-", "I-") else [tag] for tag in names or ()]
    used = [example.tags for examples in splits.values() for example in examples]
    types = {word_class(tag) for tags in declared + used for tag in tags} - {OUTSIDE}
    if not types:
        where = args.data_dir or "the data set"
        raise UserError(f"{where}: no entity in any split, only O. There is nothing to learn.")
    known = [kind for kind in STUDY_ORDER if kind in types]
    types = known + sorted(types - set(known))
    iob2 = args.label_scheme == "iob2"
    classes = [f"{prefix}-{kind}" for kind in types for prefix in "BI"] if iob2 else types
    return Data(splits, [OUTSIDE, *classes], iob2)


def _from_hub() -> dict[str, list[tuple[list[str], list[str]]]]:
    """BioNLP2004 from the Hub's parquet conversion; `datasets` refuses its loading script."""
    found = load_dataset(HUB_ID, ("train", "dev", "test"), FIELDS, HUB_REVISION)
    by_id = dict(enumerate(BIONLP2004))
    return {split: list(sentences(_placed(split, rows), by_id)) for split, rows in found.items()}


def _placed(split: str, rows: list[dict]) -> Iterator[tuple[str, dict]]:
    for number, row in enumerate(rows, 1):
        yield f"{HUB_ID}, {split}, row {number}", row


def stratum(example: Example) -> str:
    """What subsets are stratified by: the set of entity types in the sentence."""
    return "+".join(sorted({word_class(tag) for tag in example.tags} - {OUTSIDE})) or OUTSIDE
