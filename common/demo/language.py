"""The demo's language: small seeded grammars that write general and biomedical text.

`text` writes unlabelled lines for pre-training; a task's `demo_data.py` builds on `chunks` and
`statement`. Names and values (genes, cell lines, drugs, laboratory values) fall into three pools,
so that no name of a test split occurs in its train split; unlabelled text draws from all of them.
A line about a person is a statement, a remark on it, and a note whether the remark is right: many
of them make a small model able to compare two sentences.
"""

import random
import zlib
from collections.abc import Callable, Iterator

POOLS = ("train", "dev", "test")


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


ENTITIES = ("DNA", "RNA", "protein", "cell_type", "cell_line")
SENTENCES = """\
{protein} {binds} the {DNA} in {cells} .
{protein} {binds} {protein} and {changes} the transcription of the {DNA} .
The {DNA} contains a binding site for {protein} .
Transcription of the {DNA} is {changed} by {protein} in {cells} .
{compound} {changed} the level of {RNA} in {cells} .
{RNA} was detected by {assay} in {cells} but not in {cells} .
{cells} were treated with {agent} and examined by {assay} .
Phosphorylation of {protein} was {changed} in {cells} .
Expression of {product} was {changed} when {cells} were stimulated with {agent} .
{product} is expressed in {cells} and {changed} by {agent} .
We cloned the {DNA} and measured {RNA} by {assay} .
{assay} showed that {agent} {changes} {product} in {cells} .
Mutation of the {DNA} {changed} the response of {cells} to {agent} .
{protein} forms a complex with {protein} in the nucleus of {cells} .
These results suggest that {product} {changes} the growth of {cells} .
Stable {RNA} accumulated after {agent} was removed ."""
PARTS = """\
cells: {cell_type}, {cell_line}
agent: {protein}, {compound}
product: {protein}, {protein}, {DNA}, {RNA}
binds: binds, interacts with, associates with, recognizes
changes: activates, inhibits, enhances, represses, regulates
changed: activated, inhibited, enhanced, reduced, induced, abolished
assay: PCR, ELISA, Western blot, flow cytometry, Northern blot
compound: {code}, {code}, {drug}, LPS, PMA, DMSO
protein: {gene}, {gene}, {gene}, {gene} protein, {gene} kinase, {gene} receptor, \
transcription factor {gene}, recombinant {gene}, anti-{gene} antibody, interleukin-{n}
DNA: {gene}, {gene} gene, {gene} promoter, {gene} enhancer, {gene} locus, human {gene} gene, \
{gene} binding site, interleukin-{n} gene
RNA: {gene} mRNA, {gene} mRNA, {gene} transcripts, {gene} messenger RNA, interleukin-{n} mRNA
cell_type: {state} {lineage}, {lineage}, {gene}+ {lineage}, human {lineage}
state: activated, primary, resting, naive, peripheral blood
lineage: T cells, B cells, monocytes, macrophages, lymphocytes, neutrophils, fibroblasts, \
endothelial cells, T lymphocytes
cell_line: {code}, {code} cells, {code} cells, {code} cell line, human {code} cells, \
{code} T cells"""
MOLECULAR = {"S": SENTENCES.splitlines(), "n": [str(n) for n in range(1, 24)]}
MOLECULAR |= {"gene": gene, "code": code, "drug": drug}
MOLECULAR |= {name: rule.split(", ") for name, rule in (x.split(": ") for x in PARTS.splitlines())}


def chunks(
    rng: random.Random, symbol: str = "S", pool: str | None = None
) -> Iterator[tuple[list[str], str | None]]:
    """Write one molecular-biology sentence: (words, entity type or None) from left to right."""
    rule = MOLECULAR[symbol]
    for part in (draw(rng, rule, pool) if callable(rule) else rng.choice(rule)).split():
        before, brace, rest = part.partition("{")
        if not brace:
            yield [part], None
            continue
        inner, _, after = rest.partition("}")
        inside = list(chunks(rng, inner, pool))
        inside[0][0][0] = before + inside[0][0][0]
        inside[-1][0][-1] += after
        if inner in ENTITIES:
            yield [word for words, _ in inside for word in words], inner
        else:
            yield from inside


