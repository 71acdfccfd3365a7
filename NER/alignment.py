"""Words to sub-words and back: which token carries a word's label, and what was cut."""

from common.cli import UserError
from NER.scores import OUTSIDE


class WordTokenizer:
    """Tokenizes word by word: the ids of joint tokenization, and each word's number of sub-words.

    BioGPT's tokenizer cannot say which word a sub-word belongs to, and its Moses step would split
    a text's words otherwise than the same words alone. Each distinct word is tokenized once.
    """

    def __init__(self, tokenizer, max_length: int):
        self.tokenizer = tokenizer
        self.pieces: dict[str, list[int]] = {}
        whole, bare = tokenizer(["a"], is_split_into_words=True)["input_ids"], self._word("a")
        at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self.head, self.tail = whole[:at], whole[at + len(bare) :]  # [CLS], [SEP]; none; </s>
        self.room = max_length - len(self.head) - len(self.tail)
        if self.room < 1:
            raise UserError(
                f"--max_length {max_length} leaves no room for a word. Use a larger one."
            )

    def _word(self, word: str) -> list[int]:
        if word not in self.pieces:
            self.pieces[word] = self.tokenizer(
                [word], is_split_into_words=True, add_special_tokens=False
            )["input_ids"]
        return self.pieces[word]

    def __call__(self, words: list[str]) -> tuple[list[int], list[int | None]]:
        """`input_ids`, and for each word its number of sub-words, or None if it was cut.

        A word is kept whole or cut; from the first that does not fit, all are cut. A sentence
        without any sub-word has no ids at all: there is nothing for a model to read.
        """
        ids: list[int] = []
        counts: list[int | None] = []
        for word in words:
            pieces = self._word(word)
            if len(ids) + len(pieces) > self.room:
                break
            ids += pieces
            counts.append(len(pieces))
        counts += [None] * (len(words) - len(counts))
        return [*self.head, *ids, *self.tail] if ids else [], counts


def encode(sentences: list[list[str]], tokenizer, max_length: int) -> tuple[list[dict], dict]:
    """The sentences' inputs, and the counts of what the model will not see.

    An input has `input_ids` and `words`: for each word the (start, end) of its tokens, or None
    where it was cut or has no sub-word.
    """
    split = WordTokenizer(tokenizer, max_length)
    encoded = []
    names = ("words", "truncated_words", "truncated_sentences", "empty_words", "empty_sentences")
    counts = {"sentences": len(sentences)} | dict.fromkeys(names, 0)
    for words in sentences:
        ids, pieces = split(words)
        start, spans = len(split.head), []
        for n in pieces:
            spans.append((start, start + n) if n else None)
            start += n or 0
        encoded.append({"input_ids": ids, "words": spans})
        counts["words"] += len(words)
        counts["truncated_words"] += pieces.count(None)
        counts["truncated_sentences"] += None in pieces
        counts["empty_words"] += pieces.count(0)
        counts["empty_sentences"] += not words
    return encoded, counts


def token_labels(example: dict, labels: list[int]) -> list[int]:
    """A word's label on its first sub-word, -100 on every other token. `labels`: one a word."""
    tokens = [-100] * len(example["input_ids"])
    for span, label in zip(example["words"], labels, strict=True):
        if span:
            tokens[span[0]] = label
    return tokens


def word_labels(example: dict, token_predictions, names: list[str]) -> list[str]:
    """The label at each word's first sub-word; `O` where the model saw nothing of the word."""
    return [names[token_predictions[span[0]]] if span else OUTSIDE for span in example["words"]]


def units(example: dict, pooling: str) -> list[tuple[int, int]]:
    """The (start, end) of the tokens that stand for each word that has any, in order.

    `pooling`: "mean" all its sub-words, "first" or "last" one of them.
    """
    spans = [span for span in example["words"] if span]
    if pooling == "mean":
        return spans
    return [(a, a + 1) if pooling == "first" else (b - 1, b) for a, b in spans]
