"""A text's sub-words and the characters that each stands for, for every family's tokenizer."""

import html
import unicodedata

import numpy as np


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
