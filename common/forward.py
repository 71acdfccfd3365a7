"""Passes through a model that is not trained: its mean loss, and its predictions."""

from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

from common.batching import INPUTS, pad, sorted_batches
from common.cli import UserError
from common.device import Device, gather, in_memory, to_device
from common.models import logits
from common.training import sharding

REMEDY = "Use a lower --learning_rate, or --precision fp32, with --overwrite."


def mean_loss(
    model, examples: list[dict], batch_size: int, device: Device, loss: Callable, n_labels: Callable
) -> float:
    """The mean loss over all labels, without dropout; `loss` and `n_labels` as in `fit`.

    Under torchrun each process takes some batches. Raises UserError where no example has a label.
    """
    counted = [(e, n) for e in examples if (n := n_labels(e))]
    if not counted:
        raise UserError("no dev example has a label that the tokenizer keeps. Give more data.")
    total, micro = 0.0, batch_size

    def run(batch: list[dict], size: int) -> float:
        summed = 0.0
        for start in range(0, len(batch), size):
            piece = pad(batch[start : start + size], model.config.pad_token_id)
            piece = {name: tensor.to(device.torch_device) for name, tensor in piece.items()}
            with device.autocast():
                summed += sharding.run(loss, model, piece).item()
        return summed

    batches = sorted_batches([len(e["input_ids"]) for e, _ in counted], batch_size)
    with sharding.scoring(model, device), torch.inference_mode():
        for indices in batches[device.rank :: device.processes]:
            some = [counted[i][0] for i in indices]
            value, micro = in_memory(lambda size, some=some: run(some, size), micro, device)
            total += value
    return sum(gather(device, {device.rank: total}).values()) / sum(n for _, n in counted)


def predict_logits(
    model,
    examples: list[dict],
    batch_size: int,
    device: Device,
    name: str,
    forward: Callable = logits,
    reduce: Callable[[np.ndarray, dict], object] = lambda scores, example: scores,
) -> list:
    """Logits of every example, float32, in the order given: `[labels]`, or `[tokens, labels]`.

    Without dropout. An example without tokens has none: `[0, labels]`. `forward(model, batch)`
    gives them, `[batch, ...]`; `reduce(logits, example)` may keep less of them at once. Under
    torchrun each process predicts some batches, and all get all.
    """
    to_device(model, device).eval()
    found: dict[int, object] = {}
    lengths = [len(example["input_ids"]) for example in examples]
    micro = batch_size

    def run(indices: list[int], size: int) -> None:
        for start in range(0, len(indices), size):
            piece = indices[start : start + size]
            batch = pad([{k: v for k, v in examples[i].items() if k in INPUTS} for i in piece],
                        model.config.pad_token_id)  # fmt: skip
            batch = {key: tensor.to(device.torch_device) for key, tensor in batch.items()}
            with device.autocast():
                scores = forward(model, batch)
            scores = scores.float().cpu().numpy()
            if not np.isfinite(scores).all():
                raise UserError(f"the model's predictions are not numbers any more. {REMEDY}")
            for row, i in zip(scores, piece, strict=True):
                found[i] = reduce(row if row.ndim == 1 else row[: lengths[i]], examples[i])

    with torch.inference_mode(), tqdm(
        total=len(examples), desc=name, unit=" examples", leave=False, dynamic_ncols=True,
        disable=device.rank > 0,
    ) as progress:  # fmt: skip
        for indices in sorted_batches(lengths, batch_size)[device.rank :: device.processes]:
            filled = [i for i in indices if lengths[i]]
            if filled:
                _, micro = in_memory(lambda size, batch=filled: run(batch, size), micro, device)
            progress.update(device.processes * len(indices))
    found = gather(device, found)
    for i in set(range(len(examples))) - set(found):
        found[i] = reduce(np.empty((0, model.config.num_labels), np.float32), examples[i])
    return [found[i] for i in range(len(examples))]
