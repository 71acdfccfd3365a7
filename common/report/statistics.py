"""How sure a score is: bootstrap intervals, paired tests, Holm's correction, correlations.

All scores here are F1 of sums over examples: [right, predicted, gold] of entities, of words, or of
labels (where F1 over all classes is accuracy). So a resample of the test split (sentences or pairs,
never single words) is a weighted sum of the examples' counts: a matrix product for all resamples.

Percentile intervals: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13. Paired
bootstrap test: Berg-Kirkpatrick et al. 2012 (D12-1091); its use in NLP: Dror et al. 2018
(P18-1128). Many tests: Holm 1979, A simple sequentially rejective multiple test procedure.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

LEVEL = 0.95
RESAMPLES = 10_000  # the least p is 1 / 10,001: still under 0.05 after Holm over 400 comparisons
_CHUNK = 2**20  # weights drawn at a time


class Resampled(NamedTuple):
    """A score on the test split and on its resamples (`samples` [resamples])."""

    value: float
    samples: np.ndarray
    examples: int


def f1(totals: np.ndarray) -> np.ndarray:
    """F1 of [right, predicted, gold], shape [..., 3] -> [...]; 0 where there is nothing (0 / 0)."""
    both = totals[..., 1] + totals[..., 2]
    return np.divide(2 * totals[..., 0], both, out=np.zeros(both.shape), where=both > 0)


def macro_f1(totals: np.ndarray) -> np.ndarray:
    """Mean F1 of the classes that occur on either side, shape [..., classes, 3] -> [...]."""
    occurs = totals[..., 1] + totals[..., 2] > 0
    return f1(totals).sum(-1) / np.maximum(occurs.sum(-1), 1)


def counts(rows: Sequence[dict]) -> dict[str, tuple[np.ndarray, Callable]]:
    """The counts [examples, (classes,) 3] and the score function of each score of a run.

    `rows` of predictions.jsonl: `gold` and `predicted` are both a label, or both lists of IOB2 tags
    of the same words, and that decides what is scored. Raises ValueError if they are neither.
    """
    try:
        sides = [[row[side] for row in rows] for side in ("gold", "predicted")]
        shapes = [[len(v) if isinstance(v, list) else type(v) for v in side] for side in sides]
        if shapes[0] != shapes[1] or {type(v) for v in sides[0]} not in ({str}, {list}):
            raise TypeError
    except (KeyError, TypeError):
        raise ValueError("not all rows have a gold and a predicted label, or tags") from None
    if isinstance(sides[0][0], str):
        labels = _count([[{(label,)} for label in side] for side in sides])
        return {"accuracy": (labels.sum(1), f1), "macro_f1": (labels, macro_f1)}

    from seqeval.metrics.sequence_labeling import get_entities  # as conlleval

    words = [[{(t.split("-", 1)[-1], i) for i, t in enumerate(v)} for v in side] for side in sides]
    typed = [[{word for word in one if word[0] != "O"} for one in side] for side in words]
    spans = [[set(get_entities(tags)) for tags in side] for side in sides]
    strict = [  # as seqeval's strict IOB2: what an I- opens is no entity
        [{e for e in one if tags[e[1]][0] == "B"} for one, tags in zip(*both, strict=True)]
        for both in zip(spans, sides, strict=True)
    ]
    return {
        "entity_f1": (_count(spans).sum(1), f1),
        "entity_f1_strict": (_count(strict).sum(1), f1),
        "macro_f1": (_count(words), macro_f1),
        "micro_f1_without_o": (_count(typed).sum(1), f1),
    }


def _count(sides: list[list[set]]) -> np.ndarray:
    """[examples, classes, 3] from sets of (class, ...) by example, gold and predicted."""
    number = {c: i for i, c in enumerate(sorted({x[0] for side in sides for s in side for x in s}))}
    table = np.zeros((len(sides[0]), len(number), 3))
    for example, (gold, predicted) in enumerate(zip(*sides, strict=True)):
        for part, chosen in enumerate((gold & predicted, predicted, gold)):
            for item in chosen:
                table[example, number[item[0]], part] += 1
    return table


def resample(
    systems: Sequence[tuple[np.ndarray, Callable]], resamples: int = RESAMPLES, seed: int = 0
) -> list[Resampled]:
    """The scores of `systems`, (counts [examples, ...], score) of each, on the same resamples.

    Scored on the same examples in the same order, they may be compared: `paired_difference`. Raises
    ValueError if there are no examples, or not as many for each system.
    """
    if not systems:
        return []
    n = len(systems[0][0])
    if n == 0 or any(len(counted) != n for counted, _ in systems):
        raise ValueError("the systems need the same examples, one at least")
    generator, flat = np.random.default_rng(seed), [c.reshape(n, -1) for c, _ in systems]
    cuts = np.cumsum([part.shape[1] for part in flat])[:-1]
    flat = np.concatenate(flat, axis=1, dtype=float)

    def scores(totals):  # [k, columns] -> [systems, k]
        parts = zip(systems, np.split(totals, cuts, axis=1), strict=True)
        return np.stack(
            [f(part.reshape(len(totals), *counted.shape[1:])) for (counted, f), part in parts]
        )

    samples = []
    for start in range(0, resamples, chunk := max(1, _CHUNK // n)):
        k = min(chunk, resamples - start)
        drawn = generator.integers(n, size=(k, n)) + n * np.arange(k)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=k * n).reshape(k, n)  # multinomial
        samples.append(scores(weights.astype(float) @ flat))
    values = scores(flat.sum(0, keepdims=True))[:, 0]
    samples = np.concatenate(samples, axis=1)
    return [Resampled(float(v), s, n) for v, s in zip(values, samples, strict=True)]


def mean(runs: Sequence[Resampled]) -> Resampled:
    """The mean score of several runs (seeds) of one `resample`."""
    samples = np.mean([run.samples for run in runs], axis=0)
    return Resampled(float(np.mean([run.value for run in runs])), samples, runs[0].examples)


def interval(samples: np.ndarray) -> tuple[float, float]:
    """The percentile interval (95 %) of a score's resamples; undefined ones (NaN) are left out."""
    low, high = np.nanquantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def paired_difference(a: Resampled, b: Resampled) -> tuple[float, float, float, float]:
    """(a - b, low, high, p) of two systems of one `resample`; p is two-sided, of no difference.

    How often a resampled difference lies as far from the found one as that lies from 0. Fewer than
    some thirty examples are too few for it.
    """
    difference, samples = a.value - b.value, a.samples - b.samples
    far = np.abs(samples - difference) >= abs(difference) - 1e-12
    p = (1 + far.sum()) / (1 + len(far))
    # One example cannot vary; no test that swaps the systems example by example gives less.
    return difference, *interval(samples), float(max(p, 2.0 ** (1 - a.examples)))


