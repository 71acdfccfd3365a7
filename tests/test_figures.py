"""Figures read back: which curves are drawn, of which values, and how they look."""

import itertools
import json

import numpy as np
import pytest

from common import files, steps
from common.report import __main__ as report
from common.report import drawing, palette
from common.report.grid import Grid
from NER import task as ner
from NLI import task as nli
from tests import made_results as made
from tests.made_results import HEADS, LAYERS

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


def words(text) -> str:
    """Without the breaks of its lines."""
    return " ".join(text.split())


def title(figure) -> str:
    return words(figure.get_suptitle())


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def by_layer(size, target, score, seed=42):
    return [value(size, seed, n, target, score.name) for n in range(LAYERS + 1)]


def history(root, rows, **steps_at):
    where = root, "NER", "demo", "bert", 30, 42, "fine-tuning.partial"
    folder, about = made.write(*where, {})
    keys = ("epoch", "split", "metric", "value")
    files.write_csv(
        folder / "history.csv", [about | dict(zip(keys, row, strict=True)) for row in rows]
    )
    steps = [about | {"step": n, "loss": 40 / n, "learning_rate": 0} for n in (20, 40, 60, 80, 90)]
    files.write_csv(folder / "steps.csv", steps)
    return folder


def test_learning_curve_shows_every_score_on_dev(tmp_path, drawn):
    rows = [(epoch, "train", "loss", 2 / epoch) for epoch in (1, 2, 3)]
    for epoch, split, score in itertools.product((1, 2, 3), ("dev", "test"), ner.SCORES):
        # Strict F1 equals entity F1: neither may hide the other.
        name = score.name.removesuffix("_strict")
        rows.append((epoch, split, score.name, 0.8 + value(split, epoch, name) / 10))
    folder = history(tmp_path, rows)
    FINE_TUNING.draw(folder, ner)
    (figure,) = drawn.values()
    loss, dev = figure.axes
    assert curves(loss)["mean of the epoch"] == [2, 1, 2 / 3] and loss.get_ylim()[0] <= 0
    assert legend(figure)[:2] == ["loss of a step", "mean of the epoch"]
    assert legend(figure)[2:] == [score.title for score in ner.SCORES]
    for score in ner.SCORES:
        name = score.name.removesuffix("_strict")
        expected = [0.8 + value("dev", epoch, name) / 10 for epoch in (1, 2, 3)]
        assert curves(dev)[score.title] == pytest.approx(expected)
    lines = dev.lines
    for look in ("get_linestyle", "get_marker", "get_color"):
        assert getattr(lines[0], look)() != getattr(lines[1], look)()
    widths = [line.get_linewidth() for line in lines]
    assert widths == sorted(widths, reverse=True) and len({*widths}) == len(widths)
    everything = [y for line in lines for y in line.get_ydata()]
    low, high = dev.get_ylim()
    assert 0.7 < low < min(everything) and max(everything) < high <= 1.01
    assert "30 % of the training data" in title(figure) and "seed 42" in title(figure)
    assert (folder / "learning_curve.png").is_file()
    assert (folder / "learning_curve.pdf").read_bytes()[:5] == b"%PDF-"
    # Beside the means of the epochs, the loss of the steps, of which 30 make an epoch.
    assert curves(loss)["loss of a step"] == [40 / n for n in (20, 40, 60, 80, 90)]
    (line,) = [line for line in loss.lines if line.get_label() == "loss of a step"]
    assert list(line.get_xdata()) == pytest.approx([n / 30 for n in (20, 40, 60, 80, 90)])


