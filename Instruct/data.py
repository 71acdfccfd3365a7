"""The instruction set that Instruct/build.py has made, or the demo's."""

from pathlib import Path
from typing import NamedTuple

from common.cli import UserError, relative
from common.data_files import check_folder, json_file, jsonl
from Instruct import demo_data, prompts
from Instruct.labels import shown
from Instruct.scores import is_negative
from Instruct.splits import SPLITS

FOLDER = Path("medtuned")  # where the data are sought without --data_dir
FIELDS = ("id", "source", "kind", "instruction", "input", "output", "gold")


class Data(NamedTuple):
    """Rows by split; what the answers of the sources can be; how prompts are written and answered.

    The fields after `ner_form` are the flags of the same names.
    """

    splits: dict[str, list[dict]]  # lines of train.jsonl, ...
    labels: list[str]  # of all sources whose answer is one label
    # name -> {"kind", "labels", "data_sha256"}, as in build.json; relations also have "negative":
    # the label that says there is none, or None
    sources: dict[str, dict]
    form: str  # a key of prompts.FORMS
    ner_form: str  # one of prompts.NER_FORMS
    decode: str = "generate"
    length_normalised: bool = False
    max_new_tokens: int | None = None


def load(
    demo: bool, data_dir: Path | None = None, negative_label: str | None = None,
    decode: str = "generate", length_normalised: bool = False, max_new_tokens: int | None = None,
    **others,
) -> Data:  # fmt: skip
    """The demo's data, or those in a folder. Raises UserError.

    `others`: flags that only `task.load_model` needs.
    """
    if length_normalised and decode != "likelihood":
        raise UserError("--length_normalised needs --decode likelihood: give both.")
    if demo:
        splits, sources = demo_data.splits(), demo_data.about()
        form, ner_form = demo_data.FORM, demo_data.NER_FORM
    else:
        splits, sources, form, ner_form = _read(data_dir or FOLDER.absolute())
    _mark_negative(sources, negative_label)
    labels = [
        label
        for about in sources.values()
        if about["kind"] in prompts.LABEL_KINDS
        for label in about["labels"]
    ]
    labels = list(dict.fromkeys(labels))
    return Data(splits, labels, sources, form, ner_form, decode, length_normalised, max_new_tokens)


def _mark_negative(sources: dict[str, dict], given: str | None) -> None:
    """Add "negative" to the relation sources. Raises UserError if `given` is no label of theirs."""
    relations = [about for about in sources.values() if about["kind"] == "relation"]
    if given is not None and not any(given in about["labels"] for about in relations):
        known = shown([label for about in relations for label in about["labels"]])
        raise UserError(
            f"--negative_label {given}: no relation source has this label. They have {known}."
        )
    for about in relations:
        usual = [label for label in about["labels"] if is_negative(label)]
        own = [given] if given in about["labels"] else usual
        about["negative"] = own[0] if len(own) == 1 else None  # the scores know all usual ones


def _read(folder: Path) -> tuple[dict[str, list[dict]], dict, str, str]:
    make = f"Make one with python {relative('Instruct', 'build.py')} (--help says how)."
    if folder == FOLDER.absolute() and not folder.exists():
        raise UserError(f"no --data_dir, and no folder {FOLDER} here. {make}")
    check_folder(folder)
    bad = f"{folder} is no instruction set:"
    for name in ("build.json", *(f"{split}.jsonl" for split in SPLITS)):
        if not (folder / name).is_file():
            raise UserError(f"{bad} {name} is missing. {make}")
    about = json_file(folder / "build.json")
    try:
        sources, form, ner_form = about["sources"], about["prompt_form"], about["ner_form"]
        whole = form in prompts.FORMS and ner_form in prompts.NER_FORMS and all(
            of["kind"] in prompts.KINDS and _are_text(of["labels"]) for of in sources.values()
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise UserError(f"{bad} build.json is not what build.py writes. {make}")
    splits: dict[str, list[dict]] = {}
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        splits[split] = [_checked(row, place, sources) for place, row in jsonl(path, FIELDS)]
        used = {row["source"] for row in splits[split]}
        if without := [name for name in sources if name not in used]:
            raise UserError(f"{path} has no example of {', '.join(without)}. {make}")
    return splits, sources, form, ner_form


def _checked(row: dict, place: str, sources: dict[str, dict]) -> dict:
    """The row. Raises UserError for an unknown source or label, or an unusable gold answer."""
    about = sources.get(str(row["source"]))
    if about is None or about["kind"] != row["kind"]:
        raise UserError(f"{place}: build.json knows no source {row['source']!r} of this kind.")
    kind, gold = row["kind"], row["gold"]
    if not all(isinstance(row[field], str) for field in ("instruction", "input", "output")):
        raise UserError(f"{place}: instruction, input and output are not all text.")
    golds = [gold] if kind in prompts.LABEL_KINDS else gold
    if not _are_text(golds):
        what = "a label" if kind in prompts.LABEL_KINDS else "a list of texts"
        raise UserError(f"{place}: the gold answer of kind {kind} is not {what}.")
    if kind == "ner" and ("type" not in row or len(gold) != len(row["input"].split(" "))):
        raise UserError(f"{place}: no type, or not one tag a word.")
    unknown = [label for label in golds if label not in about["labels"]]
    if unknown and kind not in ("ner", "free_qa"):
        raise UserError(
            f"{place}: {shown(unknown)} of source {row['source']} that build.json does not have. "
            "Build the folder again."
        )
    return row


def _are_text(values) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
