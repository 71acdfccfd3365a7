"""QA's windows: exact characters for every tokenizer, every window, and every span in them."""

import functools
import random
import re
import tempfile

import numpy as np
import pytest

from common.cli import UserError
from common.models.loading import load_config, load_tokenizer
from QA import windows
from QA.data import Data
from QA.squad import Example
from tests import tiny

ALIKE = {"eurobert", "gemma3_text", "gpt_neox", "olmo2", "phi3"}  # another one splits as they do
KINDS = sorted(tiny.HUB_NAMES.keys() - ALIKE)
HARD = (
    "naïve café re\u0301sume\u0301 β-blocker ﬁne 漢字 😀 done",
    "line one\r\nline two\r\n\r\n  end .\r\n",
    "A\u00a0B\u2009C  two  blanks\t tab\u2003em",
    "İstanbul ﬀ ǅ Ⅷ ½ ① ß ẞ end",
    "family 👨‍👩‍👧 here 🇮🇹 there",
    "(p53/p21), 1,000.5 mg; don't. NF-kappa-B `x' ...and more....",
    "&amp; <b> | [x] \" ' & &quot; &lt;i&gt; @-@",
    "a\x01b\x7fc d\x00e U.S. 3.5% i.v. e.g. this",
    "[SEP] [CLS] </s> <s> <pad> <|endoftext|> [UNK] x",
)
ALPHABETS = ((0x21, 0x7F), (0xC0, 0x250), (0x391, 0x3AA), (0x410, 0x450), (0x5D0, 0x5EA),
             (0x4E00, 0x4F00), (0xAC00, 0xAC80), (0x1F600, 0x1F640))  # fmt: skip


@functools.cache
def tokenizer(kind):
    with tempfile.TemporaryDirectory() as folder:
        tiny.make(kind, folder)
        return load_tokenizer(folder, load_config(folder))


@functools.cache
def passages(n=500, seed=0):
    rng = random.Random(seed)
    letters = [chr(code) for low, high in ALPHABETS for code in range(low, high)]
    letters = [c for c in letters if c.isprintable()]

    def word():
        made = "".join(rng.choice(letters) for _ in range(rng.randint(1, 8)))
        # Accents of their own after a letter: lower-casing tokenizers strip them.
        return re.sub(r"(?<=[a-zα-ω])(?=.)", lambda _: rng.choice(["", "", "\u0301"]), made)

    blanks = [" ", " ", " ", "  ", "\n", "\r\n", "\t", "\u00a0"]
    return [
        "".join(word() + rng.choice(blanks) for _ in range(rng.randint(2, 30))) for _ in range(n)
    ]


def example(context, span=None, question="What is it ?", key="q"):
    spans = [span] if span else []
    return Example(key, "title", question, context, spans, [context[a:b] for a, b in spans])


def encode(asked, tokenizer, max_length, stride):
    return windows.encode(Data({}, [], True, doc_stride=stride), asked, tokenizer, max_length)


def decoded(row, context):
    """The text that a window's labels stand for; None: no answer."""
    first, last = row["labels"]
    if first == row["null"] == last:
        return None
    spans = row["spans"]
    return context[spans[first - row["first"], 0] : spans[last - row["first"], 1]]


# --- Characters


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_the_tokenizers_own(kind):
    # BioGPT's takes what reads like a special token for one, which in a passage it is not.
    texts = [*HARD[: -1 if kind == "biogpt" else None], *passages()[:200]]
    found = windows.tokenize(texts, tokenizer(kind))
    own = tokenizer(kind)(texts, add_special_tokens=False)["input_ids"]
    assert [ids for ids, _ in found] == own
    assert all(spans.shape == (len(ids), 2) for ids, spans in found)


@pytest.mark.parametrize("kind", KINDS)
def test_spans_are_in_order_and_without_outer_blanks(kind):
    texts = [*HARD, *passages()[:200]]
    for text, (_, spans) in zip(texts, windows.tokenize(texts, tokenizer(kind)), strict=True):
        held = spans[spans[:, 0] < spans[:, 1]]
        assert (np.diff(held[:, 0]) >= 0).all() and (np.diff(held[:, 1]) >= 0).all()
        assert all(text[a:b] == text[a:b].strip() for a, b in held)


