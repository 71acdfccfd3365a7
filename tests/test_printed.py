"""What the pages print of predict.py's demo comes out with one and two threads, in fp32 and bf16.

Takes a quarter of an hour, so it is not among the usual tests: python -m pytest -m slow
"""

import json
import os
import subprocess
import sys

import pytest

from common.cli import ROOT
from tests.helpers import TASKS
from tests.test_pages import blocks, commands

NUMBERS = ("probabilities", "probability", "null_difference")  # they differ from machine to machine


def printed(page):
    """(what is piped into predict.py, its flags, what it prints) by the page."""
    found = blocks(page)
    at = next(i for i, (_, body) in enumerate(found) if "predict.py --demo" in body)
    ((_, flags),) = commands(found[at][1])
    return found[at][1].split("| python")[0], flags, found[at + 1][1]


def answers(text):
    rows = map(json.loads, text.splitlines())
    return [{key: value for key, value in row.items() if key not in NUMBERS} for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ("fp32", "bf16"))
@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize("task", TASKS)
def test_the_answers_of_a_page(task, threads, precision, tmp_path):
    typed, flags, wanted = printed(f"{task}/README.md")
    where = ["--output_dir", str(tmp_path)]
    given = subprocess.run(typed, shell=True, capture_output=True, check=True).stdout

    def run(script, *flags):
        command = [sys.executable, ROOT / task / script, *flags, *where]
        env = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, input=given, capture_output=True, check=True, env=env)
        return done.stdout.decode()

    model = flags[: flags.index("--input")]
    run("fine-tuning.py", *model, "--precision", precision)
    assert answers(run("predict.py", *flags)) == answers(wanted)
