"""Each flag changes what it should and nothing else: runs that differ in one flag, side by side."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from common import models, probes, steps
from NLI import task as nli
from tests.helpers import read_json, run_script, write_data

FAST = ("--device", "cpu", "--precision", "fp32")
TRAIN = ("--learning_rate", 1e-3, "--num_train_epochs", 1, "--batch_size", 6,
         "--training_size", 50)  # fmt: skip


class Place:
    """Data and a model; runs of the steps, each in a place of its own."""

    def __init__(self, task, root, model):
        self.task, self.root = task, root
        self.flags = ("--data_dir", write_data(root / "data", task, 36, 12, 14),
                      "--model_name", model, *FAST)  # fmt: skip
        self.n = 0

    def run(self, step, *flags):
        """What a run leaves; the last of equal flags counts."""
        self.n += 1
        out = self.root / f"out-{self.n}"
        if step == "attention":
            shutil.copytree(self.tuned, out)
        assert run_script(self.task, step, *self.flags, "--output_dir", out, *flags) == 0
        folders = {path.parent for path in out.rglob(f"{step}*/metrics.json")}
        (folder,) = {
            f for f in folders if "control" not in f.name and f.parts[-3] != "random"
        } or folders
        config = read_json(folder / "config.json")
        metrics = read_json(folder / "metrics.json")
        return SimpleNamespace(folder=folder, config=config, settings=config["settings"],
                               metrics=metrics, model=str(self.flags[3]))  # fmt: skip

    def tune(self):
        found = self.run("fine-tuning", *TRAIN)
        self.tuned = self.root / f"out-{self.n}"
        return found


@pytest.fixture(scope="module", autouse=True)
def no_figures():
    """They take half of such a run, and have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        for step in steps.STEPS.values():
            patch.setattr(step, "draw", lambda *given: None)
        yield


@pytest.fixture(scope="module")
def places(tmp_path_factory, checkpoint):
    """By task, a place, and the runs that the others are compared with."""
    found = {}
    for task in ("NER", "NLI"):
        place = Place(task, tmp_path_factory.mktemp(task), checkpoint("bert"))
        place.base = {"fine-tuning": place.tune(),
                      "probing": place.run("probing", "--keep_features"),
                      "attention": place.run("attention", "--training_sizes", 50)}  # fmt: skip
        found[task] = place
    return found


def other_settings(one, two):
    assert one.settings.keys() == two.settings.keys()
    return {key for key in one.settings if one.settings[key] != two.settings[key]}


# --- fine-tuning ---------------------------------------------------------------------------------


def weights(run):
    return load_file(run.folder / "checkpoint" / "model.safetensors")


def moved(run, start, part):
    """How far the weights of a part of the model went from where they began."""
    after = weights(run)
    return sum((after[n] - w).norm().item() for n, w in start.items() if part in n and n in after)


def rates(run):
    table = pd.read_csv(run.folder / "history.csv")
    return table[(table["metric"] == "learning_rate")]["value"].tolist()


def last_step(run):
    return pd.read_csv(run.folder / "steps.csv")["step"].iloc[-1]


TUNING = {  # flag: (task, value, what it must do: (default's run, changed run) -> truth)
    "learning_rate": ("NLI", 5e-4, lambda a, b: rates(b) == [rate / 2 for rate in rates(a)]),
    "num_train_epochs": ("NER", 2, lambda a, b: (len(rates(a)), len(rates(b))) == (1, 2)),
    "warmup_ratio": ("NLI", 0.7, lambda a, b: rates(b) > rates(a)),
    "weight_decay": ("NER", 50, lambda a, b: norm(weights(b)) < 0.95 * norm(weights(a))),
    "max_grad_norm": ("NLI", 1e-12, lambda a, b: small(moved_from(b), moved_from(a))),
    "layer_decay": ("NER", 0.1, lambda a, b: small(moved_from(b, "embed"), moved_from(a, "embed"))
                    and not small(moved_from(b, "classifier"), moved_from(a, "classifier"))
                    and b.metrics["layer_decay"] == 0.1),
    "batch_size": ("NLI", 4, lambda a, b: (last_step(a), last_step(b)) == (3, 5)),
    "max_length": ("NER", 8, lambda a, b: a.metrics["test_truncated_words"] == 0
                   and all(b.metrics[f"{s}_truncated_words"] for s in ("train", "dev", "test"))),
    "precision": ("NLI", "bf16", lambda a, b: b.settings["precision"] == "bf16"),
    "label_scheme": ("NER", "iob2", lambda a, b: b.config["labels"]
                     == ["O", "B-DNA", "I-DNA", "B-protein", "I-protein"]),
}  # fmt: skip


