"""QA data: SQuAD 2.0 from the Hub, your own SQuAD-form or BioASQ-form files, or the demo's.

BioASQ's text is confidential: messages name files, places and ids, never a text.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from common.cli import UserError, number
from common.data_files import SPLIT_NAMES, json_file
from common.hub import load_dataset
from QA import bioasq, demo_data, squad
from QA.bioasq import Question
from QA.squad import Example

HUB_ID = "rajpurkar/squad_v2"
FIELDS = ("id", "title", "context", "question", "answers")
DOC_STRIDE = 128  # sub-words that neighbouring windows share
AUTO = "auto"


class Data(NamedTuple):
    """Examples by split, and what their scores and the model's inputs depend on."""

    splits: dict[str, list[Example]]
    labels: list[str]  # none: the outputs are a start and an end
    with_null: bool  # whether some questions have no answer, so that "none" is one
    # In BioASQ form an example is a pair of a question and a snippet; these are the questions of
    # each split by id. None: an example is a question.
    questions: dict[str, dict[str, Question]] | None = None
    counts: dict[str, int] = {}  # what was corrected or left out in the files
    doc_stride: int = DOC_STRIDE
    null_threshold: float | None = None  # None: chosen on dev


def add_arguments(parser, step: str) -> None:
    """The flags of fine-tuning: windows, the head of a checkpoint, the null threshold."""
    if step != "fine-tuning":
        return
    add = parser.add_argument_group("question answering").add_argument
    text = "sub-words that two windows of a long passage share (default: %(default)s)"
    add("--doc_stride", type=number(int, 0), default=DOC_STRIDE, help=text)
    text = "keep the span head of --model_name (default: a new one)"
    add("--keep_head", action="store_true", help=text)
    text = """the answer is "none" if its score exceeds the best answer's by more than this number;
auto: chosen on dev by F1 (default: auto)"""
    add("--null_threshold", type=_threshold, default=AUTO, help=text)
    text = "for BioASQ data: also write the answers to the test split as BioASQ takes them"
    add("--write_submission", type=Path, metavar="FILE", help=text)


def _threshold(text: str) -> float | str:
    return AUTO if text == AUTO else number(float, -1e9, 1e9)(text)


def load(
    demo: bool,
    data_dir: Path | None,
    doc_stride: int = DOC_STRIDE,
    null_threshold: float | str = AUTO,
    write_submission: Path | None = None,
    **options,
) -> Data:
    """The demo's data set, that of a folder, or SQuAD 2.0; see `common.task.Task.load`.

    Raises UserError if it is not available or unreadable, or if no submission can be written.
    """
    questions = None
    if demo:
        parsed = {s: squad.parse(made, f"demo {s}") for s, made in demo_data.splits().items()}
    elif data_dir:
        parsed, questions = _read_folder(data_dir)
    else:
        tables = load_dataset(HUB_ID, ("train", "dev"), FIELDS)
        parsed = {s: squad.examples(squad.hub_rows(tables[s], HUB_ID), HUB_ID) for s in tables}
        parsed["test"] = parsed.pop("dev")  # its validation split is our test split
    splits = {split: examples for split, (examples, _) in parsed.items()}
    if "dev" not in splits:
        train, dev = squad.cut_dev(splits["train"])
        splits = {"train": train} | ({"dev": dev} if dev else {}) | {"test": splits["test"]}
    if questions:
        questions.setdefault("dev", questions["train"])  # cut from it
        splits["train"] = [example for example in splits["train"] if example.answers]
        if not splits["train"]:
            raise UserError(
                f"no snippet of the train files in {data_dir} contains an answer to its question, "
                "so there is nothing to train on. Give others."
            )
    if write_submission:
        _check_submission(write_submission, questions)
    return Data(
        splits,
        [],
        with_null=not questions and any(not e.golds for some in splits.values() for e in some),
        questions=questions,
        counts={f"{s}_{name}": n for s, (_, noted) in parsed.items() for name, n in noted.items()},
        doc_stride=doc_stride,
        null_threshold=None if null_threshold == AUTO else null_threshold,
    )


def _read_folder(folder: Path) -> tuple[dict[str, list], dict[str, dict[str, Question]] | None]:
    """`{split: [examples, counts]}`, and the questions of BioASQ form. Raises UserError.

    The first file decides the form of all. Without a test file dev is the test split.
    """
    if not folder.is_dir():
        raise UserError(f"--data_dir {folder} is not a folder. Check the path. {bioasq.ACCESS}")
    files = {split: squad.split_files(folder, split) for split in SPLIT_NAMES}
    if not files["train"] or not (files["dev"] or files["test"]):
        missing = "train" if not files["train"] else "dev or test"
        raise UserError(
            f"no {missing} file in {folder}. It needs train*.json and dev*.json or test*.json, in "
            f"SQuAD or BioASQ form. {bioasq.ACCESS}"
        )
    if not files["test"]:
        files = {"train": files["train"], "test": files["dev"]}
    in_bioasq = bioasq.is_bioasq(json_file(files["train"][0]))
    parsed, questions = {}, {}
    for split, paths in files.items():
        if paths:
            *parsed[split], questions[split] = _read_split(paths, in_bioasq)
    return parsed, questions if in_bioasq else None


def _read_split(paths: list[Path], in_bioasq: bool) -> tuple[list, dict, dict[str, Question]]:
    """(examples, counts, BioASQ's questions) of a split's files. Of equal ids the first is kept."""
    rows, counts, questions = [], Counter(), {}
    for path in paths:
        document = json_file(path)
        if in_bioasq:
            factoid, others = bioasq.questions(document, str(path))
            new = {key: question for key, question in factoid.items() if key not in questions}
            document, pairs = bioasq.to_squad(new.values(), keep=True)
            questions |= new
            counts.update(others | pairs)
            counts["duplicate_ids"] += len(factoid) - len(new)
        rows += squad.rows(document, str(path))
    examples, corrected = squad.examples(rows, ", ".join(map(str, paths)))
    counts.update(corrected)
    del counts["pairs"]  # `encode` counts them
    return examples, dict(counts), questions


def _check_submission(path: Path, questions: dict | None) -> None:
    if questions is None:
        raise UserError(
            "--write_submission is for BioASQ's questions, and these data have none. Give the "
            "folder of BioASQ files: --data_dir FOLDER."
        )
    if path.is_dir() or not path.expanduser().absolute().parent.is_dir():
        raise UserError(f"--write_submission {path}: give a file in an existing folder.")


def stratum(example: Example) -> bool:
    """What subsets are stratified by: whether there is an answer."""
    return bool(example.golds)
