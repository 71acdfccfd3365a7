"""What the report shows of fine-tuning, and the figure of a result."""

from pathlib import Path

from common.report import drawing, page
from common.report.drawing import Line, Panel
from common.report.result import Result

NAME, MAJORITY = "fine-tuning", "test_majority_"

ADVICE = """\
No better than the majority class on dev: {}. Try more --num_train_epochs, another --learning_rate,
or more data."""


def above_majority(metrics: dict, score: str) -> bool:
    """False for a fine-tuned model that on dev is no better than predictions that read no input."""
    levels = metrics.get(f"dev_{score}"), metrics.get(f"dev_majority_{score}")
    return not metrics.get("trained") or None in levels or levels[0] > levels[1]


def draw(folder: Path, task) -> None:
    """learning_curve: training loss, and dev scores or loss, from history.csv and steps.csv."""
    result = Result(folder)
    history, steps = result.table("history.csv"), result.table("steps.csv")
    curves = dict(iter(history.groupby(["split", "metric"], sort=False)))
    epochs = steps["step"] / steps["step"].max() * history["epoch"].max()
    thin = {"marker": ".", "color": "grey", "linewidth": 0.7, "label": "loss of a step"}
    dots = {"marker": "o", "color": "black", "label": "mean of an epoch"}
    mean = curves["train", "loss"]
    losses = [Line(epochs, steps["loss"], thin), Line(mean["epoch"] - 0.5, mean["value"], dots)]
    names = {score.name: score.title for score in task.SCORES} | {"loss": "loss (nats)"}
    dev = [name for name in names if ("dev", name) in curves]
    lines = []
    for name, color in zip(dev, drawing.COLORS, strict=False):
        width = 2 if name == dev[0] else 0.6  # the main score, also where another equals it
        look = {"color": color, "marker": ".", "linewidth": width, "label": names[name]}
        lines.append(Line(curves["dev", name]["epoch"], curves["dev", name]["value"], look))
    rows = [[Panel(losses, "training loss", "epoch", "loss (nats)")]]
    rows += (
        [[Panel(lines, "dev", "epoch", names["loss"] if dev == ["loss"] else "score")]]
        if lines
        else []
    )
    titles = [f"{task.NAME} fine-tuning on {result.size} % of the training data", result.title]
    drawing.draw(folder, "learning_curve", titles, rows)


def sections(grid) -> list:
    """Test scores by model and size: a table for each score, and the learning curves."""
    tables = []
    for score in grid.task.SCORES:
        rows = [{"model": model} | _scores(grid, grid, model, score.name) for model in grid.models]
        caption = f"test {score.title} after fine-tuning on a share of the training data"
        tables += page.tables(grid, f"scores_{score.name}", caption, rows)
    known, rows = [MAJORITY + score.name for score in grid.task.SCORES], []
    measured = dict.fromkeys(key for result in grid.results for key in result.metrics)
    parts = [key for key in measured if key.startswith(MAJORITY) and key not in known]
    for name in (key.removeprefix(MAJORITY) for key in parts):
        for source, score, _ in [(grid, name, True), *grid.others.get(name, [])]:
            task = "" if source is grid else f" ({source.task.NAME})"
            for model in source.models:
                row = {"score": name, "model": f"{model}{task}"}
                rows.append(row | _scores(grid, source, model, score))
    caption = "test scores of the data set's parts"
    caption += "; beside them those of other tasks' models on the same examples" * bool(grid.others)
    tables += page.tables(grid, "scores_parts", caption, rows)
    text = f"\n{grid.task.NOTE}\n" if grid.task.NOTE else ""
    tuned = (r for r in grid.results if r.step == NAME)
    weak = [r for r in tuned if not above_majority(r.metrics, grid.main.name)]
    if names := ", ".join(dict.fromkeys(f"{r.model} ({r.size} %)" for r in weak)):
        text += f"\n{ADVICE.format(names)}\n"
    curves = page.Section("Learning curves", "", _learning_curves(grid) if grid.sizes[1:] else None)
    return [page.Section("Downstream scores", text, tables=tables), curves]


def _scores(grid, source, model: str, score: str) -> dict:
    """Test scores by size. `source`: this grid, or another task's, which has no size 0 here."""
    row, head = {}, "as loaded" if grid.task.HEAD == "causal" else "untrained head"
    for n in grid.sizes:
        estimate = source.score(NAME, model, n, f"test_{score}")
        row[f"{n} %" if n else f"0 % ({head})"] = estimate if n or source is grid else None
    level = source.level(NAME, model, MAJORITY + score)
    return row | {"majority class": None if level is None else page.Estimate(level)}


def _learning_curves(grid) -> tuple | None:
    """The test score by training size: a curve for each model, with intervals."""
    lines, levels, main = [], [], grid.main
    for i, model in enumerate(grid.models):
        beside = 0.5 * (i - (len(grid.models) - 1) / 2)  # so that no bar hides another
        scores = {n + beside: grid.score(NAME, model, n, f"test_{main.name}") for n in grid.sizes}
        points = {x: score for x, score in scores.items() if score}
        lines += [page.curve(points, drawing.model_look(model, grid.models))] if points else []
        levels.append(grid.level(NAME, model, MAJORITY + main.name))
    level = next((level for level in levels if level is not None), None)
    x, y = "training data (%); 0 = not fine-tuned", f"test {main.title}"
    titles = [grid.title, "learning curves; bars: 95 % bootstrap intervals"]
    return ("learning_curves", titles, [[Panel(lines, "", x, y, level)]]) if lines else None
