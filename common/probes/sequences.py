"""Trains the probes of labelled sequences, one per layer, in lockstep.

The probes of several encoder layers see the same batches, so their weights are stacked and each
step is one batched product over layers; nothing else is shared between them. A sequence is a span
of the features' rows, its units. A probe's module (bilstm_crf.py, linear.py) has `HALF`, `shapes`,
`emissions`, `loss` and `best`.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from common.batching import epoch_batches, sorted_batches
from common.cli import UserError
from common.device import Device
from common.probes import BATCH_SIZE, DIVERGED, LEARNING_RATE, Options
from common.task import Pointers, Sequences

ROOM = 2**15  # layers x units at a time, 20 KB each: a larger batch is computed in pieces
LAYERS_AT_ONCE = 4  # on a CPU; a killed run keeps the groups that were done


def predict_layers(
    probe, features: dict, sets: list[Sequences | Pointers], options: Options
) -> Iterator[tuple[int, list[dict]]]:
    """Yield (layer, [{target: {split: predictions}} of each set]) for each layer."""
    # On a GPU all layers at once: starting a kernel costs more there than what it computes.
    at_once = LAYERS_AT_ONCE if options.device.torch_device.type == "cpu" else len(features)
    fit = getattr(probe, "train", partial(train, probe))  # the pointer probe has its own training
    for start in range(0, len(features), at_once):
        group = list(features)[start : start + at_once]
        vectors = [features[layer] for layer in group]
        done = {layer: [{target: {} for target in own.labels} for own in sets] for layer in group}
        for number, (spans, labels) in enumerate(sets):
            for target, gold in labels.items():
                name = f"{target} labels, {len(group)} layers"
                predict = fit(vectors, spans["train"], gold, options, name)
                for split, own in spans.items():
                    if split != "train" and len(own):
                        for layer, predictions in zip(group, predict(own), strict=True):
                            done[layer][number][target][split] = predictions
        yield from done.items()


def train(probe, vectors: list, spans, labels, options: Options, name: str) -> Callable:
    """Train `Probes`; returns their `predict` on the same features."""
    about = options.n_labels, options.seed, options.device
    probes = Probes(probe, len(vectors), vectors[0].shape[1], *about)
    probes.fit(vectors, spans, labels, epochs=options.epochs, seed=options.seed, name=name)
    return partial(probes.predict, vectors)


class Probes:
    """One probe per layer, on the same sequences: `spans` of the rows of `[rows, size]` features.

    `weights`: name -> float32 `[layers, ...]`; every layer starts from the same values.
    """

    def __init__(self, probe, n_layers: int, size: int, n_labels: int, seed: int, device: Device):
        self.probe, self.n_labels, self.device = probe, n_labels, device.torch_device
        generator = torch.Generator().manual_seed(seed)
        self.weights = {}
        for name, (bound, *shape) in probe.shapes(size, n_labels).items():
            first = (torch.rand(shape, generator=generator) * 2 - 1) * bound
            self.weights[name] = torch.stack([first] * n_layers).to(self.device).requires_grad_()
        # float16 has too little range for gradients.
        half = probe.HALF and device.precision == "bf16"
        self.dtype = torch.bfloat16 if half else torch.float32

    def scores(self, features, spans) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores `[layers, batch, units, labels]` of sequences (longest first), and their mask."""
        start, end = np.array(spans).T
        unit, sequence = pack(end - start)
        rows = start[sequence] + unit
        # Through float32, as float16 straight to bfloat16 is slower.
        vectors = (torch.as_tensor(layer[rows]).to(self.device).float() for layer in features)
        x = torch.stack([layer.to(self.dtype) for layer in vectors])
        packed = self.probe.emissions(self.weights, x, end - start)
        scores = packed.new_zeros(len(packed), len(spans), unit[-1] + 1, packed.shape[2])
        mask = torch.zeros(scores.shape[1:3], dtype=torch.bool, device=self.device)
        sequence, unit = (torch.from_numpy(i).to(self.device) for i in (sequence, unit))
        scores[:, sequence, unit], mask[sequence, unit] = packed, True
        return scores, mask

    def fit(self, features, spans, labels, *, epochs: int, seed: int, name: str = "") -> None:
        """Train with Adam, on batches in an order from `seed`. `name`: the progress bar's.

        `labels`: for each sequence an array of numbers below `n_labels`, one per unit. The loss is
        the batch's mean over units. Gradients are not clipped: Adam scales them. Raises ValueError
        for labels that do not fit the sequences, UserError if the loss stops being a number.
        """
        from tqdm import tqdm

        for i, ((start, end), tags) in enumerate(zip(spans, labels, strict=True)):
            if len(tags) != end - start or not set(tags) <= set(range(self.n_labels)):
                raise ValueError(f"sequence {i}: needs {end - start} labels below {self.n_labels}")
        filled = [i for i, tags in enumerate(labels) if len(tags)]
        lengths = [len(labels[i]) for i in filled]
        optimizer = torch.optim.Adam(self.weights.values(), lr=LEARNING_RATE, fused=True)
        with tqdm(total=epochs * len(filled), desc=name, unit=" sequences") as bar:
            for epoch in range(epochs):
                total = torch.zeros(len(features), device=self.device)
                for batch in epoch_batches(lengths, BATCH_SIZE, seed, epoch):
                    units = sum(lengths[i] for i in batch)
                    for piece in pieces(batch, lengths, len(features)):
                        chosen = [filled[i] for i in piece]
                        scores, mask = self.scores(features, [spans[i] for i in chosen])
                        tags = [torch.as_tensor(labels[i], dtype=torch.int64) for i in chosen]
                        tags = pad_sequence(tags, batch_first=True).to(self.device)
                        loss = self.probe.loss(self.weights, scores, tags, mask) / units
                        loss.sum().backward()
                        total += loss.detach()
                    optimizer.step()
                    optimizer.zero_grad()
                    bar.update(len(batch))
                if not total.isfinite().all():
                    raise UserError(DIVERGED)

    @torch.inference_mode()
    def predict(self, features, spans) -> list[list[np.ndarray]]:
        """Labels by layer and sequence, in the order given: int64 `[units]`."""
        predictions = [[np.empty(0, np.int64)] * len(spans) for _ in features]
        filled = [i for i, (start, end) in enumerate(spans) if start < end]
        lengths = [spans[i][1] - spans[i][0] for i in filled]
        for batch in sorted_batches(lengths, BATCH_SIZE):
            for piece in pieces(batch, lengths, len(features)):
                scores, mask = self.scores(features, [spans[filled[i]] for i in piece])
                best = self.probe.best(self.weights, scores, mask).cpu().numpy()
                for of_layer, rows in zip(predictions, best, strict=True):
                    for row, i in zip(rows, piece, strict=True):
                        of_layer[filled[i]] = row[: lengths[i]].copy()
        return predictions


def pack(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position in its sequence, and sequence, of each unit of sequences (longest first), packed.

    Packed: the first units of all sequences, then the second units of those that have one, ...
    """
    return np.nonzero(np.arange(lengths[0])[:, None] < lengths)


def pieces(batch: list[int], lengths: list[int], n_layers: int) -> list[list[int]]:
    """A batch, the longest sequence first, in pieces within ROOM (or of one sequence)."""
    batch = sorted(batch, key=lambda i: -lengths[i])
    size = max(1, ROOM // (n_layers * lengths[batch[0]]))
    return [batch[start : start + size] for start in range(0, len(batch), size)]
