"""Model families: a row each, and every question of which family a model is answered from it.

A new family is a new row of `TABLE`, a kind in tests/tiny.py, and nothing else.
"""

import re
from typing import NamedTuple

from common.cli import UserError

BASE_LAYERS = 12  # a model of more layers is a large one


class Architecture(NamedTuple):
    """What this project needs to know of a family. Names are of modules, without the prefix."""

    name: str  # in messages
    causal: bool  # a token sees only those before it: a text is read at its last token
    heads: dict[str, tuple[str, ...]]  # "sequence", "token", "span", "causal" -> the head's modules
    embeddings: tuple[str, ...]
    layers: str  # the list of layers
    top: tuple[str, ...] = ()  # between the last layer and the head: a final norm, a pooler
    pooler_option: bool = False  # the bare encoder has a pooler that may be left out
    reserved_positions: int = 0  # of max_position_embeddings, those that no token can have
    token_types: bool = False  # the model tells a pair's texts apart by `token_type_ids`
    # How a first word gets the blank that its word has elsewhere: by the "option" add_prefix_space,
    # or by a "step" of ours, where that option would put one before every piece. "": it has it.
    prefix_space: str = ""
    # The prefix of the library's span model; where it is not the encoder's own, a checkpoint of
    # another head would load as a wholly random model.
    span_prefix: str | None = None
    own_span: bool = False  # the library has no span model: common/models/span_head.py has
    shared_layers: bool = False  # one layer's weights are used at every depth
    layer_decay: tuple[float, float] = (1.0, 1.0)  # published, of base and of large models

    @property
    def options(self) -> dict:
        """What every call of the model gets: nothing here reads a causal model's cache."""
        return {"use_cache": False} if self.causal else {}


def _heads(sequence: str, token: str = "classifier", causal: str = "") -> dict:
    heads = {"sequence": sequence, "token": token, "span": "qa_outputs", "causal": causal}
    return {kind: tuple(names.split()) for kind, names in heads.items() if names}


BERT = Architecture(
    "BERT",
    causal=False,
    heads=_heads("classifier"),
    embeddings=("embeddings",),
    layers="encoder.layer",
    top=("pooler",),
    pooler_option=True,
    token_types=True,
)
LLAMA = Architecture(
    "Llama",
    causal=True,
    heads=_heads("score", token="score", causal="lm_head"),
    embeddings=("embed_tokens",),
    layers="layers",
    top=("norm",),
    prefix_space="step",
    span_prefix="transformer",
)
# `model_type` in config.json -> the family.
TABLE = {
    "bert": BERT,
    "roberta": BERT._replace(
        name="RoBERTa",
        heads=_heads("classifier.dense classifier.out_proj"),
        reserved_positions=2,  # numbers start behind the padding token's
        token_types=False,
        prefix_space="option",
    ),
    "distilbert": Architecture(
        "DistilBERT",
        causal=False,
        heads=_heads("pre_classifier classifier"),
        embeddings=("embeddings",),
        layers="transformer.layer",
    ),
    "electra": BERT._replace(
        name="ELECTRA",
        heads=_heads("classifier.dense classifier.out_proj"),
        embeddings=("embeddings", "embeddings_project"),
        top=(),
        pooler_option=False,
        # layerwise_lr_decay in configure_finetuning.py of google-research/electra
        layer_decay=(0.8, 0.9),
    ),
    "albert": BERT._replace(
        name="ALBERT",
        embeddings=("embeddings", "encoder.embedding_hidden_mapping_in"),
        layers="encoder.albert_layer_groups.0.albert_layers",
        shared_layers=True,
    ),
    "gpt2": Architecture(
        "GPT-2",
        causal=True,
        heads=_heads("score", causal="lm_head"),
        embeddings=("wte", "wpe"),
        layers="h",
        top=("ln_f",),
        prefix_space="option",
    ),
    "biogpt": Architecture(
        "BioGPT",
        causal=True,
        heads=_heads("score", causal="output_projection"),
        embeddings=("embed_tokens", "embed_positions"),
        layers="layers",
        top=("layer_norm",),
        own_span=True,
    ),
    "llama": LLAMA,
    "mistral": LLAMA._replace(name="Mistral", span_prefix=None),
    "qwen2": LLAMA._replace(name="Qwen2"),
    "qwen3": LLAMA._replace(name="Qwen3"),
}


