"""An unfinished run that goes on, a finished one that is added to, and what must stop either.

Runs are stopped at a chosen call, not at a chosen time. What they end with is held to a run that
was never stopped.
"""

import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from common import attention_maps, features, figures, probe_scores, probes
from common.probes import sequences
from common.training import loop
from tests.helpers import read_json, run_script, write_data

TASK = {"fine-tuning": "NLI", "probing": "NER", "attention": "NLI"}
FLAGS = {
    "fine-tuning": ("--num_train_epochs", 2, "--learning_rate", 1e-3, "--save_minutes", 0),
    "probing": ("--controls",),
    "attention": ("--training_sizes", 0, "--metrics", "entropy", "--controls"),
}
# By step: what is called again and again, and at which call it is stopped.
CALLS = {"fine-tuning": (loop.Trainer, "train_on", 6),
         "probing": (probe_scores.Scores, "add", 2),
         "attention": (attention_maps, "_add", 3)}  # fmt: skip
RESULT = {"fine-tuning": "history.csv", "probing": "layers.csv", "attention": "heads.csv"}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """What a run has done is saved at every turn; nothing is drawn."""
    monkeypatch.setattr(attention_maps, "SAVE_SECONDS", -1)
    monkeypatch.setattr(sequences, "LAYERS_AT_ONCE", 1)
    for name in ("learning_curve", "probing_layers", "probing_sizes", "attention_heads",
                 "attention_sizes"):  # fmt: skip
        monkeypatch.setattr(figures, name, lambda *given: None)


@pytest.fixture
def place(tmp_path, checkpoint, request):
    """`run(out, *more)` of a step on data and a model of its own, which may be edited."""
    step = request.param
    model = shutil.copytree(checkpoint("bert"), tmp_path / "own" / "bert")
    data = write_data(tmp_path / "data", TASK[step], 24, 10, 12)

    def run(out="out", *more):
        flags = ("--data_dir", data, "--model_name", model, "--output_dir", tmp_path / out,
                 "--device", "cpu", "--precision", "fp32", "--batch_size", 4)  # fmt: skip
        return run_script(TASK[step], step, *flags, *FLAGS[step], *more)

    def folder(out="out"):
        (found,) = {path.parent for path in (tmp_path / out).rglob(f"{step}*/config.json")}
        return found

    return SimpleNamespace(step=step, run=run, folder=folder, data=data, model=model)


every_step = pytest.mark.parametrize("place", list(CALLS), indirect=True)


def result(folder, step):
    """What was measured, to the last bit, and of a training run the weights."""
    table = pd.read_csv(folder / RESULT[step])["value"].tolist()
    return table, read_json(folder / "metrics.json").get("checkpoint_sha256")


def counted(monkeypatch, step, stop_at=None):
    """The list that each of the step's calls is noted in; the `stop_at`-th is Ctrl-C."""
    where, name, _ = CALLS[step]
    real, calls = getattr(where, name), []

    def counting(*args, **kwargs):
        calls.append(args)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, counting)
    return calls


def stop(place, monkeypatch, *more):
    with monkeypatch.context() as patch:
        counted(patch, place.step, CALLS[place.step][2])
        with pytest.raises(SystemExit) as ended:
            place.run("out", *more)
    assert ended.value.code == 130
    assert not (place.folder() / "metrics.json").exists()


def edit_data(place):
    """A word of one example of the last split, whose labels stay."""
    file = place.data / "test.jsonl"
    first, *rest = file.read_text().splitlines()
    row = json.loads(first)
    if "tokens" in row:
        row["tokens"] = ["aspirin"] * len(row["tokens"])
    else:
        row["sentence1"] += " aspirin aspirin"
    file.write_text("\n".join([json.dumps(row), *rest]) + "\n")


def edit_training_data(place):
    file = place.data / "train.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[::-1]) + "\n")  # the numbers of examples and labels stay


