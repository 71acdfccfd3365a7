"""Words to sub-words: which tokens each word has, and what was cut."""

import functools

from common.cli import UserError


class WordTokenizer:
    """Tokenizes word by word: the ids of joint tokenization, and which tokens each word has.

    BioGPT's tokenizer cannot say which word a sub-word belongs to, and its Moses step would split
    a text's words otherwise than the same words alone. Each distinct word is tokenized once.
    """

    def __init__(self, tokenizer, max_length: int):
        options = {"is_split_into_words": True, "add_special_tokens": False}
        self.pieces = functools.cache(lambda word: tokenizer([word], **options)["input_ids"])
        whole, bare = tokenizer(["a"], is_split_into_words=True)["input_ids"], self.pieces("a")
        at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self.head, self.tail = whole[:at], whole[at + len(bare) :]  # [CLS], [SEP]; none; </s>
        self.last = max_length - len(self.tail)
        if self.last <= len(self.head):
            raise UserError(
                f"--max_length {max_length} leaves no room for a word. Use a larger one."
            )

    def __call__(self, words: list[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """`input_ids`, and the (start, end) of the tokens of each word that is not cut.

        From the first word that does not fit as a whole, all are cut. A sentence without any
        sub-word has no ids at all: there is nothing for a model to read.
        """
        ids, spans = [*self.head], []
        for word in words:
            start, pieces = len(ids), self.pieces(word)
            if start + len(pieces) > self.last:
                break
            ids += pieces
            spans.append((start, len(ids)))
        return ids + self.tail if len(ids) > len(self.head) else [], spans


def encode(sentences: list[list[str]], tokenizer, max_length: int) -> tuple[list[dict], dict]:
    """The sentences' inputs, and the counts of what the model will not see.

    An input has `input_ids` and `words`: for each word the (start, end) of its tokens, or None
    where it was cut or has no sub-word.
    """
    split = WordTokenizer(tokenizer, max_length)
    names = ("words", "truncated_words", "truncated_sentences", "empty_words", "empty_sentences")
    counts = {"sentences": len(sentences)} | dict.fromkeys(names, 0)
    encoded = []
    for words in sentences:
        ids, spans = split(words)
        cut = len(words) - len(spans)
        read = [(start, end) if start < end else None for start, end in spans]
        encoded.append({"input_ids": ids, "words": read + [None] * cut})
        counts["words"] += len(words)
        counts["truncated_words"] += cut
        counts["truncated_sentences"] += cut > 0
        counts["empty_words"] += read.count(None)
        counts["empty_sentences"] += not words
    return encoded, counts


def units(example: dict, pooling: str) -> list[tuple[int, int]]:
    """The (start, end) of the tokens that stand for each word that has any, in order.

    `pooling`: "mean" all its sub-words, "first" or "last" one of them.
    """
    spans = [span for span in example["words"] if span]
    if pooling == "mean":
        return spans
    return [(a, a + 1) if pooling == "first" else (b - 1, b) for a, b in spans]
