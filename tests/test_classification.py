"""Classification: files of three forms, bad input, losses and scores against slow ones, steps."""

import importlib
import io
import itertools
import json
import math
import random
import re
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.svm import SVC

from Classification import data, new_text, scores, task
from common import task as contract
from common.batching import pad
from common.results import fingerprint
from common.task import evaluate, majority_scores
from common.training import losses
from common.training.sharding import idle
from tests.helpers import read_json, write_jsonl

TASK = contract.load("Classification")
SECRET = "Zanzibar"  # a word of the data, which no message may show
CUES = {"gene": "activates", "cell": "inhibits", "drug": "none"}
SIZES = {"train": 24, "dev": 8, "test": 8}
QUICK = ("--device", "cpu", "--precision", "fp32", "--batch_size", "8")


def row(form, i, split):
    """A row whose cue tells its labels."""
    cue = list(CUES)[i % 3]
    about = {"id": f"{split}-{i}", "split": split}
    text = f"@ {SECRET} {i} @ and the {cue} of {split}"
    if form == "relation":
        return about | {"text": text, "label": CUES[cue]}
    if form == "classification":
        labels = [x for x, n in ((cue, 1), ("even", i % 2), ("rare", i % 5 == 0)) if n]
        return about | {"sentences": [text, "It binds ."], "labels": labels * (i % 7 > 0)}
    asked = f"Is {cue} right ?"
    return about | {"question": asked, "context": text, "answer": ("Yes", "no", "maybe")[i % 3]}


def rows_of(form):
    return [row(form, i, split) for split, n in SIZES.items() for i in range(n)]


@pytest.fixture(params=data.FORMS)
def form(request):
    return request.param


@pytest.fixture
def file(form, tmp_path):
    write_jsonl(tmp_path / f"{form}.jsonl", rows_of(form))
    return tmp_path / f"{form}.jsonl"


# --- reading -------------------------------------------------------------------------------------


