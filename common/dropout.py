"""Dropout on a CPU, where drawing its random numbers takes up to a third of a training step.

Torch draws one Bernoulli number at a time, in one thread. Here a draw of 64 bits serves four
numbers: an element is dropped where its 16 bits, as a number, are among the lowest share `p`. That
share is a multiple of 2**-16 (of 0.1: 0.100006), and what is kept is scaled by exactly its inverse.
The numbers come from torch's global generator: a seed and a resume mean what they do elsewhere.
"""

from contextlib import nullcontext

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_VALUES = 2**16  # of 16 bits


def fast_dropout(model):
    """A context in which the model's dropout, that of attention included, is the one of this page.

    On a CPU, and without checkpointing: what that repeats, in the backward pass, it repeats outside
    of such contexts.
    """
    on_cpu = next(model.parameters()).device.type == "cpu"
    repeated = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    return _FastDropout() if on_cpu and not repeated else nullcontext()


class _FastDropout(TorchFunctionMode):
    """Torch's way to have calls of its functions answered by others, whichever model calls."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.dropout:
            return _of_module(*args, **kwargs)
        if func is F.scaled_dot_product_attention and (kwargs.get("dropout_p") or len(args) > 4):
            return attention(*args, **kwargs)
        return func(*args, **kwargs)


def _of_module(input, p=0.5, training=True, inplace=False):
    return dropout(input, p) if training and p else input


def dropout(x: torch.Tensor, p: float) -> torch.Tensor:
    """`x` (any shape) with a share `p` of its elements 0, the others divided by 1 - p."""
    return _Dropout.apply(x, round(p * _VALUES))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, threshold):
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
        bits.random_(-(2**63), None)  # all 64 bits
        lowest = threshold - _VALUES // 2  # 16 bits with a sign begin at -2**15
        dropped = (bits.view(torch.int16)[: x.numel()] < lowest).view(x.shape)
        ctx.scale = _VALUES / (_VALUES - threshold) if threshold < _VALUES else 0.0
        ctx.save_for_backward(dropped)
        return x.masked_fill(dropped, 0).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, gradient):
        (dropped,) = ctx.saved_tensors
        return gradient.masked_fill(dropped, 0).mul_(ctx.scale), None


def attention(
    query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    """`F.scaled_dot_product_attention`, arguments and shapes alike, with `dropout` of this page.

    For inputs in which every query sees a key.
    """
    if enable_gqa:
        groups = query.size(-3) // key.size(-3)
        key, value = (x.repeat_interleave(groups, -3) for x in (key, value))
    scale = query.size(-1) ** -0.5 if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -float("inf"))
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = scores.softmax(-1, dtype=scores.dtype)
    return (dropout(weights, dropout_p) if dropout_p else weights) @ value
