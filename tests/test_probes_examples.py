"""Probes of examples: equal to scikit-learn's own SVC() and pipelines, whatever the shortcuts."""

import joblib
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from common.cli import UserError
from common.probes import Options, examples, linear, svm
from common.probes.examples import predict, predict_layers
from common.task import Examples

KINDS = (svm, linear)
OPTIONS = Options(3, 0, standardize=False, seed=0, device=None)


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


MODELS = {
    (svm, False): lambda: SVC(),
    (svm, True): lambda: make_pipeline(StandardScaler(), SVC()),
    (linear, False): lambda: LogisticRegression(max_iter=10_000),
    (linear, True): lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=10_000)),
}


def overlapping(seed):
    vectors, rows, labels = make(classes=2 + seed % 2, seed=seed, spread=1 + 2 * seed)
    return (
        vectors,
        rows,
        {"task": labels, "control": np.random.default_rng(seed).permutation(labels)},
    )


def far_from_zero(offset):
    """With an outlier dimension, like GPT-2's, and duplicates that contradict each other."""
    vectors, rows, labels = make(offset=offset)
    vectors[:, 0] *= 100
    rows["train"] = np.concatenate([rows["train"]] * 3)
    return vectors, rows, {"task": np.concatenate([labels, np.roll(labels, 1), labels])}


def constant(value):
    """No variance: gamma is 1; the majority is predicted."""
    vectors, rows, labels = make(n=90)
    return np.full_like(vectors, value), rows, {"task": np.r_[labels[:60], [2] * 30]}


def of_vectors(k):
    """Examples of k vectors, of which each has its say."""
    rng = np.random.default_rng(k)
    vectors = rng.normal(size=(80, 6)).astype(np.float16)
    vectors[40:] *= 3
    rows = {split: rng.integers(80, size=(n, k)) for split, n in (("train", 150), ("test", 70))}
    means = vectors.astype(float)[:, 0]
    return vectors, rows, {"task": (means[rows["train"]] @ [1, -2, 4][:k] > 0).astype(int)}


DATA = [(overlapping, 0), (overlapping, 1), (overlapping, 2), (far_from_zero, 0)]
DATA += [(far_from_zero, 100), (constant, 0.0), (constant, -7.3), (of_vectors, 1), (of_vectors, 3)]


@pytest.mark.parametrize(("data", "value"), DATA)
@pytest.mark.parametrize(("probe", "standardize"), MODELS)
def test_predictions_are_those_of_scikit_learn(probe, standardize, data, value):
    if data is far_from_zero and (probe is linear or standardize):
        pytest.skip("takes long, and the offset is of interest for the kernel alone")
    vectors, rows, targets = data(value)
    found = predict(probe, vectors, Examples(rows, targets), standardize)
    x = {split: vectors[r].reshape(len(r), -1).astype(float) for split, r in rows.items()}
    for name, labels in targets.items():
        model = MODELS[probe, standardize]().fit(x["train"], labels)
        assert found[name].keys() == rows.keys()
        for split in rows:
            np.testing.assert_array_equal(found[name][split], model.predict(x[split]))
        assert data is not overlapping or set(found[name]["test"]) == set(labels)


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
    for cores in (3, 1):
        monkeypatch.setattr("common.probes.examples.cpu_count", lambda cores=cores: cores)
        done = dict(predict_layers(probe, features, [some, some], OPTIONS))
        assert sorted(done) == list(features)
        for layer, kept in features.items():
            for found in done[layer]:
                for split, alone in predict(probe, kept, some)["task"].items():
                    np.testing.assert_array_equal(found["task"][split], alone)


def test_finished_layers_are_handed_over_before_an_error(tmp_path, monkeypatch):
    features, some = saved(tmp_path, layers=range(9))
    started, real = [], predict

    def failing(*given):
        started.append(1)
        if len(started) == 2:
            raise RuntimeError("killed")
        return real(*given)

    monkeypatch.setattr(examples, "predict", failing)
    monkeypatch.setattr("common.probes.examples.cpu_count", lambda: 1)
    done = []
    with pytest.raises(RuntimeError, match="killed"):
        for layer, _ in predict_layers(svm, features, [some], OPTIONS):
            done.append(layer)
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
    monkeypatch.setattr("common.probes.examples.cpu_count", lambda: 8)
    monkeypatch.setattr(examples, "available_memory", lambda: free * needed)
    monkeypatch.setattr(examples, "JOBS", jobs)
    real = joblib.Parallel
    monkeypatch.setattr(
        "common.probes.examples.Parallel", lambda n, **how: asked.append(n) or real(n, **how)
    )
    done = dict(predict_layers(svm, features, [some], OPTIONS))
    assert asked == [workers] and sorted(done) == list(features)


@pytest.mark.parametrize("jobs", (1, 4))
def test_too_little_memory_for_one_layer_is_a_user_error(tmp_path, monkeypatch, jobs):
    features, some = saved(tmp_path)
    needed = svm.memory(60, 60 + 30 + 31, 2 * 12)
    monkeypatch.setattr(examples, "JOBS", jobs)
    monkeypatch.setattr(examples, "available_memory", lambda: jobs * needed - 1)
    with pytest.raises(UserError, match=f"a probe needs .*each of {jobs} jobs. Use"):
        examples.workers(svm, features, [some])


def test_memory_of_a_layer_holds_its_matrices():
    """Of 500 training and 300 other examples: at least what is there at the same time."""
    n, m, size = 500, 300, 20
    assert svm.memory(n, n + m, size) - svm.LIBSVM_CACHE >= 8 * (n * n + n * m + (n + m) * size)
    assert linear.memory(n, n + m, size) >= 2 * 8 * (n + m) * size