def of(config) -> Architecture:
    """The row of a model's configuration. Raises UserError for a family that has none."""
    if config.model_type not in TABLE:
        raise UserError(
            f"{config._name_or_path or 'it'} is a {config.model_type!r} model; this project reads "
            f"{', '.join(TABLE)}-like ones. Choose another --model_name."
        )
    return TABLE[config.model_type]


def positions(config) -> int:
    """How many tokens the model can read at once."""
    return config.max_position_embeddings - of(config).reserved_positions


def layer_decay(config, given: float | None) -> float:
    """The layer-wise decay of the learning rate: `given`, or as published for the family; 1: none.

    Raises UserError where layers share their weights, and there is no rate a layer.
    """
    row = of(config)
    if row.shared_layers and given not in (None, 1.0):
        raise UserError(
            f"--layer_decay {given}: the layers of {row.name} share their weights, so there is no "
            "rate a layer. Leave it out, or give 1."
        )
    if given is not None:
        return given
    base, large = row.layer_decay
    return base if config.num_hidden_layers <= BASE_LAYERS else large


def is_sequence_model(model) -> bool:
    """Whether the model has one output a text, not one a token."""
    return type(model).__name__.endswith("ForSequenceClassification")


def parameter_groups(
    model, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict]:
    """AdamW's groups of the trainable parameters; `base_lr` is a group's peak learning rate.

    Layer-wise decay as `_get_layer_lrs` of ELECTRA's code (Clark et al. 2020, model/optimization.py
    of google-research/electra) has it: the rate is `learning_rate * layer_decay ** distance`, with
    distance 0 of the head, 1 of what is between head and layers, 2 of the last layer, and so on
    down to L + 1 of the first one and L + 2 of the embeddings. Weights decay by `weight_decay`;
    biases and norms, which are vectors, do not: that only shrinks the output's scale.
    With `layer_decay` 1: two groups, weights and vectors, in the model's order.

    Raises UserError where layers share their weights, ValueError for a parameter without a place.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    distances = dict.fromkeys((name for name, _ in named), 0)
    if layer_decay != 1.0:
        found = _distances(model)
        distances = {name: found[name] for name in distances}
    groups = []
    for distance in sorted(set(distances.values()), reverse=True):
        here = [p for name, p in named if distances[name] == distance]
        rate = learning_rate * layer_decay**distance
        for parameters, decay in (
            ([p for p in here if p.ndim > 1], weight_decay),
            ([p for p in here if p.ndim < 2], 0.0),
        ):
            if parameters or layer_decay == 1.0:
                groups.append({"params": parameters, "weight_decay": decay,
                               "lr": rate, "base_lr": rate})  # fmt: skip
    return groups


def _distances(model) -> dict[str, int]:
    """`{parameter's name: how far below the head it is}`; adapters count with what they adapt."""
    row, n = of(model.config), model.config.num_hidden_layers
    parts = dict.fromkeys(row.embeddings, n + 2) | dict.fromkeys(row.top, 1)
    parts |= {name: 0 for names in row.heads.values() for name in names}
    layer = re.compile(rf"(?:^|\.){re.escape(row.layers)}\.(\d+)\.")
    other = re.compile(rf"(?:^|\.)({'|'.join(map(re.escape, parts))})\.")
    distances, layers = {}, set()
    for name, _ in model.named_parameters():
        if match := layer.search(name):
            layers.add(int(match[1]))
            distances[name] = n + 1 - int(match[1])
        elif match := other.search(name):
            distances[name] = parts[match[1]]
        else:
            raise ValueError(f"{name} is no known part of a {row.name} model")
    if layers != set(range(n)):
        raise ValueError(f"found {len(layers)} layers of {row.layers}, config.json says {n}")
    return distances
