"""Instructions from their files to the results of all three steps; the loss; adapters."""

import argparse
import importlib
import json
import random
import shutil
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import torch

from common import features, forward, models, probes, study, subsample
from common.batching import pad
from common.device import Device
from common.report import __main__ as report
from common.task import ProbeInputs, evaluate
from common.training import loop
from Instruct import answering, build, encoding, generation, task, tuning
from Instruct.labels import write_labels
from Instruct.prompts import LABEL_KINDS
from tests import tiny
from tests.helpers import read_json, run_script, write_data, write_jsonl

CPU = Device(torch.device("cpu"), "fp32")
FAMILIES = ("gpt2", "biogpt", "llama3")  # the last one's heads share keys and values
# Each source's main score.
MAIN = {"genes": "entity_f1", "pairs": "accuracy", "links": "micro_f1", "topics": "micro_f1",
        "verdicts": "accuracy", "open": "f1"}  # fmt: skip
STEPS = ("fine-tuning", "probing", "attention")
QUICK = ("--device", "cpu", "--precision", "fp32", "--batch_size", "8", "--num_train_epochs", "2",
         "--learning_rate", "3e-3", "--max_new_tokens", "8")  # fmt: skip


def call(step, *argv):
    return importlib.import_module(f"Instruct.{step}").main([*map(str, argv)])


