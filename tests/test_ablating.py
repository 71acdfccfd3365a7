"""Removing heads and layers: equal to what is done to maps and weights by hand."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from common import ablating, models
from common.device import choose_device
from common.models import families
from common.training import losses
from tests import tiny

CPU = choose_device("cpu", "fp32")
LAYERS, HEADS = 3, 4
KINDS = tuple(families.TABLE)
ROWS = [[7, 8, 9, 10, 11, 12], [20, 21, 22]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`folder(kind, seed)`: a checkpoint of three layers of four heads; the same one each time."""
    made = {}

    def make(kind, seed=0):
        if (kind, seed) not in made:
            made[kind, seed] = tmp_path_factory.mktemp("models") / kind
            tiny.make(kind, made[kind, seed], layers=LAYERS, heads=HEADS, seed=seed)
        return str(made[kind, seed])

    return make


def encoder(where, attention=None):
    return models.load_encoder(where, attention)[0]


def task_model(where, head="token", labels=("O", "A", "B")):
    torch.manual_seed(0)
    model, _ = models.load_task_model(where, head, list(labels))
    return model.requires_grad_(False).eval()


def states(model, rows=ROWS[:1]):
    with torch.no_grad():
        return torch.stack(list(model(torch.tensor(rows), output_hidden_states=True).hidden_states))


@contextmanager
def map_times_zero(monkeypatch, layer, head):
    """Eager attention, with the map of one head set to zero after the softmax."""
    softmax, calls = torch.nn.functional.softmax, []

    def without(x, *args, **options):
        maps = softmax(x, *args, **options)
        if maps.ndim == 4:
            if len(calls) == layer:
                maps = maps.clone()
                maps[:, head] = 0
            calls.append(1)
        return maps

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "softmax", without)
        yield
    assert len(calls) == LAYERS


@pytest.mark.parametrize("kind", KINDS)
def test_a_removed_head_is_a_map_of_zeros(folder, kind, monkeypatch):
    model = encoder(folder(kind), "eager")
    whole = states(model)
    for layer, head in ((0, 1), (2, 3)):
        with map_times_zero(monkeypatch, layer, head):
            expected = states(model)
        with ablating.removed(model, [(layer, head)]):
            torch.testing.assert_close(states(model), expected, atol=1e-6, rtol=0)
        assert not torch.allclose(expected, whole, atol=1e-4)
        assert torch.equal(expected[: layer + 1], whole[: layer + 1])  # the layers below
    with ablating.removed(model, []):
        assert torch.equal(states(model), whole)
    assert torch.equal(states(model), whole)  # the hooks are gone


@pytest.mark.parametrize("kind", KINDS)
def test_without_all_heads_a_token_does_not_see_the_others(folder, kind):
    model, gone = encoder(folder(kind), None), list(np.ndindex(LAYERS, HEADS))
    fill = np.random.default_rng(0).normal(size=(LAYERS, HEADS, head_dim(model)))
    for own in (None, fill.astype(np.float32)):
        with ablating.removed(model, gone, own):
            one, other = states(model, [[7, 8, 9, 10]]), states(model, [[7, 30, 31, 10]])
        torch.testing.assert_close(one[:, :, [0, 3]], other[:, :, [0, 3]])
        assert not torch.allclose(one[-1, 0, 1], other[-1, 0, 1])


def head_dim(model):
    shapes = []

    def look(x, layer):
        shapes.append(x.shape[-1])
        return x

    with ablating.edited(model, look):
        states(model)
    return shapes[0]


def encoded(rows=ROWS, labels=3):
    return [{"input_ids": ids, "labels": [-100] + [i % labels for i in ids[1:]]} for ids in rows]


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_means_are_over_real_tokens(folder, kind):
    model = encoder(folder(kind), None)
    sums, n = 0, 0
    for ids in ROWS:
        seen = []

        def look(x, layer, seen=seen):
            seen.append(x[0].double().sum(0))
            return x

        with ablating.edited(model, look):
            states(model, [ids])
        sums, n = sums + torch.stack(seen), n + len(ids)
    found = ablating.means(model, encoded(), 2, CPU)  # padded together
    np.testing.assert_allclose(found, sums / n, atol=1e-6)


def loss_in_double(model, batch):
    inputs = {name: x for name, x in batch.items() if name != "labels"}
    scores = models.logits(model, inputs).flatten(0, -2)
    return torch.nn.functional.cross_entropy(scores, batch["labels"].flatten(), reduction="sum")


@pytest.mark.parametrize("kind,head", [("bert", "token"), ("gpt2", "token"), ("albert", "token"),
                                       ("biogpt", "token"), ("gpt2", "sequence")])  # fmt: skip
