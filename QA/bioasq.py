"""Convert BioASQ's factoid questions to SQuAD form: an example is a question and a snippet.

    python QA/bioasq.py training9b.json --output factoid.json
    python QA/bioasq.py 9B1_golden.json --test --output factoid-test.json
    python QA/bioasq.py --demo --output bioasq-demo

The first writes the pairs of a question and a snippet that contains its answer, the last a folder
of made-up BioASQ files.

Also BioASQ's answers: those of single snippets -> five a question, their scores, the submission.
Merged as in dmis-lab's BioBERT and BioM-Transformers, scored as by BioASQ's official evaluator.
"""

import math
import re
import sys
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from common import cli
from common.cli import UserError
from common.data_files import field, json_file
from common.files import write_json
from common.scoring import ratio
from QA import demo_data
from QA.squad import composed

FORM = '{"questions": [{"id", "type", "body", "snippets": [{"text"}], "exact_answer"}]}'
ANSWERS, LONGEST = 5, 100  # answers that BioASQ takes; characters of one
STRICT, LENIENT, RECIPROCAL = range(1, 4)  # of the last axis of the table "ranks"
_CORE = re.compile(r"\s*(.*?)[\s,.]*", re.DOTALL)
LEFT_OUT = ("yesno", "list", "summary")  # types of questions that are counted only


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
    synonyms, pairs = _synonyms(question.get("exact_answer")), []
    for n, snippet in enumerate(snippets or [{"text": ""}]):
        text = composed(field(snippet, "text", str, f"{place}.snippets[{n}]", FORM))
        spans = occurrences(text, synonyms)
        golds = [text[start:end] for start, end in spans]
        pairs.append(Pair(f"{key}_{n + 1:03d}", key, body, text, spans, golds, n, synonyms))
    return pairs


def _synonyms(answer) -> list[str]:
    """Of a string, a list, or a list of lists (one an entity); each once, blank ones left out."""
    entities = answer if isinstance(answer, list) else [answer]
    parts = (entity if isinstance(entity, list) else [entity] for entity in entities)
    synonyms = (composed(x).strip() for part in parts for x in part if isinstance(x, str))
    return list(dict.fromkeys(filter(None, synonyms)))


def occurrences(text: str, golds: list[str]) -> list[tuple[int, int]]:
    """The spans of the answers in `text`, from left to right, each once.

    Case does not matter. Parts of words do not count: "IL-2" is not in "IL-21".
    """
    patterns = (rf"(?<!\w){re.escape(gold.strip())}(?!\w)" for gold in golds)
    return sorted({m.span() for p in patterns for m in re.finditer(p, text, re.IGNORECASE)})


def to_squad(pairs: list[Pair]) -> dict:
    """SQuAD form (v2): an article is a pair, and has the question's id as its title."""
    articles = []
    for pair in pairs:
        answers = [{"text": pair.context[a:b], "answer_start": a} for a, b in pair.answers]
        about = {"id": pair.id, "question": pair.question, "answers": answers}
        paragraph = {"context": pair.context, "qas": [about | {"is_impossible": not answers}]}
        articles.append({"title": pair.title, "paragraphs": [paragraph]})
    return {"version": "BioASQ", "data": articles}


def trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """An answer's span as it is submitted, or None if it is none.

    Outer blanks, final commas and full stops, and a pair of brackets around the whole are cut off.
    What is then empty, longer than 100 characters, or has only one of two brackets is dropped.
    """
    start, end = _CORE.fullmatch(text, start, end).span(1)
    answer = text[start:end]
    opened, closed = answer.count("("), answer.count(")")
    if opened == closed == 1 and answer[0] + answer[-1] == "()":
        return trim(text, start + 1, end - 1)
    fits = 0 < len(answer) <= LONGEST and bool(opened) == bool(closed)
    return (start, end) if fits else None


