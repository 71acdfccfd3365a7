"""CSV -> PNG: a run's figures, and those of its model's sizes. Imports no model code.

`folder` is always a run's; other sizes are found beside it, and are drawn only where they are
finished, made from the fine-tuned model that lies there now, and made as this one was.
"""

import logging
from collections.abc import Sequence
from math import ceil, isfinite
from pathlib import Path

import numpy as np

from common import palette
from common.cli import UNTRAINED
from common.files import read_json, replacing
from common.identity import differences, is_stale, settings_of, split_step
from common.task import Score

log = logging.getLogger(__name__)
SEED = 42  # the scripts' default, which file names leave out


def learning_curve(folder: Path, scores: Sequence[Score]) -> None:
    """learning_curve.png: training loss (left), dev scores (right) by epoch, from history.csv."""
    import pandas as pd

    table = pd.read_csv(folder / "history.csv")
    figure, ((left, right),) = panels([2], width=4.5, height=3)
    loss = table[(table["split"] == "train") & (table["metric"] == "loss")]
    left.plot(loss["epoch"], loss["value"], marker="o", color="black")
    left.set(xlabel="epoch", ylabel="loss (nats)", title="training loss (mean of the epoch)")
    left.set_ylim(0, 1.06 * loss["value"].max())
    dev = table[table["split"] == "dev"]
    drawn = [score for score in scores if (dev["metric"] == score.name).any()]
    for i, score in enumerate(drawn):
        rows, style = dev[dev["metric"] == score.name], palette.score_style(i, len(drawn))
        right.plot(rows["epoch"], rows["value"], label=score.title, **style)
    fit([right], min((score.lowest for score in drawn), default=0))
    right.set(xlabel="epoch", ylabel="score (at most 1)")
    right.set_title("scores on dev" if drawn else "no dev split")
    for axes in (left, right):
        axes.set_xticks(sorted(table["epoch"].unique()))
    row = table.iloc[0]
    _title(figure, row, f"fine-tuning on {row['training_size']} % of the training data")
    legend(figure)
    save(figure, folder / "learning_curve.png")


def probing_layers(folder: Path, scores: Sequence[Score]) -> None:
    """layers.png: test scores by layer; the majority class, control and untrained encoder if run.

    Of the `scores` it draws those that are meant for it (`by_layer`).
    """
    tables = _sizes(folder, "layers.csv")
    own = tables[folder]
    row, scores = own.iloc[0], [score for score in scores if score.by_layer]
    style = _labelled(own)
    control = {"marker": "+", "linestyle": "-.", "label": f"{style['label']}, control labels"}
    curves = [(own, "task", style), (own, "control", style | control)] + [
        (table, "task", _labelled(table))
        for table in tables.values()
        if table is not own and table["training_size"].iloc[0] == UNTRAINED
    ]
    figure, (axes,) = panels([len(scores)], columns=3, width=4.5)
    for panel, score in zip(axes, scores, strict=True):
        for table, target, look in curves:
            _probe_curve(panel, table, target, score, look)
        _finish_layers(panel, own, score)
    _title(figure, row, _probe_name(folder, row), palette.encoder_name(row["training_size"]))
    legend(figure)
    save(figure, folder / "layers.png")


def probing_sizes(folder: Path, scores: Sequence[Score]) -> None:
    """layers_all_sizes.png in the model's folder: test scores by layer, a curve for each size."""
    tables = _sizes(folder, "layers.csv")
    scores = [score for score in scores if score.by_layer]
    figure, (axes,) = panels([len(scores)], columns=3, width=4.5)
    for panel, score in zip(axes, scores, strict=True):
        for table in tables.values():
            _probe_curve(panel, table, "task", score, _labelled(table))
        _finish_layers(panel, tables[folder], score)
    row = tables[folder].iloc[0]
    _title(figure, row, _probe_name(folder, row) + ", all sizes so far")
    legend(figure)
    save(figure, _of_the_model(folder, "layers_all_sizes"))


