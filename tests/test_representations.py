"""Which layers are probed, and the tags of the control task."""

import pytest

from common.cli import UserError
from common.steps.probing import chosen_layers
from NER import task as ner


def test_choice_of_layers():
    assert chosen_layers("all", 2) == [0, 1, 2] and chosen_layers("last", 12) == [12]
    assert chosen_layers("6,0,6", 12) == [0, 6]
    with pytest.raises(UserError, match="0 .embeddings. to 12"):
        chosen_layers("13", 12)


def test_control_tags_are_one_a_word_type_and_follow_the_distribution():
    words = [f"w{i}" for i in range(2000)]
    tags = [("B-protein" if i % 4 == 0 else "O") for i in range(2000)]
    parts = {"train": slice(1500), "test": slice(1000, None)}
    splits = {name: [ner.Example(name, words[s], tags[s])] for name, s in parts.items()}
    control = ner.controls(None, splits, 1)["control"]
    kinds = {}
    for (example,) in control.values():
        for word, tag in zip(example.words, example.tags, strict=True):
            assert kinds.setdefault(word, tag[2:] or tag) == (tag[2:] or tag)
    share = sum(kind == "protein" for kind in kinds.values()) / len(kinds)
    assert 0.2 < share < 0.3
    again, other = (ner.controls(None, splits, seed)["control"] for seed in (1, 2))
    assert control == again != other
