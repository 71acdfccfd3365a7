"""The one interface to all probes: each layer's own features, each target's own labels and rows."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from common import probes
from common.device import Device, choose_device
from common.probes import sequences
from common.task import ProbeInputs

CPU = choose_device("cpu", "fp32")
LAYERS = (0, 2, 5)
SIZES = {"train": 90, "dev": 31, "test": 47}  # splits that cannot be taken for one another


def run(kind, features, inputs, **options):
    """`predict_layers`' results, and the layers in the order they were done."""
    found = {}
    options = {"epochs": 4, "standardize": False, "seed": 3, "device": CPU} | options
    probes.predict_layers(kind, features, inputs, on_done=found.__setitem__, **options)
    return found


def save(folder, layers):
    """As probing keeps them: a map of a file, an array, a tensor."""
    arrays = [array.astype(np.float16) for array in layers]
    np.save(folder / "0.npy", arrays[0])
    kept = [np.load(folder / "0.npy", mmap_mode="r"), torch.from_numpy(arrays[1]), *arrays[2:]]
    return dict(zip(LAYERS, kept, strict=True))


@pytest.fixture
def examples(tmp_path):
    """Layers' features and inputs: pairs of vectors; a control with other labels, a target with
    other rows. What is read of a layer differs from layer to layer."""
    rng = np.random.default_rng(0)
    vectors = 120
    layers = rng.normal(size=(len(LAYERS), vectors, 6))
    pairs = {s: rng.integers(vectors, size=(n, 2)) for s, n in SIZES.items()}
    gold = layers[1][pairs["train"][:, 0], :3].argmax(1)
    rows = {"task": pairs, "control": pairs, "other": {s: p[:, :1] for s, p in pairs.items()}}
    labels = {"task": gold, "control": rng.permutation(gold), "other": gold}
    return save(tmp_path, layers), ProbeInputs([], rows, labels, 3, {})


CLASSIFIERS = {
    ("svc", False): lambda: SVC(),
    ("svc", True): lambda: make_pipeline(StandardScaler(), SVC()),
    ("linear", False): lambda: LogisticRegression(max_iter=10_000),
    ("linear", True): lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000)),
}


@pytest.mark.parametrize(("kind", "standardize"), CLASSIFIERS)
def test_examples_equal_a_plain_loop_of_scikit_learn(kind, standardize, examples):
    features, inputs = examples
    found = run(kind, features, inputs, standardize=standardize)
    assert sorted(found) == sorted(LAYERS)
    for layer, kept in features.items():
        vectors = np.asarray(kept).astype(float)
        assert found[layer].keys() == inputs.rows.keys()
        for target, splits in inputs.rows.items():
            x = {s: np.concatenate(vectors[r].swapaxes(0, 1), axis=1) for s, r in splits.items()}
            model = CLASSIFIERS[kind, standardize]().fit(x["train"], inputs.labels[target])
            assert found[layer][target].keys() == SIZES.keys()
            for split in SIZES:
                wanted = model.predict(x[split])
                np.testing.assert_array_equal(found[layer][target][split], wanted)
    told_apart(found)


def told_apart(found):
    """No two layers, and no two targets, have the same predictions: a mix-up would show."""
    flat = [
        np.concatenate([np.asarray(some).ravel() for some in splits["test"]])
        if isinstance(splits["test"], list)
        else splits["test"]
        for targets in found.values()
        for splits in targets.values()
    ]
    assert len(set(map(bytes, flat))) == len(flat)


