"""New text for Instruct: instructions with or without an input; the model's answers."""

import json
from collections.abc import Iterable, Iterator
from functools import partial

from common.cli import UserError, number
from common.data_files import field, json_row, stream
from Instruct import encoding

FORMS = {"jsonl": ()}
EXPECTED = json.dumps({"instruction": "...", "input": "..."}) + "; the input may be missing"


def add_arguments(parser) -> None:
    """How long an answer may be."""
    text = "the source of these prompts: they get the room of its answers (default: unknown)"
    parser.add_argument("--source", metavar="NAME", help=text)
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
            texts = {name: field(row, name, str, place, EXPECTED) for name in names}
            yield {"id": place} | texts


def answer(model, tokenizer, made, items: list[dict], args, device, name: str):
    """`{"answer": text}` of each prompt, which is written as the training's were.

    Raises UserError where an instruction leaves no room for an answer.
    """
    from Instruct import generation

    known = made.config.instruct["rooms"]
    if args.source not in (None, *known):
        raise UserError(f"--source {args.source}: the model knows {', '.join(known)}.")
    form = made.config.instruct["prompt_form"]
    rooms = [known[args.source]] if args.source else [*known.values()]
    asked = args.max_new_tokens or made.settings.get("max_new_tokens")
    prompts, longest, cut_words = [], [], 0
    for item in items:
        each = [partial(encoding.room, tokenizer, item, most, made.max_length) for most in rooms]
        # No prompt of an unknown source is cut that its own source might leave whole.
        limits = form, made.max_length, lambda n, each=each: min(room(n) for room in each), 1
        ids, cut, _ = encoding.prompt_ids(tokenizer, item, *limits)
        kept = len(item["input"].split(" ")) - cut
        most = max(room(kept) for room in each)
        longest.append(asked or min(most, made.max_length - len(ids)))
        prompts.append(ids)
        cut_words += cut
    ends = encoding.end_ids(model, tokenizer)
    answers = generation.generate(model, prompts, longest, ends, args.batch_size, device, name)
    rows = [{"answer": encoding.decode(tokenizer, ids)} for ids in answers]
    return rows, {"cut_words": cut_words}
