"""A fine-tuned model on new text: what the run itself predicted, from lines as users have them."""

import importlib
import inspect
import io
import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
import warnings

import pytest

from common import predict
from common import task as contract
from common.cli import ROOT
from common.task import evaluate
from Instruct import parsing
from Instruct import task as instruct
from NER import demo_data, words
from NER.scores import entities, word_class
from QA import task as qa
from tests import tiny
from tests.helpers import (
    TASKS,
    WORDS,
    read_json,
    read_rows,
    run_script,
    write_data,
    write_jsonl,
)
from tests.test_qa_scripts import squad_document, write, write_bioasq

QUICK = ("--device", "cpu", "--precision", "fp32")
LEARN = ("--learning_rate", 3e-3, "--batch_size", 8)


class Made:
    """A fine-tuned model, its run's folder, and what its test split held; the data are gone."""

    def __init__(self, root, task, data, model, *flags, lora=(), test=None):
        self.task, out = task, root / "out"
        self.cell = ("--data_dir", data, "--model_name", model, *lora, "--output_dir", out)
        assert run_script(task, "fine-tuning", *QUICK, *self.cell, *LEARN, *flags) == 0
        (metrics,) = out.rglob("metrics.json")
        self.folder, self.test = metrics.parent, test
        self.rows = read_lines(self.folder / "predictions.jsonl")
        shutil.rmtree(data)

    def predict(self, source, *flags):
        """The lines that predict.py writes into a file."""
        out = source.parent / "answers"
        given = ("--input", source, "--output", out, "--overwrite", *flags)
        assert run_script(self.task, "predict", *QUICK, *self.cell, *given) == 0
        return out.read_text(encoding="utf-8").split("\n")[:-1]

    def objects(self, source, *flags):
        return [json.loads(line) for line in self.predict(source, *flags)]


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def lines(path, some):
    path.write_text("".join(f"{line}\n" for line in some), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory, checkpoint):
    """`made(task, kind)`: a model of the task, made once."""
    known = {}

    def make(task, kind):
        if (task, kind) not in known:
            root = tmp_path_factory.mktemp(f"{task}-{kind}")
            known[task, kind] = MAKE[task](root, checkpoint(kind))
        return known[task, kind]

    return make


def make_ner(root, model):
    data = write_data(root / "data", "NER", 60, 10, 40)
    test = read_rows(data, "NER")["test"]
    if model.name == "gpt2":  # no word's first piece is the blank before it alone
        texts = [" " + word for some in WORDS.values() for word in some]
        model = tiny.make("gpt2", root / "gpt2", layers=1, words=texts, pieces=400)
    scheme = "iob2" if model.name == "gpt2" else "io"
    return Made(root, "NER", data, model, "--label_scheme", scheme, "--max_length", 40,
                "--num_train_epochs", 6, test=test)  # fmt: skip


def make_nli(root, model):
    data = write_data(root / "data", "NLI", 90, 15, 30)
    test = read_rows(data, "NLI")["test"]
    return Made(root, "NLI", data, model, "--max_length", 40, "--num_train_epochs", 12, test=test)


def make_qa(root, model):
    (root / "data").mkdir()
    for split in ("train", "dev", "test"):
        write(root / "data" / f"{split}.json", squad_document(18, split))
    test = [
        {"id": q["id"], "question": q["question"], "context": p["context"]}
        for article in squad_document(18, "test")["data"]
        for p in article["paragraphs"] for q in p["qas"]
    ]  # fmt: skip
    return Made(root, "QA", root / "data", model, "--max_length", 100, "--doc_stride", 16,
                "--num_train_epochs", 6, test=test)  # fmt: skip


ASKED = {"verdicts": "qa", "open": "free_qa"}


