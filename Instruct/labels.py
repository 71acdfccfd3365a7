"""Answers that are labels or free text: how they are written and read; how text is compared."""

import re
import unicodedata

from Instruct.prompts import NONE, UNANSWERABLE

SEPARATOR = " ; "
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


def write_labels(labels: list[str]) -> str:
    """The answer of a prompt that may have several labels, or none."""
    return SEPARATOR.join(labels) or NONE


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
