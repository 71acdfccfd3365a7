"""The instruction set that Instruct/build.py has made, or the demo's."""

from pathlib import Path
from typing import NamedTuple

from common.cli import UserError, relative
from common.data_files import check_folder, json_file, jsonl
from Instruct import demo_data, prompts
from Instruct.labels import shown
from Instruct.scores import is_negative
from Instruct.splits import SPLITS

FOLDER = Path("medtuned")  # the folder that is read without --data_dir
FIELDS = ("id", "group", "source", "kind", "instruction", "input", "output", "gold")


class Data(NamedTuple):
    """Rows by split; what the sources' answers can be; how prompts are written and answered."""

    splits: dict[str, list[dict]]  # lines of train.jsonl, ...
    labels: list[str]  # of all sources whose answer is one label
    # {name: {"kind", "labels", "data_sha256"}}, as in build.json. Relations also have "negative",
    # the label that means "no relation", or None.
    sources: dict[str, dict]
    form: str  # a key of prompts.FORMS
    ner_form: str  # one of prompts.NER_FORMS
    decode: str = "generate"  # from here on: the flags of these names
    length_normalised: bool = False
    max_new_tokens: int | None = None


def load(
    demo: bool,
    data_dir: Path | None,
    negative_label: str | None = None,
    decode: str = "generate",
    length_normalised: bool = False,
    max_new_tokens: int | None = None,
    **others,
) -> Data:
    """The demo's data, or a folder's; `others`: flags of `load_model`. Raises UserError."""
    if length_normalised and decode != "likelihood":
        raise UserError("--length_normalised needs --decode likelihood: give both.")
    read = demo_data.read() if demo else _read(data_dir or FOLDER.absolute())
    splits, sources, form, ner_form = read
    _mark_negative(sources, negative_label)
    single = [about for about in sources.values() if about["kind"] in prompts.LABEL_KINDS]
    labels = list(dict.fromkeys(label for about in single for label in about["labels"]))
    how = decode, length_normalised, max_new_tokens
    return Data(splits, labels, sources, form, ner_form, *how)


def _mark_negative(sources: dict[str, dict], given: str | None) -> None:
    """Add "negative" to the relation sources. Raises UserError if `given` is no label of theirs."""
    relations = [about for about in sources.values() if about["kind"] == "relation"]
    known = [label for about in relations for label in about["labels"]]
    if given is not None and given not in known:
        raise UserError(
            f"--negative_label {given}: no relation source has this label. They have "
            f"{shown(known)}."
        )
    for about in relations:
        usual = [label for label in about["labels"] if is_negative(label)]
        own = [given] if given in about["labels"] else usual
        about["negative"] = own[0] if len(own) == 1 else None  # the scores know several usual ones


def _read(folder: Path) -> tuple[dict[str, list[dict]], dict, str, str]:
    make = f"Make one with python {relative('Instruct', 'build.py')} (--help says how)."
    if folder == FOLDER.absolute() and not folder.exists():
        raise UserError(f"no --data_dir, and no folder {FOLDER} here. {make}")
    check_folder(folder)
    paths = {split: folder / f"{split}.jsonl" for split in SPLITS}
    for path in (folder / "build.json", *paths.values()):
        if not path.is_file():
            raise UserError(f"{folder} is no instruction set: {path.name} is missing. {make}")
    about = json_file(folder / "build.json")
    if not _is_whole(about):
        wrong = "build.json is not what build.py writes"
        raise UserError(f"{folder} is no instruction set: {wrong}. {make}")
    splits, sources = {}, about["sources"]
    for split, path in paths.items():
        splits[split] = []
        for place, row in jsonl(path, FIELDS):
            if wrong := _problem(row, sources):
                raise UserError(f"{place}: {wrong}. {make}")
            splits[split].append(row)
        used = {row["source"] for row in splits[split]}
        if without := [name for name in sources if name not in used]:
            raise UserError(f"{path} has no example of {', '.join(without)}. {make}")
    return splits, sources, about["prompt_form"], about["ner_form"]


def _is_whole(about) -> bool:
    """Whether build.json has all that `Data` needs of it."""
    try:
        forms = about["prompt_form"] in prompts.FORMS and about["ner_form"] in prompts.NER_FORMS
        return forms and all(
            of["kind"] in prompts.KINDS and _are_text(of["labels"]) and "data_sha256" in of
            for of in about["sources"].values()
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _problem(row: dict, sources: dict[str, dict]) -> str | None:
    """What is wrong with a row: an unknown source or label, or an unusable gold answer."""
    about = sources.get(str(row["source"]))
    if about is None or about["kind"] != row["kind"]:
        return f"build.json knows no source {row['source']!r} of this kind"
    if not all(isinstance(row[field], str) for field in ("instruction", "input", "output")):
        return "instruction, input and output are not all text"
    kind, single = row["kind"], row["kind"] in prompts.LABEL_KINDS
    golds = [row["gold"]] if single else row["gold"]
    if not _are_text(golds):
        return f"the gold answer of kind {kind} is not {'a label' if single else 'a list of texts'}"
    if kind == "ner" and ("type" not in row or len(golds) != len(row["input"].split(" "))):
        return "no type, or not one tag a word"
    unknown = [label for label in golds if label not in about["labels"]]
    if unknown and kind not in ("ner", "free_qa"):
        return f"build.json does not have {shown(unknown)} of source {row['source']}"
    return None


def _are_text(values) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
