"""What the summaries of the steps share: scores as a table, and what comes next."""

import shlex
from pathlib import Path

from common import steps
from common.cli import ROOT, relative


def prefixed(prefix: str, values: dict) -> dict:
    """`values` with `prefix_` before every key."""
    return {f"{prefix}_{key}": value for key, value in values.items()}


def score_table(metrics: dict, scores) -> str:
    """The scores of a result as text: by split, each beside that of the majority baseline."""
    import pandas as pd

    splits = [split for split in ("dev", "test") if f"{split}_{scores[0].name}" in metrics]
    columns = [f"{split}{kind}" for split in splits for kind in ("", "_majority")]
    table = {c.replace("_", " "): [metrics.get(f"{c}_{s.name}") for s in scores] for c in columns}
    frame = pd.DataFrame(table, [score.title for score in scores], dtype=float)
    return frame.to_string(na_rep="–", float_format="{:.4f}".format, col_space=12)


def next_command(call, cell) -> str:
    """The command of the next step, or of the report; it works from here."""
    names = list(steps.STEPS)
    for name in names[names.index(call.step) + 1 :]:
        step = steps.STEPS[name]
        # A step may have nothing for this size, and a task may lack its script.
        if step.calls((cell.size,), False) and (ROOT / cell.task / f"{name}.py").is_file():
            return call.next(step, cell.size)
    return report_command(call, cell)


def report_command(call, cell) -> str:
    """The command that writes the report of what there is; it works in any folder."""
    parts = ["--tasks", cell.task, "--dataset", cell.dataset]
    if call.args.output_dir:
        parts += ["--output_dir", str(cell.root)]
    cd = f"cd {shlex.quote(relative())} && " if Path.cwd() != ROOT else ""
    return f"{cd}python -m common.report {shlex.join(parts)}"
