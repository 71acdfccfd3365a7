"""Control labels for tasks with one label a text: a word of the text decides (Hewitt & Liang 2019).

A probe that only reads which words a text has can learn them, on test too; they say nothing about
the task.
"""

import logging
import random
import re
from collections import Counter

DRAWS = 5  # of the labels: one draw alone is a lottery ticket
LEAST = 10  # training texts that have a word which may decide; and words that should
log = logging.getLogger(__name__)


def by_rarest_word(
    texts: dict[str, list[str]], labels: list, seed: int, draws: int = DRAWS
) -> list[dict[str, list]]:
    """[{split: a label a text} of each draw].

    The rarest of a text's words decides, among those that at least `LEAST` training texts have;
    all texts without such a word share a label. Each word's label is drawn from `labels`, those of
    the training texts.
    """
    words = {split: [set(re.findall(r"\w+", text.lower())) for text in own]
             for split, own in texts.items()}  # fmt: skip
    counts = Counter(word for own in words["train"] for word in own)
    known = {word for word, n in counts.items() if n >= LEAST}

    def decider(own: set[str]) -> str:
        return min(own & known, key=lambda word: (counts[word], word), default="")

    deciders = {split: list(map(decider, own)) for split, own in words.items()}
    vocabulary, drawn = sorted({word for own in deciders.values() for word in own}), []
    if len(vocabulary) < LEAST:
        few = "only %d words decide the control labels: the selectivity will say little"
        log.warning(few, len(vocabulary))
    for n in range(draws):
        chosen = random.Random(f"{seed}-{n}").choices(sorted(labels), k=len(vocabulary))
        label = dict(zip(vocabulary, chosen, strict=True))
        drawn.append({split: [label[word] for word in own] for split, own in deciders.items()})
    return drawn
