"""How similar the attention of two encoders is, head by head, on the same inputs.

The study's measure is the cosine of the two flattened maps (Kovaleva et al., 2019, "Revealing the
Dark Secrets of BERT"), averaged over examples. Raw cosine is high for any two models; the
Jensen-Shannon divergence (Lin, 1991), the entropies and leaving out special tokens tell more.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from common import forward
from common.cli import UserError
from common.device import JOBS, Device, free_memory, shrink_frozen, to_device
from common.files import replacing
from common.models import families

MAPS_BYTES = 2**29  # of both models' maps at once; a batch with more of them runs in pieces
SAVE_SECONDS = 20  # between two saves of the sums
TINY = torch.finfo(torch.float32).tiny


class Similarity(NamedTuple):
    """One model against the pre-trained one. Arrays are float64 `[layers, heads]`, by metric."""

    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]  # between examples, of a sample (n - 1); NaN if n is 1
    n: int  # compared examples
    skipped: int  # examples without a token to compare
    # (Example, layer, head, query) without attention to any kept token: left out of all metrics.
    # Only rows whose softmax underflows; a head without any other row does not count the example.
    empty_rows: int


# The measures get the `distributions` of the pre-trained and of the other model, and which query
# rows they compare, `[batch, heads, query]`. They return `[batch, heads]`.


def cosine(p: torch.Tensor, q: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The cosine of the maps flattened over `[query, key]`: at most 1, exactly 1 for equal maps."""
    # For equal maps all three sums are one x, and sqrt(x * x) is x in floating point. For nearly
    # equal maps rounding can give 1 + 1e-7.
    norms = _sum(p.square(), rows) * _sum(q.square(), rows)
    return (_sum(p * q, rows) / norms.sqrt()).clamp(max=1.0)


