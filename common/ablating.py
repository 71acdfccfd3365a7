"""Take heads or layers away from a model, and say which first.

A head is removed at the input of its layer's attention output projection: its slice is replaced by
zeros, or by its mean over training inputs. Zeros are the same as a map of zeros (Michel et al.
2019, "Are Sixteen Heads Really Better than One?"). Heads are numbered [layer, head] from 0 here.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.stats import rankdata

from common import forward, subsample
from common.batching import INPUTS
from common.curves import RANDOM
from common.device import Device
from common.models import families
from common.task import evaluate
from common.training import losses

SHARES = (0, 5, 10, 20, 30, 50, 70, 100)  # % of all heads


class Ready(NamedTuple):
    """A model, and the test examples that it is scored on, as it reads them."""

    task: Any
    data: Any
    model: Any
    tokenizer: Any
    device: Any
    batch_size: int
    train: list  # what the model was trained on
    examples: list  # of test
    encoded: list[dict]

    def score(self) -> tuple[list[dict], dict]:
        """(rows of predictions, {score: value, and "loss"}) of the model as it is now."""
        task, where = self.task, (self.batch_size, self.device)
        about = self.model, self.tokenizer, self.data, self.examples, self.encoded
        groups = list(map(task.loss_group, self.examples)) if task.HEAD == "causal" else None
        # A causal model's passes also depend on its cache.
        once = nullcontext() if task.HEAD == "causal" else remembering(self.model)
        with once:
            predicted = task.predict(*about, *where, "test")
            rows = task.rows(self.data, {"test": self.examples}, {"test": predicted})[0]["test"]
            measured = evaluate(task, rows)
            names = [score.name for score in task.scores(self.data)]
            values = {name: measured[name] for name in names if name in measured}
            if any(map(losses.labels_in, self.encoded)):
                own = self.model, self.encoded, *where, task.loss, groups
                values["loss"] = forward.mean_loss(*own)
        return rows, values


def chosen(task, data, most: int, seed: int) -> list:
    """About `most` test examples, stratified, with groups whole: their rows say what is a group.

    All, if the task's rows are not one an example (BioASQ's are one a question).
    """
    examples = data.splits["test"]
    guesses = {"test": task.baseline(data.splits["train"], examples)}
    rows = task.rows(data, {"test": examples}, guesses)[0]["test"]
    groups = [row.get("group", row["id"]) for row in rows]
    if len(groups) != len(examples):
        return examples
    indices = subsample.whole_groups(list(map(task.stratum, examples)), groups, most, seed)
    return [examples[i] for i in indices]


@contextmanager
def edited(model, edit: Callable) -> Iterator[None]:
    """Within, `edit(x, layer)` replaces the input x of each attention output projection.

    x: `[batch, tokens, heads, head_dim]`. Calls are counted in a pass, so that layers which share
    their weights (ALBERT) are told apart.
    """
    row, encoder, calls = families.of(model.config), families.encoder_of(model), []
    heads = model.config.num_attention_heads

    def hook(_, args):
        calls.append(1)
        x = edit(args[0].unflatten(-1, (heads, -1)), len(calls) - 1)
        return x.flatten(-2), *args[1:]

    handles = [encoder.register_forward_pre_hook(lambda *_: calls.clear())]
    for layer in encoder.get_submodule(row.layers):
        handles.append(layer.get_submodule(row.projection).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def removed(model, gone: Iterable[tuple[int, int]], fill: np.ndarray | None = None):
    """A context in which the heads `gone`, (layer, head) each, are removed.

    `fill`, `[layers, heads, head_dim]`, takes their place, see `means`; without it zeros.
    """
    shape = model.config.num_hidden_layers, model.config.num_attention_heads, 1
    away = torch.zeros(shape, dtype=torch.bool)
    for layer, head in gone:
        away[layer, head] = True
    instead = torch.zeros(shape) if fill is None else torch.from_numpy(fill)

    def edit(x, layer):
        return torch.where(away[layer].to(x.device), instead[layer].to(x.device, x.dtype), x)

    return edited(model, edit)


def means(model, examples: list[dict], batch_size: int, device: Device) -> np.ndarray:
    """Each head's mean output over the real tokens, float32 `[layers, heads, head_dim]`."""
    lengths = [len(example["input_ids"]) for example in examples]

    def run(indices: list[int]) -> np.ndarray:
        batch, sums = _batch(model, examples, indices, device), []
        real = batch["attention_mask"].bool()

        def add(x, layer):
            sums.append(x[real].float().sum(0).cpu().double().numpy())
            return x

        with edited(model, add), device.autocast():
            families.encoder_of(model)(**batch, use_cache=False)
        return np.stack(sums)

    batches = forward.batches(lengths, batch_size, device, "mean outputs of heads", run)
    return (sum(sum(pieces) for _, pieces in batches) / sum(lengths)).astype(np.float32)


