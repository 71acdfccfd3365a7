"""New text for NER: lines of text, or words in columns, in; entities or IOB2 tags out."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from common.cli import UserError
from common.data_files import stream
from NER import task, words
from NER.data import Data, Example
from NER.formats import columns
from NER.scores import OUTSIDE, entities

FORMS = {"text": (), "conll": (".conll", ".iob2", ".iob", ".bio", ".tsv")}


class Sentence(NamedTuple):
    """A line of text, or a sentence of columns: its words with one blank between them."""

    text: str
    spans: list[tuple[int, int]]  # of each word, in characters of `text`


def add_arguments(parser) -> None:
    """The form of the output."""
    parser.add_argument(
        "--output_form",
        choices=("jsonl", "conll"),
        default="jsonl",
        help="jsonl: the entities of each line with their characters (default); conll: a word, a "
        "tab and its IOB2 tag a line, a blank line after each sentence",
    )


def read(file: Iterable[bytes], name: str, form: str) -> Iterator[Sentence | None]:
    """A sentence a line; or, of columns, a sentence before each blank line."""
    lines = stream(file, name)
    for sentence in columns(lines) if form == "conll" else ():
        text, spans = "", []
        for place, (word, *_) in sentence:
            if not word.strip():
                raise UserError(f"{place} has no word. Expected: a word first, then other columns.")
            text += " " * bool(spans) + word
            spans.append((len(text) - len(word), len(text)))
        yield Sentence(text, spans)
    for place, line in lines:
        if line.startswith('{"'):
            raise UserError(
                f"{place} begins as JSON does. Expected: text, a sentence a line; or a word a "
                "line, with --input_form conll."
            )
        spans = words.split(line)
        yield Sentence(line, spans) if spans else None


def answer(model, tokenizer, made, items: list[Sentence], args, device, name: str):
    """`{"entities": [{"start", "end", "type", "text"}]}` of each sentence, or its tags as text."""
    iob2 = any(label.startswith("B-") for label in made.labels)  # of a model from elsewhere
    if made.settings:
        iob2 = made.settings.get("label_scheme") == "iob2"
    data = Data({}, made.labels, iob2)
    split = [[item.text[start:end] for start, end in item.spans] for item in items]
    examples = [Example("", own, [OUTSIDE] * len(own)) for own in split]
    encoded, counts = task.encode(data, examples, tokenizer, made.max_length)
    tags = task.predict(model, tokenizer, data, examples, encoded, args.batch_size, device, name)
    if args.output_form == "conll":
        tagged = (zip(*pair, strict=True) for pair in zip(split, tags, strict=True))
        answers = ["".join(f"{word}\t{tag}\n" for word, tag in pairs) for pairs in tagged]
    else:
        answers = [{"entities": _entities(*pair)} for pair in zip(items, tags, strict=True)]
    return answers, {cut: counts[cut] for cut in ("truncated_words", "truncated_sentences")}


def _entities(item: Sentence, tags: list[str]) -> list[dict]:
    answers = []
    for kind, first, last in sorted(entities(tuple(tags)), key=lambda entity: entity[1]):
        start, end = item.spans[first][0], item.spans[last - 1][1]
        answers.append({"start": start, "end": end, "type": kind, "text": item.text[start:end]})
    return answers
