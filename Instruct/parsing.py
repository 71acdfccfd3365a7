r"""Answers as text: how each kind is written, and how what a model wrote is read.

Tokenizers do not keep every character: BioGPT's drops newlines and moves blanks (`yes , no` becomes
`yes, no`, `###` becomes `# # #`). So an answer is one line, and text is compared as `normal` has
it, labels as `plain` has them. First the strict form is tried, what `write_*` writes; then a
forgiving one. What cannot be read is `O` or no label. Where that is more than half of the words,
names or labels, the answer as a whole is a `parse_failure`.

The entity list `IL-2 gene ; CD28 @2` holds the names in their order; `@2` is the second time that
these words stand in the sentence, written where the order alone would find another place. `\`
stands before a `;`, `@` or `\` that belongs to a name.
"""

import difflib
import re

from Instruct.prompts import NONE, UNANSWERABLE
from NER.scores import OUTSIDE, entities

SEPARATOR = " ; "
# A tag of a word, `: B` or `: B-protein`, and what parts it from the next word. Before another
# colon it is the end of a word, as in `HLA:B : O`.
TAG = re.compile(r" ?: ?([bio])(?:-[^\s;,]*)?(?! ?:)(?=[ ;,.]|$) ?[;,.]? ?", re.IGNORECASE)
ESCAPED = re.compile(r"[\\;@]")
PIECE = re.compile(r"(?:\\.|[^;\\])+")
NUMBERED = re.compile(r"((?:\\.|[^\\])+)@(\d+)")  # not where the "@" belongs to the name
# Between letters, or a letter and a digit, "-" and "_" are as good as nothing: ...
JOINT = re.compile(r"(?<=[^\W\d_])[-_]+(?=[^\W_])|(?<=[^\W_])[-_]+(?=[^\W\d_])")
GAP = r"[\s_-]*"  # ... a label within a text may have them, or blanks, between any two
# What must not stand around it there: a part of the same word; of a number a sign, a decimal point.
BEFORE, AFTER = r"(?<![^\W_])(?<![^\W_][-_])", r"(?![-_]*[^\W_])(?![.,]\d)"
BEFORE_NUMBER = r"(?<![-+\u2212])(?<![-+\u2212]\s)(?<!\d[.,])"
# In the clause before it, of so many characters at most.
CLAUSE = 100
NEGATION = re.compile(r"(?:\b(?:not?|non|never|neither|nor|without|cannot)\b|n ?['\u2019] ?t\b)"
                      r"[^.,;:!?|]*$")  # fmt: skip


def normal(text: str) -> str:
    """Text without its blanks and capitals: what survives every tokenizer."""
    return "".join(text.split()).casefold()


# --- tags: `IL-2 : B ; gene : I ; expression : O` ------------------------------------------------


def write_tags(words: list[str], tags: list[str]) -> str:
    """The answer of an NER prompt: each word and the letter of its tag."""
    return SEPARATOR.join(f"{word} : {tag[0]}" for word, tag in zip(words, tags, strict=True))


def read_tags(text: str, words: list[str], kind: str) -> tuple[list[str], bool]:
    """IOB2 tags of type `kind` for `words`, and whether most words were left without one.

    The forgiving form aligns the words of the answer with those of the input by their order: a run
    of other words is taken for the words in whose place it stands if they are as many. Then words
    out of order go, one each, to the nearest place left that has the same word.
    """
    wanted = [normal(word) for word in words]
    letters = _strict_letters(normal(text), wanted) or _aligned_letters(text, wanted)
    tags = [OUTSIDE if letter in (None, "o") else f"{letter.upper()}-{kind}" for letter in letters]
    return tags, _most(letters.count(None), len(letters))


def _strict_letters(text: str, wanted: list[str]) -> list[str] | None:
    """The letters, if `text` (normal) is nothing but each word with one; else None."""
    letters, at = [], 0
    for i, word in enumerate(wanted):
        lead = f"{';' if i else ''}{word}:"
        letter = text[at + len(lead) : at + len(lead) + 1]
        if not text.startswith(lead, at) or letter not in ("b", "i", "o"):
            return None
        letters.append(letter)
        at += len(lead) + 1
    return letters if at == len(text) else None


def _aligned_letters(text: str, wanted: list[str]) -> list[str | None]:
    """A letter for each of the `wanted` words, or None."""
    parts = TAG.split(" ".join(text.replace("\n", " ; ").split()))
    # Before a tag stands its word, and maybe something else that was no word with a tag.
    found = [normal(part.rsplit("; ", 1)[-1]) for part in parts[0:-1:2]]
    pairs = list(zip(found, map(str.lower, parts[1::2]), strict=True))
    known = {*wanted}  # `HLA:B` is a word without a tag, where there is such a word and no `HLA`
    pairs = [p for p in pairs if p[0] in known or ":".join(p) not in known]
    found, given = [word for word, _ in pairs], [letter for _, letter in pairs]
    letters: list[str | None] = [None] * len(wanted)
    used = set()
    matcher = difflib.SequenceMatcher(None, wanted, found, autojunk=False)
    for what, i, end, j, stop in matcher.get_opcodes():
        if what == "equal" or (what == "replace" and end - i == stop - j):
            letters[i:end] = given[j:stop]
            used.update(range(j, stop))
    for j in (j for j in range(len(found)) if j not in used):
        places = [i for i, word in enumerate(wanted) if letters[i] is None and word == found[j]]
        if places:
            letters[min(places, key=lambda i: abs(i - j))] = given[j]
    return letters


# --- the list of entities ------------------------------------------------------------------------


