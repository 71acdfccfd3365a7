"""The Hugging Face Hub: the cache first, then one bounded question, then the download."""

import logging
import os
import socket
from pathlib import Path

from common.cli import UserError
from common.data_files import find_split, parquet

# For a repository with pytorch_model.bin alone, transformers would ask for a converted copy in the
# background, and the process would wait for it at its end.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
log = logging.getLogger(__name__)
TIMEOUT = 10  # seconds that the Hub may be silent, at the first question and later
# The layouts of data sets in parquet: `{}` is the split.
PATTERNS = ("{}.parquet", "{}-*.parquet", "{}/*.parquet", "*/{}-*.parquet", "*/{}/*.parquet")


def load_dataset(
    hub_id: str, splits: tuple[str, ...], fields: tuple[str, ...], revision: str | None = None
) -> dict[str, list[tuple[str, dict]]]:
    """`{split: [(place, row)]}` of a data set's parquet files.

    `splits` are among "train", "dev", "test"; a row has the `fields`. Raises UserError if the files
    are not available or cannot be read. `datasets.load_dataset` would ask the Hub about cached
    files, too.
    """
    from huggingface_hub import snapshot_download

    def load(**options) -> dict[str, list[tuple[str, dict]]]:
        options |= {"repo_type": "dataset", "revision": revision, "allow_patterns": "*.parquet"}
        folder = Path(snapshot_download(hub_id, **options))
        files = {split: find_split(folder, split, PATTERNS) for split in splits}
        if not all(files.values()):
            raise FileNotFoundError(f"a split is missing in {folder}")  # an interrupted download
        return {s: [pair for path in files[s] for pair in parquet(path, fields)] for s in splits}

    return cached_or_download(hub_id, load, "dataset", revision)


def cached_or_download(name: str, load, repo_type: str = "model", revision: str | None = None):
    """`load(local_files_only=True)`, and if that fails, `load(local_files_only=False)`.

    A cached repository costs no request, so it also works offline. Raises UserError if both fail.
    """
    from huggingface_hub import HfApi, set_client_factory

    try:
        return load(local_files_only=True)
    except Exception as error:  # a damaged or half-downloaded file can raise almost anything
        log.debug("%s is not in the cache: %s", name, error)
    set_client_factory(_client)
    what = f"{repo_type.replace('dataset', 'data set')} {name}"
    try:
        # `load` alone would ask again and again, for minutes; this question is asked once.
        HfApi().repo_info(name, repo_type=repo_type, revision=revision, timeout=TIMEOUT)
        log.info("downloading the %s from the Hub", what)
        return load(local_files_only=False)
    except Exception as error:
        causes = [error]
        while cause := causes[-1].__cause__ or causes[-1].__context__:  # transformers wraps errors
            causes.append(cause)
        offline = any(isinstance(cause, ConnectionError | socket.gaierror) for cause in causes)
        why = "there is no network to the Hub" if offline else "the Hub does not give it"
        raise UserError(
            f"{what}: it is not complete in the cache, and {why} ({shortened(error)}). Check the "
            "spelling, the network, and whether its owner must grant you access (then type "
            "`hf auth login`); remove a file that is damaged; and type the same command again. Or "
            "give local folders (--data_dir, --model_name), or --demo."
        ) from error


def shortened(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _client():
    """The library's client, which by itself waits forever for some of the Hub's answers."""
    from huggingface_hub.utils._http import default_client_factory

    def bound(request):
        request.extensions["timeout"] = dict.fromkeys(request.extensions["timeout"], TIMEOUT)

    client = default_client_factory()
    client.event_hooks["request"].append(bound)
    return client
