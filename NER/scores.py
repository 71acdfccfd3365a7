"""Scores of words and of entities: what seqeval reads out of IOB2 tags, counted by sentence."""

import functools

from common import scoring
from common.task import Score

OUTSIDE = "O"


def micro_f1_without_o(words):
    """Micro F1 of the entity types alone: `O` is the first class."""
    return scoring.micro_f1(words[..., 1:, :])


# Entity scores: as conlleval and seqeval's default, then seqeval's strict IOB2. Word scores: of the
# study's classes, `O` and the entity types; "micro F1" with `O` is the share of right words.
SCORES = (
    Score("entity_f1", "entities", scoring.micro_f1, "entity F1", by_layer=True),
    Score("entity_f1_strict", "strict", scoring.micro_f1, "entity F1, strict"),
    Score("macro_f1", "words", scoring.macro_f1, "macro F1 of words", by_layer=True),
    Score("micro_f1", "words", scoring.micro_f1, "micro F1 of words", by_layer=True),
    Score("micro_f1_without_o", "words", micro_f1_without_o, "micro F1 of words without O"),
)


def word_class(tag: str) -> str:
    """The study's class of a word: its entity type without B-/I-, or `O`."""
    return tag if tag == OUTSIDE else tag[2:]


def to_iob2(classes: list[str]) -> list[str]:
    """Entity types or `O` a word -> IOB2: a run of one type is one entity."""
    return [
        OUTSIDE if kind == OUTSIDE else f"{'I' if kind == last else 'B'}-{kind}"
        for last, kind in zip([OUTSIDE, *classes], classes, strict=False)
    ]


# Each layer's probe and each epoch is scored against the same gold tags, several times over.
@functools.lru_cache(maxsize=2**14)
def entities(tags: tuple[str, ...], strict: bool = False) -> frozenset[tuple[str, int, int]]:
    """The (type, first word, last word + 1) of each entity in a sentence's IOB2 tags.

    seqeval's default, which is conlleval's: an `I-` that continues nothing begins an entity.
    `strict`, seqeval's strict IOB2: only `B-` begins one.
    """
    from seqeval.metrics.sequence_labeling import get_entities
    from seqeval.scheme import IOB2, Entities

    if strict:
        places = [(entity.start, entity.end) for entity in Entities([tags], IOB2).entities[0]]
    else:
        places = [(first, last + 1) for _, first, last in get_entities(list(tags))]
    # The type is read from the tag: seqeval takes hyphens off its ends and renames an empty one.
    return frozenset((word_class(tags[start]), start, end) for start, end in places)


def invalid(tags: list[str]) -> int:
    """How many runs of a sentence begin with an `I-` that continues no entity of its type."""
    pairs = zip([OUTSIDE, *tags], tags, strict=False)
    return sum(tag[:2] == "I-" and before[2:] != tag[2:] for before, tag in pairs)


def classes(rows: list[dict]) -> list[str]:
    """`O`, and the entity types in order. Raises ValueError if rows have no tags of words."""
    tags = {tag for row in rows for tag in (*row["gold"], *row["predicted"])}
    valid = all(tag == OUTSIDE or tag[:2] in ("B-", "I-") for tag in tags)
    if not valid or any(len(row["gold"]) != len(row["predicted"]) for row in rows):
        raise ValueError("not all rows have gold and predicted IOB2 tags of the same words")
    return [OUTSIDE, *sorted({word_class(tag) for tag in tags} - {OUTSIDE})]


def count(rows: list[dict]) -> dict:
    """[sentences, classes, 3] = right, predicted, gold: of words, of entities, of strict ones."""
    names = classes(rows)
    read = {
        "words": lambda tags: {(word_class(tag), i) for i, tag in enumerate(tags)},
        "entities": entities,
        "strict": functools.partial(entities, strict=True),
    }
    tables = {}
    for table, items in read.items():
        sides = [[items(tuple(row[side])) for row in rows] for side in ("gold", "predicted")]
        tables[table] = scoring.count(sides, names if table == "words" else names[1:])
    return tables


def details(rows: list[dict]) -> dict[str, float]:
    """Precision and recall of entities, all three scores a type; words' F1; the IO ceiling.

    The ceiling is the entity F1 of perfect predictions without B-/I-: adjacent entities of a type
    become one.
    """
    names = classes(rows)
    totals = {table: counts.sum(0) for table, counts in count(rows).items()}
    merged = [to_iob2([word_class(tag) for tag in row["gold"]]) for row in rows]
    ideal = [row | {"predicted": tags} for row, tags in zip(rows, merged, strict=True)]
    values = {
        "macro_f1_without_o": scoring.macro_f1(totals["words"][1:]),
        "entity_f1_io_ceiling": scoring.micro_f1(count(ideal)["entities"].sum(0)),
        "invalid_entities": sum(invalid(row["predicted"]) for row in rows),
    }
    for name, own in zip(names, totals["words"], strict=True):
        if own.any():
            values[f"f1_{name}"] = scoring.f1(own)
    for table, suffix in (("entities", ""), ("strict", "_strict")):
        for part in (scoring.precision, scoring.recall, scoring.f1):
            key = f"entity_{part.__name__}{suffix}"
            if part is not scoring.f1:  # it is one of `SCORES`
                values[key] = part(totals[table].sum(0))
            for name, own in zip(names[1:], totals[table], strict=True):
                if own.any():
                    values[f"{key}_{name}"] = part(own)
    return {name: float(value) for name, value in values.items()}
