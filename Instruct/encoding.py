"""Prompts and answers as tokens, tokenized apart: a prompt always has the same ids."""

import bisect
import math
from array import array
from collections.abc import Callable
from functools import partial

from tqdm import tqdm

from common.cli import RANK, UserError
from common.training.losses import IGNORED
from Instruct import parsing, prompts
from NER.scores import OUTSIDE

SLACK = 8  # tokens that a model may write beyond the longest answer of its training
LONGEST = 100  # answers with the most characters: one of them has the most tokens


def encode(data, examples: list[dict], tokenizer, max_length: int) -> tuple[list[dict], dict]:
    """What a model is trained on, and what it answers.

    `input_ids` and `labels`: prompt and answer, never cut; only the answer is labelled. An example
    with more than `max_length` tokens has no labels, so it is not trained on. `prompt` is cut so
    that `room` tokens are left for an answer. UserError without end token or room.
    """
    if tokenizer.eos_token_id is None:  # an encoder's, mostly
        models = "Give another causal model: gpt2, biogpt, llama2-7b, ..."
        raise UserError(f"the tokenizer has no end token, so answers would have no end. {models}")
    known = rooms(data, tokenizer)
    encoded, counts = [], {"prompts": len(examples), "too_long": 0, "cut_words": 0}
    # Some tokenizers take minutes.
    for row in tqdm(examples, "tokenizing", leave=False, delay=5, disable=RANK > 0):
        answer = answer_ids(tokenizer, row["output"])
        least = known[row["source"]] - SLACK if row["kind"] in prompts.LABEL_KINDS else 1
        own = partial(room, tokenizer, row, known[row["source"]], max_length)
        shown, cut, left = prompt_ids(tokenizer, row, data.form, max_length, own, least)
        prompt = prompt_ids(tokenizer, row, data.form)[0] if cut else shown
        fits = len(prompt) + len(answer) <= max_length
        counts["cut_words"] += cut
        counts["too_long"] += not fits
        own = answer if fits else [IGNORED] * len(answer)
        labels = array("i", [IGNORED] * len(prompt) + own)  # lists take nine times the memory
        made = {"input_ids": array("i", [*prompt, *answer]), "labels": labels}
        made |= {"prompt": array("i", shown), "room": left}
        encoded.append(made)
    return encoded, counts


def rooms(data, tokenizer) -> dict[str, int | None]:
    """{source: tokens of its longest answer in training, or of its longest label, and SLACK}.

    None: an answer has each word of the input once.
    """
    outputs = {name: {*about["labels"]} for name, about in data.sources.items()}
    for row in data.splits["train"]:
        outputs[row["source"]].add(row["output"])
    known = {}
    for name, some in outputs.items():
        longest = sorted(some, key=len)[-LONGEST:]
        known[name] = max(len(answer_ids(tokenizer, text)) for text in longest) + SLACK
        if data.sources[name]["kind"] == "ner" and data.ner_form == "tags":
            known[name] = None
    return known


def room(tokenizer, row: dict, most: int | None, max_length: int, n: int) -> int:
    """Tokens of an answer to a prompt with `n` words of input; `most`: of its source in `rooms`."""
    if most is not None:
        return min(most, max_length // 2)
    tags = parsing.write_tags(row["input"].split(" ")[:n], [OUTSIDE] * n)
    return len(answer_ids(tokenizer, tags)) + SLACK


def prompt_ids(
    tokenizer, row: dict, form: str, limit: float = math.inf, room: Callable = lambda n: 0, least=0
) -> tuple[list[int], int, float]:
    """(tokens of a prompt, how many words of its input were cut, tokens left for its answer).

    As few words are cut as the `limit` allows for the prompt and the `room(n)` tokens of an answer
    to `n` words: the last ones; of a pair those of sentence 1 first. UserError if the instruction
    leaves no room for `least` tokens.
    """
    parts = [part.split(" ") for part in row["input"].split(prompts.SECOND)]

    def first(n: int) -> list[int]:
        kept = []
        for words in reversed(parts):
            kept.insert(0, " ".join(words[:n]))
            n = max(0, n - len(words))
        about = {"instruction": row["instruction"], "input": prompts.SECOND.join(kept)}
        return _ids(tokenizer, prompts.FORMS[form].format_map(about), special=True)

    words = kept = sum(map(len, parts))
    ids = first(kept)
    if len(ids) + room(kept) > limit:
        fitting = bisect.bisect_right(range(words), limit, key=lambda n: len(first(n)) + room(n))
        kept = max(0, fitting - 1)
        ids = first(kept)
    if limit - len(ids) < least:
        raise UserError(
            f"{row['id']}: the instruction alone has {len(ids)} tokens, the model sees {limit} "
            "(its positions, or --max_length). Make it shorter, or use a larger limit."
        )
    return ids, words - kept, min(room(kept), limit - len(ids))


def answer_ids(tokenizer, text: str) -> list[int]:
    """The tokens of an answer as it follows a prompt's last character, ":", and the end token."""
    lead, ids = (_ids(tokenizer, start, special=False) for start in (":", f": {text}"))
    glued = ids[: len(lead)] != lead  # the colon, by the tokenizer, to what follows
    ids = _ids(tokenizer, f" {text}", special=False) if glued else ids[len(lead) :]
    return [*ids, tokenizer.eos_token_id]


def end_ids(model, tokenizer) -> set[int]:
    """The tokens that end an answer: the tokenizer's, and further ones that a chat model has."""
    own = model.generation_config.eos_token_id
    known = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    known |= {*tokenizer.all_special_ids}
    return {tokenizer.eos_token_id} | ({*own} if isinstance(own, list) else {own}) & known


def decode(tokenizer, ids: list[int]) -> str:
    """The text of an answer."""
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


def _ids(tokenizer, text: str, special: bool) -> list[int]:
    """Tokens of a text in which `</s>` or `<|endoftext|>` are characters like any others."""
    return tokenizer(text, add_special_tokens=special, split_special_tokens=True)["input_ids"]
