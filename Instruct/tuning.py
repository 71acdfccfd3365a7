"""What fine-tuning on instructions needs: the loss of answers, adapters, and how much memory."""

import logging

from common.cli import PROCESSES, UserError
from common.models import adapters

MOST_PROCESSES = 64  # that a message suggests
log = logging.getLogger(__name__)


def loss(model, batch: dict):
    """Cross entropy of the answers' tokens, summed: a scalar. See `common.task.Task.loss`.

    The head is put on the states before labelled tokens alone: prompts are long, and vocabularies
    large.
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


def needed_memory(model, processes: int = 1, precision: str = "fp32") -> int:
    """Bytes that weights, gradients and optimizer take on the device of each process.

    What is frozen counts once, as `common.device.shrink_frozen` holds it (embeddings, which stay as
    they are, are few beside the layers). Without the activations, which depend on the batch.
    Several processes share it all; but to score the model each has the whole of it, in 16 bits if
    it computes so, in place of the gradients.
    """
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    needed = 16 * trained + (2 if precision == "bf16" else 4) * frozen
    if processes > 1:
        whole = (4 if precision == "fp32" else 2) * (trained + frozen)
        needed = max(needed, needed - 4 * trained + processes * whole)
    return -(-needed // processes)


def check_memory(model, args) -> None:
    """Say what memory the training needs; UserError if the GPU that it goes to has less."""
    import torch

    from common.device import resolve

    gpu = args.device.startswith(("auto", "cuda")) and torch.cuda.is_available()
    where = torch.device("cuda" if gpu and args.device == "auto" else args.device if gpu else "cpu")
    precision = resolve(args.precision, where)
    needed = needed_memory(model, PROCESSES, precision) / 1e9
    each = " in each process" * (PROCESSES > 1)
    log.info("weights, gradients and optimizer need %.1f GB%s, activations some more", needed, each)
    if not gpu:
        return
    free = torch.cuda.mem_get_info(where)[0] / 1e9
    if needed > free:
        hints = ["a smaller --model_name" if args.lora else "--lora"]
        for n in range(PROCESSES + 1, MOST_PROCESSES + 1):
            if needed_memory(model, n, precision) / 1e9 <= free:
                hints.append(f"torchrun --nproc_per_node {n} Instruct/fine-tuning.py in place of "
                             "python Instruct/fine-tuning.py")  # fmt: skip
                break
        raise UserError(
            f"the training needs {needed:.1f} GB{each} before activations, the GPU has {free:.1f} "
            f"GB free. Use {', or '.join(hints)}."
        )
