"""Tables and figures of all results there are, on one page for each task and data set.

    python -m common.report
    python -m common.report --tasks NER --dataset bionlp2004

Reads results only, never a model. Writes <TASK>/results/<dataset>/report/: report.html, which holds
everything; report.md, the same text; the tables as CSV; the figures as PNG and PDF. --output_dir:
<DIR>/<TASK>, where the study puts results, or, without such a folder, <DIR>, where a script does.
Damaged results, and results made in another way than the rest, are named and left out.
"""

import sys
from itertools import chain
from pathlib import Path

from common import cli, task

DEMO = "Demo: generated text and miniature models. It says nothing about real ones."


def parse_args(argv):
    parser, names = cli.Parser(__doc__), ",".join(task.find())
    parser.prog, parser.usage = "-m common.report", "python -m common.report [flags]"
    root = "root of the results (default: <TASK>/results)"
    style = "a Matplotlib style file; takes precedence over common/report/paper.mplstyle"
    parser.add_argument("--tasks", help=f"with commas (default: {names})")
    parser.add_argument("--dataset", help="one data set (default: each by itself)")
    parser.add_argument("--output_dir", type=Path, help=root)
    parser.add_argument("--style", type=Path, help=style)
    args = parser.parse_args(argv)
    for name in () if args.tasks is None else args.tasks.split(","):
        if name not in task.find():
            parser.error(f"--tasks: no task {name!r}. Take from {names}, no spaces")
    return args


@cli.command
def main(argv=None):
    args = parse_args(argv)

    import matplotlib

    from common.report import drawing
    from common.report.grid import Grid

    try:
        style = args.style and args.style.expanduser().absolute()
        matplotlib.rc_params_from_file(style or drawing.PAPER, True, use_default_template=False)
    except Exception as error:  # whatever Matplotlib does not like
        raise cli.UserError(
            f"--style {style}: {error}. Give a style file like common/report/paper.mplstyle."
        ) from None
    tasks, written = list(dict.fromkeys(args.tasks.split(","))) if args.tasks else task.find(), []
    for name in tasks:
        for folder in datasets(args.output_dir, name):
            if args.dataset in (None, folder.name):
                grid = Grid(folder, task.load(name))
                grid.others = others(args.output_dir, grid)
                written += [write(grid, style)] if grid.results else []
    if not written:
        of = f" of --dataset {args.dataset}" if args.dataset else ""
        raise cli.UserError(
            f"no finished results{of} in {args.output_dir or '<TASK>/results'}. Make some, e.g.:\n"
            f"  python {cli.relative(tasks[0], 'fine-tuning.py')} --demo --training_size 30\n"
            "  python -m common.study --demo"
        )
    print("reports:", *(f"{path} and report.html" for path in written), sep="\n  ")


def datasets(output_dir: Path | None, name: str) -> list[Path]:
    """The folders of the data sets that hold results of the task of this name.

    Raises UserError if one of them also holds results of another task.
    """
    from common.files import read_json
    from common.report.grid import result_folders

    given = output_dir and output_dir.expanduser().absolute()
    root = cli.ROOT / name / "results" if given is None else given / name
    chosen = []
    for dataset in sorted((root if given is None or root.is_dir() else given).glob("*")):
        configs = [read_json(result / "config.json") for result in result_folders(dataset)]
        tasks = {config.get("task") for config in configs if isinstance(config, dict)} - {None}
        if name in tasks and len(tasks) > 1:
            raise cli.UserError(
                f"{dataset} holds results of {' and '.join(sorted(tasks))}. Move one of them away: "
                "each task needs an --output_dir of its own."
            )
        chosen += [dataset] if name in tasks else []
    return chosen


def others(output_dir: Path | None, grid) -> dict[str, list[tuple]]:
    """`Grid.others`: the results of other tasks on test examples that a part of the data has.

    config.json says which those are: {score: (hash of the other task's data, its score)}.
    """
    configs = [result.config.get("same_test", {}) for result in grid.results]
    wanted = {score: same for config in configs for score, same in config.items()}
    names = [name for name in task.find() if wanted and name != grid.task.NAME]
    there = [(name, folder) for name in names for folder in datasets(output_dir, name)]
    beside = {score: [] for score in wanted}
    for other in (type(grid)(folder, task.load(name)) for name, folder in there):
        hashes = {result.config["inputs"].get("data") for result in other.results}
        for score, (sha256, theirs) in wanted.items():
            beside[score] += [(other, theirs)] if sha256 in hashes else []
    return beside


def write(grid, style: Path | None = None) -> Path:
    """The report of one task on one data set, all or nothing; returns the path of report.md."""
    from common.files import replacing
    from common.report import across, page
    from common.steps import STEPS

    downstream, *inside = (step.sections(grid) for step in STEPS.values())
    sections = [*downstream, across.differences(grid), *chain(*inside), across.link(grid)]
    counts = [f"{step} {sum(r.step == step for r in grid.results)}" for step in STEPS]
    seeds = sorted({result.seed for result in grid.results})
    text = f"Finished results: {', '.join(counts)}; seeds: {', '.join(map(str, seeds))}."
    if tested := [len(table) for result in grid.results for table in result.counts.values()]:
        groups = f" in {len(set(grid.groups or ()))} groups, which are resampled whole"
        text += f" Test examples: {tested[0]}{groups if grid.groups else ''}."
    notes = [DEMO, text] if grid.folder.name == "demo" else [text]
    with replacing(grid.folder / "report") as folder:
        folder.mkdir()
        page.write(folder, grid.title, notes, grid.problems, sections, style)
    return grid.folder / "report" / "report.md"


if __name__ == "__main__":
    sys.exit(main())
