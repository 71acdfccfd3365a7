"""Scores equal to scikit-learn's and seqeval's, and the label sets and splits they stand on."""

import json
import random
import warnings
from collections import Counter

import pandas
import pytest
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from sklearn import metrics
from sklearn.model_selection import train_test_split

from common.cli import UserError
from common.task import evaluate
from NER import task as ner
from NER.data import STUDY_ORDER
from NER.scores import entities, to_iob2, word_class
from NLI import task as nli
from NLI.data import LABELS
from tests.helpers import ner_scores, nli_scores, write_jsonl

TYPES = ("DNA", "protein", "cell_type", "B-cell-line")
TAGS = ["O", *(f"{prefix}-{kind}" for kind in TYPES for prefix in "BI")]


def random_tags(rng, longest=12, outside=0.3):
    """Any tags in any order: I- after O, after another type, at the start."""
    n = rng.randint(0, longest)
    return ["O" if rng.random() < outside else rng.choice(TAGS) for _ in range(n)]


def valid_tags(rng, longest=12):
    return to_iob2([rng.choice(["O", "O", *TYPES]) for _ in range(rng.randint(0, longest))])


def disturbed(tags, rng, share=0.3):
    """A prediction that is often right."""
    return [rng.choice(TAGS) if rng.random() < share else tag for tag in tags]


def corpora(n, sentences=40):
    """(gold, predicted): valid gold or any, predictions of any quality, in every other one a type
    that the gold lacks."""
    for seed in range(n):
        rng = random.Random(seed)
        gold = [(valid_tags if seed % 3 else random_tags)(rng) for _ in range(sentences)]
        if seed % 2:
            gold = [["O" if tag.endswith("DNA") else tag for tag in tags] for tags in gold]
        yield gold, [disturbed(tags, rng, share=seed / n) for tags in gold]


# --- NER: entities


@pytest.mark.parametrize(
    ("tags", "loose", "strict"),
    [
        ("", [], []),
        ("O O", [], []),
        ("B-a I-a O B-a", [("a", 0, 2), ("a", 3, 4)], [("a", 0, 2), ("a", 3, 4)]),
        ("B-a B-a", [("a", 0, 1), ("a", 1, 2)], [("a", 0, 1), ("a", 1, 2)]),
        ("I-a I-a", [("a", 0, 2)], []),
        ("O I-a B-a", [("a", 1, 2), ("a", 2, 3)], [("a", 2, 3)]),
        ("B-a I-b I-b", [("a", 0, 1), ("b", 1, 3)], [("a", 0, 1)]),
        ("B-a I-b I-a", [("a", 0, 1), ("b", 1, 2), ("a", 2, 3)], [("a", 0, 1)]),
        ("B-B-cell I-B-cell B-I-x", [("B-cell", 0, 2), ("I-x", 2, 3)],
         [("B-cell", 0, 2), ("I-x", 2, 3)]),
        ("B--x- I--x-", [("-x-", 0, 2)], [("-x-", 0, 2)]),
    ],
)  # fmt: skip
def test_entities_by_hand(tags, loose, strict):
    assert entities(tuple(tags.split())) == set(loose)
    assert entities(tuple(tags.split()), strict=True) == set(strict)


