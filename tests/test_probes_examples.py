"""The NLI probe: equal to scikit-learn's own SVC() and pipelines, whatever the shortcuts."""

import threading

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from common.cli import UserError
from common.device import Device
from common.probes import svm
from common.probes.svm import features, probe, probe_layers

CPU = Device(torch.device("cpu"), "fp32")


def make(n=300, hidden=12, classes=3, spread=1.0, seed=0, offset=0.0):
    """Sentences in several pairs each, and labels that overlap more the larger `spread` is."""
    rng = np.random.default_rng(seed)
    sizes = {"train": n, "dev": n // 2, "test": n // 2 + 1}
    n_premises, n_hypotheses = n // 3, n // 2
    sentences = rng.normal(size=(n_premises + n_hypotheses, hidden))
    kind = rng.integers(classes, size=len(sentences))
    sentences += rng.normal(size=(classes, hidden))[kind] / spread + offset
    pairs, labels = {}, {}
    for split, size in sizes.items():
        u = rng.integers(n_premises, size=size)
        v = n_premises + rng.integers(n_hypotheses, size=size)
        pairs[split] = np.stack([u, v], axis=1)
        labels[split] = (kind[u] + kind[v]) % classes
    return sentences.astype(np.float16), pairs, labels


def expected(model, sentences, pairs, labels):
    model.fit(features(sentences, pairs["train"]), labels)
    return {split: model.predict(features(sentences, some)) for split, some in pairs.items()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for split in wanted:
        np.testing.assert_array_equal(found[split], wanted[split])


MODELS = {
    ("svc", False): lambda: SVC(),
    ("svc", True): lambda: make_pipeline(StandardScaler(), SVC()),
    ("linear", False): lambda: LogisticRegression(max_iter=10_000),
    ("linear", True): lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("kind", "standardize"), MODELS)
def test_predictions_are_those_of_scikit_learn(kind, standardize, classes, seed):
    sentences, pairs, labels = make(classes=classes, seed=seed, spread=1 + 2 * seed)
    control = np.random.default_rng(seed).permutation(labels["train"])
    targets = {"task": labels["train"], "control": control}
    found = probe(sentences, pairs, targets, kind=kind, standardize=standardize, device=CPU)
    for name, y in targets.items():
        wanted = expected(MODELS[kind, standardize](), sentences, pairs, y)
        assert_same(found[name], wanted)
        assert len(np.unique(wanted["test"])) == classes


def test_far_from_zero_and_with_columns_of_another_scale():
    sentences, pairs, labels = make(offset=100.0)
    sentences[:, 0] *= 100  # like GPT-2's outlier dimensions
    found = probe(sentences, pairs, {"task": labels["train"]}, device=CPU)
    assert_same(found["task"], expected(SVC(), sentences, pairs, labels["train"]))


def test_duplicates_with_contradicting_labels():
    sentences, pairs, labels = make(n=120)
    sentences = np.concatenate([sentences, sentences])  # the same vectors in other rows
    shift = len(sentences) // 2
    pairs["train"] = np.concatenate([pairs["train"], pairs["train"], pairs["train"] + shift])
    y = np.concatenate([labels["train"], np.roll(labels["train"], 1), labels["train"]])
    found = probe(sentences, pairs, {"task": y}, device=CPU)
    assert_same(found["task"], expected(SVC(), sentences, pairs, y))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
@pytest.mark.parametrize(("kind", "standardize"), MODELS)
def test_constant_features(kind, standardize, value):
    """No variance: gamma is 1, or vast where the mean is rounded; the majority either way."""
    sentences, pairs, labels = make(n=90)
    sentences[:] = value
    y = np.r_[labels["train"][:60], [2] * 30]
    found = probe(sentences, pairs, {"task": y}, kind=kind, standardize=standardize, device=CPU)
    assert_same(found["task"], expected(MODELS[kind, standardize](), sentences, pairs, y))
    assert set(found["task"]["test"]) == {2}


def test_kernel_is_symmetric_exact_and_blind_to_the_order_of_rows():
    sentences, pairs, _ = make(n=200)
    train = pairs["train"]
    kernel = svm.rbf_kernel(sentences, train, train, 0.01, None, CPU.torch_device)
    x = features(sentences, train)
    plain = np.exp(-0.01 * ((x[:, None] - x[None]) ** 2).sum(-1))
    np.testing.assert_allclose(kernel, plain, rtol=1e-12)
    np.testing.assert_array_equal(kernel, kernel.T)
    assert (np.diag(kernel) == 1).all()
    part = svm.rbf_kernel(sentences, train[50:60], train, 0.01, None, CPU.torch_device)
    np.testing.assert_allclose(part, plain[50:60], rtol=1e-12)


def test_device_kernel_is_the_same():
    """The branch for accelerators, which torch can also run on the CPU."""

    class Accelerator:
        type = "accelerator"

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 8)), rng.normal(size=(60, 8))
    from_numpy = torch.from_numpy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "from_numpy", lambda x: _Stays(from_numpy(x)))
        found = svm._rbf(a, b, 0.1, Accelerator())
    np.testing.assert_allclose(found, svm._rbf(a, b, 0.1, CPU.torch_device), rtol=1e-12)


class _Stays:
    """A tensor whose `.to(device)` leaves it where it is."""

    def __init__(self, tensor):
        self.tensor = tensor

    def to(self, device):
        return self.tensor


@pytest.mark.parametrize("kind", svm.KINDS)
def test_encoded_label_is_found_and_control_is_not(kind):
    rng = np.random.default_rng(1)
    n = 900
    y = rng.integers(3, size=n)
    sentences = rng.normal(size=(2 * n, 24))
    sentences[n + np.arange(n), y] += 8  # the hypothesis carries the label
    pairs = np.stack([np.arange(n), n + np.arange(n)], axis=1)
    pairs = {"train": pairs[:600], "test": pairs[600:]}
    # With three clusters one permutation may agree with the labels by chance: several.
    targets = {f"control {i}": rng.permutation(y[:600]) for i in range(8)} | {"task": y[:600]}
    found = probe(sentences.astype(np.float16), pairs, targets, kind=kind, device=CPU)
    right = {name: (found[name]["test"] == y[600:]).mean() for name in targets}
    assert right.pop("task") > 0.99
    assert abs(np.mean(list(right.values())) - 1 / 3) < 0.08


def test_noise_scores_near_the_majority():
    rng = np.random.default_rng(2)
    sentences, pairs, _ = make(n=400, spread=1e9)
    train, test = (rng.choice(3, p=[0.6, 0.2, 0.2], size=len(pairs[s])) for s in ("train", "test"))
    found = probe(sentences, pairs, {"task": train}, device=CPU)["task"]["test"]
    assert abs((found == test).mean() - (test == 0).mean()) < 0.05


@pytest.mark.parametrize("kind", svm.KINDS)
def test_labels_missing_from_training_and_other_types(kind):
    sentences, pairs, labels = make(n=90)
    pairs["dev"] = pairs["dev"][:0]
    words = np.array(["entailment", "contradiction", "neutral"])[labels["train"]]
    two_way = np.where(labels["train"] == 1, 2, labels["train"])  # 1 never occurs
    targets = {"words": words, "two": two_way.tolist(), "one": np.full(90, 2)}
    found = probe(sentences, pairs, targets, kind=kind, device=CPU)
    for name, labels_ in targets.items():
        assert set(found[name]["test"]) <= set(labels_)
        assert [len(found[name][split]) for split in pairs] == [len(p) for p in pairs.values()]
    assert (found["one"]["test"] == 2).all() and (found["one"]["train"] == 2).all()
    with pytest.raises(ValueError, match="kind 'tree'"):
        probe(sentences, pairs, targets, kind="tree", device=CPU)


@pytest.mark.parametrize("kind", svm.KINDS)
def test_parallel_layers_give_what_one_after_another_gives(kind, tmp_path, monkeypatch):
    layers = {}
    for layer in (0, 3, 6, 9):
        sentences, pairs, labels = make(n=150, seed=5, spread=1 + layer)
        layers[layer] = tmp_path / f"{layer}.npy"
        np.save(layers[layer], sentences)
    targets = {"task": labels["train"]}
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    calls, threads = [], set()

    def on_done(layer, predictions):
        calls.append(layer)
        threads.add(threading.current_thread())

    options = {"kind": kind, "device": CPU}
    several = probe_layers(layers, pairs, targets, on_done=on_done, **options)
    single = probe_layers(layers, pairs, targets, memory_bytes=1, **options)
    assert list(several) == list(single) == list(layers)
    assert sorted(calls) == list(layers) and threads == {threading.main_thread()}
    for layer, path in layers.items():
        alone = probe(np.load(path, mmap_mode="r"), pairs, targets, **options)
        assert_same(several[layer]["task"], single[layer]["task"])
        assert_same(several[layer]["task"], alone["task"])


def test_finished_layers_are_handed_over_before_an_error(monkeypatch):
    sentences, pairs, labels = make(n=60)
    started, real = [], probe

    def failing(sentences, *rest, **options):
        started.append(1)
        if len(started) == 2:
            raise RuntimeError("killed")
        return real(sentences, *rest, **options)

    monkeypatch.setattr(svm, "probe", failing)
    done = []
    with pytest.raises(RuntimeError, match="killed"):
        probe_layers(
            dict.fromkeys(range(9), sentences), pairs, {"task": labels["train"]}, device=CPU,
            memory_bytes=1, on_done=lambda layer, _: done.append(layer),
        )  # fmt: skip
    assert done == [0] and len(started) < 9


def test_memory_limits_the_number_of_layers_at_a_time(monkeypatch):
    sentences, pairs, labels = make(n=60)
    needed = svm.memory_of_layer(pairs, sentences.shape[1])
    running, most, lock = [0], [0], threading.Lock()
    real = probe

    def counted(*args, **options):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        try:
            return real(*args, **options)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(svm, "probe", counted)
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    layers = dict.fromkeys(range(6), sentences)
    arguments = (layers, pairs, {"task": labels["train"]})
    probe_layers(*arguments, device=CPU, memory_bytes=2 * needed)
    assert most[0] <= 2
    monkeypatch.setattr(svm, "available_memory", lambda: needed - 1)
    with pytest.raises(UserError, match="60 training pairs needs"):
        probe_layers(*arguments, device=CPU)


def test_available_memory_is_plausible():
    assert 2**26 < svm.available_memory() < 2**50
