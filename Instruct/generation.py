"""What a causal model answers: greedy generation, or the likelihood of given answers, in batches.

Prompts are padded on the left and keep their positions: a batch gives what its prompts give one by
one. Prompts and answers are lists of token ids. Under torchrun all processes get all results.
"""

import torch
from torch.nn.functional import pad
from transformers import DynamicCache

from common import forward
from common.cli import UserError
from common.device import gather
from common.models import families
from common.training import sharding

# Batches are larger on accelerators: a token takes about as long for many rows. Too little memory
# halves them.
MORE = 8


def generate(model, prompts, most, ends, batch_size, device, name) -> list[list[int]]:
    """Append the most likely next token again and again: the new ids of each prompt.

    An answer ends before a token of the set `ends`, after its number of tokens in the list `most`,
    or where the model has no more positions (a prompt that fills them has no answer).
    """
    limit = families.positions(model.config)
    most = [min(n, limit - len(prompt)) for n, prompt in zip(most, prompts, strict=True)]

    def run(indices: list[int]) -> dict[int, list[int]]:
        answers = {i: [] for i in indices}
        going = [i for i in indices if most[i] > 0]
        ids, mask = _left_padded([prompts[i] for i in going], device)
        past = DynamicCache(config=model.config)
        while going:
            tokens = _logits(model, ids, mask, past, last=1)[:, -1].argmax(-1)
            chosen = dict(zip(going, tokens.tolist(), strict=True))
            for i, token in chosen.items():
                answers[i] += [token] * (token not in ends)
            left = [i for i in going if chosen[i] not in ends and len(answers[i]) < most[i]]
            if 0 < len(left) < len(going):
                kept = tokens.new_tensor([going.index(i) for i in left])
                past.batch_select_indices(kept)
                tokens, mask = tokens[kept], mask[kept]
            going, ids, mask = left, tokens[:, None], pad(mask, (0, 1), value=1)
        return answers

    return _in_batches(model, prompts, batch_size, device, name, run)


def log_likelihoods(model, prompts, answers, batch_size, device, name) -> list[list[float]]:
    """log P(answer | prompt) of each of `answers` after each prompt: the sum over its tokens.

    Each should end with the end token: else one that another begins with always wins. `encode`
    leaves room for the longest.
    """

    def run(indices: list[int]) -> dict[int, list[float]]:
        ids, mask = _left_padded([prompts[i] for i in indices], device)
        past = DynamicCache(config=model.config)
        past.activate_past_recording()  # else layers with a sliding window cannot be cropped
        first = _logits(model, ids, mask, past, last=1)[:, -1].log_softmax(-1)
        columns = []
        for answer in answers:
            total, n = first[:, answer[0]], len(answer) - 1
            if n:
                ids = mask.new_tensor([answer] * len(indices))
                longer = pad(mask, (0, n), value=1)
                later = _logits(model, ids[:, :-1], longer, past).log_softmax(-1)
                past.crop(-n)  # the next answer follows the same prompt
                total = total + later.gather(2, ids[:, 1:, None]).sum((1, 2))
            columns.append(total)
        return dict(zip(indices, torch.stack(columns, 1).tolist(), strict=True))

    return _in_batches(model, prompts, batch_size, device, name, run)


def _in_batches(model, prompts, batch_size, device, name, run) -> list:
    """What `run` gives for each prompt, in the order given."""
    size = batch_size if device.torch_device.type == "cpu" else MORE * batch_size
    lengths, results = list(map(len, prompts)), {}
    with sharding.scoring(model, device), device.autocast():  # weights are cast once for all
        for _, pieces in forward.batches(lengths, size, device, name, run):
            for piece in pieces:
                results |= piece
    results = gather(device, results)
    return [results[i] for i in range(len(prompts))]


def _logits(model, ids, mask, past: DynamicCache, last: int = 0) -> torch.Tensor:
    """float32 logits `[batch, tokens, vocabulary]` after `ids`, whose earlier tokens `past` holds.

    `mask`: 1 for each real token, also earlier ones. `last`: after so many tokens only, 0: all.
    """
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    output = model(**batch, past_key_values=past, use_cache=True, logits_to_keep=last)
    if not output.logits.isfinite().all():
        raise UserError(f"the model's predictions are not numbers any more. {forward.REMEDY}")
    return output.logits.float()


def _left_padded(rows: list[list[int]], device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, 1 for each real token), both `[batch, tokens]`. The mask hides the padding, token 0."""
    width = max(map(len, rows), default=0)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device.torch_device), mask.to(device.torch_device)
