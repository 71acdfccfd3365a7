"""Scores by source: equal to the encoders' scorers and to scikit-learn on the same answers."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from common import task as contract
from common.task import evaluate
from Instruct import parsing, scores, task

ner_task, nli_task = contract.load("NER"), contract.load("NLI")
RNG = random.Random(0)
TYPES = ("DNA", "protein", "RNA")
LABELS = ("entailment", "contradiction", "neutral")
TASK = SimpleNamespace(SCORES=scores.SCORES, count=scores.count, details=scores.details)


def row(source, kind, gold, predicted, failed=False, **more):
    return {"id": f"{source}-{RNG.random()}", "source": source, "kind": kind, "gold": gold,
            "predicted": predicted, "parse_failure": failed} | more  # fmt: skip


def random_tags(n):
    """Also tags that are no IOB2: an I- after O or after another type."""
    names = ["O"] * 3 + [f"{prefix}-{kind}" for kind in TYPES for prefix in "BI"]
    return [RNG.choice(names) for _ in range(n)]


def one_type(tags, kind):
    return [tag if tag[2:] == kind else "O" for tag in tags]


def ner_rows(gold, predicted):
    return [
        row("genes", "ner", one_type(g, kind), one_type(p, kind))
        for g, p in zip(gold, predicted, strict=True)
        for kind in TYPES
    ]


def test_entities_are_scored_as_ner_scores_them():
    gold = [random_tags(RNG.randint(1, 20)) for _ in range(60)]
    predicted = [[RNG.choice([a, b]) for a, b in zip(g, random_tags(len(g)), strict=True)]
                 for g in gold]  # fmt: skip
    found = evaluate(TASK, ner_rows(gold, predicted))
    rows = [{"id": "", "gold": g, "predicted": p} for g, p in zip(gold, predicted, strict=True)]
    wanted = evaluate(ner_task, rows)
    for name in ("entity_f1", "entity_f1_strict", "entity_precision", "entity_recall"):
        assert found[f"genes_{name}"] == pytest.approx(wanted[name])
    for kind in TYPES:
        assert found[f"genes_entity_f1_{kind}"] == pytest.approx(wanted[f"entity_f1_{kind}"])
    assert found["mean"] == found["genes_entity_f1"] and 0 < found["mean"] < 1


def test_pairs_are_scored_as_nli_scores_them():
    rows = [row("pairs", "nli", RNG.choice(LABELS), RNG.choice(LABELS)) for _ in range(80)]
    found, wanted = evaluate(TASK, rows), evaluate(nli_task, rows)
    assert found["pairs_accuracy"] == pytest.approx(wanted["accuracy"])
    assert found["pairs_macro_f1"] == pytest.approx(wanted["macro_f1"])


@pytest.mark.parametrize("negative, given", [("none", None), ("0", None), ("False", None),
                                             ("NO-REL", "NO-REL")])  # fmt: skip
def test_relations_without_the_negative_class(negative, given):
    positive = ["CAUSE", "INHIBITOR", "AGONIST"]
    gold = [RNG.choice([negative, negative, *positive]) for _ in range(100)]
    predicted = [RNG.choice([g, negative, *positive]) for g in gold]
    more = {"negative": given} if given else {}
    rows = [row("rel", "relation", g, p, **more) for g, p in zip(gold, predicted, strict=True)]
    found = evaluate(TASK, rows)
    for average in ("micro", "macro"):
        wanted = f1_score(gold, predicted, labels=positive, average=average, zero_division=0)
        assert found[f"rel_{average}_f1"] == pytest.approx(wanted)
    assert found["mean"] == found["rel_micro_f1"]


def test_several_labels():
    names = ["a", "b", "c", "d"]
    sides = [[sorted(RNG.sample(names, RNG.randint(0, 3))) for _ in range(60)] for _ in range(2)]
    rows = [row("cls", "classification", g, p) for g, p in zip(*sides, strict=True)]
    found = evaluate(TASK, rows)
    binary = [np.array([[n in side for n in names] for side in s]) for s in sides]
    for average in ("micro", "macro"):
        wanted = f1_score(*binary, average=average, zero_division=0)
        assert found[f"cls_{average}_f1"] == pytest.approx(wanted)


def test_no_label_is_wrong():
    """A parse failure: counted, not right, and no class is blamed for having been predicted."""
    gold = ["yes", "no", "maybe", "yes"]
    predicted = ["yes", None, "yes", None]
    failed = [p is None for p in predicted]
    rows = [row("qa", "qa", g, p, f) for g, p, f in zip(gold, predicted, failed, strict=True)]
    found = evaluate(TASK, rows)
    strings = [str(p) for p in predicted]
    wanted = f1_score(gold, strings, labels=["yes", "no", "maybe"], average="macro")
    assert found["qa_accuracy"] == accuracy_score(gold, strings) == 0.25
    assert found["qa_macro_f1"] == pytest.approx(wanted)
    assert found["qa_parse_failures"] == 0.5


def test_sources_stand_side_by_side():
    rows = [
        *(row("a", "nli", "neutral", "neutral") for _ in range(3)),
        *(row("b", "qa", "yes", "no", i == 0) for i in range(5)),
        *(row("c", "free_qa", None, value) for value in (0.5, 1.0)),
        row("d", "ner", ["O", "O"], ["O", "O"]),
    ]
    random.Random(1).shuffle(rows)
    found = evaluate(TASK, rows)
    mains = {"a_accuracy": 1, "b_accuracy": 0, "c_f1": 0.75, "d_entity_f1": 0}
    assert {name: found[name] for name in mains} == mains
    assert found["mean"] == pytest.approx(1.75 / 4)
    assert found["parse_failures"] == pytest.approx(0.2 / 4)
    tables = scores.count(rows)
    assert all(len(table) == len(rows) for table in tables.values())
    # What a bootstrap does: sums of resampled rows, several at once.
    weights = np.array([[1] * len(rows), [2] * len(rows)])
    for score in (*scores.SCORES, *scores.parts(rows, brief=False)):
        sums = np.tensordot(weights, tables[score.table], 1)
        assert score.value(sums) == pytest.approx([found[score.name]] * 2)


def free_score(answer, references, failed):
    example = {"id": "1", "group": "1", "source": "s", "kind": "free_qa", "gold": references}
    return task.row(SimpleNamespace(sources={"s": {}}), example, (answer, failed))["predicted"]


@pytest.mark.parametrize(
    "answer, references, value",
    [
        ("gene", ["the IL-2 gene", "a protein"], 2 / 3),
        ("", [], 1),
        ("gene", [], 0),
        ("", ["gene"], 0),
    ],
)
def test_free_answers_as_squad_scores_them(answer, references, value):
    assert free_score(answer, references, False) == pytest.approx(value)


def test_an_empty_text_is_no_answer_that_there_is_none():
    assert free_score(*parsing.read_free("unanswerable")[:1], [], False) == 1
    answer, failed = parsing.read_free(" ")
    assert free_score(answer, [], failed) == 0


@pytest.mark.parametrize(
    "rows",
    [
        [{"id": "1", "gold": "a", "predicted": "b"}],
        [row("a", "unknown", "a", "a")],
        [row("a", "ner", None, ["O"])],
        [row("a", "free_qa", None, None)],
    ],
)
def test_rows_that_are_no_predictions(rows):
    with pytest.raises((ValueError, LookupError, TypeError)):
        scores.count(rows)
