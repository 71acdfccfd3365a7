"""Reading NER files: jsonl, parquet and CoNLL columns -> sentences of words and tags."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from common.cli import UserError
from common.data_files import check_folder, find_split, json_file, jsonl, lines, parquet
from NER.scores import OUTSIDE, to_iob2

PATTERNS = (
    *("{}.jsonl", "{}.json"),
    *("{}.parquet", "{}-*.parquet", "{}/*.parquet"),
    *(f"{{}}.{suffix}" for suffix in ("conll", "iob2", "iob", "bio", "tsv", "txt")),
)
FIELDS = ("tokens", "tags")
# Lines between the documents of CoNLL 2003 and of JNLPBA.
DOCUMENT_LINES = ("-DOCSTART-", "###MEDLINE:")


def read_folder(folder: Path) -> tuple[dict[str, list[tuple[list, list]]], dict[str, int] | None]:
    """The splits of `folder`, as (words, tags) with tags as names, and label.json if it is there.

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
                "test as .jsonl, .parquet or CoNLL columns (.conll, .tsv, .txt ...)."
            )
        splits[split] = [sentence for file in files for sentence in read_file(file, by_id)]
        if not splits[split]:
            raise UserError(f"{files[0]} holds no sentence. Put the {split} examples there.")
    return splits, names


def read_file(path: Path, by_id: dict[int, str] | None) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (words, names of tags) of a file; `by_id` is the label map, if there is one."""
    if path.suffix == ".parquet":
        rows = parquet(path, FIELDS)
    elif path.suffix in (".jsonl", ".json"):
        rows = jsonl(path, FIELDS)
    else:
        rows = _conll(path)
    return sentences(rows, by_id)


def sentences(
    rows: Iterable[tuple[str, dict]], by_id: dict[int, str] | None
) -> Iterator[tuple[list[str], list[str]]]:
    """Yield (words, names of tags) of (place, row with `FIELDS`), checked: UserError names it."""
    for place, row in rows:
        words, tags = row["tokens"], row["tags"]
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise UserError(f"{place}: 'tokens' is not a list of strings. Mend that example.")
        if not isinstance(tags, list) or len(tags) != len(words):
            n = len(tags) if isinstance(tags, list) else "no list of"
            raise UserError(f"{place}: {len(words)} tokens but {n} tags. Each token needs one tag.")
        yield words, _iob([_name(tag, by_id, place) for tag in tags], place)


def _iob(tags: list[str], place: str) -> list[str]:
    """Checked tags; bare types (`protein`) become IOB2, a run of one type one entity."""
    bare = [tag for tag in tags if tag != OUTSIDE and tag[:2] not in ("B-", "I-")]
    if not bare and not {"B-", "I-"} & set(tags):
        return tags
    if len(bare) < len(tags) - tags.count(OUTSIDE) or any(tag[1:2] in ("-", "") for tag in bare):
        raise UserError(
            f"{place}: tags {', '.join(sorted(set(tags)))} are not IOB2 (O, B-type, I-type). "
            "Convert the file (S- to B-, E- to I-, and the like)."
        )
    return to_iob2(tags)


def _name(tag, by_id: dict[int, str] | None, place: str) -> str:
    allowed = sorted(by_id.values()) if by_id else None
    if isinstance(tag, str):
        if allowed and tag not in allowed:
            raise UserError(f"{place}: unknown tag {tag!r}; label.json has {', '.join(allowed)}.")
        return tag
    if isinstance(tag, bool) or not isinstance(tag, int):
        raise UserError(f"{place}: tag {tag!r} is neither a number nor a name. Mend that example.")
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
    if not path.is_file():
        return None
    names = json_file(path)
    if not isinstance(names, dict) or not all(
        isinstance(number, int) and not isinstance(number, bool) for number in names.values()
    ):
        raise UserError(f'{path} must map names to numbers: {{"O": 0, "B-protein": 1, ...}}')
    if len(set(names.values())) < len(names):
        raise UserError(f"{path}: two names have the same number. Give each its own.")
    return names


def _conll(path: Path) -> Iterator[tuple[str, dict]]:
    """One word a line, the word first and its tag last; a blank line ends a sentence."""
    columns, words, tags, first = None, [], [], ""
    for place, line in lines(path):
        if line.strip() and not line.startswith(DOCUMENT_LINES):
            cells = line.split("\t") if "\t" in line else line.split()
            columns = columns or len(cells)
            if len(cells) != columns or columns < 2:
                expected = columns if columns > 1 else "at least 2 (word, tag)"
                raise UserError(
                    f"{place} has {len(cells)} columns, not {expected}. Mend that line."
                )
            first = first or place
            words.append(cells[0])
            tags.append(cells[-1].strip())
        elif words:
            yield first, {"tokens": words, "tags": tags}
            words, tags, first = [], [], ""
    if words:
        yield first, {"tokens": words, "tags": tags}
