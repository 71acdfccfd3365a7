"""Model families: a row a family, which answers every question about what differs between them.

A new family is a new row of `TABLE` and a kind in tests/tiny.py.
"""

import re
from typing import NamedTuple

from common.cli import UserError

BASE_LAYERS = 12  # a model of more layers is a large one


class Family(NamedTuple):
    """What this project needs to know of a family. Modules' names begin within the encoder."""

    name: str  # in messages
    causal: bool  # a token sees only those before it: a text is read at its last token
    embeddings: tuple[str, ...]  # how their modules' names begin
    layers: str  # the list of layers
    # Under a layer, the output projection of attention: its input is the heads' outputs, in order.
    projection: str
    pooler: bool = False  # the bare encoder has a pooler that may be left out
    reserved: int = 0  # of max_position_embeddings, those that no token can have
    # Outside the encoder: modules of the pre-training head that task models have, too.
    transform: tuple[str, ...] = ()
    # A text's first word must have the pieces that it has after a blank: the tokenizer's option
    # add_prefix_space does it. In other families it would put a blank before every piece.
    prefix_space: bool = False
    charsmap: bool = False  # the tokenizer drops the Unicode rules of its SentencePiece file
    # The library's span model calls the encoder so, and all its other models call it `model`: their
    # checkpoints would be loaded as random weights.
    span_prefix: str = ""
    shared_layers: bool = False  # one layer's weights are used at every depth
    layer_decay: tuple[float, float] = (1.0, 1.0)  # as published for base and for large models


OUTPUT = "attention.output.dense"
BERT = Family("BERT", False, ("embeddings",), "encoder.layer", OUTPUT, True)
LLAMA = Family("Llama", True, ("embed_",), "layers", "self_attn.o_proj")
ALBERT = {"layers": "encoder.albert_layer_groups.0.albert_layers", "projection": "attention.dense"}
# `model_type` in config.json -> the family.
TABLE = {
    "bert": BERT,
    "roberta": BERT._replace(name="RoBERTa", reserved=2, prefix_space=True),
    "xlm-roberta": BERT._replace(name="XLM-RoBERTa", reserved=2),
    "distilbert": Family(
        "DistilBERT", False, ("embeddings",), "transformer.layer", "attention.out_lin"
    ),
    # layer_decay: layerwise_lr_decay in configure_finetuning.py of google-research/electra
    "electra": BERT._replace(name="ELECTRA", pooler=False, layer_decay=(0.8, 0.9)),
    "albert": BERT._replace(name="ALBERT", shared_layers=True, **ALBERT),
    # Every layer reads the embeddings of distances, and their norm.
    "deberta-v2": BERT._replace(
        name="DeBERTa-v2",
        embeddings=("embeddings", "encoder.rel_embeddings", "encoder.LayerNorm", "encoder.conv"),
        pooler=False,
        charsmap=True,
    ),
    "modernbert": Family(
        "ModernBERT", False, ("embeddings",), "layers", "attn.Wo", transform=("head.",)
    ),
    "eurobert": LLAMA._replace(name="EuroBERT", causal=False),
    "gpt2": Family("GPT-2", True, ("wte", "wpe"), "h", "attn.c_proj", prefix_space=True),
    "biogpt": Family("BioGPT", True, ("embed_",), "layers", "self_attn.out_proj"),
    "llama": LLAMA._replace(span_prefix="transformer"),
    "mistral": LLAMA._replace(name="Mistral"),
    "qwen2": LLAMA._replace(name="Qwen2", span_prefix="transformer"),
    "qwen3": LLAMA._replace(name="Qwen3", span_prefix="transformer"),
    "gemma2": LLAMA._replace(name="Gemma 2"),
    "gemma3_text": LLAMA._replace(name="Gemma 3"),
    "olmo2": LLAMA._replace(name="OLMo 2"),
    "phi3": LLAMA._replace(name="Phi-3"),
    "gpt_neox": Family(
        "GPT-NeoX", True, ("embed_in",), "layers", "attention.dense", prefix_space=True
    ),
}

