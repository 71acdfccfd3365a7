"""New text for NLI: pairs in, the label of each and the probabilities of all labels out."""

import json
from collections.abc import Iterable, Iterator

from common.cli import UserError
from common.data_files import field, json_row, stream
from common.texts import encode_pairs

FORMS = {"tsv": (), "jsonl": (".jsonl", ".json")}
NAMES = ("premise", "hypothesis"), ("sentence1", "sentence2")
EXPECTED = " or ".join(json.dumps(dict.fromkeys(names, "...")) for names in NAMES)


def read(file: Iterable[bytes], name: str, form: str) -> Iterator[tuple[str, str] | None]:
    """The premise and the hypothesis of each line."""
    for place, line in stream(file, name):
        if not line.strip():
            yield None
        elif form == "tsv":
            pair = line.split("\t")
            if len(pair) != 2:
                raise UserError(
                    f"{place} has {len(pair)} columns, not 2. Expected: the premise, a tab, the "
                    "hypothesis; or --input_form jsonl."
                )
            yield tuple(pair)
        else:
            row = json_row(place, line)
            names = next((names for names in NAMES if names[0] in row), NAMES[0])
            yield tuple(field(row, name, str, place, EXPECTED) for name in names)


def answer(model, tokenizer, made, items: list[tuple[str, str]], args, device, name: str):
    """`{"label": ..., "probabilities": {label: 0 to 1}}` of each pair."""
    from scipy.special import softmax

    from common.forward import predict_logits

    encoded, counts = encode_pairs(items, tokenizer, made.max_length)
    answers = []
    for logits in predict_logits(model, encoded, args.batch_size, device, name):
        shares = [float(f"{share:.6g}") for share in softmax(logits.astype(float))]
        probabilities = dict(zip(made.labels, shares, strict=True))
        answers.append({"label": made.labels[logits.argmax()], "probabilities": probabilities})
    return answers, {cut: counts[cut] for cut in ("truncated_pairs", "truncated_tokens")}
