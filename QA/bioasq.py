"""Convert BioASQ's factoid questions to SQuAD form: an example is a question and a snippet.

    python QA/bioasq.py training9b.json --output factoid.json
    python QA/bioasq.py 9B1_golden.json --test --output factoid-test.json
    python QA/bioasq.py --demo --output bioasq-demo

The first writes the pairs of a question and a snippet that contains its answer, the last a folder
of made-up BioASQ files.
"""

import re
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli
from common.cli import UserError
from common.data_files import field, json_file
from common.files import write_json

FORM = '{"questions": [{"id", "type", "body", "snippets": [{"text"}], "exact_answer"}]}'
LEFT_OUT = ("yesno", "list", "summary")  # types of questions that are counted only
ACCESS = (
    "BioASQ is free, but needs registration and is never downloaded. Register at "
    "http://participants-area.bioasq.org, get the training and test files of task b, and put them "
    "into one folder as train*.json and test*.json: --data_dir FOLDER. To see it work without, "
    "add --demo."
)


class Pair(NamedTuple):
    """A factoid question and one of its snippets: an `Example` of `QA.squad`, and more."""

    id: str  # the question's, and the snippet's number, from 1
    title: str  # the question's id
    question: str
    context: str  # the snippet; empty for a question without one, which is scored, too
    answers: list[tuple[int, int]]  # all occurrences of the synonyms in the snippet
    golds: list[str]  # their texts
    snippet: int  # its number, from 0
    synonyms: list[str]  # of all entities that answer it; none in a test file without answers


def is_bioasq(document) -> bool:
    """Whether a JSON value is in BioASQ form rather than in SQuAD form."""
    return isinstance(document, dict) and isinstance(document.get("questions"), list)


def parse(documents: dict[str, Any]) -> tuple[list[Pair], dict[str, int]]:
    """The pairs of all factoid questions in order, and counts. Of equal ids the first is kept.

    The conversion of dmis-lab's BioBERT and of BioM-Transformers: an example is a question and a
    snippet. `documents`: by the files' names. Raises UserError, with the name and the question's
    number, for a document that is not in BioASQ form, or if there is no factoid question.
    """
    types, factoid = Counter(dict.fromkeys(LEFT_OUT, 0)), {}
    for place, document in documents.items():
        if not is_bioasq(document):
            raise UserError(f"{place} is not in BioASQ form: {FORM}.")
        for i, question in enumerate(document["questions"]):
            kind = field(question, "type", str, f"{place}, questions[{i}]", FORM)
            types[kind] += 1
            if kind == "factoid":
                pairs = _pairs(question, f"{place}, questions[{i}]")
                factoid.setdefault(pairs[0].title, pairs)
    if not factoid:
        others = ", ".join(f"{n} {kind}" for kind, n in sorted(types.items()) if n)
        raise UserError(
            f"{', '.join(documents)} has no factoid question (it has {others or 'none at all'}), "
            "and only those have an answer that is a piece of a snippet. Give another file."
        )
    n_factoid = types.pop("factoid")
    counts = {f"left_out_{kind}": n for kind, n in types.items()}
    counts |= {"duplicate_ids": n_factoid - len(factoid), "factoid_questions": len(factoid)}
    pairs = [pair for own in factoid.values() for pair in own]
    answered = [pair.title for pair in pairs if pair.answers]
    counts["pairs_without_answer"] = len(pairs) - len(answered)
    counts["questions_without_answer"] = len(factoid) - len({*answered})
    return pairs, counts


def _pairs(question: dict, place: str) -> list[Pair]:
    key, body = (field(question, name, str, place, FORM) for name in ("id", "body"))
    snippets = field({"snippets": []} | question, "snippets", list, place, FORM)
    texts = [
        field(snippet, "text", str, f"{place}.snippets[{n}]", FORM)
        for n, snippet in enumerate(snippets)
    ]
    synonyms, pairs = _synonyms(question.get("exact_answer")), []
    for n, text in enumerate(texts or [""]):
        spans = occurrences(text, synonyms)
        golds = [text[start:end] for start, end in spans]
        pairs.append(Pair(f"{key}_{n + 1:03d}", key, body, text, spans, golds, n, synonyms))
    return pairs


def _synonyms(answer) -> list[str]:
    """Of a string, a list, or a list of lists (one an entity); each once, blank ones left out."""
    entities = answer if isinstance(answer, list) else [answer]
    parts = (entity if isinstance(entity, list) else [entity] for entity in entities)
    synonyms = (x for part in parts for x in part if isinstance(x, str) and x.strip())
    return list(dict.fromkeys(synonyms))


def occurrences(text: str, golds: list[str]) -> list[tuple[int, int]]:
    """The spans of the answers in `text`, from left to right, each once.

    Case does not matter. Parts of words do not count: "IL-2" is not in "IL-21".
    """
    patterns = (rf"(?<!\w){re.escape(gold.strip())}(?!\w)" for gold in golds)
    return sorted({m.span() for p in patterns for m in re.finditer(p, text, re.IGNORECASE)})


def to_squad(pairs: list[Pair]) -> dict:
    """SQuAD form (v2): an article is a question, a paragraph is a snippet."""
    articles = []
    for title, own in groupby(pairs, lambda pair: pair.title):
        paragraphs = []
        for pair in own:
            answers = [{"text": pair.context[a:b], "answer_start": a} for a, b in pair.answers]
            about = {"id": pair.id, "question": pair.question, "answers": answers}
            qas = [about | {"is_impossible": not answers}]
            paragraphs.append({"context": pair.context, "qas": qas})
        articles.append({"title": title, "paragraphs": paragraphs})
    return {"version": "BioASQ", "data": articles}


def parse_args(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="a file of BioASQ's task b")
    parser.add_argument("--output", type=Path, required=True, help="the file or folder to write")
    parser.add_argument(
        "--test", action="store_true", help="keep the pairs whose snippet lacks the answer"
    )
    parser.add_argument("--demo", action="store_true", help="write made-up BioASQ files instead")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --output")
    args = parser.parse_args(argv)
    if args.demo == (args.file is not None):
        parser.error("give a BioASQ file, or --demo")
    return args


@cli.command
def main(argv=None):
    args = parse_args(argv)
    if args.output.exists() and not args.overwrite:
        raise UserError(f"{args.output} exists already: add --overwrite, or choose another.")
    if args.demo:
        from QA import demo_data

        args.output.mkdir(parents=True, exist_ok=True)
        for split, document in demo_data.bioasq().items():
            write_json(args.output / f"{split}.json", document)
        print(f"demo BioASQ files: {args.output}")
        return
    pairs, counts = parse({str(args.file): json_file(args.file)})
    pairs = [pair for pair in pairs if pair.answers or args.test]
    write_json(args.output, to_squad(pairs))
    for name, n in (counts | {"pairs": len(pairs)}).items():
        print(f"{name.replace('_', ' '):26} {n}")
    print(f"written: {args.output}")


if __name__ == "__main__":
    sys.exit(main())
