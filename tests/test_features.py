"""Features against a plain loop over the library's own outputs, one example and layer at a time."""

import shutil

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


def extract(encoder, encoded, folder, batch_size=4, device=CPU, keep=False):
    """All layers' features; the groups that they come in are put together."""
    layers, found = list(range(encoder.config.num_hidden_layers + 1)), {}
    for group in features.groups(encoder, encoded, layers, device, batch_size, folder, keep):
        found |= {layer: np.array(vectors) for layer, vectors in group.items()}
    assert list(found) == layers and folder.exists() == keep
    return found


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
    one = extract(encoder, encoded, tmp_path / "f", batch_size=1)
    many = extract(encoder, encoded[::-1], tmp_path / "f", batch_size=6)
    bf16 = extract(encoder, encoded, tmp_path / "f", device=choose_device("cpu", "bf16"))
    for layer in one:
        np.testing.assert_allclose(one[layer], many[layer][::-1], atol=2e-3, rtol=1e-3)
        a, b = (np.array(f[layer], np.float64) for f in (one, bf16))
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.999


@pytest.fixture
def bert(checkpoint):
    """(encoder, encoded texts, bytes of a layer's features, an item for each forward pass)."""
    encoder, tokenizer = models.load_encoder(str(checkpoint("bert")))
    encoded, _ = encode_texts(TEXTS, tokenizer, 50, "mean")
    passes = []
    encoder.register_forward_hook(lambda *_: passes.append(1))
    return encoder, encoded, 2 * len(TEXTS) * encoder.config.hidden_size, passes


def test_kept_features_are_used_again_only_for_the_same_inputs(bert, tmp_path):
    encoder, encoded, _, passes = bert

    def passed(encoded=encoded, layers=(0, 1), device=CPU, keep=True):
        passes.clear()
        for _ in features.groups(encoder, encoded, list(layers), device, 4, tmp_path / "f", keep):
            pass
        return bool(passes)

    assert passed(layers=[1]) and not passed(layers=[1])
    assert passed() and not passed() and not passed(layers=[1]) and not passed(layers=[])
    assert passed(encoded=encoded[:2]) and passed()
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight[7, 3] += 1e-3
    assert passed() and not passed()
    for lost in ("complete.json", "layer-00.npy"):  # killed before the end; deleted for space
        (tmp_path / "f" / lost).unlink()
        assert passed() and not passed()
    bf16 = choose_device("cpu", "bf16")
    assert passed(device=bf16) and not passed(device=bf16)
    assert not passed(device=bf16, keep=False) and not (tmp_path / "f").exists()


def free(monkeypatch, size):
    usage = shutil.disk_usage("/")._replace(free=size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_layers_in_groups_are_those_of_one_pass(bert, tmp_path, monkeypatch):
    encoder, encoded, one, passes = bert
    whole = extract(encoder, encoded, tmp_path / "f")
    passes.clear()
    free(monkeypatch, 2 * one)  # of which 95 % are for features
    grouped = extract(encoder, encoded, tmp_path / "f")
    assert len(passes) == 2 and all(np.array_equal(grouped[n], whole[n]) for n in whole)
    passes.clear()
    killed = features.groups(encoder, encoded, [0, 1], CPU, 4, tmp_path / "f", False)
    first = next(killed)
    assert [*first] == [0] and [*next(killed)] == [1] and not first  # layer 0's space is free
    again = features.groups(encoder, encoded, [1], CPU, 4, tmp_path / "f", False)
    assert [[*group] for group in again] == [[1]] and len(passes) == 2


def test_errors(bert, tmp_path, monkeypatch):
    encoder, encoded, one, passes = bert
    with torch.no_grad():
        encoder.encoder.layer[-1].output.LayerNorm.bias.fill_(1e6)
    with pytest.raises(UserError, match="layer 1 has values beyond float16"):
        extract(encoder, encoded, tmp_path / "f")
    passes.clear()
    for size, keep in ((one, False), (2 * one, True)):
        free(monkeypatch, size)
        with pytest.raises(UserError, match="Free some space"):
            extract(encoder, encoded, tmp_path / "f", keep=keep)
    assert not passes
