"""The one loop of frozen passes: batches of similar length, progress, halving when memory is short.

Prediction, the dev loss, features and attention use it.
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
    run: Callable[[list[int]], object],
    start: int = 0,
) -> Iterator[tuple[list[int], list]]:
    """Yield (indices, [results of `run` on the batch's pieces]) of each batch, the longest first.

    `run(indices)` computes examples, without gradients. It may be called again for the same
    examples with half as many at a time, if memory is too small: it must not add anything up.
    `start` is the number of batches that an earlier process finished; they are left out. Under
    torchrun each process takes a part of the batches, and `gather` joins their results. Raises
    UserError if memory is too small for one example.
    """
    order, at_once = sorted_batches(lengths, batch_size), batch_size

    def in_pieces(indices: list[int], size: int) -> list:
        with torch.no_grad():
            return [run(indices[i : i + size]) for i in range(0, len(indices), size)]

    progress = tqdm(
        total=len(lengths),
        initial=sum(map(len, order[:start])),
        desc=name,
        unit=" examples",
        leave=False,
        dynamic_ncols=True,
        disable=device.rank > 0,
    )
    with progress:
        for indices in order[start:][device.rank :: device.processes]:
            results, at_once = in_memory(
                lambda size, indices=indices: in_pieces(indices, size), at_once, device
            )
            yield indices, results
            progress.update(min(device.processes * len(indices), progress.total - progress.n))


def inputs(examples: Sequence[dict], pad_token_id: int | None, device: Device, names=INPUTS):
    """The examples' fields `names` as padded tensors on the device, with `attention_mask`.

    Padding is masked, so any id serves if the tokenizer has none for it.
    """
    chosen = [{key: example[key] for key in names if key in example} for example in examples]
    return {key: x.to(device.torch_device) for key, x in pad(chosen, pad_token_id or 0).items()}


def mean_loss(
    model, examples: list[dict], batch_size: int, device: Device, loss: Callable, n_labels: Callable
) -> float:
    """The mean loss over all labels, without dropout; `loss` and `n_labels` as in `common.task`.

    Under torchrun each process takes a part of the batches. Raises UserError if no example has a
    label.
    """
    labelled = [example for example in examples if n_labels(example)]
    if not labelled:
        raise UserError("no dev example has a label that the tokenizer keeps. Give more data.")
    lengths = [len(example["input_ids"]) for example in labelled]

    def run(indices: list[int]) -> float:
        chosen = [labelled[i] for i in indices]
        batch = inputs(chosen, model.config.pad_token_id, device, (*INPUTS, "labels"))
        with device.autocast():
            return sharding.run(loss, model, batch).item()

    with sharding.scoring(model, device):
        losses = batches(lengths, batch_size, device, "dev loss", run)
        total = sum(sum(results) for _, results in losses)
    total = sum(gather(device, {device.rank: total}).values())
    return total / sum(map(n_labels, labelled))


def predict_logits(
    model,
    examples: list[dict],
    batch_size: int,
    device: Device,
    name: str,
    forward: Callable = logits,
    reduce: Callable[[np.ndarray, dict], object] = lambda scores, example: scores,
) -> list:
    """Every example's logits without dropout, in order: float32 `[labels]` or `[tokens, labels]`.

    An example without tokens has `[0, labels]`. `forward(model, batch)` computes them, `[batch,
    ...]`; `reduce(logits, example)` may keep less of them. Under torchrun each process predicts a
    part of the batches, and all processes return all. Raises UserError for logits that are not
    finite.
    """
    to_device(model, device).eval()
    filled = [i for i, example in enumerate(examples) if example["input_ids"]]
    lengths = [len(examples[i]["input_ids"]) for i in filled]

    def run(indices: list[int]) -> np.ndarray:
        chosen = [examples[filled[i]] for i in indices]
        with device.autocast():
            scores = forward(model, inputs(chosen, model.config.pad_token_id, device))
        scores = scores.float().cpu().numpy()
        if not np.isfinite(scores).all():
            raise UserError(f"the model's predictions are not numbers any more. {REMEDY}")
        return scores

    predicted: dict[int, object] = {}
    for indices, pieces in batches(lengths, batch_size, device, name, run):
        rows = (row for piece in pieces for row in piece)
        for i, row in zip(indices, rows, strict=True):
            row = row if row.ndim == 1 else row[: lengths[i]]
            predicted[filled[i]] = reduce(row, examples[filled[i]])
    predicted = gather(device, predicted)
    empty = np.empty((0, model.config.num_labels), np.float32)
    return [
        predicted[i] if i in predicted else reduce(empty, example)
        for i, example in enumerate(examples)
    ]
