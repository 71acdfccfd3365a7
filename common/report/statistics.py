"""How sure a score is: bootstrap intervals, paired tests, Holm's correction, correlations.

A score is a function of counts that are added up over examples: of a resample, a weighted sum.
Percentile intervals: Efron & Tibshirani 1993, chapter 13. Paired bootstrap test: Berg-Kirkpatrick
et al. 2012 (D12-1091), Dror et al. 2018 (P18-1128). Many tests: Holm 1979.
"""

import warnings

import numpy as np
from scipy import stats

FEW = 8  # points, or groups of examples, below which nothing has an interval
RESAMPLES = 10_000  # the least p is 1 / 10,001: still under 0.05 after Holm over 400 comparisons


def resample(systems, resamples: int = RESAMPLES, seed: int = 0, groups=None) -> list[tuple]:
    """(score, scores [resamples], units drawn) of `systems`, (counts [examples, ...], score) each.

    All systems have the same examples. Those of one of the `groups` (an id an example) are drawn
    together: they are not independent.
    """
    if not systems:
        return []
    tables = {id(counts): counts.astype(float) for counts, _ in systems}  # scores share a table
    if groups is not None:
        number = {group: i for i, group in enumerate(sorted({*groups}))}
        for key, counts in tables.items():
            tables[key] = np.zeros((len(number), *counts.shape[1:]))
            np.add.at(tables[key], [number[group] for group in groups], counts)
    n, generator = len(next(iter(tables.values()))), np.random.default_rng(seed)

    def scores(weights):  # [k, n] -> [systems, k]
        totals = {key: np.tensordot(weights, counts, 1) for key, counts in tables.items()}
        return np.stack([score(totals[id(counts)]) for counts, score in systems])

    samples = []
    for start in range(0, resamples, chunk := max(1, 2**20 // n)):  # weights at a time
        k = min(chunk, resamples - start)
        drawn = generator.integers(n, size=(k, n)) + n * np.arange(k)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=k * n).reshape(k, n)  # multinomial
        samples.append(scores(weights.astype(float)))
    values, samples = scores(np.ones((1, n)))[:, 0], np.concatenate(samples, axis=1)
    return [(float(v), s, n) for v, s in zip(values, samples, strict=True)]


def interval(samples: np.ndarray, n: int) -> tuple[float | None, float | None]:
    """The percentile interval (95 %) of a score's resamples of `n` units; undefined ones (NaN) are
    left out. (None, None) of few units, of which it would be too narrow."""
    if n < FEW:
        return None, None
    low, high = np.nanquantile(samples, [0.025, 0.975])
    return float(low), float(high)


def paired_difference(a: tuple, b: tuple) -> tuple[float, float, float, float]:
    """(a - b, low, high, p) of two systems of one `resample`. p, two-sided: how often a resampled
    difference lies as far from the observed one as that lies from 0."""
    difference, samples = a[0] - b[0], a[1] - b[1]
    p = (1 + (np.abs(samples - difference) >= abs(difference) - 1e-12).sum()) / (1 + len(samples))
    # One example cannot vary; no test that swaps the systems example by example gives less.
    return difference, *interval(samples, a[2]), float(max(p, 2.0 ** (1 - a[2])))


def holm(p_values: list[float]) -> list[float]:
    """p-values adjusted for being many: the family-wise error stays below the level (Holm)."""
    p = np.asarray(p_values, dtype=float)
    order, adjusted = np.argsort(p, kind="stable"), np.empty(len(p))
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def correlation(pairs, kind: str, resamples: int = 2000):
    """(r, low, high), resampling `pairs`; None of fewer than three or where a side is constant.

    Fewer than eight pairs have no interval, (r, None, None): resamples of a few points that lie in
    a row lie in a row, too.
    """
    n, pairs = len(pairs), np.array(pairs, dtype=float).T
    if n < 3 or (pairs == pairs[:, :1]).all(1).any():
        return None
    drawn = np.random.default_rng(0).integers(n, size=(resamples, n))
    pairs = pairs[:, np.concatenate([np.arange(n)[None], drawn])]  # [2, 1 + resamples, n]
    pairs = stats.rankdata(pairs, axis=-1) if kind == "spearman" else pairs
    with warnings.catch_warnings():  # a resample of equal pairs has none: NaN
        warnings.simplefilter("ignore")
        r = stats.pearsonr(*pairs, axis=-1).statistic
    return float(r[0]), *interval(r[1:], n)


def partial_correlation(triples) -> float | None:
    """Spearman's r of x and y with z partialled out, of (x, y, z); None where it is undefined.

    What is left of x and y when both are predicted from z, all three as ranks (Fisher 1924).
    """
    if len(triples) < 4:  # with three points it is always 1 or -1
        return None
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # a constant side has no correlation
        r = np.corrcoef(stats.rankdata(np.array(triples, float), axis=0), rowvar=False)
        left = (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
        partial = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt(left) if left > 1e-9 else np.nan
    return float(partial) if np.isfinite(partial) else None
