"""What fine-tuning on instructions needs: the loss of answers, adapters, and how much memory."""

import logging

from common import adapters
from common.cli import UserError

log = logging.getLogger(__name__)


def loss(model, batch: dict):
    """Cross entropy of the answers' tokens, summed: a scalar. See `common.task.Task.loss`.

    The head is put on the states before labelled tokens alone: prompts are long, and vocabularies
    large.
    """
    from torch.nn import functional as F

    from common.losses import IGNORED

    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    states = whole.base_model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    wanted = batch["labels"][:, 1:]
    asked = wanted != IGNORED
    scores = whole.get_output_embeddings()(states[:, :-1][asked]).float()
    return F.cross_entropy(scores, wanted[asked], reduction="sum")


def prepare(model, args):
    """The model as it is to be trained: with adapters, or checkpointing, where asked for.

    Raises UserError where a GPU cannot hold the training.
    """
    if args.gradient_checkpointing:
        model.activation_checkpointing_enable()
    if args.lora:
        if adapters.base_of(args.model_name):
            raise UserError(
                f"{args.model_name} is a model with adapters already. Leave out --lora, or give "
                "the model that they adapt."
            )
        model = adapters.add(model, args.lora_rank)
    if args.training_size:
        check_memory(model, args)
    return model


def needed_memory(model) -> int:
    """Bytes that weights, gradients and optimizer take: what is frozen counts once.

    Without the activations, which depend on the batch.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return 16 * trained + 4 * frozen


def check_memory(model, args) -> None:
    """Say what memory the training needs; UserError if the GPU that it goes to has less."""
    import torch

    needed = needed_memory(model) / 1e9
    log.info("weights, gradients and optimizer need %.1f GB, activations some more", needed)
    if args.device.startswith(("auto", "cuda")) and torch.cuda.is_available():
        free = torch.cuda.mem_get_info()[0] / 1e9
        if needed > free:
            hint = "a smaller --model_name" if args.lora else "--lora"
            raise UserError(
                f"the training needs {needed:.1f} GB before activations, the GPU has {free:.1f} GB "
                f"free. Use {hint}."
            )