def make_instruct(root, model):
    data = root / "data"
    data.mkdir()
    for split in ("train", "dev", "test"):
        rows = [
            {"id": f"{split}-{i}", "group": f"{split}-{i}", "unit": i, "source": source,
             "kind": kind, "output": gold,
             "instruction": f"{source} {i % 4} ?", "input": f"word {i} gene\nand cell",
             "gold": [gold] if kind == "free_qa" else gold}
            for source, kind in ASKED.items() for i in range(8) for gold in [("yes", "no")[i % 2]]
        ]  # fmt: skip
        write_jsonl(data / f"{split}.jsonl", rows)
    about = {"labels": ["yes", "no"], "data_sha256": None}
    sources = {name: {"kind": kind} | about for name, kind in ASKED.items()}
    write_jsonl(data / "units.jsonl", [{"source": name, "strata": [""] * 8} for name in ASKED])
    write(data / "build.json", {"sources": sources, "prompt_form": "plain", "ner_form": "tags"})
    lora = ["--lora"] * (model.name == "llama3")
    return Made(root, "Instruct", data, model, "--num_train_epochs", 8, lora=lora, test=rows)


MAKE = {"NER": make_ner, "NLI": make_nli, "QA": make_qa, "Instruct": make_instruct}


# --- What the run predicted of its test split


def test_the_modules_have_what_the_story_asks_for():
    for task in TASKS:
        module = predict.of(contract.load(task))
        assert module.FORMS and all(isinstance(ends, tuple) for ends in module.FORMS.values())
        for name in ("add_arguments", "read", "answer"):
            own, asked = getattr(module, name), getattr(predict.NewText, name)
            assert own.__doc__ or name == "add_arguments", f"{task}.new_text.{name}"
            expected = list(inspect.signature(asked).parameters)[1:]  # without self
            assert list(inspect.signature(own).parameters) == expected, f"{task}.{name}"


@pytest.mark.parametrize("kind", ("bert", "gpt2", "biogpt"))
def test_entities_are_those_of_the_run(made, tmp_path, kind):
    model = made("NER", kind)
    gold = [row["predicted"] for row in model.rows]
    assert any(tag != "O" for tags in gold for tag in tags)
    texts = [" ".join(row["tokens"]) for row in model.test]
    columns = [
        "".join(f"{word}\tx\tO\n" for word in row["tokens"])
        for row in [{"tokens": []}, *model.test]
    ]
    tagged = [
        "".join(f"{word}\t{tag}\n" for word, tag in zip(row["tokens"], tags, strict=True))
        for row, tags in zip(model.test, gold, strict=True)
    ]
    as_columns = lines(tmp_path / "test.conll", columns)
    for source in (as_columns, lines(tmp_path / "test.txt", texts)):
        found = model.predict(source, "--output_form", "conll")
        assert "\n".join(found) + "\n" == "\n".join(tagged) + "\n"
        for text, row, tags, sentence in zip(
            texts, model.objects(source), gold, model.test, strict=True
        ):
            ends = [0]
            for word in sentence["tokens"]:
                ends.append(ends[-1] + len(word) + 1)
            wanted = sorted((ends[a], ends[b] - 1, k) for k, a, b in entities(tuple(tags)))
            assert [(e["start"], e["end"], e["type"]) for e in row["entities"]] == wanted
            assert all(e["text"] == text[e["start"] : e["end"]] for e in row["entities"])


@pytest.mark.parametrize("kind", ("bert", "gpt2"))
def test_labels_are_those_of_the_run(made, tmp_path, kind):
    model = made("NLI", kind)
    gold = [row["predicted"] for row in model.rows]
    pairs = [(row["sentence1"], row["sentence2"]) for row in model.test]
    sources = [lines(tmp_path / "pairs.tsv", ["\t".join(pair) for pair in pairs])]
    for n, names in enumerate((("premise", "hypothesis"), ("sentence1", "sentence2"))):
        rows = [json.dumps(dict(zip(names, pair, strict=True))) for pair in pairs]
        sources.append(lines(tmp_path / f"{n}.jsonl", rows))
    for source in sources:
        found = model.objects(source)
        assert [row["label"] for row in found] == gold and len(set(gold)) > 1
        for row in found:
            shares = row["probabilities"]
            assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
            assert max(shares, key=shares.get) == row["label"]


