"""The grid: what it runs, in which order, what it skips; a failure, and Ctrl-C."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from common import study
from common.cli import ROOT
from tests.test_bad_input import write_data


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    (
        ("--tasks", "NER,QA", "NER,NLI"),
        ("--tasks", "NER, NLI", "no spaces"),
        ("--model_names", "bert,nobert", "biobert"),
        ("--training_sizes", "10,20", "0,10,30,50,100"),
        ("--steps", "probing,plotting", "fine-tuning,probing,attention"),
        ("--seeds", "one", "commas"),
        ("--jobs", "0", "at least 1"),
        ("--", "--num_train_epochs 5", "python probing.py --help"),
    ),
)
def test_what_it_does_not_know(capsys, flag, value, named):
    with pytest.raises(SystemExit) as stop:
        study.main([flag, *value.split()] if flag == "--" else [flag, value])
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and named in shown and "Traceback" not in shown


def test_list_prints_every_cell_once_with_its_steps_in_order(capsys):
    assert study.main(["--list", "--demo", "--seeds", "1,2", "--", "--batch_size", "8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(set(lines)) == 2 * 4 * 5 * 2
    scripts = set()
    for line in lines:
        commands = [shlex.split(part) for part in line.split(" && ")]
        assert [c[1].split("/")[-1] for c in commands] == [
            "fine-tuning.py", "probing.py", "attention.py"
        ]  # fmt: skip
        for command in commands:
            assert command[0] == "python" and (ROOT / command[1]).is_file()
            assert command[-3:] == ["--demo", "--batch_size", "8"]
            scripts.add(command[1])
    assert len(scripts) == 6


def test_controls_probe_the_untrained_encoder_too(capsys):
    sizes = ("--training_sizes", "0,10", "--tasks", "NLI", "--model_names", "bert")
    assert study.main(["--list", "--controls", *sizes]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert "probing.py --random_init" in first and " && " not in first and len(lines) == 2
    for line in (first, *lines):
        for command in line.split(" && "):
            assert ("--control" in command) == ("probing.py" in command)
            assert ("--floor" in command) == ("attention.py" in command)


@pytest.fixture
def grid(tmp_path, checkpoint):
    """The command line of a small grid, NER at two sizes, and its folder."""
    write_data(tmp_path / "data", "NER", 40)
    shutil.copytree(checkpoint("bert"), tmp_path / "models" / "good")
    shutil.copytree(checkpoint("bert"), tmp_path / "models" / "bad")
    (tmp_path / "models" / "bad" / "model.safetensors").unlink()
    names = ",".join(str(tmp_path / "models" / name) for name in ("bad", "good"))
    command = [sys.executable, "-m", "common.study", "--tasks", "NER", "--model_names", names]
    command += ["--training_sizes", "0,30", "--output_dir", str(tmp_path / "out"), "--jobs", "2"]
    command += ["--", "--data_dir", str(tmp_path / "data"), "--device", "cpu", "--batch_size", "4"]
    return command, tmp_path


def run(command):
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def finished(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("metrics.json")}


def test_goes_on_after_a_failure_and_skips_what_is_complete(grid):
    command, folder = grid
    done = run(command)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    first = finished(folder / "out")
    assert len(first) == 2 * 3 and all("models--good" in str(path) for path in first)
    # The bad model: three steps at size 0; at 30 % fine-tuning, whose checkpoint the others need.
    assert "4 steps failed" in done.stderr
    logs = [line.split("log: ")[1] for line in done.stderr.splitlines() if "log: " in line]
    assert len(logs) == 4
    for log in logs:
        with open(log) as text:
            assert "error: cannot load a model" in text.read()
    shutil.copy(folder / "models" / "good" / "model.safetensors", folder / "models" / "bad")
    done = run(command)
    assert done.returncode == 0, done.stderr
    again = finished(folder / "out")
    assert len(again) == 2 * 2 * 3 and first.items() <= again.items()
    assert (folder / "out" / "NER" / "data" / "report" / "report.md").is_file()


def test_ctrl_c_stops_the_steps(grid):
    command, folder = grid
    names = str(folder / "models" / "good")
    command[command.index("--model_names") + 1] = names
    command[3:3] = ["--steps", "fine-tuning"]
    command += ["--num_train_epochs", "100000", "--save_minutes", "0"]
    command[command.index("--training_sizes") + 1] = "30"
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        # As in a terminal, also where the tests run in the background, which ignores Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (states := list(folder.glob("out/**/state.pt"))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert states
    process.send_signal(signal.SIGINT)  # to the study alone: it has to tell its steps
    _, shown = process.communicate(timeout=60)
    assert process.returncode == 130 and "goes on from here" in shown
    here = states[0].parent
    config = json.loads((here / "config.json").read_text())
    assert not (here / "metrics.json").exists()
    before = states[0].stat().st_mtime_ns
    time.sleep(0.5)
    assert states[0].stat().st_mtime_ns == before  # no step lives on
    assert config["arguments"]["num_train_epochs"] == 100_000
    log = next((folder / "out" / "NER" / "logs").iterdir()).read_text()
    assert "interrupted" in log and "Traceback" not in log
