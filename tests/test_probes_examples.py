"""Probes of examples: equal to scikit-learn's own SVC() and pipelines, whatever the shortcuts."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from common import memory
from common.cli import UserError
from common.device import Device
from common.probes import examples, svm
from common.probes.examples import concatenated, predict, predict_layers

CPU = Device(torch.device("cpu"), "fp32")
KINDS = ("svc", "linear")


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
    model.fit(concatenated(sentences, pairs["train"]), labels)
    return {split: model.predict(concatenated(sentences, some)) for split, some in pairs.items()}


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
    found = predict(kind, sentences, pairs, targets, standardize=standardize, device=CPU)
    for name, y in targets.items():
        wanted = expected(MODELS[kind, standardize](), sentences, pairs, y)
        assert_same(found[name], wanted)
        assert len(np.unique(wanted["test"])) == classes


def test_far_from_zero_and_with_columns_of_another_scale():
    sentences, pairs, labels = make(offset=100.0)
    sentences[:, 0] *= 100  # like GPT-2's outlier dimensions
    found = predict("svc", sentences, pairs, {"task": labels["train"]}, device=CPU)
    assert_same(found["task"], expected(SVC(), sentences, pairs, labels["train"]))


def test_duplicates_with_contradicting_labels():
    sentences, pairs, labels = make(n=120)
    sentences = np.concatenate([sentences, sentences])  # the same vectors in other rows
    shift = len(sentences) // 2
    pairs["train"] = np.concatenate([pairs["train"], pairs["train"], pairs["train"] + shift])
    y = np.concatenate([labels["train"], np.roll(labels["train"], 1), labels["train"]])
    found = predict("svc", sentences, pairs, {"task": y}, device=CPU)
    assert_same(found["task"], expected(SVC(), sentences, pairs, y))


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
@pytest.mark.parametrize(("kind", "standardize"), MODELS)
def test_constant_features(kind, standardize, value):
    """No variance: gamma is 1, or vast where the mean is rounded; the majority either way."""
    sentences, pairs, labels = make(n=90)
    sentences[:] = value
    y = np.r_[labels["train"][:60], [2] * 30]
    found = predict(kind, sentences, pairs, {"task": y}, standardize=standardize, device=CPU)
    assert_same(found["task"], expected(MODELS[kind, standardize](), sentences, pairs, y))
    assert set(found["task"]["test"]) == {2}


def test_kernel_is_symmetric_exact_and_blind_to_the_order_of_rows():
    sentences, pairs, _ = make(n=200)
    train = pairs["train"]
    kernel = svm.rbf_kernel(sentences, train, train, 0.01, None, CPU.torch_device)
    x = concatenated(sentences, train)
    plain = np.exp(-0.01 * ((x[:, None] - x[None]) ** 2).sum(-1))
    np.testing.assert_allclose(kernel, plain, rtol=1e-12)
    np.testing.assert_array_equal(kernel, kernel.T)
    assert (np.diag(kernel) == 1).all()
    part = svm.rbf_kernel(sentences, train[50:60], train, 0.01, None, CPU.torch_device)
    np.testing.assert_allclose(part, plain[50:60], rtol=1e-12)


class Accelerator:
    type = "accelerator"


class _Stays:
    """A tensor whose `.to(device)` leaves it where it is."""

    def __init__(self, tensor):
        self.tensor = tensor

    def to(self, device):
        return self.tensor


def test_device_kernel_is_the_same(monkeypatch):
    """The branch for accelerators, which torch can also run on the CPU."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 8)), rng.normal(size=(60, 8))
    from_numpy, held = torch.from_numpy, []

    def watched(x):
        held.append(svm._accelerator.locked())
        return _Stays(from_numpy(x))

    monkeypatch.setattr(torch, "from_numpy", watched)
    found = svm.rbf(a, b, 0.1, Accelerator())
    np.testing.assert_allclose(found, svm.rbf(a, b, 0.1, CPU.torch_device), rtol=1e-12)
    assert held == [True, True] and not svm._accelerator.locked()


