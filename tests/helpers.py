"""What several test files need: scores of lists, the names of the tasks."""

from common.task import evaluate, find
from NER import task as ner
from NLI import task as nli

TASKS = find()


def ner_scores(gold, predicted):
    """All scores of IOB2 tags, one list a sentence."""
    pairs = enumerate(zip(gold, predicted, strict=True))
    return evaluate(ner, [{"id": i, "gold": g, "predicted": p} for i, (g, p) in pairs])


def nli_scores(gold, predicted):
    """All scores of labels."""
    pairs = enumerate(zip(gold, predicted, strict=True))
    return evaluate(nli, [{"id": i, "gold": g, "predicted": p} for i, (g, p) in pairs])