def refused(capsys, step, *argv):
    """The one message of a call that a user can mend."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        call(step, *argv)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("error: ") == 1
    return error


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of every kind, made by build.py."""
    root = tmp_path_factory.mktemp("instructions")
    for kind in ("NER", "NLI"):
        write_data(root / kind, kind, 24, 8, 8)
    split = [("train", "dev", "test")[max(0, i // 8 - 2)] for i in range(40)]
    word = [("gene", "cell", "drug")[i % 3] for i in range(40)]
    sets = {
        "relation": [{"text": f"@ {w} {i} @ binds", "label": ["0", "binds"][i % 2]}
                     for i, w in enumerate(word)],
        "classification": [{"text": f"a {w} {i}", "labels": [w] * (i % 4 > 0)}
                           for i, w in enumerate(word)],
        "qa": [{"question": f"is {w} {i}?", "answer": ["yes", "no"][i % 2], "context": w}
               for i, w in enumerate(word)],
        "free": [{"question": f"what is {w} {i}?", "answer": f"a {w}"} for i, w in enumerate(word)],
    }  # fmt: skip
    for name, rows in sets.items():
        rows = [row | {"split": s} for row, s in zip(rows, split, strict=True)]
        write_jsonl(root / f"{name}.jsonl", rows)
    build.main([
        "--ner", f"genes={root / 'NER'}", "--nli", f"pairs={root / 'NLI'}",
        "--relation", f"links={root / 'relation.jsonl'}", "--qa", f"verdicts={root / 'qa.jsonl'}",
        "--qa", f"open={root / 'free.jsonl'}", "--max_per_source", "16",
        "--classification", f"topics={root / 'classification.jsonl'}",
        "--output_dir", str(root / "medtuned"),
    ])  # fmt: skip
    return root / "medtuned"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("causal")
    return lambda kind: (
        root / kind
        if (root / kind).is_dir()
        else tiny.make(kind, root / kind, layers=1, heads=4, max_positions=512)
    )


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take longer than all that they show; what they are of is drawn in other tests."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, path, **how: path.touch())


def arguments(folder, *more):
    return importlib.import_module("Instruct.fine-tuning").parse_args(
        ["--data_dir", str(folder), *map(str, more)]
    )


@pytest.fixture(params=FAMILIES)
def loaded(request, folder, model_folder):
    args = arguments(folder, "--model_name", model_folder(request.param))
    data = task.load(args)
    model, tokenizer, new_head = task.load_model(args, data)
    assert not new_head
    examples = [
        e for s in data.sources for e in [e for e in data.splits["train"] if e["source"] == s][:3]
    ]
    encoded, counts = task.encode(data, examples, tokenizer, 512)
    assert counts == {"prompts": len(examples), "too_long": 0, "cut_words": 0}
    return model.eval(), tokenizer, data, examples, encoded


def test_the_loss_is_that_of_single_answers(loaded):
    """Whatever the batch, its order and its padding; the end token counts, though it also pads."""
    model, tokenizer, _, _, encoded = loaded
    total, found = torch.zeros(()), []
    for row in encoded:
        ids, start = list(row["input_ids"]), len(row["prompt"])
        assert ids[-1] == row["labels"][-1] == tokenizer.eos_token_id
        assert row["labels"][start:] == row["input_ids"][start:]
        assert set(row["labels"][:start]) == {-100} and row["answer_tokens"] == len(ids) - start
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total = total - sum(logs[i - 1, ids[i]] for i in range(start, len(ids)))
    found.append(torch.autograd.grad(total, list(model.parameters())))
    total = total.item()
    for order in (encoded, encoded[::-1]):
        batch = pad(order, model.config.pad_token_id)
        assert tuning.loss(model, batch).item() == pytest.approx(total, rel=1e-5)
    settings = argparse.Namespace(learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1e9)
    trainer = loop.Trainer(model, settings, CPU, tuning.loss, 1.0)
    model.eval()  # no dropout
    for micro in (len(encoded), 5):
        trainer._gradients(encoded, 1, micro)
        found.append([p.grad.clone() for p in model.parameters()])
    for plain, whole, summed in zip(*found, strict=True):
        torch.testing.assert_close(whole, plain, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(summed, plain, atol=1e-3, rtol=1e-3)
    labels = sum(row["answer_tokens"] for row in encoded)
    for size in (3, 100):
        found = forward.mean_loss(model, encoded, size, CPU, tuning.loss, task.n_labels)
        assert found == pytest.approx(total / labels, rel=1e-5)


def test_what_a_prompt_s_tokens_are_is_not_learnt(loaded):
    """The loss pulls at the states before the answer's tokens alone."""
    model, _, _, _, encoded = loaded
    states = []

    def keep(module, inputs, output):
        output.last_hidden_state.retain_grad()
        states.append(output.last_hidden_state)

    hook = model.base_model.register_forward_hook(keep)
    tuning.loss(model, pad(encoded, model.config.pad_token_id)).backward()
    hook.remove()
    pulled = states[0].grad.abs().sum(-1) > 0
    for row, places in zip(encoded, pulled, strict=True):
        asked = torch.zeros_like(places)
        asked[len(row["prompt"]) - 1 : len(row["input_ids"]) - 1] = True
        assert torch.equal(places, asked)


def test_the_end_is_learnt_where_it_also_pads(folder, model_folder):
    """GPT-2 has no token for padding; what has learnt its answers stops by itself."""
    args = arguments(folder, "--model_name", model_folder("gpt2"), "--learning_rate", 1e-2)
    data = task.load(args)._replace(form="plain")
    model, tokenizer, _ = task.load_model(args, data)
    assert model.config.pad_token_id == tokenizer.eos_token_id
    examples = [e for e in data.splits["train"] if e["kind"] in ("nli", "free_qa")][:6]
    encoded, _ = task.encode(data, examples, tokenizer, 512)
    assert len({len(row["input_ids"]) for row in encoded}) > 1
    trainer = loop.Trainer(model, args, CPU, tuning.loss, 1.0)
    for _ in range(200):
        loss, _ = trainer.train_on(encoded, sum(map(task.n_labels, encoded)), len(encoded))
        if loss < 0.02:
            break
    prompts = [list(row["prompt"]) for row in encoded]
    ends = {tokenizer.eos_token_id}
    found = generation.generate(model, prompts, [40] * len(prompts), ends, 8, CPU, "test")
    for example, ids in zip(examples, found, strict=True):
        assert encoding.decode(tokenizer, ids) == example["output"] and len(ids) < 40


def test_an_answer_has_the_room_that_gold_answers_need(loaded, folder, monkeypatch):
    """Of its source the longest training answer, or label; of NER its own words; 8 tokens more."""
    model, tokenizer, data, examples, _ = loaded
    data.sources["verdicts"]["labels"].append("a label that training has not")
    encoded, _ = task.encode(data, examples, tokenizer, 512)
    asked, longest = [], {}
    monkeypatch.setattr(
        generation, "generate", lambda _, prompts, most, *__: asked.append(most) or [[]] * len(most)
    )
    for flags in ((), ("--max_new_tokens", 3)):
        args = arguments(folder, *flags)
        task.predict(model, tokenizer, data, examples, encoded, args, CPU, "test")
    for name, about in data.sources.items():
        texts = [e["output"] for e in data.splits["train"] if e["source"] == name]
        tokens = [len(encoding.answer_ids(tokenizer, text)) for text in texts + about["labels"]]
        longest[name] = max(tokens)
    wanted = []
    for example in examples:
        outside = " ; ".join(f"{word} : O" for word in example["input"].split())
        own = len(encoding.answer_ids(tokenizer, outside))
        wanted.append(8 + (own if example["kind"] == "ner" else longest[example["source"]]))
    assert asked == [wanted, [3] * len(examples)]
    assert model.config.instruct["room"] == max(longest.values()) + 8  # of new prompts, see predict
    for split, some in data.splits.items():
        for row in task.encode(data, some, tokenizer, 512)[0]:
            assert row["answer_tokens"] <= row["room"], split


def test_what_is_too_long_is_not_trained_on_and_loses_its_input_s_end(loaded):
    _, tokenizer, data, examples, _ = loaded
    long = [e | {"input": e["input"] + " word" * 300} for e in examples if e["kind"] == "nli"]
    encoded, counts = task.encode(data, long, tokenizer, 400)
    assert counts["too_long"] == len(long) and counts["cut_words"] > len(long)
    for row in encoded:
        assert task.n_labels(row) == 0 and len(row["prompt"]) + row["room"] <= 400


def test_the_most_likely_label_is_never_a_failure(loaded, folder):
    model, tokenizer, data, examples, encoded = loaded
    args = arguments(folder, "--decode", "likelihood", "--max_new_tokens", 3)
    found = task.predict(model, tokenizer, data, examples, encoded, args, CPU, "test")
    for example, row, (answer, failed) in zip(examples, encoded, found, strict=True):
        if example["kind"] != "nli":
            continue
        labels, values = data.sources["pairs"]["labels"], []
        for label in labels:
            ids = encoding.answer_ids(tokenizer, label)
            batch = pad([{"input_ids": [*row["prompt"], *ids],
                          "labels": [-100] * len(row["prompt"]) + ids}], 0)  # fmt: skip
            with torch.no_grad():
                values.append(tuning.loss(model, batch).item())
        assert (answer, failed) == (labels[int(np.argmin(values))], False)


def test_a_miniature_memorises_every_kind(folder, tmp_path):
    """Prompts in, the answers of training out: all of them, in the strict form."""
    where = tiny.make("llama3", tmp_path / "m", layers=2, hidden=64, heads=4, max_positions=512)
    args = arguments(folder, "--model_name", where)
    data = task.load(args)._replace(form="plain")
    torch.manual_seed(0)
    model, tokenizer, _ = task.load_model(args, data)
    examples = [
        e for s in data.sources for e in [e for e in data.splits["train"] if e["source"] == s][:8]
    ]
    encoded, _ = task.encode(data, examples, tokenizer, 512)
    assert len(examples) == 48
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    model.train()
    rng = random.Random(0)
    for _ in range(60):
        rng.shuffle(order := list(range(48)))
        for i in range(0, 48, 16):
            some = [encoded[k] for k in order[i : i + 16]]
            loss = tuning.loss(model, pad(some, 0)) / sum(map(task.n_labels, some))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if loss < 0.01:
            break
    found = answering.predict(model, tokenizer, data, examples, encoded, args, CPU, "train")
    rows = task.rows(data, {"train": examples}, {"train": found})[0]["train"]
    scores = evaluate(task, rows)
    assert scores["parse_failures"] == 0 and scores["mean"] > 0.95, scores


@pytest.mark.parametrize("kind", FAMILIES)
def test_all_steps_by_their_commands(kind, folder, model_folder, tmp_path, request):
    if kind != "gpt2":
        request.getfixturevalue("undrawn")
    base = ("--data_dir", folder, "--model_name", model_folder(kind), "--output_dir", tmp_path)
    lora = ("--lora", "--gradient_checkpointing") if kind == "llama3" else ()
    call("fine-tuning", *base, *QUICK, *lora, "--training_size", 50)
    call("probing", *base, *QUICK[:6], "--training_size", 50, "--controls")
    call("attention", *base, *QUICK[:6], "--training_sizes", 50, "--controls", "--metrics",
         "cosine,js,entropy")  # fmt: skip
    (cell,) = tmp_path.glob("medtuned/*/50/seed-42")
    found = json.loads((cell / "fine-tuning" / "metrics.json").read_text())
    for name in ("mean", "parse_failures", "genes_entity_f1", "genes_parse_failures", "open_f1",
                 "pairs_accuracy", "links_micro_f1", "topics_micro_f1", "verdicts_accuracy",
                 "majority_mean", "majority_pairs_accuracy"):  # fmt: skip
        assert 0 <= found[f"test_{name}"] <= 1, name
    assert found["trained"] and not found["new_head"]
    history = pd.read_csv(cell / "fine-tuning" / "history.csv")
    dev = history[(history["split"] == "dev") & (history["metric"] == "loss")]["value"].tolist()
    assert len(dev) == 2 and found["best_epoch"] == 1 + int(np.argmin(dev))
    lines = (cell / "fine-tuning" / "predictions.jsonl").read_text().splitlines()
    keys = {"id", "group", "source", "kind", "gold", "predicted", "parse_failure"}
    for row in map(json.loads, lines):
        assert set(row) == keys | ({"negative"} if row["kind"] == "relation" else set())
    layers = pd.read_csv(cell / "probing" / "layers.csv")
    assert {"task", "control", "selectivity"} == set(layers["target"])
    assert {"pairs_accuracy", "links_micro_f1", "verdicts_accuracy", "mean"} <= set(
        layers["metric"]
    )
    assert not any(name.startswith(("genes", "open", "topics")) for name in layers["metric"])
    for name in ("heads", "floor"):  # of the tuned model, of an untrained one
        heads = pd.read_csv(cell / "attention" / f"{name}.csv")
        measured = {"cosine", "js", "entropy_pretrained", "entropy_fine_tuned"}
        assert measured <= set(heads["metric"]) and set(heads["head"]) == {1, 2, 3, 4}
        assert heads["value"].notna().all()
    assert 0 < read_json(cell / "attention" / "metrics.json")["cosine"] < 1
    checkpoint = cell / "fine-tuning" / "checkpoint"
    assert (checkpoint / "adapter_model.safetensors").is_file() == bool(lora)
    # What came of it is a model for the other tasks' probes, and for another way to answer.
    given = ("--model_name", checkpoint, "--training_size", 0)
    called = f"Instruct-medtuned-{cell.parents[1].name}-50-seed-42/0/seed-42"
    call("fine-tuning", *base[:2], *given, *base[4:], *QUICK, "--decode", "likelihood")
    other = read_json(tmp_path / "medtuned" / called / "fine-tuning" / "metrics.json")
    assert other["test_pairs_parse_failures"] == 0 and not other["trained"]
    base = features.encoder_hash(models.load_encoder(str(model_folder(kind)))[0])
    for name in ("NER", "NLI") if kind != "biogpt" else ():  # adapters and all
        run_script(name, "probing", "--data_dir", folder.parent / name, *given,
                   "--output_dir", tmp_path / name, *QUICK[:6])  # fmt: skip
        run = tmp_path / name / name / called / "probing"
        assert set(pd.read_csv(run / "layers.csv")["layer"]) == {0, 1}
        assert read_json(run / "config.json")["data"]["encoder"] != base


@pytest.mark.parametrize(("likely", "normalised"), [(False, False), (True, False), (True, True)])
def test_without_training_the_model_itself_answers(
    likely, normalised, folder, model_folder, tmp_path
):
    """It writes, or its most likely labels are taken, by their sum or mean."""
    base = ("--data_dir", folder, "--model_name", model_folder("gpt2"), "--output_dir", tmp_path)
    flags = ("--decode", "likelihood") * likely + ("--length_normalised",) * normalised
    call("fine-tuning", *base, *QUICK, *flags, "--training_size", 0)
    (file,) = tmp_path.rglob("metrics.json")
    found = read_json(file)
    assert not found["trained"] and found["test_parse_failures"] > 0
    assert not (file.parent / "checkpoint").exists()
    settings = read_json(file.parent / "config.json")["settings"]
    assert settings["decode"] == ("likelihood" if likely else "generate")
    assert settings["length_normalised"] == normalised
    data = task.load(arguments(folder))
    model, tokenizer, _ = task.load_model(arguments(folder, *base[2:4]), data)
    examples = [e for e in data.splits["test"] if e["kind"] in LABEL_KINDS]
    own = [data.sources[e["source"]]["labels"] for e in examples]
    answers = [[encoding.answer_ids(tokenizer, label) for label in labels] for labels in own]
    prompts = [list(row["prompt"]) for row in task.encode(data, examples, tokenizer, 512)[0]]
    values = generation.log_likelihoods(model, prompts, answers, 3, CPU, "test")
    best = [generation.best(*pair, normalised) for pair in zip(values, answers, strict=True)]
    lines = (file.parent / "predictions.jsonl").read_text().splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    for example, labels, i in zip(examples, own, best, strict=True):
        row = rows[example["id"]]
        assert row["parse_failure"] != likely and (not likely or row["predicted"] == labels[i])
    for source, main in (("pairs", "accuracy"), ("links", "micro_f1"), ("verdicts", "accuracy")):
        assert found[f"test_{source}_parse_failures"] == 1 - likely
        assert 0 <= found[f"test_{source}_{main}"] <= 1


def test_parameters_are_counted_once(folder, model_folder, tmp_path):
    """Also where the head shares the embeddings' and is held in bf16."""
    base = ("--data_dir", folder, "--model_name", model_folder("gpt2"), "--output_dir", tmp_path)
    call("fine-tuning", *base, *QUICK, "--precision", "bf16", "--training_size", 0)
    (file,) = tmp_path.rglob("metrics.json")
    model, _ = models.load_task_model(arguments(folder, *base[2:4]), "causal", [])
    assert model.config.tie_word_embeddings
    assert read_json(file)["parameters"] == model.num_parameters()


def test_the_study_takes_it_like_the_others(folder, model_folder, tmp_path, monkeypatch, undrawn):
    """All steps by the study's commands; the page has sources by size and model, with failures."""

    def run(groups, args):  # in this process: a new one takes longer than its step
        for sizes, last in groups:
            for cell in (*sizes, last):
                for step in cell.steps:
                    assert call(step, *cell.command(step, args)[2:]) == 0
        return []

    monkeypatch.setattr("common.jobs.run", run)
    monkeypatch.setattr(study, "subprocess", argparse.Namespace(
        run=lambda command, **_: argparse.Namespace(returncode=report.main(command[3:]))
    ))  # fmt: skip
    study.main([
        "--tasks", "Instruct", "--model_names", str(model_folder("gpt2")), "--training_sizes",
        "0,10", "--output_dir", str(tmp_path), "--", "--data_dir", str(folder), *QUICK[:6],
    ])  # fmt: skip
    (where,) = tmp_path.glob("Instruct/medtuned")
    steps = {(path.parts[-4], path.parts[-2]) for path in where.rglob("metrics.json")}
    assert steps == {("0", "fine-tuning"), ("0", "probing"), *(("10", step) for step in STEPS)}
    (cell,) = where.glob("*/10/seed-42")
    config = read_json(cell / "fine-tuning" / "config.json")
    assert {name.split()[0] for name in config["data"]["subset"]["strata"]} == MAIN.keys()
    table = pd.read_csv(where / "report" / "scores_parts.csv").set_index("score")
    page = (where / "report" / "report.md").read_text()
    for source, main in MAIN.items():
        for name in (main, "parse_failures"):
            line = table.loc[f"{source}_{name}"]
            assert line["model"] == cell.parents[1].name and f"| {source}_{name} " in page
            for size, title in ((0, "0 % (as loaded)"), (10, "10 %")):
                metrics = read_json(cell.parents[1] / str(size) / "seed-42" / "fine-tuning"
                                    / "metrics.json")  # fmt: skip
                assert line[title] == metrics[f"test_{source}_{name}"]
                assert 0 <= line[f"{title} low"] <= line[title] <= line[f"{title} high"] <= 1


@pytest.fixture(params=FAMILIES)
def adapted(request, folder, model_folder, tmp_path):
    """(folder of adapters that are not zero, the model with them unmerged, tokenizer)."""
    from common.files import save_model

    args = arguments(folder, "--model_name", model_folder(request.param), "--lora")
    model, tokenizer, _ = task.load_model(args, task.load(args))
    with torch.no_grad():
        for name, p in model.named_parameters():
            assert p.requires_grad == ("lora_" in name)
            if "lora_B" in name:
                p += 0.1 * torch.randn_like(p)
    save_model(tmp_path / "adapters", model, tokenizer)
    return str(tmp_path / "adapters"), model.eval(), tokenizer


def test_merged_adapters_are_the_model_with_them(adapted):
    """As a causal model, as an encoder, and below the new head of another task."""
    where, model, tokenizer = adapted
    args = arguments("x", "--model_name", where)
    ids = tokenizer("The IL-2 gene is expressed .", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = model(ids, output_hidden_states=True)
        merged, _ = models.load_task_model(args, "causal", [])
        encoder, _ = models.load_encoder(where)
        tagger, _ = models.load_task_model(args, "token", ["O", "B"])
        assert all(p.requires_grad for model in (merged, tagger) for p in model.parameters())
        torch.testing.assert_close(merged(ids).logits, wanted.logits, atol=1e-5, rtol=1e-4)
        for other in (encoder, tagger.base_model):
            found = other(ids).last_hidden_state
            torch.testing.assert_close(found, wanted.hidden_states[-1], atol=1e-5, rtol=1e-4)


def test_frozen_weights_take_half_the_memory_in_bf16(loaded, folder):
    model, _, _, _, encoded = loaded
    args = arguments(folder, "--lora", "--model_name", model.config._name_or_path)
    adapted = tuning.prepare(model, args)
    half = Device(torch.device("cpu"), "bf16")
    before = forward.mean_loss(adapted, encoded, 8, half, tuning.loss, task.n_labels)
    trainer = loop.Trainer(adapted, args, half, tuning.loss, 1.0)
    frozen = [p.dtype for p in adapted.parameters() if p.ndim > 1 and not p.requires_grad]
    assert torch.bfloat16 in frozen and {p.dtype for p in trainer.parameters} == {torch.float32}
    after = forward.mean_loss(adapted, encoded, 8, half, tuning.loss, task.n_labels)
    assert after == pytest.approx(before, rel=1e-3)
    loss, _ = trainer.train_on(encoded[:4], sum(map(task.n_labels, encoded[:4])), 4)
    assert loss.isfinite()


def test_adapters_go_on_where_they_were_killed(folder, model_folder, tmp_path):
    """The state holds what is trained alone; the rest comes from the model that was adapted."""
    more = ("--num_train_epochs", 3, "--save_minutes", 0, "--learning_rate", 1e-2)
    args = arguments(folder, "--model_name", model_folder("llama3"), "--lora", *more)
    data, found = task.load(args), []
    for killed in (False, True):
        where = tmp_path / str(killed)
        where.mkdir()
        for attempt in range(1 + killed):
            torch.manual_seed(attempt)
            model, tokenizer, _ = task.load_model(args, data)
            encoded, _ = task.encode(data, data.splits["train"][::4], tokenizer, 512)
            losses = iter([3.0, 2.0, 2.5] if not killed else [3.0] if not attempt else [2.0, 2.5])
            try:
                loop.fit(model, encoded, args, CPU, lambda it=losses: {"loss": next(it)},
                             "loss", where, loss=tuning.loss, n_labels=task.n_labels)  # fmt: skip
            except StopIteration:
                assert killed and not attempt
        found.append({name: p.detach().clone() for name, p in model.named_parameters()})
    state = torch.load(tmp_path / "True" / "state.pt", weights_only=True)
    assert state["model"] and all("lora_" in name for name in state["model"])
    for name, weight in found[0].items():
        assert torch.equal(weight, found[1][name]), name


def test_subsets_hold_each_source_in_proportion():
    """And each label and entity type of it; 10 % lies inside 30 % inside 50 %."""
    rng = random.Random(0)
    sizes = {"pairs": ("nli", 900), "genes": ("ner", 300), "links": ("relation", 60),
             "open": ("free_qa", 20)}  # fmt: skip
    examples = [
        {"source": source, "kind": kind, "gold": rng.choice("abc")}
        | ({"type": rng.choice("xyz")} if kind == "ner" else {})
        for source, (kind, n) in sizes.items()
        for _ in range(n)
    ]
    rng.shuffle(examples)
    strata = [task.stratum(example) for example in examples]
    for seed in range(5):
        inside = set()
        for size in (10, 30, 50, 100):
            chosen = {*subsample.subset(strata, size, seed)}
            assert inside < chosen
            inside = chosen
            some = [examples[i] for i in chosen]
            for source, (kind, n) in sizes.items():
                there = [example for example in some if example["source"] == source]
                assert there and abs(len(there) - n * size / 100) <= 3
                key = {"ner": "type", "free_qa": "kind"}.get(kind, "gold")
                whole = Counter(e[key] for e in examples if e["source"] == source)
                for value, count in Counter(e[key] for e in there).items():
                    assert abs(count - whole[value] * size / 100) <= 2


def test_the_majority_is_the_most_frequent_training_answer(folder):
    """Of each source's part of the subset; a source that this lacks is not answered."""
    data = task.load(arguments(folder))
    train = [e for e in data.splits["train"] if e["source"] != "links"][::3]
    test = data.splits["test"]
    found = task.baseline(train, test)
    for example, (answer, failed) in zip(test, found, strict=True):
        outputs = [e["output"] for e in train if e["source"] == example["source"]]
        if example["kind"] == "ner":
            assert answer == ["O"] * len(example["gold"]) and not failed
        elif not outputs:
            assert (example["source"], answer, failed) == ("links", None, True)
        else:
            text = write_labels(answer) if isinstance(answer, list) else answer
            assert outputs.count(text) == max(map(outputs.count, outputs)) and not failed
    scores = evaluate(task, task.rows(data, {"test": test}, {"test": found})[0]["test"])
    assert scores["links_micro_f1"] == 0 and scores["links_parse_failures"] == 1
    assert scores["genes_entity_f1"] == 0 and scores["parse_failures"] == pytest.approx(1 / 6)
    pairs = [(e["gold"], answer) for e, (answer, _) in zip(test, found, strict=True)
             if e["source"] == "pairs"]  # fmt: skip
    assert scores["pairs_accuracy"] == np.mean([gold == answer for gold, answer in pairs])
    tied = [e for e in train if e["source"] == "pairs"]
    tied = [next(e for e in tied if e["gold"] == label) for label in ("neutral", "entailment")]
    assert (
        task.baseline(tied, tied) == task.baseline(tied[::-1], tied) == 2 * [("entailment", False)]
    )
    silent = [{"source": "open", "kind": "free_qa", "output": "unanswerable", "gold": []}]
    assert task.baseline(silent, silent) == [("", False)]


def test_control_labels_are_the_training_answers_shuffled(folder):
    """Within each source, by a seed; prompts, dev and test stay."""
    splits = task.load(arguments(folder)).splits
    before = json.dumps(splits)
    found, same, other = (
        task.controls(None, splits, seed)["control"]["train"] for seed in (1, 1, 2)
    )
    changed = Counter()
    for old, new in zip(splits["train"], found, strict=True):
        assert new | {"gold": old["gold"]} == old
        changed[old["source"]] += new["gold"] != old["gold"]
    for source in changed:
        golds = [sorted(json.dumps(e["gold"]) for e in some if e["source"] == source)
                 for some in (splits["train"], found)]  # fmt: skip
        assert golds[0] == golds[1] and changed[source] > 0
    assert found == same != other and json.dumps(splits) == before
    control = task.controls(None, splits, 1)["control"]
    assert control["dev"] is splits["dev"] and control["test"] is splits["test"]


@pytest.mark.parametrize("lora", [False, True])
def test_what_memory_the_training_needs_is_said_before(
    lora, folder, model_folder, caplog, monkeypatch
):
    """16 bytes of each weight that is trained; of a frozen one 4, or 2 in bf16."""
    flags, needed = ("--lora",) * lora, tuning.needed_memory
    monkeypatch.setattr(tuning, "needed_memory", lambda *given: 10**6 * needed(*given))
    for precision, frozen in (("fp32", 4), ("bf16", 2)):
        args = arguments(folder, "--model_name", model_folder("gpt2"), *flags,
                         "--precision", precision, "--device", "cpu")  # fmt: skip
        caplog.clear()
        with caplog.at_level("INFO"):
            model, _, _ = task.load_model(args, task.load(args))
        sizes = {True: 0, False: 0}
        for name, p in model.named_parameters():
            sizes[not lora or "lora_" in name] += p.numel()
        wanted = (16 * sizes[True] + frozen * sizes[False]) / 10**3  # a million times as much
        assert f"optimizer need {wanted:.1f} GB, activations some more" in caplog.text
        assert bool(sizes[False]) == lora


@pytest.mark.parametrize("given", [None, "no_rel"])
def test_a_negative_label_is_of_its_own_sources(given, tmp_path):
    """Of the others it is the usual one; what an answer says wrongly of one is a positive."""
    sets = {"usual": ("None", "a"), "other": ("no_rel", "a"), "no": ("a", "b")}
    argv = []
    for name, own in sets.items():
        rows = [{"text": f"@ {i} @", "label": own[i % 2], "split": ("train", "dev", "test")[i // 8]}
                for i in range(24)]  # fmt: skip
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
        argv += ["--relation", f"{name}={tmp_path / name}.jsonl"]
    build.main([*argv, "--output_dir", str(tmp_path / "out")])
    flags = ("--negative_label", given) if given else ()
    data = task.load(arguments(tmp_path / "out", *flags))
    wanted = {"usual": "None", "other": given, "no": None}
    assert {name: about["negative"] for name, about in data.sources.items()} == wanted
    rows = [task.row(data, e, "a", False) for e in data.splits["test"]]
    assert {row["source"]: row.get("negative") for row in rows} == wanted
    found = evaluate(task, rows)  # half of the answers are right
    assert found["usual_micro_f1"] == pytest.approx(2 / 3) and found["no_micro_f1"] == 0.5
    assert found["other_micro_f1"] == pytest.approx(2 / 3 if given else 1 / 2)


def test_a_folder_without_groups_is_read(folder, tmp_path):
    """One that was built before there were any."""
    shutil.copytree(folder, tmp_path / "old")
    for path in (tmp_path / "old").glob("*.jsonl"):
        rows = map(json.loads, path.read_text().splitlines())
        write_jsonl(path, [{k: v for k, v in row.items() if k != "group"} for row in rows])
    new, old = (task.load(arguments(where)) for where in (folder, tmp_path / "old"))
    for one, other in zip(new.splits["test"], old.splits["test"], strict=True):
        rows = [task.row(new, e, e["gold"], False) for e in (one, other) if e["kind"] != "free_qa"]
        assert all(rows[0] == row | {"group": one["group"]} for row in rows[1:])
        assert all("group" not in row for row in rows[1:])


def test_groups_are_probes_of_their_own():
    from sklearn.svm import SVC

    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(120, 6)).astype(np.float16)
    rows = {"train": np.arange(80)[:, None], "test": np.arange(80, 120)[:, None]}
    groups = {"train": np.arange(80) % 3, "test": np.arange(40) % 2}
    labels = {t: rng.integers(0, 3, 80) for t in ("task", "control")}
    inputs = ProbeInputs([], dict.fromkeys(labels, rows), labels, 3, {}, groups=groups)
    found = {}
    probes.predict_layers("svc", {0: vectors}, inputs, epochs=1, standardize=False,
                          seed=0, device=CPU, on_done=lambda n, f: found.update(f))  # fmt: skip
    x = vectors.astype(float)
    for target, y in labels.items():
        for group in (0, 1):
            own, asked = groups["train"] == group, groups["test"] == group
            wanted = SVC().fit(x[:80][own], y[own]).predict(x[80:][asked])
            assert (found[target]["test"][asked] == wanted).all()


def test_bad_input(folder, model_folder, tmp_path, capsys, checkpoint):
    model = ("--model_name", model_folder("gpt2"), "--output_dir", tmp_path / "out")
    data = ("--data_dir", folder)
    for step in STEPS:  # at once: nothing is loaded, or made for the demo
        error = refused(capsys, step, "--demo", "--model_name", "biobert", "--training_size", 10)
        assert "biobert is no causal model" in error and "llama2-7b" in error
    error = refused(capsys, "fine-tuning", *data, *model[2:], "--model_name", checkpoint("bert"))
    assert "no BERT model is causal" in error and "GPT-2" in error
    for step in ("probing", "attention"):
        error = refused(capsys, step, *data, *model[2:], "--model_name", checkpoint("bert"),
                        "--training_size", 0)  # fmt: skip
        assert "causal" in error
    error = refused(capsys, "fine-tuning", "--data_dir", folder.parent / "NLI", *model)
    assert "build.json is missing" in error and "build.py" in error
    error = refused(capsys, "fine-tuning", *data, *model, "--max_length", 40)
    assert "instruction alone" in error and "--max_length" in error
    for name, change in (("endless", {"eos_token": None}), ("other", {"model_type": "bloom"})):
        file = "tokenizer_config.json" if name == "endless" else "config.json"
        shutil.copytree(model_folder("llama3"), tmp_path / name)
        content = json.loads((tmp_path / name / file).read_text()) | change
        (tmp_path / name / file).write_text(json.dumps(content))
        error = refused(capsys, "fine-tuning", *data, *model[2:], "--lora",
                        "--model_name", tmp_path / name)  # fmt: skip
        assert ("no end token" if name == "endless" else "'bloom' model; this project") in error
    assert not (tmp_path / "out").exists()
    error = refused(capsys, "fine-tuning", *data, *model, "--length_normalised")
    assert "--decode likelihood" in error
    error = refused(capsys, "fine-tuning", *data, *model, "--negative_label", "nothing")
    assert "--negative_label nothing" in error and "binds" in error
    build.main(["--qa", f"open={folder.parent / 'free.jsonl'}", "--output_dir",
                str(tmp_path / "free")])  # fmt: skip
    error = refused(capsys, "probing", "--data_dir", tmp_path / "free", *model,
                    "--training_size", 0, "--controls")  # fmt: skip
    assert "no source has an answer of one label (nli, relation, qa)" in error


def test_adapters_have_a_learning_rate_of_their_own(capsys):
    for flags, rate in (((), 2e-5), (("--lora",), 2e-4), (("--lora", "--learning_rate", 1), 1),
                        (("--demo",), 3e-3), (("--demo", "--lora"), 4e-3)):  # fmt: skip
        step = importlib.import_module("Instruct.fine-tuning")
        assert step.parse_args([*map(str, flags)]).learning_rate == rate
    with pytest.raises(SystemExit):
        step.parse_args(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "is then 0.0002 if not given, with --demo 0.004" in said


def test_a_changed_data_set_is_refused(folder, model_folder, tmp_path, capsys):
    model = ("--model_name", model_folder("gpt2"), "--output_dir", tmp_path / "out")
    copy = tmp_path / "copy"
    copy.mkdir()
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    pair = next(i for i, row in enumerate(rows) if row["kind"] == "nli")
    gene = next(i for i, row in enumerate(rows) if row["kind"] == "ner")
    for place, change, words in (
        (pair, {"gold": "perhaps"}, "1 label ('perhaps') of source pairs"),
        (pair, {"gold": "a misplaced text"}, "1 label of source pairs"),
        (pair, {"source": "other"}, "no source 'other'"),
        (pair, {"source": ["other"]}, "no source ['other']"),
        (pair, {"gold": ["entailment"]}, "kind nli is not a label"),
        (gene, {"gold": ["O"]}, "one tag a word"),
        (gene, {"gold": [0] * len(rows[gene]["gold"])}, "kind ner is not a list of texts"),
    ):
        for name in ("build.json", "train.jsonl", "dev.jsonl"):
            (copy / name).write_text((folder / name).read_text())
        changed = [row | change if i == place else row for i, row in enumerate(rows)]
        write_jsonl(copy / "test.jsonl", changed)
        error = refused(capsys, "fine-tuning", "--data_dir", copy, *model)
        assert words in error and f"test.jsonl:{place + 1}" in error
    write_jsonl(copy / "test.jsonl", [row for row in rows if row["kind"] != "nli"])
    assert "no example of pairs" in refused(capsys, "fine-tuning", "--data_dir", copy, *model)
    about = json.loads((folder / "build.json").read_text())
    pairs = about["sources"]["pairs"]
    for change in ({"prompt_form": "chat"}, {"ner_form": "bio"}, {"sources": []},
                   {"sources": about["sources"] | {"pairs": pairs | {"labels": None}}},
                   {"sources": about["sources"] | {"pairs": pairs | {"kind": "mt"}}}):  # fmt: skip
        (copy / "build.json").write_text(json.dumps(about | change))
        error = refused(capsys, "fine-tuning", "--data_dir", copy, *model)
        assert "build.json is not what build.py writes" in error


def test_adapters_whose_model_is_gone(adapted, folder, tmp_path, capsys):
    where, _, _ = adapted
    path = tmp_path / "adapters" / "adapter_config.json"
    flags = ("--data_dir", folder, "--model_name", where, "--output_dir", tmp_path / "out")
    assert "adapters already" in refused(capsys, "fine-tuning", *flags, "--lora")
    about, base = json.loads(path.read_text()), tmp_path / "base"
    shutil.copytree(about["base_model_name_or_path"], base)
    path.write_text(json.dumps(about | {"base_model_name_or_path": str(base)}))
    args = argparse.Namespace(demo=False, model_name=str(where))
    before = models.weights_identity(args)
    (base / "model.safetensors").write_bytes(b"other weights")  # the adapters are the same
    assert models.weights_identity(args) != before
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        "base_model_name_or_path": str(tmp_path / "gone")}))  # fmt: skip
    error = refused(capsys, "probing", *flags)
    assert "gone" in error and "base_model_name_or_path" in error


def test_two_processes_train_as_one(folder, tmp_path):
    from safetensors.torch import load_file

    from tests.test_torchrun import start

    tiny.make("llama3", tmp_path / "m", layers=1, heads=4, max_positions=512)
    found = []
    for one in (True, False):
        out = tmp_path / f"out-{one}"
        flags = ("--data_dir", folder, "--model_name", tmp_path / "m", "--output_dir", out,
                 *QUICK[:5], 6, *QUICK[6:], "--training_size", 10, "--lora",
                 "--save_minutes", 0)  # fmt: skip
        if one:
            call("fine-tuning", *flags)
        else:
            done = start("Instruct/fine-tuning.py", *flags)
            assert done.returncode == 0, done.stderr
        (file,) = out.rglob("metrics.json")
        assert not [*file.parent.glob("*.pt"), *file.parent.glob("shards-*")]
        weights = load_file(file.parent / "checkpoint" / "adapter_model.safetensors")
        metrics = json.loads(file.read_text())
        scores = pd.Series({k: v for k, v in metrics.items() if k.startswith(("dev", "test"))})
        found.append((weights, scores))
    for name, weight in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], weight, atol=1e-4, rtol=0)
    pd.testing.assert_series_equal(found[0][1], found[1][1], atol=1e-4, rtol=0)
