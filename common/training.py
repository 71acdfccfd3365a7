"""The train and predict loops; they know nothing of tasks, and of devices only `Device`."""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from common.batching import INPUTS, epoch_batches, pad, sorted_batches
from common.cli import UserError
from common.device import Device, add_up, gather, get_rng, in_memory, set_rng, set_seed
from common.files import replacing
from common.models import logits

log = logging.getLogger(__name__)
IGNORED = -100  # label of a token that has none
CHECK_EVERY = 20  # steps between looks at the losses: each look waits for the device


def learning_rate(step: int, steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up to `peak` over `warmup_ratio` of `steps`, then linear decay to 0."""
    warmup = int(steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / max(1, steps - warmup)


def fit(
    model,
    examples: list[dict],
    args,
    device: Device,
    evaluate: Callable[[], dict],
    main_metric: str,
    folder: Path,
) -> tuple[list[dict], dict]:
    """Fine-tune `model` in place and leave the best epoch's weights in it.

    `examples`: dicts of `input_ids`, `labels` (a number, or one a token with -100 for none); those
    without any label are left out.
    `evaluate()` gives the dev scores after an epoch; the first epoch with the highest
    `main_metric` wins, or the last one where there are none. The state is saved in
    `folder/state.pt` after every epoch and every `args.save_minutes`; a later call with the same
    arguments goes on from there, in fp32 on a CPU bit for bit. Under torchrun each process takes
    its share of every batch, gradients are added up, and the first process writes.

    Returns the history (a dict of measurements an epoch) and the run's totals. Raises UserError
    if the loss stops being a number, or if memory does not hold a single example.
    """
    pad_token_id = model.config.pad_token_id
    model.to(device.torch_device).train()  # before the optimizer: its state goes along
    parameters = list(model.parameters())
    groups = [  # biases and norms are vectors; decaying them only shrinks the output's scale
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, fused=True)
    scaler = torch.amp.GradScaler(device.torch_device.type, enabled=device.precision == "fp16")
    examples = [e for e in examples if _count_labels(e)]
    if not examples:
        raise UserError("no training example has a word that the tokenizer keeps. Give more data.")
    lengths = [len(example["input_ids"]) for example in examples]
    n_labels = [_count_labels(example) for example in examples]
    steps = args.num_train_epochs * -(-len(examples) // args.batch_size)
    state = {"step": 0, "epoch": 0, "batch": 0, "loss": 0.0, "seconds": 0.0, "history": [],
             "best": None, "micro": args.batch_size}  # fmt: skip
    gather(device, {})  # the first process has cleared the folder
    if saved := _load_state(folder / "state.pt"):
        model.load_state_dict(saved.pop("model"))
        optimizer.load_state_dict(saved.pop("optimizer"))
        scaler.load_state_dict(saved.pop("scaler"))
        set_rng(saved.pop("rng"), device)
        state = saved
        log.info("going on from epoch %d, step %d", state["epoch"] + 1, state["step"])
    if device.rank:  # the same weights, but its own dropout
        set_seed(args.seed + device.rank + state["step"])

    def train_batch(indices: list[int], micro: int) -> torch.Tensor:
        """Gradients of the batch's mean loss over its labels, whatever the size of its pieces."""
        optimizer.zero_grad()
        total, count = (
            torch.zeros((), device=device.torch_device),
            sum(n_labels[i] for i in indices),
        )
        scaler.scale(total)  # it wants to have seen a loss, also where this process's share is none
        share = indices[device.rank :: device.processes]
        for start in range(0, len(share), micro):
            piece = pad([examples[i] for i in share[start : start + micro]], pad_token_id)
            piece = {name: tensor.to(device.torch_device) for name, tensor in piece.items()}
            labels = piece.pop("labels").flatten()
            with device.autocast():
                scores = logits(model, piece).float().flatten(0, -2)
                loss = F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")
            loss = loss / count
            scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def sum_over_processes(loss: torch.Tensor) -> None:
        # Not DistributedDataParallel: it sums within the backward pass, where a process that runs
        # out of memory, or whose share of a last batch is empty, would leave the others waiting.
        if device.processes > 1:
            for p in parameters:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            add_up(device, [loss, *(p.grad for p in parameters)])

    def save(losses: list[torch.Tensor]) -> None:
        _check(losses, state)
        state["seconds"] += time.perf_counter() - clock[0]
        clock[0] = time.perf_counter()
        if device.rank:
            return
        parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        parts |= {"scaler": scaler.state_dict(), "rng": get_rng(device)}
        _save_tensors(folder / "state.pt", state | parts)

    clock, saved_at, losses = [time.perf_counter()], time.monotonic(), []
    progress = tqdm(
        total=args.num_train_epochs * len(examples),
        initial=state["epoch"] * len(examples) + state["batch"] * args.batch_size,
        desc="fine-tuning", unit=" examples", dynamic_ncols=True, smoothing=0.1,
        disable=device.rank > 0,
    )  # fmt: skip
    while state["epoch"] < args.num_train_epochs:
        batches = epoch_batches(lengths, args.batch_size, args.seed, state["epoch"])
        for indices in batches[state["batch"] :]:
            rate = learning_rate(state["step"], steps, args.learning_rate, args.warmup_ratio)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss, state["micro"] = in_memory(
                lambda size, batch=indices: train_batch(batch, size), state["micro"], device
            )
            sum_over_processes(loss)
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(parameters, args.max_grad_norm)
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss)
            state["step"] += 1
            state["batch"] += 1
            progress.update(len(indices))
            if len(losses) == CHECK_EVERY:
                progress.set_postfix(loss=f"{_check(losses, state):.3f}", refresh=False)
            if time.monotonic() - saved_at > 60 * args.save_minutes:
                save(losses)
                saved_at = time.monotonic()
        _check(losses, state)
        optimizer.zero_grad()  # frees the gradients for the evaluation
        train_loss, last_rate = state["loss"] / len(batches), optimizer.param_groups[0]["lr"]
        stopped = time.perf_counter()
        dev = evaluate()
        clock[0] += time.perf_counter() - stopped  # not a part of the training's seconds
        model.train()
        history = state["history"]
        history.append({"train": {"loss": train_loss, "learning_rate": last_rate}, "dev": dev})
        best = state["best"]
        if not dev or best is None or dev[main_metric] > history[best]["dev"][main_metric]:
            # A file of its own: until the state below is saved, the earlier best is still it.
            state["best"] = state["epoch"]
            if not device.rank:
                _save_tensors(folder / f"epoch-{state['best']}.pt", model.state_dict())
        state |= {"epoch": state["epoch"] + 1, "batch": 0, "loss": 0.0}
        save(losses)
        saved_at = time.monotonic()
        if best is not None and best != state["best"] and not device.rank:
            (folder / f"epoch-{best}.pt").unlink(missing_ok=True)
        score = f"dev {main_metric} {dev[main_metric]:.4f}" if dev else ""
        if not device.rank:
            progress.write(f"epoch {state['epoch']}: loss {train_loss:.4f} {score}", sys.stderr)
    progress.close()
    if state["best"] != state["epoch"] - 1:
        model.load_state_dict(_load_state(folder / f"epoch-{state['best']}.pt"))
    seconds = state["seconds"]
    return state["history"], {
        "best_epoch": state["best"] + 1,
        "train_seconds": seconds,
        "train_examples_per_second": args.num_train_epochs * len(examples) / seconds,
        "train_tokens_per_second": args.num_train_epochs * sum(lengths) / seconds,
        "micro_batch_size": state["micro"],
    }


