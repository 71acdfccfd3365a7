"""The Instruct task, as `common.task` asks for it: an instruction in, the answer's text out.

An example is a row of the data set, a prediction what `Instruct.parsing.read` returns: the answer,
and whether it could not be parsed.
"""

import random
from collections import Counter

from common import models
from common.cli import UserError, number
from common.task import ProbeInputs, Score
from Instruct import encoding, parsing, tuning
from Instruct import scores as scoring
from Instruct.data import Data, load
from Instruct.prompts import LABEL_KINDS
from Instruct.scores import SCORES, count, details
from Instruct.tuning import loss
from NER.scores import OUTSIDE

__all__ = ["SCORES", "count", "details", "load", "loss"]
NAME, HEAD, DATASET, IN_STUDY = "Instruct", "causal", "medtuned", False
NOTE = """\
Answers are generated and parsed; what cannot be parsed counts as wrong, and its share stands beside
the scores. The mean is over the sources, of each one's main score. NER asks for one entity type a
prompt; its score is over all of them. Intervals resample sentences, premises, passages or
documents, whose prompts belong together. A row of another task is of a model that was fine-tuned
for that task, on the same test examples (the data's hash says so); NLI/'s intervals resample pairs,
and are narrower for that. Of parse failures few are good.\
"""
# Of the three scripts' flags. To cast a miniature's weights takes longer than to compute with them.
DEFAULTS = {"model": "biogpt", "max_length": 1024, "demo_precision": "fp32"}
# The peak learning rate of adapters, which start at zero (Hu et al. 2022 take as much), ...
LORA_RATES = (2e-4, 4e-3)  # ... and of a miniature's


def add_arguments(parser, step: str) -> None:
    """What the answers' scores depend on; of fine-tuning also how it is done."""
    group = parser.add_argument_group("instructions")
    text = "the label of relations that means there is none, of the sources that have it (default, "
    text += "and of the others: none, 0 or false)"
    group.add_argument("--negative_label", metavar="LABEL", help=text)
    if step != "fine-tuning":
        return
    text = "answers of one label: written and parsed (generate, the default), or the most likely of"
    text += " the labels (likelihood); answers of other kinds are always written"
    ways = ("generate", "likelihood")
    group.add_argument("--decode", choices=ways, default="generate", help=text)
    text = "likelihood: the mean over a label's tokens, not the sum"
    group.add_argument("--length_normalised", action="store_true", help=text)
    text = (
        "tokens of an answer, at most (default: what the source's longest training answer needs, "
    )
    text += "up to half of --max_length)"
    group.add_argument("--max_new_tokens", type=number(int, 1), metavar="N", help=text)
    text = "train low-rank adapters of all linear layers, not the weights; --learning_rate is then "
    text += "{} if not given, with --demo {}".format(*LORA_RATES)
    group.add_argument("--lora", action="store_true", help=text)
    usual = parser.fallbacks["learning_rate"]
    parser.fallbacks["learning_rate"] = lambda args: LORA_RATES if args.lora else usual
    group.add_argument("--lora_rank", type=number(int, 1), default=16, help="(default: 16)")
    text = "compute activations twice: less memory, about a third slower"
    group.add_argument("--gradient_checkpointing", action="store_true", help=text)


def scores(data: Data) -> tuple[Score, ...]:
    """The mean, the failures, and each source's main score and failures.

    A source's score is that of the same name in the task that reads its kind.
    """
    found = parts([{"source": name, "kind": of["kind"]} for name, of in data.sources.items()])
    same = {}
    for name, about in data.sources.items():
        main = scoring.KINDS[about["kind"]][0][0]
        if about["data_sha256"]:
            same[f"{name}_{main}"] = about["data_sha256"], main
    return SCORES + tuple(score._replace(same=same.get(score.name)) for score in found)


def parts(rows: list[dict]) -> tuple[Score, ...]:
    """Each source's main score, and its parse failures."""
    return scoring.source_scores(rows, brief=True)


def load_model(args, data: Data):
    """The model with its own head; with --lora its weights are frozen, and adapters are new.

    Its config says what its use needs of the data: how prompts are written, and the room that the
    answers of the sources take, most and least.
    """
    if args.length_normalised and args.decode != "likelihood":
        raise UserError("--length_normalised says how --decode likelihood is done: give both.")
    model, tokenizer = models.load_task_model(args, HEAD, [])
    rooms = [n + encoding.SLACK for n in encoding.longest_answers(data, tokenizer).values()]
    about = {"prompt_form": data.form, "room": max(rooms), "least_room": min(rooms)}
    model.config.instruct = about
    return tuning.prepare(model, args), tokenizer, False


def stratum(example: dict) -> str:
    """What subsets are stratified by: the source, and the label or the entity type."""
    if example["kind"] in LABEL_KINDS:
        return f"{example['source']} {example['gold']}"
    return f"{example['source']} {example.get('type', '')}".strip()


def encode(data: Data, examples: list[dict], tokenizer, max_length: int):
    """Prompt and answer, with labels of the answer alone; see `Instruct.encoding.encode`."""
    return encoding.encode(data, examples, tokenizer, max_length)


