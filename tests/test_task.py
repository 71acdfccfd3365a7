"""Every task meets the contract; a third one, in a folder of its own, needs no change in `common`.

The toy is what docs/extending.md shows: sentence classification from a two-column TSV.
"""

import inspect
import os
import re
import shutil
import subprocess
import sys
from typing import get_type_hints

import pandas as pd
import pytest

from common import task as contract
from common.cli import ROOT, Parser
from tests.helpers import TASKS, read_json

METHODS = {
    name: member
    for name, member in vars(contract.Task).items()
    if inspect.isfunction(member) and not name.startswith("_")
}
STEPS = ("fine-tuning", "probing", "attention")


def test_the_tasks_are_found_by_their_folders():
    assert sorted(path.parent.name for path in ROOT.glob("[A-Z]*/task.py")) == TASKS and TASKS


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_every_name_with_its_signature(name):
    task = contract.load(name)
    assert name == task.NAME and task.HEAD in ("sequence", "token", "span", "causal")
    assert isinstance(task.DATASET, str) and isinstance(task.IN_STUDY, bool)
    assert isinstance(task.NOTE, str)
    for attribute in get_type_hints(contract.Task):
        assert hasattr(task, attribute), attribute
    for method, asked in METHODS.items():
        own = getattr(task, method, None)
        assert callable(own), f"{name}/task.py has no {method}"
        assert own.__doc__, f"{name}.task.{method} has no docstring"
        assert given(own) == given(asked)[1:], method  # without self
    for method, default in contract.defaults(task).items():
        if callable(default):
            assert len(given(getattr(task, method))) == len(given(default)), method


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", TASKS)
def test_a_task_takes_the_values_of_its_own_flags(name, step):
    task, parser = contract.load(name), Parser("")
    task.add_arguments(parser, step)
    options = dict.fromkeys(parser.flags())
    for method in ("load", "load_model", "export"):
        own = getattr(task, method)
        inspect.signature(own).bind(*given(own), **options)


def given(function) -> list[str]:
    """The names of the values that every call gives: the others are `options`."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind != p.VAR_KEYWORD]


@pytest.mark.parametrize("name", TASKS)
def test_scores_have_names_of_their_own_and_tables_that_are_counted(name):
    task = contract.load(name)
    assert len({score.name for score in task.SCORES}) == len(task.SCORES)
    assert any(score.by_layer for score in task.SCORES) and task.SCORES[0].by_layer
    assert all(score.title for score in task.SCORES)


@pytest.mark.parametrize("name", TASKS)
def test_every_score_is_that_of_the_rows_and_perfect_for_gold(name):
    """`count` adds up: two halves counted apart give the whole's scores; gold scores 1."""
    task = contract.load(name)
    rows = ROWS.get(name)
    if rows is None:
        pytest.skip("has a test of its own")
    whole = task.count(rows)
    for score in task.SCORES:
        halves = [task.count(part)[score.table] for part in (rows[:2], rows[2:])]
        if halves[0].shape[1:] == halves[1].shape[1:] == whole[score.table].shape[1:]:
            total = sum(half.sum(0) for half in halves)
            assert score.value(total) == score.value(whole[score.table].sum(0))
        perfect = [row | {"predicted": row["gold"]} for row in rows]
        assert score.value(task.count(perfect)[score.table].sum(0)) == 1
        assert score.value(whole[score.table].sum(0)) < 1
    with pytest.raises((ValueError, LookupError, TypeError)):
        task.count([{"id": "1", "gold": "x"}])


ROWS = {
    "NER": [
        {"id": "1", "gold": ["B-DNA", "O"], "predicted": ["B-DNA", "O"]},
        {"id": "2", "gold": ["B-RNA", "I-RNA"], "predicted": ["B-RNA", "O"]},
        {"id": "3", "gold": ["B-DNA", "B-RNA"], "predicted": ["B-RNA", "B-RNA"]},
        {"id": "4", "gold": ["O", "B-DNA"], "predicted": ["O", "B-DNA"]},
    ],
    "NLI": [
        {"id": "1", "gold": "neutral", "predicted": "neutral"},
        {"id": "2", "gold": "entailment", "predicted": "neutral"},
        {"id": "3", "gold": "contradiction", "predicted": "contradiction"},
        {"id": "4", "gold": "entailment", "predicted": "entailment"},
    ],
    "Classification": [
        {"id": "1", "kind": "relation", "gold": "activates", "predicted": "activates"},
        {"id": "2", "kind": "relation", "gold": "none", "predicted": "activates"},
        {"id": "3", "kind": "relation", "gold": "inhibits", "predicted": "activates"},
        {"id": "4", "kind": "relation", "gold": "activates", "predicted": "activates"},
    ],
}