@pytest.mark.parametrize("kind", KINDS)
def test_any_words_of_any_passage_come_back_byte_for_byte(kind):
    """500 random passages and hard strings; the answer: from some word to one of the next."""
    rng = random.Random(1)
    asked = []
    for text in [*HARD, *passages()]:
        words = [m.span() for m in re.finditer(r"\S+", text) if m.group().isprintable()]
        for _ in range(4):
            i = rng.randrange(len(words))
            j = min(len(words) - 1, i + rng.randint(0, 3))
            asked.append(example(text, (words[i][0], words[j][1])))
    rows, counts = encode(asked, tokenizer(kind), 2000, 128)
    assert len(rows) == counts["windows"] == len(asked)
    assert counts["split_answers"] == 0
    for one, row in zip(asked, rows, strict=True):
        assert decoded(row, one.context) == one.golds[0]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_within_sub_words_is_covered_and_no_more(kind):
    rng = random.Random(2)
    for text in [*HARD, *passages(100)]:
        ((_, spans),) = windows.tokenize([text], tokenizer(kind))
        start = rng.randrange(len(text))
        end = rng.randint(start + 1, len(text))
        if found := windows.covering(spans, [(start, end)])[0]:
            for first, last in ((found[0], found[0]), (found[1], found[1])):
                assert spans[first, 0] < end and spans[last, 1] > start  # both ends are needed
            within = [(a, b) for a, b in spans if start <= a < b <= end]
            assert all(spans[found[0], 0] <= a and b <= spans[found[1], 1] for a, b in within)


def test_biogpt_finds_its_way_back_after_a_token_that_is_not_in_the_text():
    text = "one DOTMULTI two p53 three"  # sacremoses' own mark for "."
    found = [text.index("p53"), text.index("p53") + 3]
    rows, _ = encode([example(text, found)], tokenizer("biogpt"), 60, 8)
    assert decoded(rows[0], text) == "p53"


# --- Windows


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("limit", "stride"), [(60, 16), (41, 0), (33, 5)])
def test_windows_are_the_librarys(kind, limit, stride):
    """As transformers' own, where it makes such windows (of causal ones they lack the end)."""
    tok = tokenizer(kind)
    null_first = tok.cls_token_id is not None
    texts = [*HARD, *passages(60)]
    asked = [example(text, question="Where is p53 ?") for text in texts]
    rows, _ = encode(asked, tok, limit, stride)
    if tok.is_fast and null_first:
        found = tok(
            [e.question for e in asked], texts, truncation="only_second", max_length=limit,
            stride=stride, return_overflowing_tokens=True, return_token_type_ids=True,
        )  # fmt: skip
        assert [row["input_ids"] for row in rows] == found["input_ids"]
        assert [row["example"] for row in rows] == found["overflow_to_sample_mapping"]
        if "token_type_ids" in tok.model_input_names:
            assert [row["token_type_ids"] for row in rows] == found["token_type_ids"]
    for number, text in enumerate(texts):
        ids, _ = windows.tokenize([text], tok)[0]
        mine = [row for row in rows if row["example"] == number]
        joined = []
        for row in mine:
            part = row["input_ids"][row["first"] : row["first"] + len(row["spans"])]
            assert len(row["input_ids"]) <= limit
            end = tok.sep_token_id if null_first else tok.eos_token_id
            assert row["input_ids"][row["first"] + len(part) :] == [end]
            assert not joined or joined[len(joined) - stride :] == part[:stride]
            joined += part[stride:] if joined else part
        assert joined == ids  # nothing lost, nothing doubled but the stride


@pytest.mark.parametrize("kind", KINDS)
def test_no_answer_lies_in_the_question_and_null_is_no_word(kind):
    tok = tokenizer(kind)
    rows, _ = encode([example(text) for text in passages(50)], tok, 40, 8)
    for row in rows:
        assert row["labels"] == [row["null"]] * 2
        inside = range(row["first"], row["first"] + len(row["spans"]))
        assert row["null"] not in inside
        causal = tok.cls_token_id is None
        assert row["null"] == (len(row["input_ids"]) - 1 if causal else 0)
        assert row["input_ids"][row["null"]] == (tok.eos_token_id if causal else tok.cls_token_id)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stride", [6, 12])
