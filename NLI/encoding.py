"""Sentences and pairs of sentences as a model reads them, and what is cut."""

from common.cli import UserError


def encode_pairs(
    pairs: list[tuple[str, str]], tokenizer, max_length: int
) -> tuple[list[dict], dict]:
    """Encode two texts as one input; count what is cut.

    BERT: `[CLS] A [SEP] B [SEP]` with token types; BioGPT: `</s> A </s> B`; GPT-2, which has no
    separator: `A <|endoftext|> B`. A pair that is too long loses tokens at the end of its longer
    side. Returns each pair's `input_ids` (, `token_type_ids`); and the counts `pairs`,
    `truncated_pairs`, `truncated_tokens`.
    """
    head, middle, tail, types = _frame(tokenizer)
    room = max_length - len(head) - len(middle) - len(tail)
    if room < 2:
        raise UserError(f"--max_length {max_length} leaves no room for a pair. Use a larger one.")
    # Each text once: a premise of MedNLI is in three pairs. At size 0 there are no texts at all.
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    tokenized = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    ids = dict(zip(texts, tokenized, strict=True))
    encoded, over = [], []
    for premise, hypothesis in pairs:
        a, b = ids[premise], ids[hypothesis]
        over.append(max(0, len(a) + len(b) - room))
        a, b = truncate(a, b, room)
        first, second = [*head, *a, *middle], [*b, *tail]
        encoded.append({"input_ids": first + second})
        if types:
            encoded[-1]["token_type_ids"] = [0] * len(first) + [1] * len(second)
    cut = {"truncated_pairs": sum(map(bool, over)), "truncated_tokens": sum(over)}
    return encoded, {"pairs": len(pairs), **cut}


def encode_texts(
    texts: list[str], tokenizer, max_length: int, pooling: str
) -> tuple[list[dict], dict]:
    """What the frozen encoder reads: `input_ids` of each text encoded alone, and its one unit.

    `pooling`: "mean" over all real tokens, "cls" the first, "last" the last of them. The counts:
    `texts`, `truncated_texts`, `truncated_tokens`.
    """
    encoded, over = [], []
    for ids in tokenizer(texts, add_special_tokens=True)["input_ids"]:
        tail = ids[len(ids) - 1 :] if ids[-1:] == [tokenizer.sep_token_id] else []
        over.append(max(0, len(ids) - max_length))
        if over[-1]:  # the closing [SEP] of BERT stays
            ids = ids[: max_length - len(tail)] + tail
        ids = ids or [tokenizer.eos_token_id]  # an empty text in GPT-2
        n = len(ids)
        unit = {"mean": (0, n), "cls": (0, 1), "last": (n - 1, n)}[pooling]
        encoded.append({"input_ids": ids, "units": [unit]})
    cut = {"truncated_texts": sum(map(bool, over)), "truncated_tokens": sum(over)}
    return encoded, {"texts": len(texts), **cut}


def _frame(tokenizer) -> tuple[list[int], list[int], list[int], bool]:
    """The special tokens before, between and after the two texts, and whether there are types."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    pair = tokenizer("a", "a")
    whole, n = pair["input_ids"], len(bare)
    at = [i for i in range(len(whole) - n + 1) if whole[i : i + n] == bare]
    head, middle, tail = whole[: at[0]], whole[at[0] + n : at[-1]], whole[at[-1] + n :]
    return head, middle or [tokenizer.eos_token_id], tail, "token_type_ids" in pair


def truncate(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut the longer of two lists, then both in turn, until they fit together."""
    shorter = min(len(a), len(b), room // 2)
    if len(a) > len(b):
        b = b[: max(shorter, room - len(a))]
        return a[: room - len(b)], b
    a = a[: max(shorter, room - len(b))]
    return a, b[: room - len(a)]