def norm(found):
    return sum(w.norm().item() for n, w in found.items() if w.ndim > 1)


def small(one, other):
    return one < 0.1 * other


def moved_from(run, part=""):
    task = run.config["task"]
    torch.manual_seed(42)
    head = {"NER": "token", "NLI": "sequence"}[task]
    start, _ = models.load_task_model(run.model, head, run.config["labels"])
    return moved(run, start.state_dict(), part)


@pytest.mark.parametrize("flag", TUNING)
def test_fine_tuning(places, flag):
    task, value, effect = TUNING[flag]
    place = places[task]
    base, changed = place.base["fine-tuning"], place.run("fine-tuning", *TRAIN, f"--{flag}", value)
    assert other_settings(base, changed) == {flag} and changed.settings[flag] == value
    assert effect(base, changed)
    one, two = weights(base), weights(changed)
    differ = [n for n in one if one[n].shape != two[n].shape or not torch.equal(one[n], two[n])]
    assert differ, "it never reached the training"
    assert changed.config["subset"] == base.config["subset"]
    same = [k for k in base.metrics if k.endswith(("_sentences", "_pairs", "_examples"))]
    same = [k for k in same if "truncated" not in k]
    assert {k: base.metrics[k] for k in same} == {k: changed.metrics[k] for k in same}


def test_seed_and_size_of_fine_tuning(places):
    place = places["NLI"]
    base = place.base["fine-tuning"]
    seed = place.run("fine-tuning", *TRAIN, "--seed", 1)
    size = place.run("fine-tuning", *TRAIN, "--training_size", 100)
    for run in (seed, size):
        assert other_settings(base, run) == set()
        assert run.config["subset"]["sha256"] != base.config["subset"]["sha256"]
        assert run.metrics["checkpoint_sha256"] != base.metrics["checkpoint_sha256"]
    assert [run.metrics["train_examples"] for run in (base, seed, size)] == [18, 18, 36]
    assert seed.folder.parent.name == "seed-1"


@pytest.mark.parametrize(("size", "n"), ((50, 18), (0, 36)))
def test_the_majority_is_that_of_the_examples_trained_on(places, monkeypatch, size, n):
    """Without training, of all there are."""
    seen, real = [], nli.baseline

    def spy(train, some):
        seen.append((len(train), len(some)))
        return real(train, some)

    monkeypatch.setattr(nli, "baseline", spy)
    counted, step = [], steps.STEPS["fine-tuning"]
    monkeypatch.setattr(step, "in_train", lambda _, *own: counted.append([*map(len, own)]) or {})
    places["NLI"].run("fine-tuning", *TRAIN, "--training_size", size)
    assert seen == [(n, 12), (n, 14)] and counted == [[n, 12], [n, 14]]


def test_how_it_is_saved_changes_nothing(places):
    place = places["NER"]
    base = place.base["fine-tuning"]
    changed = place.run("fine-tuning", *TRAIN, "--save_minutes", 0, "--overwrite")
    assert other_settings(base, changed) == set()
    assert weights(base).keys() == weights(changed).keys()
    for name, tensor in weights(base).items():
        assert torch.equal(tensor, weights(changed)[name])
    for name in ("predictions.jsonl", "history.csv", "steps.csv"):
        assert (base.folder / name).read_bytes() == (changed.folder / name).read_bytes()


