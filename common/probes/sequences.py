"""Probes of labelled sequences: one a layer, trained in lockstep.

The probes of several encoder layers see the same batches, so their weights are stacked and each
step is one batched product over layers; nothing else is shared between them. A sequence is a range
of the features' rows, its units.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from common.batching import epoch_batches, sorted_batches
from common.cli import UserError
from common.device import Device
from common.probes import BATCH_SIZE, LEARNING_RATE, bilstm_crf, linear
from common.probes.lstm import pack

MODELS = {"bilstm-crf": bilstm_crf, "linear": linear}  # each: HALF, shapes, emissions, loss, best
# Layers x units held at once, some 20 KB each: a batch with more goes through in pieces.
ROOM = 2**15
LAYERS_AT_ONCE = 4  # on a CPU; a killed run keeps the groups that were done


def predict_layers(
    kind: str,
    features: dict,
    rows: dict[str, dict[str, list[tuple[int, int]]]],
    labels: dict[str, list],
    n_labels: int,
    *,
    epochs: int,
    seed: int,
    device: Device,
    on_done: Callable[[int, dict], object],
) -> None:
    """A probe a layer and target; see `common.probes.predict_layers`.

    Sequences without a unit are left out of training, and predicted as empty.
    """
    from tqdm import tqdm

    # On a GPU all at once: there a launch costs more than what it computes.
    n = LAYERS_AT_ONCE if device.torch_device.type == "cpu" else len(features)
    for group in (list(features)[i : i + n] for i in range(0, len(features), n)):
        arrays = [features[layer] for layer in group]
        found = [{} for _ in group]
        for target, splits in rows.items():
            given = zip(splits["train"], labels[target], strict=True)
            filled = [(some, tags) for some, tags in given if some[0] < some[1]]
            bar = f"{target} labels, {len(group)} layers"
            with tqdm(total=epochs * len(filled), desc=bar, unit=" sequences") as progress:
                probes = fit(
                    arrays, [some for some, _ in filled], [tags for _, tags in filled], n_labels,
                    kind=kind, epochs=epochs, seeds=[seed] * len(group), batch_seed=seed,
                    device=device, progress=progress.update,
                )  # fmt: skip
            for layer in found:
                layer[target] = {}
            for split, some in splits.items():
                if split != "train" and len(some):
                    for layer, predicted in zip(found, probes.predict(arrays, some), strict=True):
                        layer[target][split] = predicted
        for layer, predicted in zip(group, found, strict=True):
            on_done(layer, predicted)


class Probes:
    """One probe a layer. `weights`: name -> float32 `[layers, ...]`, on the device's device."""

    def __init__(self, kind: str, size: int, n_labels: int, seeds: Sequence[int], device: Device):
        self.model = MODELS[kind]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights = {
            name: torch.stack(
                [(torch.rand(shape, generator=g) * 2 - 1) * bound for g in generators]
            )
            .to(device.torch_device)
            .requires_grad_()
            for name, (bound, *shape) in self.model.shapes(size, n_labels).items()
        }
        self.device = device.torch_device
        # float16 has too little range for gradients.
        half = self.model.HALF and device.precision == "bf16"
        self.dtype = torch.bfloat16 if half else torch.float32

    def emissions(self, features, sequences, chosen) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores `[layers, batch, units, labels]` of some sequences (longest first), their mask."""
        start, end = np.array([sequences[i] for i in chosen]).T
        units, sequence = pack(end - start)
        x = torch.stack([  # through float32, as float16 straight to bfloat16 is slower
            torch.as_tensor(layer[start[sequence] + units]).to(self.device).float().to(self.dtype)
            for layer in features
        ])  # fmt: skip
        packed = self.model.emissions(self.weights, x, end - start)
        scores = packed.new_zeros(len(packed), len(chosen), units[-1] + 1, packed.shape[1])
        mask = torch.zeros(scores.shape[1:3], dtype=torch.bool, device=self.device)
        units, sequence = (torch.from_numpy(i).to(self.device) for i in (units, sequence))
        scores[:, sequence, units], mask[sequence, units] = packed.mT, True
        return scores, mask

    def loss(self, features, sequences, labels, chosen) -> torch.Tensor:
        """The loss of some sequences' labels, summed: `[layers]`."""
        scores, mask = self.emissions(features, sequences, chosen)
        tags = np.zeros(mask.shape, np.int64)
        for row, i in zip(tags, chosen, strict=True):
            row[: len(labels[i])] = labels[i]
        return self.model.loss(self.weights, scores, torch.from_numpy(tags).to(self.device), mask)

    @torch.inference_mode()
    def predict(self, features, sequences, batch_size: int = BATCH_SIZE) -> list[list[np.ndarray]]:
        """Labels by layer and sequence, in the order given: int64 `[units]`. See `fit`."""
        filled = [i for i, (start, end) in enumerate(sequences) if start < end]
        some = [sequences[i] for i in filled]
        lengths = _lengths(features, some, len(self.weights["output"]))
        found = [[np.empty(0, np.int64)] * len(sequences) for _ in features]
        for batch in sorted_batches(lengths, batch_size):
            for piece in _pieces(batch, lengths, len(features)):
                scores, mask = self.emissions(features, some, piece)
                best = self.model.best(self.weights, scores, mask)
                for rows, layer in zip(best.cpu().numpy(), found, strict=True):
                    for row, i in zip(rows, piece, strict=True):
                        layer[filled[i]] = row[: lengths[i]].copy()
        return found


