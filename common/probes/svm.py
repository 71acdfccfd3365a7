"""The RBF kernel between examples made of several vectors: that of `SVC()`, made fast.

`SVC()` spends its time on the kernel, example by example. Here BLAS computes it, and once per
vector rather than per example: the RBF kernel of k concatenated vectors, u = [u_1; ...; u_k], is a
product over them,

    exp(-gamma ||u - v||^2) = product over i of exp(-gamma ||u_i - v_i||^2),

and a vector stands in several examples (a sentence in several pairs). libsvm then solves the same
problem: it rounds kernel values to float32, which hides what differs in the last bits of float64.
"""

import logging
import threading

import numpy as np

from common.probes import C

log = logging.getLogger(__name__)
CHUNK = 64  # kernel rows filled at a time: what a core's cache holds
_accelerator = threading.Lock()  # on a GPU one table at a time, however many layers are at work


def classifier():
    """An unfitted `SVC` whose inputs are kernel matrices `[n, n_train]`."""
    from sklearn.svm import SVC

    return SVC(C=C, kernel="precomputed")


def scale(train: np.ndarray) -> float:
    """gamma = "scale" of `SVC`, from the training features `[n, size]`."""
    variance = train.var()
    return 1 / (train.shape[1] * variance) if variance else 1.0


def rbf_kernel(
    vectors: np.ndarray, rows: np.ndarray, columns: np.ndarray, gamma: float, scaler, device
) -> np.ndarray:
    """The RBF kernel between two lists of examples: `[n_rows, n_columns]`, float64.

    `vectors`: `[n, size]`; `rows`, `columns`: `[n, k]`, the numbers of each example's vectors.
    `scaler`: a fitted StandardScaler of the concatenated features, or None.
    """
    k = rows.shape[1]

    def scaled(numbers: np.ndarray, part: int) -> np.ndarray:
        x = vectors[numbers].astype(np.float64)
        if scaler:
            x = (x - np.split(scaler.mean_, k)[part]) / np.split(scaler.scale_, k)[part]
        return x

    tables = []
    for part in range(k):
        some, row = np.unique(rows[:, part], return_inverse=True)
        known, column = np.unique(columns[:, part], return_inverse=True)
        # Distances do not depend on the origin, but their rounding does: with one of the vectors
        # as origin it is small beside the spread, however far the vectors are from zero.
        origin = scaled(known[:1], part)
        b = scaled(known, part) - origin
        # The same array twice, where it is: numpy then computes half of the matrix product.
        a = b if np.array_equal(some, known) else scaled(some, part) - origin
        tables.append((rbf(a, b, gamma, device), row, column))
    kernel = np.empty((len(rows), len(columns)))
    for start in range(0, len(rows), CHUNK):
        chunk = slice(start, start + CHUNK)
        product, *others = (table[row[chunk]].take(column, axis=1) for table, row, column in tables)
        for other in others:
            product *= other
        kernel[chunk] = product
    if rows is columns:
        np.fill_diagonal(kernel, 1)  # but for rounding it is
    return kernel


def rbf(a: np.ndarray, b: np.ndarray, gamma: float, device) -> np.ndarray:
    """`exp(-gamma ||a_i - b_j||^2)`, float64: `[n, size]`, `[m, size]` -> `[n, m]`.

    On a GPU where its memory allows, else on the CPU.
    """
    if device.type not in ("cpu", "mps"):  # mps has no float64
        try:
            with _accelerator:
                return _on_accelerator(a, b, gamma, device)
        except RuntimeError as error:
            from common.device import is_out_of_memory

            if not is_out_of_memory(error):
                raise
        log.warning("%s has too little memory for a kernel; the CPU computes it", device)
    squares = a @ b.T
    squares *= -2
    squares += np.einsum("ij,ij->i", a, a)[:, None]
    squares += np.einsum("ij,ij->i", b, b)
    np.maximum(squares, 0, out=squares)  # rounding can leave a zero below zero
    squares *= -gamma
    return np.exp(squares, out=squares)


def _on_accelerator(a: np.ndarray, b: np.ndarray, gamma: float, device) -> np.ndarray:
    import torch

    a, b = (torch.from_numpy(x).to(device) for x in (a, b))
    distances = torch.cdist(a, b, compute_mode="use_mm_for_euclid_dist")
    return distances.square_().mul_(-gamma).exp_().cpu().numpy()
