"""SQuAD-form files: exact spans, what is mended and counted, splits, and what is refused."""

import copy
import json
import re

import pytest

from common.cli import UserError
from QA import data, squad

SECRET = "confidential"


def document(*qas, context=f"The {SECRET} p53 protein binds DNA .", title="Protein"):
    return {"data": [{"title": title, "paragraphs": [{"context": context, "qas": list(qas)}]}]}


def asked(key="q1", *answers, **more):
    listed = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": key, "question": f"What is {SECRET} ?", "answers": listed} | more


def parse(*qas, **options):
    return squad.parse({"file.json": document(*qas, **options)})


def article(n, context=None, questions=2):
    context = context or f"Passage {n} about p53 ."
    qas = [asked(f"{n}-{i}", ("p53", context.index("p53"))) for i in range(questions)]
    return document(*qas, context=context, title=f"title {n}")["data"][0]


def write(path, articles):
    path.write_text(json.dumps({"version": "v2.0", "data": list(articles)}), encoding="utf-8")


# --- Answers


@pytest.mark.parametrize(
    ("text", "start", "span", "moved"),
    [
        ("p53", 4, (4, 7), False),
        (" p53 ", 3, (4, 7), False),  # outer white space is no part of an answer
        ("p53", 5, (4, 7), True),
        ("p53", 12, (14, 17), True),
        ("p53", 9, (4, 7), True),  # as far from both: the first
        ("p53", 900, (14, 17), True),
        ("p53", -4, (4, 7), True),
        ("MDM2", 4, None, True),
    ],
)
def test_an_answer_is_where_it_says_or_nearby(text, start, span, moved):
    assert squad.locate("The p53 is a  p53 .", text, start) == (span, moved)


def test_passages_and_answers_are_read_in_one_unicode_form():
    """An offset counts the passage's characters as it was given; a score compares equal forms."""
    composed, apart = "Sjögren", "Sjo\u0308gren"
    for text, context in ((apart, f"a Café: {composed} ."), (composed, f"a Cafe\u0301: {apart} .")):
        start = context.index("Sj")
        answer = {"text": text, "answer_start": start}
        question = {"id": "1", "question": "?", "answers": [answer]}
        document = {"data": [{"paragraphs": [{"context": context, "qas": [question]}]}]}
        (parsed,), counts = squad.parse({"x.json": document})
        assert parsed.context == f"a Café: {composed} ." and parsed.golds == [composed]
        assert parsed.answers == [(8, 15)] and not any(counts.values())


def test_what_is_mended_is_counted_and_named(caplog):
    found, counts = parse(
        asked("exact", ("p53", 17)), asked("moved", ("p53", 20)), asked("lost", ("MDM2", 3)),
        asked("blank", (" ", 3)), asked("none"), asked("exact", ("DNA", 30)),
    )  # fmt: skip
    assert counts == {"moved_answers": 1, "lost_answers": 1, "duplicate_ids": 1}
    by_id = {e.id: e for e in found}
    assert list(by_id) == ["exact", "moved", "lost", "blank", "none"]
    assert by_id["exact"].answers == by_id["moved"].answers == [(17, 20)]
    assert by_id["lost"].answers == [] and by_id["lost"].golds == ["MDM2"]  # still has an answer
    assert by_id["blank"].golds == by_id["none"].golds == []
    assert "file.json: 1 moved answers, 1 lost answers, 1 duplicate ids" in caplog.text
    assert SECRET not in caplog.text


def test_an_empty_passage_is_no_crash():
    found, counts = parse(asked("a"), asked("b", ("p53", 0)), context="")
    assert counts["lost_answers"] == 1
    assert [e.answers for e in found] == [[], []]


def test_every_answer_is_exact_and_one_span_stands_once():
    (example,), _ = parse(asked("q", ("p53", 17), ("p53 ", 17), ("protein", 21)))
    assert example.answers == [(17, 20), (21, 28)]
    assert [example.context[a:b] for a, b in example.answers] == ["p53", "protein"]
    assert example.golds == ["p53", "p53", "protein"]


def test_is_impossible_is_not_needed_and_does_not_count():
    found, _ = parse(
        asked("v1", ("p53", 17)), asked("v2", is_impossible=True, plausible_answers=[])
    )
    assert [bool(e.golds) for e in found] == [True, False]


def test_rows_of_the_hub_are_read_as_files_are():
    parts = {"context": "The p53 .", "title": "T", "question": "What ?"}
    rows = [
        ("row 1", {"id": "a", "answers": {"text": ["p53"], "answer_start": [4]}} | parts),
        ("row 2", {"id": "b", "answers": {"text": [], "answer_start": []}} | parts),
    ]
    found, counts = squad.examples(squad.hub_rows(rows), "squad_v2")
    assert [(e.id, e.title, e.answers, e.golds) for e in found] == [
        ("a", "T", [(4, 7)], ["p53"]), ("b", "T", [], [])
    ]  # fmt: skip
    assert not any(counts.values())


# --- What is refused


def broken(apply):
    made = copy.deepcopy(document(asked("q1", ("p53", 17))))
    apply(made["data"][0]["paragraphs"][0])
    return made


def change(*path, **values):
    """A function that changes what stands at `path` of a paragraph; None takes it away."""

    def apply(paragraph):
        for step in path:
            paragraph = paragraph[step]
        for key, value in values.items():
            paragraph.pop(key)
            if value is not None:
                paragraph[key] = value

    return apply