def _labelled(table) -> dict:
    size = table["training_size"].iloc[0]
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
    axes.set(xlabel="layer (0 = embeddings)", ylabel=f"{score.title} on test")


def _probe_name(folder: Path, row) -> str:
    variant = palette.variant_name(split_step(folder.name)[1])
    return f"probing ({'; '.join(filter(None, (row['probe'], variant)))})"


# By name in heads.csv: title, the colour bar's label, the scale's end (None: a whole number of bits
# above all values), colours. The scales are fixed and unchanged is yellow: figures are comparable.
_ENTROPY = "entropy of the attention, "
_MAPS = {
    "cosine": ("cosine similarity of the attention maps (1 = unchanged)", "cosine", 1, "viridis"),
    "js": ("Jensen-Shannon divergence of the attention (0 = unchanged, 1 = disjoint)",
           "JS (bits)", 1, "viridis_r"),
    "entropy_pretrained": (_ENTROPY + "pre-trained", "entropy (bits)", None, "cividis"),
    "entropy_fine_tuned": (_ENTROPY + "fine-tuned", "entropy (bits)", None, "cividis"),
}  # fmt: skip


def attention_heads(folder: Path) -> None:
    """heads.png: a map a metric, layers from the top, heads from the left, cells with values."""
    import pandas as pd

    table = pd.read_csv(folder / "heads.csv")
    grids = {
        metric: table[table["metric"] == metric].pivot(
            index="layer", columns="head", values="value"
        )
        for metric in _MAPS
        if (table["metric"] == metric).any()
    }
    entropies = [grid.max(axis=None) for metric, grid in grids.items() if "entropy" in metric]
    bits = max(1, ceil(max((value for value in entropies if isfinite(value)), default=1)))
    layers, heads = next(iter(grids.values())).shape
    figure, (axes,) = panels([len(grids)], columns=1 if len(grids) < 3 else 2,
                             width=2.5 + 0.45 * heads, height=1.5 + 0.32 * layers)  # fmt: skip
    for panel, (metric, grid) in zip(axes, grids.items(), strict=True):
        title, label, high, colors = _MAPS[metric]
        image = panel.imshow(grid, vmin=0, vmax=high or bits, cmap=colors, aspect="auto")
        for (y, x), value in np.ndenumerate(grid.to_numpy()):
            text = f"{value:.3f}".removeprefix("0") if isfinite(value) else "–"
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 and isfinite(value)
            panel.text(x, y, text, ha="center", va="center", fontsize=6.5,
                       color="white" if dark else "black")  # fmt: skip
        panel.set_xticks(range(heads), grid.columns, fontsize=7)
        panel.set_yticks(range(layers), grid.index, fontsize=7)
        panel.set(xlabel="head", ylabel="layer (1 = first block)")
        panel.set_title(title, fontsize=9)
        panel.grid(False)
        figure.colorbar(image, ax=panel, label=label)
    row = table.iloc[0]
    encoder = palette.encoder_name(row["training_size"])
    _title(figure, row, f"attention, pre-trained against {encoder}", _inputs(folder))
    save(figure, folder / "heads.png")


