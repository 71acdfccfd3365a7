"""Results are written once: what makes two the same, and what a kill, a disk or a user can do."""

import json
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from common import results
from common.cli import ROOT, UserError
from common.results import Cell

CALL = SimpleNamespace(settings={"batch_size": 4}, command="python NER/fine-tuning.py --seed 1")


def cell_in(root, **changes):
    cell = Cell(root, "NER", "data", "bert", 10, 1, "fine-tuning")
    return cell._replace(**changes)


def config_of(cell, settings=None, **inputs):
    inputs = {"data": "d", "model": "m", "checkpoint": None} | inputs
    checkpoint = inputs.pop("checkpoint")
    begun = results.Begun(CALL, None, None, inputs)
    return json.loads(json.dumps(begun.config(cell, settings or {}, checkpoint)))


def make(cell, config, value=1):
    with results.making(cell, config) as folder:
        (folder / results.WORK / "state").write_text("what a resume needs")
        (folder / "table.csv").write_text(str(value))
        return results.finish(cell, {"value": value}, 0.0)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_result_appears_whole_and_nothing_changes_in_it(tmp_path):
    cell = cell_in(tmp_path)
    config = config_of(cell)
    assert results.finished(cell, config, False) is None
    metrics = make(cell, config)
    assert cell.folder == tmp_path / "data/bert/10/seed-1/fine-tuning"
    assert names(cell.folder) == {"config.json", "metrics.json", "table.csv"}
    assert names(cell.folder.parent) == {"fine-tuning"}
    assert results.finished(cell, config, False) == metrics
    assert metrics["training_size"] == 10 and metrics["value"] == 1


def test_overwriting_builds_beside_the_old_result_and_swaps(tmp_path):
    cell = cell_in(tmp_path)
    make(cell, config_of(cell))
    other = config_of(cell, {"batch_size": 8})
    assert results.finished(cell, other, True) is None
    with pytest.raises(UserError), results.making(cell, other):
        raise UserError("no space")
    assert json.loads((cell.folder / "metrics.json").read_text())["value"] == 1
    make(cell, other, 2)
    assert names(cell.folder.parent) == {"fine-tuning"}
    assert results.finished(cell, other, False)["value"] == 2


@pytest.mark.parametrize(
    ("settings", "inputs", "words"),
    (
        ({"batch_size": 8}, {}, ["batch_size 4 against 8"]),
        ({"probe_C": 1.0}, {}, []),  # what only one of them says is no difference
        ({}, {"data": "e"}, ["another data set"]),
        ({}, {"model": "n"}, ["another base model"]),
        ({}, {"checkpoint": "c"}, ["another fine-tuned model"]),
    ),
)
def test_settings_and_inputs_identify_a_result(tmp_path, settings, inputs, words):
    cell = cell_in(tmp_path)
    one, other = config_of(cell), config_of(cell, settings, **inputs)
    assert results.differences(one, other) == words
    make(cell, one)
    if words:
        with pytest.raises(UserError, match=f"{words[0]}.*--overwrite"):
            results.finished(cell, other, False)
    # Another model has other weights, another size another fine-tuned model.
    model, size = (
        config_of(cell._replace(model="gpt2"), model="n"),
        config_of(cell._replace(size=30), checkpoint="c"),
    )
    assert results.differences(one, model) == [] == results.differences(one, size)


def test_an_unfinished_call_is_resumed_only_if_all_is_the_same(tmp_path):
    cell = cell_in(tmp_path)
    for settings, kept in (({}, True), ({"batch_size": 8}, False)):
        with pytest.raises(KeyboardInterrupt), results.making(cell, config_of(cell)) as folder:
            (folder / results.WORK / "state").write_text("half")
            raise KeyboardInterrupt
        assert not cell.folder.exists()
        with results.making(cell, config_of(cell, settings)) as folder:
            assert (folder / results.WORK / "state").exists() is kept
        shutil.rmtree(cell.partial)


@pytest.mark.parametrize("name", ("config.json", "metrics.json"))
@pytest.mark.parametrize(
    "content", ('{"task": "NE', "", "[1]", None, "{}", '{"seconds": "1"}', '{"seconds": NaN}')
)
def test_a_damaged_result_names_the_command_that_makes_it_again(tmp_path, name, content):
    cell = cell_in(tmp_path)
    make(cell, config_of(cell))
    file = cell.folder / name
    file.unlink() if content is None else file.write_text(content)
    again = "fine-tuning.py --seed 1 .*--overwrite"
    remedy = "Delete the folder" if name == "config.json" else again
    with pytest.raises(UserError, match=f"{name} is missing or damaged.*\n?.*{remedy}"):
        results.finished(cell, config_of(cell), False)
    assert results.finished(cell, config_of(cell), True) is None


def test_a_second_process_stops_at_once(tmp_path):
    cell = cell_in(tmp_path)
    with results.making(cell, config_of(cell)):
        other = subprocess.run(
            [sys.executable, "-c", "from tests.test_results import *\nfrom pathlib import Path\n"
             "cell = cell_in(Path(sys.argv[1]))\nmake(cell, config_of(cell))", tmp_path],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert "another process is at work" in other.stderr


# Each call that changes the disk is the last thing a process does, in turn.
KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from tests.test_results import *
left = int(sys.argv[2])
def last(function):
    def call(*given, **more):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*given, **more)
    return call
cell = cell_in(Path(sys.argv[1]))
config = config_of(cell, {"batch_size": 8})
for where, name in ((Path, "rename"), (Path, "unlink"), (Path, "replace"), (Path, "mkdir"),
                    (shutil, "rmtree")):
    setattr(where, name, last(getattr(where, name)))
if results.finished(cell, config, True) is None:
    make(cell, config, 2)
print("done")
"""


@pytest.mark.parametrize("before", (False, True))
def test_killed_anywhere_a_result_is_complete_or_visibly_unfinished(tmp_path, before):
    for step in range(40):
        root = tmp_path / str(step)
        cell = cell_in(root)
        if before:
            make(cell, config_of(cell))
        run = [sys.executable, "-c", KILLED, str(root)]
        first = subprocess.run([*run, str(step)], cwd=ROOT, capture_output=True, text=True)
        if first.returncode == 0:
            break
        assert first.returncode == -signal.SIGKILL, first.stderr
        if cell.folder.is_dir():
            value = json.loads((cell.folder / "metrics.json").read_text())["value"]
            assert (cell.folder / "table.csv").read_text() == str(value)
        again = subprocess.run([*run, "999"], cwd=ROOT, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
        assert names(cell.folder.parent) == {"fine-tuning"}
        assert names(cell.folder) == {"config.json", "metrics.json", "table.csv"}
        assert (cell.folder / "table.csv").read_text() == "2"
    assert 5 < step < 39


def test_a_fingerprint_knows_the_same_data_again():
    assert results.fingerprint({"a": [1], "b": [2]}) == results.fingerprint({"b": [2], "a": [1]})
    assert results.fingerprint({"a": [1]}) != results.fingerprint({"a": [2]})
