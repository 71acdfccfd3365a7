"""QA data: SQuAD 2.0 from the Hub, your own SQuAD-form or BioASQ-form files, or the demo's.

BioASQ's text is confidential: messages name files, places and ids, never a text.
"""

from pathlib import Path
from typing import NamedTuple

from common.cli import UserError, number
from common.data_files import SPLIT_NAMES, json_file
from common.hub import load_dataset
from QA import bioasq, demo_data, squad
from QA.bioasq import Pair
from QA.squad import Example

HUB_ID = "rajpurkar/squad_v2"
FIELDS = ("id", "title", "context", "question", "answers")
DOC_STRIDE = 128  # sub-words that neighbouring windows share
AUTO = "auto"


class Data(NamedTuple):
    """Examples by split, and what their scores and the model's inputs depend on."""

    splits: dict[str, list[Example | Pair]]
    labels: list[str]  # none: the outputs are a start and an end
    with_null: bool  # whether some questions have no answer, so that "none" is one
    in_bioasq: bool = False  # an example is a pair of a question and a snippet, see `bioasq.Pair`
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
    in_bioasq = False
    if demo:
        parsed = {s: (demo_data.examples("QA", s, n), {}) for s, n in demo_data.PASSAGES.items()}
    elif data_dir:
        parsed, in_bioasq = _read_folder(data_dir)
    else:
        tables = load_dataset(HUB_ID, ("train", "dev"), FIELDS)
        parsed = {s: squad.examples(squad.hub_rows(tables[s]), HUB_ID) for s in tables}
        parsed["test"] = parsed.pop("dev")  # its validation split is our test split
    splits = {split: examples for split, (examples, _) in parsed.items()}
    if "dev" not in splits:
        train, dev = squad.cut_dev(splits["train"])
        splits = {"train": train} | ({"dev": dev} if dev else {}) | {"test": splits["test"]}
    if in_bioasq:
        splits["train"] = [example for example in splits["train"] if example.answers]
    if write_submission and not in_bioasq:
        raise UserError(
            "--write_submission is for BioASQ's questions, and these data have none. Give the "
            "folder of BioASQ files: --data_dir FOLDER."
        )
    return Data(
        splits,
        [],
        with_null=not in_bioasq and any(not e.golds for some in splits.values() for e in some),
        in_bioasq=in_bioasq,
        counts={f"{s}_{name}": n for s, (_, noted) in parsed.items() for name, n in noted.items()},
        doc_stride=doc_stride,
        null_threshold=None if null_threshold == AUTO else null_threshold,
    )


def _read_folder(folder: Path) -> tuple[dict[str, tuple[list, dict]], bool]:
    """`{split: (examples, counts)}`, and whether they are in BioASQ form. Raises UserError.

    The first file decides the form of all. Without a test file dev is the test split.
    """
    files = {split: paths for split in SPLIT_NAMES if (paths := squad.split_files(folder, split))}
    if "train" not in files or len(files) == 1:
        missing = "dev or test" if "train" in files else "train"
        raise UserError(
            f"no {missing} file in {folder}. It needs train*.json and dev*.json or test*.json, in "
            "SQuAD or BioASQ form. BioASQ is free, but needs registration and is never downloaded. "
            "Register at http://participants-area.bioasq.org, get the training and test files of "
            "task b, and put them into one folder. To see it work without, add --demo."
        )
    if "test" not in files:
        files["test"] = files.pop("dev")
    read = {s: {str(path): json_file(path) for path in paths} for s, paths in files.items()}
    in_bioasq = bioasq.is_bioasq(next(iter(read["train"].values())))
    parse = bioasq.parse if in_bioasq else squad.parse
    return {split: parse(documents) for split, documents in read.items()}, in_bioasq


def stratum(example: Example) -> bool:
    """What subsets are stratified by: whether there is an answer."""
    return bool(example.golds)
