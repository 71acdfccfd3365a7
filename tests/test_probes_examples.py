"""Probes of examples: equal to scikit-learn's own SVC() and pipelines, whatever the shortcuts."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from common.cli import UserError
from common.probes import examples, linear, svm
from common.probes.examples import predict, predict_layers
from common.task import Examples

KINDS = (svm, linear)


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
    return sentences.astype(np.float16), pairs, labels["train"]


def equals(found, model, vectors, rows, labels):
    """The predictions are those of `model` on the concatenated vectors; returns those on test."""
    x = {s: np.array([np.concatenate(vectors[r]) for r in some], float) for s, some in rows.items()}
    model.fit(x["train"], labels)
    assert found.keys() == rows.keys()
    for split in rows:
        np.testing.assert_array_equal(found[split], model.predict(x[split]))
    return found["test"]


MODELS = {
    (svm, False): lambda: SVC(),
    (svm, True): lambda: make_pipeline(StandardScaler(), SVC()),
    (linear, False): lambda: LogisticRegression(max_iter=10_000),
    (linear, True): lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000)),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize(("probe", "standardize"), MODELS)
def test_predictions_are_those_of_scikit_learn(probe, standardize, classes, seed):
    sentences, pairs, labels = make(classes=classes, seed=seed, spread=1 + 2 * seed)
    control = np.random.default_rng(seed).permutation(labels)
    targets = {"task": labels, "control": control}
    found = predict(probe, sentences, Examples(pairs, targets), standardize)
    for name, y in targets.items():
        test = equals(found[name], MODELS[probe, standardize](), sentences, pairs, y)
        assert len(np.unique(test)) == classes


@pytest.mark.parametrize("offset", [0, 100])
def test_svc_far_from_zero_with_an_outlier_and_contradicting_duplicates(offset):
    sentences, pairs, labels = make(offset=offset)
    sentences[:, 0] *= 100  # like GPT-2's outlier dimensions
    pairs["train"] = np.concatenate([pairs["train"]] * 3)
    y = np.concatenate([labels, np.roll(labels, 1), labels])
    found = predict(svm, sentences, Examples(pairs, {"task": y}))
    equals(found["task"], SVC(), sentences, pairs, y)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
@pytest.mark.parametrize(("probe", "standardize"), MODELS)
def test_constant_features(probe, standardize, value):
    """No variance: gamma is 1; the majority is predicted."""
    sentences, pairs, labels = make(n=90)
    sentences[:] = value
    y = np.r_[labels[:60], [2] * 30]
    found = predict(probe, sentences, Examples(pairs, {"task": y}), standardize)
    test = equals(found["task"], MODELS[probe, standardize](), sentences, pairs, y)
    assert set(test) == {2}


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("probe", "standardize"), MODELS)
def test_examples_of_one_and_of_three_vectors(probe, standardize, k):
    rng = np.random.default_rng(k)
    vectors = rng.normal(size=(80, 6)).astype(np.float16)
    vectors[40:] *= 3
    rows = {split: rng.integers(80, size=(n, k)) for split, n in (("train", 150), ("test", 70))}
    means = vectors.astype(float)[:, 0]
    labels = (means[rows["train"]] @ [1, -2, 4][:k] > 0).astype(int)  # each part has its say
    found = predict(probe, vectors, Examples(rows, {"task": labels}), standardize)
    equals(found["task"], MODELS[probe, standardize](), vectors, rows, labels)


@pytest.mark.parametrize("probe", KINDS)
def test_encoded_label_is_found_and_control_is_not(probe):
    rng = np.random.default_rng(1)
    n = 900
    y = rng.integers(3, size=n)
    sentences = rng.normal(size=(2 * n, 24))
    sentences[n + np.arange(n), y] += 8  # the hypothesis carries the label
    pairs = np.stack([np.arange(n), n + np.arange(n)], axis=1)
    pairs = {"train": pairs[:600], "test": pairs[600:]}
    # With three clusters one permutation may agree with the labels by chance: several.
    targets = {f"control {i}": rng.permutation(y[:600]) for i in range(8)} | {"task": y[:600]}
    found = predict(probe, sentences.astype(np.float16), Examples(pairs, targets))
    right = {name: (found[name]["test"] == y[600:]).mean() for name in targets}
    assert right.pop("task") > 0.99
    assert abs(np.mean(list(right.values())) - 1 / 3) < 0.08


def test_noise_scores_near_the_majority():
    rng = np.random.default_rng(2)
    sentences, pairs, _ = make(n=400, spread=1e9)
    train, test = (rng.choice(3, p=[0.6, 0.2, 0.2], size=len(pairs[s])) for s in ("train", "test"))
    found = predict(svm, sentences, Examples(pairs, {"task": train}))["task"]["test"]
    assert abs((found == test).mean() - (test == 0).mean()) < 0.05


@pytest.mark.parametrize("probe", KINDS)
def test_labels_missing_from_training(probe):
    sentences, pairs, labels = make(n=90)
    targets = {"two": np.where(labels == 1, 2, labels), "one": np.full(90, 2)}
    found = predict(probe, sentences, Examples(pairs, targets))
    for name, y in targets.items():
        assert set(found[name]["test"]) <= set(y)
        assert {s: len(one) for s, one in found[name].items()} == {
            s: len(p) for s, p in pairs.items()
        }
    assert (found["one"]["test"] == 2).all() and (found["one"]["train"] == 2).all()


def test_all_targets_of_a_set_share_one_kernel(monkeypatch):
    sentences, pairs, y = make(n=60)
    calls, real = [], svm.inputs

    def inputs(train):
        kernel = real(train)
        return lambda x: calls.append(len(x)) or kernel(x)

    monkeypatch.setattr(svm, "inputs", inputs)
    found = predict(svm, sentences, Examples(pairs, {i: np.roll(y, i) for i in range(5)}))
    assert len(found) == 5 and calls == [60, 30, 31]


def saved(tmp_path, n=60, layers=(0, 3, 6, 9)):
    """Layers' features, each with a signal of its own strength; the set of examples."""
    features = {}
    for layer in layers:
        sentences, pairs, labels = make(n=n, seed=5, spread=1 + layer)
        np.save(tmp_path / f"{layer}.npy", sentences)
        features[layer] = np.load(tmp_path / f"{layer}.npy", mmap_mode="r")
    return features, Examples(pairs, {"task": labels})


