"""The registry of models; tokenizer and task model from a Hub id or a local folder."""

import logging
import re
import string
from pathlib import Path

from common.cli import ROOT, UserError
from common.demo import miniatures
from common.hub import cached_or_download, errors

log = logging.getLogger(__name__)

# The study's four models: the name on the command line -> the repository on the Hub.
MODELS = {
    "bert": "bert-base-cased",
    "biobert": "dmis-lab/biobert-v1.1",
    "gpt2": "gpt2-medium",
    "biogpt": "microsoft/biogpt",
}
CACHE = ROOT / ".cache" / "demo"  # of the demo's miniatures
ARCHITECTURES = ("bert", "gpt2", "biogpt")  # values of `model_type` in config.json
HEADS = ("classifier", "score")  # what the three architectures call their task head
# A usable tokenizer covers the embedding table but for padding rows; one that lost its vocabulary
# file loads without complaint and holds a handful of special tokens.
MIN_COVERAGE = 0.9


def folder_name(args) -> str:
    """What the model of `--model_name` is called in the results: a short name, or the id with "--".

    A local folder goes by its own and its parent's name; `args.model_name` becomes its whole path,
    so that two folders of one name are told apart. Raises UserError if it is none of: a name in
    MODELS, a local folder, an id with one "/".
    """
    name = args.model_name
    if name in MODELS:
        return name
    if args.demo:
        raise UserError(f"--demo has miniatures of {', '.join(MODELS)}, not of {name}.")
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{name} holds no config.json: it is no model folder.")
        args.model_name = str(folder.resolve())
        return "--".join(folder.resolve().parts[-2:]).strip("/")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and ".." not in name:
        return name.replace("/", "--")
    raise UserError(
        f"--model_name {name}: neither a model of the study "
        f"({', '.join(f'{short} = {hub_id}' for short, hub_id in MODELS.items())}), nor a local "
        "folder, nor a Hub id (owner/name)."
    )


def source(args) -> str:
    """Where to load `--model_name` from: a Hub id or a folder. With --demo, makes the miniature."""
    if args.demo:
        return str(miniatures.miniature(args.model_name, CACHE))
    return MODELS.get(args.model_name, args.model_name)


def load_config(source: str):
    """The configuration. Raises UserError if it is unreadable or of another architecture."""
    from transformers import AutoConfig

    config = _load(AutoConfig, source)
    if config.model_type not in ARCHITECTURES:
        raise UserError(
            f"{source} is a {config.model_type!r} model; this project reads "
            f"{', '.join(ARCHITECTURES)}-like ones. Choose another --model_name."
        )
    return config


