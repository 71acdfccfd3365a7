"""Prompts and answers as tokens: apart from each other, so that a prompt is always the same ids."""

import bisect

from Instruct import prompts


def prompt_ids(tokenizer, row: dict, form: str, room: int) -> tuple[list[int], int]:
    """The tokens of a prompt, and how many of its input's words were cut to leave at most `room`.

    Words are cut at the input's end. The prompt is tokenized whole, with the special tokens that
    the tokenizer puts in front of a text. May be longer than `room` if the instruction alone is.
    """
    words = row["input"].split(" ")

    def first(n: int) -> list[int]:
        text = prompts.text(row | {"input": " ".join(words[:n])}, form)
        return _ids(tokenizer, text, special=True)

    ids, kept = first(len(words)), len(words)
    if len(ids) > room:
        most = bisect.bisect_right(range(len(words)), room, key=lambda n: len(first(n)))
        kept = max(0, most - 1)
        ids = first(kept)
    return ids, len(words) - kept


def answer_ids(tokenizer, text: str) -> list[int]:
    """The tokens of an answer as it follows a prompt's last character, ":", and the end token."""
    lead, ids = (_ids(tokenizer, start, special=False) for start in (":", f": {text}"))
    if ids[: len(lead)] != lead:  # the tokenizer glues the colon to what follows
        lead, ids = [], _ids(tokenizer, f" {text}", special=False)
    ids = ids[len(lead) :]
    return [*ids, tokenizer.eos_token_id]


def decode(tokenizer, ids: list[int]) -> str:
    """The text of an answer."""
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


def _ids(tokenizer, text: str, special: bool) -> list[int]:
    """Tokens of a text whose `</s>` or `<|endoftext|>` are characters like any others."""
    return tokenizer(text, add_special_tokens=special, split_special_tokens=True)["input_ids"]
