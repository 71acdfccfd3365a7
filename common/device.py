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
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import psutil
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
    """What `--device` and `--precision` say; "auto" is cuda, mps or cpu, and the faster precision.

    With `torchrun`, the processes that torchrun started join, each with a GPU of its own. Raises
    UserError for a device that is not available, or for several processes without `torchrun`.
    """
    processes = cli.PROCESSES
    if processes > 1 and not (torchrun and "TORCHELASTIC_RUN_ID" in os.environ):
        raise UserError(
            f"WORLD_SIZE is {processes}, but only fine-tuning.py runs in several processes, and "
            "torchrun starts them. Start this step with python, and unset WORLD_SIZE."
        )
    if processes > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    if device == "auto":
        device = torch.accelerator.current_accelerator(check_available=True) or "cpu"
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen).item()  # meta, too, has no values
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0][:150]
        raise UserError(f"--device {device}: {reason}. Leave it out, or --device cpu.") from None
    if precision == "auto":
        precision = faster_precision(chosen.type)
    answer = Device(chosen, precision, cli.RANK, processes)
    if processes == 1:
        return answer
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    # One may wait long for another that generates, or writes. If one ends, torchrun ends all.
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=timedelta(hours=6))
    atexit.register(torch.distributed.destroy_process_group)
    # CPUs differ: all processes take the first one's precision.
    return answer._replace(precision=gather(answer, {cli.RANK: precision})[0])


@functools.cache
def faster_precision(kind: str) -> str:
    """The precision that is faster on a kind of device, fp32 or bf16. Its reason is logged."""
    faster, reason = False, "no bf16 instructions here"
    if kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        faster, reason = True, "bf16 is native on this GPU"
    cpu = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if kind == "cpu" and cpu:
        times = bf16_speedup()
        faster, reason = times > WORTH_BF16, f"bf16 is {times:.1f} times as fast as fp32 here"
    precision = "bf16" if faster else "fp32"
    log.info("precision: %s (%s)", precision, reason)
    return precision


def bf16_speedup() -> float:
    """How many times as fast as in fp32 one thread of this CPU multiplies matrices in bf16."""
    from torch.utils.benchmark import Timer

    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.ones(512, 768, dtype=dtype), torch.ones(3072, 768, dtype=dtype)
        names = {"linear": torch.nn.functional.linear, "x": x, "weight": weight}
        # Of processor time the shortest: other processes do not change it.
        timer = Timer("linear(x, weight)", globals=names, timer=time.thread_time, num_threads=1)
        seconds[dtype] = min(timer.timeit(1).mean for _ in range(3))
    return seconds[torch.float32] / seconds[torch.bfloat16]


def gather(device: Device, value: dict) -> dict:
    """The dicts of torchrun's processes as one; they wait for each other here."""
    parts = [value] * device.processes
    if device.processes > 1:
        torch.distributed.all_gather_object(parts, value)
    return {key: item for part in parts for key, item in part.items()}


# Seeds what a new head and dropout draw from; subsets and batches have their own generators.
set_seed = torch.manual_seed


def peak_memory(device: Device) -> dict:
    """The most memory used so far: of the GPU, else by the process."""
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
    """Bytes that processes can still take: of the machine, and within the limits of its groups.

    A container or a cluster's job (Slurm's too) limits a control group, maybe above the process's
    own. `root` is where /proc and /sys are.
    """
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError):  # not Linux
        # "0::/a/b" is the process's own group; the line is the last one.
        own = Path((root / "proc/self/cgroup").read_text().rpartition("0::/")[2].strip())
        for group in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError, KeyError):  # no such file, or "max"
                folder = root / "sys/fs/cgroup" / group
                held = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
                # The pages of files can be dropped.
                free = min(free, int((folder / "memory.max").read_text()) - int(held["anon"]))
    return max(0, free)


def shrink_frozen(model, device: Device) -> None:
    """In bf16, hold frozen linear layers in bf16 too: autocast would cast them at each pass."""
    for module in model.modules() if device.precision == "bf16" else ():
        # GPT-2 has Conv1D. The Linear of an adapter has no weight of its own.
        linear = type(module).__name__ in ("Linear", "Conv1D")
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if linear and weight is not None and not weight.requires_grad:
            # A new parameter: embeddings that shared the old one stay as they are.
            module.weight = torch.nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)


def to_device(model, device: Device):
    """The model, there, after `shrink_frozen`. Raises UserError if the device has no room."""
    shrink_frozen(model, device)
    return in_memory(lambda _: model.to(device.torch_device), 1, device)[0]


def in_memory(run: Callable[[int], object], size: int, device: Device):
    """`(run(size), size)`, with half the size while memory is short. UserError if 1 is too much."""
    texts = "out of memory", "allocate memory", "alloc_failed"  # CUDA's, a CPU's, cuBLAS's
    while True:
        try:
            return run(size), size
        except (RuntimeError, MemoryError) as error:
            short = any(text in str(error).lower() for text in texts)
            if not short and not isinstance(error, MemoryError):
                raise
            if size == 1:
                raise UserError(
                    f"{device.torch_device} has too little memory. Use a smaller --model_name, "
                    "--max_length or --batch_size, --precision bf16 or --device cpu; to train, "
                    "--lora, --gradient_checkpointing where the task has it, or torchrun with more "
                    "processes. Add --overwrite."
                ) from None
        # Only here is the exception gone, and with it the tensors that its traceback held.
        size = -(-size // 2)
        if device.torch_device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("out of memory: %d examples at a time from here; the batch stays whole", size)
