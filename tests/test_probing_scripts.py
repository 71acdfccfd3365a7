"""probing.py and attention.py end to end, on small data and tiny models, and what they refuse."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.helpers import read_json, write_data
from tests.helpers import run_script as run

MAIN = {"NER": "entity_f1", "NLI": "accuracy"}
EPOCHS = ("--num_train_epochs", 2)
KEYS = ["task", "dataset", "model", "training_size", "seed"]


@pytest.fixture(scope="module", params=("NER", "NLI"))
def trained(request, checkpoint, tmp_path_factory):
    """(task, flags, folder of the model's results) with a model fine-tuned on 30 %."""
    task, root = request.param, tmp_path_factory.mktemp(f"probing-{request.param}")
    data = write_data(root / "data", task, 60, 20, 15)
    model = checkpoint("biobert")
    flags = ("--data_dir", data, "--model_name", model, "--output_dir", root / "out",
             "--device", "cpu", "--precision", "fp32")  # fmt: skip
    assert run(task, "fine-tuning", *flags, "--training_size", 30, *EPOCHS) == 0
    return task, flags, root / "out" / "data" / "--".join(model.parts[-2:])


def cell(folder, size, step):
    return folder / str(size) / "seed-42" / step


def metrics(folder):
    return read_json(folder / "metrics.json")


def test_probing(trained, capsys):
    task, flags, folder = trained
    for size in (0, 30):
        assert run(task, "probing", *flags, "--training_size", size, "--control") == 0
    assert run(task, "probing", *flags, "--random_init", "--control") == 0
    assert "attention.py --training_sizes" in capsys.readouterr().out
    assert (folder / "layers_all_sizes.png").stat().st_size > 10_000
    for size in (0, 30, "random"):
        here = cell(folder, size, "probing")
        assert {p.name for p in here.iterdir()} - {".lock"} == {
            "config.json", "metrics.json", "layers.csv", "layers.png", "layers.pdf"
        }  # fmt: skip
        table = pd.read_csv(here / "layers.csv")
        assert list(table.columns) == [
            *KEYS,
            "layer",
            "probe",
            "target",
            "split",
            "metric",
            "value",
        ]
        assert set(table["layer"]) == {0, 1}
        assert set(table["target"]) == {"task", "control", "selectivity"}
        assert {"dev", "test"} <= set(table["split"]) and set(table["task"]) == {task}
        own = table[table["probe"] != "majority"]
        chosen = own[(own["split"] == "test") & (own["layer"] == 1)]
        value = chosen.pivot(index="metric", columns="target", values="value")
        shared = value.dropna()
        np.testing.assert_allclose(shared["selectivity"], shared["task"] - shared["control"])
        found = metrics(here)
        assert found["last_layer"] == 1 and found["best_layer"] in (0, 1)
        assert found["seconds"] > 0 and found["parameters"] > 1000
        assert found[f"test_{MAIN[task]}_last_layer"] == value["task"][MAIN[task]]
        dev = own[(own["split"] == "dev") & (own["target"] == "task")]
        dev = dev[dev["metric"] == MAIN[task]].set_index("layer")["value"]
        assert dev.idxmax() == found["best_layer"]


def test_attention(trained, capsys):
    task, flags, folder = trained
    more = ("--metrics", "cosine,js,entropy", "--floor")
    assert run(task, "attention", *flags, "--training_sizes", "30,0", *more) == 0
    assert (folder / "attention_all_sizes.png").stat().st_size > 10_000
    for size in (0, 30):
        here = cell(folder, size, "attention")
        names = {"config.json", "metrics.json", "heads.csv", "floor.csv", "heads.png", "heads.pdf"}
        assert {p.name for p in here.iterdir()} - {".lock"} == names
        table = pd.read_csv(here / "heads.csv")
        assert list(table.columns) == [*KEYS, "layer", "head", "metric", "value"]
        assert set(table["layer"]) == {1} and set(table["head"]) == {1, 2}
        cosine = table[table["metric"] == "cosine"]["value"]
        found = metrics(here)
        assert found["cosine"] == pytest.approx(cosine.mean()) and found["examples"] == 15
        assert found["most_changed_heads"][0]["cosine"] == cosine.min()
        if size == 0:
            assert (cosine == 1).all() and found["js"] == 0
        else:
            assert (cosine < 1).all() and found["js"] > 0
        assert found["floor_cosine"] < 1 and found["seconds"] > 0 and found["parameters"] > 1000
    before = (cell(folder, 0, "attention") / "metrics.json").stat().st_mtime_ns
    assert run(task, "attention", *flags, "--training_sizes", "0,30", *more) == 0
    assert "0 of 2 sizes new" in capsys.readouterr().out
    assert (cell(folder, 0, "attention") / "metrics.json").stat().st_mtime_ns == before


def test_a_style_draws_a_finished_run_anew_and_changes_no_result(trained, capsys, tmp_path):
    task, flags, folder = trained
    style = tmp_path / "my.mplstyle"
    style.write_text("savefig.dpi: 60\n")
    for step, file in (("fine-tuning", "learning_curve"), ("probing", "layers"),
                       ("attention", "heads")):  # fmt: skip
        here = cell(folder, 30, step)
        given = (*flags, "--training_size", 30, *EPOCHS * (step == "fine-tuning"))
        assert run(task, step, *given) == 0
        before = {path.name: path.read_bytes() for path in here.glob("*.*")}
        assert run(task, step, *given, "--style", style) == 0
        after = {path.name: path.read_bytes() for path in here.glob("*.*")}
        changed = {name for name in before | after if before.get(name) != after.get(name)}
        assert f"{file}.png" in changed and changed <= {f"{file}.png", f"{file}.pdf"}


def refused(capsys, task, step, *argv):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        run(task, step, *argv)
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in shown and "error: " in shown
    return shown


def test_missing_checkpoints_are_named_with_their_commands(trained, capsys):
    task, flags, _ = trained
    shown = refused(capsys, task, "attention", *flags, "--training_sizes", "10,30,50")
    for size in (10, 50):
        assert f"fine-tuning.py --training_size {size} --model_name" in shown
    assert "--training_size 30" not in shown
    shown = refused(capsys, task, "probing", *flags, "--training_size", 50)
    assert "fine-tuning.py --training_size 50" in shown


@pytest.mark.parametrize("text", ("10, 30", "10,20", "10;30", "", "all", "10,"))
def test_a_wrong_list_of_sizes_shows_the_right_form(trained, capsys, text):
    task, flags, _ = trained
    assert "10,30" in refused(capsys, task, "attention", *flags, "--training_sizes", text)


def test_a_model_fine_tuned_again_is_noticed(trained, capsys, tmp_path):
    task, flags, _ = trained
    flags = [*flags[:4], "--output_dir", tmp_path, *flags[6:], "--training_size", 10]
    epochs = ("--num_train_epochs", 1)
    assert run(task, "fine-tuning", *flags, *epochs) == 0
    assert run(task, "probing", *flags, "--layers", "last") == 0
    assert run(task, "fine-tuning", *flags, *epochs, "--overwrite", "--learning_rate", 1e-3) == 0
    assert "--overwrite" in refused(capsys, task, "probing", *flags, "--layers", "last")


def test_data_edited_after_fine_tuning_is_noticed(trained, capsys):
    task, flags, _ = trained
    train = flags[1] / "train.jsonl"
    text = train.read_text()
    lines = text.splitlines(keepends=True)
    train.write_text("".join(lines[1:]))
    try:
        for step, sizes in (("probing", "--training_size"), ("attention", "--training_sizes")):
            shown = refused(capsys, task, step, *flags, sizes, 30, "--overwrite")
            assert "--num_train_epochs 2" in shown  # the command makes the same again
            assert "other data" in shown and "fine-tuning.py --training_size 30" in shown
    finally:
        train.write_text(text)


def test_features_are_kept_on_demand_and_used_again(trained, monkeypatch, tmp_path):
    task, flags, _ = trained
    from common import features

    flags = [*flags[:4], "--output_dir", tmp_path, *flags[6:], "--layers", "last"]
    assert run(task, "probing", *flags, "--keep_features") == 0
    here = next(tmp_path.rglob("metrics.json")).parent
    first = (here / "layers.csv").read_text()
    assert len(list(here.glob("features/*.npy"))) == 1
    monkeypatch.setattr(features, "_fill", lambda *args: pytest.fail("encoded again"))
    assert run(task, "probing", *flags, "--overwrite") == 0
    assert (here / "layers.csv").read_text() == first and not (here / "features").exists()


def test_a_result_is_back_when_its_replacement_cannot_be_made(
    trained, capsys, monkeypatch, tmp_path
):
    task, flags, _ = trained
    from common import features
    from common.cli import UserError

    flags = [*flags[:4], "--output_dir", tmp_path, *flags[6:], "--layers", "last"]
    assert run(task, "probing", *flags) == 0
    here = next(tmp_path.rglob("metrics.json")).parent

    def contents():
        return {p.name: p.read_bytes() for p in here.iterdir() if p.is_file()}

    first = contents()

    def too_small(*args):
        assert not (here / "metrics.json").exists()  # unfinished to whoever looks
        raise UserError("no space")

    monkeypatch.setattr(features, "extract", too_small)
    other = ("--max_length", "64")
    refused(capsys, task, "probing", *flags, "--overwrite", *other)
    assert contents() == first and not list(here.glob(".replaced*"))

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "extract", interrupted)
    with pytest.raises(SystemExit) as stop:
        run(task, "probing", *flags, "--overwrite", *other)
    assert stop.value.code == 130
    assert "without --overwrite goes on" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(task, "probing", *flags, *other) == 0
    assert contents().keys() == first.keys() and contents() != first
    assert not (here / ".replaced").exists()


