"""The pages: links, flags and defaults, and every command; those of a demo are really run.

A block of commands is fenced as `bash`. It is run here, with the other blocks of its page, in their
order, unless it begins with a comment, `# needs ...` or `# takes ...`. Of a block that needs
something, the lines with `--demo` are run. What a program prints is fenced as `text`.
"""

import contextlib
import functools
import importlib
import io
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import transformers

from common import cli, models
from common.cli import ROOT
from common.demo import miniatures
from common.models import families, loading
from common.report import __main__ as report
from Instruct import demo_data as instructions
from tests.helpers import TASKS

PAGES = ["README.md", *(f"{task}/README.md" for task in TASKS)]
PAGES += [f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))]
STEPS = ("fine-tuning", "probing", "attention", "ablation", "predict")
# How lines begin that run no script of ours.
SHELL = ("git", "pip", "source", "export", "printf", "echo", "#", "hf", "sbatch")
COMMAND = re.compile(r"(?:python|torchrun --nproc_per_node \d+) (-m common\.\w+|\w+/[\w-]+\.py)"
                     r"((?: (?:'[^']*'|[^\s`|)&']+))*)")  # fmt: skip


@functools.cache
def text(page):
    """A page; what stands after `cd <TASK>`, as it is typed in the repository's folder."""
    whole = (ROOT / page).read_text(encoding="utf-8").replace("\ncd ..\n", "\n")
    there = re.compile(r"^cd (\w+)\n((?:(?:python [\w-]+\.py|#).*\n)+)", re.M)
    return there.sub(lambda m: m[2].replace("python ", f"python {m[1]}/"), whole)


def prose(page):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text(page), flags=re.M | re.S)


def blocks(page):
    """[(language, text)] of the fenced blocks, commands on one line each."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text(page), re.M | re.S)
    return [(kind, re.sub(r"(\\|\|)\n *", lambda m: "| " * (m[1] == "|"), body))
            for kind, body in found]  # fmt: skip


def commands(found):
    """[(script or module, [its arguments])] of a text, with examples of what stands in <>."""
    found = re.sub(r"(\w+)=(?:FOLDER|FILE)\b", r"\1=\1", found)
    for given, example in (("<size>", "30"), ("<name>", "biogpt"), (" ...", "")):
        found = found.replace(given, example)
    return [(script, shlex.split(flags)) for script, flags in COMMAND.findall(found)]


def parser_of(script):
    """The module that holds `parse_args`."""
    name = script.removeprefix("-m ").removesuffix(".py").replace("/", ".")
    return report if name == "common.report" else importlib.import_module(name)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    for link in (link for link in links if "://" not in link):
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", prose(target), re.M)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in slugs, f"{page}: {link}"
    for path in re.findall(
        r"`((?:common|tests|docs|NER|NLI|QA|Instruct|Classification)/[\w./-]*)`", prose(page)
    ):
        assert (ROOT / path).exists() or "/results" in path, f"{page}: {path}"


def test_the_first_page_is_short_and_its_picture_small():
    assert len(text("README.md").splitlines()) <= 130
    assert 10_000 < (ROOT / "docs" / "results" / "NER" / "ablation.png").stat().st_size < 150_000


# --- Commands ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_understood(page, tmp_path, monkeypatch):
    """Each command of a page, in a block or a line, by its script's own parser."""
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"(\w+)=(?:FOLDER|FILE)\b", text(page)):  # the user's
        (tmp_path / name).mkdir(exist_ok=True)
    kinds = {kind for kind, _ in blocks(page)}
    assert kinds <= {"bash", "text", "python"} and not re.search(r"\n\n {4}\S", prose(page))
    for script, flags in commands(re.sub(r"(\\|\|)\n *", "", text(page))):
        try:
            parser_of(script).parse_args(flags)
        except (SystemExit, cli.UserError) as error:
            pytest.fail(f"{page}: {script} {flags}: {error}")
    for kind, body in blocks(page):
        for line in body.splitlines() if kind == "bash" else ():
            benchmark = re.match(r"python (tests/benchmarks/\w+\.py)", line)
            assert not benchmark or (ROOT / benchmark[1]).is_file(), f"{page}: {line}"
            known = COMMAND.match(line) or benchmark or line.startswith(("python -m ", *SHELL))
            assert known, f"{page}: {line}"


