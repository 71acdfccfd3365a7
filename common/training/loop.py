"""The training loop; it knows nothing of tasks, and of devices only `Device`."""

import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.batching import epoch_batches, pad
from common.cli import UserError
from common.device import Device, add_up, gather, in_memory, set_seed, shrink_frozen, to_device
from common.dropout import fast_dropout
from common.forward import REMEDY
from common.models import families
from common.training import losses, sharding
from common.training.resume import (
    load_state,
    load_weights,
    save_state,
    save_tensors,
    until_interrupted,
    weights_of,
)

log = logging.getLogger(__name__)
CHECK_EVERY = 20  # steps between rows of steps.csv: each look at a loss waits for the device
# Positions of a piece of a batch on a CPU, at most: more of them are not faster, and take memory.
CPU_POSITIONS = 2048
SAVE_SECONDS = 60  # at an epoch's end the state is saved if the last time was longer ago


@dataclass
class State:
    """How far a training run has come; with the weights, all that a resume needs."""

    micro: int  # examples at a time that memory holds
    step: int = 0
    epoch: int = 0
    batch: int = 0  # of the epoch
    loss: float = 0.0  # summed over the epoch's batches so far
    seconds: float = 0.0  # of training, without the scoring
    best: int | None = None  # epoch with the highest dev score
    history: list[dict] = field(default_factory=list)  # `{split: {metric: value}}` of each epoch
    steps: list[dict] = field(default_factory=list)  # rows of steps.csv


