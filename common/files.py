"""Files that appear whole or not at all: JSON, CSV, a model's checkpoint."""

import csv
import hashlib
import json
import logging
import os
import re
import shutil
import socket
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)
_HOST = re.sub(r"\W", "_", socket.gethostname())[:40]


def read_json(path: Path) -> dict | None:
    """The object in `path`; None if it is missing, or (with a warning) if it is not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("%s is damaged and is passed over", path)
        return None


@contextmanager
def replacing(path: Path):
    """Yield a temporary path beside `path`, moved into its place at the end: all or nothing."""
    temporary = path.with_name(f".{path.name}.{_HOST}-{os.getpid()}.tmp")
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        elif path.is_dir():  # a folder cannot replace a folder that holds something
            shutil.rmtree(path)
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a failed write does not say where
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of writers that were killed, on this machine."""
    for left in folder.glob(f".*.{_HOST}-*.tmp"):
        process = int(left.name.split("-")[-1].removesuffix(".tmp"))
        try:
            os.kill(process, 0)
        except ProcessLookupError:  # else it may be writing (a figure, from another run)
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        except PermissionError:  # lives, and is another user's
            pass


def write_json(path: Path, value: dict) -> None:
    """Write `value` as indented JSON, atomically. NaN is an error: it is no JSON."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line, atomically."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write `rows` (all with the keys of the first) as CSV with a header, atomically."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def save_model(folder: Path, model, tokenizer, weights: dict | None = None) -> str:
    """A checkpoint that `from_pretrained` loads, in its place at once or not at all.

    Returns the SHA-256 of its weights' file. Of adapters (PEFT) these alone are saved, and what
    `config.json` says of the model that they adapt. `weights`: in place of the model's own, where
    these are divided among processes.
    """
    from safetensors import SafetensorError

    with replacing(folder) as temporary:
        try:
            # In one file, whose hash stands for the checkpoint, however large it is.
            model.save_pretrained(temporary, state_dict=weights, max_shard_size="100TB")
        except SafetensorError as error:  # hides what the operating system said in its text
            if code := re.search(r"os error (\d+)", str(error)):
                number = int(code[1])
                raise OSError(number, os.strerror(number), str(folder)) from error
            raise
        tokenizer.save_pretrained(temporary)
        adapters = (temporary / "adapter_model.safetensors").is_file()
        if adapters:
            model.config.save_pretrained(temporary)
    with (folder / f"{'adapter_' * adapters}model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
