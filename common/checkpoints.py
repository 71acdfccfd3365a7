"""What fine-tuning has made, for those that read it."""

from common import results, steps
from common.cli import UNTRAINED, UserError
from common.results import TUNING


def existing(call, cells: list) -> dict:
    """{cell: the cell of its fine-tuned model}, without size 0 and untrained encoders.

    Raises UserError, with the commands that make them, if one is missing, in progress, or has
    lost its checkpoint.
    """
    trained = [cell for cell in cells if cell.size not in (0, UNTRAINED)]
    tuned = {cell: cell._replace(step=TUNING, variant=call.tuned(cell.size)) for cell in trained}
    for own in tuned.values():
        if not own.folder.is_dir():
            results.settle(own)
    if missing := [own for own in tuned.values() if not own.folder.is_dir()]:
        sizes = ", ".join(f"{own.size} %" for own in missing)
        commands = "\n  ".join(call.next(steps.STEPS[TUNING], own.size) for own in missing)
        own = call.args.demo or call.args.data_dir or call.task.HUB_DATASET[0]
        data = "" if own else " (add --data_dir, with your data)"
        raise UserError(
            f"no fine-tuned {missing[0].model} for {sizes} in {missing[0].folder.parents[2]}. Make "
            f"it first{data}:\n  {commands}"
        )
    for own in tuned.values():
        config, _ = results.read(own.folder)
        if not (own.folder / "checkpoint").is_dir():
            again = results.again(own.folder, config)
            raise UserError(f"{own.folder / 'checkpoint'} is missing. {again}")
    return tuned


def find(begun, cells: list) -> dict:
    """{cell: (its checkpoint, the hash of its weights)}; None for size 0 and an untrained encoder.

    Raises UserError as `existing`, and if one was made from other data or another base model than
    lie here now, or with other flags of the task.
    """
    checked: dict = dict.fromkeys(cells)
    for cell, own in existing(begun.call, cells).items():
        config, metrics = results.read(own.folder)
        inputs = begun.hashes | {"checkpoint": None}
        here = config | {"settings": begun.call.options, "inputs": inputs}
        if texts := results.differences(config, here):
            again = results.again(own.folder, config)
            if results.differences(config, here | {"inputs": config["inputs"]}):  # the flags do
                again = begun.call.next(steps.STEPS[TUNING], own.size)
                again = f"Make it again with these flags (and your others):\n  {again} --overwrite"
            raise UserError(
                f"{own.folder} does not belong to what lies here now: {', '.join(texts)} (there "
                f"against here). {again}\nor give the same flags, or another --dataset_name if the "
                "data differ."
            )
        checked[cell] = own.folder / "checkpoint", metrics.get("checkpoint_sha256")
    return checked
