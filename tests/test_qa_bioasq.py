"""BioASQ: conversion to SQuAD form and back, merged answers, and the official scores by hand."""

import importlib
import itertools
import json
import random
import subprocess
import sys

import numpy as np
import pytest

from common.cli import ROOT, UserError
from common.data_files import json_file
from QA import bioasq, demo_data, squad

main = importlib.import_module("QA.bioasq").main


def question(
    key="5a1", body="Which gene ?", snippets=("BRCA1 is it .",), answer=None, kind="factoid"
):
    made = {"id": key, "type": kind, "body": body, "snippets": [{"text": s} for s in snippets]}
    return made if answer is None else made | {"exact_answer": answer}


def read(*listed):
    return bioasq.parse({"file.json": {"questions": list(listed)}})[0]


def squad_form(pairs):
    return squad.parse({"file.json": json.loads(json.dumps(bioasq.to_squad(pairs)))})


def merged(*snippets):
    """`merge` of (text, [(answer, probability)]) a snippet; `{text: probability}`."""
    given = {
        n: (text, [{"start": text.index(a), "end": text.index(a) + len(a), "probability": p}
                   for a, p in answers])
        for n, (text, answers) in enumerate(snippets)
    }  # fmt: skip
    return {
        snippets[found["snippet"]][0][found["start"] : found["end"]]: found["probability"]
        for found in bioasq.merge(given)
    }


# --- Reading


@pytest.mark.parametrize(
    ("answer", "flat"),
    [
        ("TP53", ["TP53"]),
        (["TP53", "p53"], ["TP53", "p53"]),
        ([["TP53", "p53"], ["MDM2"]], ["TP53", "p53", "MDM2"]),
        ([["TP53"], "p53", None, ["TP53", " "]], ["TP53", "p53"]),
        (None, []),
        ("", []),
        ({"a": 1}, []),
    ],
)
def test_exact_answers_of_any_form_become_flat(answer, flat):
    assert read(question(answer=answer))[0].synonyms == flat


def test_other_questions_are_counted_and_left_out():
    listed = [question(kind=kind, key=kind, answer="yes") for kind in ("yesno", "list", "list")]
    documents = {"a.json": {"questions": listed}, "b.json": {"questions": [question(), question()]}}
    found, counts = bioasq.parse(documents)
    assert [pair.title for pair in found] == ["5a1"]
    assert counts == {"left_out_yesno": 1, "left_out_list": 2, "left_out_summary": 0,
                      "duplicate_ids": 1, "factoid_questions": 1, "pairs_without_answer": 1,
                      "questions_without_answer": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "not in BioASQ form"),
        ({"data": []}, "not in BioASQ form"),
        ({"questions": []}, "no factoid question"),
        ({"questions": [question(kind="yesno")]}, "no factoid question .it has 1 yesno"),
        ({"questions": ["text"]}, r"questions\[0\] is not a JSON object"),
        ({"questions": [question() | {"id": 5}]}, r"questions\[0\]: 'id' is not a string"),
        ({"questions": [{"type": "factoid", "body": "x"}]}, r"questions\[0\]: 'id' is missing"),
        ({"questions": [question(kind="essay")]}, "no factoid question .it has 1 essay"),
        ({"questions": [question() | {"snippets": "x"}]}, "'snippets' is not a list"),
        ({"questions": [question() | {"snippets": [{}]}]}, r"snippets\[0\]: 'text' is missing"),
    ],
)
def test_what_is_not_bioasq_is_the_users_error(document, said):
    with pytest.raises(UserError, match=said) as error:
        bioasq.parse({"file.json": document})
    assert "file.json" in str(error.value) and "BRCA1" not in str(error.value)


# --- Conversion


def test_pairs_get_numbers_in_the_snippets_order():
    found = read(question(snippets=["xBRCA1", "Brca1, BRCA1 .", "a BRCA1-x"], answer=[["BRCA1"]]))
    assert [e.id for e in found] == ["5a1_001", "5a1_002", "5a1_003"] and found[0].golds == []
    assert [e.snippet for e in found] == [0, 1, 2]
    examples, mended = squad_form(found[1:])
    assert [e.id for e in examples] == ["5a1_002", "5a1_003"]
    assert [[e.context[a:b] for a, b in e.answers] for e in examples] == [
        ["Brca1", "BRCA1"],
        ["BRCA1"],
    ]
    assert not any(mended.values())


