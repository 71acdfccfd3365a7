"""The demo's language: a small seeded grammar that writes general and biomedical text.

The words stand in language.json. `text` writes unlabelled lines for pre-training; a task's
`demo_data.py` builds on `chunks` and `statement`. Names and values (genes, cell lines, drugs,
laboratory values) fall into three pools, so that no name of a test split occurs in its train split;
unlabelled text draws from all of them. A line about a person is a statement, a remark on it, and a
note whether the remark is right: many of them make a small model able to compare two sentences.
"""

import json
import random
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

POOLS = ("train", "dev", "test")
WORDS = Path(__file__).with_name("language.json")


def draw(rng: random.Random, make: Callable[[random.Random], str], pool: str | None) -> str:
    """A name from `make` that belongs to `pool` (None: any); its spelling alone says to which."""
    while True:
        name = make(rng)
        if pool is None or POOLS[zlib.crc32(name.encode()) % 3] == pool:
            return name


def gene(rng: random.Random) -> str:
    """Such as NFK-B12."""
    letters = "".join(rng.choice("ABCDFGHIKLMNPRSTX") for _ in range(rng.randint(2, 3)))
    return letters + rng.choice(["", "", "-", "R"]) + str(rng.randint(1, 39))


def code(rng: random.Random) -> str:
    """A cell line's name or a compound's number: of one shape, so that only the context tells."""
    letters = "".join(rng.choice("BCEHJKMPRTUW") for _ in range(rng.randint(1, 3)))
    return letters + rng.choice(["-", ""]) + str(rng.randint(20, 999))


def drug(rng: random.Random) -> str:
    """Such as bastatin."""
    start = rng.choice("ba ce do fi ga lo me ni pa ra su te vi za".split())
    return start + rng.choice("pril olol statin azole micin zepam".split())


def between(ends: list) -> Callable[[random.Random], str]:
    """What writes a number between two ends: a whole one, or one with a digit after the point."""
    if isinstance(ends[0], int):
        return lambda rng: str(rng.randint(*ends))
    return lambda rng: f"{rng.uniform(*ends):.1f}"


SAID = json.loads(WORDS.read_text(encoding="utf-8"))
RULES = SAID["rules"] | {"n": [str(n) for n in range(1, 24)]}
RANGES = {  # by domain: of each thing that is measured, or sold, low and high values
    domain: {name: tuple(map(between, ends)) for name, ends in SAID[domain]["ranges"].items()}
    for domain in ("biomedical", "general")
}
LABS = RANGES["biomedical"]
NAMES = {"gene": gene, "code": code, "drug": drug}
ENTITIES = ("DNA", "RNA", "protein", "cell_type", "cell_line")


def _written(rng: random.Random, symbol: str, pool: str | None) -> str:
    """The text of a rule; an entity is one piece, its type and its words: cell_line|HL-60~cells."""
    if symbol in NAMES:
        return draw(rng, NAMES[symbol], pool)
    rule = rng.choice(RULES[symbol])
    text = re.sub(r"{(\w+)}", lambda part: _written(rng, part[1], pool), rule)
    return f"{symbol}|{text.replace(' ', '~')}" if symbol in ENTITIES else text


def chunks(
    rng: random.Random, symbol: str = "S", pool: str | None = None
) -> Iterator[tuple[list[str], str | None]]:
    """Write one molecular-biology sentence: (words, entity type or None) from left to right."""
    for piece in _written(rng, symbol, pool).split():
        kind, _, words = piece.rpartition("|")
        yield words.split("~"), kind or None


def statement(
    rng: random.Random, domain: str = "biomedical", pool: str | None = None
) -> tuple[str, dict[str, str]]:
    """A statement, and remarks that it makes certain, that it rules out, and that it leaves open.

    The three share their wording, so that a remark alone does not tell its verdict.
    """
    words, clinical = SAID[domain], domain == "biomedical"
    who = about = "Miss " + rng.choice(SAID["people"])
    if clinical:
        who = rng.choice(["The man", "The woman", "The patient", "This patient"])
        about = "The patient"
    kind = rng.choice(["state"] * 3 + ["value", "choice"])
    if kind == "state":  # the adjective for who has it, the one for who has not, and a noun for it
        yes, no, other = rng.sample(words["states"], 3)
        shown = [yes[0], no[1]]
        rng.shuffle(shown)
        said = f"{who} is {shown[0]} {rng.choice(['and', 'but', 'yet'])} {shown[1]} ."
        yes, no, other = yes[2], no[2], other[2]
        remark = f"{about} has {{}} ."
    elif kind == "value":
        ranges = RANGES[domain]
        yes, no, other = rng.sample(sorted(ranges), 3)
        high, low = draw(rng, ranges[yes][1], pool), draw(rng, ranges[no][0], pool)
        said = rng.choice(words["lists"]).format(yes, high, no, low)
        remark = words["high"]
    else:
        verb, names = words["verb"], []
        while len(set(names)) < 3:
            names.append(draw(rng, drug, pool) if clinical else rng.choice(SAID["goods"]))
        yes, no, other = dict.fromkeys(names)
        said = f"{who} {verb} {yes} {rng.choice(['without', 'not'])} {no} ."
        remark = f"{about} {verb} {{}} ."
    verdicts = {"certain": yes, "excluded": no, "open": other}
    return said, {verdict: remark.format(what) for verdict, what in verdicts.items()}


VERDICTS = {"certain": "Right", "excluded": "Wrong", "open": "Unknown"}
MOLECULAR_SHARE = 0.35  # of molecular biology in biomedical text
GENERAL_CLINICAL = 0.08  # of biomedical lines in general text (the web has some, too), ...
RARELY = 0.25  # ... where molecular biology is rarer still


def text(domain: str, n: int, seed: int) -> list[str]:
    """`n` unlabelled lines of "general" or "biomedical" text; words are separated by spaces."""
    rng = random.Random(f"{domain}-{seed}")
    lines = []
    for _ in range(n):
        here, molecular = domain, MOLECULAR_SHARE * (domain == "biomedical")
        if domain == "general" and rng.random() < GENERAL_CLINICAL:
            here, molecular = "biomedical", MOLECULAR_SHARE * RARELY
        if rng.random() < molecular:
            lines.append(" ".join(word for words, _ in chunks(rng) for word in words))
        else:
            said, remarks = statement(rng, here)
            verdict = rng.choice(sorted(remarks))
            lines.append(f"{said} {remarks[verdict]} {VERDICTS[verdict]}")
    return lines
