"""What fine-tuning on instructions needs: the loss of answers, and adapters."""

from common.cli import UserError
from common.models import adapters


def loss(model, batch: dict):
    """Cross entropy of the answers' tokens, summed: a scalar. See `common.task.Task.loss`.

    The head reads only the states before labelled tokens: prompts are long and vocabularies large.
    """
    from torch.nn import functional as F

    from common.training.losses import IGNORED

    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    states = whole.base_model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    wanted = batch["labels"][:, 1:]
    asked = wanted != IGNORED
    scores = whole.get_output_embeddings()(states[:, :-1][asked]).float()
    return F.cross_entropy(scores, wanted[asked], reduction="sum")


def prepare(model, where: str, lora: bool, lora_rank: int, gradient_checkpointing: bool):
    """The model as it is trained: on request with adapters and with activations computed twice.

    Raises UserError if the model in `where` already has adapters.
    """
    if gradient_checkpointing:
        model.activation_checkpointing_enable()
    if not lora:
        return model
    if adapters.base_of(where):
        raise UserError(
            f"{where} already holds a model with adapters. Leave out --lora, or give the model "
            "that they adapt."
        )
    return adapters.add(model, lora_rank)
