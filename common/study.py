"""The whole grid of the study in one command: every task, model, size, seed and step.

    python -m common.study --demo --controls --jobs 2
    python -m common.study --tasks NER --model_names bert,biobert --seeds 42,43
    python -m common.study --list        (a command line a cell, for GNU parallel or a Slurm array)
    python -m common.study --steps fine-tuning -- --num_train_epochs 5

Runs the scripts themselves: a cell's fine-tuning, then its probing and attention. What is complete
is skipped, a failure stops no other cell. Flags after `--` go to every script that runs. Ctrl-C
stops; the same command goes on. At the end it writes the report (python -m common.report).
"""

import argparse
import contextlib
import importlib
import multiprocessing
import os
import runpy
import shlex
import signal
import subprocess
import sys
from collections import deque
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from common import cli, models

TASKS = ("NER", "NLI")
STEPS = ("fine-tuning", "probing", "attention")
CONTROLS = {"probing": "--control", "attention": "--floor"}
PRELOADED = [f"transformers.models.{name}.modeling_{name}" for name in ("bert", "gpt2", "biogpt")]
PRELOADED += ["sklearn.svm", "seqeval.metrics", "pandas", "matplotlib.pyplot"]


class Cell(NamedTuple):
    """One model at one size and seed on one task: its steps run one after another."""

    task: str
    model: str
    size: int | str  # "random": the untrained encoder, which is only probed
    seed: int

    def command(self, step: str, args) -> list[str]:
        """The command line of a step."""
        command = ["python", os.path.relpath(cli.ROOT / self.task / f"{step}.py")]
        size = "--training_sizes" if step == "attention" else "--training_size"
        command += ["--random_init"] if self.size == cli.UNTRAINED else [size, str(self.size)]
        command += ["--model_name", self.model, "--seed", str(self.seed)]
        if args.controls and step in CONTROLS:
            command.append(CONTROLS[step])
        if args.output_dir:
            command += ["--output_dir", str(args.output_dir / self.task)]
        return command + ["--demo"] * args.demo + args.flags

    def title(self) -> str:
        """For the progress bar."""
        return f"{self.task} {self.model} {self.size}" + " %" * (self.size != cli.UNTRAINED)

    def log(self, step: str, args) -> Path:
        """Where a step's output goes."""
        root = args.output_dir / self.task if args.output_dir else cli.ROOT / self.task / "results"
        model = self.model.strip("/").replace("/", "--")
        data = "demo-" * args.demo
        return root / "logs" / f"{data}{model}-{self.size}-seed-{self.seed}-{step}.log"


def values(kind, allowed=()):
    """An argparse type: values with commas, once each in the order given; of `allowed`, if any."""

    def parse(text: str) -> list:
        try:
            found = [kind(part) for part in text.split(",")]
        except ValueError:
            found = [""]
        wrong = [v for v in found if v == "" or " " in str(v) or (allowed and v not in allowed)]
        if wrong:
            form = f"take from {','.join(map(str, allowed))}, " if allowed else ""
            raise argparse.ArgumentTypeError(f"{text!r}: {form}with commas and no spaces")
        return list(dict.fromkeys(found))

    return parse


