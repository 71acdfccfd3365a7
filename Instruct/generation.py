"""What a causal model answers: greedy generation, or the likelihood of given answers, in batches.

Prompts are padded on the left and have the positions that they have alone: a batch gives what its
prompts give one by one. Prompts and answers are lists of token ids. Under torchrun each process
takes some batches, and all get all results.
"""

from collections.abc import Callable

import torch
from tqdm import tqdm

from common.cli import UserError
from common.device import Device, gather, in_memory
from common.models import families
from common.training import sharding
from Instruct.cache import Attention, Cache, batch_positions

# Prompts at a time for each example of a training batch: there are no gradients to hold.
MORE, ON_GPU = 8, 32
READ = 2**12  # tokens of prompts, at most, in a pass that reads them
KEPT = 0.75  # of a batch go on at most, when what has ended leaves it


def generate(
    model, prompts: list[list[int]], most: list[int], eos: set[int], batch_size: int,
    device: Device, name: str,
) -> list[list[int]]:  # fmt: skip
    """The most likely next token, again and again: the new ids of each prompt.

    An answer ends before a token of `eos`, after its number in `most`, or where the model has no
    more positions (a prompt that fills them has no answer). More prompts go at a time than in
    training, as many as `batch_positions` allows; where a quarter have ended, they leave the batch.
    """
    limit = families.positions(model.config)
    most = [min(n, limit - len(prompt)) for n, prompt in zip(most, prompts, strict=True)]
    sizes = [len(p) + max(n, 0) for p, n in zip(prompts, most, strict=True)]
    positions = batch_positions(model.config, device)
    at_once = batch_size * (MORE if device.torch_device.type == "cpu" else ON_GPU)

    def fits(batch: list[int]) -> bool:
        more = len(batch) <= at_once
        return len(batch) <= batch_size or (
            more and len(batch) * max(sizes[i] for i in batch) <= positions
        )

    def run(indices: list[int]) -> dict[int, list[int]]:
        found = {i: [] for i in indices}
        rows = sorted((i for i in indices if most[i] > 0), key=lambda i: (-len(prompts[i]), i))
        going = set(rows)
        if rows:
            batch = _left_padded([prompts[i] for i in rows], device)
            room = batch["input_ids"].shape[1] + max(most[i] for i in rows)
            past = Cache(model.config, len(rows), room)
            logits = _read(model, batch, past)
        while rows:
            highest, tokens = logits.max(-1)
            _finite(highest)  # it is NaN where one of them is
            for i, token in zip(rows, tokens.tolist(), strict=True):
                if i in going and token not in eos:
                    found[i].append(token)
                if token in eos or len(found[i]) == most[i]:
                    going.discard(i)
            if len(going) <= KEPT * len(rows):
                keep = tokens.new_tensor([k for k, i in enumerate(rows) if i in going])
                rows = [i for i in rows if i in going]
                tokens, batch = tokens[keep], {key: some[keep] for key, some in batch.items()}
                past.batch_select_indices(keep)
            if rows:
                batch = _next(batch, tokens[:, None])
                batch["position_ids"].clamp_(max=limit - 1)  # of what has ended
                logits = model(**batch, past_key_values=past, use_cache=True).logits[:, -1]
        return found

    # Prompts whose answers may be about as long go together.
    order = sorted(range(len(prompts)), key=lambda i: (-most[i], -len(prompts[i]), i))
    return _in_batches(model, order, fits, device, name, run)


def log_likelihoods(
    model, prompts: list[list[int]], answers: list[list[list[int]]], batch_size: int,
    device: Device, name: str,
) -> list[list[float]]:  # fmt: skip
    """log P(answer | prompt) of each of a prompt's `answers`: the sum over the answer's tokens.

    Each answer should end with the end token: else one that another begins with always wins. The
    prompt is read once; an answer's keys and values are taken off the cache again. Raises
    UserError where a prompt and an answer have more tokens than the model has positions.
    """
    limit = families.positions(model.config)
    for prompt, mine in zip(prompts, answers, strict=True):
        if len(prompt) + max(map(len, mine)) - 1 > limit:
            raise UserError(
                f"a prompt of {len(prompt)} tokens and its labels do not fit into the model's "
                f"{limit} positions. Use a lower --max_length."
            )

    def run(indices: list[int]) -> dict[int, list[float]]:
        found = {i: [] for i in indices}
        batch = _left_padded([prompts[i] for i in indices], device)
        longest = max(len(ids) for i in indices for ids in answers[i])
        past = Cache(model.config, len(indices), batch["input_ids"].shape[1] + longest)
        past.activate_past_recording()
        first = _finite(_read(model, batch, past)).float().log_softmax(-1)
        past.crop(0)
        for n in range(len(answers[indices[0]])):
            ids, real = _right_padded([answers[i][n] for i in indices], device)
            scores = first.gather(1, ids[:, :1])
            if ids.shape[1] > 1:
                out = model(**_next(batch, ids[:, :-1]), past_key_values=past, use_cache=True)
                past.crop(1 - ids.shape[1])
                later = _finite(out.logits).float().log_softmax(-1)
                scores = torch.cat([scores, later.gather(2, ids[:, 1:, None])[..., 0]], 1)
            for i, value in zip(indices, (scores * real).sum(1).tolist(), strict=True):
                found[i].append(value)
        return found

    def fits(batch: list[int]) -> bool:  # prompts of a batch have equally many answers
        return len(batch) <= batch_size and len(answers[batch[0]]) == len(answers[batch[-1]])

    order = sorted(range(len(prompts)), key=lambda i: (-len(answers[i]), -len(prompts[i]), i))
    return _in_batches(model, order, fits, device, name, run)