def report(gold, predicted, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval's, on what is undefined
        return classification_report(gold, predicted, output_dict=True, zero_division=0, **options)


@pytest.mark.parametrize("strict", (False, True))
def test_entity_scores_equal_seqevals(strict):
    options = {"mode": "strict", "scheme": IOB2} if strict else {}
    suffix = "_strict" if strict else ""
    compared = set()
    for gold, predicted in corpora(60):
        expected = report(gold, predicted, **options)
        found = ner_scores(gold, predicted)
        for row in ("micro avg", *TYPES):
            if row not in expected:
                continue
            name = suffix if row == "micro avg" else f"{suffix}_{row}"
            for metric, key in (("precision",) * 2, ("recall",) * 2, ("f1", "f1-score")):
                value = found[f"entity_{metric}{name}"]
                assert value == pytest.approx(expected[row][key], abs=1e-12), (row, metric)
                compared.add(value)
        named = {k.removeprefix(f"entity_f1{suffix}_") for k in found if k.startswith("entity_f1")}
        assert {row for row in TYPES if row in expected} <= named
    assert len(compared) > 200  # many different scores, not 0 and 1 alone
    assert {0.0, 1.0} <= compared


# --- NER: words


def test_word_scores_equal_scikit_learns():
    compared = set()
    for gold, predicted in corpora(60):
        found = ner_scores(gold, predicted)
        y = [
            [t if t == "O" else t[2:] for tags in side for t in tags] for side in (gold, predicted)
        ]
        names = sorted({*y[0], *y[1]})
        types = [name for name in names if name != "O"]
        expected = {
            "macro_f1": metrics.f1_score(*y, average="macro"),
            "micro_f1": metrics.accuracy_score(*y),
            "macro_f1_without_o": metrics.f1_score(*y, labels=types, average="macro"),
            "micro_f1_without_o": metrics.f1_score(*y, labels=types, average="micro"),
        }
        each = metrics.f1_score(*y, labels=names, average=None)
        expected |= {f"f1_{name}": f1 for name, f1 in zip(names, each, strict=True)}
        words = {k: v for k, v in found.items() if not k.startswith("entity_")}
        words.pop("invalid_entities", None)
        assert words == pytest.approx(expected, abs=1e-12)
        compared |= set(words.values())
    assert len(compared) > 300


# --- NER: the six-class run, which has no B- and I-, against IOB2 gold


def io_prediction(classes):
    """What a run with the study's classes yields: through `decode`, from logits."""
    import numpy as np

    labels = ["O", *STUDY_ORDER]
    data = ner.Data({}, labels, False)
    encoded = [{"words": [(i, i + 1) for i in range(len(c))]} for c in classes]
    logits = [np.eye(6)[[labels.index(name) for name in c]].reshape(-1, 6) for c in classes]
    return ner.decode(data, encoded, logits)


IO_CASES = {
    # gold, predicted classes, then entity precision, recall, F1 of seqeval's default mode
    "single": ("B-DNA I-DNA O", "DNA DNA O", (1, 1, 1)),
    "adjacent of one type merge": ("B-DNA I-DNA B-DNA", "DNA DNA DNA", (0, 0, 0)),
    "adjacent of two types do not": ("B-DNA B-RNA I-RNA", "DNA RNA RNA", (1, 1, 1)),
    "merged beside a right one": ("B-DNA B-DNA O B-RNA", "DNA DNA O RNA", (1 / 2, 1 / 3, 0.4)),
    "DNA taken for RNA": ("B-DNA I-DNA O", "RNA RNA O", (0, 0, 0)),
    "half an entity": ("B-protein I-protein O", "protein O O", (0, 0, 0)),
    "one too long": ("B-protein O B-RNA", "protein protein RNA", (1 / 2, 1 / 2, 1 / 2)),
    "no prediction": ("B-DNA I-DNA O", "O O O", (0, 0, 0)),
    "no gold entity": ("O O O", "DNA O O", (0, 0, 0)),
    "neither": ("O O O", "O O O", (0, 0, 0)),
    "empty sentence": ("", "", (0, 0, 0)),
}


@pytest.mark.parametrize(("gold", "classes", "expected"), IO_CASES.values(), ids=IO_CASES)
def test_six_class_predictions_against_iob2_gold(gold, classes, expected):
    gold, predicted = [gold.split(), []], io_prediction([classes.split(), []])
    found = ner_scores(gold, predicted)
    for suffix in ("", "_strict"):  # io predictions are valid IOB2: the two agree
        values = [found[f"entity_{metric}{suffix}"] for metric in ("precision", "recall", "f1")]
        assert values == pytest.approx(expected)
    assert all(0 <= value <= 1 for value in found.values())


def test_the_ceiling_of_the_io_scheme_is_what_gold_without_b_and_i_scores():
    rng = random.Random(5)
    gold = [valid_tags(rng) for _ in range(20)] + [["B-DNA", "B-DNA", "I-DNA"]]
    merged = [to_iob2([word_class(tag) for tag in tags]) for tags in gold]
    found = ner_scores(gold, gold)["entity_f1_io_ceiling"]
    assert found == ner_scores(gold, merged)["entity_f1"] < 1
    assert ner_scores([["B-DNA", "O"]], [["O", "O"]])["entity_f1_io_ceiling"] == 1


@pytest.mark.parametrize(
    "row",
    [{"gold": ["O", "O"], "predicted": ["O"]}, {"gold": ["O"]}, {"gold": None, "predicted": ["O"]}]
    + [{"gold": ["DNA"], "predicted": ["DNA"]}, {"gold": "neutral", "predicted": "neutral"}],
)
def test_rows_of_something_else_are_refused(row):
    sound = {"gold": ["O"], "predicted": ["B-DNA"]}
    assert ner.count([sound])["words"].any()
    with pytest.raises((ValueError, LookupError, TypeError)):
        ner.count([sound, row])


def test_majority_of_ner():
    def example(tags):
        return ner.Example("0", ["w"] * len(tags), tags)

    train = [example(["O", "B-DNA", "I-DNA"])]
    assert ner.baseline(train, [example(["O", "O"])]) == [["B-DNA", "I-DNA"]]
    assert ner.baseline([], [example(["O", "O"])]) == [["O", "O"]]


# --- NER: label sets

WORDS = [["a", "b", "c"], ["d"]]


def load_ner(folder, scheme="io"):
    return ner.load(False, folder, label_scheme=scheme)


def write_ner(folder, tags, label_json=None, name="{}.jsonl"):
    rows = [{"tokens": words, "tags": own} for words, own in zip(WORDS, tags, strict=True)]
    for split in ("train", "valid", "test"):
        file = folder / name.format(split)
        if file.suffix == ".conll":
            text = "-DOCSTART- X O\n"
            for row in rows:
                pairs = zip(row["tokens"], row["tags"], strict=True)
                text += "\n" + "".join(f"{word} NN {tag}\n" for word, tag in pairs)
            file.write_text(text)
        elif file.suffix == ".parquet":
            pandas.DataFrame(rows).to_parquet(file)
        else:
            write_jsonl(file, rows)
    if label_json:
        (folder / "label.json").write_text(json.dumps(label_json), encoding="utf-8")
    return folder


HYPHENS = [["B-B-cell-line", "I-B-cell-line", "O"], ["B-x"]]
SHUFFLED = {"I-x": 0, "B-x": 7, "I-B-cell-line": 3, "O": 5, "B-B-cell-line": 1}
NUMBERS = [[SHUFFLED[tag] for tag in row] for row in HYPHENS]
WAYS = {
    "numbers": (NUMBERS, SHUFFLED),
    "numbers, .json": (NUMBERS, SHUFFLED, "{}.json"),
    "names": (HYPHENS,),
    "names and a map": (HYPHENS, SHUFFLED),
    "parquet numbers": (NUMBERS, SHUFFLED, "{}.parquet"),
    "parquet names": (HYPHENS, None, "{}.parquet"),
    "conll": (HYPHENS, None, "{}.conll"),
}


@pytest.mark.parametrize("scheme", ("io", "iob2"))
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_any_label_set_in_any_format(tmp_path, way, scheme):
    data = load_ner(write_ner(tmp_path, *way), scheme)
    iob2 = ["O", "B-B-cell-line", "I-B-cell-line", "B-x", "I-x"]
    assert data.labels == (iob2 if scheme == "iob2" else ["O", "B-cell-line", "x"])
    assert list(data.splits) == ["train", "dev", "test"]
    for examples in data.splits.values():
        assert [e.words for e in examples] == WORDS
        assert [e.tags for e in examples] == HYPHENS
    assert [ner.stratum(e) for e in data.splits["train"]] == ["B-cell-line", "x"]


def test_bare_tags_become_iob2(tmp_path):
    data = load_ner(write_ner(tmp_path, [["protein", "protein", "O"], ["DNA"]], None, "{}.conll"))
    assert data.labels == ["O", "DNA", "protein"]  # the study's order, not the alphabet's
    assert [e.tags for e in data.splits["train"]] == [["B-protein", "I-protein", "O"], ["B-DNA"]]


def test_bare_names_in_label_json(tmp_path):
    names = {"O": 2, "virus": 0, "protein": 1}
    data = load_ner(write_ner(tmp_path, [[0, 0, 2], [1]], names), "iob2")
    assert data.labels == ["O", "B-protein", "I-protein", "B-virus", "I-virus"]
    assert [e.tags for e in data.splits["test"]] == [["B-virus", "I-virus", "O"], ["B-protein"]]


@pytest.mark.parametrize(
    "tags", [[["S-x", "B-x", "O"], ["O"]], [["B-x", "x", "O"], ["O"]], [["L-x", "U-y", "O"], ["O"]]]
)
def test_other_schemes_are_refused(tmp_path, tags):
    with pytest.raises(UserError, match="not IOB2"):
        load_ner(write_ner(tmp_path, tags))


# --- NLI


def pairs(labels):
    return [nli.Example(str(i), "a", "b", label) for i, label in enumerate(labels)]


@pytest.mark.filterwarnings("ignore:A single label")
@pytest.mark.parametrize("gold_labels", (LABELS, LABELS[:2], LABELS[1:], ["neutral"]))
@pytest.mark.parametrize("predicted_labels", (LABELS, LABELS[:2], ["neutral"]))
def test_nli_scores_equal_scikit_learns(gold_labels, predicted_labels):
    for seed in range(5):
        rng = random.Random(seed)
        gold, predicted = rng.choices(gold_labels, k=60), rng.choices(predicted_labels, k=60)
        with warnings.catch_warnings(action="error"):  # a user can do nothing about sklearn's
            found = nli_scores(gold, predicted)
        names = [name for name in LABELS if name in {*gold, *predicted}]
        rows = metrics.classification_report(
            gold, predicted, labels=names, output_dict=True, zero_division=0
        )
        expected = {
            "accuracy": metrics.accuracy_score(gold, predicted),
            "macro_f1": metrics.f1_score(gold, predicted, average="macro", zero_division=0),
            "matthews_correlation": metrics.matthews_corrcoef(gold, predicted),
        }
        for name in names:
            expected[f"precision_{name}"] = rows[name]["precision"]
            expected[f"recall_{name}"] = rows[name]["recall"]
            expected[f"f1_{name}"] = rows[name]["f1-score"]
            for other in names:
                cell = [(g, p) == (name, other) for g, p in zip(gold, predicted, strict=True)]
                expected[f"confusion_{name}_{other}"] = sum(cell)
        assert found == pytest.approx(expected, abs=1e-12)


def test_majority_of_nli():
    train = pairs(["neutral", "entailment", "neutral"])
    assert nli.baseline(train, pairs(["entailment"] * 2)) == ["neutral", "neutral"]
    for tied in (train[:2], train[1::-1]):  # whatever their order
        assert nli.baseline(tied, pairs(["neutral"])) == ["entailment"]


def write_nli(folder, labels, name):
    keys = ("gold_label", "sentence1", "sentence2", "pairID")
    rows = [(label, f"p{i}", f"h{i}", f"id-{i}") for i, label in enumerate(labels)]
    write_jsonl(folder / name, [dict(zip(keys, row, strict=True)) for row in rows])


def load_nli(folder):
    return nli.load(False, folder).splits


@pytest.mark.parametrize("name", ("train.jsonl", "mli_train_v1.jsonl"))
@pytest.mark.parametrize("seed", (0, 1))
def test_a_train_file_alone_is_split_80_20_as_in_the_study(tmp_path, name, seed):
    labels = random.Random(seed).choices(LABELS, [3, 2, 1], k=203)
    write_nli(tmp_path, labels, name)
    numbers = train_test_split(list(range(203)), test_size=0.2, stratify=labels, random_state=42)
    splits = load_nli(tmp_path)
    assert list(splits) == ["train", "test"]
    for split, expected in zip(("train", "test"), numbers, strict=True):
        assert [e.id for e in splits[split]] == [f"id-{i}" for i in expected]
        assert [e.premise for e in splits[split]] == [f"p{i}" for i in expected]
        assert [e.label for e in splits[split]] == [labels[i] for i in expected]
        counts, totals = Counter(labels[i] for i in expected), Counter(labels)
        share = len(expected) / 203
        assert all(abs(counts[label] - totals[label] * share) <= 1 for label in LABELS)


def test_too_few_examples_to_split_is_a_user_error(tmp_path):
    write_nli(tmp_path, ["neutral"] * 5 + ["entailment"], "train.jsonl")
    with pytest.raises(UserError, match="too few"):
        load_nli(tmp_path)


def test_a_type_may_be_called_as_a_score_is():
    rows = [
        {"id": "0", "gold": ["B-strict", "O", "B-DNA"], "predicted": ["B-strict", "B-DNA", "O"]}
    ]
    assert evaluate(ner, rows)["entity_f1_strict"] == pytest.approx(0.5)