@pytest.fixture
def labelled_sequences(tmp_path):
    """Layers' features and inputs: sequences, some without units; a control with other labels, a
    target with other rows. Layer 2 has each unit's label in it, layer 0 noise, layer 5 a part."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 6, sum(SIZES.values()))
    ends = np.cumsum(lengths)
    gold = rng.choice(3, ends[-1], p=[0.5, 0.3, 0.2])
    noise = rng.normal(size=(len(LAYERS), ends[-1], 8))
    layers = noise + np.array([0, 6, 2])[:, None, None] * np.eye(8)[gold]
    every = list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))
    bounds = pairwise(np.cumsum([0, *SIZES.values()]).tolist())
    rows = {split: every[a:b] for split, (a, b) in zip(SIZES, bounds, strict=True)}
    assert any(a == b for a, b in rows["train"]) and any(a == b for a, b in rows["test"])
    labels = [gold[a:b] for a, b in rows["train"]]
    control = [2 - tags for tags in labels]
    shorter = {split: [(a, max(a, b - 1)) for a, b in some] for split, some in rows.items()}
    return save(tmp_path, layers), ProbeInputs(
        [],
        {"task": rows, "control": rows, "other": shorter},
        {"task": labels, "control": control, "other": [tags[:-1] for tags in labels]},
        3, {},
    ), gold  # fmt: skip


@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("kind", ["bilstm-crf", "linear"])
def test_sequences_equal_one_probe_after_another(kind, at_once, labelled_sequences, monkeypatch):
    features, inputs, _ = labelled_sequences
    monkeypatch.setattr(sequences, "LAYERS_AT_ONCE", at_once)
    found = run(kind, features, inputs)
    assert list(found) == list(LAYERS)
    for layer, kept in features.items():
        vectors = np.asarray(kept)
        assert found[layer].keys() == inputs.rows.keys()
        for target, splits in inputs.rows.items():
            given = zip(splits["train"], inputs.labels[target], strict=True)
            filled = [(some, tags) for some, tags in given if len(tags)]
            probe = sequences.fit([vectors], *zip(*filled, strict=True), 3, kind=kind, epochs=4,
                                  seeds=[3], batch_seed=3, device=CPU)  # fmt: skip
            assert found[layer][target].keys() == {"dev", "test"}
            for split, predicted in found[layer][target].items():
                assert len(predicted) == SIZES[split]
                for (start, end), tags in zip(splits[split], predicted, strict=True):
                    assert tags.shape == (end - start,) and tags.dtype.kind == "i"
                    if start < end:
                        alone = probe.predict([vectors], [(start, end)])[0][0]
                        np.testing.assert_array_equal(tags, alone)
    told_apart(found)


def test_each_layer_and_target_is_what_it_is_trained_on(labelled_sequences):
    """Without a second implementation: what can be read where, and that the control is turned."""
    features, inputs, gold = labelled_sequences
    found = run("bilstm-crf", features, inputs, epochs=60)

    def right(layer, target, gold):
        some = zip(inputs.rows[target]["test"], found[layer][target]["test"], strict=True)
        return np.mean(np.concatenate([gold[a:b] == tags for (a, b), tags in some]))

    assert right(2, "task", gold) > 0.97 and right(2, "control", 2 - gold) > 0.97
    assert right(0, "task", gold) < 0.6 and right(2, "control", gold) < 0.5
    assert right(0, "task", gold) + 0.1 < right(5, "task", gold)


def test_on_an_accelerator_all_layers_go_at_once(labelled_sequences, monkeypatch):
    features, inputs, _ = labelled_sequences
    real, groups = sequences.fit, []

    def noted(features, *given, device, **options):
        groups.append(len(features))
        assert options["seeds"] == [3] * len(features) and options["batch_seed"] == 3
        return real(features, *given, device=CPU, **options)

    monkeypatch.setattr(sequences, "fit", noted)
    monkeypatch.setattr(sequences, "LAYERS_AT_ONCE", 1)
    run("linear", features, inputs)
    assert Counter(groups) == {1: len(LAYERS) * len(inputs.rows)}
    groups.clear()
    run("linear", features, inputs, device=Device(torch.device("meta"), "fp32"))
    assert Counter(groups) == {len(LAYERS): len(inputs.rows)}


def test_seed_and_epochs_reach_the_training(labelled_sequences):
    features, inputs, _ = labelled_sequences
    seen = {}
    for name, options in {"a": {}, "b": {"seed": 4}, "c": {"epochs": 40}, "again": {}}.items():
        found = run("linear", features, inputs, **options)[0]["task"]["test"]
        seen[name] = np.concatenate(found).tobytes()
    assert seen["a"] == seen["again"] and len(set(seen.values())) == 3


@pytest.mark.parametrize("kind", ["svc", "linear", "bilstm-crf"])
def test_a_split_without_rows_and_one_without_units(kind, examples, labelled_sequences):
    features, inputs = examples if kind == "svc" else labelled_sequences[:2]
    rows = dict(inputs.rows["task"])
    rows["dev"] = rows["dev"][:0]
    inputs = inputs._replace(rows={"task": rows}, labels={"task": inputs.labels["task"]})
    found = run(kind, features, inputs)[0]["task"]
    assert "dev" not in found and len(found["test"]) == SIZES["test"]
    if kind != "svc":
        rows["dev"] = [(4, 4), (0, 0)]
        found = run(kind, features, inputs)[0]["task"]
        assert [tags.shape for tags in found["dev"]] == [(0,), (0,)]


def test_labels_that_are_not_one_a_sequence_are_refused(labelled_sequences):
    features, inputs, _ = labelled_sequences
    labels = inputs.labels | {"control": inputs.labels["control"][1:]}
    with pytest.raises(ValueError):
        run("linear", features, inputs._replace(labels=labels))


def test_a_probe_for_other_data_is_refused(examples, labelled_sequences):
    for kind, (features, inputs, *_) in {
        "bilstm-crf": examples, "svc": labelled_sequences, "tree": examples,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"kind '{kind}': of labelled"):
            run(kind, features, inputs)


def test_constants_tell_the_methods_apart_and_are_those_in_use():
    from common.probes import bilstm_crf, linear, svm

    assert set(probes.KINDS) == {"svc", "linear", "bilstm-crf"}
    known = {kind: probes.constants(kind) for kind in probes.KINDS}
    assert known["svc"] == {"C": 1.0, "gamma": "scale"}
    descent = {"batch_size": 64, "learning_rate": 1e-3}
    assert known["bilstm-crf"] == descent | {"hidden_size": 128}
    assert known["linear"] == descent | {"C": 1.0, "max_iter": 10_000}
    assert svm.classifier().C == 1.0 and linear.classifier().C == 1.0
    assert linear.classifier().max_iter == 10_000
    assert bilstm_crf.shapes(7, 3)["recurrent"][1:] == (2, 128, 512)
