"""The whole grid of the study in one command: every task, model, size, seed and step.

    python -m common.study --demo --controls --jobs 2
    python -m common.study --tasks NER --model_names bert,biobert --seeds 42,43
    python -m common.study --list        (command lines for GNU parallel)
    python -m common.study --slurm FOLDER --jobs 8      (job scripts for Slurm)
    python -m common.study --steps fine-tuning -- --num_train_epochs 5

Typed in the repository's folder. It runs the scripts themselves: fine-tuning of all sizes, then
probing, then attention of all sizes in one call. Complete results are skipped. A failure stops only
what needs its result. Flags after `--` go to every script that runs. Ctrl-C stops; the same command
resumes. At the end it writes the report (python -m common.report).
"""

import importlib
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from common import cli, models, results, task
from common.files import read_json
from common.steps import STEPS


class Job(NamedTuple):
    """One call of a script: a step of a model on a task with a seed, for some sizes."""

    step: str
    task: str
    model: str
    seed: int
    sizes: tuple  # "random": the untrained encoder
    flags: tuple[str, ...]

    def command(self, args) -> list[str]:
        command = ["python", cli.relative(self.task, f"{self.step}.py")]
        if self.sizes[0] != cli.UNTRAINED:
            command += [f"--{STEPS[self.step].SIZES}", ",".join(map(str, self.sizes))]
        command += [*self.flags, "--model_name", self.model, "--seed", str(self.seed)]
        if args.output_dir:
            command += ["--output_dir", str(args.output_dir / self.task)]
        return command + ["--demo"] * args.demo + args.flags

    def call(self, args):
        """The script's `common.flags.Call`. Raises UserError or SystemExit for what it refuses."""
        _, sys.argv[0], *flags = self.command(args)
        return importlib.import_module(f"{self.task}.{self.step}").parse_args(flags)

    def finished(self, args) -> bool:
        """Whether all its results are there, made with these flags."""
        call, step = self.call(args), STEPS[self.step]
        begun = results.Begun(call, models.source(self.model, args.demo), None, {})
        cells = step.cells(begun) if hasattr(step, "cells") else map(begun.cell, self.sizes)
        wanted = {"settings": call.settings}
        for cell in cells:
            config, metrics = (read_json(cell.folder / f"{n}.json") for n in ("config", "metrics"))
            if results.damaged(config, metrics) or results.differences(config, wanted):
                return False
        return True

    def needs(self, other: "Job") -> bool:
        """Whether the other one makes a result that this one reads. (At size 0 nobody reads it.)"""
        same = (self.task, self.model, self.seed) == (other.task, other.model, other.seed)
        needed = other.step in STEPS[self.step].NEEDS
        return same and needed and bool({*self.sizes} & {*other.sizes} - {0})

    def log(self, args) -> Path:
        root = args.output_dir / self.task if args.output_dir else cli.ROOT / self.task / "results"
        name = "-".join(["demo"] * args.demo + [self.model, *map(str, self.sizes)])
        name = f"{name}-seed-{self.seed}-{self.step}.log"
        return root / "logs" / name.strip("/").replace("/", "--")


