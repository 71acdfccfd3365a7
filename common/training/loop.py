"""The training loop; it knows nothing of tasks, and of devices only `Device`."""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from common import forward
from common.batching import INPUTS, epoch_batches
from common.cli import UserError
from common.device import Device, gather, in_memory, to_device
from common.models import families
from common.training import losses, resume, sharding
from common.training.resume import State

LOG_EVERY = 20  # steps between rows of steps.csv
# A forward pass on a CPU has at most so many positions (examples times the longest one). More are
# not faster, and the activations of long inputs would take much memory.
CPU_POSITIONS = 2048
# A batch is random and sorted by length; so many pieces of it have little padding. On a GPU a piece
# costs its launches.
PIECES = {"cpu": 4}


class Settings(NamedTuple):
    """How to train; each value is that of the flag with this name."""

    learning_rate: float  # the peak
    num_train_epochs: int
    batch_size: int  # examples a step, over all processes
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    layer_decay: float  # 1: all layers have the same learning rate
    seed: int
    save_minutes: float
    tensorboard: bool = False


def fit(
    model,
    examples: list[dict],
    settings: Settings,
    device: Device,
    evaluate: Callable[[], dict],
    main_metric: str,
    folder: Path,
    *,
    loss: Callable = losses.cross_entropy,
) -> tuple[State, dict]:
    """Fine-tune `model` in place and leave the best epoch's weights in it.

    `examples`: encoded inputs, of which those without a label are left out. `loss`: see
    `common.task.Task`. `evaluate()` gives the dev scores after an epoch. The first epoch with the
    highest `main_metric` (of "loss": the lowest) is the best; without dev scores the last one.

    The state is saved in `folder` every `settings.save_minutes`, and after Ctrl-C or SIGTERM. The
    same call later resumes from it, in fp32 on a CPU bit for bit. Under torchrun the model is
    sharded, and stays so. Returns the state at the end (its history) and totals. Raises UserError
    if the loss is no longer a number, or if the memory is too small for an example.
    """
    rows = [(example, n) for example in examples if (n := losses.labels_in(example))]
    if not rows:
        raise UserError("no training example has a label that the tokenizer keeps. Give more data.")
    training = _Training(Trainer(model, settings, device, loss), rows, folder)
    while training.state.epoch < settings.num_train_epochs:
        training.train_epoch()
        training.end_epoch(evaluate, main_metric)
    return training.finish()


