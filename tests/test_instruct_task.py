"""Instructions from their files to the results of all steps; the loss; adapters."""

import importlib
import json
import random
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from common import forward, models
from common.batching import pad
from common.cli import UserError
from common.controls import DRAWS
from common.device import Device
from common.files import save_model
from common.models import adapters
from common.task import evaluate, majority_scores
from common.training import loop, losses
from Instruct import build, encoding, generation, task
from Instruct.prompts import LABEL_KINDS
from tests import tiny
from tests.helpers import read_json, run_script, write_data, write_jsonl

CPU = Device(torch.device("cpu"), "fp32")
FAMILIES = ("gpt2", "biogpt", "llama3")  # the heads of the last one share keys and values
STEPS = ("fine-tuning", "probing", "attention")
QUICK = ("--device", "cpu", "--precision", "fp32", "--batch_size", "8", "--num_train_epochs", "2",
         "--learning_rate", "3e-3", "--max_new_tokens", "8")  # fmt: skip


def call(step, *argv):
    return importlib.import_module(f"Instruct.{step}").main([*map(str, argv)])


def refused(capsys, step, *argv):
    """The one message of a call that a user can fix."""
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


def some_of_each(data, n):
    """The first `n` training examples of each source."""
    chosen = [[e for e in data.splits["train"] if e["source"] == s][:n] for s in data.sources]
    return [example for some in chosen for example in some]


def train(model, encoded, rate, steps, size):
    """Plain AdamW, until the loss of a batch is small."""
    optimizer, rng = torch.optim.AdamW(model.parameters(), lr=rate), random.Random(0)
    model.train()
    for _ in range(steps):
        rng.shuffle(order := list(range(len(encoded))))
        for i in range(0, len(order), size):
            batch = [encoded[k] for k in order[i : i + size]]
            padded = pad(batch, model.config.pad_token_id or 0)
            loss = task.loss(model, padded) / sum(map(losses.labels_in, batch))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        if loss < 0.01:
            break
    model.eval()


@pytest.fixture(params=(*FAMILIES, "gemma2"))  # its head ends in a bounded function
def loaded(request, folder, model_folder):
    data = task.load(False, folder)
    model, tokenizer, new_head = task.load_model(str(model_folder(request.param)), data)
    assert not new_head
    examples = some_of_each(data, 3)
    encoded, counts = task.encode(data, examples, tokenizer, 512)
    assert counts == {"prompts": len(examples), "too_long": 0, "cut_words": 0}
    return model.eval(), tokenizer, data, examples, encoded


