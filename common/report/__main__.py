"""Tables and figures of all results there are, on one page for each task and data set.

    python -m common.report
    python -m common.report --tasks NER --dataset bionlp2004

Reads results only, never a model. Writes <TASK>/results/<dataset>/report/: report.md, and its
tables as CSV and LaTeX (booktabs) and its figures as PNG and PDF beside it. With --output_dir, the
results are those in <DIR>/<TASK>, as the study leaves them, or, if there is no such folder, in
<DIR>, as a script leaves them. Missing cells are shown as missing; files that are damaged, or made
from other data than the rest, are named and left out.
"""

import logging
import shutil
import sys
from pathlib import Path

from common import cli

log = logging.getLogger(__name__)


def parse_args(argv):
    parser = cli.Parser(__doc__)
    parser.prog = "-m common.report"
    parser.usage = "python %(prog)s [--tasks NER,NLI] [--dataset NAME] [--output_dir DIR]"
    there = sorted(script.parent.name for script in cli.ROOT.glob("*/fine-tuning.py"))
    parser.add_argument("--tasks", help=f"with commas (default: {','.join(there)})")
    parser.add_argument("--dataset", help="one data set (default: each by itself)")
    parser.add_argument(
        "--output_dir", type=Path, help="root of the results (default: <TASK>/results)"
    )
    args = parser.parse_args(argv)
    args.tasks = list(dict.fromkeys(args.tasks.split(","))) if args.tasks is not None else there
    if unknown := [task for task in args.tasks if task not in there]:
        parser.error(f"--tasks: no task {unknown[0]!r}. Take from {','.join(there)}, no spaces")
    return args


@cli.command
def main(argv=None):
    args = parse_args(argv)

    from common.report.cells import Results

    found = {task: datasets(root(args, task), task) for task in args.tasks}
    names = sorted({folder.name for folders in found.values() for folder in folders})
    if names and args.dataset and args.dataset not in names:
        raise cli.UserError(
            f"--dataset {args.dataset}: no results. There are some on {', '.join(names)}."
        )
    written = []
    for task, folders in found.items():
        for folder in (f for f in folders if args.dataset in (None, f.name)):
            results = Results(folder, task)
            if results.runs:
                written.append(write(results))
            else:
                log.warning("%s: no finished run of %s, no report", folder, task)
    if not written:
        roots = " or ".join(dict.fromkeys(str(root(args, task)) for task in args.tasks))
        raise cli.UserError(
            f"no finished results in {roots}. Make some first, e.g.:\n"
            f"  python {args.tasks[0]}/fine-tuning.py --demo --training_size 30\n"
            "  python -m common.study --demo"
        )
    print("reports:", *written, sep="\n  ")


def root(args, task: str) -> Path:
    """The folder of a task's results."""
    if args.output_dir is None:
        return cli.ROOT / task / "results"
    folder = args.output_dir.expanduser().absolute()
    return folder / task if (folder / task).is_dir() else folder


def datasets(folder: Path, task: str) -> list[Path]:
    """The folders of the data sets that hold runs of `task`.

    Raises UserError if one of them holds runs of another task, too.
    """
    from common.report.cells import run_folders, task_of

    chosen = []
    for dataset in sorted(folder.glob("*")):
        runs = run_folders(dataset)
        tasks = {task_of(run) for run in runs} - {None} or ({task} if runs else set())
        if task in tasks and len(tasks) > 1:
            raise cli.UserError(
                f"{dataset} holds results of {' and '.join(sorted(tasks))}. Move one of them away: "
                "each task needs an --output_dir of its own."
            )
        chosen += [dataset] if task in tasks else []
    return chosen


