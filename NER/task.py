"""The NER task, as `common.task` asks for it: words in, IOB2 tags out."""

import random
from collections import Counter

from common.task import ProbeInputs, Sequences
from NER import alignment
from NER.data import HUB_ID, Data, Example, add_arguments, load, stratum
from NER.scores import OUTSIDE, SCORES, count, details, to_iob2, word_class

__all__ = ["SCORES", "add_arguments", "count", "details", "load", "stratum"]
NAME, HEAD, DATASET, IN_STUDY = "NER", "token", "bionlp2004", True
HUB_DATASET = (HUB_ID, "test")
NOTE = """\
Most published models learn B-/I- tags (`--label_scheme iob2`). The study's six classes (`io`, the
default) join two adjacent entities of one type. So even perfect predictions score less than 1:
`test_entity_f1_io_ceiling` in metrics.json is the highest entity F1 that they can reach."""


def encode(
    data: Data, examples: list[Example], tokenizer, max_length: int
) -> tuple[list[dict], dict]:
    """Of each sentence `input_ids`, `labels` (one a token) and `words`; and the counts."""
    encoded, counts = alignment.encode([e.words for e in examples], tokenizer, max_length)
    for example, row in zip(examples, encoded, strict=True):
        row["labels"] = alignment.token_labels(row, label_numbers(data, example))
    return encoded, counts


def label_numbers(data: Data, example: Example) -> list[int]:
    """The number of each word's class."""
    tags = example.tags if data.iob2 else map(word_class, example.tags)
    return [data.labels.index(tag) for tag in tags]


def predict(
    model, tokenizer, data: Data, examples, encoded, batch_size: int, device, name: str
) -> list[list[str]]:
    """IOB2 tags of each sentence's words."""
    from common.forward import predict_logits

    return decode(data, encoded, predict_logits(model, encoded, batch_size, device, name))


def decode(data: Data, encoded: list[dict], logits: list) -> list[list[str]]:
    """IOB2 tags of each sentence's words, from the logits `[tokens, labels]` of each."""
    return [
        tags(data, alignment.word_labels(row, values.argmax(-1), data.labels))
        for row, values in zip(encoded, logits, strict=True)
    ]


def tags(data: Data, classes: list[str]) -> list[str]:
    """IOB2 tags of a sentence, from its words' classes."""
    return classes if data.iob2 else to_iob2(classes)


def rows(
    data: Data, examples: dict[str, list[Example]], predictions: dict[str, list]
) -> tuple[dict[str, list[dict]], dict]:
    """Rows of predictions.jsonl: id, and gold and predicted IOB2 tags."""
    made = {}
    for split, predicted in predictions.items():
        pairs = zip(examples[split], predicted, strict=True)
        made[split] = [{"id": e.id, "gold": e.tags, "predicted": tags} for e, tags in pairs]
    return made, {}


def shared(example: Example) -> dict[str, str]:
    """What train and test should not both hold."""
    return {"sentences": " ".join(example.words)}


def baseline(train: list[Example], examples: list[Example]) -> list[list[str]]:
    """The most frequent class of a training word, for every word."""
    classes = Counter(sorted(word_class(tag) for example in train for tag in example.tags))
    best = classes.most_common(1)[0][0] if classes else OUTSIDE
    return [to_iob2([best] * len(example.words)) for example in examples]


def controls(data: Data, splits: dict[str, list[Example]], seed: int) -> dict[str, list[dict]]:
    """The splits with random tags: one a word type, drawn from the training words' classes.

    The control task of Hewitt & Liang (2019): it can be learned from a word's identity alone.
    """
    generator = random.Random(seed)
    classes = Counter(word_class(tag) for example in splits["train"] for tag in example.tags)
    names, weights = zip(*sorted(classes.items()), strict=True)
    types = sorted({word for examples in splits.values() for e in examples for word in e.words})
    drawn = dict(zip(types, generator.choices(names, weights, k=len(types)), strict=True))
    control = {
        split: [e._replace(tags=to_iob2([drawn[word] for word in e.words])) for e in examples]
        for split, examples in splits.items()
    }
    return {"control": [control]}


def probe_inputs(
    data: Data, targets: dict, tokenizer, max_length: int, pooling: str
) -> ProbeInputs:
    """A unit is a word with a sub-word; one that was cut has none. Targets differ in tags alone."""
    import numpy as np

    encoded, counts, spans, start = {}, {}, {}, 0
    for split, examples in targets["task"].items():
        words = [example.words for example in examples]
        encoded[split], cut = alignment.encode(words, tokenizer, max_length)
        counts |= {f"{split}_{name}": n for name, n in cut.items()}
        spans[split] = []
        for row in encoded[split]:
            row["units"] = alignment.units(row, pooling)
            spans[split].append((start, start + len(row["units"])))
            start += len(row["units"])
    labels = {target: [] for target in targets}
    for target, splits in targets.items():
        for example, row in zip(splits["train"], encoded["train"], strict=True):
            has = [span is not None for span in row["words"]]
            labels[target].append(np.array(label_numbers(data, example), int)[has])
    flat = [row for split in encoded.values() for row in split]
    return ProbeInputs(flat, [Sequences(spans, labels)], len(data.labels), counts, encoded)


def probe_predictions(
    data: Data, examples: list[Example], inputs: ProbeInputs, target: str, split: str, found: list
) -> list[list[str]]:
    """IOB2 tags of all words, from the label numbers of those that are units; else `O`."""
    predicted = []
    for row, numbers in zip(inputs.notes[split], found[0], strict=True):
        left = iter(numbers)
        classes = [data.labels[next(left)] if span else OUTSIDE for span in row["words"]]
        predicted.append(tags(data, classes))
    return predicted
