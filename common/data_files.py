"""Read a data set's files: which file is which split; each error names its file and line."""

import glob
import io
import json
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from common.cli import UserError
from common.files import loads

SPLIT_NAMES = {  # the usual name of a split first
    "train": ("train",),
    "dev": ("validation", "valid", "val", "dev", "devel"),
    "test": ("test",),
}
BOM = b"\xef\xbb\xbf"
KINDS = {str: "a string", list: "a list", int: "a whole number"}  # of JSON's values


def find_split(folder: Path, split: str, patterns: tuple[str, ...]) -> list[Path]:
    """The files of `split` in `folder` (several only for shards); empty if there are none.

    `patterns` are globs in which `{}` stands for the split's name. Raises UserError if two
    different files could be meant.
    """
    globs = [pattern.format(name) for name in SPLIT_NAMES[split] for pattern in patterns]
    matching = [sorted(filter(Path.exists, folder.glob(each))) for each in globs]
    choices = [files for files in matching if files]
    if len(choices) > 1:
        names = ", ".join(str(files[0]) for files in choices)
        raise UserError(f"more than one {split} file: {names}. Leave one of them in {folder}.")
    return choices[0] if choices else []


def tables(path: Path) -> str:
    """What to do with CSV or TSV, `path` or the files in it, for messages; "" if there are none."""
    files = path.iterdir() if path.is_dir() else [path]
    kind = next((file.suffix for file in files if file.suffix in (".csv", ".tsv")), "")
    which, sep = path / f"*{kind}" if path.is_dir() else path, "\t" if kind == ".tsv" else ","
    which, sep = json.dumps(str(which), ensure_ascii=False), json.dumps(sep)
    made = f"pd.read_csv(f, sep={sep}, dtype=str, keep_default_na=False)"
    made += '.to_json(f[:-3] + "jsonl", orient="records", lines=True)'
    made = shlex.quote(f"import glob, pandas as pd; [{made} for f in glob.glob({which})]")
    told = " CSV and TSV are not read. Name the columns like the fields (see README.md of the task)"
    return f"{told} and convert the files: python -c {made}" if kind else ""


def check_folder(folder: Path) -> None:
    """Raises UserError unless `folder` is one."""
    if not folder.is_dir():
        raise UserError(f"--data_dir {folder} is not a folder. Check the path.")


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (`file:line`, line). UserError if it cannot be read, is not UTF-8, or has no text."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None
    if not raw.removeprefix(BOM).strip():
        raise UserError(f"{path} is empty. Put the examples there.")
    return stream(io.BytesIO(raw), str(path))


def stream(file: Iterable[bytes], name: str) -> Iterator[tuple[str, str]]:
    """As `lines`, of an open binary file called `name`, a line at a time; it may be empty."""
    # Only "\n" ends a line here: str.splitlines would also cut at U+2028 and the like.
    for number, raw in enumerate(file, 1):
        raw = raw.removeprefix(BOM) if number == 1 else raw
        try:
            line = raw.removesuffix(b"\n").decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}:{number} is not UTF-8 (byte {error.start + 1} of the line). "
                "Convert the file, e.g. iconv -f latin1 -t utf-8."
            ) from None
        yield f"{name}:{number}", line.removesuffix("\r")


def jsonl(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """Yield (place, row) of a file with one JSON object a line; blank lines are ignored.

    Raises UserError, which never quotes the text, for a broken line or a missing field.
    """
    for place, line in lines(path):
        if line.strip():
            row, needed = json_row(place, line), ", ".join(fields)
            if lost := [field for field in fields if field not in row]:
                raise UserError(f"{place} has no field {lost[0]!r}. Each line needs: {needed}.")
            yield place, row


def json_row(place: str, line: str) -> dict:
    """The JSON object in a line. Raises UserError, which never quotes the text, if it is none."""
    row = _parse(line, place, whole=False)
    if not isinstance(row, dict):
        raise UserError(f"{place} is not a JSON object. Each line must be one example.")
    return row


def json_file(path: Path):
    """The value in a JSON file. Raises UserError with `file:line:column`, never with the text."""
    text = "\n".join(line for _, line in lines(path))
    return _parse(text, str(path), whole=True)


def _parse(text: str, place: str, whole: bool):
    """The JSON value in `text`: a whole file, or the line that `place` names."""
    try:
        value = loads(text)
        if "\\ud" in text.lower():  # an escape, perhaps half of a character: no tokenizer takes it
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        at = f"{error.lineno}:{error.colno}" if whole else error.colno
        raise UserError(f"{place}:{at} is not valid JSON ({error.msg}). Fix that line.") from None
    except (ValueError, RecursionError):
        fault = "half a character, such as \\ud800 alone, NaN, or a number or brackets without end"
        raise UserError(f"{place} is not valid JSON ({fault}). Fix it.") from None
    return value


def field(value, key: str, kind: type, place: str, form: str):
    """`value[key]`, which must be a `kind`. Raises UserError: the place, and the form expected."""
    if not isinstance(value, dict):
        raise UserError(f"{place} is not a JSON object. Expected: {form}.")
    if not isinstance(value.get(key), kind) or isinstance(value[key], bool):
        wrong = f"is not {KINDS[kind]}" if key in value else "is missing"
        raise UserError(f"{place}: {key!r} {wrong}. Expected: {form}.")
    return value[key]


def parquet(path: Path, fields: tuple[str, ...]) -> Iterator[tuple[str, dict]]:
    """Yield (`file, row n`, its `fields`). UserError for a damaged file or a missing column."""
    import datasets

    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)  # we report errors once
    # Streamed: the library's own cache would return the old rows of a file that was replaced. The
    # folder takes the lock file that the library makes in any case.
    with tempfile.TemporaryDirectory() as folder:
        try:
            pattern, options = glob.escape(str(path)), {"cache_dir": folder, "batch_size": 1000}
            data = datasets.IterableDataset.from_parquet(pattern, **options)
            rows = list(data.select_columns(list(fields)))
        # What the library and the format's reader raise; none of it quotes the rows.
        except (OSError, ValueError, TypeError, LookupError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(f"cannot read {path}: {reason}") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row
