"""probing.py and attention.py end to end on small data and tiny models; resuming; what is refused.

A call is stopped at a chosen function, not at a chosen time. What it ends with is held to a call
that was never stopped.
"""

import importlib
import json
import re
import shlex
import shutil
import sys
from contextlib import nullcontext

import pandas as pd
import pytest
from filelock import FileLock
from safetensors.torch import load_file, save_file

from common import attention_maps, steps
from common.cli import ROOT, UserError
from common.probes import sequences
from common.steps import probing
from common.training import resume
from tests.helpers import TASKS, read_json, run_script, write_data

MAIN = {"NER": "entity_f1", "NLI": "accuracy"}
KEYS = ["task", "dataset", "model", "training_size", "seed"]
RESULT = {"fine-tuning": "history.csv", "probing": "layers.csv", "attention": "heads.csv"}
QUICK = ("--num_train_epochs", 2, "--learning_rate", 1e-3)


class Place:
    """A data set and a model of its own, which may be edited; the scripts' results in `out`."""

    def __init__(self, root, task, checkpoint):
        self.root, self.task = root, task
        self.data = write_data(root / "data", task, 24, 10, 12)
        self.model = shutil.copytree(checkpoint("bert"), root / "own" / "bert")

    def run(self, step, *flags, out="out"):
        own = QUICK if step == "fine-tuning" else ()
        common = ("--data_dir", self.data, "--model_name", self.model, "--output_dir",
                  self.root / out, "--device", "cpu", "--precision", "fp32")  # fmt: skip
        return run_script(self.task, step, *common, "--batch_size", 4, *own, *flags)

    def refused(self, capsys, step, *flags):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            self.run(step, *flags)
        shown = capsys.readouterr().err
        assert stop.value.code == 2 and "Traceback" not in shown and "error: " in shown
        return shown

    def folder(self, size, step, out="out"):
        return self.root / out / "data" / "own--bert" / str(size) / "seed-42" / step


@pytest.fixture(params=("NER", "NLI"))
def place(request, tmp_path, checkpoint, no_figures):
    return Place(tmp_path, request.param, checkpoint)


@pytest.fixture
def no_figures(monkeypatch):
    """They have tests of their own."""
    for step in steps.STEPS.values():
        monkeypatch.setattr(step, "draw", lambda *given: None)


def table(folder, name):
    return pd.read_csv(folder / name)


