"""Every model family through QA's steps, BioGPT's own span model included.

The checkpoints are miniatures in the real file layouts, see tests/test_families.py.
"""

import json

import numpy as np
import pandas as pd
import pytest

from common.models import families
from tests.test_families import KINDS, cases
from tests.test_qa_scripts import SHORT, predictions, read, run, write_squad


@pytest.mark.parametrize("family", [family for family, _ in cases("QA")])
def test_a_family_goes_through_all_steps(family, checkpoint, tmp_path):
    from safetensors.torch import load_file

    data, model = write_squad(tmp_path / "squad", 8), checkpoint(KINDS[family])
    base = ("--data_dir", data, "--model_name", model, "--output_dir", tmp_path / "out")
    run("fine-tuning", *base, *SHORT, "--num_train_epochs", 1, "--learning_rate", 1e-3)
    cell = next((tmp_path / "out").rglob("seed-42"))
    found = read(cell / "fine-tuning")
    assert found["layer_decay"] == families.TABLE[family].layer_decay[0]
    assert 0 <= found["test_f1"] <= 1 and len(predictions(cell / "fine-tuning")) == 8
    saved = load_file(cell / "fine-tuning" / "checkpoint" / "model.safetensors")
    assert all(np.isfinite(tensor.float().numpy()).all() for tensor in saved.values())
    # The head is the checkpoint's: the same answers from what was saved.
    saved = cell / "fine-tuning" / "checkpoint"
    again = ("--data_dir", data, "--model_name", saved, "--output_dir", tmp_path / "again")
    run("fine-tuning", *again, *SHORT, "--training_size", 0, "--keep_head")
    kept = next((tmp_path / "again").rglob("predictions.jsonl")).parent
    one, two = predictions(cell / "fine-tuning"), predictions(kept)
    assert [row["n_best"][0] for row in one] == [row["n_best"][0] for row in two]

    base += ("--max_length", 100)
    run("probing", *base, "--training_size", 100)
    layers = pd.read_csv(cell / "probing" / "layers.csv")
    n_layers = json.loads((model / "config.json").read_text()).get("num_hidden_layers", 1)
    assert set(layers["layer"]) == set(range(n_layers + 1))
    run("attention", *base, "--training_sizes", "100")
    run("ablation", *base, "--training_size", 100)
    whole = cell / "ablation" / "predictions" / "most_changed-0.jsonl"
    assert whole.read_text() == (cell / "fine-tuning" / "predictions.jsonl").read_text()
    run("attention", *base, "--training_sizes", "100", "--drop_special")
    heads = pd.read_csv(cell / "attention-drop_special" / "heads.csv")
    cosine = heads[heads["metric"] == "cosine"]["value"]
    assert len(cosine) and ((cosine > 0) & (cosine <= 1)).all() and (cosine < 1).any()
