"""Tables and figures of all results there are, on one page for each task and data set.

    python -m common.report
    python -m common.report --tasks NER --dataset bionlp2004

Reads results only, never a model. Writes <TASK>/results/<dataset>/report/: report.html, one file
with all in it; the same as report.md; beside them the tables as CSV and LaTeX (booktabs) and the
figures as PNG and PDF. With --output_dir, the
results are those in <DIR>/<TASK>, as the study leaves them, or, if there is no such folder, in
<DIR>, as a script leaves them. Missing cells are shown as missing; files that are damaged, and runs
that were made in another way than the rest, are named and left out.
"""

import logging
import shutil
import sys
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
    parser.add_argument("--tasks", help=f"with commas (default: {','.join(there)})")
    parser.add_argument("--dataset", help="one data set (default: each by itself)")
    parser.add_argument(
        "--output_dir", type=Path, help="root of the results (default: <TASK>/results)"
    )
    parser.add_argument(
        "--style", type=cli.style_file, help="a Matplotlib style file, over common/paper.mplstyle"
    )
    args = parser.parse_args(argv)
    args.tasks = list(dict.fromkeys(args.tasks.split(","))) if args.tasks is not None else there
    if unknown := [name for name in args.tasks if name not in there]:
        parser.error(f"--tasks: no task {unknown[0]!r}. Take from {','.join(there)}, no spaces")
    return args


@cli.command
def main(argv=None):
    args = parse_args(argv)

    from common import panels
    from common.report.grid import Grid

    panels.use_style(args.style)
    found = {name: datasets(root(args, name), name) for name in args.tasks}
    names = sorted({folder.name for folders in found.values() for folder in folders})
    if names and args.dataset and args.dataset not in names:
        raise cli.UserError(
            f"--dataset {args.dataset}: no results. There are some on {', '.join(names)}."
        )
    written = []
    for name, folders in found.items():
        for folder in (f for f in folders if args.dataset in (None, f.name)):
            grid = Grid(folder, task.load(name))
            if grid.runs:
                grid.others = elsewhere(args, grid)
                written.append(write(grid))
            else:
                log.warning("%s: no finished run of %s, no report", folder, name)
    if not written:
        roots = " or ".join(dict.fromkeys(str(root(args, name)) for name in args.tasks))
        raise cli.UserError(
            f"no finished results in {roots}. Make some first, e.g.:\n"
            f"  python {args.tasks[0]}/fine-tuning.py --demo --training_size 30\n"
            "  python -m common.study --demo"
        )
    print("reports:", *(f"{path} and report.html" for path in written), sep="\n  ")


def root(args, name: str) -> Path:
    """The folder of a task's results."""
    if args.output_dir is None:
        return cli.ROOT / name / "results"
    folder = args.output_dir.expanduser().absolute()
    return folder / name if (folder / name).is_dir() else folder


def datasets(folder: Path, name: str) -> list[Path]:
    """The folders of the data sets that hold runs of the task of this name.

    Raises UserError if one of them holds runs of another task, too.
    """
    from common.files import read_json
    from common.report.grid import run_folders

    chosen = []
    for dataset in sorted(folder.glob("*")):
        runs = run_folders(dataset)
        configs = [read_json(run / "config.json") for run in runs]
        tasks = {config.get("task") for config in configs if isinstance(config, dict)} - {None}
        tasks = tasks or ({name} if runs else set())
        if name in tasks and len(tasks) > 1:
            raise cli.UserError(
                f"{dataset} holds results of {' and '.join(sorted(tasks))}. Move one of them away: "
                "each task needs an --output_dir of its own."
            )
        chosen += [dataset] if name in tasks else []
    return chosen


def elsewhere(args, grid) -> dict[str, list[tuple]]:
    """`Grid.others`: the results of other tasks on test examples that a part of the data has."""
    from common.files import read_json
    from common.report.grid import Grid, run_folders

    wanted, found = grid.same_test(), {}
    hashes = {sha256 for sha256, _ in wanted.values()}
    for name in task.find() if wanted else ():
        for folder in datasets(root(args, name), name) if name != grid.task.NAME else ():
            configs = (read_json(run / "config.json") for run in run_folders(folder))
            there = {(config or {}).get("data", {}).get("sha256") for config in configs}
            if there & hashes:
                other = Grid(folder, task.load(name))
                for score, (sha256, theirs) in wanted.items():
                    if sha256 in other.data_hashes():
                        found.setdefault(score, []).append((other, theirs))
    return found


