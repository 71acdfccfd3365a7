"""Answers as text: what is written is read back, through tokenizers too; what is broken never
crashes and never gives more words than the sentence has."""

import random

import pytest

from Classification.data import VERDICTS
from common import models
from Instruct import encoding, parsing, prompts, sources
from Instruct.parsing import read_free, read_label, read_labels
from NLI import task as nli_task
from QA.scores import exact_and_f1

# Words that look like the form's own marks, repeat, or are broken up by tokenizers.
SENTENCES = [
    (["IL-2", "gene", ";", "IL-2", ":", "B", "/", "IL-2", "gene"], "BIOBOOOBI"),
    (["a", ";", "b", "@", "2", "\\", ";", ":", "O"], "BIIOBBIOO"),
    (["none", "of", "the", "T", "cells", "###", "(", "CD28", ")", "."], "BOOBIOOBOO"),
    (["yes", ",", "no", '"', "50", "%", "'s", "don't", "A/B", "x-y"], "OOOBIIOOBB"),
    (["the", "the", "the", "the"], "OBOO"),
    (["x", "xx", "x", "x", "x"], "OOBIB"),
    (["word"], "O"),
    (["@", "@2", "a@2", "a", "a"], "BBBOB"),
    (["\\", "\\", "\\@", "@\\"], "OBBB"),
    (["none.", "or", "(none)", "no", "ne"], "BOBBB"),
    (["HLA:B", "C18:O", "C:I", "HLA", ":B"], "BOBOB"),
]
LABELS = ["AGONIST", "AGONIST-ACTIVATOR", "AGONIST-INHIBITOR", "no", "none", "not sure", "1", "0"]
FREE = ["the IL-2 gene", "about 50 %, or 3.5", prompts.UNANSWERABLE]
HALLMARKS = ["Cellular energetics", "Inducing angiogenesis", "Resisting cell death"]


def write_labels(labels):
    return sources.row_of("classification", ["text"], labels)["output"]


def tags(letters, kind="protein"):
    return ["O" if letter == "O" else f"{letter}-{kind}" for letter in letters]


def ner_rows():
    return [
        sources.ner_row(words, tags(letters), "protein", form) | {"kind": "ner", "form": form}
        for words, letters in SENTENCES
        for form in ("tags", "list")
    ]


def read_ner(text, row):
    return parsing.read(text, row, [], row["form"])


@pytest.mark.parametrize("kind", [None, "gpt2", "biogpt", "llama", "llama3"])
def test_what_is_written_is_read_back(kind, checkpoint):
    """Of every kind, as text, and as a tokenizer gives it back (BioGPT drops newlines and moves
    blanks, Llama 2 puts one in front)."""

    def through(text):
        return encoding.decode(tokenizer, encoding.answer_ids(tokenizer, text)) if kind else text

    if kind:
        folder = str(checkpoint(kind))
        _, tokenizer = models.load_task_model(folder, "causal", [])
    for row in ner_rows():
        assert read_ner(through(row["output"]), row) == (row["gold"], False)
    for labels in (LABELS, nli_task.LABELS, sorted(VERDICTS)):
        for label in labels:
            assert read_label(through(label), labels) == (label, False)
    for n in range(len(HALLMARKS) + 1):
        text = through(write_labels(HALLMARKS[:n]))
        assert read_labels(text, HALLMARKS) == (HALLMARKS[:n], False)
    for text in FREE:
        answer, failed = read_free(through(text))
        assert exact_and_f1(answer, [text] * (text != prompts.UNANSWERABLE))[1] == 1 and not failed


def test_words_with_blanks_keep_their_number():
    row = sources.ner_row(["IL 2", "", "\u00a0", "gene"], tags("BOOB"), "protein", "tags")
    assert row["input"].split(" ") == ["IL_2", "_", "_", "gene"]
    assert read_ner(row["output"], row | {"kind": "ner", "form": "tags"}) == (row["gold"], False)


def test_the_other_types_are_outside():
    words, mixed = ["IL-2", "gene", "T", "cells"], ["B-DNA", "I-DNA", "B-cell_type", "I-cell_type"]
    row = sources.ner_row(words, mixed, "DNA", "tags")
    assert row["gold"] == ["B-DNA", "I-DNA", "O", "O"] and row["type"] == "DNA"
    assert row["output"] == "IL-2 : B ; gene : I ; T : O ; cells : O"