def test_answers_are_those_of_the_run(made, tmp_path):
    model = made("QA", "bert")
    contexts = {q["id"]: q["context"] for q in model.test}
    source = lines(tmp_path / "new.jsonl", map(json.dumps, model.test))
    threshold = read_json(model.folder / "metrics.json")["null_threshold"]
    for row, gold in zip(model.objects(source), model.rows, strict=True):
        assert [row[key] for key in ("id", "start", "end")] == [
            gold[key] for key in ("id", "start", "end")
        ]
        assert row["null_difference"] == pytest.approx(gold["null_difference"], abs=1e-4)
        held = contexts[row["id"]][row["start"] : row["end"]] if row["answer"] else ""
        assert row["answer"] == held
        assert (row["start"] is None) == (row["null_difference"] > threshold)
        probable = {(e["start"], e["end"]): e["probability"] for e in gold["n_best"]}
        assert row["probability"] == pytest.approx(probable[row["start"], row["end"]], abs=1e-5)
    anonymous = [json.dumps({k: v for k, v in q.items() if k != "id"}) for q in model.test[:2]]
    source = lines(tmp_path / "anonymous.jsonl", [anonymous[0], "", anonymous[1]])
    found = model.predict(source)
    assert [line and json.loads(line)["id"] for line in found] == [1, "", 3]


def test_places_in_text_that_is_not_composed(made, tmp_path):
    """The model reads composed text, as in training; the places are those of the user's text."""
    model = made("QA", "bert")
    rows = [q | {"context": "caf\u00e9 \u00fc " + q["context"]} for q in model.test]
    apart = [{k: unicodedata.normalize("NFD", str(v)) for k, v in row.items()} for row in rows]
    found = [model.objects(lines(tmp_path / f"{n}.jsonl", map(json.dumps, given)))
             for n, given in enumerate((rows, apart))]  # fmt: skip
    for one, other, row in zip(*found, apart, strict=True):
        assert one["null_difference"] == other["null_difference"]
        assert unicodedata.normalize("NFC", other["answer"]) == one["answer"]
        if other["answer"]:
            assert row["context"][other["start"] : other["end"]] == other["answer"]


def test_no_answer_is_withheld_below_the_threshold(made, tmp_path, monkeypatch):
    model = made("QA", "bert")
    source, find = lines(tmp_path / "new.jsonl", map(json.dumps, model.test)), predict.find
    for threshold, none in ((-1e9, True), (1e9, False)):

        def moved(*given, threshold=threshold):
            title, how = find(*given)
            return title, how._replace(metrics=how.metrics | {"null_threshold": threshold})

        monkeypatch.setattr(predict, "find", moved)
        found = model.objects(source)
        assert {row["answer"] == "" for row in found} == {none}
        assert {row["start"] is None for row in found} == {none}


