"""Relation, classification and QA files as rows; what the rows of each kind become.

No message shows text of the data.
"""

from collections.abc import Iterator
from pathlib import Path

from common.cli import UserError
from common.data_files import SPLIT_NAMES, find_split, json_file, json_row, jsonl, lines
from Instruct import prompts
from Instruct.labels import plain, read_free, shown, write_labels

FIELDS = {
    "relation": ("text", "label"),
    "classification": ("labels",),
    "qa": ("question", "answer"),
}
VERDICTS = {"yes", "no", "maybe"}
LONGEST_LABEL = 60  # characters; a longer one is a misplaced text
MOST_LABELS = 100  # of a source


def read_rows(flag: str, path: Path) -> tuple[list[tuple[str, str | None, dict]], list[Path]]:
    """((place, split or None, row) of all examples in a file or a folder, the files).

    Raises UserError, with file and line.
    """
    pairs: list = [(None, path)]
    if path.is_dir():
        patterns = ("{}.jsonl", "{}.json")
        pairs = [(s, file) for s in SPLIT_NAMES for file in find_split(path, s, patterns)]
        if "train" not in dict(pairs):
            raise UserError(f"no train.jsonl (or train.json) in {path}. Put it there.")
    rows = [
        (place, split or _split(row, place), row)
        for split, file in pairs
        for place, row in _rows(file, FIELDS[flag])
    ]
    return rows, [file for _, file in pairs]


def _rows(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """(place, row) of a file: one JSON object a line, or one list of them."""
    if not _first_line(path).startswith("["):
        yield from jsonl(path, fields)
        return
    for number, row in enumerate(json_file(path), 1):
        place = f"{path}, row {number}"
        if not isinstance(row, dict) or not row.keys() >= {*fields}:
            raise UserError(f"{place} is no object that has: {', '.join(fields)}. Fix it.")
        yield place, row


def is_squad(path: Path) -> bool:
    """Whether a file, or the train file of a folder, is one JSON document instead of rows."""
    if path.is_dir():
        path = next(iter(find_split(path, "train", ("{}.jsonl", "{}*.json"))), path)
    if path.suffix != ".json" or (first := _first_line(path)).startswith("["):
        return False
    try:
        return "question" not in json_row(str(path), first)
    except UserError:  # no line that is whole by itself
        return True


def _first_line(path: Path) -> str:
    return next((line.strip() for _, line in lines(path) if line.strip()), "")


def kind_of(flag: str, rows: list[tuple]) -> str:
    """The kind of a source's rows, one of prompts.KINDS."""
    if flag == "qa" and any(str(r["answer"]).strip().lower() not in VERDICTS for _, _, r in rows):
        return "free_qa"
    return flag


def convert(kind: str, row: dict, place: str) -> dict:
    """`input`, `output` and `gold` of a row. Raises UserError for what is missing or no text.

    Gold: a label, a sorted list of labels, or the reference answers of a free answer.
    """
    if kind == "relation":
        label = _label(row["label"], place)
        return {"input": _text(row, "text", place), "output": label, "gold": label}
    if kind == "classification":
        if row.get("text") is None and isinstance(row.get("sentences"), list):
            row = row | {"text": " ".join(map(str, row["sentences"]))}
        if not isinstance(row["labels"], list):
            raise UserError(f"{place}: 'labels' is not a list (of none, one or several labels).")
        gold = sorted({_label(label, place, wrong=";") for label in row["labels"]})
        output = write_labels(gold)
        return {"input": _text(row, "text", place), "output": output, "gold": gold}
    passage = _text(row, "context", place) if str(row.get("context") or "").strip() else ""
    made = free_row(_text(row, "question", place), passage, [_text(row, "answer", place)])
    label = row["answer"].strip().lower()
    return made | ({"output": label, "gold": label} if kind == "qa" else {})


def free_row(asked: str, passage: str, answers: list[str]) -> dict:
    """`input`, `output` and `gold` of a question with these reference answers, or without any.

    The output is the first of them, or "unanswerable", which is no reference answer itself.
    """
    golds = [gold for gold in dict.fromkeys(map(one_line, answers)) if read_free(gold)[0]]
    asked = prompts.question(one_line(asked), one_line(passage))
    return {"input": asked, "output": next(iter(golds), prompts.UNANSWERABLE), "gold": golds}


def check_labels(labels: list[str], kind: str, path: Path) -> None:
    """Raises UserError for labels that an answer cannot tell apart, and for too many labels."""
    if len(labels) > MOST_LABELS:
        raise UserError(
            f"{path} has {len(labels)} different labels. Each instruction lists all labels, so at "
            f"most {MOST_LABELS} are possible. Leave out rare ones. Give free text with --qa, as "
            "question and answer."
        )
    first: dict[str, str] = {}
    for label in labels:
        other = first.setdefault(plain(label), label)
        if other != label:
            raise UserError(
                f"{path}: {shown([other, label])} differ in capitals, blanks, '-' or '_' only. "
                "Make them one label."
            )
    if kind == "classification" and prompts.NONE in first:
        raise UserError(
            f"{path}: {prompts.NONE!r} cannot be a label. Give an example without labels an empty "
            "list."
        )


def one_line(text: str) -> str:
    """Text without newlines and repeated blanks."""
    return " ".join(text.split())


def _split(row: dict, place: str) -> str | None:
    if row.get("split") is None:
        return None
    for split, names in SPLIT_NAMES.items():
        if str(row["split"]).strip().lower() in names:
            return split
    raise UserError(
        f"{place}: 'split' is not train, dev (or validation, valid, val, devel) or test. Fix it."
    )


def _text(row: dict, field: str, place: str) -> str:
    if not isinstance(row.get(field), str) or not row[field].strip():
        raise UserError(f"{place}: {field!r} is missing, empty or not a string. Fix that example.")
    return one_line(row[field])


def _label(value, place: str, wrong: str = "") -> str:
    """A label as text: a string without `wrong`, a whole number, true or false."""
    if isinstance(value, bool | int):
        return str(value).lower()
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: a label is neither text nor a whole number. Fix that example.")
    if len(value) > LONGEST_LABEL or (wrong and wrong in value):
        raise UserError(
            f"{place}: a label of {len(value)} characters cannot be used. A label has at most "
            f"{LONGEST_LABEL}{wrong and f', and no {wrong!r}'}. Change it."
        )
    return one_line(value)