@pytest.mark.parametrize(
    "answer, letters, failed",
    [
        ("the : O ; IL-2 : B ; gene : I ; of : O ; the : O ; cell : O", "OBIOOO", False),
        ("THE:o;il-2:b;GENE:i;Of:o;tHe:O;cell:o", "OBIOOO", False),  # case, blanks
        ("the : O\nIL-2 : B\ngene : I\nof : O\nthe : O\ncell : O", "OBIOOO", False),  # lines
        ("the : O, IL-2 : B, gene : I, of : O, the : O, cell : O.", "OBIOOO", False),  # commas
        ("the : O ; IL-2 : B-DNA ; gene : I-DNA ; of : O ; the : O ; cell : O", "OBIOOO", False),
        ("the : O ; lL-Z : B ; geen : I ; of : O ; the : O ; cell : O", "OBIOOO", False),  # garbled
        ("the : O ; gene : I ; of : O ; the : B ; cell : I", "OOIOBI", False),  # words are missing
        ("the : O ; IL-2 : B ; IL-2 : B ; gene : I ; of : O ; the : O ; cell : O", "OBIOOO", False),
        ("cell : I ; the : O ; IL-2 : B ; gene : I ; of : O ; the : O", "OBIOOI", False),  # order
        ("the : O ; IL-2 : B ; gene : I", "OBIOOO", False),  # cut off, half is there
        ("the : O ; IL-2 : B", "OBOOOO", True),
        ("of : O ; the : B ; cell : I", "OOOOBI", False),  # the second "the": by place, not by word
        ("the : O ; HLA:B : B ; gene : I ; of : O ; the : O ; cell : O", "OBIOOO", False),
        ("the : O ; IL-2 : X ; gene : I ; of : O ; the : O ; cell : O", "OOIOOO", False),
        ("I cannot do that", "OOOOOO", True),
        ("", "OOOOOO", True),
    ],
)
def test_forgiving_tags(answer, letters, failed):
    words = "the IL-2 gene of the cell".split()
    assert parsing.read_tags(answer, words, "DNA") == (tags(letters, "DNA"), failed)


@pytest.mark.parametrize(
    "answer, letters",
    [
        ("C:I : B ; HLA:B : O ; gene : O", "BOOO"),  # the last word is missing
        ("C:I:B ; HLA:B:O ; gene:O", "BOOO"),
        ("C:I : B ; HLA:B : I", "BIOO"),
        ("gene : B ; x : O ; HLA:B", "OOBO"),  # cut off before the tag
    ],
)
def test_words_that_end_like_a_tag(answer, letters):
    words = ["C:I", "HLA:B", "gene", "x"]
    assert parsing.read_tags(answer, words, "DNA")[0] == tags(letters, "DNA")


@pytest.mark.parametrize(
    "answer, letters, failed",
    [
        ("IL-2 gene ; CD28", "BIOBOO", False),
        ("cd28; il-2 GENE", "BIOBOO", False),
        ("IL-2 gene ; CD28 ; IL-2", "BIOBOB", False),
        ("IL-2 @2", "OOOOOB", False),
        ("IL-2 gene ; CD29", "BIOOOO", False),
        ("IL-2 gene ; CD29 ; IL-3", "BIOOOO", True),
        ("IL-2 @9", "BOOOOO", False),
        ("CD28 ; CD28", "OOOBOO", False),  # a place is taken once
        ("1. IL-2 gene\n2. CD28", "BIOBOO", False),  # numbers, quotes, commas, as of labels
        ("(1) IL-2 gene; - CD28", "BIOBOO", False),
        ('"IL-2 gene", "CD28".', "BIOBOO", False),
        ("IL-2 gene, CD28, IL-2", "BIOBOB", False),
        ("None.", "OOOOOO", False),
        (".", "OOOOOO", True),
        ("", "OOOOOO", True),
    ],
)
def test_forgiving_entities(answer, letters, failed):
    words = "IL-2 gene and CD28 or IL-2".split()
    assert parsing.read_entities(answer, words, "DNA") == (tags(letters, "DNA"), failed)


