"""The BiLSTM-CRF of labelled sequences: a bidirectional LSTM, a linear layer, a linear-chain CRF.

Lample et al. (2016), "Neural Architectures for Named Entity Recognition", on frozen vectors. Every
weight has a leading dimension of encoder layers, one probe each.
"""

import numpy as np
import torch

from common.probes import HIDDEN_SIZE, linear
from common.probes.crf import log_partition, path_score, viterbi
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