def test_no_answer_is_lost_at_a_windows_border(kind, stride):
    """An answer of up to `stride` sub-words is whole in some window, and right wherever it is."""
    tok = tokenizer(kind)
    asked = []
    for n, text in enumerate(passages(15)):
        ((_, spans),) = windows.tokenize([text], tok)
        held = np.flatnonzero(spans[:, 0] < spans[:, 1])
        for i in held:
            for j in held[(held >= i) & (held < i + stride)][:: stride // 2]:
                span = int(spans[i, 0]), int(spans[j, 1])
                ((first, last),) = windows.covering(spans, [span])
                if (spans[first, 0], spans[last, 1]) == span:
                    asked.append(example(text, span, key=str(n)))
    rows, counts = encode(asked, tok, 44, stride)
    whole = {number: set() for number in range(len(asked))}
    for row in rows:
        text = decoded(row, asked[row["example"]].context)
        if text is not None:
            whole[row["example"]].add(text)
    lost = 0
    for number, texts in whole.items():
        assert texts <= {asked[number].golds[0]}
        lost += not texts
    # Sub-words that share a character make an answer longer than it was asked for.
    assert lost == counts["split_answers"] <= 0.02 * len(asked)


def test_the_first_answer_that_a_window_holds_is_learned():
    text = " ".join(f"w{n}" for n in range(60))
    spans = [m.span() for m in re.finditer(r"w(5|30|55)\b", text)]
    one = Example("q", "t", "?", text, spans, [text[a:b] for a, b in spans])
    rows, _ = encode([one], tokenizer("bert"), 60, 5)
    found = [decoded(row, text) for row in rows]
    assert {"w5", "w30", "w55"} == set(found) - {None} and len(rows) > 3


def test_an_answer_that_the_passage_lacks_is_not_learned_as_no_answer():
    one = Example("q", "t", "?", "no such thing", [], ["p53"])
    (row,), _ = encode([one], tokenizer("bert"), 60, 5)
    assert row["labels"] == [-100, -100]


def test_long_questions_are_cut_and_counted():
    long = example("The passage .", (4, 11), question="word " * 200)
    (row,), counts = encode([long], tokenizer("bert"), 200, 8)
    assert counts["truncated_questions"] == 1
    assert row["first"] == 1 + windows.MAX_QUESTION + 1  # [CLS] question [SEP]
    assert decoded(row, long.context) == "passage"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("context", ["", "  \n ", "\u200b"])
def test_a_passage_without_a_word_is_one_window_without_a_span(kind, context):
    (row,), _ = encode([example(context)], tokenizer(kind), 40, 8)
    logits = np.zeros((len(row["input_ids"]), 2), np.float32)
    prediction = windows.answers([row], [logits], context, with_null=True)
    if not context.strip():
        assert prediction.null_difference is None
        assert prediction.n_best == [{"start": None, "end": None, "probability": 1.0}]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stride_without_room_is_the_users_error(kind):
    with pytest.raises(UserError, match="more than --doc_stride 38"):
        encode([example("a b c")], tokenizer(kind), 40, 38)
    with pytest.raises(UserError, match="--max_length 3 leaves room for . sub-words"):
        encode([example("a b c")], tokenizer(kind), 3, 0)
    rows, _ = encode([example("word " * 90)], tokenizer(kind), 64, 20)
    assert len(rows) > 1


# --- Answers


def brute_force(rows, logits, context):
    """Every (window, start, end), one by one: the score of each text, and of no answer."""
    best, nulls = {}, []
    for row, scores in zip(rows, logits, strict=True):
        nulls.append(float(scores[row["null"], 0] + scores[row["null"], 1]))
        for i in range(len(row["spans"])):
            for j in range(i, min(i + windows.MAX_ANSWER, len(row["spans"]))):
                if all(row["spans"][k, 0] < row["spans"][k, 1] for k in (i, j)):
                    text = context[row["spans"][i, 0] : row["spans"][j, 1]]
                    score = scores[row["first"] + i, 0] + scores[row["first"] + j, 1]
                    best[text] = max(best.get(text, -np.inf), float(score))
    return best, min(nulls)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_equal_brute_force_over_all_windows_and_spans(kind):
    rng = np.random.default_rng(0)
    tok = tokenizer(kind)
    for text in passages()[:25]:
        rows, _ = encode([example(text)], tok, 70, 16)
        logits = [rng.normal(0, 3, (len(row["input_ids"]), 2)).astype(np.float32) for row in rows]
        prediction = windows.answers(rows, logits, text, with_null=True)
        expected, null = brute_force(rows, logits, text)
        entries = [e for e in prediction.n_best if e["start"] is not None]
        texts = [text[e["start"] : e["end"]] for e in entries]
        order = sorted(expected, key=lambda t: -expected[t])[: windows.N_BEST]
        assert texts == order
        best = expected[order[0]]
        assert prediction.null_difference == pytest.approx(null - best, abs=1e-4)
        weights = np.exp([expected[t] - best for t in order] + [null - best])
        for entry, weight in zip(entries, weights / weights.sum(), strict=False):
            assert entry["probability"] == pytest.approx(weight, rel=1e-4)
        assert sum(e["probability"] for e in prediction.n_best) == pytest.approx(1, abs=1e-4)
        without = windows.answers(rows, logits, text, with_null=False)
        assert len(without.n_best) == len(prediction.n_best) - 1


def test_of_equal_scores_the_first_in_the_passage_is_given():
    text = "b a c a " + "d " * 300
    (row,), _ = encode([example(text)], tokenizer("bert"), 400, 8)
    logits = np.zeros((len(row["input_ids"]), 2), np.float32)
    kept = windows.answers([row], [logits], text, with_null=False).n_best
    given = [text[e["start"] : e["end"]] for e in kept]
    assert given[:3] == ["b", "b a", "b a c"] and len(given) == windows.N_BEST


def test_a_text_that_stands_everywhere_leaves_room_for_others():
    text = "word " * 300 + "other"
    (row,), _ = encode([example(text)], tokenizer("bert"), 2000, 8)
    logits = np.zeros((len(row["input_ids"]), 2), np.float32)
    logits[row["first"] : -2] = 9.0  # all but the last word
    kept = windows.answers([row], [logits], text, with_null=False).n_best
    texts = [text[e["start"] : e["end"]] for e in kept]
    assert len(texts) == len(set(texts)) == windows.N_BEST
