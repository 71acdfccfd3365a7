"""What QA/task.py makes of predictions: thresholds, rows, scores, baselines, controls, tags."""

import json

import pytest

from common.task import evaluate
from common.training import losses
from QA import bioasq, data, task, windows
from QA.squad import Example
from QA.windows import Prediction

PASSAGE = "The p53 gene binds DNA . It is a tumour suppressor ."


def example(key="q1", answer="p53", context=PASSAGE, question="What binds ?", title="t"):
    spans = [(context.index(answer), context.index(answer) + len(answer))] if answer else []
    golds = [answer] if answer else []
    return Example(key, title, question, context, spans, golds)


def span(text, context=PASSAGE, probability=0.9):
    start = context.index(text)
    return {"start": start, "end": start + len(text), "probability": probability}


def dataset(**more):
    given = {"splits": {}, "labels": [], "with_null": True, "counts": {"train_moved_answers": 1}}
    return data.Data(**given | more)


SPLITS = {
    "dev": [example("d1"), example("d2", None)],
    "test": [example("t1"), example("t2", None), example("t3", "DNA")],
}
PREDICTED = {
    "dev": [Prediction([span("p53")], 2.0), Prediction([span("DNA")], 5.0)],
    "test": [Prediction([span("p53")], 1.0), Prediction([span("DNA")], 3.0), Prediction([], None)],
}


def test_the_threshold_is_chosen_on_dev_and_applied_to_test():
    rows, more = task.rows(dataset(), SPLITS, PREDICTED)
    assert more == {"null_threshold": 2.0, "train_moved_answers": 1}
    assert [row["start"] for row in rows["test"]] == [4, None, None]
    found = evaluate(task, rows["test"])
    assert found["exact"] == found["f1"] == pytest.approx(2 / 3)
    assert found["f1_has_answer"] == 0.5 and found["exact_no_answer"] == 1
    assert found["f1_at_threshold_0"] == pytest.approx(1 / 3) and found["best_f1"] == found["f1"]
    assert evaluate(task, rows["dev"])["f1"] == 1
    assert PASSAGE not in json.dumps(rows) and "p53" not in json.dumps(rows)


def test_a_given_threshold_and_none_without_dev():
    _, more = task.rows(dataset(null_threshold=4.0), SPLITS, PREDICTED)
    assert more["null_threshold"] == 4.0
    alone = {"test": PREDICTED["test"]}
    rows, more = task.rows(dataset(), SPLITS, alone)
    assert more["null_threshold"] == 0.0
    assert [row["start"] for row in rows["test"]] == [None] * 3


def test_without_unanswerable_questions_there_is_no_threshold():
    some = {"test": [example("t1"), example("t3", "DNA")]}
    held = dataset(with_null=False, splits=some)
    rows, more = task.rows(held, some, {"test": PREDICTED["test"][:2]})
    assert "null_threshold" not in more and rows["test"][1]["exact"] == 1
    found = evaluate(task, rows["test"])
    assert {"f1", "exact"} <= set(found) and not any("no_answer" in name for name in found)
    assert task.scores(held) == task.SQUAD
    assert task.scores(dataset(splits=SPLITS)) == task.SQUAD + task.BY_KIND


def test_baselines():
    nothing = task.baseline(SPLITS["test"], SPLITS["test"])
    assert nothing == [windows.only(None)] * 3
    first = task.baseline([example()], [example(), example(context="", answer=None)])
    assert first == [windows.only((0, PASSAGE.index(".") + 1)), windows.only(None)]
    no_stop = task.baseline([example()], [example(context="  p53 alone \n ")])
    assert no_stop == [windows.only((2, 11))]
    rows, more = task.rows(dataset(), {"test": SPLITS["test"]}, {"test": nothing})
    found = evaluate(task, rows["test"])
    assert found["f1"] == pytest.approx(1 / 3)
    assert "best_f1" not in found and "null_threshold" not in more  # nothing to compare


def test_bioasq_rows_are_questions():
    listed = [
        {"id": "a", "type": "factoid", "body": "Which ?", "exact_answer": [["TP53", "p53"]],
         "snippets": [{"text": "It is MDM2 or p53 ."}, {"text": "P53 it is ."}]},
        {"id": "b", "type": "factoid", "body": "What ?", "exact_answer": "IL-2", "snippets": []},
    ]  # fmt: skip
    pairs, _ = bioasq.parse({"file": {"questions": listed}})
    assert len(pairs) == 3
    held = dataset(with_null=False, counts={}, in_bioasq=True)
    one, two = (pair.context for pair in pairs[:2])
    predicted = [
        Prediction([span("MDM2", one, 0.6), span("p53 .", one, 0.3)], None),
        Prediction([span("P53", two, 0.5), span("it", two, 0.1)], None),
        Prediction([], None),
    ]
    rows, more = task.rows(held, {"test": pairs}, {"test": predicted})
    assert more == {} and [row["id"] for row in rows["test"]] == ["a", "b"]
    first = rows["test"][0]["answers"][0]
    assert first == {"snippet": 1, "start": 0, "end": 3, "probability": pytest.approx(0.8)}
    found = evaluate(task, rows["test"])
    assert found["mrr"] == found["strict"] == found["lenient"] == 0.5 and found["answered"] == 1
    assert [score.name for score in task.scores(held)] == ["mrr", "strict", "lenient"]


def test_counts_add_up_and_gold_scores_one():
    rows, _ = task.rows(dataset(), SPLITS, PREDICTED)
    whole = task.count(rows["test"])
    for score in (*task.SQUAD, *task.BY_KIND):
        total = sum(task.count(rows["test"])[score.table][i] for i in range(3))
        assert score.value(total) == score.value(whole[score.table].sum(0)) <= 1
    gold = [windows.only(e.answers[0] if e.answers else None) for e in SPLITS["test"]]
    perfect, _ = task.rows(dataset(), SPLITS, {"test": gold})
    assert all(evaluate(task, perfect["test"])[s.name] == 1 for s in (*task.SQUAD, *task.BY_KIND))
    with pytest.raises(ValueError):
        task.count([{"id": "1", "gold": "x"}])


def test_loss_is_cross_entropy_over_real_tokens_of_windows_with_a_place(checkpoint):
    import torch
    from torch.nn import functional as F

    from common import models
    from common.batching import pad

    model, tokenizer = models.load_task_model(str(checkpoint("bert")), "span", [])
    long = example("q2", "DNA", PASSAGE * 3)
    lost = example("q3", None)._replace(golds=["elsewhere"])
    encoded, _ = task.encode(dataset(doc_stride=16), [example(), long, lost], tokenizer, 128)
    assert [losses.labels_in(row) for row in encoded] == [2] * (len(encoded) - 1) + [0]
    keys = ("input_ids", "token_type_ids", "labels")
    batch = pad([{k: row[k] for k in keys} for row in encoded], 0)
    total = task.loss(model.eval(), batch)
    expected = 0.0
    for row in encoded[:-1]:
        inputs = {k: torch.tensor([row[k]]) for k in keys[:2]}
        out = model(**inputs)
        for scores, at in zip((out.start_logits, out.end_logits), row["labels"], strict=True):
            expected += F.cross_entropy(scores, torch.tensor([at])).item()
    assert total.item() == pytest.approx(expected, rel=1e-5)
