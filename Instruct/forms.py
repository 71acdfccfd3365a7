"""What the rows of relation, classification and QA files become.

No message shows text of the data.
"""

from pathlib import Path

from Classification.data import VERDICTS, example, one_line, question_of, text_of
from common.cli import UserError
from Instruct import prompts
from Instruct.labels import plain, read_free, shown, write_labels

MOST_LABELS = 100  # of a source


def kind_of(flag: str, rows: list[tuple]) -> str:
    """The kind of a source's rows, one of prompts.KINDS."""
    if flag == "qa" and any(str(r["answer"]).strip().lower() not in VERDICTS for *_, r in rows):
        return "free_qa"
    return flag


def convert(kind: str, row: dict, place: str) -> tuple[dict, tuple[str, ...]]:
    """(`input`, `output`, `gold` of a row, the texts that no other split should have). UserError.

    Gold: a label, a sorted list of labels, or the reference answers of a free answer.
    """
    if kind == "free_qa":
        texts = question_of(row, place)
        return free_row(*texts, [text_of(row, "answer", place)]), texts
    _, texts, labels, _ = example(kind, row, place, 0)
    asked = prompts.question(*texts) if kind == "qa" else texts[0]
    if kind != "classification":
        return {"input": asked, "output": labels[0], "gold": labels[0]}, texts
    if any(";" in label for label in labels):
        raise UserError(f"{place}: a label with ';', which parts the labels. Change it.")
    return {"input": asked, "output": write_labels([*labels]), "gold": [*labels]}, texts


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
