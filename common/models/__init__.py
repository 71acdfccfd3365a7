"""The registry of models; tokenizer and task model from a Hub id or a local folder."""

import hashlib
import logging
import re
import string
from pathlib import Path

from common.cli import ROOT, UserError
from common.demo import miniatures
from common.files import read_json
from common.hub import cached_or_download, errors
from common.models import adapters, families

log = logging.getLogger(__name__)

# The name on the command line -> the repository on the Hub.
ENCODERS = {
    "bert": "bert-base-cased",
    "biobert": "dmis-lab/biobert-v1.1",
    "pubmedbert": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
    "roberta-base": "FacebookAI/roberta-base",
    "electra-base": "google/electra-base-discriminator",
    "electra-large": "google/electra-large-discriminator",
    "albert-base": "albert/albert-base-v2",
    "biom-electra-base": "sultan/BioM-ELECTRA-Base-Discriminator",
    "biom-electra-large": "sultan/BioM-ELECTRA-Large-Discriminator",
    "biom-bert-large": "sultan/BioM-BERT-PubMed-PMC-Large",
    "biom-albert-xxlarge": "sultan/BioM-ALBERT-xxlarge",
}
CAUSAL = {
    "gpt2": "gpt2-medium",
    "biogpt": "microsoft/biogpt",
    "llama2-7b": "meta-llama/Llama-2-7b-chat-hf",
    "llama2-13b": "meta-llama/Llama-2-13b-chat-hf",
    "medtuned-7b": "nlpie/Llama2-MedTuned-7b",
    "medtuned-13b": "nlpie/Llama2-MedTuned-13b",
}
MODELS = ENCODERS | CAUSAL
STUDY = ("bert", "biobert", "gpt2", "biogpt")  # the study's four models
MINIATURES = tuple(name for name in MODELS if name in miniatures.DOMAINS)  # what --demo has
WEIGHT_FILES = (".json", ".txt", ".model", ".safetensors", ".bin")  # what a model is read from
CACHE = ROOT / ".cache" / "demo"  # of the demo's miniatures
AUTO_CLASSES = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "causal": "AutoModelForCausalLM",
}
# A usable tokenizer covers the embedding table but for padding rows; one that lost its vocabulary
# file loads without complaint and holds a handful of special tokens.
MIN_COVERAGE = 0.9


def fits(head: str, name: str) -> bool:
    """Whether a short name, or any other, can be a task's: answers are not written by encoders."""
    return head != "causal" or name not in ENCODERS


def folder_name(args) -> str:
    """What the model of `--model_name` is called in the results: a short name, or the id with "--".

    A local folder goes by its own and its parent's name, one of the Hub's cache by its id, a
    checkpoint of this project by the cell that it is of; `args.model_name` becomes its whole path,
    so that two folders of one name are told apart.
    Raises UserError if it is none of: a name in MODELS, a local folder, an id with one "/".
    """
    name = args.model_name
    if args.demo and name not in MINIATURES:
        raise UserError(f"--demo has miniatures of {', '.join(MINIATURES)}, not of {name}.")
    if name in MODELS:
        return name
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{name} holds no config.json: it is no model folder.")
        folder = folder.resolve()
        args.model_name = str(folder)
        cached = folder.parent.parent.name  # models--owner--name/snapshots/<hash>
        if folder.parent.name == "snapshots" and cached.startswith("models--"):
            return cached.removeprefix("models--")
        cell = read_json(folder.parent / "config.json")
        keys = {"task", "dataset", "model", "training_size", "seed"}
        if isinstance(cell, dict) and keys <= cell.keys() and cell.get("step") == "fine-tuning":
            return "{task}-{dataset}-{model}-{training_size}-seed-{seed}".format(**cell)
        return "--".join(folder.parts[-2:]).strip("/")
    if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name) and ".." not in name:
        return name.replace("/", "--")
    raise UserError(
        f"--model_name {name}: neither a short name "
        f"({', '.join(f'{short} = {hub_id}' for short, hub_id in MODELS.items())}), nor a local "
        "folder, nor a Hub id (owner/name)."
    )


def source(args) -> str:
    """Where to load `--model_name` from: a Hub id or a folder. With --demo, makes the miniature."""
    if args.demo:
        _quiet()  # a miniature is saved when it is made
        return str(miniatures.miniature(args.model_name, CACHE))
    return MODELS.get(args.model_name, args.model_name)


def weights_identity(args) -> str | None:
    """Which weights `--model_name` means: a hash of a local folder's files, or of the miniature.

    Of adapters also those of the model that they adapt. None for a model of the Hub, whose name
    says it.
    """
    if args.demo:
        return miniatures.folder_of(args.model_name, CACHE).name
    return None if args.model_name in MODELS else _hash(Path(args.model_name))


