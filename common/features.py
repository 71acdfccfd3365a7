"""Frozen encoder -> pooled features of every layer, float16: on the GPU, in memory or on disk."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.batching import INPUTS, pad, sorted_batches
from common.cli import UserError
from common.device import JOBS, Device, available_memory, free_memory, in_memory, to_device
from common.files import read_json, write_json
from common.models import families

log = logging.getLogger(__name__)
# {layer: [units, hidden], float16}: tensors on a GPU, arrays in memory, or maps of files.
Features = dict[int, torch.Tensor | np.ndarray]
GPU, MEMORY, DISK = "on the GPU", "in memory", "on disk"
COMPLETE = "complete.json"  # in the folder of files that are whole
SHARE = 0.25  # of the memory that is free, for features: passes and probes need theirs


def encoder_hash(encoder) -> str:
    """SHA-256 over all weights, by name: the checkpoint's identity wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def place(
    encoder, examples: list[dict], layers: list[int], device: Device, folder: Path, on_disk: bool
) -> tuple[str, int]:
    """(where features are to be kept, of how many layers at a time); says so, and how much it is.

    On the GPU or in memory where all layers fit into a quarter of what is free; else, or where
    `on_disk` asks for it, in `folder`. Where that has no room for all, the roomiest of these takes
    some layers at a time, with a pass for each group. Layers that `folder` holds take no more room.
    Raises UserError where not even one fits.
    """
    to_device(encoder, device)  # before what is left there is counted
    n, hidden = sum(len(e["units"]) for e in examples), encoder.config.hidden_size
    one = 2 * n * hidden
    kept = (read_json(folder / COMPLETE) or {}).get("layers", [])
    new = [layer for layer in layers if layer not in kept]
    if not new:
        return DISK, len(layers)
    rooms = {DISK: 0.95 * shutil.disk_usage(folder.parent).free / JOBS}
    if not on_disk and not kept:
        rooms = {MEMORY: SHARE * available_memory() / JOBS} | rooms
        if device.torch_device.type == "cuda":
            rooms = {GPU: SHARE * free_memory(device) / JOBS} | rooms
    size = len(new) * one
    where = next((w for w, room in rooms.items() if size <= room), None)
    most = len(layers)
    if where is None:
        where = max(rooms, key=rooms.get)
        most = int(rooms[where] // max(1, one))
    log.info("features: %d layers x %d vectors x %d, %s %s", len(new), n, hidden,
             f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB", where)  # fmt: skip
    if not most or (on_disk and most < len(layers)):
        raise UserError(
            f"the features need {size / 1e9:.1f} GB, {one / 1e9:.1f} GB a layer; {folder} has "
            f"{rooms[DISK] / 1e9:.1f} GB free. Free some space, give another --output_dir, or "
            f"fewer layers (--layers last){', or leave out --keep_features' * on_disk}."
        )
    if most < len(layers):
        log.info("there is no room for all of them: %d layers at a time, a pass for each %d",
                 most, most)  # fmt: skip
    return where, most


def extract(
    encoder, examples: list[dict], layers: list[int], device: Device, batch_size: int,
    folder: Path, where: str = DISK,
) -> Features:  # fmt: skip
    """Features of the chosen layers, kept where `place` says.

    `examples`: dicts of `input_ids`, (`token_type_ids`,) and `units`, a list of (start, end) token
    ranges; a unit's vector is the mean of its tokens' hidden states, in float32. The rows are the
    units of all examples in order. Layer 0 is the embeddings, the last one what the model returns.
    One pass serves all layers. On disk they are files in `folder`; the layers that it holds from an
    earlier call are used again if weights, inputs and precision are the same.
    """
    to_device(encoder, device).eval()
    if where != DISK:
        return _hold(encoder, examples, layers, device, batch_size, where)
    files = {layer: _file(folder, layer) for layer in layers}
    made_of = [encoder_hash(encoder), examples, device.precision]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    there = read_json(folder / COMPLETE) or {}
    if there.get("key") != key:
        shutil.rmtree(folder, ignore_errors=True)
        there = {"key": key, "layers": []}
    lacking = {layer: file for layer, file in files.items() if layer not in there["layers"]}
    if len(lacking) < len(files):
        log.info("using the features in %s", folder)
    if lacking:
        _write(encoder, examples, lacking, device, batch_size)
        write_json(folder / COMPLETE, {"key": key, "layers": [*there["layers"], *lacking]})
    return {layer: np.load(file, mmap_mode="r") for layer, file in files.items()}


def forget(folder: Path, layers: list[int]) -> None:
    """Remove the features of some layers, where `folder` has any."""
    if not (there := read_json(folder / COMPLETE)):
        return
    left = [layer for layer in there["layers"] if layer not in layers]
    write_json(folder / COMPLETE, there | {"layers": left})
    for layer in layers:
        _file(folder, layer).unlink(missing_ok=True)


def _file(folder: Path, layer: int) -> Path:
    return folder / f"layer-{layer:02d}.npy"


def _first_rows(examples: list[dict]) -> np.ndarray:
    """The first row of each example's units, and of what would come after them all."""
    return np.cumsum([0, *(len(example["units"]) for example in examples)])


def _hold(encoder, examples, layers, device, batch_size, where) -> Features:
    """The features, kept in memory or on the GPU."""
    first = _first_rows(examples)
    here = device.torch_device if where == GPU else torch.device("cpu")
    shape = int(first[-1]), encoder.config.hidden_size
    found = {layer: torch.empty(shape, dtype=torch.float16, device=here) for layer in layers}

    def store(layer: int, numbers: list[int], vectors: torch.Tensor) -> None:
        rows = np.concatenate([np.arange(first[i], first[i + 1]) for i in numbers])
        found[layer][torch.from_numpy(rows).to(here)] = vectors.to(here)

    _fill(encoder, examples, layers, store, device, batch_size)
    return found if where == GPU else {layer: x.numpy() for layer, x in found.items()}


def _write(encoder, examples, files: dict[int, Path], device, batch_size) -> None:
    """Write the features into `files`."""
    next(iter(files.values())).parent.mkdir(parents=True, exist_ok=True)
    first, hidden = _first_rows(examples), encoder.config.hidden_size
    starts = {}  # of the values in each file, in bytes
    for layer, file in files.items():
        array = np.lib.format.open_memmap(file, "w+", np.float16, (int(first[-1]), hidden))
        starts[layer] = array.offset
        if hasattr(os, "posix_fallocate"):  # rather now than after hours
            with file.open("rb+") as opened:
                try:
                    os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
                except OSError as error:  # does not say where
                    raise OSError(error.errno, error.strerror, str(file)) from None
    with ExitStack() as stack:
        # Written, not mapped: pages of a map count as the process's memory, layer by layer.
        opened = {layer: stack.enter_context(file.open("rb+")) for layer, file in files.items()}

        def store(layer: int, numbers: list[int], vectors: torch.Tensor) -> None:
            vectors = vectors.cpu().numpy()
            for i in numbers:  # the units of an example stand one after another
                own, vectors = np.split(vectors, [first[i + 1] - first[i]])
                opened[layer].seek(starts[layer] + int(first[i]) * 2 * hidden)
                opened[layer].write(own.tobytes())

        _fill(encoder, examples, list(files), store, device, batch_size)


def _fill(
    encoder, examples: list[dict], layers: list[int],
    store: Callable[[int, list[int], torch.Tensor], None], device: Device, batch_size: int,
) -> None:  # fmt: skip
    """Hand all units' vectors to `store(layer, numbers of examples, vectors of their units)`."""
    pad_token_id = encoder.config.pad_token_id or 0  # masked; any id will do
    micro = batch_size

    def run(indices: list[int], size: int) -> None:
        for start in range(0, len(indices), size):
            piece = indices[start : start + size]
            for layer, vectors in pooled(
                encoder, [examples[i] for i in piece], layers, device, pad_token_id
            ):
                store(layer, piece, vectors)

    # Examples without a unit (no word that a model could see) have nothing to encode.
    filled = [i for i, example in enumerate(examples) if example["units"]]
    lengths = [len(examples[i]["input_ids"]) for i in filled]
    with torch.inference_mode(), tqdm(
        total=len(filled), desc="features", unit=" examples", dynamic_ncols=True
    ) as progress:  # fmt: skip
        for batch in sorted_batches(lengths, batch_size):
            indices = [filled[i] for i in batch]
            _, micro = in_memory(lambda size, batch=indices: run(batch, size), micro, device)
            progress.update(len(indices))


def pooled(encoder, examples: list[dict], layers: list[int], device, pad_token_id: int):
    """Yield (layer, float16 `[units, hidden]`, on the device) of one batch.

    Raises UserError for a value that float16 cannot hold.
    """
    inputs = [{k: v for k, v in e.items() if k in INPUTS} for e in examples]
    batch = {k: v.to(device.torch_device) for k, v in pad(inputs, pad_token_id).items()}
    width = batch["input_ids"].shape[1]
    units = [(i * width + a, i * width + b) for i, e in enumerate(examples) for a, b in e["units"]]
    starts, ends = torch.tensor(units, device=device.torch_device).T
    options = families.of(encoder.config).options
    with device.autocast():
        states = encoder(**batch, output_hidden_states=True, **options).hidden_states
    if len(states) != encoder.config.num_hidden_layers + 1:
        raise RuntimeError(f"{len(states)} hidden states from {type(encoder).__name__}")
    lengths = ends - starts  # the tokens of all units, one after another, and whose they are
    offsets = torch.repeat_interleave(starts - lengths.cumsum(0) + lengths, lengths)
    tokens = offsets + torch.arange(len(offsets), device=device.torch_device)
    owner = torch.repeat_interleave(lengths)
    for layer in layers:
        chosen = states[layer].flatten(0, 1)[tokens].float()
        sums = chosen.new_zeros(len(lengths), chosen.shape[1]).index_add_(0, owner, chosen)
        vectors = (sums / lengths[:, None]).to(torch.float16)
        if not torch.isfinite(vectors).all():
            raise UserError(
                f"layer {layer} has values beyond float16 (65504) or NaN. Is the checkpoint sound? "
                "Try --precision fp32."
            )
        yield layer, vectors
