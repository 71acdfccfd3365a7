"""Running the study's jobs, several at a time: each is the command that the study lists."""

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path


def run(jobs: list, args) -> list[tuple]:
    """Run `common.study.Job`s, step after step, `args.jobs` of a step at a time.

    A job whose needs are not made is left out. Returns what failed: (job, reason, exit code).
    """
    from tqdm import tqdm

    os.environ["STUDY_JOBS"] = str(args.jobs)  # each job takes its share of the memory
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // args.jobs)))
    progress = tqdm(total=len(jobs), desc="study", unit=" steps", dynamic_ncols=True)
    pool, working, failed, unmade = ThreadPoolExecutor(args.jobs), [], [], []

    def work(job) -> int | None:
        if any(map(job.needs, unmade)):
            return None
        job.log(args).parent.mkdir(parents=True, exist_ok=True)
        with job.log(args).open("w") as log:
            command = [sys.executable, *job.command(args)[1:]]
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            working.append(process)
            return process.wait()

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
        for process in working:
            process.terminate()  # it saves its state; one that has ended is left alone
        progress.close()
    return failed


def why(log: Path) -> str:
    """The message of a job that failed, from its log."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    error = (line for line in lines if line.startswith("error: "))
    return next(error, lines[-1] if lines else "it ended without a word")
