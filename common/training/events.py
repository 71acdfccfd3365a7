"""TensorBoard event files of a training run, where its writer is installed."""

from collections.abc import Callable
from pathlib import Path

from common.cli import UserError


def check() -> None:
    """UserError where the writer cannot be imported."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError(
            "--tensorboard: TensorBoard is not installed. Type `pip install tensorboard`, or leave "
            "the flag out: steps.csv has the same numbers."
        ) from None


def writer(folder: Path, step: int) -> Callable[[int, dict], None]:
    """A function that writes the numbers of a step, by name, into `folder`/tensorboard.

    Training goes on after `step`: what an earlier, killed process wrote of later ones is dropped.
    """
    from torch.utils.tensorboard import SummaryWriter

    events = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def record(step: int, values: dict) -> None:
        for name, value in values.items():
            events.add_scalar(name, value, step)
        events.flush()

    return record
