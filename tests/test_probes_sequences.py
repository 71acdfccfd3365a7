"""Probes of sequences: the CRF against enumeration, the BiLSTM against torch's, layers alone."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn.utils import rnn

from common.device import choose_device
from common.probes import Options, bilstm_crf, linear, sequences
from common.probes.bilstm_crf import log_partition, path_score, viterbi
from common.probes.sequences import Probes

CPU = choose_device("cpu", "fp32")
LAYERS, BATCH, LABELS = 2, 7, 3
KINDS = (bilstm_crf, linear)


def some_crf(lengths, seed=0, layers=LAYERS, labels=LABELS):
    """Emissions `[layers, batch, words, labels]`, parameters, mask; all random, in float64."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(len(lengths), max(lengths), labels), (labels, labels), (labels,), (labels,)]
    emissions, *parameters = (
        (2 * torch.randn((layers, *shape), generator=g, dtype=torch.float64)).requires_grad_()
        for shape in shapes
    )
    return emissions, parameters, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def all_paths(emissions, transitions, start, end, length):
    """Every path of one sentence of one layer, and its score, by plain addition."""
    paths = list(itertools.product(range(emissions.shape[-1]), repeat=length))
    scores = [
        start[path[0]] + end[path[-1]] + sum(emissions[t, tag] for t, tag in enumerate(path))
        + sum(transitions[a, b] for a, b in itertools.pairwise(path))
        for path in paths
    ]  # fmt: skip
    return paths, torch.stack(scores)