def test_a_bioasq_model_always_answers(tmp_path, checkpoint, monkeypatch):
    """The best answer of each pair of a question and a snippet, before a question's are merged."""
    data, seen, rows = write_bioasq(tmp_path / "bioasq"), [], qa.rows

    def watched(data, examples, predictions):
        seen.extend(zip(examples.get("test", ()), predictions.get("test", ()), strict=True))
        return rows(data, examples, predictions)

    with monkeypatch.context() as patch:
        patch.setattr(qa, "rows", watched)
        model = Made(tmp_path, "QA", data, checkpoint("bert"), "--max_length", 100, "--doc_stride",
                     16, "--num_train_epochs", 1)  # fmt: skip
    pairs = seen[: len(seen) // 2]  # after them comes the baseline
    questions = [{"question": e.question, "context": e.context} for e, _ in pairs]
    found = model.objects(lines(tmp_path / "new.jsonl", map(json.dumps, questions)))
    assert len(found) > 10
    for row, (example, prediction) in zip(found, pairs, strict=True):
        best = prediction.n_best[0]
        assert (row["start"], row["end"]) == (best["start"], best["end"])
        assert row["answer"] == example.context[row["start"] : row["end"]] != ""
        assert row["probability"] == pytest.approx(best["probability"], abs=1e-5)
    empty = json.dumps({"question": "What ?", "context": " "})
    (row,) = model.objects(lines(tmp_path / "empty.jsonl", [empty]))
    assert row["answer"] == "" and row["start"] is row["probability"] is None


@pytest.mark.parametrize("kind", ("gpt2", "llama3"))
def test_written_answers_are_those_of_the_run(made, tmp_path, kind):
    model = made("Instruct", kind)
    source = lines(tmp_path / "prompts.jsonl", map(json.dumps, model.test))
    found = [row["answer"] for row in model.objects(source)]
    assert any(found)
    read = [parsing.read(text, row, ["yes", "no"]) for text, row in zip(found, model.test,
                                                                       strict=True)]  # fmt: skip
    for (answer, failed), row, gold in zip(read, model.test, model.rows, strict=True):
        assert failed == gold["parse_failure"]
        if row["kind"] == "qa":
            assert answer == gold["predicted"]
    pairs = zip(model.test, read, strict=True)
    scored = [instruct.row(NoNegative, *pair) for pair in pairs]
    assert evaluate(instruct, scored) == evaluate(instruct, model.rows)
    free = [i for i, row in enumerate(model.test) if row["source"] == "open"]
    source = lines(tmp_path / "open.jsonl", [json.dumps(model.test[i]) for i in free])
    own = [row["answer"] for row in model.objects(source, "--source", "open")]
    assert own == [found[i] for i in free]
    (short,) = model.objects(lines(tmp_path / "one.jsonl", [json.dumps(model.test[0])]),
                             "--max_new_tokens", 1)  # fmt: skip
    assert found[0].startswith(short["answer"]) and len(short["answer"]) <= len(found[0])


class NoNegative:
    sources = dict.fromkeys(ASKED, {})


# --- Words


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Interleukin-2 (IL-2) binds.", "Interleukin-2|(|IL-2|)|binds|."),
        ("p50/p65, i.e. NF-kappaB; 5%", "p50/p65|,|i.e.|NF-kappaB|;|5|%"),
        ("the cells' 5'-flanking region's end", "the|cells|'|5'-flanking|region|'s|end"),
        ("PU.1 at 0.05 vs. E. coli. It", "PU.1|at|0.05|vs.|E.|coli|.|It"),
        ("in vitamin E.", "in|vitamin|E|."),
        ("CD4+ Ca2+ +/- 'normal' ``x''", "CD4+|Ca2+|+/-|'|normal|'|``|x|''"),
        ("25-(OH)2-D3 1:10", "25-|(|OH|)|2-D3|1|:|10"),
        ("  \u00e9t\u00e9\u00a0\u03b1-chain\t. ", "\u00e9t\u00e9|\u03b1-chain|."),
        ("gene... '", "gene|...|'"),
        (" \t ", ""),
    ],
)
def test_words(text, wanted):
    spans = words.split(text)
    assert "|".join(text[a:b] for a, b in spans) == wanted
    flat = [place for span in spans for place in span]
    assert flat == sorted(flat) and all(a < b for a, b in spans)
    assert "".join(text.split()) == wanted.replace("|", "")


def test_the_demos_words_come_back_from_text():
    for row in demo_data.splits()["test"]:
        text = " ".join(row["tokens"])
        for line in (text, text.removesuffix(" .") + "."):
            assert [line[a:b] for a, b in words.split(line)] == row["tokens"]


# --- Lines: empty, long, many, wrong


EMPTY = {"NER": "IL-2 gene .", "NLI": "a b\tc",
         "Instruct": json.dumps({"instruction": "verdicts 1 ?"}),
         "QA": json.dumps({"question": "Which ?", "context": "the IL-2 gene"})}  # fmt: skip


@pytest.mark.parametrize("task", EMPTY)
def test_an_empty_line_is_an_empty_line(made, tmp_path, task):
    model = made(task, "gpt2" if task == "Instruct" else "bert")
    found = model.predict(lines(tmp_path / "some", ["", EMPTY[task], " \t", "", EMPTY[task]]))
    assert [bool(line) for line in found] == [False, True, False, False, True]
    assert model.predict(lines(tmp_path / "none", ["", ""])) == ["", ""]
    assert model.predict(lines(tmp_path / "nothing", [])) == []


