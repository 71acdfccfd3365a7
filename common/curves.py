"""What the curves of an ablation say: areas, where the gain is lost, and orders against random.

A point is (order, draw, removed): `removed` in % of all heads, or layers; draw 0 is the only one
of its order. `measured` is `{point: {score: value}}`, and all curves have the same points.
"""

from statistics import fmean, stdev

import numpy as np

from common.files import read_jsonl

RANDOM, SINGLE = "random", "single"  # the second is no curve: its points are single layers
RESAMPLES = 2000


def curve(measured: dict, order: str, metric: str, draw: int | None = None) -> dict:
    """{removed: value} of an order: of one draw, or the mean of all its draws."""
    values: dict = {}
    for (own, number, removed), scores in measured.items():
        if own == order and draw in (None, number) and metric in scores:
            values.setdefault(removed, []).append(scores[metric])
    return {removed: fmean(some) for removed, some in values.items()}


def area(values: dict) -> float:
    """The mean height of a curve, by the trapezoidal rule: in the score's own unit."""
    removed = np.array(list(values), float)
    return float(np.trapezoid(list(values.values()), removed) / (removed[-1] - removed[0]))


def half_lost(values: dict, majority: float):
    """The first point at which half of what the whole model gains over the majority is lost."""
    whole = values[0]
    lost = [
        n for n, value in values.items() if whole > majority and value <= (whole + majority) / 2
    ]
    return min(lost, default=None)


def described(measured: dict, main: str, majority: float) -> dict:
    """For metrics.json: `area_<order>`, `area_loss_<order>` and `half_lost_<order>`."""
    found = {}
    for order in dict.fromkeys(order for order, *_ in measured if order != SINGLE):
        values = curve(measured, order, main)
        found |= {f"area_{order}": area(values), f"half_lost_{order}": half_lost(values, majority)}
        if losses := curve(measured, order, "loss"):
            found[f"area_loss_{order}"] = area(losses)
    return found


def against_random(measured: dict, main: str, draws: int) -> dict:
    """The areas of the random draws, and `p_<order>` of the first order, `most_changed` (at size 0
    `importance`), whose layers the draws share: the share of draws with at most its area. One more
    draw is counted on both sides: p > 0."""
    areas = [area(curve(measured, RANDOM, main, n)) for n in range(1, draws + 1)]
    found = {f"area_random_{n}": value for n, value in enumerate(areas, 1)}
    found["area_random_std"] = stdev(areas)
    first = next(iter(measured))[0]
    own = area(curve(measured, first, main)) + 1e-12  # rounding
    return found | {f"p_{first}": (1 + sum(value <= own for value in areas)) / (1 + draws)}


def differences(files: dict, count, main, draws: int) -> dict:
    """At each share, how the heads that changed most compare with the random draws.

    `difference_<share>`: the main score without them, minus the mean of the draws. `_low`, `_high`:
    the 95 % interval of the difference from one draw, of resampled test examples (groups) and
    draws: else the chance in which heads were drawn would look like an effect. `p_<share>`: as
    `p_most_changed`, of the score. `files`: {point: its predictions}; `count` and `main`: the
    task's, see `common.task`. Of few groups, both ends are None.
    """
    from common.report import statistics

    found, chance = {}, np.random.default_rng(0).integers(draws, size=RESAMPLES)
    for share in sorted({removed for _, _, removed in files} - {0, 100}):
        points = [("most_changed", 0, share), *((RANDOM, n + 1, share) for n in range(draws))]
        rows = [read_jsonl(files[point]) for point in points]
        groups = [str(row.get("group", row["id"])) for row in rows[0]]
        systems = [(count(some)[main.table], main.value) for some in rows]
        own, *others = statistics.resample(systems, RESAMPLES, groups=groups)
        scores = np.array([score for score, *_ in others])
        drawn = np.stack([samples for _, samples, _ in others])[chance, np.arange(RESAMPLES)]
        found[f"difference_{share}"] = float(own[0] - scores.mean())
        low, high = statistics.interval(own[1] - drawn, own[2])
        found |= {f"difference_{share}_low": low, f"difference_{share}_high": high}
        found[f"p_{share}"] = float(1 + (scores <= own[0] + 1e-12).sum()) / (1 + draws)
    return found


def related(change: np.ndarray, importance: np.ndarray) -> dict:
    """Spearman's correlation of two values of each head, `[layers, heads]`: over all heads, and
    within layers (of the ranks in each layer); with a bootstrap interval over heads."""
    from scipy.stats import rankdata

    from common.report import statistics

    known, found = np.isfinite(change), {}
    ranks = [rankdata(side, axis=1) for side in (np.where(known, change, 0), importance)]
    sides = {"over_heads": (change, importance), "within_layers": ranks}
    for name, pair in sides.items():
        kind = "spearman" if name == "over_heads" else "pearson"
        r = statistics.correlation(np.stack([side[known] for side in pair], 1), kind)
        for end, value in zip(("", "_low", "_high"), r or (None,) * 3, strict=True):
            found[f"spearman_{name}{end}"] = value
    return found
