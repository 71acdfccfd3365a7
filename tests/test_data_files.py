"""Reading files: every place is named, and no message quotes the text."""

import json
import os
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from common.cli import UserError
from common.data_files import find_split, json_file, jsonl, lines, parquet

SECRET = "Mr Smith"  # what no message may quote


def message(read, *args) -> str:
    """What the reader says of a broken file, without its text."""
    with pytest.raises(UserError) as error:
        list(read(*args))
    assert SECRET not in str(error.value)
    return str(error.value)


@pytest.fixture
def file(tmp_path):
    """`file(bytes)`: a file that holds them."""

    def write(content: bytes) -> Path:
        (tmp_path / "data.json").write_bytes(content)
        return tmp_path / "data.json"

    return write


# --- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    {
        "plain": (b"a\nb\n", ["a", "b"]),
        "no newline at the end": (b"a\nb", ["a", "b"]),
        "BOM": (b"\xef\xbb\xbfa\nb", ["a", "b"]),
        "CRLF": (b"a\r\nb\r\n", ["a", "b"]),
        "what ends no line": ("a\u2028b\x0bc\x85\rd\nf".encode(), ["a\u2028b\x0bc\x85\rd", "f"]),
        "a BOM in the middle is a character": (b"a\n\xef\xbb\xbfb", ["a", "\ufeffb"]),
    }.values(),
)  # fmt: skip
def test_lines(file, content, expected):
    path = file(content)
    numbered = [(f"{path}:{number}", line) for number, line in enumerate(expected, 1)]
    assert list(lines(path)) == numbered


# --- JSON, by line and as a whole ----------------------------------------------------------------

ROWS = [{"text": "é\u2028\U0001d6fc", "n": 1}, {"text": 'a "\\ud800" b', "n": [None, 0.5]}]


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_what_is_valid_is_read(file, ascii_only, end, bom):
    """Escaped or not; the second text holds a backslash that begins no escape."""
    dumped = [json.dumps(row, ensure_ascii=ascii_only) for row in ROWS]
    path = file(bom + (end * 2).join([*dumped, ""]).encode())
    assert [row for _, row in jsonl(path, ("text", "n"))] == ROWS
    assert [place for place, _ in jsonl(path, ())] == [f"{path}:1", f"{path}:3"]
    whole = json.dumps(ROWS, ensure_ascii=ascii_only, indent=1).replace("\n", end)
    assert json_file(file(bom + whole.encode())) == ROWS


GOOD = b'{"a": "Mr Smith",\n "b": '  # what stands before the break, on line 2
BROKEN = {
    "a comma too much": (GOOD + b'["x",]}', ":2:12 is not valid JSON"),
    "cut off": (GOOD, ":2:7 is not valid JSON"),
    "cut off in a text": (GOOD + b'"Mr Smith', ":2:7 is not valid JSON"),
    "two values": (GOOD + b"1}\n{}", ":3:1 is not valid JSON"),
    "after CRLF": (GOOD.replace(b"\n", b"\r\n") + b"x}", ":2:7 is not valid JSON"),
    "after a BOM": (b"\xef\xbb\xbf" + GOOD + b"x}", ":2:7 is not valid JSON"),
    "after U+2028": (b'{"\xe2\x80\xa8": Mr Smith}', ":1:7 is not valid JSON"),
    "a newline in a text": (GOOD + b'"Mr\nSmith"}', ":2:10 is not valid JSON"),
    "Latin-1": (GOOD + b'"Mr Smith \xe9"}', ":2 is not UTF-8 (byte 17 of the line)"),
    "UTF-16": ('"Mr Smith"'.encode("utf-16"), ":1 is not UTF-8 (byte 1 of the line)"),
    "half a character": (GOOD + b'"Mr Smith \\ud83d!"}', " is not valid JSON (half"),
    "its other half": (GOOD + b'"\\ud83d\\ude00\\\\\\uDE00"}', " is not valid JSON (half"),
    "half a character in a key": (GOOD + b'{"\\udfff": 1}}', " is not valid JSON (half"),
    "a huge number": (GOOD + b"1" * 5000 + b"}", " is not valid JSON ("),
    "NaN": (b'{"id": NaN}', " is not valid JSON ("),
    "too deep": (b"[" * 200_000, " is not valid JSON ("),
    "empty": (b"", " is empty"),
    "a BOM alone": (b"\xef\xbb\xbf", " is empty"),
    "blank": (b" \r\n ", " is empty"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_with_line_and_column(file, kind):
    content, expected = BROKEN[kind]
    path = file(content)
    assert message(json_file, path).startswith(f"{path}{expected}")


LINES = {
    "broken": (b'{"text": Mr Smith}', ":10 is not valid JSON (Expecting value)"),
    "Latin-1": (b'{"text": "Mr Smith \xe9"}', " is not UTF-8 (byte 20 of the line)"),
    "half a character": (b'{"text": "Mr Smith \\ud83d"}', " is not valid JSON (half"),
    "a list": (b'["Mr Smith"]', " is not a JSON object"),
    "a huge number": (b'{"text": ' + b"1" * 5000 + b"}", " is not valid JSON"),
    "no text": (b'{"Text": "Mr Smith"}', " has no field 'text'"),
}


@pytest.mark.parametrize("kind", LINES)
def test_a_broken_line_is_named(file, kind):
    """Blank lines count as lines."""
    line, expected = LINES[kind]
    path = file(b'\xef\xbb\xbf{"text": "Mr Smith"}\r\n\r\n' + line + b"\r\n")
    assert message(jsonl, path, ("text",)).startswith(f"{path}:3{expected}")


@pytest.mark.parametrize("read", [json_file, lambda path: list(jsonl(path, ()))])
def test_a_file_that_is_not_there(tmp_path, read):
    for path in (tmp_path / "missing.json", tmp_path):
        assert message(read, path).startswith(f"cannot read {path}: ")


# --- parquet -------------------------------------------------------------------------------------


def write_parquet(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=900)
    return path


def test_parquet_rows_have_the_columns_asked_for(tmp_path):
    """In order over batches; nested values are Python's; a file may have no row."""
    n = 2500
    answers = [{"text": ["a"] * (i % 3), "start": [i] * (i % 3)} for i in range(n)]
    texts = [None, *"b" * (n - 1)]
    path = write_parquet(tmp_path / "a.parquet", text=texts, answers=answers, x=[0] * n)
    rows = list(parquet(path, ("answers", "text")))
    assert [place for place, _ in rows] == [f"{path}, row {i}" for i in range(1, n + 1)]
    expected = [{"answers": a, "text": "b" if i else None} for i, a in enumerate(answers)]
    assert [row for _, row in rows] == expected
    empty = write_parquet(tmp_path / "b.parquet", text=pyarrow.array([], pyarrow.string()))
    assert list(parquet(empty, ("text",))) == []


def test_a_parquet_file_that_was_replaced_is_read_anew(tmp_path):
    """Also under the same path, size and time, by which the library's cache knows a file."""
    path = write_parquet(tmp_path / "a.parquet", text=["a"])
    old = path.stat()
    assert [row["text"] for _, row in parquet(path, ("text",))] == ["a"]
    write_parquet(path, text=["b"])
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns))
    assert path.stat().st_mtime_ns == old.st_mtime_ns
    assert [row["text"] for _, row in parquet(path, ("text",))] == ["b"]