def importance(
    model, examples: list[dict], batch_size: int, device: Device, loss: Callable
) -> np.ndarray:
    """Each head's importance, float64 `[layers, heads]`, of l2 norm 1 in each layer.

    The mean over examples of |dL/dxi| at xi = 1, where xi scales the head's output and L is the
    example's mean loss over its labels (Michel et al. 2019, equation 2). The model's weights must
    be frozen and in float32: in bf16 the ranks are others.
    """
    examples = [example for example in examples if losses.labels_in(example)]
    lengths = [len(example["input_ids"]) for example in examples]
    shape = model.config.num_hidden_layers, model.config.num_attention_heads

    def run(indices: list[int]) -> np.ndarray:
        batch = _batch(model, examples, indices, device, (*INPUTS, "labels"))
        counts = torch.tensor([losses.labels_in(examples[i]) for i in indices])[:, None, None]
        with torch.enable_grad():
            # A scale for each example: one backward pass gives the gradients of all.
            xi = torch.ones(len(indices), *shape, device=device.torch_device, requires_grad=True)
            with edited(model, lambda x, layer: x * xi[:, None, layer, :, None]):
                (gradient,) = torch.autograd.grad(loss(model, batch), xi)
        return (gradient.cpu().double().abs() / counts).sum(0).numpy()

    total = sum(sum(p) for _, p in forward.batches(lengths, batch_size, device, "importance", run))
    norms = np.linalg.norm(total, axis=1, keepdims=True)
    return total / np.where(norms > 0, norms, 1.0)


def _batch(model, examples: list[dict], indices: list[int], device: Device, names=INPUTS) -> dict:
    own = [examples[i] for i in indices]
    return forward.inputs(own, model.config.pad_token_id, device, names)


def plan(change: np.ndarray | None, importance: np.ndarray, draws: int, seed: int) -> dict:
    """{(order, draw, share): the heads that are gone, (layer, head) each}; draw 0 is the only one.

    Both arrays are `[layers, heads]`; without `change` nothing was trained, and `importance` is the
    first order. A random draw, from 1, takes as many heads from each layer as the first order does
    at that share: compared is which heads of a layer go, not of which layers.
    """
    by_change = {} if change is None else {"most_changed": change, "least_changed": -change}
    worth = by_change | {"importance": importance}
    ranks = {(order, 0): _ranks(values) for order, values in worth.items()}
    first = next(iter(ranks))
    places = np.tile(np.arange(importance.shape[1]), (len(importance), 1))
    for draw in range(1, draws + 1):  # a place in its layer for each head: the sets are nested
        ranks[RANDOM, draw] = np.random.default_rng([seed, draw]).permuted(places, axis=1)
    points = {}
    for (order, draw), rank in ranks.items():
        for share in SHARES:
            most = round(share / 100 * importance.size)
            if order == RANDOM:
                most = (ranks[first] < most).sum(1, keepdims=True)
            points[order, draw, share] = frozenset(map(tuple, np.argwhere(rank < most).tolist()))
    return points


def _ranks(worth: np.ndarray) -> np.ndarray:
    """The place of each head in the order of falling worth, from 0; NaN is last."""
    known = np.nan_to_num(worth, nan=-np.inf)
    return rankdata(-known, method="ordinal").reshape(worth.shape) - 1


def grafts(n_layers: int) -> dict:
    """{(order, 0, k): the layers that go back to their pre-trained weights}, from 0.

    `from_below`: the first k layers; `from_above`: the last k; `single`: layer k alone, from 1.
    """
    layers = tuple(range(n_layers))
    made = {("from_below", 0, k): layers[:k] for k in range(n_layers + 1)}
    made |= {("from_above", 0, k): layers[n_layers - k :] for k in range(n_layers + 1)}
    return made | {("single", 0, k): (k - 1,) for k in range(1, n_layers + 1)}


@contextmanager
def grafted(model, donor, layers: Iterable[int]) -> Iterator[None]:
    """Within, the layers have the weights of `donor`, an encoder of the same shape and kind of
    attention (skill localisation by grafting: Panigrahi et al. 2023, 2302.06600)."""
    path = families.of(model.config).layers
    own, theirs = families.encoder_of(model).get_submodule(path), donor.get_submodule(path)
    tuned = {n: own[n] for n in layers}
    try:
        for n in layers:
            own[n] = theirs[n]
        yield
    finally:
        for n, layer in tuned.items():
            own[n] = layer


@contextmanager
def remembering(model) -> Iterator[None]:
    """Within, a pass with the same inputs as an earlier one runs once: predictions and the loss
    read the same outputs. Not for passes with a cache, which are not told apart."""
    forward_of, known = model.forward, {}

    def once(**batch):
        tensors = {name: value for name, value in batch.items() if torch.is_tensor(value)}
        key = tuple((n, x.shape, x.cpu().numpy().tobytes()) for n, x in sorted(tensors.items()))
        if key not in known:
            known[key] = forward_of(**batch)
        return known[key]

    model.forward = once
    try:
        yield
    finally:
        del model.forward