def js(p: torch.Tensor, q: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The mean Jensen-Shannon divergence of the rows in bits, from 0 (equal) to 1 (disjoint)."""
    # sum p log2(2p / (p + q)): the difference of three entropies would lose digits.
    middle = ((p + q) / 2).clamp_min(TINY)  # where both are 0, not 0 / 0
    terms = torch.xlogy(p, p / middle) + torch.xlogy(q, q / middle)
    return (_sum(terms, rows) / (2 * math.log(2) * rows.sum(-1))).clamp(0.0, 1.0)  # rounding


def entropy(p: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The mean entropy of the rows in bits."""
    return -_sum(torch.xlogy(p, p), rows) / (math.log(2) * rows.sum(-1))  # 0 log 0 is 0


def _sum(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return values.sum(-1).masked_fill(~rows, 0.0).sum(-1)


METRICS = {
    "cosine": cosine,
    "js": js,
    "entropy_pretrained": lambda p, q, rows: entropy(p, rows),
    "entropy_fine_tuned": lambda p, q, rows: entropy(q, rows),
}


def compare(
    pretrained,
    others: dict,
    examples: list[dict],
    device: Device,
    *,
    drop_special: bool = False,
    pad_token_id: int,
    batch_size: int,
    file: Path | None = None,
) -> dict:
    """{key: Similarity} of each of `others` to `pretrained`, by all `METRICS`, over real tokens.

    Models: bare encoders with eager attention and equal numbers of layers and heads. `examples`:
    dicts of `input_ids` (, `token_type_ids`). `drop_special` leaves out, as queries and as keys,
    the tokens that are true in `special`, a list of bools; the rest of a row is scaled to 1.

    Only sums over examples are kept, in `file` too, if given: a later call with the same keys (as
    strings) resumes there. All else must then be the same, and the caller removes the file.

    Raises ValueError for models that do not match or return no maps; UserError if no example has a
    token to compare, a map holds NaN, or memory is too small for one example.
    """
    models = (pretrained, *others.values())
    shapes = {(m.config.num_hidden_layers, m.config.num_attention_heads) for m in models}
    if len(shapes) > 1:
        raise ValueError(f"models of different (layers, heads) cannot be compared: {shapes}")
    for model in models:
        to_device(model, device).eval()  # dropout would change the maps
    layers, heads = shapes.pop()
    masks = [_kept(example, drop_special) for example in examples]
    filled = [i for i, mask in enumerate(masks) if any(mask)]
    if not filled:
        raise UserError(f"attention: none of {len(examples)} examples has a token to compare.")
    lengths = [len(masks[i]) for i in filled]

    def run(indices: list[int]) -> np.ndarray:
        n, longest = len(indices), lengths[indices[0]]
        if n > 1 and 2 * 4 * layers * heads * n * longest**2 > MAPS_BYTES:
            return run(indices[: n // 2]) + run(indices[n // 2 :])
        piece = [filled[i] for i in indices]
        batch = forward.inputs([examples[i] for i in piece], pad_token_id, device)
        kept = pad_sequence([torch.tensor(masks[i]) for i in piece], batch_first=True)
        return _sums(models, batch, kept.to(device.torch_device), device)

    shape = len(others), 3, len(METRICS) + 1, layers, heads
    sums, n_batches = _load(file, others) or (np.zeros(shape), 0)
    saved_at = time.monotonic()
    for _, results in forward.batches(lengths, batch_size, device, "attention", run, n_batches):
        sums, n_batches = sums + sum(results), n_batches + 1
        if time.monotonic() - saved_at > SAVE_SECONDS:
            _save(file, others, sums, n_batches)
            saved_at = time.monotonic()
    _save(file, others, sums, n_batches)
    counts = len(filled), len(examples) - len(filled), layers * heads * sum(map(sum, masks))
    return {key: _similarity(own, *counts) for key, own in zip(others, sums, strict=True)}


def groups(keys: Sequence, pretrained, device: Device) -> list[list]:
    """`keys` (one a model like `pretrained`) in groups whose models fit on the device together.

    Half of the free memory is left for the maps.
    """
    shrink_frozen(pretrained, device)
    size = sum(p.numel() * p.element_size() for p in pretrained.parameters())
    room = max(1, int(free_memory(device) / 2 / JOBS / size) - 1)
    return [list(keys[i : i + room]) for i in range(0, len(keys), room)]


def outputs(model, batch: dict, device: Device):
    """What the model returns, with the maps of all layers. ValueError if it returns none."""
    options = families.of(model.config).options
    with device.autocast():
        returned = model(**batch, output_attentions=True, **options)
    maps = returned.attentions or ()
    if len(maps) != model.config.num_hidden_layers or any(layer is None for layer in maps):
        raise ValueError(
            f"{type(model).__name__} returned {len(maps)} attention maps for its "
            f"{model.config.num_hidden_layers} layers: load it with attn_implementation='eager'."
        )
    return returned


def distributions(maps: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Maps over the kept tokens alone, float32, each row scaled to a sum of 1.

    `maps`: `[batch, heads, query, key]`; `kept`: `[batch, tokens]`, bool. Rows and columns of
    other tokens (padding, special tokens) become 0, as do rows without attention to a kept token.
    The scaling also corrects bfloat16, whose rows miss 1 by up to 0.01.
    """
    pairs = kept[:, None, :, None] & kept[:, None, None, :]
    maps = maps.float().masked_fill(~pairs, 0.0)
    mass = maps.sum(-1, keepdim=True)
    return maps / mass.masked_fill(mass < TINY, math.inf)  # below it there are no digits to scale


def head_metrics(p: torch.Tensor, q: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """`[metrics + 1, batch, heads]` of one layer's `distributions`; the last is the compared rows.

    A query row that is empty in either map is left out of both.
    """
    rows = kept[:, None] & (p.sum(-1) != 0) & (q.sum(-1) != 0)
    return torch.stack([*(measure(p, q, rows) for measure in METRICS.values()), rows.sum(-1)])


def _kept(example: dict, drop_special: bool) -> list[bool]:
    """Which tokens are compared."""
    tokens = len(example["input_ids"])
    if not drop_special:
        return [True] * tokens
    if len(example.get("special", ())) != tokens:
        raise ValueError("drop_special needs `special` in every example, a truth value a token")
    return [not special for special in example["special"]]


def _sums(models: Sequence, batch: dict, kept: torch.Tensor, device: Device) -> np.ndarray:
    """Sums over a batch's examples: float64 `[others, 3, metrics + 1, layers, heads]`.

    The three are of the `head_metrics` to the powers of 0 (how many examples have any), 1 and 2. An
    example without a row to compare in a head is left out there.
    """
    pretrained, *others = models
    before = [distributions(m, kept) for m in outputs(pretrained, batch, device).attentions]
    sums = []
    for other in others:
        after = before
        if other is not pretrained:
            maps = outputs(other, batch, device).attentions
            after = (distributions(m, kept) for m in maps)
        by_layer = [head_metrics(p, q, kept) for p, q in zip(before, after, strict=True)]
        # To the host all at once, since each transfer waits for the device.
        values = torch.stack(by_layer, 2).cpu().double().numpy()
        counted = np.broadcast_to(values[-1] > 0, values.shape)
        values = np.where(counted, values, 0.0)
        if not np.isfinite(values).all():
            layer = (~np.isfinite(values)).any((0, 1, 3)).argmax() + 1
            raise UserError(
                f"attention: layer {layer} has NaN. Is the checkpoint sound? Try --precision fp32."
            )
        sums.append([power.sum(1) for power in (counted, values, values**2)])
    return np.array(sums, np.float64)


def _similarity(sums: np.ndarray, n: int, skipped: int, n_rows: int) -> Similarity:
    """Of one model's `_sums`; `n_rows` counts the empty rows as well."""
    counted, total, squares = sums
    with np.errstate(invalid="ignore", divide="ignore"):  # no example, or only one: NaN
        mean = total / counted
        variance = np.maximum(squares - total * mean, 0) / (counted - 1)  # rounding: not below 0
    means, stds = (dict(zip(METRICS, x, strict=False)) for x in (mean, np.sqrt(variance)))
    return Similarity(means, stds, n, skipped, empty_rows=n_rows - int(total[-1].sum()))


def _save(file: Path | None, others: dict, sums: np.ndarray, n_batches: int) -> None:
    if file:
        with replacing(file) as temporary, temporary.open("wb") as opened:
            np.savez(opened, others=[str(key) for key in others], sums=sums, n_batches=n_batches)


def _load(file: Path | None, others: dict) -> tuple[np.ndarray, int] | None:
    """What `_save` wrote for the same others, or None."""
    if not (file and file.exists()):
        return None
    with np.load(file) as saved:
        same = saved["others"].tolist() == [str(key) for key in others]
        return (saved["sums"], int(saved["n_batches"])) if same else None
