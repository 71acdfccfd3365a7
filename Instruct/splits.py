"""Which examples of a source are train, dev and test; and which of them are taken."""

import logging
import random
from collections import Counter

from common.cli import UserError
from common.subsample import permutation
from Instruct.labels import shown
from NER.scores import OUTSIDE

log = logging.getLogger(__name__)
SPLITS = ("train", "dev", "test")


def divide(source, seed: int) -> tuple[dict[str, list], str]:
    """({split: examples}, where the splits come from in words).

    Given splits stay, except that a source without dev gives a tenth of train. A source without
    splits (or with train only) is divided 80/10/10. A document is never divided.
    """
    given = {e.split for e in source.examples}
    divided = {split: [e for e in source.examples if e.split == split] for split in SPLITS}
    if given <= {None, "train"}:
        divided["train"], rest = cut(source.examples, 0.8, f"{seed}-{source.name}", others=2)
        divided["dev"], divided["test"] = cut(rest, 0.5, f"{seed}-{source.name}-dev")
        return divided, "80/10/10"
    if divided["train"] and not divided["dev"]:
        divided["train"], divided["dev"] = cut(divided["train"], 0.9, f"{seed}-{source.name}")
        return divided, "given; dev: a tenth of train"
    return divided, "given"


def cut(examples: list, share: float, key: str, others: int = 1) -> tuple[list, list]:
    """Two parts of whole documents, in the order given; the first has about `share`.

    The `others` smallest documents are left to the second part if the first took nearly all.
    """
    documents = sorted({e.document for e in examples})
    random.Random(key).shuffle(documents)
    sizes, first, n = Counter(e.document for e in examples), set(), 0
    for document in documents:
        if n + sizes[document] / 2 > share * len(examples):
            break
        first.add(document)
        n += sizes[document]
    smallest = sorted(first, key=lambda document: (sizes[document], document))
    first -= {*smallest[:-1][: max(0, others - (len(documents) - len(first)))]}
    parts = [[e for e in examples if (e.document in first) == inside] for inside in (True, False)]
    return parts[0], parts[1]


def check(source, divided: dict[str, list], how: str) -> None:
    """Raises UserError for an empty split, and for a label of a given split that train lacks."""
    for split in SPLITS:
        if not divided[split]:
            raise UserError(
                f"{source.files[0]}: source {source.name} has no {split} example "
                f"(splits: {how}). Give more examples, or the splits."
            )
    if source.kind == "free_qa" or not how.startswith("given"):
        return
    seen: dict[str, set] = {split: set() for split in SPLITS}
    for e in source.examples:
        gold = e.row["gold"]
        if source.kind == "ner":
            gold = [e.row["type"]] * any(tag != OUTSIDE for tag in gold)
        seen[e.split].update(gold if isinstance(gold, list) else [gold])
    for split in ("dev", "test"):
        unknown = sorted(seen[split] - seen["train"])
        if unknown and source.kind == "ner":  # a rare type, or a slip
            text = "source %s has entities of %s in %s, but none in train"
            log.warning(text, source.name, shown(unknown), split)
        elif unknown:
            raise UserError(
                f"{source.files[0]}: source {source.name} has {shown(unknown)} in {split} that "
                "train does not have. Leave out these examples, or divide the set again."
            )


def limited(examples: list, most: int | None, seed: int) -> list:
    """At most `most` of the examples, stratified by their answers, in their order."""
    if most is None or most >= len(examples):
        return examples
    return [examples[i] for i in sorted(permutation(list(map(stratum, examples)), seed)[:most])]


def stratum(example) -> str:
    """What `limited` stratifies by: the label(s); of NER the type and whether it occurs."""
    gold, kind = example.row["gold"], example.row.get("type")
    if kind:
        return f"{kind} {any(tag != OUTSIDE for tag in gold)}"
    return gold if isinstance(gold, str) else str(len(gold))


def mixed(rows: list[dict], seed: int) -> list[dict]:
    """The rows in a random order of which every prefix holds each source in proportion.

    So the first rows (attention's --max_examples) are of all sources.
    """
    return [rows[i] for i in permutation([row["source"] for row in rows], seed)]
