"""The one loop of frozen passes: batches of similar length, halved when memory is short."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from tqdm import tqdm

from common.batching import INPUTS, pad, sorted_batches
from common.cli import UserError
from common.device import Device, gather, in_memory
from common.models import logits
from common.training import losses, sharding

REMEDY = "Use a lower --learning_rate, or --precision fp32, with --overwrite."


def batches(
    lengths: list[int], batch_size: int, device: Device, name: str, run: Callable
) -> Iterator[tuple[list[int], list]]:
    """Yield (indices, [results of `run` on the batch's pieces]) of each batch, the longest first.

    `run(indices)` computes examples, without gradients. If memory is too small, it is called again
    for the same examples, half as many at a time, so it must not add anything up. Examples of
    length 0 are left out. Under torchrun each process takes a part of
    the batches; `gather` joins their results. Raises UserError if one example is too large.
    """
    own = sorted_batches(lengths, batch_size)[device.rank :: device.processes]
    n, at_once = sum(map(len, own)), batch_size

    def in_pieces(indices: list[int], size: int) -> list:
        with torch.no_grad():
            return [run(indices[i : i + size]) for i in range(0, len(indices), size)]

    look = {"leave": False, "delay": 1, "disable": device.rank > 0}  # short work needs no bar
    with tqdm(total=n, desc=name, unit=" examples", **look) as bar:
        for indices in own:
            results, at_once = in_memory(partial(in_pieces, indices), at_once, device)
            yield indices, results
            bar.update(len(indices))


def inputs(examples: list[dict], pad_token_id: int | None, device: Device, names=INPUTS):
    """The examples' fields `names` as padded tensors on the device, with `attention_mask`."""
    chosen = [{key: example[key] for key in names if key in example} for example in examples]
    padded = pad(chosen, pad_token_id or 0)  # it is masked, so any id serves
    return {key: x.to(device.torch_device) for key, x in padded.items()}


def mean_loss(
    model,
    examples: list[dict],
    batch_size: int,
    device: Device,
    loss: Callable,
    groups: list | None = None,
) -> float:
    """The mean loss over all labels, without dropout, see `common.task`. UserError without any.

    `groups`, one an example: the mean of the groups' means instead, so that each counts the same.
    """
    members: dict = {}
    for example, group in zip(examples, groups or [None] * len(examples), strict=True):
        if losses.labels_in(example):
            members.setdefault(group, []).append(example)
    if not members:
        raise UserError("no dev example has a label that the tokenizer keeps. Give more data.")

    def run(own: list[dict], indices: list[int]) -> float:
        batch = [own[i] for i in indices]
        batch = inputs(batch, model.config.pad_token_id, device, (*INPUTS, "labels"))
        with device.autocast():
            return sharding.run(loss, model, batch).item()

    means = []
    with sharding.scoring(model, device):
        for own in members.values():
            lengths = [len(example["input_ids"]) for example in own]
            summed = batches(lengths, batch_size, device, "loss", partial(run, own))
            total = sum(sum(results) for _, results in summed)
            means.append(total / sum(map(losses.labels_in, own)))
    return sum(gather(device, {device.rank: sum(means)}).values()) / len(means)


def predict_logits(model, examples: list, batch_size: int, device, name: str) -> list[np.ndarray]:
    """Every example's logits without dropout, in order: float32 `[labels]` or `[tokens, labels]`.

    Raises UserError if they are not finite. An example without tokens has `[0, labels]`.
    """
    lengths = [len(example["input_ids"]) for example in examples]

    def run(indices: list[int]) -> np.ndarray:
        batch = inputs([examples[i] for i in indices], model.config.pad_token_id, device)
        with device.autocast():
            scores = logits(model, batch).float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise UserError(f"the model's predictions are not numbers any more. {REMEDY}")
        return scores

    predicted: dict[int, np.ndarray] = {}
    with sharding.scoring(model, device):
        for indices, pieces in batches(lengths, batch_size, device, name, run):
            for i, row in zip(indices, (row for piece in pieces for row in piece), strict=True):
                predicted[i] = row if row.ndim == 1 else row[: lengths[i]]
    predicted = gather(device, predicted)
    empty = np.empty((0, model.config.num_labels), np.float32)
    return [predicted[i] if n else empty for i, n in enumerate(lengths)]
