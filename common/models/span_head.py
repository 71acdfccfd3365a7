"""The span model that the library has no class for: BioGPT's."""

from transformers import AutoModelForQuestionAnswering, BioGptConfig
from transformers.modeling_layers import GenericForQuestionAnswering
from transformers.models.biogpt.modeling_biogpt import BioGptPreTrainedModel


class BioGptForQuestionAnswering(GenericForQuestionAnswering, BioGptPreTrainedModel):
    """The two scores of each token, as the library's span models of causal families have them.

    Saved and loaded like those: the encoder's weights as `biogpt.`, the head as `qa_outputs`.
    """

    base_model_prefix = "biogpt"


AutoModelForQuestionAnswering.register(BioGptConfig, BioGptForQuestionAnswering, exist_ok=True)