@pytest.mark.parametrize("probe", KINDS)
def test_parallel_layers_give_what_one_after_another_gives(probe, tmp_path, monkeypatch):
    features, some = saved(tmp_path, n=150)
    done, threads = {}, []

    def on_done(layer, found):
        done[layer] = found
        threads.append(threading.current_thread())

    for cores in (3, 1):
        monkeypatch.setattr("joblib.cpu_count", lambda cores=cores: cores)
        predict_layers(probe, features, [some, some], standardize=False, on_done=on_done)
        assert sorted(done) == list(features) and set(threads) == {threading.main_thread()}
        for layer, kept in features.items():
            for found in done.pop(layer):
                for split, alone in predict(probe, kept, some)["task"].items():
                    np.testing.assert_array_equal(found["task"][split], alone)
    assert len(threads) == 2 * len(features)


def test_finished_layers_are_handed_over_before_an_error(tmp_path, monkeypatch):
    features, some = saved(tmp_path, layers=range(9))
    started, real = [], predict

    def failing(*given):
        started.append(1)
        if len(started) == 2:
            raise RuntimeError("killed")
        return real(*given)

    monkeypatch.setattr(examples, "predict", failing)
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    done = []
    with pytest.raises(RuntimeError, match="killed"):
        predict_layers(svm, features, [some], standardize=False,
                       on_done=lambda layer, _: done.append(layer))  # fmt: skip
    assert done == [0] and len(started) < 9


@pytest.mark.parametrize(
    ("free", "jobs", "workers"),
    [(100, 1, 6), (8, 1, 4), (8, 2, 2), (8, 4, 1), (8, 8, 1), (1, 1, 1)],
)
def test_layers_at_a_time_fit_into_half_of_this_process_s_share(
    free, jobs, workers, tmp_path, monkeypatch
):
    features, some = saved(tmp_path, layers=range(6))
    needed = svm.memory(60, 60 + 30 + 31, 2 * 12)
    asked = []
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.setattr(examples, "available_memory", lambda: free * needed)
    monkeypatch.setattr(examples, "JOBS", jobs)
    monkeypatch.setattr(
        examples, "ThreadPoolExecutor", lambda n: asked.append(n) or ThreadPoolExecutor(n)
    )
    done = []
    predict_layers(svm, features, [some], standardize=False, on_done=lambda n, _: done.append(n))
    assert asked == [workers] and sorted(done) == list(features)


@pytest.mark.parametrize("jobs", (1, 4))
def test_too_little_memory_for_one_layer_is_a_user_error(tmp_path, monkeypatch, jobs):
    features, some = saved(tmp_path)
    needed = svm.memory(60, 60 + 30 + 31, 2 * 12)
    monkeypatch.setattr(examples, "JOBS", jobs)
    monkeypatch.setattr(examples, "available_memory", lambda: jobs * needed - 1)
    more = "each of 4 jobs. .*fewer --jobs" if jobs > 1 else "are free. Use"
    with pytest.raises(UserError, match=f"60 training examples needs .*{more}"):
        examples.workers(svm, features, [some])


def test_memory_of_a_layer_holds_its_matrices():
    """Of 500 training and 300 other examples: at least what is there at the same time."""
    n, m, size = 500, 300, 20
    assert svm.memory(n, n + m, size) - svm.LIBSVM_CACHE >= 8 * (n * n + n * m + (n + m) * size)
    assert linear.memory(n, n + m, size) >= 2 * 8 * (n + m) * size


@pytest.mark.parametrize(("probe", "many", "told"), [(svm, 59, 1), (svm, 60, 0), (linear, 9, 0)])
def test_many_examples_of_an_svc_are_told(tmp_path, monkeypatch, caplog, probe, many, told):
    features, some = saved(tmp_path, n=60, layers=(0,))
    monkeypatch.setattr(svm, "MANY", many)
    examples.workers(probe, features, [some])
    assert caplog.text.count(f"--max_train_examples {many}, or --probe") == told
