"""The Instruct task, as `common.task` asks for it: an instruction in, the answer's text out.

An example is a row of the data set. A prediction is what `Instruct.parsing.read` returns: the
answer, and whether it could not be parsed.
"""

from collections import Counter

from Classification.scores import constant
from common import cli, models
from common.cli import UserError
from common.controls import DRAWS, by_rarest_word
from common.subsample import permutation
from common.task import Examples, ProbeInputs, Score
from common.training.losses import IGNORED
from Instruct import encoding, parsing
from Instruct import scores as scoring
from Instruct.data import Data, load
from Instruct.encoding import encode
from Instruct.prompts import LABEL_KINDS, SECOND
from Instruct.scores import SCORES, count, details, parts
from NER.scores import OUTSIDE
from QA.scores import exact_and_f1

__all__ = ["SCORES", "count", "details", "encode", "load", "parts"]
NAME, HEAD, DATASET = "Instruct", "causal", "medtuned"
NOTE = """\
An answer that cannot be parsed counts as wrong; the share of such answers stands beside the scores,
and fewer parse failures are better. The mean is over the main scores of the sources. NER asks for
one entity type a prompt; its score is over all types. Intervals resample sentences, premises,
passages or documents, whose prompts belong together. A row of another task is a model that was
fine-tuned for that task, on the same test examples (the hash of the data says so) and, at the same
size and seed, on the same training examples.\
"""
# Defaults of the scripts' flags. A miniature in bf16 would spend its time casting weights.
DEFAULTS = {"model": "biogpt", "max_length": 1024, "demo_precision": "fp32"}
NEGATIVE = """the label that means "no relation", for the relation sources that have it (default,
and for the other sources: none, 0 or false)"""
DECODE = """answers of one label: generated and parsed (generate, the default), or the most likely
label (likelihood); answers of other kinds are always generated"""
MAX_NEW_TOKENS = """most tokens of an answer (default: what the source's longest training answer
needs, up to half of --max_length)"""


def add_arguments(parser, step: str) -> None:
    """What the answers' scores depend on, and of fine-tuning also how it is done."""
    add = parser.add_argument_group("instructions").add_argument
    add("--negative_label", metavar="LABEL", help=NEGATIVE)
    if step != "fine-tuning":
        return
    ways = ("generate", "likelihood")
    add("--decode", choices=ways, default="generate", help=DECODE)
    add("--max_new_tokens", type=cli.number(int, 1), metavar="N", help=MAX_NEW_TOKENS)
    text = "compute activations twice: less memory, about a third slower"
    add("--gradient_checkpointing", action="store_true", help=text)


def scores(data: Data) -> tuple[Score, ...]:
    """The mean, the failures, and each source's main score and failures.

    A source's score is that of the same name in the task that reads its kind.
    """
    chosen = parts([{"source": name, "kind": of["kind"]} for name, of in data.sources.items()])
    same = {}
    for name, of in data.sources.items():
        main = scoring.KINDS[of["kind"]][0][0]
        if of["data_sha256"]:
            settings = {"negative_label": of.get("negative")} if of["kind"] == "relation" else {}
            same[f"{name}_{main}"] = of["data_sha256"], main, f"{name}/", settings
    return SCORES + tuple(score._replace(same=same.get(score.name)) for score in chosen)


def load_model(where: str, data: Data, gradient_checkpointing: bool = False, **others):
    """The model with its own head.

    Its config says what predict.py needs to know of the data: how prompts are written, and the room
    of each source's answers. `others`: flags that only `load` needs.
    """
    model, tokenizer = models.load_task_model(where, HEAD, [])
    rooms = encoding.rooms(data, tokenizer)
    model.config.instruct = {"prompt_form": data.form, "rooms": rooms}
    if gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model, tokenizer, False


def subset(data: Data, percentage: int, seed: int) -> list[int]:
    """The places in train of all prompts of `percentage` % of each source's units.

    A unit is an example of the task that also reads the source (NER, NLI, QA), so that both have
    the same ones; else a group. Raises UserError if nothing is left.
    """
    chosen = {
        source: {*permutation(strata, seed)[: round(len(strata) * percentage / 100)]}
        for source, strata in data.units.items()
    }
    train = enumerate(data.splits["train"])
    places = [i for i, row in train if row["unit"] in chosen[row["source"]]]
    if percentage and not places:
        raise UserError(f"{percentage} % of train holds no prompt. Use a larger --training_size.")
    return places


