"""Features against a plain loop over the library's own outputs, one example and layer at a time."""

import errno

import numpy as np
import pytest
import torch

from common import features, models
from common.cli import UserError
from common.device import choose_device
from common.texts import encode_texts
from NER import alignment

CPU = choose_device("cpu", "fp32")
KINDS = ("bert", "gpt2", "biogpt")
TEXTS = ["Chest pain.", "The patient denies fever and chills.", "", "x " * 300]


@pytest.fixture(params=KINDS)
def loaded(request, checkpoint):
    return models.load_encoder(str(checkpoint(request.param)))


def states(encoder, ids):
    """Every layer's `[tokens, hidden]` of one example without padding, in float64."""
    with torch.inference_mode():
        output = encoder(input_ids=torch.tensor([ids]), output_hidden_states=True)
    return [state[0].double().numpy() for state in output.hidden_states]


def extract(encoder, encoded, folder, batch_size=4, device=CPU):
    """All layers' features, in a folder of their own."""
    layers = list(range(encoder.config.num_hidden_layers + 1))
    return features.extract(encoder, encoded, layers, device, batch_size, folder)


def test_units_equal_a_plain_loop(loaded, tmp_path):
    encoder, _ = loaded
    rng, encoded, expected = np.random.default_rng(0), [], [[], []]
    for n in (3, 40, 1, 0, 7, 12, 5):
        units = [(i, min(i + 3, n)) for i in range(0, n, 2)] if n != 7 else []
        encoded.append({"input_ids": rng.integers(5, 250, n).tolist(), "units": units})
        for layer, state in enumerate(states(encoder, encoded[-1]["input_ids"]) if units else ()):
            expected[layer] += [state[a:b].mean(0) for a, b in units]
    for layer, vectors in extract(encoder, encoded, tmp_path / "f").items():
        assert vectors.dtype == np.float16
        np.testing.assert_allclose(vectors, expected[layer], atol=2e-3, rtol=1e-3)


def test_units_of_words_and_texts(loaded):
    row = {"words": [(1, 3), None, (3, 4)]}
    assert alignment.units(row, "mean") == [(1, 3), (3, 4)]
    assert alignment.units(row, "first") == [(1, 2), (3, 4)]
    assert alignment.units(row, "last") == [(2, 3), (3, 4)]
    ids = loaded[1](TEXTS[0])["input_ids"]
    n = len(ids)
    for pooling, unit in (("mean", (0, n)), ("cls", (0, 1)), ("last", (n - 1, n))):
        (row,), _ = encode_texts(TEXTS[:1], loaded[1], 50, pooling)
        assert row["input_ids"] == ids and row["units"] == [unit]


def test_batches_order_and_precision_hardly_change_them(loaded, tmp_path):
    encoder, tokenizer = loaded
    encoded, _ = encode_texts(TEXTS + ["One more.", "And another one."], tokenizer, 50, "mean")
    one = extract(encoder, encoded, tmp_path / "one", batch_size=1)
    many = extract(encoder, encoded[::-1], tmp_path / "many", batch_size=6)
    bf16 = extract(encoder, encoded, tmp_path / "bf16", device=choose_device("cpu", "bf16"))
    for layer in one:
        np.testing.assert_allclose(one[layer], many[layer][::-1], atol=2e-3, rtol=1e-3)
        a, b = (np.array(f[layer], np.float64) for f in (one, bf16))
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.999


@pytest.fixture
def bert(checkpoint):
    """(encoder, encoded texts, an item for each forward pass)."""
    encoder, tokenizer = models.load_encoder(str(checkpoint("bert")))
    encoded, _ = encode_texts(TEXTS, tokenizer, 50, "mean")
    passes = []
    encoder.register_forward_hook(lambda *_: passes.append(1))
    return encoder, encoded, passes


def test_errors(bert, tmp_path, monkeypatch):
    encoder, encoded, passes = bert
    with torch.no_grad():
        encoder.encoder.layer[-1].output.LayerNorm.bias.fill_(1e6)
    with pytest.raises(UserError, match="layer 1 has values beyond float16"):
        extract(encoder, encoded, tmp_path / "f")
    passes.clear()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(features.os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left") as error:
        extract(encoder, encoded, tmp_path / "f")
    assert error.value.filename == str(tmp_path / "f" / "layer-00.npy") and not passes
