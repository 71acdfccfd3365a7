"""A causal model divided among processes: what it learns, says and leaves is what one process does.

This file is also what torchrun starts, see `main`; the test's own process trains the same alone.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from common import cli, files, forward, models
from common.device import Device, choose_device, set_seed
from common.models import adapters
from common.training import loop, resume
from Instruct import generation
from Instruct import task as instruct
from tests import test_training, tiny
from tests.test_torchrun import start

# case: the kind, adapters, activations computed twice, precision, the best epoch
CASES = {
    "full": ("llama", False, False, "fp32", None),
    "tied": ("llama3", False, True, "fp32", 0),
    "adapters": ("gpt2", True, False, "fp32", 0),
    "bf16": ("biogpt", True, True, "bf16", None),
    "fp16": ("llama3", False, False, "fp16", None),
}
CPU = Device(torch.device("cpu"), "fp32")
SETTINGS = test_training.SETTINGS._replace(learning_rate=3e-3, batch_size=5, max_grad_norm=0.5)
STOP = 8  # the step that a killed run does not see; an epoch has 5


def rows(n, seed):
    """Encoded examples of random tokens: a prompt, and an answer that has the labels."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        prompt, answer = (rng.integers(5, 300, rng.integers(1, 9)).tolist() for _ in range(2))
        found.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer,
                      "prompt": prompt})  # fmt: skip
    return found


def causal(folder):
    return models.load_task_model(str(folder), "causal", [])


