"""Figures read back: which curves are drawn, of which values, and how they look."""

import itertools
import json
import shutil

import numpy as np
import pytest

from common import figures, files, palette, panels
from common.report import figures as report_figures
from common.report.grid import Grid
from NER import task as ner
from NLI import task as nli
from tests import test_report as made

LAYERS, HEADS = 3, 4


def value(*where) -> float:
    """A number of its own for each place in a table, between 0.1 and 0.9."""
    return 0.1 + 0.8 * (hash_of(*where) % 100_003) / 100_003


def hash_of(*where) -> int:
    number = 7
    for character in json.dumps([str(part) for part in where]):
        number = (number * 31 + ord(character)) % 1_000_003
    return number


def run_folder(root, size, step, seed=42, model="bert", finished=True, **arguments):
    folder = root / model / str(size) / f"seed-{seed}" / step
    folder.mkdir(parents=True)
    about = {"task": "NER", "dataset": "demo", "model": model, "training_size": size, "seed": seed}
    name = step.split("-")[0]
    config = about | {"step": name, "arguments": arguments, "data": {"full_sha256": "a"}}
    files.write_json(folder / "config.json", config)
    if finished:
        files.write_json(folder / "metrics.json", about)
    return folder, about


def probed(root, size, seed=42, step="probing", **more):
    folder, about = run_folder(root, size, step, seed, **more)
    rows = []
    curves = [("svc", "task"), ("svc", "control"), ("svc", "selectivity"), ("majority", "task")]
    for layer, (probe, target), split, score in itertools.product(
        range(LAYERS + 1), curves, ("dev", "test"), ner.SCORES
    ):
        where = (size, seed, target, split, score.name)
        one = value(*where) if probe == "majority" else value(*where, layer)
        about_row = {"layer": layer, "probe": probe, "target": target, "split": split}
        rows.append(about | about_row | {"metric": score.name, "value": one})
    files.write_csv(folder / "layers.csv", rows)
    return folder


def compared(root, size, metrics=("cosine",), seed=42, step="attention", untrained=False, **more):
    folder, about = run_folder(root, size, step, seed, **more)
    for name in ("heads.csv", "floor.csv")[: 1 + untrained]:
        rows = [
            about | {"layer": layer, "head": head, "metric": metric,
                     "value": value(name, size, layer, head, metric)}
            for metric in [*metrics, *(f"{metric}_std" for metric in metrics)]
            for layer in range(1, LAYERS + 1) for head in range(1, HEADS + 1)
        ]  # fmt: skip
        files.write_csv(folder / name, rows)
    return folder


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, by their file's path."""
    found = {}

    def save(figure, path):
        found[path.with_name(f"{path.name}.png")] = figure
        panels.save(figure, path)

    monkeypatch.setattr(figures, "save", save)
    monkeypatch.setattr(report_figures, "save", save)
    return found


def curves(axes) -> dict:
    """`{label: y values}` of a panel's lines."""
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines}


def title(figure) -> str:
    return words(figure.get_suptitle())


def words(text) -> str:
    """Without the breaks of its lines."""
    return " ".join(text.split())


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def by_layer(size, target, score, seed=42):
    return [value(size, seed, target, "test", score.name, n) for n in range(LAYERS + 1)]


DRAWN = [score for score in ner.SCORES if score.by_layer]


