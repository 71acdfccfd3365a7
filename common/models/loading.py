"""Loading a model: its configuration, tokenizer and weights, as a task model or a bare encoder.

Whatever a checkpoint lacks is noticed here: the library itself only prints a report. `where` is
always a Hub id or a folder; every function here that takes it raises UserError.
"""

from functools import partial
from pathlib import Path

from common.cli import UserError
from common.hub import cached_or_download, shortened
from common.models import adapters, families

# The kind of a task model's head, None for the bare encoder -> the library's class.
AUTO_CLASSES = {
    "sequence": "AutoModelForSequenceClassification",
    "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "causal": "AutoModelForCausalLM",
    None: "AutoModel",
}


def load_config(where: str):
    """The configuration of a model of a known family."""
    from transformers import AutoConfig, PreTrainedConfig
    from transformers.utils.peft_utils import find_adapter_config_file

    def values(local_files_only: bool) -> dict:
        read, _ = PreTrainedConfig.get_config_dict(where, local_files_only=local_files_only)
        find_adapter_config_file(where, local_files_only=local_files_only)  # for `base_of`
        return dict(read)

    try:
        values = _load(where, values)
    except UserError as error:
        names = [path.name for path in Path(where).glob("*config.json")]
        if "adapter_config.json" in names and "config.json" not in names:
            own = "the config.json of the model that was trained with them"
            raise UserError(f"{where} holds adapters alone. Copy {own} into it.") from error
        if Path(where).is_dir():
            raise
        raise UserError(f"{error} {families.by_name(where)}") from error
    if model_type := values.get("model_type"):  # the library itself may not know it
        families.check(str(model_type), where)
    config = _load(where, partial(AutoConfig.from_pretrained, where))
    families.of(config)
    return config


def load_tokenizer(where: str, config, words: bool = True):
    """The tokenizer. It pads on the right; with `words` a text's first word is like any other.

    It gives `token_type_ids` only if the model reads them. If it has no pad token, its end of text
    becomes one. One that is damaged, another model's, or would lose capitals is an error.
    """
    from common.models import tokenizers  # it imports the library

    return _load(where, partial(tokenizers.load, where, config, words))


