"""The Hugging Face Hub: the cache first, then one bounded question, then the download."""

import logging
import os
import time

from common.cli import UserError

# A repository with pytorch_model.bin alone would make transformers fetch or commission a
# converted twin in the background, and the process would wait for it at its end.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
log = logging.getLogger(__name__)
TIMEOUT = 10  # seconds for the first answer
TRIES = 3  # a hub that answers "5xx" once is asked again


def errors() -> tuple[type[BaseException], ...]:
    """What the hub's clients raise: neither httpx's nor the file formats' are all OSErrors."""
    import pickle

    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils import httpx
    from safetensors import SafetensorError

    return (OSError, ValueError, TypeError, RuntimeError, EOFError, ImportError, KeyError,
            httpx.HTTPError, HfHubHTTPError, SafetensorError, pickle.UnpicklingError)  # fmt: skip


def cached_or_download(name: str, load, repo_type: str = "model", revision: str | None = None):
    """`load(local_files_only=True)`, and where that fails, `load(local_files_only=False)`.

    A repository in the cache costs no request, so it also works offline. Raises UserError, which
    names the repository, when it can be had from neither.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        return load(local_files_only=True)
    except errors():
        pass
    kind = "data set" if repo_type == "dataset" else "model"
    for attempt in range(TRIES):
        try:
            # The one request whose time can be bounded: a silent server hangs from_pretrained.
            HfApi().repo_info(name, repo_type=repo_type, revision=revision, timeout=TIMEOUT)
            log.info("getting the %s %s from the Hub", kind, name)
            return load(local_files_only=False)
        except GatedRepoError:
            raise UserError(
                f"{kind} {name}: access must be granted on its Hub page; then type `hf auth login`."
            ) from None
        except RepositoryNotFoundError:
            raise UserError(
                f"{kind} {name} is not on the Hub (or is private: type `hf auth login`). Check the "
                "spelling. A local folder works too."
            ) from None
        except errors() as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status and status >= 500 and attempt + 1 < TRIES:
                time.sleep(2**attempt)
                continue
            raise UserError(_unreachable(kind, name, error)) from error


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
