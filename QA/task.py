"""The QA task, as `common.task` asks for it: question and passage in, an answer's place out.

A prediction is a `windows.Prediction`, the best answers and how they compare with none; of a probe
or a baseline it is the answer itself, a span of the passage's characters or None.
"""

import json
import re
from collections import defaultdict
from typing import TYPE_CHECKING

from common import models
from common.task import ProbeInputs, Score
from QA import bioasq_answers, probe, squad, windows
from QA import scores as official
from QA.bioasq_answers import LENIENT, RECIPROCAL, STRICT
from QA.data import Data, Example, add_arguments, load, stratum
from QA.scores import EXACT, F1

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_arguments", "load", "stratum"]
NAME, HEAD, DATASET, IN_STUDY = "QA", "span", "squad_v2", False
NOTE = """\
F1 and exact match are those of the official SQuAD 2.0 script; the null threshold was chosen on dev.
Intervals resample passages, whose questions belong together; of BioASQ, questions. The baseline
("majority") gives no answer, or where all questions have one the passage's first sentence."""
DEFAULTS = {"model": "biom-electra-base", "max_length": 384}  # of the three scripts' flags
SQUAD = (
    Score("f1", "answers", official.mean(F1), "F1", by_layer=True),
    Score("exact", "answers", official.mean(EXACT), "exact match", by_layer=True),
)
BY_KIND = (
    Score("f1_has_answer", "kinds", official.mean(F1, 1), "F1 (answerable)"),
    Score("exact_has_answer", "kinds", official.mean(EXACT, 1), "exact match (answerable)"),
    Score("f1_no_answer", "kinds", official.mean(F1, 0), "F1 (unanswerable)"),
    Score("exact_no_answer", "kinds", official.mean(EXACT, 0), "exact match (unanswerable)"),
)
BIOASQ = (
    Score("mrr", "ranks", bioasq_answers.mean(RECIPROCAL), "mean reciprocal rank", by_layer=True),
    Score("strict", "ranks", bioasq_answers.mean(STRICT), "strict accuracy", by_layer=True),
    Score("lenient", "ranks", bioasq_answers.mean(LENIENT), "lenient accuracy", by_layer=True),
)
SCORES = (*SQUAD, *BY_KIND, *BIOASQ)
_SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s|$)|(?=\s*$))", re.DOTALL)


def scores(data: Data) -> tuple[Score, ...]:
    """F1 and exact match, by kind of question where there are both; or BioASQ's three."""
    if data.questions:
        return BIOASQ
    return SQUAD + BY_KIND if data.kinds else SQUAD


def encode(
    data: Data, examples: list[Example], tokenizer, max_length: int
) -> tuple[list[dict], dict]:
    """The windows of all examples, see `QA.windows.encode`."""
    encoded, counts = windows.encode(examples, tokenizer, max_length, data.doc_stride)
    if data.questions:
        counts["pairs"] = counts.pop("questions")
    return encoded, counts


def attention_inputs(
    data: Data, examples: list[Example], tokenizer, max_length: int
) -> tuple[list[dict], dict]:
    """The first window of each example."""
    return probe.attention_inputs(examples, tokenizer, max_length)


def load_model(args, data: Data):
    """The model with a new head, or with its own by --keep_head."""
    model, tokenizer = models.load_task_model(args, HEAD, data.labels, keep_head=args.keep_head)
    return model, tokenizer, not args.keep_head


def n_labels(row: dict) -> int:
    """One, the place; none where the answer is not in the passage."""
    return int(row["labels"][0] >= 0)


def logits(model, batch: dict) -> "Tensor":
    """Scores of each token as the start and the end of the answer, `[batch, tokens, 2]`."""
    import torch

    from common.models import families

    found = model(**batch, **families.of(model.config).options)
    return torch.stack([found.start_logits, found.end_logits], -1)


def loss(model, batch: dict) -> "Tensor":
    """The mean of start's and end's cross entropy over a window's tokens, summed over windows."""
    from torch.nn import functional as F

    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    padding = batch["attention_mask"][..., None] == 0
    found = logits(model, inputs).float().masked_fill(padding, -float("inf"))
    return F.cross_entropy(found, batch["labels"][:, :2], ignore_index=-100, reduction="sum") / 2


def predict(
    model, tokenizer, data: Data, examples, encoded, args, device, name
) -> list[windows.Prediction]:
    """The best answers of each example. A window's outputs are reduced to its best at once."""
    from common.forward import predict_logits

    def reduce(found, row):
        return windows.reduce(found, row, examples[row["example"]].context)

    found = predict_logits(
        model, encoded, args.batch_size, device, name, forward=logits, reduce=reduce
    )
    by_example: list[list] = [[] for _ in examples]
    for row, candidates in zip(encoded, found, strict=True):
        by_example[row["example"]].append(candidates)
    return [
        windows.merge(candidates, example.context, data.with_null)
        for example, candidates in zip(examples, by_example, strict=True)
    ]


