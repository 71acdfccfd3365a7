"""SQuAD-form data (v1.1 and v2): files and rows -> examples with exact answer spans.

The text may be as confidential as BioASQ's: messages name files, places and ids, never a text.
"""

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from common.cli import UserError
from common.data_files import SPLIT_NAMES

log = logging.getLogger(__name__)
FORM = '{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers"}]}]}]}'
DEV_SHARE, SPLIT_SEED = 0.1, 42  # of the articles; the same dev split whatever --seed is
SHOWN = 5  # ids in a message


class Example(NamedTuple):
    """A question to a passage. Without reference answers it is one that the passage leaves open."""

    id: str
    title: str  # of the article: examples of one title are never on both sides of a split
    question: str
    context: str
    answers: list[tuple[int, int]]  # spans of characters, no white space at either end
    golds: list[str]  # the reference answers as given, also those that the passage does not hold


def passage_id(example: Example) -> str:
    """A hash that examples share if they share their passage: what a bootstrap may resample."""
    return hashlib.sha256(example.context.encode()).hexdigest()[:16]


def field(value, key: str, kind: type, place: str, form: str = FORM):
    """`value[key]`, which must be a `kind`. Raises UserError: the place, and the form expected."""
    if not isinstance(value, dict):
        raise UserError(f"{place} is not a JSON object. Expected: {form}.")
    if not isinstance(value.get(key), kind) or isinstance(value[key], bool):
        name = {str: "a string", list: "a list", int: "a whole number"}[kind]
        wrong = f"{key!r} is not {name}" if key in value else f"there is no {key!r}"
        raise UserError(f"{place}: {wrong}. Expected: {form}.")
    return value[key]


def parse(document, place: str) -> tuple[list[Example], dict[str, int]]:
    """The examples of a SQuAD-form document (v1.1, v2), and counts of what was mended in it.

    `place`: the file's name. A passage and its questions stand in the document's order. The counts:
    `moved_answers` (their offset was off, the nearest occurrence is taken), `lost_answers` (not in
    the passage), `blank_answers`, `empty_passages`, `duplicate_ids` (only the first is kept).
    Raises UserError.
    """
    return _examples(list(rows(document, place)), place)


def rows(document, place: str) -> Iterator[tuple]:
    """(place, title, context, question) of each question of a document. Raises UserError."""
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise UserError(f"{place} is not in SQuAD form: {FORM}.")
    for i, article in enumerate(document["data"]):
        here = f"{place}, data[{i}]"
        title = article.get("title") if isinstance(article, dict) else None
        for j, paragraph in enumerate(field(article, "paragraphs", list, here)):
            passage = f"{here}.paragraphs[{j}]"
            context = field(paragraph, "context", str, passage)
            for k, question in enumerate(field(paragraph, "qas", list, passage)):
                yield f"{passage}.qas[{k}]", title, context, question


def from_rows(rows: Iterable[dict], place: str) -> tuple[list[Example], dict[str, int]]:
    """As `parse`, of the Hub's rows: id, title, context, question, answers {text, answer_start}."""
    found = []
    for i, row in enumerate(rows):
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        listed = [{"text": text, "answer_start": start} for text, start in pairs]
        question = {"id": row["id"], "question": row["question"], "answers": listed}
        found.append((f"{place}, row {i}", row["title"], row["context"], question))
    return _examples(found, place)


def _examples(rows: list[tuple], place: str) -> tuple[list[Example], dict[str, int]]:
    """Examples of (place, title, context, question) rows."""
    names = ("moved_answers", "lost_answers", "blank_answers", "empty_passages", "duplicate_ids")
    noted: dict[str, list[str]] = {name: [] for name in names}
    seen, found = set(), []
    for here, title, context, question in rows:
        key = field(question, "id", str, here)
        if key in seen:
            noted["duplicate_ids"].append(key)
            continue
        seen.add(key)
        if not context.strip():
            noted["empty_passages"].append(key)
        spans, golds = [], []
        for n, answer in enumerate(field(question, "answers", list, here)):
            text = field(answer, "text", str, f"{here}.answers[{n}]")
            start = field(answer, "answer_start", int, f"{here}.answers[{n}]")
            if not text.strip():
                noted["blank_answers"].append(key)
                continue
            if not 0 <= start < max(1, len(context)):
                raise UserError(
                    f"{here}.answers[{n}]: answer_start {start} is not within the passage of "
                    f"{len(context)} characters. Mend the question {key}."
                )
            golds.append(text)
            span, moved = locate(context, text, start)
            if moved:
                noted["lost_answers" if span is None else "moved_answers"].append(key)
            if span and span not in spans:
                spans.append(span)
        text = field(question, "question", str, here)
        title = title if isinstance(title, str) and title else context
        found.append(Example(key, title, text, context, spans, golds))
    if not found:
        raise UserError(f"{place} holds no question. Put some there, in SQuAD form: {FORM}.")
    for name, keys in noted.items():
        if keys:
            more = ", ..." * (len(keys) > SHOWN)
            shown = name.replace("_", " ")
            log.warning("%s: %d %s (%s%s)", place, len(keys), shown, ", ".join(keys[:SHOWN]), more)
    return found, {name: len(keys) for name, keys in noted.items()}


