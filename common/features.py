"""Features: the pooled hidden states of every layer of a frozen encoder, in float16."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common import forward
from common.cli import UserError
from common.device import JOBS, Device, available_memory, free_memory, to_device
from common.files import read_json, replacing, write_json
from common.models import families

log = logging.getLogger(__name__)
# {layer: [units, hidden], float16}: tensors on a GPU, arrays in memory, or maps of files.
Features = dict[int, torch.Tensor | np.ndarray]
GPU, MEMORY, DISK = "on the GPU", "in memory", "on disk"
COMPLETE = "complete.json"  # is in a folder whose files are whole: the hash of what made them
SHARE = 0.25  # of the free memory is for features; passes and probes need the rest


def encoder_hash(encoder) -> str:
    """SHA-256 over all weights, by name: the checkpoint's identity wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def groups(
    encoder,
    encoded: list[dict],
    layers: list[int],
    device: Device,
    batch_size: int,
    folder: Path,
    keep: bool,
) -> Iterator[Features]:
    """Yield the features of `layers`, as many layers at a time as there is room for.

    `encoded`: dicts of `input_ids` (, `token_type_ids`) and `units`, a list of (start, end) token
    ranges. A unit's vector is the mean of its tokens' hidden states, computed in float32. The rows
    are the units of all examples in order. Layer 0 is the embeddings, the last layer is what the
    model returns. One pass serves all layers of a group.

    A group's dict is emptied and its files are removed when the next group is asked for: two groups
    never need room at once. With `keep`, all layers are written to `folder` and stay there. Whole
    files in `folder`, kept or left by a killed process, are used again if they have all `layers`
    and come from the same weights, inputs and precision; else they are removed. Raises UserError if
    there is no room, or if float16 cannot hold a value.
    """
    if not layers:
        return
    to_device(encoder, device).eval()  # before free memory is measured
    whole = all(_file(folder, layer).exists() for layer in layers) and (
        read_json(folder / COMPLETE) == _made_of(encoder, encoded, device)
    )
    if whole:
        log.info("using the features in %s", folder)
        where, at_once = DISK, len(layers)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        where, at_once = _place(encoder, encoded, len(layers), device, folder, keep)
    for start in range(0, len(layers), at_once):
        group = layers[start : start + at_once]
        if not whole:
            features = _extract(encoder, encoded, group, device, batch_size, folder, where)
        if where == DISK:
            features = {layer: np.load(_file(folder, layer), mmap_mode="r") for layer in group}
        yield features
        features.clear()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def _file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:02d}.npy"


def _made_of(encoder, encoded: list[dict], device: Device) -> dict:
    """All that features depend on, hashed."""
    made_of = [encoder_hash(encoder), encoded, device.precision]
    return {"sha256": hashlib.sha256(json.dumps(made_of).encode()).hexdigest()}