def parse_args(argv):
    argv = list(sys.argv[1:] if argv is None else argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = cli.Parser(__doc__)
    parser.prog, parser.usage = (
        "-m common.study",
        "python %(prog)s [flags] [-- flags of the scripts]",
    )
    add = parser.add_argument
    for flag, kind, allowed, default in (
        ("--tasks", str, TASKS, TASKS),
        ("--model_names", str, (), tuple(models.MODELS)),
        ("--training_sizes", int, cli.TRAINING_SIZES, cli.TRAINING_SIZES),
        ("--seeds", int, (), (42,)),
        ("--steps", str, STEPS, STEPS),
    ):
        shown = f"(default: {','.join(map(str, default))})"
        add(flag, type=values(kind, allowed), default=list(default), metavar="A,B,...", help=shown)
    add("--jobs", type=cli.number(int, 1), default=1, help="cells at a time (default: 1)")
    add("--output_dir", type=Path, help="root of the results; each task has a folder there")
    text = "also probe random labels and untrained encoders, and give attention's floor"
    add("--controls", action="store_true", help=text)
    add("--demo", action="store_true", help="generated corpus and miniature models")
    add("--list", action="store_true", help="print a command line for each cell and run nothing")
    args = parser.parse_args(argv[:cut])
    args.flags = argv[cut + 1 :]
    args.output_dir = args.output_dir and args.output_dir.absolute()
    given = [argparse.Namespace(model_name=name, demo=args.demo) for name in args.model_names]
    for one in given:  # UserError at once, not in every cell; a local folder gets its whole path
        models.folder_name(one)
    args.model_names = [one.model_name for one in given]
    for task in args.tasks:  # so do flags that a script does not know
        for step in args.steps:
            _, sys.argv[0], *flags = Cell(task, args.model_names[0], 0, 0).command(step, args)
            importlib.import_module(f"{task}.{step}").parse_args(flags)
    return args


@cli.command
def main(argv=None):
    args = parse_args(argv)
    steps = [step for step in STEPS if step in args.steps]
    sizes = [cli.UNTRAINED] * (args.controls and "probing" in steps) + args.training_sizes
    cells = [
        (Cell(task, model, size, seed), ["probing"] if size == cli.UNTRAINED else steps)
        for seed in args.seeds
        for size in sizes
        for task in args.tasks
        for model in args.model_names
    ]
    if args.list:
        for cell, its_steps in cells:
            print(" && ".join(shlex.join(cell.command(step, args)) for step in its_steps))
        return
    failed = run(cells, args)
    code = report(args)
    if failed:
        lines = "\n".join(f"  {shlex.join(command)}\n    log: {log}" for command, log in failed)
        print(f"\n{len(failed)} steps failed; the same command tries them again:\n{lines}",
              file=sys.stderr)  # fmt: skip
        raise SystemExit(1)
    if code:
        raise SystemExit(code)


def run(cells: list[tuple[Cell, list[str]]], args) -> list[tuple[list[str], Path]]:
    """Run all cells' steps, `args.jobs` cells at a time; returns what failed, with its log.

    Each step is a process of its own, forked from one that has imported the libraries: that takes
    longer than a miniature's whole step.
    """
    from tqdm import tqdm

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for that process: this one tells all
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    waiting, running, failed = deque(cells), {}, []
    total = sum(len(steps) for _, steps in cells)
    progress = tqdm(total=total, desc="study", unit=" steps", dynamic_ncols=True)

    def start(cell: Cell, left: list[str]) -> None:
        command, log = cell.command(left[0], args), cell.log(left[0], args)
        process = context.Process(target=run_script, args=(command[1:], log))
        process.start()
        running[process.sentinel] = process, cell, left, command, log

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as by Ctrl-C
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                start(*waiting.popleft())
            progress.set_postfix_str(
                ", ".join(f"{r[1].title()} {r[2][0]}" for r in running.values())
            )
            for sentinel in wait(list(running)):
                process, cell, left, command, log = running.pop(sentinel)
                process.join()
                done, left = 1, left[1:]
                if process.exitcode:
                    failed.append((command, log))
                    lines = log.read_text(errors="replace").splitlines()
                    reason = next((line for line in lines if line.startswith("error: ")), log)
                    progress.write(f"failed: {shlex.join(command)}\n  {reason}", sys.stderr)
                    # The others read its checkpoint; at size 0 there is none.
                    if cell.size and command[1].endswith("fine-tuning.py"):
                        done, left = 1 + len(left), []
                progress.update(done)
                if left:
                    waiting.appendleft((cell, left))
    finally:
        for process, *_ in running.values():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, signal.SIGINT)
        for process, *_ in running.values():
            process.join(30)
            process.kill()
        progress.close()
    return failed


def run_script(command: list[str], log: Path) -> None:
    """Become `python command`, with its output in `log`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def report(args) -> int:
    """Write the report of what there is; returns the exit code."""
    command = [sys.executable, "-m", "common.report", "--tasks", ",".join(args.tasks)]
    if args.demo:
        command += ["--dataset", "demo"]
    if args.output_dir:
        command += ["--output_dir", str(args.output_dir)]
    return subprocess.run(command, cwd=cli.ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