def test_entropy_alone_ranks_heads_by_how_it_changed(trained):
    task, flags, folder = trained
    flags = [*flags, "--training_sizes", "0,30", "--metrics", "entropy", "--overwrite"]
    assert run(task, "attention", *flags) == 0
    none, some = (metrics(cell(folder, size, "attention")) for size in (0, 30))
    assert none["most_changed_heads"][0]["entropy_change"] == 0 == none["entropy_change"]
    changes = [head["entropy_change"] for head in some["most_changed_heads"]]
    assert changes == sorted(changes, reverse=True) and changes[0] > 0


def test_a_kill_while_a_result_is_put_aside_loses_nothing(trained, monkeypatch, tmp_path, capsys):
    task, flags, _ = trained
    from pathlib import Path

    from common import features
    from common.cli import UserError

    flags = [*flags[:4], "--output_dir", tmp_path, *flags[6:], "--layers", "last"]
    assert run(task, "probing", *flags) == 0
    here = next(tmp_path.rglob("metrics.json")).parent
    first = {p.name: p.read_bytes() for p in here.iterdir() if p.is_file()}
    moved, rename = [], Path.rename

    def killed_at_third(self, target):
        moved.append(self)
        if len(moved) == 3:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed_at_third)
    with pytest.raises(SystemExit):
        run(task, "probing", *flags, "--overwrite")
    monkeypatch.undo()
    assert not (here / "metrics.json").exists()

    def too_small(*args):
        raise UserError("no space")

    monkeypatch.setattr(features, "extract", too_small)
    refused(capsys, task, "probing", *flags, "--overwrite")
    assert {p.name: p.read_bytes() for p in here.iterdir() if p.is_file()} == first


