"""Probing QA: which words of the passage are the answer, read with the question before them.

After van Aken et al. 2019, "How Does BERT Answer Questions?". Question and passage go through the
frozen encoder together; of a long passage, only the first window.
"""

import random
import re

import numpy as np

from common.task import ProbeInputs, Sequences
from QA import windows
from QA.data import Data
from QA.squad import Example
from QA.windows import Prediction

OTHER, ANSWER = 0, 1  # tags of words
# Targets by their inputs: "control" has the task's with other tags, "passage" other questions.
SETS = (("task", "control"), ("passage",))
_WORD = re.compile(r"\w+|[^\w\s]")


def controls(
    data: Data, splits: dict[str, list[Example]], seed: int
) -> dict[str, dict[str, list[Example]]]:
    """`control`: random tags, one a word type, as often ANSWER as in training (Hewitt & Liang).

    `passage`: the same passage and answer with another passage's question: how much the passage
    alone gives away. Questions stay in their split.
    """
    generator = random.Random(seed)
    contexts = list(dict.fromkeys(e.context for some in splits.values() for e in some))
    spans = {context: words(context) for context in contexts}
    tagged = [tags(example, spans[example.context]) for example in splits["train"]]
    share = sum(map(sum, tagged)) / max(1, sum(map(len, tagged)))
    types = sorted({context[a:b].lower() for context in contexts for a, b in spans[context]})
    drawn = {word for word in types if generator.random() < share}
    control = {
        split: [_retagged(example, spans[example.context], drawn) for example in some]
        for split, some in splits.items()
    }
    passage = {split: _other_questions(some, generator) for split, some in splits.items()}
    return {"control": control, "passage": passage}


def _retagged(example: Example, spans: list[tuple[int, int]], drawn: set[str]) -> Example:
    """The example whose answers are the runs of the words in `drawn`; the longest is its gold."""
    context = example.context
    chosen = [context[a:b].lower() in drawn for a, b in spans]
    answers = [(spans[a][0], spans[b - 1][1]) for a, b in runs(chosen)]
    best = longest(chosen, spans)
    return example._replace(answers=answers, golds=[context[slice(*best)]] if best else [])


def _other_questions(examples: list[Example], generator: random.Random) -> list[Example]:
    """Each example with the question of a random other one, of another passage if there is one."""
    single = len({example.context for example in examples}) < 2
    asked = []
    for example in examples:
        other = generator.choice(examples)
        while not single and other.context == example.context:
            other = generator.choice(examples)
        asked.append(example._replace(question=other.question))
    return asked


def words(context: str) -> list[tuple[int, int]]:
    """The spans of a passage's words: letters and digits, or one other character."""
    return [match.span() for match in _WORD.finditer(context)]


def tags(example: Example, spans: list[tuple[int, int]]) -> list[int]:
    """The tag of each word: ANSWER if it has a character of an answer."""
    return [
        ANSWER if any(a < end and b > start for start, end in example.answers) else OTHER
        for a, b in spans
    ]


def runs(chosen) -> list[tuple[int, int]]:
    """(first, last + 1) of each unbroken run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(chosen, int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def longest(tagged, spans: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The characters of the longest run of ANSWER, of equals the first; None if there is none."""
    a, b = max(runs(tagged), key=lambda run: run[1] - run[0], default=(0, 0))
    return (spans[a][0], spans[b - 1][1]) if a < b else None


def probe_inputs(
    data: Data, targets: dict[str, dict], tokenizer, max_length: int, pooling: str
) -> ProbeInputs:
    """The words of the passage's first window are the units; one without a sub-word has none.

    `notes`: `{target: {split: spans of the units' words an example}}`.
    """
    encoded, sets, counts, notes, n_units = [], [], {}, {}, 0
    for inputs_shared_by in SETS:
        names = [name for name in inputs_shared_by if name in targets]
        spans, held = {}, {}  # by split: rows of the features, and words, a sequence an example
        for split, examples in targets[names[0]].items() if names else ():
            rows, cut = windows.first_windows(examples, tokenizer, max_length)
            counts = {f"{split}_{name}": n for name, n in cut.items()} | counts
            spans[split], held[split] = [], []
            for example, row in zip(examples, rows, strict=True):
                found, units = _units(example.context, row, pooling)
                encoded.append(_inputs(row) | {"units": units})
                held[split].append(found)
                spans[split].append((n_units, n_units + len(units)))
                n_units += len(units)
        labels = {
            name: [
                np.array(tags(*pair), int)
                for pair in zip(targets[name]["train"], held["train"], strict=True)
            ]
            for name in names
        }
        sets += [Sequences(spans, labels)] if names else []
        notes |= dict.fromkeys(names, held)
    return ProbeInputs(encoded, sets, 2, counts, notes)


def probe_predictions(
    data: Data, examples: list[Example], inputs: ProbeInputs, target: str, split: str, found: list
) -> list[Prediction]:
    """The longest run of words tagged as the answer's."""
    (tagged,) = found  # one set has the target
    pairs = zip(tagged, inputs.notes[target][split], strict=True)
    return [windows.only(longest(*pair)) for pair in pairs]


def attention_inputs(
    data: Data, examples: list[Example], tokenizer, max_length: int
) -> tuple[list[dict], dict[str, int]]:
    """The first window of each example, and counts."""
    rows, counts = windows.first_windows(examples, tokenizer, max_length)
    return [_inputs(row) for row in rows], counts


def _inputs(row: dict) -> dict:
    return {key: row[key] for key in ("input_ids", "token_type_ids") if key in row}


def _units(context: str, row: dict, pooling: str) -> tuple[list, list]:
    """(spans of the words that the window's sub-words contain whole, ranges of their tokens)."""
    spans = row["spans"]
    held = np.flatnonzero(spans[:, 0] < spans[:, 1])
    starts, ends = spans[held].T
    ends = np.maximum.accumulate(ends) if len(ends) else ends
    whole = np.array(words(context), int).reshape(-1, 2)
    whole = whole[whole[:, 1] <= (ends[-1] if len(ends) else 0)]
    first = np.searchsorted(ends, whole[:, 0], side="right")
    last = np.searchsorted(starts, whole[:, 1], side="left") - 1
    known = first <= last
    first, last = held[first[known]] + row["first"], held[last[known]] + row["first"]
    first, last = {"mean": (first, last), "first": (first, first), "last": (last, last)}[pooling]
    kept = [(int(a), int(b)) for a, b in whole[known]]
    return kept, [(int(a), int(b) + 1) for a, b in zip(first, last, strict=True)]
