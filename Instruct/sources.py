"""The sets that instructions are made from: a source is a file or a folder of one kind.

NER/, NLI/ and QA/ read their folders and the SQuAD form; `Instruct/forms.py` reads the other kinds.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from common.cli import UserError, relative
from common.data_files import SPLIT_NAMES, find_split, json_file
from common.results import fingerprint
from Instruct import forms, parsing, prompts
from Instruct.labels import letters_of
from NER import data as ner_data
from NER import formats
from NER.scores import OUTSIDE, word_class
from NLI import data as nli_data
from QA import data as qa_data
from QA import squad
from QA.bioasq import is_bioasq

DOCUMENT = ("document_id", "document", "doc_id", "pmid")  # fields that name a row's document
UNSAID = (None, "")  # values of a field that says nothing; 0 is a number like any other
FEWEST = 3  # documents that three splits need; with fewer, each passage or row is one


class Example(NamedTuple):
    """What a prompt is made of."""

    id: str  # within its source
    split: str | None  # train, dev or test; None: not given
    document: str  # examples of one document stay in one split
    group: str  # those of one sentence, premise, passage or document; `read` makes it an id
    row: dict  # input, output, gold; of NER also type


class Source(NamedTuple):
    """A set, read and checked."""

    name: str
    kind: str  # one of prompts.KINDS
    answer: str  # how its answers are written: a key of prompts.ANSWERS
    labels: list[str]  # all that occur; of NER its entity types; of free answers none
    examples: list[Example]
    files: list[Path]
    data_sha256: str | None = None  # what the results of its own task call this data


def read(flag: str, name: str, path: Path, ner_form: str) -> Source:
    """The source `name` in `path`, of the kind that `--<flag>` says. Raises UserError."""
    if not path.exists():
        raise UserError(f"--{flag} {name}={path}: there is no such file or folder. Check the path.")
    if flag in ("ner", "nli") and not path.is_dir():
        raise UserError(
            f"--{flag} {name}={path} is not a folder. Give the one that holds the files of the "
            "splits."
        )
    if flag == "ner":
        source = _ner(name, path, ner_form)
    elif flag == "nli":
        source = _nli(name, path)
    elif flag == "qa" and forms.is_squad(path):
        source = _squad(name, path)
    else:
        source = _rows(flag, name, path)
    return source._replace(examples=list(_with_own_ids(source.examples)))


def _with_own_ids(examples: list[Example]) -> Iterator[Example]:
    """The examples; ids that several have (NLI/ and QA/ allow that) get numbers from 2 on.

    A group is then called by the id of its first example.
    """
    taken, times, first = {e.id for e in examples}, Counter(), {}
    for e in examples:
        times[e.id] += 1
        own = e.id
        while times[e.id] > 1 and own in taken:
            own = f"{e.id}-{times[e.id]}" if own == e.id else f"{own}-"
        taken.add(own)
        yield e._replace(id=own, group=first.setdefault(e.group, own))


def _ner(name: str, folder: Path, form: str) -> Source:
    """A prompt for each sentence and entity type."""
    data = ner_data.load(False, folder)
    types = [label for label in data.labels if label != OUTSIDE]
    examples = [
        Example(f"{e.id}-{kind}", split, e.id, e.id, ner_row(e.words, e.tags, kind, form))
        for split, sentences in data.splits.items()
        for e in sentences
        if e.words
        for kind in types
    ]
    files = [file for s in SPLIT_NAMES for file in find_split(folder, s, formats.PATTERNS)]
    files += [file for file in [folder / "label.json"] if file.is_file()]
    return Source(name, "ner", form, types, examples, files, fingerprint(data.splits))


def ner_row(words: list[str], tags: list[str], kind: str, form: str) -> dict:
    """Input, output and gold of a sentence for one entity type; all other types are `O`.

    One blank parts the input's words: a blank within a word becomes "_".
    """
    words = ["_".join(word.split()) or "_" for word in words]
    gold = [tag if word_class(tag) == kind else OUTSIDE for tag in tags]
    write = {"tags": parsing.write_tags, "list": parsing.write_entities}[form]
    return {"input": " ".join(words), "output": write(words, gold), "gold": gold, "type": kind}


def _nli(name: str, folder: Path) -> Source:
    """Pairs. NLI/ divides a lone train file by pairs; here a premise stays on one side."""
    data = nli_data.load(False, folder)
    given = {s: find_split(folder, s, nli_data.FILES) for s in SPLIT_NAMES}
    alone = not given["dev"] and not given["test"]
    examples = []
    for split, pairs in data.splits.items():
        for e in pairs:
            row = nli_row(e.premise, e.hypothesis, e.label)
            examples.append(Example(e.id, None if alone else split, e.premise, e.premise, row))
    used = {e.row["gold"] for e in examples}
    labels = [label for label in data.labels if label in used]
    files = [file for some in given.values() for file in some]
    return Source(name, "nli", "one", labels, examples, files, fingerprint(data.splits))


def nli_row(premise: str, hypothesis: str, label: str) -> dict:
    """Input, output and gold of a pair."""
    both = prompts.pair(forms.one_line(premise), forms.one_line(hypothesis))
    return {"input": both, "output": label, "gold": label}


def _squad(name: str, path: Path) -> Source:
    """Questions to passages: a file, or a folder as QA/ reads and divides it.

    A folder with only a train file has no splits, like a file.
    """
    files = [path]
    if path.is_dir():
        files = [file for split in SPLIT_NAMES for file in squad.split_files(path, split)]
    if path.is_dir() and files != squad.split_files(path, "train"):
        data = qa_data.load(False, path)
        if data.questions is not None:
            raise _bioasq(path)
        splits, digest = data.splits, fingerprint(data.splits)
    else:
        splits, digest = {None: []}, None
        for file in files:
            document = json_file(file)
            if is_bioasq(document):
                raise _bioasq(file)
            splits[None] += squad.parse(document, str(file))[0]
    questions = [(split, e) for split, some in splits.items() for e in some]
    keys, together = squad.articles([e for _, e in questions], FEWEST)
    examples = []
    for (split, e), key in zip(questions, keys, strict=True):
        row = forms.free_row(e.question, e.context, e.golds)
        examples.append(Example(e.id, split, min(together[key]), e.context, row))
    answer = "passage" if all(e.row["gold"] for e in examples) else "squad"
    return Source(name, "free_qa", answer, [], examples, files, digest)


def _bioasq(path: Path) -> UserError:
    return UserError(
        f"{path} is in BioASQ form. First convert each file to SQuAD's: python "
        f"{relative('QA', 'bioasq.py')} FILE --output NEW.json"
    )


def _rows(flag: str, name: str, path: Path) -> Source:
    rows, files = forms.read_rows(flag, path)
    kind = forms.kind_of(flag, rows)
    examples, places = [], {}
    for number, (place, split, row) in enumerate(rows):
        own = f"row-{number}" if row.get("id") in UNSAID else str(row["id"])
        if own in places:
            raise UserError(f"{place} has the id of {places[own]}. Give each its own.")
        places[own] = place
        made = forms.convert(kind, row, place)
        said = [str(row[field]) for field in DOCUMENT if row.get(field) not in UNSAID]
        # Without its marks a text is the same for all pairs of names that are marked in it.
        text = row.get({"relation": "text", "qa": "context"}.get(flag))
        document = said[0] if said else letters_of(str(text or "")) or own
        examples.append(Example(own, split, document, document, made))
    if len({e.split is None for e in examples}) > 1:
        raise UserError(f"{path}: some rows have a 'split', some have none. Give it to all.")
    if len({e.document for e in examples}) < FEWEST:
        examples = [e._replace(document=e.id, group=e.id) for e in examples]
    golds = [e.row["gold"] for e in examples] if kind != "free_qa" else []
    labels = sorted({x for gold in golds for x in (gold if isinstance(gold, list) else [gold])})
    forms.check_labels(labels, kind, path)
    answer = {"classification": "many", "free_qa": "free"}.get(kind, "one")
    return Source(name, kind, answer, labels, examples, files)