def test_windows_lines_and_a_byte_order_mark(made, tmp_path):
    model = made("NER", "bert")
    text = " ".join(model.test[0]["tokens"])
    (tmp_path / "dos.txt").write_bytes(b"\xef\xbb\xbf" + f"{text}\r\n{text}".encode())
    assert model.predict(tmp_path / "dos.txt") == 2 * model.predict(
        lines(tmp_path / "unix.txt", [text])
    )


@pytest.mark.parametrize(
    ("form", "line"),
    (
        ("tsv", "A man runs.\tHe moves."),
        ("jsonl", json.dumps({"hypothesis": "He moves.", "premise": "A man runs."})),
        ("jsonl", json.dumps({"sentence2": "He moves.", "sentence1": "A man runs."})),
    ),
)
def test_the_premise_comes_first(form, line):
    """Held apart from a model: a miniature's answer need not depend on it."""
    read = importlib.import_module("NLI.new_text").read
    assert list(read([line.encode() + b"\n"], "x", form)) == [("A man runs.", "He moves.")]


def test_the_order_is_kept_and_no_more_is_read_than_is_answered(made, tmp_path, monkeypatch):
    model, read = made("NLI", "bert"), []
    some = [f"{'word ' * (i % 7)}{i}\tnausea {i * 'river '}" for i in range(25)]
    source = lines(tmp_path / "pairs.tsv", some)
    whole = model.objects(source)
    module = importlib.import_module("NLI.new_text")
    answer, sizes = module.answer, []

    def lazy(file, name, form, read_lines=module.read):
        def counted():
            for line in file:
                read.append(line)
                yield line

        return read_lines(counted(), name, form)

    def seen(model, tokenizer, made, items, *more):
        sizes.append((len(read), len(items)))
        return answer(model, tokenizer, made, items, *more)

    monkeypatch.setattr(predict, "CHUNK", 4)
    monkeypatch.setattr(module, "read", lazy)
    monkeypatch.setattr(module, "answer", seen)
    parts = model.objects(source)
    assert sizes == [*((4 * i, 4) for i in range(1, 7)), (25, 1)]
    assert [row["label"] for row in parts] == [row["label"] for row in whole]
    for one, other in zip(parts, whole, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


@pytest.mark.parametrize(
    ("task", "line", "noted"),
    [
        ("NER", "protein " * 100, r"\d+ truncated words, 1 truncated sentences"),
        ("NLI", f"{'a ' * 100}\tb", r"1 truncated pairs, \d+ truncated tokens"),
        ("QA", json.dumps({"question": "why " * 200, "context": "gene " * 300}),
         "1 truncated questions"),
        ("Instruct", json.dumps({"instruction": "open", "input": "gene " * 300}), r"\d+ cut words"),
    ],
)  # fmt: skip
def test_what_is_cut_is_counted(made, tmp_path, caplog, task, line, noted):
    model = made(task, "gpt2" if task == "Instruct" else "bert")
    source = lines(tmp_path / "long", ["", line])
    caplog.set_level("INFO")
    assert model.predict(source)[1]
    assert re.search(rf"seed 42: 2 inputs, 1 empty, {noted}$", caplog.messages[-1])


SECRET = "a patient's words"
BAD = {
    "no pair": ("NLI", "x.tsv", SECRET, ("1 columns, not 2", "tab")),
    "no label in a pair": ("NLI", "x.jsonl", json.dumps({"premise": SECRET}),
                           ("'hypothesis' is missing", "sentence1")),
    "a number": ("NLI", "x.jsonl", json.dumps({"premise": SECRET, "hypothesis": 3}),
                 ("'hypothesis' is not a string",)),
    "no JSON": ("QA", "x.jsonl", SECRET, ("not valid JSON",)),
    "a list": ("QA", "x.jsonl", json.dumps([SECRET]), ("not a JSON object",)),
    "no passage": ("QA", "x.jsonl", json.dumps({"question": SECRET}), ("'context' is missing",)),
    "no instruction": ("Instruct", "x.jsonl", json.dumps({"input": SECRET}),
                       ("'instruction' is missing",)),
    "no room": ("Instruct", "x.jsonl", json.dumps({"instruction": SECRET * 40}),
                ("instruction alone has", "shorter")),
    "JSON for text": ("NER", "x.jsonl", json.dumps({"tokens": [SECRET]}), ("--input_form conll",)),
    "no word": ("NER", "x.conll", f"\t{SECRET}", ("has no word",)),
    "half a character": ("QA", "x.jsonl", '{"question": "\\ud800"}', ("half a character",)),
}  # fmt: skip


def refused(model, capsys, *flags):
    """The one message of a call that a user can mend; nothing on the standard output."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run_script(model.task, "predict", *QUICK, *model.cell, *flags)
    shown = capsys.readouterr()
    assert stopped.value.code == 2 and shown.err.count("error: ") == 1 and not shown.out
    return shown.err[shown.err.index("error: ") :]


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_line(made, tmp_path, capsys, fault):
    task, name, line, parts = BAD[fault]
    model = made(task, "gpt2" if task == "Instruct" else "bert")
    good = {".jsonl": json.dumps({"question": "a", "context": "b", "premise": "a", "input": "",
                                  "hypothesis": "b", "instruction": "c"})}  # fmt: skip
    first = good.get(name[-6:], "a\tb") if task != "NER" else "IL-2"
    source, out = lines(tmp_path / name, [first, line, first]), tmp_path / "out"
    message = refused(model, capsys, "--input", source, "--output", out)
    assert f"{source}:2" in message and all(part in message for part in parts), message
    assert "patient" not in message and list(tmp_path.iterdir()) == [source]


def test_bytes_that_are_no_text(made, tmp_path, capsys):
    (tmp_path / "x.txt").write_bytes("IL-2\n\u00e9t\u00e9\n".encode("latin-1"))
    message = refused(made("NER", "bert"), capsys, "--input", tmp_path / "x.txt")
    assert f"{tmp_path / 'x.txt'}:2 is not UTF-8 (byte 1" in message


# --- Files and the standard streams


def test_files(made, tmp_path, capsys):
    model = made("NLI", "bert")
    source, out = lines(tmp_path / "x.tsv", ["a\tb"]), tmp_path / "out"
    given = ("--input", source, "--output", out)
    out.write_text("earlier")
    assert "--overwrite" in refused(model, capsys, *given) and out.read_text() == "earlier"
    lines(source, ["a\tb", "a"])
    refused(model, capsys, *given, "--overwrite")
    assert out.read_text() == "earlier" and {*tmp_path.iterdir()} == {source, out}
    assert "give a file" in refused(model, capsys, *given[:3], tmp_path)
    assert "give a file" in refused(model, capsys, *given[:3], tmp_path / "no" / "out")
    message = refused(model, capsys, "--input", tmp_path / "nothing")
    assert f"--input {tmp_path / 'nothing'}" in message and "No such file" in message
    assert "--input" in refused(model, capsys)  # it is needed


def test_standard_streams(made, tmp_path, monkeypatch, capsys):
    model = made("NER", "bert")
    text = " ".join(model.test[0]["tokens"]) + " \u03b2"
    wanted = model.predict(lines(tmp_path / "x.txt", [text]))
    stdin = io.TextIOWrapper(io.BytesIO(f"{text}\n\n".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    capsys.readouterr()
    assert run_script("NER", "predict", *QUICK, *model.cell, "--input", "-") == 0
    assert capsys.readouterr().out == f"{wanted[0]}\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    assert "standard input:1 is not UTF-8" in refused(model, capsys, "--input", "-")


def test_a_closed_pipe_ends_quietly(made, tmp_path):
    """As a file, in the task's folder; `| head` has seen enough after a line."""
    model = made("NLI", "bert")
    source = lines(tmp_path / "x.tsv", ["a\tb"] * 3500)
    command = [sys.executable, "predict.py", *QUICK, *model.cell, "--input", source]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*map(str, command)], cwd=ROOT / "NLI", env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert json.loads(process.stdout.readline())["label"]
        process.stdout.close()
        shown = process.stderr.read()
        assert process.wait() == 0, shown
    assert "Error" not in shown and "inputs" not in shown  # it did not go on to the end


