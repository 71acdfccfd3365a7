"""Low-rank adapters (PEFT) in a model folder: what they adapt, and both as one model."""

import warnings
from contextlib import contextmanager
from pathlib import Path

from common.cli import UserError
from common.files import read_json

CONFIG = "adapter_config.json"


def base_of(source: str) -> str | None:
    """The folder or Hub id of what the adapters in `source` adapt; None where it holds none.

    Raises UserError if that is a folder that is not there any more.
    """
    path = Path(source) / CONFIG
    if not path.is_file():
        return None
    base = (read_json(path) or {}).get("base_model_name_or_path")
    if not base or (Path(base).is_absolute() and not (Path(base) / "config.json").is_file()):
        raise UserError(
            f"{source} holds adapters of the model {base or '(not said which)'}, which is not "
            f"there. Put it there, or its place into base_model_name_or_path of {path}."
        )
    return base


def add(model, rank: int):
    """`model` with all it has frozen, and a new adapter, zero at first, at each linear layer.

    Not at the head. Of rank `rank`, and alpha twice that (Hu et al. 2022). New weights come from
    torch's global generator.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )  # fmt: skip
    with _without_warnings():
        return get_peft_model(model, config)


def merge(model, source: str):
    """`model`, in float32, with the adapters in `source` added to its weights. Raises UserError."""
    from peft import PeftModel
    from safetensors import SafetensorError

    try:
        with _without_warnings():
            merged = PeftModel.from_pretrained(model, source).merge_and_unload().eval()
            return merged.requires_grad_(True)  # PEFT has frozen it
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the adapters in {source} do not fit the model that they name "
            f"({type(error).__name__}: {reason}). Make them again."
        ) from error


@contextmanager
def _without_warnings():
    """PEFT calls the model library by names that it is about to drop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield
