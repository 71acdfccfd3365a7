"""How a model reads texts and pairs of texts, and how much of them is truncated."""

from common.cli import UserError
from common.task import Examples, ProbeInputs


def frame(tokenizer) -> tuple[list[int], list[int], list[int], bool]:
    """The special tokens before, between and after two texts; whether it gives token types."""
    bare, framed = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a", "a")
    ids, n = framed["input_ids"], len(bare)
    first, *_, second = (i for i in range(len(ids)) if ids[i : i + n] == bare)
    middle = ids[first + n : second] or [tokenizer.eos_token_id]
    return ids[:first], middle, ids[second + n :], "token_type_ids" in framed


def encode_pairs(
    pairs: list[tuple[str, str]], tokenizer, max_length: int
) -> tuple[list[dict], dict]:
    """`input_ids` (, `token_type_ids`) of two texts as one input; counts of truncation.

    BERT: `[CLS] A [SEP] B [SEP]` with token types; BioGPT: `</s> A </s> B`; GPT-2, which has no
    separator: `A <|endoftext|> B`. A pair that is too long loses tokens at the end of its longer
    side. Raises UserError if `max_length` leaves no room for a token of each.
    """
    head, middle, tail, types = frame(tokenizer)
    room = max_length - len(head) - len(middle) - len(tail)
    if room < 2:
        raise UserError(f"--max_length {max_length} leaves no room for a pair. Use a larger one.")
    # Each text once: a premise of MedNLI is in three pairs. At size 0 there are no texts at all.
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    tokenized = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    ids = dict(zip(texts, tokenized, strict=True))
    encoded, counts = [], {"pairs": len(pairs), "truncated_pairs": 0, "truncated_tokens": 0}
    for premise, hypothesis in pairs:
        a, b = truncate(ids[premise], ids[hypothesis], room)
        over = len(ids[premise]) + len(ids[hypothesis]) - len(a) - len(b)
        counts["truncated_pairs"] += over > 0
        counts["truncated_tokens"] += over
        first, second = [*head, *a, *middle], [*b, *tail]
        encoded.append({"input_ids": first + second})
        if types:
            encoded[-1]["token_type_ids"] = [0] * len(first) + [1] * len(second)
    return encoded, counts


def encode_texts(
    texts: list[str], tokenizer, max_length: int, pooling: str
) -> tuple[list[dict], dict]:
    """`input_ids` of each text alone, its one unit (what a probe reads); and counts of truncation.

    `pooling`: "mean" over all real tokens, "cls" the first, "last" the last of them.
    """
    encoded, counts = [], {"texts": len(texts), "truncated_texts": 0, "truncated_tokens": 0}
    for ids in tokenizer(texts, add_special_tokens=True)["input_ids"] if texts else []:
        over = max(0, len(ids) - max_length)
        counts["truncated_texts"] += over > 0
        counts["truncated_tokens"] += over
        if over:  # the closing [SEP] of BERT stays
            tail = ids[-1:] if ids[-1] == tokenizer.sep_token_id else []
            ids = ids[: max_length - len(tail)] + tail
        ids = ids or [tokenizer.eos_token_id]  # an empty text in GPT-2
        unit = {"mean": (0, len(ids)), "cls": (0, 1), "last": (len(ids) - 1, len(ids))}[pooling]
        encoded.append({"input_ids": ids, "units": [unit]})
    return encoded, counts


def probe_inputs(
    texts: dict[str, list[tuple[str, ...]]],
    labels: dict[str, list],
    tokenizer,
    max_length: int,
    pooling: str,
    n_labels: int,
) -> ProbeInputs:
    """A unit is a distinct text; an example, the vectors of its texts, as many in all examples.

    `texts`: by split; `labels`: of train by target, numbers, see `Examples`.
    """
    import numpy as np

    distinct = list(dict.fromkeys(text for own in texts.values() for some in own for text in some))
    encoded, counts = encode_texts(distinct, tokenizer, max_length, pooling)
    number, width = {text: i for i, text in enumerate(distinct)}, len(texts["train"][0])
    rows = {
        split: np.array([[number[text] for text in some] for some in own], int).reshape(-1, width)
        for split, own in texts.items()
    }
    numbers = {target: np.array(own) for target, own in labels.items()}
    return ProbeInputs(encoded, [Examples(rows, numbers)], n_labels, counts)


def truncate(a: list[int], b: list[int], room: int) -> tuple[list[int], list[int]]:
    """Cut the longer of two lists, then both in turn, until they fit together."""
    shorter = min(len(a), len(b), room // 2)
    if len(a) > len(b):
        b = b[: max(shorter, room - len(a))]
        return a[: room - len(b)], b
    a = a[: max(shorter, room - len(b))]
    return a, b[: room - len(a)]