def test_interrupted(made, tmp_path, monkeypatch, capsys):
    def interrupt(*given):
        raise KeyboardInterrupt

    model, source = made("NLI", "bert"), lines(tmp_path / "x.tsv", ["a\tb"])
    monkeypatch.setattr(importlib.import_module("NLI.new_text"), "answer", interrupt)
    with pytest.raises(SystemExit) as stopped:
        model.predict(source)
    assert stopped.value.code == 130 and "type the same command" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [source]


# --- Which model


def test_without_a_model(made, tmp_path, capsys):
    model, source = made("NER", "bert"), lines(tmp_path / "x.txt", ["IL-2"])
    message = refused(model, capsys, "--input", source, "--training_size", 0)
    assert "--training_size" in message and "10, 30, 50, 100" in message
    message = refused(model, capsys, "--input", source, "--training_size", 30)
    (command,) = re.findall(r"python (\S*NER/fine-tuning\.py .*)", message)
    for part in ("--training_size 30", f"--model_name {model.cell[3]}", "--data_dir", "out"):
        assert part in command
    assert "--input" not in command and "--output_form" not in command
    shutil.copytree(model.cell[-1], tmp_path / "out")
    (checkpoint,) = (tmp_path / "out").rglob("checkpoint")
    shutil.rmtree(checkpoint)
    message = refused(model, capsys, "--input", source, "--output_dir", tmp_path / "out")
    assert "fine-tuning.py" in message and "--overwrite" in message


