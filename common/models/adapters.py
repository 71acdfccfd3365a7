"""Low-rank adapters (PEFT): adding them to a model, and merging those of a model folder.

They are LoRA's (Hu et al. 2022): beside each linear layer W, whose weights stay as they are, a
product B A of low rank is trained, and B starts at zero.
"""

import warnings
from pathlib import Path

from common.cli import UserError
from common.files import read_json
from common.models import families


def base_of(where: str) -> str | None:
    """The folder or Hub id of the model that the adapters in `where` adapt; None without adapters.

    Raises UserError if that folder does not exist any more, or if `where` is a Hub id.
    """
    from huggingface_hub import try_to_load_from_cache

    path = Path(where) / "adapter_config.json"
    if not Path(where).is_dir() and isinstance(try_to_load_from_cache(where, path.name), str):
        raise UserError(
            f"{where} holds adapters. Download them, then give the folder as --model_name:\n"
            f"  hf download {where} --local-dir {where.split('/')[-1]}"
        )
    if not path.is_file():
        return None
    config = read_json(path)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not base and (remedy := remake(where)):
        raise UserError(f"{path} is damaged. {remedy}")
    if not isinstance(base, str) or (
        Path(base).is_absolute() and not (Path(base) / "config.json").is_file()
    ):
        raise UserError(
            f"{where} holds adapters of the model {base or '(no name given)'}, which is not there. "
            f"Put the model there, or write where it is as base_model_name_or_path into {path}."
        )
    return base


def remake(where: str) -> str:
    """How to make a checkpoint again that lies in a result; "" of other models."""
    from common import results  # it imports this module

    folder = Path(where).parent
    config = read_json(folder / "config.json") if Path(where).name == "checkpoint" else None
    known = isinstance(config, dict) and "command" in config
    return results.again(folder, config) if known else ""


def add(model, rank: int):
    """`model`, a task model, frozen, with a new adapter at each linear layer of the encoder.

    The head is trained as a whole, and so is a pooler, which a checkpoint may lack: both are saved
    with the adapters. The words that a causal model writes come from a head that stays as it is.
    The adapters change nothing at first. Their weights are of torch's global generator: seed it
    before. Raises UserError for a model whose layers have no linear layers.
    """
    from peft import LoraConfig, get_peft_model
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    row, encoder = families.of(model.config), model.base_model
    layers = encoder.get_submodule(row.layers).modules()
    if not any(isinstance(module, Linear | Conv1D) for module in layers):
        raise UserError(
            f"--lora: the layers of {row.name} models have no linear layers that adapters are made "
            "for. Leave out --lora, or choose another --model_name."
        )
    output = model.get_output_embeddings()  # of a causal model
    parts = {name: p for name, p in model.named_children() if p not in (encoder, output)}
    whole = [name for name, part in parts.items() if any(True for _ in part.parameters())]
    whole += [f"{model.base_model_prefix}.pooler"] * (getattr(encoder, "pooler", None) is not None)
    # With a task type of its own, PEFT would take a head for one of the linear layers.
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        modules_to_save=whole or None,
        task_type="CAUSAL_LM" if output else None,
    )
    model.config.architectures = [type(model).__name__]  # for `common.models.loading`
    with warnings.catch_warnings(action="ignore"):  # what PEFT sets by itself for GPT-2's layers
        return get_peft_model(model, config)


def merge(model, where: str):
    """`model`, in float32, with the adapters in `where` added. Raises whatever a bad file does."""
    from peft import PeftModel

    with warnings.catch_warnings(action="ignore"):  # old names of transformers in PEFT
        warnings.filterwarnings("error", "Found missing adapter keys")
        merged = PeftModel.from_pretrained(model, where).merge_and_unload().eval()
        return merged.requires_grad_(True)  # PEFT has frozen it
