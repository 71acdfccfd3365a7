r"""Answers as text: how each kind is written, and how a model's answer is read.

Tokenizers do not keep every character: BioGPT's drops newlines and moves blanks (`yes , no` becomes
`yes, no`). So an answer is one line, and text is compared as `normal`, labels as `plain`. The
strict form of `write_*` is tried first, then a forgiving one. What is not read is `O` or no label.
If that is more than half, the answer is a `parse_failure`.

The entity list `IL-2 gene ; CD28 @2` has the names in their order. `@2`, their second place in the
sentence, stands where the order alone would give another one, and after punctuation, which is the
list's otherwise. A `\` stands before `;`, `,`, `@`, `\` in a name. Without a `;` commas divide.
"""

import difflib
import re
import unicodedata
from itertools import accumulate

from Instruct.prompts import NONE, UNANSWERABLE
from NER.scores import OUTSIDE, entities

SEPARATOR = " ; "
# A word's tag, `: B` or `: B-protein`, and what separates it from the next word. Before another
# colon it is the end of a word, as in `HLA:B : O`.
TAG = re.compile(r" ?: ?([bioBIO])(?:-[^\s;,]*)?(?! ?:)(?=[ ;,.]|$) ?[;,.]? ?")
ESCAPED = re.compile(r"[\\;,@]")
PIECE, BY_COMMA = re.compile(r"(?:\\.|[^;\\])+"), re.compile(r"(?:\\.|[^,\\])+")
NUMBERED = re.compile(r"((?:\\.|[^\\])+)@(\d+)")  # not where the "@" belongs to the name
# A name that is listed with a number or dash, quotes, or a full stop.
LISTED = re.compile(r"(?:\(?\d+[.)]|[-*\u2022])?[\"'\u201c\u2018]*(.+?)[\"'\u201d\u2019]*\.?")
# "-" and "_" between letters, or between a letter and a digit, count as nothing. ...
JOINT = re.compile(r"(?<=[^\W\d_])[-_]+(?=[^\W_])|(?<=[^\W_])[-_]+(?=[^\W\d_])")
GAP = r"[\s_-]*"  # ... So a label within a text may have them, or blanks, between any characters.
# What must not stand around it: a part of the same word; around a number a sign or decimal point.
BEFORE, AFTER = r"(?<![^\W_])(?<![^\W_][-_])", r"(?![-_]*[^\W_])(?![.,]\d)"
BEFORE_NUMBER = r"(?<![-+\u2212])(?<![-+\u2212]\s)(?<!\d[.,])"
CLAUSE = 100  # characters before a label, at most, in which a negation counts
NEGATION = re.compile(r"(?:\b(?:not?|non|never|neither|nor|without|cannot)\b|n ?['\u2019] ?t\b)"
                      r"[^.,;:!?|]*$")  # fmt: skip


def normal(text: str, between: str = "") -> str:
    """Composed text (NFC) without blanks and capitals: what survives every tokenizer.

    `between`: what stands in place of blanks.
    """
    return between.join(unicodedata.normalize("NFC", text).split()).casefold()


def letters_of(text: str) -> str:
    """`normal` text without punctuation."""
    return re.sub(r"[\W_]", "", normal(text))


def most(lost: int, n: int) -> bool:
    """Whether more than half could not be read, or there was nothing to read."""
    return 2 * lost > n or not n


def plain(text: str) -> str:
    """`normal` text without "-" and "_" but in signs, ranges of numbers and mere punctuation."""
    return JOINT.sub("", normal(text))


def write_tags(words: list[str], tags: list[str]) -> str:
    """The answer of an NER prompt, each word and its tag: `IL-2 : B ; gene : I ; binds : O`."""
    return SEPARATOR.join(f"{word} : {tag[0]}" for word, tag in zip(words, tags, strict=True))


