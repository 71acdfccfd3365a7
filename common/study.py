"""The whole grid of the study in one command: every task, model, size, seed and step.

    python -m common.study --demo --controls --jobs 2
    python -m common.study --tasks NER --model_names bert,biobert --seeds 42,43
    python -m common.study --list        (command lines for GNU parallel or a Slurm array)
    python -m common.study --steps fine-tuning -- --num_train_epochs 5

Typed in the repository's folder. Runs the scripts themselves: each size's fine-tuning and probing,
then a model's attention, all sizes in one call. What is complete is skipped, what it lacks is
added, a failure stops no other cell. Flags after `--` go to every script that runs. Ctrl-C stops;
the same command goes on. At the end it writes the report (python -m common.report).
"""

import argparse
import importlib
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from common import cli, models, task
from common.cli import UNTRAINED
from common.identity import STEPS


class Cell(NamedTuple):
    """One model on one task with one seed: a size's steps, or the attention of several sizes."""

    task: str
    model: str
    sizes: tuple[int | str, ...]  # several for attention; "random": the untrained encoder
    seed: int
    steps: tuple[str, ...]  # that run one after another

    def command(self, step: str, args) -> list[str]:
        """The command line of a step."""
        size = ["--training_sizes" if step == "attention" else "--training_size",
                ",".join(map(str, self.sizes))]  # fmt: skip
        command = ["python", cli.relative(self.task, f"{step}.py")]
        command += ["--untrained"] if self.sizes == (UNTRAINED,) else size
        command += ["--model_name", self.model, "--seed", str(self.seed)]
        command += ["--controls"] * (args.controls and step != "fine-tuning")
        if args.output_dir:
            command += ["--output_dir", str(args.output_dir / self.task)]
        return command + ["--demo"] * args.demo + args.flags

    def line(self, args) -> str:
        """All its steps, as typed in a shell."""
        return " && ".join(shlex.join(self.command(step, args)) for step in self.steps)

    def title(self) -> str:
        """For the progress bar."""
        sizes = ",".join(map(str, self.sizes))
        return f"{self.task} {self.model} {sizes}" + " %" * (self.sizes != (UNTRAINED,))

    def log(self, step: str, args) -> Path:
        """Where a step's output goes."""
        root = args.output_dir / self.task if args.output_dir else cli.ROOT / self.task / "results"
        model = self.model.strip("/").replace("/", "--")
        sizes = "-".join(map(str, self.sizes))
        name = f"{'demo-' * args.demo}{model}-{sizes}-seed-{self.seed}-{step}.log"
        return root / "logs" / name


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
    tasks = task.find()
    add = parser.add_argument
    for flag, kind, allowed, default in (
        ("--tasks", str, tasks, [name for name in tasks if task.load(name).IN_STUDY]),
        ("--model_names", str, (), models.STUDY),
        ("--training_sizes", int, cli.TRAINING_SIZES, cli.TRAINING_SIZES),
        ("--seeds", int, (), (cli.SEED,)),
        ("--steps", str, STEPS, STEPS),
    ):
        shown = f"(default: {','.join(map(str, default))})"
        add(flag, type=values(kind, allowed), default=list(default), metavar="A,B,...", help=shown)
    add("--jobs", type=cli.number(int, 1), default=1, help="cells at a time (default: 1)")
    add("--output_dir", type=Path, help="root of the results; each task has a folder there")
    text = "also probe random labels and untrained encoders, and compare attention with theirs"
    add("--controls", action="store_true", help=text)
    add("--demo", action="store_true", help="generated corpus and miniature models")
    text = "print command lines and run nothing: one a model with attention, else one a size"
    add("--list", action="store_true", help=text)
    args = parser.parse_args(argv[:cut])
    args.flags = argv[cut + 1 :]
    args.output_dir = args.output_dir and args.output_dir.absolute()
    given = [argparse.Namespace(model_name=name, demo=args.demo) for name in args.model_names]
    for one in given:  # UserError at once, not in every cell; a local folder gets its whole path
        models.folder_name(one)
    args.model_names = [one.model_name for one in given]
    for name in args.tasks:  # so do flags that a script does not know
        head = task.load(name).HEAD
        if not any(models.fits(head, model) for model in args.model_names):
            parser.error(f"{name} takes causal models: {', '.join(models.CAUSAL)}, or others")
        for step in args.steps:
            cell = Cell(name, args.model_names[0], (0,), 0, (step,))
            _, sys.argv[0], *flags = cell.command(step, args)
            importlib.import_module(f"{name}.{step}").parse_args(flags)
    return args


def cells(args) -> list[tuple[list[Cell], Cell | None]]:
    """For each seed, task and model: its sizes' cells, and the attention cell that waits for them.

    Size 0 has no attention of its own: it is what the others are compared with.
    """
    steps = tuple(step for step in STEPS if step in args.steps and step != "attention")
    compared = tuple(size for size in args.training_sizes if size)
    found = []
    for seed in args.seeds:
        for name in args.tasks:
            for model in args.model_names:
                if not models.fits(task.load(name).HEAD, model):
                    continue
                sizes = []
                if args.controls and "probing" in steps:
                    sizes.append(Cell(name, model, (UNTRAINED,), seed, ("probing",)))
                if steps:
                    sizes += [Cell(name, model, (n,), seed, steps) for n in args.training_sizes]
                last = None
                if "attention" in args.steps and compared:
                    last = Cell(name, model, compared, seed, ("attention",))
                found.append((sizes, last))
    return found


@cli.command
def main(argv=None):
    args = parse_args(argv)
    groups = cells(args)
    if args.list:
        for sizes, last in groups:
            lines = [cell.line(args) for cell in (*sizes, last) if cell]
            print(*([" && ".join(lines)] if last else lines), sep="\n")
        return

    from common import jobs

    failed = jobs.run(groups, args)
    code = report(args)
    if failed:
        lines = "\n".join(
            f"  {shlex.join(command)}\n    {reason}\n    log: {log}"
            for command, log, reason, _ in failed
        )
        print(f"\n{len(failed)} steps failed; mend what each names, then the same command goes on "
              f"with them:\n{lines}", file=sys.stderr)  # fmt: skip
        raise SystemExit(2 if all(exit_code == 2 for *_, exit_code in failed) else 1)
    if code:
        raise SystemExit(code)


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