def edit_model(place):
    file = place.model / "model.safetensors"
    weights = load_file(file)
    for name, weight in weights.items():
        if "embeddings" in name and weight.ndim == 2:
            weights[name] = weight.flip(0).contiguous()
    save_file(weights, file, metadata={"format": "pt"})


EDITS = {"nothing": lambda place: None, "test data": edit_data,
         "training data": edit_training_data, "model": edit_model}  # fmt: skip


@every_step
@pytest.mark.parametrize("what", EDITS)
def test_an_unfinished_run_goes_on_only_where_all_is_as_it_was(place, what, monkeypatch, capsys):
    step = place.step
    stop(place, monkeypatch)
    EDITS[what](place)
    with monkeypatch.context() as patch:
        again = counted(patch, step)
        assert place.run() == 0
    with monkeypatch.context() as patch:
        whole = counted(patch, step)
        assert place.run("whole") == 0
    assert result(place.folder(), step) == result(place.folder("whole"), step)
    done = {"fine-tuning": 5, "probing": 1, "attention": 2}[step] if what == "nothing" else 0
    assert len(again) == len(whole) - done
    assert {p.name for p in place.folder().iterdir()} == {
        p.name for p in place.folder("whole").iterdir()
    }, "nothing is left of the first attempt"
    # Finished, it says so; edited after that, it is refused rather than shown.
    assert place.run() == 0
    shown = capsys.readouterr().out
    assert "finished earlier" in shown or "0 of 1 sizes new" in shown
    if what != "nothing":
        before = result(place.folder(), step)
        {"model": edit_model}.get(what, edit_training_data)(place)
        with pytest.raises(SystemExit) as refused:
            place.run()
        told = capsys.readouterr().err
        assert refused.value.code == 2 and "--overwrite" in told
        assert ("another base model" if what == "model" else "another data set") in told
        assert result(place.folder(), step) == before


@every_step
def test_an_unfinished_run_with_other_flags(place, monkeypatch, capsys):
    """Refused; with --overwrite it begins anew, and nothing of the first attempt is in it."""
    stop(place, monkeypatch)
    other = ("--max_length", 8)
    with pytest.raises(SystemExit) as refused:
        place.run("out", *other)
    assert refused.value.code == 2 and "--max_length 512 (now 8)" in capsys.readouterr().err
    assert place.run("out", *other, "--overwrite") == 0
    assert place.run("whole", *other) == 0
    assert result(place.folder(), place.step) == result(place.folder("whole"), place.step)


@pytest.mark.parametrize("place", ["fine-tuning"], indirect=True)
def test_a_run_killed_before_anything_was_saved_begins_anew(place, monkeypatch):
    """Stopped at the first step: there is a config.json alone."""
    with monkeypatch.context() as patch:
        counted(patch, place.step, 1)
        with pytest.raises(SystemExit):
            place.run()
    assert {path.name for path in place.folder().iterdir()} == {"config.json", ".lock"}
    assert place.run() == 0 and place.run("whole") == 0
    assert result(place.folder(), place.step) == result(place.folder("whole"), place.step)


# --- a finished result that is added to ----------------------------------------------------------


@pytest.fixture
def probed(monkeypatch):
    """(layers, targets) of each call of the probes, and the layers of each pass of the encoder."""
    found, passes = [], []
    predict, extract = probes.predict_layers, features.extract

    def spy(kind, features, inputs, **options):
        found.append((sorted(features), sorted(inputs.labels)))
        return predict(kind, features, inputs, **options)

    def spied(encoder, examples, layers, *rest):
        passes.append(layers)
        return extract(encoder, examples, layers, *rest)

    monkeypatch.setattr(probes, "predict_layers", spy)
    monkeypatch.setattr(features, "extract", spied)
    return found, passes


