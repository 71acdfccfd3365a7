"""Saving and resuming a training run: weights, optimizer, generators and how far it has come."""

import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from common.cli import UserError
from common.device import Device, get_rng, set_rng
from common.files import replacing
from common.training import sharding

log = logging.getLogger(__name__)


def weights_of(model) -> dict[str, torch.Tensor]:
    """The weights that training changes: all, or where some are frozen those that are not.

    Of a sharded model whole, in the first process; all must call it.
    """
    every = model.named_parameters(remove_duplicate=False)  # also a head that shares its weights
    frozen = {name for name, p in every if not p.requires_grad}
    state = {name: t for name, t in model.state_dict().items() if name not in frozen}
    return sharding.gathered(model, list(state)) if sharding.is_sharded(model) else state


def load_weights(model, weights: dict[str, torch.Tensor]) -> None:
    """Put back what `weights_of` gave."""
    if sharding.is_sharded(model):
        weights = sharding.divided(model, weights)
    model.load_state_dict(weights, strict=False)


def save_state(folder: Path, trainer, state: dict) -> None:
    """Write `folder/state.pt` (the first process alone), then drop what no state needs any more.

    Of a sharded model all write weights and optimizer, into a folder that state.pt names: until it
    does, the earlier state is whole. All must call it.
    """
    shards = f"shards-{state['step']}-{state['epoch']}" if trainer.sharded else None
    if shards:
        sharding.save(folder / shards, trainer)
    if trainer.device.rank:
        return
    parts = {"scaler": trainer.scaler.state_dict(), "rng": get_rng(trainer.device),
             "shards": shards}  # fmt: skip
    if not shards:
        parts |= {"model": weights_of(trainer.model), "optimizer": trainer.optimizer.state_dict()}
    save_tensors(folder / "state.pt", state | parts)
    for old in folder.glob("epoch-*.pt"):
        if old.name != f"epoch-{state['best']}.pt":
            old.unlink()
    for old in folder.glob("shards-*"):
        if old.name != shards:
            shutil.rmtree(old)


def load_state(folder: Path, trainer) -> dict | None:
    """Take up what `save_state` left, weights and all; returns the state, None if there is none.

    What a sharded model left goes on in any number of processes, or in one; but what one process
    left does not go on sharded. Raises UserError then, or for a damaged file.
    """
    path = folder / "state.pt"
    if not path.is_file():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if shards := saved.pop("shards", None):
            sharding.load(folder / shards, trainer)
        elif trainer.sharded:
            raise UserError(
                f"{folder} was begun without torchrun. Go on so, or add --overwrite to start anew."
            )
        else:
            load_weights(trainer.model, saved.pop("model"))
            trainer.optimizer.load_state_dict(saved.pop("optimizer"))
        trainer.scaler.load_state_dict(saved.pop("scaler"))
        set_rng(saved.pop("rng"), trainer.device)
    except UserError:
        raise
    except Exception as error:  # whatever unpickling half a file raises
        raise UserError(
            f"{path} is damaged ({type(error).__name__}): the run cannot go on from it. Add "
            "--overwrite to start anew."
        ) from error
    log.info("going on from epoch %d, step %d", saved["epoch"] + 1, saved["step"])
    return saved


def save_tensors(path: Path, value: dict) -> None:
    """`torch.save`, atomically; a failed write is an OSError that names the file."""
    with replacing(path) as temporary:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:  # how torch reports a full disk
            with temporary.open("ab") as probe:
                probe.write(b"\0" * 2**20)  # raises the OSError behind it, if there is one
            raise UserError(f"cannot write {path}: {error}. Is the disk full?") from error


def until_interrupted(batches: list, device: Device, save: Callable[[], None]) -> Iterator:
    """The batches; after a Ctrl-C `save()`, when the batch that it came in is done, and it goes on.

    A later one does not wait; at once a second one may come: to a study's steps the terminal sends
    it, and the study, too. Where Ctrl-C means something else (ignored, a thread of somebody's
    program, torchrun's processes, which would have to agree) it is left as it is.
    """
    usual, asked = signal.getsignal(signal.SIGINT), []
    main = threading.current_thread() is threading.main_thread()
    if usual is not signal.default_int_handler or not main or device.processes > 1:
        yield from batches
        return

    def note(*_) -> None:
        if asked and time.monotonic() > asked[0] + 1:
            raise KeyboardInterrupt
        asked.append(time.monotonic())

    signal.signal(signal.SIGINT, note)
    try:
        for batch in batches:
            yield batch
            if asked:
                save()
                raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, usual)
