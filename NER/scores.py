"""Word-level and entity-level scores of tag sequences (IOB2 strings)."""

from collections import Counter

OUTSIDE = "O"


def word_class(tag: str) -> str:
    """The study's class of a word: its entity type without B-/I-, or `O`."""
    return tag if tag == OUTSIDE else tag[2:]


def to_iob2(classes: list[str]) -> list[str]:
    """Entity types or `O` a word -> IOB2: a run of one type is one entity."""
    before = [OUTSIDE, *classes]
    return [
        OUTSIDE if kind == OUTSIDE else f"{'I' if kind == last else 'B'}-{kind}"
        for last, kind in zip(before, classes, strict=False)
    ]


def entities(tags: list[str], strict: bool = False) -> set[tuple[str, int, int]]:
    """The (type, first word, last word + 1) of each entity in a sentence.

    As conlleval and seqeval's default: an `I-` that continues nothing opens an entity. `strict`
    (seqeval's `mode="strict", scheme=IOB2`): only `B-` does, the rest is no entity.
    """
    found, kind, start = set(), None, 0
    for i, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, name = tag.partition("-")
        if kind is not None and prefix == "I" and name == kind:
            continue
        if kind is not None:
            found.add((kind, start, i))
        opens = prefix == "B" or (prefix == "I" and not strict)
        kind, start = (name if opens else None), i
    return found


def score(gold: list[list[str]], predicted: list[list[str]]) -> dict[str, float]:
    """All scores of a split, flat, in 0-1; both sides are IOB2 tags, one list a sentence.

    Word-level, on the study's classes: macro and micro F1 with and without `O`, F1 a class
    (classes that occur on either side). Entity-level: precision, recall, F1, micro and a type,
    conlleval-style and `_strict`. What is undefined (0 / 0) is 0.
    """
    from sklearn.metrics import f1_score

    flat_gold = [word_class(tag) for tags in gold for tag in tags]
    flat_predicted = [word_class(tag) for tags in predicted for tag in tags]
    names = sorted({*flat_gold, *flat_predicted})
    types = [name for name in names if name != OUTSIDE]
    number = {name: i for i, name in enumerate(names)}
    y = ([number[name] for name in flat_gold], [number[name] for name in flat_predicted])
    found: dict[str, float] = {}
    for suffix, classes in (("", names), ("_without_o", types)):
        ids = [number[name] for name in classes]
        for average in ("macro", "micro"):
            value = f1_score(*y, labels=ids, average=average, zero_division=0) if ids else 0.0
            found[f"{average}_f1{suffix}"] = float(value)
    per_class = (
        f1_score(*y, labels=range(len(names)), average=None, zero_division=0) if y[0] else []
    )
    found |= {f"f1_{name}": float(f1) for name, f1 in zip(names, per_class, strict=True)}
    for suffix, strict in (("", False), ("_strict", True)):
        found |= _entity_scores(gold, predicted, strict, suffix)
    return found


def _entity_scores(gold, predicted, strict: bool, suffix: str) -> dict[str, float]:
    counts = {"gold": Counter(), "predicted": Counter(), "right": Counter()}
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        g, p = entities(gold_tags, strict), entities(predicted_tags, strict)
        for name, spans in (("gold", g), ("predicted", p), ("right", g & p)):
            counts[name].update(kind for kind, _, _ in spans)
    found = {}
    for kind in [None, *sorted({*counts["gold"], *counts["predicted"]})]:
        n = {k: c.total() if kind is None else c[kind] for k, c in counts.items()}
        name = suffix if kind is None else f"{suffix}_{kind}"
        found[f"entity_precision{name}"] = n["right"] / n["predicted"] if n["predicted"] else 0.0
        found[f"entity_recall{name}"] = n["right"] / n["gold"] if n["gold"] else 0.0
        both = n["predicted"] + n["gold"]
        found[f"entity_f1{name}"] = 2 * n["right"] / both if both else 0.0
    return found
