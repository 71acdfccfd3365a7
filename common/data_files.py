"""Reading a data set's files: which file is which split, and lines with a place for every error."""

import json
from collections.abc import Iterator
from pathlib import Path

from common.cli import UserError

# The names a split goes by, the usual one first.
SPLIT_NAMES = {
    "train": ("train",),
    "dev": ("validation", "valid", "dev", "devel"),
    "test": ("test",),
}


def find_split(folder: Path, split: str, patterns: tuple[str, ...]) -> list[Path]:
    """The files of `split` in `folder` (several only for shards); empty if there are none.

    `patterns` are globs in which `{}` stands for the split's name. Raises UserError if two
    different files could be meant.
    """
    found = {
        (name, pattern): files
        for name in SPLIT_NAMES[split]
        for pattern in patterns
        if (files := sorted(p for p in folder.glob(pattern.format(name)) if p.is_file()))
    }
    if len(found) > 1:
        names = ", ".join(str(files[0]) for files in found.values())
        raise UserError(f"more than one {split} file: {names}. Leave one of them in {folder}.")
    return next(iter(found.values()), [])


def check_folder(folder: Path) -> None:
    """Raises UserError unless `folder` is one."""
    if not folder.is_dir():
        raise UserError(f"--data_dir {folder} is not a folder. Check the path.")


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, line) of a UTF-8 text file; the place is `file:line`.

    Raises UserError for a file that cannot be read, is not UTF-8, or holds no text at all.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    if not raw.strip():
        raise UserError(f"{path} is empty. Put the split's examples there.")
    # Only "\n" ends a line here: str.splitlines would also cut at U+2028 and the like.
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            yield f"{path}:{number}", line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path}:{number} is not UTF-8 (byte {error.start + 1} of the line). "
                f"Convert the file, e.g. iconv -f latin1 -t utf-8."
            ) from None


def jsonl(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """Yield (place, row) of a file with one JSON object a line; blank lines are passed over.

    Raises UserError, which never quotes the text, for a broken line or a missing field.
    """
    for place, line in lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if "\\u" in line:
                json.dumps(row, ensure_ascii=False).encode()
        except json.JSONDecodeError as error:
            raise UserError(
                f"{place} is not valid JSON ({error.msg}, column {error.colno}). Mend that line."
            ) from None
        except UnicodeEncodeError:  # no tokenizer takes it
            raise UserError(
                f"{place} holds half a character (one of \\ud800-\\udfff alone). Mend that line."
            ) from None
        except (ValueError, RecursionError):  # a number of thousands of digits, thousands of "["
            raise UserError(f"{place} is not valid JSON for an example. Mend that line.") from None
        if not isinstance(row, dict):
            raise UserError(f"{place} is not a JSON object. Each line must be one example.")
        for field in fields:
            if field not in row:
                raise UserError(
                    f"{place} has no field {field!r}. Each line needs: {', '.join(fields)}."
                )
        yield place, row