def train(case, root, folder, device, save_minutes=10.0, stop=None):
    """Two epochs in `folder`; what came of it is written there by the first process.

    Batches of 5, and one of 1: there the other processes have nothing to do.
    """
    kind, lora, twice, _, best = CASES[case]
    sharded = device.processes > 1
    set_seed(1)
    model, tokenizer = causal(root / kind)
    if twice:
        model.activation_checkpointing_enable()
    if lora:
        model = adapters.add(model, 4)
    settings = SETTINGS._replace(save_minutes=save_minutes)
    clip, train_on, norms, calls = torch.nn.utils.clip_grad_norm_, loop.Trainer.train_on, [], []

    def noting(parameters, most):
        norm = clip(parameters, most)
        norms.append(getattr(norm, "full_tensor", lambda: norm)().item())
        return norm

    def stopping(self, *given):
        calls.append(given)
        if stop and len(calls) == STOP:
            stop()
        done = train_on(self, *given)
        if sharded:  # weights, gradients and optimizer, between any two steps
            held = [p for group in self.optimizer.param_groups for p in group["params"]]
            held += [p.grad for p in held]
            held += [self.optimizer.state[p][key] for p in self.parameters
                     for key in ("exp_avg", "exp_avg_sq")]  # fmt: skip
            for part in (*model.parameters(), *held):
                assert part.to_local().numel() <= part.numel() // part.shape[0] * (
                    -(-part.shape[0] // device.processes)
                )
        return done

    def dev():
        loss = forward.mean_loss(model, rows(9, 2), 2, device, instruct.loss)
        epoch = -(-len(calls) // 5) - 1
        return {"loss": loss + 10 * epoch * (best is not None)}

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", noting)
        patch.setattr(loop.Trainer, "train_on", stopping)
        patch.setattr(loop, "LOG_EVERY", 1)
        state, totals = loop.fit(
            model, rows(21, 1), settings, device, dev, "loss", folder, loss=instruct.loss,
        )  # fmt: skip
    prompts = [row["prompt"] for row in rows(7, 3)]
    answers = generation.generate(model, prompts, [2, 9, 4, 6, 1, 7, 3], {2}, 2, device, "")
    likely = generation.log_likelihoods(model, prompts, [[9, 2], [8]], 2, device, "")
    weights = resume.weights_of(model)
    if device.rank:
        assert not weights
        return
    files.save_model(folder / "checkpoint", model, tokenizer, weights if sharded else None)
    found = {
        "losses": [row["loss"] for row in state.steps], "norms": norms, "history": state.history,
        "best": totals["best_epoch"], "answers": answers, "likely": likely,
        "parameters": model.num_parameters(), "calls": len(calls),
    }  # fmt: skip
    files.write_json(folder / "found.json", found)


def overflow(root, device):
    """A single gradient of one process overflows: none takes the step, all lower the scale."""
    model, _ = causal(root / "llama3")
    device = device._replace(precision="fp16")
    trainer = loop.Trainer(model, SETTINGS, device, instruct.loss)
    before = [p.full_tensor().clone() for p in trainer.parameters]

    def spoil(loss):  # the first of the sums, after the backward pass
        patch.undo()
        if device.rank:
            trainer.parameters[3].grad.to_local()[0, 0] = float("inf")

    scale = trainer.scaler.get_scale()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_reduce", spoil)
        trainer.train_on(rows(4, 1), 9, 4)
    after = [p.full_tensor() for p in trainer.parameters]
    assert trainer.scaler.get_scale() == scale / 2
    assert all(map(torch.equal, before, after))


@cli.command
def main(argv):
    """What each of torchrun's processes does; "first" is killed in its last run, "then" goes on."""
    step, root = argv[0], Path(argv[1])
    device = choose_device("cpu", "fp32", torchrun=True)
    if step == "first":
        for case, (*_, precision, _) in CASES.items():
            train(case, root, root / "sharded" / case, device._replace(precision=precision))
        overflow(root, device)
        train("full", root, root / "killed", device, 0, kill)
    elif step == "then":
        for folder in ("killed", "begun", "damaged"):
            train("full", root, root / folder, device)
        if device.rank:
            instruct.loss = full
        train("full", root, root / "full", device)
    else:  # a signal comes to the second process alone; all save and stop
        train("full", root, root / "signalled", device, stop=terminate)


def kill():
    """The second process dies, once the first has saved."""
    torch.distributed.barrier()
    if cli.RANK:
        os.kill(os.getpid(), signal.SIGKILL)


def terminate():
    if cli.RANK:
        os.kill(os.getpid(), signal.SIGTERM)


def interrupt():
    raise KeyboardInterrupt


def full(model, batch):
    raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")


def found(folder):
    """What `train` wrote, and the weights."""
    values = json.loads((folder / "found.json").read_text())
    (file,) = (folder / "checkpoint").glob("*model.safetensors")
    return values, load_file(file)


def same(one, other, tolerance):
    """Two `found`, of which the second may have gone on from a state."""
    (values, weights), (mine, own) = one, other
    calls = mine.pop("calls")
    for key in ("losses", "likely"):
        np.testing.assert_allclose(mine.pop(key), values[key], atol=tolerance, rtol=0)
    np.testing.assert_allclose(mine.pop("norms"), values["norms"][-calls:], atol=tolerance, rtol=0)
    for before, now in zip(values["history"], mine.pop("history"), strict=True):
        assert now["dev"] == pytest.approx(before["dev"], abs=tolerance)
        assert now["train"] == pytest.approx(before["train"], abs=tolerance)
    assert mine == {key: values[key] for key in mine}
    assert own.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(own[name], weight, atol=tolerance, rtol=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """All runs: the one process's in "alone", those of two in "sharded", and what went on."""
    root = tmp_path_factory.mktemp("sharding")
    for kind in {kind for kind, *_ in CASES.values()}:
        tiny.make(kind, root / kind)
        config = json.loads((root / kind / "config.json").read_text())
        config |= {key: 0.0 for key in config if "drop" in key}
        (root / kind / "config.json").write_text(json.dumps(config))
    for case, (*_, precision, _) in CASES.items():
        train(case, root, root / "alone" / case, CPU._replace(precision=precision))
    with pytest.raises(KeyboardInterrupt):
        train("full", root, root / "begun", CPU, 0, interrupt)
    first = start(__file__, "first", root)
    assert "SIGKILL" in first.stderr and not (root / "killed" / "found.json").exists()
    for copy in ("one", "damaged"):
        shutil.copytree(root / "killed", root / copy)
    state = root / "damaged" / "state.pt"
    state.write_bytes(state.read_bytes()[:9999])
    return root


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(root, case):
    """Losses and norms of every step, the dev loss, what it says, the weights, the files."""
    alone, sharded = found(root / "alone" / case), found(root / "sharded" / case)
    assert CASES[case][4] is None or alone[0]["best"] == 1
    if CASES[case][3] != "fp32":  # rounded elsewhere: the likeliest token may be another
        del alone[0]["answers"], sharded[0]["answers"]
    same(alone, sharded, 1e-4 if CASES[case][3] == "fp32" else 2e-2)
    names = [{file.name for file in (root / one / case / "checkpoint").iterdir()}
             for one in ("alone", "sharded")]  # fmt: skip
    assert names[0] == names[1]


@pytest.mark.parametrize("case", ("full", "tied", "adapters"))
def test_the_checkpoint_loads_as_any_other(root, case):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    kind = AutoPeftModelForCausalLM if case == "adapters" else AutoModelForCausalLM
    ids, logits = torch.tensor([rows(1, 4)[0]["input_ids"]]), []
    for one in ("alone", "sharded"):
        model = kind.from_pretrained(root / one / case / "checkpoint").eval()
        with torch.no_grad():
            logits.append(model(ids).logits)
    torch.testing.assert_close(*logits, atol=1e-4, rtol=0)
    untrained = AutoModelForCausalLM.from_pretrained(root / CASES[case][0]).eval()
    with torch.no_grad():
        assert (untrained(ids).logits - logits[1]).abs().max() > 0.01


def test_a_run_resumes_in_another_number_of_processes(root):
    """Of two in three or in one, of one in three. Memory that is short ends them all."""
    alone = found(root / "alone" / "full")
    then = start(__file__, "then", root, processes=3)
    train("full", root, root / "one", CPU)
    for folder in ("killed", "one", "begun", "damaged"):
        resumed = found(root / folder)
        assert resumed[0]["calls"] == (10 if folder == "damaged" else 11 - STOP), folder
        same(alone, resumed, 1e-4)
    assert then.stderr.count("state.pt is damaged") == 1 and "starts anew" in then.stderr
    assert then.returncode and "too little memory" in then.stderr
    assert "Traceback (most recent call last):\n  File" not in then.stderr.split("error: cpu")[0]


def test_sigterm_to_one_process_stops_all_when_the_state_is_saved(root):
    done = start(__file__, "signal", root)
    assert done.returncode and not (root / "signalled" / "found.json").exists()
    assert "exitcode  : 143" in done.stderr
    train("full", root, root / "signalled", CPU)
    resumed = found(root / "signalled")
    assert resumed[0]["calls"] == 10 - STOP
    same(found(root / "alone" / "full"), resumed, 1e-4)


if __name__ == "__main__":
    main(sys.argv[1:])