def attention_sizes(folder: Path) -> None:
    """attention_all_sizes.png in the model's folder: means over heads by layer, all sizes."""
    tables, references = _sizes(folder, "heads.csv"), _sizes(folder, "floor.csv")
    there = {metric for table in tables.values() for metric in table["metric"]}
    metrics = [metric for metric in _MAPS if metric in there and metric != "entropy_pretrained"]
    figure, (axes,) = panels([len(metrics)], columns=3, width=4.8)
    for panel, metric in zip(axes, metrics, strict=True):
        curves = [(table, metric, _labelled(table)) for table in tables.values()]
        untrained = {"label": palette.size_name(UNTRAINED)} | palette.size_style(UNTRAINED)
        curves += [(table, metric, untrained) for table in list(references.values())[:1]]
        if entropy := metric == "entropy_fine_tuned":
            before = {"label": palette.size_name(0)} | palette.size_style(0)
            curves.append((tables[folder], "entropy_pretrained", before))
        for table, name, style in curves:
            mean = table[table["metric"] == name].groupby("layer")["value"].mean()
            curve(panel, mean.index, mean, style)
        fit([panel], 0, None if entropy else 1)
        panel.set(xlabel="layer (1 = first block)", ylabel="mean over heads")
        panel.set_title("entropy of the attention (bits)" if entropy else _MAPS[metric][0].replace(
            " (", "\n(", 1), fontsize=9)  # fmt: skip
    row = tables[folder].iloc[0]
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
    return folder.parents[2] / f"{'_'.join(filter(None, parts))}.png"


def _title(figure, row, what: str, more: str = "") -> None:
    """What is shown, and of which run (`row` of its CSV), a line each."""
    run = f"{row['model']} on {row['dataset']}, seed {row['seed']}"
    figure.suptitle("\n".join(filter(None, (f"{row['task']} {what}", more, run))), fontsize=10)


# What the report's figures are made with, too.


def panels(counts: Sequence[int], columns: int = 4, width: float = 3.3, height: float = 2.9):
    """A figure and, for each of `counts`, a list of so many axes in rows of their own."""
    from matplotlib.figure import Figure

    across = max(1, min(columns, max(counts)))
    rows = [ceil(count / across) for count in counts]
    size = (max(width * across, 6), 1.1 + height * sum(rows))
    figure, found, start = Figure(figsize=size, layout="constrained"), [], 0
    for count, n in zip(counts, rows, strict=True):
        places = range(start * across + 1, start * across + 1 + count)
        found.append([figure.add_subplot(sum(rows), across, place) for place in places])
        start += n
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    return figure, found


def curve(axes, x, y, style: dict) -> None:
    """A line, if there is anything to draw; whole numbers on the x axis."""
    if len(x):
        axes.plot(x, y, **{"markersize": 4} | style)
        axes.xaxis.get_major_locator().set_params(integer=True)


def fit(axes: Sequence, low: float = 0, high: float | None = 1, least: float = 0.1) -> None:
    """One y range for all `axes`: what they show with a margin, `least` tall, in low to high.

    Without a least height, noise on the last digits would look like a slope.
    """
    drawn = [line.get_ydata() for panel in axes for line in panel.lines]
    values = np.concatenate([np.asarray(y, dtype=float) for y in drawn]) if drawn else np.array([])
    values, high = values[np.isfinite(values)], np.inf if high is None else high
    if not len(values):
        return
    margin = max(0.06 * np.ptp(values), (least - np.ptp(values)) / 2)
    bottom = max(low, min(values.min() - margin, high - least))
    top = min(high, max(values.max() + margin, low + least))
    edge = 0.02 * (top - bottom)  # what lies at the end of the range is not hidden by the frame
    bottom, top = min(bottom, values.min() - edge), max(top, values.max() + edge)
    for panel in axes:
        panel.set_ylim(bottom, top)


def legend(figure) -> None:
    """One for all panels, below them, where it hides no curve; as many columns as fit."""
    pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in figure.axes)
    entries = {label: handle for panel in pairs for handle, label in panel}
    if entries:
        fits = int(figure.get_figwidth() * 12 / (max(map(len, entries)) + 7))
        figure.legend(entries.values(), entries, loc="outside lower center", fontsize=8,
                      ncols=max(1, min(fits, len(entries))))  # fmt: skip


def save(figure, *paths: Path) -> None:
    """Write `figure` as PNG or PDF, by the ending; the same bytes each time."""
    for path in paths:
        kind = path.suffix[1:]
        undated = {"CreationDate": None} if kind == "pdf" else None
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, format=kind, metadata=undated)