# --- probing -------------------------------------------------------------------------------------


def features(run):
    return {file.name: np.load(file) for file in sorted(run.folder.glob("features/*.npy"))}


def equal(one, two):
    return one.keys() == two.keys() and all(np.array_equal(one[n], two[n]) for n in one)


def close(one, two):
    return one.keys() == two.keys() and all(
        one[n].shape == two[n].shape and np.abs(np.float32(one[n]) - two[n]).max() < 0.02
        for n in one
    )


def layers(run, **chosen):
    table = pd.read_csv(run.folder / "layers.csv")
    for column, value in chosen.items():
        table = table[table[column] == value]
    columns = ["layer", "target", "split", "metric"]
    return table.set_index([*columns, "probe"])["value"].to_dict()


def near(one, two):
    return one.keys() == two.keys() and all(abs(one[k] - two[k]) < 0.1 for k in one)


PROBING = {  # name: (tasks, flags, settings that differ, folder, what it must do)
    "probe": ("NER NLI", ("--probe", "linear"), {"probe"}, "probing-linear",
              lambda a, b: equal(features(a), features(b)) and b.call["kind"] == "linear"
              and layers(b, probe="linear") and not layers(b, probe=a.call["kind"])),
    "pooling": ("NER NLI", ("--pooling", "last"), {"pooling"}, "probing-last",
                lambda a, b: not close(features(a), features(b))),
    "standardize": ("NLI", ("--standardize",), {"standardize"}, "probing-standardize",
                    lambda a, b: equal(features(a), features(b)) and b.call["standardize"]
                    and not a.call["standardize"]),
    "layers": ("NER", ("--layers", "last"), {"layers"}, "probing-layers-last",
               lambda a, b: layers(b) == layers(a, layer=1) and b.metrics["best_layer"] == 1),
    "one layer": ("NLI", ("--layers", "0"), {"layers"}, "probing-layers-0",
                  lambda a, b: layers(b) == layers(a, layer=0) and b.metrics["last_layer"] == 0),
    "controls": ("NER NLI", ("--controls",), set(), "probing",
                 lambda a, b: layers(b) == layers(a)
                 and (b.folder.parent / "probing-control" / "layers.csv").is_file()),
    "max_train_examples": ("NLI", ("--max_train_examples", 10), {"max_train_examples"},
                           "probing", lambda a, b: (a.call["n"], b.call["n"]) == (36, 10)
                           and b.metrics["train_examples"] == 10),
    "max_length": ("NER NLI", ("--max_length", 6), {"max_length"}, "probing",
                   lambda a, b: not close(features(a), features(b))
                   and any(b.metrics[k] > a.metrics[k] for k in a.metrics if "truncated" in k)),
    "batch_size": ("NER NLI", ("--batch_size", 3), {"batch_size"}, "probing",
                   lambda a, b: close(features(a), features(b)) and near(layers(a), layers(b))),
    "precision": ("NER", ("--precision", "bf16"), {"precision"}, "probing",
                  lambda a, b: not equal(features(a), features(b))
                  and b.settings["precision"] == "bf16"),
    "untrained": ("NER", ("--untrained",), set(), "probing",
                  lambda a, b: not close(features(a), features(b))
                  and b.config["training_size"] == "random"),
    "seed": ("NER NLI", ("--seed", 1), set(), "probing",
             lambda a, b: equal(features(a), features(b)) and b.call["seed"] == 1),
    "device": ("NLI", ("--device", "auto" if not torch.cuda.is_available() else "cpu"), set(),
               "probing", lambda a, b: layers(a) == layers(b)),
}  # fmt: skip


@pytest.fixture
def calls(monkeypatch):
    """What the probes are called with."""
    found, real = [], probes.predict_layers

    def spy(kind, some, sets, options):
        (labelled,) = sets
        found.append(options._asdict() | {"kind": kind, "n": len(labelled.labels["task"])})
        return real(kind, some, sets, options)

    monkeypatch.setattr(probes, "predict_layers", spy)
    return found


