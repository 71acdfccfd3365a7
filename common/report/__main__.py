"""Tables and figures of all results there are, on one page for each task and data set.

    python -m common.report
    python -m common.report --tasks NER --dataset bionlp2004

Reads results, never a model. Writes <TASK>/results/<dataset>/report/: report.html, which holds all;
report.md, the same text; tables as CSV; figures as PNG and PDF. --output_dir: <DIR>/<TASK> (of the
study) or <DIR> (of a script). Damaged results, and those unlike the rest, are named and left out.
"""

import sys
from itertools import chain
from pathlib import Path

from common import cli, task


def parse_args(argv):
    parser = cli.Parser(__doc__)
    parser.prog, parser.usage = "-m common.report", "python -m common.report [flags]"
    text = f"with commas (default: {','.join(task.find())})"
    parser.add_argument("--tasks", type=cli.list_of(str, task.find()), help=text)
    parser.add_argument("--dataset", help="one data set (default: each by itself)")
    parser.add_argument("--output_dir", type=Path, help="default: <TASK>/results")
    parser.add_argument("--style", type=Path, help="a Matplotlib style file for the figures")
    return parser.parse_args(argv)


@cli.command
def main(argv=None):
    args = parse_args(argv)
    if args.style:
        import matplotlib

        try:
            matplotlib.rc_params_from_file(args.style, True, use_default_template=False)
        except Exception as error:  # whatever Matplotlib does not like
            advice = "Give a style file like common/report/paper.mplstyle."
            raise cli.UserError(f"--style {args.style}: {error}. {advice}") from None
    tasks = args.tasks or task.find()
    reports = {}
    for grid in (grid for name in tasks for grid in grids(args.output_dir, name, args.dataset)):
        if grid.folder in reports:
            raise cli.UserError(f"{grid.folder} holds results of two tasks. Move one of them away.")
        reports[grid.folder] = write(grid, args.output_dir, args.style)
    if not reports:
        raise cli.UserError(
            f"no finished results of {args.dataset or 'any data set'} in "
            f"{args.output_dir or '<TASK>/results'}. Check the flags, or make some:\n"
            f"  python {cli.relative(tasks[0], 'fine-tuning.py')} --demo --training_size 30"
        )
    print("reports:", *(f"{path} and report.html" for path in reports.values()), sep="\n  ")


def grids(output_dir: Path | None, name: str, dataset: str | None = None) -> list:
    """What there is of a task, a Grid for each data set (or the one that is named)."""
    from common.report.grid import Grid

    root = (output_dir or cli.ROOT / name / "results").expanduser().absolute()
    folders = sorted((root / name if (root / name).is_dir() else root).glob(dataset or "*"))
    return [grid for path in folders if (grid := Grid(path, task.load(name))).results]


def write(grid, output_dir: Path | None, style: Path | None) -> Path:
    """The report of one task on one data set, all or nothing; returns the path of report.md."""
    from common.files import replacing
    from common.report import across, page
    from common.steps import STEPS

    # Parts of the data that are another task's test split: {score: (that data, its score)}.
    same = dict(item for r in grid.results for item in r.config.get("same_test", {}).items())
    names = [name for name in task.find() if same and name != grid.task.NAME]
    for other in (other for name in names for other in grids(output_dir, name)):
        configs = [result.config for result in other.results]
        for score, (data, theirs, start, wanted) in same.items():
            fitting = [c for c in configs if wanted.items() <= c["settings"].items()]
            if any(config["inputs"].get("data") == data for config in fitting):
                own = {
                    group.removeprefix(start) for group in grid.groups if group.startswith(start)
                }
                beside = other, theirs, own == {*other.groups}
                grid.others.setdefault(score, []).append(beside)
    downstream, *inside = (step.sections(grid) for step in STEPS.values())
    sections = [*downstream, across.differences(grid), *chain(*inside), across.link(grid)]
    counts = [f"{step} {sum(r.step == step for r in grid.results)}" for step in STEPS]
    seeds = ", ".join(map(str, sorted({result.seed for result in grid.results})))
    notes = [f"Finished results: {', '.join(counts)}; seeds: {seeds}."]
    n, groups = len(grid.groups), len(set(grid.groups))
    of = f" in {groups} groups, which intervals resample" * (groups < n)
    notes[0] += f" Test examples: {n}{of}." if n else ""
    if grid.folder.name == "demo":
        notes.append("Demo: generated text and miniature models. It says nothing about real ones.")
    with replacing(grid.folder / "report") as folder:
        folder.mkdir()
        page.write(folder, grid.title, notes, grid.problems, sections, style)
    return grid.folder / "report" / "report.md"


if __name__ == "__main__":
    sys.exit(main())
