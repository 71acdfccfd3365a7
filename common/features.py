"""Features: the pooled hidden states of a frozen encoder's layers, float16, a file each."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common import forward
from common.cli import UserError
from common.device import JOBS, Device, to_device
from common.files import read_json, write_json
from common.models import families


def groups(
    encoder, encoded: list, layers: list[int], device, batch_size: int, folder: Path, keep: bool
) -> Iterator[dict[int, np.ndarray]]:
    """Yield {layer: `[units, hidden]`}, read-only maps of files in `folder`, float16.

    `encoded`: dicts of `input_ids` (, `token_type_ids`) and `units`, a list of (start, end) token
    ranges. A unit's vector is the mean of its tokens' hidden states, computed in float32. The rows
    are the units of all examples in order. Layer 0 is the embeddings.

    A dict has as many layers as the disk has room for; its files go when the next is asked for.
    With `keep` it has all, and they stay. Complete files of all `layers` are used again if weights,
    inputs and precision are the same. UserError without room, or for values beyond float16.
    """
    if not layers:
        return
    to_device(encoder, device).eval()
    key, at_once = _key(encoder, encoded, device), len(layers)
    files = {layer: folder / f"layer-{layer:02d}.npy" for layer in layers}
    marker = folder / "complete.json"  # written last: the hash of what made the files
    complete = read_json(marker) == key and all(map(Path.exists, files.values()))
    if not complete:
        shutil.rmtree(folder, ignore_errors=True)
        at_once = _that_fit(encoder, encoded, len(layers), folder, keep)
    for start in range(0, len(layers), at_once):
        group = {layer: files[layer] for layer in layers[start : start + at_once]}
        if not complete:
            folder.mkdir(exist_ok=True)
            _extract(encoder, encoded, group, device, batch_size)
            write_json(marker, key)
        features = {layer: np.load(file, mmap_mode="r") for layer, file in group.items()}
        yield features
        features.clear()  # a mapped file keeps its space after it is removed
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _key(encoder, encoded: list[dict], device: Device) -> dict[str, str]:
    """All that features depend on, hashed; the weights by name, wherever they were loaded from."""
    digest = hashlib.sha256(json.dumps([encoded, device.precision]).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return {"sha256": digest.hexdigest()}


def _that_fit(encoder, encoded: list[dict], n_layers: int, folder: Path, keep: bool) -> int:
    """How many layers at a time the disk has room for."""
    one = 2 * encoder.config.hidden_size * sum(len(example["units"]) for example in encoded)
    need = one * (n_layers if keep else 1)
    free = 0.95 * shutil.disk_usage(folder.parent).free / JOBS
    if need > free:
        raise UserError(
            f"the features need {need / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free. Free "
            "some space, give another --output_dir, or do without --keep_features."
        )
    return min(n_layers, int(free // max(1, one)))


def _extract(encoder, encoded, files: dict[int, Path], device: Device, batch_size: int) -> None:
    """Write the features of the layers of `files`."""
    first = np.cumsum([0, *(len(e["units"]) for e in encoded)]).tolist()  # each example's first row
    for file in files.values():
        np.lib.format.open_memmap(file, "w+", np.float16, (first[-1], encoder.config.hidden_size))
        if hasattr(os, "posix_fallocate"):  # a full disk or quota shows now, not after hours
            with file.open("rb+") as opened:
                os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    lengths = [len(example["input_ids"]) if example["units"] else 0 for example in encoded]

    def run(indices: list[int]) -> np.ndarray:
        return pooled(encoder, [encoded[i] for i in indices], list(files), device)

    name = f"features of {len(files)} layers"
    for indices, pieces in forward.batches(lengths, batch_size, device, name, run):
        rows = np.concatenate([np.arange(first[i], first[i + 1]) for i in indices])
        for file, vectors in zip(files.values(), np.concatenate(pieces, 1), strict=True):
            np.load(file, mmap_mode="r+")[rows] = vectors  # unmapped again: pages count as memory


def pooled(encoder, examples: list[dict], layers: list[int], device: Device) -> np.ndarray:
    """Float16 `[layers, units, hidden]` of one batch. UserError for what float16 cannot hold."""
    batch = forward.inputs(examples, encoder.config.pad_token_id, device)
    with device.autocast():
        output = encoder(**batch, output_hidden_states=True, **families.of(encoder.config).options)
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