@pytest.mark.parametrize(
    ("name", "task"), [(name, task) for name in PROBING for task in PROBING[name][0].split()]
)
def test_probing(places, calls, name, task):
    _, flags, settings, folder, effect = PROBING[name]
    place, base = places[task], places[task].base["probing"]
    changed = place.run("probing", "--keep_features", *flags)
    base.call = {"kind": {"NER": "bilstm-crf", "NLI": "svc"}[task], "standardize": False, "n": 36}
    (changed.call,) = calls
    methods = {key for key in base.settings | changed.settings if key.startswith("probe_")}
    differ = {key for key in base.settings.keys() & changed.settings.keys() - methods
              if base.settings[key] != changed.settings[key]}  # fmt: skip
    assert differ == settings and changed.folder.name == folder
    assert (base.settings["probe_epochs"], changed.call["epochs"]) == (3, 3)
    assert effect(base, changed)
    for key in base.metrics.keys() & {"test_sentences", "test_words", "parameters"}:
        assert base.metrics[key] == changed.metrics[key]
    if name != "precision":
        assert changed.settings["precision"] == "fp32"


def test_features_are_left_only_on_demand(places):
    place = places["NLI"]
    changed = place.run("probing")
    assert features(place.base["probing"]) and not (changed.folder / "features").exists()
    assert layers(changed) == layers(place.base["probing"])


# --- attention -----------------------------------------------------------------------------------


def untrained(run):
    """The untrained encoder's."""
    folder = run.folder.parents[2] / "random" / run.folder.parent.name / "attention"
    return heads(SimpleNamespace(folder=folder))


def heads(run):
    table = pd.read_csv(run.folder / "heads.csv")
    return table.set_index(["layer", "head", "metric"])["value"].to_dict()


def far(one, two):
    return one.keys() == two.keys() and any(abs(one[k] - two[k]) > 1e-6 for k in one)


ATTENTION = {  # name: (flags, settings that differ, folder, what it must do)
    "controls": (("--controls",), set(), "attention", lambda a, b: heads(b) == heads(a)
                 and far(heads(b), untrained(b))),
    "drop_special": (("--drop_special",), {"drop_special"}, "attention-drop_special",
                     lambda a, b: far(heads(a), heads(b)) and b.metrics["examples"] == 14),
    "split": (("--split", "dev"), {"split"}, "attention-dev",
              lambda a, b: far(heads(a), heads(b)) and b.metrics["examples"] == 12),
    "max_examples": (("--max_examples", 5), {"max_examples"}, "attention",
                     lambda a, b: far(heads(a), heads(b)) and b.metrics["examples"] == 5),
    "max_length": (("--max_length", 8), {"max_length"}, "attention",
                   lambda a, b: far(heads(a), heads(b)) and b.metrics["truncated_pairs"] > 0),
    "precision": (("--precision", "bf16"), {"precision"}, "attention",
                  lambda a, b: far(heads(a), heads(b))
                  and b.settings["precision"] == "bf16"),
    "batch_size": (("--batch_size", 3), {"batch_size"}, "attention",
                   lambda a, b: not far(heads(a), heads(b)) and b.metrics["examples"] == 14),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTENTION)
def test_attention(places, name):
    flags, settings, folder, effect = ATTENTION[name]
    place = places["NLI"]
    base, changed = place.base["attention"], place.run("attention", "--training_sizes", 50, *flags)
    assert other_settings(base, changed) == settings and changed.folder.name == folder
    assert effect(base, changed)


def test_the_seed_of_attention_is_that_of_the_untrained_encoder(places):
    flags = ("--training_sizes", 0, "--controls")
    one, two = (places["NER"].run("attention", *flags, "--seed", seed) for seed in (1, 2))
    assert heads(one) == heads(two) and far(untrained(one), untrained(two))
