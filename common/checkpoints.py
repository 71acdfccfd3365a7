"""What fine-tuning has made, for the steps that read it."""

from common import results, steps
from common.cli import UNTRAINED, UserError

TUNING = "fine-tuning"


def find(call, cells: list, inputs: dict) -> dict:
    """{cell: (the checkpoint that fine-tuning made for it, the hash of its weights)}.

    None for size 0 and an untrained encoder. Raises UserError, with the commands that make them, if
    one is missing or has lost its checkpoint, and if it was made from other `inputs` (the hashes of
    data and base model that lie here now), or with other flags of the task.
    """
    made = {cell: cell._replace(step=TUNING, variant="") for cell in cells}
    tuned = {cell: own for cell, own in made.items() if cell.size not in (0, UNTRAINED)}
    if missing := [own for own in tuned.values() if not own.folder.is_dir()]:
        sizes = ", ".join(f"{own.size} %" for own in missing)
        commands = "\n  ".join(call.next(steps.STEPS[TUNING], own.size) for own in missing)
        raise UserError(
            f"no fine-tuned {missing[0].model} for {sizes} in {missing[0].folder.parents[2]}. Make "
            f"it first:\n  {commands}"
        )
    checked: dict = dict.fromkeys(cells)
    for cell, own in tuned.items():
        config, metrics = results.read(own.folder)
        if not (own.folder / "checkpoint").is_dir():
            again = results.again(own.folder, config)
            raise UserError(f"{own.folder / 'checkpoint'} is missing. {again}")
        here = config | {"settings": call.options, "inputs": inputs | {"checkpoint": None}}
        if texts := results.differences(config, here):
            raise UserError(
                f"{own.folder} does not belong to what lies here now: {', '.join(texts)} (there "
                f"against here). {results.again(own.folder, config)}\nor give the same flags, or "
                "other data their own --dataset_name."
            )
        checked[cell] = own.folder / "checkpoint", metrics.get("checkpoint_sha256")
    return checked