def test_the_command_that_makes_a_model_has_the_demo_s_own_precision(tmp_path, capsys):
    source = lines(tmp_path / "x.txt", ["Why ?"])
    with pytest.raises(SystemExit):
        run_script("Instruct", "predict", "--demo", "--model_name", "gpt2", "--training_size", 10,
                   "--input", source, "--output_dir", tmp_path)  # fmt: skip
    told = capsys.readouterr().err
    assert "fine-tuning.py --training_size 10" in told and "--precision" not in told


@pytest.mark.parametrize(("task", "kind"), (("NER", "bert"), ("NER", "gpt2"), ("NLI", "bert"),
                                            ("QA", "bert"), ("Instruct", "gpt2")))  # fmt: skip
def test_a_checkpoint_by_itself(made, tmp_path, capsys, caplog, task, kind):
    """It answers as the flags of its run do: its labels, maximum length and precision."""
    model = made(task, kind)
    caplog.set_level("INFO")
    source = lines(tmp_path / "some", [EMPTY[task]] * 2)
    if task in ("NER", "NLI"):
        texts = [row.get("tokens") or [row["sentence1"], row["sentence2"]] for row in model.test]
        source = lines(tmp_path / "some", ["\t "[task == "NER"].join(text) for text in texts])
    wanted, out = model.predict(source), tmp_path / "out"
    config = read_json(model.folder / "config.json")
    where, given = model.folder / "checkpoint", ("--input", source, "--output", out, "--overwrite")
    assert run_script(task, "predict", "--device", "cpu", "--model_name", where, *given) == 0
    assert out.read_text(encoding="utf-8").splitlines() == wanted
    assert f"{config['model']} on data, 100 %, seed 42: " in caplog.messages[-1]
    assert run_script(task, "predict", *QUICK, "--model_name", model.folder, *given) == 0
    assert out.read_text(encoding="utf-8").splitlines() == wanted
    other = "NLI" if task != "NLI" else "NER"
    with pytest.raises(SystemExit) as stopped:
        run_script(other, "predict", "--model_name", where, *given)
    assert stopped.value.code == 2
    assert f"is a model of {task}. Type: python {task}/predict.py" in capsys.readouterr().err
    if task == "Instruct":  # any causal model has such a head
        return
    copied = shutil.copytree(where, tmp_path / "published")  # nothing says what it is
    assert run_script(task, "predict", *QUICK, "--model_name", copied, *given) == 0
    found = out.read_text(encoding="utf-8").splitlines()
    if task == "QA":  # whether "no answer" was learned is not known
        assert json.loads(found[0])["answer"]
    else:
        assert found == wanted
    with pytest.raises(SystemExit):  # a size is asked for, so the result of that size
        run_script(task, "predict", "--model_name", copied, *given, "--training_size", 30)
    assert "fine-tuning.py --training_size 30" in capsys.readouterr().err


