"""The QA task, as `common.task` asks for it: question and passage in, an answer's place out.

A prediction is a `windows.Prediction`: the best answers, and how they compare with none.
"""

import re
from itertools import groupby, repeat
from pathlib import Path

import numpy as np

from common import models
from common.files import read_jsonl, write_json
from common.task import Score
from QA import bioasq, windows
from QA import scores as official
from QA.data import HUB_ID, Data, Example, add_arguments, load, stratum
from QA.probe import CONTROLS, GAIN, RANDOM, controls, probe_inputs, probe_predictions, probed
from QA.scores import EXACT, F1, mean
from QA.windows import Prediction, encode
from QA.windows import first_windows as attention_inputs

__all__ = ["CONTROLS", "add_arguments", "attention_inputs", "controls", "encode", "load",
           "probe_inputs", "probe_predictions", "probed", "stratum"]  # fmt: skip
NAME, HEAD, DATASET = "QA", "span", "squad_v2"
HUB_DATASET = (HUB_ID, "validation")
NOTE = """\
F1 and exact match are those of the official SQuAD 2.0 script; the null threshold was chosen on dev.
Intervals resample passages, whose questions belong together; of BioASQ, questions. The baseline
("majority") gives no answer, or, if all questions have one, the passage's first sentence."""
DEFAULTS = {"model": "biom-electra-base", "max_length": 384}  # of the three scripts' flags
SQUAD = (
    Score("f1", "answers", mean(F1), "F1", by_layer=True),
    Score("exact", "answers", mean(EXACT), "exact match", by_layer=True),
)
BY_KIND = (
    Score("f1_has_answer", "kinds", mean(F1, 1), "F1 (answerable)"),
    Score("exact_has_answer", "kinds", mean(EXACT, 1), "exact match (answerable)"),
    Score("f1_no_answer", "kinds", mean(F1, 0), "F1 (unanswerable)"),
    Score("exact_no_answer", "kinds", mean(EXACT, 0), "exact match (unanswerable)"),
)
BIOASQ = (
    Score("mrr", "ranks", mean(bioasq.RECIPROCAL), "mean reciprocal rank", by_layer=True),
    Score("strict", "ranks", mean(bioasq.STRICT), "strict accuracy", by_layer=True),
    Score("lenient", "ranks", mean(bioasq.LENIENT), "lenient accuracy", by_layer=True),
)
SCORES = (*SQUAD, *BY_KIND, *BIOASQ, GAIN, RANDOM)
_SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s|$)|(?=\s*$))", re.DOTALL)


def scores(data: Data) -> tuple[Score, ...]:
    """F1 and exact match, by kind of question if there are both; or BioASQ's three."""
    if data.in_bioasq:
        return BIOASQ
    kinds = ({bool(e.golds) for e in some} for s, some in data.splits.items() if s != "train")
    return SQUAD + BY_KIND if all(len(found) == 2 for found in kinds) else SQUAD


def probe_scores(data: Data) -> tuple[Score, ...]:
    """First the bits gained over a uniform guess; a random span beside the answer's scores."""
    return (GAIN, *(BIOASQ if data.in_bioasq else SQUAD), RANDOM)


def load_model(where: str, data: Data, keep_head: bool = False, **options):
    """The model with a new head, or with its own if `keep_head`."""
    model, tokenizer = models.load_task_model(where, HEAD, data.labels, keep_head=keep_head)
    return model, tokenizer, not keep_head


def loss(model, batch: dict):
    """The cross entropy of start and of end over a window's tokens, summed: a torch scalar."""
    from torch.nn import functional as F

    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    padding = batch["attention_mask"][..., None] == 0
    scores = models.logits(model, inputs).float().masked_fill(padding, -float("inf"))
    return F.cross_entropy(scores, batch["labels"][:, :2], ignore_index=-100, reduction="sum")


def predict(
    model, tokenizer, data: Data, examples: list[Example], encoded: list[dict], batch_size: int,
    device, name: str,
) -> list[Prediction]:  # fmt: skip
    """The best answers to each example, from all its windows."""
    from common.forward import predict_logits

    outputs = predict_logits(model, encoded, batch_size, device, name)
    windows_of = groupby(zip(encoded, outputs, strict=True), lambda pair: pair[0]["example"])
    return [
        windows.answers(*zip(*own, strict=True), examples[number].context, data.with_null)
        for number, own in windows_of
    ]


def rows(data: Data, examples: dict[str, list], predictions: dict[str, list]) -> tuple[dict, dict]:
    """Rows of predictions.jsonl; the counts of what was corrected in files, and the null threshold.

    It is the one given, else the best of dev by F1, else 0; none if "no answer" is not compared.
    """
    if data.in_bioasq:
        rows = {s: bioasq.rows(examples[s], own) for s, own in predictions.items()}
        return rows, data.counts

    def scored(threshold: float | None) -> dict[str, list[dict]]:
        return {
            split: list(map(official.row, examples[split], own, repeat(threshold)))
            for split, own in predictions.items()
        }

    rows, threshold = scored(None), data.null_threshold
    differences = (row["null_difference"] for own in rows.values() for row in own)
    if not data.with_null or all(difference is None for difference in differences):
        return rows, data.counts
    if threshold is None:
        threshold = official.best_threshold(rows["dev"], "f1")[1] if "dev" in rows else 0.0
    return scored(threshold), data.counts | {"null_threshold": threshold}


def shared(example: Example) -> dict[str, str]:
    """What train and test should not both hold."""
    return {"questions": example.question, "passages": example.context}


def baseline(train: list[Example], examples: list[Example]) -> list[Prediction]:
    """No answer, if training has questions without one; else the passage's first sentence."""
    if any(not example.golds for example in train):
        return [windows.only(None)] * len(examples)
    sentences = (_SENTENCE.search(example.context) for example in examples)
    return [windows.only(match and match.span()) for match in sentences]


def count(rows: list[dict]) -> dict:
    """Tables of SQuAD's rows (by kind of question if there are both) or of BioASQ's; a probe's."""
    probed = rows and all("pointer" in row for row in rows)
    tables = {"pointer": np.array([[row["pointer"]] for row in rows])} if probed else {}
    if rows and all("rank" in row for row in rows):
        return tables | {"ranks": bioasq.count(rows)}
    table = official.count(rows)
    both = all(table[:, kind, official.NUMBER].any() for kind in (0, 1))
    return tables | {"answers": table} | ({"kinds": table} if both else {})


def details(rows: list[dict]) -> dict[str, float]:
    """How many questions, and what other null thresholds would give."""
    if all("rank" in row for row in rows):
        return {"questions": len(rows), "answered": sum(bool(row["answers"]) for row in rows)}
    return official.details(rows)


def export(folder: Path, data: Data, write_submission: Path | None = None, **options) -> None:
    """--write_submission: the answers to the test split's questions as BioASQ takes them."""
    if write_submission:
        write_submission.parent.mkdir(parents=True, exist_ok=True)
        answers = {r["id"]: r["answers"] for r in read_jsonl(folder / "predictions.jsonl")}
        write_json(write_submission, bioasq.submission(data.splits["test"], answers))
        print(f"submission: {write_submission}")
