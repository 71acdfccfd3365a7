"""Compare the attention of every head before and after fine-tuning on NLI.

    python attention.py --training_sizes 10,30 --model_name biobert
    python attention.py --demo --training_sizes 10,30 --model_name biobert --floor

The same inputs (the test split) go through the pre-trained encoder and through those that
fine-tuning.py made of it. For each size it writes, in results/<dataset>/<model>/<size>/seed-<n>/
attention/: config.json, heads.csv, (floor.csv,) heads.png, metrics.json; and, for the model,
attention_all_sizes.png.
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from common import cli, models, results
from NLI import task as data


def parse_args(argv):
    parser = cli.Parser(__doc__)
    cli.add_common_arguments(parser)
    cli.add_attention_arguments(parser)
    return cli.parse(parser, argv, Path(__file__).parent)


@cli.command
def main(argv=None):
    args = parse_args(argv)
    model_name = models.folder_name(args)
    runs = [results.Run(args, data, model_name, size, "attention") for size in args.training_sizes]
    checkpoints = results.checkpoints(runs)
    finished = {run: run.finished(checkpoints[run]) for run in runs}
    pending = [run for run in runs if not finished[run]]
    if pending:
        from common import heads

        heads.compare(data, args, pending, checkpoints)
    if pending or not all((run.folder / "heads.png").is_file() for run in runs):
        from common import figures

        figures.attention_heads(runs[0].folder.parents[2], runs[0].folder)
    report(args, runs, len(pending))


def report(args, runs, n_new):
    """The final summary: how far each size's attention has moved, and where it lies."""
    from common import heads

    about = f"{runs[0].about['model']} on {runs[0].about['dataset']}, seed {args.seed}"
    print(f"\n{data.TASK} attention, {about}: {n_new} of {len(runs)} sizes new")
    print(heads.table(runs))
    print("results:", *(run.folder for run in runs), sep="\n  ")


if __name__ == "__main__":
    sys.exit(main())
