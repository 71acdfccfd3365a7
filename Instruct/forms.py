"""Relation, classification and QA files as rows: jsonl, or QA in the SQuAD form.

Text of the data never stands in a message.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from common.cli import UserError
from common.data_files import SPLIT_NAMES, find_split, jsonl, lines
from Instruct import prompts
from Instruct.labels import plain, write_labels

FIELDS = {
    "relation": ("text", "label"),
    "classification": ("labels",),
    "qa": ("question", "answer"),
}
VERDICTS = {"yes", "no", "maybe"}
LONGEST_LABEL = 60  # characters; a longer one is a misplaced text


def read_rows(flag: str, path: Path) -> tuple[list[tuple[str, str | None, dict]], list[Path]]:
    """((place, split or None, row) of all examples in a file or a folder, the files).

    Rows of SQuAD files have `references`, their answers. Raises UserError, with file and line.
    """
    files: dict = {None: [path]}
    if path.is_dir():
        files = {s: find_split(path, s, ("{}.jsonl", "{}.json")) for s in SPLIT_NAMES}
        if not files["train"]:
            raise UserError(f"no train.jsonl (or train.json) in {path}. Put it there.")
    rows = []
    for split, found in files.items():
        for file in found:
            squad = flag == "qa" and file.suffix == ".json"
            for place, row in _squad(file) if squad else jsonl(file, FIELDS[flag]):
                rows.append((place, split or _split(row, place), row))
    return rows, [file for found in files.values() for file in found]


def kind_of(flag: str, rows: list[tuple]) -> tuple[str, str]:
    """(kind, how its answers are written: a key of prompts.ANSWERS) of a source's rows."""
    if flag != "qa":
        return flag, {"relation": "one", "classification": "many"}[flag]
    if all(str(row["answer"]).strip().lower() in VERDICTS for _, _, row in rows):
        return "qa", "one"
    if not any("references" in row for _, _, row in rows):
        return "free_qa", "free"
    possible = all(row.get("references", True) for _, _, row in rows)
    return "free_qa", "passage" if possible else "squad"


def convert(kind: str, row: dict, place: str) -> dict:
    """`input`, `output` and `gold` of a row. Raises UserError for what is missing or no text.

    Gold: a label, a sorted list of labels, or the references of a free answer, whose output is the
    first of them, or "unanswerable".
    """
    if kind == "relation":
        label = _label(row["label"], place)
        return {"input": _text(row, "text", place), "output": label, "gold": label}
    if kind == "classification":
        if "text" not in row and isinstance(row.get("sentences"), list):
            row = row | {"text": " ".join(map(str, row["sentences"]))}
        if not isinstance(row["labels"], list):
            raise UserError(f"{place}: 'labels' is not a list (of none, one or several labels).")
        gold = sorted({_label(label, place) for label in row["labels"]})
        output = write_labels(gold)
        return {"input": _text(row, "text", place), "output": output, "gold": gold}
    passage = _text(row, "context", place) if row.get("context") else ""
    asked = prompts.question(_text(row, "question", place), passage)
    if kind == "qa":
        label = row["answer"].strip().lower()
        return {"input": asked, "output": label, "gold": label}
    if "references" not in row:
        row = row | {"references": [_text(row, "answer", place)]}
    output = next(iter(row["references"]), prompts.UNANSWERABLE)
    return {"input": asked, "output": output, "gold": row["references"]}


def check_labels(labels: list[str], kind: str, path: Path) -> None:
    """Raises UserError for labels that an answer cannot tell apart."""
    first: dict[str, str] = {}
    for label in labels:
        other = first.setdefault(plain(label), label)
        if other != label:
            raise UserError(
                f"{path}: labels {other!r} and {label!r} differ in capitals, blanks, '-' or '_' "
                "alone. Make them one."
            )
    if kind == "classification" and prompts.NONE in first:
        raise UserError(
            f"{path}: {prompts.NONE!r} cannot be a label. Give an example without labels an empty "
            "list."
        )


def one_line(text: str) -> str:
    """Text without newlines and repeated blanks."""
    return " ".join(text.split())


def _squad(path: Path) -> Iterator[tuple[str, dict]]:
    try:
        content = json.loads("\n".join(line for _, line in lines(path)))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno} is not valid JSON ({error.msg}).") from None
    yield from squad(content, str(path))


def squad(content: dict, file: str) -> Iterator[tuple[str, dict]]:
    """(place, row) of the questions in a document of the SQuAD form. Raises UserError."""
    place = file
    try:
        for a, article in enumerate(content["data"], 1):
            place = f"{file}, article {a}"
            for p, paragraph in enumerate(article["paragraphs"], 1):
                place = f"{file}, article {a}, paragraph {p}"
                document = paragraph.get("document_id") or article.get("title") or a
                about = {"context": paragraph["context"], "document": document, "answer": ""}
                for qa in paragraph["qas"]:
                    found = [one_line(answer["text"]) for answer in qa.get("answers", [])]
                    row = {"id": qa["id"], "question": qa["question"]}
                    yield place, row | about | {"references": list(dict.fromkeys(found))}
    except (KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else "not the right structure"
        raise UserError(
            f"{place}: {what}. The SQuAD form is data > paragraphs > context, qas > id, question, "
            "answers > text."
        ) from None


def _split(row: dict, place: str) -> str | None:
    said = row.get("split")
    if said is None:
        return None
    for split, names in SPLIT_NAMES.items():
        if str(said).strip().lower() in names:
            return split
    raise UserError(
        f"{place}: 'split' is not train, dev (or validation, valid, val, devel) or test. Mend it."
    )


def _text(row: dict, field: str, place: str) -> str:
    if not isinstance(row.get(field), str) or not row[field].strip():
        raise UserError(f"{place}: {field!r} is missing, empty or not a string. Mend that example.")
    return one_line(row[field])


def _label(value, place: str) -> str:
    """A label as text: a string, a whole number, true or false."""
    if isinstance(value, bool | int):
        return str(value).lower()
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: a label is neither text nor a whole number. Mend that example.")
    if len(value) > LONGEST_LABEL or ";" in value:
        raise UserError(
            f"{place}: a label of {len(value)} characters cannot be used. It has at most "
            f"{LONGEST_LABEL}, and no ';'."
        )
    return one_line(value)
