"""Word probes: BiLSTM and linear-chain CRF, or one linear layer; one a layer, trained in lockstep.

Lample et al. (2016), "Neural Architectures for Named Entity Recognition", on frozen word vectors.
The probes of several encoder layers see the same batches, so their weights are stacked and each
step is one batched product over layers and directions; nothing else is shared between them.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from common.batching import epoch_batches, sorted_batches
from common.cli import UserError
from common.device import Device
from common.probes.crf import log_partition, path_score, viterbi

KINDS = ("bilstm-crf", "linear")
HIDDEN = 128  # per direction
# Layers x words held at once, some 20 KB each: a batch with more goes through in pieces.
ROOM = 2**15


def _split(x: torch.Tensor, mirror: torch.Tensor) -> torch.Tensor:
    """`[layers, words, 2n]` -> `[words, 2 * layers, n]`: the second half of each layer reversed."""
    ahead, back = x.transpose(0, 1).chunk(2, -1)
    return torch.stack([ahead, back[mirror]], 2).flatten(1, 2)


def _join(x: torch.Tensor, mirror: torch.Tensor) -> torch.Tensor:
    """The inverse of `_split`."""
    ahead, back = x.unflatten(1, (-1, 2)).unbind(2)
    return torch.cat([ahead, back[mirror]], -1).transpose(0, 1)


class _Recurrence(torch.autograd.Function):
    """The LSTM's loop over words, all layers and both directions at once, and its derivative.

    By hand: autograd would add up the weights' gradient word by word (here it is one product at
    the end) and keep every intermediate. Gates are i, f, o, g: one sigmoid for the first three.
    Products are in the inputs' precision, all else in float32.
    """

    @staticmethod
    def forward(ctx, projected, weight, mirror, counts):
        """`[layers, words, 8n]`, `[layers, 2, n, 4n]` -> `[layers, words, 2n]`."""
        weight = weight.flatten(0, 1).to(projected.dtype)
        inputs = _split(projected, mirror)
        (words, chains, _), size, batch = inputs.shape, weight.shape[1], counts[0]
        gates = torch.empty_like(inputs, dtype=torch.promote_types(inputs.dtype, torch.float32))
        # Of the states, the first `batch` rows are those before the first word: zero.
        cells = gates.new_zeros(batch + words, chains, size)
        hidden, squashed = inputs.new_zeros(cells.shape), torch.empty_like(gates[..., :size])
        steps, before, row = [], 0, 0
        for n in counts:
            now, last = slice(row, row + n), slice(before, before + n)
            before, row = batch + row, row + n
            steps.append((now, last, slice(before, before + n)))
        for now, last, new in steps:
            product = torch.baddbmm(
                inputs[now].transpose(0, 1), hidden[last].transpose(0, 1), weight
            )
            gate = gates[now].copy_(product.transpose(0, 1))
            gate[..., : 3 * size].sigmoid_()
            gate[..., 3 * size :].tanh_()
            i, f, o, g = gate.chunk(4, -1)
            torch.addcmul(i * g, f, cells[last], out=cells[new])
            torch.tanh(cells[new], out=squashed[now])
            hidden[new] = o * squashed[now]
        ctx.steps = steps
        ctx.save_for_backward(weight, mirror, gates, cells, squashed, hidden)
        return _join(hidden[batch:], mirror)

    @staticmethod
    def backward(ctx, grad):
        weight, mirror, gates, cells, squashed, hidden = ctx.saved_tensors
        size, batch = weight.shape[1], ctx.steps[0][0].stop
        sigmoids, grad = slice(3 * size), _split(grad, mirror)
        d_inputs = torch.empty_like(gates, dtype=weight.dtype)
        d_gates = torch.empty_like(gates[:batch])
        # From the next word; zero where a sentence has none.
        d_cells, d_hiddens = cells.new_zeros(2, batch, *squashed.shape[1:])
        for now, last, _ in reversed(ctx.steps):
            n, gate = now.stop - now.start, gates[now]
            d_gate, d_cell, d_hidden = d_gates[:n], d_cells[:n], d_hiddens[:n]
            i, f, o, g = gate.chunk(4, -1)
            d_i, d_f, d_o, d_g = d_gate.chunk(4, -1)
            d_hidden += grad[now]
            d_cell += torch.ops.aten.tanh_backward(d_hidden * o, squashed[now])
            torch.mul(d_cell, g, out=d_i)
            torch.mul(d_cell, cells[last], out=d_f)
            torch.mul(d_hidden, squashed[now], out=d_o)
            torch.mul(d_cell, i, out=d_g)
            d_inputs[now, :, sigmoids] = torch.ops.aten.sigmoid_backward(
                d_gate[..., sigmoids], gate[..., sigmoids]
            )
            d_inputs[now, :, 3 * size :] = torch.ops.aten.tanh_backward(d_g, g)
            d_hidden.copy_((d_inputs[now].transpose(0, 1) @ weight.mT).transpose(0, 1))
            d_cell *= f
        before = torch.cat([hidden[last] for _, last, _ in ctx.steps])
        d_weight = before.permute(1, 2, 0) @ d_inputs.transpose(0, 1)
        return _join(d_inputs, mirror), d_weight.to(cells.dtype).unflatten(0, (-1, 2)), None, None


def bilstm(x, lengths: np.ndarray, weight, bias, recurrent) -> torch.Tensor:
    """Hidden states of a bidirectional LSTM (Hochreiter & Schmidhuber 1997), one a layer.

    `lengths`: `[batch]`, the longest first; `x`: `[layers, words, features]`, packed: the first
    words of all sentences, then the second words of those that have one, and so on, so that there
    is no padding. `weight`: `[layers, features, 8n]` and `bias`: `[layers, 1, 8n]`, forward then
    backward gates, each i, f, o, g; `recurrent`: `[layers, 2, n, 4n]`. Returns
    `[layers, words, 2n]`. One bias where nn.LSTM adds two.
    """
    words, sentence = _pack(lengths)
    counts = np.bincount(words)
    # Where the backward direction, from a sentence's last word to its first, meets each word.
    mirror = (np.cumsum(counts) - counts)[lengths[sentence] - 1 - words] + sentence
    projected = torch.baddbmm(bias.to(x.dtype), x, weight.to(x.dtype))
    mirror = torch.from_numpy(mirror).to(x.device)
    return _Recurrence.apply(projected, recurrent, mirror, counts.tolist())


def _pack(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position in its sentence and sentence of each packed word."""
    return np.nonzero(np.arange(lengths[0])[:, None] < lengths)


