"""Texts with labels, from a jsonl file or a folder of such files, in three forms:

    relation        {"text": the pair is marked in it, "label": ...}
    classification  {"text": ... or "sentences": [...], "labels": [none, one or several]}
    qa              {"question": ..., "context": ..., "answer": "yes", "no" or "maybe"}

`Instruct/` reads the same files with these functions. No message shows text of the data.
"""

import logging
import re
import unicodedata
from pathlib import Path
from typing import NamedTuple

from Classification import demo_data
from common.cli import UserError
from common.data_files import SPLIT_NAMES, find_split, jsonl, tables

log = logging.getLogger(__name__)
# The fields that a form needs; the last one says which form it is.
FORMS = {"relation": ("text", "label"), "classification": ("labels",), "qa": ("question", "answer")}
VERDICTS = {"yes", "no", "maybe"}
LONGEST_LABEL = 60  # characters; a longer one is a misplaced text
MOST_LABELS = 1000
DOCUMENT = ("document_id", "document", "doc_id", "pmid")  # fields that name a row's document
UNSAID = (None, "")  # values of a field that says nothing; 0 is a number like any other


class Example(NamedTuple):
    """A text, or a question and its context, with its labels."""

    id: str
    texts: tuple[str, ...]
    labels: tuple[str, ...]  # sorted; of relation and qa exactly one
    group: str  # what is the same for rows of one document, or with equal letters


class Data(NamedTuple):
    """See `common.task.Data`."""

    splits: dict[str, list[Example]]
    labels: list[str]
    kind: str  # a key of FORMS
    negative: str | None = None  # the label for "no relation", if it was given


def load(demo: bool, data_dir: Path | None, negative_label: str | None = None, **others) -> Data:
    """The demo's relations, or the set in a file or folder. Raises UserError, with file and line.

    The labels are those of train.
    """
    if demo:
        rows = [("demo", split, row) for split, own in demo_data.splits().items() for row in own]
    elif data_dir is None:
        raise UserError(
            "Classification has no data set of its own. Give --data_dir, a jsonl file or a folder "
            "(Classification/README.md names some), or add --demo to try the script."
        )
    else:
        rows = read_rows((), data_dir)
    kind = _form(rows)
    made = [(split, example(kind, row, place, n)) for n, (place, split, row) in enumerate(rows)]
    splits = {split: [e for own, e in made if own == split] for split in SPLIT_NAMES}
    splits = {split: examples for split, examples in splits.items() if examples}
    _check(kind, splits, data_dir)
    labels = sorted({label for e in splits["train"] for label in e.labels})
    if len(labels) > MOST_LABELS:
        number = f"{len(labels)} labels; at most {MOST_LABELS:,} are possible"
        raise UserError(f"{data_dir}: train has {number}. Are they texts? Leave out rare ones.")
    for (place, *_), (_, e) in zip(rows, made, strict=True):
        if unknown := {*e.labels} - {*labels}:
            problem = f"no train example has {len(unknown)} of its labels"
            raise UserError(f"{place}: {problem}. Leave it out, or divide the set again.")
    if negative_label is not None and (kind != "relation" or negative_label not in labels):
        raise UserError(
            f"--negative_label {negative_label}: no example of train has it as its 'label'."
        )
    return Data(splits, labels, kind, negative_label)


def read_rows(fields: tuple[str, ...], path: Path) -> list[tuple[str, str | None, dict]]:
    """(place, split or None, row) of all examples in a jsonl file or a folder of such files.

    Raises UserError, with file and line, also for a row without one of `fields`.
    """
    files: list = [(None, path)]
    if path.is_dir():
        files = [(s, file) for s in SPLIT_NAMES for file in find_split(path, s, ("{}.jsonl",))]
        if "train" not in dict(files):
            raise UserError(f"no train.jsonl in {path}. Put it there.{tables(path)}")
    elif advice := tables(path):
        raise UserError(f"{path} is no jsonl file.{advice}")
    return [
        (place, split or _split(row, place), row)
        for split, file in files
        for place, row in jsonl(file, fields)
    ]


def example(kind: str, row: dict, place: str, number: int) -> Example:
    """A row of a form as an example; `number` names it where the row has no id. UserError."""
    if kind == "qa":
        texts, labels = question_of(row, place), (text_of(row, "answer", place).lower(),)
        if labels[0] not in VERDICTS:
            raise UserError(f"{place}: 'answer' is not yes, no or maybe. Fix that example.")
    elif kind == "relation":
        texts, labels = (text_of(row, "text", place),), (_label(row["label"], place),)
    else:
        row = with_text(row)
        if not isinstance(row["labels"], list):
            raise UserError(f"{place}: 'labels' is not a list (of none, one or several labels).")
        labels = tuple(sorted({_label(label, place) for label in row["labels"]}))
        texts = (text_of(row, "text", place),)
    letters = re.sub(r"[\W_]", "", "".join(texts)).casefold()
    group = "".join(document_of(row, None) or letters)
    return Example(id_of(row, number), texts, labels, group)


