"""`SVC()` with an RBF kernel, fitted on a kernel matrix.

`SVC()` spends its time on the kernel, example by example. Here BLAS computes it as one matrix
product, once for all targets. libsvm then solves the same problem: it rounds kernel values to
float32, which hides differences in the last bits of float64.
"""

from functools import partial

from sklearn.metrics.pairwise import rbf_kernel
from sklearn.svm import SVC

from common.probes import C

LIBSVM_CACHE = 200 * 2**20  # bytes, scikit-learn's default


def classifier():
    """An unfitted `SVC` that reads kernel matrices `[n, n_train]`."""
    return SVC(C=C, kernel="precomputed")


def inputs(train):
    """A function of features `[n, size]`: their RBF kernel with `train`, `[n, n_train]`."""
    variance = train.var()
    gamma = 1 / (train.shape[1] * variance) if variance else 1.0  # `SVC`'s "scale"
    return partial(rbf_kernel, Y=train, gamma=gamma)


def memory(n_train: int, n: int, size: int) -> int:
    """Bytes at the peak: of `n` examples in all splits, features and kernels; libsvm's cache."""
    return 8 * n * (n_train + 2 * size) + LIBSVM_CACHE
