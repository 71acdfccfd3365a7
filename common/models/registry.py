"""What a model is called: short names, Hub ids, local folders, the demo's miniatures."""

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from common.cli import ROOT, UserError, did_you_mean
from common.demo import miniatures
from common.files import read_json
from common.models import adapters, loading

# The name on the command line -> the repository on the Hub.
NAMES = json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))
ENCODERS, CAUSAL = NAMES["encoders"], NAMES["causal"]
MODELS = ENCODERS | CAUSAL
STUDY = ("bert", "biobert", "gpt2", "biogpt")  # the study's four models
MINIATURES = tuple(name for name in MODELS if name in miniatures.DOMAINS)  # available with --demo
CACHE = ROOT / ".cache" / "demo"  # of the miniatures
WEIGHT_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")  # a model is read from these


def fits(head: str, name: str) -> bool:
    """Whether a task with this head can take the model: encoders cannot write answers."""
    return head != "causal" or name not in ENCODERS


class Source(NamedTuple):
    """The model that a command names."""

    name: str  # a key of MODELS, a Hub id, or a local folder as an absolute path
    results: str  # the model's name in result paths
    demo: bool = False  # the demo's miniature stands for the model

    def where(self) -> str:
        """The Hub id or the folder to load the model from. Makes a missing miniature."""
        if self.demo:
            loading.quiet()
            return str(miniatures.miniature(self.name, CACHE))
        return MODELS.get(self.name, self.name)

    def identity(self) -> str | None:
        """A hash of a local model's files, and of what adapters adapt; None for one of the Hub."""
        if self.demo:
            return miniatures.folder_of(self.name, CACHE).name
        if self.name in MODELS or not Path(self.name).is_dir():
            return None
        digest = hashlib.sha256()
        if base := adapters.base_of(self.name):
            digest.update((Source(base, "").identity() or base).encode())
        for path in sorted(Path(self.name).iterdir()):
            if path.is_file() and path.suffix in WEIGHT_FILES and not path.name.startswith("."):
                with path.open("rb") as file:
                    digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def source(name: str, demo: bool = False) -> Source:
    """What `--model_name` and `--demo` mean. UserError for no short name, folder or Hub id."""
    if demo and name not in MINIATURES:
        near, able = did_you_mean(name, MINIATURES) or ".", ", ".join(MINIATURES)
        raise UserError(
            f"--demo has no miniature of {name}{near} Choose --model_name from {able}, or leave "
            "out --demo."
        )
    if name in MODELS:
        return Source(name, name, demo)
    if (folder := Path(name).expanduser()).is_dir():
        return Source(str(folder.resolve()), _results(folder.resolve()))
    # The Hub's oldest models have no owner (bert-base-uncased). One like a short name is a slip.
    near = did_you_mean(name, MODELS, 0.9 if "-" in name else 0.7)
    owner = r"(\w[\w.-]*/)?" if re.search(r"[-\d]", name) and not near else r"\w[\w.-]*/"
    if re.fullmatch(owner + r"\w[\w.-]*", name) and ".." not in name:
        return Source(name, name.replace("/", "--"))
    raise UserError(
        f"--model_name {name} is not a local folder{near or '.'} Give a Hub id (owner/name), a "
        f"folder that exists, or a short name of docs/models.md: {', '.join(MODELS)}."
    )


def _results(folder: Path) -> str:
    """A folder's name in result paths: its run's, if it is a checkpoint of ours, or its own."""
    with suppress(KeyError, TypeError):  # no result of this project lies there
        config = read_json(folder.parent / "config.json")
        name = "{task}-{dataset}-{model}-{training_size}-seed-{seed}".format_map(config)
        return "-".join(filter(None, (name, config["variant"])))
    return "--".join(folder.parts[-2:]).strip("/")
