"""A checkpoint's model card: what the Hub reads of it, what a reader can do with it, no path."""

import re
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from common import models
from common import task as contract
from common.cli import ROOT
from common.models.registry import Source
from NER import data as ner_data
from tests.helpers import TASKS, ner_row, read_json, run_script, write_data
from tests.test_qa_scripts import write_squad

FLAGS = ("--device", "cpu", "--precision", "fp32", "--num_train_epochs", "1", "--batch_size", "4")


@pytest.fixture
def tuned(tmp_path, checkpoint, monkeypatch):
    """Fine-tunes "biobert", a tiny model here; returns the folder of the result."""
    monkeypatch.setattr(Source, "where", lambda self: str(checkpoint("bert")))

    def make(task, *flags):
        out = ("--output_dir", tmp_path / "out", "--model_name", "biobert", "--training_size", 30)
        assert run_script(task, "fine-tuning", *FLAGS, *out, *flags) == 0
        (metrics,) = (tmp_path / "out").rglob("metrics.json")
        return metrics.parent

    return make


def block(text, kind):
    return re.search(rf"^```{kind}\n(.*?)^```$", text, re.M | re.S)[1]


def loaded(code, folder, monkeypatch):
    """The model and the tokenizer of the card's code, run in the checkpoint's folder."""
    monkeypatch.chdir(folder)
    names = {}
    exec(code, names)
    return names["model"].eval(), names["tokenizer"]


def logits(model, tokenizer):
    with torch.inference_mode():
        return model(**tokenizer("The IL-2 gene is expressed .", return_tensors="pt")).logits


def test_the_card_of_public_data(tuned, tmp_path, monkeypatch, checkpoint):
    """The header goes through the Hub's own reader and back; the code loads the model."""
    splits = {"train": 20, "dev": 6, "test": 8}
    rows = {s: [("a row", ner_row(i, {"dev": "validation"}.get(s, s))) for i in range(n)]
            for s, n in splits.items()}  # fmt: skip
    monkeypatch.setattr(ner_data, "load_dataset", lambda *given: rows)
    folder = tuned("NER")
    metrics, read = (
        read_json(folder / "metrics.json"),
        ModelCard.load(folder / "checkpoint/README.md"),
    )
    header = read.data
    assert (header.library_name, header.pipeline_tag) == ("transformers", "token-classification")
    assert header.base_model == "dmis-lab/biobert-v1.1" and header.datasets == ["tner/bionlp2004"]
    name, results = model_index_to_eval_results(header.to_dict()["model-index"])
    assert name == "NER-bionlp2004-biobert-30-seed-42" and results == header.eval_results
    found = {result.metric_type: result for result in results}
    for key in ("entity_f1", "entity_f1_strict"):
        assert found[key].metric_value == metrics[f"test_{key}"]
        assert (found[key].dataset_type, found[key].dataset_split) == ("tner/bionlp2004", "test")
    assert "hf upload OWNER/" in read.text and "agreement" not in read.text
    config = read_json(folder / "config.json")
    assert (config["environment"]["git_commit"] or "unknown") in read.text
    command = "python NER/fine-tuning.py --training_size 30 --num_train_epochs 1 --batch_size 4"
    assert set(command.split()) <= set(block(read.text, "bash").split())
    own = loaded(block(read.text, "python"), folder / "checkpoint", monkeypatch)
    wanted = models.load_task_model(".", "token", config["labels"], keep_head=True)
    assert torch.equal(logits(*own), logits(*wanted))
    assert not re.search(rf"{tmp_path}|{ROOT}|{checkpoint('bert')}|/home|/tmp", str(read))


def test_the_card_of_other_data_and_of_adapters(tuned, tmp_path, monkeypatch, checkpoint):
    """The terms of the data, and no word of sharing; a finished result's card stays as it is."""
    data = write_data(tmp_path / "notes", "NLI", 40)
    folder = tuned("NLI", "--data_dir", data, "--lora", "--lora_rank", 2)
    path = folder / "checkpoint" / "README.md"
    read = ModelCard.load(path)
    assert read.data.library_name == "peft" and read.data.datasets is None
    assert read.data.base_model == "dmis-lab/biobert-v1.1"
    assert {result.dataset_type for result in read.data.eval_results} == {"notes"}
    assert "hf upload" not in read.text and "data use agreement" in read.text
    assert "--data_dir notes" in block(read.text, "bash") and str(tmp_path) not in str(read)
    code = block(read.text, "python").replace("dmis-lab/biobert-v1.1", str(checkpoint("bert")))
    own = loaded(code, folder / "checkpoint", monkeypatch)
    labels = read_json(folder / "config.json")["labels"]
    assert list(own[0].config.id2label.values()) == labels
    wanted = models.load_task_model(".", "sequence", labels, keep_head=True)
    torch.testing.assert_close(logits(*own), logits(*wanted), atol=2e-5, rtol=2e-5)
    before = path.read_bytes(), path.stat().st_mtime_ns
    tuned("NLI", "--data_dir", data, "--lora", "--lora_rank", 2)
    assert before == (path.read_bytes(), path.stat().st_mtime_ns)


def test_the_card_of_adapters_whose_base_has_other_names(tuned, tmp_path, monkeypatch, checkpoint):
    """A span model of Llama calls its encoder otherwise: by the library, it would be random."""
    monkeypatch.setattr(Source, "where", lambda self: str(checkpoint("llama3")))
    data = write_squad(tmp_path / "squad", 8)
    for flags, text in ((("--lora",), "predict.py"), ((), "from_pretrained(folder")):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        folder = tuned("QA", "--data_dir", data, "--doc_stride", 8, "--max_length", 64, *flags)
        card = (folder / "checkpoint" / "README.md").read_text()
        assert text in card.split("## How to load it")[1].split("## Use")[0]


def test_only_data_of_the_hub_count_as_public():
    """Not MedNLI's folder, and no instruction set."""
    assert [name for name in TASKS if contract.load(name).HUB_DATASET[0]] == ["NER", "QA"]


def test_a_local_model_has_no_name_on_the_hub(tmp_path, checkpoint):
    """A head that transformers lacks is loaded by the project."""
    data, own = write_data(tmp_path / "data", "NER", 12), checkpoint("gemma3_text")
    flags = ("--model_name", own, "--data_dir", data, "--training_size", 100)
    assert run_script("NER", "fine-tuning", *FLAGS, *flags, "--output_dir", tmp_path / "out") == 0
    (path,) = (tmp_path / "out").rglob("checkpoint/README.md")
    assert ModelCard.load(path).data.base_model is None
    text = path.read_text()
    assert str(own) not in text and str(data) not in text and "does not load its head right" in text
