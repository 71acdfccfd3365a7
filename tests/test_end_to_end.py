"""The three steps against plain loops: every score of a run is worked out again, apart from it.

The loops read the files and use the libraries directly, one example at a time where there is no
training. Dropout is on: it draws the same in both, unless a mode is wrong.
"""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import seqeval.metrics
import torch
import transformers
from seqeval.scheme import IOB2
from sklearn import metrics as sklearn
from sklearn.svm import SVC

from common import probes, subsample
from common import task as contract
from common.batching import epoch_batches
from common.device import choose_device
from common.probes import sequences
from common.task import Sequences
from common.training import loop
from tests import tiny
from tests.helpers import CUES, LABELS, WORDS, read_json, read_rows, run_script, write_data

SEED, SIZE, EPOCHS, BATCH = 13, 50, 3, 6
PEAK, WARMUP, DECAY, CLIP = 5e-3, 0.3, 0.9, 0.7
CLASSES = {"NER": ["O", "DNA", "protein"], "NLI": list(LABELS)}
MAIN = {"NER": "entity_f1", "NLI": "accuracy"}
SCORED = {"NER": ("entity_f1", "entity_f1_strict", "macro_f1", "micro_f1", "micro_f1_without_o"),
          "NLI": ("accuracy", "macro_f1", "matthews_correlation")}  # fmt: skip
CPU = choose_device("cpu", "fp32")


# --- the plain loops -----------------------------------------------------------------------------


def kinds(tags):
    return [tag.split("-", 1)[-1] for tag in tags]


def to_iob2(classes):
    before = ["O", *classes[:-1]]
    return ["O" if c == "O" else f"{'I' if c == b else 'B'}-{c}"
            for c, b in zip(classes, before, strict=True)]  # fmt: skip


def gold(task, row):
    return row["tags"] if task == "NER" else row["gold_label"]


def scores(task, golds, predicted):
    """By scikit-learn and seqeval."""
    if task == "NLI":
        return {"accuracy": sklearn.accuracy_score(golds, predicted),
                "macro_f1": sklearn.f1_score(golds, predicted, average="macro"),
                "matthews_correlation": sklearn.matthews_corrcoef(golds, predicted)}  # fmt: skip
    flat = [[kind for tags in side for kind in kinds(tags)] for side in (golds, predicted)]
    strict = {"mode": "strict", "scheme": IOB2}
    entities = ["DNA", "protein"]
    return {
        "entity_f1": seqeval.metrics.f1_score(golds, predicted, zero_division=0),
        "entity_f1_strict": seqeval.metrics.f1_score(golds, predicted, zero_division=0, **strict),
        "macro_f1": sklearn.f1_score(*flat, average="macro"),
        "micro_f1": sklearn.accuracy_score(*flat),
        "micro_f1_without_o": sklearn.f1_score(*flat, average="micro", labels=entities),
    }


def encode(task, row, tokenizer):
    """A model's input as the library makes it; of words also the label of each token."""
    if task == "NLI":
        found = dict(tokenizer(row["sentence1"], row["sentence2"]))
        return found | {"labels": CLASSES[task].index(row["gold_label"])}
    encoded = tokenizer(row["tokens"], is_split_into_words=True)
    owners = encoded.word_ids()
    labels = [
        -100 if word is None or word == owners[i - 1] else
        CLASSES[task].index(kinds(row["tags"])[word]) for i, word in enumerate(owners)
    ]  # fmt: skip
    return dict(encoded) | {"labels": labels}


def padded(inputs):
    """`{name: [batch, tokens]}`; labels of sequences `[batch]`."""
    filler = {"labels": -100}
    return {
        name: torch.tensor([e[name] for e in inputs]) if isinstance(inputs[0][name], int)
        else torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(e[name]) for e in inputs], True, filler.get(name, 0)
        )
        for name in inputs[0]
    }  # fmt: skip


@torch.no_grad()
def predict(task, model, tokenizer, rows):
    """One example at a time."""
    model.eval()
    found = []
    for row in rows:
        inputs = padded([encode(task, row, tokenizer)])
        labels = inputs.pop("labels")[0]
        best = model(**inputs).logits[0].argmax(-1)
        if task == "NLI":
            found.append(LABELS[best])
        else:
            found.append(to_iob2([CLASSES[task][i] for i in best[labels != -100]]))
    return found