def read_tags(text: str, words: list[str], kind: str) -> tuple[list[str], bool]:
    """IOB2 tags of type `kind` for `words`, and whether most words got no tag."""
    wanted = [normal(word) for word in words]
    letters = _strict_letters(normal(text), wanted) or _aligned_letters(text, wanted)
    tags = [OUTSIDE if letter in (None, "o") else f"{letter.upper()}-{kind}" for letter in letters]
    return tags, most(letters.count(None), len(letters))


def _strict_letters(text: str, wanted: list[str]) -> list[str] | None:
    """The letters, if `text` (normal) is only each word with its letter; else None."""
    ends = accumulate(len(word) + len(":O;") for word in wanted)
    letters = [text[end - 2 : end - 1] for end in ends]
    whole = ";".join(f"{word}:{letter}" for word, letter in zip(wanted, letters, strict=True))
    return letters if whole == text and {*letters} <= {"b", "i", "o"} else None


def _aligned_letters(text: str, wanted: list[str]) -> list[str | None]:
    """A letter for each of the `wanted` words, or None: they are aligned by their order.

    A run of other words counts as those that it replaces if they are as many. Then a word out of
    order goes to the nearest place that is left and has the same word.
    """
    parts = TAG.split(" ".join(text.replace("\n", " ; ").split()))
    # Before a tag stands its word, and perhaps something else without a tag.
    words = [normal(part.rsplit("; ", 1)[-1]) for part in parts[0:-1:2]]
    pairs = list(zip(words, map(str.lower, parts[1::2]), strict=True))
    known = {*wanted}  # `HLA:B` is a word without a tag if there is such a word and no `HLA`
    pairs = [p for p in pairs if p[0] in known or ":".join(p) not in known]
    words, given = [word for word, _ in pairs], [letter for _, letter in pairs]
    letters: list[str | None] = [None] * len(wanted)
    unused = {*range(len(words))}
    matcher = difflib.SequenceMatcher(None, wanted, words, autojunk=False)
    for what, i, end, j, stop in matcher.get_opcodes():
        if what == "equal" or (what == "replace" and end - i == stop - j):
            letters[i:end] = given[j:stop]
            unused -= {*range(j, stop)}
    for j in sorted(unused):
        places = [i for i, word in enumerate(wanted) if letters[i] is None and word == words[j]]
        if places:
            letters[min(places, key=lambda i: abs(i - j))] = given[j]
    return letters


def write_entities(words: list[str], tags: list[str]) -> str:
    """The answer of an NER prompt: the entities of `tags`, or "none"."""
    wanted, names, last = [normal(word) for word in words], [], 0
    for _, start, end in sorted(entities(tuple(tags)), key=lambda span: span[1]):
        places = _places(wanted, "".join(wanted[start:end]))
        name = ESCAPED.sub(r"\\\g<0>", " ".join(words[start:end]))
        first = next(p for p in places if p[0] >= last)
        if first != (start, end) or name[-1] == "." or letters_of(name) in (NONE, ""):
            name += f" @{places.index((start, end)) + 1}"
        names.append(name)
        last = end
    return SEPARATOR.join(names) or NONE


def read_entities(text: str, words: list[str], kind: str) -> tuple[list[str], bool]:
    """IOB2 tags of type `kind` for `words`, and whether most names are not in the sentence.

    A name is searched after the one before it, then anywhere. A place counts once.
    """
    wanted, tags, last, lost = [normal(word) for word in words], [OUTSIDE] * len(words), 0, 0
    names = PIECE.findall(normal(text.replace("\n", ";")))
    if len(names) == 1 and letters_of(names[0]) == NONE:
        return tags, False
    names = BY_COMMA.findall(names[0]) if len(names) == 1 else names
    names = [name for name in names if letters_of(name)]
    for name in names:
        match = NUMBERED.fullmatch(name)
        name, number = match.groups() if match else (name, "")
        name = re.sub(r"\\(.)", r"\1", name)
        forms = name if number else name.removesuffix("."), name, LISTED.fullmatch(name)[1]
        places = next(filter(None, (_places(wanted, form) for form in forms)), [])
        free = [p for p in places if tags[p[0] : p[1]] == [OUTSIDE] * (p[1] - p[0])]
        chosen = [p for k, p in enumerate(places, 1) if str(k) == number and p in free]
        chosen += sorted(free, key=lambda p: (p[0] < last, p))
        if not chosen:
            lost += 1
            continue
        start, last = chosen[0]
        tags[start:last] = [f"B-{kind}"] + [f"I-{kind}"] * (last - start - 1)
    return tags, most(lost, len(names))


