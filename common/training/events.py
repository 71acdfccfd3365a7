"""TensorBoard's event files: the numbers of steps.csv and history.csv, while the model trains."""

from common.cli import UserError


def check() -> None:
    """Raise UserError if TensorBoard's writer cannot be imported."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError:
        raise UserError(
            "--tensorboard: TensorBoard is not installed. Type `pip install tensorboard`, or leave "
            "the flag out: steps.csv has the same numbers."
        ) from None
