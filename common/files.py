"""Files that appear whole or not at all: JSON, CSV, a model's checkpoint."""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


def loads(text: str):
    """The JSON value in a text. Raises ValueError for NaN, too: Python alone calls it JSON."""
    return json.loads(text, parse_constant=int)


def read_json(path: Path) -> dict | None:
    """The object in `path`; None if it is missing or, with a warning, if it is damaged."""
    try:
        return loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        log.warning("%s is damaged and is ignored", path)
        return None


@contextmanager
def replacing(path: Path):
    """Yield a temporary path beside `path`; the file or folder written there replaces `path`.

    A killed process leaves `.<name>.<random>.tmp` behind, which nothing reads.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
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
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: dict) -> None:
    """Write `value` as indented JSON, atomically. Raises ValueError for NaN: JSON has none."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_jsonl(path: Path) -> list[dict]:
    return [loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_jsonl(path: Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line, atomically. Raises ValueError for NaN."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        file.writelines(f"{line}\n" for line in lines)


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write `rows` as CSV with a header, atomically. None and NaN are empty cells."""
    import pandas as pd

    with replacing(path) as temporary:
        # Objects: a column of whole numbers with an empty cell must not become one of floats.
        pd.DataFrame(rows, dtype=object).to_csv(temporary, index=False)


def read_csv(path: Path):
    """What `write_csv` wrote: NaN is an empty cell, "NA" a name. ValueError if it is no CSV."""
    import pandas as pd

    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def save_model(folder: Path, model, tokenizer, weights: dict | None = None) -> str:
    """Write a checkpoint that `from_pretrained` loads, atomically; returns its weights' SHA-256.

    Of a model with adapters (PEFT), the adapters alone are saved, and the adapted model's
    configuration. `weights` replace the model's own where these are divided among processes.
    """
    from safetensors import SafetensorError

    with replacing(folder) as temporary:
        try:
            # In one file, whose hash stands for the checkpoint, however large it is.
            model.save_pretrained(temporary, state_dict=weights, max_shard_size="100TB")
        except SafetensorError as error:  # the system's error number is in its text alone
            if code := re.search(r"os error (\d+)", str(error)):
                raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
            raise
        tokenizer.save_pretrained(temporary)
        (saved,) = temporary.glob("*model.safetensors")
        if saved.name.startswith("adapter"):
            model.config.save_pretrained(temporary)
        with saved.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
