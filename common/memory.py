"""How much memory this process can still take, and what it holds of what it has freed."""

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# How many processes work side by side, each within its share; set by `common.study`.
JOBS = int(os.environ.get("STUDY_JOBS") or 1)
GAPS = 2**32  # bytes of freed memory that a process may hold on a CPU, whatever it uses


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that can still be had: of the device, and of every control group it runs in.

    A container or a cluster's job (Slurm's too) limits its group, often one far below the root.
    `root` is where /proc and /sys are.
    """
    try:
        text = (root / "proc/meminfo").read_text()
        rows = dict(line.split(":") for line in text.splitlines())
        available = int(rows["MemAvailable"].split()[0]) * 2**10
    except (OSError, KeyError):  # not Linux: all there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min([available, *_left_in_groups(root)]))


def _left_in_groups(root: Path) -> Iterator[int]:
    """Limit less usage of each control group with a limit, from the process's own to the root.

    Version 1 has a hierarchy for memory alone, version 2 one for all; a device may have both.
    Inside a container the upper part of a path may not be there: what is missing is passed over.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:  # such as "4:memory:/slurm/job_7" and "0::/slurm/job_7"
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            mount, names = "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        elif not controllers:
            mount, names = "", ("memory.max", "memory.current", "")
        else:
            continue
        own = PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents):
            if (left := _left(root / "sys/fs/cgroup" / mount / group, *names)) is not None:
                yield left


def _left(folder: Path, limit: str, usage: str, prefix: str) -> int | None:
    """What one control group leaves; None where it has no limit or cannot be read.

    Cached pages of files count as usage, but the system takes them back: they are free.
    """
    try:
        allowed = int((folder / limit).read_text())  # "max": no limit
        used = int((folder / usage).read_text())
    except (OSError, ValueError):
        return None
    try:
        text = (folder / "memory.stat").read_text()
    except OSError:
        text = ""
    stat = dict(line.split() for line in text.splitlines())
    cached = sum(int(stat.get(prefix + name, 0)) for name in ("active_file", "inactive_file"))
    return allowed - used + cached


def keep_freed() -> None:
    """Let glibc reuse large blocks; fresh ones are zeroed page by page, 10 % of a training step."""
    mallopt = _of_glibc("mallopt")
    if mallopt:
        mallopt(-4, 0)  # M_MMAP_MAX: never by mmap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: not given back


class _Mallinfo(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]  # fmt: skip


def give_back_gaps() -> None:
    """Give the system what lies free between blocks, where it is more than is in use, and much.

    Where inputs differ much in length, blocks of all sizes leave gaps that no later one fits. Much
    is GAPS, or a quarter of what was free at first: to have it back takes time.
    """
    if not (mallinfo := _of_glibc("mallinfo2")):
        return
    mallinfo.restype = _Mallinfo
    found = mallinfo()
    used = found.uordblks + found.hblkhd
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    if held - used > max(used, min(GAPS, _free_at_first() // 4)):
        _of_glibc("malloc_trim")(0)


@functools.cache
def _free_at_first() -> int:
    return available_memory()


def _of_glibc(name: str):
    """A function of the C library, None where it is another one (musl, macOS)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