def write(grid) -> Path:
    """The report of one task on one data set, all or nothing; returns the path of report.md."""
    from common.files import replacing
    from common.palette import variant_name
    from common.report import figures, heads, page, tables

    with replacing(grid.folder / "report") as folder:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        sections = []

        def section(title, text, draw=None, alt="", make=None, variant=None, maps=()):
            of = [] if variant is None else [variant]
            figure = None
            if draw and draw(grid, folder, *of):
                figure = "-".join(filter(None, (draw.__name__, variant)))
            made = [table for table in (make(grid, *of) if make else ()) if len(table.frame)]
            if figure or made:
                sections.append(page.Section(title, text, figure, alt, made, maps, bool(variant)))

        note = f"\n{grid.task.NOTE}\n" if grid.task.NOTE else ""
        section("Downstream scores", SCORES + note, make=tables.downstream)
        section("Learning curves", "", figures.learning_curves, "test score by training size")
        section("Differences", DIFFERENCES, make=tables.comparisons)
        for title, text, name, alt in (
            ("Probing", PROBING, "probing", "probe score by layer"),
            ("Attention", ATTENTION, "attention", "similarity of attention by layer"),
        ):
            for variant in grid.variants(name):
                section(f"{title}: {variant_name(variant)}" if variant else title, text,
                        getattr(figures, name), alt, getattr(tables, name), variant,
                        heads.maps(grid, variant) if name == "attention" else ())  # fmt: skip
        section("The link", LINK, figures.link,
                "downstream score against probe score, selectivity and attention change",
                tables.link)  # fmt: skip
        page.write(folder, head(grid), sections)
    return grid.folder / "report" / "report.md"


SCORES = """\
The highest of a score is 1. [a, b] is the 95 % percentile bootstrap interval over the test
examples; of several seeds the cell is their mean ± sample standard deviation (n = seeds), and the
interval that of the mean: it does not hold the variation between seeds. "–" is a missing cell. At
0 % nothing was fine-tuned: a head that is new then is one arbitrary mapping, not chance.
"""
DIFFERENCES = """\
Paired bootstrap tests of no difference in the main score (two-sided, on the same test examples);
10,000 resamples, so that no p is below 0.0001; Holm's correction over the tests of a table. Only
trained models. With one seed, a difference may be this seed's.
"""
PROBING = """\
A probe on frozen vectors. The untrained encoder is the same architecture with random weights, 0 %
the pre-trained model, the others were fine-tuned. The best layer is chosen on dev, its score is
that on test. Selectivity is the score less that of the same probe trained on control labels, which
tell nothing of the task. Where the probe can learn those by heart, a selectivity near 0 says that
it may have learned the task's so; where it cannot, selectivity is what is gained over guessing.
"""
ATTENTION = """\
Mean cosine of the attention maps of the fine-tuned and the pre-trained model over real tokens
(special tokens included), heads and examples. The untrained encoder, compared in the same way, is
a reference: so alike are two models that have nothing in common but the architecture. A fine-tuned
model can lie below it. Layer 1 is the first block.
"""
LINK = """\
One point a model and size (the mean of its seeds), [a, b] the 95 % percentile bootstrap interval
over points. The points are few and not independent (sizes of one model, nested subsets), so the
intervals are too narrow. At 0 % no head was trained and attention has not changed: with it, a
correlation tells trained from untrained models, so it comes without it first. "–": fewer than three
points, or all alike. Only runs with default settings of probing and attention.
"""


def head(grid):
    """The title, what was read, what was passed over, and what is not alike in what was not."""
    from common.identity import STEPS
    from common.report.page import Head

    counts = [f"{step} {sum(run.step == step for run in grid.runs)}" for step in STEPS]
    seeds = ", ".join(map(str, sorted({run.seed for run in grid.runs})))
    lists = {
        "Passed over": grid.problems,
        "Not the same in all runs of a step (number of runs)": grid.conditions(),
    }
    return Head(
        f"{grid.task.NAME} on {grid.name}",
        any(run.config["arguments"].get("demo") for run in grid.runs),
        f"Finished runs: {', '.join(counts)}; seeds: {seeds}.{tested(grid)}",
        {title: lines for title, lines in lists.items() if lines},
    )


def tested(grid) -> str:
    """How many examples the test split has, and whether they are resampled in groups."""
    n = next((len(table) for run in grid.runs for table in run.counts.values()), None)
    if n is None:
        return ""
    if not grid.groups:
        return f" Test examples: {n}."
    return f" Test examples: {n} in {len(set(grid.groups))} groups, which are resampled whole."


if __name__ == "__main__":
    sys.exit(main())