def mean_std(values: Sequence[float]) -> tuple[float, float | None, int]:
    """Mean, sample standard deviation (None of one value) and number, over seeds."""
    n = len(values)
    return float(np.mean(values)), float(np.std(values, ddof=1)) if n > 1 else None, n


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being many: the family-wise error stays below the level (Holm)."""
    p = np.asarray(p_values, dtype=float)
    order, adjusted = np.argsort(p, kind="stable"), np.empty(len(p))
    steps = p[order] * np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted.tolist()


def correlation(
    x: Sequence[float], y: Sequence[float], kind: str = "spearman", resamples: int = 2000
) -> tuple[float, float, float] | None:
    """(r, low, high), resampling pairs; None of fewer than three pairs or where a side is constant.

    `kind`: "spearman" (of ranks, ties share theirs) or "pearson". With few pairs, or pairs that
    depend on each other, the interval is too narrow.
    """
    pairs = np.array([x, y], dtype=float)
    n = pairs.shape[1]
    if n < 3 or (pairs == pairs[:, :1]).all(1).any():
        return None
    drawn = np.random.default_rng(0).integers(n, size=(resamples, n))
    pairs = np.concatenate([pairs[:, None], pairs[:, drawn]], axis=1)  # [2, 1 + resamples, n]
    if kind == "spearman":
        above = pairs[..., :, None] > pairs[..., None, :]
        pairs = above.sum(-1) - above.sum(-2)  # twice the mid-rank, less a constant
    pairs = pairs - pairs.mean(-1, keepdims=True)
    below = np.sqrt((pairs**2).sum(-1).prod(0))
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.where(below > 1e-12, pairs.prod(0).sum(-1) / below, np.nan)
    return float(r[0]), *interval(r[1:])
