"""Control labels: of texts a word decides, of words their type; none of the task's."""

import random
import re
from collections import Counter

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.svm import LinearSVC

from common.controls import DRAWS, LEAST, by_rarest_word
from NER import task as ner

LABELS = ("yes", "no", "maybe")


def texts_of(n, seed):
    rng = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(60)]
    weights = [1 / (i + 1) for i in range(60)]
    return [" ".join(rng.choices(vocabulary, weights, k=6)) for _ in range(n)]


def test_the_rarest_word_that_is_frequent_enough_decides():
    texts = {"train": texts_of(400, 0), "test": [*texts_of(100, 1), "unheard of", "W3, w3!"]}
    labels = random.Random(2).choices(LABELS, (6, 3, 1), k=400)
    drawn = by_rarest_word(texts, labels, 7)
    assert len(drawn) == DRAWS and drawn == by_rarest_word(texts, labels, 7)
    assert drawn != by_rarest_word(texts, labels, 8)
    counts = Counter(w for t in texts["train"] for w in {*re.findall(r"\w+", t.lower())})
    for control in drawn:
        by_word: dict = {}
        for split, own in texts.items():
            for text, label in zip(own, control[split], strict=True):
                words = [w for w in {*re.findall(r"\w+", text.lower())} if counts[w] >= LEAST]
                word = sorted(words, key=lambda w: (counts[w], w))[0] if words else None
                assert by_word.setdefault(word, label) == label
        assert control["test"][-2] == by_word[None]


def test_few_deciding_words_are_said(caplog):
    """All texts of one label: a probe that knows nothing would be right."""
    texts = {"train": ["a b"] * 20, "test": ["b c"]}
    assert {len({*c["train"]}) for c in by_rarest_word(texts, [*LABELS] * 7, 0)} == {1}
    assert "words decide the control labels" in caplog.text
    caplog.clear()
    by_rarest_word({"train": texts_of(400, 0)}, [*LABELS] * 134, 0)
    assert not caplog.text


def test_words_alone_learn_it_and_the_labels_are_drawn_from_the_prior():
    texts = {"train": texts_of(2000, 0), "test": texts_of(500, 1)}
    labels = random.Random(2).choices(LABELS, (6, 3, 1), k=2000)
    drawn = by_rarest_word(texts, labels, 0, draws=200)
    counted = Counter(label for control in drawn for label in control["train"])
    shares = [counted[label] / counted.total() for label in LABELS]
    assert np.allclose(shares, (0.6, 0.3, 0.1), atol=0.06)
    bag = CountVectorizer(binary=True, token_pattern=r"\w+").fit(texts["train"])
    x, y = (bag.transform(texts[split]) for split in ("train", "test"))
    control = next(c for c in drawn if len({*c["train"]}) == 3)
    learnt = LinearSVC().fit(x, control["train"]).score(y, control["test"])
    most = max(Counter(control["test"]).values()) / 500
    assert learnt > most + 0.15


def test_control_tags_are_one_a_word_type_and_follow_the_distribution():
    words = [f"w{i}" for i in range(2000)]
    tags = [("B-protein" if i % 4 == 0 else "O") for i in range(2000)]
    parts = {"train": slice(1500), "test": slice(1000, None)}
    splits = {name: [ner.Example(name, words[s], tags[s])] for name, s in parts.items()}
    (control,) = ner.controls(None, splits, 1)["control"]
    kinds = {}
    for (example,) in control.values():
        for word, tag in zip(example.words, example.tags, strict=True):
            assert kinds.setdefault(word, tag[2:] or tag) == (tag[2:] or tag)
    share = sum(kind == "protein" for kind in kinds.values()) / len(kinds)
    assert 0.2 < share < 0.3
    again, other = (ner.controls(None, splits, seed)["control"][0] for seed in (1, 2))
    assert control == again != other