def test_a_file_with_splits_and_a_folder_are_read_alike(form, file, tmp_path):
    """As examples in their order; the texts, and the labels as a sorted tuple."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for split, name in (("train", "train"), ("dev", "validation"), ("test", "test")):
        own = [r for r in rows_of(form) if r["split"] == split]
        write_jsonl(folder / f"{name}.jsonl", [r | {"split": "x"} for r in own])
    found = data.load(False, file)
    assert found == data.load(False, folder) and found.kind == form
    assert {split: len(own) for split, own in found.splits.items()} == SIZES
    for split, own in found.splits.items():
        for i, e in enumerate(own):
            given = row(form, i, split)
            assert e.id == given["id"]
            if form == "qa":
                assert e.texts == (given["question"], given["context"])
                assert e.labels == (given["answer"].lower(),)
            else:
                text = " ".join(given["sentences"]) if "sentences" in given else given["text"]
                assert e.texts == (text,)
                assert e.labels == tuple(sorted(given.get("labels", [given.get("label")])))
    assert found.labels == sorted({x for e in found.splits["train"] for x in e.labels})


def test_labels_that_are_numbers_and_texts_over_lines(tmp_path):
    given = [{"text": f"a\n {i}", "label": (1, True, "x  y")[i % 3], "split": split}
             for split in ("train", "test") for i in range(6)]  # fmt: skip
    write_jsonl(tmp_path / "x.jsonl", given)
    found = data.load(False, tmp_path / "x.jsonl")
    assert found.labels == ["1", "true", "x y"] and [*found.splits] == ["train", "test"]
    assert found.splits["test"][1].texts == ("a 1",) and found.splits["test"][1].id == "row-7"


def test_groups_are_documents_or_equal_letters(tmp_path):
    """Rows call a group by its first example's id; subsets take whole groups."""
    given = [row("relation", i, "train") for i in range(60)]
    given = [r | {"pmid": SECRET + str(i // 3)} for i, r in enumerate(given)]
    pairs = ("<< A >> binds [[ B ]] and C", "<< A >> binds B and [[ C ]]")
    given += [row("relation", i, "test") | {"text": pairs[i]} for i in range(2)]
    write_jsonl(tmp_path / "x.jsonl", given)
    found = data.load(False, tmp_path / "x.jsonl")
    made, _ = task.rows(
        found, found.splits, {s: [["none"]] * len(e) for s, e in found.splits.items()}
    )
    assert [r["group"] for r in made["test"]] == ["test-0", "test-0"]
    assert [r["group"] for r in made["train"]] == [f"train-{i // 3 * 3}" for i in range(60)]
    assert SECRET not in json.dumps(made)
    inside = set()
    for size in (10, 30, 50, 100):
        chosen = {*task.subset(found, size, 3)}
        assert inside < chosen and len(chosen) == 6 * size / 10
        assert all({i // 3 * 3 + k for k in range(3)} <= chosen for i in chosen)
        inside = chosen


@pytest.mark.parametrize("form", data.FORMS)
def test_instruct_reads_the_same_examples(form, tmp_path):
    """Its data are known by the same hash, and a subset is of the same examples."""
    build, instruct = importlib.import_module("Instruct.build"), contract.load("Instruct")
    flag = "qa" if form == "qa" else form
    given = [r | {"id": f"{r['split']}-{i}"} for i, r in enumerate(rows_of(form) * 3)]
    for i, r in enumerate(given):
        name = "context" if form == "qa" else "sentences" if "sentences" in r else "text"
        r[name] = [*r[name], f"x {i}"] if isinstance(r[name], list) else f"{r[name]} {i // 2}"
    write_jsonl(tmp_path / "x.jsonl", given)
    build.main([f"--{flag}", f"x={tmp_path / 'x.jsonl'}", "--output_dir", str(tmp_path / "out")])
    own, tuned = data.load(False, tmp_path / "x.jsonl"), instruct.load(False, tmp_path / "out")
    assert tuned.sources["x"]["data_sha256"] == fingerprint(own.splits)
    wanted = {f"x/{own.splits['train'][i].id}" for i in task.subset(own, 30, 5)}
    found = {tuned.splits["train"][i]["id"] for i in instruct.subset(tuned, 30, 5)}
    assert found == wanted and 0 < len(found) < len(own.splits["train"])


def test_it_can_stand_beside_instruct_in_the_report(form, file, tmp_path):
    """The same data by their hash, and the same score of the same answers."""
    build, instruct = importlib.import_module("Instruct.build"), contract.load("Instruct")
    flag = f"--{form}"
    build.main([flag, f"x={file}", "--output_dir", str(tmp_path / "built")])
    own, tuned = data.load(False, file), instruct.load(False, tmp_path / "built")
    same = {score.name: score.same for score in instruct.scores(tuned) if score.same}
    ((name, (sha256, theirs, _, settings)),) = same.items()
    assert settings == ({"negative_label": None} if form == "relation" else {})
    assert name == f"x_{theirs}" and theirs in {score.name for score in TASK.scores(own)}
    answers = {e.id: e.labels for e in own.splits["test"]}
    answers["test-0"], answers["test-3"] = answers["test-1"], answers["test-2"]  # two mistakes
    several = form == "classification"
    examples = {"test": own.splits["test"]}
    rows = {"Classification": TASK.rows(own, examples, {"test": [*map(list, answers.values())]})}
    asked = tuned.splits["test"]
    said = [(labels if several else labels[0], False) for row in asked
            for labels in [[*answers[row["id"].removeprefix("x/")]]]]  # fmt: skip
    rows["Instruct"] = instruct.rows(tuned, {"test": asked}, {"test": said})
    found = {name: evaluate(contract.load(name), made["test"]) for name, (made, _) in rows.items()}
    assert sha256 == fingerprint(own.splits)
    assert found["Instruct"][name] == found["Classification"][theirs] < 1


# --- bad input -----------------------------------------------------------------------------------


def bad(case):
    """(rows with a fault, what the message names)."""
    kind = {"labels no list": "classification", "one label everywhere": "classification",
            "no verdict": "qa"}.get(case, "relation")  # fmt: skip
    rows = rows_of(kind)
    match case:
        case "a label that train lacks":
            rows[-2]["label"] = f"{SECRET} new"
            return rows, ["bad.jsonl:39", "no train example has 1 of its labels"]
        case "label and labels":
            rows[2]["labels"] = ["none"]
            return rows, ["bad.jsonl:3", "2 of the fields 'label', 'labels', 'answer'"]
        case "none of them":
            del rows[2]["label"]
            return rows, ["bad.jsonl:3", "0 of the fields"]
        case "an empty text":
            rows[4]["text"] = " \n"
            return rows, ["bad.jsonl:5", "'text' is missing, empty"]
        case "labels in some rows alone":
            rows[1] = row("classification", 1, "train")
            return rows, ["bad.jsonl:2", "has 'labels', and the first row 'label'"]
        case "one label everywhere":
            return [r | {"labels": ["a"]} for r in rows], [
                "all train examples have the same labels"
            ]
        case "too many labels":
            more = [row("relation", i, "train") | {"label": i} for i in range(1001)]
            return more + rows[-2:], ["1001 labels", "at most 1,000"]
        case "a text as label":
            rows[0]["label"] = SECRET * 9
            return rows, ["bad.jsonl:1", "72 characters", "at most 60"]
        case "labels no list":
            rows[0]["labels"] = SECRET
            return rows, ["bad.jsonl:1", "'labels' is not a list"]
        case "no verdict":
            rows[0]["answer"] = SECRET
            return rows, ["bad.jsonl:1", "yes, no or maybe"]
        case "no split":
            del rows[3]["split"]
            return rows, ["bad.jsonl:4", "no 'split'"]
        case "no test":
            return [r for r in rows if r["split"] != "test"], ["no test example"]


CASES = ("a label that train lacks", "label and labels", "none of them", "an empty text",
         "labels in some rows alone", "one label everywhere", "too many labels", "a text as label",
         "labels no list", "no verdict", "no split", "no test")  # fmt: skip


def refused(capsys, *argv):
    """The one line that fine-tuning ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run("fine-tuning", *argv)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and SECRET not in err and "Traceback" not in err
    assert err.count("\n") == 1 and err.startswith("error: ")
    return err


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, tmp_path, capsys, checkpoint):
    rows, named = bad(case)
    write_jsonl(tmp_path / "bad.jsonl", rows)
    argv = ("--model_name", checkpoint("bert"), "--output_dir", tmp_path / "out")
    message = refused(capsys, "--data_dir", tmp_path / "bad.jsonl", *argv)
    assert all(part in message for part in named), message
    assert not (tmp_path / "out").exists()


def test_bad_flags(tmp_path, capsys, checkpoint):
    argv = ("--model_name", checkpoint("bert"), "--output_dir", tmp_path / "out")
    assert "--data_dir" in refused(capsys, *argv) and "--demo" in refused(capsys, *argv)
    assert str(tmp_path / "x") in refused(capsys, *argv, "--data_dir", tmp_path / "x")
    (tmp_path / "empty").mkdir()
    assert "no train.jsonl" in refused(capsys, *argv, "--data_dir", tmp_path / "empty")
    rows = pd.DataFrame(rows_of("relation")).replace({"label": {"0": "None"}})
    for sep, name in (",", "x.csv"), ("\t", "train.tsv"):
        where = tmp_path / name.split(".")[0]
        where.mkdir(exist_ok=True)
        rows.to_csv(where / name, sep=sep, index=False)
        for path in (where, where / name):
            message = refused(capsys, *argv, "--data_dir", path)
            _, *command = shlex.split(message.split("convert the files: ")[1])
            subprocess.run([sys.executable, *command], check=True)
            made = where / f"{name.split('.')[0]}.jsonl"
            found = [json.loads(line) for line in made.read_text().splitlines()]
            assert found == rows.astype(str).to_dict("records")
            made.unlink()
    write_jsonl(tmp_path / "x.jsonl", rows_of("relation"))
    argv = (*argv, "--data_dir", tmp_path / "x.jsonl")
    message = refused(capsys, *argv, "--negative_label", "nothing")
    assert "--negative_label nothing" in message


def test_a_set_that_could_have_one_label_a_row(tmp_path, caplog):
    rows = [r | {"labels": [["a"], ["b"]][i % 2]} for i, r in enumerate(rows_of("classification"))]
    write_jsonl(tmp_path / "x.jsonl", rows)
    assert data.load(False, tmp_path / "x.jsonl").labels == ["a", "b"]
    assert "each example has one label" in caplog.text


# --- losses and scores ---------------------------------------------------------------------------


def slow_scores(form, golds, predicted, negative=("none", "0", "false")):
    """By loops over examples and labels."""
    sides = [[x if isinstance(x, list) else [x] for x in side] for side in (golds, predicted)]
    left_out = negative if form == "relation" else ()
    names = {x for side in sides for labels in side for x in labels} - {*left_out}
    totals = []
    for name in names:
        right = sum(name in g and name in p for g, p in zip(*sides, strict=True))
        totals.append((right, sum(name in p for p in sides[1]), sum(name in g for g in sides[0])))
    f1 = [2 * right / (there + wanted) for right, there, wanted in totals]
    right, there, wanted = map(sum, zip(*totals, strict=True))
    found = {"macro_f1": sum(f1) / len(f1), "micro_f1": 2 * right / (there + wanted)}
    found["accuracy"] = sum(g == p for g, p in zip(golds, predicted, strict=True)) / len(golds)
    missing = {"classification": "accuracy", "qa": "micro_f1"}.get(form)
    return {name: value for name, value in found.items() if name != missing}


@pytest.mark.parametrize("negative", [None, "activates"])
def test_scores(form, negative):
    rng, names = random.Random(form), ["none", "activates", "inhibits", "rare"]

    def labels():
        drawn = sorted(rng.sample(names, rng.randint(0, 3)))
        return drawn if form == "classification" else rng.choice(names)

    golds = [labels() for _ in range(90)]
    predicted = [g if rng.random() < 0.5 else labels() for g in golds]
    about = {"kind": form} | ({"negative": negative} if negative else {})
    rows = [about | {"id": str(i), "gold": g, "predicted": p}
            for i, (g, p) in enumerate(zip(golds, predicted, strict=True))]  # fmt: skip
    found = evaluate(TASK, rows)
    wanted = slow_scores(form, golds, predicted, *([(negative,)] if negative else []))
    assert {name: found[name] for name in wanted} == pytest.approx(wanted)
    there = [score.name for score in task.scores(SimpleNamespace(kind=form))]
    assert {*there} == {*wanted} == {*found} & {s.name for s in task.SCORES}
    assert there[0] == ("accuracy" if form == "qa" else "micro_f1")
    left_out = (negative or "none") if form == "relation" else None
    assert ("f1_activates" in found) == (left_out != "activates")


@pytest.mark.parametrize(
    "gold",
    [
        [{"kind": "relation"}],
        [{"kind": "x", "gold": "", "predicted": ""}],
        [{"kind": "relation", "gold": 1, "predicted": 1}],
    ],
)
def test_rows_that_are_no_predictions(gold):
    sound = {"kind": "relation", "gold": "a", "predicted": "a"}
    assert task.count([sound])["answers"].all()
    with pytest.raises((ValueError, LookupError, TypeError, AttributeError)):
        task.count([sound, *gold])


def test_the_loss_of_several_labels():
    """Each label's yes or no, summed, whatever the padding; 0 in a process without an example."""
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], requires_grad=True)
    model = SimpleNamespace(config=None)
    rows = [{"input_ids": [1] * n, "labels": own} for n, own in ((7, [1, 0, 1]), (2, [0, 0, 1]))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.models.logits", lambda *_: logits)
        found = task.loss(model, pad(rows, 0))
        short = task.loss(model, pad([rows[1] | {"input_ids": [1]}] * 2, 0))
        none = task.loss(model, pad([idle(row) for row in rows], 0))
    wanted = 0.0
    for values, own in zip(logits.tolist(), ([1, 0, 1], [0, 0, 1]), strict=True):
        for value, gold in zip(values, own, strict=True):
            share = 1 / (1 + math.exp(-value))
            wanted -= math.log(share if gold else 1 - share)
    assert found.item() == pytest.approx(wanted, rel=1e-6)
    assert none.item() == 0 and not torch.autograd.grad(none, logits)[0].any()
    assert short.isfinite() and losses.labels_in(rows[0]) == 3


def test_what_logits_mean():
    labels, logits = ["a", "b", "c"], np.array([0.1, -0.1, 2.0])
    assert task.chosen("relation", labels, logits) == ["c"]
    assert task.chosen("classification", labels, logits) == ["a", "c"]
    assert task.chosen("classification", labels, -abs(logits)) == []


@pytest.mark.parametrize("several", (False, True))
def test_no_constant_answer_has_a_higher_f1(several):
    """Against all sets of labels; the negative label alone has none."""
    rng, labels = random.Random(3), ["a", "b", "c"] if several else ["a", "b", "none"]
    kind = "classification" if several else "relation"
    answers = [[*x] for n in range(1, 4) for x in itertools.combinations(labels, n)]
    answers = answers if several else labels

    def f1(rows, answer):
        guessed = [row | {"predicted": answer} for row in rows]
        return float(scores.SCORES[0].value(scores.count(guessed)["positive"].sum(0)))

    for _ in range(20):
        golds = [rng.choices(labels, (1, 2, 9))[0] for _ in range(12)]
        if several:
            golds = [sorted(rng.sample(labels, rng.randint(0, 3))) for _ in range(12)]
        rows = [{"kind": kind, "gold": gold} for gold in golds]
        best = scores.constant(rows)
        best = best if several else (best or ["none"])[0]
        assert f1(rows, best) == pytest.approx(max(f1(rows, answer) for answer in answers))
    assert scores.constant([{"kind": "relation", "gold": "none"}]) == []


def test_the_majority_is_the_most_frequent_answer(form, file):
    found = data.load(False, file)
    golds = [e.labels for e in found.splits["train"]]
    most = max(golds.count(gold) for gold in golds)
    (answer,) = {tuple(x) for x in task.baseline(found.splits["train"], found.splits["test"])}
    assert golds.count(answer) == most
    levels = majority_scores(TASK, found, found.splits["train"], {"test": found.splits["test"]})
    known = {*levels["test"]} & {"micro_f1", "macro_f1", "accuracy"}
    assert known == {score.name for score in task.scores(found)}
    if "accuracy" in known:  # of the most frequent label, the negative one too
        right = [tuple(e.labels) == answer for e in found.splits["test"]]
        assert levels["test"]["accuracy"] == np.mean(right)


# --- the steps -----------------------------------------------------------------------------------


def run(step, *argv):
    return importlib.import_module(f"Classification.{step}").main([str(flag) for flag in argv])


@pytest.mark.parametrize(
    ("kind", "form"), [("bert", "relation"), ("bert", "classification"), ("gpt2", "qa")]
)
def test_all_steps(kind, form, file, tmp_path, capsys, checkpoint, monkeypatch):
    out, main = tmp_path / "out", "accuracy" if form == "qa" else "micro_f1"
    about = ("--model_name", checkpoint(kind), "--data_dir", file, "--output_dir", out)
    run("fine-tuning", *about, *QUICK, "--training_size", 50, "--num_train_epochs", 2,
        "--max_length", 12)  # fmt: skip
    shown = capsys.readouterr().out
    assert "truncated" in shown
    (cell,) = out.glob("*/*/50/seed-42")
    found = read_json(cell / "fine-tuning" / "metrics.json")
    rows = [json.loads(line) for line in (cell / "fine-tuning" / "predictions.jsonl").open()]
    assert SECRET not in json.dumps(rows) and len(rows) == SIZES["test"]
    sides = ([r[side] for r in rows] for side in ("gold", "predicted"))
    wanted = slow_scores(form, *sides)
    assert {name: found[f"test_{name}"] for name in wanted} == pytest.approx(wanted)
    assert f"test_majority_{main}" in found and found["train_examples"] == SIZES["train"] / 2

    quick = (*about, *QUICK)
    run("probing", *quick, "--training_size", 50, "--controls")
    assert "selectivity" in capsys.readouterr().out
    for folder in ("probing", "probing-control"):
        layers = pd.read_csv(cell / folder / "layers.csv")
        assert {0, 1} == {*layers["layer"]} and {*wanted} <= {*layers["metric"]}
    run("attention", *quick, "--training_sizes", 50, "--max_length", 12)
    assert (cell / "attention" / "heads.csv").is_file()

    given = [r for r in rows_of(form) if r["split"] == "test"]
    spaced = [{k: x.replace(" ", " \n ") if k in ("text", "context") else x for k, x in r.items()}
              for r in given]  # fmt: skip
    typed = "".join(json.dumps(r) + "\n" for r in spaced).encode()  # as files may have it
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(typed)))
    capsys.readouterr()
    run("predict", *about, "--training_size", 50, "--input", "-", "--input_form", "jsonl",
        "--device", "cpu")  # fmt: skip
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    key = "labels" if form == "classification" else "label"
    assert [answer[key] for answer in answers] == [r["predicted"] for r in rows]
    for answer in answers:
        shares = answer["probabilities"]
        if form == "classification":
            assert answer["labels"] == [name for name in shares if shares[name] > 0.5]
        else:
            assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
            assert answer["label"] == max(shares, key=shares.get)


@pytest.mark.parametrize("form", ["classification"])
def test_the_library_answers_as_predict_does(form, file, tmp_path, checkpoint):
    """The checkpoint says that there may be several labels."""
    import transformers

    run("fine-tuning", "--model_name", checkpoint("bert"), "--data_dir", file, "--output_dir",
        tmp_path / "out", *QUICK, "--num_train_epochs", 1)  # fmt: skip
    (folder,) = (tmp_path / "out").glob("*/*/100/seed-42/fine-tuning/checkpoint")
    pipe = transformers.pipeline("text-classification", str(folder), device="cpu", top_k=None)
    e = data.load(False, file).splits["test"][0]
    ids = torch.tensor([pipe.tokenizer(e.texts[0])["input_ids"]])
    with torch.inference_mode():
        shares = pipe.model(ids).logits.sigmoid()[0]
    found = {answer["label"]: answer["score"] for answer in pipe([e.texts[0]])[0]}
    named = {pipe.model.config.id2label[i]: share.item() for i, share in enumerate(shares)}
    assert found == pytest.approx(named, abs=1e-5)
    config = json.loads((folder / "config.json").read_text())  # as if from elsewhere
    (folder / "config.json").write_text(
        json.dumps({k: v for k, v in config.items() if k != "kind"})
    )
    (tmp_path / "in.txt").write_text(f"{e.texts[0]}\n")
    shutil.copytree(folder, tmp_path / "elsewhere")
    run("predict", "--model_name", tmp_path / "elsewhere", "--input", tmp_path / "in.txt",
        "--output", tmp_path / "answers", *QUICK)  # fmt: skip
    answer = json.loads((tmp_path / "answers").read_text())
    assert answer["probabilities"] == pytest.approx(named, abs=1e-4) and "labels" in answer


def test_new_text_is_read_as_training_reads_it():
    """Some tokenizers tell blanks and newlines apart."""
    rows = [{"text": " a \n\n b"}, {"sentences": ["a  b", "c"]}, {"question": "a\tb"},
            {"question": "a", "context": "b \n c"}]  # fmt: skip
    lines = [json.dumps(row).encode() for row in rows]
    found = list(new_text.read(lines, "x", "jsonl"))
    assert found == [("a b",), ("a b c",), ("a b", ""), ("a", "b c")]
    assert list(new_text.read([b" a  b ", b"q \t c  d"], "x", "text")) == [("a b",), ("q", "c d")]
    for row, texts in zip(rows, found, strict=True):
        kind = ("relation", "qa")["question" in row]
        labelled = {"label": "x", "answer": "yes"} | data.with_text(row)
        assert data.example(kind, labelled, "here", 0).texts == texts


def test_new_text_of_another_form(tmp_path, capsys, checkpoint):
    write_jsonl(tmp_path / "x.jsonl", rows_of("relation"))
    about = ("--model_name", checkpoint("bert"), "--data_dir", tmp_path / "x.jsonl",
             "--output_dir", tmp_path / "out", "--training_size", 10)  # fmt: skip
    run("fine-tuning", *about, *QUICK, "--num_train_epochs", 1)
    (tmp_path / "in.jsonl").write_text('{"question": "a", "context": "b"}\n')
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run("predict", *about, "--input", tmp_path / "in.jsonl")
    assert stop.value.code == 2 and "reads one text of each input" in capsys.readouterr().err


def test_a_probe_for_each_label():
    """The same kernel matrix; each label's predictions are those of scikit-learn's SVC() on it."""
    from common.probes import svm
    from common.probes.examples import predict
    from common.task import Examples

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(80, 6)).astype(np.float16)
    labels = (vectors[:50, :3] + rng.normal(size=(50, 3)) > 0).astype(int)
    labels = np.c_[labels, np.zeros(50, int)]  # the last one is nobody's
    rows = {"train": np.arange(50)[:, None], "test": np.arange(50, 80)[:, None]}
    found = predict(svm, vectors, Examples(rows, {"task": labels}))["task"]["test"]
    x = vectors.astype(float)
    for column in range(3):
        model = SVC().fit(x[:50], labels[:, column])
        np.testing.assert_array_equal(found[:, column], model.predict(x[50:]))
    assert found.shape == (30, 4) and not found[:, 3].any()


def test_the_demo_is_learned_and_more_data_help(tmp_path, capsys):
    scores = []
    for size in (10, 100):
        run("fine-tuning", "--demo", "--training_size", size, "--output_dir", tmp_path,
            "--num_train_epochs", 5)  # fmt: skip
        found = read_json(tmp_path / "demo/biobert" / f"{size}/seed-42/fine-tuning/metrics.json")
        assert found["test_accuracy"] > found["test_majority_accuracy"] + 0.05
        scores.append(found["test_micro_f1"])
    assert scores[1] > max(0.8, scores[0] + 0.1)
    texts = " ".join(e.texts[0] for e in data.load(True, None).splits["train"])
    names = re.compile(r"\b[A-Z]{2,4}-?\d+\b")
    test = [
        name for e in data.load(True, None).splits["test"] for name in names.findall(e.texts[0])
    ]
    assert test and not {*test} & {*names.findall(texts)}
