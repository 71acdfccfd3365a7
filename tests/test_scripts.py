"""The scripts end to end, as a user types them: on the demo, and on small sets with tiny models."""

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

ROOT = Path(__file__).resolve().parents[1]
TASKS = ("NER", "NLI")
MAIN = {"NER": "entity_f1", "NLI": "accuracy"}


def script(task, step="fine-tuning"):
    return importlib.import_module(f"{task}.{step}").main


def run_folder(output, model, size, step="fine-tuning", seed=42):
    return output / "demo" / model / str(size) / f"seed-{seed}" / step


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize("task", TASKS)
def test_fine_tuning_writes_what_the_readme_says(task, output, capsys):
    output = output / task
    command = ["--demo", "--training_size", "30", "--model_name", "biobert"]
    command += ["--output_dir", str(output)]
    assert script(task)(command) == 0
    shown = capsys.readouterr()
    assert "probing.py --training_size 30 --model_name biobert" in shown.out
    assert "examples/s" in shown.err and "loss=" in shown.err
    folder = run_folder(output, "biobert", 30)
    names = {entry.name for entry in folder.iterdir()}
    assert names == {
        *("config.json", "metrics.json", "checkpoint"),
        *("history.csv", "steps.csv", "predictions.jsonl"),
        *("learning_curve.png", "learning_curve.pdf"),
    }

    found = metrics(folder)
    main = MAIN[task]
    assert found["trained"] and found["test_" + main] > found["test_majority_" + main] + 0.1
    assert all(0 <= value <= 1 for key, value in found.items() if main in key)
    config = json.loads((folder / "config.json").read_text())
    assert config["training_size"] == 30 and config["subset"]["size"] > 0

    history = pd.read_csv(folder / "history.csv")
    assert list(history.columns) == ["task", "dataset", "model", "training_size", "seed", "epoch",
                                     "split", "metric", "value"]  # fmt: skip
    assert set(history["epoch"]) == set(range(1, config["settings"]["num_train_epochs"] + 1))
    dev = history[(history["split"] == "dev") & (history["metric"] == main)].set_index("epoch")
    assert dev["value"].idxmax() == found["best_epoch"]
    assert dev["value"].max() == pytest.approx(found["dev_" + main])

    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    keys = {"id", "gold", "predicted"} | ({"group"} if task == "NLI" else set())
    assert all(set(row) == keys for row in rows)
    assert recomputed(task, rows) == pytest.approx(found["test_" + main])

    before = (folder / "metrics.json").read_bytes()
    assert script(task)(command) == 0
    assert "finished earlier" in capsys.readouterr().out
    assert (folder / "metrics.json").read_bytes() == before


def recomputed(task, rows):
    gold, predicted = [row["gold"] for row in rows], [row["predicted"] for row in rows]
    if task == "NLI":
        return sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(rows)
    return f1_score(gold, predicted)


@pytest.mark.parametrize("task", TASKS)
def test_the_checkpoint_predicts_what_the_run_did(task, output):
    """Loaded by the library alone, it gives the logged predictions."""
    import torch
    import transformers

    folder = run_folder(output / task, "biobert", 30)
    kind = {"NER": "TokenClassification", "NLI": "SequenceClassification"}[task]
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(folder / "checkpoint")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "checkpoint")
    demo = importlib.import_module(f"{task}.demo_data")
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    same = 0
    for row, example in list(zip(rows, demo.splits()["test"], strict=True))[:40]:
        if task == "NLI":
            inputs = tokenizer(example["sentence1"], example["sentence2"], return_tensors="pt")
        else:
            inputs = tokenizer(example["tokens"], is_split_into_words=True, return_tensors="pt")
        with torch.inference_mode():
            labels = model(**inputs).logits[0].argmax(-1)
        if task == "NLI":
            same += model.config.id2label[labels.item()] == row["predicted"]
        else:
            words = inputs.word_ids()
            first = [words.index(i) for i in range(len(example["tokens"]))]
            classes = [model.config.id2label[labels[i].item()] for i in first]
            same += classes == [
                tag.removeprefix("B-").removeprefix("I-") for tag in row["predicted"]
            ]
    assert same >= 38  # the run's own precision may be bf16


@pytest.fixture
def quick_miniatures(output, monkeypatch):
    """The demo's miniatures, made as always but of a tenth of the text: what they score is open."""
    from common.demo import miniatures
    from common.models import registry

    monkeypatch.setattr(miniatures, "LINES", 2800)
    monkeypatch.setattr(registry, "CACHE", output / "miniatures")


