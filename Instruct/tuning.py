"""What fine-tuning on instructions lowers: the loss of answers."""


def loss(model, batch: dict):
    """Cross entropy of the answers' tokens, summed: a scalar. See `common.task.Task.loss`.

    The head reads only the states before labelled tokens: prompts are long and vocabularies large.
    """
    from torch.nn import functional as F

    from common.training.losses import IGNORED

    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    states = whole.base_model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    wanted = batch["labels"][:, 1:]
    asked = wanted != IGNORED
    scores = whole.get_output_embeddings()(states[:, :-1][asked]).float()
    if cap := getattr(whole.config, "final_logit_softcapping", None):  # Gemma 2's, after its head
        scores = cap * (scores / cap).tanh()
    return F.cross_entropy(scores, wanted[asked], reduction="sum")
