"""What `--model_name` means: short names, Hub ids, local folders, checkpoints of this project."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from common import models
from common.cli import UserError
from common.files import save_model
from common.models import registry
from tests import tiny


def make(folder, config="{}"):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    return folder


def test_labels_may_stand_in_any_order(tmp_path):
    """JSON's keys are text, and some programs sort them so: "10" before "2"."""
    labels = [f"C{n}" for n in range(12)]
    model, tokenizer = models.load_task_model(tiny.make("bert", tmp_path / "m"), "token", labels)
    save_model(tmp_path / "own", model, tokenizer)
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    config["id2label"] = dict(sorted(config["id2label"].items()))
    assert list(config["id2label"].values()) != labels
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    again, _ = models.load_task_model(str(tmp_path / "own"), "token", labels, keep_head=True)
    assert [again.config.id2label[n] for n in range(12)] == labels


@pytest.mark.parametrize(
    "config", ("[]", '{"model_type": ["bert"]}', '{"model_type": "bert", "id2label": {}}')
)
def test_an_odd_config_is_one_message(tmp_path, config):
    folder = make(tmp_path / "odd", config)
    with pytest.raises(UserError):
        models.load_task_model(str(folder), "token", ["a", "b"])


@pytest.mark.parametrize("name", ("1.output.dense.weight", "0.attention.self.distance.weight"))
def test_weights_that_the_model_has_no_place_for(tmp_path, name):
    """The library would leave out a layer, or relative positions, without a word."""
    folder = tiny.make("bert", tmp_path / "more", layers=1)
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    start = next(key for key in weights if "layer.0" in key).split("0.")[0]
    save_file(weights | {start + name: torch.ones(3, 3)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"1 weights are missing, too many .* {start}{name}"):
        models.load_encoder(str(folder))


def test_a_local_folder(tmp_path, monkeypatch):
    folder = make(tmp_path / "mine" / "electra")
    monkeypatch.chdir(folder.parent)
    for given in (str(folder), "electra"):
        assert models.source(given) == models.Source(str(folder.resolve()), "mine--electra")
    assert models.source(given).where() == str(folder.resolve())


def test_a_checkpoint_of_this_project_goes_by_its_run(tmp_path):
    """Else all would be `fine-tuning--checkpoint`, and their results one."""
    run = tmp_path / "results" / "demo" / "biogpt" / "10" / "seed-1" / "fine-tuning"
    checkpoint = make(run / "checkpoint")
    config = {"task": "Instruct", "dataset": "demo", "model": "biogpt", "training_size": 10,
              "seed": 1, "step": "fine-tuning", "variant": "", "settings": {}}  # fmt: skip
    for variant, ending in (("", ""), ("lora", "-lora")):
        (run / "config.json").write_text(json.dumps(config | {"variant": variant}))
        name = models.source(str(checkpoint)).results
        assert name == f"Instruct-demo-biogpt-10-seed-1{ending}"
    for other in ([], {"step": "fine-tuning"}):
        (run / "config.json").write_text(json.dumps(other))
        assert models.source(str(checkpoint)).results == "fine-tuning--checkpoint"


def test_short_names_and_hub_ids():
    for name, hub_id in models.MODELS.items():
        source = models.source(name)
        assert (source.name, source.results, source.where()) == (name, name, hub_id)
        assert source.identity() is None
    source = models.source("owner/some-model")
    assert (source.results, source.where()) == ("owner--some-model", "owner/some-model")
    assert source.identity() is None
    for name in ("bert-base-uncased", "distilgpt2", "roberta-large", "albert-base-v2"):
        source = models.source(name)
        assert source.where() == source.results == name and source.identity() is None
    assert set(models.STUDY) <= set(models.MINIATURES) <= set(models.MODELS)
    assert models.fits("token", "bert") and not models.fits("causal", "bert")
    assert models.fits("causal", "gpt2") and models.fits("causal", "owner/some-model")


def test_what_is_no_model_is_refused_with_what_to_type(tmp_path):
    with pytest.raises(
        UserError, match="no miniature of albert-base.*from bert, biobert, .*biogpt"
    ):
        models.source("albert-base", demo=True)
    for name in ("electra", "a/b/c", "../model", "owner/..", str(tmp_path / "missing")):
        with pytest.raises(UserError, match="Hub id .owner/name.*biom-electra-base"):
            models.source(name)
    slips = {"biobrt": "biobert", "gtp2": "gpt2", "modernbert-bse": "modernbert-base"}
    for name, meant in slips.items():
        with pytest.raises(UserError, match=rf"{name} is .*did you mean {meant}\?"):
            models.source(name)
    with pytest.raises(UserError, match="no miniature of biobrt; did you mean biobert?"):
        models.source("biobrt", demo=True)
    with pytest.raises(UserError, match="A model folder needs config.json"):
        models.load_config(models.source(str(tmp_path)).where())


def test_the_identity_is_of_the_files_that_a_model_is_read_from(tmp_path):
    folder = tiny.make("bert", tmp_path / "model", layers=1)
    source = models.source(str(folder))
    before = source.identity()
    assert len(before) == 64
    shutil.copytree(folder, tmp_path / "copy")
    assert models.source(str(tmp_path / "copy")).identity() == before
    for name in (".hidden.json", "README.md", "training.log"):
        (folder / name).write_text("other")
    assert source.identity() == before
    (folder / "vocab.txt").write_text("other")
    assert source.identity() != before


def test_the_demo(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "CACHE", tmp_path)
    made = []

    def miniature(name, cache):
        made.append(name)
        return cache / name

    monkeypatch.setattr(registry.miniatures, "miniature", miniature)
    source = models.source("gpt2", demo=True)
    assert source == models.Source("gpt2", "gpt2", True) and source.identity().startswith("gpt2-")
    assert not made and source.where() == str(tmp_path / "gpt2") and made == ["gpt2"]
