"""What makes two results the same: settings, data, weights. One answer for all who ask.

A run compares itself with what lies in its folder, the figures and the report compare runs with
each other; all read config.json, of today's form or an earlier one.
"""

import functools
import hashlib
import importlib
import logging
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from common import flags
from common.cli import ROOT
from common.files import read_json

log = logging.getLogger(__name__)
STEPS = ("fine-tuning", "probing", "attention")
_ONCE_CALLED = {"control": "controls", "floor": "controls", "random_init": "untrained"}


def arguments(args) -> dict:
    """Every resolved argument, as JSON values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in sorted(vars(args).items())}


@functools.cache
def defaults(task: str, step: str, demo: bool) -> dict:
    """What the flags of a task's script are when none is given; empty if there is no script."""
    try:
        script = importlib.import_module(f"{task}.{step}")
    except ModuleNotFoundError:
        return {}
    return arguments(script.parse_args(["--demo"] if demo else []))


def settings_of(config: dict) -> dict:
    """What identifies a result, by its config.json: the flags and the method's constants.

    A flag that there was not yet counts as its default. At size 0 nothing is trained: how is no
    setting.
    """
    given = {_ONCE_CALLED.get(k, k): v for k, v in config.get("arguments", {}).items()}
    demo = bool(given.get("demo"))
    known = defaults(config.get("task", ""), config.get("step", ""), demo)
    found = flags.settings(known | given) | config.get("settings", {})
    if config.get("training_size") == 0:
        found = {key: value for key, value in found.items() if key not in flags.OF_TRAINING}
    return found


def other_settings(there: dict, here: dict) -> list[str]:
    """The settings in which two config.json differ, in words.

    What is left to the hardware or the model ("auto", None) is what it was there; what is asked for
    is compared with what came of it there.
    """
    one, two = settings_of(there), settings_of(here)
    resolved = {"precision": (there.get("data") or {}).get("precision"),
                "layer_decay": there.get("layer_decay", 1.0)}  # fmt: skip
    for key, value in resolved.items():
        if two.get(key) in ("auto", None):
            one.pop(key, None)
        elif key in one and one[key] in ("auto", None) and value is not None:
            one[key] = value

    def said(value) -> str:
        return "not given" if value is None else str(value)

    return [
        f"{'--' * (key in here.get('arguments', {}))}{key} {said(one[key])} (now {said(two[key])})"
        for key in sorted(one.keys() & two.keys())
        if one[key] != two[key]
    ]


def made_from(there: dict, here: dict) -> list[str]:
    """Which of data, base model and fine-tuned model are not the same; unknown ones are."""
    found = []
    hashes = [config.get("data") or {} for config in (there, here)]
    # Of a fine-tuning run both hashes are one; a probe's may be of a part of the data.
    full = [data.get("full_sha256") or data.get("sha256") for data in hashes]
    comparable = all("full_sha256" in d for d in hashes) or there.get("step") == "fine-tuning"
    if None not in full and full[0] != full[1] and comparable:
        found.append("data set")
    for key, name in (("weights", "base model"), ("checkpoint", "fine-tuned model")):
        if key in there and key in here and there[key] != here[key]:  # old ones have no weights
            found.append(name)
    return found


def differences(one: dict, other: dict) -> list[str]:
    """Why two results of a step (of other models, sizes or seeds) do not belong in one table."""
    found = [text.replace(" (now ", " against ").rstrip(")") for text in other_settings(one, other)]
    data = [config.get("data") or {} for config in (one, other)]
    keys = [k for k in ("full_sha256", "sha256") if all(d.get(k) for d in data)]
    if keys and data[0][keys[0]] != data[1][keys[0]]:
        found.append("other data")
    if one.get("model") == other.get("model"):
        weights = [config.get("weights") for config in (one, other)]
        if None not in weights and weights[0] != weights[1]:
            found.append("another base model")
    return found


def is_stale(folder: Path) -> bool:
    """Whether a run's fine-tuned model is no longer the one that it was made from."""
    config = read_json(folder / "config.json") or {}
    tuned = folder.parent / "fine-tuning"
    if config.get("checkpoint") is None or not tuned.is_dir():
        return False
    if not (tuned / "metrics.json").exists():  # it is being made anew
        return True
    metrics = read_json(tuned / "metrics.json")
    weights = metrics.get("checkpoint_sha256") if isinstance(metrics, dict) else None
    return bool(weights) and config["checkpoint"] != weights


def split_step(name: str) -> tuple[str, str]:
    """The step and the variant of a run folder's name: `probing-linear` -> probing, linear."""
    step = next((s for s in STEPS if name == s or name.startswith(f"{s}-")), "")
    return step, name[len(step) + 1 :] if step else ""


def fingerprint(splits: dict[str, list]) -> str:
    """A hash of all examples, to know the same data again."""
    return hashlib.sha256(repr(sorted(splits.items())).encode()).hexdigest()


@functools.cache
def environment() -> dict:
    """What a rerun elsewhere would need to know: commit, versions, platform."""
    packages = ("torch", "transformers", "tokenizers", "peft", "numpy", "scikit-learn")
    return {
        "git_commit": commit(),
        "python": sys.version.split()[0],
        "platform": sys.platform,
        **{name: version(name) for name in packages},
    }


@functools.cache
def commit() -> str | None:
    """The code's commit, `-dirty` where it was edited since; None outside a git checkout."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.strip() or None


def warn_of_other_code(folder: Path, config: dict) -> None:
    """One line where a result that is used was made by another commit of the code."""
    made_by, now = config.get("git_commit"), commit()
    if made_by and now and made_by != now:
        log.warning(
            "%s was made by other code (commit %s, here %s); it is used as it is",
            os.path.relpath(folder), made_by[:12], now[:12],
        )  # fmt: skip
