"""The one interface to all probes: each layer's own features, each target's own labels and rows."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from common import probes
from common.device import Device, choose_device
from common.probes import bilstm_crf, linear, sequences, svm
from common.probes.examples import predict as predict_examples
from common.task import Examples, Sequences

CPU = choose_device("cpu", "fp32")
LAYERS = (0, 2, 5)
SIZES = {"train": 90, "dev": 31, "test": 47}  # splits that cannot be taken for one another


def predict(kind, features, sets, **options):
    """`predict_layers`' predictions by layer, in the order in which the layers were done."""
    options = probes.Options(3, 4, False, 3, CPU)._replace(**options)
    return dict(probes.predict_layers(kind, features, sets, options))


def save(folder, layers):
    """As probing keeps them, a map of a file; and arrays."""
    arrays = [array.astype(np.float16) for array in layers]
    np.save(folder / "0.npy", arrays[0])
    kept = [np.load(folder / "0.npy", mmap_mode="r"), *arrays[1:]]
    return dict(zip(LAYERS, kept, strict=True))


@pytest.fixture
def examples(tmp_path):
    """Layers' features and two sets: pairs of vectors with a control, and single vectors. What is
    read of a layer differs from layer to layer."""
    rng = np.random.default_rng(0)
    layers = rng.normal(size=(len(LAYERS), 120, 6))
    pairs = {s: rng.integers(120, size=(n, 2)) for s, n in SIZES.items()}
    gold = layers[1][pairs["train"][:, 0], :3].argmax(1)
    other = {s: p[: n - 9, :1] for (s, p), n in zip(pairs.items(), SIZES.values(), strict=True)}
    return save(tmp_path, layers), [
        Examples(pairs, {"task": gold, "control": rng.permutation(gold)}),
        Examples(other, {"task": gold[:-9]}),
    ]


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("kind", "probe"), [("svc", svm), ("linear", linear)])
def test_examples_equal_one_probe_after_another(kind, probe, standardize, examples):
    features, sets = examples
    done = predict(kind, features, sets, standardize=standardize)
    assert sorted(done) == sorted(LAYERS)
    for layer, kept in features.items():
        alone = [predict_examples(probe, np.asarray(kept), one, standardize) for one in sets]
        for target in ("task", "control"):
            having = [one[target] for one in alone if target in one]
            assert done[layer][target].keys() == SIZES.keys()
            for split, predictions in done[layer][target].items():
                assert len(predictions) == len(having)
                for found, wanted in zip(predictions, having, strict=True):
                    np.testing.assert_array_equal(found, wanted[split])
    told_apart(done)


def told_apart(done):
    """No two layers, sets or targets have the same predictions: a mix-up would show."""
    flat = [
        np.concatenate(one).tobytes() if isinstance(one, list) else one.tobytes()
        for targets in done.values()
        for splits in targets.values()
        for one in splits["test"]
    ]
    assert len(set(flat)) == len(flat)


