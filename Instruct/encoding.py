"""Prompts and answers as tokens: apart from each other, so that a prompt is always the same ids."""

import bisect
import heapq
from array import array

from common.cli import UserError
from common.losses import IGNORED
from Instruct import parsing, prompts
from NER.scores import OUTSIDE

SLACK = 8  # tokens that a model may write beyond the longest answer of its training
LONGEST = 100  # answers of most characters, among which is that of most tokens


def encode(data, examples: list[dict], tokenizer, max_length: int) -> tuple[list[dict], dict]:
    """What a model is trained on, and what it answers.

    `input_ids` and `labels`: prompt and answer, the answer alone labelled; `answer_tokens`: of the
    labels, 0 where prompt and answer have more than `max_length` tokens: such an example is not
    trained on, an answer is never cut. `prompt`: its input cut so that `room` tokens are left for
    an answer. Arrays of numbers: lists take nine times as much memory.
    Raises UserError for a tokenizer without end token, and where an instruction leaves no room.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the model's tokenizer has no end token, so its answers would have no end. Instruct "
            "needs a causal model: gpt2, biogpt, llama2-7b, ..."
        )
    rooms = longest_answers(data, tokenizer)
    encoded, counts = [], {"prompts": len(examples), "too_long": 0, "cut_words": 0}
    for row in examples:
        answer = answer_ids(tokenizer, row["output"])
        room = rooms[row["source"]]
        if row["kind"] == "ner" and data.ner_form == "tags":  # every word is written once
            words = row["input"].split(" ")
            room = len(answer_ids(tokenizer, parsing.write_tags(words, [OUTSIDE] * len(words))))
        room += SLACK
        prompt, _ = prompt_ids(tokenizer, row, data.form, max_length)
        whole = [*prompt, *answer]
        shown, cut = prompt_ids(tokenizer, row, data.form, max_length - room)
        if len(shown) >= max_length:
            raise UserError(
                f"example {row['id']}: its instruction alone has {len(shown)} tokens, the model "
                f"sees {max_length} (its positions, or --max_length). Use a model of more "
                "positions, or fewer and shorter labels."
            )
        counts["cut_words"] += cut
        counts["too_long"] += len(whole) > max_length
        fits = len(whole) <= max_length
        encoded.append({
            "input_ids": array("i", whole),
            "labels": array("i", [IGNORED] * len(prompt) + answer),
            "answer_tokens": len(answer) * fits,
            "prompt": array("i", shown), "room": min(room, max_length - len(shown)),
        })  # fmt: skip
    return encoded, counts


def longest_answers(data, tokenizer) -> dict[str, int]:
    """{source: tokens of its longest answer in training, or of its longest label}."""
    outputs = {name: {*about["labels"]} for name, about in data.sources.items()}
    for row in data.splits["train"]:
        outputs[row["source"]].add(row["output"])
    return {
        name: max(len(answer_ids(tokenizer, text)) for text in heapq.nlargest(LONGEST, some, len))
        for name, some in outputs.items()
    }


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
