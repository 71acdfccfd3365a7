"""Fixtures that more than one test file uses."""

import functools
import os
from importlib import metadata
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes, a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import common.cli  # noqa: F401  (sets what torch reads when it is imported)
from tests import tiny


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """`checkpoint(kind)`: the folder of a one-layer miniature, made once. Not to be written in."""
    return functools.cache(
        lambda kind: tiny.make(kind, tmp_path_factory.mktemp("models") / kind, layers=1)
    )


@pytest.fixture(autouse=True)
def quick(request, monkeypatch):
    """Figures are empty files but in tests marked `figures`: drawing takes longer than the rest.
    Ablation draws random heads three times, not 20 times."""
    monkeypatch.setattr("common.steps.ablation.DRAWS", 3)
    if not request.node.get_closest_marker("figures"):
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, path, **how: path.touch())


def pytest_terminal_summary(terminalreporter):
    """Say which installed versions are not the pinned ones: what passes with them proves little."""
    for line in (Path(__file__).parents[1] / "requirements.txt").read_text().splitlines():
        name, _, pinned = line.partition("==")
        if not pinned:
            continue
        try:
            here = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            here = "missing"
        if here != pinned:
            terminalreporter.line(f"{name} is {here} here, {pinned} in requirements.txt")
