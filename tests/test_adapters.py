"""LoRA with each kind of head: what is trained, saved and loaded again, here and by PEFT."""

import importlib
import json
import re
import shutil

import pandas as pd
import peft
import pytest
import torch
import transformers

from common import models
from common import task as tasks
from common.batching import pad
from common.cli import UserError
from common.files import save_model
from common.models import adapters, loading
from common.steps import STEPS
from tests import tiny
from tests.helpers import read_json, read_rows, run_script, write_data
from tests.test_qa_scripts import squad_document, write

LABELS = ["O", "protein", "DNA"]
ENCODERS = [
    "bert",
    "roberta",
    "distilbert",
    "electra",
    "albert",
    "modernbert",
    "deberta-v2",
    "xlm-roberta",
    "eurobert",
]
CAUSAL = [
    "gpt2",
    "biogpt",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gpt_neox",
    "olmo2",
    "phi3",
]
HEADS = ("sequence", "token", "span")
TEXTS = ("The IL-2 gene is expressed .", "Human monocytes express the receptor")


def labels(head):
    return LABELS if head in ("sequence", "token") else []


def outputs(model, tokenizer):
    """The logits of two texts, padded; of a span model the scores of starts."""
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in TEXTS]
    batch = pad(rows, tokenizer.pad_token_id)
    with torch.inference_mode():
        if "QuestionAnswering" in type(loading.families.without_adapters(model)).__name__:
            return model(**batch).start_logits
        return models.logits(model, batch)