@pytest.mark.parametrize("seed", range(3))
def test_crf_equals_enumeration(seed):
    lengths = np.random.default_rng(seed).integers(1, 6, BATCH).tolist()
    emissions, parameters, mask = some_crf(lengths, seed)
    tags = torch.zeros(mask.shape, dtype=torch.long)  # padding: any; labels 1, 2 unseen if seed 0
    for row, length in zip(tags, lengths, strict=True):
        row[:length] = torch.randint(1 if seed == 0 else LABELS, (length,))
    log_z = log_partition(emissions, *parameters, mask)
    gold = path_score(emissions, tags, *parameters, mask)
    best = viterbi(emissions, *parameters, mask)
    expected = []
    for layer, i in itertools.product(range(LAYERS), range(BATCH)):
        one = [p[layer] for p in parameters]
        paths, scores = all_paths(emissions[layer, i], *one, lengths[i])
        at = paths.index(tuple(tags[i, : lengths[i]].tolist()))
        assert abs(log_z[layer, i] - scores.logsumexp(0)) < 1e-10
        assert abs(gold[layer, i] - scores[at]) < 1e-10
        assert tuple(best[layer, i, : lengths[i]].tolist()) == paths[scores.argmax()]
        assert not best[layer, i, lengths[i] :].any()
        expected.append(scores.logsumexp(0) - scores[at])
    inputs = [emissions, *parameters]
    ours = torch.autograd.grad((log_z - gold).sum(), inputs)
    theirs = torch.autograd.grad(sum(expected), inputs)
    for name, a, b in zip(("emissions", "transitions", "start", "end"), ours, theirs, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")
    assert not ours[0][:, ~mask].any()  # padding has no gradient


def test_crf_survives_forbidden_moves_and_large_scores():
    emissions, (transitions, start, end), mask = some_crf([4, 1, 3])
    with torch.no_grad():
        transitions[:, 0, 1] = -1e4  # as good as forbidden
        emissions *= 100
    log_z = log_partition(emissions.float(), transitions.float(), start.float(), end.float(), mask)
    exact = log_partition(emissions, transitions, start, end, mask)
    torch.testing.assert_close(log_z.double(), exact, rtol=1e-6, atol=1e-3)
    log_z.sum().backward()
    assert all(x.grad.isfinite().all() for x in (emissions, transitions, start, end))
    best = viterbi(emissions, transitions, start, end, mask)
    moves = (best[..., :-1] == 0) & (best[..., 1:] == 1) & mask[:, 1:]
    assert not moves.any()


@pytest.mark.parametrize("lengths", [[5, 4, 3, 1], [1, 1], [6], [3, 3, 2, 2]])
def test_bilstm_equals_torch(lengths):
    """Output and all gradients, in float64, against packed sequences, one layer at a time."""
    torch.manual_seed(0)
    size, hidden, words = 6, 4, sum(lengths)
    x = torch.randn(LAYERS, words, size, dtype=torch.float64)
    theirs = [torch.nn.LSTM(size, hidden, bidirectional=True).double() for _ in range(LAYERS)]

    def stacked(kind, what):
        """`[layers, 2, 4n, ...]` in our order of gates; torch's is i, f, g, o."""
        names = (f"{kind}_l0", f"{kind}_l0_reverse")
        both = torch.stack([what(getattr(lstm, name)) for lstm in theirs for name in names])
        i, f, g, o = both.unflatten(0, (-1, 2)).chunk(4, 2)
        return torch.cat([i, f, o, g], 2)

    def ours(what):
        biases = stacked("bias_ih", what), stacked("bias_hh", what)
        return (stacked("weight_ih", what).flatten(1, 2).mT,
                [bias.flatten(1).unsqueeze(1) for bias in biases],
                stacked("weight_hh", what).mT)  # fmt: skip

    weight, biases, recurrent = ours(lambda p: p.detach())
    inputs = [p.clone().requires_grad_() for p in (weight, sum(biases), recurrent)]
    found = bilstm_crf.bilstm(x, np.array(lengths), *inputs)
    factors = torch.randn_like(found)
    (found * factors).sum().backward()
    counts = torch.tensor([sum(n > t for n in lengths) for t in range(lengths[0])])
    for layer, lstm in enumerate(theirs):
        expected = lstm(rnn.PackedSequence(x[layer], counts))[0].data
        torch.testing.assert_close(found[layer], expected)
        (expected * factors[layer]).sum().backward()
    weight, biases, recurrent = ours(lambda p: p.grad)
    for found, expected in zip(inputs, (weight, biases[0], recurrent), strict=True):
        torch.testing.assert_close(found.grad, expected)


def some_task(n=150, size=16, layers=1, labels=4, longest=9, seed=0, noise=0.5):
    """Float16 features that encode each word's label, sentences, and labels that hang together."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest, n)
    ends = np.cumsum(lengths)
    sentences = list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))
    gold = [rng.choice(labels, length, p=[0.55, *[0.45 / (labels - 1)] * (labels - 1)])
            for length in lengths]  # fmt: skip
    means = rng.normal(size=(layers, labels, size))
    flat = np.concatenate(gold)
    features = means[:, flat] + noise * rng.normal(size=(layers, len(flat), size))
    return list(features.astype(np.float16)), sentences, gold


def accuracy(predicted, gold):
    return np.mean(np.concatenate(predicted) == np.concatenate(gold))


def fit(probe, features, spans, labels, n_labels=4, *, seed=1, epochs=3, device=CPU):
    """Probes, trained."""
    options = Options(n_labels, epochs, False, seed, device)
    return Probes(probe, features, spans, labels, options)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(sequences, "BATCH_SIZE", 8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("probe", KINDS)
def test_learns_what_the_features_encode_and_no_more(probe, precision, monkeypatch):
    monkeypatch.setattr(sequences, "LEARNING_RATE", 1e-2 if probe is linear else 1e-3)
    layers, sentences, gold = some_task(500, layers=2)
    layers[1] = np.random.default_rng(1).normal(size=layers[1].shape).astype(np.float16)
    device = choose_device("cpu", precision)
    probes = fit(probe, layers, sentences[:400], gold[:400], device=device)
    informed, noise = probes.predict(sentences[400:])
    majority = np.mean(np.concatenate(gold[400:]) == 0)
    assert accuracy(informed, gold[400:]) > 0.97
    assert abs(accuracy(noise, gold[400:]) - majority) < 0.06


@pytest.mark.parametrize("probe", KINDS)
def test_layers_in_lockstep_equal_each_alone(probe):
    layers, sentences, gold = some_task(60, layers=3)
    together = fit(probe, layers, sentences, gold)
    for i, layer in enumerate(layers):
        alone = fit(probe, [layer], sentences, gold)
        for name, weight in alone.weights.items():
            torch.testing.assert_close(together.weights[name][i], weight[0], rtol=1e-4, atol=1e-6)
        found, same = alone.predict(sentences), together.predict(sentences)
        for a, b in zip(found[0], same[i], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("probe", KINDS)
def test_training_does_not_depend_on_the_pieces_of_a_batch(probe, monkeypatch):
    """One sentence at a time has no padding: the same step as a whole batch with its padding."""
    layers, sentences, gold = some_task(40, layers=2)
    whole = fit(probe, layers, sentences, gold)
    monkeypatch.setattr(sequences, "ROOM", 1)
    single = fit(probe, layers, sentences, gold)
    for name, weight in whole.weights.items():
        torch.testing.assert_close(single.weights[name], weight, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_do_not_depend_on_companions(precision):
    layers, sentences, gold = some_task(30, layers=2)
    device = choose_device("cpu", precision)
    probes = fit(bilstm_crf, layers, sentences, gold, epochs=1, device=device)
    sentences.sort(key=lambda span: span[0] - span[1])
    with torch.no_grad():
        together, mask = probes.scores(sentences)
        for i, (start, end) in enumerate(sentences):
            alone, _ = probes.scores([(start, end)])
            tolerance = 1e-5 if precision == "fp32" else 2e-2
            assert (together[:, i, : end - start] - alone[:, 0]).abs().max() < tolerance
            assert mask[i].sum() == end - start


@pytest.mark.parametrize("probe", KINDS)
def test_only_the_bilstm_computes_in_bfloat16(probe):
    layers, sentences, _ = some_task(30, layers=2)
    sentences.sort(key=lambda span: span[0] - span[1])
    found = []
    for precision in ("fp32", "bf16"):
        probes = fit(probe, layers, [], [], epochs=0, device=choose_device("cpu", precision))
        found.append(probes.scores(sentences)[0])
    assert torch.equal(*found) == (probe is linear)
    assert all(scores.dtype == torch.float32 for scores in found)


def test_deterministic_and_seeded():
    layers, sentences, gold = some_task(40, layers=2)
    weights = []
    for seed in (1, 1, 2):
        torch.rand(3), np.random.rand(3)  # global generators play no part
        weights.append(fit(bilstm_crf, layers, sentences, gold, seed=seed).weights)
    first, again, other = weights
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.allclose(first[name], other[name]) for name in first)


@pytest.mark.parametrize("probe", KINDS)
def test_single_words_memory_maps_and_order(tmp_path, probe, recwarn):
    layers, sentences, gold = some_task(50, longest=2)
    assert {end - start for start, end in sentences} == {1}
    np.save(tmp_path / "layer.npy", layers[0])
    layers = [np.load(tmp_path / "layer.npy", mmap_mode="r")]
    probes = fit(probe, layers, sentences, gold, epochs=2)
    found = probes.predict(sentences)[0]
    np.testing.assert_array_equal(found, probes.predict(sentences[::-1])[0][::-1])
    assert probes.predict([]) == [[]]
    assert found[0].shape == (1,) and found[0].dtype == np.int64
    assert not recwarn.list


def test_sequences_without_units_change_nothing():
    layers, sentences, gold = some_task(30)
    some = fit(bilstm_crf, layers, sentences, gold)
    empty = gold[0][:0]
    more = fit(bilstm_crf, layers, [(3, 3), *sentences, (0, 0)], [empty, *gold, empty])
    assert all(torch.equal(some.weights[name], more.weights[name]) for name in some.weights)
