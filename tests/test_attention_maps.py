"""Attention of two encoders: equal to a plain loop, and loud where it cannot be compared."""

import numpy as np
import pytest
import torch

from common import attention_maps
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
    from transformers import AutoModel

    def load(kind, seed=0, implementation="eager", layers=LAYERS):
        folder = tmp_path_factory.mktemp("models")
        tiny.make(kind, folder, layers=layers, heads=HEADS, seed=seed)
        return AutoModel.from_pretrained(
            folder, attn_implementation=implementation, dtype=torch.float32
        ).eval()

    return load


def examples(n=9, seed=0):
    """Random ids of mixed lengths, one to eleven tokens; the first one and some others special."""
    rng = np.random.default_rng(seed)
    lengths = [1, *rng.integers(2, 12, n - 1)]
    return [
        {
            "input_ids": rng.integers(5, 250, t).tolist(),
            "special": [i == 0 or bool(rng.random() < 0.2) for i in range(t)],
        }
        for t in lengths
    ]


def similarity(before, after, some, device=CPU, batch_size=4, **options):
    others = {"after": after}
    options |= {"pad_token_id": 0, "batch_size": batch_size}
    return compare(before, others, some, device, **options)["after"]


def plain(before, after, some, drop_special):
    """(mean, std, n): one example, one head and one row at a time, in numpy and float64."""
    found = {metric: [] for metric in METRICS}

    def entropy(row):
        return -sum(x * np.log2(x) for x in row if x > 0)

    for example in some:
        kept = [not (drop_special and special) for special in example["special"]]
        if not any(kept):
            continue
        ids = torch.tensor([example["input_ids"]])
        with torch.inference_mode():
            pair = [m(ids, output_attentions=True).attentions for m in (before, after)]
        values = np.empty((len(METRICS), LAYERS, HEADS))
        for layer in range(LAYERS):
            for head in range(HEADS):
                a, b = (maps[layer][0, head].double().numpy()[kept][:, kept] for maps in pair)
                a, b = (m / m.sum(1, keepdims=True) for m in (a, b))
                norms = np.linalg.norm(a) * np.linalg.norm(b)
                values[0, layer, head] = a.ravel() @ b.ravel() / norms
                rows = list(zip(a, b, strict=True))
                values[1, layer, head] = np.mean(
                    [entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2 for p, q in rows]
                )
                values[2, layer, head] = np.mean([entropy(p) for p in a])
                values[3, layer, head] = np.mean([entropy(q) for q in b])
        for metric, value in zip(METRICS, values, strict=True):
            found[metric].append(value)
    n = len(found["cosine"])
    mean = {metric: np.mean(values, axis=0) for metric, values in found.items()}
    return mean, {metric: np.std(values, axis=0, ddof=1) for metric, values in found.items()}, n


@pytest.mark.parametrize("drop_special", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_a_plain_loop(encoder, kind, drop_special):
    before, after, some = encoder(kind), encoder(kind, seed=1), examples()
    found = similarity(before, after, some, drop_special=drop_special)
    mean, std, n = plain(before, after, some, drop_special)
    assert list(found.mean) == list(found.std) == list(METRICS)
    for metric in METRICS:
        assert found.mean[metric].dtype == np.float64
        np.testing.assert_allclose(found.mean[metric], mean[metric], atol=1e-6, err_msg=metric)
        np.testing.assert_allclose(found.std[metric], std[metric], atol=1e-6, err_msg=metric)
    assert (found.n, found.skipped) == (n, len(some) - n)
    assert n == (len(some) if not drop_special else len(some) - 1)  # the first: one special token
    assert found.empty_rows == 0
    assert mean["js"].max() > 1e-3 and mean["cosine"].min() < 0.999  # there is something to see


@pytest.mark.parametrize("kind", KINDS)
def test_batch_size_order_and_padding_change_nothing(encoder, kind, monkeypatch):
    before, after = encoder(kind), encoder(kind, seed=1)
    # With the long one in a batch, the others are padding for the most part.
    some = [*examples(), {"input_ids": [7] * 60, "special": [True, False] * 30}]
    for drop_special in (False, True):
        options = {"drop_special": drop_special}
        alone = similarity(before, after, some, batch_size=1, **options)
        together = [
            similarity(before, after, some[::-1], batch_size=size, **options) for size in (3, 20)
        ]
        with monkeypatch.context() as patch:
            patch.setattr(attention_maps, "MAPS_BYTES", 2**19)  # few long ones at a time
            together.append(similarity(before, after, some, batch_size=20, **options))
        for found in together:
            assert found.n == alone.n
            for a, b in ((alone.mean, found.mean), (alone.std, found.std)):
                np.testing.assert_allclose([*a.values()], [*b.values()], atol=1e-6)


def test_token_types_reach_the_model(encoder):
    before, after = encoder("bert"), encoder("bert", seed=1)
    some = [{"input_ids": [5, 6, 7, 8], "token_type_ids": [0, 0, 1, 1]}]
    without = [{"input_ids": [5, 6, 7, 8]}]
    a, b = (similarity(before, after, e).mean["cosine"] for e in (some, without))
    assert np.abs(a - b).max() > 1e-6


def test_two_tokens_by_hand():
    """Each value worked out on paper; a third token is padding, whatever attention it gets."""
    p = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])[None, None]
    q = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0], [0.9, 0.1, 0.0]])[None, None]
    kept = torch.tensor([[True, True, False]])
    *values, rows = head_metrics(distributions(p, kept), distributions(q, kept), kept)[:, 0, 0]
    # p.q = 0 + 0.5, |p|^2 = |q|^2 = 1.5; JS 1 and 0 bits; entropies 0 and 1 bit
    np.testing.assert_allclose(values, [1 / 3, 0.5, 0.5, 0.5], atol=1e-7)
    assert rows == 2


