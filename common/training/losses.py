"""The loss of a model that predicts labels, one of a text or one of each token."""

IGNORED = -100  # label of a token that has none


def cross_entropy(model, batch: dict):
    """Summed over the labels of a padded batch: a scalar, in float32. See `Task.loss`."""
    from torch.nn import functional as F

    from common.models import logits

    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    scores = logits(model, inputs).float().flatten(0, -2)
    return F.cross_entropy(scores, batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum")


def labels_in(row: dict) -> int:
    """How many labels an encoded input has; without any, it is not trained on."""
    labels = row["labels"]
    labels = [labels] if isinstance(labels, int) else labels
    return len(labels) - labels.count(IGNORED)
