"""Scores that are functions of counts summed over examples, as the bootstrap needs them.

`totals`: an array [..., classes, 3] or [..., 3] of (right, predicted, gold), where the leading
dimensions may be resamples. 0 / 0 is 0.
"""


def ratio(part, whole):
    """`part / whole`; 0 where both are 0."""
    return part / (whole + (whole == 0))


def precision(totals):
    """[..., 3] -> [...]."""
    return ratio(totals[..., 0], totals[..., 1])


def recall(totals):
    """[..., 3] -> [...]."""
    return ratio(totals[..., 0], totals[..., 2])


def f1(totals):
    """[..., 3] -> [...]."""
    return ratio(2 * totals[..., 0], totals[..., 1] + totals[..., 2])


def micro_f1(totals):
    """F1 of all classes' counts together (accuracy, if each example has one label): -> [...]."""
    return f1(totals.sum(-2))


def macro_f1(totals):
    """Mean F1 of the classes that occur on either side: [..., classes, 3] -> [...]."""
    occurs = totals[..., 1] + totals[..., 2] > 0
    return ratio(f1(totals).sum(-1), occurs.sum(-1))


def count(sides: list[list[set[tuple]]], classes: list[str]):
    """[examples, classes, 3] from a set of (class, ...) an example, gold and predicted."""
    import numpy as np

    number = {name: i for i, name in enumerate(classes)}
    table = np.zeros((len(sides[0]), len(classes), 3))
    for row, gold, predicted in zip(table, *sides, strict=True):
        for part, chosen in enumerate((gold & predicted, predicted, gold)):
            for name, *_ in chosen:
                row[number[name], part] += 1
    return table
