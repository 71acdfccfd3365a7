"""Use a fine-tuned model on new text: an input in, a line out, a part at a time."""

import argparse
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from common import files, flags, models, results
from common.cli import ROOT, Parser, UserError

CHUNK = 1000  # inputs that are in memory: enough that a batch's have about one length
log = logging.getLogger(__name__)


class Made(NamedTuple):
    """How the model was made, by its run's files: nothing of it is given anew."""

    checkpoint: Path
    labels: list[str]  # what its outputs stand for, by number; empty where there are none
    max_length: int  # sub-words that it saw of an input
    arguments: dict  # all of fine-tuning.py's, resolved
    metrics: dict


class NewText(Protocol):
    """What a task's predict.py needs besides `common.task.Task`: a module with these names."""

    # The forms of the input, each with the endings of its files; the first one is also that of
    # files of other endings, and of the standard input.
    FORMS: dict[str, tuple[str, ...]]

    def add_arguments(self, parser) -> None:
        """Add the flags that only this task's predict.py has."""

    def read(self, file: Iterable[bytes], name: str, form: str) -> Iterator[Any]:
        """Yield an item for each input of an open binary file, or None for an empty line.

        Lazily, where the form has an input a line. Raises UserError, which names `name` and the
        line and never quotes the text, for what is not in the form.
        """

    def answer(
        self, model, tokenizer, made: Made, items: list, args, device, name: str
    ) -> tuple[list[dict | str], dict[str, int]]:
        """The output of each of `items`, JSON values or a text, and counts of what was cut.

        `name` is the progress bar's. As the fine-tuning run predicts its test split.
        """


def parse_args(task, new_text: NewText, doc: str, argv, **defaults) -> argparse.Namespace:
    """The flags of a task's predict.py; `doc` is its help.

    `defaults`: those of `flags.add_predict_arguments` that differ for this task.
    """
    parser = Parser(doc)
    flags.add_predict_arguments(parser, new_text.FORMS, **defaults)
    new_text.add_arguments(parser)
    return flags.parse(parser, argv, ROOT / task.NAME)


def run(task, new_text: NewText, args) -> None:
    """Answer what `args.input` holds with the model that `args` name; an output for each input.

    Nothing but the outputs is written to the standard output. Raises UserError; a file of --output
    is then not written.
    """
    title, made = find(task, args)
    _check_output(args)
    with _opened(args.input) as (file, name):
        form = args.input_form or form_of(args.input, new_text.FORMS)

        from common.device import choose_device

        device = choose_device(args.device, args.precision)
        where = argparse.Namespace(model_name=str(made.checkpoint), demo=False)
        model, tokenizer = models.load_task_model(where, task.HEAD, made.labels, keep_head=True)
        model.requires_grad_(False)
        items, total, empty, cut = new_text.read(file, name, form), 0, 0, Counter()
        try:
            with _writing(args.output) as out:
                while chunk := list(islice(items, CHUNK)):
                    some = [item for item in chunk if item is not None]
                    about = model, tokenizer, made, some, args, device, f"{total} done"
                    found, counts = new_text.answer(*about) if some else ([], {})
                    answers = iter(found)
                    out.writelines(_line(None if x is None else next(answers)) for x in chunk)
                    out.flush()
                    total, empty = total + len(chunk), empty + len(chunk) - len(some)
                    cut.update(counts)
        except KeyboardInterrupt:  # unlike the other steps it does not go on from there
            print("\ninterrupted: the same command begins anew.", file=sys.stderr)
            raise SystemExit(130) from None
    notes = {"empty": empty} | cut
    noted = "".join(f", {n} {name.replace('_', ' ')}" for name, n in notes.items() if n)
    log.info("%s: %d inputs%s", title, total, noted)


def find(task, args) -> tuple[str, Made]:
    """The finished run of fine-tuning.py that `args` name: in words, and how it was made.

    Raises UserError, with the command that makes it, where there is none.
    """
    if not args.training_size:
        raise UserError(
            "--training_size 0 is the model without training: there is no checkpoint of it. Give "
            "10, 30, 50 or 100."
        )
    # Of the flags those that name a run, without the use's own. Its precision is not training's.
    cell = argparse.Namespace(
        **{k: v for k, v in vars(args).items() if k in flags.FLAGS and k != "precision"}
    )
    run = results.Run(task, cell, "predict", args.training_size, {})
    checkpoint = Path(results.checkpoints([run])[run])
    config = files.read_json(checkpoint.parent / "config.json")
    metrics = files.read_json(checkpoint.parent / "metrics.json")
    try:
        labels, max_length = config["data"]["labels"], config["max_length"]
        made = Made(checkpoint, labels, max_length, config["arguments"], metrics)
    except (KeyError, TypeError):
        raise UserError(
            f"{checkpoint.parent} does not say how its model was made. Make it again:\n"
            f"  {run.command('fine-tuning', like=(config or {}).get('arguments'))} --overwrite"
        ) from None
    return f"{task.NAME}, {run.title()}", made


def form_of(path: Path, forms: dict[str, tuple[str, ...]]) -> str:
    """The form of an input file by its ending; else the first of `forms`."""
    fitting = [form for form, endings in forms.items() if path.suffix in endings]
    return fitting[0] if fitting else next(iter(forms))


def text_fields(row: dict, names: Iterable[str], place: str, expected: str) -> list[str]:
    """The texts in the fields `names` of a row. Raises UserError where one is missing."""
    for name in names:
        if not isinstance(row.get(name), str):
            wrong = "is no text" if name in row else "is missing"
            raise UserError(f"{place}: {name!r} {wrong}. Expected: {expected}.")
    return [row[name] for name in names]


@contextmanager
def _opened(path: Path):
    """(binary file, its name in messages)."""
    if str(path) == "-":
        yield sys.stdin.buffer, "standard input"
        return
    try:
        file = path.expanduser().open("rb")
    except OSError as error:
        raise UserError(f"--input {path}: cannot read it ({error.strerror}).") from None
    with file:
        yield file, str(path)


def _check_output(args) -> None:
    if args.output is None:
        return
    path = args.output = args.output.expanduser().absolute()
    if path.exists() and not path.is_file():
        raise UserError(f"--output {path} is no file. Give another, or none: it is printed then.")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--output {path}: give a file in a folder that is there and writable.")
    if path.exists() and not args.overwrite:
        raise UserError(f"--output {path} is there already. Give another, or add --overwrite.")


@contextmanager
def _writing(path: Path | None):
    """The standard output, or a file that appears whole or not at all."""
    if path is None:
        sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    with files.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file


def _line(answer: dict | str | None) -> str:
    if isinstance(answer, dict):
        answer = json.dumps(answer, ensure_ascii=False)
    return f"{answer or ''}\n"