@pytest.mark.parametrize("task", ("NER", "NLI"))
@pytest.mark.parametrize("where", (features.MEMORY, features.DISK))
def test_layers_one_at_a_time_are_those_of_one_pass(
    task, where, tmp_path, checkpoint, probed, monkeypatch
):
    """Where there is no room for all; also where the layers lack different targets."""
    _, passes = probed
    data = write_data(tmp_path / "data", task, 24, 10, 12)

    def run(out, *more):
        flags = ("--data_dir", data, "--model_name", checkpoint("bert"), "--output_dir",
                 tmp_path / out, "--device", "cpu", "--precision", "fp32")  # fmt: skip
        passes.clear()
        assert run_script(task, "probing", *flags, *more) == 0
        (file,) = (tmp_path / out).rglob("probing/layers.csv")
        assert not (file.parent / "features").exists()
        return file.read_text(), list(passes)

    wanted, whole = run("whole", "--controls")
    n = len(whole[0])
    monkeypatch.setattr(features, "place", lambda *given: (where, 1))
    run("groups", "--layers", "0")
    found, some = run("groups", "--controls")  # of layer 0 the controls alone are missing
    assert found == wanted and len(whole) == 1 and some == [[layer] for layer in range(n)]


@pytest.mark.parametrize("task", ("NER", "NLI"))
def test_layers_and_controls_are_added_to_a_finished_probe(task, tmp_path, checkpoint, probed):
    data = write_data(tmp_path / "data", task, 24, 10, 12)

    def run(out, *more):
        flags = ("--data_dir", data, "--model_name", checkpoint("bert"), "--output_dir",
                 tmp_path / out, "--device", "cpu", "--precision", "fp32")  # fmt: skip
        assert run_script(task, "probing", *flags, *more) == 0
        (file,) = (tmp_path / out).rglob("probing/layers.csv")
        metrics = read_json(file.parent / "metrics.json")
        return file.parent, file.read_text(), {
            k: v for k, v in metrics.items() if k not in ("seconds", "peak_memory_mib")
        }  # fmt: skip

    calls, passes = probed
    folder, *_ = run("out", "--layers", "1")
    run("out", "--layers", "0")
    assert calls == [([1], ["task"]), ([0], ["task"])] and passes == [[1], [0]]
    assert read_json(folder / "config.json")["arguments"]["layers"] == "0,1"
    run("out", "--layers", "last", "--controls")
    assert calls[2:] == [([0, 1], ["control"])], "what there is stays, also what was not named"
    assert read_json(folder / "config.json")["arguments"]["controls"] is True
    _, table, metrics = run("out", "--layers", "1")  # less than there is
    assert len(calls) == 3
    _, whole, metrics_of_whole = run("whole", "--controls")
    assert sorted(table.splitlines()) == sorted(whole.splitlines())
    assert metrics == metrics_of_whole


def test_a_finished_probe_survives_an_addition_that_is_stopped(
    tmp_path, checkpoint, monkeypatch, capsys
):
    data = write_data(tmp_path / "data", "NER", 24, 10, 12)
    flags = ("--data_dir", data, "--model_name", checkpoint("bert"), "--output_dir",
             tmp_path / "out", "--device", "cpu", "--precision", "fp32")  # fmt: skip
    assert run_script("NER", "probing", *flags) == 0
    (folder,) = (path.parent for path in tmp_path.rglob("layers.csv"))
    names = ("layers.csv", "metrics.json", "config.json")
    before = [(folder / name).read_bytes() for name in names]
    with monkeypatch.context() as patch:
        counted(patch, "probing", 2)
        with pytest.raises(SystemExit):
            run_script("NER", "probing", *flags, "--controls")
    assert [(folder / name).read_bytes() for name in names] == before
    calls = counted(monkeypatch, "probing")
    assert run_script("NER", "probing", *flags, "--controls") == 0
    assert len(calls) == 1  # the other layer's control was kept
    targets = pd.read_csv(folder / "layers.csv").groupby("target")["layer"].unique()
    assert all(sorted(layers) == [0, 1] for layers in targets) and len(targets) == 3


