"""Relation, classification and QA files as rows; what the rows of each kind become.

No message shows text of the data.
"""

import unicodedata
from pathlib import Path

from common.cli import UserError
from common.data_files import SPLIT_NAMES, find_split, jsonl
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


def read_rows(flag: str, path: Path) -> list[tuple[str, str | None, dict]]:
    """(place, split or None, row) of all examples in a jsonl file or a folder of such files.

    Raises UserError, with file and line.
    """
    files: list = [(None, path)]
    if path.is_dir():
        files = [(s, file) for s in SPLIT_NAMES for file in find_split(path, s, ("{}.jsonl",))]
        if "train" not in dict(files):
            raise UserError(f"no train.jsonl in {path}. Put it there.")
    return [
        (place, split or _split(row, place), row)
        for split, file in files
        for place, row in jsonl(file, FIELDS[flag])
    ]


def kind_of(flag: str, rows: list[tuple]) -> str:
    """The kind of a source's rows, one of prompts.KINDS."""
    if flag == "qa" and any(str(r["answer"]).strip().lower() not in VERDICTS for *_, r in rows):
        return "free_qa"
    return flag


def convert(kind: str, row: dict, place: str) -> tuple[dict, tuple[str, ...]]:
    """(`input`, `output`, `gold` of a row, the texts that no other split should have). UserError.

    Gold: a label, a sorted list of labels, or the reference answers of a free answer.
    """
    if kind == "relation":
        text, label = _text(row, "text", place), _label(row["label"], place)
        return {"input": text, "output": label, "gold": label}, (text,)
    if kind == "classification":
        if row.get("text") is None and isinstance(row.get("sentences"), list):
            row = row | {"text": " ".join(map(str, row["sentences"]))}
        if not isinstance(row["labels"], list):
            raise UserError(f"{place}: 'labels' is not a list (of none, one or several labels).")
        gold = sorted({_label(label, place, wrong=";") for label in row["labels"]})
        text = _text(row, "text", place)
        return {"input": text, "output": write_labels(gold), "gold": gold}, (text,)
    passage = _text(row, "context", place) if str(row.get("context") or "").strip() else ""
    asked = _text(row, "question", place)
    made = free_row(asked, passage, [_text(row, "answer", place)])
    if kind == "qa":
        label = row["answer"].strip().lower()
        made |= {"output": label, "gold": label}
    return made, (asked, passage)


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
            f"{path} has {len(labels)} different labels; at most {MOST_LABELS} are possible, since "
            "each instruction lists all. Leave out rare ones, or give free text with --qa."
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
        rule = "Give an example without labels an empty list."
        raise UserError(f"{path}: {prompts.NONE!r} cannot be a label. {rule}")


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
    """A label as composed text (NFC): a string without `wrong`, a whole number, true or false."""
    if isinstance(value, bool | int):
        return str(value).lower()
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: a label is neither text nor a whole number. Fix that example.")
    if len(value) > LONGEST_LABEL or (wrong and wrong in value):
        raise UserError(
            f"{place}: a label of {len(value)} characters cannot be used. A label has at most "
            f"{LONGEST_LABEL}{wrong and f', and no {wrong!r}'}. Change it."
        )
    return unicodedata.normalize("NFC", one_line(value))
