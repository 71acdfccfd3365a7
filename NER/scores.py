"""Word-level and entity-level scores of tag sequences (IOB2 strings), from counts by sentence."""

from typing import TYPE_CHECKING

from common import scoring
from common.task import Score

if TYPE_CHECKING:
    from numpy import ndarray

OUTSIDE = "O"


def without_o(totals: "ndarray") -> "ndarray":
    """The words' counts of the entity types alone: `O` is the first class."""
    return totals[..., 1:, :]


# Entity-level: as conlleval and seqeval's default, then as its strict IOB2. Word-level: on the
# study's classes, `O` and the entity types; "micro F1" with `O` is the share of right words.
SCORES = (
    Score("entity_f1", "entities", scoring.micro_f1, "entity F1", by_layer=True),
    Score("entity_f1_strict", "strict", scoring.micro_f1, "entity F1, strict"),
    Score("macro_f1", "words", scoring.macro_f1, "macro F1 of words", by_layer=True),
    Score("micro_f1", "words", scoring.micro_f1, "micro F1 of words", by_layer=True),
    Score("micro_f1_without_o", "words", lambda t: scoring.micro_f1(without_o(t)),
          "micro F1 of words without O"),
)  # fmt: skip


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


def sides(rows: list[dict]) -> list[list[list[str]]]:
    """Gold and predicted tags of rows of predictions.jsonl. Raises ValueError if they are none."""
    try:
        found = [[row[side] for row in rows] for side in ("gold", "predicted")]
        lengths = [[len(tags) for tags in side if isinstance(tags, list)] for side in found]
    except (KeyError, TypeError):
        lengths = [[], [None]]
    if lengths[0] != lengths[1] or len(lengths[0]) != len(rows):
        raise ValueError("not all rows have gold and predicted tags of the same words")
    return found


def classes(both: list[list[list[str]]]) -> list[str]:
    """`O`, and the entity types that occur on either side, in order."""
    tags = {tag for side in both for sentence in side for tag in sentence}
    return [OUTSIDE, *sorted({word_class(tag) for tag in tags} - {OUTSIDE})]


def count(rows: list[dict]) -> dict[str, "ndarray"]:
    """[sentences, classes, 3] = right, predicted, gold: of entities, strict ones, and words."""
    both = sides(rows)
    names = classes(both)
    words = [[{(word_class(t), i) for i, t in enumerate(tags)} for tags in side] for side in both]
    found = {"words": scoring.count(words, names)}
    for table, strict in (("entities", False), ("strict", True)):
        spans = [[entities(tags, strict) for tags in side] for side in both]
        found[table] = scoring.count(spans, names[1:])
    return found


def io_ceiling(gold: list[list[str]]) -> float:
    """Entity F1 of perfect predictions without B-/I-: adjacent entities of a type become one."""
    merged = [to_iob2([word_class(tag) for tag in tags]) for tags in gold]
    spans = [[entities(tags) for tags in side] for side in (gold, merged)]
    return float(scoring.micro_f1(scoring.count(spans, classes([gold])[1:]).sum(0)))


def details(rows: list[dict]) -> dict[str, float]:
    """Precision and recall of entities, all three scores a type; words' F1; the IO ceiling."""
    tables = {name: table.sum(0) for name, table in count(rows).items()}
    both = sides(rows)
    names = classes(both)
    found = {"macro_f1_without_o": scoring.macro_f1(without_o(tables["words"])),
             "entity_f1_io_ceiling": io_ceiling(both[0])}  # fmt: skip
    for name, totals in zip(names, tables["words"], strict=True):
        if totals.any():
            found[f"f1_{name}"] = scoring.f1(totals)
    parts = {"precision": scoring.precision, "recall": scoring.recall, "f1": scoring.f1}
    for table, suffix in (("entities", ""), ("strict", "_strict")):
        for part in ("precision", "recall"):
            found[f"entity_{part}{suffix}"] = parts[part](tables[table].sum(0))
        for name, totals in zip(names[1:], tables[table], strict=True):
            if totals[1:].any():
                found |= {f"entity_{p}{suffix}_{name}": of(totals) for p, of in parts.items()}
    return {name: float(value) for name, value in found.items()}
