"""The report of made-up result folders: its numbers, what it shows as missing, what it refuses."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common import files
from common.report import __main__ as report
from common.report import drawing
from tests import made_results as made
from tests.made_results import (
    LAYERS,
    MAIN,
    SKILL,
    ablated,
    compared,
    fine_tuned,
    probed,
    whole_study,
)


def table(folder, name):
    with (folder / f"{name}.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def page(folder):
    """The page, its tables' columns not filled up with spaces."""
    return re.sub(" +", " ", (folder / "report.md").read_text(encoding="utf-8"))


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module", params=("NER", "NLI"))
def study(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("study")
    whole_study(root, request.param)
    assert report.main(["--tasks", request.param, "--output_dir", str(root)]) == 0
    return request.param, root, root / "demo" / "report"


def test_a_whole_study(study):
    task, root, folder = study
    text, main = page(folder), MAIN[task]
    assert text.startswith(f"# {task} on demo") and "Demo:" in text
    assert "Passed over" not in text
    titles = re.findall(r"^## \d\. (.*)$", text, re.M)
    assert titles == ["Downstream scores", "Learning curves", "Differences", "Probing",
                      "Attention", "The link"]  # fmt: skip
    for name in re.findall(r"\]\((.*?)\.png\)", text):
        assert (folder / f"{name}.png").stat().st_size > 20_000
        assert (folder / f"{name}.pdf").read_bytes()[:5] == b"%PDF-"
    assert len(list(folder.glob("*.png"))) == 4
    for name in re.findall(r"\((\w+)\.csv\)", text):
        assert table(folder, name)
    found = {row["model"]: row for row in table(folder, f"scores_{main}")}
    assert list(found) == list(SKILL)  # the study's order
    for model, row in found.items():
        cell = root / "demo" / model / "30" / "seed-42" / "fine-tuning"
        value = metrics(cell)[f"test_{main}"]
        assert float(row["30 %"]) == value
        low, high = float(row["30 % low"]), float(row["30 % high"])
        assert low < value < high
        assert f"{value:.3f} [{low:.3f}, {high:.3f}]" in text


def test_probing_and_attention_tables_hold_what_was_measured(study):
    task, root, folder = study
    main = MAIN[task]
    for row in table(folder, "probing"):
        size = {"untrained encoder": "random"}.get(row["encoder"], row["encoder"].split(" ")[0])
        found = metrics(root / "demo" / row["model"] / size / "seed-42" / "probing")
        assert int(row["best layer (dev)"]) == found["best_layer"]
        name = main.replace("_f1", " F1")
        assert float(row[f"best layer: {name}"]) == found[f"test_{main}"]
        selectivity = found[f"test_{main}_last_layer"] - 0.15
        assert float(row["selectivity, last layer"]) == pytest.approx(selectivity)
        best = found[f"test_{main}"] - 0.15  # of the control, the same layer
        assert float(row["selectivity, best layer"]) == pytest.approx(best)
    rows = table(folder, "probing_gpt2")
    assert [int(row["layer"]) for row in rows] == list(range(LAYERS + 1))
    there = metrics(root / "demo" / "gpt2" / "30" / "seed-42" / "probing")
    assert float(rows[4]["30 %"]) == there[f"test_{main}_last_layer"]
    controlled = table(folder, "selectivity_gpt2")
    for row, other in zip(rows, controlled, strict=True):
        expected = float(row["untrained encoder"]) - 0.15
        assert float(other["untrained encoder"]) == pytest.approx(expected)
    row = table(folder, "attention_gpt2")[2]
    assert float(row["50 %"]) == pytest.approx(1 - 0.05 * 3)
    assert float(row["untrained encoder"]) == pytest.approx(0.4) and "0 % (pre-trained)" not in row
    rows = {row["encoder"]: row for row in table(folder, "attention") if row["model"] == "gpt2"}
    assert float(rows["50 %"]["change (1 - cosine)"]) == pytest.approx(0.05 * 2.5)
    assert float(rows["untrained encoder"]["mean cosine"]) == pytest.approx(0.4)
    assert rows["50 %"]["most changed layer"] == "4"


def test_differences_and_link(study):
    _, _, folder = study
    models, sizes = (table(folder, f"differences_{name}") for name in ("models", "sizes"))
    assert len(models) == 6 * 4 and len(sizes) == 4 * 6  # not of the untrained heads
    for row in models + sizes:
        low, value, high = (float(row[f"a minus b{part}"]) for part in (" low", "", " high"))
        assert low <= value <= high
        assert float(row["p"]) <= float(row["p (Holm)"]) <= 1
    assert min(float(row["p (Holm)"]) for row in sizes) < 0.05
    link = {(row["measure"], row["sizes"]): row for row in table(folder, "link")}
    assert len(link) == 8  # five measures, those of probes with and without size 0
    row = link["attention change (1 - mean cosine)", "10 to 100 %"]
    assert row["n"] == "16" and 0 < float(row["Spearman"]) <= float(row["Spearman high"]) <= 1


def write(tmp_path, *more, draw=False):
    """The report's folder; figures, which take most of the time, only on demand."""

    def save(figure, path):
        path.with_name(f"{path.name}.png").write_bytes(bytes(24))
        path.with_name(f"{path.name}.pdf").write_bytes(b"")

    with pytest.MonkeyPatch.context() as patch:
        if not draw:
            patch.setattr(drawing, "save", save)
        assert report.main(["--tasks", "NLI", "--output_dir", str(tmp_path), *more]) == 0
    return tmp_path / "demo" / "report"


def test_missing_cells_are_shown_as_missing(tmp_path):
    fine_tuned(tmp_path, "NLI", "demo", "bert", 10)
    fine_tuned(tmp_path, "NLI", "demo", "bert", 100)
    fine_tuned(tmp_path, "NLI", "demo", "biobert", 100)
    probed(tmp_path, "NLI", "demo", "biobert", 100, control=False)
    folder = write(tmp_path)
    text = page(folder)
    assert re.search(r"\| biobert \| – \| 0\.\d{3} \[.*?\] \| 0\.300 \|", text)
    assert re.search(r"\| biobert \| 100 % \| 2 (\| 0\.\d{3} ){2}\| 0\.100 \|", text)
    assert "| biobert, 10 %" not in text  # a row without any value
    assert "correction: 1." in text and "differences_sizes.csv" in text
    assert not (folder / "attention.png").exists() and "attention.png" not in text
    row = table(folder, "scores_accuracy")[0]
    assert "30 %" not in row and row["10 %"] != ""  # what no model has is no column
    (row,) = table(folder, "probing")
    assert not any("selectivity" in column for column in row)


def test_seeds_give_mean_and_deviation(tmp_path):
    cells = [fine_tuned(tmp_path, "NLI", "demo", "bert", 30, seed) for seed in (1, 2, 3)]
    values = [metrics(cell)["test_accuracy"] for cell in cells]
    fine_tuned(tmp_path, "NLI", "demo", "bert", 10)
    (row,) = table(write(tmp_path), "scores_accuracy")
    assert float(row["30 %"]) == pytest.approx(sum(values) / 3) and row["30 % n"] == "3"
    assert float(row["30 % low"]) < float(row["30 %"]) < float(row["30 % high"])
    assert row["10 % n"] == "1" and "10 % std" not in row and float(row["30 % std"]) > 0
    assert re.search(r"0\.\d{3} ± 0\.\d{3} \(n=3\) \[0", page(tmp_path / "demo" / "report"))


def test_models_no_better_than_the_majority_get_advice(tmp_path):
    for model, size, level in (
        ("bert", 10, 0.4),
        ("bert", 30, 0.2),
        ("gpt2", 10, 0.5),
        ("gpt2", 0, 1),
    ):
        folder = fine_tuned(tmp_path, "NLI", "demo", model, size)
        values = {"trained": size > 0, "dev_accuracy": 0.4, "dev_majority_accuracy": level}
        (folder / "metrics.json").write_text(json.dumps(metrics(folder) | values))
    assert report.main(["--tasks", "NLI", "--output_dir", str(tmp_path)]) == 0
    text = page(tmp_path / "demo" / "report")
    said = "No better than the majority class on dev: bert (10 %), gpt2 (10 %). Try more"
    assert text.count("No better") == text.count(said) == 1


def test_two_data_sets_are_never_mixed(tmp_path, caplog, capsys):
    fine_tuned(tmp_path, "NLI", "demo", "bert", 30)
    fine_tuned(tmp_path, "NLI", "mednli", "bert", 100, n=80)
    folder = write(tmp_path)
    assert table(folder, "scores_accuracy")[0].keys().isdisjoint(("100 %", "50 %"))
    assert "30 %" not in table(tmp_path / "mednli" / "report", "scores_accuracy")[0]
    before = (folder / "report.md").stat().st_mtime_ns
    write(tmp_path, "--dataset", "mednli")
    assert (folder / "report.md").stat().st_mtime_ns == before
    # Copied into the other's folder; another data set, or test split, under the same name.
    (tmp_path / "mednli/bert/100").rename(tmp_path / "demo/bert/100")
    fine_tuned(tmp_path, "NLI", "demo", "bert", 10)
    fine_tuned(tmp_path, "NLI", "demo", "bert", 50, inputs={"data": "b"})
    fine_tuned(tmp_path, "NLI", "demo", "gpt2", 50, n=80)
    caplog.clear()
    folder = write(tmp_path, "--dataset", "demo")
    (bert,) = table(folder, "scores_accuracy")
    assert bert["30 %"] and bert["10 %"] and bert.keys().isdisjoint(("50 %", "100 %"))
    for text in (page(folder), caplog.text):
        assert "bert/100/seed-42/fine-tuning" in text and "of bert on mednli" in text
        assert "bert/50/seed-42/fine-tuning" in text and "another data set" in text
        assert "gpt2/50/seed-42/fine-tuning" in text and "other test examples" in text


@pytest.mark.parametrize(
    "name, text",
    (("metrics.json", '{"task": "NLI", "test_accu'), ("metrics.json", "[]"), ("metrics.json", None),
     ("config.json", "\xff\xfe"), ("config.json", None), ("config.json", "{}"),
     ("config.json", '{"step": "fine-tuning"}')),
)  # fmt: skip
def test_a_damaged_or_unfinished_run_is_named_and_left_out(tmp_path, caplog, name, text):
    fine_tuned(tmp_path, "NLI", "demo", "bert", 30)
    path = fine_tuned(tmp_path, "NLI", "demo", "bert", 30, seed=1) / name
    path.unlink() if text is None else path.write_text(text, encoding="latin-1")
    unfinished = fine_tuned(tmp_path, "NLI", "demo", "bert", 10)
    unfinished.rename(unfinished.with_name("fine-tuning.partial"))
    folder = write(tmp_path)
    row = table(folder, "scores_accuracy")[0]
    assert row["30 % n"] == "1" and "10 %" not in row
    for shown in (caplog.text, page(folder)):
        assert re.search(rf"bert/30/seed-1/fine-tuning(:| is passed over:) .*{name}", shown)
        assert re.search("bert/10/seed-42/fine-tuning.partial.*: not finished", shown)
    assert caplog.text.count("Make the result again:\n  python") == (name != "config.json")


def test_a_misplaced_result_is_not_said_to_be_made_again(tmp_path, caplog):
    there = fine_tuned(tmp_path, "NLI", "demo", "bert", 30)
    shutil.copytree(there, there.parents[2] / "50" / "seed-42" / "fine-tuning")
    write(tmp_path)
    assert "config.json is of bert on demo, 30 %" in caplog.text and "again" not in caplog.text


@pytest.mark.parametrize("value", ("0.5", float("nan"), [0.5]))
def test_a_score_that_is_no_number_is_left_out(tmp_path, caplog, value):
    fine_tuned(tmp_path, "NLI", "demo", "bert", 30)
    path = fine_tuned(tmp_path, "NLI", "demo", "bert", 30, seed=1) / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_accuracy": value}))
    assert table(write(tmp_path), "scores_accuracy")[0]["30 % n"] == "1"
    assert "metrics.json is missing or damaged" in caplog.text


def test_damaged_predictions_and_layers(tmp_path, caplog):
    cut = fine_tuned(tmp_path, "NLI", "demo", "bert", 30) / "predictions.jsonl"
    cut.write_text(cut.read_text()[:-20])
    (fine_tuned(tmp_path, "NLI", "demo", "bert", 50) / "predictions.jsonl").unlink()
    fewer = fine_tuned(tmp_path, "NLI", "demo", "biobert", 30) / "predictions.jsonl"
    fewer.write_text("\n".join(fewer.read_text().splitlines()[:-5]))  # whole lines are missing
    fine_tuned(tmp_path, "NLI", "demo", "biogpt", 30)
    fine_tuned(tmp_path, "NLI", "demo", "biogpt", 50)
    layers = probed(tmp_path, "NLI", "demo", "bert", 0) / "layers.csv"
    layers.write_text("")
    folder = write(tmp_path)
    bert, biogpt = table(folder, "scores_accuracy")  # biobert's is not of the same examples
    assert not bert["30 %"]
    assert bert["50 %"] and not bert["50 % low"]  # a score without an interval
    assert biogpt["30 % low"]
    assert not (folder / "probing.csv").exists()
    for name in ("bert/30", "biobert/30", "bert/0"):
        assert f"{name}/seed-42" in caplog.text
    assert "biogpt" not in caplog.text and "bert/50" not in caplog.text


def test_runs_made_in_another_way_are_passed_over(tmp_path, caplog):
    """Within a model all settings count, between models those of what is measured inside."""
    for size in (10, 30, 50):
        fine_tuned(tmp_path, "NLI", "demo", "bert", size, learning_rate=2e-5)
        fine_tuned(tmp_path, "NLI", "demo", "gpt2", size, learning_rate=1e-5)
    fine_tuned(tmp_path, "NLI", "demo", "bert", 100, learning_rate=1e-4)
    fine_tuned(tmp_path, "NLI", "demo", "bert", 0)  # without settings of training
    for model in ("bert", "gpt2"):
        probed(tmp_path, "NLI", "demo", model, 10, max_train_examples=None)
    probed(tmp_path, "NLI", "demo", "biobert", 10, max_train_examples=7)
    folder = write(tmp_path)
    bert, gpt2 = table(folder, "scores_accuracy")
    assert any(bert[key] for key in bert if key.startswith("0 %"))
    assert bert["50 %"] and "100 %" not in bert and gpt2["50 %"]
    probes = {row["model"]: row["last layer"] for row in table(folder, "probing")
              if row["encoder"] == "10 %"}  # fmt: skip
    assert probes["bert"] and probes["gpt2"] and "biobert" not in probes
    text = page(folder)
    for place, flag in (("bert/100/seed-42/fine-tuning", "learning_rate"),
                        ("biobert/10/seed-42/probing", "max_train_examples")):  # fmt: skip
        assert re.search(rf"^- {place}: unlike most of its step: .*{flag}", text, re.M)
        assert place in caplog.text


def test_a_model_with_lora_is_a_model_of_its_own(tmp_path):
    """Beside the other in each table; never in one cell with it."""
    for model, size in (("bert", 10), ("bert", 100), ("gpt2", 100)):
        for lora in ("", "-lora"):
            trained = {"model": model, "checkpoint": f"{model} {size}{lora}"}
            probed(tmp_path, "NLI", "demo", model, size, name=f"probing{lora}", inputs=trained)
            compared(tmp_path, "NLI", "demo", model, size, name=f"attention{lora}", inputs=trained)
            rank = {"lora_rank": 16} if lora else {}
            fine_tuned(tmp_path, "NLI", "demo", model, size, result=f"fine-tuning{lora}", **rank)
    probed(tmp_path, "NLI", "demo", "bert", 100, name="probing-lora-linear", control=False)
    assert report.main(["--tasks", "NLI", "--output_dir", str(tmp_path)]) == 0
    out = tmp_path / "demo" / "report"
    assert "Passed over" not in page(out)
    models = ["bert", "gpt2", "bert+LoRA", "gpt2+LoRA"]
    for name in ("scores_accuracy", "probing", "attention"):
        assert list(dict.fromkeys(row["model"] for row in table(out, name))) == models, name
    assert [row["model"] for row in table(out, "probing-linear")] == ["bert+LoRA"]
    assert all(row["selectivity, last layer"] for row in table(out, "probing"))
    assert len(table(out, "differences_models")) == 1 + 6
    # What was made from a model that was replaced since is left out, the other stays.
    folder = tmp_path / "demo" / "bert" / "100" / "seed-42" / "fine-tuning-lora"
    replaced = metrics(folder) | {"checkpoint_sha256": "new"}
    files.write_json(folder / "metrics.json", replaced)
    assert report.main(["--tasks", "NLI", "--output_dir", str(tmp_path)]) == 0
    stale = "made from another fine-tuned model than lies there now"
    said = re.findall(rf"bert/100/seed-42/(\S+): {stale}", page(out))
    assert said == ["attention-lora", "probing-lora", "probing-lora-control"]


def test_a_variant_has_a_section_of_its_own(tmp_path):
    for size in (0, 10, 50):
        fine_tuned(tmp_path, "NLI", "demo", "bert", size)
        probed(tmp_path, "NLI", "demo", "bert", size)
    probed(tmp_path, "NLI", "demo", "bert", 30, name="probing-linear", probe="linear")
    name = "attention-drop_special"
    compared(tmp_path, "NLI", "demo", "bert", 10, name=name, drop_special=True)
    compared(tmp_path, "NLI", "demo", "bert", 30)
    out = write(tmp_path)
    text = page(out)
    assert "Passed over" not in text
    headings = re.findall(r"^##+ (.*)$", text, re.M)
    assert headings[3:] == ["4. Probing", "5. Probing: linear", "6. Attention",
                            "7. Attention: drop special", "8. The link"]  # fmt: skip
    default, variant = ({row["encoder"]: row["last layer"] for row in table(out, name)}
                        for name in ("probing", "probing-linear"))  # fmt: skip
    assert default["10 %"] and "30 %" not in default and [*variant] == ["30 %"]
    assert {*table(out, "probing-linear_bert")[0]} >= {"layer", "30 %"}
    assert table(out, "selectivity-linear_bert")[0]["30 %"]
    sizes = {row["encoder"]: row["mean cosine"] for row in table(out, "attention-drop_special")}
    assert [*sizes] == ["10 %"]
    for name in ("probing", "probing-linear", "attention", "attention-drop_special"):
        assert (out / f"{name}.pdf").is_file() and f"({name}.png)" in text
    # The link is of the default alone: three sizes of the probe, no attention at 10 %.
    numbers = {(row["measure"], row["sizes"]): row["n"] for row in table(out, "link")}
    assert numbers["probe, last layer: accuracy", "0 to 50 %"] == "3"
    assert not any("attention" in measure for measure, _ in numbers)


@pytest.mark.parametrize(
    ("file", "lost"),
    [("ablation/ablation.csv", "gone"), ("ablation/importance.csv", "empty"),
     ("attention/cka.csv", "cut"), ("probing/layers.csv", "cut")],
)  # fmt: skip
def test_a_damaged_table_is_passed_over(tmp_path, file, lost):
    """By its name; all other results are shown."""
    steps = (fine_tuned, probed, compared, ablated)
    folders = {f.name: f for f in (make(tmp_path, "NLI", "demo", "bert", 10) for make in steps)}
    path = folders[file.split("/")[0]].parent / file
    text = path.read_text()
    cut = text.rsplit("\n", 3)[0].rsplit(",", 3)[0]  # in the middle of a row
    path.unlink() if lost == "gone" else path.write_text({"empty": "", "cut": cut}[lost])
    shown = page(write(tmp_path))
    assert f"{path.name} is missing or damaged" in shown
    assert "bert" in shown.split("## 1.")[1]


def test_a_model_without_a_gain_has_none_to_lose(tmp_path):
    """ "never" would read as if no head mattered."""
    folder = ablated(tmp_path, "NLI", "demo", "bert", 10)
    values = metrics(folder)
    files.write_json(folder / "metrics.json", values | {"test_majority_accuracy": 0.8})
    (half,) = table(write(tmp_path), "ablation_half_lost")
    assert half["most changed heads first"] == "no gain"


def test_ablation_is_shown_by_order_and_beside_random_heads(tmp_path):
    for seed in (1, 2):
        ablated(tmp_path, "NLI", "demo", "bert", 10, seed)
    for size in (0, 30):
        ablated(tmp_path, "NLI", "demo", "bert", size)
    ablated(tmp_path, "NLI", "demo", "bert", 30, name="ablation-layers")
    out = write(tmp_path)
    text = page(out)
    titles = re.findall(r"^## \d\. (.*)$", text, re.M)
    assert titles == ["Ablation", "Layers taken back"] and "Passed over" not in text
    zero, ten, thirty = table(out, "ablation")
    assert (ten["encoder"], thirty["encoder"]) == ("10 %", "30 %") and "nan" not in text
    assert zero["p at 0 %"] == "0.250" and not thirty["p at 0 %"]
    assert float(thirty["most changed heads first"]) == pytest.approx(0.6)
    assert float(thirty["p: random heads cost as much"]) == 0.25
    assert ten["most important heads first n"] == "2" and float(ten["whole model"]) == 0.8
    half = table(out, "ablation_half_lost")[2]
    assert half["most changed heads first"] == "never"
    assert half["most important heads first"] == "100"
    two, one = table(out, "ablation_differences")[-2:]
    assert [float(one[f"50 %{end}"]) for end in ("", " low", " high")] == [-0.1, -0.3, 0.2]
    assert float(two["50 %"]) == -0.1 and not two["50 % low"]  # of several seeds: a mean
    assert {*table(out, "ablation_correlation")[0]} >= {"all heads", "within layers"}
    (layers,) = table(out, "ablation-layers")
    assert {*layers} == {"model", "encoder", "whole model", "whole model n",
                         "from the lowest layer up", "from the lowest layer up n"}  # fmt: skip


def test_groups_of_examples_are_resampled_whole(tmp_path):
    """Questions on one passage: wider intervals where all of a group are alike."""
    for name in ("one", "many"):
        folder = fine_tuned(tmp_path / name, "NLI", "demo", "bert", 30, n=20)
        rows = [json.loads(line) for line in (folder / "predictions.jsonl").open()] * 6
        rows = [row | {"id": str(i)} for i, row in enumerate(rows)]
        if name == "many":
            rows = [row | {"group": f"passage {i % 20}"} for i, row in enumerate(rows)]
        files.write_jsonl(folder / "predictions.jsonl", rows)
    one, many = (write(tmp_path / name) for name in ("one", "many"))
    widths = [float(row["30 % high"]) - float(row["30 % low"])
              for folder in (one, many) for row in table(folder, "scores_accuracy")]  # fmt: skip
    assert widths[1] > 1.8 * widths[0]
    assert "Test examples: 120 in 20 groups, which intervals resample." in page(many)
    assert "Test examples: 120." in page(one)


def test_encoders_stand_beside_where_they_were_asked_the_same(tmp_path):
    """Those of another task, by the hash of the data; but no untrained head."""
    answers = [{"id": str(i), "group": f"pairs/{i}", "source": "pairs", "kind": "nli",
                "gold": "neutral", "predicted": "neutral" if i < 60 else None,
                "parse_failure": i >= 60} for i in range(80)]  # fmt: skip
    values = {f"test_{start}{name}": 0.75 for start in ("", "majority_") for name in
              ("mean", "parse_failures", "pairs_accuracy", "pairs_parse_failures")}  # fmt: skip
    values |= {name: 0.25 for name in values if "failures" in name}
    where = tmp_path / "Instruct", "Instruct", "medtuned", "gpt2", 100, 42, "fine-tuning"
    folder, _ = made.write(*where, values, {"data": "own"})
    files.write_jsonl(folder / "predictions.jsonl", answers)
    for dataset, model, size in (("here", "bert", 100), ("here", "bert", 0), ("b", "gpt2", 100)):
        sha = "same" if dataset == "here" else "another"
        fine_tuned(tmp_path / "NLI", "NLI", dataset, model, size, inputs={"data": sha})
    wanted = metrics(tmp_path / "NLI" / "here" / "bert" / "100" / "seed-42" / "fine-tuning")
    config = json.loads((folder / "config.json").read_text())
    part = ["same", "accuracy", "pairs/"]
    other = {
        "pairs_accuracy": [*part, {"negative_label": "none"}]
    }  # NLI's results have no such one
    for same, there in (({}, 0), (other, 0), ({"pairs_accuracy": [*part, {}]}, 1)):
        files.write_json(folder / "config.json", config | {"same_test": same})
        assert report.main(["--tasks", "Instruct", "--output_dir", str(tmp_path)]) == 0
        found = table(tmp_path / "Instruct" / "medtuned" / "report", "scores_parts")
        beside = [row for row in found if row["model"] != "gpt2"]
        assert len(beside) == there and len(found) == 2 + there
    (row,) = beside
    assert "| bert (NLI) | 0." in page(tmp_path / "Instruct" / "medtuned" / "report")
    assert (row["score"], row["model"]) == ("pairs_accuracy", "bert (NLI)")
    assert float(row["100 %"]) == wanted["test_accuracy"] and "0 % (as loaded)" not in row
    assert float(row["majority class"]) == wanted["test_majority_accuracy"]
    own = {row["score"]: row for row in found if row["model"] == "gpt2"}
    for name, wanted in (("pairs_accuracy", 0.75), ("pairs_parse_failures", 0.25)):
        low, value, high = (float(own[name][f"100 %{part}"]) for part in (" low", "", " high"))
        assert value == wanted and (wanted - low, high - wanted) == pytest.approx(
            (1.96 * (0.75 * 0.25 / 80) ** 0.5,) * 2, abs=0.02
        )


@pytest.mark.parametrize("wrong", (0, 3))
def test_models_of_two_tasks_are_compared_in_pairs(tmp_path, wrong):
    """On the examples that both have, by the names of their groups, whatever the order."""
    theirs = fine_tuned(tmp_path / "NLI", "NLI", "here", "bert", 100, inputs={"data": "same"})
    read = files.read_jsonl(theirs / "predictions.jsonl")
    answers = [row | {"source": "pairs", "kind": "nli", "parse_failure": False, "group":
               f"pairs/{row['id']}"} for row in read[::-1]]  # fmt: skip
    right = [row for row in answers if row["gold"] == row["predicted"]]
    for row in right[:wrong]:
        row |= {"predicted": None, "parse_failure": True}
    answers += [row | {"source": "more", "group": f"more/{i}"} for i, row in enumerate(answers[:9])]
    values = {f"test_{start}{name}": 0.75 for start in ("", "majority_") for name in
              ("mean", "pairs_accuracy", "more_accuracy")}  # fmt: skip
    where = tmp_path / "Instruct", "Instruct", "medtuned", "gpt2", 100, 42, "fine-tuning"
    folder, _ = made.write(*where, values, {"data": "own"})
    files.write_jsonl(folder / "predictions.jsonl", answers)
    config = json.loads((folder / "config.json").read_text())
    same = {"same_test": {"pairs_accuracy": ["same", "accuracy", "pairs/", {}]}}
    files.write_json(folder / "config.json", config | same)
    assert report.main(["--tasks", "Instruct", "--output_dir", str(tmp_path)]) == 0
    (row,) = table(tmp_path / "Instruct" / "medtuned" / "report", "differences_tasks")
    assert (row["a"], row["b"]) == ("gpt2, 100 % on pairs_accuracy", "bert (NLI), 100 %")
    low, value, high = (float(row[f"a minus b{part}"]) for part in (" low", "", " high"))
    assert value == pytest.approx(-wrong / 60)
    # Of pairs, only those count in which the two differ.
    half = 1.96 * (wrong / 60 * (1 - wrong / 60) / 60) ** 0.5
    assert (value - low, high - value) == pytest.approx((half, half), abs=0.015)
    assert low == high == 0 if not wrong else high <= 0


def refused(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        report.main(list(argv))
    shown = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in shown
    return shown


def test_what_is_refused(tmp_path, capsys):
    there = str(tmp_path)
    assert "NER,NLI" in refused(capsys, "--tasks", "NER,None", "--output_dir", there)
    assert "NER,NLI" in refused(capsys, "--tasks", "", "--output_dir", there)
    shown = refused(capsys, "--output_dir", there)
    assert there in shown and "/fine-tuning.py --demo" in shown
    assert "no finished results" in refused(capsys, "--output_dir", str(tmp_path / "nowhere"))
    cell = fine_tuned(tmp_path, "NLI", "demo", "bert", 30)
    shown = refused(capsys, "--tasks", "NLI", "--dataset", "mednli", "--output_dir", there)
    assert "no finished results of mednli" in shown
    assert "no finished results" in refused(capsys, "--tasks", "NER", "--output_dir", there)
    fine_tuned(tmp_path, "NER", "demo", "gpt2", 30)
    assert "two tasks" in refused(capsys, "--output_dir", there)
    shutil.rmtree(tmp_path / "demo" / "report")
    for path in cell.glob("*.json"):
        path.write_text("{")
    (tmp_path / "demo" / "gpt2").rename(tmp_path / "gpt2")
    assert "no finished results" in refused(capsys, "--tasks", "NLI", "--output_dir", there)
    assert not (tmp_path / "demo" / "report").exists()


def test_each_task_has_its_folder_below_output_dir(tmp_path, capsys):
    fine_tuned(tmp_path / "NER", "NER", "demo", "bert", 30)
    fine_tuned(tmp_path / "NLI", "NLI", "demo", "bert", 30)
    (tmp_path / "NLI" / "logs").mkdir()
    assert report.main(["--output_dir", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    for task in ("NER", "NLI"):
        assert str(tmp_path / task / "demo" / "report" / "report.md") in shown
        assert page(tmp_path / task / "demo" / "report").startswith(f"# {task} on demo")


def test_the_same_results_give_the_same_report(tmp_path):
    whole_study(tmp_path, "NLI", models=("bert",), sizes=(0, 10))
    folders = (write(tmp_path, draw=True) for _ in range(2))
    one, two = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert one == two


def test_no_model_code_is_imported(tmp_path):
    fine_tuned(tmp_path, "NER", "demo", "bert", 30)
    code = (
        "import sys\nfrom common.report import __main__ as report\nreport.main(sys.argv[1:])\n"
        "print(sorted({'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--tasks", "NER", "--output_dir", str(tmp_path)],
        capture_output=True, text=True, cwd=Path(report.__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith("[]\n"), done.stdout + done.stderr


def test_a_probe_of_an_earlier_fine_tuned_model_is_left_out(tmp_path, caplog):
    for size in (10, 30):
        tuned = fine_tuned(tmp_path, "NLI", "demo", "bert", size)
        first = {"inputs": {"checkpoint": "first"}}
        probed(tmp_path, "NLI", "demo", "bert", size, control=size == 30, **first)
        files.write_json(tuned / "metrics.json", metrics(tuned) | {"checkpoint_sha256": "first"})
    files.write_json(tuned / "metrics.json", metrics(tuned) | {"checkpoint_sha256": "new"})
    rows = table(write(tmp_path), "probing")
    scored = {row["encoder"]: row["last layer"] for row in rows}
    assert scored["10 %"] and "30 %" not in scored
    assert "bert/30/seed-42/probing" in caplog.text and "another fine-tuned" in caplog.text
    # A damaged file of the fine-tuned model is named; its probe is still a measurement.
    for text in ("{", "[]"):
        (tuned / "metrics.json").write_text(text)
        rows = table(write(tmp_path), "probing")
        assert all(row["last layer"] for row in rows if row["encoder"] in ("10 %", "30 %"))
        assert "bert/30/seed-42/fine-tuning" in caplog.text


def test_selectivity_needs_a_control_that_is_whole(tmp_path, caplog):
    for size in (10, 30, 50):
        probed(tmp_path, "NLI", "demo", "bert", size)
    (tmp_path / "demo/bert/30/seed-42/probing-control/layers.csv").write_text("")
    (tmp_path / "demo/bert/50/seed-42/probing-control/metrics.json").unlink()
    rows = {row["encoder"]: row for row in table(write(tmp_path), "probing")}
    assert rows["10 %"]["selectivity, best layer"]
    for size in (30, 50):
        assert rows[f"{size} %"]["last layer"] and not rows[f"{size} %"]["selectivity, best layer"]
        assert f"bert/{size}/seed-42/probing-control" in caplog.text
