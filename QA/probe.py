"""Probing QA: at which words of the passage the answer starts and ends, with the question read.

After van Aken et al. (2019), "How Does BERT Answer Questions?". Question and passage go through the
frozen encoder together; of a long passage, only the first window. Of each question that has an
answer, a linear probe points at a start and an end (common/probes/pointer.py).
"""

import random
import re

import numpy as np

from common.batching import INPUTS
from common.cli import UserError
from common.task import ProbeInputs, Score, Sequences
from QA import windows
from QA.data import Data
from QA.scores import exact_and_f1, mean
from QA.squad import Example
from QA.windows import Prediction

CONTROLS = ("passage",)
# What a probe's prediction adds up (`Prediction.pointer`): the question; the F1 of its random span;
# whether the answer is in the window; the bits gained for it.
NUMBER, RANDOM_F1, PLACED, BITS = range(4)
GAIN = Score(
    "bits", "pointer", mean(BITS, number=PLACED), "bits per boundary", by_layer=True, of_probes=True
)
RANDOM = Score("random_span_f1", "pointer", mean(RANDOM_F1), "F1 of a random span", of_probes=True)
_WORD = re.compile(r"\w+|[^\w\s]")


def probed(examples: list[Example]) -> list[Example]:
    """The questions that have an answer."""
    return [example for example in examples if example.golds]


def controls(data: Data, splits: dict[str, list], seed: int) -> dict[str, list[dict]]:
    """`passage`: the same passage and answer, with a question of the split about another passage.

    So the task's gain over it is what the probe reads of the question.
    """
    generator, asked = random.Random(seed), {}
    for split, examples in splits.items():
        asked[split], several = [], len({example.context for example in examples}) > 1
        for example in examples:
            other = generator.choice(examples)
            while several and other.context == example.context:
                other = generator.choice(examples)
            asked[split].append(example._replace(question=other.question))
    return {"passage": [asked]}


def words(context: str) -> list[tuple[int, int]]:
    """The spans of a passage's words: letters and digits, or one other character."""
    return [match.span() for match in _WORD.finditer(context)]


def place(example: Example, spans: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and the last word of the first answer; None if `spans` do not reach its end."""
    start, end = example.answers[0] if example.answers else (0, 0)
    inside = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
    return (inside[0], inside[-1]) if inside and spans[-1][1] >= end else None


def probe_inputs(
    data: Data, targets: dict[str, dict], tokenizer, max_length: int, pooling: str
) -> ProbeInputs:
    """The units are the words of the passage's first window that have a sub-word.

    Questions with an answer outside it are counted and not trained on; UserError if none is left.
    `notes`: `{target: {split: [(spans of the words, `place` of the answer) an example]}}`.
    """
    encoded, sets, counts, notes, n_units = [], [], {}, {}, 0
    for target, splits in targets.items():  # their questions differ, so their vectors do
        spans, asked = {}, {}
        for split, examples in splits.items():
            rows, cut = windows.first_windows(data, examples, tokenizer, max_length)
            spans[split], asked[split] = [], []
            for example, row in zip(examples, rows, strict=True):
                held, units = _units(example.context, row)
                inputs = {key: row[key] for key in INPUTS if key in row}
                encoded.append(inputs | {"units": units})
                spans[split].append((n_units, n_units + len(units)))
                asked[split].append((held, place(example, held)))
                n_units += len(units)
            cut["outside_answers"] = sum(at is None for _, at in asked[split])
            own = split if target == "task" else f"{target}_{split}"
            counts |= {f"{own}_{name}": n for name, n in cut.items()}
        pairs = zip(spans["train"], asked["train"], strict=True)
        spans["train"] = [span for span, (_, at) in pairs if at]
        if not spans["train"]:
            raise UserError(
                "no training question has its answer in its first window: use a larger --max_length"
            )
        places = np.array([at for _, at in asked["train"] if at])
        sets.append(Sequences(spans, {target: places}))
        notes[target] = asked
    return ProbeInputs(encoded, sets, 0, counts, notes)


def probe_predictions(
    data: Data, examples: list[Example], inputs: ProbeInputs, target: str, split: str, found: list
) -> list[Prediction]:
    """The most probable span of each question, and the bits gained for the true one.

    Over the uniform distribution: log2 of the number of words, plus the mean log2 of the
    probabilities at the true start and end. A random span has the training answers' median length.
    """
    (scores,) = found  # one set has the target
    asked = inputs.notes[target]
    length = 1 + int(np.median([at[1] - at[0] for _, at in asked["train"] if at]))
    questions = zip(examples, asked[split], scores, strict=True)
    return [_prediction(example, *pair, row, length) for example, pair, row in questions]


def _prediction(example: Example, spans, at, scores: np.ndarray, length: int) -> Prediction:
    if not spans:
        return windows.only(None)._replace(pointer=[1.0, 0.0, 0.0, 0.0])
    numbers = [1.0, random_f1(example, spans, length), 0.0, 0.0]
    if at:
        gold = scores[at[0], 0] + scores[at[1], 1]
        numbers[PLACED:] = 1.0, float(np.log2(len(spans)) + gold / 2 / np.log(2))
    first, length = divmod(int(windows.span_scores(scores).argmax()), windows.MAX_ANSWER)
    last = first + length
    probability = float(np.exp(scores[first, 0] + scores[last, 1]))
    return windows.only((spans[first][0], spans[last][1]), probability)._replace(pointer=numbers)


def random_f1(example: Example, spans: list[tuple[int, int]], length: int) -> float:
    """The F1 of a span of `length` words, drawn uniformly, always the same for a question's id."""
    first = random.Random(example.id).randrange(max(1, len(spans) - length + 1))
    last = min(first + length, len(spans)) - 1
    return exact_and_f1(example.context[spans[first][0] : spans[last][1]], example.golds)[1]


def _units(context: str, row: dict) -> tuple[list, list]:
    """(spans of the words that the window's sub-words contain whole, ranges of their tokens)."""
    reached, first = row["spans"][:, 1].max(initial=0), row["first"]
    whole = [word for word in words(context) if word[1] <= reached]
    covers = zip(whole, windows.covering(row["spans"], whole), strict=True)
    known = [(word, (first + at[0], first + at[1] + 1)) for word, at in covers if at]
    return [word for word, _ in known], [tokens for _, tokens in known]