def write_entities(words: list[str], tags: list[str]) -> str:
    """The answer of an NER prompt: the entities of `tags`, or "none"."""
    wanted, names, last = [normal(word) for word in words], [], 0
    for _, start, end in sorted(entities(tags), key=lambda span: span[1]):
        places = _places(wanted, "".join(wanted[start:end]))
        name = ESCAPED.sub(r"\\\g<0>", " ".join(words[start:end]))
        if next(p for p in places if p[0] >= last) != (start, end) or _letters(name) == NONE:
            name += f" @{places.index((start, end)) + 1}"
        names.append(name)
        last = end
    return SEPARATOR.join(names) or NONE


def read_entities(text: str, words: list[str], kind: str) -> tuple[list[str], bool]:
    """IOB2 tags of type `kind` for `words`, and whether most names are not in the sentence.

    A name is sought behind the one before it, then anywhere; a place is taken once.
    """
    wanted, tags, last = [normal(word) for word in words], [OUTSIDE] * len(words), 0
    pieces = PIECE.findall(normal(text.replace("\n", ";")))
    if len(pieces) == 1 and _letters(pieces[0]) == NONE:
        return tags, False
    lost = 0
    for piece in pieces:
        match = NUMBERED.fullmatch(piece)
        name, number = match.groups() if match else (piece, "")
        name = re.sub(r"\\(.)", r"\1", name)
        places = _places(wanted, name) or _places(wanted, name.removesuffix("."))
        free = [p for p in places if tags[p[0] : p[1]] == [OUTSIDE] * (p[1] - p[0])]
        chosen = [p for k, p in enumerate(places, 1) if str(k) == number and p in free]
        chosen += sorted(free, key=lambda p: (p[0] < last, p))
        if not chosen:
            lost += 1
            continue
        start, last = chosen[0]
        tags[start:last] = [f"B-{kind}"] + [f"I-{kind}"] * (last - start - 1)
    return tags, _most(lost, len(pieces))


def _most(lost: int, n: int) -> bool:
    """Whether more than half could not be read; or whether there was nothing."""
    return 2 * lost > n or not n


def _places(wanted: list[str], name: str) -> list[tuple[int, int]]:
    """Where the words of `name` (normal) stand among the words: (first, last + 1), in order."""
    found = []
    for start in range(len(wanted) if name else 0):
        end, joined = start, ""
        while end < len(wanted) and len(joined) < len(name):
            joined += wanted[end]
            end += 1
        if joined == name:
            found.append((start, end))
    return found


# --- labels --------------------------------------------------------------------------------------


def plain(text: str) -> str:
    """Text as labels are compared: `normal`, with "-", "_" and blanks alike, which is none of them.

    A sign and a range of numbers keep theirs, and so does a label of punctuation alone.
    """
    return JOINT.sub("", normal(text))


def read_label(text: str, labels: list[str]) -> tuple[str | None, bool]:
    """The one label that `text` is or, forgiving, that it holds; None, True if there is none.

    A label within a longer one that was found (AGONIST in AGONIST-ACTIVATOR) does not count. One
    that is negated ("not entailment") is not the answer, but what is remains unsaid.
    """
    by_text = {plain(label): label for label in labels}
    if (label := by_text.get(plain(text))) is not None:
        return label, False
    line, held, negated = " ".join(text.split()).casefold(), [], False
    for label in sorted(labels, key=len, reverse=True):
        inner = GAP.join(map(re.escape, re.findall(r"\d+|.", plain(label))))
        pattern = f"{BEFORE_NUMBER * label[0].isdigit()}{BEFORE}{inner}{AFTER}"
        found = [match.start() for match in re.finditer(pattern, line)]
        held += [label] * bool(found)
        negated |= any(NEGATION.search(line, max(0, at - CLAUSE), at) for at in found)
        line = re.sub(pattern, "|", line)
    return (held[0], False) if len(held) == 1 and not negated else (None, True)


def write_labels(labels: list[str]) -> str:
    """The answer of a prompt that may have several labels, or none."""
    return SEPARATOR.join(labels) or NONE


def read_labels(text: str, labels: list[str]) -> tuple[list[str], bool]:
    """The sorted labels that `text` lists, once each, and whether most of its parts are none."""
    line, known = text.replace("\n", ";"), {plain(label) for label in labels}
    by_comma = ";" not in line and not any("," in label for label in labels)
    parts = line.split("," if by_comma else ";")
    parts = [part for part in parts if _letters(part) or plain(part) in known]
    if len(parts) == 1 and _letters(parts[0]) == NONE and plain(parts[0]) not in known:
        return [], False
    found = [read_label(part, labels) for part in parts]
    read = [label for label, failed in found if not failed]
    return sorted({*read}), _most(len(found) - len(read), len(found))


def read_free(text: str) -> tuple[str, bool]:
    """A free answer without outer blanks, "" for "unanswerable"; an empty one is a failure."""
    answer = " ".join(text.split())
    return ("" if _letters(answer) == UNANSWERABLE else answer), not answer


def _letters(text: str) -> str:
    """Text without its blanks, capitals and punctuation."""
    return re.sub(r"[\W_]", "", text.casefold())


def read(text: str, row: dict, labels: list[str], ner_form: str = "tags"):
    """(prediction, parse_failure) of the answer `text` to an example, a row of the data set.

    The prediction: IOB2 tags of the prompt's one type, a label or None, a sorted list of labels,
    or the text of a free answer. `labels`: those of the row's source.
    """
    if row["kind"] == "ner":
        reader = {"tags": read_tags, "list": read_entities}[ner_form]
        return reader(text, row["input"].split(" "), row["type"])
    if row["kind"] == "classification":
        return read_labels(text, labels)
    return read_free(text) if row["kind"] == "free_qa" else read_label(text, labels)