def test_special_tokens_are_left_out_and_rows_scaled():
    p = torch.tensor([[0.6, 0.2, 0.2], [0.9, 0.1, 0.0], [0.8, 0.1, 0.1]])[None, None]
    kept = torch.tensor([[False, True, True]])
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    torch.testing.assert_close(distributions(p, kept)[0, 0], expected)


def test_a_row_without_attention_to_kept_tokens_is_left_out_of_both_maps():
    p = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.25, 0.25]])[None, None]
    q = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.25, 0.25]])[None, None]
    kept = torch.tensor([[False, True, True]])
    p, q = distributions(p, kept), distributions(q, kept)
    assert head_metrics(p, q, kept)[:, 0, 0].tolist() == [1.0, 0.0, 1.0, 1.0, 1]
    assert head_metrics(torch.zeros_like(p), q, kept)[-1].item() == 0


class Fixed(torch.nn.Module):
    """An encoder of one layer and head that gives every example the same map."""

    def __init__(self, rows):
        super().__init__()
        names = {"model_type": "bert", "num_hidden_layers": 1, "num_attention_heads": 1}
        self.config, self.rows = type("Config", (), names), torch.tensor(rows)[None, None]

    def forward(self, input_ids, attention_mask, output_attentions):
        maps = self.rows.expand(len(input_ids), -1, -1, -1)
        return type("Output", (), {"attentions": (maps,)})


