"""Files that appear whole or not at all, and CSV that reads back equal."""

import math

import numpy as np
import pytest

from common import files


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": object()}])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, value):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        files.write_json(path, value)
    assert files.read_json(path) == {"a": 1} and len(list(tmp_path.iterdir())) == 1


def test_lines_have_no_nan_either(tmp_path):
    """Neither written nor read: other programs cannot read it."""
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(ValueError):
        files.write_jsonl(path, [{"predicted": float("inf")}])
    path.write_text('{"predicted": NaN}\n')
    with pytest.raises(ValueError):
        files.read_jsonl(path)


def test_a_folder_replaces_a_folder(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "old").touch()
    with files.replacing(tmp_path / "checkpoint") as temporary:
        assert temporary.match(".checkpoint.*.tmp")  # what a partial result's end removes
        temporary.mkdir()
        (temporary / "new").touch()
        assert (tmp_path / "checkpoint" / "old").exists()
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")] == [
        "checkpoint",
        "checkpoint/new",
    ]


def test_a_damaged_json_file_is_ignored_with_a_warning(tmp_path, caplog):
    (tmp_path / "a.json").write_text('{"a": ')
    assert files.read_json(tmp_path / "a.json") is None and "a.json is damaged" in caplog.text
    assert files.read_json(tmp_path / "missing.json") is None


def test_csv_reads_back_equal(tmp_path):
    """Floats to the last digit, whole numbers with an empty cell among them, names like "NA"."""
    generator = np.random.default_rng(0)
    values = [*(generator.random(500) * 10.0 ** generator.integers(-300, 300, 500)), 0.1 + 0.2, 1]
    rows = [{"model": 'a, "b"\né', "layer": i, "value": v} for i, v in enumerate(values)]
    rows += [{"model": name, "layer": None, "value": None} for name in ("NA", "null", "None")]
    files.write_csv(tmp_path / "layers.csv", rows)
    assert '"a, ""b""\né",0,' in (tmp_path / "layers.csv").read_text()
    table = files.read_csv(tmp_path / "layers.csv")
    assert list(table.model) == [row["model"] for row in rows]
    for row, layer, value in zip(rows, table.layer, table.value, strict=True):
        for written, read in ((row["layer"], layer), (row["value"], value)):
            assert math.isnan(read) if written is None else read == written