def _places(wanted: list[str], name: str) -> list[tuple[int, int]]:
    """Where the words of `name` (normal) stand among the words: (first, last + 1), in order."""
    text, numbers = "".join(wanted), range(len(wanted) + 1)
    word = dict(zip(accumulate(map(len, wanted), initial=0), numbers, strict=True))  # by character
    starts = [start for start in word if name and text.startswith(name, start)]
    return [(word[a], word[a + len(name)]) for a in starts if a + len(name) in word]


def read_label(text: str, labels: list[str]) -> tuple[str | None, bool]:
    """(The one label that `text` is, or else contains, False); (None, True) if there is none.

    A label within a longer label of the text (AGONIST in AGONIST-ACTIVATOR) does not count. A
    negated label ("not entailment") does not say what the answer is.
    """
    by_text = {plain(label): label for label in labels}
    if (label := by_text.get(plain(text))) is not None:
        return label, False
    line, held, negated = normal(text, " "), [], False
    for label in sorted(labels, key=len, reverse=True):
        inner = GAP.join(map(re.escape, re.findall(r"\d+|.", plain(label))))
        pattern = f"{BEFORE_NUMBER * label[0].isdigit()}{BEFORE}{inner}{AFTER}"
        end = 0  # of the match before: "no no" does not negate itself
        for match in re.finditer(pattern, line):
            before = max(end, match.start() - CLAUSE)
            negated |= bool(NEGATION.search(line, before, match.start()))
            end = match.end()
        held += [label] * (end > 0)
        line = re.sub(pattern, "|", line)
    return (held[0], False) if len(held) == 1 and not negated else (None, True)


def read_labels(text: str, labels: list[str]) -> tuple[list[str], bool]:
    """The sorted labels that `text` lists, once each; whether most of its parts are no label."""
    line, known = text.replace("\n", ";"), {plain(label) for label in labels}
    by_comma = ";" not in line and not any("," in label for label in labels)
    parts = line.split("," if by_comma else ";")
    parts = [part for part in parts if letters_of(part) or plain(part) in known]
    if len(parts) == 1 and letters_of(parts[0]) == NONE and plain(parts[0]) not in known:
        return [], False
    read = [label for label, failed in (read_label(part, labels) for part in parts) if not failed]
    return sorted({*read}), most(len(parts) - len(read), len(parts))


def read_free(text: str) -> tuple[str, bool]:
    """A free answer on one line, "" for "unanswerable"; an empty answer is a failure."""
    answer = " ".join(text.split())
    return ("" if letters_of(answer) == UNANSWERABLE else answer), not answer


FORMS = {"tags": (write_tags, read_tags), "list": (write_entities, read_entities)}  # of NER answers


def read(text: str, row: dict, labels: list[str], ner_form: str = "tags"):
    """(prediction, parse_failure) of the answer `text` to a row of the data set.

    IOB2 tags of the prompt's one type, a label, a sorted list of labels, or a free answer's text;
    after a parse failure all `O`, None, [] or "". `labels`: those of the source.
    """
    if row["kind"] == "ner":
        words = row["input"].split(" ")
        tags, failed = FORMS[ner_form][1](text, words, row["type"])
        return ([OUTSIDE] * len(words) if failed else tags), failed
    if row["kind"] == "classification":
        listed, failed = read_labels(text, labels)
        return ([] if failed else listed), failed
    return read_free(text) if row["kind"] == "free_qa" else read_label(text, labels)
