"""Scores of counts whose sums over examples are all that they need, as the bootstrap wants them.

All functions take sums with any leading dimensions (one a resample), and give 0 for 0 / 0. They
use arrays' own methods, so that this module need not import numpy.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import ndarray


def ratio(part, whole):
    """`part / whole`; 0 where both are 0."""
    return part / (whole + (whole == 0))


def precision(totals: "ndarray") -> "ndarray":
    """Precision of [..., (right, predicted, gold)]."""
    return ratio(totals[..., 0], totals[..., 1])


def recall(totals: "ndarray") -> "ndarray":
    """Recall of [..., (right, predicted, gold)]."""
    return ratio(totals[..., 0], totals[..., 2])


def f1(totals: "ndarray") -> "ndarray":
    """F1 of [..., (right, predicted, gold)]."""
    return ratio(2 * totals[..., 0], totals[..., 1] + totals[..., 2])


def micro_f1(totals: "ndarray") -> "ndarray":
    """F1 of all classes' counts together: [..., classes, 3] -> [...]."""
    return f1(totals.sum(-2))


def macro_f1(totals: "ndarray") -> "ndarray":
    """Mean F1 of the classes that occur on either side: [..., classes, 3] -> [...]."""
    occurs = totals[..., 1] + totals[..., 2] > 0
    return ratio(f1(totals).sum(-1), occurs.sum(-1))


def by_class(confusion: "ndarray") -> "ndarray":
    """[..., classes, (right, predicted, gold)] of a confusion matrix [..., gold, predicted]."""
    import numpy as np

    right = confusion.diagonal(axis1=-2, axis2=-1)
    return np.stack([right, confusion.sum(-2), confusion.sum(-1)], -1)


def accuracy(confusion: "ndarray") -> "ndarray":
    """Share of the diagonal: [..., gold, predicted] -> [...]."""
    return ratio(confusion.trace(axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def macro_f1_of_classes(confusion: "ndarray") -> "ndarray":
    """`macro_f1` of a confusion matrix: [..., gold, predicted] -> [...]."""
    return macro_f1(by_class(confusion))


def matthews_correlation(confusion: "ndarray") -> "ndarray":
    """Matthews correlation of several classes (Gorodkin 2004): [..., gold, predicted] -> [...].

    The covariance of the two labellings over the root of the product of their variances: -1 to 1,
    0 where one of them is constant.
    """
    right, predicted, gold = (by_class(confusion)[..., i] for i in range(3))
    n = confusion.sum((-2, -1))
    covariance = n * right.sum(-1) - (predicted * gold).sum(-1)
    spread = (n**2 - (predicted**2).sum(-1)) * (n**2 - (gold**2).sum(-1))
    return ratio(covariance, spread**0.5)


def count(sides: list[list], classes: list[str]) -> "ndarray":
    """[examples, classes, 3] from sets of (class, ...) an example, gold and predicted."""
    import numpy as np

    number = {name: i for i, name in enumerate(classes)}
    table = np.zeros((len(sides[0]), len(classes), 3))
    for example, (gold, predicted) in enumerate(zip(*sides, strict=True)):
        for part, chosen in enumerate((gold & predicted, predicted, gold)):
            for item in chosen:
                table[example, number[item[0]], part] += 1
    return table
