"""Prompts and answers as tokens; and the whole way from a row to a parsed answer."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from tokenizers import AddedToken

from common import models
from common.cli import UserError
from common.device import Device
from common.results import fingerprint
from common.training import losses
from Instruct import (
    demo_data,
    encoding,
    generation,
    new_text,
    parsing,
    prompts,
    sources,
)
from NLI import task as nli_task
from QA import task as qa_task
from QA.scores import exact_and_f1

CPU = Device(torch.device("cpu"), "fp32")
PAIR = "Sentence 1: The patient has a fever .\nSentence 2: The patient is well ."
ROW = {"kind": "nli", "instruction": "How do they relate?", "output": "neutral", "gold": "neutral",
       "input": PAIR}  # fmt: skip


@pytest.fixture(params=["gpt2", "biogpt", "llama"])
def loaded(request, checkpoint):
    folder = str(checkpoint(request.param))
    return models.load_task_model(folder, "causal", [])


def some_data(rows, kind, labels):
    """A data set of one source."""
    about = {"s": {"kind": kind, "labels": labels}}
    return SimpleNamespace(splits={"train": rows}, sources=about, form="plain", ner_form="tags")


def test_a_prompt_begins_as_the_model_reads_text(checkpoint, tmp_path):
    """Without the blank that tasks of words put first, whoever loads the model."""
    folder = str(checkpoint("gpt2"))
    _, tokenizer = models.load_task_model(folder, "causal", [])
    ids = encoding.prompt_ids(tokenizer, ROW, "alpaca")[0]
    assert tokenizer.decode(ids).startswith("Below")
    _, other = models.load_encoder(folder, words=False)
    assert encoding.prompt_ids(other, ROW, "alpaca")[0] == ids
    words = models.load_encoder(folder)[1].tokenize("Below gene")
    assert words != tokenizer.tokenize("Below gene")
    # A tokenizer of no class ignores the option that keeps given words apart.
    shutil.copytree(folder, tmp_path / "classless")
    path = tmp_path / "classless" / "tokenizer_config.json"
    changed = {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    _, same = models.load_task_model(str(path.parent), "causal", [])
    assert encoding.prompt_ids(same, ROW, "alpaca")[0] == ids
    assert models.load_encoder(str(path.parent))[1].tokenize("Below gene") == words


@pytest.mark.parametrize("form", prompts.FORMS)
def test_a_prompt_and_its_answer_are_the_tokens_of_both(form, loaded):
    """Tokenized apart, they are what the whole text is: nothing is glued over the boundary."""
    _, tokenizer = loaded
    ids, cut, _ = encoding.prompt_ids(tokenizer, ROW, form, 10_000)
    answer = encoding.answer_ids(tokenizer, ROW["output"])
    text = prompts.FORMS[form].format_map(ROW)
    assert cut == 0 and ids == tokenizer(text)["input_ids"]
    assert ids + answer == tokenizer(f"{text} neutral")["input_ids"] + [tokenizer.eos_token_id]
    assert text.endswith(":") and encoding.decode(tokenizer, answer) == "neutral"
    assert all(part in text for part in (ROW["instruction"], ROW["input"]))


def test_a_long_input_loses_its_end(loaded):
    _, tokenizer = loaded
    row = ROW | {"input": " ".join(f"w{i}" for i in range(300))}
    whole = len(encoding.prompt_ids(tokenizer, row, "plain", 10_000)[0])
    for room in (whole - 1, 100):
        ids, cut, _ = encoding.prompt_ids(tokenizer, row, "plain", room)
        kept = row | {"input": " ".join(f"w{i}" for i in range(300 - cut))}
        assert 0 < cut < 300 and ids == encoding.prompt_ids(tokenizer, kept, "plain", 10_000)[0]
        longer = row | {"input": " ".join(f"w{i}" for i in range(300 - cut + 1))}
        assert len(ids) <= room
        assert len(encoding.prompt_ids(tokenizer, longer, "plain", 10_000)[0]) > room
    with pytest.raises(UserError, match="x:1: the instruction alone has"):  # it stays
        encoding.prompt_ids(tokenizer, row | {"id": "x:1"}, "plain", 3)


def test_a_long_pair_loses_words_of_its_first_sentence_first(loaded):
    _, tokenizer = loaded
    first, second = ([f"{x}{i}" for i in range(n)] for x, n in (("a", 60), ("b", 40)))
    row = ROW | {"input": prompts.joined("nli", [" ".join(first), " ".join(second)])}
    whole = len(encoding.prompt_ids(tokenizer, row, "plain")[0])
    for n in (1, 30, 70):
        pair = [" ".join(first[: 60 - n]), " ".join(second[: 102 - n])]
        kept = row | {"input": prompts.joined("nli", pair)}
        if n == 70:  # "Sentence 1:" goes, too
            kept = row | {"input": prompts.SECOND + " ".join(second[: 40 - 8])}
        wanted = encoding.prompt_ids(tokenizer, kept, "plain")[0]
        ids, cut, _ = encoding.prompt_ids(tokenizer, row, "plain", len(wanted))
        assert (ids, cut) == (wanted, n) and len(wanted) < whole


@pytest.mark.parametrize("n", (20, 60, 200))
def test_a_long_sentence_shows_as_many_words_as_can_be_answered(loaded, n):
    """Each shown word is answered: room is kept for these, not for those that are cut."""
    _, tokenizer = loaded
    words = [f"w{i % 10}" for i in range(n)]
    row = {"id": "1", "source": "s", "kind": "ner", "type": "x", "instruction": "Mark it."}
    row |= sources.ner_row(words, ["O"] * n, "x", "tags")
    data = some_data([row], "ner", ["x"])
    (encoded,), counts = encoding.encode(data, [row], tokenizer, 400)

    def tokens(k):
        shown = row | {"input": " ".join(words[:k])}
        answer = encoding.answer_ids(tokenizer, parsing.write_tags(words[:k], ["O"] * k))
        return len(encoding.prompt_ids(tokenizer, shown, "plain")[0]) + len(answer)

    most = max(k for k in range(n + 1) if tokens(k) + encoding.SLACK <= 400)
    assert counts["cut_words"] == n - most and len(encoded["prompt"]) + encoded["room"] <= 400
    assert (most == n) == (n == 20) and (losses.labels_in(encoded) > 0) == (tokens(n) <= 400)


def test_one_long_answer_takes_no_more_than_half_of_the_others_room(loaded):
    _, tokenizer = loaded
    rows = [
        {"id": str(i), "source": "s", "kind": "free_qa", "instruction": "Answer.", "gold": ["a"],
         "input": " ".join(f"w{k}" for k in range(30)), "output": "a " * (400 if i == 1 else 2)}
        for i in range(3)
    ]  # fmt: skip
    encoded, counts = encoding.encode(some_data(rows, "free_qa", []), rows, tokenizer, 400)
    assert counts == {"prompts": 3, "too_long": 1, "cut_words": 0}
    assert [row["room"] for row in encoded] == [200] * 3
    assert [bool(losses.labels_in(row)) for row in encoded] == [True, False, True]


def test_an_instruction_that_leaves_no_room_for_a_label_is_told_at_once(loaded):
    """Not when all is trained and the labels are compared."""
    _, tokenizer = loaded
    row = ROW | {"id": "1", "source": "s", "instruction": "How do they relate? " * 9}
    data = some_data([row], "nli", ["neutral", "entailment"])
    bare = len(encoding.prompt_ids(tokenizer, row | {"input": prompts.SECOND}, "plain")[0])
    label = max(len(encoding.answer_ids(tokenizer, text)) for text in ("neutral", "entailment"))
    encoding.encode(data, [row], tokenizer, bare + label)
    with pytest.raises(UserError, match=f"1: the instruction alone has {bare} tokens"):
        encoding.encode(data, [row], tokenizer, bare + label - 1)


def test_an_end_token_in_the_text_is_text(loaded):
    _, tokenizer = loaded
    row = ROW | {"input": f"before {tokenizer.eos_token} after"}
    front = tokenizer("a")["input_ids"][:-1].count(tokenizer.eos_token_id)  # BioGPT's `</s>`
    ids = encoding.prompt_ids(tokenizer, row, "plain", 999)[0]
    assert ids.count(tokenizer.eos_token_id) == front
    answer = encoding.answer_ids(tokenizer, tokenizer.eos_token)
    assert answer.count(tokenizer.eos_token_id) == 1 and len(answer) > 1


def test_the_demo_is_short_and_reads_back(loaded):
    _, tokenizer = loaded
    splits, _, _ = demo_data.read()
    assert splits == demo_data.read()[0]
    ids = [row["id"] for rows in splits.values() for row in rows]
    assert len(set(ids)) == len(ids)
    for row in splits["train"][::20] + splits["test"][::5]:
        kind, labels, *_ = demo_data.SETS[row["source"]]
        assert row["kind"] == kind
        decoded = encoding.decode(tokenizer, encoding.answer_ids(tokenizer, row["output"]))
        for text in (row["output"], decoded):
            found = parsing.read(text, row, labels, demo_data.NER_FORM)
            if row["kind"] == "free_qa":
                assert exact_and_f1(found[0], row["gold"])[1] == 1 and not found[1]
            else:
                assert found == (row["gold"], False)


def test_the_demo_asks_the_encoders_test_splits():
    """So that their scores stand beside: whole, under the hash of their data."""
    splits, about, _ = demo_data.read()
    test = splits["test"]
    for name, task, gold in (
        ("demo-nli", nli_task, lambda e: e.label),
        ("demo-qa", qa_task, lambda e: e.golds),
    ):
        data = task.load(True, None)
        assert about["sources"][name]["data_sha256"] == fingerprint(data.splits)
        mine = {row["id"]: row["gold"] for row in test if row["source"] == name}
        mine = [mine[f"{name}-test-{i}"] for i in range(len(mine))]
        assert mine == [gold(example) for example in data.splits["test"]]


def test_what_ends_an_answer(loaded):
    """A chat model may name several tokens; what is no special token of its tokenizer is none."""
    model, tokenizer = loaded
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot|>"]})
    eot, end = tokenizer.convert_tokens_to_ids("<|eot|>"), tokenizer.eos_token_id
    other = AddedToken("<|call|>", special=True)
    tokenizer.add_tokens([other])  # as tokenizer.json may have them, beside the named ones
    call = tokenizer.convert_tokens_to_ids("<|call|>")
    model.generation_config.eos_token_id = [call, 7]
    assert encoding.end_ids(model, tokenizer) == {call, end}
    for given, wanted in (([eot, 7], {eot, end}), (eot, {eot, end}), (None, {end}), (7, {end})):
        model.generation_config.eos_token_id = given
        assert encoding.end_ids(model, tokenizer) == wanted


def test_no_label_begins_another(loaded):
    """With the end token in it, a label that another begins with can be the more likely one."""
    _, tokenizer = loaded
    short, long = (encoding.answer_ids(tokenizer, t) for t in ("AGONIST", "AGONIST-ACTIVATOR"))
    assert short[-1] == tokenizer.eos_token_id and long[: len(short)] != short


def test_a_new_prompt_is_not_cut_where_the_test_would_not_cut_it(loaded, monkeypatch):
    """Room is kept for the shortest source's answers: of which source it is, is not known."""
    model, tokenizer = loaded
    rows = [ROW | {"id": str(i), "source": "s"} for i in range(3)]
    free = {"kind": "free_qa", "source": "long", "id": "l", "output": "word " * 60, "gold": ["x"]}
    data = some_data([*rows, ROW | free], "nli", ["neutral"])
    data.sources["long"] = {"kind": "free_qa", "labels": []}
    pair = prompts.joined("nli", [" ".join(f"w{i}" for i in range(40)), "The patient is well ."])
    row = rows[0] | {"input": pair}
    bare = len(encoding.prompt_ids(tokenizer, row, "plain")[0])
    for limit, cut in ((bare + 40, 0), (bare - 10, 1)):
        (wanted,), counts = encoding.encode(data, [row], tokenizer, limit)
        assert (counts["cut_words"] > 0) == cut
        (ids, most), _ = asked_of(model, tokenizer, data, row, limit, None, monkeypatch)
        assert ids == list(wanted["prompt"]) and most >= wanted["room"]


