"""Loggers of a training run besides its CSV files: TensorBoard's event files."""

from collections.abc import Callable
from pathlib import Path

from common.cli import UserError


def loggers(settings, folder: Path, step: int) -> list[Callable[[int, dict], None]]:
    """The loggers that the settings ask for; each is called with a step and its numbers by name.

    The training resumes after `step`: what a killed process wrote of later ones is dropped.
    """
    return [_tensorboard(folder, step)] if settings.tensorboard else []


def check() -> None:
    """UserError where TensorBoard's writer cannot be imported."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError(
            "--tensorboard: TensorBoard is not installed. Type `pip install tensorboard`, or leave "
            "the flag out: steps.csv has the same numbers."
        ) from None


def _tensorboard(folder: Path, step: int) -> Callable[[int, dict], None]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(folder / "tensorboard", purge_step=step + 1)

    def record(step: int, values: dict) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return record
