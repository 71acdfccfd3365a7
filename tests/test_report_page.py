"""The report as one HTML file, and the style of its figures."""

import base64
import html
import html.parser
import re

import pandas as pd
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_hex

from common.report import __main__ as report
from common.report import drawing
from tests import made_results as made
from tests import test_report

NAME = '<i>a&b"'


class Page(html.parser.HTMLParser):
    """What is on a page: all tags with their attributes, and all text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.source = [], [], path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data.strip())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The report of two models, one with an awkward name, whose last size is missing."""
    root = tmp_path_factory.mktemp("page")
    for model, sizes in (("bert", (0, 10, 100)), (NAME, (0, 10))):
        made.whole_study(root, "NLI", models=(model,), sizes=sizes)
    return test_report.write(root, draw=True)


def content(uri, kind):
    start = f"data:{kind};base64,"
    assert uri.startswith(start)
    return base64.b64decode(uri.removeprefix(start))


def test_the_page_holds_all_that_lies_beside_it(folder):
    page = Page(folder / "report.html")
    images = {content(image["src"], "image/png") for image in page.all("img")}
    assert images == {path.read_bytes() for path in folder.glob("*.png")}
    links = [a for a in page.all("a") if "download" in a]
    linked = {a["download"]: content(a["href"], "text/csv") for a in links}
    assert linked == {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    titles = re.findall(r"^## (.*)$", (folder / "report.md").read_text(), re.M)
    assert [text for text in page.text if re.match(r"\d\. ", text)] == titles * 2  # and their links
    for attrs in (attrs for _, attrs in page.tags):  # nothing is fetched
        assert all(attrs.get(name, "#").startswith(("#", "data:")) for name in ("src", "href"))
    assert "url(" not in page.source and "@import" not in page.source


def test_a_name_is_text_wherever_it_stands(folder):
    page = Page(folder / "report.html")
    assert not page.all("i") and NAME in page.text
    assert not re.search(r"{{|{%|Undefined", page.source)


def test_the_map_has_each_head(folder):
    page = Page(folder / "report.html")
    found = [attrs for attrs in page.all("td") if "title" in attrs]
    assert len(found) == (2 + 1) * made.LAYERS * made.HEADS
    run = folder.parent / "bert" / "100" / "seed-42" / "attention" / "heads.csv"
    table = pd.read_csv(run).query("metric == 'cosine'")
    for row in table.itertuples():
        assert f"layer {row.layer}, head {row.head}: {row.value:.4f}" in page.source
    colours = {attrs["style"] for attrs in found if attrs["title"].startswith("layer 4, head 1:")}
    assert len(colours) == 2  # 10 and 100 %


def test_seeds_share_a_map_and_a_damaged_one_is_named(tmp_path, caplog):
    made.fine_tuned(tmp_path, "NLI", "demo", "bert", 10)
    for seed in (1, 2, 3):
        path = made.compared(tmp_path, "NLI", "demo", "bert", 10, seed) / "heads.csv"
        table = pd.read_csv(path)
        table["value"] = seed / 10
        table.to_csv(path, index=False)
    header, _, *others = path.read_text().splitlines()
    path.write_text("\n".join([header, *others]))
    out = test_report.write(tmp_path)
    found = [attrs["title"] for attrs in Page(out / "report.html").all("td") if "title" in attrs]
    assert len(found) == made.LAYERS * made.HEADS and "layer 1, head 1: 0.1500" in found
    assert f"{path.parent} is passed over: heads.csv" in caplog.text
    assert "seed-3/attention: heads.csv is damaged (heads are missing)" in test_report.page(out)


def test_entropies_share_a_scale(tmp_path):
    def value(size, layer, head, metric):
        if metric == "entropy_pretrained":
            return 2.5
        return None if layer == 1 else 0.5  # a head that was never compared

    both = "entropy_pretrained", "entropy_fine_tuned"
    made.compared(tmp_path, "NLI", "demo", "bert", 10, metrics=("cosine", *both), value=value)
    page = Page(test_report.write(tmp_path) / "report.html")
    cells = [attrs for attrs in page.all("td") if "title" in attrs][-2 * made.LAYERS * made.HEADS :]
    one, none, other = cells[0], cells[made.LAYERS * made.HEADS], cells[-1]
    for cell, share in ((one, 1.0), (other, 0.5 / 2.5)):
        assert cell["style"] == f"background:{to_hex(colormaps['cividis'](share))}"
    assert none["title"] == "layer 1, head 1: never compared" and "style" not in none


def test_the_map_of_importance_has_ranks(tmp_path):
    """That by change only where attention was compared; the head that changed most is 1."""
    made.compared(tmp_path, "NLI", "demo", "bert", 10)
    for size in (10, 30):
        made.ablated(tmp_path, "NLI", "demo", "bert", size)
    page, n = Page(test_report.write(tmp_path) / "report.html"), made.LAYERS * made.HEADS
    cells = [attrs["title"] for attrs in page.all("td") if "importance" in attrs.get("title", "")]
    assert len(cells) == 2 * n
    assert cells[0] == f"layer 1, head 1: 0.1100; rank {n} of {n} by importance, 10 by change"
    assert cells[n - 1] == f"layer 4, head 3: 0.4300; rank 1 of {n} by importance, 3 by change"
    assert cells[-1] == f"layer 4, head 3: 0.4300; rank 1 of {n} by importance"


def test_the_first_score_comes_before_the_text_and_maps_have_a_scale(folder):
    page = Page(folder / "report.html")
    score = next(i for i, text in enumerate(page.text) if re.match(r"0\.\d{3}", text))
    assert score < next(i for i, text in enumerate(page.text) if "highest possible" in text)
    bars = [attrs for attrs in page.all("span") if attrs.get("class") == "bar"]
    assert len(bars) == 3 and to_hex(colormaps["viridis"](0.0)) in bars[0]["style"]
    assert "cosine (1 = unchanged): 0.6" in page.text  # 1 - 0.1 * 4, the least of all maps


def test_a_style_file_takes_precedence_over_that_of_the_repository(tmp_path, monkeypatch):
    path, figures = tmp_path / "my.mplstyle", []
    path.write_text("# mine\nfont.size: 11\naxes.titlesize: 12  # larger\n")
    monkeypatch.setattr(drawing, "save", lambda figure, path: figures.append(figure))
    for style in (path, None):
        drawing.draw(tmp_path, "figure", ["x"], [[drawing.Panel([], "title", "x", "y")]], style)
    (mine,), (theirs,) = (figure.axes for figure in figures)
    assert mine.title.get_fontsize() == 12 and theirs.title.get_fontsize() == 7
    assert mine.yaxis.label.get_fontsize() == 7  # that of paper.mplstyle stays
    assert figures[1].get_figwidth() * 2.54 == pytest.approx(8.5, abs=0.05)


@pytest.mark.parametrize("text, named", ((None, "No such file"), ("font.size: seven", "seven")))
def test_a_style_file_that_cannot_be_used_is_refused_at_once(tmp_path, capsys, text, named):
    path = tmp_path / "my.mplstyle"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit) as stop:
        report.main(["--output_dir", str(tmp_path / "none"), "--style", str(path)])
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and shown.startswith(f"error: --style {path}: ") and named in shown
