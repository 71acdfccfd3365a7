"""CSV -> PNG and PDF: a run's figures, and those of its model's sizes. Imports no model code.

`folder` is always a run's; other sizes are found beside it, and are drawn only where they are
finished, made from the fine-tuned model that lies there now, and made as this one was.
"""

import logging
import textwrap
from collections.abc import Sequence
from math import ceil, isfinite
from pathlib import Path

import numpy as np

from common import palette
from common.cli import SEED, UNTRAINED
from common.files import read_json
from common.identity import differences, is_stale, settings_of, split_step
from common.panels import curve, fit, legend, panels, save, title
from common.task import Score

log = logging.getLogger(__name__)


def learning_curve(folder: Path, scores: Sequence[Score]) -> None:
    """learning_curve: training loss, and dev scores or loss, from history.csv and steps.csv."""
    import pandas as pd

    table = pd.read_csv(folder / "history.csv")
    figure, ((above, below),) = panels([2], least=3, height=1.7)
    loss = table[(table["split"] == "train") & (table["metric"] == "loss")]
    steps = folder / "steps.csv"
    if steps.is_file():  # older results have none; its last row is of the last step
        rows = pd.read_csv(steps)
        epochs = rows["step"] / rows["step"].max() * loss["epoch"].max()
        above.plot(epochs, rows["loss"], marker=".", color="grey", lw=0.7, label="loss of a step")
    above.plot(loss["epoch"], loss["value"], marker="o", color="black", label="mean of the epoch")
    above.set(xlabel="epoch", ylabel="loss (nats)", title="training loss")
    above.set_ylim(0, 1.05 * max(max(line.get_ydata()) for line in above.lines))
    dev = table[table["split"] == "dev"]
    drawn = [score for score in scores if (dev["metric"] == score.name).any()]
    for i, score in enumerate(drawn):
        rows, style = dev[dev["metric"] == score.name], palette.score_style(i, len(drawn))
        below.plot(rows["epoch"], rows["value"], label=score.title, **style)
    asked = dev[dev["metric"] == "loss"]  # of a task whose epochs are compared by it
    if len(asked):
        below.plot(asked["epoch"], asked["value"], marker="o", color="black")
        below.set(xlabel="epoch", ylabel="loss (nats)", title="dev loss")
        below.set_ylim(0, 1.05 * asked["value"].max())
    else:
        fit([below], min((score.lowest for score in drawn), default=0))
        below.set(xlabel="epoch", ylabel="score (at most 1)")
        below.set_title("scores on dev" if drawn else "no dev split")
    for axes in (above, below):
        axes.set_xlim(0, 1.05 * table["epoch"].max())
        axes.xaxis.get_major_locator().set_params(integer=True)
    row = table.iloc[0]
    _title(figure, row, f"fine-tuning on {row['training_size']} % of the training data")
    legend(figure)
    save(figure, folder / "learning_curve")


def probing_layers(folder: Path, scores: Sequence[Score]) -> None:
    """layers: test scores by layer; the majority class, control and untrained encoder if run.

    Of the `scores` it draws those that are meant for it (`by_layer`).
    """
    tables = _sizes(folder, "layers.csv")
    own = tables[folder]
    row, scores = own.iloc[0], [score for score in scores if score.by_layer]
    style = _look(row["training_size"])
    control = {"marker": "+", "linestyle": "-.", "label": f"{style['label']}, control labels"}
    curves = [(own, "task", style), (own, "control", style | control)] + [
        (table, "task", _look(table["training_size"].iloc[0]))
        for table in tables.values()
        if table is not own and table["training_size"].iloc[0] == UNTRAINED
    ]
    figure, (block,) = panels([len(scores)])
    for axes, score in zip(block, scores, strict=True):
        for table, target, look in curves:
            _probe_curve(axes, table, target, score, look)
        _finish_layers(axes, own, score)
    _title(figure, row, _probe_name(folder, row), palette.encoder_name(row["training_size"]))
    legend(figure)
    save(figure, folder / "layers")


