"""Instruct/build.py: the rows it makes of small made-up sets of every form, and bad input."""

import importlib
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from common.results import fingerprint
from Instruct import parsing, prompts
from tests import helpers, tiny

ROOT = Path(__file__).resolve().parents[1]
build = importlib.import_module("Instruct.build")
SECRET = "Zanzibar"  # a word of the data, which no message may show
SPLITS = ("train", "dev", "test")
TAGS = {"O": 0, "B-protein": 1, "I-protein": 2, "B-DNA": 3, "I-DNA": 4}
VERDICTS = ("yes", "no", "maybe")


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def text(i):
    return tiny.SENTENCES[i % len(tiny.SENTENCES)]


def given(i):
    return SPLITS[i % 3]


def relation(i, **more):
    return {"id": f"r{i}", "text": f"<< {text(i)} >> {i}", "label": ("none", "CAUSE")[i % 2]} | more


def classification(i, **more):
    labels = [["alpha"], ["alpha", "beta gamma"], []][i % 3]
    return {"id": f"c{i}", "sentences": [text(i), text(i + 1)], "labels": labels} | more


def verdict(i, **more):
    return {"id": f"q{i}", "question": f"Is it {i}?", "context": text(i),
            "answer": VERDICTS[i % 3]} | more  # fmt: skip


def free(i, **more):
    return {"id": f"f{i}", "question": f"What is {i}?", "answer": f"It is\n {text(i)}"} | more


def squad(path, articles=10, title="title"):
    def qa(a, p, k):
        answers = [{"text": "IL-2", "answer_start": 0}] * (k + 1) if p else []
        return {"id": f"s{a}-{p}-{k}", "question": f"What {k}?", "answers": answers}

    data = [
        {title: f"article {a}", "paragraphs": [
            {"context": text(a), "qas": [qa(a, p, k) for k in range(2)]} for p in range(2)
        ]} for a in range(articles)
    ]  # fmt: skip
    path.write_text(json.dumps({"version": "v2.0", "data": data}), encoding="utf-8")
    return path


def ner(folder):
    for split, n in (("train", 8), ("validation", 3), ("test", 4)):
        rows = []
        for i in range(n):
            words = [*text(i).split(), ";", ":", "a b"]
            tags = [(1, 2, 0, 3, 0)[k % 5] for k in range(len(words))]
            rows.append({"tokens": words, "tags": tags})
        write(folder / f"{split}.jsonl", rows)
    (folder / "label.json").write_text(json.dumps(TAGS))
    return folder


def nli(folder, splits=("train", "dev", "test")):
    labels = ("entailment", "contradiction", "neutral")
    for split in splits:
        rows = [
            {"pairID": f"{split}{i}", "gold_label": labels[i % 3], "sentence1": f"{text(i)} {i}",
             "sentence2": text(i + 1)} for i in range(30)
        ]  # fmt: skip
        write(folder / f"{split}.jsonl", rows)
    return folder


@pytest.fixture
def every(tmp_path):
    """The flags of one source of every form."""
    n = range(60)
    return [
        *("--ner", f"genes={ner(tmp_path / 'ner')}", "--nli", f"pairs={nli(tmp_path / 'nli')}"),
        *("--relation", f"rel={write(tmp_path / 'r.jsonl', [relation(i) for i in n])}"),
        *("--classification", f"cls={write(tmp_path / 'c.jsonl', [classification(i) for i in n])}"),
        *("--qa", f"verdicts={write(tmp_path / 'v.jsonl', [verdict(i) for i in n])}"),
        *("--qa", f"free={write(tmp_path / 'f.jsonl', [free(i) for i in n])}"),
        *("--qa", f"squad={squad(tmp_path / 's.json')}"),
    ]


