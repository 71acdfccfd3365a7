"""Reading a data set's files: which file is which split, and lines with a place for every error."""

import glob
import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.cli import UserError

# The names a split goes by, the usual one first.
SPLIT_NAMES = {
    "train": ("train",),
    "dev": ("validation", "valid", "val", "dev", "devel"),
    "test": ("test",),
}
BATCH = 1000  # rows of a parquet file at a time
HALF = "holds half a character (one of \\ud800-\\udfff alone)."
BOM = b"\xef\xbb\xbf"
# In JSON, in order: a character in two halves; half a one alone (kept as group 1); other escapes.
ESCAPES = re.compile(
    r"\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w|(\\u[dD][89a-fA-F]\w\w)|\\.", re.DOTALL
)


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
    # Only "\n" ends a line here: str.splitlines would also cut at U+2028 and the like.
    for number, line in enumerate(_read(path).split(b"\n"), 1):
        try:
            yield f"{path}:{number}", line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise UserError(_not_utf8(str(path), number, error.start + 1)) from None


def stream(file: Iterable[bytes], name: str) -> Iterator[tuple[str, str]]:
    """As `lines`, of an open binary file called `name`, a line at a time; it may be empty."""
    for number, raw in enumerate(file, 1):
        raw = raw.removesuffix(b"\n")
        try:
            line = (raw.removeprefix(BOM) if number == 1 else raw).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(_not_utf8(name, number, error.start + 1)) from None
        yield f"{name}:{number}", line.removesuffix("\r")


def jsonl(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """Yield (place, row) of a file with one JSON object a line; blank lines are passed over.

    Raises UserError, which never quotes the text, for a broken line or a missing field.
    """
    for place, line in lines(path):
        if not line.strip():
            continue
        row = json_row(place, line)
        for field in fields:
            if field not in row:
                raise UserError(
                    f"{place} has no field {field!r}. Each line needs: {', '.join(fields)}."
                )
        yield place, row


def json_row(place: str, line: str) -> dict:
    """The JSON object in a line. Raises UserError, which never quotes the text, if it is none."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{place} is not valid JSON ({error.msg}, column {error.colno}). Mend that line."
        ) from None
    except (ValueError, RecursionError):  # a number of thousands of digits, thousands of "["
        raise UserError(f"{place} is not valid JSON for an example. Mend that line.") from None
    if _half_character(line) is not None:
        raise UserError(f"{place} {HALF} Mend that line.")
    if not isinstance(row, dict):
        raise UserError(f"{place} is not a JSON object. Each line must be one example.")
    return row


def json_file(path: Path):
    """The content of a file that is one JSON value as a whole.

    Raises UserError with `file:line:column`, which never quotes the text, for a broken file.
    """
    return json_value(_read(path), str(path))


def json_value(raw: bytes, name: str):
    """As `json_file`, of the bytes of a file called `name`."""
    raw = raw.removeprefix(BOM)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start].split(b"\n")
        raise UserError(_not_utf8(name, len(before), len(before[-1]) + 1)) from None
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{name}:{error.lineno}:{error.colno}"
        raise UserError(f"{place} is not valid JSON ({error.msg}). Mend the file there.") from None
    except (ValueError, RecursionError):
        raise UserError(
            f"{name} is not valid JSON for data (a number or brackets without end). Mend the file."
        ) from None
    half = _half_character(text)
    if half is not None:
        before = text[:half].split("\n")
        place = f"{name}:{len(before)}:{len(before[-1]) + 1}"
        raise UserError(f"{place} {HALF} Mend the file there.")
    return content


def parquet(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """Yield (`file, row n`, the columns `fields` of that row) of a parquet file.

    Raises UserError for a damaged file and for a missing column.
    """
    import datasets

    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)  # told below, once
    rows = []
    # Streamed: the library's own cache knows a file by its path and time, and would hand out the
    # old rows of one that was replaced. The folder takes the lock that it makes in any case.
    with tempfile.TemporaryDirectory() as folder:
        try:
            data = datasets.IterableDataset.from_parquet(
                glob.escape(str(path)), cache_dir=folder, batch_size=BATCH
            )
            for field in fields:
                if field not in data.column_names:
                    raise UserError(f"{path} has no column {field!r}: it has {data.column_names}.")
            for table in data.select_columns(list(fields)).with_format("arrow").iter(BATCH):
                rows += table.to_pylist()
        # What the library and the format's reader raise; none of it quotes the rows.
        except (OSError, ValueError, TypeError, LookupError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"cannot read {path}: {reason}") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _read(path: Path) -> bytes:
    try:
        raw = path.read_bytes().removeprefix(BOM)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    if not raw.strip():
        raise UserError(f"{path} is empty. Put the examples there.")
    return raw


def _not_utf8(name: str, line: int, byte: int) -> str:
    return (
        f"{name}:{line} is not UTF-8 (byte {byte} of the line). "
        "Convert the file, e.g. iconv -f latin1 -t utf-8."
    )


def _half_character(text: str) -> int | None:
    """Where valid JSON holds half of a character, which no tokenizer takes."""
    if "\\u" not in text:
        return None
    return next((match.start() for match in ESCAPES.finditer(text) if match[1]), None)