def load_task_model(where: str, head: str, labels: list[str], keep_head: bool = False):
    """(model, tokenizer): the model in float32, with a new head unless `keep_head`.

    `head`: "sequence" or "token" with `len(labels)` outputs; "span" with a start and an end; or
    "causal", which is always the model's own. A new head's weights come from torch's global
    generator: seed it before. A head to keep that is missing or for other labels is an error.
    """
    config = load_config(where)
    row, options, others = families.of(config), {}, False
    if head == "causal" and not row.causal:
        able = ", ".join(other.name for other in families.TABLE.values() if other.causal)
        raise UserError(f"{where}: {row.name} models cannot write text. Choose one of: {able}.")
    if head in ("sequence", "token"):
        own = [str(label) for _, label in sorted(config.id2label.items())]
        others = own != labels and not "".join(own[:1]).startswith("LABEL_")
        options["id2label"] = dict(enumerate(labels))
        options["label2id"] = {label: i for i, label in enumerate(labels)}
    tokenizer = load_tokenizer(where, config, words=head != "causal")
    # A head for other labels is made anew; any other weight of another shape is an error.
    model, new = _load_weights(where, config, head, ignore_mismatched_sizes=True, **options)
    pretrained = (f"{model.base_model_prefix}.", *row.transform)
    if not keep_head and head != "causal":
        for name, weight in model.named_parameters():
            if not name.startswith(pretrained):  # also if the checkpoint had such a head
                deviation = model.config.initializer_range
                weight.data.normal_(0.0, deviation) if weight.ndim > 1 else weight.data.zero_()
    elif others or any(not key.startswith(pretrained) for key in new):
        wanted = f" for the labels {', '.join(labels)}" if labels else ""
        raise UserError(
            f"{where} has no {head} head of its own{wanted}. Give a model that was fine-tuned on "
            "such a task, or leave out --keep_head where you gave it."
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def head_of(config) -> str:
    """The kind of the head that a model was trained with; "causal" if it is of no other kind."""
    ends = {name.removeprefix("AutoModel"): kind for kind, name in AUTO_CLASSES.items() if kind}
    return next((kind for end, kind in ends.items() if end in str(config.architectures)), "causal")


def load_encoder(
    where: str, attention: str | None = None, random_init: bool = False, words: bool = True
):
    """(encoder, tokenizer): the model without its head, frozen, in float32, in eval mode.

    `attention`: "eager" to read attention maps, else what is fastest for the family. `random_init`:
    the same architecture with new weights from torch's global generator: seed it before. `words`:
    see `load_tokenizer`; False for prompts, which a causal model reads as it was trained to.
    """
    import torch
    from transformers import AutoModel

    config = load_config(where)
    tokenizer = load_tokenizer(where, config, words)
    options = {"attn_implementation": attention} if attention else {}
    if families.of(config).pooler:
        options["add_pooling_layer"] = False  # nothing reads it, and not all checkpoints have it
    if random_init:
        encoder = AutoModel.from_config(config, dtype=torch.float32, **options).eval()
    else:
        encoder, _ = _load_weights(where, config, None, **options)
    encoder.requires_grad_(False)
    encoder.config.pad_token_id = tokenizer.pad_token_id
    return encoder, tokenizer


def mark_special(encoded: list[dict], tokenizer, config) -> None:
    """Add `special` to each example: its special tokens, and the first one of a causal model.

    That one takes most of the attention whatever it is (a sink).
    """
    special = set(tokenizer.all_special_ids)
    if tokenizer.unk_token_id not in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        special.discard(tokenizer.unk_token_id)  # it stands for a word
    causal = families.of(config).causal
    for row in encoded:
        ids = row["input_ids"]
        row["special"] = [token in special or (causal and i == 0) for i, token in enumerate(ids)]


def logits(model, batch: dict):
    """Scores before the softmax, `[batch, labels]`; of a token model `[batch, tokens, labels]`.

    Of a span model `[batch, tokens, 2]`: each token as the start and as the end.

    A causal model's sequence is read at its last real token, which the attention mask shows. The
    library looks for the pad token instead, which a text may contain (GPT-2's is its end of text).
    """
    import torch

    row, inner = families.of(model.config), families.without_adapters(model)
    if not row.causal or not type(inner).__name__.endswith("ForSequenceClassification"):
        outputs = model(**batch, use_cache=False)
        spans = [outputs[key] for key in ("start_logits", "end_logits") if key in outputs]
        return torch.stack(spans, -1) if spans else outputs.logits
    hidden = inner.base_model(**batch, use_cache=False).last_hidden_state
    last = batch["attention_mask"].sum(1) - 1
    return inner.score(hidden[torch.arange(len(last), device=last.device), last])


def _auto_class(head: str | None, config):
    """The library's class for a head. Those that it lacks for a family we make of its parts."""
    import transformers
    from transformers import modeling_layers

    auto = getattr(transformers, AUTO_CLASSES[head])
    if head in ("token", "span") and type(config) not in auto._model_mapping:
        encoder = transformers.MODEL_MAPPING[type(config)]
        ending = AUTO_CLASSES[head].removeprefix("AutoModel")  # "ForTokenClassification"
        own = {"base_model_prefix": encoder.base_model_prefix, "config_class": type(config)}
        bases = getattr(modeling_layers, f"Generic{ending}"), encoder.__base__
        model = type(encoder.__name__.replace("Model", ending), bases, own)
        # Without `exist_ok`, the library passes over its own configurations.
        auto.register(type(config), model, exist_ok=True)
    return auto


def _load_weights(where: str, config, head: str | None, **options):
    """(model, names of the weights that its files lack): those of the head, and of a pooler."""
    import torch

    row = families.of(config)
    if base := adapters.base_of(where):
        return _load_merged(where, base, config, head, **options)
    if row.span_prefix:
        old, new = ("model", row.span_prefix) if head == "span" else (row.span_prefix, "model")
        options["key_mapping"] = {rf"^{old}\.": f"{new}."}
    options |= {"output_loading_info": True, "dtype": torch.float32}
    load = partial(_auto_class(head, config).from_pretrained, where, **options)
    model, info = _load(where, load)
    if row.span_prefix:
        model._weight_conversions = None  # else it would be saved under the old names
    lacking = sorted([*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])])
    encoder = f"{model.base_model_prefix}." if head else ""
    new = f"{encoder}pooler."  # not every checkpoint has one
    wrong = [key for key in lacking if key.startswith(encoder) and not key.startswith(new)]
    # What the library would leave out without a word: more layers, relative positions, adapters.
    extra = (key for key in sorted(info["unexpected_keys"]) if f"{row.layers}." in key)
    if wrong := wrong + [key for key in extra if key.endswith(".weight")]:
        raise UserError(
            f"{where}: {len(wrong)} weights are missing, too many or of another shape, e.g. "
            f"{wrong[0]}. The file does not belong to this config.json, or the library has no such "
            "model; get the model again, or another one."
        )
    return model, lacking


def _load_merged(where: str, base: str, config, head: str | None, **options):
    """`_load_weights` of the adapters in `where`, which are added to the weights of `base`.

    They are loaded into the model that they were trained in, with its head, and merged there: in a
    bare encoder PEFT would not find their places.
    """
    trained = head_of(config)
    own = {key: options[key] for key in ("attn_implementation",) if key in options}
    if trained in ("sequence", "token"):
        own |= {"id2label": config.id2label, "label2id": config.label2id}
    model, _ = _load_weights(base, config, trained, ignore_mismatched_sizes=True, **own)
    merged = _load(where, lambda **_: adapters.merge(model, where))
    if not head:
        merged.base_model.pooler = None  # as without adapters: nothing reads it
        return merged.base_model, []
    if head == trained and options.get("id2label") in (None, config.id2label):
        return merged, []
    model, lacking = _load_weights(base, config, head, **options)
    # Either of the two may have a pooler that the other one lacks.
    model.base_model.load_state_dict(merged.base_model.state_dict(), strict=False)
    return model, lacking


def quiet() -> None:
    """Turn off the library's load reports and progress bars: what it loads is checked here."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _load(where: str, load):
    """`load(local_files_only=...)`, quietly, of a folder, of the cache, or of the Hub."""
    quiet()
    if not Path(where).is_dir():
        return cached_or_download(where, load)
    try:
        return load(local_files_only=True)
    except Exception as error:  # a damaged file can raise almost anything
        # What has nothing to do with the files would be the same with new ones.
        other = isinstance(error, MemoryError | PermissionError | ImportError | RuntimeError)
        files = "config.json, the tokenizer's files, and model.safetensors or pytorch_model.bin"
        remedy = "" if other else adapters.remake(where)
        raise UserError(
            f"cannot load a model from {where} ({shortened(error)}). "
            f"{remedy or f'A model folder needs {files}.'}"
        ) from error