def learning_rate(step: int, steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up to `peak` over `warmup_ratio` of `steps`, then linear decay to 0."""
    warmup = int(steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / max(1, steps - warmup)


class Trainer:
    """A model, its optimizer, and one step of training: gradients, their sum, an update."""

    def __init__(
        self, model, args, device: Device, loss: Callable, layer_decay: float, sharded: bool = False
    ):
        self.model, self.args, self.device, self.loss = model, args, device, loss
        self.sharded = sharded
        if sharded:
            shrink_frozen(model, device)
            sharding.shard(model, device)
        else:
            to_device(model, device)  # before the optimizer, whose state goes along
        model.train()
        groups = families.parameter_groups(
            model, args.learning_rate, args.weight_decay, layer_decay
        )
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, fused=True)
        fp16 = device.precision == "fp16"
        self.scaler = torch.amp.GradScaler(device.torch_device.type, enabled=fp16)

    def set_rate(self, step: int, steps: int) -> None:
        """Each group's learning rate at a step of the schedule."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, group["base_lr"], self.args.warmup_ratio)

    def train_on(self, batch: list[dict], n_labels: int, micro: int) -> tuple[torch.Tensor, int]:
        """One step on `batch`, encoded examples with `n_labels` labels in all.

        Returns its mean loss over the labels and how many examples at a time memory held.
        """
        loss, micro = in_memory(
            lambda size: self._gradients(batch, n_labels, size), micro, self.device, self.sharded
        )
        self._sum_over_processes(loss)
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.args.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, micro

    def _gradients(self, batch: list[dict], n_labels: int, micro: int) -> torch.Tensor:
        """Gradients of the batch's mean loss over its labels, whatever the size of its pieces."""
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device.torch_device)
        self.scaler.scale(total)  # it wants to have seen a loss, also where this share is none
        share = batch[self.device.rank :: self.device.processes]
        # In a sharded model's forward pass all take part, as often as the first process has to.
        most = len(batch[:: self.device.processes]) if self.sharded else len(share)
        size = min(micro, self._most_at_a_time(batch))
        for start in range(0, most, size):
            some = share[start : start + size] or [sharding.idle(batch[0])]
            piece = pad(some, self.model.config.pad_token_id)
            piece = {name: tensor.to(self.device.torch_device) for name, tensor in piece.items()}
            with self.device.autocast(), fast_dropout(self.model):
                loss = sharding.run(self.loss, self.model, piece)
            loss = loss / n_labels
            self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _most_at_a_time(self, batch: list[dict]) -> int:
        if self.device.torch_device.type != "cpu":
            return len(batch)  # as many as memory holds
        return max(1, CPU_POSITIONS // max(len(example["input_ids"]) for example in batch))

    def _sum_over_processes(self, loss: torch.Tensor) -> None:
        # Not DistributedDataParallel: it sums within the backward pass, where a process that runs
        # out of memory, or whose share of a last batch is empty, would leave the others waiting.
        # Of a sharded model they are summed there: it may not be in any one memory.
        parameters = [] if self.sharded else self.parameters
        if self.device.processes > 1:
            for p in parameters:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            add_up(self.device, [loss, *(p.grad for p in parameters)])


def fit(
    model,
    examples: list[dict],
    args,
    device: Device,
    evaluate: Callable[[], dict],
    main_metric: str,
    folder: Path,
    *,
    loss: Callable = losses.cross_entropy,
    n_labels: Callable[[dict], int] = losses.labels_in,
    layer_decay: float = 1.0,
    sharded: bool = False,
) -> tuple[State, dict]:
    """Fine-tune `model` in place and leave the best epoch's weights in it.

    `examples`: encoded inputs; those without any label are left out. `loss` and `n_labels`: see
    `common.task.Task`. `evaluate()` gives the dev scores after an epoch; the first epoch with the
    highest `main_metric` (or, of "loss", the lowest) wins, or the last one where there are none.
    The state is saved in `folder/state.pt` every `args.save_minutes`, and after an epoch; a later
    call with the same arguments goes on from there, in fp32 on a CPU bit for bit. Under torchrun
    each process takes its share of every batch, gradients are added up, and the first one writes.
    `sharded`: the model is divided among them, and stays so, see `common.training.sharding`.

    Returns the state at the end (its history) and the run's totals. Raises UserError if the loss
    stops being a number, or if memory does not hold a single example.
    """
    counted = [(e, n) for e in examples if (n := n_labels(e))]
    if not counted:
        raise UserError("no training example has a label that the tokenizer keeps. Give more data.")
    lengths = [len(example["input_ids"]) for example, _ in counted]
    per_epoch = -(-len(counted) // args.batch_size)
    steps = args.num_train_epochs * per_epoch
    trainer = Trainer(model, args, device, loss, layer_decay, sharded)
    gather(device, {})  # the first process has cleared the folder
    _agree(device, folder, [(folder / name).exists() for name in ("config.json", "state.pt")])
    state = State(**(load_state(folder, trainer) or {"micro": args.batch_size}))
    _agree(device, folder, state.step)
    if device.rank:  # the same weights, but its own dropout
        set_seed(args.seed + device.rank + state.step)
    clock, saved_at, recent = time.perf_counter(), time.monotonic(), []
    progress = tqdm(
        total=args.num_train_epochs * len(counted),
        initial=state.epoch * len(counted) + state.batch * args.batch_size,
        desc="fine-tuning", unit=" examples", dynamic_ncols=True, smoothing=0.1,
        disable=device.rank > 0,
    )  # fmt: skip

    record = None
    if getattr(args, "tensorboard", False) and not device.rank:
        from common.training import events

        record = events.writer(folder, state.step)

    def late(seconds: float) -> bool:
        mine = time.monotonic() - saved_at > seconds
        return gather(device, {device.rank: mine})[0] if sharded else mine  # then all save, or none

    def save() -> None:
        nonlocal clock, saved_at
        _check(recent, state)
        now = time.perf_counter()
        state.seconds, clock = state.seconds + now - clock, now
        save_state(folder, trainer, asdict(state))
        saved_at = time.monotonic()

    while state.epoch < args.num_train_epochs:
        batches = epoch_batches(lengths, args.batch_size, args.seed, state.epoch)
        for indices in until_interrupted(batches[state.batch :], device, save):
            trainer.set_rate(state.step, steps)
            batch, labels = zip(*(counted[i] for i in indices), strict=True)
            loss_now, state.micro = trainer.train_on(batch, sum(labels), state.micro)
            recent.append(loss_now)
            state.step += 1
            state.batch += 1
            progress.update(len(indices))
            rate = learning_rate(state.step - 1, steps, args.learning_rate, args.warmup_ratio)
            if state.step % CHECK_EVERY == 0 or state.step == steps:
                last = _check(recent, state)
                state.steps.append({"step": state.step, "loss": last, "learning_rate": rate})
                progress.set_postfix(loss=f"{last:.3f}", refresh=False)
                if record:
                    record(state.step, {"train/loss": last, "train/learning_rate": rate})
            # To agree takes time: then only where the device has been waited for anyway.
            if (not sharded or state.step % CHECK_EVERY == 0) and late(60 * args.save_minutes):
                save()
        _check(recent, state)
        trainer.optimizer.zero_grad()  # frees the gradients for the evaluation
        stopped = time.perf_counter()
        dev = evaluate()
        clock += time.perf_counter() - stopped  # not a part of the training's seconds
        model.train()
        rate = learning_rate(state.step - 1, steps, args.learning_rate, args.warmup_ratio)
        train = {"loss": state.loss / len(batches), "learning_rate": rate}
        best = state.history[state.best]["dev"].get(main_metric) if state.history else None
        state.history.append({"train": train, "dev": dev})
        if record:
            record(state.step, {f"dev/{name}": value for name, value in dev.items()})
        sign = -1 if main_metric == "loss" else 1
        if best is None or sign * dev[main_metric] > sign * best:  # without a dev split: the last
            # A file of its own: until the state is saved again, the earlier best is still needed.
            state.best = state.epoch
            weights = weights_of(model)
            if not device.rank:
                save_tensors(folder / f"epoch-{state.best}.pt", weights)
            del weights
        state.epoch, state.batch, state.loss = state.epoch + 1, 0, 0.0
        if late(min(SAVE_SECONDS, 60 * args.save_minutes)):
            save()
        if not device.rank:
            score = f"dev {main_metric} {dev[main_metric]:.4f}" if dev else ""
            progress.write(f"epoch {state.epoch}: loss {train['loss']:.4f} {score}", sys.stderr)
    progress.close()
    state.seconds += time.perf_counter() - clock
    if state.best != state.epoch - 1:
        path = folder / f"epoch-{state.best}.pt"
        load_weights(model, torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    return state, {
        "best_epoch": state.best + 1,
        "train_seconds": state.seconds,
        "train_examples_per_second": args.num_train_epochs * len(counted) / state.seconds,
        "train_tokens_per_second": args.num_train_epochs * sum(lengths) / state.seconds,
        "micro_batch_size": state.micro,
    }


def _agree(device: Device, folder: Path, seen) -> None:
    """UserError unless all processes have `seen` the same in the folder."""
    values = gather(device, {device.rank: seen}).values()
    if any(value != seen for value in values):
        raise UserError(
            f"the processes do not see the same {folder}. Give an --output_dir on a disk that all "
            "nodes share."
        )


def _check(losses: list[torch.Tensor], state: State) -> float | None:
    """Add the losses of the last steps to `state.loss`; UserError at the first NaN."""
    values = torch.stack(losses).tolist() if losses else []
    for step, value in enumerate(values, state.step - len(values) + 1):
        if not np.isfinite(value):
            raise UserError(f"the loss is {value} at step {step}. {REMEDY}")
    state.loss += sum(values)
    losses.clear()
    return values[-1] if values else None
