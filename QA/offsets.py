"""A text's sub-words and the characters that each stands for, for every family's tokenizer."""

import re
import unicodedata

import numpy as np

# What sacremoses writes for these characters. One pass, so that "&amp;lt;" becomes "&lt;".
_ESCAPED = {"&amp;": "&", "&#124;": "|", "&lt;": "<", "&gt;": ">", "&apos;": "'", "&quot;": '"',
            "&#91;": "[", "&#93;": "]"}  # fmt: skip
_ESCAPE = re.compile("|".join(_ESCAPED))
_DROPPED = {chr(code) for code in range(32)} - set(" \t\n\r\f\v\x1c\x1d\x1e\x1f")  # by sacremoses


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
    """Spans without white space at their ends, and with the accents that lower-casing strips."""
    spans = [_strip(text, *span) for span in spans]
    following = len(text)
    for i in () if text.isascii() else reversed(range(len(spans))):
        start, end = spans[i]
        if start < end:
            while end < following and unicodedata.category(text[end]) == "Mn":
                end += 1
            spans[i], following = (start, end), start
    return spans


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    """GPT-2's and Llama's sub-words contain the space before them."""
    part = text[start:end]
    start += len(part) - len(part.lstrip())
    return start, start + len(part.strip())


def _moses(text: str, tokenizer) -> tuple[list[int], list[tuple[int, int]]]:
    """BioGPT's ids, and the characters of each sub-word, which its tokenizer does not give.

    The tokens of its Moses step are searched in the text from left to right, without the control
    characters that it drops. A token that is not found gets none, and the next one may skip it.
    """
    kept = [i for i, character in enumerate(text) if character not in _DROPPED]
    clean = "".join(text[i] for i in kept)
    ids, spans, position, skip = [], [], 0, False
    for token in tokenizer.moses_tokenize(text, tokenizer.lang):
        raw = "-" if token == "@-@" else _ESCAPE.sub(lambda escape: _ESCAPED[escape[0]], token)
        pieces = tokenizer.bpe(token).split(" ")
        ids += tokenizer.convert_tokens_to_ids(pieces)
        at = clean.find(raw, position)
        skip = at < 0 or (bool(clean[position:at].strip()) and not skip)
        if skip:
            spans += [(0, 0)] * len(pieces)
            continue
        position = at + len(raw)
        lengths = [len(piece.removesuffix("</w>")) for piece in pieces]
        if sum(lengths) == len(raw):  # else the pieces are those of an escape
            ends = np.cumsum(lengths)
            within = [(at + end - n, at + end) for n, end in zip(lengths, ends, strict=True)]
        else:
            within = [(at, position)] * len(pieces)
        spans += [(kept[a], kept[b - 1] + 1) if a < b else (0, 0) for a, b in within]
    return ids, spans