def test_learning_curve_without_scores_on_dev(tmp_path, drawn):
    folder = history(tmp_path / "none", [(1, "train", "loss", 0.5)])
    FINE_TUNING.draw(folder, ner)
    dev = drawn[folder / "learning_curve.png"].axes[1]
    assert dev.get_title() == "no dev split" and not dev.lines
    folder = history(tmp_path / "loss", [(1, "train", "loss", 0.5), (1, "dev", "loss", 0.7)])
    FINE_TUNING.draw(folder, ner)
    dev = drawn[folder / "learning_curve.png"].axes[1]
    assert dev.get_title() == "dev loss" and list(dev.lines[0].get_ydata()) == [0.7]
    (folder / "history.csv").unlink()  # size 0: nothing to draw
    FINE_TUNING.draw(folder, ner)
    assert len(drawn) == 2


def test_layers_are_those_of_test_beside_the_references(tmp_path, drawn):
    task = probed(tmp_path, 30, control=True)
    probed(tmp_path, "random")
    probed(tmp_path, 100)  # another size: in the other figure
    probed(tmp_path, 30, name="probing-linear")  # a variant has figures of its own
    for folder in (task, task.with_name("probing-control")):  # whichever was made last shows both
        drawn.clear()
        PROBING.draw(folder, ner)
        figure = drawn[folder / "layers.png"]
        labels = [words(axes.get_ylabel()) for axes in figure.axes]
        assert labels == [f"{score.title} on test" for score in DRAWN]
        for axes, score in zip(figure.axes, DRAWN, strict=True):
            found = curves(axes)
            assert found.pop("30 %") == by_layer(30, "task", score)
            assert found.pop("30 %, control labels") == by_layer(30, "control", score)
            assert found.pop("untrained encoder") == by_layer("random", "task", score)
            majority = value(30, 42, 0, "majority", score.name)
            assert found.pop("majority class") == [majority] * 2 and not found
            assert list(axes.lines[0].get_xdata()) == list(range(LAYERS + 1))
            low, high = axes.get_ylim()
            shown = by_layer(30, "task", score)
            assert low < min(shown) and max(shown) < high
        assert "fine-tuned on 30 %" in title(figure) and "svc" in title(figure)
        assert ("bert/layers_all_sizes.png" in map(str, drawn)) is False
    assert [path.name for path in drawn] == ["layers.png"]  # of all sizes, the task alone


def test_all_sizes_have_their_own_colours(tmp_path, drawn):
    for size in ("random", 0, 5, 10, 100):
        folder = probed(tmp_path, size)
    PROBING.draw(folder, ner)
    figure = drawn[tmp_path / "demo" / "bert" / "layers_all_sizes.png"]
    names = ["untrained encoder", "0 % (pre-trained)", "5 %", "10 %", "100 %", "majority class"]
    assert legend(figure) == names
    for axes, score in zip(figure.axes, DRAWN, strict=True):
        for size, name in zip(("random", 0, 5, 10, 100), names, strict=False):
            (line,) = [line for line in axes.lines if line.get_label() == name]
            assert list(line.get_ydata()) == by_layer(size, "task", score)
            assert line.get_color() == palette.size_style(size)["color"]
    own = drawn[folder / "layers.png"].axes[0].lines[0]  # the same size, the same colour
    assert own.get_color() == palette.size_style(100)["color"]


@pytest.mark.parametrize(
    "make, step, file", ((probed, PROBING, "layers.csv"), (compared, ATTENTION, "heads.csv"))
)
def test_what_is_stale_unfinished_or_made_in_another_way_is_not_drawn(
    tmp_path, drawn, caplog, make, step, file
):
    own = make(tmp_path, 10)
    own = own.rename(own.with_name(f"{own.name}.partial"))  # it draws before it is finished
    (own / "metrics.json").unlink()
    make(tmp_path, 100)
    make(tmp_path, 30, inputs={"checkpoint": "old"})
    tuned = tmp_path, "NER", "demo", "bert", 30, 42, "fine-tuning"
    made.write(*tuned, {"checkpoint_sha256": "new"})
    unfinished = make(tmp_path, 50)
    unfinished.rename(unfinished.with_name(f"{unfinished.name}.partial"))
    make(tmp_path, 60, max_length=7)
    config = json.loads((own / "config.json").read_text())
    files.write_json(own / "config.json", config | {"settings": {"max_length": 8}})
    make(tmp_path, 70, seed=7)
    damaged = make(tmp_path, 80)
    (damaged / file).write_text("")
    step.draw(own, ner)
    (figure,) = (figure for path, figure in drawn.items() if "all_sizes" in path.name)
    assert [name for name in legend(figure) if name[0].isdigit()] == ["10 %", "100 %"] or (
        legend(figure) == ["10 %", "100 %"]
    )
    assert "seed 42" in title(figure) and str(damaged) in caplog.text


