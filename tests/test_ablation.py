"""ablation.py end to end on small data and tiny models; resuming; what is refused."""

import json
import shutil

import pandas as pd
import pytest

from common import ablating, curves, task
from common.models import families
from common.steps import ablation
from tests.helpers import read_json, run_script
from tests.test_qa_scripts import write_bioasq, write_squad
from tests.test_steps import KEYS, MAIN, Place, no_figures, table  # noqa: F401

SIZE = ("--training_size", 50)


@pytest.fixture(scope="module", params=("NER", "NLI"))
def made(request, tmp_path_factory, checkpoint):
    """A place with a fine-tuned model and its attention."""
    place = Place(tmp_path_factory.mktemp(request.param), request.param, checkpoint)
    place.run("fine-tuning", *SIZE)
    place.run("attention", "--training_sizes", 50)
    return place


@pytest.fixture
def place(made, tmp_path):
    """A copy of it, which may be changed."""
    own = Place.__new__(Place)
    own.task, own.data, own.model, own.root = made.task, made.data, made.model, tmp_path
    shutil.copytree(made.root / "out", tmp_path / "out")
    return own


def test_what_it_writes(place, capsys):
    assert place.run("ablation", *SIZE) == 0
    shown = capsys.readouterr().out
    assert "most_changed" in shown and "next:    python -m common.report" in shown.replace("cd", "")
    here, main = place.folder(50, "ablation"), MAIN[place.task]
    assert {path.name for path in here.iterdir()} == {
        "config.json", "metrics.json", "ablation.csv", "importance.csv", "predictions",
        "ablation.png", "ablation.pdf",
    }  # fmt: skip
    rows = table(here, "ablation.csv")
    assert list(rows.columns) == [*KEYS, "order", "draw", "removed", "metric", "value"]
    assert set(rows["removed"]) == set(ablating.SHARES)
    assert set(rows[rows["order"] == "random"]["draw"]) == set(range(1, ablation.DRAWS + 1))
    assert rows[rows["order"] != "random"]["draw"].isna().all()
    assert {"loss", main} <= set(rows["metric"])
    tuned = read_json(place.folder(50, "fine-tuning") / "metrics.json")
    metrics = read_json(here / "metrics.json")
    at = rows.set_index(["order", "removed", "metric"])["value"]
    for order in ("most_changed", "least_changed", "importance"):
        assert at[order, 0, main] == tuned[f"test_{main}"] == metrics[f"test_{main}"]
        assert at[order, 100, main] == at["random", 100, main].iloc[0]
        curve = {share: at[order, share, main] for share in ablating.SHARES}
        assert metrics[f"area_{order}"] == pytest.approx(curves.area(curve))
    assert metrics[f"test_majority_{main}"] == tuned[f"test_majority_{main}"]
    assert 1 / (1 + ablation.DRAWS) <= metrics["p_most_changed"] <= 1
    assert 1 / (1 + ablation.CONSTANTS["draws"]) < 0.05  # of the real number, see conftest.py
    heads = table(here, "importance.csv")
    assert list(heads.columns) == [*KEYS, "layer", "head", "value"]
    assert (heads["value"] ** 2).groupby(heads["layer"]).sum().tolist() == pytest.approx([1.0])
    one = (here / "predictions" / "most_changed-0.jsonl").read_text().splitlines()
    kept = (place.folder(50, "fine-tuning") / "predictions.jsonl").read_text().splitlines()
    assert list(map(json.loads, one)) == list(map(json.loads, kept))
    before = (here / "ablation.csv").read_bytes()
    assert place.run("ablation", *SIZE) == 0 and "finished earlier" in capsys.readouterr().out
    assert place.run("ablation", *SIZE, "--overwrite") == 0
    assert (here / "ablation.csv").read_bytes() == before


def test_a_killed_call_resumes_without_repeating_points(place, monkeypatch, no_figures):  # noqa: F811
    place.run("ablation", *SIZE)
    shutil.move(place.folder(50, "ablation"), place.root / "whole")
    score, calls = ablating.Ready.score, []

    def stopped(ready):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(ready)

    monkeypatch.setattr(ablating.Ready, "score", stopped)
    with pytest.raises(SystemExit):
        place.run("ablation", *SIZE)
    assert not place.folder(50, "ablation").exists()
    place.run("ablation", *SIZE)
    n_files = len(list((place.root / "whole/predictions").iterdir()))
    assert len(calls) == n_files + 1  # the stopped one is repeated
    for name in ("ablation.csv", "importance.csv"):
        one, other = (
            folder / name for folder in (place.root / "whole", place.folder(50, "ablation"))
        )
        assert one.read_bytes() == other.read_bytes()


def test_heads_are_read_by_name_not_by_position(place, no_figures):  # noqa: F811
    place.run("ablation", *SIZE)
    one = table(place.folder(50, "ablation"), "ablation.csv")
    file = place.folder(50, "attention") / "heads.csv"
    pd.read_csv(file).sample(frac=1, random_state=0).to_csv(file, index=False)
    place.run("ablation", *SIZE, "--overwrite")
    pd.testing.assert_frame_equal(one, table(place.folder(50, "ablation"), "ablation.csv"))