def _hash(folder: Path) -> str | None:
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    if base := adapters.base_of(str(folder)):
        digest.update((_hash(Path(base)) or base).encode())
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        if file.suffix in WEIGHT_FILES and not file.name.startswith("."):
            with file.open("rb") as opened:
                digest.update(file.name.encode() + hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def load_config(source: str):
    """The configuration. Raises UserError if it is unreadable or of another architecture."""
    from transformers import AutoConfig

    config = _load(AutoConfig, source)
    families.of(config)
    return config


def load_tokenizer(source: str, config):
    """The tokenizer of `source`: pads on the right, never lower-cases a cased vocabulary.

    One without a pad token gets its end of text. A first word has the blank before it that its
    words have elsewhere. Pairs have `token_type_ids` if the model reads them.
    Raises UserError if the vocabulary is missing or broken.
    """
    from transformers import AutoTokenizer

    def whole(tokenizer):
        if len(tokenizer) < MIN_COVERAGE * config.vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} entries for {config.vocab_size} embeddings: "
                "its vocabulary file is missing or damaged"
            )
        return tokenizer

    row = families.of(config)
    options = {"add_prefix_space": True} if row.prefix_space == "option" else {}
    tokenizer = _load(AutoTokenizer, source, check=whole, **options)
    if _lowercases(tokenizer) and _is_cased(tokenizer):
        tokenizer = _load(AutoTokenizer, source, check=whole, do_lower_case=False, **options)
        if _lowercases(tokenizer):
            raise UserError(f"{source} has a cased vocabulary but lower-cases its input.")
        log.warning("%s says nothing about case; its vocabulary is cased: case is kept", source)
    if row.prefix_space == "step" and not _keeps_words_apart(tokenizer):
        _put_blank_first(tokenizer)
    if row.prefix_space and not _keeps_words_apart(tokenizer):
        raise UserError(
            f"{source}: its tokenizer, a {type(tokenizer).__name__}, ignores add_prefix_space and "
            'would glue words together. Put "tokenizer_class": "GPT2Tokenizer" into its '
            "tokenizer_config.json."
        )
    # Some causal models were trained with a pad token that their embeddings were never given.
    beyond = tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= config.vocab_size
    if len(tokenizer) - beyond > config.vocab_size:
        raise UserError(
            f"{source}: the tokenizer has {len(tokenizer)} entries, the model only "
            f"{config.vocab_size} embeddings. The folder mixes two models."
        )
    if tokenizer.pad_token is None or beyond:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"  # left padding shifts the positions of BERT, GPT-2 and BioGPT
    # Not every tokenizer of a family says what its models read: ALBERT's gives no types, a class
    # of no family gives them to all.
    types = row.token_types and config.type_vocab_size > 1
    tokenizer.model_input_names = ["input_ids", *["token_type_ids"] * types, "attention_mask"]
    return tokenizer


def _keeps_words_apart(tokenizer) -> bool:
    return tokenizer.tokenize("a a") == 2 * tokenizer.tokenize("a")


