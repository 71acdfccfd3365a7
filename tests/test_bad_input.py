"""What a user can get wrong or run out of: exit code 2, one message, nothing overwritten.

`refused` runs a script where a finished result stands, with `--overwrite`, and checks that the
result stays as it was and that the message names the thing, the place and what to type.
"""

import errno
import importlib
import json
import os
import pathlib
import pickle
import re
import resource
import shutil
import subprocess
import sys

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import torch

from common import files, models, results
from common.files import read_jsonl
from common.steps import fine_tuning
from common.training import loop, resume
from tests.helpers import LABELS, TAGS, ner_row, nli_row, write_data, write_jsonl

TASKS = ("NER", "NLI")
KINDS = ("bert", "biobert", "gpt2", "biogpt")
SPLITS = ("train", "validation", "test")
QUICK = ("--device", "cpu", "--precision", "fp32", "--num_train_epochs", "1")


# What a progress bar, shown while a run works, may leave on the screen.
PROGRESS = re.compile(r"[^\r\n]*examples/s[^\]\r\n]*\]|\x1b\[A|epoch \d+: loss[^\r\n]*")


@pytest.fixture(autouse=True)
def whole_batches(monkeypatch):
    """One pass a step."""
    monkeypatch.setattr(loop, "PIECES", {"cpu": 1})


def script(task, *argv):
    return importlib.import_module(f"{task}.fine-tuning").main([*QUICK, *map(str, argv)])


def flags(data, model, out, size=100):
    return ("--data_dir", data, "--model_name", model, "--output_dir", out,
            "--training_size", size)  # fmt: skip


def run_folder(data, model, out, size=100):
    name = "--".join(model.parts[-2:])
    return out / data.name / name / str(size) / "seed-42" / "fine-tuning"


def partial(folder):
    """Where a result is made."""
    return folder.with_name(folder.name + results.PARTIAL)


def tree(folder):
    """Every file's content and time of change."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def refused(capsys, task, *argv) -> str:
    """Run the script, which must exit with 2 and one message; returns the message."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        script(task, *argv)
    err = capsys.readouterr().err
    assert stop.value.code == 2, err
    assert "Traceback" not in err
    lines = [line.strip() for line in re.split(r"[\r\n]+", PROGRESS.sub("", err)) if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and err.endswith("\n"), err
    return lines[0]


def refused_beside_a_result(capsys, task, data, model, out, *more) -> str:
    """`refused` with --overwrite over a finished result, which must stay, and nothing beside it."""
    folder = run_folder(data, model, out)
    (folder / "checkpoint").mkdir(parents=True)
    for name in ("config.json", "metrics.json", "history.csv", "checkpoint/model.safetensors"):
        (folder / name).write_text("{}")
    before = tree(out)
    message = refused(capsys, task, "--overwrite", *flags(data, model, out), *more)
    assert tree(out) == before
    return message


# --- flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "argv, named",
    [
        (["--training_size", "20"], ["--training_size", "20", "0, 10, 30, 50, 100"]),
        (["--training_size", "all"], ["--training_size", "all", "--help"]),
        (
            ["--model_name", "bart"],
            ["bart", "did you mean bert?", "biogpt", "folder", "owner/name"],
        ),
        (["--model_name", "no/such/folder"], ["no/such/folder", "folder"]),
        (["--model_name", "bart", "--demo"], ["bart", "--demo", "biobert"]),
        (["--dataset_name", "../up"], ["--dataset_name", "../up", "letters"]),
        (["--max_length", "3"], ["--max_length", "3", "at least 4"]),
        (["--batch_size", "0"], ["--batch_size", "at least 1"]),
        (["--learning_rate", "nan"], ["--learning_rate", "nan", "above 0"]),
        (["--demo", "--data_dir", "x"], ["--demo", "--data_dir"]),
        (["--no_such_flag"], ["arguments: --no_such_flag (all flags", "--help"]),
        (["--lr", "1e-4"], ["--lr 1e-4; did you mean --learning_rate?"]),
        (["--epochs=5"], ["--epochs=5; did you mean --num_train_epochs?"]),
        (["--batch-size", "8"], ["--batch-size 8; did you mean --batch_size?"]),
        (["--training_sizes", "10", "30"], ["arguments: 30; --training_size takes one value"]),
        (["--demo", "30", "x y"], ["arguments: 30 x y; --output_dir takes one value"]),
        (["--training-size", "30"], ["--training-size 30; did you mean --training_size?"]),
    ],
)
def test_a_wrong_flag(tmp_path, capsys, monkeypatch, task, argv, named):
    monkeypatch.setattr(sys, "argv", ["fine-tuning.py", "--output_dir", "out", *argv])
    message = refused(capsys, task, "--output_dir", tmp_path / "out", *argv)
    assert all(part in message for part in named), message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "quantum"])
