"""Fixtures that more than one test file uses."""

import functools
import os

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