def locate(context: str, text: str, start: int) -> tuple[tuple[int, int] | None, bool]:
    """The span of `text`, without outer white space, nearest to `start`; and whether it was off.

    None where the passage does not hold it. Of two at the same distance the first.
    """
    start += len(text) - len(text.lstrip())
    text = text.strip()
    if context.startswith(text, start):
        return (start, start + len(text)), False
    after, before = context.find(text, start), context.rfind(text, 0, start + len(text))
    near = [at for at in (before, after) if at >= 0]
    if not near:
        return None, True
    best = min(near, key=lambda at: abs(at - start))
    return (best, best + len(text)), True


def split_files(folder: Path, split: str) -> list[Path]:
    """The `train*.json`, `dev*.json` (validation, valid, val, devel), `test*.json` of `folder`."""
    names = SPLIT_NAMES[split]
    return sorted({p for name in names for p in folder.glob(f"{name}*.json") if p.is_file()})


def articles(examples: list[Example], fewest: int = 2) -> tuple[list[str], dict[str, set[str]]]:
    """The article of each example; and for each article those that are on its side of a split.

    These share passages. Passages count as articles where there are fewer than `fewest` titles.
    """
    keys = [e.title for e in examples]
    if len(set(keys)) < fewest:
        keys = [e.context for e in examples]
    group = {key: {key} for key in keys}  # articles that must stay together share one set
    first = {}
    for example, key in zip(examples, keys, strict=True):
        other = first.setdefault(example.context.strip(), key) if example.context.strip() else key
        if group[other] is not group[key]:
            group[other] |= group[key]
            for joined in group[key]:
                group[joined] = group[other]
    return keys, group


def cut_dev(examples: list[Example]) -> tuple[list[Example], list[Example]]:
    """(train, dev): a seeded tenth of the articles becomes dev; no passage is on both sides.

    Articles that share a passage stay together. Where all have one title, passages count as
    articles. No dev where there is nothing to cut.
    """
    keys, group = articles(examples)
    groups = {id(members): members for members in group.values()}
    largest, *others = sorted(groups.values(), key=len, reverse=True)
    random.Random(SPLIT_SEED).shuffle(others)
    wanted, chosen = max(1, round(DEV_SHARE * len(group))), set()
    while others and len(chosen) < wanted:
        chosen |= others.pop()
    train = [e for e, key in zip(examples, keys, strict=True) if key not in chosen]
    return train, [e for e, key in zip(examples, keys, strict=True) if key in chosen]


def read_splits(
    folder: Path, read, hint: str
) -> tuple[dict[str, list[Example]], dict[str, dict[str, int]]]:
    """The splits of `folder`, and what was mended in each.

    `read(path, split)` reads a file, as `parse`; `hint`: what to say more of missing files.
    Without a dev file dev is cut from train; without a test file dev is the test split. Raises
    UserError if files are missing, or if two files of a split hold the same question.
    """
    files = {split: split_files(folder, split) for split in SPLIT_NAMES}
    if not files["train"] or not (files["dev"] or files["test"]):
        missing = "train" if not files["train"] else "dev or test"
        raise UserError(
            f"no {missing} file in {folder}. It needs train*.json and dev*.json or test*.json, in "
            f"SQuAD or BioASQ form. {hint}"
        )
    if not files["test"]:
        files = {"train": files["train"], "test": files["dev"]}
    splits, counts = {}, {}
    for split in (split for split in files if files[split]):
        splits[split], counts[split], source = [], Counter(), {}
        for path in files[split]:
            examples, noted = read(path, split)
            for example in examples:
                if example.id in source:
                    raise UserError(
                        f"{path} and {source[example.id]} both hold the question {example.id}. "
                        f"Leave one of the two files in {folder}."
                    )
            source |= {example.id: path for example in examples}
            splits[split] += examples
            counts[split].update(noted)
    if "dev" not in splits:
        train, dev = cut_dev(splits["train"])
        splits = {"train": train} | ({"dev": dev} if dev else {}) | {"test": splits["test"]}
    return splits, {split: dict(noted) for split, noted in counts.items()}