def loss_group(example: dict) -> str:
    """The source: else epochs would be compared by NER's answers, which have the most tokens."""
    return example["source"]


def stratum(example: dict) -> str:
    """What a part of the prompts is stratified by: source, and label or entity type."""
    own = example["gold"] if example["kind"] in LABEL_KINDS else example.get("type", "")
    return f"{example['source']} {own}".strip()


def loss(model, batch: dict):
    """Cross entropy of the answers' tokens, summed: a scalar. See `common.task.Task.loss`.

    The head reads only the states before labelled tokens: prompts are long and vocabularies large.
    """
    from torch.nn import functional as F

    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    states = whole.base_model(**inputs, use_cache=False).last_hidden_state
    wanted = batch["labels"][:, 1:]
    asked = wanted != IGNORED
    scores = whole.get_output_embeddings()(states[:, :-1][asked]).float()
    if cap := getattr(whole.config, "final_logit_softcapping", None):  # Gemma 2's, after its head
        scores = cap * (scores / cap).tanh()
    return F.cross_entropy(scores, wanted[asked], reduction="sum")


def predict(
    model, tokenizer, data: Data, examples, encoded, batch_size: int, device, name: str
) -> list[tuple]:
    """(answer, parse_failure) of each prompt: generated and parsed, or the most likely label."""
    from Instruct import generation

    prompts, answers, written = [list(row["prompt"]) for row in encoded], {}, []
    for source, about in data.sources.items():
        own = [i for i, example in enumerate(examples) if example["source"] == source]
        if data.decode == "generate" or about["kind"] not in LABEL_KINDS:
            written += own
            continue
        asked, bar = [prompts[i] for i in own], f"{name} {source}"
        ids = [encoding.answer_ids(tokenizer, label) for label in about["labels"]]
        values = generation.log_likelihoods(model, asked, ids, batch_size, device, bar)
        for i, row in zip(own, values, strict=True):
            answers[i] = about["labels"][row.index(max(row))], False
    written.sort()
    most = [data.max_new_tokens or encoded[i]["room"] for i in written]
    asked, ends = [prompts[i] for i in written], encoding.end_ids(model, tokenizer)
    ids = generation.generate(model, asked, most, ends, batch_size, device, name)
    for i, tokens in zip(written, ids, strict=True):
        labels = data.sources[examples[i]["source"]]["labels"]
        text = encoding.decode(tokenizer, tokens)
        answers[i] = parsing.read(text, examples[i], labels, data.ner_form)
    return [answers[i] for i in range(len(examples))]


def rows(
    data: Data, examples: dict[str, list[dict]], predictions: dict[str, list[tuple]]
) -> tuple[dict[str, list[dict]], dict]:
    """Rows of predictions.jsonl, see `Instruct.scores`; no text: of free answers the score."""
    pairs = {s: zip(examples[s], own, strict=True) for s, own in predictions.items()}
    return {s: [row(data, *pair) for pair in own] for s, own in pairs.items()}, {}


def row(data: Data, example: dict, prediction: tuple) -> dict:
    """One of them."""
    gold, (predicted, failed) = example["gold"], prediction
    if example["kind"] == "free_qa":  # SQuAD's F1, see QA/. A parse failure is not "no answer".
        gold, predicted = None, 0.0 if failed else exact_and_f1(predicted, gold)[1]
    made = {key: example[key] for key in ("id", "group", "source", "kind")}
    made |= {"gold": gold, "predicted": predicted, "parse_failure": failed}
    of = data.sources[example["source"]]
    return made | ({"negative": of["negative"]} if "negative" in of else {})


def baseline(train: list[dict], examples: list[dict]) -> list[tuple]:
    """The source's most frequent training answer, for every prompt; of NER no entity.

    Of equally frequent answers the first in alphabetical order: that of a subset is random.
    """
    counts, best = Counter((e["source"], e["output"]) for e in train), {}
    for e in sorted(train, key=lambda e: (-counts[e["source"], e["output"]], e["output"])):
        first = next(iter(e["gold"]), "") if e["kind"] == "free_qa" else e["gold"]
        best.setdefault(e["source"], (first, False))
    return [
        ([OUTSIDE] * len(e["gold"]), False)
        if e["kind"] == "ner"
        else best.get(e["source"], (None, True))  # train may lack the source
        for e in examples
    ]