def event_files(folder: Path, step: int):
    """TensorBoard's writer; what a killed process wrote from this step on is dropped."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard: TensorBoard is not installed. Type `pip install tensorboard`, or leave "
            "the flag out: steps.csv has the same numbers."
        ) from None
    return SummaryWriter(folder / "tensorboard", purge_step=step)


def learning_rate(step: int, steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up to `peak` over `warmup_ratio` of `steps`, then linear decay to 0."""
    warmup = int(steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / max(1, steps - warmup)


class Trainer:
    """A model, its optimizer, and one step of training."""

    def __init__(self, model, settings: Settings, device: Device, loss: Callable):
        self.model, self.settings, self.device, self.loss = model, settings, device, loss
        place = sharding.shard if device.processes > 1 else to_device
        place(model, device)
        model.train()
        # The optimizer comes after the move: its state goes where the parameters are.
        groups = families.parameter_groups(
            model, settings.learning_rate, settings.weight_decay, settings.layer_decay
        )
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        kind, fp16 = device.torch_device.type, device.precision == "fp16"
        self.scaler = torch.amp.GradScaler(kind, enabled=fp16)

    def set_rate(self, step: int, steps: int) -> float:
        """Set each group's learning rate for a step of the schedule; returns the highest one."""
        for group in self.optimizer.param_groups:
            peak, ratio = group["base_lr"], self.settings.warmup_ratio
            group["lr"] = learning_rate(step, steps, peak, ratio)
        return max(group["lr"] for group in self.optimizer.param_groups)

    def train_on(self, batch: list[dict], n_labels: int, micro: int) -> tuple[torch.Tensor, int]:
        """One step on `batch`, encoded examples that have `n_labels` labels in all.

        `micro` examples are computed at a time. Returns the mean loss over the labels, and `micro`,
        or less if memory is short; torchrun's processes raise UserError then, as others wait.
        """
        if self.device.processes > 1:  # the others wait: no second try
            loss, _ = in_memory(lambda _: self._gradients(batch, n_labels, micro), 1, self.device)
            torch.distributed.all_reduce(loss)
        else:
            loss, micro = in_memory(
                lambda size: self._gradients(batch, n_labels, size), micro, self.device
            )
        in_memory(lambda _: self._update(), 1, self.device)  # the first one makes Adam's moments
        return loss, micro

    def _update(self) -> None:
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _gradients(self, batch: list[dict], n_labels: int, micro: int) -> torch.Tensor:
        """Compute the gradients of the batch's mean loss over its labels, `micro` at a time."""
        self.optimizer.zero_grad()
        where, total = self.device.torch_device, torch.zeros((), device=self.device.torch_device)
        micro = min(micro, -(-len(batch) // PIECES.get(where.type, 2)))
        if where.type == "cpu":
            longest = max(len(example["input_ids"]) for example in batch)
            micro = min(micro, max(1, CPU_POSITIONS // longest))
        share = batch[self.device.rank :: self.device.processes]
        # All processes run as many passes as the first one, which has the largest share.
        for start in range(0, len(batch[:: self.device.processes]), micro):
            piece = share[start : start + micro] or [sharding.idle(batch[0])]
            names, pad_token_id = (*INPUTS, "labels"), self.model.config.pad_token_id
            inputs = forward.inputs(piece, pad_token_id, self.device, names)
            with self.device.autocast():
                loss = sharding.run(self.loss, self.model, inputs) / n_labels
            self.scaler.scale(loss).backward()
            total += loss.detach()
        return total


class _Training:
    """What `fit` goes through, from the state that an earlier process has left."""

    def __init__(self, trainer: Trainer, rows: list[tuple[dict, int]], folder: Path):
        self.trainer, self.rows, self.folder = trainer, rows, folder
        self.settings, self.device = trainer.settings, trainer.device
        self.lengths = [len(example["input_ids"]) for example, _ in rows]
        self.batches = -(-len(rows) // self.settings.batch_size)  # of an epoch
        self.steps = self.settings.num_train_epochs * self.batches
        gather(self.device, {})  # wait until the first process has prepared the folder
        self.state = resume.load_state(folder, trainer) or State(micro=self.settings.batch_size)
        self.saved_at = time.monotonic()
        look = {"unit": " examples", "unit_scale": self.settings.batch_size}
        progress = {
            "initial": self.state.step,
            "total": self.steps,
            "disable": self.device.rank > 0,
        }
        self.progress = tqdm(desc="fine-tuning", **progress, **look)
        self.events = None
        if self.settings.tensorboard and not self.device.rank:
            self.events = event_files(folder, self.state.step + 1)

    def train_epoch(self) -> None:
        """Train on the batches of this epoch that are left; Ctrl-C and SIGTERM end it."""
        settings = self.settings
        about = settings.batch_size, settings.seed, self.state.epoch
        order = epoch_batches(self.lengths, *about, pool=1)
        with resume.noted_signals() as noted:
            for indices in order[self.state.step - self.state.epoch * self.batches :]:
                self.step(indices)
                if signal := self.save_if_due(max(noted, default=0)):
                    noted.append(signal)
                    break

    def step(self, indices: list[int]) -> None:
        """Train on one batch. Raises UserError if the loss is not a number."""
        state, started = self.state, time.perf_counter()
        examples, n_labels = zip(*(self.rows[i] for i in indices), strict=True)
        state.learning_rate = self.trainer.set_rate(state.step, self.steps)
        loss, state.micro = self.trainer.train_on(list(examples), sum(n_labels), state.micro)
        loss = loss.item()  # waits for the device
        state.seconds += time.perf_counter() - started
        state.step, state.loss = state.step + 1, state.loss + loss
        if not math.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {state.step}. {forward.REMEDY}")
        self.progress.update()
        if state.step % LOG_EVERY == 0 or state.step == self.steps:
            row = {"loss": loss, "learning_rate": state.learning_rate}
            state.steps.append({"step": state.step} | row)
            self.progress.set_postfix(loss=f"{loss:.3f}", refresh=False)
            self.log("train", row)

    def end_epoch(self, evaluate: Callable[[], dict], main_metric: str) -> None:
        """Score the epoch, and keep its weights if they are the best so far."""
        state = self.state
        self.trainer.optimizer.zero_grad()  # frees the gradients for the evaluation
        dev = evaluate()
        self.trainer.model.train()
        train = {"loss": state.loss / self.batches, "learning_rate": state.learning_rate}
        best = state.history[state.best]["dev"].get(main_metric) if state.history else None
        state.history.append({"train": train, "dev": dev})
        self.log("dev", dev)
        sign = -1 if main_metric == "loss" else 1
        if best is None or sign * dev[main_metric] > sign * best:
            state.best = state.epoch
            resume.save_best(self.folder, self.trainer, state)
        state.epoch, state.loss = state.epoch + 1, 0.0
        self.save_if_due()
        if not self.device.rank:
            score = f"dev {main_metric} {dev[main_metric]:.4f}" if dev else ""
            text = f"epoch {state.epoch}: loss {train['loss']:.4f} {score}"
            self.progress.write(text, sys.stderr)

    def finish(self) -> tuple[State, dict]:
        """Leave the best weights in the model; returns the state and totals."""
        self.progress.close()
        state, epochs = self.state, self.settings.num_train_epochs
        if state.best != state.epoch - 1:
            resume.load_best(self.folder, self.trainer, state)
        return state, {
            "best_epoch": state.best + 1,
            "train_seconds": state.seconds,
            "train_examples_per_second": epochs * len(self.rows) / state.seconds,
            "train_tokens_per_second": epochs * sum(self.lengths) / state.seconds,
            "micro_batch_size": state.micro,
        }

    def save_if_due(self, signal: int = 0) -> int:
        """Save the state if it is time to, or after a signal, which any process may have noted."""
        due = time.monotonic() - self.saved_at > 60 * self.settings.save_minutes
        said = gather(self.device, {self.device.rank: (signal, due)})
        signal, due = map(max, zip(*said.values(), strict=True))
        if signal or due:
            resume.save_state(self.folder, self.trainer, self.state)
            gather(self.device, {})  # wait until the first process has written it
            self.saved_at = time.monotonic()
        return signal

    def log(self, split: str, values: dict) -> None:
        for name, value in values.items() if self.events else ():
            self.events.add_scalar(f"{split}/{name}", value, self.state.step)
            self.events.flush()
