"""The linear probe of both forms: what of a label is a linear function of the vectors.

Labelled examples: scikit-learn's logistic regression, fitted to its optimum. Labelled sequences:
one linear layer and a softmax for each unit. It is trained as the BiLSTM-CRF is, with the same
batches and number of steps, so that the two differ only in what they are.
"""

from sklearn.linear_model import LogisticRegression

from common.probes import MAX_ITER, C

HALF = False  # bfloat16 would gain nothing: most of the work is reading the vectors


def classifier():
    """Of labelled examples: an unfitted `LogisticRegression`."""
    return LogisticRegression(C=C, max_iter=MAX_ITER)


def inputs(train):
    """What `classifier` reads of examples' features: the features themselves."""
    return lambda features: features


def memory(n_train: int, n: int, size: int) -> int:
    """Bytes at the peak: of `n` examples in all splits, the features, and what the fit copies."""
    return 2 * 8 * n * size


def shapes(size: int, n_labels: int) -> dict[str, tuple]:
    """Of labelled sequences: `{weight: (bound of its first values, *shape)}`, as nn.Linear's."""
    return {"output": (size**-0.5, n_labels, size), "output_bias": (size**-0.5, n_labels, 1)}


def emissions(weights: dict, x, lengths):
    """Scores of packed units: `[layers, units, size]` -> `[layers, units, labels]`, float32."""
    return weights["output_bias"].mT.baddbmm(x.float(), weights["output"].mT)


def loss(weights: dict, scores, tags, mask):
    """Cross-entropy of the labels, `tags` `[batch, units]`, summed: `[layers]`."""
    gold = scores.gather(-1, tags.expand(scores.shape[:-1]).unsqueeze(-1)).squeeze(-1)
    return ((scores.logsumexp(-1) - gold) * mask).sum((-2, -1))


def best(weights: dict, scores, mask):
    """The best label of each unit: `[layers, batch, units]`."""
    return scores.argmax(-1)
