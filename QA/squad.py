"""SQuAD-form data (v1.1 and v2): files and rows -> examples with exact answer spans.

The text may be as confidential as BioASQ's: messages name files, places and ids, never a text.
"""

import logging
import random
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common.cli import UserError
from common.data_files import SPLIT_NAMES, field

log = logging.getLogger(__name__)
FORM = '{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}'
DEV_SHARE, SPLIT_SEED = 0.1, 42  # of the articles; the dev split is the same for every --seed


class Example(NamedTuple):
    """A question about a passage. Without reference answers, the passage does not answer it."""

    id: str
    title: str  # of the article: examples of one title are never on both sides of a split
    question: str
    context: str
    answers: list[tuple[int, int]]  # spans of characters, without white space at either end
    # The reference answers in the passage's own characters; as given if the passage lacks them.
    golds: list[str]


def parse(documents: dict[str, Any]) -> tuple[list[Example], dict[str, int]]:
    """The examples of SQuAD-form documents (v1.1, v2) in order, and counts, see `examples`.

    `documents`: by the files' names. Raises UserError.
    """
    return examples(_rows(documents), ", ".join(documents))


def _rows(documents: dict[str, Any]) -> Iterator[tuple]:
    """(place, title, context, question) of each question of the documents. Raises UserError."""
    for place, document in documents.items():
        if not isinstance(document, dict) or not isinstance(document.get("data"), list):
            raise UserError(f"{place} is not in SQuAD form: {FORM}.")
        for i, article in enumerate(document["data"]):
            here = f"{place}, data[{i}]"
            for j, paragraph in enumerate(field(article, "paragraphs", list, here, FORM)):
                passage = f"{here}.paragraphs[{j}]"
                context = field(paragraph, "context", str, passage, FORM)
                for k, question in enumerate(field(paragraph, "qas", list, passage, FORM)):
                    yield f"{passage}.qas[{k}]", article.get("title"), context, question


def hub_rows(table: Iterable[tuple[str, dict]]) -> Iterator[tuple]:
    """As `_rows`, of the Hub's table, whose answers are {"text": [...], "answer_start": [...]}."""
    for place, row in table:
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        yield place, row["title"], row["context"], row | {"answers": answers}


def examples(rows: Iterable[tuple], place: str) -> tuple[list[Example], dict[str, int]]:
    """The examples of `rows`, and counts of what is corrected or left out.

    Texts are read in one Unicode form (NFC): an accent is one character in passage and answer. An
    answer whose offset is wrong is moved to the nearest occurrence; one that the passage does
    not contain is lost; of equal ids the first is kept.
    """
    faults, parsed = dict.fromkeys(("moved_answers", "lost_answers", "duplicate_ids"), 0), {}
    for here, title, context, question in rows:
        key = field(question, "id", str, here, FORM)
        if key in parsed:
            faults["duplicate_ids"] += 1
            continue
        (raw, context), spans, golds = (context, composed(context)), [], []
        for n, answer in enumerate(field(question, "answers", list, here, FORM)):
            text = composed(field(answer, "text", str, f"{here}.answers[{n}]", FORM))
            start = field(answer, "answer_start", int, f"{here}.answers[{n}]", FORM)
            start = len(composed(raw[:start])) if start > 0 else start
            if not text.strip():
                continue  # it says nothing
            span, moved = locate(context, text, start)
            golds.append(context[slice(*span)] if span else text)
            if moved:
                faults["moved_answers" if span else "lost_answers"] += 1
            if span and span not in spans:
                spans.append(span)
        asked = field(question, "question", str, here, FORM)
        parsed[key] = Example(key, str(title or context), asked, context, spans, golds)
    if not parsed:
        raise UserError(f"{place} has no question. Add some: {FORM}.")
    if noted := ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in faults.items() if n):
        log.warning("%s: %s", place, noted)
    return list(parsed.values()), faults


def composed(text: str) -> str:
    """The text with each accent in one character with its letter (NFC)."""
    return unicodedata.normalize("NFC", text)


def locate(context: str, text: str, start: int) -> tuple[tuple[int, int] | None, bool]:
    """The span of `text` without outer white space, nearest to `start`; and whether it is moved.

    None if the passage lacks the text. Of two at the same distance, the first.
    """
    start += len(text) - len(text.lstrip())
    text = text.strip()
    if start >= 0 and context.startswith(text, start):
        return (start, start + len(text)), False
    starts = (at for at in range(len(context)) if context.startswith(text, at))
    nearest = min(starts, key=lambda at: abs(at - start), default=None)
    return None if nearest is None else (nearest, nearest + len(text)), True


def split_files(folder: Path, split: str) -> list[Path]:
    """The `train*.json`, `dev*.json` (validation, valid, val, devel), `test*.json` of `folder`."""
    return sorted({p for name in SPLIT_NAMES[split] for p in folder.glob(f"{name}*.json")})


def cut_dev(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """(train, dev): a seeded tenth of the articles becomes dev; no passage is on both sides.

    Of a single article each passage counts as one. Without dev if all examples belong together.
    """
    keys = [e.title for e in examples]
    if len(set(keys)) < 2:
        keys = [e.context for e in examples]
    group = {key: {key} for key in keys}  # articles with a passage in common share one set
    first = {}  # the first article with a passage
    for example, key in zip(examples, keys, strict=True):
        other = group[first.setdefault(example.context.strip() or key, key)]
        if other is not group[key]:
            other |= group[key]
            group.update(dict.fromkeys(group[key], other))
    groups = {id(members): members for members in group.values()}
    _largest, *others = sorted(groups.values(), key=len, reverse=True)  # it stays in train
    random.Random(SPLIT_SEED).shuffle(others)
    wanted, dev = max(1, round(DEV_SHARE * len(group))), set()
    while others and len(dev) < wanted:
        dev |= others.pop()
    parts = ([], [])
    for example, key in zip(examples, keys, strict=True):
        parts[key in dev].append(example)
    return parts
