"""Convert BioASQ's factoid questions to SQuAD form: an example is a question and a snippet.

    python QA/bioasq.py training9b.json --output factoid.json
    python QA/bioasq.py 9B1_golden.json --test --output factoid-test.json
    python QA/bioasq.py --demo --output bioasq-demo

The first writes the pairs of a question and a snippet that contains its answer, the last a folder
of made-up BioASQ files.
"""

import logging
import re
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli
from common.cli import UserError
from common.data_files import json_file
from common.files import write_json
from QA.squad import composed, field

log = logging.getLogger(__name__)
FORM = '{"questions": [{"id", "type", "body", "snippets": [{"text"}], "exact_answer"}]}'
LEFT_OUT = ("yesno", "list", "summary")  # types of questions that are counted only
ACCESS = (
    "BioASQ is free, but needs registration and is never downloaded. Register at "
    "http://participants-area.bioasq.org, get the training and test files of task b, and put them "
    "into one folder as train*.json and test*.json: --data_dir FOLDER. To see it work without, "
    "add --demo."
)


class Question(NamedTuple):
    """A factoid question."""

    id: str
    body: str
    snippets: list[str]
    golds: list[str]  # all synonyms of all entities; none in a test file without answers


def is_bioasq(document) -> bool:
    """Whether a JSON value is in BioASQ form rather than in SQuAD form."""
    return isinstance(document, dict) and isinstance(document.get("questions"), list)


def questions(document, place: str) -> tuple[dict[str, Question], dict[str, int]]:
    """The factoid questions of a document by id, and counts of the other ones.

    Raises UserError, with `place` and the question's number, for a document that is not in BioASQ
    form or has no factoid question.
    """
    if not is_bioasq(document):
        raise UserError(f"{place} is not in BioASQ form: {FORM}.")
    factoid, types = {}, Counter()
    for i, question in enumerate(document["questions"]):
        here = f"{place}, questions[{i}]"
        kind = field(question, "type", str, here, FORM)
        types[kind] += 1
        if kind not in ("factoid", *LEFT_OUT):
            raise UserError(f"{here}: 'type' is none of factoid, {', '.join(LEFT_OUT)}. Fix it.")
        if kind != "factoid":
            continue
        key, body = field(question, "id", str, here, FORM), field(question, "body", str, here, FORM)
        snippets = field({"snippets": []} | question, "snippets", list, here, FORM)
        texts = [
            field(snippet, "text", str, f"{here}.snippets[{n}]", FORM)
            for n, snippet in enumerate(snippets)
        ]
        golds = _synonyms(question.get("exact_answer"), here)
        if key in factoid:
            log.warning("%s: the question %s occurs twice; the first one is used", here, key)
        factoid.setdefault(key, Question(key, body, texts, golds))
    if not factoid:
        others = ", ".join(f"{n} {kind}" for kind, n in sorted(types.items())) or "none at all"
        raise UserError(
            f"{place} has no factoid question (it has {others}), and only those have an answer "
            "that is a piece of a snippet. Give another file."
        )
    counts = {f"left_out_{kind}": types[kind] for kind in LEFT_OUT}
    return factoid, counts | {"duplicate_ids": types["factoid"] - len(factoid)}


def _synonyms(answer, place: str) -> list[str]:
    """Of a string, a list, or a list of lists (one an entity); each once, blank ones left out."""
    entities = answer if isinstance(answer, list) else [answer]
    synonyms = [
        x for entity in entities for x in (entity if isinstance(entity, list) else [entity])
    ]
    if not all(isinstance(x, str | None) for x in synonyms):
        raise UserError(
            f"{place}: 'exact_answer' is neither a string, nor a list of strings, nor a list of "
            "such lists. Fix it."
        )
    return list(dict.fromkeys(x for x in synonyms if x and x.strip()))


def to_squad(questions: Collection[Question], keep: bool) -> tuple[dict, dict[str, int]]:
    """SQuAD form (v2): an article is a question, a paragraph is a snippet; and counts.

    The conversion of dmis-lab's BioBERT and of BioM-Transformers: an example is a question and a
    snippet, its id the question's and `_001`, `_002` ... `keep`: also pairs whose snippet lacks the
    answer. Test data need them; a question without a snippet gets an empty one to be scored.
    """
    articles, counts = [], Counter(factoid_questions=len(questions))
    for question in questions:
        paragraphs, answered = [], 0
        snippets = question.snippets or [""] * keep
        for n, text in enumerate(snippets, 1):
            spans = occurrences(text, question.golds)
            answered += bool(spans)
            if spans or keep:
                answers = [{"text": text[a:b], "answer_start": a} for a, b in spans]
                pair = {"id": f"{question.id}_{n:03d}", "question": question.body}
                pair |= {"answers": answers, "is_impossible": not answers}
                paragraphs.append({"context": text, "qas": [pair]})
        counts["pairs"] += len(paragraphs)
        counts["pairs_without_answer"] += len(snippets) - answered
        counts["questions_without_answer"] += not answered
        if paragraphs:
            articles.append({"title": question.id, "paragraphs": paragraphs})
    return {"version": "BioASQ", "data": articles}, dict(counts)


def occurrences(text: str, golds: list[str]) -> list[tuple[int, int]]:
    """The spans of the answers in `text`, from left to right, each once.

    Case and Unicode form do not matter. Parts of words do not count: "IL-2" is not in "IL-21".
    """
    (whole, places), spans = composed(text), set()
    for gold in (composed(gold.strip())[0] for gold in golds):
        matches = re.finditer(rf"(?<!\w){re.escape(gold)}(?!\w)", whole, re.IGNORECASE)
        same = [m for m in matches if m[0].lower() == gold.lower()]  # re: "İ" equals "i"
        spans |= {(places[m.start()], places[m.end()]) for m in same}
    return sorted(spans)


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
    if not args.file.exists():
        raise UserError(f"there is no file {args.file}. {ACCESS}")
    factoid, others = questions(json_file(args.file), str(args.file))
    document, counts = to_squad(factoid.values(), keep=args.test)
    if not counts["pairs"]:
        raise UserError(
            f"{args.file}: no snippet contains an answer to its question, so there is nothing to "
            "train on. Add --test to keep all pairs."
        )
    write_json(args.output, document)
    for name, n in (others | counts).items():
        print(f"{name.replace('_', ' '):26} {n}")
    print(f"written: {args.output}")


if __name__ == "__main__":
    sys.exit(main())
