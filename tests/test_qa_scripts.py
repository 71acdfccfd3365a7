"""QA's scripts end to end, as a user types them, on small files with tiny models."""

import copy
import importlib
import json
import shlex

import numpy as np
import pandas as pd
import pytest

from QA import demo_data
from tests import tiny
from tests.test_bad_input import flags, refused, refused_beside_a_result, run_folder, tree

QUICK = ("--device", "cpu", "--precision", "fp32")
SHORT = ("--doc_stride", "16", "--max_length", "100")


def squad_document(n, split, start=0, answerable=False):
    """`n` questions, every third without an answer unless `answerable`."""
    data = []
    for i in range(start, start + n):
        context = " ".join(tiny.SENTENCES[(i + k) % len(tiny.SENTENCES)] for k in range(2))
        word = context.split()[i % 5]
        answers = [{"text": word, "answer_start": context.index(word)}]
        question = {"id": f"{split}-{i}", "question": f"Which is number {i} ?",
                    "answers": answers if answerable or i % 3 else []}  # fmt: skip
        data.append({"title": f"{split}-{i}",
                     "paragraphs": [{"context": context, "qas": [question]}]})  # fmt: skip
    return {"version": "v2.0", "data": data}


def write(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")


def write_squad(folder, n=9):
    folder.mkdir()
    for split in ("train", "dev", "test"):
        write(folder / f"{split}.json", squad_document(n, split))
    return folder


def write_bioasq(folder, questions=24):
    folder.mkdir()
    for split, document in demo_data.bioasq().items():
        write(folder / f"{split}.json", {"questions": document["questions"][:questions]})
    return folder


def run(step, *argv):
    script = importlib.import_module(f"QA.{step}")
    assert script.main([str(flag) for flag in (*QUICK, *argv)]) == 0


def read(folder):
    return json.loads((folder / "metrics.json").read_text())


def predictions(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


# --- All steps, both stages


@pytest.fixture(scope="module")
def first_stage(tmp_path_factory, checkpoint):
    """SQuAD form through fine-tuning: (data, model, output folder, run folder)."""
    root = tmp_path_factory.mktemp("qa")
    data, model, out = write_squad(root / "squad", 12), checkpoint("bert"), root / "out"
    run("fine-tuning", *flags(data, model, out), *SHORT, "--num_train_epochs", 2)
    return data, model, out, run_folder(data, model, out)


def test_fine_tuning_writes_what_the_readme_says(first_stage, capsys):
    data, model, out, folder = first_stage
    found, rows = read(folder), predictions(folder)
    for name in ("f1", "exact", "f1_has_answer", "exact_no_answer", "best_f1",
                 "best_exact_threshold", "f1_at_threshold_0", "majority_f1"):  # fmt: skip
        assert f"test_{name}" in found, name
    assert found["test_windows"] >= found["test_questions"] == len(rows) == 12
    assert found["test_majority_exact"] == pytest.approx(1 / 3) and found["new_head"]
    assert isinstance(found["null_threshold"], float) and found["train_moved_answers"] == 0
    assert all({"id", "start", "end", "null_difference", "n_best", "group"} <= set(r) for r in rows)
    passages = {q["id"]: p["context"] for a in json.loads((data / "test.json").read_text())["data"]
                for p in a["paragraphs"] for q in p["qas"]}  # fmt: skip
    for row in rows:
        text = passages[row["id"]]
        for entry in row["n_best"]:
            if entry["start"] is not None:
                part = text[entry["start"] : entry["end"]]
                assert part and part == part.strip()
        assert sum(entry["probability"] for entry in row["n_best"]) == pytest.approx(1, abs=1e-3)
    capsys.readouterr()
    run("fine-tuning", *flags(data, model, out), *SHORT, "--num_train_epochs", 2)
    shown = capsys.readouterr().out
    assert "finished earlier" in shown and "--doc_stride" not in shown.split("next:")[1]


def test_the_checkpoint_is_the_librarys_and_gives_the_same_logits(first_stage):
    import torch
    import transformers

    from common import models
    from common.batching import pad
    from QA import task
    from QA.data import Data
    from QA.squad import parse

    data, _, _, folder = first_stage
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder / "checkpoint").eval()
    ours, tokenizer = models.load_task_model(str(folder / "checkpoint"), "span", [], keep_head=True)
    examples, _ = parse({"test": json.loads((data / "test.json").read_text())})
    encoded, _ = task.encode(Data({}, [], True, doc_stride=16), examples[:3], tokenizer, 100)
    batch = pad([{k: row[k] for k in ("input_ids", "token_type_ids")} for row in encoded], 0)
    with torch.inference_mode():
        theirs = model(**batch)
        found = models.logits(ours.eval(), batch)
    assert torch.equal(found, torch.stack([theirs.start_logits, theirs.end_logits], -1))


def test_probing_and_attention_follow(first_stage, capsys):
    data, model, out, folder = first_stage
    base = ("--data_dir", data, "--model_name", model, "--output_dir", out, "--max_length", 100)
    run("probing", *base, "--training_size", 100, "--controls")
    run("attention", *base, "--training_sizes", "100", "--drop_special", "--controls")
    run("attention", *base, "--training_sizes", "100")
    run("ablation", *base, "--training_size", 100)
    whole = folder.parent / "ablation" / "predictions" / "most_changed-0.jsonl"
    assert whole.read_text() == (folder / "predictions.jsonl").read_text()  # dev's threshold, too
    shown = capsys.readouterr().out
    assert "bits per boundary" in shown and "minus that of 'passage'" in shown
    for name, target in (("probing", "task"), ("probing-passage", "passage")):
        layers = pd.read_csv(folder.parent / name / "layers.csv")
        layers = layers[layers["probe"] == "pointer"]
        assert set(layers["target"]) == {target} and set(layers["split"]) == {"dev", "test"}
        assert {"bits", "f1", "exact", "random_span_f1"} <= set(layers["metric"])
        metrics = read(folder.parent / name)
        assert metrics["train_questions"] == 8 and "train_outside_answers" in metrics
        assert {"test_bits", "test_f1", "test_majority_f1", "test_random_span_f1"} <= set(metrics)
    settings = json.loads((folder.parent / "probing" / "config.json").read_text())["settings"]
    assert {"probe_steps", "probe_batch_size", "probe_learning_rate"} <= set(settings)
    assert (folder.parent / "probing" / "layers.png").is_file()
    heads = read(folder.parent / "attention-drop_special")
    assert 0 < heads["cosine"] <= 1 and heads["questions"] == 12


def test_the_heads_of_a_published_head_are_removed_without_training(first_stage, tmp_path, capsys):
    """Nothing has changed at size 0: the orders are importance, and random ones beside it."""
    data, _, _, folder = first_stage
    base = ("--data_dir", data, "--model_name", folder / "checkpoint", "--output_dir", tmp_path)
    base = (*base, "--max_length", 100, "--training_size", 0)
    for _ in range(2):  # no result yet, then one of a new head
        with pytest.raises(SystemExit) as stopped:
            run("ablation", *base)
        message = capsys.readouterr().err
        assert stopped.value.code == 2 and "--keep_head" in message
        run("fine-tuning", *base, *SHORT)
    run("fine-tuning", *shlex.split(message.split("fine-tuning.py")[1]), *SHORT[:2])
    run("ablation", *base)
    (made,) = tmp_path.glob("*/*/0/seed-42/ablation")
    whole = made / "predictions" / "importance-0.jsonl"
    kept = made.with_name("fine-tuning") / "predictions.jsonl"
    assert whole.read_text() == kept.read_text()
    assert set(pd.read_csv(made / "ablation.csv")["order"]) == {"importance", "random"}
    metrics = read(made)
    assert 0 < metrics["p_importance"] <= 1 and "p_most_changed" not in metrics
    assert not any(name.startswith(("spearman", "difference")) for name in metrics)


def test_the_second_stage_keeps_the_head_and_writes_a_submission(first_stage, tmp_path, capsys):
    _, _, out, folder = first_stage
    data, model = write_bioasq(tmp_path / "bioasq"), folder / "checkpoint"
    file = tmp_path / "new" / "submission.json"
    given = (*flags(data, model, out), "--keep_head", *SHORT, "--write_submission", file)
    run("fine-tuning", *given, "--num_train_epochs", 1)
    second = next(out.glob("bioasq/QA-squad-*-100-seed-42/100/seed-42/fine-tuning"))
    found, rows = read(second), predictions(second)
    asked = [q for q in json.loads((data / "test.json").read_text())["questions"]
             if q["type"] == "factoid"]  # fmt: skip
    assert not found["new_head"] and found["train_left_out_yesno"] == 1
    assert {"test_mrr", "test_strict", "test_lenient", "test_majority_mrr"} <= set(found)
    assert "null_threshold" not in found and found["test_questions"] == len(rows) == len(asked)
    assert all(len(row["answers"]) <= 5 for row in rows)
    submitted = json.loads(file.read_text())["questions"]
    assert [q["id"] for q in submitted] == [q["id"] for q in asked] == [r["id"] for r in rows]
    for question, row in zip(asked, rows, strict=True):
        texts = [question["snippets"][a["snippet"]]["text"][a["start"] : a["end"]]
                 for a in row["answers"]]  # fmt: skip
        sent = next(q for q in submitted if q["id"] == row["id"])["exact_answer"]
        assert sent == [[text] for text in texts]
    file.unlink()
    run("fine-tuning", *given, "--num_train_epochs", 1)  # finished: only the file is written
    assert len(json.loads(file.read_text())["questions"]) == len(asked)
    capsys.readouterr()
    run("probing", "--data_dir", data, "--model_name", model, "--output_dir", out, "--max_length",
        100, "--training_size", 100, "--controls")  # fmt: skip
    layers = pd.read_csv(second.parent / "probing" / "layers.csv")
    assert {"bits", "mrr", "strict", "lenient", "random_span_f1"} <= set(layers["metric"])


def test_size_zero_with_its_head_scores_a_model_as_it_is(first_stage, tmp_path, capsys):
    data, _, _, folder = first_stage
    model, out = folder / "checkpoint", tmp_path / "out"
    threshold = read(folder)["null_threshold"]
    run("fine-tuning", *flags(data, model, out, 0), *SHORT, "--keep_head", "--null_threshold",
        threshold)  # fmt: skip
    again = read(next(out.glob("squad/QA-squad-*-100-seed-42/0/seed-42/fine-tuning")))
    assert again["test_f1"] == read(folder)["test_f1"] and again["null_threshold"] == threshold
    assert "its own head included" in capsys.readouterr().out


def test_a_miniature_memorises_eight_questions(tmp_path):
    data = tmp_path / "eight"
    data.mkdir()
    document = squad_document(8, "same")
    write(data / "train.json", document)
    for split in ("dev", "test"):
        write(data / f"{split}.json", document)
    model = tiny.make("electra", tmp_path / "model", layers=2)
    run("fine-tuning", *flags(data, model, tmp_path / "out"), *SHORT, "--num_train_epochs", 60,
        "--learning_rate", 3e-3, "--batch_size", 8, "--layer_decay", 1)  # fmt: skip
    found = read(run_folder(data, model, tmp_path / "out"))
    assert found["test_exact"] == found["test_f1"] == 1


def test_without_unanswerable_questions_the_first_sentence_is_the_baseline(tmp_path, checkpoint):
    data = tmp_path / "v1"
    data.mkdir()
    for split, start in (("train", 0), ("dev", 20)):  # dev becomes test, dev is cut from train
        write(data / f"{split}.json", squad_document(12, split, start, answerable=True))
    model = checkpoint("bert")
    run("fine-tuning", *flags(data, model, tmp_path / "out"), *SHORT, "--num_train_epochs", 1)
    found = read(run_folder(data, model, tmp_path / "out"))
    assert found["train_examples"] == 11 and "null_threshold" not in found
    assert 0 < found["test_majority_f1"] < 1 and "test_f1_no_answer" not in found


# --- What a user can get wrong


def spoiled(name, change):
    def spoil(folder):
        path = folder / name
        document = json.loads(path.read_text())
        write(path, change(copy.deepcopy(document)) or document)

    return spoil


def first_question(document):
    return document["data"][1]["paragraphs"][0]["qas"][0]


def without_id(document):
    del first_question(document)["id"]
    return document


FAULTS = {
    "no id": (spoiled("train.json", without_id), ("train.json", "data[1].paragraphs[0].qas[0]",
                                                  "'id' is missing", "Expected")),
    "an empty file": (lambda folder: (folder / "dev.json").write_text(""), ("dev.json", "empty")),
    "a folder": (lambda folder: [(folder / "dev.json").unlink(), (folder / "dev.json").mkdir()],
                 ("dev.json: Is a directory",)),
    "broken JSON": (lambda folder: (folder / "dev.json").write_text("{,}"), ("dev.json:1:2",)),
    "no questions": (spoiled("test.json", lambda d: {"data": []}), ("test.json", "no question")),
    "no train file": (lambda folder: (folder / "train.json").unlink(),
                      ("no train file", "participants-area.bioasq.org", "--demo")),
    "two forms": (spoiled("test.json", lambda d: demo_data.bioasq()["test"]),
                  ("test.json", "not in SQuAD form")),
    "no factoid question": (
        lambda folder: [
            write(folder / f"{split}.json", {"questions": [
                {"id": "1", "type": "yesno", "body": "Is it ?", "exact_answer": "yes"}]})
            for split in ("train", "dev", "test")
        ], ("train.json", "no factoid question", "1 yesno")),
    "nothing to train on": (
        lambda folder: [
            write(folder / f"{split}.json", {"questions": [
                {"id": "1", "type": "factoid", "body": "What ?", "exact_answer": "p53",
                 "snippets": [{"text": "It is MDM2 ."}]}]})
            for split in ("train", "dev", "test")
        ], ("100 % of 0 training examples (or groups) are none",)),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_files(tmp_path, capsys, checkpoint, fault):
    spoil, named = FAULTS[fault]
    data = write_squad(tmp_path / "data", 6)
    spoil(data)
    message = refused_beside_a_result(
        capsys, "QA", data, checkpoint("bert"), tmp_path / "out", *SHORT
    )
    assert all(part in message for part in named), message


@pytest.mark.parametrize(
    ("kind", "argv", "named"),
    [
        (
            "bert",
            ("--doc_stride", "120", "--max_length", "100"),
            ("--max_length 100", "--doc_stride 120"),
        ),
        ("bert", ("--keep_head", *SHORT), ("no span head", "--keep_head")),
        ("albert", ("--layer_decay", "0.8", *SHORT), ("--layer_decay 0.8", "ALBERT")),
        ("bert", ("--write_submission", "x.json"), ("--write_submission", "BioASQ")),
    ],
)
def test_settings_that_do_not_fit(tmp_path, capsys, checkpoint, kind, argv, named):
    data = write_squad(tmp_path / "data", 6)
    message = refused_beside_a_result(capsys, "QA", data, checkpoint(kind), tmp_path / "out", *argv)
    assert all(part in message for part in named), message


@pytest.mark.parametrize("value", ("often", "nan", "inf"))
def test_a_wrong_threshold(tmp_path, capsys, value):
    message = refused(capsys, "QA", "--null_threshold", value, "--output_dir", tmp_path)
    assert "--null_threshold" in message and not tree(tmp_path)


def test_a_folder_that_is_not_there_says_how_to_get_bioasq(tmp_path, capsys):
    message = refused(
        capsys, "QA", "--data_dir", tmp_path / "bioasq", "--output_dir", tmp_path / "out",
        "--model_name", "bert",
    )  # fmt: skip
    assert "no train file in" in message and "Register" in message and "--demo" in message


# --- The demo


def test_the_demo_learns_to_answer(tmp_path, capsys):
    """The README's command, with fewer epochs: clearly above no answer."""
    script = importlib.import_module("QA.fine-tuning")
    argv = ["--demo", "--training_size", "30", "--model_name", "biobert"]
    assert script.main([*argv, "--num_train_epochs", "3", "--output_dir", str(tmp_path)]) == 0
    found = read(tmp_path / "demo" / "biobert" / "30" / "seed-42" / "fine-tuning")
    assert found["test_f1"] > found["test_majority_f1"] + 0.1
    assert "probing.py --training_size 30 --model_name biobert" in capsys.readouterr().out
    assert np.isfinite(found["null_threshold"])


def test_the_demos_default_is_a_miniature_electra():
    from common import models

    args = importlib.import_module("QA.probing").parse_args(["--demo"]).args
    assert args.model_name == "biom-electra-base" in models.MINIATURES and args.max_length == 384
    assert models.MODELS[args.model_name].startswith("sultan/")
