"""One step of training: the gradients of a batch, their sum over the processes, an update."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from common.batching import pad
from common.device import (
    Device,
    check_training_memory,
    in_memory,
    shrink_frozen,
    to_device,
)
from common.models import families
from common.training import sharding

# A forward pass on a CPU has at most so many positions (examples times the longest one). More of
# them are not faster, and the activations of long inputs would take much memory.
CPU_POSITIONS = 2048


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


def learning_rate(step: int, steps: int, peak: float, warmup_ratio: float) -> float:
    """Linear warm-up to `peak` over `warmup_ratio` of `steps`, then linear decay to 0."""
    warmup = int(steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (steps - step) / max(1, steps - warmup)


class Trainer:
    """A model, its optimizer, and one step of training."""

    def __init__(
        self, model, settings: Settings, device: Device, loss: Callable, sharded: bool = False
    ):
        self.model, self.settings, self.device, self.loss = model, settings, device, loss
        self.sharded = sharded
        check_training_memory(model, device, sharded)
        if sharded:
            shrink_frozen(model, device)
            sharding.shard(model, device)
        else:
            to_device(model, device)
        model.train()
        # The optimizer comes after the move: its state goes where the parameters are.
        groups = families.parameter_groups(
            model, settings.learning_rate, settings.weight_decay, settings.layer_decay
        )
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        fp16 = device.precision == "fp16"
        self.scaler = torch.amp.GradScaler(device.torch_device.type, enabled=fp16)

    def set_rate(self, step: int, steps: int) -> float:
        """Set each group's learning rate for a step of the schedule; returns the highest one."""
        ratio = self.settings.warmup_ratio
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, group["base_lr"], ratio)
        return learning_rate(step, steps, self.settings.learning_rate, ratio)

    def train_on(self, batch: list[dict], n_labels: int, micro: int) -> tuple[torch.Tensor, int]:
        """One step on `batch`, encoded examples that have `n_labels` labels in all.

        `micro`: how many examples to compute at a time. Returns the mean loss over the labels, and
        `micro`, or less where memory is too small for that.
        """
        loss, micro = in_memory(
            lambda size: self._gradients(batch, n_labels, size), micro, self.device, self.sharded
        )
        self._sum_over_processes(loss)
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss, micro

    def _gradients(self, batch: list[dict], n_labels: int, micro: int) -> torch.Tensor:
        """Compute the gradients of the batch's mean loss over its labels, `micro` at a time."""
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device.torch_device)
        self.scaler.scale(total)  # the scaler needs a loss even on an idle process
        share = batch[self.device.rank :: self.device.processes]
        # All processes must run equally many passes of a sharded model: as many as the first one.
        most = len(batch[:: self.device.processes]) if self.sharded else len(share)
        size = min(micro, self._most_at_a_time(batch))
        for start in range(0, most, size):
            piece = share[start : start + size] or [sharding.idle(batch[0])]
            inputs = pad(piece, self.model.config.pad_token_id)
            inputs = {name: tensor.to(self.device.torch_device) for name, tensor in inputs.items()}
            with self.device.autocast():
                loss = sharding.run(self.loss, self.model, inputs) / n_labels
            self.scaler.scale(loss).backward()
            total += loss.detach()
        return total

    def _most_at_a_time(self, batch: list[dict]) -> int:
        if self.device.torch_device.type != "cpu":
            return len(batch)  # memory alone decides
        return max(1, CPU_POSITIONS // max(len(example["input_ids"]) for example in batch))

    def _sum_over_processes(self, loss: torch.Tensor) -> None:
        # Not DistributedDataParallel: it sums within the backward pass. A process that runs out of
        # memory there, or has no example of a last batch, would leave the others waiting.
        # The gradients of a sharded model are summed by FSDP.
        if self.device.processes > 1:
            parameters = [] if self.sharded else self.parameters
            for p in parameters:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            sums = [loss, *(p.grad for p in parameters)]
            for work in [torch.distributed.all_reduce(sum_, async_op=True) for sum_ in sums]:
                work.wait()
