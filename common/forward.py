"""The one loop of frozen passes: batches of similar length, progress, halving when memory is short.

Prediction, the dev loss, features, attention and generation use it.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from tqdm import tqdm

from common.batching import INPUTS, pad, sorted_batches
from common.cli import UserError
from common.device import Device, gather, in_memory, to_device
from common.models import logits
from common.training import sharding

REMEDY = "Use a lower --learning_rate, or --precision fp32, with --overwrite."


def batches(
    lengths: Sequence[int],
    batch_size: int,
    device: Device,
    name: str,
    run: Callable,
    start: int = 0,
) -> Iterator[tuple[list[int], list]]:
    """For each batch, the longest first: (its indices, the results of `run` on its pieces).

    `run(indices)` computes some examples without gradients. A batch is run in as many pieces as
    memory needs. `start`: the number of batches that an earlier process has done. Under torchrun
    each process takes some of the batches: `gather` puts their results together.
    """
    micro, order = batch_size, sorted_batches(lengths, batch_size)

    def pieces(indices: list[int], size: int) -> list:
        with torch.no_grad():
            return [run(indices[i : i + size]) for i in range(0, len(indices), size)]

    with tqdm(
        total=len(lengths), initial=sum(map(len, order[:start])), desc=name, unit=" examples",
        leave=False, dynamic_ncols=True, disable=device.rank > 0,
    ) as progress:  # fmt: skip
        for indices in order[start:][device.rank :: device.processes]:
            found, micro = in_memory(lambda size, i=indices: pieces(i, size), micro, device)
            yield indices, found
            progress.update(min(device.processes * len(indices), progress.total - progress.n))


def inputs(examples: Sequence[dict], pad_token_id: int, device: Device, names=INPUTS) -> dict:
    """The examples' fields `names` as padded tensors on the device, with `attention_mask`."""
    chosen = [{key: example[key] for key in names if key in example} for example in examples]
    return {key: x.to(device.torch_device) for key, x in pad(chosen, pad_token_id or 0).items()}


def mean_loss(
    model, examples: list[dict], batch_size: int, device: Device, loss: Callable, n_labels: Callable
) -> float:
    """The mean loss over all labels, without dropout; `loss` and `n_labels` as in `common.task`.

    Under torchrun each process takes some batches. Raises UserError where no example has a label.
    """
    counted = [(e, n) for e in examples if (n := n_labels(e))]
    if not counted:
        raise UserError("no dev example has a label that the tokenizer keeps. Give more data.")
    lengths = [len(example["input_ids"]) for example, _ in counted]

    def run(indices: list[int]) -> float:
        some = [counted[i][0] for i in indices]
        batch = inputs(some, model.config.pad_token_id, device, (*INPUTS, "labels"))
        with device.autocast():
            return sharding.run(loss, model, batch).item()

    with sharding.scoring(model, device):
        total = sum(
            sum(found) for _, found in batches(lengths, batch_size, device, "dev loss", run)
        )
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
    filled = [example for example in examples if example["input_ids"]]
    lengths = [len(example["input_ids"]) for example in filled]

    def run(indices: list[int]) -> dict[int, object]:
        batch = inputs([filled[i] for i in indices], model.config.pad_token_id, device)
        with device.autocast():
            scores = forward(model, batch).float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise UserError(f"the model's predictions are not numbers any more. {REMEDY}")
        pairs = zip(scores, indices, strict=True)
        return {
            i: reduce(row if row.ndim == 1 else row[: lengths[i]], filled[i]) for row, i in pairs
        }

    found: dict[int, object] = {}
    for _, parts in batches(lengths, batch_size, device, name, run):
        for part in parts:
            found |= part
    found, number = gather(device, found), iter(range(len(filled)))
    empty = np.empty((0, model.config.num_labels), np.float32)
    return [
        found[next(number)] if example["input_ids"] else reduce(empty, example)
        for example in examples
    ]