@pytest.mark.parametrize("name", ["a [1] *b?", ".cache/x", "é #1 %20", "__own"])
def test_a_path_is_a_path_and_no_pattern(tmp_path, monkeypatch, name):
    write_parquet(tmp_path / name / "a.parquet", text=["a"])
    write_parquet(tmp_path / "a 1 xbx" / "a.parquet", text=["another"])
    for path in (tmp_path / name / "a.parquet", Path(name) / "a.parquet"):
        monkeypatch.chdir(tmp_path)
        assert [row for _, row in parquet(path, ("text",))] == [{"text": "a"}]


def test_a_damaged_parquet_file_is_named(tmp_path, caplog):
    """Once: what the library logs itself is not shown."""
    path = write_parquet(tmp_path / "a.parquet", text=[SECRET] * 100, n=list(range(100)))
    said = message(parquet, path, ("text", "words"))
    assert said.startswith(f"cannot read {path}: ") and "['words']" in said and "'n'" in said
    good = path.read_bytes()
    broken = good[:10] + b"\xff" * 60 + good[70:]
    for damaged in (b"", b"PAR1" + SECRET.encode(), good[:50], broken):
        path.write_bytes(damaged)
        said = message(parquet, path, ("text",))
        assert re.match(rf"cannot read {re.escape(str(path))}: \w+", said)
    for gone in (tmp_path / "missing.parquet", tmp_path):
        assert message(parquet, gone, ("text",)).startswith(f"cannot read {gone}: ")
    assert not caplog.records


# --- which file is which split -------------------------------------------------------------------


def test_find_split(tmp_path):
    """Shards in order; a split's other names; a second file is refused."""
    patterns = ("{}.jsonl", "{}-*.parquet")
    for name in ("dev-1.parquet", "dev-0.parquet", "train.jsonl", "Train.txt", "training.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "test.jsonl").symlink_to(tmp_path / "gone")
    shards = [tmp_path / "dev-0.parquet", tmp_path / "dev-1.parquet"]
    assert find_split(tmp_path, "dev", patterns) == shards
    assert find_split(tmp_path, "train", patterns) == [tmp_path / "train.jsonl"]
    assert find_split(tmp_path, "test", patterns) == []
    assert find_split(tmp_path, "dev", ("{}.txt",)) == []
    (tmp_path / "val.txt").touch()
    assert find_split(tmp_path, "dev", ("{}.txt",)) == [tmp_path / "val.txt"]
    (tmp_path / "valid.jsonl").touch()
    with pytest.raises(UserError, match=r"more than one dev file: .*valid\.jsonl.*dev-0\.parquet"):
        find_split(tmp_path, "dev", patterns)