def made(out):
    rows = {}
    for split in SPLITS:
        lines = (out / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
        rows[split] = [json.loads(line) for line in lines]
    return rows, json.loads((out / "build.json").read_text())


def by_source(rows, source):
    return [row for row in rows if row["source"] == source]


@pytest.mark.parametrize("form", ["tags", "list"])
def test_every_form_is_made_and_read_back(form, every, tmp_path, capsys):
    out = tmp_path / "parent" / "set"
    assert build.main([*every, "--ner_form", form, "--output_dir", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}.jsonl" for name in (*SPLITS, "units")), "build.json", ".gitignore",
    }  # fmt: skip
    assert (out / ".gitignore").read_text() == "*\n"
    rows, about = made(out)
    everything = [row for split in SPLITS for row in rows[split]]
    assert len({row["id"] for row in everything}) == len(everything)
    kinds = {"genes": "ner", "pairs": "nli", "rel": "relation", "cls": "classification",
             "verdicts": "qa", "free": "free_qa", "squad": "free_qa"}  # fmt: skip
    shown = capsys.readouterr().out
    for name, kind in kinds.items():
        entry = about["sources"][name]
        assert entry["kind"] == kind
        counts = {split: len(by_source(rows[split], name)) for split in SPLITS}
        assert entry["prompts"] == counts and all(counts.values())
        assert re.search(rf"^{name} +{kind} +" + " +".join(map(str, counts.values())), shown, re.M)
        assert len(entry["sha256"]) == 64
    assert all("unit" in row for row in rows["train"])
    for row in everything:
        wanted = {"id", "group", "source", "kind", "instruction", "input", "output", "gold"}
        assert set(row) - {"unit"} == wanted | ({"type"} if row["kind"] == "ner" else set())
        assert "\n" not in row["output"] and "{" not in row["instruction"]
        found = parsing.read(row["output"], row, about["sources"][row["source"]]["labels"], form)
        gold = (row["gold"] or [""])[0] if row["kind"] == "free_qa" else row["gold"]
        assert found == (gold, False)
    assert about["sources"]["genes"]["prompts"] == {"train": 16, "dev": 6, "test": 8}
    assert about["sources"]["genes"]["labels"] == ["DNA", "protein"]
    assert len(by_source(everything, "cls")) == 60
    assert [] in [row["gold"] for row in by_source(everything, "cls")]  # no label is an answer
    assert {"none", "CAUSE"} == {row["gold"] for row in by_source(everything, "rel")}
    assert {0, 1} <= {len(row["gold"]) for row in by_source(everything, "squad")}
    assert any(row["output"] == prompts.UNANSWERABLE for row in by_source(everything, "squad"))


def test_wordings_vary_and_are_a_function_of_the_seed(every, tmp_path):
    outs = [tmp_path / str(i) for i in range(3)]
    for out, seed in zip(outs, (1, 1, 2), strict=True):
        build.main([*every, "--output_dir", str(out), "--seed", str(seed)])
    first, again, other = (
        {split: (out / f"{split}.jsonl").read_bytes() for split in SPLITS} for out in outs
    )
    assert first == again and first["train"] != other["train"]
    rows, _ = made(outs[0])
    for source in ("genes", "pairs", "rel", "cls", "verdicts", "free", "squad"):
        asked = {row["instruction"] for s in SPLITS for row in by_source(rows[s], source)}
        assert len(asked) >= 5
    assert all(len(set(wordings)) >= 5 for wordings in prompts.WORDINGS.values())


def test_splits(tmp_path):
    """Given ones stay; documents are never cut; a set without dev gives a tenth of train."""
    files = {
        "given": [relation(i, split=("Train", "VAL", "test ")[i // 20]) for i in range(60)],
        "two": [relation(i, split="train" if i < 50 else "test", pmid=i // 2) for i in range(60)],
        "none": [relation(i, pmid=f"p{i // 4}") for i in range(200)],
    }
    argv = []
    for name, rows in files.items():
        argv += ["--relation", f"{name}={write(tmp_path / f'{name}.jsonl', rows)}"]
    argv += ["--nli", f"pairs={nli(tmp_path / 'alone', ['train'])}"]
    folder = tmp_path / "folder"
    for split in ("train", "val", "test"):
        write(folder / f"{split}.jsonl", [verdict(i, id=f"{split}{i}") for i in range(6)])
    argv += ["--qa", f"folder={folder}"]
    build.main([*argv, "--output_dir", str(tmp_path / "out")])
    rows, about = made(tmp_path / "out")
    counts = {name: list(entry["prompts"].values()) for name, entry in about["sources"].items()}
    assert counts["given"] == [20, 20, 20] and counts["folder"] == [6, 6, 6]
    assert counts["two"][2] == 10 and 4 <= counts["two"][1] <= 6
    assert sum(counts["none"]) == 200 and 156 <= counts["none"][0] <= 164
    assert counts["pairs"] == [24, 3, 3] and about["sources"]["pairs"]["data_sha256"] is None
    for name, size in (("two", 2), ("none", 4)):
        where = {}
        for split in SPLITS:
            for row in by_source(rows[split], name):
                document = int(row["id"].removeprefix(f"{name}/r")) // size
                assert where.setdefault(document, split) == split


def test_equal_texts_are_in_one_split(tmp_path, capsys):
    """Whatever their case and marks, and through a third row; of given splits they are counted."""
    asked = [free(i, question=("What is X?", "what is x")[i % 2], id=i) for i in range(12)]
    asked += [free(i, id=i) for i in range(12, 80)]
    chained = [verdict(i, question=f"q {i // 2}", context=f"c {(i + 1) // 2}") for i in range(5)]
    chained += [verdict(i) for i in range(5, 80)]
    kept = [relation(i, split=given(i), text=f"a {i}") for i in range(60)]
    kept[1]["text"] = kept[4]["text"] = "<< A >> 0"
    kept[2]["text"] = "a [[ 3 ]]"  # test, as a text of train
    other = [relation(i, text=f"b {i}", split=given(i)) for i in range(60)]
    other[5]["text"] = "A 0!"
    argv = []
    for name, rows, flag in (("asked", asked, "qa"), ("chained", chained, "qa"),
                             ("kept", kept, "relation"), ("other", other, "relation")):  # fmt: skip
        argv += [f"--{flag}", f"{name}={write(tmp_path / f'{name}.jsonl', rows)}"]
    build.main([*argv, "--output_dir", str(tmp_path / "out")])
    rows, about = made(tmp_path / "out")
    where = {row["id"]: split for split in SPLITS for row in rows[split]}
    assert len({where[f"asked/{i}"] for i in range(12)}) == 1
    assert len({where[f"chained/q{i}"] for i in range(5)}) == 1
    shared = {name: [*of["test_in_train"].values()] for name, of in about["sources"].items()}
    assert shared == {"asked": [0, 0], "chained": [0, 0], "kept": [1, 0], "other": [0, 1]}
    printed = capsys.readouterr().out
    assert "kept: 1 of 20 test prompts share a text with the train split of its own" in printed
    assert "other: 1 of 20 test prompts share a text with the train split of other" in printed


def test_a_field_says_what_belongs_together(tmp_path, capsys):
    rows = [relation(i, trial=i // 4, pmid=f"p{i}") for i in range(120)]
    argv = ["--relation", f"x={write(tmp_path / 'r.jsonl', rows)}"]
    build.main([*argv, "--group_by", "trial", "--output_dir", str(tmp_path / "out")])
    rows, _ = made(tmp_path / "out")
    trials = [{int(row["id"].split("/r")[1]) // 4 for row in rows[split]} for split in SPLITS]
    assert sum(map(len, trials)) == 30 == len(set().union(*trials))
    message = refused(capsys, *argv, "--group_by", "trail", "--output_dir", tmp_path / "new")
    assert "--group_by trail: no row has this field" in message


@pytest.mark.parametrize("seed", [42, 7])
@pytest.mark.parametrize("most", [None, 60])
def test_a_tenth_is_the_tenth_of_the_task_that_reads_the_set(seed, most, tmp_path):
    """The very sentences, pairs and questions; but those that --max_per_source has left out."""
    from common import task as contract

    folders = {name: tmp_path / name for name in ("NER", "NLI", "QA")}
    helpers.write_data(folders["NER"], "NER", 120, 8, 8)
    helpers.write_data(folders["NLI"], "NLI", 150, 8, 8)
    folders["QA"].mkdir()
    for split, n in (("train", 40), ("dev", 3), ("test", 3)):
        path = squad(folders["QA"] / f"{split}.json", n)
        path.write_text(path.read_text().replace('"id": "', f'"id": "{split}-'))
    argv = ["--max_per_source", str(most)] if most else []
    for name, folder in folders.items():
        argv += [f"--{name.lower()}", f"{name}={folder}"]
    build.main([*argv, "--output_dir", str(tmp_path / "out")])
    instruct = contract.load("Instruct")
    data = instruct.load(False, tmp_path / "out")
    chosen = [data.splits["train"][i] for i in instruct.subset(data, 10, seed)]
    for name, folder in folders.items():
        task = contract.load(name)
        own = task.load(False, folder)
        ids = [f"{name}/{own.splits['train'][i].id}" for i in task.subset(own, 10, seed)]
        found, held = (
            {row["group" if name == "NER" else "id"] for row in rows if row["source"] == name}
            for rows in (chosen, data.splits["train"])
        )
        # Intervals resample what that task resamples, under its names.
        asked = own.splits["test"]
        rows, _ = task.rows(own, {"test": asked}, {"test": task.baseline(asked, asked)})
        groups = {f"{name}/{row.get('group', row['id'])}" for row in rows["test"]}
        tested = {row["group"] for row in data.splits["test"] if row["source"] == name}
        assert tested == groups or most and tested < groups
        assert found == {*ids} & held and (most or found == {*ids}), name
        assert most is None or seed != 42 or found == {*ids}  # of the seed of both, nothing is lost
    whole = instruct.subset(data, 100, seed)
    assert whole == list(range(len(data.splits["train"])))


def test_other_sources_give_whole_groups(tmp_path):
    """A tenth of the documents, with all prompts, each label in proportion."""
    rows = [
        relation(i, label="AB"[i // 3 % 2], pmid=f"d{i // 3}", split="train") for i in range(600)
    ]
    rows += [relation(600 + i, label="AB"[i % 2], split=("dev", "test")[i // 2]) for i in range(4)]
    path = write(tmp_path / "r.jsonl", rows)
    build.main(["--relation", f"x={path}", "--output_dir", str(tmp_path / "out")])
    instruct = importlib.import_module("Instruct.task")
    data, inside = instruct.load(False, tmp_path / "out"), set()
    for size in (10, 30, 50):
        chosen = {*instruct.subset(data, size, 1)}
        assert inside < chosen and len(chosen) == 6 * size
        inside = chosen
        some = [data.splits["train"][i] for i in chosen]
        assert Counter(Counter(row["group"] for row in some).values()) == {3: 2 * size}
        assert Counter(row["gold"] for row in some) == {"A": 3 * size, "B": 3 * size}


def test_labels_of_two_unicode_forms_are_one(tmp_path):
    rows = [relation(i, label=("caf\u00e9", "cafe\u0301", "b")[i % 3]) for i in range(60)]
    build.main(["--relation", f"x={write(tmp_path / 'r.jsonl', rows)}",
                "--output_dir", str(tmp_path / "out")])  # fmt: skip
    assert made(tmp_path / "out")[1]["sources"]["x"]["labels"] == ["b", "caf\u00e9"]


@pytest.mark.parametrize("documents", [1, 3, 4, 9])
def test_few_documents(documents, tmp_path):
    """Three are enough for three splits; one does not count."""
    rows = [relation(i, pmid=i % documents) for i in range(60)]
    build.main(["--relation", f"x={write(tmp_path / 'r.jsonl', rows)}",
                "--output_dir", str(tmp_path / "out")])  # fmt: skip
    rows, _ = made(tmp_path / "out")
    found = [{int(row["id"].split("/r")[1]) % documents for row in rows[s]} for s in SPLITS]
    assert all(found)
    assert documents == 1 or sum(map(len, found)) == documents


def test_ids_of_rows(tmp_path):
    """0 is one; a row without is no other's, whatever these are."""
    rows = [relation(i, id=(0, None, 1, "", 3)[i] if i < 5 else f"r{i}") for i in range(60)]
    build.main(["--relation", f"x={write(tmp_path / 'r.jsonl', rows)}",
                "--output_dir", str(tmp_path / "out")])  # fmt: skip
    found = {row["input"][-2:]: row["id"] for some in made(tmp_path / "out")[0].values()
             for row in some}  # fmt: skip
    wanted = ["x/0", "x/row-1", "x/1", "x/row-3", "x/3"]
    assert [found[f" {i}"] for i in range(5)] == wanted


def test_ids_are_unique_over_the_sources(tmp_path):
    """Also where NLI/ takes an id several times, and where names and ids end alike."""
    folder = nli(tmp_path / "a")
    for split in SPLITS:
        rows = [json.loads(line) for line in (folder / f"{split}.jsonl").read_text().splitlines()]
        ids = [("x", "x-2", f"b-{i}")[min(i % 4, 2)] for i in range(len(rows))]
        write(folder / f"{split}.jsonl",
              [row | {"pairID": own} for row, own in zip(rows, ids, strict=True)])  # fmt: skip
    path = write(tmp_path / "r.jsonl", [relation(i, id=i) for i in range(60)])
    found = []
    for out in (tmp_path / "1", tmp_path / "2"):
        build.main(["--nli", f"a={folder}", "--relation", f"a-b={path}", "--output_dir", str(out)])
        found.append([row["id"] for some in made(out)[0].values() for row in some])
    assert len(found[0]) == 150 == len({*found[0]}) and found[0] == found[1]


def test_fields_that_say_nothing(tmp_path):
    """A text or a context that is null or blank, where it may be missing."""
    topics = [classification(i, text=None) for i in range(60)]
    asked = [verdict(i, context=(None, " \n", "")[i % 3]) for i in range(60)]
    build.main(["--classification", f"x={write(tmp_path / 'c.jsonl', topics)}",
                "--qa", f"y={write(tmp_path / 'q.jsonl', asked)}",
                "--output_dir", str(tmp_path / "out")])  # fmt: skip
    found = [row for some in made(tmp_path / "out")[0].values() for row in some]
    assert len(found) == 120 and not any("Passage:" in row["input"] for row in found)


def test_prompts_that_belong_together_have_a_group(every, tmp_path):
    """A sentence's of NER, a passage's, a document's; not called by a text."""
    documents = [relation(i, id=f"d{i}", pmid=f"{SECRET} {i // 3}") for i in range(60)]
    text = ("<< A >> binds [[ B ]] {n} and C", "<< A >> binds B {n} and [[ C ]]")
    marked = [relation(i, id=f"m{i}", text=text[i % 2].format(n=i // 2)) for i in range(60)]
    more = ["--relation", f"docs={write(tmp_path / 'd.jsonl', documents)}",
            "--relation", f"marked={write(tmp_path / 'm.jsonl', marked)}"]  # fmt: skip
    build.main([*every, *more, "--output_dir", str(tmp_path / "out")])
    rows = [row for some in made(tmp_path / "out")[0].values() for row in some]
    assert SECRET not in "".join(row["group"] for row in rows)
    shared = {
        "genes": lambda row: row["id"].rsplit("-", 1)[0],
        "pairs": lambda row: row["input"].split("\n")[0],
        "rel": lambda row: row["id"],
        "docs": lambda row: int(row["id"].split("/d")[1]) // 3,
        "marked": lambda row: int(row["id"].split("/m")[1]) // 2,  # one text, two pairs in it
        "squad": lambda row: row["input"].split("Passage: ")[1],
    }
    for rows in made(tmp_path / "out")[0].values():
        for source, same in shared.items():
            own = by_source(rows, source)
            pairs = {(row["group"], same(row)) for row in own}
            assert len(pairs) == len({row["group"] for row in own}) == len({*map(same, own)})


def test_every_part_of_a_split_has_all_sources(tmp_path):
    argv = []
    for name, n in (("few", 60), ("many", 300)):
        rows = [relation(i, split=given(i)) for i in range(n)]
        argv += ["--relation", f"{name}={write(tmp_path / f'{name}.jsonl', rows)}"]
    build.main([*argv, "--output_dir", str(tmp_path / "out")])
    for rows in made(tmp_path / "out")[0].values():
        for n in (12, 60):
            assert abs(len(by_source(rows[:n], "few")) - n / 6) <= 1


def test_a_premise_is_in_one_split(tmp_path):
    """Of a train file alone. NLI/ divides it otherwise, so its scores cannot stand beside."""
    path = nli(tmp_path / "nli", ["train"]) / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write(path, [row | {"sentence1": f"premise {i // 3}"} for i, row in enumerate(rows)])
    build.main(["--nli", f"x={path.parent}", "--output_dir", str(tmp_path / "out")])
    rows, about = made(tmp_path / "out")
    found = [{row["input"].split("\n")[0] for row in rows[s]} for s in SPLITS]
    assert all(found) and sum(map(len, found)) == 10 == len(set().union(*found))
    assert about["sources"]["x"]["splits"] == "80/10/10"


def test_max_per_source_keeps_the_shares(tmp_path):
    rows = [relation(i, label="ABCD"[min(i % 10, 3)], split=given(i)) for i in range(600)]
    path = write(tmp_path / "r.jsonl", rows)
    build.main(["--relation", f"r={path}", "--max_per_source", "50",
                "--output_dir", str(tmp_path / "out")])  # fmt: skip
    found, about = made(tmp_path / "out")
    assert about["sources"]["r"]["prompts"] == dict.fromkeys(SPLITS, 50)
    labels = [row["gold"] for row in found["train"]]
    assert 34 <= labels.count("D") <= 36 and 4 <= labels.count("A") <= 6


def test_the_data_is_known_by_the_hash_of_its_own_task(tmp_path):
    """So that an encoder's scores on the same test split can stand beside."""
    from NLI import data as nli_data

    folder = nli(tmp_path / "nli")
    build.main(["--nli", f"pairs={folder}", "--output_dir", str(tmp_path / "out")])
    data = nli_data.load(False, folder)
    _, about = made(tmp_path / "out")
    wanted = fingerprint(data.splits)
    assert about["sources"]["pairs"]["data_sha256"] == wanted
    for most in (
        len(data.splits["test"]),
        len(data.splits["test"]) - 1,
    ):  # the same test split, and a part of it
        build.main(["--nli", f"pairs={folder}", "--output_dir", str(tmp_path / str(most)),
                    "--max_per_source", str(most)])  # fmt: skip
        _, about = made(tmp_path / str(most))
        assert about["sources"]["pairs"]["data_sha256"] == (
            wanted if most == len(data.splits["test"]) else None
        )


@pytest.mark.parametrize(
    "names", [SPLITS, ("train-v2.0", "dev-v2.0"), ("train", "dev"), ("train-1", "train-2", "test")]
)
def test_a_folder_that_qa_reads_is_known_by_its_hash(names, tmp_path):
    """Whatever its files are called; a test file may be missing."""
    from QA import data as qa_data

    for file in names:
        (tmp_path / "qa").mkdir(exist_ok=True)
        path = squad(tmp_path / "qa" / f"{file}.json", 3, "title")
        path.write_text(path.read_text().replace('"id": "', f'"id": "{file}-'))
    write(tmp_path / "free.jsonl", [free(i) for i in range(60)])
    argv = ["--qa", f"spans={tmp_path / 'qa'}", "--qa", f"free={tmp_path / 'free.jsonl'}"]
    build.main([*argv, "--output_dir", str(tmp_path / "out")])
    data = qa_data.load(False, tmp_path / "qa")
    _, about = made(tmp_path / "out")
    assert about["sources"]["spans"]["data_sha256"] == fingerprint(data.splits)
    counts = {split: len(some) for split, some in data.splits.items()}
    assert about["sources"]["spans"]["prompts"] == counts
    assert about["sources"]["free"]["data_sha256"] is None


def refused(capsys, *argv):
    """The one line that the script ends with."""
    with pytest.raises(SystemExit) as stop:
        build.main([str(arg) for arg in argv])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in err and SECRET not in err
    lines = err.strip().split("\n")
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


BAD = {
    "no label": ("relation", [{"text": SECRET}], ["jsonl:1", "'label'"]),
    "a number as label": ("relation", [relation(0, label=0.5)], ["jsonl:1", "whole number"]),
    "labels alike": ("relation", [relation(0, label="No ne")], ["more than capitals, blanks"]),
    "unknown split": ("relation", [relation(0, split=SECRET)], ["jsonl:1", "'split'"]),
    "half a split": ("relation", [relation(0), relation(2, split="dev")], ["'split'", "to all"]),
    "labels alike, of text": (
        "relation",
        [relation(0, label=f"a {SECRET}"), relation(2, label=f"A {SECRET}")],
        ["example bad1", "more than capitals"],
    ),
    "free text as label": (
        "relation",
        [relation(i, label=f"a {SECRET} {i}") for i in range(101)],
        ["102 labels", "At most 100", "--qa"],
    ),
    "none as label": ("classification", [classification(0, labels=["None"])], ["empty list"]),
    "a semicolon": ("classification", [classification(0, labels=["a;b"])], ["';'"]),
    "no question": ("qa", [free(0, question=None)], ["jsonl:1", "'question'"]),
    "no answer": ("qa", [{"question": SECRET}], ["jsonl:1", "'answer'"]),
    "test alone": ("relation", [relation(0, split="test")], ["no train example", "given)"]),
    "too few": ("qa", None, ["no dev example", "80/10/10"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, tmp_path, capsys):
    flag, bad, named = BAD[case]
    make = {"relation": relation, "classification": classification, "qa": verdict}[flag]
    good = [make(i, id=f"good{i}") for i in range(30)]
    good = [make(i, label="none", id=f"good{i}") for i in range(30)] if flag == "relation" else good
    path = tmp_path / "bad.jsonl"
    if case in ("too few", "test alone"):
        rows = bad or [verdict(0)]
    else:
        rows = [row if row.get("id") is None else row | {"id": f"bad{k}"}
                for k, row in enumerate(bad)] + good  # fmt: skip
    write(path, rows)
    out = tmp_path / "out"
    message = refused(capsys, f"--{flag}", f"x={path}", "--output_dir", out)
    assert all(name in message for name in named) and not out.exists(), message


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_label_that_train_has_not(split, tmp_path, capsys):
    rows = [relation(i, split=given(i)) for i in range(60)]
    rows += [relation(60 + i, split=split, label=f"{SECRET} was {i}") for i in range(2)]
    rows.append(relation(70, split=split, label="NEW"))
    path = write(tmp_path / "r.jsonl", rows)
    message = refused(capsys, "--relation", f"x={path}", "--output_dir", tmp_path / "out")
    assert f"{path}:61: no train example has 1 of its labels" in message


@pytest.mark.parametrize(
    "content, named",
    [
        ({"data": [{"paragraphs": [{"qas": []}]}]}, ["data[0].paragraphs[0]", "'context' is"]),
        ({"questions": [{"body": SECRET}]}, ["BioASQ form", "python", "bioasq.py", "--output"]),
        ([{"question": SECRET}], ["not in SQuAD form"]),
    ],
)
def test_bad_squad_files(content, named, tmp_path, capsys):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(content))
    message = refused(capsys, "--qa", f"x={path}", "--output_dir", tmp_path / "out")
    assert all(name in message for name in named) and str(path) in message


def test_squad_answers(tmp_path):
    """Blank ones are none; one that reads as "no answer" is no text to be scored against."""
    path = squad(tmp_path / "s.json", 30)
    document = json.loads(path.read_text())
    for answers, article in zip(
        ([{"text": " \n", "answer_start": 0}], [{"text": "Unanswerable", "answer_start": 0}]),
        document["data"], strict=False,
    ):  # fmt: skip
        for qa in article["paragraphs"][1]["qas"]:
            qa["answers"] = answers
    path.write_text(json.dumps(document))
    build.main(["--qa", f"x={path}", "--output_dir", str(tmp_path / "out")])
    rows = {row["id"]: row for some in made(tmp_path / "out")[0].values() for row in some}
    for article in (0, 1):
        row = rows[f"x/s{article}-1-0"]
        assert (row["output"], row["gold"]) == (prompts.UNANSWERABLE, [])
    assert rows["x/s2-1-0"]["gold"] == ["IL-2"]


def test_one_title_for_all(tmp_path):
    """Then passages are divided, as in QA/; those of the test passages' questions stay together."""
    path = squad(tmp_path / "s.json", 30)
    path.write_text(re.sub(r"article \d+", "BioASQ", path.read_text()))
    build.main(["--qa", f"x={path}", "--output_dir", str(tmp_path / "out")])
    rows, _ = made(tmp_path / "out")
    passages = {s: {row["input"].split("Passage: ")[1] for row in rows[s]} for s in SPLITS}
    assert all(passages.values())
    assert sum(map(len, passages.values())) == len(set().union(*passages.values()))


def test_labels_with_commas_are_kept_apart(tmp_path):
    """In the instruction by quotes; a semicolon parts only several labels of one answer."""
    rows = [relation(i, label=("a, b", "c;d")[i % 2]) for i in range(60)]
    topics = [classification(i, labels=[["a, b", "c"], ["c"]][i % 2]) for i in range(60)]
    build.main(["--relation", f"x={write(tmp_path / 'r.jsonl', rows)}", "--classification",
                f"y={write(tmp_path / 'c.jsonl', topics)}",
                "--output_dir", str(tmp_path / "out")])  # fmt: skip
    found, about = made(tmp_path / "out")
    for row in (row for some in found.values() for row in some):
        listed = '"a, b", "c;d"' if row["source"] == "x" else '"a, b", "c"'
        assert f"of: {listed}" in row["instruction"]
        labels = about["sources"][row["source"]]["labels"]
        assert parsing.read(row["output"], row, labels) == (row["gold"], False)


def test_the_references_of_a_jsonl_row_are_the_users(tmp_path):
    """Not the gold answer: that is the row's `answer`; "unanswerable" may be one."""
    rows = [free(i, references=[SECRET], answer=("Unanswerable", "a b")[i % 2]) for i in range(60)]
    build.main(["--qa", f"x={write(tmp_path / 'f.jsonl', rows)}",
                "--output_dir", str(tmp_path / "out")])  # fmt: skip
    found = [row for some in made(tmp_path / "out")[0].values() for row in some]
    assert {(row["output"], *row["gold"]) for row in found} == {("unanswerable",), ("a b", "a b")}
    assert not any(prompts.UNANSWERABLE in row["instruction"] for row in found)


def test_bad_flags(tmp_path, capsys):
    path = write(tmp_path / "r.jsonl", [relation(i) for i in range(60)])
    out = ["--output_dir", tmp_path / "out"]

    def names(message, *named):
        return all(str(name) in message for name in named)

    assert names(refused(capsys, *out), "no source", "--relation")
    assert names(refused(capsys, "--relation", f"x={path}"), "--output_dir")
    twice = ["--relation", f"x={path}", "--qa", f"x={tmp_path}"]
    assert names(refused(capsys, *twice, *out), "two sources", "(x, x)")
    for wrong in (path, f"={path}", "x=", f"a b={path}"):
        assert names(refused(capsys, "--relation", wrong, *out), "NAME=PATH", wrong)
    missing = tmp_path / "missing"
    assert names(refused(capsys, "--qa", f"x={missing}", *out), missing, "cannot read")
    for flag in ("--ner", "--nli"):  # a source of a wrong kind
        assert names(refused(capsys, flag, f"x={path}", *out), path, "not a folder")
    assert names(refused(capsys, "--ner", f"x={nli(tmp_path / 'nli')}", *out), "'tokens'")
    assert names(refused(capsys, "--nli", f"x={ner(tmp_path / 'ner')}", *out), "gold_label")
    assert names(refused(capsys, "--qa", f"x={path}", *out), "jsonl:1", "'question'")
    assert names(refused(capsys, "--qa", f"x={tmp_path / 'empty'}", *out), "cannot read")
    assert names(refused(capsys, "--qa", f"x={tmp_path}", *out), "no train.jsonl", tmp_path)
    assert not (tmp_path / "out").exists()


def test_an_output_folder_that_exists_is_left_alone(tmp_path, capsys):
    path = write(tmp_path / "r.jsonl", [relation(i) for i in range(60)])
    out = tmp_path / "out"
    out.mkdir()
    (out / "kept").write_text("")
    message = refused(capsys, "--relation", f"x={path}", "--output_dir", out)
    assert (
        str(out) in message and "exists" in message and [p.name for p in out.iterdir()] == ["kept"]
    )


def test_help_and_wrong_flags_answer_without_torch():
    code = (
        "import sys, importlib; build = importlib.import_module('Instruct.build')\n"
        "try: build.main(['--output_dir', 'x', '--nonsense'])\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "2 False" and "--nonsense" in done.stderr
    script = [sys.executable, ROOT / "Instruct" / "build.py", "--help"]
    done = subprocess.run(script, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0 and "--classification" in done.stdout