def test_common_names_no_task():
    """Nothing in `common` asks which task it is; what the study's default is, tasks say."""
    names = "|".join(TASKS)
    for path in sorted((ROOT / "common").rglob("*.py")):
        text = re.sub(r'""".*?"""|#[^\n]*', "", path.read_text(encoding="utf-8"), flags=re.S)
        asked = re.findall(rf"(?:import|from) (?:{names})\b|[\"'](?:{names})[\"']", text)
        assert not asked, f"{path}: {asked}"


@pytest.fixture(scope="module")
def toy(tmp_path_factory, checkpoint):
    """A copy of `common` with the toy task beside it, its data and a model."""
    root = tmp_path_factory.mktemp("toy")
    shutil.copytree(ROOT / "common", root / "common", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    files = re.findall(r"`Toy/([\w.-]+)`:\n\n```python\n(.*?)```", text, re.S)
    assert [name for name, _ in files] == ["task.py", "fine-tuning.py"]
    (root / "Toy").mkdir()
    for name, code in files:
        (root / "Toy" / name).write_text(code, encoding="utf-8")
    script = (root / "Toy" / "fine-tuning.py").read_text(encoding="utf-8")
    own = re.search(r"^parse_args, main = .*$", script, re.M)[0]
    call = re.search(r"^parse_args, main = cli\.script\(\n.*?^\)$", text, re.M | re.S)[0]
    (root / "Toy" / "probing.py").write_text(script.replace(own, call), encoding="utf-8")
    attention = script.replace(", demo={}", "")
    (root / "Toy" / "attention.py").write_text(attention, encoding="utf-8")
    (root / "data").mkdir()
    for split, n in (("train", 40), ("dev", 12), ("test", 14)):
        rows = (("gene" if i % 3 else "cell") + f"\tthe {'IL-2 gene' if i % 3 else 'T cell'} {i}"
                for i in range(n))  # fmt: skip
        (root / "data" / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root, checkpoint("bert")


def run(root, *command):
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=root, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_third_task_needs_no_change_in_common(toy):
    root, model = toy
    flags = ("--data_dir", root / "data", "--device", "cpu", "--precision", "fp32",
             "--learning_rate", "1e-3")  # fmt: skip
    base = ("--model_name", model)
    shown = run(root, "Toy/fine-tuning.py", *flags, *base, "--training_size", "50",
                "--num_train_epochs", "20")  # fmt: skip
    assert "Toy fine-tuning" in shown and "probing.py --training_size 50" in shown
    run(root, "-m", "common.study", "--tasks", "Toy", "--training_sizes", "0,50",
        "--model_names", model, "--steps", "probing,attention", "--controls",
        "--", *flags[:-2])  # fmt: skip
    logs = {step: next(root.rglob(f"*50-seed-42-{step}.log")).read_text()
            for step in ("probing", "attention")}  # fmt: skip
    assert "selectivity" in logs["probing"] and "report --tasks Toy" in logs["attention"]
    cell = next((root / "Toy" / "results" / "data").glob("*/50/seed-42"))
    found = read_json(cell / "fine-tuning" / "metrics.json")
    assert found["test_majority_accuracy"] == pytest.approx(9 / 14) and found["trained"]
    history = pd.read_csv(cell / "fine-tuning" / "history.csv")
    loss = history[history["metric"] == "loss"]["value"]
    assert loss.iloc[-1] < loss.iloc[0]
    for folder, target in (("probing", "task"), ("probing-control", "control")):
        assert {target} == {*pd.read_csv(cell / folder / "layers.csv")["target"]}
    untrained = cell.parents[1] / "random" / cell.name  # the study made it
    for result in ("probing", "probing-control", "attention"):
        assert (untrained / result / "metrics.json").is_file()
    page = (root / "Toy" / "results" / "data" / "report" / "report.md").read_text()
    assert page.startswith("# Toy on data") and "50 %" in page
