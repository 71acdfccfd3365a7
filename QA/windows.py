"""Question and passage -> windows that a model reads; its outputs -> answers in the passage.

Answers are spans of the passage's own characters. As in BERT's run_squad: overlapping windows, the
20 best answers, at most 30 sub-words, and a score for "no answer", the lowest of all windows.
"""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np

from common.cli import UserError
from QA.offsets import tokenize
from QA.squad import Example

MAX_QUESTION = 64  # sub-words; longer questions are cut
MAX_ANSWER = 30  # sub-words
N_BEST = 20  # answers to a question that are kept


class Prediction(NamedTuple):
    """The answers to a question, the best first; with None as start and end: no answer."""

    n_best: list[dict]  # {"start", "end", "probability"}
    # The score of no answer minus that of the best span; None: no span, a probe or a baseline.
    null_difference: float | None
    pointer: list[float] | None = None  # what a probe's prediction adds up, see QA.probe


def only(span: tuple[int, int] | None, probability: float = 1.0) -> Prediction:
    """The prediction of a probe or a baseline, which gives one answer or none."""
    return Prediction([_entry(*span, probability)] if span else [], None)


class Frame(NamedTuple):
    """The special tokens around question and passage."""

    head: list[int]
    middle: list[int]
    tail: list[int]
    types: bool  # whether the model is told which of the two a token belongs to
    null_first: bool  # whether "no answer" is read at the first token, else at the last


def frame(tokenizer) -> Frame:
    """BERT: `[CLS] question [SEP] passage [SEP]`; BioGPT: `</s> question </s> passage </s>`.

    "No answer" is read at [CLS]; of a causal model at an end token after the passage.
    """
    whole, bare = tokenizer("a", "a"), tokenizer("a", add_special_tokens=False)["input_ids"]
    ids, n = whole["input_ids"], len(bare)
    first, *_, second = (i for i in range(len(ids)) if ids[i : i + n] == bare)
    head, middle, tail = ids[:first], ids[first + n : second], ids[second + n :]
    null_first = tokenizer.cls_token_id is not None and head[:1] == [tokenizer.cls_token_id]
    end = [tokenizer.eos_token_id]
    if not null_first and tail[-1:] != end:
        tail = tail + end
    # RoBERTa has one type only; BioGPT's model does not read the types of its tokenizer.
    read = "token_type_ids" in tokenizer.model_input_names
    types = read and null_first and bool(whole["token_type_ids"][second])
    return Frame(head, middle or end, tail, types, null_first)


