"""Trains the probes of labelled examples, several layers side by side.

An example is k vectors, concatenated: the two sentences of a pair, or one vector (k = 1). A probe's
module (svm.py, linear.py) has `classifier`, `inputs`, `memory` and `MANY`.
"""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from common.cli import UserError
from common.device import JOBS, available_memory
from common.probes import Options
from common.task import Examples

log = logging.getLogger(__name__)


def predict_layers(
    probe, features: dict, sets: list[Examples], options: Options
) -> Iterator[tuple[int, list[dict]]]:
    """Yield (layer, [what `predict` returns for each set]) for each layer that is done.

    libsvm uses one core, so layers run in threads; the results do not depend on their number.
    """
    from threadpoolctl import threadpool_limits

    def predict_sets(vectors) -> list[dict]:
        return [predict(probe, vectors, one, options.standardize) for one in sets]

    n = workers(probe, features, sets)
    # One BLAS thread per layer, also for a single worker: more would round differently.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n) as pool:
        layers = {pool.submit(predict_sets, vectors): n for n, vectors in features.items()}
        try:
            for future in as_completed(layers):
                yield layers[future], future.result()
        finally:  # after an error or Ctrl-C no further layer starts
            pool.shutdown(cancel_futures=True)


def workers(probe, features: dict, sets: list[Examples]) -> int:
    """How many layers run at a time: one per core, together in half of this process's memory.

    Raises UserError if the memory does not hold one layer; warns of many examples.
    """
    from joblib import cpu_count  # respects affinity and cgroups

    width = max((vectors.shape[1] for vectors in features.values()), default=0)
    needed = most = 0
    for rows, _ in sets:
        n, k = rows["train"].shape
        most, n_all = max(most, n), sum(map(len, rows.values()))
        needed = max(needed, probe.memory(n, n_all, k * width))
    free = available_memory() // JOBS
    if needed > free:
        raise UserError(
            f"a probe on {most} training examples needs {needed / 1e9:.1f} GB of memory, "
            f"{free / 1e9:.1f} GB are free for each of {JOBS} jobs. Use --max_train_examples, "
            "--probe linear, or fewer --jobs."
        )
    if most > probe.MANY:
        log.warning(
            f"an SVC takes time and memory with the square of its training examples, here {most}: "
            f"--max_train_examples {probe.MANY}, or --probe linear, is much faster"
        )
    return max(1, min(len(features), cpu_count(), free // 2 // needed))


def predict(probe, vectors: np.ndarray, examples: Examples, standardize: bool = False) -> dict:
    """Fit one probe per target on the train split: `{target: {split: predicted labels [n]}}`.

    `vectors`: `[n_vectors, size]`, float16. The predictions are those of scikit-learn's `SVC()` or
    `LogisticRegression` on the concatenated vectors in float64; `standardize` scales them first.
    All targets share the inputs, such as a kernel matrix. Of labels `[n, k]` each column has a
    probe of its own. If training has only one class, that class is the answer.
    """
    from sklearn.preprocessing import StandardScaler

    x = {
        split: vectors[rows].reshape(len(rows), -1).astype(np.float64)
        for split, rows in examples.rows.items()
        if len(rows)
    }
    if standardize:
        scaler = StandardScaler(copy=False).fit(x["train"])
        x = {split: scaler.transform(features) for split, features in x.items()}
    inputs = probe.inputs(x["train"])
    train, models = inputs(x["train"]), {}
    for target, labels in examples.labels.items():
        models[target] = [fitted(probe, train, column) for column in np.atleast_2d(labels.T)]
    predictions: dict = {target: {} for target in models}
    for split, features in x.items():
        matrix = train if split == "train" else inputs(features)
        for target, columns in models.items():
            found = np.stack([model.predict(matrix) for model in columns], -1)
            predictions[target][split] = found.reshape(-1, *examples.labels[target].shape[1:])
    return predictions


def fitted(probe, train, labels: np.ndarray):
    """A probe of labels `[n]`; if all are the same, what says so: SVC() and the like refuse."""
    from sklearn.dummy import DummyClassifier

    single = len(np.unique(labels)) == 1
    return (DummyClassifier() if single else probe.classifier()).fit(train, labels)
