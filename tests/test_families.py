"""Every model family through fine-tuning, probing and attention, for words and for pairs.

The checkpoints are miniatures in the real file layouts. test_architectures.py compares what each
family computes with the library; here the steps must give complete and plausible results.
"""

import numpy as np
import pandas as pd
import pytest

from common.models import families
from tests.helpers import read_json, run_script, write_data

KINDS = {"bert": "biobert"} | {family: family for family in families.TABLE if family != "bert"}


@pytest.mark.parametrize("task", ("NER", "NLI"))
@pytest.mark.parametrize("family", KINDS)
def test_a_family_goes_through_all_three_steps(family, task, checkpoint, tmp_path):
    from safetensors.torch import load_file

    data, model = write_data(tmp_path / "data", task, 12), checkpoint(KINDS[family])
    flags = ["--data_dir", data, "--model_name", model, "--output_dir", tmp_path / "out",
             "--device", "cpu", "--precision", "fp32"]  # fmt: skip
    train = ("--num_train_epochs", 1, "--learning_rate", 1e-3)

    for step, more in {
        "fine-tuning": ("--training_size", 100, *train),
        "probing": ("--training_size", 100, "--probe", "linear"),
        "attention": ("--training_sizes", "100", "--controls", "--drop_special"),
    }.items():
        assert run_script(task, step, *flags, *more) == 0
    cell = next(path for path in (tmp_path / "out").rglob("seed-42") if path.parent.name == "100")
    config, tuned = (read_json(cell / "fine-tuning" / f"{n}.json") for n in ("config", "metrics"))
    assert config["settings"]["layer_decay"] == (0.8 if family == "electra" else 1.0)
    rows = (cell / "fine-tuning" / "predictions.jsonl").read_text().splitlines()
    assert len(rows) == 6 and 0 <= tuned["test_macro_f1"] <= 1
    saved = load_file(cell / "fine-tuning" / "checkpoint" / "model.safetensors")
    assert all(np.isfinite(tensor.float().numpy()).all() for tensor in saved.values())

    layers = pd.read_csv(cell / "probing-linear" / "layers.csv")
    n_layers = read_json(model / "config.json").get("num_hidden_layers", 1)
    assert set(layers["layer"]) == set(range(n_layers + 1))
    attention = cell / "attention-drop_special"
    heads = pd.read_csv(attention / "heads.csv")
    cosine = heads[heads["metric"] == "cosine"]["value"]
    assert len(cosine) and ((cosine > 0) & (cosine <= 1)).all() and (cosine < 1).any()
    # One epoch changes the model less than leaving out the pre-training.
    untrained = cell.parents[1] / "random" / "seed-42" / "attention-drop_special"
    floor, own = (read_json(f / "metrics.json")["cosine"] for f in (untrained, attention))
    assert floor < own
