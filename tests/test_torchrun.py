"""Several processes, one result: what torchrun starts trains as one process does.

This file is also what torchrun starts, see `main`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import cli, forward
from common.cli import ROOT
from common.device import choose_device
from common.training import loop, resume
from tests import tiny
from tests.helpers import write_data

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
TOKENS, TEXT = "TokenClassification", "SequenceClassification"
CASES = {
    "biobert": TOKENS,
    "gpt2": TEXT,
    "albert": TOKENS,  # one layer is used at every depth
    "electra": TEXT,
    "distilbert": TOKENS,
    "biogpt": TOKENS,
}


def start(*argv, processes=2):
    """torchrun."""
    command = [sys.executable, *TORCHRUN, str(processes), *map(str, argv)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def train(root, kind, device):
    """What came of two epochs, in batches of 6 and one of 1: that leaves the others without any."""
    from tests.test_training import SETTINGS, examples, load, no_dropout

    task = CASES[kind]
    model, _ = load(root, kind, task)
    no_dropout(model)
    some, settings = examples(37, task, vocabulary=60), SETTINGS._replace(batch_size=6)
    folder = root / f"{kind}-{device.processes}"
    folder.mkdir(exist_ok=True)
    state, _ = loop.fit(model, some, settings, device, lambda: {"f1": 0.5}, "f1", folder)
    scores = forward.predict_logits(model, some, 5, device, "")
    return {
        "weights": resume.weights_of(model),
        "history": state.history,
        "scores": torch.cat([torch.tensor(s).flatten() for s in scores]),
    }


@cli.command
def main(argv):
    """What each process does: it trains, and keeps what came of it."""
    root, device = Path(argv[0]), choose_device("cpu", "fp32", torchrun=True)
    for kind in CASES:
        torch.save(train(root, kind, device), root / f"{kind}-{device.rank}.pt")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("torchrun")
    for kind in CASES:
        tiny.make(kind, root / kind)
    done = start(__file__, root)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 2: loss") == len(CASES)  # the first process tells it
    return root


@pytest.mark.parametrize("kind", CASES)
def test_two_processes_equal_one(root, kind):
    alone = train(root, kind, choose_device("cpu", "fp32"))
    first, second = (torch.load(root / f"{kind}-{rank}.pt") for rank in (0, 1))
    assert not second["weights"] and first["weights"].keys() == alone["weights"].keys()
    for two in (first, second):
        torch.testing.assert_close(two["scores"], alone["scores"], atol=1e-4, rtol=0)
        for one, other in zip(alone["history"], two["history"], strict=True):
            assert other["train"] == pytest.approx(one["train"], abs=1e-5)
    for name, weight in alone["weights"].items():
        other = first["weights"][name]
        if name.endswith(("key.bias", "k_lin.bias", "k_proj.bias")):  # adds the same to a whole row
            continue  # of scores: its gradient is rounding alone, which Adam makes a full step of
        if name.endswith("c_attn.bias"):
            weight, other = (torch.cat([b.chunk(3)[0], b.chunk(3)[2]]) for b in (weight, other))
        torch.testing.assert_close(other, weight, atol=1e-5, rtol=0, msg=name)


def test_fine_tuning_runs_in_two_processes_and_other_steps_in_one(tmp_path, checkpoint):
    """One result, told once; the second call finds it; an error that both have is told once."""
    data = write_data(tmp_path / "data", "NLI", 13, 6, 6)
    flags = ("--data_dir", data, "--model_name", checkpoint("bert"), "--output_dir",
             tmp_path / "out", "--device", "cpu", "--precision", "fp32")  # fmt: skip
    first = start("NLI/fine-tuning.py", *flags)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("results: ") == 1
    (metrics,) = (tmp_path / "out").rglob("metrics.json")
    assert json.loads(metrics.read_text())["trained"]
    again = start("NLI/fine-tuning.py", *flags)
    assert again.returncode == 0 and again.stdout.count("finished earlier") == 1
    wrong = start("NLI/fine-tuning.py", *flags, "--num_train_epochs", 1)
    assert wrong.returncode and wrong.stderr.count("error: ") == 1
    assert "line " not in wrong.stderr.split("error: ")[0]  # no traceback
    probing = start("NLI/probing.py", *flags)
    assert probing.returncode and "Start this step with python" in probing.stderr


if __name__ == "__main__":
    main(sys.argv[1:])