def test_a_device_that_is_not_there(tmp_path, capsys, checkpoint, device):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    data = write_data(tmp_path / "data", "NER")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        importlib.import_module("NER.fine-tuning").main(
            [*map(str, flags(data, checkpoint("bert"), tmp_path / "out")), "--device", device]
        )
    message = capsys.readouterr().err
    assert stop.value.code == 2 and message.count("\n") == 1
    assert f"--device {device}" in message and "--device cpu" in message
    assert not (tmp_path / "out").exists()


def test_a_max_length_without_room_for_a_pair(tmp_path, capsys, checkpoint):
    data = write_data(tmp_path / "pairs", "NLI")
    message = refused_beside_a_result(
        capsys, "NLI", data, checkpoint("bert"), tmp_path / "out", "--max_length", "4"
    )
    assert "--max_length 4" in message and "larger" in message


# --- data ----------------------------------------------------------------------------------------

SECRET = "He was seen in 1987 with a ruptured spleen"


def replace(row=None, line=None, name="train.jsonl", at=2):
    """A fault: in the line `at` of a file, other values of the row's fields or other bytes."""

    def spoil(folder):
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        changed = json.loads(lines[at - 1]) | (row or {})
        changed = {field: value for field, value in changed.items() if value is not ...}
        lines[at - 1] = json.dumps(changed).encode() + b"\n" if line is None else line
        (folder / name).write_bytes(b"".join(lines))

    return spoil


def content(name, value):
    return lambda folder: (folder / name).write_bytes(value)


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def conll(value):
    def spoil(folder):
        (folder / "train.jsonl").unlink()
        (folder / "train.conll").write_bytes(value)

    return spoil