def test_the_loss_is_that_of_single_answers(loaded):
    """Whatever the batch, its order and its padding; the end token counts, though it also pads."""
    model, tokenizer, _, _, encoded = loaded
    total = torch.zeros(())
    for row in encoded:
        ids, start = list(row["input_ids"]), len(row["prompt"])
        assert ids[-1] == row["labels"][-1] == tokenizer.eos_token_id
        assert row["labels"][start:] == row["input_ids"][start:]
        assert set(row["labels"][:start]) == {-100} and losses.labels_in(row) == len(ids) - start
        logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total = total - sum(logs[i - 1, ids[i]] for i in range(start, len(ids)))
    wanted = torch.autograd.grad(total, list(model.parameters()))
    for order in (encoded, encoded[::-1]):
        loss = task.loss(model, pad(order, model.config.pad_token_id))
        assert loss.item() == pytest.approx(total.item(), rel=1e-5)
    for one, other in zip(torch.autograd.grad(loss, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)
    labels = sum(map(losses.labels_in, encoded))
    for size in (3, 100):
        mean = forward.mean_loss(model, encoded, size, CPU, task.loss)
        assert mean == pytest.approx(total.item() / labels, rel=1e-5)


def test_epochs_are_compared_by_the_mean_of_the_sources(loaded):
    """Not by all answers' tokens, which are mostly NER's; a source without any does not count."""
    model, _, data, examples, encoded = loaded
    groups = list(map(task.loss_group, examples))
    encoded = [row | {"labels": [-100] * len(row["labels"])} if group == "open" else row
               for row, group in zip(encoded, groups, strict=True)]  # fmt: skip
    means = []
    for source in {*data.sources} - {"open"}:
        own = [row for row, group in zip(encoded, groups, strict=True) if group == source]
        means.append(forward.mean_loss(model, own, 2, CPU, task.loss))
    loss = forward.mean_loss(model, encoded, 2, CPU, task.loss, groups)
    assert loss == pytest.approx(np.mean(means), rel=1e-5)
    assert loss != pytest.approx(forward.mean_loss(model, encoded, 2, CPU, task.loss), rel=1e-4)


def test_what_a_prompt_s_tokens_are_is_not_learnt(loaded):
    """The loss pulls at the states before the answer's tokens alone."""
    model, _, _, _, encoded = loaded
    states = []

    def keep(module, inputs, output):
        output.last_hidden_state.retain_grad()
        states.append(output.last_hidden_state)

    hook = model.base_model.register_forward_hook(keep)
    task.loss(model, pad(encoded, model.config.pad_token_id)).backward()
    hook.remove()
    pulled = states[0].grad.abs().sum(-1) > 0
    for row, places in zip(encoded, pulled, strict=True):
        asked = torch.zeros_like(places)
        asked[len(row["prompt"]) - 1 : len(row["input_ids"]) - 1] = True
        assert torch.equal(places, asked)


def test_the_end_is_learnt_where_it_also_pads(folder, model_folder):
    """GPT-2 has no token for padding; a model that has learnt its answers stops by itself."""
    data = task.load(False, folder)._replace(form="plain")
    model, tokenizer, _ = task.load_model(str(model_folder("gpt2")), data)
    assert model.config.pad_token_id == tokenizer.eos_token_id
    examples = [e for e in data.splits["train"] if e["kind"] in ("nli", "free_qa")][:6]
    encoded, _ = task.encode(data, examples, tokenizer, 512)
    assert len({len(row["input_ids"]) for row in encoded}) > 1
    train(model, encoded, 1e-2, 200, 6)
    prompts, ends = [list(row["prompt"]) for row in encoded], {tokenizer.eos_token_id}
    answers = generation.generate(model, prompts, [40] * len(prompts), ends, 8, CPU, "test")
    for example, ids in zip(examples, answers, strict=True):
        assert encoding.decode(tokenizer, ids) == example["output"] and len(ids) < 40


def test_an_answer_has_the_room_that_gold_answers_need(loaded, monkeypatch):
    """Of its source the longest training answer, or label; of NER its own words; 8 tokens more."""
    model, tokenizer, data, examples, _ = loaded
    assert model.config.instruct["rooms"] == encoding.rooms(data, tokenizer)  # for new prompts
    data.sources["verdicts"]["labels"].append("a label that training has not")
    encoded, _ = task.encode(data, examples, tokenizer, 512)
    asked, longest = [], {}
    monkeypatch.setattr(
        generation, "generate", lambda _, prompts, most, *__: asked.append(most) or [[]] * len(most)
    )
    for most in (None, 3):
        given = data._replace(max_new_tokens=most)
        task.predict(model, tokenizer, given, examples, encoded, 8, CPU, "test")
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
    kinds = {name: about["kind"] for name, about in data.sources.items()}
    rooms = {name: None if kinds[name] == "ner" else n + 8 for name, n in longest.items()}
    assert encoding.rooms(data, tokenizer) == rooms
    for split, some in data.splits.items():
        for row in task.encode(data, some, tokenizer, 512)[0]:
            assert losses.labels_in(row) <= row["room"], split


def test_the_most_likely_label_is_never_a_failure(loaded):
    model, tokenizer, data, examples, encoded = loaded
    data = data._replace(decode="likelihood", max_new_tokens=3)
    found = task.predict(model, tokenizer, data, examples, encoded, 8, CPU, "test")
    for example, row, (answer, failed) in zip(examples, encoded, found, strict=True):
        if example["kind"] not in LABEL_KINDS:
            continue
        labels, values = data.sources[example["source"]]["labels"], []
        for label in labels:
            ids = encoding.answer_ids(tokenizer, label)
            batch = pad([{"input_ids": [*row["prompt"], *ids],
                          "labels": [-100] * len(row["prompt"]) + ids}], 0)  # fmt: skip
            with torch.no_grad():
                values.append(task.loss(model, batch).item())
        assert (answer, failed) == (labels[int(np.argmin(values))], False)


def test_a_miniature_memorises_every_kind(folder, tmp_path):
    """Prompts in, the answers of training out: all of them, in the strict form."""
    where = tiny.make("llama3", tmp_path / "m", layers=2, hidden=64, heads=4, max_positions=512)
    data = task.load(False, folder)._replace(form="plain")
    torch.manual_seed(0)
    model, tokenizer, _ = task.load_model(str(where), data)
    examples = some_of_each(data, 8)
    encoded, _ = task.encode(data, examples, tokenizer, 512)
    assert len(examples) == 48
    train(model, encoded, 4e-3, 60, 16)
    answers = task.predict(model, tokenizer, data, examples, encoded, 16, CPU, "train")
    rows = task.rows(data, {"train": examples}, {"train": answers})[0]["train"]
    scores = evaluate(task, rows)
    assert scores["parse_failures"] == 0 and scores["mean"] > 0.95, scores


@pytest.mark.parametrize("kind", FAMILIES)
def test_all_steps_by_their_commands(kind, folder, model_folder, tmp_path):
    base = ("--data_dir", folder, "--model_name", model_folder(kind), "--output_dir", tmp_path)
    lora, checkpointing, ending = (), (), ""
    if kind == "llama3":
        lora, checkpointing, ending = ("--lora",), ("--gradient_checkpointing",), "-lora"
    call("fine-tuning", *base, *QUICK, *lora, *checkpointing, "--training_size", 50)
    call("probing", *base, *QUICK[:6], *lora, "--training_size", 50, "--controls")
    call("attention", *base, *QUICK[:6], *lora, "--training_sizes", 50, "--controls")
    call("ablation", *base, *QUICK[:6], *lora, "--training_size", 50)
    (cell,) = tmp_path.glob("medtuned/*/50/seed-42")
    tuned = cell / f"fine-tuning{ending}"
    whole = cell / f"ablation{ending}" / "predictions" / "most_changed-0.jsonl"
    assert whole.read_text() == (tuned / "predictions.jsonl").read_text()
    metrics = read_json(tuned / "metrics.json")
    for name in ("mean", "parse_failures", "genes_entity_f1", "genes_parse_failures", "open_f1",
                 "pairs_accuracy", "links_micro_f1", "topics_micro_f1", "verdicts_accuracy",
                 "majority_mean", "majority_pairs_accuracy"):  # fmt: skip
        assert 0 <= metrics[f"test_{name}"] <= 1, name
    assert metrics["trained"] and not metrics["new_head"]
    history = pd.read_csv(tuned / "history.csv")
    dev = history[(history["split"] == "dev") & (history["metric"] == "loss")]["value"].tolist()
    assert len(dev) == 2 and metrics["best_epoch"] == 1 + int(np.argmin(dev))
    lines = (tuned / "predictions.jsonl").read_text().splitlines()
    keys = {"id", "group", "source", "kind", "gold", "predicted", "parse_failure"}
    assert all(set(json.loads(line)) == keys for line in lines)
    for name in (f"probing{ending}", f"probing{ending}-control"):
        measured = {*pd.read_csv(cell / name / "layers.csv")["metric"]}
        assert {"pairs_accuracy", "links_micro_f1", "verdicts_accuracy", "mean"} <= measured
        assert not any(name.startswith(("genes", "open", "topics")) for name in measured)
    for where in (f"50/seed-42/attention{ending}", "random/seed-42/attention"):
        heads = pd.read_csv(cell.parents[1] / where / "heads.csv")
        measured = {"cosine", "js", "entropy_pretrained", "entropy_fine_tuned"}
        assert measured <= set(heads["metric"]) and set(heads["head"]) == {1, 2, 3, 4}
        assert heads["value"].notna().all()
    checkpoint = tuned / "checkpoint"
    assert (checkpoint / "adapter_model.safetensors").is_file() == bool(lora)
    # The checkpoint is a model for the other tasks' probes, and for another way to answer.
    given = ("--model_name", checkpoint, "--training_size", 0)
    called = f"Instruct-medtuned-{cell.parents[1].name}-50-seed-42{ending}/0/seed-42"
    call("fine-tuning", *base[:2], *given, *base[4:], *QUICK, "--decode", "likelihood")
    other = read_json(tmp_path / "medtuned" / called / "fine-tuning" / "metrics.json")
    assert other["test_pairs_parse_failures"] == 0 and not other["trained"]
    for name in ("NER", "NLI") if kind == "llama3" else ():  # adapters and all
        run_script(name, "probing", "--data_dir", folder.parent / name, *given,
                   "--output_dir", tmp_path / name, *QUICK[:6])  # fmt: skip
        table = pd.read_csv(tmp_path / name / name / called / "probing" / "layers.csv")
        assert set(table["layer"]) == {0, 1}


@pytest.fixture(params=FAMILIES)
def adapted(request, folder, model_folder, tmp_path):
    """(folder of adapters that are not zero, the model with them unmerged, tokenizer)."""
    data, where = task.load(False, folder), str(model_folder(request.param))
    model, tokenizer, _ = task.load_model(where, data)
    model = adapters.add(model, 16)
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
    ids = tokenizer("The IL-2 gene is expressed .", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        wanted = model(ids, output_hidden_states=True)
        merged, _ = models.load_task_model(where, "causal", [])
        encoder, _ = models.load_encoder(where)
        tagger, _ = models.load_task_model(where, "token", ["O", "B"])
        assert all(p.requires_grad for model in (merged, tagger) for p in model.parameters())
        torch.testing.assert_close(merged(ids).logits, wanted.logits, atol=1e-5, rtol=1e-4)
        for other in (encoder, tagger.base_model):
            found = other(ids).last_hidden_state
            torch.testing.assert_close(found, wanted.hidden_states[-1], atol=1e-5, rtol=1e-4)


def test_frozen_weights_take_half_the_memory_in_bf16(adapted, folder):
    where, model, tokenizer = adapted
    data = task.load(False, folder)
    encoded, _ = task.encode(data, some_of_each(data, 1), tokenizer, 512)
    half = Device(torch.device("cpu"), "bf16")
    before, after = (
        forward.mean_loss(model, encoded, 8, device, task.loss) for device in (CPU, half)
    )
    assert after == pytest.approx(before, rel=2e-2)
    types = {grad: {p.dtype for p in model.parameters() if p.ndim > 1 and p.requires_grad == grad}
             for grad in (True, False)}  # fmt: skip
    assert types[True] == {torch.float32} and torch.bfloat16 in types[False]


def test_adapters_resume_where_they_were_killed(folder, model_folder, tmp_path):
    """The state holds only what is trained; the rest comes from the model that was adapted."""
    settings = loop.Settings(
        learning_rate=1e-2, num_train_epochs=3, batch_size=16, warmup_ratio=0.1, weight_decay=0.01,
        max_grad_norm=1.0, layer_decay=1.0, seed=42, save_minutes=0,
    )  # fmt: skip
    data, trained = task.load(False, folder), []
    for killed in (False, True):
        where = tmp_path / str(killed)
        where.mkdir()
        for attempt in range(1 + killed):
            torch.manual_seed(attempt)
            model, tokenizer, _ = task.load_model(str(model_folder("llama3")), data)
            model = adapters.add(model, 16)
            encoded, _ = task.encode(data, data.splits["train"][::4], tokenizer, 512)
            losses = iter([3.0, 2.0, 2.5] if not killed else [3.0] if not attempt else [2.0, 2.5])
            try:
                loop.fit(model, encoded, settings, CPU, lambda it=losses: {"loss": next(it)},
                         "loss", where, loss=task.loss)  # fmt: skip
            except StopIteration:
                assert killed and not attempt
        trained.append({name: p.detach().clone() for name, p in model.named_parameters()})
    state = torch.load(tmp_path / "True" / "state.pt", weights_only=True)
    assert state["model"] and all("lora_" in name for name in state["model"])
    for name, weight in trained[0].items():
        assert torch.equal(weight, trained[1][name]), name


def test_the_majority_is_the_most_frequent_training_answer(folder):
    """Of each source's part of the subset; a source that this lacks is not answered."""
    data = task.load(False, folder)
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
            text = (" ; ".join(answer) or "none") if isinstance(answer, list) else answer
            assert outputs.count(text) == max(map(outputs.count, outputs)) and not failed
    scores = evaluate(task, task.rows(data, {"test": test}, {"test": found})[0]["test"])
    assert scores["links_micro_f1"] == 0 and scores["links_parse_failures"] == 1
    assert scores["genes_entity_f1"] == 0 and scores["parse_failures"] == pytest.approx(1 / 6)
    pairs = [(e["gold"], answer) for e, (answer, _) in zip(test, found, strict=True)
             if e["source"] == "pairs"]  # fmt: skip
    assert scores["pairs_accuracy"] == np.mean([gold == answer for gold, answer in pairs])
    # Of documents most of which have no label, and so no F1, another constant answer has more.
    empty = {"gold": [], "output": "none"}
    train = [e | empty if e["kind"] == "classification" and i % 3 else e
             for i, e in enumerate(train)]  # fmt: skip
    levels = majority_scores(task, data, train, {"train": train})["train"]
    usual = task.rows(data, {"train": train}, {"train": task.baseline(train, train)})[0]["train"]
    usual = evaluate(task, usual)
    more = {name for name, value in levels.items() if value > usual[name]}
    kinds = {e["source"] for e in train if e["kind"] == "classification"}
    assert more == {"mean", *(f"{name}_micro_f1" for name in kinds)}
    assert all(value >= usual[name] for name, value in levels.items())
    tied = [e for e in train if e["source"] == "pairs"]
    tied = [next(e for e in tied if e["gold"] == label) for label in ("neutral", "entailment")]
    assert (
        task.baseline(tied, tied) == task.baseline(tied[::-1], tied) == 2 * [("entailment", False)]
    )
    silent = [{"source": "open", "kind": "free_qa", "output": "unanswerable", "gold": []}]
    assert task.baseline(silent, silent) == [("", False)]


def test_a_word_decides_the_control_labels(folder):
    """Of each source: equal texts have one label in all splits, of a pair sentence 2."""
    data = task.load(False, folder)
    splits = {split: task.probed(examples) for split, examples in data.splits.items()}
    before = json.dumps(splits)
    drawn = task.controls(data, splits, 1)["control"]
    assert drawn == task.controls(data, splits, 1)["control"] and json.dumps(splits) == before
    assert len(drawn) == DRAWS and drawn != task.controls(data, splits, 2)["control"]
    for draw in drawn:
        labels = {}
        for split, examples in draw.items():
            for old, new in zip(splits[split], examples, strict=True):
                assert new | {"gold": old["gold"]} == old
                assert new["gold"] in data.sources[old["source"]]["labels"]
                text = old["source"], old["input"].split("Sentence 2: ")[-1]
                assert labels.setdefault(text, new["gold"]) == new["gold"]


def test_each_source_with_labels_has_a_probe_of_its_own(loaded):
    """Its rows are its prompts' last tokens, of all targets; of the others nothing is asked."""
    _, tokenizer, data, _, _ = loaded
    splits = {split: task.probed(examples) for split, examples in data.splits.items()}
    targets = {"task": splits, "control-1": task.controls(data, splits, 1)["control"][0]}
    inputs = task.probe_inputs(data, targets, tokenizer, 512, "last")
    names = [s for s, about in data.sources.items() if about["kind"] in LABEL_KINDS]
    assert inputs.notes == names and len(inputs.sets) == 3 and inputs.n_labels == len(data.labels)
    used = []
    for split, examples in splits.items():
        assert {e["source"] for e in data.splits[split] if e not in examples}.isdisjoint(names)
        found = []
        for name, one in zip(names, inputs.sets, strict=True):
            own = [e for e in examples if e["source"] == name]
            prompts = [row["prompt"] for row in task.encode(data, own, tokenizer, 512)[0]]
            rows = [inputs.encoded[i] for (i,) in one.rows[split]]
            assert [row["input_ids"] for row in rows] == [list(ids) for ids in prompts]
            assert [row["units"] for row in rows] == [[(len(p) - 1, len(p))] for p in prompts]
            used += one.rows[split][:, 0].tolist()
            numbers = np.array([data.labels.index(e["gold"]) for e in own])
            found.append(numbers)
            if split == "train":
                assert (one.labels["task"] == numbers).all()
                changed = [e["gold"] for e in targets["control-1"]["train"] if e["source"] == name]
                assert [data.labels[i] for i in one.labels["control-1"]] == changed
        predicted = task.probe_predictions(data, examples, inputs, "task", split, found)
        assert predicted == [(e["gold"], False) for e in examples]
        (rows,) = task.rows(data, {split: examples}, {split: predicted})[0].values()
        assert {row["source"] for row in rows} == {*names} and evaluate(task, rows)["mean"] == 1
    assert sorted(used) == list(range(len(inputs.encoded)))
    without = [e for e in splits["train"] if e["source"] != "links"]
    lacking = {"task": splits | {"train": without}}
    with pytest.raises(UserError, match="no training example of links is left for a probe"):
        task.probe_inputs(data, lacking, tokenizer, 512, "last")
    free = {name: about for name, about in data.sources.items() if name == "open"}
    with pytest.raises(
        UserError, match=r"no source has one label as its answer \(nli, relation, qa\)"
    ):
        task.probe_inputs(data._replace(sources=free), targets, tokenizer, 512, "last")


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
    data = task.load(False, tmp_path / "out", negative_label=given)
    wanted = {"usual": None, "other": given, "no": None}
    assert {name: about.get("negative") for name, about in data.sources.items()} == wanted
    rows = [task.row(data, e, ("a", False)) for e in data.splits["test"]]
    assert {row["source"]: row.get("negative") for row in rows} == wanted
    found = evaluate(task, rows)  # half of the answers are right
    assert found["usual_micro_f1"] == pytest.approx(2 / 3) and found["no_micro_f1"] == 0.5
    assert found["other_micro_f1"] == pytest.approx(2 / 3 if given else 1 / 2)


def test_bad_models(folder, model_folder, tmp_path, capsys, checkpoint):
    data, out = ("--data_dir", folder), ("--output_dir", tmp_path / "out")
    for step in STEPS:  # at once: nothing is loaded, or made for the demo
        error = refused(capsys, step, "--demo", "--model_name", "biobert", "--training_size", 10)
        assert "biobert is no causal model" in error and "llama2-7b" in error
    error = refused(capsys, "fine-tuning", *data, *out, "--model_name", checkpoint("bert"))
    assert "BERT models cannot write text" in error and "GPT-2" in error
    for step in ("probing", "attention"):
        error = refused(capsys, step, *data, *out, "--model_name", checkpoint("bert"),
                        "--training_size", 0)  # fmt: skip
        assert "causal" in error
    for name, change in (("endless", {"eos_token": None}), ("other", {"model_type": "bloom"})):
        file = "tokenizer_config.json" if name == "endless" else "config.json"
        shutil.copytree(model_folder("llama3"), tmp_path / name)
        content = json.loads((tmp_path / name / file).read_text()) | change
        (tmp_path / name / file).write_text(json.dumps(content))
        error = refused(capsys, "fine-tuning", *data, *out, "--lora",
                        "--model_name", tmp_path / name)  # fmt: skip
        assert ("no end token" if name == "endless" else "is a 'bloom' model") in error
    assert not (tmp_path / "out").exists()


def test_bad_data_and_flags(folder, loaded):
    _, tokenizer, data, examples, _ = loaded
    with pytest.raises(UserError, match="build.json is missing.*build.py"):
        task.load(False, folder.parent / "NLI")
    with pytest.raises(UserError, match="instruction alone.*--max_length"):
        task.encode(data, examples, tokenizer, 40)
    with pytest.raises(UserError, match="--negative_label nothing.*build.json"):
        task.load(False, folder, negative_label="nothing")


def test_adapters_have_a_learning_rate_of_their_own(capsys):
    for flags, rate in (((), 2e-5), (("--lora",), 2e-4), (("--lora", "--learning_rate", 1), 1),
                        (("--demo",), 3e-3), (("--demo", "--lora"), 4e-3)):  # fmt: skip
        step = importlib.import_module("Instruct.fine-tuning")
        assert step.parse_args([*map(str, flags)]).args.learning_rate == rate
    with pytest.raises(SystemExit):
        step.parse_args(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--learning_rate is then 0.0002 by default, 0.004 with --demo" in said


def test_a_changed_data_set_is_refused(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    for other in ("unknown", ["other"]):
        write_jsonl(copy / "test.jsonl", [rows[0], rows[1] | {"source": other}, *rows[2:]])
        with pytest.raises(UserError, match="test.jsonl:2: its source, kind or gold"):
            task.load(False, copy)
    (copy / "units.jsonl").unlink()
    with pytest.raises(UserError, match="cannot read .*units.jsonl"):
        task.load(False, copy)


def test_adapters_whose_model_is_gone(adapted, folder, tmp_path, capsys):
    where, _, _ = adapted
    data = task.load(False, folder)
    error = refused(capsys, "fine-tuning", "--data_dir", folder, "--model_name", where, "--lora",
                    "--output_dir", tmp_path / "out")  # fmt: skip
    assert "already holds a model with adapters. Leave out --lora" in error
    path, base = tmp_path / "adapters" / "adapter_config.json", tmp_path / "base"
    about = json.loads(path.read_text())
    shutil.copytree(about["base_model_name_or_path"], base)
    path.write_text(json.dumps(about | {"base_model_name_or_path": str(base)}))
    before = models.source(where).identity()
    (base / "model.safetensors").write_bytes(b"other weights")  # the adapters are the same
    assert models.source(where).identity() != before
    gone = {"base_model_name_or_path": str(tmp_path / "gone")}
    path.write_text(json.dumps(about | gone))
    with pytest.raises(UserError, match="gone.*base_model_name_or_path"):
        task.load_model(where, data)


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
