"""Read NER files: jsonl, parquet and CoNLL columns -> sentences of words and tags."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from common.cli import UserError
from common.data_files import check_folder, find_split, json_file, jsonl, lines, parquet
from NER.scores import OUTSIDE, to_iob2

PATTERNS = ("{}.jsonl", "{}.json", "{}.parquet", "{}-*.parquet", "{}/*.parquet")
PATTERNS += ("{}.conll", "{}.iob2", "{}.iob", "{}.bio", "{}.tsv", "{}.txt")
FIELDS = ("tokens", "tags")
# Lines between the documents of CoNLL 2003 and of JNLPBA.
DOCUMENT_LINES = ("-DOCSTART-", "###MEDLINE:")


def read_folder(folder: Path) -> tuple[dict[str, list[tuple[list, list]]], dict[str, int] | None]:
    """The splits of `folder`, as (words, names of tags), and label.json if there is one.

    Raises UserError, which names file and line, for whatever cannot be read.
    """
    check_folder(folder)
    names = _read_label_json(folder / "label.json")
    by_id = {number: name for name, number in names.items()} if names else None
    splits = {}
    for split in ("train", "dev", "test"):
        files = find_split(folder, split, PATTERNS)
        if not files:
            raise UserError(
                f"no {split} file in {folder}. It needs train, validation (or valid, val, dev) and "
                "test as .jsonl, .parquet or CoNLL columns (.conll, .tsv, .txt ...), not as .csv."
            )
        rows = chain.from_iterable(map(_read, files))
        splits[split] = list(sentences(rows, by_id))
        if not splits[split]:
            raise UserError(f"{files[0]} holds no sentence. Put the {split} examples there.")
    return splits, names


def _read(path: Path) -> Iterator[tuple[str, dict]]:
    if path.suffix == ".parquet":
        return parquet(path, FIELDS)
    return jsonl(path, FIELDS) if path.suffix in (".jsonl", ".json") else _conll(path)


def sentences(
    rows: Iterable[tuple[str, dict]], by_id: dict[int, str] | None
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (words, IOB2 tags) of each (place, row with `FIELDS`).

    `by_id`: the label map, if there is one. Raises UserError, which names the place.
    """
    for place, row in rows:
        words, tags = row["tokens"], row["tags"]
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise UserError(f"{place}: 'tokens' is not a list of strings. Fix that example.")
        if not isinstance(tags, list) or len(tags) != len(words):
            n = len(tags) if isinstance(tags, list) else "no list of"
            raise UserError(f"{place}: {len(words)} tokens but {n} tags. Each token needs one tag.")
        yield words, _iob2([_name(tag, by_id, place) for tag in tags], place)


def _iob2(tags: list[str], place: str) -> list[str]:
    """Checked tags; bare types (`protein`) become IOB2, a run of one type one entity."""
    kinds = [tag for tag in tags if tag != OUTSIDE]
    if all(tag[:2] in ("B-", "I-") and tag[2:] for tag in kinds):
        return tags
    if any(tag[1:2] in ("-", "") for tag in kinds):
        raise UserError(
            f"{place}: tags {', '.join(sorted(set(tags)))} are not IOB2 (O, B-type, I-type). "
            "Convert the file (S- to B-, E- to I-, and the like)."
        )
    return to_iob2(tags)


def _name(tag, by_id: dict[int, str] | None, place: str) -> str:
    if isinstance(tag, str):
        if by_id and tag not in by_id.values():
            known = ", ".join(sorted(by_id.values()))
            raise UserError(f"{place}: unknown tag {tag!r}; label.json has {known}.")
        return tag
    if isinstance(tag, bool) or not isinstance(tag, int):
        raise UserError(f"{place}: tag {tag!r} is neither a number nor a name. Fix that example.")
    if by_id is None:
        raise UserError(
            f"{place}: tags are numbers, but there is no label.json beside the file. Write one: "
            '{"O": 0, "B-protein": 1, ...}'
        )
    if tag not in by_id:
        known = ", ".join(f"{number} {name}" for number, name in sorted(by_id.items()))
        raise UserError(f"{place}: tag {tag} is not in the label map ({known}).")
    return by_id[tag]


def _read_label_json(path: Path) -> dict[str, int] | None:
    if not path.exists():
        return None
    names = json_file(path)
    if not isinstance(names, dict) or any(type(number) is not int for number in names.values()):
        raise UserError(f'{path} must map names to numbers: {{"O": 0, "B-protein": 1, ...}}')
    if len(set(names.values())) < len(names):
        raise UserError(f"{path}: two names have the same number. Give each its own.")
    return names


def columns(lines: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, list[str]]]]:
    """Yield [(place, cells), ...] of each sentence of (place, line); a blank line ends one."""
    sentence = []
    for place, line in chain(lines, [("", "")]):
        if line.strip() and not line.startswith(DOCUMENT_LINES):
            sentence.append((place, line.split("\t") if "\t" in line else line.split()))
        elif sentence:
            yield sentence
            sentence = []


def _conll(path: Path) -> Iterator[tuple[str, dict]]:
    """The word is the first column, its tag the last."""
    n = 0
    for sentence in columns(lines(path)):
        for place, cells in sentence:
            n = n or len(cells)
            if len(cells) != n or n < 2:
                expected = n if n > 1 else "at least 2 (word, tag)"
                raise UserError(f"{place} has {len(cells)} columns, not {expected}. Fix that line.")
        words, tags = zip(*((cells[0], cells[-1].strip()) for _, cells in sentence), strict=True)
        yield sentence[0][0], {"tokens": list(words), "tags": list(tags)}