EVERY_TASK = {
    "no folder": (shutil.rmtree, ["--data_dir", "not a folder", "Check the path"]),
    "no train file": (remove("train.jsonl"), ["no train file", "It needs"]),
    "no test file": (remove("test.jsonl"), ["no test file", "It needs"]),
    "empty": (content("train.jsonl", b""), ["train.jsonl", "is empty", "examples"]),
    "blank": (content("test.jsonl", b"\n \n"), ["test.jsonl", "is empty", "examples"]),
    "latin-1": (replace(line=b'{"tokens": ["\xe9"]}\n'), ["train.jsonl:2", "UTF-8", "iconv"]),
    "cut line": (replace(line=b'{"sentence1": "' + SECRET.encode()), ["train.jsonl:2", "JSON"]),
    "a list": (replace(line=b"[1, 2]\n"), ["train.jsonl:2", "not a JSON object"]),
    "a huge number": (replace(line=b'{"tags": ' + b"1" * 5000 + b"}\n"), ["train.jsonl:2", "JSON"]),
    "too deep": (replace(line=b"[" * 200_000 + b"\n"), ["train.jsonl:2", "JSON"]),
    "two train files": (
        lambda folder: (
            shutil.copy(folder / "train.jsonl", folder / "mli_train_v1.jsonl")
            and shutil.copy(folder / "train.jsonl", folder / "train.json")
        ),
        ["more than one train file", "Leave one"],
    ),
}
FAULTS = {(task, name): fault for task in TASKS for name, fault in EVERY_TASK.items()}
FAULTS |= {
    ("NER", "no tags"): (replace({"tags": ...}), ["train.jsonl:2", "'tags'", "tokens, tags"]),
    ("NER", "no tokens"): (replace({"tokens": ...}), ["train.jsonl:2", "'tokens'"]),
    ("NER", "numbers for words"): (
        replace({"tokens": [1], "tags": [0]}),
        ["train.jsonl:2", "'tokens'", "strings"],
    ),
    ("NER", "half a character"): (
        replace({"tokens": ["\ud83d"], "tags": [0]}),
        ["train.jsonl:2", "half a character", "Fix it"],
    ),
    ("NER", "unknown label"): (
        replace({"tokens": ["a"], "tags": ["B-planet"]}, name="validation.jsonl", at=3),
        ["validation.jsonl:3", "'B-planet'", *TAGS],
    ),
    ("NER", "id outside the map"): (
        replace({"tokens": ["a"], "tags": [5]}),
        ["train.jsonl:2", "tag 5 ", *(f"{number} {name}" for name, number in TAGS.items())],
    ),
    ("NER", "half a tag"): (replace({"tokens": ["a"], "tags": [0.5]}), ["train.jsonl:2", "0.5"]),
    ("NER", "other lengths"): (
        replace({"tokens": ["a", "b"], "tags": [0]}),
        ["train.jsonl:2", "2 tokens", "1 tags", "Each token needs one tag"],
    ),
    ("NER", "tags are no list"): (
        replace({"tags": "O"}),
        ["train.jsonl:2", "no list of tags"],
    ),
    ("NER", "no label map"): (remove("label.json"), ["train.jsonl:1", "label.json", "B-protein"]),
    ("NER", "broken label map"): (content("label.json", b'{\n"O": 0,'), ["label.json:2", "JSON"]),
    ("NER", "label map of names"): (content("label.json", b'{"0": "O"}'), ["label.json", '"O": 0']),
    ("NER", "label map with one number twice"): (
        content("label.json", b'{"O": 0, "B-DNA": 0}'),
        ["label.json", "same number"],
    ),
    ("NER", "no parquet"): (
        lambda folder: (folder / "train.jsonl").rename(folder / "train.parquet"),
        ["train.parquet", "cannot read"],
    ),
    ("NER", "other columns"): (
        lambda folder: (
            remove("train.jsonl")(folder)
            and pyarrow.parquet.write_table(
                pyarrow.table({"words": [["a"]], "tags": [[0]]}), folder / "train.parquet"
            )
        ),
        ["train.parquet", "'tokens'", "'words'"],
    ),
    ("NER", "CoNLL, a column too few"): (
        conll(b"IL-2 NN O\ngene O\n"),
        ["train.conll:2", "2 columns, not 3", "Fix that line"],
    ),
    ("NER", "CoNLL, a column too many"): (
        conll(b"IL-2 B-DNA\n\ngene I-DNA O\n"),
        ["train.conll:3", "3 columns, not 2", "Fix that line"],
    ),
    ("NER", "CoNLL, words alone"): (conll(b"IL-2\n"), ["train.conll:1", "1 columns", "word, tag"]),
    ("NER", "only O"): (
        lambda folder: (
            [write_jsonl(folder / f"{s}.jsonl", [{"tokens": ["a"], "tags": [0]}]) for s in SPLITS]
            and content("label.json", b'{"O": 0}')(folder)
        ),
        ["no entity", "only O"],
    ),
    ("NLI", "no sentence1"): (replace({"sentence1": ...}), ["train.jsonl:2", "'sentence1'"]),
    ("NLI", "no gold_label"): (
        replace({"gold_label": ...}, name="dev.jsonl"),
        ["dev.jsonl:2", "'gold_label'", "gold_label, sentence1, sentence2"],
    ),
    ("NLI", "no string"): (replace({"sentence2": None}), ["train.jsonl:2", "'sentence2'"]),
    ("NLI", "half a character"): (
        replace({"sentence2": "\ud83d"}),
        ["train.jsonl:2", "half a character", "Fix it"],
    ),
    ("NLI", "unknown label"): (
        replace({"gold_label": "-"}, name="dev.jsonl", at=3),
        ["dev.jsonl:3", "'-'", *LABELS],
    ),
    ("NLI", "a text as label"): (
        replace({"gold_label": SECRET}),
        ["train.jsonl:2", "gold_label", f"{len(SECRET)} characters", *LABELS],
    ),
    ("NLI", "a short text as label"): (
        replace({"gold_label": "ruptured spleen"}),
        ["train.jsonl:2", "gold_label", "15 characters", *LABELS],
    ),
}


