"""Every model family through all steps and prediction.

The checkpoints are miniatures in the real file layouts. test_architectures.py compares what each
family computes with the library; here the steps must give complete and plausible results.
"""

import numpy as np
import pandas as pd
import pytest

from common.models import families
from tests.helpers import read_json, run_script, write_data

KINDS = {"bert": "biobert"} | {family: family for family in families.TABLE if family != "bert"}
# One task each for those whose parts other families have; test_architectures.py has all heads.
ONE = {
    "modernbert": "NER", "gemma3_text": "NER", "gpt_neox": "NER", "deberta-v2": "NLI",
    "gemma2": "NLI", "phi3": "NLI", "xlm-roberta": "QA", "eurobert": "QA", "olmo2": "QA",
}  # fmt: skip
INPUT = {"NER": "IL-2 gene in human cells", "NLI": "No fever .\tThe patient is healthy ."}


def cases(*tasks):
    """The (family, task) to go through."""
    return [(family, t) for family in KINDS for t in tasks if ONE.get(family, t) == t]


@pytest.mark.parametrize(("family", "task"), cases("NER", "NLI"))
def test_a_family_goes_through_all_steps(family, task, checkpoint, tmp_path):
    from safetensors.torch import load_file

    data, model = write_data(tmp_path / "data", task, 12), checkpoint(KINDS[family])
    flags = ["--data_dir", data, "--model_name", model, "--output_dir", tmp_path / "out",
             "--device", "cpu", "--precision", "fp32"]  # fmt: skip
    train = ("--num_train_epochs", 1, "--learning_rate", 1e-3)

    for step, more in (
        ("fine-tuning", ("--training_size", 100, *train)),
        ("probing", ("--training_size", 100, "--probe", "linear")),
        ("attention", ("--training_sizes", "100", "--controls", "--drop_special")),
        ("attention", ("--training_sizes", "100")),
        ("ablation", ("--training_size", 100)),
    ):
        assert run_script(task, step, *flags, *more) == 0
    (tmp_path / "input").write_text(INPUT[task])
    new = ("--input", tmp_path / "input", "--output", tmp_path / "answer")
    assert run_script(task, "predict", *flags, *new) == 0
    assert len((tmp_path / "answer").read_text().splitlines()) == 1
    cell = next(path for path in (tmp_path / "out").rglob("seed-42") if path.parent.name == "100")
    config, tuned = (read_json(cell / "fine-tuning" / f"{n}.json") for n in ("config", "metrics"))
    assert config["settings"]["layer_decay"] == (0.8 if family == "electra" else 1.0)
    rows = (cell / "fine-tuning" / "predictions.jsonl").read_text().splitlines()
    assert len(rows) == 6 and 0 <= tuned["test_macro_f1"] <= 1
    saved = load_file(cell / "fine-tuning" / "checkpoint" / "model.safetensors")
    assert all(np.isfinite(tensor.float().numpy()).all() for tensor in saved.values())

    curves = pd.read_csv(cell / "ablation" / "ablation.csv").query("metric == 'loss'")
    losses = curves.groupby("removed")["value"].agg(["min", "max"])
    assert losses.loc[0, "min"] == losses.loc[0, "max"] != losses.loc[100, "min"]
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