def plain_training(task, model, tokenizer, splits):
    """[(mean loss of its batches, dev scores, weights) of each epoch]."""
    inputs = [encode(task, row, tokenizer) for row in splits["train"]]
    vectors = [n for n, _ in model.named_parameters() if "bias" in n or "LayerNorm" in n]
    named = dict(model.named_parameters())
    optimizer = torch.optim.AdamW([
        {"params": [p for n, p in named.items() if n not in vectors], "weight_decay": DECAY},
        {"params": [named[n] for n in vectors], "weight_decay": 0.0},
    ])  # fmt: skip
    lengths = [len(e["input_ids"]) for e in inputs]
    step, steps, found = 0, EPOCHS * -(-len(inputs) // BATCH), []
    warmup = int(WARMUP * steps)
    for epoch in range(EPOCHS):
        losses = []
        model.train()
        for batch in epoch_batches(lengths, BATCH, SEED, epoch, pool=1):
            for group in optimizer.param_groups:
                group["lr"] = PEAK * min((step + 1) / warmup, (steps - step) / (steps - warmup))
            some = padded([inputs[i] for i in batch])
            labels = some.pop("labels").flatten()
            logits = model(**some).logits.view(len(labels), -1)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())
            step += 1
        found.append((np.mean(losses), dev_scores(task, model, tokenizer, splits["dev"]),
                      {n: t.clone() for n, t in model.state_dict().items()}))  # fmt: skip
    return found


def dev_scores(task, model, tokenizer, rows):
    return scores(task, [gold(task, r) for r in rows], predict(task, model, tokenizer, rows))


@torch.no_grad()
def vectors_of(task, encoder, tokenizer, row):
    """`[layers, units, hidden]`: of each word, or of premise and hypothesis, each alone."""

    def states(*text, **options):
        encoded = tokenizer(*text, return_tensors="pt", **options)
        hidden = encoder(**encoded, output_hidden_states=True).hidden_states
        return encoded, torch.stack(hidden)[:, 0]

    if task == "NLI":
        sides = [states(row[side])[1].mean(1) for side in ("sentence1", "sentence2")]
        return torch.stack(sides, 1).half().numpy()
    encoded, hidden = states(row["tokens"], is_split_into_words=True)
    owners = np.array([-1 if w is None else w for w in encoded.word_ids()])
    words = [hidden[:, owners == word].mean(1) for word in range(len(row["tokens"]))]
    return torch.stack(words, 1).half().numpy()


def probed(task, features, targets):
    """`{target: {split: predictions}}` of one layer alone; `features`: {split: [vectors]}."""
    if task == "NLI":
        flat = {s: np.float64([v.reshape(-1) for v in some]) for s, some in features.items()}
        return {
            target: {
                split: SVC().fit(flat["train"], [gold(task, r) for r in labelled["train"]])
                .predict(some).tolist() for split, some in flat.items()
            }
            for target, labelled in targets.items()
        }  # fmt: skip
    ends = np.cumsum([0, *(len(v) for some in features.values() for v in some)]).tolist()
    spans = iter(zip(ends, ends[1:], strict=False))
    rows = {split: [next(spans) for _ in some] for split, some in features.items()}
    vectors = np.concatenate([v for some in features.values() for v in some])
    labels = {
        target: [[CLASSES[task].index(k) for k in kinds(row["tags"])] for row in labelled["train"]]
        for target, labelled in targets.items()
    }
    options, sets = probes.Options(3, 3, False, SEED, CPU), [Sequences(rows, labels)]
    ((_, found),) = probes.predict_layers("bilstm-crf", {0: vectors}, sets, options)
    return {
        target: {s: [to_iob2([CLASSES[task][i] for i in tags]) for tags in some]
                 for s, (some,) in of_target.items()}
        for target, of_target in found.items()
    }  # fmt: skip


@torch.no_grad()
def maps(encoder, inputs):
    """`[layers, heads, query, key]` of one example."""
    return torch.stack(encoder(**inputs, output_attentions=True).attentions)[:, 0].double().numpy()