def n_labels(row: dict) -> int:
    """The answer's tokens, the end among them; 0 where prompt and answer were too long."""
    return row["answer_tokens"]


def predict(model, tokenizer, data: Data, examples, encoded, args, device, name) -> list[tuple]:
    """(answer, parse_failure) of each prompt; see `Instruct.parsing.read`."""
    from Instruct import answering

    return answering.predict(model, tokenizer, data, examples, encoded, args, device, name)


def rows(
    data: Data, examples: dict[str, list[dict]], predictions: dict[str, list[tuple]]
) -> tuple[dict[str, list[dict]], dict]:
    """Rows of predictions.jsonl, see `Instruct.scores`; no text: of free answers the score."""
    found = {
        split: [
            row(data, example, *prediction)
            for example, prediction in zip(examples[split], predicted, strict=True)
        ]
        for split, predicted in predictions.items()
    }
    return found, {}


def row(data: Data, example: dict, predicted, failed: bool) -> dict:
    """One of them."""
    gold = example["gold"]
    if example["kind"] == "free_qa":
        gold, predicted = None, scoring.free_score(predicted, gold, failed)
    # Folders that were built earlier have no groups; then each prompt stands for itself.
    found = {key: example[key] for key in ("id", "group", "source", "kind") if key in example}
    found |= {"gold": gold, "predicted": predicted, "parse_failure": failed}
    negative = data.sources[example["source"]].get("negative")
    if negative is not None:
        found["negative"] = negative
    return found


def baseline(train: list[dict], examples: list[dict]) -> list[tuple]:
    """The source's most frequent training answer, for every prompt; of NER no entity.

    Of several the first by the alphabet: the order of a subset says nothing.
    """
    outputs: dict[str, Counter] = {}
    for example in train:
        outputs.setdefault(example["source"], Counter())[example["output"]] += 1
    best = {source: max(sorted(own), key=own.get) for source, own in outputs.items()}
    golds = {(example["source"], example["output"]): example["gold"] for example in train}

    def guess(example: dict) -> tuple:
        source, kind = example["source"], example["kind"]
        if kind == "ner":
            return [OUTSIDE] * len(example["gold"]), False
        if source not in best:  # a small subset may lack it
            return None, True
        if kind == "free_qa":
            return parsing.read_free(best[source])
        return golds[source, best[source]], False

    return [guess(example) for example in examples]


def controls(data: Data, splits: dict[str, list[dict]], seed: int) -> dict[str, dict]:
    """The same prompts, the training answers shuffled within each source."""
    by_source: dict[str, list] = {}
    for example in splits["train"]:
        by_source.setdefault(example["source"], []).append(example["gold"])
    generator = random.Random(seed)
    for golds in by_source.values():
        generator.shuffle(golds)
    train = [example | {"gold": by_source[example["source"]].pop()} for example in splits["train"]]
    return {"control": splits | {"train": train}}


def probe_inputs(data: Data, targets: dict, tokenizer, max_length: int, args) -> ProbeInputs:
    """The vector of a prompt's last token, for the label; a probe for each source that has one.

    The targets differ in their labels alone.
    """
    import numpy as np

    probed = {
        target: {
            split: [e for e in some if e["kind"] in LABEL_KINDS] for split, some in splits.items()
        }
        for target, splits in targets.items()
    }
    if not probed["task"]["train"]:
        raise UserError(
            f"no source has an answer of one label ({', '.join(LABEL_KINDS)}): there is nothing "
            "that a probe could tell."
        )
    known = {e["source"] for e in probed["task"]["train"]}
    if lacking := {e["source"] for some in probed["task"].values() for e in some} - known:
        raise UserError(
            f"no training example of {', '.join(sorted(lacking))} is left for a probe. Give a "
            "larger --max_train_examples, or leave it out."
        )
    flat, counts, rows, groups, names = [], {}, {}, {}, list(data.sources)
    for split, examples in probed["task"].items():
        encoded, cut = attention_inputs(data, examples, tokenizer, max_length)
        counts |= {f"{split}_{name}": n for name, n in cut.items()}
        rows[split] = np.arange(len(flat), len(flat) + len(encoded))[:, None]
        groups[split] = np.array([names.index(e["source"]) for e in examples])
        flat += [e | {"units": [(len(e["input_ids"]) - 1, len(e["input_ids"]))]} for e in encoded]
    labels = {
        target: np.array([data.labels.index(e["gold"]) for e in splits["train"]])
        for target, splits in probed.items()
    }
    return ProbeInputs(flat, dict.fromkeys(targets, rows), labels, len(data.labels), counts,
                       groups=groups, targets=probed)  # fmt: skip


def probe_predictions(
    data: Data, examples: list[dict], inputs: ProbeInputs, target: str, split: str, found
) -> list[tuple]:
    """The label of each prompt; a probe's answer is never a failure."""
    return [(data.labels[i], False) for i in found]


def attention_inputs(data: Data, examples: list[dict], tokenizer, max_length: int):
    """The prompts, as the model sees them before it answers."""
    encoded, counts = encoding.encode(data, examples, tokenizer, max_length)
    return [{"input_ids": list(row["prompt"])} for row in encoded], counts


def export(args, data: Data, folder) -> None:
    """Nothing more than what every task writes."""
