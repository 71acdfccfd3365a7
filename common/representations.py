"""Frozen encoder -> pooled features of every layer, on disk as float16 memory maps."""

import hashlib
import json
import logging
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common import architectures
from common.batching import INPUTS, pad, sorted_batches
from common.cli import UserError
from common.device import in_memory
from common.files import read_json, write_json

log = logging.getLogger(__name__)


def encoder_hash(encoder) -> str:
    """SHA-256 over all weights, by name: the checkpoint's identity wherever it was loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def extract(
    encoder, examples: list[dict], layers: list[int], device, batch_size: int, folder: Path
) -> dict[int, Path]:
    """Features of the chosen layers: `{layer: .npy file of [units, hidden], float16}`.

    `examples`: dicts of `input_ids`, (`token_type_ids`,) and `units`, a list of (start, end) token
    ranges; a unit's vector is the mean of its tokens' hidden states, in float32. The rows are the
    units of all examples in order. Layer 0 is the embeddings, the last one what the model returns.
    One pass serves all layers. What `folder` holds from an earlier call is used again if weights,
    inputs, layers and precision are the same. Raises UserError if the disk is too small.
    """
    hidden, n = encoder.config.hidden_size, sum(len(e["units"]) for e in examples)
    made_of = [encoder_hash(encoder), examples, layers, device.precision]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    files = {layer: folder / f"layer-{layer:02d}.npy" for layer in layers}
    if (read_json(folder / "complete.json") or {}).get("key") == key:
        log.info("using the features in %s", folder)
        return files
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    needed, free = len(layers) * n * hidden * 2, shutil.disk_usage(folder).free
    size = f"{needed / 1e9:.1f} GB" if needed >= 1e8 else f"{needed / 1e6:.1f} MB"
    log.info("features: %d layers x %d vectors x %d, %s on disk", len(layers), n, hidden, size)
    if needed > 0.95 * free:
        raise UserError(
            f"the features need {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free. Free "
            "some space, give another --output_dir, or fewer layers (--layers last)."
        )
    starts = {}  # of the values in each file, in bytes
    for layer, file in files.items():
        array = np.lib.format.open_memmap(file, "w+", dtype=np.float16, shape=(n, hidden))
        starts[layer] = array.offset
        if hasattr(os, "posix_fallocate"):  # rather now than after hours
            with file.open("rb+") as opened:
                try:
                    os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
                except OSError as error:  # does not say where
                    raise OSError(error.errno, error.strerror, str(file)) from None
    with ExitStack() as stack:
        # Written, not mapped: pages of a map count as the process's memory, layer by layer.
        opened = {n: (stack.enter_context(f.open("rb+")), starts[n]) for n, f in files.items()}
        _fill(encoder, examples, opened, device, batch_size)
    write_json(folder / "complete.json", {"key": key})
    return files


def _fill(encoder, examples: list[dict], files: dict, device, batch_size: int) -> None:
    """Write the vectors of all units; `files`: `{layer: (open file, where its values begin)}`."""
    first = np.cumsum([0, *(len(example["units"]) for example in examples)])
    row_bytes = 2 * encoder.config.hidden_size
    encoder.to(device.torch_device).eval()
    pad_token_id = encoder.config.pad_token_id or 0  # masked; any id will do
    micro = batch_size

    def run(indices: list[int], size: int) -> None:
        for start in range(0, len(indices), size):
            piece = indices[start : start + size]
            for layer, vectors in pooled(
                encoder, [examples[i] for i in piece], list(files), device, pad_token_id
            ):
                file, begin = files[layer]
                for i in piece:  # the units of an example stand one after another
                    own, vectors = np.split(vectors, [first[i + 1] - first[i]])
                    file.seek(begin + int(first[i]) * row_bytes)
                    file.write(own.tobytes())

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
    """Yield (layer, float16 array `[units, hidden]`) of one batch, pooled on the device.

    Raises UserError for a value that float16 cannot hold.
    """
    inputs = [{k: v for k, v in e.items() if k in INPUTS} for e in examples]
    batch = {k: v.to(device.torch_device) for k, v in pad(inputs, pad_token_id).items()}
    width = batch["input_ids"].shape[1]
    units = [(i * width + a, i * width + b) for i, e in enumerate(examples) for a, b in e["units"]]
    starts, ends = torch.tensor(units, device=device.torch_device).T
    options = architectures.of(encoder.config).options
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
        yield layer, vectors.cpu().numpy()
