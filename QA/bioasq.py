"""BioASQ's factoid questions to SQuAD form: one pair of question and snippet an example.

    python QA/bioasq.py training9b.json --output factoid.json
    python QA/bioasq.py 9B1_golden.json --test --output factoid-test.json
    python QA/bioasq.py --demo --output bioasq-demo

The first writes every pair of a question and a snippet that holds its answer as a question of SQuAD
form, for use anywhere. --demo writes a folder of made-up BioASQ files, train.json and test.json.
"""

import logging
import re
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli
from common.cli import UserError
from common.data_files import json_file
from common.files import write_json
from QA.squad import field

log = logging.getLogger(__name__)
FORM = '{"questions": [{"id", "type", "body", "snippets": [{"text"}], "exact_answer"}]}'
KINDS = ("yesno", "list", "summary")  # of questions that are left out
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
    golds: list[str]  # every entity's every synonym; none in a test file without answers


def is_bioasq(document) -> bool:
    """Whether a JSON value is in BioASQ form rather than in SQuAD form."""
    return isinstance(document, dict) and isinstance(document.get("questions"), list)


def questions(document, place: str) -> tuple[list[Question], dict[str, int]]:
    """The factoid questions of a document, and counts of those left out.

    Raises UserError, with `place` and the question's number, for what is not BioASQ form, and where
    there is no factoid question.
    """
    if not is_bioasq(document):
        raise UserError(f"{place} is not in BioASQ form: {FORM}.")
    found, kinds, twice = {}, Counter(), 0
    for i, question in enumerate(document["questions"]):
        here = f"{place}, questions[{i}]"
        kind = field(question, "type", str, here, FORM)
        kinds[kind] += 1
        if kind not in ("factoid", *KINDS):
            raise UserError(f"{here}: 'type' is none of factoid, {', '.join(KINDS)}. Mend it.")
        if kind != "factoid":
            continue
        key, body = field(question, "id", str, here, FORM), field(question, "body", str, here, FORM)
        snippets = field({"snippets": []} | question, "snippets", list, here, FORM)
        texts = [
            field(snippet, "text", str, f"{here}.snippets[{n}]", FORM)
            for n, snippet in enumerate(snippets)
        ]
        golds = _flat(question.get("exact_answer"), here)
        if key in found:
            twice += 1
            log.warning("%s: the question %s is there twice; the first counts", here, key)
        found.setdefault(key, Question(key, body, texts, golds))
    if not found:
        others = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "none at all"
        raise UserError(
            f"{place} has no factoid question (it has {others}), and only those have an answer "
            "that is a piece of a snippet. Give another file."
        )
    counts = {f"left_out_{kind}": kinds[kind] for kind in KINDS}
    return list(found.values()), counts | {"duplicate_ids": twice}


def _flat(answer, place: str) -> list[str]:
    """Synonyms from a string, a list, or a list of lists (an inner list an entity); once each."""
    if isinstance(answer, str):
        return [answer] if answer.strip() else []
    if not isinstance(answer, list | None):
        raise UserError(f"{place}: 'exact_answer' is neither a string nor a list. Mend it.")
    return list(dict.fromkeys(text for part in answer or () for text in _flat(part, place)))


def to_squad(found: list[Question], keep: bool) -> tuple[dict, dict[str, int]]:
    """SQuAD form (v2): an article a question, a paragraph a snippet; and counts.

    The conversion of dmis-lab's BioBERT and of BioM-Transformers: one pair of question and snippet
    an example, its id the question's and `_001` and so on, in the snippets' order. `keep`: also the
    pairs whose snippet holds no answer, as test data need (a question without a snippet gets an
    empty one, or it would vanish from the scores); to train on they are left out.
    """
    counts = Counter(dict.fromkeys(("factoid_questions", "pairs", "pairs_without_answer"), 0))
    data, unanswered = [], 0
    for question in found:
        paragraphs = []
        for number, text in enumerate(question.snippets or [""] * keep, 1):
            answers = [{"text": text[a:b], "answer_start": a} for a, b in occurrences(
                text, question.golds)]  # fmt: skip
            counts["pairs_without_answer"] += not answers
            if answers or keep:
                row = {"id": f"{question.id}_{number:03d}", "question": question.body,
                       "answers": answers, "is_impossible": not answers}  # fmt: skip
                paragraphs.append({"context": text, "qas": [row]})
        unanswered += not any(p["qas"][0]["answers"] for p in paragraphs)
        counts["pairs"] += len(paragraphs)
        if paragraphs:
            data.append({"title": question.id, "paragraphs": paragraphs})
    counts["factoid_questions"] = len(found)
    counts["questions_without_answer"] = unanswered
    return {"version": "BioASQ", "data": data}, dict(counts)


def occurrences(text: str, golds: list[str]) -> list[tuple[int, int]]:
    """Where an answer stands in `text`, whatever its case; from left to right, once each.

    Whole words where there are any: "IL-2" is not meant by "IL-21".
    """
    found = set()
    for gold in (gold.strip() for gold in golds):
        pattern = re.escape(gold)
        whole = rf"(?<!\w){pattern}(?!\w)"
        for form in (whole, pattern):
            matches = re.finditer(form, text, re.IGNORECASE)  # to which "İ" is "i", too
            if spans := [m.span() for m in matches if m[0].lower() == gold.lower()]:
                found.update(spans)
                break
    return sorted(found)


def parse_args(argv):
    parser = cli.Parser(__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="a file of BioASQ's task b")
    parser.add_argument("--output", type=Path, required=True, help="what to write")
    parser.add_argument(
        "--test", action="store_true", help="keep the pairs whose snippet holds no answer"
    )
    parser.add_argument("--demo", action="store_true", help="write made-up BioASQ files instead")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_args(argv)
    if args.demo == (args.file is not None):
        parser.error("give a BioASQ file, or --demo")
    return args


@cli.command
def main(argv=None):
    args = parse_args(argv)
    if args.output.exists() and not args.overwrite:
        raise UserError(f"{args.output} is there already: add --overwrite, or choose another.")
    if args.demo:
        from QA import demo_data

        args.output.mkdir(parents=True, exist_ok=True)
        for split, document in demo_data.bioasq().items():
            write_json(args.output / f"{split}.json", document)
        print(f"demo BioASQ files: {args.output}")
        return
    if not args.file.exists():
        raise UserError(f"there is no file {args.file}. {ACCESS}")
    found, left_out = questions(json_file(args.file), str(args.file))
    document, counts = to_squad(found, keep=args.test)
    if not counts["pairs"]:
        raise UserError(
            f"{args.file}: no snippet holds an answer to its question, so there is nothing to "
            "train on. With --test all pairs are kept."
        )
    write_json(args.output, document)
    for name, n in (left_out | counts).items():
        print(f"{name.replace('_', ' '):26} {n}")
    print(f"written: {args.output}")


if __name__ == "__main__":
    sys.exit(main())