def parse_args(argv):
    argv = list(sys.argv[1:] if argv is None else argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    parser = cli.Parser(__doc__)
    parser.prog = "-m common.study"
    parser.usage = "python %(prog)s [flags] [-- flags of the scripts]"
    tasks = task.find()
    in_study = [name for name in tasks if task.load(name).IN_STUDY]
    steps = [name for name, step in STEPS.items() if getattr(step, "IN_STUDY", True)]
    add = parser.add_argument
    for flag, kind, allowed, default in (
        ("--tasks", str, tasks, in_study),
        ("--model_names", str, (), models.STUDY),
        ("--training_sizes", int, cli.TRAINING_SIZES, cli.TRAINING_SIZES),
        ("--seeds", int, (), (cli.SEED,)),
        ("--steps", str, tuple(STEPS), steps),
    ):
        text = f"(default: {','.join(map(str, default))})"
        options = {"type": cli.list_of(kind, allowed), "default": list(default), "help": text}
        add(flag, metavar="A,B,...", **options)
    add("--jobs", type=cli.number(int, 1), default=1, help="scripts at a time (default: 1)")
    add("--output_dir", type=Path, help="root of the results; each task has a folder there")
    text = "also control labels and untrained encoders in probing, and these in attention"
    add("--controls", action="store_true", help=text)
    add("--demo", action="store_true", help="generated corpus and miniature models")
    text = "print command lines and run nothing; lines can run in any order"
    add("--list", action="store_true", help=text)
    text = "write job scripts for Slurm into this new folder, and run nothing; --jobs: at a time"
    add("--slurm", type=Path, metavar="FOLDER", help=text)
    args = parser.parse_args(argv[:cut])
    args.flags = argv[cut + 1 :]
    args.output_dir = args.output_dir and args.output_dir.absolute()
    args.slurm = args.slurm and args.slurm.absolute()
    # UserError at once, not in every job; a local folder gets its whole path.
    args.model_names = [models.source(name, args.demo).name for name in args.model_names]
    for name in args.tasks:
        if not any(models.fits(task.load(name).HEAD, model) for model in args.model_names):
            parser.error(f"{name} takes causal models: {', '.join(models.CAUSAL)}, or others")
    for job in jobs(args):  # so do flags that a script does not know
        job.call(args)
    return args


def jobs(args) -> list[Job]:
    """All jobs, in an order in which each comes after those that it needs: step by step."""
    return [
        Job(name, task_name, model, seed, tuple(sizes), tuple(flags))
        for name, step in STEPS.items()
        if name in args.steps
        for seed in args.seeds
        for task_name in args.tasks
        for model in args.model_names
        if models.fits(task.load(task_name).HEAD, model)
        for sizes, flags in step.calls(tuple(args.training_sizes), args.controls)
    ]


def listed(wanted: list[Job], args) -> list[str]:
    """The command lines of jobs: those that need one another's results are one line."""
    lines: list[list[Job]] = []
    for job in wanted:
        joined = [line for line in lines if any(job.needs(other) for other in line)]
        lines = [line for line in lines if line not in joined]
        lines.append([other for line in joined for other in line] + [job])
    return [" && ".join(shlex.join(job.command(args)) for job in line) for line in lines]


def write_slurm(lines: list[str], report: list[str], args) -> None:
    """Write the lines and two job scripts, and print how to submit them. Raises UserError."""
    if not lines:
        print(f"nothing is left to run. The report: {shlex.join(report)}")
        return
    if args.slurm.exists():
        why = "is there already, and an array may be reading it. Give a new folder."
        raise cli.UserError(f"--slurm {args.slurm} {why}")
    folder, here = (shlex.quote(str(path)) for path in (args.slurm, Path.cwd()))
    array = f" --array=1-{len(lines)}%{args.jobs}" + " --gres=gpu:1" * (not args.demo)
    line = f'eval "$(sed -n "${{SLURM_ARRAY_TASK_ID}}p" {folder}/lines.txt)"'
    form = Path(__file__).with_name("slurm.sh").read_text(encoding="utf-8")
    args.slurm.mkdir(parents=True)
    (args.slurm / "lines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name, log, flags, command in (
        ("array.sh", "%a", array, line),
        ("report.sh", "report", "", shlex.join(report)),
    ):
        text = form.format(folder=folder, log=log, flags=flags, here=here, command=command)
        (args.slurm / name).write_text(text, encoding="utf-8")
    print(f"{len(lines)} lines, {args.jobs} at a time, and the report after them. Submit them by:")
    print(
        f"  sbatch --dependency=afterok:$(sbatch --parsable {folder}/array.sh) {folder}/report.sh"
    )


@cli.command
def main(argv=None):
    args = parse_args(argv)
    flags = ["--tasks", ",".join(args.tasks), *["--dataset", "demo"] * args.demo]
    flags += ["--output_dir", str(args.output_dir)] if args.output_dir else []
    if args.list:
        print(*listed(jobs(args), args), sep="\n")
        return
    if args.slurm:
        left = [job for job in jobs(args) if not job.finished(args)]
        write_slurm(listed(left, args), ["python", "-m", "common.report", *flags], args)
        return
    from common.jobs import run
    from common.report.__main__ import main as report

    failed = run(jobs(args), args)
    try:
        report(flags)
    finally:  # also where there is nothing to report
        if failed:
            advice = "fix what each one names, then type the same command again:"
            print(f"\n{len(failed)} steps failed; {advice}", file=sys.stderr)
            for job, reason, _ in failed:
                command = shlex.join(job.command(args))
                print(f"  {command}\n    {reason}\n    log: {job.log(args)}", file=sys.stderr)
            raise SystemExit(2 if all(code == 2 for *_, code in failed) else 1)


if __name__ == "__main__":
    sys.exit(main())
