"""The report's figures, as PNG and PDF. Draws what `tables` computes."""

from pathlib import Path

from common.cli import TRAINING_SIZES, UNTRAINED
from common.files import replacing
from common.report import tables
from common.report.cells import Results

_MARKERS = dict(zip(TRAINING_SIZES, "ovs^D", strict=True))


def learning_curves(results: Results, folder: Path) -> bool:
    """Test score by training size, a line a model, with intervals. False if there is nothing."""
    figure, panels = _panels(1, 1, width=6)
    axes, key, majority = panels[0][0], f"test_{results.main}", {}
    for i, model in enumerate(results.models):
        scores = {s: results.score("fine-tuning", model, s, key) for s in TRAINING_SIZES}
        scores = {size: score for size, score in scores.items() if score}
        if not scores:
            continue
        x = [size + 0.5 * (i - (len(results.models) - 1) / 2) for size in scores]  # side by side
        line = axes.plot(x, [s.value for s in scores.values()], "o-", ms=4, label=_short(model))
        for at, score in zip(x, scores.values(), strict=True):
            if score.low is not None:
                axes.plot(
                    [at, at], [score.low, score.high], color=line[0].get_color(), lw=2, alpha=0.5
                )
        majorities = (
            results.score("fine-tuning", model, s, f"test_majority_{results.main}") for s in scores
        )
        majority |= {size: m.value for size, m in zip(scores, majorities, strict=True) if m}
    if majority:
        axes.plot(*zip(*sorted(majority.items()), strict=True), "k:", label="majority class")
    axes.set(xlabel="training data (%); 0 = untrained head", xticks=TRAINING_SIZES)
    axes.set_ylabel(f"test {tables.metric_name(results.main)} (0 to 1)")
    what = "learning curves; bars: 95 % bootstrap intervals"
    return _finish(figure, panels, results, what, folder / "learning_curves")


def probing(results: Results, folder: Path) -> bool:
    """Probe scores by layer, a panel a model, a curve a size; below, selectivity where known."""
    models = [m for m in results.models if any(_curves(results, m, "probe").values())]
    rows = 1 + any(any(_curves(results, m, "selectivity").values()) for m in models)
    figure, axes = _panels(rows, len(models))
    for row, name in zip(axes, ("probe", "selectivity"), strict=False):
        for panel, model in zip(row, models, strict=False):
            for size, curve in _curves(results, model, name).items():
                _draw(panel, curve, tables.size_name(size), _size_style(size))
            if name == "probe":
                majority = results.curve(model, 0, "majority")
                _draw(panel, majority, "majority class", {"color": "black", "ls": ":"})
            panel.set(xlabel="layer (0 = embeddings)")
            panel.set_title(_short(model), fontsize=9)
        main = tables.metric_name(results.main)
        row[0].set_ylabel(f"{main} on test" if name == "probe" else f"selectivity ({main})")
    return _finish(
        figure, axes, results, "probing, encoder by its training data", folder / "probing"
    )


def attention(results: Results, folder: Path) -> bool:
    """Mean cosine to the pre-trained attention by layer, a panel a model, with the floor."""
    layers = {
        m: {s: tables.attention_layers(results, m, s) for s in tables.TRAINED}
        for m in results.models
    }
    models = [model for model, curves in layers.items() if any(curves.values())]
    figure, axes = _panels(1, len(models))
    for panel, model in zip(axes[0], models, strict=False):
        for size, curve in layers[model].items():
            _draw(panel, curve, tables.size_name(size), _size_style(size))
        floor = tables.attention_floor(results, model)
        _draw(panel, floor, "untrained encoder (floor)", {"color": "black", "ls": ":"})
        panel.set(xlabel="layer (1 = first block)")
        panel.set_title(_short(model), fontsize=9)
    axes[0][0].set_ylabel("mean cosine (1 = unchanged)")
    what = "attention, fine-tuned against pre-trained"
    return _finish(figure, axes, results, what, folder / "attention")


def link(results: Results, folder: Path) -> bool:
    """Downstream score against each measure: colours are models, markers sizes."""
    measures = {name: points for name, points in tables.link_points(results).items() if points}
    figure, axes = _panels(1, len(measures))
    for panel, (name, points) in zip(axes[0], measures.items(), strict=False):
        for model, size, x, y in points:
            style = {"color": f"C{results.models.index(model)}", "marker": _MARKERS[size]}
            panel.plot(x, y, ls="", ms=6, alpha=0.8, **style)
        panel.set_xlabel(name, fontsize=8)
    points = [point for found in measures.values() for point in found]
    for i, model in enumerate(results.models):
        if any(point[0] == model for point in points):
            axes[0][0].plot([], [], "o", color=f"C{i}", label=_short(model))
    for size in sorted({point[1] for point in points}):
        axes[0][0].plot([], [], _MARKERS[size], color="grey", label=tables.size_name(size))
    axes[0][0].set_ylabel(f"test {tables.metric_name(results.main)} after fine-tuning")
    what = "downstream score against what is measured inside"
    return _finish(figure, axes, results, what, folder / "link")


def _curves(results: Results, model: str, name: str) -> dict:
    return {size: results.curve(model, size, name) for size in (UNTRAINED, *TRAINING_SIZES)}


def _draw(axes, curve: dict, label: str, style: dict) -> None:
    if curve:
        axes.plot(list(curve), [score.value for score in curve.values()], label=label, **style)


def _size_style(size) -> dict:
    from matplotlib import colormaps

    if size in (UNTRAINED, 0):
        return {"color": "grey", "ls": "--" if size == UNTRAINED else "-", "marker": "o", "ms": 3}
    place = tables.TRAINED.index(size) / (len(tables.TRAINED) - 1)
    return {"color": colormaps["viridis_r"](0.15 + 0.85 * place), "marker": "o", "ms": 3}


def _short(model: str) -> str:
    return model if len(model) <= 28 else f"…{model[-27:]}"


def _panels(rows: int, columns: int, width: float = 3.3):
    """A figure of panels that share the y axis of their row; needs no display."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shape = max(rows, 1), max(columns, 1)
    size = (max(width * shape[1], 6), 1.1 + 2.9 * shape[0])
    return pyplot.subplots(*shape, figsize=size, sharey="row", squeeze=False, layout="constrained")


def _finish(figure, axes, results: Results, what: str, path: Path) -> bool:
    """One legend for all panels, a title, and save. False if nothing was drawn."""
    from matplotlib import pyplot

    entries = {}
    for panel in axes.flat:
        panel.grid(alpha=0.3)
        handles, labels = panel.get_legend_handles_labels()
        entries |= {label: handle for handle, label in zip(handles, labels, strict=True)}
        if panel.get_xlabel().startswith("layer"):
            panel.xaxis.get_major_locator().set_params(integer=True)
    figure.suptitle(f"{results.task} on {results.name}\n{what}", fontsize=10)
    if entries:  # as many columns as fit
        columns = max(1, int(figure.get_figwidth() * 12 / (max(map(len, entries)) + 7)))
        handles, ncols = entries.values(), min(columns, len(entries))
        figure.legend(handles, entries, loc="outside lower center", fontsize=8, ncols=ncols)
    for kind in ("png", "pdf") if entries else ():
        with replacing(path.with_name(f"{path.name}.{kind}")) as temporary:
            undated = {"CreationDate": None} if kind == "pdf" else None  # the same each time
            figure.savefig(temporary, dpi=150, format=kind, metadata=undated)
    pyplot.close(figure)
    return bool(entries)
