"""The sets that instructions are made from: a source is a file or a folder of one kind.

NER/, NLI/ and QA/ read their folders and the SQuAD form, Classification/ rows of other kinds. No
message shows text of the data.
"""

from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from Classification import data as labelled
from common import task as contract
from common.cli import UserError, relative
from common.data_files import find_split, json_file
from common.results import fingerprint
from Instruct import parsing, prompts
from Instruct.parsing import letters_of, read_free
from Instruct.splits import together
from NER import data as ner_data
from NER.scores import OUTSIDE, word_class
from NLI import data as nli_data
from QA import data as qa_data
from QA import squad
from QA.bioasq import is_bioasq

MOST_LABELS = 100  # of a source


class Example(NamedTuple):
    """What a prompt is made of."""

    id: str  # within its source
    split: str | None  # train, dev or test; None: not given
    number: int  # of its own task's example, within that split
    row: dict  # see `row_of`; of NER also type
    labels: tuple[str, ...]  # what the answer holds: its labels, its entity type, or "answer"
    group: Hashable  # intervals resample examples of one group together
    texts: tuple[str, ...]  # examples with an equal text (`letters_of`) stay in one split, ...
    document: tuple[str, str] | None = None  # ... and those of one document: a field and its value


class Source(NamedTuple):
    """A set, read and checked."""

    kind: str  # a key of prompts.WORDINGS
    answer: str  # how its answers are written: a key of prompts.ANSWERS
    labels: list[str]  # all that occur; of NER its entity types; of free answers none
    examples: list[Example]
    sha256: str  # of all that was read; what the results of its own task call this data
    alike: bool = False  # whether the task that reads this data too divides it in the same way
    name: str = ""
    # If alike, what subsets draw: a stratum a unit, and the unit of each training example.
    units: tuple[list[str], Sequence[int]] | None = None


def read(flag: str, name: str, path: Path, ner_form: str, group_by: str | None) -> Source:
    """The source `name` in `path`, of the kind that `--<flag>` says. Raises UserError."""
    if flag in ("ner", "nli"):
        source = _ner(path, ner_form) if flag == "ner" else _nli(path)
        owner = flag.upper()
    elif flag == "qa" and (path.suffix == ".json" or squad.split_files(path, "train")):
        source, owner = _squad(path), "QA"
    else:
        source, owner = _rows(flag, path, group_by), "Classification"
    examples = source.examples
    if len({e.id for e in examples}) < len(examples):  # NLI/ and QA/ allow that
        examples = [e._replace(id=f"{e.id}-{n}") for n, e in enumerate(examples)]
    first: dict[Hashable, str] = {}  # a group is called by the id of its first example
    examples = [e._replace(group=first.setdefault(e.group, e.id)) for e in examples]
    if source.alike:  # groups and units are that task's, whose models stand beside ours
        task = contract.load(owner)
        data = task.load(False, path)
        groups, train = groups_of(task, data), data.splits["train"]
        examples = [e._replace(group=groups[e.split][e.number]) for e in examples]
        each = [str(task.stratum(e)) for e in train], range(len(train))
        source = source._replace(units=labelled.units(train) if owner == "Classification" else each)
    return source._replace(name=name, examples=examples)


def groups_of(task, data) -> dict[str, list[str]]:
    """{split: the group of each of its examples} in a task's own predictions.jsonl."""
    guesses = {s: task.baseline(data.splits["train"], own) for s, own in data.splits.items()}
    rows, _ = task.rows(data, data.splits, guesses)
    return {split: [row.get("group", row["id"]) for row in own] for split, own in rows.items()}


def row_of(kind: str, texts: Iterable[str], gold: str | list[str]) -> dict:
    """`kind`, `input`, `output` and `gold` of a text, a pair, or a question and its passage.

    Gold: a label, a sorted list of labels, or the reference answers of a free answer, the first of
    which is the output. "unanswerable" is no reference answer itself.
    """
    asked, output = prompts.joined(kind, [*map(labelled.one_line, texts)]), gold
    if kind == "classification":
        output = parsing.SEPARATOR.join(gold) or prompts.NONE
    if kind == "free_qa":
        gold = [x for x in dict.fromkeys(map(labelled.one_line, gold)) if read_free(x)[0]]
        output = next(iter(gold), prompts.UNANSWERABLE)
    return {"kind": kind, "input": asked, "output": output, "gold": gold}


def ner_row(words: list[str], tags: list[str], kind: str, form: str) -> dict:
    """The same of a sentence for one entity type; all other types are `O`.

    One blank parts the input's words: a blank within a word becomes "_".
    """
    words = ["_".join(word.split()) or "_" for word in words]
    gold = [tag if word_class(tag) == kind else OUTSIDE for tag in tags]
    made = {"kind": "ner", "input": " ".join(words), "output": parsing.FORMS[form][0](words, gold)}
    return made | {"gold": gold, "type": kind}


