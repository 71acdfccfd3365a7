"""Use a fine-tuned model on new text: an input in, a line out, a part at a time."""

import importlib
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

from common import checkpoints, files, flags, models, results
from common.cli import TRAINING_SIZES, Parser, UserError, relative
from common.models import adapters, families, loading

CHUNK = 1000  # inputs that are in memory: enough that a batch's have about one length
log = logging.getLogger(__name__)


class Made(NamedTuple):
    """How the model was made, by its result's files: nothing of it is given anew."""

    where: str  # its folder, or its Hub id
    config: Any  # of the model
    labels: list[str]  # what its outputs stand for, by number; empty where there are none
    max_length: int  # sub-words that it saw of an input
    settings: dict = {}  # of its result's config.json; empty for a model from elsewhere
    metrics: dict = {}


class NewText(Protocol):
    """What predict.py needs besides `common.task.Task`: the names of a task's `new_text.py`."""

    # The forms of the input, each with the endings of its files. The first is also the form of
    # files of other endings, and of the standard input.
    FORMS: dict[str, tuple[str, ...]]

    def add_arguments(self, parser) -> None:
        """Add the flags that only this task's predict.py has; it may be left out."""

    def read(self, file: Iterable[bytes], name: str, form: str) -> Iterator[Any]:
        """Yield an item for each input of an open binary file, or None for an empty line.

        Lazily, where the form has an input a line. Raises UserError, which names `name` and the
        line and never quotes the text, for what is not in the form.
        """

    def answer(
        self, model, tokenizer, made: Made, items: list, args, device, name: str
    ) -> tuple[list[dict | str], dict[str, int]]:
        """The output of each of `items`, JSON values or a text, and counts of truncation.

        `name` is the progress bar's. As the fine-tuning run predicts its test split.
        """


def of(task) -> NewText:
    """The task's module."""
    module = importlib.import_module(f"{task.NAME}.new_text")
    vars(module).setdefault("add_arguments", lambda parser: None)
    return module


def parse_args(task, doc: str, argv) -> flags.Call:
    """The call of a task's predict.py; `doc` is its help."""
    parser, new_text = Parser(doc), of(task)
    group = flags.add_model_and_data(parser, task.DEFAULTS.get("model", "biobert"))
    text = "the percentage that the model was fine-tuned on (default: 100, or if there is none, "
    text += "the model itself: a checkpoint, or another one that was fine-tuned on such a task)"
    flags.add_training_size(group, None, text, TRAINING_SIZES[1:])
    text = "root of the results with the model (default: results/ in the task folder)"
    group.add_argument("--output_dir", type=Path, help=text)
    add = parser.add_argument_group("input and output").add_argument
    text = "the new text; - is the standard input"
    add("--input", type=Path, required=True, metavar="FILE", help=text)
    known = "; ".join(
        f"{name} if it ends in {', '.join(ends)}" for name, ends in new_text.FORMS.items() if ends
    )
    text = f"(default: {known}; else {next(iter(new_text.FORMS))})"
    add("--input_form", choices=tuple(new_text.FORMS), help=text)
    add("--output", type=Path, metavar="FILE", help="(default: standard output)")
    add("--overwrite", action="store_true", help="replace FILE of --output")
    flags.add_machine(parser, batch_size=16)
    new_text.add_arguments(parser)
    return flags.parse(task, "predict", parser, argv)


def run(call) -> None:
    """Answer what `--input` holds with the model that the flags name; an output for each input.

    Nothing but the outputs is written to the standard output. Raises UserError; a file of --output
    is then not written.
    """
    from common.device import choose_device

    args, new_text, (title, made) = call.args, of(call.task), find(call)
    fitting = (form for form, ends in new_text.FORMS.items() if args.input.suffix in ends)
    form = args.input_form or next(fitting, next(iter(new_text.FORMS)))
    total, empty, cut = 0, 0, Counter()
    with _opened(args.input) as (file, name), _writing(args) as out:
        own = made.settings.get("precision", "auto")  # the run's: another one gives other answers
        device = choose_device(args.device, own if args.precision == "auto" else args.precision)
        model, tokenizer = models.load_task_model(
            made.where, call.task.HEAD, made.labels, keep_head=True
        )
        model.requires_grad_(False)
        items = new_text.read(file, name, form)
        while chunk := list(islice(items, CHUNK)):
            given = [item for item in chunk if item is not None]
            about = model, tokenizer, made, given, args, device, f"{total} done"
            answers, counts = new_text.answer(*about) if given else ([], {})
            left = iter(answers)
            for item in chunk:
                answer = "" if item is None else next(left)
                text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
                out.write(text + "\n")
            out.flush()
            total, empty = total + len(chunk), empty + len(chunk) - len(given)
            cut.update(counts)
    notes = {"empty": empty} | cut
    noted = "".join(f", {n} {name.replace('_', ' ')}" for name, n in notes.items() if n)
    log.info("%s, %s: %d inputs%s", call.task.NAME, title, total, noted)


