"""Question and passage -> windows that a model reads; its outputs -> answers in the passage.

Answers are spans of the passage's own characters. As in BERT's run_squad: overlapping windows, the
20 best answers, at most 30 sub-words, and a score for "no answer", the lowest of all windows.
"""

import html
import math
import unicodedata
from itertools import groupby
from typing import NamedTuple

import numpy as np

from common.cli import UserError
from common.texts import frame
from QA.bioasq import Pair
from QA.data import Data
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
    places = [span] if span else []
    return Prediction([{"start": a, "end": b, "probability": probability} for a, b in places], None)


def tokenize(texts: list[str], tokenizer) -> list[tuple[list[int], np.ndarray]]:
    """(ids, spans) of each text, without special tokens; equal texts share them.

    `spans`, int32 `[ids, 2]`: first character and last + 1 of each sub-word, without white space at
    either end; equal numbers where it stands for no character of its own. Ids are those of
    `tokenizer(text, add_special_tokens=False)`; but for BioGPT "</s>" in a text is text.
    """
    different = list(dict.fromkeys(texts))
    if different and tokenizer.is_fast:
        encoded = tokenizer(
            different, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        pairs = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
    else:
        pairs = [_moses(text, tokenizer) for text in different]
    known = {
        text: (ids, np.array(_corrected(text, spans), np.int32).reshape(-1, 2))
        for text, (ids, spans) in zip(different, pairs, strict=True)
    }
    return [known[text] for text in texts]


def _corrected(text: str, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans without the space that GPT-2's and Llama's sub-words contain, and with the accents
    that lower-casing tokenizers strip."""
    corrected, following = [], len(text)
    for start, end in reversed(spans):
        part = text[start:end]
        start += len(part) - len(part.lstrip())
        end = start + len(part.strip())
        while start < end < following and unicodedata.category(text[end]) == "Mn":
            end += 1
        following = start if start < end else following
        corrected.append((start, end))
    return corrected[::-1]


def _moses(text: str, tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
    """BioGPT's ids, and the characters of each sub-word, which its tokenizer does not give.

    The tokens of its Moses step are searched in the text from left to right. A token that is not
    found gets none, and the next one may skip it.
    """
    ids, spans, position, skip = [], [], 0, False
    for token in tokenizer.moses_tokenize(text, tokenizer.lang):
        raw = "-" if token == "@-@" else html.unescape(token)  # sacremoses has escaped it
        pieces = tokenizer.bpe(token).split(" ")
        ids += tokenizer.convert_tokens_to_ids(pieces)
        at = text.find(raw, position)
        skip = at < 0 or (bool(text[position:at].strip()) and not skip)
        if skip:
            spans += [(0, 0)] * len(pieces)
            continue
        position = at + len(raw)
        lengths = [len(piece.removesuffix("</w>")) for piece in pieces]
        if sum(lengths) == len(raw):  # else the pieces are those of an escape
            ends = at + np.cumsum(lengths)
            spans += zip(ends - lengths, ends, strict=True)
        else:
            spans += [(at, position)] * len(pieces)
    return ids, spans


def encode(
    data: Data, examples: list[Example | Pair], tokenizer, max_length: int
) -> tuple[list[dict], dict[str, int]]:
    """Windows of all examples, in order, and counts.

    BERT: `[CLS] question [SEP] passage [SEP]`, "no answer" is read at [CLS]; BioGPT: `</s> question
    </s> passage </s>`, as of all causal models it is read at an end token after the passage.
    A window has `input_ids` (, `token_type_ids`); `example`, its number; `first`, where the passage
    begins in it; `spans`, `[sub-words of the passage, 2]` characters of each (see `tokenize`);
    `null`, the position of "no answer"; and `labels`, the first and last position of the answer, or
    twice `null` if it contains none whole, or twice -100 if the answer is not in the passage.
    Neighbours share `data.doc_stride` sub-words. Raises UserError if there is no room for that.
    """
    doc_stride, unit = data.doc_stride, "pairs" if data.in_bioasq else "questions"
    head, middle, tail, types = frame(tokenizer)
    null_first, end = head[:1] == [tokenizer.cls_token_id], [tokenizer.eos_token_id]
    tail = tail if null_first or tail[-1:] == end else tail + end
    most = max_length - len(head) - len(middle) - len(tail)  # for question and passage
    questions = tokenize([example.question.strip() for example in examples], tokenizer)
    passages = tokenize([example.context for example in examples], tokenizer)
    limit = min(MAX_QUESTION, most // 2)
    room = most - min(limit, max((len(ids) for ids, _ in questions), default=0))
    if limit < 1 or doc_stride >= room:
        raise UserError(
            f"--max_length {max_length} leaves room for {max(0, room)} sub-words of the passage "
            f"beside the longest question; it must be more than --doc_stride {doc_stride}. Use a "
            "larger --max_length, or for fine-tuning a smaller --doc_stride."
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
    return windows, {unit: len(examples), "windows": len(windows), **counts}


def first_windows(
    data: Data, examples: list[Example | Pair], tokenizer, max_length: int
) -> tuple[list[dict], dict[str, int]]:
    """The first window of each example, as `encode` makes them, and counts."""
    windows, counts = encode(data._replace(doc_stride=0), examples, tokenizer, max_length)
    own = [[*rows] for _, rows in groupby(windows, lambda row: row["example"])]
    del counts["windows"], counts["split_answers"]
    return [rows[0] for rows in own], counts | {"truncated_passages": sum(len(x) > 1 for x in own)}


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
    ordered = np.array([score for score, *_ in entries])
    shares = np.exp(ordered - ordered.max(initial=-np.inf))
    n_best = [
        {"start": start, "end": end, "probability": float(f"{share:.6g}")}
        for (_, start, end), share in zip(entries, shares / shares.sum(), strict=True)
    ]
    return Prediction(n_best, null - spans[0][0] if spans else None)