def test_importance_is_that_of_finite_differences(folder, kind, head):
    model, some = task_model(folder(kind), head).double(), encoded()
    if head == "sequence":
        some = [row | {"labels": 1} for row in some]
    step, expected = 1e-4, np.zeros((LAYERS, HEADS))
    for layer, own in np.ndindex(LAYERS, HEADS):
        for row in some:
            value = {}
            for scale in (1 - step, 1 + step):
                factor = torch.ones(LAYERS, HEADS, 1).double()
                factor[layer, own] = scale
                batch = {key: torch.tensor([row[key]]) for key in ("input_ids", "labels")}
                if head == "sequence":
                    batch["labels"] = torch.tensor([1])
                batch["attention_mask"] = torch.ones_like(batch["input_ids"])
                with torch.no_grad(), ablating.edited(model, lambda x, n, f=factor: x * f[n]):
                    value[scale] = loss_in_double(model, batch).item()
            slope = (value[1 + step] - value[1 - step]) / (2 * step)
            expected[layer, own] += abs(slope) / losses.labels_in(row)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    how = 2, CPU, loss_in_double
    found = ablating.importance(model, some, *how)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found, ablating.importance(model, some, 1, *how[1:]), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)


def values(seed=0, layers=4, heads=5):
    return np.random.default_rng(seed).random((2, layers, heads))


def test_orders_follow_the_values():
    change, importance = values()
    plan = ablating.plan(change, importance, 3, 42)
    for order, worth in (("most_changed", change), ("least_changed", -change),
                         ("importance", importance)):  # fmt: skip
        for share in ablating.SHARES:
            gone = plan[order, 0, share]
            assert len(gone) == round(share / 100 * 20)
            left = {*np.ndindex(4, 5)} - gone
            assert all(worth[a] > worth[b] for a in gone for b in left)
    assert plan["most_changed", 0, 100] == plan["random", 2, 100] == {*np.ndindex(4, 5)}
    assert plan["importance", 0, 0] == frozenset()


def test_random_draws_take_as_many_heads_from_each_layer():
    change, importance = values()
    plan = ablating.plan(change, importance, 20, 42)
    for (order, _, share), gone in plan.items():
        if order == "random":
            by_layer = [sum(layer == n for layer, _ in gone) for n in range(4)]
            most = plan["most_changed", 0, share]
            assert by_layer == [sum(layer == n for layer, _ in most) for n in range(4)]
    assert plan["random", 1, 20] <= plan["random", 1, 50]  # groups grow
    assert len({plan["random", n, 30] for n in range(1, 21)}) > 10
    assert plan == ablating.plan(change, importance, 20, 42)
    other = ablating.plan(change, importance, 20, 43)
    assert {k: v for k, v in plan.items() if k[0] != "random"} == {
        k: v for k, v in other.items() if k[0] != "random"
    }
    assert any(plan["random", n, 30] != other["random", n, 30] for n in range(1, 21))


def test_a_head_that_was_never_compared_changed_least():
    change, importance = values()
    change[2, 3] = np.nan
    plan = ablating.plan(change, importance, 1, 0)
    assert (2, 3) not in plan["most_changed", 0, 70] | plan["least_changed", 0, 70]


def test_grafts():
    points = ablating.grafts(3)
    assert points["from_below", 0, 0] == points["from_above", 0, 0] == ()
    assert points["from_below", 0, 2] == (0, 1) and points["from_above", 0, 2] == (1, 2)
    assert [points["single", 0, k] for k in (1, 2, 3)] == [(0,), (1,), (2,)]
    assert len(points) == 11


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "albert"])
def test_grafted_layers_are_those_of_the_other_model(folder, kind):
    model, donor = task_model(folder(kind)), encoder(folder(kind, 1), None)
    batch = {"input_ids": torch.tensor(ROWS[:1])}
    whole = models.logits(model, batch)
    by_copy = task_model(folder(kind))
    path = families.of(model.config).layers
    own, theirs = (families.encoder_of(m).get_submodule(path) for m in (by_copy, donor))
    for n in (0, 2):
        own[n].load_state_dict(theirs[n].state_dict())
    with ablating.grafted(model, donor, (0, 2)):
        torch.testing.assert_close(models.logits(model, batch), models.logits(by_copy, batch))
        assert not torch.allclose(models.logits(model, batch), whole)
    assert torch.equal(models.logits(model, batch), whole)


def test_passes_with_the_same_inputs_run_once(folder):
    model, calls = task_model(folder("bert")), []
    families.encoder_of(model).register_forward_hook(lambda *_: calls.append(1))
    batch = {"input_ids": torch.tensor(ROWS[:1])}
    other = batch | {"attention_mask": torch.tensor([[1, 1, 1, 1, 1, 0]])}
    expected = [models.logits(model, some) for some in (batch, other)]
    calls.clear()
    with ablating.remembering(model):
        found = [models.logits(model, some) for some in (batch, other, batch)]
    assert len(calls) == 2
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[2] is found[0]
    models.logits(model, batch)
    assert len(calls) == 3  # outside it runs