def contents(root):
    files = (path for path in root.rglob("*") if path.is_file() and "logs" not in path.parts)
    return {path.relative_to(root): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# --- what is written -----------------------------------------------------------------------------


def test_a_damaged_table_of_a_probe(tmp_path, checkpoint, capsys, no_figures):
    """One message, whose command makes it again; other flags are named with what makes theirs."""
    place = Place(tmp_path, "NER", checkpoint)
    place.run("fine-tuning", "--training_size", 30)
    probing = ("probing", "--training_size", 30, "--controls")
    place.run(*probing)
    for name in ("probing", "probing-control"):
        file = place.folder(30, name) / "layers.csv"
        text = file.read_text()
        for damaged in ("", text[: len(text) // 3]):
            file.write_text(damaged)
            assert "Make the result again:" in place.refused(capsys, *probing)
        file.write_text(text)
    told = place.refused(capsys, "probing", "--training_size", 30, "--label_scheme", "iob2")
    assert re.search(r"NER/fine-tuning.py .*--label_scheme iob2 .*--overwrite", told)


@pytest.mark.parametrize("task", ("NER", "NLI"))
def test_probing_and_attention_write_what_the_design_says(task, tmp_path, checkpoint, capsys):
    place = Place(tmp_path, task, checkpoint)
    assert place.run("fine-tuning", "--training_size", 30) == 0
    for flags in (("--training_size", 0), ("--training_size", 30), ("--untrained",)):
        assert place.run("probing", *flags, "--controls") == 0
    assert "selectivity on test" in capsys.readouterr().out
    for size in (0, 30, "random"):
        for target in ("task", "control"):
            here = place.folder(size, "probing" if target == "task" else "probing-control")
            written = {"config.json", "metrics.json", "layers.csv", "layers.png", "layers.pdf"}
            written |= {"predictions.jsonl"} if target == "task" else set()
            assert {path.name for path in here.iterdir()} == written
            if target == "task":
                kept = [json.loads(line) for line in (here / "predictions.jsonl").open()]
                assert [row["layer"] for row in kept] == [0] * 12 + [1] * 12
            rows = table(here, "layers.csv")
            columns = [*KEYS, "layer", "probe", "target", "split", "metric", "value"]
            assert list(rows.columns) == columns
            assert set(rows["layer"]) == {0, 1} and set(rows["target"]) == {target}
            assert {"dev", "test"} <= set(rows["split"]) and set(rows["training_size"]) == {size}
            own = rows[(rows["probe"] != "majority") & (rows["metric"] == MAIN[task])]
            metrics = read_json(here / "metrics.json")
            dev = own[own["split"] == "dev"].set_index("layer")["value"]
            test = own[own["split"] == "test"].set_index("layer")["value"]
            assert metrics["best_layer"] == dev.idxmax() and metrics["last_layer"] == 1
            assert metrics[f"test_{MAIN[task]}"] == test[metrics["best_layer"]]
            assert metrics[f"test_{MAIN[task]}_last_layer"] == test[1]
            assert metrics["seconds"] > 0 and metrics["parameters"] > 1000
            assert not any("selectivity" in key for key in metrics)
    assert place.run("attention", "--training_sizes", "0,30", "--controls") == 0
    for size in (0, 30, "random"):
        here = place.folder(size, "attention")
        written = {"config.json", "metrics.json", "heads.csv", "heads.png", "heads.pdf", "cka.csv"}
        assert {path.name for path in here.iterdir()} == written
        rows = table(here, "heads.csv")
        assert list(rows.columns) == [*KEYS, "layer", "head", "metric", "value"]
        assert {m for m in rows["metric"] if not m.endswith("_std")} == {*attention_maps.METRICS}
        assert set(rows["layer"]) == {1} and set(rows["head"]) == {1, 2}
        states = table(here, "cka.csv")  # fewer than 64 examples have no CKA
        assert list(states.columns) == [*KEYS, "layer", "metric", "value"]
        assert set(states["layer"]) == {0, 1} and states["value"].isna().all()
        cosine = rows[rows["metric"] == "cosine"]["value"]
        metrics = read_json(here / "metrics.json")
        assert metrics["cosine"] == pytest.approx(cosine.mean()) and metrics["examples"] == 12
        assert metrics["most_changed_cosine"] == cosine.min()
        assert (cosine == 1).all() if size == 0 else (cosine < 1).all()
        assert metrics["js"] == 0 if size == 0 else metrics["js"] > 0
    before = contents(tmp_path / "out")
    assert place.run("probing", "--training_size", 30, "--controls") == 0
    assert place.run("attention", "--training_sizes", "30,0") == 0
    shown = capsys.readouterr().out
    assert "finished earlier" in shown and "0 of 2 results are new" in shown
    assert contents(tmp_path / "out") == before


def test_what_was_made_earlier_and_what_is_added_is_what_one_call_makes(place):
    place.run("fine-tuning", "--training_size", 50)
    shutil.copytree(place.root / "out", place.root / "whole")
    place.run("probing", "--training_size", 50)
    place.run("attention", "--training_sizes", "50")
    first = contents(place.root / "out")
    for out in ("out", "whole"):
        place.run("probing", "--training_size", 50, "--controls", out=out)
        place.run("attention", "--training_sizes", "0,50", "--controls", out=out)
    assert first.items() <= contents(place.root / "out").items(), "what is finished stays"
    for size, step in ((50, "probing"), (50, "probing-control"), (0, "attention"),
                       (50, "attention"), ("random", "attention")):  # fmt: skip
        name = RESULT[step.removesuffix("-control")]
        one, two = (table(place.folder(size, step, out), name) for out in ("out", "whole"))
        pd.testing.assert_frame_equal(one, two, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("step", "flags", "folder"),
    (
        ("probing", ("--probe", "linear", "--pooling", "last"), "probing-linear-last"),
        ("probing", ("--layers", "0,1"), "probing-layers-0.1"),
        ("probing", ("--layers", "last", "--controls"), "probing-layers-last"),
        ("attention", ("--drop_special", "--split", "dev"), "attention-drop_special-dev"),
    ),
)
def test_a_variant_stands_beside_the_default_and_does_not_touch_it(place, step, flags, folder):
    sizes = ("--training_sizes", 0) if step == "attention" else ()
    place.run(step, *sizes)
    before = contents(place.root / "out")
    place.run(step, *sizes, *flags)
    assert before.items() <= contents(place.root / "out").items()
    there = {path.name for path in place.folder(0, step).parent.iterdir()}
    control = {f"{folder}-control"} if "--controls" in flags else set()
    assert there == {step, folder} | control


def test_choice_of_layers():
    assert probing.chosen_layers("all", 2) == [0, 1, 2] and probing.chosen_layers("last", 12) == [
        12
    ]
    assert probing.chosen_layers("6,0,6", 12) == [0, 6]
    with pytest.raises(UserError, match="0 .embeddings. to 12"):
        probing.chosen_layers("13", 12)


def test_the_best_layer_is_that_of_dev_and_of_equal_ones_the_first():
    def best(values):
        by_layer = {n: {s: {"accuracy": v} for s, v in of.items()} for n, of in values.items()}
        return probing.best_layer(by_layer, "accuracy")

    assert best({0: {"dev": 0.2, "test": 0.9}, 1: {"dev": 0.6, "test": 0.3}}) == 1
    assert best({n: {"dev": 0.5, "test": n / 10} for n in range(3)}) == 0
    assert best({n: {"test": 0.5 - n / 10} for n in range(3)}) == 2  # no dev: the last


# --- resuming ------------------------------------------------------------------------------------

# By step: what is called again and again, and at which call it is stopped.
CALLS = {"fine-tuning": (resume, "save_state", 3), "probing": (probing.Scores, "add", 3),
         "attention": (attention_maps, "_sums", 3)}  # fmt: skip
FLAGS = {"fine-tuning": ("--save_minutes", 0), "probing": ("--controls",),
         "attention": ("--training_sizes", 0, "--controls")}  # fmt: skip


@pytest.fixture
def often(monkeypatch):
    """What was done is saved at every turn."""
    monkeypatch.setattr(sequences, "LAYERS_AT_ONCE", 1)


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


def edit_data(place):
    """A word of a test example; the labels stay."""
    first, *rest = (place.data / "test.jsonl").read_text().splitlines()
    row = json.loads(first)
    if "tokens" in row:
        row["tokens"] = ["aspirin"] * len(row["tokens"])
    else:
        row["sentence1"] += " aspirin"
    (place.data / "test.jsonl").write_text("\n".join([json.dumps(row), *rest]) + "\n")


def edit_model(place):
    file = place.model / "model.safetensors"
    weights = {n: w.flip(0).contiguous() if "embeddings" in n and w.ndim == 2 else w
               for n, w in load_file(file).items()}  # fmt: skip
    save_file(weights, file, metadata={"format": "pt"})


def outcome(place, step, out="out"):
    """What was measured, to the last bit, and of training the weights; of all results of a step."""
    found = {}
    for path in sorted((place.root / out).rglob(RESULT[step])):
        metrics = read_json(path.parent / "metrics.json")
        value = pd.read_csv(path)["value"].tolist(), metrics.get("checkpoint_sha256")
        found[str(path.relative_to(place.root / out))] = value
    return found


@pytest.mark.parametrize("step", list(CALLS))
@pytest.mark.parametrize("edit", (None, edit_data, edit_model))
def test_an_unfinished_call_is_resumed_only_where_all_is_as_it_was(
    place, step, edit, monkeypatch, capsys, often
):
    with monkeypatch.context() as patch:
        counted(patch, step, CALLS[step][2])
        with pytest.raises(SystemExit) as ended:
            place.run(step, *FLAGS[step])
    assert ended.value.code == 130 and "type the same command" in capsys.readouterr().err
    assert not list((place.root / "out").rglob("metrics.json"))
    assert list((place.root / "out").rglob("*.partial"))
    if edit:
        edit(place)
    with monkeypatch.context() as patch:
        again = counted(patch, step)
        assert place.run(step, *FLAGS[step]) == 0
    with monkeypatch.context() as patch:
        whole = counted(patch, step)
        assert place.run(step, *FLAGS[step], out="whole") == 0
    assert outcome(place, step) == outcome(place, step, "whole")
    anew = edit or step == "attention"
    assert len(again) == len(whole) if anew else len(again) < len(whole)
    assert not list((place.root / "out").rglob("*.partial"))
    before = contents(place.root / "out")
    (edit_data if edit else edit_model)(place)
    name = "data set" if edit else "base model"
    if edit is not edit_data:
        shown = place.refused(capsys, step, *FLAGS[step])
        assert f"another {name}" in shown and "--overwrite" in shown
        assert contents(place.root / "out") == before


# --- remedies: every printed command is typed, until it works ------------------------------------

REMEDY = re.compile(r"^ *(?:next: +)?python (\S+?/([\w-]+)/)?([\w-]+)\.py (.*)$", re.M)


def follow(shown):
    """Type the last command that was printed; 0, or the exit code and what was printed then."""
    lines = [line for line in shown.splitlines() if line.strip().startswith("python ")]
    if not lines:  # the same command with --overwrite
        assert "Add --overwrite" in shown
        return None
    _, script, *argv = shlex.split(lines[-1].strip())
    task, step = script.removesuffix(".py").split("/")[-2:]
    return importlib.import_module(f"{task}.{step}").main(argv)


def drop(name):
    def damage(place, size):
        target = place.folder(size, "fine-tuning") / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return damage


def cut(name):
    def damage(place, size):
        file = place.folder(size, "fine-tuning") / name
        file.write_bytes(file.read_bytes()[:40])

    return damage


DAMAGE = {
    "nothing was made": lambda place, size: shutil.rmtree(place.root / "out"),
    "no checkpoint": drop("checkpoint"),
    "cut metrics": cut("metrics.json"),
    "no metrics": drop("metrics.json"),
    "other data": lambda place, size: edit_data(place),
    "another base model": lambda place, size: edit_model(place),
}


@pytest.mark.parametrize("step", ("probing", "attention", "fine-tuning"))
@pytest.mark.parametrize("name", DAMAGE)
def test_printed_remedies_work(place, name, step, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert place.run("fine-tuning", "--training_size", 50) == 0
    DAMAGE[name](place, 50)
    flags = ("--training_sizes" if step == "attention" else "--training_size", 50)
    for _ in range(3):
        capsys.readouterr()
        try:
            assert place.run(step, *flags) == 0
            break
        except SystemExit as stop:
            assert stop.code == 2
            if (code := follow(capsys.readouterr().err)) is None:
                flags = (*flags, "--overwrite")
            else:
                assert code == 0
    else:
        pytest.fail("the remedies do not end")


def test_next_leads_through_the_steps_to_the_report(place, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    place.run("fine-tuning", "--training_size", 50)
    for step in ("probing", "attention", "ablation"):
        shown = capsys.readouterr().out.replace("next:    ", "")
        assert f"{step}.py" in shown and follow(shown) == 0
    assert "python -m common.report --tasks" in capsys.readouterr().out


def test_other_flags_of_the_task_are_refused_with_their_values(tmp_path, checkpoint, capsys):
    place = Place(tmp_path, "NER", checkpoint)
    place.run("fine-tuning", "--training_size", 50, "--label_scheme", "iob2")
    shown = place.refused(capsys, "probing", "--training_size", 50)
    assert "label_scheme iob2 against io" in shown
    assert place.run("probing", "--training_size", 50, "--label_scheme", "iob2") == 0


def test_missing_checkpoints_are_named_with_their_commands(place, capsys):
    place.run("fine-tuning", "--training_size", 30)
    shown = place.refused(capsys, "attention", "--training_sizes", "10,30,50")
    for size in (10, 50):
        assert f"fine-tuning.py --training_size {size} --model_name" in shown
    assert "--training_size 30" not in shown


@pytest.mark.parametrize("name", ("config.json", "tokenizer.json", "model.safetensors"))
def test_a_damaged_checkpoint_is_named_with_the_command_that_remakes_it(place, capsys, name):
    place.run("fine-tuning", "--training_size", 30)
    file = place.folder(30, "fine-tuning") / "checkpoint" / name
    file.write_bytes(file.read_bytes()[:-40])
    for step, flag in (("probing", "--training_size"), ("attention", "--training_sizes")):
        shown = place.refused(capsys, step, flag, 30)
        assert f"cannot load a model from {file.parent}" in shown and "A model folder" not in shown
    script, *flags = shlex.split(shown.strip().splitlines()[-1])[1:]
    assert script.endswith("fine-tuning.py") and flags[-1] == "--overwrite"
    run_script(place.task, "fine-tuning", *flags)
    place.run("probing", "--training_size", 30)


@pytest.mark.parametrize("name", ("config.json", "adapter_config.json"))
def test_so_are_adapters(place, capsys, name):
    place.run("fine-tuning", "--training_size", 30, "--lora")
    file = place.folder(30, "fine-tuning-lora") / "checkpoint" / name
    file.write_bytes(file.read_bytes()[:-40])
    shown = place.refused(capsys, "probing", "--training_size", 30, "--lora")
    assert str(file.parent) in shown and "Make the result again" in shown and "--lora" in shown


def test_a_lack_of_memory_is_no_damage(place, capsys, monkeypatch):
    place.run("fine-tuning", "--training_size", 30)

    def short(*given, **options):
        raise MemoryError

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", short)
    shown = place.refused(capsys, "probing", "--training_size", 30)
    assert "MemoryError" in shown and "again" not in shown


def test_a_moved_result_is_made_again_where_it_lies(place, capsys):
    place.run("fine-tuning", "--training_size", 30)
    (place.root / "out").rename(place.root / "moved")
    file = place.folder(30, "fine-tuning", out="moved") / "metrics.json"
    file.write_text("{")
    flags = ("--training_size", 30, "--output_dir", place.root / "moved")
    shown = place.refused(capsys, "probing", *flags)
    command = shlex.split(shown.strip().splitlines()[-1])
    run_script(place.task, "fine-tuning", *command[2:])
    assert "seconds" in read_json(file) and not (place.root / "out").exists()


def test_a_fine_tuning_in_progress_is_waited_for(place, capsys):
    """It is not said to be missing: who types its command would be refused."""
    here = place.folder(10, "fine-tuning.partial")
    here.mkdir(parents=True)
    for held in (True, False):
        with FileLock(here / ".lock") if held else nullcontext():
            for step, flag in (("probing", "--training_size"), ("attention", "--training_sizes")):
                shown = place.refused(capsys, step, flag, 10)
                said = f"at work in {here}: fine-tuning is in progress. Wait for it"
                assert (said in shown) == held
                assert ("fine-tuning.py --training_size 10" in shown) != held


def test_a_model_no_better_than_the_majority_gets_advice(place, capsys):
    """Not at size 0: nothing was trained there. Not without dev."""
    place.run("fine-tuning")
    file, main = place.folder(100, "fine-tuning") / "metrics.json", MAIN[place.task]
    there = read_json(file) | {f"dev_{main}": 0.5}
    for change, advised in (
        ({f"dev_majority_{main}": 0.5}, True),
        ({f"dev_majority_{main}": 0.6}, True),
        ({f"dev_majority_{main}": 0.4}, False),
        ({f"dev_majority_{main}": 0.6, "trained": False}, False),
        ({f"dev_{main}": None, f"dev_majority_{main}": None}, False),
    ):
        file.write_text(json.dumps(there | change))
        place.run("fine-tuning")
        said = "No better than the majority class on dev: this model. Try more --num_train_epochs"
        assert (said in capsys.readouterr().out) == advised


def test_features_are_kept_on_demand_and_used_again(place, monkeypatch):
    place.run("probing", "--keep_features")
    here = place.folder(0, "probing")
    assert list(here.glob("features/*.npy"))
    assert place.run("probing", "--overwrite") == 0
    assert not (here / "features").exists()


# --- flags ---------------------------------------------------------------------------------------


def parsed(task, step, *argv):
    return importlib.import_module(f"{task}.{step}").parse_args([str(flag) for flag in argv])


def test_what_a_call_says_about_its_result():
    for task in ("NER", "NLI"):
        for step in steps.STEPS:
            call = parsed(task, step)
            assert set(call.options) == ({"label_scheme"} if task == "NER" else set())
            assert {"max_length", "batch_size"} <= call.settings.keys()
            hidden = {"seed", "device", "overwrite", "controls", "output_dir", "precision"}
            assert not hidden & call.settings.keys() and call.variant(30) == "" and call.typed == {}
    untrained = parsed("NLI", "fine-tuning", "--training_size", 0, "--learning_rate", 1)
    assert "learning_rate" not in untrained.settings
    call = parsed("NER", "fine-tuning", "--demo", "--batch_size", 8, "--precision", "fp32")
    assert call.settings["learning_rate"] == 1e-3 and call.settings["precision"] == "fp32"
    assert call.command == "python NER/fine-tuning.py --demo --batch_size 8 --precision fp32"


@pytest.mark.parametrize("task", TASKS)
def test_one_size_is_understood_in_either_spelling(task, capsys):
    assert parsed(task, "attention", "--training_size", "30").args.training_sizes == [30]
    for step in ("fine-tuning", "probing"):
        assert parsed(task, step, "--training_sizes", "30").args.training_size == 30
        with pytest.raises(SystemExit) as stop:
            parsed(task, step, "--training_sizes", "10,30")
        assert stop.value.code == 2 and "--training_size 10" in capsys.readouterr().err


@pytest.mark.parametrize("text", ("10, 30", "10,20", "10;30", "", "all", "10,"))
def test_a_wrong_list_of_sizes_shows_the_right_form(capsys, text):
    with pytest.raises(SystemExit) as stop:
        parsed("NER", "attention", "--training_sizes", text)
    assert stop.value.code == 2 and "10,30" in capsys.readouterr().err


def test_a_list_with_blanks_is_told_how_lists_are_written(capsys, monkeypatch):
    for flags in (("--training_sizes", "10", "30"), ("--training_size", "10", "30", "--seed", "1")):
        monkeypatch.setattr(sys, "argv", ["attention.py", *flags])
        with pytest.raises(SystemExit) as stop:
            parsed("NER", "attention", *flags)
        error = capsys.readouterr().err
        said = "arguments: 30; --training_sizes takes values with commas and no spaces"
        assert stop.value.code == 2 and said in error


def test_nothing_is_mixed_with_the_demo(place, capsys):
    shown = place.refused(capsys, "probing", "--dataset_name", "demo")
    assert "--dataset_name" in shown and "demo's results" in shown


# --- the registry --------------------------------------------------------------------------------

TOY = '''"""A fourth step: it counts the test examples."""

from common import flags, results
from common.cli import Parser

NAME, ORDER, NEEDS, SIZES = "counting", 4, ("fine-tuning",), "training_size"
FILES = "counting/"


def parse_args(task, doc, argv):
    parser = Parser(doc, FILES)
    flags.add_common_arguments(parser)
    group = parser.add_argument_group("counting")
    flags.add_training_size(group, 30, "which model")
    flags.add_task_arguments(task, NAME, parser)
    return flags.parse(task, NAME, parser, argv)


def calls(sizes, controls):
    return [((size,), []) for size in sizes if size not in (0, "random")]


def run(call):
    begun = results.begin(call)
    cell = begun.cell(call.args.training_size)
    config = begun.config(cell, {})
    if results.finished(cell, config, call.args.overwrite) is None:
        with results.making(cell, config):
            results.finish(cell, {"examples": len(begun.data.splits["test"])}, 0.0)


def draw(folder, task):
    pass


def read(result, task):
    return {"twice": 2 * result.metrics["examples"]}


def sections(grid):
    from common.report import page

    counted = [run for run in grid.results if run.step == NAME]
    rows = [{"model": run.model, "twice": str(int(run.metrics["twice"]))} for run in counted]
    return [page.Section("Counting", "", tables=page.tables(grid, NAME, "test examples", rows))]
'''


def test_a_step_is_a_file_and_a_script_and_nothing_else(tmp_path, checkpoint):
    """In a copy of the repository: the study runs the new step, the report shows it."""
    import subprocess

    for name in ("common", "NER", "NLI"):
        ignored = shutil.ignore_patterns("results", "__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    (tmp_path / "common" / "steps" / "counting.py").write_text(TOY)
    shutil.copy(tmp_path / "NER" / "attention.py", tmp_path / "NER" / "counting.py")
    command = [sys.executable, "-m", "common.study", "--tasks", "NER", "--training_sizes", "10"]
    command += ["--steps", "fine-tuning,counting", "--model_names", str(checkpoint("bert"))]
    command += ["--", "--data_dir", str(write_data(tmp_path / "data", "NER", 40))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (here,) = (tmp_path / "NER/results/data").glob("*/10/seed-42/counting")
    assert read_json(here / "metrics.json")["examples"] == 20
    report = (tmp_path / "NER/results/data/report/report.md").read_text()
    assert "Counting" in report and re.search(r"\| 40 +\|", report)