def _ner(folder: Path, form: str) -> Source:
    """A prompt for each sentence and entity type."""
    data = ner_data.load(False, folder)
    types = [label for label in data.labels if label != OUTSIDE]
    examples = []
    for split, sentences in data.splits.items():
        for n, e in enumerate(sentences):
            texts = (letters_of(" ".join(e.words)),)
            for kind in types if e.words else ():
                row = ner_row(e.words, e.tags, kind, form)
                held = (kind,) * any(tag != OUTSIDE for tag in row["gold"])
                examples.append(Example(f"{e.id}-{kind}", split, n, row, held, e.id, texts))
    return Source("ner", form, types, examples, fingerprint(data.splits), alike=True)


def _nli(folder: Path) -> Source:
    """Pairs. NLI/ divides a lone train file by pairs; here a premise stays on one side."""
    data = nli_data.load(False, folder)
    alone = not any(find_split(folder, split, nli_data.FILES) for split in ("dev", "test"))
    examples = []
    for split, pairs in data.splits.items():
        for n, e in enumerate(pairs):
            row, premise = row_of("nli", (e.premise, e.hypothesis), e.label), letters_of(e.premise)
            about = row, (e.label,), premise, (premise,)
            examples.append(Example(e.id, None if alone else split, n, *about))
    labels = [x for x in data.labels if any(x in e.labels for e in examples)]
    return Source("nli", "one", labels, examples, fingerprint(data.splits), not alone)


def _squad(path: Path) -> Source:
    """Questions to passages: a file, or a folder as QA/ reads and divides it."""
    file = squad.split_files(path, "train")[0] if path.is_dir() else path
    document = json_file(file)
    if is_bioasq(document):
        convert = f"python {relative('QA', 'bioasq.py')} FILE --output NEW.json"
        raise UserError(f"{path} is in BioASQ form. First convert each file to SQuAD's: {convert}")
    if path.is_dir():
        splits = qa_data.load(False, path).splits
    else:
        splits = {None: squad.parse({str(file): document})[0]}
    examples = []
    for split, questions in splits.items():
        for n, e in enumerate(questions):
            row = row_of("free_qa", (e.question, e.context), e.golds)
            about = row, ("answer",) * bool(row["gold"]), e.context, (letters_of(e.context),)
            examples.append(Example(e.id, split, n, *about, ("title", e.title)))
    answer = "passage" if all(e.labels for e in examples) else "squad"
    return Source("free_qa", answer, [], examples, fingerprint(splits), path.is_dir())


def _rows(flag: str, path: Path, group_by: str | None) -> Source:
    """Rows with labels, as Classification/ reads them, or with free answers.

    A set with train and test splits is that task's data too.
    """
    rows = labelled.read_rows(labelled.FORMS[flag], path)
    there = {split for _, split, _ in rows}
    if None in there and len(there) > 1:
        raise UserError(f"{path}: some rows have a 'split', some have none. Give it to all.")
    verdicts = {str(row.get("answer", "yes")).strip().lower() for *_, row in rows}
    kind = flag if flag != "qa" or verdicts <= labelled.VERDICTS else "free_qa"
    examples, splits = [], {split: [] for split in there}
    for n, (place, split, row) in enumerate(rows):
        if kind == "free_qa":
            texts, answer = labelled.question_of(row, place), labelled.text_of(row, "answer", place)
            own = labelled.Example(labelled.id_of(row, n), texts, (answer,), "")
        else:
            own = labelled.example(kind, row, place, n)
        several = kind in ("classification", "free_qa")
        made = row_of(kind, own.texts, [*own.labels] if several else own.labels[0])
        held = ("answer",) * bool(made["gold"]) if kind == "free_qa" else own.labels
        about = held, None, tuple(map(letters_of, own.texts)), labelled.document_of(row, group_by)
        examples.append(Example(own.id, split, len(splits[split]), made, *about))
        splits[split].append(own)
    groups = together(examples)
    examples = [e._replace(group=group) for e, group in zip(examples, groups, strict=True)]
    if kind == "free_qa":
        return Source(kind, "free", [], examples, fingerprint(splits))
    labels = sorted({label for e in examples for label in e.labels})
    rows = {e.row["output"]: e for e in examples}
    lost = [e.id for x, e in rows.items() if parsing.read(x, e.row, labels)[0] != e.row["gold"]]
    if lost or len(labels) > MOST_LABELS:
        at = f" (see example {lost[0]})" if lost else ""
        raise UserError(
            f"{path}: its {len(labels)} labels cannot be answers{at}. At most {MOST_LABELS} are "
            "possible. They must differ in more than capitals, blanks, '-' and '_'. In lists they "
            f"have no ';' and are not {prompts.NONE!r}: no label is an empty list. Free text: --qa."
        )
    answer = "many" if kind == "classification" else "one"
    return Source(kind, answer, labels, examples, fingerprint(splits), {"train", "test"} <= there)
