"""The house stays small: no long file, no long function."""

import ast

import pytest

from common.cli import ROOT
from tests.helpers import TASKS

FILES = [file for name in ("common", *TASKS) for file in sorted((ROOT / name).rglob("*.py"))]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_above_300_lines_and_no_function_above_60(file):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno + 1 <= 60, node.name