def test_names_with_commas_and_a_full_stop():
    """A comma or a mark alone is a name's only if it is written so."""
    words = "1 , 25 D3 , vitamin D , cells .".split()
    for answer, letters in (
        ("vitamin D, cells.", "OOOOOBIOBO"),
        ("1 , 25 D3 ; vitamin D", "BIIIOBIOOO"),
        ("1 \\, 25 D3", "BIIIOOOOOO"),
        ("cells ; .", "OOOOOOOOBO"),
        (".", "OOOOOOOOOO"),
        (". @1", "OOOOOOOOOB"),
    ):
        assert parsing.read_entities(answer, words, "DNA")[0] == tags(letters, "DNA")
    assert parsing.write_entities(words, tags("BIIIOOOOOB")) == "1 \\, 25 D3 ; . @1"


@pytest.mark.parametrize(
    "text, kind, form, gold",
    [
        ("IL-2 : B ; gene : I", "ner", "tags", ["O"] * 8),
        ("IL-2 ; CD29 ; CD30", "ner", "list", ["O"] * 8),
        ("alpha ; wings ; fins", "classification", "tags", []),
        ("alpha or beta", "nli", "tags", None),
    ],
)
def test_after_a_parse_failure_nothing_counts(text, kind, form, gold):
    row = {"kind": kind, "input": "the IL-2 gene of the T cell .", "type": "DNA"}
    row["gold"] = tags("OBIOOOOO", "DNA") if kind == "ner" else gold
    assert parsing.read(text, row, ["alpha", "beta"], form) == (gold, True)


def test_composed_and_decomposed_text_are_the_same():
    label, other = "Caf\u00e9-positive", "Cafe\u0301-positive"
    assert read_label(other, [label]) == (label, False)
    assert read_label(f"It is {other}.", [label, "b"]) == (label, False)
    assert read_labels(f"{other} ; b", [label, "b"]) == ([label, "b"], False)
    words = ["the", "Caf\u00e9", "gene"]
    assert parsing.read_tags("the : O ; Cafe\u0301 : B ; gene : I", words, "x")[0][1] == "B-x"
    assert parsing.read_entities("Cafe\u0301 gene", words, "x")[0] == tags("OBI", "x")


@pytest.mark.parametrize(
    "answer, label",
    [
        ("agonist - activator", "AGONIST-ACTIVATOR"),
        ("The answer is AGONIST-INHIBITOR.", "AGONIST-INHIBITOR"),
        ("AGONIST .", "AGONIST"),
        ("notsure", "not sure"),
        ("No.", "no"),
        ("1", "1"),
        ("The relation: none", "none"),
        ("AGONIST or none", None),
        ("agonist_activator", "AGONIST-ACTIVATOR"),
        ("It is an AGONIST activator", "AGONIST-ACTIVATOR"),  # not AGONIST
        ("AGONIST-LIKE", None),
        ("_Agonist_", "AGONIST"),
        ("not AGONIST", None),  # negated
        ("It isn't an AGONIST", None),
        ("non-agonist", None),
        ("I do not doubt it: AGONIST", "AGONIST"),
        ("No, it is not", "no"),
        ("no no no", "no"),  # said again, not negated
        ("-1", None),  # a sign, a decimal point
        ("The answer is - 1", None),
        ("1.0", None),
        ("0,1", None),
        ("10", None),
        ("nothing", None),
        ("", None),
        ("...", None),
    ],
)
def test_forgiving_labels(answer, label):
    assert read_label(answer, LABELS) == (label, label is None)


def test_labels_of_punctuation_and_labels_like_none():
    for labels in (["+", "-"], ["none.", "some"], ["-1", "1"], ["a, b", "c"]):
        for n in range(3):
            text = write_labels(sorted(labels)[:n])
            assert read_labels(text, labels) == (sorted(labels)[:n], False)
        for label in labels:
            assert read_label(label, labels) == (label, False)
    assert read_label("The sign is -.", ["+", "-"]) == ("-", False)
    assert read_label("a;b", ["a;b", "b"]) == ("a;b", False)


