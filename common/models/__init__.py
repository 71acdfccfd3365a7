"""Models: what they are called, where they lie, and how they are loaded.

registry.py   short names; `source`: what `--model_name` means
loading.py    configuration, tokenizer, task model, encoder; a model's scores
families.py   what differs between model families: a row a family; learning rates by depth
adapters.py   low-rank adapters (PEFT) in a model folder
"""

# ruff: noqa: F401  (other packages import these from here)
from common.models.loading import (
    load_config,
    load_encoder,
    load_task_model,
    load_tokenizer,
    logits,
    mark_special,
)
from common.models.registry import CAUSAL, ENCODERS, MINIATURES, MODELS, STUDY, Source, fits, source
