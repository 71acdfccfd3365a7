"""How similar two encoders' hidden states are, layer by layer: debiased minibatch CKA.

Linear CKA of Kornblith et al. 2019, with the unbiased HSIC_1 (Song et al. 2012) averaged over
minibatches (Nguyen et al. 2021, "Do Wide and Deep Networks Learn the Same Things?", equation 3).
Without debiasing, unrelated states of 768 dimensions have a CKA of .75 at 256 rows.
"""

import random

import numpy as np

BATCH, LEAST, MOST = 256, 64, 2048  # rows of a minibatch; rows that are needed; rows that are kept


def draw(examples: list[dict], seed: int = 0) -> tuple[dict, list[np.ndarray]]:
    """({example: (row, token)}, minibatches of rows): the tokens whose states are compared.

    One token an example, of at most `MOST` examples, with a generator of its own. More tokens of
    one text would measure the text. `special` tokens are left out, and a causal model's first: they
    are outliers that decide everything. A token whose type was not drawn yet goes before others:
    equal tokens have equal embeddings.
    """
    generator, seen = random.Random(seed), set()
    places: dict[int, tuple[int, int]] = {}
    order = list(range(len(examples)))
    generator.shuffle(order)
    for i in order:
        ids = examples[i]["input_ids"]
        real = [t for t, special in enumerate(examples[i]["special"]) if not special]
        real = [t for t in real if ids[t] not in seen] or real
        if real and len(places) < MOST:
            token = generator.choice(real)
            seen.add(ids[token])
            places[i] = len(places), token
    n = max(1, round(len(places) / BATCH)) if len(places) >= LEAST else 0
    return places, np.array_split(np.arange(len(places)), n) if n else []


def hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741  (K and L are the papers' names)
    """HSIC_1 of two kernel matrices `[n, n]`, n at least 4: unbiased, so 0 for unrelated states."""
    n, k, l = len(k), k - np.diag(np.diag(k)), l - np.diag(np.diag(l))  # noqa: E741
    sums = k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * k.sum(0) @ l.sum(0) / (n - 2)
    return ((k * l).sum() + sums) / (n * (n - 3))


def cka(x: np.ndarray, y: np.ndarray, batches: list, standardize: bool = False) -> float:
    """CKA of the states x and y, `[rows, hidden]` each: 1 for equal or rotated ones, about 0 for
    unrelated ones, also a little below. NaN without `batches` or where a side is constant.

    `standardize` gives each dimension variance 1 within a batch: few large ones decide no more.
    """
    means = np.zeros(3)
    for rows in batches:
        a, b = (_centred(side[rows].astype(np.float64), standardize) for side in (x, y))
        k, l = a @ a.T, b @ b.T  # noqa: E741
        means += [hsic(k, l), hsic(k, k), hsic(l, l)]
    both, one, other = means
    return float(both / np.sqrt(one * other)) if min(one, other) > 0 else float("nan")


def _centred(states: np.ndarray, standardize: bool) -> np.ndarray:
    states = states - states.mean(0)
    if standardize:
        deviation = states.std(0)
        states = states / np.where(deviation > 0, deviation, 1.0)
    return states
