"""CKA: equal to a slow U-statistic, 1 for equal states, about 0 for unrelated ones."""

from itertools import permutations

import numpy as np
import pytest
import torch

from common import attention_maps, models, similarity
from common.device import choose_device
from tests import tiny


def slow_hsic(x, y):
    """The U-statistic over all ordered quadruples (Song et al. 2012, equation 2)."""
    k, m = x @ x.T, y @ y.T
    quadruples = list(permutations(range(len(k)), 4))
    values = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in quadruples]
    return sum(values) / len(quadruples)


@pytest.mark.parametrize("n", [4, 6, 8])
def test_hsic_is_the_u_statistic(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 5)), rng.normal(size=(n, 3))
    assert similarity.hsic(x @ x.T, y @ y.T) == pytest.approx(slow_hsic(x, y), abs=1e-12)


def test_cka_is_the_ratio_of_mean_u_statistics():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(14, 4))
    y, batches = x + rng.normal(size=x.shape), [np.arange(7), np.arange(7, 14)]
    pairs = [(x[rows] - x[rows].mean(0), y[rows] - y[rows].mean(0)) for rows in batches]
    both, one, other = (
        np.mean([slow_hsic(pair[i], pair[j]) for pair in pairs])
        for i, j in ((0, 1), (0, 0), (1, 1))
    )
    assert similarity.cka(x, y, batches) == pytest.approx(both / np.sqrt(one * other), rel=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
def test_equal_rotated_and_unrelated_states(standardize):
    rng = np.random.default_rng(1)
    x, batches = rng.normal(size=(512, 768)), np.array_split(np.arange(512), 2)
    turned = np.linalg.qr(rng.normal(size=(768, 768)))[0]
    assert similarity.cka(x, x, batches, standardize) == pytest.approx(1)
    assert similarity.cka(x, 3 * x + 500, batches, standardize) == pytest.approx(1)
    if not standardize:  # a rotation mixes the dimensions
        assert similarity.cka(x, x @ turned, batches) == pytest.approx(1)
    unrelated = rng.normal(size=(512, 768))
    assert abs(similarity.cka(x, unrelated, batches, standardize)) < 0.03


def test_one_large_dimension_decides_only_the_raw_value():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 256, 64))
    x[:, 0] = y[:, 0] = 100 * rng.normal(size=256)
    batches = [np.arange(256)]
    assert similarity.cka(x, y, batches) > 0.9
    assert similarity.cka(x, y, batches, standardize=True) < 0.2


def test_constant_states_have_no_value():
    x = np.random.default_rng(3).normal(size=(64, 8))
    assert np.isnan(similarity.cka(x, np.ones((64, 8)), [np.arange(64)]))
    assert np.isnan(similarity.cka(x, x, []))


def examples(n, seed=0, types=4000):
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, types, t).tolist() for t in rng.integers(2, 9, n)]
    return [{"input_ids": a, "special": [True] + [False] * (len(a) - 1)} for a in ids]


def test_one_token_an_example_neither_first_nor_special():
    some = [*examples(600), {"input_ids": [1, 2], "special": [True, True]}]
    drawn, batches = similarity.draw(some)
    assert drawn == similarity.draw(some)[0]
    assert sorted(drawn) == list(range(600))  # not the last one
    assert sorted(row for row, _ in drawn.values()) == list(range(600))
    assert all(token > 0 for _, token in drawn.values())
    assert [len(rows) for rows in batches] == [300, 300]
    types = {some[i]["input_ids"][token] for i, (_, token) in drawn.items()}
    assert len(types) > 590  # a type is taken twice only where nothing else is left


@pytest.mark.parametrize(
    "n,sizes", [(63, []), (64, [64]), (256, [256]), (1024, [256] * 4), (3000, [256] * 8)]
)
def test_minibatches(n, sizes):
    drawn, batches = similarity.draw(examples(n))
    assert [len(rows) for rows in batches] == sizes
    assert len(drawn) == min(n, similarity.MOST)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_compare_measures_the_states_of_the_drawn_tokens(kind, tmp_path):
    for seed in (0, 1):
        tiny.make(kind, tmp_path / str(seed), layers=2, heads=2, seed=seed)
    pair = [models.load_encoder(str(tmp_path / str(seed)), "eager")[0] for seed in (0, 1)]
    some = examples(80, types=250)
    device = choose_device("cpu", "fp32")
    options = {"pad_token_id": 0, "batch_size": 7}
    others = {"other": pair[1], "same": pair[0]}
    found = attention_maps.compare(pair[0], others, some, device, **options)
    (drawn, batches), states = similarity.draw(some), []
    for model in pair:
        rows = np.empty((80, 3, model.config.hidden_size))
        for i, (row, token) in drawn.items():
            with torch.inference_mode():
                ids = torch.tensor([some[i]["input_ids"]])
                hidden = model(ids, output_hidden_states=True).hidden_states
            rows[row] = [layer[0, token].double().numpy() for layer in hidden]
        states.append(rows)
    for layer in range(3):
        expected = similarity.cka(states[0][:, layer], states[1][:, layer], batches)
        assert found["other"].cka["cka"][layer] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(found["same"].cka["cka"], 1, atol=1e-9)
    assert found["same"].counts["cka_examples"] == 80