def encode(
    examples: list[Example], tokenizer, max_length: int, doc_stride: int
) -> tuple[list[dict], dict[str, int]]:
    """Windows of all examples, in order, and counts.

    A window has `input_ids` (, `token_type_ids`); `example`, its number; `first`, where the passage
    begins in it; `spans`, `[sub-words of the passage, 2]` characters of each (see QA.offsets);
    `null`, the position of "no answer"; and `labels`, the first and last position of the answer, or
    twice `null` if it contains none whole, or twice -100 if the answer is not in the passage.
    Neighbours share `doc_stride` sub-words. Raises UserError if there is no room for that.
    """
    head, middle, tail, types, null_first = frame(tokenizer)
    most = max_length - len(head) - len(middle) - len(tail)  # for question and passage
    if most < 2:
        raise UserError(
            f"--max_length {max_length} leaves no room for a passage. Use a larger one."
        )
    questions = tokenize([example.question.strip() for example in examples], tokenizer)
    passages = tokenize([example.context for example in examples], tokenizer)
    limit = min(MAX_QUESTION, most // 2)
    room = most - min(limit, max((len(ids) for ids, _ in questions), default=0))
    if doc_stride >= room:
        raise UserError(
            f"--doc_stride {doc_stride} must be below the room for the passage: of --max_length "
            f"{max_length}, {room} sub-words are left beside the longest question. Use a "
            f"--doc_stride of at most {room - 1}, or a larger --max_length."
        )
    names = ("truncated_questions", "empty_passages", "split_answers")
    windows, counts = [], dict.fromkeys(names, 0)
    texts = zip(examples, questions, passages, strict=True)
    for number, (example, (question, _), (ids, spans)) in enumerate(texts):
        answers = covering(spans, example.answers)
        before = [*head, *question[:limit], *middle]
        room = max_length - len(before) - len(tail)
        whole = False
        for start in range(0, max(1, len(ids) - doc_stride), room - doc_stride):
            part = ids[start : start + room]
            row = {"input_ids": before + part + tail, "example": number, "first": len(before)}
            if types:
                row["token_type_ids"] = [0] * len(before) + [1] * (len(part) + len(tail))
            row["spans"] = spans[start : start + room]
            row["null"] = 0 if null_first else len(row["input_ids"]) - 1
            held = [a for a in answers if a and start <= a[0] and a[1] < start + len(part)]
            nothing = -100 if example.golds and not any(answers) else row["null"]
            row["labels"] = [at - start + len(before) for at in held[0]] if held else [nothing] * 2
            windows.append(row)
            whole = whole or bool(held)
        counts["truncated_questions"] += len(question) > limit
        counts["empty_passages"] += not ids
        counts["split_answers"] += any(answers) and not whole
    return windows, {"questions": len(examples), "windows": len(windows), **counts}


def first_windows(
    examples: list[Example], tokenizer, max_length: int
) -> tuple[list[dict], dict[str, int]]:
    """The first window of each example, as `encode` makes them, and counts."""
    windows, counts = encode(examples, tokenizer, max_length, 0)
    sizes = Counter(row["example"] for row in windows)
    first = {row["example"]: row for row in reversed(windows)}
    cut = {name: counts[name] for name in ("questions", "truncated_questions", "empty_passages")}
    rows = [first[i] for i in range(len(examples))]
    return rows, cut | {"truncated_passages": sum(n > 1 for n in sizes.values())}


def covering(spans: np.ndarray, characters: list[tuple[int, int]]) -> list[tuple[int, int] | None]:
    """Of each (start, end) of characters, the first and the last sub-word that stand for some."""
    held = np.flatnonzero(spans[:, 0] < spans[:, 1])
    starts, ends = np.array(characters, int).reshape(-1, 2).T
    first = np.searchsorted(spans[held, 1], starts, side="right")
    last = np.searchsorted(spans[held, 0], ends) - 1
    pairs = zip(first, last, strict=True)
    return [(int(held[a]), int(held[b])) if a <= b else None for a, b in pairs]


def span_scores(scores: np.ndarray) -> np.ndarray:
    """`[units, 2]`, of start and end -> `[units, MAX_ANSWER]`: sums, by first unit and length - 1.

    What would end beyond the last unit has minus infinity.
    """
    start, end = scores.T
    ends = np.pad(end, (0, MAX_ANSWER), constant_values=-np.inf)
    return start[:, None] + np.lib.stride_tricks.sliding_window_view(ends, MAX_ANSWER)[: len(end)]


def answers(
    windows: list[dict], logits: list[np.ndarray], context: str, with_null: bool
) -> Prediction:
    """The answers to a question, from the outputs of all its windows, float32 `[tokens, 2]` each.

    Of equal scores the first in the passage. Probabilities: softmax of the scores over the answers
    kept, and over no answer too if `with_null`, for data with questions that have none.
    """
    null, scores, places = math.inf, [], []
    for row, own in zip(windows, logits, strict=True):
        null, spans = min(null, float(own[row["null"]].sum())), row["spans"]
        held = spans[:, :1] < spans[:, 1:]
        inside = np.where(held, own[row["first"] : row["first"] + len(spans)], -np.inf)
        table = span_scores(inside)
        first, length = np.nonzero(np.isfinite(table))
        scores.append(table[first, length])
        places.append(np.stack([spans[first, 0], spans[first + length, 1]], 1))
    scores, places = np.concatenate(scores), np.concatenate(places)
    kept: dict[str, tuple] = {}  # the best span of each text
    for i in np.argsort(-scores, kind="stable"):
        start, end = places[i].tolist()
        kept.setdefault(context[start:end], (float(scores[i]), start, end))
        if len(kept) == N_BEST:
            break
    spans = list(kept.values())
    entries = sorted([*spans, *[(null, None, None)] * with_null], key=lambda entry: -entry[0])
    weights = [math.exp(score - entries[0][0]) for score, _, _ in entries]
    total = math.fsum(weights)
    shares = (float(f"{weight / total:.6g}") for weight in weights)
    n_best = [_entry(*entry[1:], share) for entry, share in zip(entries, shares, strict=True)]
    return Prediction(n_best, null - spans[0][0] if spans else None)


def _entry(start: int | None, end: int | None, probability: float) -> dict:
    return {"start": start, "end": end, "probability": probability}
