"""New text for QA: questions with passages in; answers, and where they stand, out."""

from collections.abc import Iterable, Iterator

from common.data_files import field, json_row, stream
from QA import scores as official
from QA import task
from QA.data import DOC_STRIDE, Data
from QA.squad import Example, composed

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


def place_of(text: str, place: int) -> int:
    """The place in `text` of a place in the composed text, which training and model read."""
    if composed(text) == text:
        return place
    return next(n for n in range(len(text), -1, -1) if len(composed(text[:n])) <= place)


def answer(model, tokenizer, made, items: list[Example], args, device, name: str):
    """The answer to each question, with its id, or the number of its line.

    `{"id", "answer", "start", "end", "probability", "null_difference"}`. No answer: "" and None as
    its place; only a model that has learned it gives it, or an empty passage.
    """
    threshold = made.metrics.get("null_threshold")  # there is one if "no answer" was learned
    stride = made.settings.get("doc_stride", min(DOC_STRIDE, made.max_length // 4))
    data = Data({}, [], threshold is not None, doc_stride=stride)
    asked = [e._replace(question=composed(e.question), context=composed(e.context)) for e in items]
    encoded, counts = task.encode(data, asked, tokenizer, made.max_length)
    predicted = task.predict(model, tokenizer, data, asked, encoded, args.batch_size, device, name)
    rows = []
    for item, example, prediction in zip(items, asked, predicted, strict=True):
        row = official.row(example, prediction, threshold)
        place, text = {"start": row["start"], "end": row["end"]}, ""
        given = (entry for entry in row["n_best"] if place.items() <= entry.items())
        entry = next(given, place | {"probability": None})
        if row["start"] is not None:
            place = {end: place_of(item.context, at) for end, at in place.items()}
            text = item.context[place["start"] : place["end"]]
        entry |= place | {"null_difference": row["null_difference"]}
        rows.append({"id": item.id, "answer": text} | entry)
    return rows, {cut: counts[cut] for cut in ("truncated_questions", "empty_passages")}