def states(encoder, tokenizer):
    ids = tokenizer(TEXTS[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return encoder(input_ids=ids, output_hidden_states=True).hidden_states


class Adapted:
    """A model whose adapters are not zero, unmerged, and the folder that it was saved in."""

    def __init__(self, base, head, root):
        torch.manual_seed(1)
        self.base, self.head, self.folder = str(base), head, root / "adapters"
        plain, self.tokenizer = models.load_task_model(self.base, head, labels(head))
        self.model = adapters.add(plain, 4).eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.requires_grad:
                    parameter += 0.1 * torch.randn_like(parameter)
        save_model(self.folder, self.model, self.tokenizer)


@pytest.fixture(params=[(kind, head) for kind in ENCODERS + CAUSAL for head in HEADS],
                ids=lambda pair: "-".join(pair))  # fmt: skip
def adapted(request, checkpoint, tmp_path):
    kind, head = request.param
    return Adapted(checkpoint(kind), head, tmp_path)


def test_the_head_is_trained_whole_and_the_encoder_by_adapters(adapted):
    inner = adapted.model.get_base_model()
    encoder = f"{inner.base_model_prefix}."
    for name, parameter in inner.named_parameters():
        of_head = not name.startswith(encoder) or name.startswith(f"{encoder}pooler")
        assert ("lora_" in name) <= (not of_head), name
        copy = "modules_to_save" in name or "lora_" in name
        assert parameter.requires_grad == copy, name
        assert of_head <= ("modules_to_save" in name or "original_module" in name), name
    linear = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    layers = inner.base_model.get_submodule(loading.families.of(inner.config).layers)
    assert not any(type(module) in linear and not name.endswith("base_layer")
                   and "lora_" not in name for name, module in layers.named_modules())  # fmt: skip


def test_the_loaded_model_is_the_one_that_was_saved(adapted):
    wanted = outputs(adapted.model, adapted.tokenizer)
    torch.manual_seed(2)  # what is drawn anew while loading must not matter
    names = labels(adapted.head)
    merged, tokenizer = models.load_task_model(str(adapted.folder), adapted.head, names, True)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert type(merged).__name__ == type(adapted.model.get_base_model()).__name__
    torch.testing.assert_close(outputs(merged, tokenizer), wanted, atol=2e-5, rtol=2e-5)
    before, _ = models.load_task_model(adapted.base, adapted.head, names)
    assert not torch.allclose(outputs(before, tokenizer), wanted, atol=1e-2)


def test_peft_loads_it(adapted):
    """With the library's own classes. It loads no span model of Llama's file, see `Family`."""
    inner = adapted.model.get_base_model()
    if type(inner).__name__ in ("LlamaForQuestionAnswering", "Qwen2ForQuestionAnswering",
                                "Qwen3ForQuestionAnswering"):  # fmt: skip
        pytest.skip("its base would be random")
    torch.manual_seed(2)
    own = {"num_labels": len(LABELS)} if labels(adapted.head) else {}
    base = type(inner).from_pretrained(adapted.base, dtype=torch.float32, **own)
    found = peft.PeftModel.from_pretrained(base, adapted.folder).eval()
    found.config.pad_token_id = adapted.tokenizer.pad_token_id
    wanted = outputs(adapted.model, adapted.tokenizer)
    assert torch.equal(outputs(found, adapted.tokenizer), wanted)


def test_features_and_maps_are_those_with_the_adapters(adapted):
    wanted = states(adapted.model.get_base_model().base_model, adapted.tokenizer)
    bare, tokenizer = models.load_encoder(adapted.base)
    assert not torch.allclose(states(bare, tokenizer)[-1], wanted[-1], atol=1e-2)
    for attention in (None, "eager"):
        encoder, tokenizer = models.load_encoder(str(adapted.folder), attention)
        same = attention or bare.config._attn_implementation
        assert encoder.config._attn_implementation == same
        assert encoder.state_dict().keys() == bare.state_dict().keys()
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        for found, state in zip(states(encoder, tokenizer), wanted, strict=True):
            torch.testing.assert_close(found, state, atol=2e-5, rtol=2e-5)


def test_another_head_begins_on_the_adapted_encoder(adapted):
    wanted = states(adapted.model.get_base_model().base_model, adapted.tokenizer)
    for head, names in (("sequence", ["a", "b"]), ("token", ["a", "b"]), ("span", [])):
        model, tokenizer = models.load_task_model(str(adapted.folder), head, names)
        found = states(model.base_model, tokenizer)
        torch.testing.assert_close(found[-1], wanted[-1], atol=2e-5, rtol=2e-5)
        assert not names or [*model.config.id2label.values()] == names
        if (head, adapted.head) != ("span", "span"):
            with pytest.raises(UserError, match=f"no {head} head of its own"):
                models.load_task_model(str(adapted.folder), head, names, keep_head=True)


def test_a_pooler_that_the_checkpoint_lacks_is_saved(checkpoint, tmp_path):
    """It is drawn anew at each load; only the saved one fits the head."""
    where = tmp_path / "masked"
    model = transformers.BertForMaskedLM.from_pretrained(checkpoint("bert"))
    transformers.AutoTokenizer.from_pretrained(checkpoint("bert")).save_pretrained(where)
    model.save_pretrained(where)
    adapted = Adapted(where, "sequence", tmp_path)
    wanted = outputs(adapted.model, adapted.tokenizer)
    torch.manual_seed(2)
    found, tokenizer = models.load_task_model(str(adapted.folder), "sequence", LABELS, True)
    torch.testing.assert_close(outputs(found, tokenizer), wanted, atol=2e-5, rtol=2e-5)


def test_the_words_of_a_causal_model_are_not_trained(checkpoint):
    for kind in CAUSAL:
        model = adapters.add(models.load_task_model(str(checkpoint(kind)), "causal", [])[0], 2)
        assert all(p.requires_grad == ("lora_" in name) for name, p in model.named_parameters())


def test_a_model_without_linear_layers(checkpoint):
    model, _ = models.load_task_model(str(checkpoint("bert")), "token", LABELS)
    model.bert.encoder.layer = torch.nn.ModuleList([torch.nn.Identity()])
    with pytest.raises(UserError, match="--lora: the layers of BERT models have no linear layers"):
        adapters.add(model, 2)


def test_adapters_of_a_bare_encoder_are_refused(checkpoint, tmp_path):
    """PEFT itself warns, and gives the model without them."""
    encoder, tokenizer = models.load_encoder(str(checkpoint("electra")))
    config = peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)
    save_model(tmp_path / "adapters", peft.get_peft_model(encoder, config), tokenizer)
    path = tmp_path / "adapters" / "config.json"
    about = read_json(path) | {"architectures": ["ElectraForTokenClassification"]}
    path.write_text(json.dumps(about))
    with pytest.raises(UserError, match="cannot load a model from .*missing adapter keys"):
        models.load_encoder(str(tmp_path / "adapters"))


# --- the steps


def data_of(task, folder):
    if task != "QA":
        return write_data(folder, task, 24, 10, 12)
    folder.mkdir()
    for split in ("train", "dev", "test"):
        write(folder / f"{split}.json", squad_document(8, split))
    return folder


def steps_of(task, base, *lora):
    """Fine-tuning, probing and attention of 50 %; the pre-trained and an untrained model too."""
    own, rate = (*base, *lora, "--training_size", 50), ("--learning_rate", 1e-2) * bool(lora)
    stride = ("--doc_stride", 16) * (task == "QA")
    assert run_script(task, "fine-tuning", *own, "--num_train_epochs", 2, *rate, *stride) == 0
    assert run_script(task, "probing", *own, "--controls") == 0
    assert run_script(task, "probing", *base, *lora, "--layers", "last") == 0
    assert run_script(task, "attention", *own, "--controls") == 0


@pytest.mark.parametrize(("task", "kind"), [("NER", "bert"), ("NLI", "gpt2"), ("QA", "albert")])
def test_every_step_has_results_of_its_own_with_lora(
    task, kind, tmp_path, checkpoint, capsys, monkeypatch
):
    """The flag names the fine-tuned model; what is not fine-tuned is one result with both."""
    silent = [step for step in STEPS.values() if task != "NER" or step.NAME == "fine-tuning"]
    for step in silent:  # one task's figures are enough
        monkeypatch.setattr(step, "draw", lambda *given: None)
    model = shutil.copytree(checkpoint(kind), tmp_path / "own" / kind)
    base = ("--data_dir", data_of(task, tmp_path / "data"), "--output_dir", tmp_path / "out",
            "--model_name", model, "--device", "cpu", "--precision", "fp32")  # fmt: skip
    steps_of(task, base, "--lora")
    shown = capsys.readouterr().out
    assert "(LoRA, rank 16), " in shown and "examples a second, peak memory " in shown
    assert "--lora" in re.findall(r"next: .*probing.*", shown)[0]
    cell = tmp_path / "out" / "data" / f"own--{kind}"
    there, controls = cell / "50" / "seed-42", tasks.load(task).CONTROLS
    made = {"fine-tuning-lora", "probing-lora", "attention-lora"}
    made |= {f"probing-lora-{control}" for control in controls}
    assert {path.name for path in there.iterdir()} == made
    assert [path.name for path in (cell / "0" / "seed-42").iterdir()] == ["probing-layers-last"]
    assert [path.name for path in (cell / "random" / "seed-42").iterdir()] == ["attention"]
    tuned = read_json(there / "fine-tuning-lora" / "metrics.json")
    assert 0 < tuned["trainable_parameters"] < tuned["parameters"]
    assert (there / "fine-tuning-lora" / "checkpoint" / "adapter_model.safetensors").is_file()
    for step in ("probing-lora", "attention-lora"):
        config = read_json(there / step / "config.json")
        assert config["inputs"]["checkpoint"] == tuned["checkpoint_sha256"]
        assert "--lora" in config["command"]
    if task != "NER":
        return
    before = {path: path.read_bytes() for path in there.rglob("*") if path.is_file()}
    for step in STEPS.values():
        monkeypatch.setattr(step, "draw", lambda *given: None)
    steps_of(task, base)
    assert all(path.read_bytes() == content for path, content in before.items())
    one, two = (pd.read_csv(there / f"attention{end}" / "heads.csv") for end in ("-lora", ""))
    assert not one["value"].equals(two["value"])


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_predict_reads_the_model_with_its_adapters(kind, tmp_path, capsys):
    data = write_data(tmp_path / "data", "NLI", 90, 15, 30)
    model = tiny.make(kind, tmp_path / "base", layers=1)
    pairs = [f"{row['sentence1']}\t{row['sentence2']}" for row in read_rows(data, "NLI")["test"]]
    (tmp_path / "pairs.tsv").write_text("\n".join(pairs) + "\n")
    base = ("--data_dir", data, "--model_name", model, "--output_dir", tmp_path / "out",
            "--device", "cpu", "--precision", "fp32")  # fmt: skip
    new = ("--input", tmp_path / "pairs.tsv")
    with pytest.raises(SystemExit) as stop:
        run_script("NLI", "predict", *base, "--lora", *new)
    told = capsys.readouterr().err
    assert stop.value.code == 2 and "fine-tuning.py --training_size 100" in told
    assert "--lora" in told.split("fine-tuning.py")[1] and "--input" not in told
    assert run_script("NLI", "fine-tuning", *base, "--lora", "--learning_rate", 1e-2,
                      "--num_train_epochs", 12) == 0  # fmt: skip
    capsys.readouterr()
    assert run_script("NLI", "predict", *base, "--lora", *new) == 0
    found = [json.loads(line)["label"] for line in capsys.readouterr().out.splitlines()]
    (file,) = tmp_path.glob("out/data/*/100/seed-42/fine-tuning-lora/predictions.jsonl")
    assert found == [json.loads(line)["predicted"] for line in file.read_text().splitlines()]
    assert len(set(found)) > 1
    shutil.rmtree(model)
    tiny.make(kind, model, layers=1, seed=5)
    with pytest.raises(SystemExit):
        run_script("NLI", "predict", *base, "--lora", *new)
    assert f"{model} is another model than" in capsys.readouterr().err


def test_flags_that_do_not_fit(capsys, checkpoint, tmp_path):
    with pytest.raises(SystemExit):
        importlib.import_module("NER.fine-tuning").parse_args(["--lora_rank", "4"])
    assert "--lora_rank: the rank of adapters; add --lora" in capsys.readouterr().err
    call = importlib.import_module("NER.fine-tuning").parse_args(["--lora"])
    assert call.settings["lora_rank"] == 16 and call.settings["learning_rate"] == 2e-4
    call = importlib.import_module("NER.fine-tuning").parse_args([])
    assert "lora_rank" not in call.settings
    where = Adapted(checkpoint("bert"), "token", tmp_path).folder
    data = write_data(tmp_path / "data", "NER")
    base = ("--data_dir", data, "--output_dir", tmp_path / "out", "--precision", "fp32")
    with pytest.raises(SystemExit):
        run_script("NER", "fine-tuning", *base, "--lora", "--model_name", where)
    assert "already holds a model with adapters. Leave out --lora" in capsys.readouterr().err