def test_learning_curve_shows_every_score_on_dev(tmp_path, drawn):
    folder, about = run_folder(tmp_path, 30, "fine-tuning")
    rows = [about | {"epoch": e, "split": "train", "metric": "loss", "value": 2 / e}
            for e in (1, 2, 3)]  # fmt: skip
    for epoch, split, score in itertools.product((1, 2, 3), ("dev", "test"), ner.SCORES):
        # Strict F1 equals entity F1: neither may hide the other.
        name = score.name.removesuffix("_strict")
        rows.append(about | {"epoch": epoch, "split": split, "metric": score.name,
                             "value": 0.8 + value(split, epoch, name) / 10})  # fmt: skip
    files.write_csv(folder / "history.csv", rows)
    figures.learning_curve(folder, ner.SCORES)
    (figure,) = drawn.values()
    loss, dev = figure.axes
    assert curves(loss) == {"mean of the epoch": [2, 1, 2 / 3]} and loss.get_ylim()[0] == 0
    assert legend(figure) == ["mean of the epoch", *(score.title for score in ner.SCORES)]
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
    # Beside the epochs' means the loss of the steps, of which 30 make an epoch.
    steps = [about | {"step": n, "loss": 40 / n, "learning_rate": 0} for n in (20, 40, 60, 80, 90)]
    files.write_csv(folder / "steps.csv", steps)
    figures.learning_curve(folder, ner.SCORES)
    loss = drawn[folder / "learning_curve.png"].axes[0]
    assert curves(loss)["loss of a step"] == [40 / row["step"] for row in steps]
    (line,) = [line for line in loss.lines if line.get_label() == "loss of a step"]
    assert list(line.get_xdata()) == pytest.approx([row["step"] / 30 for row in steps])


def test_learning_curve_without_a_dev_split(tmp_path, drawn):
    folder, about = run_folder(tmp_path, 30, "fine-tuning")
    row = {"epoch": 1, "split": "train", "metric": "loss", "value": 0.5}
    files.write_csv(folder / "history.csv", [about | row])
    figures.learning_curve(folder, ner.SCORES)
    (figure,) = drawn.values()
    assert figure.axes[1].get_title() == "no dev split" and not figure.axes[1].lines


def test_layers_are_those_of_test_beside_the_references(tmp_path, drawn):
    folder = probed(tmp_path, 30)
    probed(tmp_path, "random")
    probed(tmp_path, 100)  # another size: in the other figure
    figures.probing_layers(folder, ner.SCORES)
    (figure,) = drawn.values()
    labels = [words(axes.get_ylabel()) for axes in figure.axes]
    assert labels == [f"{score.title} on test" for score in DRAWN]
    for axes, score in zip(figure.axes, DRAWN, strict=True):
        found = curves(axes)
        assert found.pop("30 %") == by_layer(30, "task", score)
        assert found.pop("30 %, control labels") == by_layer(30, "control", score)
        assert found.pop("untrained encoder") == by_layer("random", "task", score)
        majority = value(30, 42, "task", "test", score.name)
        assert found.pop("majority class") == [majority] * 2 and not found
        assert list(axes.lines[0].get_xdata()) == list(range(LAYERS + 1))
        low, high = axes.get_ylim()
        assert low < min(by_layer(30, "task", score)) and max(by_layer(30, "task", score)) < high
    assert "fine-tuned on 30 %" in title(figure) and "svc" in title(figure)
    assert "floor" not in title(figure) + " ".join(legend(figure))


def test_all_sizes_have_their_own_colours(tmp_path, drawn):
    for size in ("random", 0, 5, 10, 100):
        folder = probed(tmp_path, size)
    figures.probing_sizes(folder, ner.SCORES)
    ((path, figure),) = drawn.items()
    assert path == tmp_path / "bert" / "layers_all_sizes.png"
    names = ["untrained encoder", "0 % (pre-trained)", "5 %", "10 %", "100 %", "majority class"]
    assert legend(figure) == names
    for axes, score in zip(figure.axes, DRAWN, strict=True):
        for size, name in zip(("random", 0, 5, 10, 100), names, strict=False):
            (line,) = [line for line in axes.lines if line.get_label() == name]
            assert list(line.get_ydata()) == by_layer(size, "task", score)
            assert line.get_color() == palette.size_style(size)["color"]
    figures.probing_layers(folder, ner.SCORES)  # the same size, the same colour
    own = drawn[folder / "layers.png"].axes[0].lines[0]
    assert own.get_color() == palette.size_style(100)["color"]


