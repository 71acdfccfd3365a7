"""Device, precision, processes and memory: nearly all code that knows of CUDA."""

import atexit
import contextlib
import functools
import logging
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

from common import cli
from common.cli import UserError

# How many processes of `common.study` work side by side, each with its share of the memory.
JOBS = int(os.environ.get("STUDY_JOBS") or 1)
WORTH_BF16 = 1.2  # times fp32's speed on a CPU, from which "auto" takes bf16
log = logging.getLogger(__name__)


class Device(NamedTuple):
    """Where and in which precision a model computes."""

    torch_device: torch.device
    precision: str  # fp32, bf16, fp16
    rank: int = 0  # which of torchrun's processes this is; the first one writes
    processes: int = 1

    def autocast(self):
        """The context of a forward pass; weights that are trained stay in float32."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.torch_device.type, dtype=dtype, enabled=dtype is not None)

    def describe(self) -> dict:
        """For config.json."""
        gpu = self.torch_device.type == "cuda"
        return {
            "device": str(self.torch_device),
            "name": torch.cuda.get_device_name(self.torch_device) if gpu else platform.machine(),
            "precision": self.precision,
            "threads": torch.get_num_threads(),
            "processes": self.processes,
        }


def choose_device(device: str, precision: str, torchrun: bool = False) -> Device:
    """Resolve `--device` ("auto": cuda, mps or cpu) and `--precision`, see `resolve`.

    With `torchrun`, processes that torchrun started join, each with a GPU of its own. Raises
    UserError if the device is not available, or for several processes without `torchrun`.
    """
    processes, started = cli.PROCESSES, "TORCHELASTIC_RUN_ID" in os.environ
    if processes > 1 and not (torchrun and started):
        raise UserError(
            f"WORLD_SIZE is {processes}, but only fine-tuning.py runs in several processes, and "
            "torchrun starts them. Start this step with python, and unset WORLD_SIZE."
        )
    if processes > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    if device == "auto":
        mps = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # meta, too, has no values
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:150]
        raise UserError(
            f"--device {device} is not available here ({reason}). Leave it out, or --device cpu."
        ) from None
    answer = Device(chosen, resolve(precision, chosen), cli.RANK, processes)
    if processes > 1:
        _join(answer)
        # CPUs differ: all processes take the first one's precision.
        answer = answer._replace(precision=gather(answer, {cli.RANK: answer.precision})[0])
    return answer


def _join(device: Device) -> None:
    """Wait for torchrun's other processes; from here on they can exchange tensors."""
    if device.torch_device.type == "cuda":
        torch.cuda.set_device(device.torch_device)
    # One may wait long for another that generates, or writes. If one ends, torchrun ends all.
    backend = "cpu:gloo,cuda:nccl" if device.torch_device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=timedelta(hours=6))
    atexit.register(torch.distributed.destroy_process_group)


def resolve(precision: str, device: torch.device) -> str:
    """`--precision`; "auto" is the faster one here, and logged with its reason."""
    if precision != "auto":
        return precision
    faster, reason = _faster(device.type)
    log.info("precision: %s (%s)", faster, reason)
    return faster


@functools.cache
def _faster(kind: str) -> tuple[str, str]:
    """The faster precision on a kind of device, and why it is."""
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "native on this GPU") if native else ("fp32", "bf16 is not native here")
    avx, amx = torch.cpu._is_avx512_bf16_supported(), torch.cpu._is_amx_tile_supported()
    if kind != "cpu" or not (avx or amx):
        return "fp32", "this device has no bf16 instructions"
    times = bf16_speedup()
    if times > WORTH_BF16:
        return "bf16", f"{times:.1f} times as fast as fp32 here"
    return "fp32", f"bf16 would be {times:.1f} times as fast here"


def bf16_speedup() -> float:
    """How many times as fast as in fp32 a thread of this CPU multiplies matrices in bf16.

    By processor time, and the shortest of three turns each: other processes do not change it.
    """
    threads, seconds = torch.get_num_threads(), {torch.float32: [], torch.bfloat16: []}
    torch.set_num_threads(1)
    try:
        for _ in range(3):
            for dtype, taken in seconds.items():
                x, weight = torch.ones(512, 768, dtype=dtype), torch.ones(3072, 768, dtype=dtype)
                started = time.thread_time()
                torch.nn.functional.linear(x, weight)
                taken.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return min(seconds[torch.float32]) / min(seconds[torch.bfloat16])


def gather(device: Device, value: dict) -> dict:
    """The dicts of torchrun's processes as one; they wait for each other here."""
    if device.processes == 1:
        return value
    parts: list = [None] * device.processes
    torch.distributed.all_gather_object(parts, value)
    return {key: item for part in parts for key, item in part.items()}


def set_seed(value: int) -> None:
    """Seed what a new head and dropout draw from; subsets and batches have their own generators."""
    torch.manual_seed(value)


