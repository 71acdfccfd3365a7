"""Models: what they are called, how they are loaded, and what differs between families."""

# ruff: noqa: F401  (other packages import these from here)
from common.models.loading import load_config, load_encoder, load_task_model, logits
from common.models.registry import CAUSAL, MINIATURES, MODELS, STUDY, Source, fits, source
