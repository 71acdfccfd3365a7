"""The grid: what it runs, in which order, what it skips; a failure, and Ctrl-C."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from filelock import FileLock

from common import models, study, summary
from common.cli import ROOT
from tests.helpers import read_json, write_data


@pytest.mark.parametrize(
    ("flag", "value", "named"),
    (
        ("--tasks", "NER,Nothing", "NER,NLI"),
        ("--tasks", "NER, NLI", "no spaces"),
        ("--model_names", "bert,nobert", "biobert"),
        ("--tasks", "Instruct --model_names bert", "causal models: gpt2"),
        ("--training_sizes", "10,20", "0,10,30,50,100"),
        ("--steps", "probing,plotting", "fine-tuning,probing,attention"),
        ("--seeds", "one", "commas"),
        ("--jobs", "0", "at least 1"),
        ("--", "--num_train_epochs 5", "probing.py --help"),
    ),
)
def test_what_it_does_not_know(capsys, flag, value, named):
    with pytest.raises(SystemExit) as stop:
        study.main([flag, *value.split()] if flag == "--" or "--" in value else [flag, value])
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and named in shown and "Traceback" not in shown


def listed(capsys, *flags):
    assert study.main(["--list", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [[shlex.split(part) for part in line.split(" && ")] for line in lines]


def test_lines_of_the_list_need_no_other_line(capsys):
    flags = (
        "--demo",
        "--seeds",
        "1,2",
        "--steps",
        "fine-tuning,probing",
        "--",
        "--batch_size",
        "8",
    )
    lines = listed(capsys, *flags)
    # A size's two steps; at size 0 neither needs the other.
    assert len(lines) == 2 * 4 * 2 * (4 + 2) and len(set(map(str, lines))) == len(lines)
    for commands in lines:
        names = [command[1].split("/")[-1] for command in commands]
        size = commands[0][3]
        assert len(names) == 1 if size == "0" else names == ["fine-tuning.py", "probing.py"]
        assert len({tuple(command[2:8]) for command in commands}) == 1  # size, model and seed
        for command in commands:
            assert command[0] == "python" and (ROOT / command[1]).is_file()
            assert command[-3:] == ["--demo", "--batch_size", "8"]


def test_list_ends_a_model_with_the_attention_of_all_its_sizes_in_one_call(capsys):
    lines = listed(capsys, "--demo", "--tasks", "NLI", "--steps", "fine-tuning,attention")
    assert len(lines) == 2 * 4
    for commands in (line for line in lines if len(line) > 1):
        *sizes, last = commands
        assert len(sizes) == 4 and last[1].endswith("attention.py")
        assert last[2:4] == ["--training_sizes", "10,30,50,100"]  # 0 is what they are compared with
        assert len({command[command.index("--model_name") + 1] for command in commands}) == 1
    (only,) = listed(capsys, "--steps", "attention", "--tasks", "NLI", "--model_names", "bert")
    assert len(only) == 1


def test_ablation_is_run_only_by_name_and_after_attention(capsys):
    only = ("--demo", "--tasks", "NLI", "--model_names", "bert")
    assert not any("ablation" in part for line in listed(capsys, *only) for c in line for part in c)
    lines = listed(capsys, *only, "--steps", "fine-tuning,attention,ablation")
    scripts = [[command[1].split("/")[-1] for command in line] for line in lines]
    tuned = ["fine-tuning.py"] * 4 + ["attention.py"] + ["ablation.py"] * 4
    assert sorted(scripts) == [["fine-tuning.py"], tuned]  # size 0 has no ablation


def test_a_task_of_causal_models_leaves_out_the_encoders(capsys):
    lines = listed(capsys, "--tasks", "NLI,Instruct", "--steps", "attention")
    found = [
        (line[0][1].split("/")[0], line[0][line[0].index("--model_name") + 1]) for line in lines
    ]
    of_nli = [("NLI", name) for name in models.STUDY]
    assert found == [*of_nli, ("Instruct", "gpt2"), ("Instruct", "biogpt")]


def test_controls_probe_the_untrained_encoder_too(capsys):
    sizes = ("--training_sizes", "0,10", "--tasks", "NLI", "--model_names", "bert")
    commands = [command for line in listed(capsys, "--controls", *sizes) for command in line]
    (untrained,) = [command for command in commands if "--untrained" in command]
    assert "--training_size" not in untrained and len(commands) == 1 + 2 * 2 + 1
    for command in commands:
        assert ("--controls" in command) == ("fine-tuning.py" not in command[1])


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
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    first = finished(folder / "out")
    assert len(first) == 2 * 2 + 1 and all("models--good" in str(path) for path in first)
    # The bad model: both steps at size 0; at 30 % fine-tuning, whose checkpoint the others need.
    assert "3 steps failed" in done.stderr and "cannot load a model" in done.stderr
    logs = [line.split("log: ")[1] for line in done.stderr.splitlines() if "log: " in line]
    assert len(logs) == 3
    for log in logs:
        with open(log) as text:
            assert "error: cannot load a model" in text.read()
    shutil.copy(folder / "models" / "good" / "model.safetensors", folder / "models" / "bad")
    done = run(command)
    assert done.returncode == 0, done.stderr
    again = finished(folder / "out")
    assert len(again) == 2 * (2 * 2 + 1) and first.items() <= again.items()
    assert (folder / "out" / "NER" / "data" / "report" / "report.md").is_file()


# Submits as Slurm does: an array's tasks, then what depends on them, unless one of them fails.
SBATCH = """\
#!/bin/bash
[[ $1 == --dependency=afterok:7 ]] && { test ! -e failed || exit 1; shift; }
[[ $1 == --parsable ]] && shift
tasks=$(sed -n 's/.*--array=1-\\([0-9]*\\)%.*/\\1/p' "$1")
for n in $(seq ${tasks:-1}); do
    log=$(sed -n 's/.*--output=\\(.*\\.log\\).*/\\1/p' "$1" | tr -d "'")
    SLURM_ARRAY_TASK_ID=${tasks:+$n} bash "$1" >"${log/\\%a/$n}" 2>&1 || touch failed
