"""Every model family through fine-tuning, probing and attention, for words and for pairs.

The checkpoints are miniatures in the real file layouts. What each family computes is held to the
library in test_architectures.py; here the steps are, to what they must say of any family.
"""

import importlib
import json

import numpy as np
import pandas as pd
import pytest

from common.models import families
from tests.helpers import write_data

KINDS = {"bert": "biobert"} | {family: family for family in families.TABLE if family != "bert"}


@pytest.mark.parametrize("task", ("NER", "NLI"))
@pytest.mark.parametrize("family", KINDS)
def test_a_family_goes_through_all_three_steps(family, task, checkpoint, tmp_path):
    from safetensors.torch import load_file

    data, model = write_data(tmp_path / "data", task, 12), checkpoint(KINDS[family])
    flags = ["--data_dir", data, "--model_name", model, "--output_dir", tmp_path / "out",
             "--device", "cpu", "--precision", "fp32"]  # fmt: skip
    train = ("--num_train_epochs", 1, "--learning_rate", 1e-3)

    def run(step, *more):
        script = importlib.import_module(f"{task}.{step}")
        assert script.main([str(flag) for flag in (*flags, *more)]) == 0

    run("fine-tuning", "--training_size", 100, *train)
    run("probing", "--training_size", 100, "--probe", "linear")
    run("attention", "--training_sizes", "100", "--controls", "--drop_special")
    cell = next((tmp_path / "out").rglob("seed-42"))
    config, tuned = (json.loads((cell / "fine-tuning" / f"{n}.json").read_text())
                     for n in ("config", "metrics"))  # fmt: skip
    published = 0.8 if family == "electra" else 1.0
    assert config["layer_decay"] == tuned["layer_decay"] == published
    rows = (cell / "fine-tuning" / "predictions.jsonl").read_text().splitlines()
    assert len(rows) == 6 and 0 <= tuned["test_macro_f1"] <= 1
    saved = load_file(cell / "fine-tuning" / "checkpoint" / "model.safetensors")
    assert all(np.isfinite(tensor.float().numpy()).all() for tensor in saved.values())

    layers = pd.read_csv(cell / "probing-linear" / "layers.csv")
    n_layers = json.loads((model / "config.json").read_text()).get("num_hidden_layers", 1)
    assert set(layers["layer"]) == set(range(n_layers + 1))
    heads = pd.read_csv(cell / "attention-drop_special" / "heads.csv")
    cosine = heads[heads["metric"] == "cosine"]["value"]
    assert len(cosine) and ((cosine > 0) & (cosine <= 1)).all() and (cosine < 1).any()
    reference = json.loads((cell / "attention-drop_special" / "metrics.json").read_text())
    assert reference["floor_cosine"] < reference["cosine"]  # one epoch moves less than no training