def fit(
    features: Sequence[np.ndarray | torch.Tensor],
    sequences: Sequence[tuple[int, int]],
    labels: Sequence[np.ndarray],
    n_labels: int,
    *,
    kind: str = "bilstm-crf",
    epochs: int = 3,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seeds: Sequence[int],
    batch_seed: int = 0,
    device: Device,
    progress: Callable[[int], object] | None = None,
) -> Probes:
    """Train one probe a layer with Adam; all see the same batches, in an order from `batch_seed`.

    `features`: a `[rows, size]` array a layer (float16; a memory map, or a tensor on any device);
    `sequences`: the rows (start, end) of each; `labels`: 0 ... `n_labels` - 1 for each of its
    units; `seeds`: one a layer, for its first weights, so that a layer's result does not depend on
    its companions. `progress` is called with the number of sequences after each step. The loss is
    the batch's mean over units. Gradients are not clipped: Adam scales them.

    Raises ValueError for an empty sequence or labels that do not fit it, UserError if the loss
    stops being a number.
    """
    lengths = _lengths(features, sequences, len(seeds))
    if not sequences or len(labels) != len(sequences):
        raise ValueError(f"{len(sequences)} sequences with {len(labels)} arrays of labels")
    for i, (tags, length) in enumerate(zip(labels, lengths, strict=True)):
        if np.shape(tags) != (length,) or np.min(tags) < 0 or np.max(tags) >= n_labels:
            raise ValueError(f"sequence {i}: needs {length} labels within 0 ... {n_labels - 1}")
    probes = Probes(kind, features[0].shape[1], n_labels, seeds, device)
    optimizer = torch.optim.Adam(probes.weights.values(), lr=learning_rate, fused=True)
    for epoch in range(epochs):
        total = torch.zeros(len(features), device=device.torch_device)
        for batch in epoch_batches(lengths, batch_size, batch_seed, epoch):
            optimizer.zero_grad()
            units = sum(lengths[i] for i in batch)
            for piece in _pieces(batch, lengths, len(features)):
                loss = probes.loss(features, sequences, labels, piece) / units
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


def _lengths(features: Sequence, sequences: Sequence[tuple[int, int]], n: int) -> list[int]:
    """Number of units of each sequence. ValueError for what does not fit together."""
    if len(features) != n or len({tuple(layer.shape) for layer in features}) != 1:
        raise ValueError(f"needs {n} feature matrices of one shape, one a probe")
    for i, (start, end) in enumerate(sequences):
        if not 0 <= start < end <= len(features[0]):
            raise ValueError(f"sequence {i}: rows {start} to {end} of {len(features[0])}")
    return [int(end - start) for start, end in sequences]


def _pieces(batch: list[int], lengths: list[int], n_layers: int) -> Iterator[list[int]]:
    """A batch, the longest sequence first, in pieces within ROOM (or of one sequence)."""
    batch = sorted(batch, key=lambda i: -lengths[i])
    while batch:
        units = np.cumsum([lengths[i] for i in batch])
        size = max(1, int(np.searchsorted(units, ROOM // n_layers, side="right")))
        yield batch[:size]
        batch = batch[size:]