done
echo 7
"""


def submit(shown, folder):
    """Type the command that was printed, in another folder, with `sbatch` as above."""
    (bin_ := folder / "bin").mkdir(exist_ok=True)
    (bin_ / "sbatch").write_text(SBATCH)
    (bin_ / "sbatch").chmod(0o755)
    (folder / "failed").unlink(missing_ok=True)
    path = f"{bin_}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = next(line for line in shown.splitlines() if line.startswith("  sbatch"))
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=folder,
                          env=os.environ | {"PATH": path})  # fmt: skip


def test_slurm_runs_what_is_unfinished_and_then_the_report(grid, monkeypatch, capsys):
    command, folder = grid
    monkeypatch.chdir(ROOT)
    flags = [*command[3:], "--num_train_epochs", "1"]
    flags[:0] = ["--steps", "fine-tuning", "--slurm", str(folder / "a b")]
    assert study.main(flags) == 0 and not (folder / "out").exists()
    shown = capsys.readouterr().out
    script = (folder / "a b" / "array.sh").read_text()
    assert "#SBATCH --requeue" in script and "--array=1-4%2 --gres=gpu:1\n" in script
    with pytest.raises(SystemExit):
        study.main(flags)
    assert "Give a new folder" in capsys.readouterr().err
    assert submit(shown, folder).returncode == 1  # a model is bad: no report
    assert "cannot load a model" in (folder / "a b" / "1.log").read_text()
    first = finished(folder / "out")
    assert len(first) == 2 and not list((folder / "out").rglob("report"))
    shutil.copy(folder / "models" / "good" / "model.safetensors", folder / "models" / "bad")
    flags[3] = str(folder / "rest")
    assert study.main(flags) == 0
    lines = (folder / "rest" / "lines.txt").read_text().splitlines()
    assert len(lines) == 2 and not any("models/good" in line for line in lines)
    done = submit(capsys.readouterr().out, folder)
    assert done.returncode == 0, done.stderr
    assert len(finished(folder / "out")) == 4 and first.items() <= finished(folder / "out").items()
    assert (folder / "out" / "NER" / "data" / "report" / "report.md").is_file()
    flags[3] = str(folder / "none")
    assert study.main(flags) == 0 and "nothing is left" in capsys.readouterr().out
    assert not (folder / "none").exists()
    assert study.main([*flags, "--weight_decay", "0.5"]) == 0  # these results have another one
    assert (
        len((folder / "none" / "lines.txt").read_text().splitlines()) == 2
    )  # at 0 % there is none


def test_slurm_knows_every_result_of_a_call(tmp_path):
    """A line is left as long as one of its results is missing, those of the controls too."""
    flags = ["--demo", "--tasks", "NER", "--model_names", "bert", "--training_sizes", "0,30"]
    flags += ["--controls", "--steps", "fine-tuning,probing,attention,ablation"]
    flags += ["--output_dir", str(tmp_path / "out")]
    made = ["0/fine-tuning", "0/probing", "0/probing-control", "30/fine-tuning", "30/probing",
            "30/probing-control", "30/attention", "30/ablation", "random/probing",
            "random/probing-control", "random/attention"]  # fmt: skip
    args = study.parse_args(flags)
    folders = []
    for name in made:
        size, step = name.split("/")
        folders.append(tmp_path / "out" / "NER" / "demo" / "bert" / size / "seed-42" / step)
        folders[-1].mkdir(parents=True)
        config = '{"settings": {"max_length": 512}, "command": "python x.py"}'
        (folders[-1] / "config.json").write_text(config)
        (folders[-1] / "metrics.json").write_text('{"seconds": 1.0}')
    jobs = study.jobs(args)
    assert all(job.finished(args) for job in jobs)
    for folder in folders:
        folder.rename(folder.with_name("away"))
        left = [job for job in jobs if not job.finished(args)]
        assert [job.step for job in left] == [folder.name.removesuffix("-control")]
        folder.with_name("away").rename(folder)


def test_a_step_that_dies_before_its_log_is_a_failure_like_others(tmp_path, monkeypatch, capsys):
    """Its process ends with what it cannot say; the study goes on, and names it."""
    blocked = tmp_path / "out" / "NLI" / "logs"
    blocked.parent.mkdir(parents=True)
    blocked.write_text("a file where the logs' folder should be")
    command = [sys.executable, "-m", "common.study", "--tasks", "NLI", "--model_names", "bert",
               "--demo", "--training_sizes", "0", "--output_dir", str(tmp_path / "out"),
               "--steps", "fine-tuning"]  # fmt: skip
    done = run(command)
    assert done.returncode == 1 and "1 steps failed" in done.stderr
    assert "it ended without a word" in done.stderr


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
    while not (states := list(folder.glob("out/**/state.pt"))) and process.poll() is None:
        time.sleep(0.1)
    assert states
    process.send_signal(signal.SIGINT)  # to the study alone: it has to tell its steps
    _, shown = process.communicate()
    assert process.returncode == 130 and "type the same command" in shown
    here = states[0].parents[1]
    assert here.name == "fine-tuning.partial"
    assert not (here / "metrics.json").exists()
    with FileLock(here / ".lock", timeout=0):  # no step lives on: it would hold this
        pass
    assert read_json(here / "config.json")["settings"]["num_train_epochs"] == 100_000
    log = next((folder / "out" / "NER" / "logs").iterdir()).read_text()
    assert "interrupted" in log and "Traceback" not in log


def test_the_report_s_command_works_in_a_task_s_folder(monkeypatch, tmp_path):
    """Python itself finds `common` only in the repository's folder."""
    call = SimpleNamespace(args=SimpleNamespace(output_dir=tmp_path))
    cell = SimpleNamespace(task="NER", dataset="demo", root=tmp_path)
    monkeypatch.chdir(ROOT / "NER")
    command = summary.report_command(call, cell)
    assert command.startswith("cd .. && python -m common.report --tasks NER")
    made = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert made.returncode == 2 and "no finished results of demo" in made.stderr
    monkeypatch.chdir(ROOT)
    assert summary.report_command(call, cell).startswith("python -m common.report")
