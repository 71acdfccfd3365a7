"""Low-rank adapters (PEFT): adding them to a model, and merging those of a model folder."""

import warnings
from pathlib import Path

from common.cli import UserError
from common.files import read_json
from common.hub import shortened

# PEFT uses names of transformers that are deprecated there.
DEPRECATED = {"action": "ignore", "category": FutureWarning}


def base_of(where: str) -> str | None:
    """The folder or Hub id of the model that the adapters in `where` adapt; None without adapters.

    Raises UserError if that folder does not exist any more.
    """
    path = Path(where) / "adapter_config.json"
    if not path.is_file():
        return None
    base = (read_json(path) or {}).get("base_model_name_or_path")
    if not base or (Path(base).is_absolute() and not (Path(base) / "config.json").is_file()):
        raise UserError(
            f"{where} holds adapters of the model {base or '(no name given)'}, which is not there. "
            f"Put the model there, or write where it is as base_model_name_or_path into {path}."
        )
    return base


def add(model, rank: int):
    """`model`, frozen, with a new adapter (Hu et al. 2022) at each linear layer except the head.

    They change nothing at first. Their weights are of torch's global generator: seed it before.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    transposed = any(isinstance(module, Conv1D) for module in model.modules())
    options = {"target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    config = LoraConfig(r=rank, lora_alpha=2 * rank, fan_in_fan_out=transposed, **options)
    with warnings.catch_warnings(**DEPRECATED):
        return get_peft_model(model, config)


def merge(model, where: str):
    """`model`, in float32, with the adapters in `where` added to its weights. Raises UserError."""
    from peft import PeftModel

    try:
        with warnings.catch_warnings(**DEPRECATED):
            merged = PeftModel.from_pretrained(model, where).merge_and_unload().eval()
            return merged.requires_grad_(True)  # PEFT has frozen it
    except Exception as error:  # a damaged file can raise almost anything
        raise UserError(
            f"the adapters in {where} do not fit the model that they name ({shortened(error)}). "
            "Make them again."
        ) from error