@pytest.mark.parametrize("message", ["CUDA out of memory. Tried", "CUBLAS_STATUS_ALLOC_FAILED"])
def test_a_full_accelerator_leaves_the_kernel_to_the_cpu(message, monkeypatch, caplog):
    def full(*given):
        raise RuntimeError(message)

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(40, 8)), rng.normal(size=(60, 8))
    monkeypatch.setattr(svm, "_on_accelerator", full)
    found = svm.rbf(a, b, 0.1, Accelerator())
    np.testing.assert_array_equal(found, svm.rbf(a, b, 0.1, CPU.torch_device))
    assert "too little memory" in caplog.text and not svm._accelerator.locked()
    monkeypatch.setattr(svm, "_on_accelerator", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        svm.rbf(a, b, 0.1, Accelerator())
    message = "an illegal memory access"
    monkeypatch.setattr(svm, "_on_accelerator", full)
    with pytest.raises(RuntimeError, match="illegal"):
        svm.rbf(a, b, 0.1, Accelerator())


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("kind", "standardize"), MODELS)
def test_examples_of_one_and_of_three_vectors(kind, standardize, k):
    """The kernel is a product over all k parts, each with its own vectors and scales."""
    rng = np.random.default_rng(k)
    vectors = rng.normal(size=(80, 6)).astype(np.float16)
    vectors[40:] *= 3
    rows = {split: rng.integers(80, size=(n, k)) for split, n in (("train", 150), ("test", 70))}
    means = vectors.astype(float)[:, 0]
    labels = (means[rows["train"]] @ [1, -2, 4][:k] > 0).astype(int)  # each part has its say
    found = predict(kind, vectors, rows, {"task": labels}, standardize=standardize, device=CPU)
    assert_same(found["task"], expected(MODELS[kind, standardize](), vectors, rows, labels))


@pytest.mark.parametrize("kind", KINDS)
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
    found = predict(kind, sentences.astype(np.float16), pairs, targets, device=CPU)
    right = {name: (found[name]["test"] == y[600:]).mean() for name in targets}
    assert right.pop("task") > 0.99
    assert abs(np.mean(list(right.values())) - 1 / 3) < 0.08


def test_noise_scores_near_the_majority():
    rng = np.random.default_rng(2)
    sentences, pairs, _ = make(n=400, spread=1e9)
    train, test = (rng.choice(3, p=[0.6, 0.2, 0.2], size=len(pairs[s])) for s in ("train", "test"))
    found = predict("svc", sentences, pairs, {"task": train}, device=CPU)["task"]["test"]
    assert abs((found == test).mean() - (test == 0).mean()) < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_labels_missing_from_training_and_other_types(kind):
    sentences, pairs, labels = make(n=90)
    pairs["dev"] = pairs["dev"][:0]
    words = np.array(["entailment", "contradiction", "neutral"])[labels["train"]]
    two_way = np.where(labels["train"] == 1, 2, labels["train"])  # 1 never occurs
    targets = {"words": words, "two": two_way.tolist(), "one": np.full(90, 2)}
    found = predict(kind, sentences, pairs, targets, device=CPU)
    for name, labels_ in targets.items():
        assert set(found[name]["test"]) <= set(labels_)
        sizes = {split: len(predicted) for split, predicted in found[name].items()}
        assert sizes == {split: len(pairs[split]) for split in ("train", "test")}
    assert (found["one"]["test"] == 2).all() and (found["one"]["train"] == 2).all()


def saved(tmp_path, n=60, layers=(0, 3, 6, 9)):
    """Layers' features, each with a signal of its own strength; pairs; training labels."""
    features = {}
    for layer in layers:
        sentences, pairs, labels = make(n=n, seed=5, spread=1 + layer)
        np.save(tmp_path / f"{layer}.npy", sentences)
        features[layer] = np.load(tmp_path / f"{layer}.npy", mmap_mode="r")
    return features, pairs, labels["train"]


def run_layers(kind, features, rows, labels, **options):
    """`predict_layers`' results as a dict."""
    found = {}
    options = {"standardize": False, "device": CPU} | options
    predict_layers(kind, features, rows, labels, on_done=found.__setitem__, **options)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_parallel_layers_give_what_one_after_another_gives(kind, tmp_path, monkeypatch):
    features, pairs, y = saved(tmp_path, n=150)
    monkeypatch.setattr("joblib.cpu_count", lambda: 3)
    calls, threads = [], set()

    def on_done(layer, predictions):
        calls.append((layer, predictions))
        threads.add(threading.current_thread())

    given = {"task": pairs}, {"task": y}
    predict_layers(kind, features, *given, standardize=False, device=CPU, on_done=on_done)
    single = run_layers(kind, features, *given, memory_bytes=1)
    several = dict(calls)
    assert sorted(several) == sorted(single) == list(features)
    assert len(calls) == len(features) and threads == {threading.main_thread()}
    for layer, kept in features.items():
        alone = predict(kind, kept, pairs, {"task": y}, device=CPU)
        assert_same(several[layer]["task"], single[layer]["task"])
        assert_same(several[layer]["task"], alone["task"])


