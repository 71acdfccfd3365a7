"""The training loop; it knows nothing of tasks, and of devices only `Device`."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.batching import epoch_batches
from common.cli import UserError
from common.device import Device, gather, set_seed
from common.forward import REMEDY
from common.training import events, losses, resume
from common.training.resume import State
from common.training.step import Settings, Trainer

CHECK_EVERY = 20  # steps between rows of steps.csv: to read a loss is to wait for the device
SAVE_SECONDS = 60  # at an epoch's end the state is saved if the last time was longer ago


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
    n_labels: Callable[[dict], int] = losses.labels_in,
    sharded: bool = False,
) -> tuple[State, dict]:
    """Fine-tune `model` in place and leave the best epoch's weights in it.

    `examples`: encoded inputs; those without any label are left out. `loss` and `n_labels`: see
    `common.task.Task`. `evaluate()` gives the dev scores after an epoch. The first epoch with the
    highest `main_metric` is the best (of "loss": the lowest), or the last one without dev scores.

    The state is saved in `folder` every `settings.save_minutes`, after an epoch, and after Ctrl-C
    or SIGTERM. A later call with the same arguments resumes from it, in fp32 on a CPU bit for bit.
    Under torchrun each process takes its share of every batch, gradients are added up, and the
    first process writes. `sharded`: the model is divided among the processes, and stays so.

    Returns the state at the end (its history) and totals. Raises UserError if the loss stops being
    a number, or if the memory is too small for a single example.
    """
    rows = [(example, n) for example in examples if (n := n_labels(example))]
    if not rows:
        raise UserError("no training example has a label that the tokenizer keeps. Give more data.")
    trainer = Trainer(model, settings, device, loss, sharded)
    training = _Training(trainer, rows, folder)
    while training.state.epoch < settings.num_train_epochs:
        training.train_epoch()
        training.end_epoch(evaluate, main_metric)
    return training.finish()


class _Training:
    """A training run: what `fit` goes through, from the state that an earlier process left on."""

    def __init__(self, trainer: Trainer, rows: list[tuple[dict, int]], folder: Path):
        self.trainer, self.rows, self.folder = trainer, rows, folder
        self.settings, self.device = trainer.settings, trainer.device
        self.lengths = [len(example["input_ids"]) for example, _ in rows]
        per_epoch = -(-len(rows) // self.settings.batch_size)
        self.steps = self.settings.num_train_epochs * per_epoch
        gather(self.device, {})  # until the first process has prepared the folder
        saved = resume.load_state(folder, trainer)
        self.state = state = saved or State(micro=self.settings.batch_size)
        if len(set(gather(self.device, {self.device.rank: state.step}).values())) > 1:
            raise UserError(
                f"the processes do not see the same {folder}. Give an --output_dir on a disk that "
                "all nodes share."
            )
        if self.device.rank:  # all have the same weights, and each its own dropout
            set_seed(self.settings.seed + self.device.rank + state.step)
        self.loggers = [] if self.device.rank else events.loggers(self.settings, folder, state.step)
        self.unread: list[torch.Tensor] = []  # losses of the last steps, still on the device
        self.clock, self.saved_at = time.perf_counter(), time.monotonic()
        self.progress = tqdm(
            total=self.settings.num_train_epochs * len(rows),
            initial=state.epoch * len(rows) + state.batch * self.settings.batch_size,
            desc="fine-tuning",
            unit=" examples",
            dynamic_ncols=True,
            smoothing=0.1,
            disable=self.device.rank > 0,
        )

    def train_epoch(self) -> None:
        """Train on the batches of this epoch that are left; raises after Ctrl-C or SIGTERM."""
        order = epoch_batches(
            self.lengths, self.settings.batch_size, self.settings.seed, self.state.epoch
        )
        with resume.noted_signals() as noted:
            stop = 0
            for indices in order[self.state.batch :]:
                self.step(indices)
                stop = self.save_if_due(60 * self.settings.save_minutes, max(noted, default=0))
                if stop:
                    break
        if stop or noted:
            resume.obey(stop or noted[-1])

    def step(self, indices: list[int]) -> None:
        """Train on one batch, and note the loss from time to time."""
        state = self.state
        examples, n_labels = zip(*(self.rows[i] for i in indices), strict=True)
        state.learning_rate = self.trainer.set_rate(state.step, self.steps)
        loss, state.micro = self.trainer.train_on(list(examples), sum(n_labels), state.micro)
        self.unread.append(loss)
        state.step += 1
        state.batch += 1
        self.progress.update(len(indices))
        if state.step % CHECK_EVERY == 0 or state.step == self.steps:
            last = self.read_losses()
            row = {"loss": last, "learning_rate": state.learning_rate}
            state.steps.append({"step": state.step} | row)
            self.progress.set_postfix(loss=f"{last:.3f}", refresh=False)
            self.record({f"train/{name}": value for name, value in row.items()})

    def end_epoch(self, evaluate: Callable[[], dict], main_metric: str) -> None:
        """Score the epoch, and keep its weights if they are the best so far."""
        state, seconds = self.state, min(SAVE_SECONDS, 60 * self.settings.save_minutes)
        self.read_losses()
        self.trainer.optimizer.zero_grad()  # frees the gradients for the evaluation
        self.save_if_due(seconds)
        self.count_seconds()
        dev = evaluate()
        self.clock = time.perf_counter()  # scoring is no part of the training's seconds
        self.trainer.model.train()
        train = {"loss": state.loss / state.batch, "learning_rate": state.learning_rate}
        best = state.history[state.best]["dev"].get(main_metric) if state.history else None
        state.history.append({"train": train, "dev": dev})
        self.record({f"dev/{name}": value for name, value in dev.items()})
        sign = -1 if main_metric == "loss" else 1
        if best is None or sign * dev[main_metric] > sign * best:
            state.best = state.epoch
            resume.save_best(self.folder, self.trainer, state)
        state.epoch, state.batch, state.loss = state.epoch + 1, 0, 0.0
        self.save_if_due(seconds)
        score = f"dev {main_metric} {dev[main_metric]:.4f}" if dev else ""
        if not self.device.rank:
            self.progress.write(
                f"epoch {state.epoch}: loss {train['loss']:.4f} {score}", sys.stderr
            )

    def finish(self) -> tuple[State, dict]:
        """Leave the best weights in the model; returns the state and totals."""
        self.progress.close()
        self.count_seconds()
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

    def save_if_due(self, seconds: float, signal: int = 0) -> int:
        """Save the state if the last time is longer ago than that, or after a signal.

        All processes save, or none does. Returns the signal that any of them has noted, else 0.
        """
        mine = signal, time.monotonic() - self.saved_at > seconds
        said = gather(self.device, {self.device.rank: mine})
        signal, due = map(max, zip(*said.values(), strict=True))
        if signal or due:
            self.read_losses()
            self.count_seconds()
            resume.save_state(self.folder, self.trainer, self.state)
            gather(self.device, {})  # until the first process has written it
            self.saved_at = time.monotonic()
        return signal

    def count_seconds(self) -> None:
        now = time.perf_counter()
        self.state.seconds, self.clock = self.state.seconds + now - self.clock, now

    def read_losses(self) -> float | None:
        """Add up the losses of the last steps, and return the last; UserError at the first NaN."""
        values = torch.stack(self.unread).tolist() if self.unread else []
        self.unread.clear()
        for step, value in enumerate(values, self.state.step - len(values) + 1):
            if not np.isfinite(value):
                raise UserError(f"the loss is {value} at step {step}. {REMEDY}")
            self.state.loss += value  # one by one: a resumed run rounds as a whole one
        return values[-1] if values else None

    def record(self, values: dict) -> None:
        for log in self.loggers:
            log(self.state.step, values)
