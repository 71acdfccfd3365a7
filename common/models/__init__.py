"""Models: what they are called, how they are loaded, and what differs between families."""

# ruff: noqa: F401  (other packages import these from here)
from common.models.loading import (
    head_of,
    load_config,
    load_encoder,
    load_task_model,
    load_tokenizer,
    logits,
    mark_special,
)
from common.models.registry import CAUSAL, ENCODERS, MINIATURES, MODELS, STUDY, Source, fits, source