def _put_blank_first(tokenizer) -> None:
    """Have each text, and each of given words, begin with a blank, but no word within a text."""
    from tokenizers import pre_tokenizers

    backend = tokenizer.backend_tokenizer
    first = pre_tokenizers.Metaspace(replacement=" ", prepend_scheme="first", split=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([first, backend.pre_tokenizer])


def _lowercases(tokenizer) -> bool:
    ids = tokenizer(" ".join(string.ascii_uppercase), add_special_tokens=False)["input_ids"]
    pieces = set(tokenizer.convert_ids_to_tokens(ids)) - set(tokenizer.all_special_tokens)
    text = "".join(pieces)  # without [UNK], which has capitals of its own
    return text != text.upper() and text == text.lower()


def _is_cased(tokenizer) -> bool:
    entries = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    return sum(entry != entry.lower() for entry in entries) > 0.01 * len(entries)


def load_task_model(args, head: str, labels: list[str], keep_head: bool = False):
    """(model, tokenizer): the model in float32, with a new head unless `keep_head`.

    `head`: "sequence" or "token", of `len(labels)` outputs; "span", of a start and an end; or
    "causal", which is always the model's own. A new head's weights come from torch's global
    generator: seed it before. Raises UserError if any other weight is missing or misshapen, if
    the head to keep is, or is for other labels, or if the family has no such head.
    """
    import transformers

    where = source(args)
    config = load_config(where)
    row = families.of(config)
    if head not in row.heads:
        able = [r.name for r in families.TABLE.values() if head in r.heads]
        raise UserError(f"{where}: no {row.name} model is {head}. {', '.join(able)} models are.")
    keep_head = keep_head or head == "causal"
    tokenizer = load_tokenizer(where, config)
    options = {}
    if head in ("sequence", "token"):
        named = list(config.id2label.values())
        if keep_head and named != labels and not named[0].startswith("LABEL_"):
            raise UserError(
                f"{where}: its head is for {', '.join(named)}, not {', '.join(labels)}."
            )
        options = {"id2label": dict(enumerate(labels)),
                   "label2id": {label: i for i, label in enumerate(labels)}}  # fmt: skip
    if row.own_span and head == "span":
        from common.models import span_head  # noqa: F401  (the library finds it from now on)
    # A head for other labels is made anew; anything else that does not fit is refused below.
    model, new = _load_weights(
        getattr(transformers, AUTO_CLASSES[head]), where, config, head,
        ignore_mismatched_sizes=True, **options,
    )  # fmt: skip
    if keep_head and (none := [key for key in new if key.startswith(row.heads[head])]):
        raise UserError(
            f"{where} has no {head} head of its own for this task ({none[0]} is missing). Leave "
            "out --keep_head, or give a model that was fine-tuned on such a task."
        )
    if any("pooler" in key for key in new) and not args.demo:  # the miniatures have none
        log.warning("%s has no pooler: it starts untrained", where)
    for module in () if keep_head else map(model.get_submodule, row.heads[head]):
        # Also a head that the checkpoint had: size 0 is an untrained head, whatever was loaded.
        module.weight.data.normal_(0.0, config.initializer_range)
        if module.bias is not None:
            module.bias.data.zero_()
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def load_encoder(where: str, attention: str = "sdpa", random_init: bool = False):
    """(encoder, tokenizer) of a model without its head, frozen, in float32, in eval mode.

    `attention`: "sdpa" or, where attention maps are read, "eager". `random_init`: the same
    architecture with new weights, from torch's global generator: seed it before. Raises UserError.
    """
    import torch
    from transformers import AutoModel

    config = load_config(where)
    tokenizer = load_tokenizer(where, config)
    options = {"attn_implementation": attention}
    if families.of(config).pooler_option:
        options["add_pooling_layer"] = False  # nothing here reads it; not all checkpoints have it
    if random_init:
        encoder = AutoModel.from_config(config, dtype=torch.float32, **options).eval()
    else:
        encoder, _ = _load_weights(AutoModel, where, config, None, **options)
    encoder.requires_grad_(False)
    encoder.config.pad_token_id = tokenizer.pad_token_id
    return encoder, tokenizer


def mark_special(encoded: list[dict], tokenizer, config) -> None:
    """Add `special` to each example: its special tokens, and the first one of a causal model.

    The first position of a causal model takes most of the attention whatever it holds (a sink).
    """
    ends = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    unknown = {tokenizer.unk_token_id} - ends  # a word that the tokenizer does not know is a word
    special = set(tokenizer.all_special_ids) - unknown
    causal = families.of(config).causal
    for row in encoded:
        row["special"] = [
            token in special or (causal and i == 0) for i, token in enumerate(row["input_ids"])
        ]


def _load_weights(auto_class, source: str, config, head: str | None, **options):
    """(model, names of the weights that its files lack): those of `head`, and of a pooler.

    Raises UserError if others are missing or of another shape.
    """
    import torch

    if base := adapters.base_of(source):
        return _load_adapted(auto_class, source, base, config, head, **options)
    row = families.of(config)
    if row.span_prefix:  # one family, two names of the encoder
        names = ("model", row.span_prefix)
        old, new = names if head == "span" else names[::-1]
        options["key_mapping"] = {rf"^{old}\.": f"{new}."}
    model, info = _load(
        auto_class, source, output_loading_info=True, dtype=torch.float32, **options
    )
    if "key_mapping" in options:
        model._weight_conversions = None  # else it would be saved under the old names
    keys = [*info["missing_keys"], *info["mismatched_keys"]]
    keys = sorted(key if isinstance(key, str) else key[0] for key in keys)
    # BERT's pooler is pre-trained with next-sentence prediction; not every checkpoint has one.
    new = (*row.heads.get(head, ()), f"{model.base_model_prefix}.pooler")
    wrong = [key for key in keys if not key.startswith(new)]
    if wrong:
        raise UserError(
            f"{source}: {len(wrong)} weights are missing or of another shape, e.g. {wrong[0]}. The "
            "file does not belong to this config.json; get the model again."
        )
    return model, keys


def _load_adapted(auto_class, source: str, base: str, config, head: str | None, **options):
    """What `_load_weights` returns, of a folder of adapters: the model `base` with them merged."""
    from transformers import AutoModelForCausalLM

    own = head in ("causal", None)
    causal, _ = _load_weights(
        AutoModelForCausalLM, base, config, "causal", **options if own else {}
    )
    merged = adapters.merge(causal, source)
    if own:
        return (merged if head else merged.base_model), []
    model, keys = _load_weights(auto_class, base, config, head, **options)
    model.base_model.load_state_dict(merged.base_model.state_dict())
    return model, keys


def _quiet() -> None:
    """No load reports and progress bars of the library's: what it loads is checked here."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _load(auto_class, source: str, check=lambda loaded: loaded, **options):
    """`auto_class.from_pretrained`, quiet, from a folder or the Hub. Raises UserError."""
    _quiet()

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

    row = families.of(model.config)
    if not (row.causal and families.is_sequence_model(model)):
        return model(**batch, **row.options).logits
    if hasattr(model, "get_base_model"):  # an adapter's: what it adapts, the adapter within
        model = model.get_base_model()
    hidden = model.base_model(**batch, **row.options).last_hidden_state
    last = batch["attention_mask"].sum(1) - 1
    return model.score(hidden[torch.arange(len(last), device=last.device), last])
