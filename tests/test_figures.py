"""Figures read back: which curves are drawn, of which values, and how they look."""

import itertools
import json

import pytest

from common import files, steps
from common.report import __main__ as report
from common.report import drawing
from common.report.grid import Grid
from common.report.shown import attention
from NER import task as ner
from NLI import task as nli
from tests import made_results as made
from tests.made_results import HEADS, LAYERS

pytestmark = pytest.mark.figures

FINE_TUNING, PROBING, ATTENTION = (
    steps.STEPS[name] for name in ("fine-tuning", "probing", "attention")
)
DRAWN = [score for score in ner.SCORES if score.by_layer]
ALL = ("cosine", "js", "entropy_pretrained", "entropy_fine_tuned")


def value(*where) -> float:
    """A number of its own for each place in a table, between 0.1 and 0.9."""
    number = 7
    for character in json.dumps([str(part) for part in where]):
        number = (number * 31 + ord(character)) % 1_000_003
    return 0.1 + 0.8 * (number % 100_003) / 100_003


def probed(root, size, seed=42, name="probing", control=False, **more):
    return made.probed(root, "NER", "demo", "bert", size, seed, name, control, value=value, **more)


def compared(root, size, metrics=("cosine",), seed=42, name="attention", **more):
    return made.compared(root, "NER", "demo", "bert", size, seed, name, metrics, value, **more)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, by their file's path."""
    figures, save = {}, drawing.save

    def keep(figure, path):
        figures[path.with_name(f"{path.name}.png")] = figure
        save(figure, path)

    monkeypatch.setattr(drawing, "save", keep)
    return figures


def curves(axes) -> dict:
    """`{label: y values}` of a panel's lines."""
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def title(figure) -> str:
    """Without the breaks of its lines."""
    return " ".join(figure.get_suptitle().split())


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def by_layer(size, target, score, seed=42):
    return [value(size, seed, n, target, score.name) for n in range(LAYERS + 1)]


def test_learning_curve_shows_every_score_on_dev(tmp_path, drawn):
    rows = [(epoch, "train", "loss", 2 / epoch) for epoch in (1, 2, 3)]
    for epoch, split, score in itertools.product((1, 2, 3), ("dev", "test"), ner.SCORES):
        # Strict F1 equals entity F1: neither may hide the other.
        name = score.name.removesuffix("_strict")
        rows.append((epoch, split, score.name, 0.8 + value(split, epoch, name) / 10))
    where = tmp_path, "NER", "demo", "bert", 30, 42, "fine-tuning.partial"
    folder, about = made.write(*where, {})
    keys = ("epoch", "split", "metric", "value")
    rows = [about | dict(zip(keys, row, strict=True)) for row in rows]
    files.write_csv(folder / "history.csv", rows)
    steps = [about | {"step": n, "loss": 40 / n, "learning_rate": 0} for n in (20, 40, 60, 80, 90)]
    files.write_csv(folder / "steps.csv", steps)
    FINE_TUNING.draw(folder, ner)
    (figure,) = drawn.values()
    loss, dev = figure.axes
    assert curves(loss)["mean of an epoch"] == [2, 1, 2 / 3]
    assert legend(figure)[:2] == ["loss of a step", "mean of an epoch"]
    assert legend(figure)[2:] == [score.title for score in ner.SCORES]
    for score in ner.SCORES:
        name = score.name.removesuffix("_strict")
        expected = [0.8 + value("dev", epoch, name) / 10 for epoch in (1, 2, 3)]
        assert curves(dev)[score.title] == pytest.approx(expected)
    main, *others = dev.lines
    assert all(line.get_linewidth() < main.get_linewidth() for line in others)
    assert len({line.get_color() for line in dev.lines}) == len(dev.lines)
    assert "30 % of the training data" in title(figure) and "seed 42" in title(figure)
    assert (folder / "learning_curve.png").is_file()
    assert (folder / "learning_curve.pdf").read_bytes()[:5] == b"%PDF-"
    # Beside the means of the epochs, the loss of the steps, of which 30 make an epoch.
    assert curves(loss)["loss of a step"] == [40 / n for n in (20, 40, 60, 80, 90)]
    (line,) = [line for line in loss.lines if line.get_label() == "loss of a step"]
    assert list(line.get_xdata()) == pytest.approx([n / 30 for n in (20, 40, 60, 80, 90)])


def test_layers_are_those_of_test_beside_the_references(tmp_path, drawn):
    task = probed(tmp_path, 30, control=True)
    probed(tmp_path, 100)  # another size has a figure of its own
    probed(tmp_path, 30, name="probing-linear")  # so has a variant
    control = task.with_name("probing-control")
    control.rename(control.with_name("probing-control.partial"))  # all but renamed
    PROBING.draw(task, ner)
    figure = drawn[task / "layers.png"]
    assert [axes.get_title() for axes in figure.axes] == [score.title for score in DRAWN]
    for axes, score in zip(figure.axes, DRAWN, strict=True):
        shown = curves(axes)
        assert shown.pop("30 %") == by_layer(30, "task", score)
        assert shown.pop("control") == by_layer(30, "control", score)
        level = [value(30, 42, n, "majority", score.name) for n in range(LAYERS + 1)]
        assert shown.pop("majority class") == [max(level)] * 2 and not shown
        assert list(axes.lines[0].get_xdata()) == list(range(LAYERS + 1))
    assert "encoder: 30 %" in title(figure) and "svc" in title(figure)


