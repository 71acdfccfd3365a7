"""A line of plain text -> its words, as BioNLP2004 has them, and where each stands.

The rules were read off that set: brackets, commas, semicolons, colons, signs of comparison and "%"
are words of their own wherever they stand; hyphens, slashes and apostrophes within a word stay. A
word's last full stop is a word of its own, except in an abbreviation inside the line.
One rule cannot be followed: JNLPBA also cuts before a hyphen where an entity ends ("IL-2
-induced"); here "IL-2-induced" is one word. Data with other words: give them as CoNLL columns.
"""

import re

ALONE = re.escape('()[]{},;:%<>=?!&"')
RUN = re.compile(rf"(''|``|\.\.+|[{ALONE}])|(?:(?!''|``|\.\.)[^\s{ALONE}])+")
ABBREVIATION = re.compile(r"(?:[A-Za-z]\.)+|(?:vs|al|cf|ca|etc|approx|[Nn]o|Fig|Dr)\.")


def split(line: str) -> list[tuple[int, int]]:
    """(first character, last + 1) of each word, in order."""
    spans = []
    last = len(line.rstrip())
    for match in RUN.finditer(line):
        start, end = match.span()
        if match[1]:
            spans.append((start, end))
            continue
        if end - start > 1 and line[start] == "'" and line[start:end] != "'s":  # an opening quote
            spans.append((start, start + 1))
            start += 1
        cut = []
        while n := _tail(line[start:end], end == last):
            cut.append((end - n, end))
            end -= n
        spans += [(start, end), *reversed(cut)]
    return spans


def _tail(word: str, last: bool) -> int:
    """How many characters at a word's end are a word of their own."""
    if len(word) > 2 and word.endswith("'s"):
        return 2
    if len(word) > 1 and word.endswith("'"):
        return 1
    stop = len(word) > 1 and word.endswith(".")
    return int(stop and (last or not ABBREVIATION.fullmatch(word)))