# Of each state: the adjective for who has it, the one for who has not, and a noun for it.
STATES = {
    "biomedical": "febrile afebrile fever, icteric anicteric jaundice, somnolent alert drowsiness, "
    "incontinent continent leakage, diabetic normoglycemic hyperglycemia, "
    "hypertensive normotensive hypertension, dyspneic eupneic dyspnea, "
    "delirious oriented confusion, diaphoretic dry sweating, edematous euvolemic swelling",
    "general": "rich poor money, married single spouse, employed jobless work, "
    "bearded shaven whiskers, famous obscure renown, lucky hapless fortune, brave timid courage, "
    "merry gloomy joy, tired rested weariness, learned ignorant knowledge",
}
LABS = {  # low and high values
    "potassium": (lambda r: f"{r.uniform(2.1, 3.3):.1f}", lambda r: f"{r.uniform(5.3, 6.9):.1f}"),
    "sodium": (lambda r: str(r.randint(115, 129)), lambda r: str(r.randint(150, 165))),
    "glucose": (lambda r: str(r.randint(31, 58)), lambda r: str(r.randint(210, 480))),
    "hemoglobin": (lambda r: f"{r.uniform(5, 9):.1f}", lambda r: f"{r.uniform(18, 21):.1f}"),
    "calcium": (lambda r: f"{r.uniform(5, 7.5):.1f}", lambda r: f"{r.uniform(11, 15):.1f}"),
    "temperature": (lambda r: f"{r.uniform(33, 35):.1f}", lambda r: f"{r.uniform(38.5, 41):.1f}"),
}
PRICES = {
    name: (lambda r: str(r.randint(2, 19)), lambda r: str(r.randint(500, 990)))
    for name in ("bread", "ticket", "room", "meal", "book", "chair")
}
PEOPLE = "Anna Ben Clara David Emma Felix Grace Henry Iris Jack Laura Martin".split()
GOODS = "apples pears plums grapes lemons beans onions carrots nuts melons figs cherries".split()
LISTS = {
    "biomedical": ("Tests show {} {} and {} {} .", "Laboratory values : {} {} , {} {} ."),
    "general": ("Prices show {} {} and {} {} .", "Shop list : {} {} , {} {} ."),
}


def statement(
    rng: random.Random, domain: str = "biomedical", pool: str | None = None
) -> tuple[str, dict[str, str]]:
    """A statement, and remarks that it makes certain, that it rules out, and that it leaves open.

    The three share their wording, so that a remark alone does not tell its verdict.
    """
    clinical = domain == "biomedical"
    who = about = "Miss " + rng.choice(PEOPLE)
    if clinical:
        who = rng.choice(["The man", "The woman", "The patient", "This patient"])
        about = "The patient"
    kind = rng.choice(["state"] * 3 + ["value", "choice"])
    if kind == "state":
        states = [state.split() for state in STATES[domain].split(", ")]
        yes, no, other = rng.sample(states, 3)
        shown = [yes[0], no[1]]
        rng.shuffle(shown)
        said = f"{who} is {shown[0]} {rng.choice(['and', 'but', 'yet'])} {shown[1]} ."
        yes, no, other = yes[2], no[2], other[2]
        remark = f"{about} has {{}} ."
    elif kind == "value":
        ranges = LABS if clinical else PRICES
        yes, no, other = rng.sample(sorted(ranges), 3)
        high, low = draw(rng, ranges[yes][1], pool), draw(rng, ranges[no][0], pool)
        said = rng.choice(LISTS[domain]).format(yes, high, no, low)
        remark = "The {} is elevated ." if clinical else "The {} is dear ."
    else:
        verb, names = "takes" if clinical else "keeps", []
        while len(set(names)) < 3:
            names.append(draw(rng, drug, pool) if clinical else rng.choice(GOODS))
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
