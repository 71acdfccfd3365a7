"""Features against a plain loop over the library's own outputs, one example and layer at a time."""

import shutil
from argparse import Namespace

import numpy as np
import pytest
import torch

from common import features, memory, models, probe_scores
from common.cli import UserError
from common.device import choose_device, set_seed
from NER import task as ner
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


def example(words):
    return ner.Example("", words, ["O"] * len(words))


def states(encoder, ids):
    """Every layer's `[tokens, hidden]` of one example without padding, in float64."""
    with torch.inference_mode():
        found = encoder(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    return [state[0].double().numpy() for state in found]


def extract(encoder, encoded, folder, chosen=None, batch_size=4, device=CPU):
    chosen = list(range(encoder.config.num_hidden_layers + 1)) if chosen is None else chosen
    found = [
        features.extract(encoder, encoded, chosen, device, batch_size, where, kept)
        for where, kept in ((folder, features.DISK), (folder / "-", features.MEMORY))
    ]
    assert all(np.array_equal(found[0][layer], found[1][layer]) for layer in chosen)
    return found[0]


@pytest.mark.parametrize("pooling", ("mean", "first", "last"))
def test_words_equal_a_plain_loop(loaded, tmp_path, pooling):
    encoder, tokenizer = loaded
    data = ner.Data({}, ["O"], False)
    targets = {"task": {"train": [example(w) for w in WORDS]}}
    inputs = ner.probe_inputs(data, targets, tokenizer, 40, Namespace(pooling=pooling))
    encoded, counts = inputs.encoded, inputs.counts
    features = extract(encoder, encoded, tmp_path / "features")
    expected = {layer: [] for layer in features}
    seen = 0
    for words in WORDS:
        # Independent of NER.alignment: pieces word by word, until the room of 40 is used up.
        pieces = [tokenizer([w], is_split_into_words=True, add_special_tokens=False)["input_ids"]
                  for w in words]  # fmt: skip
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
    assert seen and counts["train_truncated_words"] > 0 and counts["train_empty_words"] > 0
    for layer, vectors in features.items():
        assert vectors.dtype == np.float16 and len(vectors) == seen
        np.testing.assert_allclose(vectors, expected[layer], atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("pooling", ("mean", "cls", "last"))
def test_sentences_equal_a_plain_loop(loaded, tmp_path, pooling):
    encoder, tokenizer = loaded
    encoded, counts = encode_texts(TEXTS, tokenizer, 50, pooling)
    features = extract(encoder, encoded, tmp_path / "features")
    assert counts["truncated_texts"] == 1 and max(len(e["input_ids"]) for e in encoded) == 50
    for row, text in enumerate(TEXTS[:2]):
        for layer, state in enumerate(states(encoder, tokenizer(text)["input_ids"])):
            vector = {"mean": state.mean(0), "cls": state[0], "last": state[-1]}[pooling]
            np.testing.assert_allclose(features[layer][row], vector, atol=2e-3, rtol=1e-3)


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


def test_features_are_used_again_only_for_the_same_inputs(checkpoint, tmp_path, monkeypatch):
    encoder, tokenizer = models.load_encoder(str(checkpoint("bert")))
    encoded, _ = encode_texts(TEXTS, tokenizer, 50, "mean")
    passes = []
    pooled = features.pooled
    monkeypatch.setattr(features, "pooled", lambda *given: passes.append(1) or pooled(*given))

    def ran(**changes):
        passes.clear()
        given = {"encoded": encoded, "chosen": [0, 1], "device": CPU} | changes
        features.extract(
            encoder, given["encoded"], given["chosen"], given["device"], 4, tmp_path / "f"
        )
        return bool(passes)

    assert ran(chosen=[1]) and not ran(chosen=[1])
    assert ran() and not ran() and not ran(chosen=[1])
    assert len(list((tmp_path / "f").glob("*.npy"))) == 2
    assert ran(encoded=encoded[:2]) and ran()
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight[7, 3] += 1e-3
    assert ran() and not ran()
    (tmp_path / "f" / "complete.json").unlink()  # killed before the end
    assert ran()
    bf16 = choose_device("cpu", "bf16")
    assert ran(device=bf16) and not ran(device=bf16)


@pytest.fixture
def room(monkeypatch):
    """Sets what is free, in bytes: (memory, disk, GPU)."""

    def free(in_memory, on_disk, on_gpu=0):
        usage = shutil.disk_usage("/")._replace(free=on_disk)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        monkeypatch.setattr(memory, "available_memory", lambda: in_memory)
        monkeypatch.setattr(features, "free_memory", lambda device: on_gpu)

    return free


def test_where_features_are_kept(checkpoint, tmp_path, monkeypatch, room, caplog):
    """In a quarter of what the GPU or memory has free, else on disk; or some layers at a time."""
    encoder, tokenizer = models.load_encoder(str(checkpoint("bert")))
    encoded, _ = encode_texts(TEXTS, tokenizer, 50, "mean")
    one = 2 * sum(len(e["units"]) for e in encoded) * encoder.config.hidden_size
    gpu = CPU._replace(torch_device=torch.device("cuda"))
    monkeypatch.setattr(features, "to_device", lambda model, device: model)

    def found(device=CPU, on_disk=False, layers=(0, 1, 2)):
        return features.place(encoder, encoded, list(layers), device, tmp_path / "f", on_disk)

    big = 100 * one
    for free, device, wanted in (
        ((big, big, big), gpu, ("on the GPU", 3)),
        ((12 * one, big, 12 * one - 1), gpu, ("in memory", 3)),
        ((12 * one, 0), CPU, ("in memory", 3)),
        ((12 * one - 1, 4 * one), CPU, ("on disk", 3)),
        ((11 * one, 2 * one), CPU, ("in memory", 2)),
        ((4 * one, 3 * one), CPU, ("on disk", 2)),
        ((0, big), CPU, ("on disk", 3)),
    ):
        room(*free)
        assert found(device) == wanted
    room(big, big, big)
    assert found(gpu, on_disk=True) == ("on disk", 3)
    extract(encoder, encoded, tmp_path / "f", [0, 1])  # what is there takes no more room
    for free, layers, wanted in ((0, (0, 1), 2), (one, (0, 1), 2), (2 * one, (0, 1, 2), 3)):
        room(big, free)
        assert found(on_disk=True, layers=layers) == found(layers=layers) == ("on disk", wanted)
    features.forget(tmp_path / "f", [0])
    assert [file.name for file in (tmp_path / "f").glob("*.npy")] == ["layer-01.npy"]
    room(big, one)
    with pytest.raises(UserError, match="the features need"):
        found(on_disk=True)
    shutil.rmtree(tmp_path / "f")
    room(big, big, big)
    monkeypatch.setattr(memory, "JOBS", 20)  # processes that share it
    assert found(gpu)[0] == "on disk"
    with caplog.at_level("INFO"):
        room(44 * 20 * one // 10, 2 * one)
        assert found() == ("in memory", 1)
    assert "3 layers x" in caplog.text and "1 layers at a time" in caplog.text


@pytest.mark.parametrize("on_disk", (False, True))
def test_where_nothing_has_room_it_is_refused_before_anything_runs(
    checkpoint, tmp_path, room, on_disk
):
    encoder, tokenizer = models.load_encoder(str(checkpoint("bert")))
    encoded, _ = encode_texts(TEXTS, tokenizer, 50, "mean")
    room(100, 100)
    with pytest.raises(UserError, match="--layers last") as error:
        features.place(encoder, encoded, [0, 1], CPU, tmp_path / "f", on_disk)
    assert ("--keep_features" in str(error.value)) == on_disk


def test_values_beyond_float16_are_refused(checkpoint, tmp_path):
    encoder, tokenizer = models.load_encoder(str(checkpoint("bert")))
    encoded, _ = encode_texts(TEXTS[:1], tokenizer, 50, "mean")
    with torch.no_grad():
        encoder.encoder.layer[-1].output.LayerNorm.bias.fill_(1e6)
    with pytest.raises(UserError, match="float16"):
        extract(encoder, encoded, tmp_path / "f")


def test_a_fine_tuned_checkpoint_is_read_without_its_head(checkpoint, tmp_path):
    """The encoder of a saved task model has the task model's weights, for all architectures."""
    import argparse

    for kind in KINDS:
        for task in ("sequence", "token"):
            args = argparse.Namespace(model_name=str(checkpoint(kind)), demo=False)
            model, tokenizer = models.load_task_model(args, task, ["a", "b"])
            with torch.no_grad():
                for weight in model.base_model.parameters():
                    weight.mul_(1.1)
            model.save_pretrained(tmp_path / kind / task)
            tokenizer.save_pretrained(tmp_path / kind / task)
            encoder, _ = models.load_encoder(str(tmp_path / kind / task))
            weights = model.base_model.state_dict()
            assert all(torch.equal(weights[k], v) for k, v in encoder.state_dict().items())


def test_random_init_has_other_weights_and_follows_the_seed(checkpoint):
    where = str(checkpoint("gpt2"))
    pretrained, _ = models.load_encoder(where)
    found = []
    for seed in (1, 1, 2):
        set_seed(seed)
        found.append(models.load_encoder(where, random_init=True)[0].wte.weight)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], pretrained.wte.weight)


def test_choice_of_layers():
    assert probe_scores.choose("all", 2) == [0, 1, 2] and probe_scores.choose("last", 12) == [12]
    assert probe_scores.choose("6,0,6", 12) == [0, 6]
    with pytest.raises(UserError, match="0 .embeddings. to 12"):
        probe_scores.choose("13", 12)


def test_control_tags_are_one_a_word_type_and_follow_the_distribution():
    words = [f"w{i}" for i in range(2000)]
    tags = [("B-protein" if i % 4 == 0 else "O") for i in range(2000)]
    splits = {
        "train": [ner.Example("a", words[:1500], tags[:1500])],
        "test": [ner.Example("b", words[1000:], tags[1000:])],
    }
    control = ner.controls(None, splits, 1)["control"]
    kinds = {}
    for split in control.values():
        for e in split:
            for word, tag in zip(e.words, e.tags, strict=True):
                assert kinds.setdefault(word, tag[2:] or tag) == (tag[2:] or tag)
    share = sum(kind == "protein" for kind in kinds.values()) / len(kinds)
    assert 0.2 < share < 0.3
    again, other = (ner.controls(None, splits, seed)["control"] for seed in (1, 2))
    assert control == again != other