def test_a_question_without_a_snippet_stays():
    found = read(question(snippets=[], answer="BRCA1"), question(key="6b2"))
    assert [(e.id, e.context) for e in found] == [("5a1_001", ""), ("6b2_001", "BRCA1 is it .")]


def test_answers_are_whole_words():
    assert bioasq.occurrences("IL-21 and il-2, IL-2", ["IL-2"]) == [(10, 14), (16, 20)]
    assert bioasq.occurrences("anti-IL-21 or TIL-2", ["IL-2"]) == []
    assert bioasq.occurrences("a (b) c", ["(b)", "B"]) == [(2, 5), (3, 4)]
    assert bioasq.occurrences("İx straße", ["Straße"]) == [(3, 9)]  # lower() would move it


def test_conversion_round_trip_of_random_documents():
    """Every answer of the SQuAD form is a synonym, and every synonym in a snippet is found."""
    rng = random.Random(0)
    words = ["BRCA1", "brca1", "IL-2", "p53", "Kinase", "ß-Cell", "β", "(x)", "and", "of", "İ"]
    listed = []
    for n in range(200):
        snippets = [
            " ".join(rng.choices(words, k=rng.randint(0, 8))) for _ in range(rng.randint(0, 4))
        ]
        answer = [[" ".join(rng.choices(words, k=rng.randint(1, 2)))] for _ in range(2)]
        listed.append(question(f"{n:024x}", snippets=snippets, answer=answer))
    found = read(*listed)
    examples, mended = squad_form(found)
    assert mended["moved_answers"] == mended["lost_answers"] == 0
    assert examples == [squad.Example(*e[:6]) for e in found]
    asked = {q["id"]: q for q in listed}
    for e in found:
        texts = [s["text"] for s in asked[e.title]["snippets"]] or [""]
        assert e.id == f"{e.title}_{e.snippet + 1:03d}" and e.context == texts[e.snippet]
        for a, b in e.answers:
            assert e.context[a:b].casefold() in {g.casefold() for g in e.synonyms}
        assert bool(e.answers) == any(g.lower() in e.context.lower() for g in e.synonyms)
    assert {e.title for e in found} == set(asked)


# --- Merging


def test_probabilities_of_one_text_are_added_up():
    found = merged(
        ("The BRCA1 gene", [("BRCA1", 0.5), ("gene", 0.4)]),
        ("brca1, not TP53.", [("brca1", 0.25), ("TP53.", 0.8), ("TP53", 0.1)]),
    )
    assert found == pytest.approx({"TP53": 0.9, "BRCA1": 0.75, "gene": 0.4})
    assert list(found) == ["TP53", "BRCA1", "gene"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [("p53.", "p53"), ("p53 , .", "p53"), ("(p53)", "p53"), ("(p53).", "p53"), ("p(53)", "p(53)")]
    + [("(a) and (b)", "(a) and (b)"), ("p53)", None), ("(p53", None), ("...", None), ("()", None)]
    + [("x" * 100, "x" * 100), ("x" * 101, None), ("x" * 100 + ".", "x" * 100), (" p53", "p53")],
)
def test_what_is_cut_off_and_what_is_dropped(text, kept):
    assert list(merged((f"_{text}_", [(text, 1.0)]))) == [kept] * (kept is not None)


def test_five_are_kept_and_no_answer_is_none():
    text = "a1 b2 c3 d4 e5 f6 g7"
    found = merged((text, [(word, 0.1 + i / 100) for i, word in enumerate(text.split())]))
    assert list(found) == ["g7", "f6", "e5", "d4", "c3"]
    assert bioasq.merge({0: ("x", [{"start": None, "end": None, "probability": 0.9}])}) == []


def test_the_order_of_snippets_and_answers_makes_no_difference():
    rng = random.Random(0)
    text = "p53 P53 tp53 Tp53 mdm2 MDM2 x y z ."
    spans = [(text.index(w), text.index(w) + len(w)) for w in text.split()]
    for _ in range(50):
        given = {
            n: (text, [{"start": a, "end": b, "probability": rng.choice([0.1, 0.2, 1 / 3, 0.7])}
                       for a, b in rng.sample(spans, 6)])
            for n in range(4)
        }  # fmt: skip
        expected = bioasq.merge(given)
        for order in itertools.permutations(given):
            mixed = {n: (given[n][0], rng.sample(given[n][1], 6)) for n in order}
            assert bioasq.merge(mixed) == expected


def test_of_equal_sums_the_first_in_the_file_wins():
    found = merged(("b a", [("a", 0.5), ("b", 0.5)]), ("c", [("c", 0.5)]))
    assert list(found) == ["b", "a", "c"]


