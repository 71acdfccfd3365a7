"""How similar the attention of two encoders is, head by head, on the same inputs; streamed.

The study's measure is the cosine of the two flattened maps (Kovaleva et al., 2019, "Revealing the
Dark Secrets of BERT"), averaged over examples. Raw cosine is high for any two models; the
Jensen-Shannon divergence (Lin, 1991), the entropies and leaving out special tokens tell more.
"""

import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from common.batching import INPUTS, pad, sorted_batches
from common.cli import UserError
from common.device import JOBS, Device, free_memory, in_memory, shrink_frozen, to_device
from common.files import replacing
from common.models import families

log = logging.getLogger(__name__)
METRICS = ("cosine", "js", "entropy_pretrained", "entropy_fine_tuned")
MAPS_BYTES = 2**29  # of both models' maps at once; a batch that has more runs in pieces
SAVE_SECONDS = 20  # between two saves of the sums
TINY = torch.finfo(torch.float32).tiny


class Similarity(NamedTuple):
    """One model against the pre-trained one. Arrays are float64, `[layers, heads]`, by metric."""

    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]  # between examples, of a sample (n - 1); NaN where n is 1
    n: int  # examples compared
    skipped: int  # examples without a token to compare
    # (Example, layer, head, query) without attention to any kept token: left out of all metrics.
    # Rows of softmax underflow only; a head that has no other row does not count the example.
    empty_rows: int


