"""Several processes, one result: what torchrun starts trains as one process does."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from common.cli import ROOT
from tests import tiny
from tests.helpers import run_script, write_data

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


def start(*argv, processes=2):
    """torchrun."""
    command = [sys.executable, *TORCHRUN, str(processes), *map(str, argv)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.mark.parametrize("task", ("NER", "NLI"))
def test_two_processes_equal_one(task, tmp_path):
    kind = {"NER": "biobert", "NLI": "gpt2"}[task]
    tiny.make(kind, tmp_path / kind, layers=1)
    config = json.loads((tmp_path / kind / "config.json").read_text())
    config |= {key: 0.0 for key in config if "dropout" in key or "pdrop" in key}
    (tmp_path / kind / "config.json").write_text(json.dumps(config))
    write_data(tmp_path / "data", task, 37, 15, 15)
    # Batches of 6, and of 1: there the second process has nothing to do.
    flags = ("--data_dir", tmp_path / "data", "--model_name", tmp_path / kind, "--batch_size", 6,
             "--device", "cpu", "--precision", "fp32", "--learning_rate", 1e-3)  # fmt: skip
    found = {}
    for one in (True, False):
        out = tmp_path / f"out-{one}"
        if one:
            assert run_script(task, "fine-tuning", *flags, "--output_dir", out) == 0
        else:
            done = start(f"{task}/fine-tuning.py", *flags, "--output_dir", out)
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("results: ") == 1 and done.stderr.count("epoch 3: loss") == 1
        (file,) = out.rglob("metrics.json")
        metrics = json.loads(file.read_text())
        history = pd.read_csv(file.parent / "history.csv")["value"]
        scores = pd.Series({k: v for k, v in metrics.items() if k.startswith(("dev", "test"))})
        found[one] = (load_file(file.parent / "checkpoint" / "model.safetensors"), history, scores)
        assert json.loads((file.parent / "config.json").read_text())["machine"]["processes"] == (
            1 if one else 2
        )
    for name, weight in found[True][0].items():
        other = found[False][0][name]
        if name.endswith("key.bias"):  # adds the same to a whole row of scores: its gradient is
            continue  # rounding alone, of which Adam makes steps of full length
        if name.endswith("c_attn.bias"):
            weight, other = (torch.cat([b.chunk(3)[0], b.chunk(3)[2]]) for b in (weight, other))
        torch.testing.assert_close(other, weight, atol=1e-5, rtol=0, msg=lambda m, n=name: n + m)
    for mine, other in zip(found[True][1:], found[False][1:], strict=True):
        pd.testing.assert_series_equal(mine, other, atol=1e-5, rtol=0)
    if task == "NLI":
        return
    # An error that both have is told once, without a traceback.
    wrong = start("NER/fine-tuning.py", *flags, "--output_dir", out, "--num_train_epochs", 1)
    assert wrong.returncode and wrong.stderr.count("error: ") == 1
    assert "other settings" in wrong.stderr and "line " not in wrong.stderr.split("error: ")[0]


# What each of the two processes does: it trains, keeps what it has, and calls the scripts again.
DRIVER = """
import importlib, sys
import torch
from common import cli
from common.training import loop
out, n, *flags = sys.argv[1:]
cli.time.sleep = lambda seconds: None
fit, train_on, states = loop.fit, loop.Trainer.train_on, []
def noting(self, *given):
    states.append(torch.get_rng_state())
    return train_on(self, *given)
def keeping(model, *given, **options):
    found = fit(model, *given, **options)
    kept = {"weights": model.state_dict(), "state": states[0]}
    torch.save(kept, f"{out}/rank-{cli.RANK}.pt")
    return found
loop.fit, loop.Trainer.train_on = keeping, noting
for _ in range(2):
    assert importlib.import_module("NLI.fine-tuning").main(flags) == 0
    torch.distributed.barrier()  # the first process writes
try:
    importlib.import_module("NLI.probing").main(flags[:int(n)])
except SystemExit as stop:
    assert stop.code == 2
else:
    raise AssertionError("probing went on in two processes")
"""


def test_with_dropout_both_have_the_weights_that_are_saved(tmp_path, checkpoint):
    """And each draws its own; the second call finds a result; the other steps run in one alone."""
    (tmp_path / "driver.py").write_text(DRIVER)
    data = write_data(tmp_path / "data", "NLI", 13, 6, 6)
    common = ("--data_dir", data, "--model_name", checkpoint("bert"), "--output_dir",
              tmp_path / "out", "--device", "cpu", "--precision", "fp32")  # fmt: skip
    train = ("--batch_size", 4, "--learning_rate", 1e-2, "--num_train_epochs", 2)
    done = start(tmp_path / "driver.py", tmp_path, len(common), *common, *train)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished earlier") == 1
    assert "Start this step with python" in done.stderr
    ranks = [torch.load(tmp_path / f"rank-{n}.pt") for n in (0, 1)]
    assert not torch.equal(ranks[0]["state"], ranks[1]["state"])
    (file,) = tmp_path.rglob("checkpoint/model.safetensors")
    old = {".beta": ".bias", ".gamma": ".weight"}  # the names that the checkpoint came with
    for name, weight in load_file(file).items():
        for before, now in old.items():
            name = name.replace(before, now)
        for rank in ranks:
            assert torch.equal(rank["weights"][name], weight), name