def load_tokenizer(source: str, config):
    """The tokenizer of `source`: pads on the right, never lower-cases a cased vocabulary.

    GPT-2 is given its end-of-text token as pad, and the space before a first word that its words
    have elsewhere. Raises UserError if the vocabulary is missing or broken.
    """
    from transformers import AutoTokenizer

    def whole(tokenizer):
        if len(tokenizer) < MIN_COVERAGE * config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} entries for {config.vocab_size} embeddings: "
                "its vocabulary file is missing or damaged"
            )
        return tokenizer

    options = {"add_prefix_space": True} if config.model_type == "gpt2" else {}
    tokenizer = _load(AutoTokenizer, source, check=whole, **options)
    if _lowercases(tokenizer) and _is_cased(tokenizer):
        tokenizer = _load(AutoTokenizer, source, check=whole, do_lower_case=False, **options)
        if _lowercases(tokenizer):
            raise UserError(f"{source} has a cased vocabulary but lower-cases its input.")
        log.warning("%s says nothing about case; its vocabulary is cased: case is kept", source)
    if options and tokenizer.tokenize("a") != tokenizer.tokenize(" a"):
        raise UserError(
            f"{source}: its tokenizer, a {type(tokenizer).__name__}, ignores add_prefix_space and "
            'would glue words together. Put "tokenizer_class": "GPT2Tokenizer" into its '
            "tokenizer_config.json."
        )
    if len(tokenizer) > config.vocab_size:
        raise UserError(
            f"{source}: the tokenizer has {len(tokenizer)} entries, the model only "
            f"{config.vocab_size} embeddings. The folder mixes two models."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # left padding shifts the positions of all three architectures
    return tokenizer


def _lowercases(tokenizer) -> bool:
    ids = tokenizer(" ".join(string.ascii_uppercase), add_special_tokens=False)["input_ids"]
    pieces = set(tokenizer.convert_ids_to_tokens(ids)) - set(tokenizer.all_special_tokens)
    text = "".join(pieces)  # without [UNK], which has capitals of its own
    return text != text.upper() and text == text.lower()


def _is_cased(tokenizer) -> bool:
    entries = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    return sum(entry != entry.lower() for entry in entries) > 0.01 * len(entries)


def load_task_model(args, task: str, labels: list[str]):
    """(model, tokenizer): the model in float32 with a new head of `len(labels)` outputs.

    `task`: "SequenceClassification" or "TokenClassification". The head's weights come from torch's
    global generator: seed it before. Raises UserError if any weight below is missing or misshapen.
    """
    import transformers

    where = source(args)
    config = load_config(where)
    tokenizer = load_tokenizer(where, config)

    model = _load_weights(
        getattr(transformers, f"AutoModelFor{task}"),
        where,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        ignore_mismatched_sizes=True,  # a head for other labels; anything else is refused below
    )
    for head in (getattr(model, name) for name in HEADS if hasattr(model, name)):
        # Also a head that the checkpoint had: size 0 is an untrained head, whatever was loaded.
        head.weight.data.normal_(0.0, config.initializer_range)
        if head.bias is not None:
            head.bias.data.zero_()
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_encoder(where: str, attention: str = "sdpa", random_init: bool = False):
    """(encoder, tokenizer) of a model without its head, in float32, in eval mode.

    `attention`: "sdpa" or, where attention maps are read, "eager". `random_init`: the same
    architecture with new weights, from torch's global generator: seed it before. Raises UserError.
    """
    import torch
    from transformers import AutoModel

    config = load_config(where)
    tokenizer = load_tokenizer(where, config)
    options = {"attn_implementation": attention}
    if config.model_type == "bert":
        options["add_pooling_layer"] = (
            False  # nothing here reads it, and not all checkpoints have it
        )
    if random_init:
        encoder = AutoModel.from_config(config, dtype=torch.float32, **options).eval()
    else:
        encoder = _load_weights(AutoModel, where, **options)
    encoder.config.pad_token_id = tokenizer.pad_token_id
    return encoder, tokenizer


def mark_special(encoded: list[dict], tokenizer, config) -> None:
    """Add `special` to each example: its special tokens, and the first one of a causal model.

    The first position of GPT-2 and BioGPT takes most of the attention whatever it holds (a sink).
    """
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    unknown = {tokenizer.unk_token_id} - ends  # a word that the tokenizer does not know is a word
    special, causal = set(tokenizer.all_special_ids) - unknown, config.model_type != "bert"
    for row in encoded:
        row["special"] = [
            token in special or (causal and i == 0) for i, token in enumerate(row["input_ids"])
        ]


def _load_weights(auto_class, source: str, **options):
    import torch

    model, info = _load(
        auto_class, source, output_loading_info=True, dtype=torch.float32, **options
    )
    # BERT's pooler is pre-trained with next-sentence prediction; not every checkpoint has one.
    new = [*HEADS, f"{model.base_model_prefix}.pooler", "pooler"]
    wrong = sorted(
        key if isinstance(key, str) else key[0]
        for key in [*info["missing_keys"], *info["mismatched_keys"]]
        if not (key if isinstance(key, str) else key[0]).startswith(tuple(new))
    )
    if wrong:
        raise UserError(
            f"{source}: {len(wrong)} weights are missing or of another shape, e.g. {wrong[0]}. The "
            "file does not belong to this config.json; get the model again."
        )
    if any("pooler" in key for key in info["missing_keys"]):
        log.warning("%s has no pooler: it starts untrained", source)
    return model


def _load(auto_class, source: str, check=lambda loaded: loaded, **options):
    """`auto_class.from_pretrained`, quiet, from a folder or the Hub. Raises UserError."""
    import transformers

    transformers.utils.logging.set_verbosity_error()  # its load report: checked, not printed
    transformers.utils.logging.disable_progress_bar()

    def load(**where):
        return check(auto_class.from_pretrained(source, **options, **where))

    if not Path(source).is_dir():
        return cached_or_download(source, load)
    try:
        return load(local_files_only=True)
    except errors() as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot load a model from {source} ({type(error).__name__}: {reason}). A model folder "
            "needs config.json, the tokenizer's files, and model.safetensors or pytorch_model.bin."
        ) from error


def logits(model, batch: dict):
    """Scores before the softmax, `[batch, labels]`; of words `[batch, tokens, labels]`.

    A causal model's sequence is read at its last real token, found by the attention mask: the
    library looks for the pad token instead, which text may contain (GPT-2's is its end of text).
    """
    import torch

    # A causal model would also keep every layer's keys and values for generation.
    options = {} if model.config.model_type == "bert" else {"use_cache": False}
    if not hasattr(model, "score"):
        return model(**batch, **options).logits
    hidden = model.base_model(**batch, **options).last_hidden_state
    last = batch["attention_mask"].sum(1) - 1
    return model.score(hidden[torch.arange(len(last), device=last.device), last])
