"""The BiLSTM-CRF of labelled sequences: a bidirectional LSTM, a linear layer, a linear-chain CRF.

Lample et al. (2016), "Neural Architectures for Named Entity Recognition", on frozen vectors. One
probe a layer of the encoder: every weight has a leading dimension of layers, and nothing is shared
between them. `common.probes.sequences` trains it.
"""

from common.probes import HIDDEN_SIZE, linear
from common.probes.crf import log_partition, path_score, viterbi
from common.probes.lstm import bilstm

HALF = True  # products in bfloat16 where the device has it


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


def emissions(weights: dict, x, lengths):
    """Scores of packed units: `[layers, units, size]` -> `[layers, labels, units]`, float32."""
    hidden = bilstm(x, lengths, weights["input"], weights["input_bias"], weights["recurrent"])
    return linear.emissions(weights, hidden, lengths)


def loss(weights: dict, scores, tags, mask):
    """Negative log-likelihood of the labels, `tags` `[batch, units]`, summed: `[layers]`."""
    gold = path_score(scores, tags, *_crf(weights), mask)
    return (log_partition(scores, *_crf(weights), mask) - gold).sum(-1)


def best(weights: dict, scores, mask):
    """The best path of each sequence: `[layers, batch, units]`."""
    return viterbi(scores, *_crf(weights), mask)


def _crf(weights: dict) -> list:
    return [weights[name] for name in ("transitions", "start", "end")]
