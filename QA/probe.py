"""Probing QA: which words of the passage are the answer, read with the question before them.

After van Aken et al. 2019, "How Does BERT Answer Questions?". Question and passage go through the
frozen encoder together; the first window of a long passage alone.
"""

import random
import re

import numpy as np

from common.task import ProbeInputs
from QA import windows
from QA.squad import Example

OTHER, ANSWER = 0, 1  # tags of words
_WORD = re.compile(r"\w+|[^\w\s]")


def controls(splits: dict[str, list[Example]], seed: int) -> dict[str, dict]:
    """`control`: random tags, one a word type, as often ANSWER as in training (Hewitt & Liang).

    `passage`: the same passage and answer with another passage's question: how much the passage
    alone gives away. Questions stay in their split.
    """
    generator = random.Random(seed)
    contexts = list(dict.fromkeys(e.context for some in splits.values() for e in some))
    found = {context: words(context) for context in contexts}
    tagged = [tags(example, found[example.context]) for example in splits["train"]]
    share = sum(map(sum, tagged)) / max(1, sum(map(len, tagged)))
    types = sorted({context[a:b].lower() for context in contexts for a, b in found[context]})
    drawn = {word for word in types if generator.random() < share}
    control = {
        split: [_retagged(e, found[e.context], drawn) for e in some]
        for split, some in splits.items()
    }
    passage = {split: _other_questions(some, generator) for split, some in splits.items()}
    return {"control": control, "passage": passage}


def _retagged(example: Example, spans: list[tuple[int, int]], drawn: set[str]) -> Example:
    """The example whose answers are the runs of the words in `drawn`; the longest is its gold."""
    context = example.context
    chosen = [context[a:b].lower() in drawn for a, b in spans]
    answers = [(spans[a][0], spans[b - 1][1]) for a, b in runs(chosen)]
    best = longest(np.array(chosen, int), spans)
    return example._replace(answers=answers, golds=[context[slice(*best)]] if best else [])


def _other_questions(examples: list[Example], generator: random.Random) -> list[Example]:
    """Each example with the question of a random other one, of another passage where there is."""
    single = len({example.context for example in examples}) < 2
    found = []
    for example in examples:
        other = generator.choice(examples)
        while not single and other.context == example.context:
            other = generator.choice(examples)
        found.append(example._replace(question=other.question))
    return found


def words(context: str) -> list[tuple[int, int]]:
    """The spans of a passage's words: letters and digits, or one other character."""
    return [match.span() for match in _WORD.finditer(context)]


def tags(example: Example, spans: list[tuple[int, int]]) -> list[int]:
    """The tag of each word: ANSWER where it has a character of an answer."""
    found = [OTHER] * len(spans)
    for start, end in example.answers:
        for i, (a, b) in enumerate(spans):
            if a < end and b > start:
                found[i] = ANSWER
    return found


def runs(chosen) -> list[tuple[int, int]]:
    """(first, last + 1) of each unbroken run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(chosen, int), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def longest(tagged, spans: list[tuple[int, int]]) -> tuple[int, int] | None:
    """The characters of the longest run of ANSWER, of equals the first; None if there is none."""
    found = runs(np.asarray(tagged) == ANSWER)
    if not found:
        return None
    a, b = max(found, key=lambda run: run[1] - run[0])
    return spans[a][0], spans[b - 1][1]


def probe_inputs(targets: dict, tokenizer, max_length: int, pooling: str) -> ProbeInputs:
    """The words of the passage's first window are the units; one without a sub-word has none.

    `notes`: `{target: {split: spans of the units' words an example}}`.
    """
    encoded, counts, rows, labels, notes, start = [], {}, {}, {}, {}, 0
    for target, splits in targets.items():
        if target == "control":  # the inputs of the task with other tags
            rows[target], notes[target] = rows["task"], notes["task"]
        else:
            rows[target], notes[target] = {}, {}
            for split, examples in splits.items():
                some, cut = windows.first_windows(examples, tokenizer, max_length)
                kept, units = _units(examples, some, pooling)
                encoded += [_inputs(row) | {"units": u} for row, u in zip(some, units, strict=True)]
                if target == "task":
                    counts |= {f"{split}_{name}": n for name, n in cut.items()}
                ends = start + np.cumsum([0, *map(len, units)])
                rows[target][split] = [
                    (int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)
                ]
                notes[target][split], start = kept, int(ends[-1])
        pairs = zip(splits["train"], notes[target]["train"], strict=True)
        labels[target] = [np.array(tags(example, spans), int) for example, spans in pairs]
    return ProbeInputs(encoded, rows, labels, 2, counts, notes)


def attention_inputs(examples: list[Example], tokenizer, max_length: int):
    """The first window of each example, and counts."""
    found, counts = windows.first_windows(examples, tokenizer, max_length)
    return [_inputs(row) for row in found], counts


def _inputs(row: dict) -> dict:
    return {key: row[key] for key in ("input_ids", "token_type_ids") if key in row}


def _units(examples: list[Example], encoded: list[dict], pooling: str) -> tuple[list, list]:
    """(spans of words, ranges of their tokens), both a list an example."""
    known: dict[tuple, tuple] = {}
    kept, units = [], []
    for example, row in zip(examples, encoded, strict=True):
        key = example.context, len(row["spans"])
        if key not in known:
            known[key] = _words_in(example.context, row["spans"])
        spans, first, last = known[key]
        first, last = first + row["first"], last + row["first"]
        if pooling == "first":
            last = first
        elif pooling == "last":
            first = last
        kept.append(spans)
        units.append([(int(a), int(b) + 1) for a, b in zip(first, last, strict=True)])
    return kept, units


def _words_in(context: str, spans: np.ndarray) -> tuple[list, np.ndarray, np.ndarray]:
    """The words that the sub-words with `spans` hold whole; the first and last sub-word of each."""
    held = np.flatnonzero(spans[:, 0] < spans[:, 1])
    starts, ends = spans[held].T
    ends = np.maximum.accumulate(ends) if len(ends) else ends
    found = np.array(words(context), int).reshape(-1, 2)
    found = found[found[:, 1] <= (ends[-1] if len(ends) else 0)]
    first = np.searchsorted(ends, found[:, 0], side="right")
    last = np.searchsorted(starts, found[:, 1], side="left") - 1
    known = first <= last
    found, first, last = found[known], held[first[known]], held[last[known]]
    return [(int(a), int(b)) for a, b in found], first, last