def test_a_disk_that_fills_up_under_the_features(trained, monkeypatch, tmp_path, capsys):
    task, flags, _ = trained
    import errno
    import os

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    flags = [*flags[:4], "--output_dir", tmp_path, *flags[6:]]
    shown = refused(capsys, task, "probing", *flags, "--keep_features")
    assert "layer-00.npy: No space left" in shown and "goes on" in shown
    monkeypatch.undo()
    assert run(task, "probing", *flags) == 0


def test_another_base_model_than_was_fine_tuned_is_noticed(trained, capsys, tmp_path):
    """The checkpoint is of the old one: nothing may compare it with the new."""
    import shutil

    from safetensors.torch import load_file, save_file

    task, flags, _ = trained
    model = tmp_path / "own" / "model"
    shutil.copytree(flags[3], model)
    flags = [*flags[:3], model, "--output_dir", tmp_path / "out", *flags[6:]]
    assert run(task, "fine-tuning", *flags, "--training_size", 10, "--num_train_epochs", 1) == 0
    weights = next(f for f in model.iterdir() if f.suffix in (".bin", ".safetensors"))
    if weights.suffix == ".safetensors":
        tensors = load_file(weights)
        save_file({k: v * 1.01 for k, v in tensors.items()}, weights, metadata={"format": "pt"})
    else:
        (model / "vocab.txt").write_text((model / "vocab.txt").read_text() + "extra\n")
    for step, size in (("probing", "--training_size"), ("attention", "--training_sizes")):
        assert "another base model" in refused(capsys, task, step, *flags, size, 10)
    assert "another base model" in refused(
        capsys, task, "fine-tuning", *flags, "--training_size", 10, "--num_train_epochs", 1
    )