def merge(snippets: dict[int, tuple[str, list[dict]]]) -> list[dict]:
    """The five best answers to a question from the n-best lists of its snippets.

    `snippets`: `{number: (text, [{"start", "end", "probability"}])}`. Probabilities of answers that
    differ only in case are added up; such an answer stands at its most probable mention. Of equal
    probabilities the first in the file wins (snippet, start, end), whatever the lists' order.
    """
    mentions = defaultdict(list)
    for number, (text, n_best) in snippets.items():
        for entry in n_best:
            if entry["start"] is not None and (span := trim(text, entry["start"], entry["end"])):
                key = text[slice(*span)].lower()
                mentions[key].append((-entry["probability"], number, *span))
    merged = [(math.fsum(same[0] for same in some), *min(some)[1:]) for some in mentions.values()]
    return [
        {"snippet": number, "start": start, "end": end, "probability": -negative}
        for negative, number, start, end in sorted(merged)[:ANSWERS]
    ]


def rank(answers: list[str], golds: list[str]) -> int:
    """The rank of the first right answer, from 1; 0 if none of the five is right.

    Equal after lower-casing, as in the official evaluator: "TP53." is wrong.
    """
    wanted = {gold.lower() for gold in golds}
    right = (answer.lower() in wanted for answer in answers[:ANSWERS])
    return next((i for i, is_right in enumerate(right, 1) if is_right), 0)


def rows(pairs: list[Pair], predictions: list) -> list[dict]:
    """A row of predictions.jsonl a question: places of its answers, rank of the first right one.

    A probe's numbers (`pointer`) are added up over a question's pairs.
    """
    made = []
    both = zip(pairs, predictions, strict=True)
    for key, group in groupby(both, lambda one: one[0].title):
        own = [*group]
        asked = [pair for pair, _ in own]
        answers = merge({pair.snippet: (pair.context, p.n_best) for pair, p in own})
        place = rank(texts(asked, answers), asked[0].synonyms)
        pointers = [p.pointer for _, p in own if p.pointer]
        probed = {"pointer": np.sum(pointers, 0).tolist()} if pointers else {}
        made.append({"id": key, "answers": answers, "rank": place} | probed)
    return made


def texts(pairs: list[Pair], answers: list[dict]) -> list[str]:
    """The texts of answers to a question given by their places, from all its pairs."""
    snippets = {pair.snippet: pair.context for pair in pairs}
    return [snippets[a["snippet"]][a["start"] : a["end"]] for a in answers]


def count(rows: list[dict]) -> np.ndarray:
    """`[questions, 1, 4]`: the question, and its strict, lenient and reciprocal-rank score."""
    ranks = np.array([row["rank"] for row in rows])
    right = ranks > 0
    return np.stack([np.ones_like(ranks), ranks == 1, right, ratio(right, ranks)], 1)[:, None]


def submission(pairs: list[Pair], answers: dict[str, list[dict]]) -> dict:
    """The JSON that BioASQ takes: up to five answers to each question, each in a list."""
    questions = []
    for key, own in groupby(pairs, lambda pair: pair.title):
        asked = [*own]
        exact = [[text] for text in texts(asked, answers[key])]
        about = {"id": key, "type": "factoid", "body": asked[0].question}
        questions.append(about | {"ideal_answer": "", "exact_answer": exact})
    return {"questions": questions}


def parse_args(argv):
    parser = cli.Parser(__doc__)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("file", nargs="?", type=Path, help="a file of BioASQ's task b")
    source.add_argument("--demo", action="store_true", help="write made-up BioASQ files instead")
    parser.add_argument("--output", type=Path, required=True, help="the file or folder to write")
    parser.add_argument("--test", action="store_true", help="keep pairs that lack the answer")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing --output")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    args = parse_args(argv)
    if args.output.exists() and not args.overwrite:
        raise UserError(f"{args.output} exists already: add --overwrite, or choose another.")
    if args.demo:
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