def test_heads_are_where_they_belong(tmp_path, drawn):
    folder = compared(tmp_path, 30, ALL, name="attention-drop_special", drop_special=True)
    text = (folder / "heads.csv").read_text().splitlines()
    text[1] = text[1].rsplit(",", 1)[0] + ","  # a head that was never compared
    (folder / "heads.csv").write_text("\n".join(text) + "\n")
    ATTENTION.draw(folder, ner)
    figure = drawn[folder / "heads.png"]
    assert "attention-drop_special" in title(figure) and "encoder: 30 %" in title(figure)
    maps = [axes for axes in figure.axes if axes.images]
    (states,) = [axes for axes in figure.axes if axes.lines]
    wanted = [made.by_head(30, layer, 1, "cka") for layer in range(LAYERS + 1)]
    assert curves(states) == dict.fromkeys(attention.CKA.values(), wanted)
    for axes, metric in zip(maps, ALL, strict=True):
        (image,) = axes.images
        expected = [
            [value(30, layer + 1, head + 1, metric) for head in range(HEADS)]
            for layer in range(LAYERS)
        ]
        if metric == ALL[0]:
            assert image.get_array().mask[0, 0] and image.get_array().mask.sum() == 1
            expected[0][0] = image.get_array()[0, 0]
        assert (image.get_array() == expected).all()
        assert image.get_extent() == [0.5, HEADS + 0.5, LAYERS + 0.5, 0.5]  # the first is 1
    bars = [axes.get_xlabel().split(";")[0] for axes in figure.axes if axes not in [*maps, states]]
    assert bars == [label.split(";")[0] for _, label, _ in attention.MEASURES.values()]


@pytest.mark.parametrize("cosine, least", ((0.97, 0.9), (0.9, 0.9), (0.62, 0.6)))
def test_a_map_has_a_scale_on_which_small_changes_show(tmp_path, drawn, cosine, least):
    def changed(size, layer, head, metric):
        return {"cosine": cosine, "js": 1 - cosine}.get(metric, 1.5 if "pre" in metric else 2.14)

    arguments = "NER", "demo", "bert", 100, 42, "attention", ALL
    folder = made.compared(tmp_path, *arguments, value=changed)
    ATTENTION.draw(folder, ner)
    figure = drawn[folder / "heads.png"]
    maps = [axes.images[0].get_clim() for axes in figure.axes if axes.images]
    assert maps == [pytest.approx(ends) for ends in ((least, 1), (0, 1 - least), *[(0, 2.2)] * 2)]
    (bar,) = [axes for axes in figure.axes if "cosine" in axes.get_xlabel()]
    assert f"scale from {least} to 1" in bar.get_xlabel()


@pytest.mark.parametrize("n, lines", ((1, [1]), (3, [2, 1]), (5, [2, 2, 1])))
def test_panels_leave_no_part_of_a_figure_empty(tmp_path, drawn, n, lines):
    panel = drawing.Panel([drawing.Line(range(2), (0.2, 0.8), {})], "", "x", "y")
    drawing.draw(tmp_path, "some", ["title"], [[panel] * n])
    boxes = [axes.get_window_extent() for axes in drawn[tmp_path / "some.png"].axes]
    rows = [list(row) for _, row in itertools.groupby(boxes, key=lambda box: round(box.y0))]
    assert [len(row) for row in rows] == lines
    for row in rows:  # each line has the same left and right end
        assert (row[0].x0, row[-1].x1) == pytest.approx((rows[0][0].x0, rows[0][-1].x1), abs=5)


def test_random_heads_are_a_band_of_the_draws_alone(tmp_path, drawn):
    for seed in (1, 2):
        made.ablated(tmp_path, "NLI", "demo", "bert", 10, seed)
    assert report.main(["--tasks", "NLI", "--output_dir", str(tmp_path)]) == 0
    (axes,) = next(figure for path, figure in drawn.items() if path.stem == "ablation").axes
    lines = curves(axes)
    assert lines["most changed heads first"] == pytest.approx([0.8, 0.6, 0.4])
    assert lines["random heads of the same layers"] == pytest.approx([0.785, 0.685, 0.585])
    (band,) = axes.collections
    ends = band.get_paths()[0].vertices[:, 1]
    deviation = 0.005 * 2**0.5  # of draws 0.01 apart
    assert min(ends) == pytest.approx(0.585 - deviation)
    assert max(ends) == pytest.approx(0.785 + deviation)


