"""The report's figures, as PNG and PDF. Draws what `tables` shows."""

from pathlib import Path

from common.palette import MAJORITY, model_style, short, size_name, size_style
from common.panels import curve, fit, legend, panels, save, share_y, title
from common.report import tables
from common.report.grid import Grid


def learning_curves(grid: Grid, folder: Path) -> bool:
    """Test score by training size, a line a model, with intervals. False if there is nothing."""
    figure, ((axes,),) = panels([1])
    for i, model in enumerate(grid.models):
        scores = {n: grid.score("fine-tuning", model, n, f"test_{grid.main.name}")
                  for n in grid.sizes}  # fmt: skip
        scores = {size: score for size, score in scores.items() if score}
        x = [size + 0.5 * (i - (len(grid.models) - 1) / 2) for size in scores]  # side by side
        style = model_style(model)
        curve(axes, x, [s.value for s in scores.values()], style | {"label": short(model)})
        for at, score in zip(x, scores.values(), strict=True):
            if score.low is not None:
                axes.plot([at, at], [score.low, score.high], color=style["color"], alpha=0.5)
    majorities = filter(None, (grid.majority(model, grid.main.name) for model in grid.models))
    if majority := next(majorities, None):
        axes.axhline(majority.value, **MAJORITY)
    fit([axes], grid.main.lowest)
    axes.set(xlabel="training data (%); 0 = not fine-tuned", xticks=grid.sizes)
    axes.set_ylabel(f"test {grid.main.title}")
    what = "learning curves; bars: 95 % bootstrap intervals"
    return _finish(figure, grid, what, folder / "learning_curves")


def probing(grid: Grid, folder: Path, variant: str = "") -> bool:
    """Probe scores by layer, a panel a model, a curve a size; below, selectivity where known."""
    rows = {"probe": (f"test {grid.main.title}", grid.main.lowest),
            "selectivity": (f"selectivity ({grid.main.title})", -1.0)}  # fmt: skip
    return _by_layer(grid, folder, "probing", variant, rows, "layer (0 = embeddings)")


def attention(grid: Grid, folder: Path, variant: str = "") -> bool:
    """Mean cosine to the pre-trained attention by layer, a panel a model, a curve a size."""
    rows = {"cosine": ("mean cosine (1 = unchanged)", 0.0)}
    return _by_layer(grid, folder, "attention", variant, rows, "layer (1 = first block)")


def _by_layer(grid: Grid, folder: Path, step: str, variant: str, rows: dict, layer: str) -> bool:
    """`rows`: `{curve: (label, lowest value)}`; each has a panel for each model that has it."""
    found = {name: {model: grid.curves(step, model, name, variant) for model in grid.models}
             for name in rows}  # fmt: skip
    found = {name: {model: curves for model, curves in models.items() if any(curves.values())}
             for name, models in found.items()}  # fmt: skip
    figure, blocks = panels([len(models) for models in found.values()])
    for (name, models), block in zip(found.items(), blocks, strict=True):
        for axes, (model, curves) in zip(block, models.items(), strict=True):
            for size, points in curves.items():
                style = size_style(size) | {"label": size_name(size)}
                curve(axes, list(points), [point.value for point in points.values()], style)
            majority = grid.curves(step, model, "majority", variant).values()
            if name == "probe" and any(majority):
                points = next(filter(None, majority))
                axes.axhline(next(iter(points.values())).value, **MAJORITY)
            axes.set(xlabel=layer, ylabel=rows[name][0])
            axes.set_title(short(model))
        fit(block, rows[name][1])
        share_y(block)
    file, what = tables.named(step, variant)
    return _finish(figure, grid, f"{what}, by the encoder's training data", folder / file)


def link(grid: Grid, folder: Path) -> bool:
    """Downstream score against each measure: colours are models, markers sizes."""
    measures = {name: points for name, points in tables.link_points(grid).items() if points}
    figure, (block,) = panels([len(measures)], height=1.7)
    for axes, (name, points) in zip(block, measures.items(), strict=True):
        for model, size, x, y in points:
            style = model_style(model) | {"marker": size_style(size)["marker"]}
            axes.plot(x, y, ls="", ms=4, alpha=0.8, **style)
        for model in dict.fromkeys(point[0] for point in points):
            axes.plot([], [], **model_style(model) | {"marker": "o", "ls": ""}, label=short(model))
        for size in sorted({point[1] for point in points}):
            marker = size_style(size)["marker"]
            axes.plot([], [], ls="", marker=marker, color="grey", label=size_name(size))
        n, found = tables.correlations(points, grid.trained)
        r = ",\n".join(f"{kind} {f'{r.value:.2f}' if r else '–'}" for kind, r in found.items())
        axes.set_title(f"{r}\n(n = {n}, without 0 %)")
        axes.set_xlabel(name.replace(": ", ":\n").replace(" (", "\n("))
        axes.set_ylabel(f"test {grid.main.title}\nafter fine-tuning")
    fit(block, grid.main.lowest)
    share_y(block)
    what = "downstream score against what is measured inside"
    return _finish(figure, grid, what, folder / "link")


def _finish(figure, grid: Grid, what: str, path: Path) -> bool:
    """Title, legend, and save. False if nothing was drawn."""
    title(figure, f"{grid.task.NAME} on {grid.name}", what)
    legend(figure)
    if drawn := bool(figure.legends):
        save(figure, path)
    return drawn
