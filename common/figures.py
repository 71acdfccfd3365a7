"""CSV -> PNG. Draws what the result files say; imports no model code."""

from pathlib import Path


def learning_curve(folder: Path, metrics: tuple[str, ...]) -> None:
    """learning_curve.png: training loss (left), dev scores (right) by epoch, from history.csv."""
    import pandas as pd

    table = pd.read_csv(folder / "history.csv")
    run = table.iloc[0]
    figure, (left, right) = _subplots(1, 2, figsize=(9, 3.8))
    loss = table[(table["split"] == "train") & (table["metric"] == "loss")]
    left.plot(loss["epoch"], loss["value"], marker="o", color="black")
    left.set(
        xlabel="epoch", ylabel="cross-entropy (nats)", title="training loss (mean of the epoch)"
    )
    left.set_ylim(bottom=0)
    dev = table[table["split"] == "dev"]
    for metric in metrics if len(dev) else ():
        rows = dev[dev["metric"] == metric]
        right.plot(rows["epoch"], rows["value"], marker="o", label=metric.replace("_", " "))
    right.set(xlabel="epoch", ylabel="score (0 to 1)", ylim=(0, 1))
    right.set_title("scores on dev" if len(dev) else "no dev split")
    if len(dev):
        right.legend(loc="lower right")
    for axes in (left, right):
        axes.set_xticks(sorted(table["epoch"].unique()))
        axes.grid(alpha=0.3)
    figure.suptitle(
        f"{run['task']} fine-tuning: {run['model']} on {run['dataset']}, "
        f"{run['training_size']} % of the training data, seed {run['seed']}"
    )
    _save(figure, folder / "learning_curve.png")


def _subplots(*shape, **options):
    """`plt.subplots` that needs no display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(*shape, layout="constrained", **options)


def _save(figure, png: Path) -> None:
    from matplotlib import pyplot

    from common.results import replacing

    with replacing(png) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)