def outdated(root, folder, size):
    """As if `folder`'s fine-tuned model had been replaced after it was made."""
    config = json.loads((folder / "config.json").read_text())
    files.write_json(folder / "config.json", config | {"checkpoint": "old"})
    tuned, about = run_folder(root, size, "fine-tuning")
    files.write_json(tuned / "metrics.json", about | {"checkpoint_sha256": "new"})


@pytest.mark.parametrize("make, draw, file", (
    (probed, lambda folder: figures.probing_sizes(folder, ner.SCORES), "layers.csv"),
    (compared, figures.attention_sizes, "heads.csv"),
))  # fmt: skip
def test_what_is_stale_unfinished_or_made_in_another_way_is_not_drawn(
    tmp_path, drawn, caplog, make, draw, file
):
    own = make(tmp_path, 10, finished=False)  # it is the one that draws, before it finishes
    make(tmp_path, 100)
    outdated(tmp_path, make(tmp_path, 30), 30)
    make(tmp_path, 50, finished=False)
    make(tmp_path, 60, max_length=7)
    make(tmp_path, 70, seed=7)
    damaged = make(tmp_path, 80) / file
    damaged.write_text("")
    draw(own)
    (figure,) = (figure for path, figure in drawn.items() if "all_sizes" in path.name)
    assert [name for name in legend(figure) if "class" not in name] == ["10 %", "100 %"]
    assert "seed 42" in title(figure) and str(damaged) in caplog.text


def test_other_seeds_and_variants_have_files_of_their_own(tmp_path, drawn):
    probed(tmp_path, 10)
    probed(tmp_path, 30, step="probing-linear", probe="linear", seed=7)
    folder = probed(tmp_path, 10, step="probing-linear", probe="linear", seed=7)
    figures.probing_sizes(folder, ner.SCORES)
    ((path, figure),) = drawn.items()
    assert path.name == "layers_all_sizes_linear_seed-7.png"
    assert legend(figure) == ["10 %", "30 %", "majority class"]
    assert "linear" in title(figure) and "seed 7" in title(figure)
    drawn.clear()
    figures.probing_sizes(probed(tmp_path, 50, seed=7), ner.SCORES)
    assert [path.name for path in drawn] == ["layers_all_sizes_seed-7.png"]


ALL = ("cosine", "js", "entropy_pretrained", "entropy_fine_tuned")


def test_heads_are_where_they_belong(tmp_path, drawn):
    folder = compared(tmp_path, 30, ALL, drop_special=True, step="attention-drop_special")
    figures.attention_heads(folder)
    figure = drawn[folder / "heads.png"]
    assert "fine-tuned on 30 %" in title(figure) and "special tokens dropped" in title(figure)
    assert "test split" in title(figure)
    maps = [axes for axes in figure.axes if axes.images]
    bars = [axes for axes in figure.axes if not axes.images]
    for axes, metric in zip(maps, ALL, strict=True):
        shown = axes.images[0].get_array()
        for layer, head in itertools.product(range(LAYERS), range(HEADS)):
            expected = value("heads.csv", 30, layer + 1, head + 1, metric)
            assert shown[layer, head] == expected
            text = axes.texts[layer * HEADS + head]
            assert text.get_position() == (head, layer)
            assert text.get_text() == f"{expected:.3f}"[1:]
        assert axes.images[0].get_clim() == (0, 1)  # entropy: a whole number of bits
        assert [tick.get_text() for tick in axes.get_yticklabels()] == ["1", "2", "3"]
    assert [bar.get_xlabel() for bar in bars] == ["cosine", "JS (bits)", *["entropy (bits)"] * 2]