SPARSE = (
    "Its attention maps are not [tokens, tokens], so they cannot be compared. For long texts "
    "choose a ModernBERT, such as --model_name bioclinical-modernbert-base."
)
# `model_type` -> why it has no row.
REFUSED = {
    "longformer": SPARSE,
    "big_bird": SPARSE,
    "gemma3": "It also reads images. Choose one for text alone, such as --model_name gemma-3-1b.",
}
# What a model's name says, where that is not its `model_type`.
NAMES = {
    "debertav3": "deberta-v2", "pythia": "gpt_neox", "gemma3270m": "gemma3_text",
    "gemma31b": "gemma3_text", "medgemma": "gemma3", "medgemma27btext": "gemma3_text",
}  # fmt: skip


def of(config) -> Family:
    """The row of a model's configuration. Raises UserError for an unknown family."""
    where = config._name_or_path or "the model"
    check(config.model_type, where)
    if {getattr(config, name, 1) for name in ("num_hidden_groups", "inner_group_num")} != {1}:
        raise UserError(f"{where}: an ALBERT of several groups of layers. Choose another model.")
    return TABLE[config.model_type]


def check(model_type: str, where: str) -> None:
    if model_type not in TABLE:
        raise UserError(f"{where} is a {model_type!r} model. {_refusal(model_type)}")


def _refusal(model_type: str) -> str:
    if model_type in REFUSED:
        return REFUSED[model_type]
    return (
        f"This project reads models of the kinds {', '.join(TABLE)}. Choose another --model_name, "
        'or add a row: see "A model family" in docs/extending.md.'
    )


def by_name(hub_id: str) -> str:
    """What a Hub id alone tells about the model's family, as a sentence for messages."""
    from transformers import CONFIG_MAPPING

    def plain(name: str) -> str:
        return re.sub("[^a-z0-9]", "", name.lower())

    known = {plain(model_type): model_type for model_type in CONFIG_MAPPING} | NAMES
    name = plain(hub_id.rpartition("/")[2])
    # The longest counts: "camembert" is not "bert". Very short ones are parts of other words.
    told = max((key for key in known if len(key) > 3 and key in name), key=len, default=None)
    if not told:
        return "Its name does not tell its family; docs/models.md lists those that can be read."
    if known[told] in TABLE:
        return f"By its name it belongs to {TABLE[known[told]].name}, which this project reads."
    return f"By its name it is a {known[told]!r} model. {_refusal(known[told])}"


def positions(config) -> int:
    """How many tokens the model can read at once."""
    return config.max_position_embeddings - of(config).reserved


def layer_decay(config, given: float | None) -> float:
    """`given`, or as published; 1 is none. UserError if layers that share weights shall decay."""
    row = of(config)
    if row.shared_layers and given not in (None, 1.0):
        raise UserError(
            f"--layer_decay {given}: the layers of {row.name} share their weights, so they cannot "
            "have different learning rates. Leave the flag out, or give 1."
        )
    return row.layer_decay[config.num_hidden_layers > BASE_LAYERS] if given is None else given


def parameter_groups(
    model, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """AdamW's groups of the trainable parameters; `base_lr` is a group's peak learning rate.

    Layer-wise decay as in ELECTRA (Clark et al. 2020; `_get_layer_lrs` in model/optimization.py of
    google-research/electra): the learning rate is `learning_rate * layer_decay ** distance`. The
    distance is 0 for the head, 1 between head and layers, 2 for the last layer, and so on up to
    L + 1 for the first layer and L + 2 for the embeddings; adapters have their layer's. Weights
    decay by `weight_decay`; biases and norms, which are vectors, do not.
    """
    distances = {}
    if layer_decay != 1.0:
        row, encoder = of(model.config), encoder_of(model)
        layers = encoder.get_submodule(row.layers)
        for name, parameter in encoder.named_parameters():  # 1: a final norm or a pooler
            distances[parameter] = len(layers) + 2 if name.startswith(row.embeddings) else 1
        for n, layer in enumerate(layers):
            distances |= dict.fromkeys(layer.parameters(), len(layers) + 1 - n)
    groups = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            distance, is_weight = distances.get(parameter, 0), parameter.ndim > 1
            rate = learning_rate * layer_decay**distance
            settings = {"weight_decay": weight_decay * is_weight, "lr": rate, "base_lr": rate}
            group = groups.setdefault((distance, is_weight), {"params": []} | settings)
            group["params"].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]  # from embeddings to head


def without_adapters(model):
    """The model within PEFT's wrapper, if there is one. Its adapters stay active."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def encoder_of(model):
    return without_adapters(model).base_model
