"""Trains the probes of labelled examples, several layers side by side.

An example is k vectors, concatenated: the two sentences of a pair, or one vector (k = 1). A probe's
module (svm.py, linear.py) has `classifier`, `inputs` and `memory`.
"""

from collections.abc import Iterator

import numpy as np
from joblib import Parallel, cpu_count, delayed  # its count respects affinity and cgroups
from sklearn.dummy import DummyClassifier
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from common.cli import UserError
from common.device import JOBS, available_memory
from common.probes import Options
from common.task import Examples


def predict_layers(
    probe, features: dict, sets: list[Examples], options: Options
) -> Iterator[tuple[int, list[dict]]]:
    """Yield (layer, [what `predict` returns for each set]) for each layer that is done.

    libsvm uses one core, so layers run in threads; the results do not depend on their number.
    """

    def of_layer(layer: int, vectors) -> tuple[int, list[dict]]:
        return layer, [predict(probe, vectors, one, options.standardize) for one in sets]

    n = workers(probe, features, sets)
    in_threads = Parallel(n, prefer="threads", batch_size=1, return_as="generator_unordered")
    # One BLAS thread per layer, also for a single worker: more would round differently.
    with threadpool_limits(1, user_api="blas"):
        yield from in_threads(delayed(of_layer)(*item) for item in features.items())


def workers(probe, features: dict, sets: list[Examples]) -> int:
    """How many layers run at a time, in half of the memory. UserError if it does not hold one."""
    width = max((vectors.shape[1] for vectors in features.values()), default=0)
    needed = max(
        probe.memory(
            len(rows["train"]), sum(map(len, rows.values())), rows["train"][0].size * width
        )
        for rows, _ in sets
    )
    free = available_memory() // JOBS
    if needed > free:
        raise UserError(
            f"a probe needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free for each "
            f"of {JOBS} jobs. Use --max_train_examples, --probe linear, or fewer --jobs."
        )
    return max(1, min(len(features), cpu_count(), free // 2 // needed))


def predict(probe, vectors: np.ndarray, examples: Examples, standardize: bool = False) -> dict:
    """Fit one probe per target on the train split: `{target: {split: predicted labels [n]}}`.

    `vectors`: `[n_vectors, size]`, float16. The predictions are those of scikit-learn's `SVC()` or
    `LogisticRegression` on the concatenated vectors in float64; `standardize` scales them first.
    All targets share the inputs, such as a kernel matrix. Of labels `[n, k]` each column has a
    probe of its own. If training has only one class, that class is the answer.
    """
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
    single = len(np.unique(labels)) == 1
    return (DummyClassifier() if single else probe.classifier()).fit(train, labels)
