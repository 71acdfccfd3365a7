"""The NLI probe of one encoder layer: `SVC()` or logistic regression on `[u; v]`, made fast.

u and v are the vectors of premise and hypothesis. `SVC()` spends its time on the kernel, pair by
pair. Here BLAS computes it, and once per sentence rather than per pair: the RBF kernel of
concatenated vectors is a product,

    exp(-gamma ||[u; v] - [u'; v']||^2) = exp(-gamma ||u - u'||^2) exp(-gamma ||v - v'||^2),

and sentences stand in several pairs (a MedNLI premise in three). libsvm then solves the same
problem: it rounds kernel values to float32, which hides what differs in the last bits of float64.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from common.cli import UserError

KINDS = ("svc", "linear")
CHUNK = 64  # kernel rows filled at a time: what a core's cache holds
LIBSVM_CACHE = 200 * 2**20  # bytes, scikit-learn's default
Predictions = dict[str, dict[str, np.ndarray]]  # {target: {split: labels [n_pairs]}}


def probe(
    sentences: np.ndarray,
    pairs: dict[str, np.ndarray],
    targets: dict[str, np.ndarray],
    *,
    kind: str = "svc",
    standardize: bool = False,
    device,
) -> Predictions:
    """Fit one probe per target on `pairs["train"]`; predict every split in `pairs`, train too.

    `sentences`: `[n_sentences, hidden]`, float16, one row per distinct text (the same text in two
    rows is right, but slower). `pairs`: split -> row numbers of premise and hypothesis,
    `[n_pairs, 2]`. `targets`: name (the task, a control) -> training labels `[n_train]`, ints or
    strings; all share one kernel matrix. Returns target -> split -> labels.

    `kind` "svc": the predictions of scikit-learn's `SVC()` (RBF, C = 1, gamma "scale") on the
    features in float64. "linear": those of `LogisticRegression`. `standardize`: mean 0 and
    variance 1 on the training pairs, first. Where training knows one class only, that class is
    the answer.
    """
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is not one of {KINDS}")
    train = features(sentences, pairs["train"])
    scaler = StandardScaler(copy=False).fit(train) if standardize else None
    if scaler:
        train = scaler.transform(train)
    if kind == "svc":
        variance, width = train.var(), train.shape[1]
        gamma = 1 / (width * variance) if variance else 1.0  # as SVC(gamma="scale") has it
        del train  # before the kernel matrix takes its memory

        def inputs(some: np.ndarray) -> np.ndarray:
            return rbf_kernel(sentences, some, pairs["train"], gamma, scaler, device.torch_device)

        train = inputs(pairs["train"])
    else:

        def inputs(some: np.ndarray) -> np.ndarray:
            found = features(sentences, some)
            return scaler.transform(found) if scaler else found

    def fit(labels: np.ndarray):
        if len(np.unique(labels)) == 1:  # SVC() and LogisticRegression() refuse
            return DummyClassifier(strategy="most_frequent").fit(train, labels)
        linear = kind == "linear"
        model = LogisticRegression(max_iter=10_000) if linear else SVC(kernel="precomputed")
        return model.fit(train, labels)

    models = {name: fit(np.asarray(labels)) for name, labels in targets.items()}
    found: Predictions = {name: {} for name in models}
    for split, some in pairs.items():
        x = train if split == "train" else inputs(some) if len(some) else None
        for name, model in models.items():
            found[name][split] = model.predict(x) if len(some) else model.classes_[:0]
    return found


def features(sentences: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """`[u; v]` of every pair, `[n_pairs, 2 * hidden]`, float64."""
    return sentences[pairs].reshape(len(pairs), 2 * sentences.shape[1]).astype(np.float64)


def rbf_kernel(
    sentences: np.ndarray, rows: np.ndarray, columns: np.ndarray, gamma: float, scaler, device
) -> np.ndarray:
    """The RBF kernel between `[u; v]` of two lists of pairs: `[n_rows, n_columns]`, float64.

    `rows`, `columns`: `[n, 2]` numbers of sentences. `scaler`: a fitted StandardScaler, or None.
    """

    def vectors(numbers: np.ndarray, side: int) -> np.ndarray:
        x = sentences[numbers].astype(np.float64)
        if scaler:
            x = (x - np.split(scaler.mean_, 2)[side]) / np.split(scaler.scale_, 2)[side]
        return x

    parts = []
    for side in (0, 1):  # premises, hypotheses
        some, row = np.unique(rows[:, side], return_inverse=True)
        known, column = np.unique(columns[:, side], return_inverse=True)
        # Distances do not depend on the origin, but their rounding does: with one of the vectors
        # as origin it is small beside the spread, however far the vectors are from zero.
        origin = vectors(known[:1], side)
        b = vectors(known, side) - origin
        # The same array twice, where it is: numpy then computes half of the matrix product.
        a = b if np.array_equal(some, known) else vectors(some, side) - origin
        parts.append((_rbf(a, b, gamma, device), row, column))
    kernel = np.empty((len(rows), len(columns)))
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        premises, hypotheses = (table[row[chunk]].take(col, axis=1) for table, row, col in parts)
        np.multiply(premises, hypotheses, out=kernel[chunk])
    if rows is columns:
        np.fill_diagonal(kernel, 1)  # but for rounding it is
    return kernel


def _rbf(a: np.ndarray, b: np.ndarray, gamma: float, device) -> np.ndarray:
    """`exp(-gamma ||a_i - b_j||^2)`, float64: `[n, hidden]`, `[m, hidden]` -> `[n, m]`."""
    if device.type not in ("cpu", "mps"):  # mps has no float64
        import torch

        a, b = (torch.from_numpy(x).to(device) for x in (a, b))
        distances = torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist")
        return distances.square_().mul_(-gamma).exp_().cpu().numpy()
    squares = a @ b.T
    squares *= -2
    squares += np.einsum("ij,ij->i", a, a)[:, None]
    squares += np.einsum("ij,ij->i", b, b)
    np.maximum(squares, 0, out=squares)  # rounding can leave a zero below zero
    squares *= -gamma
    return np.exp(squares, out=squares)


def probe_layers(
    layers: dict[int, np.ndarray | Path],
    pairs: dict[str, np.ndarray],
    targets: dict[str, np.ndarray],
    *,
    kind: str = "svc",
    standardize: bool = False,
    device,
    memory_bytes: int | None = None,
    on_done: Callable[[int, Predictions], None] | None = None,
) -> dict[int, Predictions]:
    """`probe` on every layer (its `sentences`, or their .npy file), as many at a time as fit.

    libsvm uses one core, so layers run in threads: one a core, and together within `memory_bytes`
    (default: half of what is available). The results do not depend on how many. `on_done(layer,
    predictions)` is called in the calling thread as soon as a layer is done, in any order.
    Raises UserError if the memory does not hold one layer's kernel matrix.
    """
    from joblib import cpu_count  # heeds affinity and cgroups
    from threadpoolctl import threadpool_limits

    arrays = {
        layer: np.load(given, mmap_mode="r") if isinstance(given, str | os.PathLike) else given
        for layer, given in layers.items()
    }
    hidden = max((array.shape[1] for array in arrays.values()), default=0)
    needed, available = memory_of_layer(pairs, hidden, kind), available_memory()
    if needed > available:
        raise UserError(
            f"a probe on {len(pairs['train'])} training pairs needs {needed / 1e9:.1f} GB of "
            f"memory, {available / 1e9:.1f} GB are free. Use --max_train_examples, or --probe "
            "linear."
        )
    fitting = (available // 2 if memory_bytes is None else memory_bytes) // needed
    workers = max(1, min(len(arrays), cpu_count(), fitting))
    found = {}
    # One BLAS thread a layer, also for a single worker: more would round differently.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        options = {"kind": kind, "standardize": standardize, "device": device}
        running = {
            pool.submit(probe, array, pairs, targets, **options): layer
            for layer, array in arrays.items()
        }
        try:
            for future in as_completed(running):
                layer = running[future]
                found[layer] = future.result()
                if on_done:
                    on_done(layer, found[layer])
        finally:  # after an error or Ctrl-C no further layer starts
            pool.shutdown(cancel_futures=True)
    return {layer: found[layer] for layer in layers}


def memory_of_layer(pairs: dict[str, np.ndarray], hidden: int, kind: str = "svc") -> int:
    """Bytes that `probe` takes at its peak: kernel matrices, or features in float64."""
    n = len(pairs["train"])
    largest = max((len(some) for split, some in pairs.items() if split != "train"), default=0)
    feature_bytes = 8 * 2 * hidden * (n + largest)
    if kind == "linear":
        return 2 * feature_bytes
    tables = sum(len(np.unique(side)) ** 2 for side in pairs["train"].T)
    return 8 * (n**2 + max(tables, 3 * n * largest)) + feature_bytes + LIBSVM_CACHE


def available_memory() -> int:
    """Bytes that this process can still take: of the device, or of its container."""
    try:
        rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(rows["MemAvailable"].split()[0]) * 2**10
    except (OSError, KeyError):  # not Linux: all there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return available if text == "max" else min(available, int(text))