def test_a_folder_of_tables_of_pairs(tmp_path, capsys, checkpoint):
    """The command in the message makes the files that are read."""
    data = write_data(tmp_path / "it's", "NLI")
    rows = {file: read_jsonl(file) for file in data.glob("*.jsonl")}
    for file, own in rows.items():
        pd.DataFrame(own).to_csv(file.with_suffix(".csv"), index=False)
        file.unlink()
    message = refused_beside_a_result(capsys, "NLI", data, checkpoint("bert"), tmp_path / "out")
    assert "no train file" in message
    command = message.split("convert the files: python ")[1].strip()
    subprocess.run(f"{sys.executable} {command}", shell=True, check=True)
    assert {file: read_jsonl(file) for file in data.glob("*.jsonl")} == rows


@pytest.mark.parametrize("task, name", FAULTS, ids=[" - ".join(key) for key in FAULTS])
def test_bad_data(tmp_path, capsys, checkpoint, task, name):
    spoil, named = FAULTS[task, name]
    data = write_data(tmp_path / "data", task)
    spoil(data)
    message = refused_beside_a_result(capsys, task, data, checkpoint("bert"), tmp_path / "out")
    assert all(part in message for part in named), message
    if task == "NLI":
        assert not any(word in message for word in ("ruptured", "spleen", "patient", "heart"))


def test_tags_of_another_scheme_are_named_with_their_place(tmp_path, capsys, checkpoint):
    data = write_data(tmp_path / "data", "NER")
    conll(b"IL-2 B-DNA\n\ngene S-DNA\n")(data)
    (data / "label.json").unlink()
    for split in ("validation", "test"):
        (data / f"{split}.jsonl").unlink()
        (data / f"{split}.conll").write_text("IL-2 B-DNA\n")
    message = refused_beside_a_result(capsys, "NER", data, checkpoint("bert"), tmp_path / "out")
    assert "train.conll:3" in message and "S-DNA" in message and "IOB2" in message


@pytest.mark.parametrize("task", TASKS)
def test_an_empty_subset(tmp_path, capsys, checkpoint, task):
    data = write_data(tmp_path / "data", task, 4)
    message = refused(capsys, task, *flags(data, checkpoint("bert"), tmp_path / "out", 10))
    assert "10 % of 4" in message and "--training_size" in message
    assert not (tmp_path / "out").exists()


def test_too_few_pairs_for_the_80_20_rule(tmp_path, capsys, checkpoint):
    data = write_data(tmp_path / "data", "NLI", 2)
    remove("dev.jsonl", "test.jsonl")(data)
    message = refused_beside_a_result(capsys, "NLI", data, checkpoint("bert"), tmp_path / "out")
    assert "train.jsonl" in message and "80/20" in message


