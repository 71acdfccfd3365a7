"""What the report shows of fine-tuning, and the figure of a result."""

from pathlib import Path

NAME = "fine-tuning"

SCORES = """\
The highest possible score is 1. [a, b] is the 95 % percentile bootstrap interval over the test
examples. With several seeds, a cell is their mean ± sample standard deviation (n = seeds), and the
interval is that of the mean: it does not include the variation between seeds. "–" is a missing
cell. At 0 % nothing was fine-tuned: a new head is then one arbitrary mapping, not chance.
"""


def required(main: str) -> list[str]:
    """The metrics without which a result is passed over; `main`: the main score's name."""
    return [f"test_{main}"]


def read(result, task) -> dict[str, float]:
    """No values besides metrics.json."""
    return {}


def draw(folder: Path, task) -> None:
    """learning_curve: training loss, and dev scores or loss, from history.csv and steps.csv."""
    from common.report import drawing, palette, reading

    if not (folder / "history.csv").is_file():  # size 0
        return
    result = reading.working(folder)
    table, steps = result.table("history.csv"), result.table("steps.csv", "loss")

    def line(split: str, metric: str, style: dict, label: str = ""):
        rows = table[(table["split"] == split) & (table["metric"] == metric)]
        return drawing.Line(rows["epoch"], rows["value"], style, label)

    epochs = table["epoch"].max()
    thin = {"marker": ".", "color": "grey", "linewidth": 0.7}
    of_steps = drawing.Line(
        steps["step"] / steps["step"].max() * epochs, steps["loss"], thin, "loss of a step"
    )
    dots = {"marker": "o", "color": "black"}
    of_loss = {"high": None, "from_zero": True, "ylabel": "loss (nats)"}
    above = [of_steps, line("train", "loss", dots, "mean of the epoch")]
    panels = [drawing.Panel(above, "training loss", **of_loss)]
    measured = set(table[table["split"] == "dev"]["metric"])
    scores = [score for score in task.SCORES if score.name in measured]
    if "loss" in measured:  # of a task whose epochs are compared by it
        panels.append(drawing.Panel([line("dev", "loss", dots)], "dev loss", **of_loss))
    else:
        looks = [palette.score_style(i, len(scores)) for i in range(len(scores))]
        lines = [line("dev", s.name, look, s.title) for s, look in zip(scores, looks, strict=True)]
        about = {"ylabel": "score (at most 1)", "low": min((s.lowest for s in scores), default=0)}
        panels.append(drawing.Panel(lines, "scores on dev" if lines else "no dev split", **about))
    what = f"{task.NAME} fine-tuning on {result.size} % of the training data"
    rows = [[p._replace(xlabel="epoch", xlim=(0, 1.05 * epochs))] for p in panels]
    drawing.draw(folder / "learning_curve", [what, result.title()], rows)


def sections(grid) -> list:
    """Test scores by model and size: a table for each score, and the learning curves."""
    from common.report import drawing, page, tables

    made = []
    for score in grid.task.SCORES:
        rows = [_row(grid, grid, m, score.name, {"model": m}) for m in grid.models]
        rows = [row for row in rows if score is grid.main or tables.has_scores(row)]
        caption = f"test {score.title} after fine-tuning on a share of the training data"
        made += tables.make(grid, f"scores_{score.name}", caption, rows)
    panel = _learning_curves(grid)
    titles = [grid.title(), "learning curves; bars: 95 % bootstrap intervals"]
    figure = drawing.Figure("learning_curves", titles, [[panel]]) if panel.lines else None
    note = f"\n{grid.task.NOTE}\n" if grid.task.NOTE else ""
    return [
        page.Section("Downstream scores", SCORES + note, tables=made + _parts(grid)),
        page.Section("Learning curves", "", figure),
    ]


def _row(grid, source, model: str, score: str, start: dict) -> dict:
    """Test scores by size. `source`: this grid, or another task's, which has no size 0 here."""
    from common.report.palette import size_name

    untrained = "0 % (as loaded)" if grid.task.HEAD == "causal" else "0 % (untrained head)"
    columns = {size: size_name(size) if size else untrained for size in grid.sizes}
    cells = {
        column: source.downstream(model, size, score) if size or source is grid else None
        for size, column in columns.items()
    }
    return start | cells | {"majority class": source.majority(model, score)}


def _parts(grid) -> list:
    """Test scores that are not in `SCORES`: those of the data set's parts, see `Task.scores`."""
    from common.report import tables

    prefix, known = "test_majority_", {score.name for score in grid.task.SCORES}
    measured = dict.fromkeys(key for result in grid.results for key in result.metrics)
    names = [key.removeprefix(prefix) for key in measured if key.startswith(prefix)]
    rows = []
    for name in (name for name in names if name not in known):
        rows += [_row(grid, grid, m, name, {"score": name, "model": m}) for m in grid.models]
        for other, score in grid.others.get(name, []):
            for m in other.models:
                start = {"score": name, "model": f"{m} ({other.task.NAME})"}
                rows.append(_row(grid, other, m, score, start))
    caption = "test scores of the data set's parts"
    if grid.others:
        caption += "; beside them those of models of other tasks on the same test examples"
    rows = [row for row in rows if tables.has_scores(row)]
    return tables.make(grid, "scores_parts", caption, rows)


def _learning_curves(grid):
    """The test score by training size: a curve for each model, with intervals."""
    from common.report import drawing, palette

    lines, main = [], grid.main
    for i, model in enumerate(grid.models):
        scores = {size: grid.downstream(model, size, main.name) for size in grid.sizes}
        points = [(size, score) for size, score in scores.items() if score]
        x = [size + 0.5 * (i - (len(grid.models) - 1) / 2) for size, _ in points]  # side by side
        y = [score.value for _, score in points]
        low = [score.value if score.low is None else score.low for _, score in points]
        high = [score.value if score.high is None else score.high for _, score in points]
        look = palette.model_style(model), palette.short(model)
        lines += [drawing.Line(x, y, *look, low, high)] * bool(points)
    levels = [level.value for m in grid.models if (level := grid.majority(m, main.name))]
    return drawing.Panel(
        lines,
        xlabel="training data (%); 0 = not fine-tuned",
        ylabel=f"test {main.title}",
        hline=levels[0] if levels else None,
        low=main.lowest,
        xticks=grid.sizes,
    )
