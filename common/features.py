"""Features: the pooled hidden states of a frozen encoder's layers, float16, a file each."""

import os
from pathlib import Path

import numpy as np
import torch

from common import forward
from common.cli import UserError
from common.device import Device, to_device
from common.files import replacing


def extract(
    encoder, encoded: list[dict], layers: list[int], device, batch_size: int, folder: Path
) -> dict[int, np.ndarray]:
    """{layer: `[units, hidden]`}, read-only maps of files in `folder`, float16.

    `encoded`: dicts of `input_ids` (, `token_type_ids`) and `units`, a list of (start, end) token
    ranges. A unit's vector is the mean of its tokens' hidden states, computed in float32. The rows
    are the units of all examples in order. Layer 0 is the embeddings.

    Raises UserError for values beyond float16.
    """
    encoder = to_device(encoder, device).eval()
    folder.mkdir(exist_ok=True)
    files = {layer: folder / f"layer-{layer:02d}.npy" for layer in layers}
    first = np.cumsum([0, *(len(e["units"]) for e in encoded)]).tolist()  # each example's first row
    for file in files.values():
        shape = first[-1], encoder.config.hidden_size
        with replacing(file) as temporary:
            np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
            if hasattr(os, "posix_fallocate"):  # a full disk or quota shows now, not after hours
                with temporary.open("rb+") as opened:
                    os.posix_fallocate(opened.fileno(), 0, temporary.stat().st_size)
    lengths = [len(example["input_ids"]) if example["units"] else 0 for example in encoded]

    def run(indices: list[int]) -> np.ndarray:
        return pooled(encoder, [encoded[i] for i in indices], list(files), device)

    name = f"features of {len(files)} layers"
    for indices, pieces in forward.batches(lengths, batch_size, device, name, run):
        rows = np.concatenate([np.arange(first[i], first[i + 1]) for i in indices])
        for file, vectors in zip(files.values(), np.concatenate(pieces, 1), strict=True):
            np.load(file, mmap_mode="r+")[rows] = vectors  # unmapped again: pages count as memory
    return {layer: np.load(file, mmap_mode="r") for layer, file in files.items()}


def pooled(encoder, examples: list[dict], layers: list[int], device: Device) -> np.ndarray:
    """Float16 `[layers, units, hidden]` of one batch. UserError for what float16 cannot hold."""
    batch = forward.inputs(examples, encoder.config.pad_token_id, device)
    with device.autocast():
        output = encoder(**batch, output_hidden_states=True, use_cache=False)
    width = batch["input_ids"].shape[1]
    spans = [(i * width + a, i * width + b) for i, e in enumerate(examples) for a, b in e["units"]]
    pairs = [(unit, token) for unit, (a, b) in enumerate(spans) for token in range(a, b)]
    unit, token = torch.tensor(pairs, device=device.torch_device).T
    vectors, lengths = [], unit.bincount()[:, None]
    for layer in layers:
        chosen = output.hidden_states[layer].flatten(0, 1)[token].float()
        sums = chosen.new_zeros(len(spans), chosen.shape[1]).index_add_(0, unit, chosen)
        vectors.append((sums / lengths).to(torch.float16).cpu().numpy())
        if not np.isfinite(vectors[-1]).all():
            problem = f"layer {layer} has values beyond float16 (65504) or NaN."
            raise UserError(f"{problem} Is the checkpoint sound? Try --precision fp32.")
    return np.stack(vectors)
