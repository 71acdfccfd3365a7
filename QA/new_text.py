"""New text for QA: questions with passages in; answers, and where they stand, out."""

from collections.abc import Iterable, Iterator

from common.data_files import field, json_row, stream
from QA import scores as official
from QA import task
from QA.data import DOC_STRIDE, Data
from QA.squad import Example

FORMS = {"jsonl": ()}
EXPECTED = '{"id": "...", "question": "...", "context": "..."}; the id may be missing'


def read(file: Iterable[bytes], name: str, form: str) -> Iterator[Example | None]:
    """A question a line."""
    for number, (place, line) in enumerate(stream(file, name), 1):
        if not line.strip():
            yield None
            continue
        row = {"id": number} | json_row(place, line)
        asked, context = (field(row, key, str, place, EXPECTED) for key in ("question", "context"))
        yield Example(row["id"], "", asked, context, [], [])


def answer(model, tokenizer, made, items: list[Example], args, device, name: str):
    """The answer to each question, with its id, or the number of its line.

    `{"id", "answer", "start", "end", "probability", "null_difference"}`. No answer: "" and None as
    its place; only a model that has learned it gives it, or an empty passage.
    """
    threshold = made.metrics.get("null_threshold")  # there is one if "no answer" was learned
    stride = made.settings.get("doc_stride", min(DOC_STRIDE, made.max_length // 4))
    data = Data({}, [], threshold is not None, doc_stride=stride)
    encoded, counts = task.encode(data, items, tokenizer, made.max_length)
    predicted = task.predict(model, tokenizer, data, items, encoded, args.batch_size, device, name)
    rows = []
    for example, prediction in zip(items, predicted, strict=True):
        row = official.row(example, prediction, threshold)
        place = {"start": row["start"], "end": row["end"]}
        text = "" if row["start"] is None else example.context[row["start"] : row["end"]]
        given = (entry for entry in row["n_best"] if place.items() <= entry.items())
        entry = next(given, place | {"probability": None})
        entry |= {"null_difference": row["null_difference"]}
        rows.append({"id": example.id, "answer": text} | entry)
    return rows, {cut: counts[cut] for cut in ("truncated_questions", "empty_passages")}
