"""Features against a plain loop over the library's own outputs, one example and layer at a time."""

import shutil

import numpy as np
import pytest
import torch

from common import features, memory, models
from common.cli import UserError
from common.device import choose_device
from NER import alignment
from NLI.encoding import encode_texts

CPU = choose_device("cpu", "fp32")
KINDS = ("bert", "gpt2", "biogpt")
WORDS = [
    ["IL-2", "gene", "expression", "requires", "NF-kappa", "B", "."],
    ["The", "\u200b", "", "glucocorticoid", "receptor"],  # BERT has no piece for the second word
    ["", ""],
    [],
    ["cells"],
    [*("transcription-factor-binding" for _ in range(60)), "cut"],
]
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
    """All layers' features, the same on disk and in memory."""
    layers = list(range(encoder.config.num_hidden_layers + 1))
    both = []
    for keep in (True, False):
        (group,) = map(
            dict, features.groups(encoder, encoded, layers, device, batch_size, folder, keep)
        )
        both.append(group)
        shutil.rmtree(folder, ignore_errors=True)
    assert all(np.array_equal(both[0][layer], both[1][layer]) for layer in layers)
    return both[1]


@pytest.mark.parametrize("pooling", ("mean", "first", "last"))
def test_words_equal_a_plain_loop(loaded, tmp_path, pooling):
    encoder, tokenizer = loaded
    encoded, counts = alignment.encode(WORDS, tokenizer, 40)
    for row in encoded:
        row["units"] = alignment.units(row, pooling)
    by_layer = extract(encoder, encoded, tmp_path / "features")
    expected = {layer: [] for layer in by_layer}
    seen = 0
    for words in WORDS:
        # Independent of NER.alignment: pieces word by word, until the room of 40 is used up.
        pieces = [
            tokenizer([w], is_split_into_words=True, add_special_tokens=False)["input_ids"]
            for w in words
        ]
        frame = tokenizer(["x"], is_split_into_words=True)["input_ids"]
        bare = tokenizer(["x"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
        head = frame.index(bare[0])
        tail = frame[head + len(bare) :]
        ids, spans = frame[:head], []
        for piece in pieces:
            if len(ids) + len(piece) + len(tail) > 40:
                break
            if piece:
                spans.append((len(ids), len(ids) + len(piece)))
            ids = ids + piece
        if not spans:
            continue
        for layer, state in enumerate(states(encoder, ids + tail)):
            for a, b in spans:
                vector = {"mean": state[a:b].mean(0), "first": state[a], "last": state[b - 1]}
                expected[layer].append(vector[pooling])
        seen += len(spans)
    assert seen and counts["truncated_words"] > 0 and counts["empty_words"] > 0
    for layer, vectors in by_layer.items():
        assert vectors.dtype == np.float16 and len(vectors) == seen
        np.testing.assert_allclose(vectors, expected[layer], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("pooling", ("mean", "cls", "last"))
def test_sentences_equal_a_plain_loop(loaded, tmp_path, pooling):
    encoder, tokenizer = loaded
    encoded, counts = encode_texts(TEXTS, tokenizer, 50, pooling)
    by_layer = extract(encoder, encoded, tmp_path / "features")
    assert counts["truncated_texts"] == 1 and max(len(e["input_ids"]) for e in encoded) == 50
    for row, text in enumerate(TEXTS[:2]):
        for layer, state in enumerate(states(encoder, tokenizer(text)["input_ids"])):
            vector = {"mean": state.mean(0), "cls": state[0], "last": state[-1]}[pooling]
            np.testing.assert_allclose(by_layer[layer][row], vector, atol=2e-3, rtol=1e-3)


def test_features_do_not_depend_on_batches_or_order(loaded, tmp_path):
    encoder, tokenizer = loaded
    encoded, _ = encode_texts(TEXTS + ["One more.", "And another one."], tokenizer, 50, "mean")
    one = extract(encoder, encoded, tmp_path / "one", batch_size=1)
    many = extract(encoder, encoded[::-1], tmp_path / "many", batch_size=6)
    for layer in one:
        np.testing.assert_allclose(one[layer], many[layer][::-1], atol=2e-3, rtol=1e-3)


def test_bf16_is_close_to_fp32(loaded, tmp_path):
    encoder, tokenizer = loaded
    encoded, _ = encode_texts(TEXTS, tokenizer, 50, "mean")
    exact = extract(encoder, encoded, tmp_path / "fp32")
    bf16 = extract(encoder, encoded, tmp_path / "bf16", device=choose_device("cpu", "bf16"))
    for layer in exact:
        a, b = (np.array(f[layer], np.float64) for f in (exact, bf16))
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.min() > 0.999


@pytest.fixture
def bert(checkpoint):
    """(encoder, encoded texts, bytes of a layer's features)."""
    encoder, tokenizer = models.load_encoder(str(checkpoint("bert")))
    encoded, _ = encode_texts(TEXTS, tokenizer, 50, "mean")
    return encoder, encoded, 2 * len(TEXTS) * encoder.config.hidden_size


@pytest.fixture
def passes(monkeypatch):
    """The layers of each forward pass."""
    layers, pooled = [], features.pooled

    def counted(*given):
        layers.append(given[2])
        return pooled(*given)

    monkeypatch.setattr(features, "pooled", counted)
    return layers


def test_kept_features_are_used_again_only_for_the_same_inputs(bert, passes, tmp_path):
    encoder, encoded, _ = bert

    def passed(encoded=encoded, layers=(0, 1), device=CPU, keep=True):
        passes.clear()
        for _ in features.groups(encoder, encoded, list(layers), device, 4, tmp_path / "f", keep):
            pass
        return bool(passes)

    assert passed(layers=[1]) and not passed(layers=[1])
    assert passed() and not passed() and not passed(layers=[1])
    assert len(list((tmp_path / "f").glob("*.npy"))) == 2
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
    assert passed(device=bf16, keep=False) and passed(device=bf16, keep=False)
    assert not passed(layers=[])


@pytest.fixture
def room(monkeypatch):
    """Sets what is free, in bytes: (memory, disk, GPU)."""

    def free(in_memory, on_disk, on_gpu=0):
        usage = shutil.disk_usage("/")._replace(free=on_disk)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        monkeypatch.setattr(memory, "available_memory", lambda: in_memory)
        monkeypatch.setattr(features, "free_memory", lambda device: on_gpu)

    return free


def test_where_features_are_kept(bert, tmp_path, monkeypatch, room, caplog):
    """In a quarter of what the GPU or memory has free, else on disk; or some layers at a time."""
    encoder, encoded, one = bert
    gpu = CPU._replace(torch_device=torch.device("cuda"))

    def place(device=CPU, keep=False):
        return features._place(encoder, encoded, 3, device, tmp_path / "f", keep)

    big = 100 * one
    for free, device, expected in (
        ((big, big, big), gpu, ("on the GPU", 3)),
        ((12 * one, big, 12 * one - 1), gpu, ("in memory", 3)),
        ((12 * one, 0), CPU, ("in memory", 3)),
        ((12 * one - 1, 4 * one), CPU, ("on disk", 3)),
        ((11 * one, 2 * one), CPU, ("in memory", 2)),
        ((4 * one, 3 * one), CPU, ("on disk", 2)),
        ((0, big), CPU, ("on disk", 3)),
    ):
        room(*free)
        assert place(device) == expected
    room(big, big, big)
    assert place(gpu, keep=True) == ("on disk", 3)
    monkeypatch.setattr(memory, "JOBS", 20)  # processes that share it
    assert place(gpu)[0] == "on disk"
    with caplog.at_level("INFO"):
        room(44 * 20 * one // 10, 2 * one)
        assert place() == ("in memory", 1)
    assert "3 layers x" in caplog.text and "1 layers at a time" in caplog.text


@pytest.mark.parametrize("keep", (False, True))
def test_no_room_is_refused_before_anything_runs(bert, passes, tmp_path, room, keep):
    encoder, encoded, _ = bert
    room(100, 100)
    with pytest.raises(UserError, match="--layers last") as error:
        next(features.groups(encoder, encoded, [0, 1], CPU, 4, tmp_path / "f", keep))
    assert ("--keep_features" in str(error.value)) == keep and not passes


@pytest.mark.parametrize(("where", "free"), (("memory", (4, 0)), ("disk", (0, 1.1))))
def test_layers_in_groups_are_those_of_one_pass(bert, passes, tmp_path, room, where, free):
    encoder, encoded, one = bert
    whole = extract(encoder, encoded, tmp_path / "f")
    passes.clear()
    room(*(int(number * one) for number in free))
    seen = {}
    for group in features.groups(encoder, encoded, [0, 1], CPU, 4, tmp_path / "f", False):
        assert len(group) == 1 and (tmp_path / "f").exists() == (where == "disk")
        seen |= {layer: np.array(vectors) for layer, vectors in group.items()}
        last = group
    assert not last and not (tmp_path / "f").exists() and passes == [[0], [1]]
    assert all(np.array_equal(seen[layer], whole[layer]) for layer in whole)


def test_a_group_on_disk_serves_the_process_that_follows_a_killed_one(bert, passes, tmp_path, room):
    encoder, encoded, one = bert
    room(0, int(1.1 * one))
    given = (CPU, 4, tmp_path / "f", False)
    killed = features.groups(encoder, encoded, [0, 1], *given)
    next(killed), next(killed)  # layer 0 is done, layer 1 on disk
    passes.clear()
    (again,) = (list(group) for group in features.groups(encoder, encoded, [1], *given))
    assert again == [1] and not passes and not (tmp_path / "f").exists()


def test_a_full_disk_is_named_before_anything_runs(bert, passes, tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    encoder, encoded, _ = bert
    monkeypatch.setattr(features.os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="layer-00.npy"):
        next(features.groups(encoder, encoded, [0, 1], CPU, 4, tmp_path / "f", True))
    assert not passes


def test_values_beyond_float16_are_refused(bert, tmp_path):
    encoder, encoded, _ = bert
    with torch.no_grad():
        encoder.encoder.layer[-1].output.LayerNorm.bias.fill_(1e6)
    with pytest.raises(UserError, match="float16"):
        extract(encoder, encoded, tmp_path / "f")
