"""Tables and figures of all results there are, on one page for each task and data set.

    python -m common.report
    python -m common.report --tasks NER --dataset bionlp2004

Reads results only, never a model. Writes <TASK>/results/<dataset>/report/: report.html, one file
that holds everything; report.md, the same text; the tables as CSV and LaTeX (booktabs); the figures
as PNG and PDF. With --output_dir, the results are read from <DIR>/<TASK>, where the study puts
them, or, if there is no such folder, from <DIR>, where a script puts them. Missing cells are shown
as missing. Damaged results, and results made in another way than the rest, are named and left out.
"""

import argparse
import logging
import shutil
import sys
import textwrap
from itertools import chain
from pathlib import Path

from common import cli, task

log = logging.getLogger(__name__)


def parse_args(argv):
    parser = cli.Parser(__doc__)
    parser.prog = "-m common.report"
    there = task.find()
    parser.usage = (
        f"python %(prog)s [--tasks {','.join(there)}] [--dataset NAME] [--output_dir DIR] "
        "[--style FILE]"
    )

    def names(text: str) -> list[str]:
        for name in text.split(","):
            if name not in there:
                raise argparse.ArgumentTypeError(
                    f"no task {name!r}. Take from {','.join(there)}, no spaces"
                )
        return list(dict.fromkeys(text.split(",")))

    parser.add_argument("--tasks", type=names, help=f"with commas (default: {','.join(there)})")
    parser.add_argument("--dataset", help="one data set (default: each by itself)")
    parser.add_argument(
        "--output_dir", type=Path, help="root of the results (default: <TASK>/results)"
    )
    parser.add_argument(
        "--style",
        type=style_file,
        metavar="FILE",
        help="a Matplotlib style file; its lines take precedence over those of "
        "common/report/paper.mplstyle",
    )
    return parser.parse_args(argv)


def style_file(text: str) -> Path:
    """An argparse type: a Matplotlib style file, tried at once."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    path = Path(text).expanduser().absolute()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        settings = matplotlib.rc_params_from_file(path, True, use_default_template=False)
        for n, line in enumerate(lines, 1):
            key = line.split("#")[0].partition(":")[0].strip()
            if key and key not in settings:  # Matplotlib passes over what it does not know
                raise ValueError(f"line {n}: no setting {key!r}, or no colon after it")
        with matplotlib.rc_context(settings):
            figure = Figure()
            figure.suptitle("0")
            figure.savefig(io.BytesIO(), format="pdf")
    except Exception as error:  # whatever Matplotlib does not like
        reason = textwrap.shorten(str(getattr(error, "strerror", None) or error), 200)
        raise argparse.ArgumentTypeError(
            f"{path}: {reason}. Give a style file like common/report/paper.mplstyle"
        ) from None
    return path


@cli.command
def main(argv=None):
    args = parse_args(argv)

    from common.report.grid import Grid

    tasks = args.tasks or task.find()
    roots = {name: root(args.output_dir, name) for name in task.find()}
    there = {name: datasets(roots[name], name) for name in tasks}
    names = sorted({folder.name for folders in there.values() for folder in folders})
    if names and args.dataset and args.dataset not in names:
        raise cli.UserError(
            f"--dataset {args.dataset}: no results. There are some on {', '.join(names)}."
        )
    written = []
    for name, folders in there.items():
        for folder in (f for f in folders if args.dataset in (None, f.name)):
            grid = Grid(folder, task.load(name))
            if grid.results:
                grid.others = elsewhere(roots, grid)
                written.append(write(grid, args.style))
            else:
                log.warning("%s: no finished result of %s, no report", folder, name)
    if not written:
        searched = " or ".join(dict.fromkeys(str(roots[name]) for name in tasks))
        raise cli.UserError(
            f"no finished results in {searched}. Make some first, e.g.:\n"
            f"  python {cli.relative(tasks[0], 'fine-tuning.py')} --demo --training_size 30\n"
            "  python -m common.study --demo"
        )
    print("reports:", *(f"{path} and report.html" for path in written), sep="\n  ")


def root(output_dir: Path | None, name: str) -> Path:
    """The folder of a task's results."""
    if output_dir is None:
        return cli.ROOT / name / "results"
    folder = output_dir.expanduser().absolute()
    return folder / name if (folder / name).is_dir() else folder


def datasets(folder: Path, name: str) -> list[Path]:
    """The folders of the data sets that hold results of the task of this name.

    Raises UserError if one of them also holds results of another task.
    """
    from common.files import read_json
    from common.report.grid import result_folders

    chosen = []
    for dataset in sorted(folder.glob("*")):
        results = result_folders(dataset)
        configs = [read_json(result / "config.json") for result in results]
        tasks = {config.get("task") for config in configs if isinstance(config, dict)} - {None}
        if name in tasks and len(tasks) > 1:
            raise cli.UserError(
                f"{dataset} holds results of {' and '.join(sorted(tasks))}. Move one of them away: "
                "each task needs an --output_dir of its own."
            )
        if name in tasks or (results and not tasks):
            chosen.append(dataset)
    return chosen


def elsewhere(roots: dict[str, Path], grid) -> dict[str, list[tuple]]:
    """`Grid.others`: the results of other tasks on test examples that a part of the data has."""
    from common.report.grid import Grid

    wanted, others = grid.same_test(), {}
    for name in roots if wanted else ():
        for folder in datasets(roots[name], name) if name != grid.task.NAME else ():
            other = Grid(folder, task.load(name))
            for score, (sha256, theirs) in wanted.items():
                if sha256 in other.data_hashes():
                    others.setdefault(score, []).append((other, theirs))
    return others


def write(grid, style: Path | None = None) -> Path:
    """The report of one task on one data set, all or nothing; returns the path of report.md."""
    from common.files import replacing
    from common.report import page

    with replacing(grid.folder / "report") as folder:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        page.write(folder, head(grid), sections(grid), style)
    return grid.folder / "report" / "report.md"


def sections(grid) -> list:
    """All sections, in the page's order."""
    from common.report import across
    from common.steps import STEPS

    downstream, *inside = (step.sections(grid) for step in STEPS.values())
    return [*downstream, across.differences(grid), *chain(*inside), across.link(grid)]


def head(grid):
    """The title, what was read, what was passed over, and what differs in what was read."""
    from common.report.page import Head
    from common.steps import STEPS

    counts = [f"{step} {sum(r.step == step for r in grid.results)}" for step in STEPS]
    seeds = ", ".join(map(str, sorted({result.seed for result in grid.results})))
    lists = {
        "Passed over": grid.problems,
        "Not the same in all results of a step (number of results)": grid.conditions(),
    }
    return Head(
        grid.title(),
        grid.dataset == "demo",
        f"Finished results: {', '.join(counts)}; seeds: {seeds}.{tested(grid)}",
        {title: lines for title, lines in lists.items() if lines},
    )


def tested(grid) -> str:
    """How many examples the test split has, and whether they are resampled in groups."""
    n = next((len(table) for r in grid.results for table in r.counts.values()), None)
    if n is None:
        return ""
    if not grid.groups:
        return f" Test examples: {n}."
    return f" Test examples: {n} in {len(set(grid.groups))} groups, which are resampled whole."


if __name__ == "__main__":
    sys.exit(main())