def test_targets_with_the_same_rows_share_one_kernel_and_others_have_their_own(
    tmp_path, monkeypatch
):
    features, pairs, y = saved(tmp_path, layers=(0,))
    swapped = {split: some[:, ::-1] for split, some in pairs.items()}
    copies = {split: some.copy() for split, some in pairs.items()}
    rows = {"task": pairs, "premise last": swapped, "control": copies}
    labels = {"task": y, "premise last": y, "control": np.roll(y, 7)}
    calls, real = [], svm.rbf_kernel
    monkeypatch.setattr(svm, "rbf_kernel", lambda *given: calls.append(1) or real(*given))
    found = run_layers("svc", features, rows, labels)[0]
    assert list(found) == list(rows)
    assert len(calls) == 2 * len(pairs)
    vectors = features[0]
    for target in rows:
        assert_same(found[target], expected(SVC(), vectors, rows[target], labels[target]))
    assert (found["task"]["test"] != found["control"]["test"]).any()


def test_finished_layers_are_handed_over_before_an_error(tmp_path, monkeypatch):
    features, pairs, y = saved(tmp_path, layers=range(9))
    started, real = [], predict

    def failing(*given, **options):
        started.append(1)
        if len(started) == 2:
            raise RuntimeError("killed")
        return real(*given, **options)

    monkeypatch.setattr(examples, "predict", failing)
    done = []
    with pytest.raises(RuntimeError, match="killed"):
        predict_layers("svc", features, {"task": pairs}, {"task": y}, standardize=False, device=CPU,
                       memory_bytes=1, on_done=lambda layer, _: done.append(layer))  # fmt: skip
    assert done == [0] and len(started) < 9


class Workers(ThreadPoolExecutor):
    """The real pool, which notes how many threads it was allowed."""

    asked = []

    def __init__(self, n):
        self.asked.append(n)
        super().__init__(n)


@pytest.mark.parametrize(
    ("free", "jobs", "workers"),
    [(100, 1, 6), (8, 1, 4), (8, 2, 2), (8, 4, 1), (8, 8, 1), (1, 1, 1)],
)
def test_layers_at_a_time_fit_into_half_of_this_process_s_share(
    free, jobs, workers, tmp_path, monkeypatch
):
    features, pairs, y = saved(tmp_path, layers=range(6))
    needed = examples.memory_of_layer(pairs, 12)
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.setattr(memory, "available_memory", lambda: free * needed)
    monkeypatch.setattr(memory, "JOBS", jobs)
    monkeypatch.setattr(Workers, "asked", [])
    monkeypatch.setattr(examples, "ThreadPoolExecutor", Workers)
    found = run_layers("svc", features, {"task": pairs}, {"task": y})
    assert Workers.asked == [workers] and len(found) == 6


@pytest.mark.parametrize("jobs", (1, 4))
def test_too_little_memory_for_one_layer_is_the_user_s_to_mend(tmp_path, monkeypatch, jobs):
    features, pairs, y = saved(tmp_path)
    needed = examples.memory_of_layer(pairs, 12)
    monkeypatch.setattr(memory, "JOBS", jobs)
    monkeypatch.setattr(memory, "available_memory", lambda: jobs * needed - 1)
    more = "each of 4 jobs. .*fewer --jobs" if jobs > 1 else "are free. Use"
    with pytest.raises(UserError, match=f"60 training examples needs .*{more}"):
        run_layers("svc", features, {"task": pairs}, {"task": y})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 2, 3])
def test_memory_of_a_layer_holds_its_matrices(kind, k):
    """Of n train and m other examples of k vectors: at least what is there at the same time."""
    n, m, size = 500, 800, 10
    rows = {"train": np.arange(n * k).reshape(n, k), "dev": np.zeros((m, k), int)}
    bytes_ = examples.memory_of_layer(rows, size, kind)
    assert bytes_ >= 8 * k * size * (n + m)
    if kind == "svc":
        assert bytes_ - examples.LIBSVM_CACHE >= 8 * (n * n + max(k * n * n, (1 + k) * n * m))


@pytest.mark.parametrize(
    ("kind", "many", "told"), [("svc", 59, 1), ("svc", 60, 0), ("linear", 9, 0)]
)
def test_many_examples_of_an_svc_are_told(tmp_path, monkeypatch, caplog, kind, many, told):
    features, pairs, y = saved(tmp_path, n=60, layers=(0,))
    monkeypatch.setattr(examples, "MANY", many)
    run_layers(kind, features, {"task": pairs}, {"task": y})
    assert len(y) == 60 and caplog.text.count(f"--max_train_examples {many}, or --probe") == told
