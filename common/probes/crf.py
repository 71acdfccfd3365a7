"""A linear-chain conditional random field: partition function, path score, best path.

Leading dimensions, `...`, are separate chains (one per encoder layer) on the same sequences. A mask
`[batch, units]`, bool, is true for the units of a sequence, at least one, and then false.
"""

import torch


def log_partition(emissions, transitions, start, end, mask) -> torch.Tensor:
    """log Z, the log-sum-exp of the scores of all paths, by the forward algorithm: `[..., batch]`.

    `emissions`: `[..., batch, units, labels]`; `transitions` (from, to): `[..., labels, labels]`;
    `start`, `end`: `[..., labels]`. Lafferty, McCallum & Pereira (2001), section 3:
    alpha_1 = start + e_1; alpha_t(j) = e_t(j) + log sum_i exp(alpha_{t-1}(i) + transitions(i, j)).
    """
    first, *rest = emissions.unbind(-2)
    alpha = start.unsqueeze(-2) + first
    for t, emission in enumerate(rest, 1):
        scores = alpha.unsqueeze(-1) + transitions.unsqueeze(-3)  # [..., batch, from, to]
        alpha = torch.where(mask[:, t, None], scores.logsumexp(-2) + emission, alpha)
    return (alpha + end.unsqueeze(-2)).logsumexp(-1)


def path_score(emissions, tags, transitions, start, end, mask) -> torch.Tensor:
    """Score of one path per sequence: start, emissions, transitions and end, added up.

    `tags`: `[batch, units]`, 0 ... labels - 1 (also at the padding); the rest as in
    `log_partition`. Returns `[..., batch]`. Equation 1 of Lample et al. (2016).
    """
    index = tags.expand(emissions.shape[:-1]).unsqueeze(-1)
    emitted = emissions.gather(-1, index).squeeze(-1) * mask
    moved = transitions[..., tags[:, :-1], tags[:, 1:]] * mask[:, 1:]
    last = tags.gather(1, mask.sum(1, keepdim=True) - 1).squeeze(1)
    return emitted.sum(-1) + moved.sum(-1) + start[..., tags[:, 0]] + end[..., last]


def viterbi(emissions, transitions, start, end, mask) -> torch.Tensor:
    """The best path of every sequence: int64 `[..., batch, units]`, 0 at the padding.

    Arguments as in `log_partition`, with the maximum instead of its log-sum-exp (Viterbi 1967).
    """
    first, *rest = emissions.unbind(-2)
    best, origins = start.unsqueeze(-2) + first, []
    for t, emission in enumerate(rest, 1):
        scores, origin = (best.unsqueeze(-1) + transitions.unsqueeze(-3)).max(-2)
        best = torch.where(mask[:, t, None], scores + emission, best)
        origins.append(origin)
    tag = last = (best + end.unsqueeze(-2)).argmax(-1, keepdim=True)
    path = [tag]
    for t in range(len(origins), 0, -1):  # at the padding, `tag` stays the sequence's `last`
        tag = torch.where(mask[:, t, None], origins[t - 1].gather(-1, tag), last)
        path.append(tag)
    return torch.cat(path[::-1], -1) * mask