def test_metrics_controls_and_sizes_are_added_to_finished_attention(
    tmp_path, checkpoint, monkeypatch
):
    data = write_data(tmp_path / "data", "NLI", 24, 10, 12)
    flags = ("--data_dir", data, "--model_name", checkpoint("bert"), "--device", "cpu",
             "--precision", "fp32", "--output_dir")  # fmt: skip
    train = ("--num_train_epochs", 1, "--learning_rate", 1e-3, "--training_size", 50)
    assert run_script("NLI", "fine-tuning", *flags, tmp_path / "out", *train) == 0
    shutil.copytree(tmp_path / "out", tmp_path / "whole")
    asked, real = [], attention_maps.compare

    def spy(pretrained, others, *rest, metrics, **options):
        asked.append((len(others), list(metrics)))
        return real(pretrained, others, *rest, metrics=metrics, **options)

    monkeypatch.setattr(attention_maps, "compare", spy)

    def run(out, *more):
        assert run_script("NLI", "attention", *flags, tmp_path / out, *more) == 0
        cells = {path.parents[1].name: path for path in (tmp_path / out).rglob("attention")}
        return {
            size: {
                name: pd.read_csv(cell / name).set_index(["metric", "layer", "head"])["value"]
                .sort_index() for name in ("heads.csv", "floor.csv") if (cell / name).is_file()
            }
            for size, cell in cells.items()
        }  # fmt: skip

    first = run("out", "--training_sizes", "50")
    run("out", "--training_sizes", "50", "--metrics", "js")
    assert asked == [(1, ["cosine"]), (1, ["js"])]
    added = run("out", "--training_sizes", "0,50", "--metrics", "cosine", "--controls")
    assert asked[2][0] == 3 and len(asked) == 3
    assert run("out", "--training_sizes", "0,50", "--controls").keys() == added.keys()
    assert len(asked) == 3, "all there"
    whole = run("whole", "--training_sizes", "50", "--metrics", "cosine,js", "--controls")
    for name in ("heads.csv", "floor.csv"):
        pd.testing.assert_series_equal(added["50"][name], whole["50"][name], atol=1e-9)
    assert (first["50"]["heads.csv"]["cosine"] == added["50"]["heads.csv"]["cosine"]).all()
    config = read_json(next((tmp_path / "out").rglob("50/*/attention/config.json")))
    assert config["arguments"]["metrics"] == ["cosine", "js"] and config["arguments"]["controls"]


@pytest.mark.parametrize(
    ("task", "step", "flags"),
    (
        ("NER", "probing", ("--probe", "linear")),
        ("NLI", "probing", ("--standardize",)),
        ("NLI", "attention", ("--split", "dev")),
    ),
)
def test_a_variant_stands_beside_the_default_and_touches_it_not(
    tmp_path, checkpoint, capsys, task, step, flags
):
    data = write_data(tmp_path / "data", task, 24, 10, 12)
    sizes = ("--training_sizes", 0, "--metrics", "entropy") if step == "attention" else ()

    def run(*more):
        base = ("--data_dir", data, "--model_name", checkpoint("bert"), "--output_dir",
                tmp_path / "out", "--device", "cpu", "--precision", "fp32")  # fmt: skip
        assert run_script(task, step, *base, *sizes, *more) == 0
        cell = next((tmp_path / "out").rglob("seed-42"))
        return {
            folder.name: {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}
            for folder in cell.iterdir()
        }

    alone = run()
    both = run(*flags)
    assert both[step] == alone[step] and len(both) == 2
    (own,) = both.keys() - {step}
    assert both[own][RESULT[step]][0] != alone[step][RESULT[step]][0]
    capsys.readouterr()
    assert run() == both and run(*flags) == both
    shown = capsys.readouterr().out
    assert shown.count("finished earlier") + shown.count("0 of 1 sizes new") == 2