def test_a_head_that_was_never_compared_and_many_bits(tmp_path, drawn):
    folder = compared(tmp_path, 30, ("entropy_pretrained", "entropy_fine_tuned"))
    text = (folder / "heads.csv").read_text().splitlines()
    for line, number in ((1, "nan"), (2, "10.25")):
        text[line] = text[line].rsplit(",", 1)[0] + "," + number
    (folder / "heads.csv").write_text("\n".join(text) + "\n")
    figures.attention_heads(folder)
    axes = drawn[folder / "heads.png"].axes[0]
    assert [t.get_text() for t in axes.texts[:2]] == ["–", "10.25"]
    assert axes.images[0].get_clim() == (0, 11)


def test_four_maps_of_a_large_model_are_no_strip(tmp_path, drawn, monkeypatch):
    monkeypatch.setitem(globals(), "LAYERS", 24)
    monkeypatch.setitem(globals(), "HEADS", 16)
    for metrics, centimetres in ((ALL, 17.6), (ALL[:1], 8.6)):  # of a page, of a column
        folder = compared(tmp_path / str(len(metrics)), 30, metrics)
        figures.attention_heads(folder)
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
    for size in (10, 100):
        folder = compared(tmp_path, size, ALL, untrained=size == 10)
    figures.attention_sizes(folder)
    figure = drawn[tmp_path / "bert" / "attention_all_sizes.png"]
    assert legend(figure) == ["10 %", "100 %", "untrained encoder", "0 % (pre-trained)"]

    def means(*where, metric):
        return pytest.approx([np.mean([value(*where, layer, head, metric)
                              for head in range(1, HEADS + 1)])
                              for layer in range(1, LAYERS + 1)])  # fmt: skip

    cosine, _, entropy = figure.axes
    for size in (10, 100):
        assert curves(cosine)[f"{size} %"] == means("heads.csv", size, metric="cosine")
    assert curves(cosine)["untrained encoder"] == means("floor.csv", 10, metric="cosine")
    assert "0 % (pre-trained)" not in curves(cosine)
    before = means("heads.csv", 10, metric="entropy_pretrained")
    assert curves(entropy)["0 % (pre-trained)"] == before
    assert list(cosine.lines[0].get_xdata()) == [1, 2, 3]


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
    def limits(values, *given):
        _, ((axes,),) = panels.panels([1])
        axes.plot(values)
        panels.fit([axes], *given)
        return axes.get_ylim()

    low, high = limits([0.5, 0.5001])
    assert high - low >= 0.1 and low < 0.5 < high
    assert limits([0.2, 0.7])[1] < 0.75
    low, high = limits([0.0, 0.02])
    assert -0.01 < low < 0 and 0.09 < high < 0.11  # a line at 0 is not under the frame
    assert limits([0.99, 1.0])[1] < 1.01
    assert limits([-0.4, 0.1], -1.0)[0] < -0.4 and limits([2.0, 9.0], 0, None)[1] > 9
    assert limits([float("nan"), 0.5])[0] < 0.5


@pytest.fixture
def study(tmp_path):
    """Two models' results of NLI, and the grid they make."""
    for model, size in itertools.product(("bert", "biogpt"), (10, 100)):
        made.fine_tuned(tmp_path, "NLI", "demo", model, size)
        folder = made.probed(tmp_path, "NLI", "demo", model, size)
        made.compared(tmp_path, "NLI", "demo", model, size)
    linear = folder.with_name("probing-linear")
    shutil.copytree(folder, linear)
    text = (linear / "layers.csv").read_text().replace(",svc,", ",linear,")
    (linear / "layers.csv").write_text(text)
    (tmp_path / "out").mkdir()
    return Grid(tmp_path / "demo", nli), tmp_path / "out"


def test_report_learning_curves(study, drawn):
    grid, out = study
    assert report_figures.learning_curves(grid, out)
    figure = drawn[out / "learning_curves.png"]
    (axes,) = figure.axes
    assert legend(figure) == ["bert", "biogpt", "majority class"]
    for model in ("bert", "biogpt"):
        scores = [grid.score("fine-tuning", model, size, "test_accuracy") for size in (10, 100)]
        (line,) = [line for line in axes.lines if line.get_label() == model]
        assert list(line.get_ydata()) == [score.value for score in scores]
        assert line.get_xdata() == pytest.approx([10, 100], abs=1)
        assert line.get_color() == palette.model_style(model)["color"]
        for score in scores:
            assert any(list(bar.get_ydata()) == [score.low, score.high] for bar in axes.lines)
    assert curves(axes)["majority class"] == [0.3, 0.3]


