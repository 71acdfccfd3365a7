"""QA data: SQuAD 2.0 from the Hub, your own SQuAD-form or BioASQ-form files, or the demo's.

BioASQ's text is confidential: messages name files, places and ids, never a text.
"""

from pathlib import Path
from typing import NamedTuple

from common.cli import UserError, number
from common.data_files import check_folder, json_file
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
    kinds: bool  # whether all splits that are scored have questions of both kinds
    # Of BioASQ form: the questions of each file's split, by id. An example is then a pair of one
    # and a snippet. None: an example is a question.
    questions: dict[str, dict[str, Question]] | None
    counts: dict[str, int]  # what was mended or left out in the files
    doc_stride: int
    null_threshold: float | None  # None: chosen on dev


def add_arguments(parser, step: str) -> None:
    """What only fine-tuning has: windows, the head of a checkpoint, the null threshold."""
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
        help="go on with the head that --model_name has (default: a new one)",
    )
    group.add_argument(
        "--null_threshold",
        type=_threshold,
        default=AUTO,
        help="no answer where its score is so much above the best answer's; auto: chosen on dev "
        "by F1 (default: auto)",
    )
    group.add_argument(
        "--write_submission",
        type=Path,
        metavar="FILE",
        help="of BioASQ data: also write the test split's answers as BioASQ takes them",
    )


def _threshold(text: str) -> float | str:
    return AUTO if text == AUTO else number(float, -1e9, 1e9)(text)


def load(args) -> Data:
    """The data set that `args` (demo, data_dir) name, with the settings of the task's own flags.

    Raises UserError if it cannot be had or read, or if a submission could not be written.
    """
    if args.demo:
        files = demo_data.splits()
        parsed = {split: squad.parse(files[split], f"demo {split}") for split in files}
        splits = {split: examples for split, (examples, _) in parsed.items()}
        counts, questions = {split: noted for split, (_, noted) in parsed.items()}, None
    elif args.data_dir:
        splits, counts, questions = _read_folder(args.data_dir)
    else:
        splits, counts, questions = *_from_hub(), None
    _check_submission(getattr(args, "write_submission", None), questions)
    scored = [some for split, some in splits.items() if split != "train"]
    open_ones = [any(not e.golds for e in some) for some in scored]
    with_null = not questions and (any(open_ones) or any(not e.golds for e in splits["train"]))
    threshold = getattr(args, "null_threshold", AUTO)
    return Data(
        splits, [],
        with_null=with_null,
        kinds=with_null and all(open_ones) and all(any(e.golds for e in some) for some in scored),
        questions=questions,
        counts={f"{split}_{name}": n for split in counts for name, n in counts[split].items()},
        doc_stride=getattr(args, "doc_stride", DOC_STRIDE),
        null_threshold=None if threshold == AUTO else threshold,
    )  # fmt: skip


def _from_hub() -> tuple[dict, dict]:
    """SQuAD 2.0: its validation split is our test split, dev is cut from train by article."""
    rows = load_dataset(HUB_ID, ("train", "dev"), FIELDS)
    parsed = {split: squad.from_rows(rows[split], f"{HUB_ID}, {split}") for split in rows}
    train, dev = squad.cut_dev(parsed["train"][0])
    splits = {"train": train, "dev": dev, "test": parsed["dev"][0]}
    return splits, {"train": parsed["train"][1], "test": parsed["dev"][1]}


def _read_folder(folder: Path) -> tuple[dict, dict, dict | None]:
    """Splits, counts and, of BioASQ form, questions. Raises UserError."""
    try:
        check_folder(folder)
    except UserError as error:
        raise UserError(f"{error} {bioasq.ACCESS}") from None
    forms: dict[bool, Path] = {}
    questions: dict[str, dict[str, Question]] = {}

    def read(path: Path, split: str):
        document = json_file(path)
        is_bioasq = bioasq.is_bioasq(document)
        forms.setdefault(is_bioasq, path)
        if len(forms) > 1:
            raise UserError(
                f"{forms[True]} is in BioASQ form, {forms[False]} is not. All files of a folder "
                "must be of one form; python QA/bioasq.py turns BioASQ's into SQuAD's."
            )
        if not is_bioasq:
            return squad.parse(document, str(path))
        found, left_out = bioasq.questions(document, str(path))
        questions.setdefault(split, {}).update({question.id: question for question in found})
        converted, counts = bioasq.to_squad(found, keep=True)
        examples, noted = squad.parse(converted, str(path))
        del counts["pairs"]  # those that are encoded are counted
        return examples, left_out | counts | noted

    splits, counts = squad.read_splits(folder, read, bioasq.ACCESS)
    if not questions:
        return splits, counts, None
    questions.setdefault("dev", questions["train"])  # cut from it
    splits["train"] = [example for example in splits["train"] if example.answers]
    if not splits["train"]:
        raise UserError(
            f"no snippet of the train files in {folder} holds an answer to its question, so there "
            "is nothing to train on. Give others."
        )
    return splits, counts, questions


def _check_submission(path: Path | None, questions: dict | None) -> None:
    if path is None:
        return
    if questions is None:
        raise UserError(
            "--write_submission is for BioASQ's questions, and these data are none. Give the "
            "folder of BioASQ files: --data_dir FOLDER."
        )
    if path.is_dir() or not path.expanduser().absolute().parent.is_dir():
        raise UserError(
            f"--write_submission {path}: give a file in a folder that is there, not a folder."
        )


def stratum(example: Example) -> bool:
    """What subsets are stratified by: whether there is an answer."""
    return bool(example.golds)