def head_measures(p, q):
    """Of two models' maps of one example, by metric `[layers, heads]`."""
    norms = np.sqrt((p**2).sum((2, 3)) * (q**2).sum((2, 3)))

    def entropy(x):
        return -(x * np.log2(np.maximum(x, 1e-300))).sum(-1).mean(-1)

    return {"cosine": (p * q).sum((2, 3)) / norms,
            "js": entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2,
            "entropy_pretrained": entropy(p), "entropy_fine_tuned": entropy(q)}  # fmt: skip


# --- the scripts' runs ---------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def whole_batches():
    """One pass a step, as the plain loop has it: dropout then draws the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "PIECES", {"cpu": 1})
        yield


@pytest.fixture(scope="module", params=("NER", "NLI"))
def tuned(request, tmp_path_factory):
    """A model fine-tuned on half the data, by the script; and what a plain loop gives."""
    task, root = request.param, tmp_path_factory.mktemp(f"{request.param}")
    texts = [" ".join(words) for words in (*WORDS.values(), *CUES.values())]
    model = tiny.make("bert", root / "own" / "bert", words=texts)
    data = write_data(root / "data", task, 120, 36, 42)
    flags = ("--data_dir", data, "--model_name", model, "--output_dir", root / "out",
             "--device", "cpu", "--precision", "fp32", "--seed", SEED)  # fmt: skip
    code = run_script(
        task, "fine-tuning", *flags, "--training_size", SIZE, "--num_train_epochs", EPOCHS,
        "--batch_size", BATCH, "--learning_rate", PEAK, "--warmup_ratio", WARMUP,
        "--weight_decay", DECAY, "--max_grad_norm", CLIP,
    )  # fmt: skip
    assert code == 0
    splits = read_rows(data, task)
    strata = [
        row["gold_label"] if task == "NLI" else "+".join(sorted({*kinds(row["tags"])} - {"O"}))
        or "O" for row in splits["train"]
    ]  # fmt: skip
    half = [splits["train"][i] for i in subsample.subset(strata, SIZE, SEED)]
    cell = root / "out" / "data" / "own--bert" / str(SIZE) / f"seed-{SEED}"
    return SimpleNamespace(
        task=task, module=contract.load(task), flags=flags, model=model, splits=splits, half=half,
        cell=cell, folder=cell / "fine-tuning", tokenizer=tokenizer_of(model), root=root,
    )  # fmt: skip


def tokenizer_of(folder):
    return transformers.AutoTokenizer.from_pretrained(folder)


def test_fine_tuning_equals_a_plain_loop(tuned):
    task = tuned.task
    torch.manual_seed(SEED)
    model, *_ = tuned.module.load_model(str(tuned.model), SimpleNamespace(labels=CLASSES[task]))
    splits = tuned.splits | {"train": tuned.half}
    epochs = plain_training(task, model, tuned.tokenizer, splits)
    history = pd.read_csv(tuned.folder / "history.csv").set_index(["epoch", "split", "metric"])
    for number, (loss, dev, _) in enumerate(epochs, 1):
        assert history.value[number, "train", "loss"] == pytest.approx(loss, rel=2e-4)
        for name, value in dev.items():
            assert history.value[number, "dev", name] == pytest.approx(value, abs=0.02), name
    assert len(set(history.value[:, "dev", MAIN[task]])) > 1

    found = read_json(tuned.folder / "metrics.json")
    main = [dev[MAIN[task]] for _, dev, _ in epochs]
    best = main.index(max(main))
    assert found["best_epoch"] == best + 1 and found["train_examples"] == len(tuned.half) == 60
    model.load_state_dict(epochs[best][2])
    own = {"NER": "TokenClassification", "NLI": "SequenceClassification"}[task]
    auto = getattr(transformers, f"AutoModelFor{own}")
    saved = auto.from_pretrained(tuned.folder / "checkpoint").eval()
    for (name, one), other in zip(saved.named_parameters(), model.parameters(), strict=True):
        if "key.bias" not in name:  # its gradient is rounding alone
            torch.testing.assert_close(one, other, atol=5e-4, rtol=0, msg=lambda m, n=name: n + m)
    for split in ("dev", "test"):
        rows = splits[split]
        golds = [gold(task, row) for row in rows]
        predicted = predict(task, saved, tuned.tokenizer, rows)
        close(found, split, scores(task, golds, predicted))
        (common,) = Counter(
            label for row in tuned.half for label in
            (kinds(row["tags"]) if task == "NER" else [row["gold_label"]])
        ).most_common(1)  # fmt: skip
        guess = [to_iob2([common[0]] * len(g)) if task == "NER" else common[0] for g in golds]
        close(found, f"{split}_majority", scores(task, golds, guess))
    lines = pd.read_json(tuned.folder / "predictions.jsonl", lines=True)
    assert lines["gold"].tolist() == golds and lines["predicted"].tolist() == predicted
    assert found[f"test_{MAIN[task]}"] > found[f"test_majority_{MAIN[task]}"]  # it learns


def close(found, prefix, values):
    got = {name: found[f"{prefix}_{name}"] for name in values}
    assert got == pytest.approx(values, abs=1e-6), prefix


@pytest.fixture
def eager_probes(monkeypatch):
    """The probes of sequences learn what there is to learn in a few steps."""
    monkeypatch.setattr(sequences, "LEARNING_RATE", 0.03)
    monkeypatch.setattr(sequences, "BATCH_SIZE", 8)


def test_probing_equals_a_plain_loop(tuned, eager_probes):
    task = tuned.task
    flags = (*tuned.flags, "--training_size", SIZE, "--controls", "--batch_size", 5)
    assert run_script(task, "probing", *flags) == 0
    encoder = transformers.AutoModel.from_pretrained(tuned.folder / "checkpoint").eval()
    features = {
        split: [vectors_of(task, encoder, tuned.tokenizer, row) for row in rows]
        for split, rows in tuned.splits.items()
    }
    targets = {"task": [tuned.splits], "control": controlled(tuned)}
    draws = {"task": tuned.splits}
    draws |= {f"control-{n}": splits for n, splits in enumerate(targets["control"], 1)}
    files = [tuned.cell / name / "layers.csv" for name in ("probing", "probing-control")]
    table = pd.read_csv(files[0])
    majority = table[table["probe"] == "majority"].set_index(["layer", "split", "metric"])["value"]
    table = pd.concat(map(pd.read_csv, files))
    table = table[table["probe"] != "majority"]
    table = table.set_index(["target", "layer", "split", "metric"])["value"]
    values = {}
    for layer in range(3):
        of_layer = {s: [v[layer] for v in some] for s, some in features.items()}
        by_draw = {}
        for name, splits in probed(task, of_layer, draws).items():
            for split, predicted in splits.items():
                golds = [gold(task, row) for row in draws[name][split]]
                for metric, value in scores(task, golds, predicted).items():
                    where = name.split("-")[0], layer, split, metric
                    by_draw.setdefault(where, []).append(value)
        for where, own in by_draw.items():
            assert len(own) == len(targets[where[0]])
            values[where] = np.mean(own)
            assert table[where] == pytest.approx(values[where], abs=0.015)
    # No two of what could be mistaken for one another are the same.
    main = MAIN[task]
    for split in ("dev", "test"):
        of_layers = {values[target, n, split, "macro_f1"] for target in targets for n in range(3)}
        assert len(of_layers) > 2
    if task == "NLI":
        assert values["task", 2, "test", main] - values["control", 2, "test", main] > 0.2
    else:  # learnt by heart
        assert values["control", 0, "test", "micro_f1"] > 0.6

    common = {"NER": "protein", "NLI": "entailment"}[task]
    found = read_json(tuned.cell / "probing" / "metrics.json")
    for split in ("dev", "test"):
        golds = [gold(task, row) for row in tuned.splits[split]]
        guess = [to_iob2([common] * len(g)) if task == "NER" else common for g in golds]
        for name, value in scores(task, golds, guess).items():
            assert found[f"{split}_majority_{name}"] == pytest.approx(value)
            for layer in range(3):
                assert majority[layer, split, name] == pytest.approx(value)
    by_layer = [table["task", layer, "dev", main] for layer in range(3)]
    best = by_layer.index(max(by_layer))
    assert (found["best_layer"], found["last_layer"]) == (best, 2)
    for layer, suffix in ((best, ""), (2, "_last_layer")):
        for split in ("dev", "test"):
            for name in SCORED[task]:
                key = f"{split}_{name}{suffix}"
                assert found[key] == table["task", layer, split, name], key
    assert found["train_examples"] == len(tuned.splits["train"])  # all, whatever the size


def controlled(tuned) -> list[dict]:
    """The splits with the control's labels, of each draw; a word decides, in every split."""
    data = tuned.module.load(False, tuned.root / "data")
    (drawn,) = tuned.module.controls(data, data.splits, SEED).values()
    key, own = {"NER": ("tags", "tags"), "NLI": ("gold_label", "label")}[tuned.task]
    made = [
        {
            split: [row | {key: getattr(e, own)} for row, e in zip(rows, draw[split], strict=True)]
            for split, rows in tuned.splits.items()
        }
        for draw in drawn
    ]
    assert len(made) == {"NER": 1, "NLI": 5}[tuned.task]  # tests/test_controls.py has NLI's rule
    by_word: dict = {}
    for row in (row for rows in made[0].values() for row in rows) if tuned.task == "NER" else ():
        for word, kind in zip(row["tokens"], kinds(row["tags"]), strict=True):
            assert by_word.setdefault(word, kind) == kind
    assert tuned.task == "NLI" or set(by_word.values()) == set(CLASSES["NER"])
    return made