def test_report_shows_the_majority_with_one_size_and_one_model(tmp_path, drawn):
    made.fine_tuned(tmp_path, "NLI", "demo", "bert", 30)
    made.probed(tmp_path, "NLI", "demo", "bert", 30)  # not size 0
    grid = Grid(tmp_path / "demo", nli)
    assert report_figures.learning_curves(grid, tmp_path)
    assert report_figures.probing(grid, tmp_path)
    for name, expected in (("learning_curves", 0.3), ("probing", 0.1)):
        axes = drawn[tmp_path / f"{name}.png"].axes[0]
        (line,) = [line for line in axes.lines if line.get_label() == "majority class"]
        assert list(line.get_ydata()) == [expected] * 2
        assert list(line.get_xdata()) == [0, 1]  # of the panel: from side to side
        low, high = axes.get_ylim()
        assert low < expected < high


def test_report_probing_and_its_variant(study, drawn):
    grid, out = study
    assert grid.variants("probing") == ["", "linear"]
    assert report_figures.probing(grid, out) and report_figures.probing(grid, out, "linear")
    figure = drawn[out / "probing.png"]
    assert [axes.get_title() for axes in figure.axes] == ["bert", "biogpt"] * 2
    for axes, (curve, model) in zip(
        figure.axes, itertools.product(("probe", "selectivity"), ("bert", "biogpt")), strict=True
    ):
        for size in (10, 100):
            layers = grid.layers("probing", model, size, curve)
            assert curves(axes)[f"{size} %"] == [point.value for point in layers.values()]
        assert ("majority class" in curves(axes)) == (curve == "probe")
    linear = drawn[out / "probing-linear.png"]
    assert [axes.get_title() for axes in linear.axes] == ["biogpt"] * 2
    assert "probing (linear)" in title(linear) and "linear" not in title(figure)
    assert (out / "probing-linear.pdf").is_file()


def test_report_attention(study, drawn):
    grid, out = study
    assert report_figures.attention(grid, out)
    figure = drawn[out / "attention.png"]
    assert legend(figure) == ["10 %", "100 %", "untrained encoder"]
    for axes, model in zip(figure.axes, ("bert", "biogpt"), strict=True):
        assert axes.get_title() == model
        assert curves(axes)["10 %"] == [1 - 0.01 * n for n in range(1, made.LAYERS + 1)]
        assert curves(axes)["untrained encoder"] == [0.4] * made.LAYERS


def test_report_link_says_r_and_n(study, drawn):
    grid, out = study
    assert report_figures.link(grid, out)
    figure = drawn[out / "link.png"]
    assert len(figure.axes) == 4
    from scipy.stats import pearsonr, spearmanr

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


def test_report_link_of_too_few_points(tmp_path, drawn):
    made.fine_tuned(tmp_path, "NLI", "demo", "bert", 30)
    made.probed(tmp_path, "NLI", "demo", "bert", 30)
    assert report_figures.link(Grid(tmp_path / "demo", nli), tmp_path)
    titles = [words(axes.get_title()) for axes in drawn[tmp_path / "link.png"].axes]
    assert titles == ["Spearman –, Pearson – (n = 1, without 0 %)"] * 3


def test_nothing_to_draw_leaves_no_file(tmp_path, drawn):
    made.fine_tuned(tmp_path, "NLI", "demo", "bert", 30)
    grid = Grid(tmp_path / "demo", nli)
    for name in ("probing", "attention", "link"):
        assert not getattr(report_figures, name)(grid, tmp_path)
    assert not drawn and not list(tmp_path.glob("*.p*"))