def write(results) -> Path:
    """The report of one task on one data set, all or nothing; returns the path of its page."""
    from common.files import replacing, write_csv
    from common.report import figures, tables

    with replacing(results.folder / "report") as folder:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        page = [head(results)]

        def add(*tables):
            for table in (table for table in tables if table.rows):
                write_csv(folder / f"{table.name}.csv", table.records())
                (folder / f"{table.name}.tex").write_text(table.latex(), encoding="utf-8")
                page.append(f"**{table.caption}** ({table.name}.csv, .tex)\n\n{table.markdown()}")

        def draw(name, text):
            if getattr(figures, name)(results, folder):
                page.append(f"![{text}]({name}.png)\n")

        page.append(f"## 1. Downstream scores\n\n{SCORES}")
        add(*tables.downstream(results))
        page.append("## 2. Learning curves\n")
        draw("learning_curves", "test score by training size")
        page.append(f"## 3. Differences\n\n{DIFFERENCES}")
        add(*tables.comparisons(results))
        page.append(f"## 4. Probing\n\n{PROBING}")
        draw("probing", "probe score by layer")
        add(*tables.probing(results))
        page.append(f"## 5. Attention\n\n{ATTENTION}")
        draw("attention", "similarity of attention by layer")
        add(*tables.attention(results))
        page.append(f"## 6. The link\n\n{LINK}")
        draw("link", "downstream score against probe score, selectivity and attention change")
        add(tables.link(results))
        (folder / "report.md").write_text("\n".join(page), encoding="utf-8")
    return results.folder / "report" / "report.md"


SCORES = """\
Fractions of 1. [a, b] is the 95 % percentile bootstrap interval over the test examples; of several
seeds the cell is their mean ± sample standard deviation (n = seeds), and the interval that of the
mean: it does not hold the variation between seeds. "–" is a missing cell.
"""
DIFFERENCES = """\
Paired bootstrap tests of no difference in the main score (two-sided, on the same test examples);
10,000 resamples, so that no p is below 0.0001; Holm's correction over the tests of a table. Only
trained models. With one seed, a difference may be this seed's.
"""
PROBING = """\
A probe on frozen vectors. "untrained" is the same architecture with random weights, 0 % the
pre-trained model, the others were fine-tuned. The best layer is chosen on dev, its score is that on
test. Selectivity is the score less that of the same probe trained on random labels. NER: each word
type has a random tag; near 0, the probe could have learned its labels word by word. NLI: the labels
for training are permuted, so that the control guesses; selectivity is what is gained over that.
"""
ATTENTION = """\
Mean cosine of the attention maps of the fine-tuned and the pre-trained model over real tokens,
heads and examples. The floor is what an untrained encoder scores: at it, nothing is left of the
pre-trained attention but what any two models share. Layer 1 is the first block.
"""
LINK = """\
One point a model and size (the mean of its seeds), [a, b] the 95 % percentile bootstrap interval
over points. The points are few and not independent (sizes of one model, nested subsets), so the
intervals are too narrow. At 0 % the head is untrained and attention has not changed: with it, a
correlation tells trained from untrained models, so it comes without it first. "–": fewer than three
points, or all alike.
"""


def head(results) -> str:
    """The title, what was read, what was passed over, and which settings are not alike."""
    from common.report.cells import STEPS

    lines = [f"# {results.task} on {results.name}\n"]
    if any(run.config["arguments"].get("demo") for run in results.runs):
        lines.append("**Demo**: generated text and miniature models. No finding about real ones.\n")
    counts = [f"{step} {sum(run.step == step for run in results.runs)}" for step in STEPS]
    seeds = ", ".join(map(str, sorted({run.seed for run in results.runs})))
    tested = {scored.examples for run in results.runs for scored in run.resampled.values()}
    tested = f" Test examples: {max(tested)}." if tested else ""
    lines.append(f"Finished runs: {', '.join(counts)}; seeds: {seeds}.{tested}\n")
    for title, found in (
        ("Passed over", results.problems),
        ("Settings that are not the same in all runs of a step", results.differing_settings()),
    ):
        if found:
            lines.append(f"{title}:\n\n" + "".join(f"- {line}\n" for line in found))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
