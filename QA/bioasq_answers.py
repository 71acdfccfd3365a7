"""BioASQ's answers: from those in single snippets to five a question, their scores, the submission.

As dmis-lab's BioBERT and BioM-Transformers merge them, and as BioASQ's official evaluator scores
them.
"""

import math
from pathlib import Path

from common.files import write_json
from common.scoring import ratio
from QA.bioasq import Question

ANSWERS, LONGEST = 5, 100  # answers that BioASQ takes; characters of one
QUESTION, STRICT, LENIENT, RECIPROCAL = range(4)  # of the last axis of the table "questions"


def question_id(pair_id: str) -> tuple[str, int]:
    """The question of a pair, and its snippet, counted from 0 as in the file."""
    question, _, number = pair_id.rpartition("_")
    return question, int(number) - 1


def trim(text: str, start: int, end: int) -> tuple[int, int] | None:
    """An answer's span as it is submitted, or None if it is none.

    Trailing commas, full stops and blanks, and a pair of brackets around the whole, are cut. What
    is empty, longer than 100 characters, or has a bracket without its other half, is dropped.
    """
    while True:
        while end > start and (text[end - 1] in ",." or text[end - 1].isspace()):
            end -= 1
        while end > start and text[start].isspace():
            start += 1
        found = text[start:end]
        brackets = found.count("("), found.count(")")
        if brackets == (1, 1) and found[0] == "(" and found[-1] == ")":
            start, end = start + 1, end - 1
            continue
        whole = bool(brackets[0]) == bool(brackets[1])
        return (start, end) if found and len(found) <= LONGEST and whole else None


def merge(snippets: dict[int, tuple[str, list[dict]]]) -> list[dict]:
    """The five best answers to a question from the n-best lists of its snippets.

    `snippets`: `{number: (text, [{"start", "end", "probability"}])}`. Probabilities of answers that
    are equal but for their case are added up; an answer stands where its most probable mention
    does. Of equal sums the one that stands first (snippet, start, end) wins; so does a mention of
    equal probability. The order of the lists makes no difference.
    """
    mentions: dict[str, list[tuple]] = {}
    for number, (text, n_best) in snippets.items():
        for entry in n_best:
            if entry["start"] is not None and (span := trim(text, entry["start"], entry["end"])):
                key = text[span[0] : span[1]].lower()
                mentions.setdefault(key, []).append((-entry["probability"], number, *span))
    merged = [
        (-math.fsum(-probability for probability, *_ in found), *min(found)[1:])
        for found in mentions.values()
    ]
    return [
        {"snippet": number, "start": start, "end": end, "probability": -probability}
        for probability, number, start, end in sorted(merged)[:ANSWERS]
    ]


def rank(answers: list[str], golds: list[str]) -> int:
    """The rank of the first right answer, from 1; 0 if none of the five is.

    Equal after lower-casing and nothing else, as the official evaluator has it: "TP53." is wrong.
    """
    wanted = {gold.lower() for gold in golds}
    right = (i for i, answer in enumerate(answers[:ANSWERS], 1) if answer.lower() in wanted)
    return next(right, 0)


def row(question: Question, answers: list[dict]) -> dict:
    """A row of predictions.jsonl: places of the answers, and the rank of the first right one."""
    return {
        "id": question.id,
        "answers": answers,
        "rank": rank(texts(question, answers), question.golds),
    }


def texts(question: Question, answers: list[dict]) -> list[str]:
    """The texts of answers given by their places."""
    return [question.snippets[a["snippet"]][a["start"] : a["end"]] for a in answers]


def count(rows: list[dict]):
    """`[questions, 4]`: the question, and its strict, lenient and reciprocal-rank score."""
    import numpy as np

    try:
        ranks = np.array([row["rank"] for row in rows], float)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not the answers to a question: {error}") from None
    found = ranks > 0
    reciprocal = np.divide(1, ranks, out=np.zeros_like(ranks), where=found)
    return np.stack([np.ones_like(ranks), ranks == 1, found, reciprocal], axis=1)


def write_submission(path: Path, found: list[Question], answers: list[list[dict]]) -> None:
    """Write the JSON that BioASQ takes: up to five answers to every question, each a list."""
    listed = [
        {"id": q.id, "type": "factoid", "body": q.body, "ideal_answer": "",
         "exact_answer": [[text] for text in texts(q, places)]}
        for q, places in zip(found, answers, strict=True)
    ]  # fmt: skip
    write_json(path, {"questions": listed})


def mean(part: int):
    """A function of sums `[..., 4]` -> `[...]`: the mean of STRICT, LENIENT or RECIPROCAL."""
    return lambda sums: ratio(sums[..., part], sums[..., QUESTION])