def test_zero_and_layers_are_results_of_their_own(place, no_figures):  # noqa: F811
    place.run("ablation", *SIZE, "--method", "zero", "--max_examples", 5)
    assert read_json(place.folder(50, "ablation-zero") / "metrics.json")["test_examples"] == 5
    place.run("ablation", *SIZE, "--max_examples", 5)
    losses = [
        table(place.folder(50, name), "ablation.csv").query("metric == 'loss'")["value"].tolist()
        for name in ("ablation", "ablation-zero")
    ]
    assert losses[0][0] == losses[1][0] and losses[0][1:] != losses[1][1:]
    shutil.rmtree(place.folder(50, "ablation"))
    place.run("ablation", *SIZE, "--parts", "layers")
    there = {path.name for path in place.folder(50, "ablation").parent.iterdir()}
    assert {"ablation-zero", "ablation-layers"} <= there and "ablation" not in there
    main, rows = MAIN[place.task], table(place.folder(50, "ablation-layers"), "ablation.csv")
    at = rows.set_index(["order", "removed", "metric"])["value"]
    tuned = read_json(place.folder(50, "fine-tuning") / "metrics.json")
    assert at["from_below", 0, main] == at["from_above", 0, main] == tuned[f"test_{main}"]
    assert at["from_below", 1, "loss"] == at["from_above", 1, "loss"] == at["single", 1, "loss"]
    assert at["single", 1, "loss"] != at["from_below", 0, "loss"]
    metrics = read_json(place.folder(50, "ablation-layers") / "metrics.json")
    assert metrics["area_from_below"] == pytest.approx(
        (at["from_below", 0, main] + at["from_below", 1, main]) / 2
    )


def test_what_is_refused(place, capsys, monkeypatch, no_figures):  # noqa: F811
    shown = place.refused(capsys, "ablation", "--training_size", 0)
    assert "--training_size 0: the head is random" in shown and "published" not in shown
    shown = place.refused(capsys, "ablation", "--training_size", 0, "--parts", "layers")
    assert "no layer has changed" in shown
    shown = place.refused(capsys, "ablation", "--training_size", 30)
    assert "no fine-tuned" in shown and "fine-tuning.py" in shown
    heads = place.folder(50, "attention") / "heads.csv"
    text = heads.read_text()
    whole = text.splitlines()
    first = next(n for n, line in enumerate(whole) if ",cosine," in line)
    twice, gone = [*whole, whole[first]], whole[:first] + whole[first + 1 :]
    for lines in (whole[:2], gone, twice, ["layer,head"], []):
        heads.write_text("\n".join(lines))
        shown = place.refused(capsys, "ablation", *SIZE)
        assert "damaged" in shown and "--overwrite" in shown
    heads.write_text(text)
    config = read_json(heads.with_name("config.json"))
    config["inputs"]["checkpoint"] = "another"
    heads.with_name("config.json").write_text(json.dumps(config))
    shown = place.refused(capsys, "ablation", *SIZE)
    assert "another fine-tuned model" in shown and "attention.py" in shown
    shutil.rmtree(heads.parent)
    shown = place.refused(capsys, "ablation", *SIZE)
    assert "attention.py --training_sizes 50" in shown
    row = families.TABLE["bert"]._replace(shared_layers=True)
    monkeypatch.setitem(families.TABLE, "bert", row)
    assert "share their weights" in place.refused(capsys, "ablation", *SIZE, "--parts", "layers")


def test_the_demos_important_heads_lose_more_than_random_ones(tmp_path, no_figures):  # noqa: F811
    """At 5 to 20 % of the heads, where the random draws do not yet take whole layers."""
    common = ("--demo", "--model_name", "biobert", "--output_dir", tmp_path)
    run_script("NER", "fine-tuning", *common, "--training_size", 30)
    run_script("NER", "attention", *common, "--training_sizes", 30)
    run_script("NER", "ablation", *common, "--training_size", 30)
    folder = tmp_path / "demo" / "biobert" / "30" / "seed-42" / "ablation"
    rows = table(folder, "ablation.csv").query("metric == 'loss' and removed in (5, 10, 20)")
    means = rows.groupby(["order", "removed"])["value"].mean().groupby("order").sum()
    spread = rows.query("order == 'random'").groupby("draw")["value"].sum().std()
    assert means["importance"] > means["random"] + spread
    assert means["importance"] > means["least_changed"]


def test_what_has_fewer_rows_than_examples_is_scored_whole(tmp_path):
    """BioASQ has a row for a question, which may have several examples."""
    bioasq = task.load("QA")
    data = bioasq.load(False, write_bioasq(tmp_path / "bioasq", 6))
    assert ablating.chosen(bioasq, data, 2, 0) == data.splits["test"]
    squad = bioasq.load(False, write_squad(tmp_path / "squad", 12))
    some = ablating.chosen(bioasq, squad, 2, 0)
    assert 2 <= len(some) < len(squad.splits["test"])
    passages = {example.context for example in some}
    assert some == [e for e in squad.splits["test"] if e.context in passages]  # whole groups
