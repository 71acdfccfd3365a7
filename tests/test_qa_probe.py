"""QA's pointer probe against a slow loop, on random vectors, and what its numbers mean."""

import json
import math
import random

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common import probes
from common.cli import UserError
from common.device import choose_device
from common.probes import POINTER
from common.task import Sequences, evaluate
from QA import bioasq, probe, task
from tests.test_qa_task import PASSAGE, dataset, example

CPU = choose_device("cpu", "fp32")
SIZE = 6


def made(n=80, layers=2, signal=0.0, seed=0, size=SIZE):
    """(features, spans, places): random vectors; the first dimensions tell start and end."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 12, n)
    ends = np.cumsum(lengths)
    spans = list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))
    first = rng.integers(lengths)
    places = np.stack([first, first + rng.integers(lengths - first)], 1)
    features = rng.normal(size=(layers, ends[-1], size)) * 3 + 1
    for (start, _), (a, b) in zip(spans, places, strict=True):
        features[1:, start + a, 0] += signal
        features[1:, start + b, 1] += signal
    return dict(enumerate(features.astype(np.float16))), spans, places


def predict(features, sets, **options):
    options = probes.Options(0, 0, False, 3, CPU)._replace(**options)
    return dict(probes.predict_layers("pointer", features, sets, options))


def gain(scores, places):
    """Bits per boundary over the uniform distribution, by hand."""
    bits = [
        math.log2(len(row)) + (row[a, 0] + row[b, 1]) / 2 / math.log(2)
        for row, (a, b) in zip(scores, places, strict=True)
    ]
    return float(np.mean(bits))


def slow(features, spans, places, tested, steps, seed):
    """One layer and one sequence at a time; log-probabilities of `tested` sequences."""
    rows = np.concatenate([features[a:b] for a, b in spans]).astype(np.float64)
    mean, deviation = rows.mean(0), rows.std(0)
    deviation[deviation < 1e-6] = 1

    def vectors(span):
        x = (features[slice(*span)].astype(np.float64) - mean) / deviation
        return torch.tensor(x, dtype=torch.float32)

    weight = torch.zeros(features.shape[1], 2, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=POINTER["learning_rate"])
    shape = steps, POINTER["batch_size"]
    for batch in np.random.default_rng(seed).integers(len(spans), size=shape):
        losses = [
            F.cross_entropy((vectors(spans[i]) @ weight).T, torch.tensor(places[i])) for i in batch
        ]
        optimizer.zero_grad()
        (sum(losses) / len(losses)).backward()
        optimizer.step()
    with torch.no_grad():
        return [(vectors(span) @ weight).log_softmax(0).numpy() for span in tested]


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setitem(POINTER, "steps", 60)


def test_all_layers_at_once_equal_a_slow_loop_of_each(short):
    features, spans, places = made(signal=4.0)
    features[0][:, 2] = 0.1  # constant: its variance is 0
    train, test = spans[:50], [*spans[50:], (5, 5)]  # a passage without words
    other = Sequences({"train": train[:20], "test": spans[50:]}, {"passage": places[:20]})
    sets = [Sequences({"train": train, "test": test, "dev": []}, {"task": places[:50]}), other]
    done = predict(features, sets)
    assert list(done) == [0, 1] and list(done[0]) == ["task", "passage"]
    for layer, predictions in done.items():
        assert list(predictions["task"]) == ["test"]
        (ours,) = predictions["task"]["test"]
        assert ours[-1].shape == (0, 2)
        expected = slow(features[layer], train, places[:50], test[:-1], 60, 3)
        for a, b in zip(ours[:-1], expected, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
        (ours,) = predictions["passage"]["test"]
        expected = slow(features[layer], train[:20], places[:20], spans[50:], 60, 3)
        for a, b in zip(ours, expected, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)
    tensors = {layer: torch.from_numpy(array) for layer, array in features.items()}
    again = predict(tensors, sets)  # as they are kept on a GPU
    assert all(
        np.array_equal(a, b)
        for a, b in zip(done[1]["task"]["test"][0], again[1]["task"]["test"][0], strict=True)
    )
    other_seed = predict(features, sets, seed=4)
    assert not np.array_equal(other_seed[1]["task"]["test"][0][0], done[1]["task"]["test"][0][0])


@pytest.mark.parametrize("seed", (0, 1))
def test_random_vectors_gain_nothing_and_a_signal_is_read(seed):
    """Nor do they over a control, whose vectors are random too."""
    features, spans, places = made(600, signal=9.0, seed=seed)
    features[2] = np.random.default_rng(seed + 10).permutation(features[0])
    sets = [Sequences({"train": spans[:400], "test": spans[400:]}, {"task": places[:400]})]
    done = predict(features, sets)
    noise, told, control = (
        gain(done[layer]["task"]["test"][0], places[400:]) for layer in (0, 1, 2)
    )
    assert abs(noise) < 0.06 and abs(control) < 0.06 and told > 0.8


# --- What QA makes of it


def test_words_and_places():
    context = "IL-2 (p53), β-x!"
    spans = probe.words(context)
    assert [context[a:b] for a, b in spans] == [
        "IL", "-", "2", "(", "p53", ")", ",", "β", "-", "x", "!"]  # fmt: skip
    asked = example("q", "p53), β", context)
    assert probe.place(asked, spans) == (4, 7)
    assert probe.place(asked, spans[:7]) is None  # the window ends within the answer
    assert probe.place(example("q", None), spans) is None
    assert probe.place(example("q", "L-", context), spans) == (0, 1)


def many(n=60, seed=0):
    rng = random.Random(seed)
    answers = ("p53", "DNA", "tumour suppressor")
    return [
        example(f"q{i}", rng.choice(answers), f"{PASSAGE} Number {i % 20} .", f"Question {i} ?")
        for i in range(n)
    ]


def test_the_control_has_another_passages_question():
    splits = {"train": many(), "test": many(20, 1)}
    control = probe.controls(dataset(), splits, 3)
    assert tuple(control) == task.CONTROLS and control == probe.controls(dataset(), splits, 3)
    for split, examples in splits.items():
        for old, new in zip(examples, control["passage"][0][split], strict=True):
            assert (new.context, new.golds, new.answers) == (old.context, old.golds, old.answers)
            asked = [e.context for e in examples if e.question == new.question]
            assert asked and old.context not in asked
    alone = probe.controls(dataset(), {"train": [example()], "test": [example()]}, 0)
    assert alone["passage"][0]["train"] == [example()]
    assert probe.probed([example(), example(answer=None)]) == [example()]


@pytest.mark.parametrize("kind", ("bert", "biogpt", "gpt2", "llama", "albert"))
def test_units_are_the_words_of_the_first_window(kind, checkpoint):
    from common.models.loading import load_config, load_tokenizer

    tokenizer = load_tokenizer(str(checkpoint(kind)), load_config(str(checkpoint(kind))))
    late = example("late", "Number", f"{PASSAGE * 9} Number 1 .")
    lost = example("lost", None)._replace(golds=["elsewhere"])
    splits = {"train": [late, *many(6)], "test": [*many(3), late, lost]}
    splits["test"].append(example("empty", None, "")._replace(golds=["x"]))
    targets = {"task": splits, "passage-1": probe.controls(dataset(), splits, 0)["passage"][0]}
    inputs = task.probe_inputs(dataset(), targets, tokenizer, 100, "mean")
    assert [list(some.labels) for some in inputs.sets] == [["task"], ["passage-1"]]
    assert inputs.counts["test_truncated_passages"] == inputs.counts["train_outside_answers"] == 1
    assert inputs.counts["test_outside_answers"] == 3
    json.dumps(inputs.encoded)
    rows = iter(inputs.encoded)
    end = 0
    for some in inputs.sets:
        (target,) = some.labels
        for split, examples in targets[target].items():
            spans = iter(some.spans[split])
            for e, (words, at) in zip(examples, inputs.notes[target][split], strict=True):
                row = next(rows)
                assert len(words) == len(row["units"])
                if split == "test" or at:
                    assert next(spans) == (end, end + len(words))
                end += len(words)
                for (a, b), (c, d) in zip(words, row["units"], strict=True):
                    ids = row["input_ids"][c:d]
                    text = "".join(tokenizer.decode(ids).lower().split())
                    assert e.context[a:b].lower() in text or tokenizer.unk_token_id in ids
                if len(e.context) < 200 and e.answers:
                    assert words == probe.words(e.context)
                    assert (words[at[0]][0], words[at[1]][1]) == e.answers[0]
        assert some.labels[target].tolist() == [
            list(at) for _, at in inputs.notes[target]["train"] if at
        ]
    with pytest.raises(UserError, match="--max_length"):
        targets["task"]["train"] = [late]
        task.probe_inputs(dataset(), targets, tokenizer, 100, "mean")


def scored(monkeypatch, examples, place, scores, data=None):
    """The scores of probe predictions from log-probabilities, through rows."""
    monkeypatch.setattr(probe, "random_f1", lambda _, spans, length: bool(spans) * length / 4)
    asked = [(probe.words(e.context), at) for e, at in zip(examples, place, strict=True)]
    notes = {"task": {"test": asked, "train": [([], (5, 5)), ([], (2, 2)), ([], None)]}}
    inputs = probe.ProbeInputs([], [], 0, {}, notes)
    data = data or dataset()
    predicted = task.probe_predictions(data, examples, inputs, "task", "test", [scores])
    rows, _ = task.rows(data, {"test": examples}, {"test": predicted})
    json.dumps(rows)
    return evaluate(task, rows["test"])


def test_the_scores_of_a_probe_by_hand(monkeypatch):
    """Uniform: 0 bits. Certain: log2 of the words. Outside the window: no bits, F1 0."""
    asked = [example("a"), example("b", "DNA"), example("c", None)._replace(golds=["elsewhere"])]
    n = len(probe.words(PASSAGE))
    uniform = np.full((n, 2), -math.log(n), np.float32)
    certain = np.full((n, 2), -1e9, np.float32)
    certain[1] = 0  # p53
    values = scored(monkeypatch, asked, [(1, 1), (4, 4), None], [certain, uniform, uniform])
    assert values["bits"] == pytest.approx(math.log2(n) / 2, abs=1e-6)
    assert values["f1"] == values["exact"] == pytest.approx(1 / 3)
    assert values["random_span_f1"] == 0.25
    quarter = np.log([[0.25, 0.5], [0.75, 0.5]])
    values = scored(monkeypatch, [example("d", "p53", "p53 .")], [(0, 1)], [quarter])
    assert values["bits"] == pytest.approx(1 + (math.log2(0.25) + math.log2(0.5)) / 2)
    names = [score.name for score in task.probe_scores(dataset())]
    assert names == ["bits", "f1", "exact", "random_span_f1"]
    assert not {score.name for score in task.scores(dataset())} & {"bits", "random_span_f1"}
    empty = scored(
        monkeypatch, [example("e", None, "")._replace(golds=["x"])], [None], [np.zeros((0, 2))]
    )
    assert empty["bits"] == empty["f1"] == empty["random_span_f1"] == 0


def test_a_random_span_has_a_fixed_length_and_place():
    asked = example("a", "p53")
    spans = probe.words(PASSAGE)
    drawn = {probe.random_f1(asked._replace(id=str(i)), spans, 1) for i in range(200)}
    assert drawn == {0.0, 1.0} and probe.random_f1(asked, spans, 99) > 0
    assert probe.random_f1(asked, spans, 1) == probe.random_f1(asked, spans, 1)
    many = [probe.random_f1(asked._replace(id=str(i)), spans, 1) for i in range(2000)]
    assert np.mean(many) == pytest.approx(1 / len(spans), abs=0.02)


def test_bioasq_scores_questions_and_counts_bits_over_pairs(monkeypatch):
    listed = [
        {"id": "a", "type": "factoid", "body": "Which ?", "exact_answer": [["p53"]],
         "snippets": [{"text": "MDM2 or p53"}, {"text": "p53 it is ."}]},
    ]  # fmt: skip
    pairs, _ = bioasq.parse({"file": {"questions": listed}})
    held = dataset(with_null=False, counts={}, in_bioasq=True)
    one = np.full((3, 2), -1e9)
    one[2] = 0
    values = scored(
        monkeypatch, pairs, [(2, 2), (0, 0)], [one, np.full((4, 2), -math.log(4))], held
    )
    assert values["bits"] == pytest.approx(math.log2(3) / 2) and values["mrr"] == 1
    assert values["random_span_f1"] == 0.25 and "f1" not in values
    assert [s.name for s in task.probe_scores(held)] == ["bits", "mrr", "strict", "lenient",
                                                         "random_span_f1"]  # fmt: skip