def id_of(row: dict, number: int) -> str:
    """A row's id; one without is called by its number."""
    return f"row-{number}" if row.get("id") in UNSAID else str(row["id"])


def document_of(row: dict, field: str | None) -> tuple[str, str] | None:
    """The first of `field` and DOCUMENT that the row has, and its value."""
    there = [name for name in (field, *DOCUMENT) if row.get(name) not in UNSAID]
    return (there[0], str(row[there[0]])) if there else None


def units(examples: list[Example]) -> tuple[list[str], list[int]]:
    """What subsets draw, whole groups: (the labels of each, the group's number of each example)."""
    held: dict[str, set] = {}
    for e in examples:
        held.setdefault(e.group, set()).update(e.labels)
    number = {group: i for i, group in enumerate(held)}
    return ["+".join(sorted(own)) for own in held.values()], [number[e.group] for e in examples]


def one_line(text: str) -> str:
    """Text without newlines and repeated blanks."""
    return " ".join(text.split())


def text_of(row: dict, field: str, place: str) -> str:
    """The text in a field, on one line. Raises UserError where there is none."""
    if not isinstance(row.get(field), str) or not row[field].strip():
        raise UserError(f"{place}: {field!r} is missing, empty or not a string. Fix that example.")
    return one_line(row[field])


def with_text(row: dict) -> dict:
    """The row; if it has sentences and no text, with these as its text."""
    parts = row.get("sentences")
    if (
        row.get("text") is None
        and isinstance(parts, list)
        and all(isinstance(x, str) for x in parts)
    ):
        row = row | {"text": " ".join(parts)}
    return row


def question_of(row: dict, place: str) -> tuple[str, str]:
    """A row's question and its context, "" if there is none. UserError."""
    context = text_of(row, "context", place) if str(row.get("context") or "").strip() else ""
    return text_of(row, "question", place), context


def _form(rows: list[tuple]) -> str:
    """The form of a set: all rows have it."""
    named = ", ".join(repr(field) for *_, field in FORMS.values())
    kind = None
    for place, split, row in rows:
        held = [name for name, (*_, field) in FORMS.items() if field in row]
        if len(held) != 1:
            raise UserError(f"{place} has {len(held)} of the fields {named}. Give it exactly one.")
        kind = kind or held[0]
        if held[0] != kind:
            here, first = FORMS[held[0]][-1], FORMS[kind][-1]
            raise UserError(f"{place} has {here!r}, and the first row {first!r}. Use one of them.")
        if split is None:
            raise UserError(f"{place} has no 'split'. Give each row train, dev or test.")
    return kind


def _check(kind: str, splits: dict[str, list[Example]], path: Path | None) -> None:
    """Raises UserError for what cannot be trained or scored on; warns of a doubtful form."""
    for split in ("train", "test"):
        if split not in splits:
            where = f"{split}.jsonl (in a folder) or rows with this split (in a file)"
            raise UserError(f"{path} has no {split} example. Add {where}.")
    if len({e.labels for e in splits["train"]}) == 1:
        raise UserError(f"{path}: all train examples have the same labels. Nothing can be learned.")
    if kind == "classification" and all(len(e.labels) == 1 for s in splits.values() for e in s):
        log.warning("%s: each example has one label: as 'label', a model would choose one", path)


def _split(row: dict, place: str) -> str | None:
    if row.get("split") is None:
        return None
    for split, names in SPLIT_NAMES.items():
        if str(row["split"]).strip().lower() in names:
            return split
    raise UserError(
        f"{place}: 'split' is not train, dev (or validation, valid, val, devel) or test. Fix it."
    )


def _label(value, place: str) -> str:
    """A label as composed text (NFC): a string, a whole number, true or false."""
    if isinstance(value, bool | int):
        return str(value).lower()
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: a label is neither text nor a whole number. Fix that example.")
    if len(value) > LONGEST_LABEL:
        raise UserError(
            f"{place}: a label of {len(value)} characters cannot be used. A label has at most "
            f"{LONGEST_LABEL}. Change it."
        )
    return unicodedata.normalize("NFC", one_line(value))
