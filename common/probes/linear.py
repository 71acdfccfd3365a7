"""The linear probe, for either kind of data: what of a label is a linear function of the vectors.

Labelled examples: scikit-learn's logistic regression, to its optimum, beside the SVC
(`common.probes.examples`). Labelled sequences: one linear layer and a softmax for each unit,
trained as the BiLSTM-CRF is, with the same batches and number of steps (`common.probes.sequences`),
so that the two differ in what they are and not in how they were trained.
"""

from common.probes import MAX_ITER, C

HALF = False  # bfloat16 would gain nothing: reading the vectors is most of the work


def classifier():
    """Of labelled examples: an unfitted `LogisticRegression`."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, max_iter=MAX_ITER)


def shapes(size: int, n_labels: int) -> dict[str, tuple]:
    """Of labelled sequences: `{weight: (bound of its first values, *shape)}`, as nn.Linear's."""
    return {"output": (size**-0.5, n_labels, size), "output_bias": (size**-0.5, n_labels, 1)}


def emissions(weights: dict, x, lengths):
    """Scores of packed units: `[layers, units, size]` -> `[layers, labels, units]`, float32."""
    return weights["output_bias"].baddbmm(weights["output"], x.float().mT)


def loss(weights: dict, scores, tags, mask):
    """Cross-entropy of the labels, `tags` `[batch, units]`, summed: `[layers]`."""
    gold = scores.gather(-1, tags.expand(scores.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return ((scores.logsumexp(-1) - gold) * mask).sum((-2, -1))


def best(weights: dict, scores, mask):
    """The best label of each unit: `[layers, batch, units]`."""
    return scores.argmax(-1)