ANSWER = ("qas", 0, "answers", 0)
BROKEN = {
    r"data\[0\].paragraphs\[0\].qas\[0\]: 'id' is missing": change("qas", 0, id=None),
    r"qas\[0\]: 'id' is not a string": change("qas", 0, id=7),
    r"qas\[0\]: 'question' is missing": change("qas", 0, question=None),
    r"qas\[0\]: 'answers' is missing": change("qas", 0, answers=None),
    r"qas\[0\] is not a JSON object": change(qas=["q"]),
    r"paragraphs\[0\]: 'context' is missing": change(context=None),
    r"paragraphs\[0\]: 'qas' is not a list": change(qas={}),
    r"answers\[0\]: 'text' is missing": change(*ANSWER, text=None),
    r"answers\[0\]: 'answer_start' is not a whole number": change(*ANSWER, answer_start="17"),
    "file.json has no question": change(qas=[]),
}


@pytest.mark.parametrize("said", BROKEN)
def test_a_broken_file_is_the_users_error(said):
    with pytest.raises(UserError, match=said) as error:
        squad.parse({"file.json": broken(BROKEN[said])})
    assert "file.json" in str(error.value) and SECRET not in str(error.value)


@pytest.mark.parametrize("value", [[], "text", {}, {"data": {}}, {"questions": []}, None])
def test_other_json_is_not_squad_form(value):
    with pytest.raises(UserError, match="file.json is not in SQuAD form"):
        squad.parse({"file.json": value})


# --- Splits


def read(folder):
    return data.load(False, folder).splits


def test_three_files_are_three_splits(tmp_path):
    for n, name in enumerate(("train-v2.0", "validation", "test")):
        write(tmp_path / f"{name}.json", [article(n)])
    splits = read(tmp_path)
    assert {s: [e.title for e in splits[s]] for s in splits} == {
        "train": ["title 0"] * 2, "dev": ["title 1"] * 2, "test": ["title 2"] * 2
    }  # fmt: skip


@pytest.mark.parametrize("second", ["dev", "test"])
def test_without_a_dev_file_a_tenth_of_the_articles_is_cut(tmp_path, second):
    write(tmp_path / "train.json", [article(n) for n in range(40)])
    write(tmp_path / f"{second}.json", [article(99)])
    splits = read(tmp_path)
    assert list(splits) == ["train", "dev", "test"]
    assert {e.title for e in splits["test"]} == {"title 99"}
    titles = {s: {e.title for e in splits[s]} for s in splits}
    assert len(titles["dev"]) == 4 and len(titles["train"]) == 36
    assert not titles["dev"] & titles["train"]
    assert read(tmp_path) == splits  # the same ones every time


def test_articles_that_share_a_passage_stay_on_one_side():
    articles = [article(n) for n in range(40)]
    articles += [article(100 + n, f"Passage {n} about p53 .") for n in range(20)]
    examples, _ = squad.parse({"file.json": {"data": articles}})
    train, dev = squad.cut_dev(examples)
    assert len(train) + len(dev) == len(examples) and dev
    assert not {e.context for e in train} & {e.context for e in dev}
    assert not {e.title for e in train} & {e.title for e in dev}


def test_one_article_is_cut_by_passage_and_one_passage_not_at_all():
    paragraphs = [article(n)["paragraphs"][0] for n in range(20)]
    examples, _ = squad.parse({"file.json": {"data": [{"title": "T", "paragraphs": paragraphs}]}})
    train, dev = squad.cut_dev(examples)
    assert len({e.context for e in dev}) == 2 and len({e.context for e in train}) == 18
    alone = [e for e in examples if e.context == examples[0].context]
    assert squad.cut_dev(alone) == (alone, [])


@pytest.mark.parametrize("names", [(), ("train",), ("dev",), ("dev", "test")])
def test_a_missing_file_is_named(tmp_path, names):
    for n, name in enumerate(names):
        write(tmp_path / f"{name}.json", [article(n)])
    missing = "dev or test" if "train" in names else "train"
    with pytest.raises(UserError, match=f"no {missing} file in {tmp_path}"):
        read(tmp_path)


def test_a_question_that_stands_in_two_files_of_a_split_is_read_once(tmp_path):
    write(tmp_path / "test.json", [article(9)])
    write(tmp_path / "train-v1.1.json", [article(0)])
    write(tmp_path / "train-v2.0.json", [article(0), article(1)])
    read = data.load(False, tmp_path)
    assert len(read.splits["train"]) + len(read.splits["dev"]) == 4
    assert read.counts["train_duplicate_ids"] == 2 and read.counts["test_duplicate_ids"] == 0


# --- The demo


def test_the_demos_answers_are_exact_and_its_test_names_new():
    splits, names = data.load(True, None).splits, {}
    for split, examples in splits.items():
        assert all([e.context[a:b] for a, b in e.answers] == e.golds for e in examples)
        assert len({e.id for e in examples}) == len(examples)
        names[split] = {g for e in examples for g in e.golds if re.search(r"\d", g)}
        assert 0.2 < sum(not e.golds for e in examples) / len(examples) < 0.5
    assert not {n for n in names["test"] & names["train"] if "interleukin" not in n}
    assert data.load(True, None).splits == splits
