"""Several processes, one result: what torchrun starts trains as one process does."""

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch

from common.cli import ROOT
from tests import tiny
from tests.helpers import write_data

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


def start(*argv, one=False):
    command = [sys.executable, *(() if one else TORCHRUN), *map(str, argv)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.mark.parametrize("task", ("NER", "NLI"))
def test_two_processes_equal_one(task, tmp_path):
    from safetensors.torch import load_file

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
        done = start(f"{task}/fine-tuning.py", *flags, "--output_dir", out, one=one)
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
    # A finished run is reported once; an error that both have is told once, without a traceback.
    again = start(f"{task}/fine-tuning.py", *flags, "--output_dir", out)
    assert again.returncode == 0 and again.stdout.count("finished earlier") == 1
    for step, more, named in (
        ("fine-tuning", ("--num_train_epochs", 1), "other settings"),
        ("probing", (), "python"),
    ):
        wrong = start(f"{task}/{step}.py", *flags[:4], "--output_dir", out, *more)
        assert wrong.returncode and wrong.stderr.count("error: ") == 1 and named in wrong.stderr