def test_a_style_can_leave_titles_out(tmp_path, drawn):
    style = tmp_path / "untitled.mplstyle"
    style.write_text("figure.titlesize: 0\n")
    panel = drawing.Panel([], "bert", "x", "y")
    for name, own in (("with", None), ("without", style)):
        drawing.draw(tmp_path, name, ["NER on demo"], [[panel]], own)
    figures = [drawn[tmp_path / f"{name}.png"] for name in ("with", "without")]
    assert [figure.get_suptitle() for figure in figures] == ["NER on demo", ""]
    assert figures[0].get_figheight() > figures[1].get_figheight()


def test_a_look_is_a_function_of_what_is_shown():
    tuned = [drawing.size_look(size)["color"] for size in (1, 5, 10, 30, 50, 100)]
    light = [sum(color[:3]) for color in tuned]
    assert light == sorted(light, reverse=True)  # darker for more data, also in grey
    assert drawing.size_look("random")["linestyle"] != drawing.size_look(0)["linestyle"]
    models = [f"model {n}" for n in range(40)]
    looks = [drawing.model_look(model, models) for model in models]
    assert len({(look["color"], look["marker"]) for look in looks}) == len(models)


def test_ranges_show_all_of_a_row_and_no_noise_as_a_slope(tmp_path, drawn):
    def panel(*values):
        return drawing.Panel([drawing.Line(range(2), values, {})], "", "", "")

    drawing.draw(tmp_path, "one", [], [[panel(0.5, 0.5001)]])
    low, high = drawn[tmp_path / "one.png"].axes[0].get_ylim()
    assert high - low > 0.0999 and low < 0.5 < high
    drawing.draw(tmp_path, "two", [], [[panel(0.2, 0.3), panel(0.6, float("nan"))]])
    limits = {axes.get_ylim() for axes in drawn[tmp_path / "two.png"].axes}
    ((low, high),) = limits
    assert 0.1 < low < 0.2 and 0.6 < high < 0.7


@pytest.fixture
def study(tmp_path, drawn):
    """Two models' results of NLI, the grid they make, and the report's figures of it by name."""
    for model, size in itertools.product(("bert", "biogpt"), ("random", 10, 100)):
        if size != "random":
            made.fine_tuned(tmp_path, "NLI", "demo", model, size)
            made.probed(tmp_path, "NLI", "demo", model, size)
        made.compared(tmp_path, "NLI", "demo", model, size)
    made.probed(tmp_path, "NLI", "demo", "biogpt", 100, name="probing-linear")
    grid = Grid(tmp_path / "demo", nli)
    report.write(grid, None, None)
    return grid, {path.stem: figure for path, figure in drawn.items()}


def test_report_learning_curves(study):
    grid, figures = study
    figure = figures["learning_curves"]
    (axes,) = figure.axes
    assert legend(figure) == ["bert", "biogpt", "majority class"]
    bars = [segment for bar in axes.collections for segment in bar.get_segments()]
    for model in ("bert", "biogpt"):
        scores = [grid.score("fine-tuning", model, size, "test_accuracy") for size in (10, 100)]
        (line,) = [line for line in axes.lines if line.get_label() == model]
        assert list(line.get_ydata()) == [score.value for score in scores]
        assert line.get_xdata() == pytest.approx([10, 100], abs=1)
        assert line.get_color() == drawing.model_look(model, grid.models)["color"]
        for score in scores:
            assert any(list(bar[:, 1]) == [score.low, score.high] for bar in bars)
    assert curves(axes)["majority class"] == [0.3, 0.3]


def test_report_probing_and_its_variant(study):
    grid, figures = study
    figure, linear = figures["probing"], figures["probing-linear"]
    assert [axes.get_title() for axes in figure.axes] == ["bert", "biogpt"] * 2
    panels = itertools.product(("probing", "selectivity"), ("bert", "biogpt"))
    for axes, (curve, model) in zip(figure.axes, panels, strict=True):
        for size in (10, 100):
            layers = grid.layers("probing", model, size, curve)
            assert curves(axes)[f"{size} %"] == [point.value for point in layers.values()]
        assert ("majority class" in curves(axes)) == (curve == "probing")
    assert [axes.get_title() for axes in linear.axes] == ["biogpt"] * 2
    assert "probing-linear" in title(linear) and "linear" not in title(figure)
    assert "probing-control" not in figures


def test_report_link_joins_the_sizes_of_a_model(study):
    grid, figures = study
    axes = figures["link"].axes[0]
    assert len(figures["link"].axes) == 5 and legend(figures["link"]) == ["bert", "biogpt"]
    for line in axes.lines:
        model = line.get_label()
        for x, step in ((line.get_xdata(), "probing"), (line.get_ydata(), "fine-tuning")):
            scores = [grid.score(step, model, size, "test_accuracy") for size in (10, 100)]
            assert list(x) == [score.value for score in scores]
        assert line.get_color() == drawing.model_look(model, grid.models)["color"]
