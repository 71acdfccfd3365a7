"""A linear-chain conditional random field: partition function, path score, best path.

Leading dimensions, `...`, are chains of their own (one an encoder layer) on the same sentences.
"""

import torch


def _check(mask: torch.Tensor, tags: torch.Tensor | None = None, n_labels: int = 0) -> None:
    """ValueError where the recursions below would be wrong without a word: holes, a tag of -100."""
    if not mask[:, 0].all() or (mask[:, 1:] & ~mask[:, :-1]).any():
        raise ValueError("a mask must be ones, at least one, and then zeros: no holes")
    if tags is not None and ((tags < 0) | (tags >= n_labels))[mask].any():
        raise ValueError(f"a tag is outside 0 ... {n_labels - 1}. Leave out words without one.")


def log_partition(emissions, transitions, start, end, mask) -> torch.Tensor:
    """log Z, the log-sum-exp of the scores of all paths, by the forward algorithm.

    `emissions`: `[..., batch, words, labels]`; `transitions` (from, to): `[..., labels, labels]`;
    `start`, `end`: `[..., labels]`; `mask`: `[batch, words]`, bool, a dense prefix (or ValueError).
    Returns `[..., batch]`. Lafferty, McCallum & Pereira (2001), section 3:
    alpha_1 = start + e_1; alpha_t(j) = e_t(j) + log sum_i exp(alpha_{t-1}(i) + transitions(i, j)).
    """
    _check(mask)
    first, *rest = emissions.unbind(-2)
    alpha = start.unsqueeze(-2) + first
    for t, emission in enumerate(rest, 1):
        scores = alpha.unsqueeze(-1) + transitions.unsqueeze(-3)  # [..., batch, from, to]
        alpha = torch.where(mask[:, t, None], scores.logsumexp(-2) + emission, alpha)
    return (alpha + end.unsqueeze(-2)).logsumexp(-1)


def path_score(emissions, tags, transitions, start, end, mask) -> torch.Tensor:
    """Score of one path a sentence: start, emissions, transitions and end, added up.

    `tags`: `[batch, words]`, 0 ... labels - 1 where `mask` is set (or ValueError); the rest as in
    `log_partition`. Returns `[..., batch]`. Equation 1 of Lample et al. (2016).
    """
    _check(mask, tags, emissions.shape[-1])
    tags = tags.masked_fill(~mask, 0)
    index = tags.expand(emissions.shape[:-1]).unsqueeze(-1)
    emitted = emissions.gather(-1, index).squeeze(-1) * mask
    moved = transitions[..., tags[:, :-1], tags[:, 1:]] * mask[:, 1:]
    last = tags.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
    return emitted.sum(-1) + moved.sum(-1) + start[..., tags[:, 0]] + end[..., last]


def viterbi(emissions, transitions, start, end, mask) -> torch.Tensor:
    """The best path of every sentence: int64 `[..., batch, words]`, 0 at the padding.

    Arguments as in `log_partition`, with the maximum in place of its log-sum-exp (Viterbi 1967).
    """
    _check(mask)
    first, *rest = emissions.unbind(-2)
    best, origins = start.unsqueeze(-2) + first, []
    for t, emission in enumerate(rest, 1):
        scores, origin = (best.unsqueeze(-1) + transitions.unsqueeze(-3)).max(-2)
        best = torch.where(mask[:, t, None], scores + emission, best)
        origins.append(origin)
    tag = last = (best + end.unsqueeze(-2)).argmax(-1, keepdim=True)
    path = [tag]
    for t in range(len(origins), 0, -1):  # until a sentence's last word, `tag` stays its `last`
        tag = torch.where(mask[:, t, None], origins[t - 1].gather(-1, tag), last)
        path.append(tag)
    return torch.cat(path[::-1], -1) * mask