def of_a_demo(page):
    """The commands of the blocks that are run."""
    run = []
    for kind, body in blocks(page):
        if kind == "bash" and not body.startswith("# takes"):
            lines = body.splitlines()
            run += lines if lines[0][:7] != "# needs" else [x for x in lines if " --demo" in x]
    return run


@pytest.fixture(scope="module")
def quick(tmp_path_factory, checkpoint):
    """A demo in seconds: models of one layer that were never trained, few examples, no figures."""
    kinds = {"biobert": "bert", "biogpt": "biogpt", "biom-electra-base": "electra"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(miniatures, "miniature", lambda name, cache: checkpoint(kinds[name]))
        patch.setattr("matplotlib.figure.Figure.savefig", lambda _, path, **how: path.touch())
        for task in ("NER", "NLI", "Classification"):
            demo = importlib.import_module(f"{task}.demo_data")
            few = {split: rows[:: len(rows) // 40] for split, rows in demo.splits().items()}
            patch.setattr(demo, "splits", lambda *given, few=few: few)
        rows, *about = instructions.read()
        few = {split: own[:: len(own) // 40] for split, own in rows.items()}
        patch.setattr(instructions, "read", lambda: (few, *about))
        yield tmp_path_factory.mktemp("out")


LESS = {"fine-tuning": ("--num_train_epochs", "1"), "probing": ("--max_train_examples", "60"),
        "attention": ("--max_examples", "20"), "ablation": ("--max_examples", "20"),
        "QA/fine-tuning.py": ("--doc_stride", "32")}  # fmt: skip


@pytest.mark.parametrize("page", [page for page in PAGES if of_a_demo(page)])
def test_the_demo_of_a_page(page, quick, monkeypatch, capsys):
    for line in of_a_demo(page):
        ((script, flags),) = commands(line)
        out = quick / (script[: script.find("/")] if "/" in script else "")
        flags = [flag.replace("QA/results", str(out)).replace("bioasq-demo", str(out / "bioasq"))
                 for flag in flags]  # fmt: skip
        if "| python" in line:
            typed = subprocess.run(line.split("| python")[0], shell=True, capture_output=True)
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(typed.stdout)))
        step = script.split("/")[-1].removesuffix(".py")
        flags += [*LESS.get(step, ()), *LESS.get(script, ())]
        if step != "bioasq":
            flags += ["--output_dir", str(out)]
        capsys.readouterr()
        assert parser_of(script).main(flags) == 0, line
        shown = capsys.readouterr().out
        if step == "predict":
            assert len(shown.splitlines()) == len(typed.stdout.splitlines())


def test_the_demo_of_adapters(quick):
    """No page has it: they are trained, and a probe reads the model with them."""
    out = quick / "adapters"
    flags = ["--demo", "--lora", "--model_name", "biogpt", "--training_size", "10"]
    for step in ("fine-tuning", "probing"):
        given = [*flags, "--output_dir", str(out), *LESS[step]]
        assert parser_of(f"Instruct/{step}.py").main(given) == 0
    (cell,) = out.glob("demo/biogpt/10/seed-42")
    assert (cell / "fine-tuning-lora" / "checkpoint" / "adapter_model.safetensors").is_file()
    assert (cell / "probing-lora" / "metrics.json").is_file()


# --- Flags and models ----------------------------------------------------------------------------


class WithDemo(tuple):
    """A default, and that with --demo."""


def rows(page, title):
    """{first flag or name of a row: its other cells} of the tables below a title."""
    body = re.search(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", text(page), re.M | re.S)[1]
    found = re.findall(r"^\| `([^\s`]+)[^|]*\|(.*)\|$", body, re.M)
    return {name: [cell.strip() for cell in cells.split(" | ")] for name, cells in found}


def flags_of(script, monkeypatch, *argv):
    """{flag: its default, or those without and with --demo} of a script's parser."""
    made, original = [], cli.Parser.parse_args
    monkeypatch.setattr(sys, "argv", ["script.py"])
    monkeypatch.setattr(
        cli.Parser, "parse_args", lambda self, argv=None: made.append(self) or original(self, argv)
    )
    with contextlib.suppress(SystemExit):
        parser_of(script).parse_args(list(argv))
    parser = made[0]
    flags = {a.option_strings[0]: a.default for a in parser._actions if a.option_strings[:1]}
    del flags["-h"]
    both = {}
    for name, values in parser.fallbacks.items():
        values = values(original(parser, list(argv))) if callable(values) else values
        both[f"--{name}"] = None if values == (None, None) else WithDemo(values)
    return {flag: both.get(flag, default) for flag, default in flags.items()}


def check_defaults(told, defaults, where):
    """Each flag once, its default in the first cell: -, off, or what stands in backticks."""
    assert told.keys() == defaults.keys(), f"{where}: {told.keys() ^ defaults.keys()}"
    for flag, (cell, *_) in told.items():
        given = defaults[flag]
        if given is None or given is False:
            assert cell == ("–" if given is None else "off"), f"{where}: {flag}"
            continue
        if isinstance(given, WithDemo):
            wanted = list(dict.fromkeys(given))
        else:
            wanted = [",".join(map(str, given)) if isinstance(given, list | tuple) else given]
        stands = [value for value in re.findall(r"`([^`]+)`", cell) if value != "--demo"]
        same = [type(w)(s) == w for s, w in zip(stands, wanted, strict=True)]
        assert all(same), f"{where}: {flag} {cell}, not {wanted}"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("task", TASKS)
def test_flags_of_a_task(task, step, monkeypatch):
    told = rows("docs/flags.md", "All scripts") | rows("docs/flags.md", f"{step}.py")
    for flag, (steps, *cells) in rows(f"{task}/README.md", "Flags").items():
        if (step in steps) != steps.startswith("all"):  # "all but predict"
            told[flag] = cells
    if step == "predict":
        del told["--max_length"]
    given = ("--input", "x") if step == "predict" else ()
    check_defaults(told, flags_of(f"{task}/{step}.py", monkeypatch, *given), task)


def test_flags_of_the_other_scripts(monkeypatch):
    study = rows("docs/grid.md", "The study")
    del study["--"]
    check_defaults(study, flags_of("-m common.study", monkeypatch), "study")
    told = rows("docs/grid.md", "The report")
    check_defaults(told, flags_of("-m common.report", monkeypatch), "report")
    build = rows("Instruct/README.md", "Data")
    assert build.keys() == flags_of("Instruct/build.py", monkeypatch).keys()


def test_the_table_of_families():
    """Which heads the library has a class for, by the library."""
    told = rows("docs/models.md", "Families")
    assert {kind: name for kind, (name, *_) in told.items()} == {
        kind: row.name for kind, row in families.TABLE.items()
    }
    for kind, (_, *heads, _) in told.items():
        for head, cell in zip(("sequence", "token", "span", "causal"), heads, strict=True):
            auto = getattr(transformers, loading.AUTO_CLASSES[head])
            known = kind in auto._model_mapping._model_mapping  # without those of our own
            able = head != "causal" or families.TABLE[kind].causal
            assert cell == (("yes" if known else "own") if able else "no"), (kind, head)


def test_the_table_of_models():
    told = rows("docs/models.md", "Short names")
    assert {name: hub_id for name, (hub_id, *_) in told.items()} == models.MODELS


def test_the_tables_of_the_results_are_those_of_the_kept_files():
    command = [sys.executable, ROOT / "docs" / "results" / "tables.py"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    page = text("docs/results.md").splitlines()
    lines = [line for line in printed.splitlines() if line]
    assert len(lines) > 20 and not [line for line in lines if line not in page]
