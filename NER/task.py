"""The NER task: BioNLP2004 or your own data, its labels, encoding, predictions and scores."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from common.cli import UserError
from common.hub import load_dataset
from NER import alignment, demo_data, scores
from NER.formats import FIELDS, read_folder, sentences
from NER.scores import OUTSIDE, to_iob2, word_class

TASK = "NER"
MODEL_TASK = "TokenClassification"
MAIN_METRIC = "entity_f1"
SUMMARY = ("entity_f1", "entity_f1_strict", "macro_f1", "micro_f1_without_o")  # printed at the end
PROBE_METRICS = ("entity_f1", "macro_f1", "micro_f1")  # drawn by layer
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

    name: str
    splits: dict[str, list[Example]]
    labels: list[str]
    iob2: bool  # whether labels are IOB2 tags, or the study's: O and the entity types


def add_arguments(parser) -> None:
    """The flag that only this task's scripts have."""
    parser.add_argument(
        "--label_scheme",
        choices=("io", "iob2"),
        default="io",
        help="classes to learn: O and the entity types (io, the study's), or B-/I- tags (iob2)",
    )


def dataset_name(args) -> str:
    """The data set's name in the result path."""
    own = args.data_dir.resolve().name if args.data_dir else "bionlp2004"
    return "demo" if args.demo else args.dataset_name or own


def load(args) -> Data:
    """The data set that `args` (demo, data_dir, dataset_name, label_scheme) name.

    Raises UserError if it cannot be had or read.
    """
    names, name = None, dataset_name(args)
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
        raise UserError(f"{name}: no entity in any split, only O. There is nothing to learn.")
    known = [kind for kind in STUDY_ORDER if kind in types]
    types = known + sorted(types - set(known))
    iob2 = args.label_scheme == "iob2"
    classes = [f"{prefix}-{kind}" for kind in types for prefix in "BI"] if iob2 else types
    return Data(name, splits, [OUTSIDE, *classes], iob2)


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


def encode(
    data: Data, examples: list[Example], tokenizer, max_length: int
) -> tuple[list[dict], dict]:
    """`input_ids`, `labels` (a token) and `positions` (a word) of each sentence, and the counts."""
    encoded, counts = alignment.encode([e.words for e in examples], tokenizer, max_length)
    number = {label: i for i, label in enumerate(data.labels)}
    for example, row in zip(examples, encoded, strict=True):
        tags = example.tags if data.iob2 else map(word_class, example.tags)
        row["labels"] = alignment.token_labels(row, [number[tag] for tag in tags])
    return encoded, counts


def decode(data: Data, encoded: list[dict], logits: list) -> list[list[str]]:
    """IOB2 tags of each sentence's words, from the logits `[tokens, labels]` of each."""
    found = [
        alignment.word_labels(row, values.argmax(-1), data.labels)
        for row, values in zip(encoded, logits, strict=True)
    ]
    return found if data.iob2 else [to_iob2(classes) for classes in found]


def probe_inputs(examples: list[Example], tokenizer, max_length: int, pooling: str):
    """What the frozen encoder reads: `input_ids` and `units` (words) of each sentence; the counts.

    The units of all sentences, in order, are the rows of the features; a word that was cut or
    tokenizes to nothing has none (`positions` says which).
    """
    encoded, counts = alignment.encode([e.words for e in examples], tokenizer, max_length)
    for row in encoded:
        row["units"] = alignment.units(row, pooling)
    return encoded, counts


def feature_rows(encoded: dict[str, list[dict]]) -> dict[str, list[tuple[int, int]]]:
    """Where each sentence's words lie in the features of all splits, one after another."""
    rows, start = {}, 0
    for split, examples in encoded.items():
        rows[split] = []
        for example in examples:
            rows[split].append((start, start + len(example["units"])))
            start = rows[split][-1][1]
    return rows


def probe_targets(data: Data, examples: list[Example], encoded: list[dict], rows: list) -> tuple:
    """The rows and labels of the words that have a vector, of each sentence that has any."""
    number = {label: i for i, label in enumerate(data.labels)}
    sentences, labels = [], []
    for example, row, (start, end) in zip(examples, encoded, rows, strict=True):
        tags = example.tags if data.iob2 else map(word_class, example.tags)
        if start < end:
            sentences.append((start, end))
            known = zip(tags, row["positions"], strict=True)
            labels.append([number[tag] for tag, position in known if position is not None])
    return sentences, labels


def decode_words(data: Data, encoded: list[dict], rows: list, predicted: list) -> list[list[str]]:
    """IOB2 tags of all words, from the label numbers of those that have a vector; else `O`."""
    found, left = [], iter(predicted)
    for row, (start, end) in zip(encoded, rows, strict=True):
        known = iter(next(left) if start < end else ())
        names = [OUTSIDE if p is None else data.labels[next(known)] for p in row["positions"]]
        found.append(names if data.iob2 else to_iob2(names))
    return found


def control_tags(splits: dict[str, list[Example]], seed: int) -> dict[str, list[Example]]:
    """The splits with random tags: one a word type, drawn from the training words' classes.

    The control task of Hewitt & Liang (2019): it can be learned from a word's identity alone.
    """
    generator = random.Random(seed)
    classes = Counter(word_class(tag) for example in splits["train"] for tag in example.tags)
    names, weights = zip(*sorted(classes.items()), strict=True)
    types = sorted({word for examples in splits.values() for e in examples for word in e.words})
    drawn = dict(zip(types, generator.choices(names, weights, k=len(types)), strict=True))
    return {
        split: [e._replace(tags=to_iob2([drawn[word] for word in e.words])) for e in examples]
        for split, examples in splits.items()
    }


def majority(train: list[Example], examples: list[Example]) -> list[list[str]]:
    """Predictions of the baseline: the most frequent class of a training word, for every word."""
    classes = Counter(word_class(tag) for example in train for tag in example.tags)
    best = classes.most_common(1)[0][0] if classes else OUTSIDE
    return [to_iob2([best] * len(example.words)) for example in examples]


def score(examples: list[Example], predicted: list[list[str]]) -> dict[str, float]:
    """Word- and entity-level scores, see `NER.scores.score`."""
    return scores.score([example.tags for example in examples], predicted)


def predictions(examples: list[Example], predicted: list[list[str]]) -> list[dict]:
    """Rows of predictions.jsonl: id, and gold and predicted IOB2 tags."""
    return [
        {"id": e.id, "gold": e.tags, "predicted": tags}
        for e, tags in zip(examples, predicted, strict=True)
    ]
