"""The NLI task, as `common.task` asks for it: a premise and a hypothesis in, one label out."""

from collections import Counter

from common import scoring
from common.controls import by_rarest_word
from common.task import Data, ProbeInputs, Score
from common.texts import encode_pairs
from common.texts import probe_inputs as texts_of_probes
from NLI.data import LABELS, Example, load

__all__ = ["load"]
NAME, HEAD, DATASET, IN_STUDY = "NLI", "sequence", "mednli", True
MCC = "matthews_correlation"


def matthews_correlation(totals):
    """Matthews correlation of several classes (Gorodkin 2004): [..., classes, 3] -> [...].

    The covariance of the two labellings over the root of the product of their variances: -1 to 1,
    0 where one of them is constant. `totals`: see `common.scoring`.
    """
    right, predicted, gold = (totals[..., i] for i in range(3))
    n = gold.sum(-1)
    covariance = n * right.sum(-1) - (predicted * gold).sum(-1)
    spread = (n**2 - (predicted**2).sum(-1)) * (n**2 - (gold**2).sum(-1))
    return scoring.ratio(covariance, spread**0.5)


SCORES = (
    Score("accuracy", "labels", scoring.micro_f1, "accuracy", by_layer=True),
    Score("macro_f1", "labels", scoring.macro_f1, "macro F1", by_layer=True),
    Score(MCC, "labels", matthews_correlation, "Matthews correlation"),
)


def stratum(example: Example) -> str:
    """What subsets are stratified by: the label."""
    return example.label


def encode(
    data: Data, examples: list[Example], tokenizer, max_length: int
) -> tuple[list[dict], dict]:
    """Premise and hypothesis as one input with its label, see `common.texts.encode_pairs`."""
    pairs = [(example.premise, example.hypothesis) for example in examples]
    encoded, counts = encode_pairs(pairs, tokenizer, max_length)
    for example, row in zip(examples, encoded, strict=True):
        row["labels"] = data.labels.index(example.label)
    return encoded, counts


def predict(
    model, tokenizer, data: Data, examples, encoded, batch_size: int, device, name: str
) -> list[str]:
    """The label of each pair."""
    from common.forward import predict_logits

    logits = predict_logits(model, encoded, batch_size, device, name)
    return [data.labels[values.argmax()] for values in logits]


def rows(
    data: Data, examples: dict[str, list[Example]], predictions: dict[str, list]
) -> tuple[dict[str, list[dict]], dict]:
    """Rows of predictions.jsonl: id, group, gold and predicted label; no text.

    Pairs with the same premise are a group, called by the id of its first pair.
    """
    made, first = {}, {}
    for split, labels in predictions.items():
        pairs = zip(examples[split], labels, strict=True)
        groups = [first.setdefault((split, e.premise), e.id) for e in examples[split]]
        made[split] = [
            {"id": e.id, "group": group, "gold": e.label, "predicted": label}
            for (e, label), group in zip(pairs, groups, strict=True)
        ]
    return made, {}


def shared(example: Example) -> dict[str, str]:
    """What train and test should not both hold."""
    return {"pairs": f"{example.premise}\n{example.hypothesis}", "premises": example.premise}


def baseline(train: list[Example], examples: list[Example]) -> list[str]:
    """The most frequent training label, for every pair."""
    counted = Counter(sorted(example.label for example in train))
    return [counted.most_common(1)[0][0]] * len(examples)


def count(rows: list[dict]) -> dict:
    """`labels` [pairs, labels, 3] = right, predicted, gold."""
    labels = labels_of(rows)
    sides = [[{(row[side],)} for row in rows] for side in ("gold", "predicted")]
    return {"labels": scoring.count(sides, labels)}


def labels_of(rows: list[dict]) -> list[str]:
    """The labels of rows. Raises ValueError for rows that are not of this task."""
    there = {row.get(side) for row in rows for side in ("gold", "predicted")}
    if not all(isinstance(label, str) for label in there):
        raise ValueError("not all rows have a gold and a predicted label")
    return LABELS if there <= {*LABELS} else sorted(there)


def details(rows: list[dict]) -> dict[str, float]:
    """A label's precision, recall and F1 (0-1), and `confusion_<gold>_<predicted>`, in pairs.

    Only labels that occur on either side count (a set may be two-way).
    """
    totals = dict(zip(labels_of(rows), count(rows)["labels"].sum(0), strict=True))
    labels = [label for label in totals if totals[label].any()]
    values = {
        f"{part.__name__}_{label}": float(part(totals[label]))
        for part in (scoring.precision, scoring.recall, scoring.f1)
        for label in labels
    }
    pairs = Counter((row["gold"], row["predicted"]) for row in rows)
    return values | {f"confusion_{g}_{p}": pairs[g, p] for g in labels for p in labels}


def controls(data: Data, splits: dict[str, list[Example]], seed: int) -> dict[str, list[dict]]:
    """The same pairs with labels that a word of the hypothesis decides, see `common.controls`."""
    texts = {split: [e.hypothesis for e in own] for split, own in splits.items()}
    drawn = by_rarest_word(texts, [e.label for e in splits["train"]], seed)
    return {"control": [
        {split: [e._replace(label=label) for e, label in zip(own, labels[split], strict=True)]
         for split, own in splits.items()} for labels in drawn
    ]}  # fmt: skip


def probe_inputs(
    data: Data, targets: dict, tokenizer, max_length: int, pooling: str
) -> ProbeInputs:
    """An example is the vectors of its premise and hypothesis; targets differ in labels alone."""
    texts = {s: [(e.premise, e.hypothesis) for e in own] for s, own in targets["task"].items()}
    labels = {
        target: [data.labels.index(example.label) for example in splits["train"]]
        for target, splits in targets.items()
    }
    return texts_of_probes(texts, labels, tokenizer, max_length, pooling, len(data.labels))


def probe_predictions(
    data: Data, examples: list[Example], inputs: ProbeInputs, target: str, split: str, found: list
) -> list[str]:
    """The label of each pair."""
    return [data.labels[i] for i in found[0]]