def asked_of(model, tokenizer, data, row, limit, source, monkeypatch):
    """What predict has the model answer to a row's prompt: (ids, tokens at most); counts."""
    about = {"prompt_form": "plain", "rooms": encoding.rooms(data, tokenizer)}
    made = SimpleNamespace(config=SimpleNamespace(instruct=about), settings={}, max_length=limit)
    args, asked = SimpleNamespace(max_new_tokens=None, batch_size=1, source=source), []
    monkeypatch.setattr(
        generation, "generate", lambda _, ids, most, *more: asked.extend((ids[0], most[0])) or ids
    )
    item = {"id": "x:1"} | {k: row[k] for k in ("instruction", "input")}
    _, counts = new_text.answer(model, tokenizer, made, [item], args, CPU, "new")
    return asked, counts


@pytest.mark.parametrize("source", ("s", "long", "ner"))
def test_a_new_prompt_of_a_known_source_has_the_room_of_the_test(loaded, monkeypatch, source):
    """Each source's own: the longest training answer, or of NER a tag for each word."""
    model, tokenizer = loaded
    words = " ".join(f"w{i}" for i in range(60))
    rows = {
        "s": ROW | {"id": "s", "source": "s", "input": prompts.joined("nli", [words, "Well ."])},
        "long": {"kind": "free_qa", "source": "long", "id": "l", "output": "word " * 60,
                 "gold": ["x"], "instruction": "Answer.", "input": words},
        "ner": {"kind": "ner", "source": "ner", "id": "n", "output": "w : O", "gold": ["O"] * 60,
                "type": "gene", "instruction": "Mark.", "input": words},
    }  # fmt: skip
    data = some_data([rows["s"]], "nli", ["neutral"])
    data.splits["train"] += [rows["long"], rows["ner"]]
    data.sources |= {name: {"kind": rows[name]["kind"], "labels": []} for name in ("long", "ner")}
    bare = len(encoding.prompt_ids(tokenizer, rows[source], "plain")[0])
    for limit in (bare + 500, bare + 40):
        (wanted,), counts = encoding.encode(data, [rows[source]], tokenizer, limit)
        about = model, tokenizer, data, rows[source], limit
        (ids, most), cut = asked_of(*about, source, monkeypatch)
        assert (ids, most) == (list(wanted["prompt"]), wanted["room"])
        assert cut["cut_words"] == counts["cut_words"]
    with pytest.raises(UserError, match="--source other: the model knows s, long, ner"):
        asked_of(*about, "other", monkeypatch)