def probing_sizes(folder: Path, scores: Sequence[Score]) -> None:
    """layers_all_sizes in the model's folder: test scores by layer, a curve for each size."""
    tables = _sizes(folder, "layers.csv")
    scores = [score for score in scores if score.by_layer]
    figure, (block,) = panels([len(scores)])
    for axes, score in zip(block, scores, strict=True):
        for table in tables.values():
            _probe_curve(axes, table, "task", score, _look(table["training_size"].iloc[0]))
        _finish_layers(axes, tables[folder], score)
    row = tables[folder].iloc[0]
    _title(figure, row, _probe_name(folder, row) + ", all sizes so far")
    legend(figure)
    save(figure, _of_the_model(folder, "layers_all_sizes"))


def _look(size: int | str) -> dict:
    return palette.size_style(size) | {"label": palette.size_name(size)}


def _probe_curve(axes, table, target: str, score: Score, style: dict) -> None:
    rows = table[(table["split"] == "test") & (table["metric"] == score.name)]
    rows = rows[(rows["target"] == target) & (rows["probe"] != "majority")]
    curve(axes, rows["layer"], rows["value"], style)


def _finish_layers(axes, table, score: Score) -> None:
    rows = table[(table["split"] == "test") & (table["metric"] == score.name)]
    rows = rows[rows["probe"] == "majority"]
    if len(rows):
        axes.axhline(rows["value"].iloc[0], **palette.MAJORITY)
    fit([axes], score.lowest)
    axes.set_ylabel(textwrap.fill(f"{score.title} on test", 18))
    axes.set_xlabel("layer (0 = embeddings)", fontsize="small")  # as wide as a narrow panel


def _probe_name(folder: Path, row) -> str:
    variant = palette.variant_name(split_step(folder.name)[1])
    return f"probing ({'; '.join(filter(None, (row['probe'], variant)))})"


# By name in heads.csv: title, the colour bar's label, the scale's end (None: a whole number of bits
# above all values), colours. The scales are fixed and unchanged is yellow: figures are comparable.
ENTROPIES = ("entropy_pretrained", "entropy_fine_tuned")
MAPS = {
    "cosine": ("cosine similarity of the attention maps (1 = unchanged)", "cosine", 1, "viridis"),
    "js": ("Jensen-Shannon divergence of the attention (0 = unchanged, 1 = disjoint)",
           "JS (bits)", 1, "viridis_r"),
    ENTROPIES[0]: ("entropy of the attention, pre-trained", "entropy (bits)", None, "cividis"),
    ENTROPIES[1]: ("entropy of the attention, fine-tuned", "entropy (bits)", None, "cividis"),
}  # fmt: skip


def attention_heads(folder: Path) -> None:
    """heads: a map a metric, layers from the top, heads from the left, cells with values."""
    import pandas as pd

    table = pd.read_csv(folder / "heads.csv")
    grids = {metric: rows.pivot(index="layer", columns="head", values="value")
             for metric in MAPS if len(rows := table[table["metric"] == metric])}  # fmt: skip
    most = table[table["metric"].isin(ENTROPIES)]["value"].max()
    bits = max(1, ceil(most)) if isfinite(most) else 1
    layers, heads = next(iter(grids.values())).shape
    wide = heads > 20  # than a column can hold
    figure, (block,) = panels([len(grids)], least=6 if wide else 3, height=1.1 + 0.13 * layers,
                              wide=wide or len(grids) > 2)  # fmt: skip
    cell = 72 * (figure.get_figwidth() / block[0].get_gridspec().ncols - 0.4) / heads  # points
    digits = next((n for n, least in ((3, 16), (2, 11)) if cell > least), 0)
    for axes, (metric, grid) in zip(block, grids.items(), strict=True):
        about, label, high, colors = MAPS[metric]
        image = axes.imshow(grid, vmin=0, vmax=high or bits, cmap=colors, aspect="auto")
        for (y, x), value in np.ndenumerate(grid.to_numpy() if digits else np.empty((0, 0))):
            text = _cell(value, digits)
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 and isfinite(value)
            axes.text(x, y, text, ha="center", va="center", fontsize=6,
                      color="white" if dark else "black")  # fmt: skip
        axes.set_xticks(range(heads), grid.columns)
        axes.set_yticks(range(layers), grid.index)
        axes.set(xlabel="head", ylabel="layer (1 = first block)")
        axes.set_title(about.replace(" (", "\n("))
        axes.grid(False)
        figure.colorbar(image, ax=axes, label=label, location="bottom", aspect=40, pad=0.02)
    row = table.iloc[0]
    encoder = palette.encoder_name(row["training_size"]).removeprefix("encoder ")
    _title(figure, row, f"attention, pre-trained against {encoder}", _inputs(folder))
    save(figure, folder / "heads")


