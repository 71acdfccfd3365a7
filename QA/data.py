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
    group = parser.add_argument_group("question answering")
    group.add_argument(
        "--doc_stride",
        type=number(int, 0),
        default=DOC_STRIDE,
        help="sub-words that two windows of a long passage share (default: %(default)s)",
    )
    group.add_argument(
        "--keep_head",
        action="store_true",
        help="keep the span head of --model_name (default: a new one)",
    )
    group.add_argument(
        "--null_threshold",
        type=lambda text: AUTO if text == AUTO else number(float, -1e9, 1e9)(text),
        default=AUTO,
        help='the answer is "none" if its score exceeds the best answer\'s by more than this '
        "number; auto: chosen on dev by F1 (default: auto)",
    )
    group.add_argument(
        "--write_submission",
        type=Path,
        metavar="FILE",
        help="for BioASQ data: also write the answers to the test split as BioASQ takes them",
    )


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
        parsed = {
            s: squad.examples(squad.hub_rows(tables[s], f"{HUB_ID}, {s}"), HUB_ID) for s in tables
        }
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


def _read_folder(folder: Path) -> tuple[dict[str, tuple], dict[str, dict[str, Question]] | None]:
    """`{split: (examples, counts)}`, and the questions of BioASQ form. Raises UserError.

    Without a test file dev is the test split.
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
    documents = {s: {path: json_file(path) for path in files[s]} for s in files if files[s]}
    forms = {bioasq.is_bioasq(d): path for some in documents.values() for path, d in some.items()}
    if len(forms) > 1:
        raise UserError(
            f"{forms[True]} is in BioASQ form, {forms[False]} is not. All files of a folder must "
            "be of one form; python QA/bioasq.py turns BioASQ's into SQuAD's."
        )
    questions = {split: {} for split in documents} if True in forms else None
    parsed = {
        split: _read_split(some, questions and questions[split])
        for split, some in documents.items()
    }
    return parsed, questions


def _read_split(documents: dict[Path, dict], questions: dict | None) -> tuple[list, dict]:
    """(examples, counts) of a split's files; in BioASQ form its `questions` are added to."""
    examples, counts, places = [], Counter(), {}
    for path, document in documents.items():
        if questions is not None:
            factoid, left_out = bioasq.questions(document, str(path))
            document, pairs = bioasq.to_squad(factoid.values(), keep=True)
            questions |= factoid
            del pairs["pairs"]  # `encode` counts them
            counts.update(left_out | pairs)
        found, corrected = squad.parse(document, str(path))
        for example in found:
            other = places.setdefault(example.id, path)
            if other != path:
                raise UserError(
                    f"{other} and {path} both hold the question {example.id}. Leave one of the "
                    f"two files in {path.parent}."
                )
        examples += found
        counts.update(corrected)
    return examples, dict(counts)


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