def find(call) -> tuple[str, Made]:
    """What the model that the flags name is called, and how it was made. UserError without it."""
    args, size = call.args, call.args.training_size
    source = models.source(args.model_name, args.demo)
    cell = results.Begun(call, source, None, {}).cell(size or 100)
    there = cell._replace(step=checkpoints.TUNING).folder.is_dir()
    own = size is None and source.name not in models.MODELS and not there
    if own and (made := itself(call.task, source)):
        return made
    return _result(checkpoints.existing(call, [cell])[cell].folder)


def itself(task, source) -> tuple[str, Made] | None:
    """`find` of a model that is itself fine-tuned on such a task, or None. Raises UserError."""
    folder = Path(source.name)
    result = folder if (folder / "checkpoint").is_dir() else folder.parent
    about = files.read_json(result / "config.json") if folder.is_dir() else {}
    if isinstance(about, dict) and about.get("step") == checkpoints.TUNING:
        if about["task"] == task.NAME:
            return _result(result)
        script = relative(about["task"], "predict.py")
        raise UserError(f"{folder} is a model of {about['task']}. Type: python {script} ...")
    config = models.load_config(source.name)
    # Any causal model has its head. One of numbers, such as a similarity, has no labels.
    other = loading.head_of(config) != task.HEAD or config.problem_type == "regression"
    if other or task.HEAD == "causal" or (task.HEAD == "sequence" and config.num_labels == 1):
        return None
    labels = [label for _, label in sorted(config.id2label.items())] if task.HEAD != "span" else []
    return source.results, Made(source.name, config, labels, families.positions(config))


def _result(folder: Path) -> tuple[str, Made]:
    (about, metrics), where = results.read(folder), str(folder / "checkpoint")
    base, known = adapters.base_of(where), about["inputs"].get("model")
    # A miniature is known by its folder's name.
    if base and known not in (None, models.Source(base, "").identity(), Path(base).name):
        raise UserError(f"{base} is another model than {folder} adapts. Put back that one.")
    config, settings = models.load_config(where), about["settings"]
    length = min(settings["max_length"], families.positions(config))
    which = "{model} on {dataset}, {training_size} %, seed {seed}".format_map(about)
    return which, Made(where, config, about["labels"], length, settings, metrics)


@contextmanager
def _opened(path: Path):
    if str(path) == "-":
        yield sys.stdin.buffer, "standard input"
        return
    try:
        file = path.expanduser().open("rb")
    except OSError as error:
        raise UserError(f"--input {path}: cannot read it ({error.strerror}).") from None
    with file:
        yield file, str(path)


@contextmanager
def _writing(args):
    """The standard output, or a file of --output that appears whole or not at all.

    Raises UserError where it cannot, or must not, be written.
    """
    if args.output is None:
        sys.stdout.reconfigure(encoding="utf-8")
        yield sys.stdout
        return
    path = args.output.expanduser().absolute()
    if not os.access(path.parent, os.W_OK) or path.exists() and not path.is_file():
        raise UserError(f"--output {path}: give a file in a folder that is there and writable.")
    if path.exists() and str(args.input) != "-" and path.samefile(args.input.expanduser()):
        raise UserError(f"--output {path} is the file of --input. Give another.")
    if path.exists() and not args.overwrite:
        raise UserError(f"--output {path} is there already. Give another, or add --overwrite.")
    with files.replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file
