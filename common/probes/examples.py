"""Probes of labelled examples: the SVC or logistic regression, layers side by side.

An example is k vectors, concatenated: the two sentences of a pair, or one vector (k = 1).
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import numpy as np

from common.cli import UserError
from common.device import JOBS, available_memory
from common.probes import linear, svm

log = logging.getLogger(__name__)
# Training examples of an SVC, more of which take long: of 16,384 half a minute and 7 GB a layer.
MANY = 20_000
LIBSVM_CACHE = 200 * 2**20  # bytes, scikit-learn's default
Rows = dict[str, np.ndarray]  # {split: numbers of vectors [n_examples, k]}
Predictions = dict[str, dict[str, np.ndarray]]  # {target: {split: labels [n_examples]}}


def predict_layers(
    kind: str,
    features: dict,
    rows: dict[str, Rows],
    labels: dict[str, np.ndarray],
    *,
    standardize: bool,
    device,
    on_done: Callable[[int, Predictions], object],
    memory_bytes: int | None = None,
) -> None:
    """A probe a layer and target; see `common.probes.predict_layers`. As many layers as fit.

    libsvm uses one core, so layers run in threads: one a core, and together within `memory_bytes`
    (default: half of what is available, shared with the processes beside this one). The results
    do not depend on how many. Raises UserError if the memory does not hold one layer.
    """
    from joblib import cpu_count  # heeds affinity and cgroups
    from threadpoolctl import threadpool_limits

    groups = same_rows(rows)
    size = max((array.shape[1] for array in features.values()), default=0)
    needed = max(memory_of_layer(some, size, kind) for some, _ in groups)
    largest = max(len(some["train"]) for some, _ in groups)
    available = available_memory() // JOBS
    if needed > available:
        several = f" for each of {JOBS} jobs" if JOBS > 1 else ""
        raise UserError(
            f"a probe on {largest} training examples needs {needed / 1e9:.1f} GB of memory, "
            f"{available / 1e9:.1f} GB are free{several}. Use --max_train_examples, --probe linear"
            f"{', or fewer --jobs' if several else ''}."
        )
    if kind == "svc" and largest > MANY:
        log.warning(
            "an SVC takes time and memory with the square of its training examples, here %d: "
            "--max_train_examples %d, or --probe linear, is much faster", largest, MANY,
        )  # fmt: skip
    share = available // 2 if memory_bytes is None else memory_bytes
    workers = max(1, min(len(features), cpu_count(), share // needed))

    def run(vectors) -> Predictions:
        vectors, found = on_host(vectors), {}
        for some, targets in groups:
            given = {target: labels[target] for target in targets}
            found |= predict(kind, vectors, some, given, standardize=standardize, device=device)
        return {target: found[target] for target in rows}

    # One BLAS thread a layer, also for a single worker: more would round differently.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        running = {pool.submit(run, vectors): layer for layer, vectors in features.items()}
        try:
            for future in as_completed(running):
                on_done(running[future], future.result())
        finally:  # after an error or Ctrl-C no further layer starts
            pool.shutdown(cancel_futures=True)


def on_host(vectors) -> np.ndarray:
    """The features of a layer as an array, wherever they are kept."""
    return vectors if isinstance(vectors, np.ndarray) else vectors.cpu().numpy()


def same_rows(rows: dict[str, Rows]) -> list[tuple[Rows, list[str]]]:
    """The targets by their rows: those with the same share one kernel matrix."""
    groups: list[tuple[Rows, list[str]]] = []
    for target, splits in rows.items():
        for some, targets in groups:
            if some.keys() == splits.keys() and all(
                np.array_equal(some[split], splits[split]) for split in some
            ):
                targets.append(target)
                break
        else:
            groups.append((splits, [target]))
    return groups


def predict(
    kind: str, vectors: np.ndarray, rows: Rows, labels: dict[str, np.ndarray], *,
    standardize: bool = False, device,
) -> Predictions:  # fmt: skip
    """Fit one probe per target on `rows["train"]`; predict every split that has rows, train too.

    `vectors`: `[n_vectors, size]`, float16, one row per distinct input (the same one in two rows is
    right, but slower). `labels`: target -> training labels `[n_train]`, ints or strings.

    "svc": the predictions of scikit-learn's `SVC()` (RBF, C = 1, gamma "scale") on the features in
    float64. "linear": those of `LogisticRegression`. `standardize`: mean 0 and variance 1 on the
    training examples, first. Where training knows one class only, that class is the answer.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.preprocessing import StandardScaler

    train = concatenated(vectors, rows["train"])
    scaler = StandardScaler(copy=False).fit(train) if standardize else None
    if scaler:
        train = scaler.transform(train)
    if kind == "svc":
        gamma = svm.scale(train)
        del train  # before the kernel matrix takes its memory

        def inputs(some: np.ndarray) -> np.ndarray:
            where = device.torch_device
            return svm.rbf_kernel(vectors, some, rows["train"], gamma, scaler, where)

        train = inputs(rows["train"])
    else:

        def inputs(some: np.ndarray) -> np.ndarray:
            found = concatenated(vectors, some)
            return scaler.transform(found) if scaler else found

    def fit(y: np.ndarray):
        if len(np.unique(y)) == 1:  # SVC() and LogisticRegression() refuse
            return DummyClassifier(strategy="most_frequent").fit(train, y)
        return (svm if kind == "svc" else linear).classifier().fit(train, y)

    models = {target: fit(np.asarray(y)) for target, y in labels.items()}
    found: Predictions = {target: {} for target in models}
    for split, some in rows.items():
        if len(some):
            x = train if split == "train" else inputs(some)
            for target, model in models.items():
                found[target][split] = model.predict(x)
    return found


def concatenated(vectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`[u_1; ...; u_k]` of every example, `[n_examples, k * size]`, float64."""
    return vectors[rows].reshape(len(rows), rows.shape[1] * vectors.shape[1]).astype(np.float64)


def memory_of_layer(rows: Rows, size: int, kind: str = "svc") -> int:
    """Bytes that `predict` takes at its peak: kernel matrices, or features in float64."""
    n, k = rows["train"].shape
    largest = max((len(some) for split, some in rows.items() if split != "train"), default=0)
    feature_bytes = 8 * k * size * (n + largest)
    if kind == "linear":
        return 2 * feature_bytes
    tables = sum(len(np.unique(part)) ** 2 for part in rows["train"].T)
    return 8 * (n**2 + max(tables, (1 + k) * n * largest)) + feature_bytes + LIBSVM_CACHE