def peak_memory(device: Device) -> dict:
    """The most memory used so far: on the device for CUDA, else by the process."""
    if device.torch_device.type == "cuda":
        return {"peak_memory_mib": torch.cuda.max_memory_allocated(device.torch_device) / 2**20}
    unit = 2**20 if sys.platform == "darwin" else 2**10  # KiB, on a Mac bytes
    return {"peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit}


def free_memory(device: Device) -> int:
    """Bytes that models can still take, on the device."""
    if device.torch_device.type != "cuda":
        return available_memory()
    where = device.torch_device
    unused = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
    return torch.cuda.mem_get_info(where)[0] + unused


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can still take, of the machine and within its control groups.

    A container or a cluster's job (Slurm's too) limits its group. `root` is where /proc and /sys
    are. Other processes of the group are not looked at: see `JOBS`.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    try:
        rows = dict(line.split(":") for line in (root / "proc/meminfo").read_text().splitlines())
        own = int((root / "proc/self/statm").read_text().split()[1]) * page
    except OSError:  # not Linux: all there is
        return page * os.sysconf("SC_PHYS_PAGES")
    available = int(rows["MemAvailable"].split()[0]) * 2**10
    return max(0, min([available, *(limit - own for limit in _group_limits(root))]))


def _group_limits(root: Path) -> Iterator[int]:
    """Memory limits of the control groups from the process's own one up, of version 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:  # such as "4:memory:/slurm/job_7" (version 1), "0::/slurm/job_7" (2)
        _, controllers, path = line.split(":", 2)
        old, own = "memory" in controllers.split(","), PurePosixPath(path.lstrip("/"))
        for group in (own, *own.parents) if old or not controllers else ():
            file = f"memory/{group}/memory.limit_in_bytes" if old else f"{group}/memory.max"
            # In a container the upper part of a path is missing; "max" is no limit.
            with contextlib.suppress(OSError, ValueError):
                yield int((root / "sys/fs/cgroup" / file).read_text())


def check_training_memory(model, device: Device, sharded: bool = False) -> None:
    """Log what weights, gradients and optimizer need on a GPU; UserError if it has less free.

    `sharded`: divided among the processes. But to score the model each then has the whole of it, in
    the device's precision, in place of its gradients. Activations depend on the batch and come on
    top of it.
    """
    if device.torch_device.type != "cuda":
        return
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    needed = 16 * trained + (2 if device.precision == "bf16" else 4) * frozen  # see shrink_frozen
    if sharded:
        scored = (needed - 4 * trained) / device.processes
        scored += (4 if device.precision == "fp32" else 2) * (trained + frozen)
        needed = max(needed / device.processes, scored)
    free = free_memory(device)
    log.info("weights, gradients and optimizer need %.1f GB, activations more", needed / 1e9)
    if needed > free:
        raise UserError(
            f"the training needs {needed / 1e9:.1f} GB before activations, the GPU has "
            f"{free / 1e9:.1f} GB free. Use a smaller --model_name, --lora where the task has "
            f"it, or, for a causal model, torchrun --nproc_per_node {2 * device.processes}."
        )


def shrink_frozen(model, device: Device) -> None:
    """In bf16, hold frozen linear layers in bf16 too: autocast would cast them at each pass.

    A head that shares the embeddings' weights gets its own: embeddings stay as they are.
    """
    if device.precision != "bf16":
        return
    modules = list(model.modules())
    shared = {id(m.weight) for m in modules if isinstance(m, torch.nn.Embedding)}
    for module in modules:
        weight = getattr(module, "weight", None)
        linear = type(module).__name__ in ("Linear", "Conv1D")  # GPT-2 has the latter
        if not linear or weight.requires_grad:
            continue
        if id(weight) in shared:
            module.weight = torch.nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
        else:
            weight.data = weight.data.to(torch.bfloat16)


def to_device(model, device: Device):
    """The model, there, after `shrink_frozen`. Raises UserError if the device has no room."""
    shrink_frozen(model, device)
    free = free_memory(device)
    try:
        return model.to(device.torch_device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    raise UserError(
        f"{device.torch_device} has no room for the model's {size / 1e9:.1f} GB "
        f"({free / 1e9:.1f} GB are free). Use a smaller --model_name, --device cpu, or, if the "
        "model is not trained, --precision bf16."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory was too small; torch raises a RuntimeError for that."""
    texts = ("out of memory", "allocate memory", "alloc_failed")  # the last is cuBLAS's
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in texts)


def in_memory(run: Callable[[int], object], size: int, device: Device, together: bool = False):
    """`(run(size), size)`, with half the size for as long as the memory is too small for it.

    `together`: other processes wait within `run`, so that this one cannot try again. Raises
    UserError then, or if the memory is too small for one example.
    """
    while True:
        try:
            return run(size), size
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only here is the exception gone, and with it the tensors that its traceback held.
        if together:
            raise UserError(
                f"{device.torch_device} (process {device.rank}) has too little memory for its part "
                "of a batch. Start more processes, or use --gradient_checkpointing or a lower "
                "--batch_size, with --overwrite."
            )
        if size == 1:
            raise UserError(
                f"{device.torch_device} has too little memory for one example. Use a lower "
                "--max_length, --precision bf16, or a smaller model."
            )
        size = -(-size // 2)
        if device.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("out of memory: %d examples at a time from here; the batch stays whole", size)