def test_other_seeds_and_variants_have_files_of_their_own(tmp_path, drawn):
    probed(tmp_path, 10)
    probed(tmp_path, 30, 7, "probing-linear", probe="linear")
    folder = probed(tmp_path, 10, 7, "probing-linear", probe="linear")
    PROBING.draw(folder, ner)
    figure = drawn[tmp_path / "demo" / "bert" / "layers_all_sizes_linear_seed-7.png"]
    assert legend(figure) == ["10 %", "30 %", "majority class"]
    assert "linear" in title(figure) and "seed 7" in title(figure)
    drawn.clear()
    PROBING.draw(probed(tmp_path, 50, 7), ner)
    assert {path.name for path in drawn} == {"layers.png", "layers_all_sizes_seed-7.png"}


def test_heads_are_where_they_belong(tmp_path, drawn):
    folder = compared(tmp_path, 30, ALL, name="attention-drop_special", drop_special=True)
    ATTENTION.draw(folder, ner)
    figure = drawn[folder / "heads.png"]
    assert "fine-tuned on 30 %" in title(figure) and "special tokens dropped" in title(figure)
    assert "test split" in title(figure)
    maps = [axes for axes in figure.axes if axes.images]
    bars = [axes for axes in figure.axes if not axes.images]
    for axes, metric in zip(maps, ALL, strict=True):
        shown = axes.images[0].get_array()
        for layer, head in itertools.product(range(LAYERS), range(HEADS)):
            expected = value(30, layer + 1, head + 1, metric)
            assert shown[layer, head] == expected
            text = axes.texts[layer * HEADS + head]
            assert text.get_position() == (head, layer)
            assert text.get_text() == f"{expected:.3f}"[1:]
        assert axes.images[0].get_clim() == (0, 1)  # entropy: a whole number of bits
        ticks = [tick.get_text() for tick in axes.get_yticklabels()]
        assert ticks == [str(n + 1) for n in range(LAYERS)]
    assert [bar.get_xlabel() for bar in bars] == ["cosine", "JS (bits)", *["entropy (bits)"] * 2]


def test_a_head_that_was_never_compared_many_bits_and_a_new_measure(tmp_path, drawn):
    folder = compared(tmp_path, 30, ("entropy_pretrained", "entropy_fine_tuned", "new"))
    text = (folder / "heads.csv").read_text().splitlines()
    for line, number in ((1, "nan"), (2, "10.25")):
        text[line] = text[line].rsplit(",", 1)[0] + "," + number
    (folder / "heads.csv").write_text("\n".join(text) + "\n")
    ATTENTION.draw(folder, ner)
    axes, _, other, *_ = drawn[folder / "heads.png"].axes
    assert [t.get_text() for t in axes.texts[:2]] == ["–", "10.25"]
    assert axes.images[0].get_clim() == (0, 11) and other.get_title() == "new"


