"""The pointer probe: at which units of a sequence something starts and ends, read linearly.

A unit has two scores, each a linear function of its vector; softmax over the units of its sequence
makes them the probabilities that it is the start and that it is the end. So an answer in a passage
was read from single layers by van Aken et al. (2019), "How Does BERT Answer Questions?"; a frozen
encoder and a small head are the method of Tenney et al. (2019), "What do you learn from context?".
Each dimension has mean 0 and variance 1 on the training units. In the softmax, the mean and a bias
cancel, so neither is computed.
"""

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from common.probes import POINTER, Options

MANY = 64  # sequences that are read at a time outside training


class Probes:
    """A trained probe for each layer; all layers see the same batches, and share nothing else.

    `features`: an array or tensor `[rows, size]` for each layer.
    """

    def __init__(self, features, spans, places, options: Options, name: str):
        """Train with Adam from weights of 0, on batches that are drawn with replacement.

        `spans`: first row and last row + 1 of each training sequence; `places` `[sequences, 2]`:
        the units at which its answer starts and ends.
        """
        self.features, self.device = features, options.device.torch_device
        self.deviations = [self.deviation(layer, spans) for layer in features]
        shape = len(features), features[0].shape[1], 2
        self.weights = {"places": torch.zeros(shape, device=self.device, requires_grad=True)}
        optimizer = torch.optim.Adam(self.weights.values(), lr=POINTER["learning_rate"])
        shape = POINTER["steps"], POINTER["batch_size"]
        batches = np.random.default_rng(options.seed).integers(len(spans), size=shape)
        for batch in tqdm(batches, desc=name, unit=" steps"):
            gold = torch.as_tensor(places[batch], device=self.device)
            for layer in range(len(features)):
                scores = self.log_probabilities(layer, [spans[i] for i in batch])
                loss = -scores.gather(1, gold[:, None]).mean()
                loss.backward()  # of this layer's weights alone
            optimizer.step()
            optimizer.zero_grad()

    def read(self, layer, spans) -> torch.Tensor:
        """The rows of some sequences, one after the other, float32 `[units, size]`."""
        rows = np.concatenate([np.arange(*span) for span in spans])
        return torch.as_tensor(layer[rows]).to(self.device).float()

    def deviation(self, layer, spans) -> torch.Tensor:
        """The standard deviation of each dimension, `[size, 1]`; 1 for one that is constant."""
        scaler = StandardScaler(with_mean=False)
        for start in range(0, len(spans), MANY):
            scaler.partial_fit(self.read(layer, spans[start : start + MANY]).double().cpu())
        return torch.as_tensor(scaler.scale_, device=self.device).float()[:, None]

    def log_probabilities(self, layer: int, spans) -> torch.Tensor:
        """`[sequences, units, 2]`, minus infinity at the padding."""
        weights = self.weights["places"][layer] / self.deviations[layer]
        scores = self.read(self.features[layer], spans) @ weights
        scores = scores.split([end - start for start, end in spans])
        return pad_sequence(scores, batch_first=True, padding_value=-torch.inf).log_softmax(1)

    @torch.inference_mode()
    def predict(self, spans) -> list[list[np.ndarray]]:
        """By layer and sequence, in the order given, float32 `[units, 2]`: the natural logarithms
        of each unit's probabilities to be the start and the end."""
        predictions: list[list] = [[] for _ in self.features]
        for first in range(0, len(spans), MANY):
            own = spans[first : first + MANY]
            for layer, of_layer in enumerate(predictions):
                rows = self.log_probabilities(layer, own).cpu().numpy()
                of_layer += [row[: b - a].copy() for row, (a, b) in zip(rows, own, strict=True)]
        return predictions
