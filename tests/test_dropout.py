"""Our dropout against what it says it does, and its attention against torch's."""

import pytest
import torch
from torch.nn import functional as F

from common.dropout import attention, dropout, fast_dropout

CPU = torch.device("cpu")


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_dropped_and_the_rest_keeps_the_mean(p, dtype):
    torch.manual_seed(0)
    found = dropout(torch.ones(1000, 1001, dtype=dtype), p)
    p = round(p * 2**16) / 2**16
    dropped = found == 0
    assert dropped.float().mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / 1e6) ** 0.5)
    assert torch.equal(found[~dropped], torch.full_like(found[~dropped], 1 / (1 - p)))
    # independent from one element to the next, which share 64 bits
    flat = dropped.flatten().float() - p
    for distance in (1, 2, 3, 4):
        correlation = (flat[distance:] * flat[:-distance]).mean() / (p * (1 - p))
        assert abs(correlation) < 5e-3


def test_gradients_pass_where_values_do():
    x = torch.randn(7, 9, requires_grad=True)
    found = dropout(x, 0.3)
    found.backward(torch.ones_like(found))
    assert torch.allclose(x.grad, found.detach() / x.detach(), rtol=1e-5)


def test_the_seed_decides():
    torch.manual_seed(3)
    one = dropout(torch.ones(50), 0.5)
    other = dropout(torch.ones(50), 0.5)
    torch.manual_seed(3)
    assert torch.equal(dropout(torch.ones(50), 0.5), one) and not torch.equal(one, other)


def test_attention_equals_torchs():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, n, 5, 8) for n in (4, 2, 2))
    seen = torch.rand(2, 1, 5, 5) < 0.6
    seen[..., 0] = True
    added = torch.randn(2, 1, 5, 5)
    for options in ({"is_causal": True}, {"attn_mask": seen}, {"attn_mask": added, "scale": 0.3}):
        expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)
        assert torch.allclose(attention(q, k, v, enable_gqa=True, **options), expected, atol=1e-6)


def test_models_get_it_in_training_alone():
    layer = torch.nn.TransformerEncoderLayer(8, 2, dropout=0.4, batch_first=True)
    x = torch.randn(3, 5, 8)
    with fast_dropout(layer):
        torch.manual_seed(1)
        one = layer(x)
        torch.manual_seed(1)
        assert torch.equal(layer(x), one)
        assert F.dropout(x, 0.5, training=False) is x
    torch.manual_seed(1)
    assert not torch.equal(layer(x), one)  # other numbers of the same generator
    with torch.no_grad(), fast_dropout(layer):
        assert torch.allclose(layer.eval()(x), layer(x))


def test_with_checkpointing_it_is_torchs(monkeypatch):
    import argparse
    from contextlib import nullcontext

    import transformers

    from common.device import Device
    from common.training import loop, losses

    flags = argparse.Namespace(learning_rate=1e-3, weight_decay=0.0, max_grad_norm=1e9)
    rows = [{"input_ids": [3, 5, 7, 9], "labels": [0, 1, 0, 1]}] * 4
    gradients = []
    for checkpointing in (True, False):
        torch.manual_seed(0)
        config = transformers.GPT2Config(
            vocab_size=20, n_embd=16, n_layer=2, n_head=2, pad_token_id=0
        )
        model = transformers.GPT2ForTokenClassification(config)
        if checkpointing:
            model.gradient_checkpointing_enable()
        else:
            monkeypatch.setattr(loop, "fast_dropout", lambda model: nullcontext())
        trainer = loop.Trainer(model, flags, Device(CPU, "fp32"), losses.cross_entropy, 1.0)
        torch.manual_seed(1)
        trainer._gradients(rows, 16, 4)
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-7)