class Probes:
    """One probe a layer. `weights`: name -> float32 `[layers, ...]`, on the device's device."""

    def __init__(self, kind: str, size: int, n_labels: int, seeds: Sequence[int], device: Device):
        top = 2 * HIDDEN if kind == "bilstm-crf" else size
        # Uniform, within the bounds of nn.Linear, nn.LSTM and pytorch-crf.
        shapes = {"output": (top**-0.5, n_labels, top), "output_bias": (top**-0.5, n_labels, 1)}
        if kind == "bilstm-crf":
            bound = HIDDEN**-0.5
            shapes |= {
                "input": (bound, size, 8 * HIDDEN),
                "input_bias": (bound, 1, 8 * HIDDEN),
                "recurrent": (bound, 2, HIDDEN, 4 * HIDDEN),
                "transitions": (0.1, n_labels, n_labels),
                "start": (0.1, n_labels),
                "end": (0.1, n_labels),
            }
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights = {
            name: torch.stack(
                [(torch.rand(shape, generator=g) * 2 - 1) * bound for g in generators]
            )
            .to(device.torch_device)
            .requires_grad_()
            for name, (bound, *shape) in shapes.items()
        }
        self.kind, self.device = kind, device.torch_device
        # float16 has too little range for gradients; a linear probe gains nothing from bfloat16.
        half = kind == "bilstm-crf" and device.precision == "bf16"
        self.dtype = torch.bfloat16 if half else torch.float32

    def _crf(self) -> list[torch.Tensor]:
        return [self.weights[name] for name in ("transitions", "start", "end")]

    def _emissions(self, features, sentences, chosen) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores `[layers, batch, words, labels]` of some sentences (longest first), their mask."""
        start, end = np.array([sentences[i] for i in chosen]).T
        words, sentence = _pack(end - start)
        x = torch.stack([  # through float32, as float16 straight to bfloat16 is slower
            torch.as_tensor(layer[start[sentence] + words]).to(self.device).float().to(self.dtype)
            for layer in features
        ])  # fmt: skip
        w = self.weights
        if self.kind == "bilstm-crf":
            x = bilstm(x, end - start, w["input"], w["input_bias"], w["recurrent"])
        packed = torch.baddbmm(w["output_bias"], w["output"], x.float().mT)  # [layers, labels, -1]
        scores = packed.new_zeros(len(packed), len(chosen), words[-1] + 1, packed.shape[1])
        mask = torch.zeros(scores.shape[1:3], dtype=torch.bool, device=self.device)
        words, sentence = (torch.from_numpy(i).to(self.device) for i in (words, sentence))
        scores[:, sentence, words], mask[sentence, words] = packed.mT, True
        return scores, mask

    def _loss(self, features, sentences, labels, chosen) -> torch.Tensor:
        """Negative log-likelihood of some sentences' labels, summed: `[layers]`."""
        scores, mask = self._emissions(features, sentences, chosen)
        tags = np.zeros(mask.shape, np.int64)
        for row, i in zip(tags, chosen, strict=True):
            row[: len(labels[i])] = labels[i]
        tags = torch.from_numpy(tags).to(self.device)
        if self.kind == "bilstm-crf":
            gold = path_score(scores, tags, *self._crf(), mask)
            return (log_partition(scores, *self._crf(), mask) - gold).sum(-1)
        gold = scores.gather(-1, tags.expand(scores.shape[:-1]).unsqueeze(-1)).squeeze(-1)
        return ((scores.logsumexp(-1) - gold) * mask).sum((-2, -1))

    @torch.inference_mode()
    def predict(
        self,
        features: Sequence[np.ndarray | torch.Tensor],
        sentences: Sequence[tuple[int, int]],
        batch_size: int = 64,
    ) -> list[list[np.ndarray]]:
        """Labels by layer and sentence, in the order given: int64 `[words]`. See `fit`."""
        lengths = _lengths(features, sentences, len(self.weights["output"]))
        found = [[np.empty(0, np.int64)] * len(sentences) for _ in features]
        for batch in sorted_batches(lengths, batch_size):
            for piece in _pieces(batch, lengths, len(features)):
                scores, mask = self._emissions(features, sentences, piece)
                crf = self.kind == "bilstm-crf"
                best = viterbi(scores, *self._crf(), mask) if crf else scores.argmax(-1)
                for rows, layer in zip(best.cpu().numpy(), found, strict=True):
                    for row, i in zip(rows, piece, strict=True):
                        layer[i] = row[: lengths[i]].copy()
        return found