def constants(data: Data, train: list[dict]) -> dict:
    """`baseline`, but of relations and documents the constant answer with the highest F1."""
    best = {}
    for source in {e["source"] for e in train if e["kind"] in ("relation", "classification")}:
        own = [row(data, e, (e["gold"], False)) for e in train if e["source"] == source]
        labels = constant(own)
        best[source] = labels if own[0]["kind"] == "classification" else (labels or [None])[0]

    def answer(examples: list[dict]) -> list[tuple]:
        usual = zip(examples, baseline(train, examples), strict=True)
        return [(best.get(e["source"]) or guess, failed) for e, (guess, failed) in usual]

    return dict.fromkeys((score.name for score in scores(data)), answer)


def controls(data: Data, splits: dict[str, list[dict]], seed: int) -> dict[str, list[dict]]:
    """The same prompts with labels that a word of the text decides, see `common.controls`.

    Of a pair, the word is sentence 2's. Each source has its own words and labels.
    """
    drawn = {}  # of a source, by draw and split: the labels of its prompts in their order
    for source in {e["source"] for e in splits["train"]}:
        own = {s: [e for e in some if e["source"] == source] for s, some in splits.items()}
        texts = {s: [e["input"].split(SECOND)[-1] for e in some] for s, some in own.items()}
        drawn[source] = by_rarest_word(texts, [e["gold"] for e in own["train"]], seed)

    def relabelled(split: str, draw: int) -> list[dict]:
        left = {source: iter(labels[draw][split]) for source, labels in drawn.items()}
        known = [e for e in splits[split] if e["source"] in left]
        return [e | {"gold": next(left[e["source"]])} for e in known]

    return {"control": [{s: relabelled(s, n) for s in splits} for n in range(DRAWS)]}


def probed(examples: list[dict]) -> list[dict]:
    """The prompts whose answer is one label."""
    return [e for e in examples if e["kind"] in LABEL_KINDS]


def probe_inputs(
    data: Data, targets: dict, tokenizer, max_length: int, pooling: str
) -> ProbeInputs:
    """The vector of a prompt's last token, for the label; a probe for each source that has one.

    `notes`: the sources in the order of the sets.
    """
    import numpy as np

    names = [name for name, about in data.sources.items() if about["kind"] in LABEL_KINDS]
    lacking = {*names} - {e["source"] for e in targets["task"]["train"]}
    if not names:
        kinds = ", ".join(LABEL_KINDS)
        raise UserError(f"no source has one label as its answer ({kinds}). Build another set.")
    if lacking:
        raise UserError(
            f"no training example of {', '.join(sorted(lacking))} is left for a probe. Give a "
            "larger --max_train_examples, or leave it out."
        )
    encoded, counts, start, sets, number = [], {}, {}, [], data.labels.index
    for split, examples in targets["task"].items():
        inputs, cut = attention_inputs(data, examples, tokenizer, max_length)
        counts |= {f"{split}_{key}": n for key, n in cut.items()}
        start[split] = len(encoded)
        encoded += inputs
    for one in encoded:
        one["units"] = [(len(one["input_ids"]) - 1, len(one["input_ids"]))]
    for name in names:
        rows = {
            s: np.array([start[s] + i for i, e in enumerate(own) if e["source"] == name], int)
            for s, own in targets["task"].items()
        }
        labels = {
            target: np.array([number(e["gold"]) for e in own["train"] if e["source"] == name])
            for target, own in targets.items()
        }
        sets.append(Examples({s: own[:, None] for s, own in rows.items()}, labels))
    return ProbeInputs(encoded, sets, len(data.labels), counts, names)


def probe_predictions(
    data: Data, examples: list[dict], inputs: ProbeInputs, target: str, split: str, found: list
) -> list[tuple]:
    """The label of each prompt, never a failure."""
    answers = {name: iter(numbers) for name, numbers in zip(inputs.notes, found, strict=True)}
    return [(data.labels[next(answers[e["source"]])], False) for e in examples]


def attention_inputs(data: Data, examples: list[dict], tokenizer, max_length: int):
    """The prompts, as the model sees them before it answers."""
    encoded, counts = encoding.encode(data, examples, tokenizer, max_length)
    return [{"input_ids": list(row["prompt"])} for row in encoded], counts
