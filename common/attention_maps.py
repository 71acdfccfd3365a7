"""How similar the attention of two encoders is, head by head, on the same inputs.

The study's measure is the cosine of the two flattened maps (Kovaleva et al., 2019, "Revealing the
Dark Secrets of BERT"), averaged over examples. Raw cosine is high for any two models; the
Jensen-Shannon divergence (Lin, 1991), the entropies and leaving out special tokens tell more.
The same passes give the hidden states for CKA (common/similarity.py).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from common import forward, similarity
from common.cli import UserError
from common.device import JOBS, Device, free_memory, shrink_frozen, to_device

MAPS_BYTES = 2**29  # of both models' maps at once; a batch with more of them runs in pieces
TINY = torch.finfo(torch.float32).tiny

# The measures get the `distributions` of the pre-trained and of the other model, and which query
# rows they compare, `[batch, heads, query]`. They return `[batch, heads]`.


def cosine(p: torch.Tensor, q: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The cosine of the maps flattened over `[query, key]`: at most 1, exactly 1 for equal maps."""
    norms = _sum(p.square(), rows) * _sum(q.square(), rows)  # of equal maps x * x, whose root is x
    return (_sum(p * q, rows) / norms.sqrt()).clamp(max=1.0)  # rounding can give 1 + 1e-7


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


class Similarity(NamedTuple):
    """One model against the pre-trained one. Arrays are float64 `[layers, heads]`, by metric."""

    mean: dict[str, np.ndarray]
    std: dict[str, np.ndarray]  # between examples, of a sample (n - 1); NaN if n is 1
    cka: dict[str, np.ndarray]  # float64 [layers + 1], by name; layer 0 is the embeddings
    # For metrics.json: compared `examples`; `skipped_examples`, without a token to compare;
    # `empty_rows`, queries without attention to a kept token, in all heads: not compared;
    # `cka_examples`, that gave a token to it.
    counts: dict[str, int]


def compare(
    pretrained, others, examples, device, *, pad_token_id, batch_size, drop_special=False
) -> dict:
    """{key: Similarity to `pretrained`} of `others`, {key: model}, over real tokens.

    Models: bare encoders of one shape, with eager attention. `examples`: dicts of `input_ids`
    (, `token_type_ids`) and `special`, a bool a token. `drop_special` leaves these out, as queries
    and as keys; CKA always does. Raises UserError for NaN, and without a token to compare.
    """
    models = [to_device(model, device).eval() for model in (pretrained, *others.values())]
    layers, heads = pretrained.config.num_hidden_layers, pretrained.config.num_attention_heads
    special = [e["special"] if drop_special else [False] * len(e["input_ids"]) for e in examples]
    lengths = [0 if all(tokens) else len(tokens) for tokens in special]
    if not any(lengths):
        raise UserError(f"attention: none of {len(examples)} examples has a token to compare.")
    drawn, minibatches = similarity.draw(examples)
    shape = len(drawn), layers + 1, pretrained.config.hidden_size
    states = [np.zeros(shape, np.float32) for _ in models]
    sums = np.zeros((len(others), 3, len(METRICS) + 1, layers, heads))

    def run(indices: list[int]) -> np.ndarray:
        half, longest = len(indices) // 2, lengths[indices[0]]
        if half and 2 * 4 * layers * heads * len(indices) * longest**2 > MAPS_BYTES:
            return run(indices[:half]) + run(indices[half:])
        batch = forward.inputs([examples[i] for i in indices], pad_token_id, device)
        kept = pad_sequence([~torch.tensor(special[i]) for i in indices], batch_first=True)
        places = [(n, *drawn[i]) for n, i in enumerate(indices) if i in drawn]
        return _sums(models, batch, kept.to(device.torch_device), device, states, places)

    for _, results in forward.batches(lengths, batch_size, device, "attention", run):
        sums += sum(results)
    rows = layers * heads * sum(tokens.count(False) for tokens in special)
    return {
        key: _similarity(own, lengths, rows, states[0], after, minibatches)
        for key, own, after in zip(others, sums, states[1:], strict=True)
    }


