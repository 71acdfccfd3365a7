"""Attention of two encoders: equal to a plain loop, and loud where it cannot be compared."""

import numpy as np
import pytest
import torch

from common import attention_maps, models
from common.attention_maps import METRICS, compare, distributions, head_metrics
from common.cli import UserError
from common.device import choose_device
from tests import tiny

CPU = choose_device("cpu", "fp32")
KINDS = ("bert", "gpt2", "biogpt")
LAYERS, HEADS = 3, 2


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """`encoder(kind, seed)`: a new encoder of three layers with two heads each."""

    def load(kind, seed=0):
        folder = tmp_path_factory.mktemp("models")
        tiny.make(kind, folder, layers=LAYERS, heads=HEADS, seed=seed)
        return models.load_encoder(str(folder), "eager")[0].eval()

    return load


def examples(n=9, seed=0):
    """Random ids of mixed lengths, one to eleven tokens; the first one and some others special."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, 250, t).tolist() for t in (1, *rng.integers(2, 12, n - 1))]
    special = [[i == 0 or bool(rng.random() < 0.2) for i in range(len(row))] for row in ids]
    return [{"input_ids": a, "special": b} for a, b in zip(ids, special, strict=True)]


def similarity(before, after, some, device=CPU, batch_size=4, **options):
    options |= {"pad_token_id": 0, "batch_size": batch_size}
    return compare(before, {"after": after}, some, device, **options)["after"]


def entropy(row):
    return -sum(x * np.log2(x) for x in row if x > 0)


def plain(models, some, drop_special):
    """`[examples, metrics, layers, heads]`: one head and one row at a time, in float64."""
    values = np.empty((len(some), len(METRICS), LAYERS, HEADS))
    for example, own in zip(some, values, strict=True):
        kept = [not (drop_special and special) for special in example["special"]]
        ids = torch.tensor([example["input_ids"]])
        with torch.inference_mode():
            pair = [model(ids, output_attentions=True).attentions for model in models]
        for layer, head in np.ndindex(LAYERS, HEADS):
            a, b = (maps[layer][0, head].double().numpy()[kept][:, kept] for maps in pair)
            a, b = (m / m.sum(1, keepdims=True) for m in (a, b))
            pairs = zip(a, b, strict=True)
            js = [entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2 for p, q in pairs]
            cosine = a.ravel() @ b.ravel() / (np.linalg.norm(a) * np.linalg.norm(b))
            entropies = (np.mean([entropy(row) for row in map_]) for map_ in (a, b))
            own[:, layer, head] = cosine, np.mean(js), *entropies
    return values


@pytest.mark.parametrize("drop_special", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_plain_loop(encoder, kind, drop_special):
    models, some = (encoder(kind), encoder(kind, seed=1)), examples()
    found = similarity(*models, some, drop_special=drop_special)
    compared = [e for e in some if not (drop_special and all(e["special"]))]
    values = plain(models, compared, drop_special)
    assert list(found.mean) == list(found.std) == list(METRICS)
    np.testing.assert_allclose([*found.mean.values()], values.mean(0), atol=1e-6)
    np.testing.assert_allclose([*found.std.values()], values.std(0, ddof=1), atol=1e-6)
    assert [*found.counts.values()][:3] == [len(values), len(some) - len(values), 0]
    assert values[:, 1].mean(0).max() > 1e-3  # there is something to see


@pytest.mark.parametrize("drop_special", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_batch_size_order_and_padding_change_nothing(encoder, kind, drop_special, monkeypatch):
    before, after = encoder(kind), encoder(kind, seed=1)
    # With the long one in a batch, the others are padding for the most part.
    some = [*examples(), {"input_ids": [7] * 60, "special": [True, False] * 30}]
    alone = similarity(before, after, some, batch_size=1, drop_special=drop_special)
    for size, most in ((3, 2**29), (20, 2**29), (20, 2**19)):  # the last: few long ones at a time
        monkeypatch.setattr(attention_maps, "MAPS_BYTES", most)
        found = similarity(before, after, some[::-1], batch_size=size, drop_special=drop_special)
        assert found.counts["examples"] == alone.counts["examples"]
        for a, b in ((alone.mean, found.mean), (alone.std, found.std)):
            np.testing.assert_allclose([*a.values()], [*b.values()], atol=1e-6)


def test_two_tokens_by_hand():
    """Each value worked out on paper; a third token is padding, whatever attention it gets."""
    p = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])[None, None]
    q = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.9, 0.1, 0.0]])[None, None]
    kept = torch.tensor([[True, True, False]])
    values = head_metrics(distributions(p, kept), distributions(q, kept), kept)[:, 0, 0]
    # p.q = 0 + 0.5, |p|^2 = |q|^2 = 1.5; JS 1 and 0 bits; entropies 0 and 1 bit; 2 rows
    np.testing.assert_allclose(values, [1 / 3, 0.5, 0.5, 0.5, 2], atol=1e-7)


def test_special_tokens_are_left_out_and_rows_scaled():
    p = torch.tensor([[0.6, 0.2, 0.2], [1.0, 0.0, 0.0], [0.8, 0.1, 0.1]])[None, None]
    kept = torch.tensor([[False, True, True]])
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    p = distributions(p, kept)
    torch.testing.assert_close(p[0, 0], expected)
    q = distributions(torch.full_like(p, 1 / 3), kept)  # the row that is empty in p does not count
    assert head_metrics(p, q, kept)[:, 0, 0].tolist() == pytest.approx([1, 0, 1, 1, 1])


def test_examples_of_empty_rows_only_do_not_count(encoder, monkeypatch):
    monkeypatch.setattr(attention_maps, "distributions", lambda maps, kept: 0 * maps)
    found = similarity(
        encoder("bert"), encoder("bert"), [{"input_ids": [5, 6], "special": [False] * 2}] * 3
    )
    assert found.counts["examples"] == 3
    assert found.counts["empty_rows"] == 3 * 2 * LAYERS * HEADS
    assert np.isnan(found.mean["cosine"]).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_against_itself(encoder, kind, precision):
    """Exactly: of the same weights loaded twice, in batches."""
    device, models = choose_device("cpu", precision), (encoder(kind), encoder(kind))
    for drop_special in (False, True):
        found = similarity(*models, examples(), device=device, drop_special=drop_special)
        assert (found.mean["cosine"] == 1).all() and (found.std["cosine"] == 0).all()
        assert (found.mean["js"] == 0).all() and (found.std["js"] == 0).all()


def test_encoders_are_compared_in_groups_that_memory_holds(encoder, monkeypatch):
    """One pre-trained beside as many others as half of the free memory has room for."""
    model = encoder("bert")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    for room, expected in ((8, [[1, 2, 3], [4, 5]]), (0, [[1], [2], [3], [4], [5]])):
        monkeypatch.setattr(attention_maps, "free_memory", lambda device, n=room: n * size)
        assert attention_maps.groups([1, 2, 3, 4, 5], model, CPU) == expected


def test_pretrained_runs_once_for_all_others(encoder):
    before, calls = encoder("bert"), []
    before.register_forward_hook(lambda *_: calls.append(1))
    others = {10: encoder("bert", seed=1), 30: encoder("bert", seed=2)}
    some = [{"input_ids": [], "special": []}, *examples()]
    found = compare(before, others, some, CPU, pad_token_id=0, batch_size=9)
    assert len(calls) == 1 and [*found] == [10, 30]
    assert [*found[10].counts.values()][:2] == [9, 1]


def test_errors(encoder):
    before, broken = encoder("bert"), encoder("bert")
    with pytest.raises(UserError, match="none of 2 examples"):
        similarity(before, before, [{"input_ids": [], "special": []}] * 2)
    broken.encoder.layer[1].attention.self.query.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="NaN"):
        similarity(before, broken, examples())
