"""The whole grid of the study in one command: every task, model, size, seed and step.

    python -m common.study --demo --jobs 2
    python -m common.study --tasks NER --model_names bert,biobert --seeds 42,43
    python -m common.study --list        (a command line a cell, for GNU parallel or a Slurm array)
    python -m common.study --steps fine-tuning -- --num_train_epochs 5

Runs the scripts themselves: a cell's fine-tuning, then its probing and attention. What is complete
is skipped, a failure stops no other cell. Flags after `--` go to every script that runs. Ctrl-C
stops; the same command goes on. At the end it writes the report (python -m common.report).
"""

import argparse
import os
import shlex
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from common import cli, models

TASKS = ("NER", "NLI")
STEPS = ("fine-tuning", "probing", "attention")


class Cell(NamedTuple):
    """One model at one size and seed on one task: its steps run one after another."""

    task: str
    model: str
    size: int
    seed: int

    def command(self, step: str, args) -> list[str]:
        """The command line of a step."""
        size = "--training_sizes" if step == "attention" else "--training_size"
        script = os.path.relpath(cli.ROOT / self.task / f"{step}.py")
        command = ["python", script, size, str(self.size), "--model_name", self.model]
        command += ["--seed", str(self.seed)]
        if args.output_dir:
            command += ["--output_dir", str(args.output_dir / self.task)]
        return command + ["--demo"] * args.demo + args.flags

    def log(self, step: str, args) -> Path:
        """Where a step's output goes."""
        root = args.output_dir / self.task if args.output_dir else cli.ROOT / self.task / "results"
        model = self.model.strip("/").replace("/", "--")
        return root / "logs" / f"{model}-{self.size}-seed-{self.seed}-{step}.log"


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
    add = parser.add_argument
    add("--tasks", type=values(str, TASKS), default=list(TASKS), help="(default: all)")
    add("--model_names", type=values(str), default=list(models.MODELS), help="(default: the four)")
    sizes = cli.TRAINING_SIZES
    add("--training_sizes", type=values(int, sizes), default=list(sizes), help="(default: all)")
    add("--seeds", type=values(int), default=[42], help="(default: 42)")
    add("--steps", type=values(str, STEPS), default=list(STEPS), help="(default: all)")
    add("--jobs", type=cli.number(int, 1), default=1, help="cells at a time (default: 1)")
    add("--output_dir", type=Path, help="root of the results; each task has a folder there")
    add("--demo", action="store_true", help="generated corpus and miniature models")
    add("--list", action="store_true", help="print a command line for each cell and run nothing")
    args = parser.parse_args(argv[:cut])
    args.flags = argv[cut + 1 :]
    args.output_dir = args.output_dir and args.output_dir.absolute()
    given = [argparse.Namespace(model_name=name, demo=args.demo) for name in args.model_names]
    for one in given:  # UserError at once, not in every cell; a local folder gets its whole path
        models.folder_name(one)
    args.model_names = [one.model_name for one in given]
    return args


@cli.command
def main(argv=None):
    args = parse_args(argv)
    steps = [step for step in STEPS if step in args.steps]
    cells = [
        Cell(task, model, size, seed)
        for seed in args.seeds
        for size in args.training_sizes
        for task in args.tasks
        for model in args.model_names
    ]
    if args.list:
        for cell in cells:
            print(" && ".join(shlex.join(cell.command(step, args)) for step in steps))
        return
    failed = run(cells, steps, args)
    report(args)
    if failed:
        lines = "\n".join(f"  {shlex.join(command)}\n    log: {log}" for command, log in failed)
        print(f"\n{len(failed)} steps failed; the same command tries them again:\n{lines}",
              file=sys.stderr)  # fmt: skip
        raise SystemExit(1)


def run(cells: list[Cell], steps: list[str], args) -> list[tuple[list[str], Path]]:
    """Run all cells, `args.jobs` at a time; returns the failed steps with their logs."""
    from tqdm import tqdm

    stop, failed = threading.Event(), []
    threads = str(max(1, (os.cpu_count() or 1) // args.jobs))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    progress = tqdm(total=len(cells) * len(steps), desc="study", unit=" steps", dynamic_ncols=True)

    def chain(cell: Cell) -> None:
        for number, step in enumerate(steps):
            if stop.is_set():
                return
            command, log = cell.command(step, args), cell.log(step, args)
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("w") as output:
                done = subprocess.run(
                    [sys.executable, *command[1:]], stdout=output, stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL, env=environment,
                )  # fmt: skip
            progress.update()
            if done.returncode and not stop.is_set():
                failed.append((command, log))
                if step == "fine-tuning":  # the other steps read its checkpoint
                    progress.update(len(steps) - number - 1)
                    return

    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(chain, cell) for cell in cells]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:  # Ctrl-C reaches the children too; here only no new ones start
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            progress.close()
    return failed


def report(args) -> None:
    """Write the report of what there is."""
    command = [sys.executable, "-m", "common.report", "--tasks", ",".join(args.tasks)]
    if args.demo:
        command += ["--dataset", "demo"]
    if args.output_dir:
        command += ["--output_dir", str(args.output_dir)]
    subprocess.run(command, cwd=cli.ROOT, check=False)


if __name__ == "__main__":
    sys.exit(main())