def groups(keys: list, pretrained, device: Device) -> list[list]:
    """`keys`, one a model, in groups whose models fit into half of the device's free memory."""
    shrink_frozen(pretrained, device)
    size = sum(p.numel() * p.element_size() for p in pretrained.parameters())
    room = max(1, int(free_memory(device) / 2 / JOBS / size) - 1)
    return [keys[i : i + room] for i in range(0, len(keys), room)]


def distributions(maps: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Maps `[batch, heads, query, key]` over the `kept` tokens `[batch, tokens]` alone, float32.

    Each row is scaled to a sum of 1, which bfloat16 misses by up to 0.01. Rows and columns of other
    tokens become 0, as do rows without attention to a kept token.
    """
    pairs = kept[:, None, :, None] & kept[:, None, None, :]
    maps = maps.float().masked_fill(~pairs, 0.0)
    mass = maps.sum(-1, keepdim=True)
    return maps / mass.masked_fill(mass < TINY, math.inf)  # below it there are no digits to scale


def head_metrics(p: torch.Tensor, q: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """`[metrics + 1, batch, heads]` of a layer's `distributions`; the last is the compared rows."""
    rows = kept[:, None] & (p.sum(-1) != 0) & (q.sum(-1) != 0)  # not those empty in either map
    return torch.stack([*(measure(p, q, rows) for measure in METRICS.values()), rows.sum(-1)])


def _sums(models: list, batch: dict, kept, device: Device, states: list, places: list):
    """A batch's sums of `head_metrics` ** (0, 1, 2): `[others, 3, metrics + 1, layers, heads]`.

    The hidden states at `places`, (example of the batch, row, token), are written to the rows of
    `states`, an array a model.
    """
    chosen, rows, tokens = np.array(places, int).reshape(-1, 3).T

    def maps(model, own):
        with device.autocast():
            options = {"output_attentions": True, "output_hidden_states": True}
            output = model(**batch, **options, use_cache=False)
        for layer, hidden in enumerate(output.hidden_states):
            own[rows, layer] = hidden[chosen, tokens].float().cpu().numpy()
        return (distributions(layer, kept) for layer in output.attentions)

    before, sums = list(maps(models[0], states[0])), []
    for other, own in zip(models[1:], states[1:], strict=True):
        after = maps(other, own)
        by_layer = [head_metrics(p, q, kept) for p, q in zip(before, after, strict=True)]
        values = torch.stack(by_layer, 2).cpu().double().numpy()  # one transfer, which waits
        counted = np.broadcast_to(values[-1] > 0, values.shape)  # an example without rows is not
        values = np.where(counted, values, 0.0)
        if not np.isfinite(values).all():
            raise UserError("attention has NaN. Is the checkpoint sound? Try --precision fp32.")
        sums.append([power.sum(1) for power in (counted, values, values**2)])
    return np.array(sums, np.float64)


def _similarity(sums: np.ndarray, lengths: list, rows: int, before, after, batches) -> Similarity:
    """Of one model's `_sums`; `lengths`: 0 for a skipped example; `rows`: with the empty ones;
    `before` and `after`: hidden states, see `similarity.cka`."""
    counted, total, squares = sums
    with np.errstate(invalid="ignore", divide="ignore"):  # no example, or only one: NaN
        mean = total / counted
        variance = np.maximum(squares - total * mean, 0) / (counted - 1)  # rounding: not below 0
    means, stds = (dict(zip(METRICS, x, strict=False)) for x in (mean, np.sqrt(variance)))
    layers = range(before.shape[1])
    cka = {
        name: np.array([similarity.cka(before[:, n], after[:, n], batches, flag) for n in layers])
        for name, flag in (("cka", False), ("cka_standardized", True))
    }
    counts = {"examples": len(lengths) - lengths.count(0), "skipped_examples": lengths.count(0)}
    counts |= {"empty_rows": rows - int(total[-1].sum()), "cka_examples": len(before)}
    return Similarity(means, stds, cka, counts)