def test_attention_equals_a_plain_loop(tuned):
    task = tuned.task
    flags = (*tuned.flags, "--training_sizes", f"0,{SIZE}")
    assert run_script(task, "attention", *flags, "--controls", "--batch_size", 5) == 0

    def load(folder):
        options = {"attn_implementation": "eager", "add_pooling_layer": False}
        return transformers.AutoModel.from_pretrained(folder, **options).eval()

    pretrained, fine_tuned = load(tuned.model), load(tuned.folder / "checkpoint")
    torch.manual_seed(SEED)
    untrained = transformers.AutoModel.from_config(
        transformers.AutoConfig.from_pretrained(tuned.model), attn_implementation="eager",
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    tables = {str(SIZE): [], "random": []}
    for row in tuned.splits["test"]:
        inputs = padded([encode(task, row, tuned.tokenizer)])
        del inputs["labels"]
        before = maps(pretrained, inputs)
        for size, other in ((str(SIZE), fine_tuned), ("random", untrained)):
            tables[size].append(head_measures(before, maps(other, inputs)))
    for size, measured in tables.items():
        folder = tuned.cell.parents[1] / size / tuned.cell.name / "attention"
        found = read_json(folder / "metrics.json")
        assert found["examples"] == len(tuned.splits["test"]) == 42
        assert found["skipped_examples"] == 0
        table = pd.read_csv(folder / "heads.csv").set_index(["metric", "layer", "head"])["value"]
        for metric in measured[0]:
            values = np.array([m[metric] for m in measured])
            for number, expected in ((metric, values.mean(0)),
                                     (f"{metric}_std", values.std(0, ddof=1))):  # fmt: skip
                got = [[table[number, layer, head] for head in (1, 2)] for layer in (1, 2)]
                np.testing.assert_allclose(got, expected, atol=2e-5, err_msg=f"{size} {number}")
            assert found[metric] == pytest.approx(values.mean(), abs=1e-5)
    found = read_json(tuned.cell / "attention" / "metrics.json")
    cosine = np.mean([m["cosine"] for m in tables[str(SIZE)]], 0)
    layer, head = np.unravel_index(cosine.argmin(), cosine.shape)
    assert (found["most_changed_layer"], found["most_changed_head"]) == (layer + 1, head + 1)
    assert found["most_changed_cosine"] == pytest.approx(cosine.min(), abs=1e-5)
    itself = pd.read_csv(tuned.cell.parents[1] / "0" / f"seed-{SEED}" / "attention" / "heads.csv")
    assert (itself[itself["metric"] == "cosine"]["value"] == 1).all()
