"""Saving and resuming a training run: weights, optimizer, generators and how far it has come."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch.distributed.checkpoint import state_dict as checkpoint

from common.device import Device
from common.files import replacing

# The first process has whole tensors, the others none; frozen weights are left out.
WHOLE = checkpoint.StateDictOptions(
    full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False
)
log = logging.getLogger(__name__)


@dataclass
class State:
    """How far a training run has come; with weights and optimizer, all that a resume needs."""

    micro: int  # examples at a time, as memory allows
    step: int = 0
    epoch: int = 0
    loss: float = 0.0  # summed over the epoch's batches so far
    learning_rate: float = 0.0  # of the last step
    seconds: float = 0.0  # of training, without the scoring
    best: int | None = None  # epoch with the highest dev score
    history: list[dict] = field(default_factory=list)  # `{split: {metric: value}}` of each epoch
    steps: list[dict] = field(default_factory=list)  # rows of steps.csv


def weights_of(model) -> dict[str, torch.Tensor]:
    """The weights that training changes, by name: all but the frozen ones.

    A sharded model's are whole, in the first process alone; all must call it.
    """
    # A head that shares the embeddings' weights is left out: `named_parameters` has them once.
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    state = checkpoint.get_model_state_dict(model, options=WHOLE)
    return {name: tensor for name, tensor in state.items() if name in names}


def save_state(folder: Path, trainer, state: State) -> None:
    """Write `folder/state.pt`, from which any number of processes can resume; all must call it."""
    model, optimizer = trainer.model, trainer.optimizer
    parts = {
        "model": weights_of(model),
        "optimizer": checkpoint.get_optimizer_state_dict(model, optimizer, options=WHOLE),
        "scaler": trainer.scaler.state_dict(),
        "rng": [generator.get_state() for generator in _generators(trainer.device)],
    }
    if not trainer.device.rank:
        _save(folder / "state.pt", asdict(state) | parts)
        for old in set(folder.glob("epoch-*.pt")) - {_best(folder, state)}:
            old.unlink()


def load_state(folder: Path, trainer) -> State | None:
    """Take up what `save_state` left; None without it, or (with a warning) if it is damaged."""
    path = folder / "state.pt"
    if not path.is_file():
        return None
    try:
        saved = _read(path)
        model, optimizer, scaler, rng = map(saved.pop, ("model", "optimizer", "scaler", "rng"))
        state = State(**saved)
    except Exception as error:  # whatever unpickling half a file raises
        log.warning("%s is damaged (%s): the training starts anew", path, type(error).__name__)
        return None
    checkpoint.set_model_state_dict(trainer.model, model, options=WHOLE)
    checkpoint.set_optimizer_state_dict(trainer.model, trainer.optimizer, optimizer, options=WHOLE)
    trainer.scaler.load_state_dict(scaler)
    for generator, its in zip(_generators(trainer.device), rng, strict=False):
        generator.set_state(its)
    log.info("resuming from epoch %d, step %d", state.epoch + 1, state.step)
    return state


def save_best(folder: Path, trainer, state: State) -> None:
    """Keep the best epoch's weights. The saved state may need the earlier ones: they stay."""
    weights = weights_of(trainer.model)
    if not trainer.device.rank:
        _save(_best(folder, state), weights)


def load_best(folder: Path, trainer, state: State) -> None:
    checkpoint.set_model_state_dict(trainer.model, _read(_best(folder, state)), options=WHOLE)


def _best(folder: Path, state: State) -> Path:
    return folder / f"epoch-{state.best}.pt"


def _read(path: Path) -> dict:
    # Mapped: torchrun's processes all read it, and it may be larger than the memory.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _save(path: Path, value: dict) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # raised over the OSError of a full disk
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def _generators(device: Device) -> list[torch.Generator]:
    where = device.torch_device
    own = [torch.cuda.default_generators[where.index or 0]] if where.type == "cuda" else []
    return [torch.default_generator, *own]


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Within, Ctrl-C and SIGTERM only add their number to the list; the first is raised after."""
    noted: list[int] = []
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in usual.items():
        if handler != signal.SIG_IGN:  # as in a script's background job
            signal.signal(number, lambda number, _: noted.append(number))
    try:
        yield noted
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    if noted:
        signal.raise_signal(noted[0])