# --- Scores


@pytest.mark.parametrize(
    ("answers", "golds", "rank"),
    [
        (["tp53"], ["TP53"], 1),
        (["TP53."], ["TP53"], 0),  # no punctuation rule
        (["the TP53"], ["TP53"], 0),  # no article rule
        ([" TP53"], ["TP53"], 0),
        (["x", "MDM2", "TP53"], ["TP53", "mdm2"], 2),  # several entities, synonyms
        (["a", "b"], ["c"], 0),
        ([], ["c"], 0),
        (["a", "b", "c", "d", "e", "right"], ["right"], 0),  # a sixth does not count
    ],
)
def test_rank_by_hand(answers, golds, rank):
    assert bioasq.rank(answers, golds) == rank


def test_scores_by_hand():
    """Unanswered questions count 0: the official tool skips them, which flatters."""
    rows = [{"id": str(i), "answers": [], "rank": rank} for i, rank in enumerate([1, 2, 5, 0])]
    ((number, strict, lenient, reciprocal),) = bioasq.count(rows).sum(0)
    assert (number, strict, lenient) == (4, 1, 3)
    assert reciprocal / number == pytest.approx((1 + 1 / 2 + 1 / 5 + 0) / 4)
    assert np.array_equal(bioasq.count(rows)[3], [[1, 0, 0, 0]])


def test_the_submission_has_all_questions():
    found = read(question(snippets=["It is MDM2 or BRCA1 ."], answer="brca1"), question(key="6b2"))
    places = [{"snippet": 0, "start": 6, "end": 10, "probability": 0.6},
              {"snippet": 0, "start": 14, "end": 19, "probability": 0.4}]  # fmt: skip
    written = bioasq.submission(found, {"5a1": places, "6b2": []})["questions"]
    assert [q["id"] for q in written] == ["5a1", "6b2"]  # also those without an answer
    assert [q["exact_answer"] for q in written] == [[["MDM2"], ["BRCA1"]], []]


# --- The command


def run(*argv):
    try:
        return main([*map(str, argv)])
    except SystemExit as error:
        return error.code


def test_the_command_converts(tmp_path, capsys):
    assert run("--demo", "--output", tmp_path / "demo") == 0
    source, out = tmp_path / "demo" / "train.json", tmp_path / "factoid.json"
    assert run(source, "--output", out) == 0
    shown = capsys.readouterr().out
    examples, mended = squad.parse({"out": json_file(out)})
    assert all(e.answers for e in examples) and not any(mended.values())
    assert f"pairs                      {len(examples)}" in shown
    assert run(source, "--output", out, "--test", "--overwrite") == 0
    assert len(squad.parse({"out": json_file(out)})[0]) > len(examples)


@pytest.mark.parametrize(
    ("content", "said"), [(b"{", "not valid JSON"), (b'{"data": []}', "not in BioASQ form")]
)
def test_a_file_that_cannot_be_converted(tmp_path, capsys, content, said):
    source, out = tmp_path / "in.json", tmp_path / "out.json"
    source.write_bytes(content)
    out.write_text("mine")
    assert run(source, "--output", out, "--overwrite") == 2
    error = capsys.readouterr().err
    assert said in error and str(source) in error and error.count("\n") == 1
    assert out.read_text() == "mine"


def test_nothing_is_replaced_unasked(tmp_path, capsys):
    out = tmp_path / "out.json"
    out.write_text("mine")
    assert run(tmp_path / "in.json", "--output", out) == 2
    assert "--overwrite" in capsys.readouterr().err and out.read_text() == "mine"
    assert run(tmp_path / "in.json", "--output", tmp_path / "other.json") == 2
    assert "cannot read" in capsys.readouterr().err
    assert run("--output", out) == 2 and run(out, "--demo", "--output", out) == 2


def test_the_command_runs_as_a_file_from_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "QA" / "bioasq.py"), "--demo", "--output", "demo"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"train.json", "test.json"}


def test_the_demos_questions_can_be_answered():
    for split, document in demo_data.bioasq().items():
        _, counts = bioasq.parse({split: document})
        assert counts["left_out_yesno"] > 0
        assert counts["questions_without_answer"] == 0 < counts["pairs_without_answer"]


def test_blanks_around_an_exact_answer_do_not_count():
    assert bioasq._synonyms([[" TP53 ", "p53"], [" "]]) == ["TP53", "p53"]
