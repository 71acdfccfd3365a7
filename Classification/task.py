"""The Classification task, as `common.task` asks for it: a text in, one label or several out.

A prediction is a list of labels: of a relation or an answer one; of a document none to all, each
whose probability is above 0.5.
"""

from collections import Counter

from Classification.data import Data, Example, load, units
from Classification.scores import SCORES, TABLES, constant, count, details
from common import models, subsample
from common.controls import by_rarest_word
from common.task import ProbeInputs, Score
from common.texts import encode_pairs, encode_texts
from common.texts import probe_inputs as texts_of_probes
from common.training import losses

__all__ = ["SCORES", "count", "details", "load"]
NAME, HEAD, DATASET = "Classification", "sequence", "classification"
NEGATIVE = """the 'label' that means "no relation" (default: none, 0 or false)"""


def add_arguments(parser, step: str) -> None:
    """What the scores of relations depend on."""
    group = parser.add_argument_group("classification")
    group.add_argument("--negative_label", metavar="LABEL", help=NEGATIVE)


def scores(data: Data) -> tuple[Score, ...]:
    """Those of the data's form."""
    return tuple(score for score in SCORES if score.table in TABLES[data.kind])


def load_model(where: str, data: Data, **others):
    """The model with a new head; its config tells predict.py, and the library, what it predicts."""
    model, tokenizer = models.load_task_model(where, HEAD, data.labels)
    model.config.kind = data.kind
    several = "multi" if data.kind == "classification" else "single"
    model.config.problem_type = f"{several}_label_classification"
    return model, tokenizer, True


def stratum(example: Example) -> str:
    """What a part of the examples is stratified by: the labels."""
    return "+".join(example.labels)


def subset(data: Data, percentage: int, seed: int) -> list[int]:
    """The places in train of all examples of `percentage` % of its groups, see `subsample`."""
    strata, numbers = units(data.splits["train"])
    chosen = {*subsample.subset(strata, percentage, seed)}
    return [i for i, number in enumerate(numbers) if number in chosen]


def encode(
    data: Data, examples: list[Example], tokenizer, max_length: int
) -> tuple[list[dict], dict]:
    """A text, or question and context, as one input; `labels`: a number, or 0 or 1 of each."""
    texts = [example.texts for example in examples]
    encoded, counts = encode_inputs(data.kind, texts, tokenizer, max_length)
    for example, row in zip(examples, encoded, strict=True):
        row["labels"] = target(data, example)
    return encoded, counts


def encode_inputs(kind: str, texts: list[tuple[str, ...]], tokenizer, max_length: int):
    """The inputs of a kind of data without labels, and counts, see `common.texts`."""
    if kind == "qa":
        return encode_pairs(texts, tokenizer, max_length)
    return encode_texts([text for (text,) in texts], tokenizer, max_length, "mean")


def target(data: Data, example: Example) -> int | list[int]:
    """The number of its label; or where there are several, for each label whether it has it."""
    if data.kind == "classification":
        return [int(label in example.labels) for label in data.labels]
    return data.labels.index(example.labels[0])


def loss(model, batch: dict):
    """Cross entropy of the one label, or of each label's yes or no; summed. See `Task.loss`."""
    from torch.nn import functional as F

    if batch["labels"].ndim == 1:
        return losses.cross_entropy(model, batch)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    scores = models.logits(model, inputs).float()
    gold = batch["labels"][:, : scores.shape[1]]  # padded to the inputs' length
    known = (gold != losses.IGNORED).float()
    return F.binary_cross_entropy_with_logits(scores, gold.float(), known, reduction="sum")


def predict(
    model, tokenizer, data: Data, examples, encoded, batch_size: int, device, name: str
) -> list[list[str]]:
    """The labels of each text: the likeliest one, or all above 0.5."""
    from common.forward import predict_logits

    logits = predict_logits(model, encoded, batch_size, device, name)
    return [chosen(data.kind, data.labels, values) for values in logits]


def chosen(kind: str, labels: list[str], logits) -> list[str]:
    """The labels that logits mean."""
    if kind != "classification":
        return [labels[logits.argmax()]]
    return [label for label, value in zip(labels, logits, strict=True) if value > 0]


def rows(
    data: Data, examples: dict[str, list[Example]], predictions: dict[str, list]
) -> tuple[dict[str, list[dict]], dict]:
    """Rows of predictions.jsonl, see `Classification.scores`; no text.

    Texts of one document, or with equal letters, are a group, called by the place of its first one.
    """
    made, first, several = {}, {}, data.kind == "classification"
    for split, predicted in predictions.items():
        made[split] = []
        for n, (e, labels) in enumerate(zip(examples[split], predicted, strict=True)):
            gold, found = ([*side] if several else side[0] for side in (e.labels, labels))
            about = {"id": e.id, "group": first.setdefault((split, e.group), f"{split}-{n}")}
            about |= {"kind": data.kind, "gold": gold, "predicted": found}
            made[split].append(about | ({"negative": data.negative} if data.negative else {}))
    return made, {}


def shared(example: Example) -> dict[str, str]:
    """What train and test should not both hold."""
    return {"texts": "\n".join(example.texts), "groups": example.group}


def baseline(train: list[Example], examples: list[Example]) -> list[list[str]]:
    """The most frequent labels of a training example, for every text."""
    counted = Counter(sorted(example.labels for example in train))
    return [[*counted.most_common(1)[0][0]]] * len(examples)


def constants(data: Data, train: list[Example]) -> dict:
    """Of F1, the constant answer that has the most: "no relation" and no label have none."""
    golds = {"train": [example.labels for example in train]}
    best = constant(rows(data, {"train": train}, golds)[0]["train"])
    names = ("micro_f1", "macro_f1") if best and data.kind != "qa" else ()
    return dict.fromkeys(names, lambda examples: [best] * len(examples))


def controls(data: Data, splits: dict[str, list[Example]], seed: int) -> dict[str, list[dict]]:
    """The same texts with labels that one of their words decides, see `common.controls`."""
    texts = {split: [" ".join(e.texts) for e in own] for split, own in splits.items()}
    drawn = by_rarest_word(texts, [e.labels for e in splits["train"]], seed)
    return {"control": [
        {split: [e._replace(labels=new) for e, new in zip(own, labels[split], strict=True)]
         for split, own in splits.items()} for labels in drawn
    ]}  # fmt: skip


def probe_inputs(
    data: Data, targets: dict, tokenizer, max_length: int, pooling: str
) -> ProbeInputs:
    """An example is its text's vector, or those of question and context; see `common.texts`."""
    texts = {split: [e.texts for e in own] for split, own in targets["task"].items()}
    labels = {
        name: [target(data, example) for example in splits["train"]]
        for name, splits in targets.items()
    }
    return texts_of_probes(texts, labels, tokenizer, max_length, pooling, len(data.labels))


def probe_predictions(
    data: Data, examples: list[Example], inputs: ProbeInputs, target: str, split: str, found: list
) -> list[list[str]]:
    """The labels of each text."""
    if data.kind == "classification":
        return [chosen(data.kind, data.labels, row) for row in found[0]]
    return [[data.labels[i]] for i in found[0]]
