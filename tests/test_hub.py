"""Loading from the Hub: fresh, cached, offline, and from a Hub that fails in every way it can.

The Hub is the stand-in of `tests.hub`. Its clients read their environment when they are imported,
so the tests load in two helper processes: one that sees the Hub, one whose Hub refuses the
connection.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from unittest import mock

import pyarrow
import pyarrow.parquet
import pytest

from common import hub as client
from common.cli import UserError
from tests import tiny
from tests.hub import Hub

ROOT = Path(__file__).resolve().parents[1]
DATASET = "tner/bionlp2004"
SQUAD, BIOBERT = "rajpurkar/squad_v2", "dmis-lab/biobert-v1.1"
SQUAD_ROWS = {
    split: [
        {"id": f"{split}-{i}", "title": f"{split} {i // 2}", "context": text, "question": "What?",
         "answers": {"text": [text[:4]][i % 2 :], "answer_start": [0][i % 2 :]}}
        for i, text in enumerate(texts)
    ]
    for split, texts in {"train": tiny.SENTENCES[:4], "validation": tiny.SENTENCES[4:7]}.items()
}  # fmt: skip
REFUSED = {"HF_ENDPOINT": "http://127.0.0.1:9"}  # nothing listens there
# The repository, and the part of a path that the second question about it has.
KINDS = {"data set": (SQUAD, "/revision/"), "model": (BIOBERT, "config.json")}
QUICK = ("--device", "cpu", "--precision", "fp32", "--num_train_epochs", "1")


# --- what happens in a helper process ------------------------------------------------------------


def get(kind, name=None) -> str:
    """Load the data set or the model: the error's message, or ""."""
    # Nobody waits: a silent Hub is given a second, and the library does not sleep between tries.
    with mock.patch("time.sleep"), mock.patch("common.hub.TIMEOUT", 1):
        try:
            (squad if kind == "data set" else load)(name or KINDS[kind][0])
        except UserError as error:
            return str(error)
    return ""


def squad(hub_id=SQUAD):
    """The rows of both splits, and what was printed meanwhile."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        tables = client.load_dataset(hub_id, ("train", "dev"), tuple(SQUAD_ROWS["train"][0]))
    return {split: [row for _, row in table] for split, table in tables.items()}, err.getvalue()


def warm_up():
    from transformers import AutoModelForTokenClassification, AutoTokenizer  # noqa: F401

    from common.training import loop  # noqa: F401


def load(name, head="token"):
    """Weights as arrays, and the tokenizer's pieces of a text with capitals."""
    from common import models

    model, tokenizer = models.load_task_model(name, head, ["a", "b"])
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    return weights, tokenizer.tokenize("NF-kappa B and IL-2"), len(tokenizer)


# --- fixtures ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The stand-in Hub, with the study's data set and models as their repositories hold them."""
    root = tmp_path_factory.mktemp("hub")
    for kind, name in tiny.HUB_NAMES.items():
        if kind != "uncased":
            tiny.make(kind, root / "models" / name, layers=1)
    for split in ("train", "validation", "test"):
        folder = root / "datasets" / DATASET / "refs--convert--parquet" / "bionlp2004" / split
        folder.mkdir(parents=True)
        words = [text.split() for text in tiny.SENTENCES]
        tags = [[(3, 4, 0, 1, 0, 9)[k % 6] for k in range(len(row))] for row in words]
        tags = pyarrow.array(tags, pyarrow.list_(pyarrow.int32()))
        table = pyarrow.table({"tokens": words, "tags": tags})
        pyarrow.parquet.write_table(table, folder / "0000.parquet")
    folder = root / "datasets" / SQUAD / "main" / "squad_v2"
    folder.mkdir(parents=True)
    for split in SQUAD_ROWS:
        table = pyarrow.Table.from_pylist(SQUAD_ROWS[split])
        pyarrow.parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    (folder.parent / "README.md").write_text("not asked for")
    with Hub(root) as hub:
        yield hub


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache") / "huggingface"


@contextlib.contextmanager
def helper(environment):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        with mock.patch.dict(os.environ, environment, clear=True):
            pool.submit(warm_up).result()  # starts the process, with this environment
        yield pool.submit


@pytest.fixture(scope="module")
def online(served, cache):
    with helper(served.env(cache)) as submit:
        yield submit


@pytest.fixture(scope="module")
def offline(served, cache):
    with helper(served.env(cache, **REFUSED)) as submit:
        yield submit


@pytest.fixture
def hub(served):
    """The Hub in order, with no request noted yet."""
    served.reset()
    yield served
    served.reset()


@pytest.fixture
def cold(cache):
    shutil.rmtree(cache, ignore_errors=True)


def no_conversion(requests):
    """Neither the twin of pytorch_model.bin in another format is asked for, nor a commission."""
    paths = [path for _, path in requests]
    assert paths and not [p for p in paths if "/commits" in p or "discussions" in p or "/pr" in p]
    return True


# --- tests ---------------------------------------------------------------------------------------