@pytest.mark.parametrize(
    "answer, labels, failed",
    [
        ("resisting cell death; Cellular  energetics", [0, 2], False),
        ("Inducing angiogenesis, Cellular energetics.", [0, 1], False),
        ("Inducing angiogenesis ; Inducing angiogenesis", [1], False),
        ("Inducing angiogenesis ; Growing wings", [1], False),
        ("Growing wings", [], True),
        ("None.", [], False),
        ("None!", [], False),
        ("None of the above", [], True),
        ("", [], True),
    ],
)
def test_forgiving_lists_of_labels(answer, labels, failed):
    wanted = [HALLMARKS[i] for i in labels]
    assert read_labels(answer, HALLMARKS) == (wanted, failed)


def test_free_answers():
    assert read_free("  Two\n words ") == ("Two words", False)
    for end in (".", " .", "!"):
        assert read_free(f"{prompts.UNANSWERABLE.upper()}{end}") == ("", False)
    assert read_free(" ") == ("", True)


def corrupted(text, rng):
    """`text` with one to six random changes of words, characters or order."""
    parts = text.split(" ")
    for _ in range(rng.randint(1, 6)):
        i = rng.randrange(len(parts)) if parts else 0
        change = rng.randrange(8)
        if change == 0:
            parts = parts[:i]
        elif change == 1:
            parts = parts[:i] + parts[i:] * rng.randint(2, 4)
        elif change == 2:
            parts.insert(
                i, rng.choice([";", ":", "B", "@2", "\\", "\n", "none", "\u2028", "B-", ""])
            )
        elif change == 3:
            rng.shuffle(parts)
        elif change == 4 and parts:
            parts.pop(i)
        elif change == 5 and parts:
            parts[i] = parts[i].swapcase()[::-1]
        elif change == 6:
            parts = list("".join(parts))
        else:
            parts = (
                parts[:i] + ["".join(rng.choices(";:@\\BIOx \n\u00e9\U0001f600", k=5))] + parts[i:]
            )
    return " ".join(parts)


def random_sentence(rng):
    """Words of the form's own marks, some of them several times, and their tags."""
    parts = [*":;@\\,.()-_2bBiIoO", ":B", ":O", ":I-x", "none", "@1", "\u0130", "\u200b"]
    some = ["".join(rng.choices(parts, k=rng.randint(1, 3))) for _ in range(rng.randint(1, 6))]
    words = rng.choices(some, k=rng.randint(1, 9))
    letters = "".join(rng.choices("OBI", k=len(words)))
    while "OI" in f"O{letters}":  # IOB2
        letters = f"O{letters}".replace("OI", "OB")[1:]
    return words, tags(letters)


def test_random_words_are_read_back():
    rng = random.Random(0)
    for _ in range(3000):
        words, gold = random_sentence(rng)
        for form in ("tags", "list"):
            made = sources.ner_row(words, gold, "protein", form)
            row = made | {"kind": "ner", "form": form}
            assert read_ner(row["output"], row) == (gold, False), words
            found, failed = read_ner(corrupted(row["output"], rng), row)
            assert len(found) == len(gold) and set(found) <= {"O", "B-protein", "I-protein"}
            assert isinstance(failed, bool)
            cut = row["output"][: rng.randint(0, len(row["output"]))]
            assert len(read_ner(cut, row)[0]) == len(gold)


def test_2000_random_corruptions_of_labels():
    rng = random.Random(0)
    for _ in range(2000):
        text = corrupted(write_labels(rng.sample(HALLMARKS, 2)), rng)
        several, _ = read_labels(text, HALLMARKS)
        assert several == sorted(set(several)) and set(several) <= set(HALLMARKS)
        label, failed = read_label(text, HALLMARKS)
        assert failed == (label is None) and (failed or label in HALLMARKS)


def test_a_long_answer_is_read_in_little_time():
    words = [f"w{i % 7}" for i in range(200)]
    text = "w1 : O ; " * 3000
    assert len(parsing.read_tags(text, words, "x")[0]) == 200
    assert len(parsing.read_tags(" " * 50_000 + "x" * 50_000, words, "x")[0]) == 200
    assert len(parsing.read_entities("w1 ; " * 3000, words, "x")[0]) == 200
    assert read_label("not " * 5000 + "AGONIST " * 5000, LABELS) == (None, True)
