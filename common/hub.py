"""The Hugging Face Hub: the cache first, then one bounded question, then the download."""

import logging
import os
import time
from pathlib import Path

from common.cli import UserError
from common.data_files import find_split, parquet

# A repository with pytorch_model.bin alone would make transformers fetch or commission a
# converted twin in the background, and the process would wait for it at its end.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
# Large files come from a store with a client of its own, which waits for five minutes, six times.
os.environ.setdefault("HF_XET_CLIENT_READ_TIMEOUT", "30s")
log = logging.getLogger(__name__)
TIMEOUT = 10  # seconds that the Hub may say nothing, at the first question and ever after
TRIES = 3  # a hub that answers "5xx" once is asked again
# The layouts of data sets in parquet: `{}` is the split.
PATTERNS = ("{}.parquet", "{}-*.parquet", "{}/*.parquet", "*/{}-*.parquet", "*/{}/*.parquet")


def errors() -> tuple[type[BaseException], ...]:
    """What the hub's clients raise: neither httpx's nor the file formats' are all OSErrors."""
    import pickle

    from huggingface_hub.errors import HfHubHTTPError, StrictDataclassError
    from huggingface_hub.utils import httpx
    from safetensors import SafetensorError

    return (OSError, ValueError, TypeError, RuntimeError, EOFError, ImportError, KeyError,
            httpx.HTTPError, HfHubHTTPError, StrictDataclassError, SafetensorError,
            pickle.UnpicklingError)  # fmt: skip


def load_dataset(
    hub_id: str, splits: tuple[str, ...], fields: tuple[str, ...], revision: str | None = None
) -> dict[str, list[dict]]:
    """`{split: rows}` of a data set's parquet files, for `splits` out of "train", "dev", "test".

    A row has the `fields`. Raises UserError when the files can be had from neither cache nor Hub,
    or cannot be read. The files are fetched apart from being read: `datasets.load_dataset` asks
    the Hub about what it has in its cache, too, and where the network is gone waits for 24 s.
    """
    from huggingface_hub import snapshot_download

    def files(local_files_only: bool) -> dict[str, list[Path]]:
        folder = snapshot_download(
            hub_id, repo_type="dataset", revision=revision, allow_patterns="*.parquet",
            local_files_only=local_files_only,
        )  # fmt: skip
        found = {split: find_split(Path(folder), split, PATTERNS) for split in splits}
        if not all(found.values()):  # a download that was broken off
            raise FileNotFoundError(f"no {[s for s in found if not found[s]]} in {folder}")
        return found

    found = cached_or_download(hub_id, files, repo_type="dataset", revision=revision)
    try:
        return {s: [row for file in found[s] for _, row in parquet(file, fields)] for s in splits}
    except UserError as error:
        folder = next(p for p in found[splits[0]][0].parents if p.name == "snapshots").parent
        raise UserError(
            f"data set {hub_id}: {error} If the file is damaged, remove the folder {folder} and "
            "type the same command again: it is downloaded anew."
        ) from None


def cached_or_download(name: str, load, repo_type: str = "model", revision: str | None = None):
    """`load(local_files_only=True)`, and where that fails, `load(local_files_only=False)`.

    A repository in the cache costs no request, so it also works offline. Raises UserError, which
    names the repository, when it can be had from neither.
    """
    from huggingface_hub import HfApi, set_client_factory
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return load(local_files_only=True)
    except errors():
        pass
    set_client_factory(_impatient_client)
    kind = "data set" if repo_type == "dataset" else "model"
    for attempt in range(TRIES):
        try:
            # The library asks again and again, for minutes; this question is asked once.
            HfApi().repo_info(name, repo_type=repo_type, revision=revision, timeout=TIMEOUT)
            log.info("getting the %s %s from the Hub", kind, name)
            return load(local_files_only=False)
        except errors() as error:
            if _comes_of(error, GatedRepoError):
                raise UserError(
                    f"{kind} {name}: access must be granted on its Hub page; then type "
                    "`hf auth login`."
                ) from None
            if isinstance(error, RepositoryNotFoundError):
                raise UserError(
                    f"{kind} {name} is not on the Hub (or is private: type `hf auth login`). Check "
                    "the spelling. A local folder works too."
                ) from None
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status and status >= 500 and attempt + 1 < TRIES:
                time.sleep(2**attempt)
                continue
            raise UserError(_unreachable(kind, name, error)) from error


def _comes_of(error: BaseException | None, kind: type[BaseException]) -> bool:
    """transformers wraps what the Hub's client raises."""
    while error and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error is not None


def _impatient_client():
    """The library's client, which would wait for ever for some of the Hub's answers."""
    from huggingface_hub.utils._http import default_client_factory

    def bound(request):
        given = request.extensions["timeout"]
        request.extensions["timeout"] = {
            step: min(seconds or TIMEOUT, TIMEOUT) for step, seconds in given.items()
        }

    client = default_client_factory()
    client.event_hooks = {"request": [*client.event_hooks["request"], bound]}
    return client


def _unreachable(kind: str, name: str, error: BaseException) -> str:
    reason = " ".join(str(error).split())[:200]
    local = (
        "--data_dir with your own files"
        if kind == "data set"
        else "--model_name with a local folder"
    )
    return (
        f"cannot get the {kind} {name} from the Hub, and it is not in the cache "
        f"({type(error).__name__}: {reason}). Check the network and type the same command again; "
        f"without a network use {local}, or --demo."
    )
