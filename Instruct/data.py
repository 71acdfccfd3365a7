"""The instruction set that Instruct/build.py has made, or the demo's."""

from pathlib import Path
from typing import NamedTuple

from common.cli import UserError, relative
from common.data_files import json_file, jsonl
from Instruct import demo_data, prompts
from Instruct.splits import SPLITS

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
    ner_form: str  # a key of parsing.FORMS
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
    relations = [of for of in sources.values() if of["kind"] == "relation"]
    marked = [of for of in relations if negative_label in of["labels"]]
    if negative_label is not None and not marked:
        raise UserError(f"--negative_label {negative_label}: no relation of build.json has it.")
    for of in marked:
        of["negative"] = negative_label
    single = [of for of in sources.values() if of["kind"] in prompts.LABEL_KINDS]
    labels = list(dict.fromkeys(label for of in single for label in of["labels"]))
    forms = about["prompt_form"], about["ner_form"]
    return Data(splits, labels, sources, units, *forms, decode, max_new_tokens)


def _read(folder: Path) -> tuple[dict[str, list[dict]], dict, dict[str, list[str]]]:
    """(rows by split, build.json, the units' strata). Raises UserError."""
    make = f"Make one with python {relative('Instruct', 'build.py')} (--help says how)."
    if not (folder / "build.json").is_file():
        raise UserError(f"--data_dir {folder} is no instruction set: build.json is missing. {make}")
    about = json_file(folder / "build.json")
    units = {r["source"]: r["strata"] for _, r in jsonl(folder / "units.jsonl", ("strata",))}
    splits: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for split, rows in splits.items():
        for place, row in jsonl(folder / f"{split}.jsonl", FIELDS):
            of = about["sources"].get(str(row["source"]), {})
            known = row["kind"] not in prompts.LABEL_KINDS or row["gold"] in of.get("labels", ())
            if of.get("kind") != row["kind"] or not known:
                raise UserError(f"{place}: its source, kind or gold is not in build.json. {make}")
            rows.append(row)
    return splits, about, units
