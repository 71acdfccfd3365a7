"""The sets that instructions are made from: a source is a file or a folder of one kind.

NER/, NLI/ and QA/ read their folders and the SQuAD form, Classification/ rows of other kinds.
"""

from pathlib import Path
from typing import NamedTuple

from Classification import data as labelled
from common.cli import UserError, relative
from common.data_files import SPLIT_NAMES, find_split, json_file
from common.results import fingerprint
from Instruct import forms, parsing, prompts
from Instruct.labels import letters_of
from Instruct.splits import answers, together
from NER import data as ner_data
from NER.scores import OUTSIDE, word_class
from NLI import data as nli_data
from NLI.task import stratum as nli_stratum
from QA import data as qa_data
from QA import squad
from QA.bioasq import is_bioasq


class Example(NamedTuple):
    """What a prompt is made of."""

    id: str  # within its source
    split: str | None  # train, dev or test; None: not given
    document: tuple[str, str] | None  # a field and its value. Examples of one document, and ...
    texts: tuple[str, ...]  # ... those with an equal text (`letters_of`) stay in one split
    group: str  # intervals resample examples of one group together
    row: dict  # input, output, gold; of NER also type
    unit: int | None = None  # of train: its number in the training data of its own task


class Source(NamedTuple):
    """A set, read and checked."""

    name: str
    kind: str  # one of prompts.KINDS
    answer: str  # how its answers are written: a key of prompts.ANSWERS
    labels: list[str]  # all that occur; of NER its entity types; of free answers none
    examples: list[Example]
    sha256: str  # of all that was read; what the results of its own task call this data
    # If another task divides the data in the same way: what that task's subsets of its training
    # data are stratified by, one an example in its order.
    strata: list[str] | None = None


def read(flag: str, name: str, path: Path, ner_form: str, group_by: str | None) -> Source:
    """The source `name` in `path`, of the kind that `--<flag>` says. Raises UserError."""
    if not path.exists() or (flag in ("ner", "nli") and not path.is_dir()):
        wanted = "a folder" if flag in ("ner", "nli") else "a file or folder"
        raise UserError(f"--{flag} {name}={path} is not {wanted}. Check the path.")
    if flag in ("ner", "nli"):
        source = _ner(name, path, ner_form) if flag == "ner" else _nli(name, path)
    elif flag == "qa" and (path.suffix == ".json" or squad.split_files(path, "train")):
        source = _squad(name, path)
    else:
        source = _rows(flag, name, path, group_by)
    examples = source.examples
    if len({e.id for e in examples}) < len(examples):  # NLI/ and QA/ allow that
        examples = [e._replace(id=f"{e.id}-{n}") for n, e in enumerate(examples)]
    first: dict[str, str] = {}  # a group is called by the id of its first example
    examples = [e._replace(group=first.setdefault(e.group, e.id)) for e in examples]
    return source._replace(examples=examples)


def _ner(name: str, folder: Path, form: str) -> Source:
    """A prompt for each sentence and entity type."""
    data = ner_data.load(False, folder)
    types = [label for label in data.labels if label != OUTSIDE]
    examples = []
    for split, sentences in data.splits.items():
        for n, e in enumerate(sentences):
            about = split, None, (letters_of(" ".join(e.words)),), e.id
            examples += [
                Example(f"{e.id}-{kind}", *about, ner_row(e.words, e.tags, kind, form), n)
                for kind in types
                if e.words
            ]
    strata = list(map(ner_data.stratum, data.splits["train"]))
    return Source(name, "ner", form, types, examples, fingerprint(data.splits), strata)


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
    alone = not any(find_split(folder, split, nli_data.FILES) for split in ("dev", "test"))
    examples = []
    for split, pairs in data.splits.items():
        for n, e in enumerate(pairs):
            premise = letters_of(e.premise)
            about = None if alone else split, None, (premise,), premise
            examples.append(Example(e.id, *about, nli_row(e.premise, e.hypothesis, e.label), n))
    used = {e.row["gold"] for e in examples}
    labels = [label for label in data.labels if label in used]
    strata = None if alone else list(map(nli_stratum, data.splits["train"]))
    return Source(name, "nli", "one", labels, examples, fingerprint(data.splits), strata)


def nli_row(premise: str, hypothesis: str, label: str) -> dict:
    """Input, output and gold of a pair."""
    both = prompts.pair(labelled.one_line(premise), labelled.one_line(hypothesis))
    return {"input": both, "output": label, "gold": label}


def _squad(name: str, path: Path) -> Source:
    """Questions to passages: a file, or a folder as QA/ reads and divides it.

    A folder with only train files has no splits, like a file.
    """
    files, strata = [path], None
    if path.is_dir():
        files = [file for split in SPLIT_NAMES for file in squad.split_files(path, split)]
    documents = {str(file): json_file(file) for file in files}
    if any(map(is_bioasq, documents.values())):
        script = relative("QA", "bioasq.py")
        convert = f"First convert each file to SQuAD's: python {script} FILE --output NEW.json"
        raise UserError(f"{path} is in BioASQ form. {convert}")
    if path.is_dir() and files != squad.split_files(path, "train"):
        splits = qa_data.load(False, path).splits
        strata = [str(qa_data.stratum(e)) for e in splits["train"]]
    else:
        splits = {None: [e for file, d in documents.items() for e in squad.parse({file: d})[0]]}
    examples = []
    for split, questions in splits.items():
        for n, e in enumerate(questions):
            about = ("title", e.title), (letters_of(e.context),), e.context
            row = forms.free_row(e.question, e.context, e.golds)
            examples.append(Example(e.id, split, *about, row, n))
    answer = "passage" if all(e.row["gold"] for e in examples) else "squad"
    return Source(name, "free_qa", answer, [], examples, fingerprint(splits), strata)


def _rows(flag: str, name: str, path: Path, group_by: str | None) -> Source:
    """Rows with labels, as Classification/ reads them, or with free answers.

    A set with train and test splits is that task's data too.
    """
    rows = labelled.read_rows(labelled.FORMS[flag], path)
    kind = forms.kind_of(flag, rows)
    examples, there = [], {split for _, split, _ in rows}
    for n, (place, split, row) in enumerate(rows):
        made, texts = forms.convert(kind, row, place)
        about = split, labelled.document_of(row, group_by), tuple(map(letters_of, texts)), ""
        examples.append(Example(labelled.id_of(row, n), *about, made))
    if None in there and len(there) > 1:
        raise UserError(f"{path}: some rows have a 'split', some have none. Give it to all.")
    groups = map(str, together(examples))
    examples = [e._replace(group=group) for e, group in zip(examples, groups, strict=True)]
    labels = set().union(*(answers(kind, e.row) for e in examples if kind != "free_qa"))
    forms.check_labels(labels := sorted(labels), kind, path)
    answer = {"classification": "many", "free_qa": "free"}.get(kind, "one")
    if kind == "free_qa" or not {"train", "test"} <= there:
        digest = fingerprint({"rows": [row for *_, row in rows]})
        return Source(name, kind, answer, labels, examples, digest)
    splits = labelled.divided(kind, rows)
    strata, numbers = labelled.units(splits["train"])
    train = iter(numbers)
    examples = [e._replace(unit=next(train)) if e.split == "train" else e for e in examples]
    return Source(name, kind, answer, labels, examples, fingerprint(splits), strata)