def best(scores: list[float], answers: list[list[int]], normalised: bool) -> int:
    """Which answer is the most likely; `normalised`: by the mean over its tokens."""
    if normalised:
        scores = [score / len(ids) for score, ids in zip(scores, answers, strict=True)]
    return max(range(len(scores)), key=scores.__getitem__)


def _in_batches(
    model, order: list[int], fits: Callable[[list[int]], bool], device: Device, name: str,
    run: Callable[[list[int]], dict],
) -> list:  # fmt: skip
    """`run` on batches of `order`, each as long as it `fits`; what it found, as the prompts go.

    Out of memory: half as many at a time.
    """
    batches: list[list[int]] = []
    for i in order:
        if batches and fits([*batches[-1], i]):
            batches[-1].append(i)
        else:
            batches.append([i])
    found, micro = {}, max(map(len, batches), default=1)

    def pieces(batch: list[int], size: int) -> None:
        for start in range(0, len(batch), size):
            found.update(run(batch[start : start + size]))

    # Autocast keeps the weights that it has cast as long as its context is open; but not in
    # inference mode, where it would cast them all again at every token.
    with sharding.scoring(model, device), torch.no_grad(), device.autocast(), Attention(), tqdm(
        total=len(order), desc=name, unit=" examples", leave=False, dynamic_ncols=True,
        disable=device.rank > 0,
    ) as progress:  # fmt: skip
        for batch in batches[device.rank :: device.processes]:
            _, micro = in_memory(lambda size, batch=batch: pieces(batch, size), micro, device)
            progress.update(device.processes * len(batch))
    found = gather(device, found)
    return [found[i] for i in range(len(order))]


def _read(model, batch: dict[str, torch.Tensor], past: Cache) -> torch.Tensor:
    """Logits after the last token of each prompt, `[batch, vocabulary]`; `past` holds them all.

    `batch`: padded on the left, the longest first. Prompts of a length go together, so that little
    of what is computed is padding; their keys and values lie where those of the whole batch would.
    """
    lengths, found, start = batch["attention_mask"].sum(1).tolist(), [], 0
    width = lengths[0]
    while start < len(lengths):
        size = max(1, READ // lengths[start]) if past.divisible() else len(lengths)
        rows, first = slice(start, start + size), width - lengths[start]
        if past.divisible():
            past.begin(rows, first, first)
        piece = {name: tensor[rows, first:] for name, tensor in batch.items()}
        out = model(**piece, past_key_values=past, use_cache=True, logits_to_keep=1)
        found.append(out.logits[:, -1])
        start += size
    if past.divisible():
        past.begin(slice(None), 0, width)
    return torch.cat(found)


def _left_padded(rows: list[list[int]], device: Device) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `position_ids`, all `[batch, tokens]`.

    The padding is token 0, at position 0: the mask hides it.
    """
    width = max(map(len, rows), default=0)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    batch = {"input_ids": ids, "attention_mask": mask}
    batch["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0) if rows else mask
    return {key: tensor.to(device.torch_device) for key, tensor in batch.items()}


def _right_padded(rows: list[list[int]], device: Device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, 1 for a real token), both `[batch, tokens]`."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    real = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids.to(device.torch_device), real.to(device.torch_device)


def _next(batch: dict[str, torch.Tensor], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The inputs that follow a batch that the cache holds: `ids` `[batch, tokens]`."""
    mask, steps = batch["attention_mask"], torch.arange(1, ids.shape[1] + 1, device=ids.device)
    return {
        "input_ids": ids,
        "attention_mask": torch.cat([mask, torch.ones_like(ids)], 1),
        "position_ids": batch["position_ids"][:, -1:] + steps,
    }


def _finite(logits: torch.Tensor) -> torch.Tensor:
    if not logits.isfinite().all():
        raise UserError(
            "the model's predictions are not numbers any more. Use a lower --learning_rate, or "
            "--precision fp32."
        )
    return logits
