"""CSV -> PNG. Draws what the result files say; imports no model code."""

from pathlib import Path

from common.files import read_json, replacing


def learning_curve(folder: Path, scores) -> None:
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
    for metric in [s.name for s in scores] if len(dev) else ():
        rows = dev[dev["metric"] == metric]
        right.plot(rows["epoch"], rows["value"], marker="o", label=_name(metric))
    right.set(xlabel="epoch", ylabel="score (0 to 1)", ylim=(0, 1))
    right.set_title("scores on dev" if len(dev) else "no dev split")
    if len(dev):
        right.legend(loc="lower right")
    for axes in (left, right):
        axes.set_xticks(sorted(table["epoch"].unique()))
        axes.grid(alpha=0.3)
    _title(figure, f"fine-tuning on {run['training_size']} % of the training data", run)
    _save(figure, folder / "learning_curve.png")


def probing_layers(folder: Path, scores) -> None:
    """layers.png: test scores by layer, with majority, control and untrained encoder where run."""
    import pandas as pd

    metrics = [s.name for s in scores if s.by_layer]
    random_init = folder.parents[2] / "random" / folder.parent.name / folder.name / "layers.csv"

    table = pd.read_csv(folder / "layers.csv")
    curves = [(table, str(table.iloc[0]["probe"]), "task", "probe", "C0", "o-"),
              (table, str(table.iloc[0]["probe"]), "control", "control labels", "C1", "s--"),
              (table, "majority", "task", "majority class", "black", ":")]  # fmt: skip
    untrained = random_init.is_file() and random_init.parent != folder
    if untrained and _comparable(random_init.parent, folder):
        other = pd.read_csv(random_init)
        curves.append((other, curves[0][1], "task", "untrained encoder", "C2", "^--"))
    figure, panels = _subplots(1, len(metrics), figsize=(4.5 * len(metrics), 4), squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        for source, probe, target, label, color, style in curves:
            rows = source[(source["probe"] == probe) & (source["target"] == target)]
            rows = rows[(rows["split"] == "test") & (rows["metric"] == metric)]
            if len(rows):
                axes.plot(rows["layer"], rows["value"], style, color=color, label=label, ms=4)
        _layer_axes(axes, metric)
    row = table.iloc[0]
    _title(figure, f"probing ({row['probe']}), {_size(row['training_size'])}", row)
    _legend(figure)
    _save(figure, folder / "layers.png")


def _comparable(folder: Path, run_folder: Path) -> bool:
    """Whether two runs of a step may stand in one figure."""
    from common.identity import differences

    one, two = (read_json(f / "config.json") or {} for f in (folder, run_folder))
    return not differences(one, two)


def probing_sizes(run_folder: Path, scores) -> None:
    """layers_all_sizes.png: test scores by layer, a curve for each size probed so far.

    Only the sizes that were probed as the one in `run_folder` was.
    """
    import pandas as pd

    model_folder, metrics = run_folder.parents[2], [s.name for s in scores if s.by_layer]

    from common.cli import TRAINING_SIZES

    seed, probe = (
        run_folder.parent.name,
        str(pd.read_csv(run_folder / "layers.csv")["probe"].iloc[0]),
    )
    figure, panels = _subplots(1, len(metrics), figsize=(4.5 * len(metrics), 4), squeeze=False)
    majority = None
    for i, size in enumerate(("random", *TRAINING_SIZES)):
        folder = model_folder / str(size) / seed / "probing"
        if not (folder / "layers.csv").is_file() or not _comparable(folder, run_folder):
            continue
        table = pd.read_csv(folder / "layers.csv")
        test = table[(table["split"] == "test") & (table["target"] == "task")]
        majority = test[test["probe"] == "majority"]
        style = {"color": "grey", "linestyle": "--"} if size == "random" else {"color": f"C{i}"}
        for axes, metric in zip(panels[0], metrics, strict=True):
            rows = test[(test["probe"] == probe) & (test["metric"] == metric)]
            if len(rows):
                axes.plot(
                    rows["layer"], rows["value"], marker="o", ms=4, label=_size(size), **style
                )
    if majority is None:
        return
    for axes, metric in zip(panels[0], metrics, strict=True):
        rows = majority[majority["metric"] == metric]
        axes.plot(rows["layer"], rows["value"], ":", color="black", label="majority class")
        _layer_axes(axes, metric)
    _title(figure, f"probing ({probe}), all sizes so far", majority.iloc[0])
    _legend(figure)
    _save(figure, model_folder / "layers_all_sizes.png")


def attention_heads(run_folder: Path) -> None:
    """heads.png of every size compared so far, on one colour scale; attention_all_sizes.png.

    Only the sizes that were compared as the one in `run_folder` was.
    """
    import pandas as pd

    model_folder = run_folder.parents[2]

    from common.cli import TRAINING_SIZES

    tables, floors = {}, {}
    for size in TRAINING_SIZES:
        folder = model_folder / str(size) / run_folder.parent.name / "attention"
        if (folder / "metrics.json").is_file() and _comparable(folder, run_folder):
            tables[folder] = pd.read_csv(folder / "heads.csv")
            if (folder / "floor.csv").is_file():
                floors[folder] = pd.read_csv(folder / "floor.csv")
    metrics = list(dict.fromkeys(m for t in tables.values() for m in t["metric"]))
    metrics = [metric for metric in metrics if not metric.endswith("_std")]
    ranges = {}
    for metric in metrics:
        values = pd.concat(t[t["metric"] == metric]["value"] for t in tables.values())
        ranges[metric] = (values.min(), values.max())
    if entropies := [ranges[metric] for metric in metrics if "entropy" in metric]:
        shared = (min(low for low, _ in entropies), max(high for _, high in entropies))
        ranges |= {metric: shared for metric in metrics if "entropy" in metric}
    for folder, table in tables.items():
        _heat_maps(folder, table, ranges)
    _attention_by_layer(model_folder, tables, floors, metrics)


def _heat_maps(folder: Path, table, ranges: dict) -> None:
    """One map a metric: layers from the top, heads from the left, each cell with its value."""
    present = [metric for metric in ranges if (table["metric"] == metric).any()]
    grids = {
        metric: table[table["metric"] == metric].pivot(
            index="layer", columns="head", values="value"
        )
        for metric in present
    }
    rows, columns = grids[present[0]].shape
    width, height = 2.5 + 0.45 * columns, 1.8 + 0.32 * rows
    figure, panels = _subplots(
        len(present), 1, figsize=(width, height * len(present)), squeeze=False
    )
    for axes, metric in zip(panels[:, 0], present, strict=True):
        grid, (low, high) = grids[metric], ranges[metric]
        image = axes.imshow(grid, vmin=low, vmax=high, cmap="viridis", aspect="auto")
        for y, x in ((y, x) for y in range(rows) for x in range(columns)):
            value = grid.iloc[y, x]
            dark = high > low and (value - low) / (high - low) < 0.6
            text = f"{value:.3f}".removeprefix("0")
            axes.text(x, y, text, ha="center", va="center", fontsize=6.5,
                      color="white" if dark else "black")  # fmt: skip
        axes.set_xticks(range(columns), grid.columns, fontsize=7)
        axes.set_yticks(range(rows), grid.index, fontsize=7)
        axes.set(xlabel="head", ylabel="layer (1 = first block)")
        axes.set_title(_METRIC_NAMES[metric], fontsize=8)
        bar = figure.colorbar(image, ax=axes)
        bar.set_label(f"{low:.3f} to {high:.3f}, all sizes of this model", fontsize=8)
    row = table.iloc[0]
    _title(figure, f"attention, pre-trained against {_size(row['training_size'])}", row)
    _save(figure, folder / "heads.png")


_METRIC_NAMES = {
    "cosine": "cosine similarity of the attention maps (1 = unchanged)",
    "js": "Jensen-Shannon divergence of the attention (bits; 0 = unchanged, 1 = disjoint)",
    "entropy_pretrained": "entropy of the attention, pre-trained (bits)",
    "entropy_fine_tuned": "entropy of the attention, fine-tuned (bits)",
}


def _attention_by_layer(model_folder: Path, tables: dict, floors: dict, metrics: list) -> None:
    metrics = [metric for metric in metrics if metric != "entropy_pretrained"]
    figure, panels = _subplots(1, len(metrics), figsize=(5.2 * len(metrics), 4), squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        curves = [(t, metric, _size(t.iloc[0]["training_size"]), "o-") for t in tables.values()]
        if metric == "entropy_fine_tuned":
            curves.append((next(iter(tables.values())), "entropy_pretrained", "pre-trained", "k--"))
        for table in list(floors.values())[:1]:
            curves.append((table, metric, "untrained encoder, to compare", "k:"))
        for table, name, label, style in curves:
            mean = table[table["metric"] == name].groupby("layer")["value"].mean()
            axes.plot(mean.index, mean.values, style, ms=4, label=label)
        axes.set(xlabel="layer (1 = first block)", ylabel="mean over heads")
        title = "entropy of the attention (bits)" if "entropy" in metric else _METRIC_NAMES[metric]
        axes.set_title(title, fontsize=9)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    row = next(iter(tables.values())).iloc[0]
    _title(figure, "attention, pre-trained against fine-tuned", row)
    _legend(figure)
    _save(figure, model_folder / "attention_all_sizes.png")


def _size(size) -> str:
    names = {"0": "pre-trained (0 %)", "random": "untrained encoder"}
    return names.get(str(size), f"fine-tuned on {size} %")


def _title(figure, what: str, row) -> None:
    """Two lines: what is shown, and of which run (`row` of its CSV)."""
    run = f"{row['model']} on {row['dataset']}, seed {row['seed']}"
    figure.suptitle(f"{row['task']} {what}\n{run}", fontsize=10)


def _legend(figure) -> None:
    """One for all panels, below them, where it hides no curve."""
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    handles = {label: handle for panel in pairs for handle, label in panel}
    columns = min(len(handles), int(figure.get_figwidth() / 2))  # as many as fit
    figure.legend(
        handles.values(), handles, loc="outside lower center", ncols=columns, fontsize="small"
    )


def _name(metric: str) -> str:
    return metric.replace("_", " ").replace("f1", "F1").replace("without o", "without O")


def _layer_axes(axes, metric: str) -> None:
    axes.set(xlabel="layer (0 = embeddings)", ylabel=f"{_name(metric)} on test")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def _subplots(*shape, **options):
    """`plt.subplots` that needs no display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(*shape, layout="constrained", **options)


def _save(figure, png: Path) -> None:
    from matplotlib import pyplot

    with replacing(png) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)
