"""BioASQ's answers: those of single snippets -> five a question, their scores, the submission.

Merged as in dmis-lab's BioBERT and BioM-Transformers, scored as by BioASQ's official evaluator.
"""

import math
import re
from collections import defaultdict
from itertools import groupby

import numpy as np

from common.scoring import ratio
from QA.bioasq import Pair

ANSWERS, LONGEST = 5, 100  # answers that BioASQ takes; characters of one
STRICT, LENIENT, RECIPROCAL = range(1, 4)  # of the last axis of the table "ranks"
_CORE = re.compile(r"\s*(.*?)[\s,.]*", re.DOTALL)


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