def test_a_script_on_a_fresh_machine(hub, cold, cache, tmp_path):
    """As the README says it, from inside the task's folder."""
    argv = ["--model_name", "biobert", "--training_size", "10", "--output_dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "fine-tuning.py", *QUICK, *argv],
        cwd=ROOT / "NER", env=hub.env(cache), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert no_conversion(hub.requests)
    folder = tmp_path / "bionlp2004" / "biobert" / "10" / "seed-42" / "fine-tuning"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["train_examples"] == 1 and metrics["test_sentences"] == len(tiny.SENTENCES)
    saved = json.loads((folder / "checkpoint" / "config.json").read_text())
    assert saved["label2id"] == {"O": 0, "DNA": 1, "protein": 2, "RNA": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_cached_costs_no_request(hub, cold, online, offline, kind):
    """And nobody asks a Hub again that is gone."""
    message = offline(get, kind).result()
    assert all(part in message for part in ("--data_dir", "--model_name", "--demo", "network"))
    assert message.startswith(f"{kind} {KINDS[kind][0]}: it is not complete")
    assert "there is no network" in message
    assert ("By its name it belongs to BERT" in message) == (kind == "model")
    assert online(get, kind).result() == "" and no_conversion(hub.requests)
    hub.requests.clear()
    hub.mode = "silent"
    assert online(get, kind).result() == offline(get, kind).result() == ""
    assert not hub.requests


def test_a_data_set_of_shards(hub, cold, online, offline, cache):
    """The layout of squad_v2: read whole, kept, and read again in silence and with no network."""
    rows, said = online(squad).result()
    assert rows == {"train": SQUAD_ROWS["train"], "dev": SQUAD_ROWS["validation"]}
    assert "Generating" not in said and "README.md" not in str(hub.requests)
    hub.requests.clear()
    assert online(squad).result() == (rows, "") == offline(squad).result()
    # Only what the Hub's client keeps: no second copy that could go stale.
    assert sorted(path.name for path in cache.iterdir()) == ["hub"]


@pytest.mark.parametrize("kind", KINDS)
def test_silent_and_not_cached(hub, cold, online, kind):
    assert 0 < client.TIMEOUT <= 10  # here it is 1
    hub.mode = "silent"
    message = online(get, kind).result(timeout=100)
    assert message.startswith(f"{kind} {KINDS[kind][0]}: it is not complete") and hub.broken


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["silent", "stall"])
def test_silent_in_the_middle(hub, cold, online, kind, mode):
    """The Hub answers the first question, and then it says nothing more, or not the file's end."""
    name, second = KINDS[kind]
    for only in [second, "/resolve/"] if mode == "silent" else ["/resolve/"]:
        hub.reset()
        hub.mode, hub.only = mode, only
        message = online(get, kind).result(timeout=100)
        assert message.startswith(f"{kind} {name}: it is not complete"), message
        assert hub.broken and hub.broken[0] != hub.requests[0]
    hub.reset()
    assert online(get, kind).result() == ""  # the same command goes on


@pytest.mark.parametrize("kind", KINDS)
def test_503_always(hub, cold, online, kind):
    hub.mode = "503"
    message = online(get, kind).result()
    assert message.startswith(f"{kind} {KINDS[kind][0]}") and "503" in message
    assert hub.broken == hub.requests


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["gated", "unknown"])
def test_no_access_or_no_such_repository(hub, cold, online, kind, mode):
    """Anybody may ask what a gated repository has; its files are refused."""
    hub.mode, hub.only = ("gated", "/resolve/") if mode == "gated" else ("ok", "")
    name = KINDS[kind][0] if mode == "gated" else "nobody/nothing"
    message = online(get, kind, name).result()
    assert message.startswith(f"{kind} {name}: it is not complete")
    assert "grant you access" in message and "spelling" in message and "hf auth login" in message
    assert bool(hub.broken) == (mode == "gated")


@pytest.mark.parametrize("mode", ["503", "cut"])
@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("model", "vocab.txt"),
        ("model", "pytorch_model.bin"),
        ("data set", "/validation-00000"),
    ],
)
def test_a_download_that_fails_half_way(hub, cold, online, offline, kind, lost, mode):
    """Never a tokenizer of five entries, or a data set without a split; the next try completes."""
    hub.mode, hub.only = mode, lost
    for submit in (online, offline):
        message = submit(get, kind).result()
        assert message.startswith(f"{kind} {KINDS[kind][0]}: it is not complete"), message
        assert "same command again" in message and "--demo" in message
    assert hub.broken and len(hub.requests) > len(hub.broken)
    hub.reset()
    assert online(get, kind).result() == ""
    assert offline(get, kind).result() == ""


def test_a_damaged_file_in_the_cache(hub, cold, online, cache):
    """The message names the file, and to remove it is enough."""
    online(squad).result()
    file = next((cache / "hub").rglob("train-*.parquet")).resolve()
    file.write_bytes(file.read_bytes()[:-9])
    message = online(get, "data set").result()
    damaged = Path(message.split("cannot read ")[1].split(": ")[0])
    assert "remove a file that is damaged" in message and damaged.resolve() == file
    file.unlink()
    assert online(get, "data set").result() == ""


def test_adapters_are_refused_with_what_to_do(hub, cold, online):
    """Else the library would train the head alone: it adds the adapters by itself, frozen."""
    base = hub.root / "models" / BIOBERT
    folder = hub.root / "models" / "me" / "lora"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": BIOBERT}))
    message = online(get, "model", "me/lora").result()
    assert "me/lora holds adapters" in message and "hf download me/lora --local-dir lora" in message


def test_a_repository_with_a_vocabulary_alone_keeps_capitals(hub, cold, online):
    name = tiny.HUB_NAMES["biobert-vocab-only"]
    folder = hub.root / "models" / name
    assert not list(folder.glob("tokenizer*"))
    _, pieces, _ = online(load, name, "token").result()
    assert "".join(pieces).replace("##", "") == "NF-kappaBandIL-2"