def test_examples_of_empty_rows_only_do_not_count():
    before, after = Fixed([[1.0, 0.0], [1.0, 0.0]]), Fixed([[1.0, 0.0], [0.5, 0.5]])
    some = [{"input_ids": [1, 2], "special": [True, False]}] * 3
    found = similarity(before, after, some, drop_special=True)
    assert found.n == found.empty_rows == 3
    assert np.isnan(found.mean["cosine"]).all()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_against_itself(encoder, kind, precision):
    """Exactly: of the same weights loaded twice, in batches."""
    device, some = choose_device("cpu", precision), examples()
    for drop_special in (False, True):
        found = similarity(
            encoder(kind), encoder(kind), some, device=device, drop_special=drop_special
        )
        assert (found.mean["cosine"] == 1).all() and (found.std["cosine"] == 0).all()
        assert (found.mean["js"] == 0).all() and (found.std["js"] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_is_close(encoder, kind):
    before, after, some = encoder(kind), encoder(kind, seed=1), examples()
    exact = similarity(before, after, some)
    found = similarity(before, after, some, device=choose_device("cpu", "bf16"))
    for metric in METRICS:
        np.testing.assert_allclose(found.mean[metric], exact.mean[metric], atol=0.03)


def test_disjoint_maps():
    before, after = Fixed(np.eye(2, dtype=np.float32)), Fixed([[0.0, 1.0], [1.0, 0.0]])
    found = similarity(before, after, [{"input_ids": [1, 2]}])
    assert found.mean["js"].item() == pytest.approx(1, abs=1e-12)
    assert found.mean["cosine"].item() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_one_heads_query_weights_move_its_cell_alone(encoder, kind):
    before, after = encoder(kind), encoder(kind)
    with torch.no_grad():
        if kind == "gpt2":  # [hidden, query + key + value]
            weight = after.h[-1].attn.c_attn.weight.T[:32]
        elif kind == "biogpt":
            weight = after.layers[-1].self_attn.q_proj.weight
        else:
            weight = after.encoder.layer[-1].attention.self.query.weight
        weight[16:] += torch.randn(16, 32)  # the second of two heads
    found = similarity(before, after, examples()).mean
    changed = np.zeros((LAYERS, HEADS), bool)
    changed[-1, 1] = True
    np.testing.assert_array_equal(found["cosine"] != 1, changed)
    np.testing.assert_array_equal(found["js"] != 0, changed)


def test_pretrained_runs_once_for_several_others(encoder, monkeypatch):
    before, calls = encoder("bert"), []
    before.register_forward_hook(lambda *_: calls.append(1))
    others = {10: encoder("bert"), "floor": encoder("bert", seed=1)}
    found = compare(before, others, examples(), CPU, pad_token_id=0, batch_size=9)
    assert len(calls) == 1 and list(found) == [10, "floor"]
    assert (found[10].mean["cosine"] == 1).all() and (found["floor"].mean["cosine"] < 1).all()
    alone = compare(before, {0: others["floor"]}, examples(), CPU, pad_token_id=0, batch_size=9)
    np.testing.assert_array_equal(alone[0].mean["cosine"], found["floor"].mean["cosine"])


@pytest.mark.parametrize("kind", KINDS)
def test_one_token(encoder, kind):
    one = {"input_ids": [7]}
    found = similarity(encoder(kind), encoder(kind, seed=1), [one])
    assert (found.mean["cosine"] == 1).all() and (found.mean["js"] == 0).all()
    assert found.n == 1 and np.isnan(found.std["cosine"]).all()


def test_examples_without_tokens_are_skipped_and_counted(encoder):
    before, after, some = encoder("gpt2"), encoder("gpt2", seed=1), examples()
    empty = {"input_ids": [], "special": []}
    found = similarity(before, after, [empty, *some, empty])
    assert (found.n, found.skipped) == (len(some), 2)
    expected = similarity(before, after, some).mean["cosine"]
    np.testing.assert_array_equal(found.mean["cosine"], expected)
    with pytest.raises(UserError, match="none of 2 examples"):
        similarity(before, after, [empty] * 2)


def test_out_of_memory_halves_the_pieces_and_counts_nothing_twice(encoder, monkeypatch):
    before, after, some = encoder("bert"), encoder("bert", seed=1), examples()
    expected, forward, sizes = similarity(before, after, some), after.forward, []

    def small(input_ids, **inputs):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise RuntimeError("CUDA out of memory")
        return forward(input_ids=input_ids, **inputs)

    monkeypatch.setattr(after, "forward", small)
    found = similarity(before, after, some, batch_size=8)
    assert sizes == [8, 4, 2, 2, 2, 2, 1] and found.n == expected.n
    np.testing.assert_allclose(found.mean["js"], expected.mean["js"], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_without_maps_fails_loudly(encoder, kind):
    eager, sdpa = encoder(kind), encoder(kind, implementation="sdpa")
    for before, after in ((eager, sdpa), (sdpa, eager)):
        with pytest.raises(ValueError, match="attn_implementation='eager'"):
            similarity(before, after, examples())


def test_what_cannot_be_compared(encoder):
    before, some = encoder("bert"), examples()
    with pytest.raises(ValueError, match="cannot be compared"):
        similarity(before, encoder("bert", layers=2), some)
    with pytest.raises(ValueError, match="special"):
        similarity(before, before, [{"input_ids": [1]}], drop_special=True)
    broken = encoder("bert")
    broken.encoder.layer[1].attention.self.query.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="layer 2 has NaN"):
        similarity(before, broken, some)


def test_killed_and_called_again_it_resumes(encoder, monkeypatch, tmp_path):
    before, others = encoder("bert"), {30: encoder("bert", 1), "random": encoder("bert", 2)}
    some, options = examples(12), {"pad_token_id": 0, "batch_size": 2}
    whole = compare(before, others, some, CPU, **options)
    monkeypatch.setattr(attention_maps, "SAVE_SECONDS", 0)
    calls, outputs, file = [], attention_maps.outputs, tmp_path / "sums.npz"

    def counted(model, *rest):
        calls.append(model)
        if len(calls) == 10:  # three models a batch: the fourth batch's first
            raise KeyboardInterrupt
        return outputs(model, *rest)

    monkeypatch.setattr(attention_maps, "outputs", counted)
    with pytest.raises(KeyboardInterrupt):
        compare(before, others, some, CPU, file=file, **options)
    for passes in (9, 0):  # three batches are left; a finished comparison is there at once
        calls[:] = [None] * 10
        again = compare(before, others, some, CPU, file=file, **options)
        assert len(calls) == 10 + passes
        for key in others:
            assert again[key][2:] == whole[key][2:]
            for metric in METRICS:
                np.testing.assert_array_equal(again[key].mean[metric], whole[key].mean[metric])
                np.testing.assert_array_equal(again[key].std[metric], whole[key].std[metric])
    compare(before, {30: others[30]}, some, CPU, file=file, **options)
    assert len(calls) == 10 + 12  # the sums of other models are no start


def test_encoders_are_compared_in_groups_that_memory_holds(encoder, monkeypatch):
    """One pre-trained beside as many others as half of the free memory has room for."""
    model = encoder("bert")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    for room, expected in ((8, [[1, 2, 3], [4, 5]]), (0, [[1], [2], [3], [4], [5]])):
        monkeypatch.setattr(attention_maps, "free_memory", lambda device, n=room: n * size)
        assert attention_maps.groups([1, 2, 3, 4, 5], model, CPU) == expected


def test_a_model_beside_itself_is_not_run_twice(encoder):
    model, calls = encoder("bert"), []
    model.register_forward_hook(lambda *_: calls.append(1))
    found = similarity(model, model, [{"input_ids": [5, 6, 7]}])
    assert len(calls) == 1 and (found.mean["cosine"] == 1).all()
