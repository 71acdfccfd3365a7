"""Files that appear whole or not at all, and what killed writers leave."""

import os
import subprocess
import sys

from common import files


def test_only_what_dead_writers_left_is_removed(tmp_path):
    """Another process may be writing a figure into the folder of a run that starts."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = tmp_path / f".heads.png.{files._HOST}-{os.getpid()}.tmp"
    dead = tmp_path / f".metrics.json.{files._HOST}-{gone.pid}.tmp"
    folder = tmp_path / f".checkpoint.{files._HOST}-{gone.pid}.tmp"
    elsewhere = tmp_path / f".layers.csv.another_host-{gone.pid}.tmp"
    for path in (mine, dead, elsewhere):
        path.write_text("half")
    folder.mkdir()
    files.remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {mine.name, elsewhere.name}


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "metrics.json"
    files.write_json(path, {"a": 1})
    try:
        files.write_json(path, {"a": float("nan")})
    except ValueError:
        pass
    else:
        raise AssertionError("NaN is no JSON")
    assert files.read_json(path) == {"a": 1} and len(list(tmp_path.iterdir())) == 1
