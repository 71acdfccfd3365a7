"""The BiLSTM-CRF of labelled sequences: a bidirectional LSTM, a linear layer, a linear-chain CRF.

Lample et al. (2016), "Neural Architectures for Named Entity Recognition", on frozen vectors. Every
weight has a leading dimension of encoder layers, one probe each: the `...` of the CRF's functions.
Their mask `[batch, units]` is true for the units of a sequence, at least one, and then false.
"""

import numpy as np
import torch

from common.probes import HIDDEN_SIZE, linear
from common.probes.sequences import pack

HALF = True  # matrix products in bfloat16 where the device's precision is bf16
CRF = ("transitions", "start", "end")


def shapes(size: int, n_labels: int) -> dict[str, tuple]:
    """`{weight: (bound of its first values, *shape)}`, as nn.Linear, nn.LSTM, pytorch-crf have."""
    bound = HIDDEN_SIZE**-0.5
    return linear.shapes(2 * HIDDEN_SIZE, n_labels) | {
        "input": (bound, size, 8 * HIDDEN_SIZE),
        "input_bias": (bound, 1, 8 * HIDDEN_SIZE),
        "recurrent": (bound, 2, HIDDEN_SIZE, 4 * HIDDEN_SIZE),
        "transitions": (0.1, n_labels, n_labels),
        "start": (0.1, n_labels),
        "end": (0.1, n_labels),
    }


def emissions(weights: dict, x, lengths: np.ndarray):
    """Scores of packed units: `[layers, units, size]` -> `[layers, units, labels]`, float32."""
    hidden = bilstm(x, lengths, weights["input"], weights["input_bias"], weights["recurrent"])
    return linear.emissions(weights, hidden, lengths)


def loss(weights: dict, scores, tags, mask):
    """Negative log-likelihood of the labels, `tags` `[batch, units]`, summed: `[layers]`."""
    crf = [weights[name] for name in CRF]
    return (log_partition(scores, *crf, mask) - path_score(scores, tags, *crf, mask)).sum(-1)


def best(weights: dict, scores, mask):
    """The best path of each sequence: `[layers, batch, units]`."""
    return viterbi(scores, *(weights[name] for name in CRF), mask)


def bilstm(x, lengths: np.ndarray, weight, bias, recurrent) -> torch.Tensor:
    """Hidden states of a bidirectional LSTM per layer: `[layers, units, 2n]`, packed like `x`.

    `x`: `[layers, units, size]`, see `pack`; `lengths`: `[batch]`, the longest first. `weight`:
    `[layers, size, 8n]` and `bias`: `[layers, 1, 8n]`, forward then backward gates, each in the
    order i, f, o, g; `recurrent`: `[layers, 2, n, 4n]`. nn.LSTM's equations, with one bias instead
    of two. Matrix products are in `x`'s precision, all else in that of the weights.
    """
    unit, sequence = pack(lengths)
    counts = np.bincount(unit)  # how many sequences have a unit 0, 1, ...
    # Both directions are chains that read forwards: the backward one reads each sequence mirrored.
    mirror = (np.cumsum(counts) - counts)[lengths[sequence] - 1 - unit] + sequence
    mirror = torch.from_numpy(mirror).to(x.device)
    ahead, back = torch.baddbmm(bias.to(x.dtype), x, weight.to(x.dtype)).chunk(2, -1)
    inputs = torch.cat([ahead, back[:, mirror]])  # [2 * layers, units, 4n]
    recurrent = recurrent.transpose(0, 1).flatten(0, 1).to(x.dtype)
    size = recurrent.shape[1]
    hidden = inputs.new_zeros(len(inputs), counts[0], size)
    cell, states = hidden.to(weight.dtype), []
    for step in inputs.split(counts.tolist(), 1):
        n = step.shape[1]  # the first n sequences have this unit
        gates = torch.baddbmm(step, hidden[:, :n], recurrent).to(weight.dtype)
        i, f, o = gates[..., : 3 * size].sigmoid().chunk(3, -1)
        cell = torch.addcmul(i * gates[..., 3 * size :].tanh(), f, cell[:, :n])
        hidden = (o * cell.tanh()).to(x.dtype)
        states.append(hidden)
    ahead, back = torch.cat(states, 1).chunk(2)
    return torch.cat([ahead, back[:, mirror]], -1)


def log_partition(emissions, transitions, start, end, mask) -> torch.Tensor:
    """log Z, the log-sum-exp of the scores of all paths, by the forward algorithm: `[..., batch]`.

    `emissions`: `[..., batch, units, labels]`; `transitions` (from, to): `[..., labels, labels]`;
    `start`, `end`: `[..., labels]`. Lafferty, McCallum & Pereira (2001), section 3:
    alpha_1 = start + e_1; alpha_t(j) = e_t(j) + log sum_i exp(alpha_{t-1}(i) + transitions(i, j)).
    """
    first, *rest = emissions.unbind(-2)
    alpha = start.unsqueeze(-2) + first
    for t, emission in enumerate(rest, 1):
        scores = alpha.unsqueeze(-1) + transitions.unsqueeze(-3)  # [..., batch, from, to]
        alpha = torch.where(mask[:, t, None], scores.logsumexp(-2) + emission, alpha)
    return (alpha + end.unsqueeze(-2)).logsumexp(-1)


def path_score(emissions, tags, transitions, start, end, mask) -> torch.Tensor:
    """Score of one path per sequence: start, emissions, transitions and end, added up.

    `tags`: `[batch, units]`, 0 ... labels - 1 (also at the padding); the rest as in
    `log_partition`. Returns `[..., batch]`. Equation 1 of Lample et al. (2016).
    """
    index = tags.expand(emissions.shape[:-1]).unsqueeze(-1)
    emitted = emissions.gather(-1, index).squeeze(-1) * mask
    moved = transitions[..., tags[:, :-1], tags[:, 1:]] * mask[:, 1:]
    last = tags.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
    return emitted.sum(-1) + moved.sum(-1) + start[..., tags[:, 0]] + end[..., last]


def viterbi(emissions, transitions, start, end, mask) -> torch.Tensor:
    """The best path of every sequence: int64 `[..., batch, units]`, 0 at the padding.

    Arguments as in `log_partition`, with the maximum instead of its log-sum-exp (Viterbi 1967).
    """
    first, *rest = emissions.unbind(-2)
    best, origins = start.unsqueeze(-2) + first, []
    for t, emission in enumerate(rest, 1):
        scores, origin = (best.unsqueeze(-1) + transitions.unsqueeze(-3)).max(-2)
        best = torch.where(mask[:, t, None], scores + emission, best)
        origins.append(origin)
    tag = last = (best + end.unsqueeze(-2)).argmax(-1, keepdim=True)
    path = [tag]
    for t in range(len(origins), 0, -1):  # at the padding, `tag` stays the sequence's `last`
        tag = torch.where(mask[:, t, None], origins[t - 1].gather(-1, tag), last)
        path.append(tag)
    return torch.cat(path[::-1], -1) * mask