@pytest.mark.parametrize("task", TASKS)
def test_size_zero_scores_the_untrained_head(task, output, capsys, quick_miniatures):
    command = ["--demo", "--training_size", "0", "--model_name", "gpt2", "--output_dir"]
    assert script(task)([*command, str(output / task)]) == 0
    folder = run_folder(output / task, "gpt2", 0)
    assert not (folder / "checkpoint").exists() and not (folder / "history.csv").exists()
    found = metrics(folder)
    assert found["trained"] is False and found["train_examples"] == 0
    assert found["test_" + MAIN[task]] < 0.55
    assert "one arbitrary mapping" in capsys.readouterr().out


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", ("bert", "gpt2", "biogpt", "llama2-7b"))
def test_every_architecture_trains(task, model, output, quick_miniatures):
    command = ["--demo", "--training_size", "10", "--model_name", model, "--output_dir"]
    assert script(task)([*command, str(output / task), "--num_train_epochs", "1"]) == 0
    assert metrics(run_folder(output / task, model, 10))["trained"]


def test_iob2_scheme_learns_eleven_classes(output):
    command = ["--demo", "--training_size", "10", "--label_scheme", "iob2", "--seed", "7"]
    assert script("NER")([*command, "--output_dir", str(output / "NER")]) == 0
    folder = run_folder(output / "NER", "biobert", 10, seed=7)
    assert len(json.loads((folder / "config.json").read_text())["labels"]) == 11
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    gold, predicted = [row["gold"] for row in rows], [row["predicted"] for row in rows]
    expected = f1_score(gold, predicted, mode="strict", scheme=IOB2)
    assert metrics(folder)["test_entity_f1_strict"] == pytest.approx(expected)


# Runs a script as a file; the third save of its state is the last thing the process does.
KILLED = """
import os, runpy, signal, sys
sys.path.insert(0, os.path.dirname(os.getcwd()))
from common.training import resume
save, saved = resume.save_state, []
def last(*given):
    save(*given)
    saved.append(1)
    if len(saved) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
resume.save_state = last
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_as_printed_in_the_readme_and_killed(tmp_path):
    """Subprocesses in the task's folder; killed once, a run ends as an uninterrupted one does."""
    flags = ("fine-tuning.py", "--demo", "--training_size", "10", "--model_name", "biobert",
             "--precision", "fp32", "--device", "cpu", "--num_train_epochs", "2")  # fmt: skip

    def run(output, *before, flags=flags):
        return subprocess.run(
            [sys.executable, *before, *flags, "--output_dir", str(output)],
            cwd=ROOT / "NER", env=os.environ | {"OMP_NUM_THREADS": "1"}, text=True,
            capture_output=True,
        )  # fmt: skip

    killed = run(tmp_path / "killed", "-c", KILLED, flags=(*flags, "--save_minutes", "0"))
    folder = run_folder(tmp_path / "killed", "biobert", 10)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    partial = folder.with_name("fine-tuning.partial")
    left = {path.name for path in partial.rglob("*") if path.is_file()}
    assert left == {"config.json", "state.pt", ".lock"} and not folder.exists()
    again, whole = run(tmp_path / "killed"), run(tmp_path / "whole")
    assert again.returncode == 0, again.stderr
    assert "epoch 1, step 3" in again.stderr and "NER fine-tuning" in again.stdout
    assert whole.returncode == 0
    one, two = (run_folder(tmp_path / name, "biobert", 10) for name in ("whole", "killed"))
    for name in ("checkpoint/model.safetensors", "predictions.jsonl", "history.csv"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    timings = ("seconds", "per_second", "memory")
    kept = [
        {k: v for k, v in metrics(f).items() if not any(t in k for t in timings)}
        for f in (one, two)
    ]
    assert kept[0] == kept[1]


def test_a_script_runs_through_a_link(tmp_path):
    (tmp_path / "linked.py").symlink_to(ROOT / "NER" / "predict.py")
    command = [sys.executable, str(tmp_path / "linked.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--output_form" in done.stdout, done.stderr


@pytest.mark.parametrize("task", TASKS)
def test_help_and_a_wrong_flag_answer_before_anything_heavy_is_imported(task):
    script = [sys.executable, "-X", "importtime", str(ROOT / task / "fine-tuning.py")]
    shown = subprocess.run([*script, "--help"], capture_output=True, text=True, check=True)
    assert "python fine-tuning.py --training_size 30 --model_name biobert" in shown.stdout
    wrong = subprocess.run([*script, "--training_size", "7"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "invalid choice: 7" in wrong.stderr
    for done in (shown, wrong):
        imported = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
        assert "argparse" in imported
        assert not imported & {"torch", "numpy", "transformers", "sklearn", "pandas"}