def _count_labels(example: dict) -> int:
    return int(np.count_nonzero(np.array(example["labels"]) != IGNORED))


_REMEDY = "Use a lower --learning_rate, or --precision fp32, with --overwrite."


def _check(losses: list[torch.Tensor], state: dict) -> float | None:
    """Add the losses of the last steps to `state["loss"]`; UserError at the first NaN."""
    values = torch.stack(losses).tolist() if losses else []
    for step, value in enumerate(values, state["step"] - len(values) + 1):
        if not np.isfinite(value):
            raise UserError(f"the loss is {value} at step {step}. {_REMEDY}")
    state["loss"] += sum(values)
    losses.clear()
    return values[-1] if values else None


def predict(
    model, examples: list[dict], batch_size: int, device: Device, name: str
) -> list[np.ndarray]:
    """Logits of every example, float32, in the order given: `[labels]`, or `[tokens, labels]`.

    Without dropout. An example without tokens has `[0, labels]`-like nothing: an empty array.
    Under torchrun each process predicts some batches, and all get all logits.
    """
    model.to(device.torch_device).eval()
    found: dict[int, np.ndarray] = {}
    lengths = [len(example["input_ids"]) for example in examples]
    micro = batch_size

    def run(indices: list[int], size: int) -> None:
        for start in range(0, len(indices), size):
            piece = indices[start : start + size]
            batch = pad([{k: v for k, v in examples[i].items() if k in INPUTS} for i in piece],
                        model.config.pad_token_id)  # fmt: skip
            batch = {key: tensor.to(device.torch_device) for key, tensor in batch.items()}
            with device.autocast():
                scores = logits(model, batch)
            scores = scores.float().cpu().numpy()
            if not np.isfinite(scores).all():
                raise UserError(f"the model's predictions are not numbers any more. {_REMEDY}")
            for row, i in zip(scores, piece, strict=True):
                found[i] = row if row.ndim == 1 else row[: lengths[i]]

    with torch.inference_mode(), tqdm(
        total=len(examples), desc=name, unit=" examples", leave=False, dynamic_ncols=True,
        disable=device.rank > 0,
    ) as progress:  # fmt: skip
        for indices in sorted_batches(lengths, batch_size)[device.rank :: device.processes]:
            filled = [i for i in indices if lengths[i]]
            if filled:
                _, micro = in_memory(lambda size, batch=filled: run(batch, size), micro, device)
            progress.update(device.processes * len(indices))
    nothing = np.empty((0, model.config.num_labels), np.float32)
    found = gather(device, found)
    return [found.get(i, nothing) for i in range(len(examples))]


def _save_tensors(path: Path, value: dict) -> None:
    """`torch.save`, atomically; a failed write is an OSError that names the file."""
    with replacing(path) as temporary:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:  # how torch reports a full disk
            with temporary.open("ab") as probe:
                probe.write(b"\0" * 2**20)  # raises the OSError behind it, if there is one
            raise UserError(f"cannot write {path}: {error}. Is the disk full?") from error


def _load_state(path: Path) -> dict | None:
    """The saved state, on the CPU; None if there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
