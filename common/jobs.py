"""Running the study's cells, several at a time, each step a process of its own."""

import contextlib
import multiprocessing
import os
import runpy
import shlex
import signal
import sys
from collections import deque
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path

# Imported once, by the process from which the steps fork.
PRELOADED = [f"transformers.models.{name}.modeling_{name}" for name in ("bert", "gpt2", "biogpt")]
PRELOADED += ["sklearn.svm", "seqeval.metrics", "pandas", "matplotlib.pyplot"]


def run(groups: list, args) -> list[tuple[list[str], Path, str, int]]:
    """Run the cells of `common.study.cells`, `args.jobs` at a time.

    Each step is a process of its own, forked from one that has imported the libraries: that takes
    longer than a miniature's whole step. Returns what failed: (command, log, reason, exit code).
    """
    from tqdm import tqdm

    os.environ["STUDY_JOBS"] = str(args.jobs)  # the steps divide the memory by it
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # for that process: this one tells all
    forkserver.ensure_running()
    signal.signal(signal.SIGINT, handler)
    # A size's cells first, of all models: what most others wait for. Attention as soon as it can.
    order = {cell: i for sizes, _ in groups for i, cell in enumerate(sizes)}
    waiting = deque(sorted(order, key=order.get))
    pending = [({*sizes}, last) for sizes, last in groups if last]
    waiting.extendleft(last for sizes, last in pending if not sizes)
    running, failed, lost = {}, [], set()
    total = sum(len(c.steps) for sizes, last in groups for c in (*sizes, last) if c)
    progress = tqdm(total=total, desc="study", unit=" steps", dynamic_ncols=True)

    def start(cell, left: tuple[str, ...]) -> None:
        command, log = cell.command(left[0], args), cell.log(left[0], args)
        process = context.Process(target=run_script, args=(command[1:], log))
        process.start()
        running[process.sentinel] = process, cell, left, command, log

    def finished(cell) -> None:
        for sizes, last in pending:
            if cell in sizes:
                sizes.discard(cell)
                if not sizes:  # the sizes that could not be trained are left out
                    there = tuple(n for n in last.sizes if (last[:2], n, last.seed) not in lost)
                    if there:
                        waiting.appendleft(last._replace(sizes=there))
                    else:
                        progress.update(1)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as by Ctrl-C
    try:
        while waiting or running:
            while waiting and len(running) < args.jobs:
                cell = waiting.popleft()
                start(cell, cell.steps)
            progress.set_postfix_str(
                ", ".join(f"{r[1].title()} {r[2][0]}" for r in running.values())
            )
            for sentinel in wait(list(running)):
                process, cell, left, command, log = running.pop(sentinel)
                process.join()
                step, *left = left
                progress.update(1)
                if process.exitcode:
                    reason = why(log)
                    failed.append((command, log, reason, process.exitcode))
                    progress.write(f"failed: {shlex.join(command)}\n  {reason}", sys.stderr)
                    if step == "fine-tuning" and cell.sizes != (0,):  # at size 0 nobody reads it
                        lost.add((cell[:2], cell.sizes[0], cell.seed))
                        progress.update(len(left))
                        left = []
                if left:
                    start(cell, tuple(left))
                else:
                    finished(cell)
    finally:
        for process, *_ in running.values():
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(process.pid, signal.SIGINT)
        for process, *_ in running.values():
            process.join(30)
            process.kill()
        progress.close()
    return failed


def why(log: Path) -> str:
    """The message of a step that failed, from its log."""
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return "it ended before it could write a log"
    told = (line for line in lines if line.startswith("error: "))
    return next(told, lines[-1] if lines else "it ended without a word")


def run_script(command: list[str], log: Path) -> None:
    """Become `python command`, with its output in `log`."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
