"""New text for Instruct: instructions with or without an input; the model's answers."""

import json
from collections.abc import Iterable, Iterator

from common.cli import number
from common.data_files import json_row, stream
from common.predict import text_fields
from Instruct import encoding

FORMS = {"jsonl": ()}
EXPECTED = json.dumps({"instruction": "...", "input": "..."}) + "; the input may be missing"


def add_arguments(parser) -> None:
    """How long an answer may be."""
    text = "tokens of an answer, at most (default: as in the fine-tuning run)"
    parser.add_argument("--max_new_tokens", type=number(int, 1), metavar="N", help=text)


def read(file: Iterable[bytes], name: str, form: str) -> Iterator[dict | None]:
    """A prompt a line: its place, instruction and input."""
    for place, line in stream(file, name):
        if not line.strip():
            yield None
        else:
            row = {"input": ""} | json_row(place, line)
            names = ("instruction", "input")
            texts = text_fields(row, names, place, EXPECTED)
            yield {"id": place} | dict(zip(names, texts, strict=True))


def answer(model, tokenizer, made, items: list[dict], args, device, name: str):
    """`{"answer": text}` of each prompt, which is written as the training's were.

    Raises UserError where an instruction leaves no room for an answer.
    """
    from Instruct import generation

    about = made.config.instruct
    most = args.max_new_tokens or made.settings.get("max_new_tokens") or about["room"]
    # The source of a prompt is unknown: no prompt is cut that its own source might leave whole.
    room = min(about["least_room"], made.max_length // 2)
    prompts, cut_words = [], 0
    for item in items:
        limits = about["prompt_form"], made.max_length, lambda _: room, 1
        ids, cut, _ = encoding.prompt_ids(tokenizer, item, *limits)
        prompts.append(ids)
        cut_words += cut
    ends = encoding.end_ids(model, tokenizer)
    longest = [most] * len(items)
    answers = generation.generate(model, prompts, longest, ends, args.batch_size, device, name)
    rows = [{"answer": encoding.decode(tokenizer, ids)} for ids in answers]
    return rows, {"cut_words": cut_words}
