"""Saving and resuming a training run: weights, optimizer, generators and how far it has come."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from common.device import Device
from common.files import replacing
from common.training import sharding

log = logging.getLogger(__name__)


@dataclass
class State:
    """How far a training run has come; with weights and optimizer, all that a resume needs."""

    micro: int  # examples at a time, as memory allows
    step: int = 0
    epoch: int = 0
    batch: int = 0  # of the epoch
    loss: float = 0.0  # summed over the epoch's batches so far
    learning_rate: float = 0.0  # of the last step
    seconds: float = 0.0  # of training, without the scoring
    best: int | None = None  # epoch with the highest dev score
    history: list[dict] = field(default_factory=list)  # `{split: {metric: value}}` of each epoch
    steps: list[dict] = field(default_factory=list)  # rows of steps.csv


def weights_of(model) -> dict[str, torch.Tensor]:
    """The weights that training changes: all, or where some are frozen those that are not.

    The first process gets a sharded model's whole weights, the others {}; all must call it.
    """
    named = model.named_parameters(remove_duplicate=False)  # also a head that shares its weights
    frozen = {name for name, p in named if not p.requires_grad}
    sharded = sharding.is_sharded(model)
    state = model.state_dict(keep_vars=sharded)  # parameters, of which shared ones are one object
    state = {name: tensor for name, tensor in state.items() if name not in frozen}
    return sharding.whole(state) if sharded else state


def save_state(folder: Path, trainer, state: State) -> None:
    """Write `folder/state.pt`, in the first process; all must call it if the model is sharded.

    A state is whole, so that it can be resumed in any number of processes.
    """
    optimizer = trainer.optimizer.state_dict()
    if trainer.sharded:
        optimizer["state"] = {i: sharding.whole(own) for i, own in optimizer["state"].items()}
    parts = {
        "model": weights_of(trainer.model),
        "optimizer": optimizer,
        "scaler": trainer.scaler.state_dict(),
        "rng": _get_rng(trainer.device),
    }
    if trainer.device.rank:
        return
    _save(folder / "state.pt", asdict(state) | parts)
    for old in folder.glob("epoch-*.pt"):
        if old != _best(folder, state):
            old.unlink()


def load_state(folder: Path, trainer) -> State | None:
    """Take up what `save_state` left; None without it, or (with a warning) if it is damaged."""
    path = folder / "state.pt"
    if not path.is_file():
        return None
    try:
        # Mapped, since each process of a sharded model reads the whole file.
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=trainer.sharded)
        model, optimizer, scaler, rng = map(saved.pop, ("model", "optimizer", "scaler", "rng"))
        state = State(**saved)
        if state.best is not None:  # the end will need it
            path = _best(folder, state)
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever unpickling half a file raises
        log.warning("%s is damaged (%s): the training starts anew", path, type(error).__name__)
        return None
    _load_weights(trainer.model, model)
    if trainer.sharded:
        parameters = [p for group in trainer.optimizer.param_groups for p in group["params"]]
        for i, own in optimizer["state"].items():
            for name, tensor in own.items():
                own[name] = sharding.part(tensor, parameters[i])
    trainer.optimizer.load_state_dict(optimizer)
    trainer.scaler.load_state_dict(scaler)
    _set_rng(rng, trainer.device)
    log.info("resuming from epoch %d, step %d", state.epoch + 1, state.step)
    return state


def save_best(folder: Path, trainer, state: State) -> None:
    """Keep the weights of the best epoch, in a file of its own.

    The earlier best one stays until the state is saved: the state that is there needs it.
    """
    weights = weights_of(trainer.model)
    if not trainer.device.rank:
        _save(_best(folder, state), weights)


def load_best(folder: Path, trainer, state: State) -> None:
    """Put the weights of the best epoch into the model."""
    weights = torch.load(_best(folder, state), map_location="cpu", weights_only=True, mmap=True)
    _load_weights(trainer.model, weights)


def _best(folder: Path, state: State) -> Path:
    return folder / f"epoch-{state.best}.pt"


def _load_weights(model, weights: dict[str, torch.Tensor]) -> None:
    if sharding.is_sharded(model):
        parameters = model.state_dict()
        weights = {name: sharding.part(w, parameters[name]) for name, w in weights.items()}
    model.load_state_dict(weights, strict=False)


def _save(path: Path, value: dict) -> None:
    # To an open file, where a full disk is an OSError; torch's own writer hides it.
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(value, file)


def _get_rng(device: Device) -> dict[str, torch.Tensor]:
    """The states of the generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.torch_device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device.torch_device)
    return states


def _set_rng(states: dict[str, torch.Tensor], device: Device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.torch_device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device.torch_device)


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Within, Ctrl-C (SIGINT) and SIGTERM only add their number to the list, for the loop to see.

    Ignored ones stay ignored, and in other threads than the main one nothing is changed.
    """
    noted: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    usual = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM) if main else ():
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                usual[number] = signal.signal(number, lambda number, _: noted.append(number))
        yield noted
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def obey(number: int) -> None:
    """Do what a signal usually does: raise KeyboardInterrupt, or end with 128 + its number."""
    handler = signal.getsignal(number)
    if callable(handler):
        handler(number, None)
    raise SystemExit(128 + number)