def fit(
    features: Sequence[np.ndarray | torch.Tensor],
    sentences: Sequence[tuple[int, int]],
    labels: Sequence[np.ndarray],
    n_labels: int,
    *,
    kind: str = "bilstm-crf",
    epochs: int = 3,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    seeds: Sequence[int],
    batch_seed: int = 0,
    device: Device,
    progress: Callable[[int], object] | None = None,
) -> Probes:
    """Train one probe a layer with Adam; all see the same batches, in an order from `batch_seed`.

    `features`: a `[words, features]` array a layer (float16; a memory map, or a tensor on any
    device); `sentences`: the rows (start, end) of each; `labels`: 0 ... `n_labels` - 1 for each of
    its words; `seeds`: one a layer, for its first weights, so that a layer's result does not depend
    on its companions. `progress` is called with the number of sentences after each step.
    The loss is the batch's mean over words. Gradients are not clipped: Adam scales them.

    Raises ValueError for an empty sentence or labels that do not fit it, UserError if the loss
    stops being a number.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: must be one of {KINDS}")
    lengths = _lengths(features, sentences, len(seeds))
    if not sentences or len(labels) != len(sentences):
        raise ValueError(f"{len(sentences)} sentences with {len(labels)} arrays of labels")
    for i, (tags, length) in enumerate(zip(labels, lengths, strict=True)):
        if np.shape(tags) != (length,) or np.min(tags) < 0 or np.max(tags) >= n_labels:
            raise ValueError(f"sentence {i}: needs {length} labels within 0 ... {n_labels - 1}")
    probes = Probes(kind, features[0].shape[1], n_labels, seeds, device)
    optimizer = torch.optim.Adam(probes.weights.values(), lr=learning_rate, fused=True)
    for epoch in range(epochs):
        total = torch.zeros(len(features), device=device.torch_device)
        for batch in epoch_batches(lengths, batch_size, batch_seed, epoch):
            optimizer.zero_grad()
            words = sum(lengths[i] for i in batch)
            for piece in _pieces(batch, lengths, len(features)):
                loss = probes._loss(features, sentences, labels, piece) / words
                loss.sum().backward()
                total += loss.detach()
            optimizer.step()
            if progress:
                progress(len(batch))
        if bad := (~total.isfinite()).nonzero().flatten().tolist():
            raise UserError(
                f"the loss of probe {bad[0] + 1} of {len(seeds)} stopped being a number. Are its "
                "features finite? Or try --precision fp32."
            )
    return probes


def _lengths(features: Sequence, sentences: Sequence[tuple[int, int]], n: int) -> list[int]:
    """Number of words of each sentence. ValueError for what does not fit together."""
    if len(features) != n or len({tuple(layer.shape) for layer in features}) != 1:
        raise ValueError(f"needs {n} feature matrices of one shape, one a probe")
    for i, (start, end) in enumerate(sentences):
        if not 0 <= start < end <= len(features[0]):
            raise ValueError(f"sentence {i}: rows {start} to {end} of {len(features[0])}")
    return [int(end - start) for start, end in sentences]


def _pieces(batch: list[int], lengths: list[int], n_layers: int) -> Iterator[list[int]]:
    """A batch, the longest sentence first, in pieces within ROOM (or of one sentence)."""
    batch = sorted(batch, key=lambda i: -lengths[i])
    while batch:
        words = np.cumsum([lengths[i] for i in batch])
        size = max(1, int(np.searchsorted(words, ROOM // n_layers, side="right")))
        yield batch[:size]
        batch = batch[size:]
