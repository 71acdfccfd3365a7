"""The report's figures, as PNG and PDF. Draws what `tables` computes."""

from pathlib import Path

from common.cli import UNTRAINED
from common.figures import curve, fit, legend, panels, save
from common.palette import MAJORITY, model_style, short, size_name, size_style, variant_name
from common.report import tables
from common.report.grid import Grid


def learning_curves(grid: Grid, folder: Path) -> bool:
    """Test score by training size, a line a model, with intervals. False if there is nothing."""
    figure, ((axes,),) = panels([1], width=6.5, height=3.4)
    for i, model in enumerate(grid.models):
        scores = {size: grid.score("fine-tuning", model, size, f"test_{grid.main.name}")
                  for size in grid.sizes}  # fmt: skip
        scores = {size: score for size, score in scores.items() if score}
        x = [size + 0.5 * (i - (len(grid.models) - 1) / 2) for size in scores]  # side by side
        style = model_style(model)
        curve(axes, x, [s.value for s in scores.values()], style | {"label": short(model)})
        for at, score in zip(x, scores.values(), strict=True):
            if score.low is not None:
                axes.plot([at, at], [score.low, score.high], color=style["color"], lw=2, alpha=0.5)
    majorities = [grid.majority(model, grid.main.name) for model in grid.models]
    for majority in [found for found in majorities if found][:1]:
        axes.axhline(majority.value, **MAJORITY)
    fit([axes], grid.main.lowest)
    axes.set(xlabel="training data (%); 0 = before fine-tuning", xticks=grid.sizes)
    axes.set_ylabel(f"test {grid.main.title}")
    what = "learning curves; bars: 95 % bootstrap intervals"
    return _finish(figure, grid, what, folder / "learning_curves")


def probing(grid: Grid, folder: Path, variant: str = "") -> bool:
    """Probe scores by layer, a panel a model, a curve a size; below, selectivity where known."""
    found = {
        name: {model: {size: grid.curve(model, size, name, variant)
                       for size in (UNTRAINED, *grid.sizes)} for model in grid.models}
        for name in ("probe", "selectivity")
    }  # fmt: skip
    found = {
        name: {model: curves for model, curves in models.items() if any(curves.values())}
        for name, models in found.items()
    }
    figure, blocks = panels([len(models) for models in found.values()])
    for (name, models), axes in zip(found.items(), blocks, strict=True):
        for panel, (model, curves) in zip(axes, models.items(), strict=True):
            _sizes(panel, curves)
            panel.set_title(short(model), fontsize=9)
            panel.set(xlabel="layer (0 = embeddings)", ylabel=f"test {grid.main.title}")
            if name == "selectivity":
                panel.set_ylabel(f"selectivity ({grid.main.title})")
                continue
            majority = next(filter(None, (grid.curve(model, size, "majority", variant)
                                          for size in curves)), None)  # fmt: skip
            if majority:
                panel.axhline(next(iter(majority.values())).value, **MAJORITY)
        fit(axes, grid.main.lowest if name == "probe" else -1)
    what = "probing, encoder by the training data it was fine-tuned on"
    return _finish(figure, grid, what, folder / "probing", variant)


def attention(grid: Grid, folder: Path, variant: str = "") -> bool:
    """Mean cosine to the pre-trained attention by layer, a panel a model, a curve a size."""
    found = {
        model: {size: tables.attention_layers(grid, model, size, variant) for size in grid.sizes}
        | {UNTRAINED: tables.attention_untrained(grid, model, variant)}
        for model in grid.models
    }
    found = {model: curves for model, curves in found.items() if any(curves.values())}
    figure, (axes,) = panels([len(found)])
    for panel, (model, curves) in zip(axes, found.items(), strict=True):
        _sizes(panel, curves)
        panel.set_title(short(model), fontsize=9)
        panel.set(xlabel="layer (1 = first block)", ylabel="mean cosine (1 = unchanged)")
    fit(axes)
    what = "attention, fine-tuned against pre-trained"
    return _finish(figure, grid, what, folder / "attention", variant)


def link(grid: Grid, folder: Path) -> bool:
    """Downstream score against each measure: colours are models, markers sizes."""
    measures = {name: points for name, points in tables.link_points(grid).items() if points}
    figure, (axes,) = panels([len(measures)], columns=2, width=4.2, height=3.4)
    for panel, (name, points) in zip(axes, measures.items(), strict=True):
        for model, size, x, y in points:
            style = model_style(model) | {"marker": size_style(size)["marker"]}
            panel.plot(x, y, ls="", ms=6, alpha=0.8, **style)
        for model in dict.fromkeys(point[0] for point in points):
            panel.plot([], [], **model_style(model) | {"marker": "o", "ls": ""}, label=short(model))
        for size in sorted({point[1] for point in points}):
            marker = size_style(size)["marker"]
            panel.plot([], [], ls="", marker=marker, color="grey", label=size_name(size))
        n, found = tables.correlations(points, [size for size in grid.sizes if size])
        r = ", ".join(f"{kind} {r.value:.2f}" for kind, r in found.items() if r) or "no correlation"
        panel.set_title(f"{r} (n = {n}, without 0 %)", fontsize=8)
        panel.set_xlabel(name, fontsize=9)
        panel.set_ylabel(f"test {grid.main.title} after fine-tuning", fontsize=9)
    fit(axes, grid.main.lowest)
    what = "downstream score against what is measured inside"
    return _finish(figure, grid, what, folder / "link")


def _sizes(axes, curves: dict) -> None:
    for size, points in curves.items():
        style = size_style(size) | {"label": size_name(size), "markersize": 3}
        curve(axes, list(points), [point.value for point in points.values()], style)


def _finish(figure, grid: Grid, what: str, path: Path, variant: str = "") -> bool:
    """Title, legend, and save. False if nothing was drawn."""
    if variant:
        what, path = f"{what} ({variant_name(variant)})", path.with_name(f"{path.name}-{variant}")
    figure.suptitle(f"{grid.task.NAME} on {grid.name}\n{what}", fontsize=10)
    legend(figure)
    if drawn := bool(figure.legends):
        save(figure, *(path.with_name(f"{path.name}.{kind}") for kind in ("png", "pdf")))
    return drawn
