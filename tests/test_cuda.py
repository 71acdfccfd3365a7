"""The GPU against the CPU, in fp32: `python -m pytest -m cuda`.

Skipped without a GPU. `CUDA_TESTS_ON=cpu` runs them there, CPU against CPU: so that they are known
to run where no GPU is at hand.
"""

import copy
import os

import numpy as np
import pytest
import torch

from common import attention_maps, features, forward, models, probes
from common.device import choose_device, set_seed
from common.task import Sequences
from common.training import loop
from Instruct import generation
from tests import test_training

ON = os.environ.get("CUDA_TESTS_ON", "cuda")
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(ON == "cuda" and not torch.cuda.is_available(), reason="no GPU"),
]
CPU = choose_device("cpu", "fp32")
KINDS = ("bert", "gpt2", "biogpt", "llama")


@pytest.fixture(scope="module")
def gpu():
    return choose_device(ON, "fp32")


def rows(n, labels=None):
    rng = np.random.default_rng(0)
    found = []
    for _ in range(n):
        ids = rng.integers(5, 200, rng.integers(3, 30)).tolist()
        found.append({"input_ids": ids} | ({"labels": [i % labels for i in ids]} if labels else {}))
    return found


SETTINGS = test_training.SETTINGS._replace(save_minutes=0.0)


def without_dropout(folder):
    """A token model that draws nothing by chance in training."""
    set_seed(0)
    model, _ = models.load_task_model(str(folder), "token", ["a", "b", "c"])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    for name in ("attention_probs_dropout_prob", "attn_pdrop"):
        setattr(model.config, name, 0.0)
    return model


def fit(model, device, folder, stop_after=None):
    folder.mkdir(exist_ok=True)

    def evaluate():
        if stop_after and evaluate.calls >= stop_after:
            raise KeyboardInterrupt
        evaluate.calls += 1
        return {}

    evaluate.calls = 0
    return loop.fit(model, rows(20, 3), SETTINGS, device, evaluate, "", folder)


@pytest.mark.parametrize("kind", KINDS)
def test_fine_tuning_and_going_on(kind, checkpoint, gpu, tmp_path):
    """Losses within 1e-4, weights within 2e-3 of the CPU's; a stopped run ends as a whole one."""
    model = without_dropout(checkpoint(kind))
    stopped, on_gpu = copy.deepcopy(model), copy.deepcopy(model)
    wanted, _ = fit(model, CPU, tmp_path / "cpu")
    found, _ = fit(on_gpu, gpu, tmp_path / "gpu")
    for one, other in zip(wanted.history, found.history, strict=True):
        assert other["train"]["loss"] == pytest.approx(one["train"]["loss"], abs=1e-4)
    for one, other in zip(model.parameters(), on_gpu.parameters(), strict=True):
        assert torch.allclose(one, other.cpu(), atol=2e-3)
    (tmp_path / "again").mkdir()
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, gpu, tmp_path / "again", stop_after=1)
    anew = without_dropout(checkpoint(kind))
    fit(anew, gpu, tmp_path / "again")
    for one, other in zip(on_gpu.parameters(), anew.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_features_and_attention(kind, checkpoint, gpu, tmp_path):
    """Features within 2e-3 (float16 on the disk), cosines within 1e-5."""
    encoder, _ = models.load_encoder(str(checkpoint(kind)), "eager")
    some = [
        row
        | {
            "units": [(0, 1), (1, len(row["input_ids"]))],
            "special": [False] * len(row["input_ids"]),
        }
        for row in rows(12)
    ]
    layers = list(range(encoder.config.num_hidden_layers + 1))
    of_device = []
    for name, device in (("cpu", CPU), ("gpu", gpu)):
        features.extract(encoder, some, layers, device, 5, tmp_path / name)
        of_device.append([np.load(file) for file in sorted((tmp_path / name).glob("*.npy"))])
    for one, other in zip(*of_device, strict=True):
        assert np.allclose(one, other, atol=2e-3 * max(1, np.abs(one).max()))
    other = copy.deepcopy(encoder)
    with torch.no_grad():
        for p in other.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)).to(p)
    cosines = [
        attention_maps.compare(
            encoder.to(device.torch_device), {"b": other.to(device.torch_device)}, rows(12), device,
            pad_token_id=0, batch_size=5,
        )["b"].mean["cosine"]
        for device in (CPU, gpu)
    ]  # fmt: skip
    assert np.allclose(*cosines, atol=1e-5)


def test_probes(gpu):
    """The BiLSTM-CRF's predictions are equal in 99 of 100 words. (The SVC runs on the CPU.)"""
    vectors = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float16)
    spans = {"train": [(i, i + 10) for i in range(0, 300, 10)],
             "test": [(i, i + 10) for i in range(300, 400, 10)]}  # fmt: skip
    tags = [(vectors[a:b, 0] > 0).astype(int) for a, b in spans["train"]]
    predicted = []
    for device in (CPU, gpu):
        options, sets = probes.Options(2, 8, False, 0, device), [Sequences(spans, {"task": tags})]
        ((_, found),) = probes.predict_layers("bilstm-crf", {0: vectors}, sets, options)
        predicted.append(np.concatenate(found["task"]["test"][0]))
    assert (predicted[0] == predicted[1]).mean() > 0.99


@pytest.mark.parametrize("kind", KINDS[1:])
def test_generation(kind, checkpoint, gpu):
    """The same tokens, greedily, in fp32."""
    model, _ = models.load_task_model(str(checkpoint(kind)), "causal", [])
    prompts = [row["input_ids"] for row in rows(9)]
    answers = [
        generation.generate(model, prompts, [6] * 9, {2}, 4, device, "test")
        for device in (CPU, gpu)
    ]
    assert answers[0] == answers[1]


@pytest.mark.skipif(ON != "cuda", reason="a GPU's memory")
def test_out_of_memory_halves_the_pieces(checkpoint, gpu, tmp_path):
    """A batch that does not fit is taken in pieces, and the losses stay those of the whole."""
    model = without_dropout(checkpoint("bert"))
    wanted, _ = fit(copy.deepcopy(model), gpu, tmp_path / "whole")
    held, real = [], forward.pad

    def pad(some, token):
        if len(some) > 2:
            held.append(torch.empty(10**15, dtype=torch.uint8, device=gpu.torch_device))
        return real(some, token)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "pad", pad)
        found, totals = fit(model, gpu, tmp_path / "pieces")
    assert totals["micro_batch_size"] == 2 and not held
    for one, other in zip(wanted.history, found.history, strict=True):
        assert other["train"]["loss"] == pytest.approx(one["train"]["loss"], abs=1e-4)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two GPUs")
def test_two_processes_with_nccl(checkpoint, tmp_path):
    """torchrun with two GPUs gives the losses of one, without dropout."""
    import json
    import subprocess
    import sys

    folder = tmp_path / "model"
    without_dropout(checkpoint("bert")).save_pretrained(folder)
    for file in checkpoint("bert").glob("*"):
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    losses_ = []
    for n in (1, 2):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   f"--nproc_per_node={n}", "NER/fine-tuning.py", "--demo", "--model_name", folder,
                   "--precision", "fp32", "--training_size", "10", "--num_train_epochs", "1",
                   "--output_dir", tmp_path / str(n)]  # fmt: skip
        subprocess.run(list(map(str, command)), check=True)
        (metrics,) = (tmp_path / str(n)).rglob("metrics.json")
        losses_.append(json.loads(metrics.read_text())["test_macro_f1"])
    assert losses_[0] == pytest.approx(losses_[1], abs=0.02)
