"""The demo's relations: what the marked first name of a sentence does to the marked second one."""

import random

from common.demo.language import POOLS, draw, gene

SENTENCES = {"train": 1000, "dev": 150, "test": 300}
# What is written of each relation between the first name and the second.
WORDS = {
    "activates": ("{} activates {}", "{} enhances {}", "{1} is activated by {0}"),
    "inhibits": ("{} inhibits {}", "{} represses {}", "{1} is inhibited by {0}"),
}
NONE = "none"  # of names from two such statements
FORMS = ("{} .", "{} .", "{} and {} .", "{} but {} .", "These results suggest that {} and {} .")


def splits(seed: int = 0) -> dict[str, list[dict[str, str]]]:
    """Rows by split, `id`, `text` and `label`. Test's names are in no train sentence."""
    return {split: _rows(split, random.Random(f"relations-{split}-{seed}")) for split in POOLS}


def _rows(split: str, rng: random.Random) -> list[dict[str, str]]:
    rows = []
    for i in range(SENTENCES[split]):
        names: dict[str, None] = {}
        while len(names) < 4:
            names[draw(rng, gene, split)] = None
        relations, (a, b, c, d) = rng.sample(sorted(WORDS), 2), names
        form = rng.choice(FORMS)
        pairs = ((a, b), relations[0]), ((c, d), relations[1]), ((a, d), NONE), ((a, d), NONE)
        pair, label = pairs[0] if form == FORMS[0] else rng.choice(pairs)
        marked = dict(zip(pair, ("<< {} >>", "[[ {} ]]"), strict=True))
        shown = [marked.get(name, "{}").format(name) for name in (a, b, c, d)]
        said = [rng.choice(WORDS[relation]) for relation in relations]
        text = form.format(said[0].format(*shown[:2]), said[1].format(*shown[2:]))
        rows.append({"id": f"demo-{split}-{i}", "text": text, "label": label})
    return rows