def test_a_model_without_such_a_head(tmp_path, capsys, checkpoint):
    source = lines(tmp_path / "x.txt", ["IL-2"])
    with pytest.raises(SystemExit) as stopped:
        run_script("NER", "predict", "--model_name", checkpoint("bert"), "--input", source,
                   "--output_dir", tmp_path)  # fmt: skip
    assert stopped.value.code == 2
    assert "fine-tuning.py --training_size 100" in capsys.readouterr().err


# --- The same models in the library's pipelines, as the READMEs say


@pytest.fixture
def pipeline():
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield lambda *given, **more: transformers.pipeline(*given, device="cpu", **more)


@pytest.mark.parametrize("kind", ("bert", "gpt2"))
def test_the_librarys_pipeline_finds_the_same_entities(made, tmp_path, pipeline, kind):
    """The words with blanks between them; of BERT, those without punctuation within."""
    model = made("NER", kind)
    texts = [" ".join(row["tokens"]) for row in model.test]
    if kind == "bert":
        texts = [text for text in texts if not re.search(r"\w[^\w\s]", text)]
    wanted = [[(e["start"], e["end"], e["type"]) for e in row["entities"]]
              for row in model.objects(lines(tmp_path / "x.txt", texts))]  # fmt: skip
    assert len(texts) > 5 and sum(map(len, wanted)) > 5
    where = str(model.folder / "checkpoint")

    def found(text, tagger):
        return [
            (e["start"] + text[e["start"] : e["end"]].startswith(" "), e["end"], e["entity_group"])
            for e in tagger(text)
        ]

    tagger = pipeline("token-classification", where, aggregation_strategy="first")
    assert [found(text, tagger) for text in texts] == wanted


@pytest.mark.parametrize("kind", ("bert", "gpt2"))
def test_the_tokens_that_begin_a_word_have_the_words_labels(made, tmp_path, pipeline, kind):
    model = made("NER", kind)
    texts = [" ".join(row["tokens"]) for row in model.test]
    tagger = pipeline("token-classification", str(model.folder / "checkpoint"), ignore_labels=[])
    for text, row in zip(texts, model.rows, strict=True):
        # GPT-2's first sub-word holds the blank before its word.
        first = {t["start"]: t["entity"] for t in reversed(tagger(text))}
        labels = [first.get(start - 1, first.get(start)) for start, _ in words.split(text)]
        tags = row["predicted"]
        if kind == "bert":  # its classes have no B- and I-
            tags = [word_class(tag) for tag in tags]
        assert labels == tags


def test_the_librarys_pipeline_takes_no_python_tokenizer(made, pipeline):
    where = str(made("NER", "biogpt").folder / "checkpoint")
    with pytest.raises(ValueError, match="fast tokenizer"):
        pipeline("token-classification", where, aggregation_strategy="first")


@pytest.mark.parametrize("kind", ("bert", "gpt2", "biogpt"))
def test_the_librarys_pipeline_gives_the_same_probabilities(made, tmp_path, pipeline, kind):
    model = made("NLI", kind)
    pairs = [(row["sentence1"], row["sentence2"]) for row in model.test]
    ours = model.objects(lines(tmp_path / "x.tsv", ["\t".join(pair) for pair in pairs]))
    judge = pipeline("text-classification", str(model.folder / "checkpoint"), top_k=None)
    for (premise, hypothesis), row in zip(pairs, ours, strict=True):
        given = {"text": premise, "text_pair": hypothesis}
        if kind == "gpt2":
            given = {"text": premise + judge.tokenizer.eos_token + hypothesis}
        found = {entry["label"]: entry["score"] for entry in judge(given)}
        assert found == pytest.approx(row["probabilities"], abs=1e-4)


def test_there_is_no_pipeline_for_questions(made, pipeline):
    with pytest.raises(KeyError, match="question-answering"):
        pipeline("question-answering", str(made("QA", "bert").folder / "checkpoint"))