@pytest.fixture
def labelled_sequences(tmp_path):
    """Layers' features and two sets: sequences, some without units, with a control; shorter spans.
    Layer 2 has each unit's label in it, layer 0 noise, layer 5 a part."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 6, sum(SIZES.values()))
    ends = np.cumsum(lengths)
    gold = rng.choice(3, ends[-1], p=[0.5, 0.3, 0.2])
    noise = rng.normal(size=(len(LAYERS), ends[-1], 8))
    layers = noise + np.array([0, 6, 2])[:, None, None] * np.eye(8)[gold]
    every = list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))
    bounds = pairwise(np.cumsum([0, *SIZES.values()]).tolist())
    spans = {split: every[a:b] for split, (a, b) in zip(SIZES, bounds, strict=True)}
    assert any(a == b for a, b in spans["train"]) and any(a == b for a, b in spans["test"])
    labels = [gold[a:b] for a, b in spans["train"]]
    shorter = {split: [(a, max(a, b - 1)) for a, b in some] for split, some in spans.items()}
    return save(tmp_path, layers), [
        Sequences(spans, {"task": labels, "control": [2 - tags for tags in labels]}),
        Sequences(shorter, {"task": [tags[:-1] for tags in labels]}),
    ]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("kind", ["bilstm-crf", "linear"])
def test_sequences_equal_one_probe_after_another(
    kind, at_once, device, labelled_sequences, monkeypatch
):
    """Also on an accelerator, where all layers go at once: probes are then told to use the CPU."""
    features, sets = labelled_sequences
    model = {"bilstm-crf": bilstm_crf, "linear": linear}[kind]
    real, groups = sequences.Probes, []

    def noted(probe, vectors, spans, labels, options, name):
        groups.append(len(vectors))
        return real(probe, vectors, spans, labels, options._replace(device=CPU), name)

    monkeypatch.setattr(sequences, "LAYERS_AT_ONCE", at_once)
    monkeypatch.setattr(sequences, "Probes", noted)
    done = predict(kind, features, sets, device=Device(torch.device(device), "fp32"))
    assert list(done) == list(LAYERS) and max(groups) == (min(at_once, 3) if device == "cpu" else 3)
    for layer, kept in features.items():
        for target in ("task", "control"):
            having = [some for some in sets if target in some.labels]
            assert done[layer][target].keys() == {"dev", "test"}
            for number, (spans, labels) in enumerate(having):
                options = probes.Options(3, 4, False, 3, CPU)
                probe = real(model, [kept], spans["train"], labels[target], options)
                for split, predictions in done[layer][target].items():
                    assert len(predictions) == len(having)
                    alone = probe.predict(spans[split])[0]
                    assert [len(tags) for tags in alone] == [b - a for a, b in spans[split]]
                    for tags, wanted in zip(predictions[number], alone, strict=True):
                        np.testing.assert_array_equal(tags, wanted)
    told_apart(done)


def test_seed_and_epochs_reach_the_training(labelled_sequences):
    features, sets = labelled_sequences
    seen = {}
    for name, options in {"a": {}, "b": {"seed": 4}, "c": {"epochs": 40}, "again": {}}.items():
        done = predict("linear", features, sets, **options)[0]["task"]["test"][0]
        seen[name] = np.concatenate(done).tobytes()
    assert seen["a"] == seen["again"] and len(set(seen.values())) == 3


@pytest.mark.parametrize("kind", ["svc", "linear", "bilstm-crf"])
def test_splits_without_rows_and_without_units(kind, examples, labelled_sequences):
    """A split is left out if no set has rows there; else it has a place for each set."""
    features, (whole, other) = examples if kind == "svc" else labelled_sequences
    sets = [some._replace(labels={"task": some.labels["task"]}) for some in (whole, other)]
    for some in sets:
        some[0]["dev"] = some[0]["dev"][:0]
    sets[1][0]["test"] = sets[1][0]["test"][:0]
    done = predict(kind, features, sets)[0]["task"]
    assert "dev" not in done and [len(one) for one in done["test"]] == [SIZES["test"], 0]
    if kind != "svc":
        sets[0].spans["dev"] = [(4, 4), (0, 0)]
        done = predict(kind, features, sets)[0]["task"]
        assert [tags.shape for tags in done["dev"][0]] == [(0,), (0,)] and done["dev"][1] == []


def test_a_new_probe_is_a_module_and_a_row(labelled_sequences, monkeypatch):
    """A probe of the first label only: nothing else needs to know of it."""
    features, sets = labelled_sequences
    toy = type(linear)("common.probes.toy")
    vars(toy).update({name: getattr(linear, name) for name in ("HALF", "shapes", "emissions")})
    toy.loss, toy.best = linear.loss, lambda weights, scores, mask: scores.argmin(-1) * 0
    monkeypatch.setitem(__import__("sys").modules, "common.probes.toy", toy)
    monkeypatch.setitem(probes.KINDS, "toy", ("toy", {"answer": 0}))
    done = predict("toy", features, sets)
    assert not np.concatenate(done[5]["task"]["test"][0]).any()


def test_constants_tell_the_methods_apart_and_are_those_in_use():
    known = {name: constants for name, (_, constants) in probes.KINDS.items()}
    descent = {"batch_size": 64, "learning_rate": 1e-3}
    assert known == {
        "svc": {"C": 1.0, "gamma": "scale"},
        "linear": descent | {"C": 1.0, "max_iter": 10_000},
        "bilstm-crf": descent | {"hidden_size": 128},
        "pointer": probes.POINTER,
    }
    assert svm.classifier().C == 1.0 and linear.classifier().C == 1.0
    assert linear.classifier().max_iter == 10_000
    assert bilstm_crf.shapes(7, 3)["recurrent"][1:] == (2, 128, 512)