def compare(
    pretrained,
    others: dict,
    examples: list[dict],
    device: Device,
    *,
    metrics: Sequence[str] = ("cosine",),
    drop_special: bool = False,
    pad_token_id: int,
    batch_size: int,
    files: dict[object, Path] | None = None,
    name: str = "attention",
) -> dict[str, Similarity]:
    """Compare the heads of `pretrained` with those of each of `others`, over the real tokens.

    Models: bare encoders with eager attention and equal numbers of layers and heads. `examples`:
    dicts of `input_ids` (, `token_type_ids`). With `drop_special` also `special`, a truth value a
    token: those tokens are left out as queries and as keys, and the rest of a row is scaled to 1.
    A metric is computed per example, layer and head:

    - cosine: of the maps flattened over `[query, key]`; at most 1, and exactly 1 for equal maps
    - js: Jensen-Shannon divergence in bits, 0 (equal) to 1 (disjoint), mean over query rows
    - entropy_pretrained, entropy_fine_tuned: of either model's rows, in bits, mean over query rows

    A batch goes through each model once. Its maps are reduced on the device to one number a head,
    of which only sums are kept: memory does not grow with `examples`. With `files`, a path for
    each of `others`, the sums are saved there now and then; a later call with equal arguments goes
    on from what it finds. Whoever calls removes the files.

    Raises ValueError for models that do not match or give no maps, UserError where no example has
    a token to compare, where a map holds NaN, or where memory does not hold a single example.
    """
    if unknown := set(metrics) - set(METRICS):
        raise ValueError(f"metrics {sorted(unknown)} are none of {', '.join(METRICS)}")
    models = (pretrained, *others.values())
    shapes = [(m.config.num_hidden_layers, m.config.num_attention_heads) for m in models]
    if len(set(shapes)) > 1:
        raise ValueError(f"models of different (layers, heads) cannot be compared: {shapes}")
    for model in models:
        to_device(model, device).eval()  # dropout would act on the maps
    layers, heads = shape = shapes[0]

    def run(batch: list[dict], keys: list, size: int) -> dict[object, list]:
        """By model, (values of each metric, rows compared) of pieces of `size` examples."""
        found = {key: [] for key in keys}
        for start in range(0, len(batch), size):
            inputs, kept = _tensors(batch[start : start + size], pad_token_id, drop_special)
            inputs = {key: tensor.to(device.torch_device) for key, tensor in inputs.items()}
            kept = kept.to(device.torch_device)
            before = [distributions(m, kept) for m in attentions(pretrained, inputs, device)]
            for key in keys:
                after = before
                if others[key] is not pretrained:
                    maps = attentions(others[key], inputs, device)
                    after = (distributions(layer, kept) for layer in maps)
                by_layer = [
                    head_metrics(a, b, kept, metrics) for a, b in zip(before, after, strict=True)
                ]  # once on the host: a look at each layer would wait for the device each time
                values, rows = (torch.stack(part).cpu() for part in zip(*by_layer, strict=True))
                found[key].append((values.double().numpy(), rows.numpy(), kept.sum().item()))
        return found

    kept = [i for i, example in enumerate(examples) if any(_kept(example, drop_special))]
    if not kept:
        raise UserError(f"{name}: none of {len(examples)} examples has a token to compare.")
    lengths = [len(examples[i]["input_ids"]) for i in kept]
    skipped, limit, files = len(examples) - len(kept), batch_size, files or {}
    states = {
        key: _load(files.get(key), metrics)
        or {
            "metrics": list(metrics),
            "sums": np.zeros((3, len(metrics), *shape)),
            "empty_rows": 0,
            "batches": 0,
        }
        for key in others
    }
    saved_at = time.monotonic()
    with (
        torch.inference_mode(),
        tqdm(
            total=len(examples), initial=skipped, desc=name, unit=" examples", dynamic_ncols=True
        ) as progress,
    ):
        for number, indices in enumerate(sorted_batches(lengths, batch_size)):
            keys = [key for key in others if states[key]["batches"] == number]
            batch = [examples[kept[i]] for i in indices if keys]
            one = 2 * layers * heads * lengths[indices[0]] ** 2 * 4  # bytes of an example's maps
            wanted = max(1, min(limit, MAPS_BYTES // one))
            found, size = in_memory(
                lambda size, batch=batch, keys=keys: run(batch, keys, size),
                wanted,
                device,
            )
            limit = size if size < wanted else limit
            for key, pieces in found.items():
                state = states[key]
                for values, rows, tokens in pieces:
                    _add(state["sums"], values, rows[:, None] > 0, name)
                    state["empty_rows"] += layers * heads * tokens - int(rows.sum())
                state["batches"] = number + 1
            if time.monotonic() - saved_at > SAVE_SECONDS:
                for key, file in files.items():
                    _save(file, states[key])
                saved_at = time.monotonic()
            progress.update(len(indices))
    return {
        key: Similarity(*_moments(s["sums"], metrics), len(kept), skipped, s["empty_rows"])
        for key, s in states.items()
    }


def groups(keys: Sequence, pretrained, device: Device) -> list[list]:
    """`keys` (one a model like `pretrained`) in groups that the device's memory holds at once.

    Half of what is free is left to the maps.
    """
    shrink_frozen(pretrained, device)
    size = sum(p.numel() * p.element_size() for p in pretrained.parameters())
    room = max(1, int(free_memory(device) / 2 / JOBS / size) - 1)
    return [list(keys[i : i + room]) for i in range(0, len(keys), room)]


def _save(file: Path, state: dict) -> None:
    with replacing(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **state)


def _load(file: Path | None, metrics: Sequence[str]) -> dict | None:
    """What `_save` wrote of the same metrics, or None."""
    if file is None or not file.is_file():
        return None
    with np.load(file) as saved:
        state = {key: value if value.ndim else int(value) for key, value in saved.items()}
    return state if list(state["metrics"]) == list(metrics) else None


def attentions(model, inputs: dict, device: Device) -> tuple[torch.Tensor, ...]:
    """Every layer's maps, each `[batch, heads, query, key]`. ValueError if the model gives none."""
    options = families.of(model.config).options
    with device.autocast(), _one_dnn(device):
        maps = model(**inputs, output_attentions=True, **options).attentions
    if not maps or len(maps) != model.config.num_hidden_layers or any(m is None for m in maps):
        raise ValueError(
            f"{type(model).__name__} gave {len(maps or ())} attention maps for its "
            f"{model.config.num_hidden_layers} layers: load it with attn_implementation='eager'."
        )
    return maps


class _OneDNN(TorchFunctionMode):
    """float32 products of activations and weights by oneDNN, with all the CPU's vector units.

    torch's own choice for float32, MKL, leaves AVX-512 unused on AMD: a comparison of two BERT-base
    encoders then takes 1.6 times the processor time (measured on an EPYC). A private operator, so
    it is used only where it is there.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        product = torch.ops.mkldnn._linear_pointwise
        if function is torch.nn.functional.linear and len(args) == 3:
            return product(*args, "none", [], "")
        if (
            function is torch.addmm and len(args) == 3 and not kwargs
        ):  # GPT-2: bias, x, weight of [in, out]
            return product(args[1], args[2].T, args[0], "none", [], "")
        return function(*args, **(kwargs or {}))


def _one_dnn(device: Device):
    here = device.torch_device.type == "cpu" and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return _OneDNN() if here and device.precision == "fp32" else nullcontext()


def distributions(maps: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Maps over the kept tokens alone, float32, each row scaled to a sum of 1.

    `maps`: `[batch, heads, query, key]`; `kept`: `[batch, tokens]`, bool. Rows and columns of
    other tokens (padding, special ones) become 0, and so do rows without attention to a kept
    token. The scaling also mends bfloat16, whose rows miss 1 by up to 0.01.
    """
    pairs = kept[:, None, :, None] & kept[:, None, None, :]
    maps = maps.float().masked_fill(~pairs, 0.0)
    mass = maps.sum(-1, keepdim=True)
    return maps / mass.masked_fill(mass < TINY, math.inf)  # below, there are no digits to scale up


def head_metrics(
    p: torch.Tensor, q: torch.Tensor, kept: torch.Tensor, metrics: Sequence[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """(`[metrics, batch, heads]`, rows compared `[batch, heads]`) of one layer's `distributions`.

    A query row that is empty in either map is left out of both.
    """
    rows = kept[:, None] & (p.sum(-1) != 0) & (q.sum(-1) != 0)
    n = rows.sum(-1)

    def total(values):  # [batch, heads, query] -> [batch, heads]
        return values.masked_fill(~rows, 0.0).sum(-1)

    def cosine():
        # Of equal maps all three sums are one x, and sqrt(x * x) is x in floating point: exactly
        # 1. Of nearly equal ones rounding can give 1 + 1e-7, which Cauchy-Schwarz rules out.
        norms = total(p.square().sum(-1)) * total(q.square().sum(-1))
        return (total((p * q).sum(-1)) / norms.sqrt()).clamp(max=1.0)

    def js():
        # sum p log2(2p / (p + q)) rather than three entropies, whose difference loses digits.
        # Clamped since rounding can leave [0, 1] by 1e-7.
        middle = ((p + q) / 2).clamp_min(TINY)  # 0 / 0 where both are 0
        terms = torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)
        return (total(terms.sum(-1)) / (2 * math.log(2) * n)).clamp(0.0, 1.0)

    def entropy(map):
        return total(-torch.xlogy(map, map).sum(-1)) / (math.log(2) * n)  # 0 log 0 is 0

    compute = {"cosine": cosine, "js": js, "entropy_pretrained": lambda: entropy(p),
               "entropy_fine_tuned": lambda: entropy(q)}  # fmt: skip
    return torch.stack([compute[metric]() for metric in metrics]), n


def _kept(example: dict, drop_special: bool) -> list[bool]:
    """Which tokens are compared."""
    tokens = len(example["input_ids"])
    if not drop_special:
        return [True] * tokens
    if "special" not in example or len(example["special"]) != tokens:
        raise ValueError("drop_special needs `special` in every example, a truth value a token")
    return [not special for special in example["special"]]


def _tensors(batch: list[dict], pad_token_id: int, drop_special: bool):
    """(the encoder's inputs, kept tokens `[batch, tokens]`), padded on the right."""
    inputs = pad([{k: e[k] for k in INPUTS if k in e} for e in batch], pad_token_id)
    kept = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool)
    for row, example in zip(kept, batch, strict=True):
        row[: len(example["input_ids"])] = torch.tensor(_kept(example, drop_special))
    return inputs, kept


def _add(sums: np.ndarray, values: np.ndarray, counts: np.ndarray, name: str) -> None:
    """Add `values` `[layers, metrics, batch, heads]` where `counts` to `[3, metrics, l, h]`."""
    values = np.where(counts, values, 0.0)
    if not np.isfinite(values).all():
        layer = np.argwhere(~np.isfinite(values))[0, 0]
        raise UserError(
            f"{name}: layer {layer + 1} has NaN. Is the checkpoint sound? Try --precision fp32."
        )
    for power, total in enumerate(sums):
        total += np.where(counts, values**power, 0.0).sum(2).transpose(1, 0, 2)


def _moments(sums: np.ndarray, metrics: Sequence[str]) -> tuple[dict, dict]:
    """(means, standard deviations), by metric, of the sums `[3, metrics, layers, heads]`."""
    n, total, squares = sums
    with np.errstate(invalid="ignore", divide="ignore"):  # no example, or only one: NaN
        mean = total / n
        # The difference can fall below 0 by rounding.
        std = np.sqrt(np.maximum(squares - total * mean, 0) / (n - 1))
    return dict(zip(metrics, mean, strict=True)), dict(zip(metrics, std, strict=True))
