"""A bidirectional LSTM over packed sentences, for several layers at once, with its derivative.

Written out because it is worth it: with an nn.LSTM a layer a probe's fit takes about 1.6 times the
processor time in float32, 2 to 2.5 times in bfloat16 (tests/benchmarks/bilstm_crf.py, two cores).
Autograd would add up the recurrent weights' gradient word by word; here it is one product at the
end. A test holds outputs and all gradients to those of nn.LSTM.

Hochreiter & Schmidhuber (1997), with the gates of nn.LSTM. Of a word t, x_t is the projected
input, R the recurrent weights, s the logistic function, ' transposes:

    a_t = x_t + h_{t-1} R                   of each of the gates i, f, o, g
    i, f, o = s(a_i), s(a_f), s(a_o)        g = tanh(a_g)
    c_t = f c_{t-1} + i g
    h_t = o tanh(c_t)

Its derivative, from the last word to the first; dz is the loss's by z, "later" what comes from
word t + 1:

    dh_t = (from the output) + later        later: da_{t+1} R'
    dc_t = dh_t o (1 - tanh(c_t)^2) + later     later: dc_{t+1} f_{t+1}
    di, df, do, dg = dc_t g, dc_t c_{t-1}, dh_t tanh(c_t), dc_t i
    da_i = di i (1 - i), and so for f and o;    da_g = dg (1 - g^2)
    dx_t = da_t                             dR = sum over t of h_{t-1}' da_t

Packed means without padding: the first words of all sentences, the longest sentence first, then
the second words of those that have one, and so on. The sentences that have a word t are then the
first `counts[t]`, so each step works on a slice. A layer's two directions are two chains: the
backward one is the same recurrence on its sentences reversed.
"""

import numpy as np
import torch


def bilstm(x, lengths: np.ndarray, weight, bias, recurrent) -> torch.Tensor:
    """Hidden states of a bidirectional LSTM, one a layer: `[layers, words, 2n]`, packed like `x`.

    `x`: `[layers, words, features]`, packed; `lengths`: `[batch]`, the longest first. `weight`:
    `[layers, features, 8n]` and `bias`: `[layers, 1, 8n]`, forward then backward gates, each i, f,
    o, g; `recurrent`: `[layers, 2, n, 4n]`. One bias where nn.LSTM adds two. Products are in `x`'s
    precision, all else in float32.
    """
    words, sentence = pack(lengths)
    counts = np.bincount(words)
    # Where the backward direction, from a sentence's last word to its first, meets each word.
    mirror = (np.cumsum(counts) - counts)[lengths[sentence] - 1 - words] + sentence
    projected = torch.baddbmm(bias.to(x.dtype), x, weight.to(x.dtype))
    mirror = torch.from_numpy(mirror).to(x.device)
    return _Recurrence.apply(projected, recurrent, mirror, counts.tolist())


def pack(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position in its sentence, and sentence, of each packed word."""
    return np.nonzero(np.arange(lengths[0])[:, None] < lengths)


def _chains(x: torch.Tensor, mirror: torch.Tensor) -> torch.Tensor:
    """`[layers, words, 2m]` -> `[words, 2 * layers, m]`: the second half of each layer reversed."""
    ahead, back = x.transpose(0, 1).chunk(2, -1)
    return torch.stack([ahead, back[mirror]], 2).flatten(1, 2)


def _layers(x: torch.Tensor, mirror: torch.Tensor) -> torch.Tensor:
    """The inverse of `_chains`."""
    ahead, back = x.unflatten(1, (-1, 2)).unbind(2)
    return torch.cat([ahead, back[mirror]], -1).transpose(0, 1)


def _product(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Of each chain: `[n, chains, a]` times `[chains, a, b]` -> `[n, chains, b]`."""
    return (x.transpose(0, 1) @ matrix).transpose(0, 1)


def _steps(counts: list[int]) -> list[tuple[slice, slice, slice]]:
    """A word's rows, and the rows of the states before and after it, for word 0, 1, ...

    The states' first `counts[0]` rows are those before the first word.
    """
    steps, row, before = [], 0, 0
    for n in counts:
        after = counts[0] + row
        steps.append((slice(row, row + n), slice(before, before + n), slice(after, after + n)))
        row, before = row + n, after
    return steps


class _Recurrence(torch.autograd.Function):
    """The loop over words: `[layers, words, 8n]`, `[layers, 2, n, 4n]` -> `[layers, words, 2n]`."""

    @staticmethod
    def forward(ctx, projected, recurrent, mirror, counts):
        weight = recurrent.flatten(0, 1).to(projected.dtype)  # [chains, n, 4n]
        inputs = _chains(projected, mirror)
        (words, chains, _), size, batch = inputs.shape, weight.shape[1], counts[0]
        gates = torch.empty_like(inputs, dtype=torch.promote_types(inputs.dtype, torch.float32))
        squashed = torch.empty_like(gates[..., :size])  # tanh(c)
        cells = gates.new_zeros(batch + words, chains, size)
        hidden = inputs.new_zeros(cells.shape)
        for now, before, after in _steps(counts):
            sums = torch.baddbmm(
                inputs[now].transpose(0, 1), hidden[before].transpose(0, 1), weight
            )
            gate = gates[now].copy_(sums.transpose(0, 1))
            gate[..., : 3 * size].sigmoid_()
            gate[..., 3 * size :].tanh_()
            i, f, o, g = gate.chunk(4, -1)
            torch.addcmul(i * g, f, cells[before], out=cells[after])
            torch.tanh(cells[after], out=squashed[now])
            hidden[after] = o * squashed[now]
        ctx.counts = counts
        ctx.save_for_backward(weight, mirror, gates, cells, squashed, hidden)
        return _layers(hidden[batch:], mirror)

    @staticmethod
    def backward(ctx, grad):
        weight, mirror, gates, cells, squashed, hidden = ctx.saved_tensors
        steps, batch = _steps(ctx.counts), ctx.counts[0]
        grad = _chains(grad, mirror)
        d_sums = torch.empty_like(gates, dtype=weight.dtype)  # da
        # What the next word adds; zero where a sentence has none.
        later_cell, later_hidden = cells.new_zeros(2, batch, *squashed.shape[1:])
        for now, before, _ in reversed(steps):
            i, f, o, g = gates[now].chunk(4, -1)
            n = now.stop - now.start
            d_hidden = later_hidden[:n].add_(grad[now])
            d_cell = later_cell[:n].add_(d_hidden * o * (1 - squashed[now] ** 2))
            d_i, d_f, d_o, d_g = d_sums[now].chunk(4, -1)
            d_i.copy_(d_cell * g * i * (1 - i))
            d_f.copy_(d_cell * cells[before] * f * (1 - f))
            d_o.copy_(d_hidden * squashed[now] * o * (1 - o))
            d_g.copy_(d_cell * i * (1 - g**2))
            d_hidden.copy_(_product(d_sums[now], weight.mT))
            d_cell *= f
        previous = torch.cat([hidden[before] for _, before, _ in steps])
        d_weight = previous.permute(1, 2, 0) @ d_sums.transpose(0, 1)
        d_weight = d_weight.to(cells.dtype).unflatten(0, (-1, 2))
        return _layers(d_sums, mirror), d_weight, None, None