def _place(
    encoder, encoded: list[dict], n_layers: int, device: Device, folder: Path, keep: bool
) -> tuple[str, int]:
    """(Where features go, of how many layers at a time); log it with the size.

    They go on the GPU or in memory if all fit into a quarter of what is free, else on disk; if that
    is too small as well, some layers at a time go to the roomiest of the three.
    """
    units, hidden = sum(len(example["units"]) for example in encoded), encoder.config.hidden_size
    layer_bytes = 2 * units * hidden
    all_bytes = n_layers * layer_bytes
    rooms = {DISK: 0.95 * shutil.disk_usage(folder.parent).free / JOBS}
    if not keep:
        rooms = {MEMORY: SHARE * available_memory() / JOBS, **rooms}
        if device.torch_device.type == "cuda":
            rooms = {GPU: SHARE * free_memory(device) / JOBS, **rooms}
    fitting = (place for place, room in rooms.items() if all_bytes <= room)
    where = next(fitting, max(rooms, key=rooms.get))
    at_once = min(n_layers, int(rooms[where] // max(1, layer_bytes)))
    if at_once < (n_layers if keep else 1):
        raise UserError(
            f"the features need {all_bytes / 1e9:.1f} GB, {layer_bytes / 1e9:.1f} GB a layer; "
            f"{folder} has {rooms[DISK] / 1e9:.1f} GB free. Free some space, give another "
            "--output_dir or fewer layers (--layers last)"
            f"{', or leave out --keep_features' if keep else ''}."
        )
    megabytes = f"{all_bytes / 1e6:,.1f} MB"
    log.info(
        "features: %d layers x %d vectors x %d, %s %s", n_layers, units, hidden, megabytes, where
    )
    if at_once < n_layers:
        log.info("there is no room for all: %d layers at a time, with a pass each", at_once)
    return where, at_once


def _extract(encoder, encoded, layers, device, batch_size, folder: Path, where: str) -> Features:
    """The features of one group of layers; on disk they are files, and {} is returned."""
    first = np.cumsum([0, *(len(example["units"]) for example in encoded)])  # each example's row
    shape = int(first[-1]), encoder.config.hidden_size
    here = device.torch_device if where == GPU else torch.device("cpu")
    features = {}
    for layer in layers:
        if where == DISK:
            _allocate(_file(folder, layer), shape)
        else:
            features[layer] = torch.empty(shape, dtype=torch.float16, device=here)
    filled = [i for i, example in enumerate(encoded) if example["units"]]
    lengths = [len(encoded[i]["input_ids"]) for i in filled]

    def run(indices: list[int]) -> dict[int, torch.Tensor]:
        return pooled(encoder, [encoded[filled[i]] for i in indices], layers, device)

    for indices, pieces in forward.batches(lengths, batch_size, device, "features", run):
        spans = [(first[filled[i]], first[filled[i] + 1]) for i in indices]
        rows = torch.cat([torch.arange(start, end) for start, end in spans]).to(here)
        for layer in layers:
            vectors = torch.cat([piece[layer] for piece in pieces]).to(here)
            if where == DISK:  # mapped anew each time: mapped pages count as the process's memory
                torch.from_numpy(np.load(_file(folder, layer), mmap_mode="r+"))[rows] = vectors
            else:
                features[layer][rows] = vectors
    if where == DISK:
        write_json(folder / COMPLETE, _made_of(encoder, encoded, device))
    return {layer: x if where == GPU else x.numpy() for layer, x in features.items()}


def _allocate(file: Path, shape: tuple[int, int]) -> None:
    """An array's file with all its space: a full disk or quota shows now, and not after hours."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:  # an error there names the file
        np.lib.format.open_memmap(temporary, "w+", np.float16, shape)
        if hasattr(os, "posix_fallocate"):
            with temporary.open("rb+") as opened:
                os.posix_fallocate(opened.fileno(), 0, temporary.stat().st_size)


def pooled(encoder, examples: list[dict], layers: list[int], device: Device) -> dict:
    """{layer: float16 `[units, hidden]` on the device} of one batch.

    Raises UserError for a value that float16 cannot hold.
    """
    batch = forward.inputs(examples, encoder.config.pad_token_id, device)
    options = families.of(encoder.config).options
    with device.autocast():
        states = encoder(**batch, output_hidden_states=True, **options).hidden_states
    width = batch["input_ids"].shape[1]
    spans = [(i * width + a, i * width + b) for i, e in enumerate(examples) for a, b in e["units"]]
    tokens = torch.tensor([t for a, b in spans for t in range(a, b)], device=device.torch_device)
    lengths = torch.tensor([b - a for a, b in spans], device=device.torch_device)
    unit_of_token = torch.repeat_interleave(lengths)
    vectors = {}
    for layer in layers:
        chosen = states[layer].flatten(0, 1)[tokens].float()
        sums = chosen.new_zeros(len(lengths), chosen.shape[1])
        means = sums.index_add_(0, unit_of_token, chosen) / lengths[:, None]
        vectors[layer] = means.to(torch.float16)
        if not torch.isfinite(vectors[layer]).all():
            raise UserError(
                f"layer {layer} has values beyond float16 (65504) or NaN. Is the checkpoint sound? "
                "Try --precision fp32."
            )
    return vectors
