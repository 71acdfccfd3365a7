"""Running the study's jobs, several at a time, each in a process of its own."""

import multiprocessing
import os
import runpy
import shlex
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby
from multiprocessing.connection import wait
from pathlib import Path

# Imported once, by the process from which the jobs fork: that takes longer than a miniature's step.
PRELOADED = [f"transformers.models.{name}.modeling_{name}" for name in ("bert", "gpt2", "biogpt")]
PRELOADED += ["sklearn.svm", "seqeval.metrics", "pandas", "matplotlib.pyplot"]


def run(jobs: list, args) -> list[tuple]:
    """Run `common.study.Job`s, step after step, `args.jobs` of a step at a time.

    A job whose needs are not made is left out. Returns what failed: (job, reason, exit code).
    """
    from tqdm import tqdm

    os.environ["STUDY_JOBS"] = str(args.jobs)  # each job takes its share of the memory
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    progress = tqdm(total=len(jobs), desc="study", unit=" steps", dynamic_ncols=True)
    pool, working, failed, unmade = ThreadPoolExecutor(args.jobs), set(), [], []
    # To start a process reads the codes of those that ended: two readers at once would get 255.
    lock = threading.Lock()

    def work(job) -> int | None:
        if any(map(job.needs, unmade)):
            return None
        process = context.Process(target=become, args=(job.command(args)[1:], job.log(args)))
        with lock:
            process.start()
        working.add(process)
        wait([process.sentinel])
        working.discard(process)
        with lock:
            return process.exitcode

    try:
        for _, step in groupby(jobs, key=lambda job: job.step):
            futures = {pool.submit(work, job): job for job in step}
            for future in as_completed(futures):
                job, code = futures[future], future.result()
                progress.update()
                if code != 0:
                    unmade.append(job)
                if code:
                    failed.append((job, why(job.log(args)), code))
                    line = shlex.join(job.command(args))
                    progress.write(f"failed: {line}\n  {failed[-1][1]}", sys.stderr)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(working):
            os.kill(process.pid, signal.SIGINT)  # it saves its state
        progress.close()
    return failed


def why(log: Path) -> str:
    text = log.read_text(errors="replace") if log.is_file() else ""
    lines = [line for line in text.splitlines() if line.strip()] or ["it ended without a word"]
    said = [n for n, line in enumerate(lines) if line.startswith("error: ")]
    return "\n".join(lines[said[0] :]) if said else lines[-1]  # a remedy is on lines of its own


def become(command: list[str], log: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
