"""The instruction set that Instruct/build.py has made, or the demo's."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from common.cli import UserError, relative
from common.data_files import check_folder, json_file, jsonl
from Instruct import demo_data, prompts
from Instruct.labels import shown
from Instruct.scores import is_negative
from Instruct.splits import SPLITS

FOLDER = Path("medtuned")  # where it is sought without --data_dir
FIELDS = ("id", "source", "kind", "instruction", "input", "output", "gold")


class Data(NamedTuple):
    """Rows by split; what the answers of the sources can be; how prompts are written."""

    splits: dict[str, list[dict]]  # lines of train.jsonl, ...
    labels: list[str]  # of all sources whose answer is one label
    # name -> {"kind", "labels", "data_sha256"}, as in build.json, and of relations "negative": the
    # label that says there is none, or None
    sources: dict[str, dict]
    form: str  # a key of prompts.FORMS
    ner_form: str  # one of prompts.NER_FORMS


def load(args) -> Data:
    """The data set that `args` (demo, data_dir, negative_label) name. Raises UserError."""
    if args.demo:
        splits, sources = demo_data.splits(), demo_data.about()
        form, ner_form = demo_data.FORM, demo_data.NER_FORM
    else:
        splits, sources, form, ner_form = _read(args.data_dir or FOLDER.absolute())
    labels = {
        label: None
        for about in sources.values()
        if about["kind"] in prompts.LABEL_KINDS
        for label in about["labels"]
    }
    relations = [about for about in sources.values() if about["kind"] == "relation"]
    negative = args.negative_label
    if negative is not None and not any(negative in about["labels"] for about in relations):
        raise UserError(
            f"--negative_label {negative}: no relation source has this label. They have "
            f"{shown([label for about in relations for label in about['labels']])}."
        )
    for about in relations:
        usual = [label for label in about["labels"] if is_negative(label)]
        own = [negative] if negative in about["labels"] else usual
        about["negative"] = own[0] if len(own) == 1 else None  # of several, the scores know all
    return Data(splits, list(labels), sources, form, ner_form)


def _read(folder: Path) -> tuple[dict[str, list[dict]], dict, str, str]:
    make = f"Make one with python {relative('Instruct', 'build.py')} (--help says how)."
    if folder == FOLDER.absolute() and not folder.exists():
        raise UserError(f"no --data_dir, and no folder {FOLDER} here. {make}")
    check_folder(folder)
    about = json_file(folder / "build.json") if (folder / "build.json").is_file() else None
    try:
        sources = {
            name: {"kind": of["kind"], "labels": of["labels"], "data_sha256": of.get("data_sha256")}
            for name, of in about["sources"].items()
        }
        form, ner_form = about["prompt_form"], about["ner_form"]
        known = form in prompts.FORMS and ner_form in prompts.NER_FORMS
        if not known or not all(
            of["kind"] in prompts.KINDS and _are_text(of["labels"]) for of in sources.values()
        ):
            raise ValueError
    except (KeyError, TypeError, AttributeError, ValueError):
        what = "is not what build.py writes" if about is not None else "is missing"
        raise UserError(f"{folder} is no instruction set: build.json {what}. {make}") from None
    splits: dict[str, list[dict]] = {}
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        if not path.is_file():
            raise UserError(f"{folder} is no instruction set: {path.name} is missing. {make}")
        splits[split] = [_checked(row, place, sources) for place, row in jsonl(path, FIELDS)]
        found = Counter(row["source"] for row in splits[split])
        if without := [name for name in sources if name not in found]:
            raise UserError(f"{path} has no example of {', '.join(without)}. {make}")
    return splits, sources, form, ner_form


def _checked(row: dict, place: str, sources: dict[str, dict]) -> dict:
    """The row. Raises UserError for an unknown source or label, or a gold answer of no use."""
    about = sources.get(str(row["source"]))
    if about is None or about["kind"] != row["kind"]:
        raise UserError(f"{place}: build.json knows no source {row['source']!r} of this kind.")
    kind, gold = row["kind"], row["gold"]
    if not all(isinstance(row[field], str) for field in ("instruction", "input", "output")):
        raise UserError(f"{place}: instruction, input and output are not all text.")
    if not (isinstance(gold, str) if kind in prompts.LABEL_KINDS else _are_text(gold)):
        what = "a label" if kind in prompts.LABEL_KINDS else "a list of texts"
        raise UserError(f"{place}: the gold answer of kind {kind} is not {what}.")
    if kind == "ner" and ("type" not in row or len(gold) != len(row["input"].split(" "))):
        raise UserError(f"{place}: no type, or not one tag a word.")
    if kind in (*prompts.LABEL_KINDS, "classification"):
        given = gold if isinstance(gold, list) else [gold]
        if unknown := [label for label in given if label not in about["labels"]]:
            raise UserError(
                f"{place}: {shown(unknown)} of source {row['source']} that build.json "
                "has not. Build the folder anew."
            )
    return row


def _are_text(values) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