def test_mednli_not_found(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MEDNLI_DIR", raising=False)
    message = refused(capsys, "NLI", "--output_dir", tmp_path / "out")
    for part in ("physionet.org/content/mednli", "mli_train_v1.jsonl", "--data_dir", "MEDNLI_DIR",
                 "--demo"):  # fmt: skip
        assert part in message
    monkeypatch.setenv("MEDNLI_DIR", str(tmp_path / "nowhere"))
    message = refused(capsys, "NLI", "--output_dir", tmp_path / "out")
    assert "MEDNLI_DIR" in message and str(tmp_path / "nowhere") in message
    monkeypatch.setenv("MEDNLI_DIR", str(tmp_path))
    message = refused(capsys, "NLI", "--output_dir", tmp_path / "out")
    assert "no train file" in message and "mli_train_v1.jsonl" in message
    assert not (tmp_path / "out").exists()


def test_conll_columns_with_other_entity_types(tmp_path, checkpoint):
    data = tmp_path / "diseases"
    data.mkdir()
    for split in SPLITS:
        (data / f"{split}.tsv").write_text(
            "-DOCSTART-\tX\tO\n\nNo\tDT\tO\nrenal\tJJ\tB-Disease\nfailure\tNN\tI-Disease\n\n"
            "aspirin\tNN\tB-Chemical\n81\tCD\tO\n"
        )
    assert script("NER", *flags(data, checkpoint("biobert"), tmp_path / "out")) == 0
    folder = run_folder(data, checkpoint("biobert"), tmp_path / "out")
    saved = json.loads((folder / "checkpoint" / "config.json").read_text())
    assert set(saved["label2id"]) == {"O", "Chemical", "Disease"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["train_examples"] == 2 and metrics["test_words"] == 5
    assert "test_f1_Disease" in metrics and "test_entity_f1_Chemical" in metrics


# --- odd sentences: kept, counted, scored --------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_odd_sentences_are_counted_and_scored(tmp_path, checkpoint, kind, capsys):
    """No word, words without a sub-word, more words than the model has positions for."""
    data = write_data(tmp_path / "data", "NER")
    odd = [
        {"tokens": [], "tags": []},
        {"tokens": ["", "IL-2"], "tags": [1, 2]},
        {"tokens": ["", ""], "tags": [1, 0]},
        {"tokens": ["IL-2", "gene"] * 100, "tags": [1, 0] * 100},
        {"tokens": ["-" * 300, "gene"], "tags": [1, 0]},
        {"tokens": ["[SEP]", "</s>", "<|endoftext|>", "\u200b", "\u2028", "é", "\U0001f9ec"],
         "tags": [0] * 7},
    ]  # fmt: skip
    for split in SPLITS:
        write_jsonl(data / f"{split}.jsonl", [*odd, *map(ner_row, range(4))])
    assert script("NER", *flags(data, checkpoint(kind), tmp_path / "out")) == 0
    folder = run_folder(data, checkpoint(kind), tmp_path / "out")
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for split in ("train", "dev", "test"):
        assert metrics[f"{split}_sentences"] == 10 and metrics[f"{split}_empty_sentences"] == 1
        assert metrics[f"{split}_truncated_sentences"] == 2
        assert metrics[f"{split}_truncated_words"] >= 200 - 128 + 2
        # Zero-width characters: a piece for GPT-2, none for BERT.
        assert metrics[f"{split}_empty_words"] in ((3,) if kind == "gpt2" else (3, 4, 5))
    assert len(rows) == 10
    assert f"{metrics['test_truncated_words']} test truncated words" in capsys.readouterr().out
    for row, example in zip(rows, [*odd, *map(ner_row, range(4))], strict=True):
        assert len(row["gold"]) == len(row["predicted"]) == len(example["tokens"])
    assert rows[2]["predicted"] == ["O", "O"] and rows[4]["predicted"] == ["O", "O"]
    assert rows[1]["predicted"][0] == "O" and rows[3]["predicted"][-70:] == ["O"] * 70
    # A gold entity without a prediction still counts: recall is not flattered.
    assert rows[3]["gold"] == ["B-protein", "O"] * 100


@pytest.mark.parametrize("kind", KINDS)
def test_odd_pairs_are_counted_and_scored(tmp_path, checkpoint, kind):
    data = write_data(tmp_path / "data", "NLI")
    long, odd = "fever " * 300, "\u200b<|endoftext|>\U0001f9ec"
    texts = [("", ""), ("", "Fever ."), ("Fever .", ""), (long, "Fever ."), ("Fever .", long),
             ("[SEP]</s>", odd)]  # fmt: skip
    odd = [
        {"gold_label": LABELS[i % 3], "sentence1": a, "sentence2": b}
        for i, (a, b) in enumerate(texts)
    ]
    for split in ("train", "dev", "test"):
        write_jsonl(data / f"{split}.jsonl", [*odd, *map(nli_row, range(4))])
    assert script("NLI", *flags(data, checkpoint(kind), tmp_path / "out")) == 0
    folder = run_folder(data, checkpoint(kind), tmp_path / "out")
    metrics = json.loads((folder / "metrics.json").read_text())
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert metrics["test_pairs"] == len(rows) == 10
    assert metrics["test_truncated_pairs"] == 2
    assert metrics["test_truncated_tokens"] > 2 * (300 - 128)
    assert all(row["predicted"] in LABELS for row in rows)
    right = sum(row["gold"] == row["predicted"] for row in rows)
    assert metrics["test_accuracy"] == pytest.approx(right / 10)


# --- models --------------------------------------------------------------------------------------


def edit_json(name, **changes):
    def spoil(folder):
        config = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps(config))

    return spoil


def cut(name):
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def other_keys(folder):
    """The weights of another program: not one name is known."""
    weights = torch.load(folder / "pytorch_model.bin")
    torch.save({f"net.{n}": w for n, w in weights.items()}, folder / "pytorch_model.bin")


def one_key_less(folder):
    weights = torch.load(folder / "pytorch_model.bin")
    del weights["bert.encoder.layer.0.attention.self.query.weight"]
    torch.save(weights, folder / "pytorch_model.bin")


class Code:
    """Pickled, it leaves a file behind when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def code(folder):
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump({"bert": Code(str(folder / "executed"))}, file, protocol=2)


BROKEN_MODELS = {
    "no config": ("bert", remove("config.json"), ["config.json"]),
    "broken config": ("bert", cut("config.json"), ["config.json"]),
    "no weights, safetensors": ("bert", remove("model.safetensors"), ["model.safetensors"]),
    "no weights, bin": ("biobert", remove("pytorch_model.bin"), ["pytorch_model.bin"]),
    "cut safetensors": ("bert", cut("model.safetensors"), ["model.safetensors"]),
    "empty safetensors": ("bert", content("model.safetensors", b""), ["model.safetensors"]),
    "cut bin": ("biobert", cut("pytorch_model.bin"), ["pytorch_model.bin"]),
    "cut zipped bin": ("biogpt", cut("pytorch_model.bin"), ["pytorch_model.bin"]),
    "garbage": ("biobert", content("pytorch_model.bin", b"<html>404"), ["pytorch_model.bin"]),
    "empty bin": ("biobert", content("pytorch_model.bin", b""), ["pytorch_model.bin"]),
    "code": ("biobert", code, ["pytorch_model.bin"]),
    "other keys": ("biobert", other_keys, ["weights are missing", "get the model again"]),
    "one key less": ("biobert", one_key_less, ["1 weights are missing", "query"]),
    "other shapes": (
        "bert",
        edit_json("config.json", intermediate_size=64),
        ["another shape", "intermediate"],
    ),
    "more layers": (
        "gpt2",
        edit_json("config.json", n_layer=2, num_hidden_layers=2),
        ["missing", "h.1."],
    ),
    "CamemBERT": (
        "bert",
        edit_json("config.json", model_type="camembert"),
        ["'camembert'", "bert, roberta"],
    ),
    "unheard-of": ("bert", edit_json("config.json", model_type="mamba9"), ["mamba9"]),
    "no vocabulary, BERT": ("biobert", remove("vocab.txt"), ["a file is missing or damaged"]),
    "no vocabulary, GPT-2": (
        "gpt2",
        remove("vocab.json", "merges.txt", "tokenizer.json"),
        ["a file is missing or damaged"],
    ),
    "no tokenizer.json, GPT-2": ("gpt2", remove("vocab.json", "tokenizer.json"), ["tokenizer"]),
    "no vocabulary, BioGPT": ("biogpt", remove("vocab.json"), ["tokenizer"]),
    "no merges, BioGPT": ("biogpt", remove("merges.txt"), ["tokenizer"]),
    "cut vocabulary": ("biobert", cut("vocab.txt"), ["a file is missing or damaged"]),
    "too many words": (
        "biobert",
        lambda folder: (folder / "vocab.txt").open("a").write("one\ntwo\nthree\n"),
        ["embeddings", "mixes two models"],
    ),
}


@pytest.mark.parametrize("name", BROKEN_MODELS)
def test_a_broken_model(tmp_path, capsys, checkpoint, name):
    kind, spoil, named = BROKEN_MODELS[name]
    model = tmp_path / "model"
    shutil.copytree(checkpoint(kind), model)
    spoil(model)
    data = write_data(tmp_path / "data", "NER")
    message = refused_beside_a_result(capsys, "NER", data, model, tmp_path / "out")
    assert str(model) in message and all(part in message for part in named), message
    assert not (model / "executed").exists()


@pytest.mark.parametrize("task", TASKS)
def test_a_model_with_a_missing_weight_is_refused_for_both_tasks(
    tmp_path, capsys, checkpoint, task
):
    model = tmp_path / "model"
    shutil.copytree(checkpoint("biobert"), model)
    one_key_less(model)
    data = write_data(tmp_path / "data", task)
    assert "query" in refused(capsys, task, *flags(data, model, tmp_path / "out"))


# --- while it runs -------------------------------------------------------------------------------


def nan_from_step(first):
    """The model's logits, but NaN at the training step `first` (and, through the weights, on)."""
    steps, real = [], models.logits

    def logits(model, batch):
        steps.extend([1] * model.training)
        return real(model, batch) * (float("nan") if len(steps) == first else 1)

    return logits


@pytest.mark.parametrize("task", TASKS)
def test_a_loss_that_is_no_number(tmp_path, capsys, checkpoint, monkeypatch, task):
    """In the second epoch: what the first one left is no result."""
    data, model, out = write_data(tmp_path / "data", task), checkpoint("bert"), tmp_path / "out"
    argv = (*flags(data, model, out), "--batch_size", 3, "--num_train_epochs", 2)
    with monkeypatch.context() as patch:
        patch.setattr(models, "logits", nan_from_step(5))
        message = refused(capsys, task, *argv)
    assert re.search(r"loss is nan at step \d+\.", message)
    assert "lower --learning_rate" in message
    folder = run_folder(data, model, out)
    left = {path.name for path in partial(folder).rglob("*") if path.is_file()}
    assert left == {"config.json", ".lock", "epoch-0.pt"} and not folder.exists()
    assert script(task, *argv, "--learning_rate", "1e-5") == 0
    assert (folder / "metrics.json").is_file() and not partial(folder).exists()


def test_the_step_of_the_first_nan_is_named(tmp_path, capsys, checkpoint, monkeypatch):
    data, model, out = write_data(tmp_path / "data", "NER"), checkpoint("bert"), tmp_path / "out"
    monkeypatch.setattr(models, "logits", nan_from_step(2))
    message = refused(capsys, "NER", *flags(data, model, out), "--batch_size", 2)
    assert "loss is nan at step 2." in message


def test_a_learning_rate_too_large(tmp_path, capsys, checkpoint):
    data, model, out = write_data(tmp_path / "data", "NER"), checkpoint("bert"), tmp_path / "out"
    message = refused(
        capsys, "NER", *flags(data, model, out), "--learning_rate", "1e30", "--batch_size", 2
    )
    assert re.search(r"loss is (nan|inf) at step [2-5]\.", message)
    left = {path.name for path in partial(run_folder(data, model, out)).rglob("*")}
    assert left <= {"config.json", ".lock", "work"}


def test_weights_that_are_no_numbers_after_the_last_step(tmp_path, capsys, checkpoint):
    """One step: its loss is finite, what it leaves is not."""
    data, model, out = write_data(tmp_path / "data", "NER"), checkpoint("bert"), tmp_path / "out"
    message = refused(capsys, "NER", *flags(data, model, out), "--learning_rate", "1e38")
    assert "--learning_rate" in message
    assert not run_folder(data, model, out).exists()


def test_a_file_where_the_result_folder_should_be(tmp_path, capsys, checkpoint):
    data, model = write_data(tmp_path / "data", "NER"), checkpoint("bert")
    for out in (tmp_path / "file", tmp_path / "folder"):
        stands = out if out.name == "file" else run_folder(data, model, out, 0)
        stands.parent.mkdir(parents=True, exist_ok=True)
        stands.write_text("mine")
        message = refused(capsys, "NER", *flags(data, model, out, 0))
        assert str(stands) in message and "another" in message
        assert stands.read_text() == "mine"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_result_folder_that_cannot_be_written(tmp_path, capsys, checkpoint, monkeypatch, number):
    """Simulated, since root may write anywhere."""
    data, model, out = write_data(tmp_path / "data", "NER"), checkpoint("bert"), tmp_path / "out"
    mkdir = pathlib.Path.mkdir

    def not_here(path, *args, **kwargs):
        if out in (path, *path.parents):
            raise OSError(number, os.strerror(number), str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "mkdir", not_here)
    message = refused(capsys, "NER", *flags(data, model, out, 0))
    assert str(out) in message and os.strerror(number) in message and "--output_dir" in message


# What a run writes, in order; from its start on, no file may grow past so many bytes.
WRITES = {
    "config.json": (results, "write_json", 0),
    "state.pt": (resume, "save_state", 300_000),
    "epoch-0.pt": (resume, "save_best", 0),
    "checkpoint": (files, "save_model", 0),
    "checkpoint's weights": (files, "save_model", 20_000),
    "history.csv": (files, "write_csv", 0),
    "learning_curve.png": (fine_tuning, "draw", 0),
    "predictions.jsonl": (files, "write_jsonl", 0),
    "metrics.json": (results, "finish", 0),
}


def refused_without_space(capsys, monkeypatch, name, data, model, out):
    """`refused`, where the disk is full when `name` is written."""
    where, function, limit = WRITES[name]
    write, limits = getattr(where, function), resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_full_disk(*args, **kwargs):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        return write(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(where, function, on_a_full_disk)
        try:
            return refused(capsys, "NER", *flags(data, model, out), "--save_minutes", "0")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.figures
@pytest.mark.parametrize("name", WRITES)
def test_a_full_disk(tmp_path, capsys, checkpoint, monkeypatch, name):
    data, model, out = write_data(tmp_path / "data", "NER"), checkpoint("bert"), tmp_path / "out"
    message = refused_without_space(capsys, monkeypatch, name, data, model, out)
    assert "same command again" in message
    folder = run_folder(data, model, out)
    left = {path.name for path in partial(folder).rglob("*") if path.parent.name != "checkpoint"}
    written = [file for file in WRITES if file != "checkpoint's weights"]
    complete = set(written[: written.index(name.split("'")[0])])
    complete |= {"steps.csv"} if "history.csv" in complete else set()
    complete |= {"learning_curve.pdf"} if "learning_curve.png" in complete else set()
    assert left - {"work"} == complete | {".lock"}, "all before, and nothing half-written"
    # With space again, the same command ends as if nothing had happened.
    assert script("NER", *flags(data, model, out)) == 0
    assert (folder / "metrics.json").is_file() and not list(folder.rglob("*.tmp"))


def test_the_place_of_a_full_disk_is_named(tmp_path, capsys, checkpoint, monkeypatch):
    data, model, out = write_data(tmp_path / "data", "NER"), checkpoint("bert"), tmp_path / "out"
    message = refused_without_space(capsys, monkeypatch, "metrics.json", data, model, out)
    assert str(run_folder(data, model, out)) in message


def test_a_second_process_on_the_same_folder(tmp_path, capsys, checkpoint, monkeypatch):
    """Started while the first one trains; the first goes on unharmed."""
    data, model, out = write_data(tmp_path / "data", "NER"), checkpoint("bert"), tmp_path / "out"
    argv, fit, messages = flags(data, model, out), loop.fit, []

    def second_starts(*args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "fit", lambda *_, **__: pytest.fail("the second trains too"))
            late = "the second has loaded a model before it stops"
            patch.setattr(models, "load_task_model", lambda *_, **__: pytest.fail(late))
            for more in ((), ("--overwrite",)):
                before = tree(out)
                messages.append(refused(capsys, "NER", *argv, *more))
                assert tree(out) == before
        return fit(*args, **options)

    monkeypatch.setattr(loop, "fit", second_starts)
    assert script("NER", *argv) == 0
    assert len(messages) == 2
    for message in messages:
        assert "another process" in message and str(run_folder(data, model, out)) in message
        assert "--output_dir" in message
    assert (run_folder(data, model, out) / "metrics.json").is_file()


@pytest.mark.parametrize("task", TASKS)
def test_a_finished_run_with_other_settings(tmp_path, capsys, checkpoint, task):
    data, model, out = write_data(tmp_path / "data", task), checkpoint("bert"), tmp_path / "out"
    argv = flags(data, model, out, 0)
    assert script(task, *argv) == 0
    before = tree(out)
    assert script(task, *argv) == 0
    assert "finished earlier" in capsys.readouterr().out and tree(out) == before
    message = refused(capsys, task, *argv, "--max_length", "64")
    assert "max_length 512 against 64" in message and "--overwrite" in message
    assert str(run_folder(data, model, out, 0)) in message and tree(out) == before
    assert script(task, *argv, "--max_length", "64", "--overwrite") == 0
    config = json.loads((run_folder(data, model, out, 0) / "config.json").read_text())
    assert config["settings"]["max_length"] == 64


def test_a_long_path_to_a_model(tmp_path, capsys, checkpoint):
    """The model's path names the result folder; a file system allows 255 bytes a name."""
    model = tmp_path / ("a" * 140) / ("b" * 140)
    shutil.copytree(checkpoint("bert"), model)
    data = write_data(tmp_path / "data", "NER")
    message = refused(capsys, "NER", *flags(data, model, tmp_path / "out", 0))
    assert "too long" in message and str(tmp_path) in message