def _cell(value: float, digits: int) -> str:
    """A value in so many digits behind the point; where it is 1 or more, one less."""
    if not isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.removeprefix("0") if text[0] == "0" else f"{value:.{max(1, digits - 1)}f}"


def attention_sizes(folder: Path) -> None:
    """attention_all_sizes in the model's folder: means over heads by layer, all sizes."""
    tables, references = _sizes(folder, "heads.csv"), list(_sizes(folder, "floor.csv").values())
    there = {metric for table in tables.values() for metric in table["metric"]}
    metrics = [metric for metric in MAPS if metric in there and metric != ENTROPIES[0]]
    figure, (block,) = panels([len(metrics)], height=1.9)
    for axes, metric in zip(block, metrics, strict=True):
        curves = [(table, metric, table["training_size"].iloc[0]) for table in tables.values()]
        if entropy := metric in ENTROPIES:
            curves.append((next(iter(tables.values())), ENTROPIES[0], 0))
        curves += [(table, metric, UNTRAINED) for table in references[:1]]
        for table, name, size in curves:
            mean = table[table["metric"] == name].groupby("layer")["value"].mean()
            curve(axes, mean.index, mean, _look(size))
        fit([axes], 0, None if entropy else 1)
        axes.set(xlabel="layer (1 = first block)", ylabel="mean over heads")
        about = "entropy of the attention (bits)" if entropy else MAPS[metric][0]
        lines = about.replace(" (", "\n(").splitlines()
        axes.set_title("\n".join(textwrap.fill(line, 24) for line in lines))
    row = next(iter(tables.values())).iloc[0]
    _title(figure, row, "attention, pre-trained against fine-tuned", _inputs(folder))
    legend(figure)
    save(figure, _of_the_model(folder, "attention_all_sizes"))


def _inputs(folder: Path) -> str:
    """On what the attention was compared, from config.json: the CSV does not say."""
    settings = settings_of(read_json(folder / "config.json") or {})
    special = "dropped" if settings.get("drop_special") else "included"
    first = f", first {n} examples" if (n := settings.get("max_examples")) else ""
    return f"{settings.get('split', 'test')} split{first}, special tokens {special}"


def _sizes(folder: Path, name: str) -> dict:
    """`{run folder: its table}` by size: of `folder`, and of those that may stand beside it."""
    import pandas as pd

    this, found = read_json(folder / "config.json") or {}, {}
    beside = [path.parent for path in folder.parents[2].glob(f"*/*/*/{name}")
              if path.parts[-3:-1] == folder.parts[-2:]]  # fmt: skip
    sizes = {path: path.parents[1].name for path in beside}
    sizes = {path: -1 if size == UNTRAINED else int(size) for path, size in sizes.items()
             if size == UNTRAINED or size.isdigit()}  # fmt: skip
    for path in sorted(sizes, key=sizes.get):
        if path != folder:  # the run that draws is not finished yet
            config = read_json(path / "config.json")
            if not config or not (path / "metrics.json").exists() or is_stale(path):
                continue
            if differences(config, this):
                continue
        try:
            found[path] = pd.read_csv(path / name)
        except (OSError, ValueError):
            log.warning("%s is damaged and is passed over", path / name)
    return found


def _of_the_model(folder: Path, name: str) -> Path:
    """Where a figure of all sizes lies: a file for each variant and each seed but the default."""
    variant, seed = split_step(folder.name)[1], folder.parent.name
    parts = [name, variant, seed if seed != f"seed-{SEED}" else ""]
    return folder.parents[2] / f"{'_'.join(filter(None, parts))}"


def _title(figure, row, what: str, more: str = "") -> None:
    """What is shown, and of which run (`row` of its CSV), a line each."""
    run = f"{row['model']} on {row['dataset']}, seed {row['seed']}"
    title(figure, f"{row['task']} {what}", more, run)
