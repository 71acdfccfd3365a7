"""Trains the probes of labelled sequences, one per layer, in lockstep.

The probes of several encoder layers see the same batches, so their weights are stacked and each
step is one batched product over layers; nothing else is shared between them. A sequence is a span
of the features' rows, its units. A probe's module (bilstm_crf.py, linear.py) has `HALF`, `shapes`,
`emissions`, `loss` and `best`.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from common.batching import epoch_batches, sorted_batches
from common.probes import BATCH_SIZE, LEARNING_RATE, Options
from common.task import Sequences

ROOM = 2**15  # layers x units at a time, 20 KB each: a larger batch is computed in pieces
LAYERS_AT_ONCE = 4  # on a CPU; a killed run keeps the groups that were done


def predict_layers(
    probe, features: dict, sets: list[Sequences], options: Options
) -> Iterator[tuple[int, list[dict]]]:
    """Yield (layer, [{target: {split: predictions}} of each set]) for each layer."""
    # On a GPU all layers at once: starting a kernel costs more there than what it computes.
    at_once = LAYERS_AT_ONCE if options.device.torch_device.type == "cpu" else len(features)
    train = getattr(probe, "Probes", partial(Probes, probe))  # pointer.py has its own
    for start in range(0, len(features), at_once):
        group = list(features)[start : start + at_once]
        vectors = [features[layer] for layer in group]
        done = {layer: [{target: {} for target in own.labels} for own in sets] for layer in group}
        for number, (spans, labels) in enumerate(sets):
            for target, gold in labels.items():
                name = f"{target} labels, {len(group)} layers"
                trained = train(vectors, spans["train"], gold, options, name)
                for split, own in spans.items():
                    if split != "train" and len(own):
                        for layer, predictions in zip(group, trained.predict(own), strict=True):
                            done[layer][number][target][split] = predictions
        yield from done.items()


class Probes:
    """A trained probe per layer, on the same sequences: `spans` of the rows of the features.

    `weights`: name -> float32 `[layers, ...]`; every layer starts from the same values.
    """

    def __init__(self, probe, features: list, spans, labels, options: Options, name: str = ""):
        """Train with Adam, on batches in an order from the seed. `name`: the progress bar's.

        `features`: `[rows, size]` for each layer. `labels`: for each sequence an array of numbers
        below `n_labels`, one per unit. The loss is the batch's mean over units. Gradients are not
        clipped: Adam scales them.
        """
        self.probe, self.features, self.device = probe, features, options.device.torch_device
        self.weights = self.first_weights(options)
        # float16 has too little range for gradients.
        half = probe.HALF and options.device.precision == "bf16"
        self.dtype = torch.bfloat16 if half else torch.float32
        filled = [i for i, tags in enumerate(labels) if len(tags)]
        lengths = [len(labels[i]) for i in filled]
        optimizer = torch.optim.Adam(self.weights.values(), lr=LEARNING_RATE, fused=True)
        with tqdm(total=options.epochs * len(filled), desc=name, unit=" sequences") as bar:
            for epoch in range(options.epochs):
                for batch in epoch_batches(lengths, BATCH_SIZE, options.seed, epoch):
                    units = sum(lengths[i] for i in batch)
                    for piece in pieces(batch, lengths, len(features)):
                        chosen = [filled[i] for i in piece]
                        scores, mask = self.scores([spans[i] for i in chosen])
                        tags = [torch.as_tensor(labels[i], dtype=torch.int64) for i in chosen]
                        tags = pad_sequence(tags, batch_first=True).to(self.device)
                        loss = probe.loss(self.weights, scores, tags, mask) / units
                        loss.sum().backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    bar.update(len(batch))

    def first_weights(self, options: Options) -> dict[str, torch.Tensor]:
        """Uniform within the probe's bounds, drawn from the seed."""
        generator = torch.Generator().manual_seed(options.seed)
        shapes = self.probe.shapes(self.features[0].shape[1], options.n_labels)
        weights = {}
        for name, (bound, *shape) in shapes.items():
            first = (torch.rand(shape, generator=generator) * 2 - 1) * bound
            stacked = torch.stack([first] * len(self.features))
            weights[name] = stacked.to(self.device).requires_grad_()
        return weights

    def scores(self, spans) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores `[layers, batch, units, labels]` of sequences (longest first), and their mask."""
        start, end = np.array(spans).T
        unit, sequence = pack(end - start)
        rows = start[sequence] + unit
        # Through float32, as float16 straight to bfloat16 is slower.
        vectors = (torch.as_tensor(layer[rows]).to(self.device).float() for layer in self.features)
        x = torch.stack([layer.to(self.dtype) for layer in vectors])
        packed = self.probe.emissions(self.weights, x, end - start)
        scores = packed.new_zeros(len(packed), len(spans), unit[-1] + 1, packed.shape[2])
        mask = torch.zeros(scores.shape[1:3], dtype=torch.bool, device=self.device)
        sequence, unit = (torch.from_numpy(i).to(self.device) for i in (sequence, unit))
        scores[:, sequence, unit], mask[sequence, unit] = packed, True
        return scores, mask

    @torch.inference_mode()
    def predict(self, spans) -> list[list[np.ndarray]]:
        """Labels by layer and sequence, in the order given: int64 `[units]`."""
        predictions = [[np.empty(0, np.int64)] * len(spans) for _ in self.features]
        lengths = [end - start for start, end in spans]
        for batch in sorted_batches(lengths, BATCH_SIZE):
            for piece in pieces(batch, lengths, len(self.features)):
                scores, mask = self.scores([spans[i] for i in piece])
                best = self.probe.best(self.weights, scores, mask).cpu().numpy()
                for of_layer, rows in zip(predictions, best, strict=True):
                    for row, i in zip(rows, piece, strict=True):
                        of_layer[i] = row[: lengths[i]].copy()
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
