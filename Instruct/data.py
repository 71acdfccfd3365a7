"""The instruction set that Instruct/build.py has made, or the demo's."""

from pathlib import Path
from typing import NamedTuple

from common.cli import UserError, relative
from common.data_files import check_folder, json_file, jsonl
from Instruct import demo_data, prompts
from Instruct.labels import shown
from Instruct.splits import SPLITS
from NER.scores import OUTSIDE

FOLDER = Path("medtuned")  # the folder that is read without --data_dir
FIELDS = ("id", "group", "source", "kind", "instruction", "input", "output", "gold")


class Data(NamedTuple):
    """Rows by split; what the sources' answers can be; how prompts are written and answered."""

    splits: dict[str, list[dict]]  # lines of train.jsonl, ...
    labels: list[str]  # of all sources whose answer is one label
    # {name: {"kind", "labels", "data_sha256"}}, as in build.json; and "negative" of relations whose
    # label for "no relation" was given.
    sources: dict[str, dict]
    units: dict[str, list[str]]  # {source: the stratum of each unit that subsets draw}
    form: str  # a key of prompts.FORMS
    ner_form: str  # one of prompts.NER_FORMS
    decode: str = "generate"  # from here on: the flags of these names
    max_new_tokens: int | None = None


def load(
    demo: bool,
    data_dir: Path | None,
    negative_label: str | None = None,
    decode: str = "generate",
    max_new_tokens: int | None = None,
    **others,
) -> Data:
    """The demo's data, or a folder's; `others`: flags of `load_model`. Raises UserError."""
    splits, about, units = demo_data.read() if demo else _read(data_dir or FOLDER.absolute())
    sources = about["sources"]
    if negative_label is not None:
        _mark_negative(sources, negative_label)
    single = [of for of in sources.values() if of["kind"] in prompts.LABEL_KINDS]
    labels = list(dict.fromkeys(label for of in single for label in of["labels"]))
    forms = about["prompt_form"], about["ner_form"]
    return Data(splits, labels, sources, units, *forms, decode, max_new_tokens)


def _mark_negative(sources: dict[str, dict], label: str) -> None:
    """Note the label with the relation sources that have it. Raises UserError if none has it."""
    relations = [of for of in sources.values() if of["kind"] == "relation"]
    known = [label for of in relations for label in of["labels"]]
    if label not in known:
        said = f"no relation source has this label. They have {shown(known)}."
        raise UserError(f"--negative_label {label}: {said}")
    for of in relations:
        if label in of["labels"]:
            of["negative"] = label


def _read(folder: Path) -> tuple[dict[str, list[dict]], dict, dict[str, list[str]]]:
    """(rows by split, build.json, the units' strata). Raises UserError."""
    make = f"Make one with python {relative('Instruct', 'build.py')} (--help says how)."
    if folder == FOLDER.absolute() and not folder.exists():
        raise UserError(f"no --data_dir, and no folder {FOLDER} here. {make}")
    check_folder(folder)
    for name in ("build.json", "units.jsonl", *(f"{split}.jsonl" for split in SPLITS)):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no instruction set: {name} is missing. {make}")
    about = json_file(folder / "build.json")
    units = {r["source"]: r["strata"] for _, r in jsonl(folder / "units.jsonl", ("strata",))}
    splits: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for split, rows in splits.items():
        for place, row in jsonl(folder / f"{split}.jsonl", FIELDS):
            if not _fits(row, about["sources"]):
                raise UserError(
                    f"{place} does not fit build.json: its source is not there, or its kind, type "
                    f"or gold is none that the source has. Correct that row. Or: {make}"
                )
            rows.append(row)
    return splits, about, units


def _fits(row: dict, sources: dict[str, dict]) -> bool:
    """Whether the row is of one of the sources, with an answer that the source can have."""
    if row["source"] not in [*sources] or row["kind"] != sources[row["source"]]["kind"]:
        return False
    kind, gold, labels = row["kind"], row["gold"], sources[row["source"]]["labels"]
    if kind in prompts.LABEL_KINDS:
        return gold in labels
    if not isinstance(gold, list):
        return False
    if kind == "ner":
        tags = [OUTSIDE, *(f"{part}-{row.get('type')}" for part in "BI")]
        whole = len(gold) == len(str(row["input"]).split(" "))
        return row.get("type") in labels and whole and all(tag in tags for tag in gold)
    return all(isinstance(x, str) and (kind == "free_qa" or x in labels) for x in gold)