def rows(
    data: Data, examples: dict[str, list[Example]], predictions: dict[str, list]
) -> tuple[dict[str, list[dict]], dict]:
    """Rows of predictions.jsonl: an answer's place a question, BioASQ's five; no text.

    The null threshold is chosen on dev by F1 where there is a dev split and it is not given. Also
    the counts of what was mended in the files.
    """
    if data.questions:
        found = {
            split: _merged(data.questions[split], examples[split], predicted)
            for split, predicted in predictions.items()
        }
        return found, data.counts

    def at(threshold):
        return {
            split: [_row(e, p, threshold) for e, p in zip(examples[split], predicted, strict=True)]
            for split, predicted in predictions.items()
        }

    read = all(isinstance(p, windows.Prediction) for some in predictions.values() for p in some)
    if not (data.with_null and read):
        return at(None), data.counts
    threshold = data.null_threshold
    if threshold is None:
        threshold = 0.0
        if "dev" in predictions:
            pairs = zip(examples["dev"], predictions["dev"], strict=True)
            dev = [_row(example, prediction, None) for example, prediction in pairs]
            _, threshold = official.best_threshold(dev, "f1")
    return at(threshold), data.counts | {"null_threshold": threshold}


def _row(example: Example, prediction, threshold: float | None) -> dict:
    about = example.id, squad.passage_id(example), example.context, example.golds
    if isinstance(prediction, windows.Prediction):
        return official.row(*about, *prediction, threshold)
    row = official.row(*about, _n_best(prediction), None, None)
    del row["null_difference"]  # there are no thresholds to try
    return row


def _n_best(prediction) -> list[dict]:
    if isinstance(prediction, windows.Prediction):
        return prediction.n_best
    if prediction is None:
        return []
    return [{"start": prediction[0], "end": prediction[1], "probability": 1.0}]


def _merged(questions: dict, examples: list[Example], predictions: list) -> list[dict]:
    """A row a question, from the answers in its snippets."""
    snippets, golds = defaultdict(dict), defaultdict(list)
    for example, prediction in zip(examples, predictions, strict=True):
        key, number = bioasq_answers.question_id(example.id)
        snippets[key][number] = example.context, _n_best(prediction)
        golds[key] += example.golds  # of a control others than in the file
    return [
        bioasq_answers.row(questions[key]._replace(golds=golds[key]), bioasq_answers.merge(some))
        for key, some in snippets.items()
    ]


def baseline(train: list[Example], examples: list[Example]) -> list[tuple[int, int] | None]:
    """No answer, if training has questions without one; else the passage's first sentence."""
    if any(not example.golds for example in train):
        return [None] * len(examples)
    found = (_SENTENCE.search(example.context) for example in examples)
    return [match.span() if match else None for match in found]


def count(rows: list[dict]) -> dict:
    """Counts of SQuAD's rows (by kind of question if there are both), or ranks of BioASQ's."""
    if rows and all("rank" in row for row in rows):
        return {"ranks": bioasq_answers.count(rows)}
    table = official.count(rows)
    both = all(table[:, kind, official.NUMBER].any() for kind in (0, 1))
    return {"answers": table} | ({"kinds": table} if both else {})


def parts(rows: list[dict]) -> tuple:
    """None: its data sets are one."""
    return ()


def details(rows: list[dict]) -> dict[str, float]:
    """How many questions, and what other null thresholds would give."""
    if all("rank" in row for row in rows):
        return {"questions": len(rows), "answered": sum(bool(row["answers"]) for row in rows)}
    return official.details(rows)


def export(args, data: Data, folder) -> None:
    """--write_submission: the answers to the test split's questions as BioASQ takes them."""
    if not args.write_submission:
        return
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    answers = {row["id"]: row["answers"] for row in map(json.loads, lines)}
    questions = data.questions["test"]
    bioasq_answers.write_submission(
        args.write_submission, list(questions.values()), [answers[key] for key in questions]
    )
    print(f"submission: {args.write_submission}")


def controls(data: Data, splits: dict[str, list[Example]], seed: int) -> dict[str, dict]:
    """`control`: random tags by word type; `passage`: another passage's question."""
    return probe.controls(splits, seed)


def probe_inputs(data: Data, targets: dict, tokenizer, max_length: int, args) -> ProbeInputs:
    """The words of each passage are the units, tagged as the answer's or not."""
    return probe.probe_inputs(targets, tokenizer, max_length, args.pooling)


def probe_predictions(
    data: Data, examples: list[Example], inputs: ProbeInputs, target: str, split: str, found
) -> list[tuple[int, int] | None]:
    """The longest run of words tagged as the answer's."""
    pairs = zip(found, inputs.notes[target][split], strict=True)
    return [probe.longest(tagged, spans) for tagged, spans in pairs]
