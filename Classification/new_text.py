"""New text for Classification: texts in, the labels of each and all labels' probabilities out."""

import json
from collections.abc import Iterable, Iterator

from Classification.data import one_line, with_text
from Classification.task import chosen, encode_inputs
from common.cli import UserError
from common.data_files import field, json_row, stream

FORMS = {"text": (), "jsonl": (".jsonl", ".json")}
FIELDS = ("text",), ("question", "context")
EXPECTED = " or ".join(json.dumps(dict.fromkeys(names, "...")) for names in FIELDS)


def read(file: Iterable[bytes], name: str, form: str) -> Iterator[tuple[str, ...] | None]:
    """The text of each line, or its question and context; on one line, as in training."""
    for place, line in stream(file, name):
        if not line.strip():
            yield None
        elif form == "text":
            yield tuple(map(one_line, line.split("\t", 1)))
        else:
            row = with_text(json_row(place, line))
            row["context"] = row.get("context") or ""  # as in training, it may be left out
            names = next((names for names in FIELDS if names[0] in row), FIELDS[0])
            yield tuple(one_line(field(row, name, str, place, EXPECTED)) for name in names)


def answer(model, tokenizer, made, items: list[tuple[str, ...]], args, device, name: str):
    """Of each item `{"label": ...}`, or `{"labels": [...]}` where there may be several; and
    `"probabilities"`, {label: 0 to 1}, of several labels each by itself."""
    from scipy.special import expit, softmax

    from common.forward import predict_logits

    kind = getattr(made.config, "kind", None)  # of a model from elsewhere, as it is used here
    if kind is None and made.config.problem_type == "multi_label_classification":
        kind = "classification"
    kind = kind or ("relation", "qa")[len(items[0]) - 1]
    items = [(*item, "")[:2] if kind == "qa" else item for item in items]
    if any(len(item) != 1 + (kind == "qa") for item in items):
        raise UserError("--input: this model reads one text of each input, without a tab in it.")
    encoded, counts = encode_inputs(kind, items, tokenizer, made.max_length)
    answers, several = [], kind == "classification"
    for logits in predict_logits(model, encoded, args.batch_size, device, name):
        labels = chosen(kind, made.labels, logits)
        shares = (expit if several else softmax)(logits.astype(float))
        probabilities = {x: float(f"{p:.6g}") for x, p in zip(made.labels, shares, strict=True)}
        found = {"labels": labels} if several else {"label": labels[0]}
        answers.append(found | {"probabilities": probabilities})
    return answers, {cut: n for cut, n in counts.items() if cut.startswith("truncated_")}