@pytest.mark.parametrize("step", ("probing", "attention"))
def test_killed_at_the_end_of_an_addition_the_next_call_mends_it(
    trained, monkeypatch, tmp_path, step
):
    """The tables are new and metrics.json is old: it is written anew from them."""
    from common import results

    task, flags, _ = trained
    flags = [*flags[:4], "--output_dir", tmp_path, *flags[6:]]
    flags += ["--training_sizes", 0] if step == "attention" else ["--layers", "last"]
    assert run(task, step, *flags) == 0
    here = next(tmp_path.rglob("metrics.json")).parent

    def killed(*given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(results.Run, "finish", killed)
        with pytest.raises(SystemExit):
            run(task, step, *flags, "--controls")
    key = "floor_cosine" if step == "attention" else f"test_selectivity_{MAIN[task]}"
    assert key not in metrics(here)
    assert run(task, step, *flags) == 0
    assert key in metrics(here)
    config = json.loads((here / "config.json").read_text())
    assert config["arguments"]["controls"] and config["machine"]["device"] == "cpu"


def test_an_untrained_encoder_is_compared_only_where_it_was_asked_for(trained, tmp_path):
    task, flags, _ = trained
    out = tmp_path / "out"
    flags = [*flags[:4], "--output_dir", out, *flags[6:]]
    small = ("--num_train_epochs", 1)
    assert run(task, "fine-tuning", *flags, "--training_size", 10, *small) == 0
    assert run(task, "attention", *flags, "--training_sizes", 10, "--controls") == 0
    both = ("--training_sizes", "0,10", "--metrics", "js")
    assert run(task, "attention", *flags, *both) == 0
    asked, other = (cell(next(out.glob("*/*")), size, "attention") for size in (10, 0))
    assert {"floor_cosine", "floor_js"} <= metrics(asked).keys()
    assert not (other / "floor.csv").exists()
    before = (asked / "metrics.json").stat().st_mtime_ns
    assert run(task, "attention", *flags, *both) == 0
    assert (asked / "metrics.json").stat().st_mtime_ns == before


def test_nothing_is_mixed_with_the_demo(trained, capsys):
    task, flags, _ = trained
    shown = refused(capsys, task, "probing", *flags, "--dataset_name", "demo")
    assert "--dataset_name" in shown and "demo's results" in shown