def test_four_maps_of_a_large_model_are_no_strip(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(made, "LAYERS", 24)
    monkeypatch.setattr(made, "HEADS", 16)
    for metrics, centimetres in ((ALL, 17.6), (ALL[:1], 8.6)):  # of a page, of a column
        folder = compared(tmp_path / str(len(metrics)), 30, metrics)
        ATTENTION.draw(folder, ner)
        figure = drawn[folder / "heads.png"]
        width, height = figure.get_size_inches() * 2.54
        assert 0.97 * centimetres < width < centimetres and height < 25
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        draw = FigureCanvasAgg(figure).get_renderer()
        for axes in (axes for axes in figure.axes if axes.images):
            cell = axes.bbox.width / 16, axes.bbox.height / 24
            for text in axes.texts:  # legible, and not over its neighbour's
                box = text.get_window_extent(draw)
                assert text.get_fontsize() >= 6
                digits = 0.75 * text.get_fontsize() * figure.dpi / 72  # their height
                assert box.width < cell[0] and digits < cell[1]
            assert axes.texts[0].get_text() == f"{axes.images[0].get_array()[0, 0]:.2f}"[1:]


def test_attention_by_layer_is_the_mean_of_the_heads(tmp_path, drawn):
    for size in ("random", 10, 100):
        folder = compared(tmp_path, size, ALL)
    ATTENTION.draw(folder, ner)
    figure = drawn[tmp_path / "demo" / "bert" / "attention_all_sizes.png"]
    assert legend(figure) == ["untrained encoder", "10 %", "100 %", "0 % (pre-trained)"]

    def means(size, metric):
        each = [
            [value(size, n + 1, head + 1, metric) for head in range(HEADS)] for n in range(LAYERS)
        ]
        return pytest.approx(np.mean(each, axis=1))

    cosine, _, entropy = figure.axes
    for size, name in ((10, "10 %"), (100, "100 %"), ("random", "untrained encoder")):
        assert curves(cosine)[name] == means(size, "cosine")
    assert "0 % (pre-trained)" not in curves(cosine)
    assert curves(entropy)["0 % (pre-trained)"] == means(100, "entropy_pretrained")
    assert curves(entropy)["10 %"] == means(10, "entropy_fine_tuned")
    assert list(cosine.lines[0].get_xdata()) == [1, 2, 3, 4]


def test_a_colour_is_a_function_of_what_is_shown():
    sizes = ["random", 0, 1, 5, 10, 30, 50, 100]
    looks = [palette.size_style(size) for size in sizes]
    assert len({look["color"] for look in looks[2:]}) == 6
    assert len({(look["color"], look["linestyle"]) for look in looks}) == len(sizes)
    assert len({look["marker"] for look in looks}) == len(sizes)
    assert palette.size_style("30") == palette.size_style(np.int64(30)) == palette.size_style(30)
    # Darker for more data, so that a grey print keeps the order.
    light = [sum(int(look["color"][i : i + 2], 16) for i in (1, 3, 5)) for look in looks[2:]]
    assert light == sorted(light, reverse=True)
    from common.models import MODELS

    models = [*MODELS, "someone--bert", "/home/me/bert"]
    looks = [tuple(palette.model_style(name).items()) for name in models]
    assert len({*looks}) == len(models)
    in_link = {(look[0], look[2]) for look in looks[: len(MODELS)]}  # markers are sizes there
    assert len(in_link) == len(MODELS)


def test_a_range_is_never_so_small_that_noise_is_a_slope():
    def limits(values, low=0, high=1):
        panel = drawing.Panel([drawing.Line(range(len(values)), values, {})], low=low, high=high)
        return panel.y_range([panel])

    low, high = limits([0.5, 0.5001])
    assert high - low >= 0.1 and low < 0.5 < high
    assert limits([0.2, 0.7])[1] < 0.75
    low, high = limits([0.0, 0.02])
    assert -0.01 < low < 0 and 0.09 < high < 0.11  # a line at 0 is not under the frame
    assert limits([0.99, 1.0])[1] < 1.01
    assert limits([-0.4, 0.1], -1.0)[0] < -0.4 and limits([2.0, 9.0], 0, None)[1] > 9
    assert limits([float("nan"), 0.5])[0] < 0.5 and limits([float("nan")]) is None


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
    return grid, report_figures(grid, drawn)


def report_figures(grid, drawn) -> dict:
    drawn.clear()
    report.write(grid)
    return {path.stem: figure for path, figure in drawn.items()}


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
        assert line.get_color() == palette.model_style(model)["color"]
        for score in scores:
            assert any(list(bar[:, 1]) == [score.low, score.high] for bar in bars)
    assert curves(axes)["majority class"] == [0.3, 0.3]


def test_report_shows_the_majority_with_one_size_and_one_model(tmp_path, drawn):
    made.fine_tuned(tmp_path, "NLI", "demo", "bert", 30)
    made.probed(tmp_path, "NLI", "demo", "bert", 30)  # not size 0
    figures = report_figures(Grid(tmp_path / "demo", nli), drawn)
    for name, expected in (("learning_curves", 0.3), ("probing", 0.1)):
        axes = figures[name].axes[0]
        (line,) = [line for line in axes.lines if line.get_label() == "majority class"]
        assert list(line.get_ydata()) == [expected] * 2
        assert list(line.get_xdata()) == [0, 1]  # of the panel: from side to side
        low, high = axes.get_ylim()
        assert low < expected < high
    # A link of too few points has no r, and attention none at all.
    titles = [words(axes.get_title()) for axes in figures["link"].axes]
    assert titles == ["Spearman –, Pearson – (n = 1, without 0 %)"] * 3
    assert "attention" not in figures


def test_report_probing_and_its_variant(study):
    grid, figures = study
    assert grid.names("probing") == [
        "probing", "probing-control", "probing-linear", "probing-linear-control"
    ]  # fmt: skip
    figure, linear = figures["probing"], figures["probing-linear"]
    assert [axes.get_title() for axes in figure.axes] == ["bert", "biogpt"] * 2
    for axes, (curve, model) in zip(
        figure.axes, itertools.product(("probe", "selectivity"), ("bert", "biogpt")), strict=True
    ):
        for size in (10, 100):
            layers = grid.layers("probing", model, size, curve)
            assert curves(axes)[f"{size} %"] == [point.value for point in layers.values()]
        assert ("majority class" in curves(axes)) == (curve == "probe")
    assert [axes.get_title() for axes in linear.axes] == ["biogpt"] * 2
    assert "probing (linear)" in title(linear) and "linear" not in title(figure)
    assert "probing-control" not in figures


def test_report_attention(study):
    figure = study[1]["attention"]
    assert legend(figure) == ["untrained encoder", "10 %", "100 %"]
    for axes, model in zip(figure.axes, ("bert", "biogpt"), strict=True):
        assert axes.get_title() == model
        assert curves(axes)["10 %"] == [1 - 0.01 * n for n in range(1, LAYERS + 1)]
        assert curves(axes)["untrained encoder"] == pytest.approx([0.4] * LAYERS)


def test_report_link_says_r_and_n(study):
    from scipy.stats import pearsonr, spearmanr

    grid, figures = study
    figure = figures["link"]
    assert len(figure.axes) == 4
    axes = figure.axes[0]
    points = {tuple(map(float, (*line.get_xdata(), *line.get_ydata()))): line
              for line in axes.lines if len(line.get_xdata())}  # fmt: skip
    expected = {
        (grid.score("probing", model, size, "test_accuracy").value,
         grid.score("fine-tuning", model, size, "test_accuracy").value): (model, size)
        for model in ("bert", "biogpt") for size in (10, 100)
    }  # fmt: skip
    assert {*points} == {*expected}
    for point, (model, size) in expected.items():
        assert points[point].get_color() == palette.model_style(model)["color"]
        assert points[point].get_marker() == palette.size_style(size)["marker"]
    x, y = zip(*expected, strict=True)
    r = f"Spearman {spearmanr(x, y)[0]:.2f}, Pearson {pearsonr(x, y)[0]:.2f} (n = 4"
    assert words(axes.get_title()).startswith(r)
    assert legend(figure) == ["bert", "biogpt", "10 %", "100 %"]
