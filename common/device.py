"""Device, precision, seeds and memory: nearly all code that knows of CUDA."""

import atexit
import logging
import os
import platform
import resource
import sys
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple

import torch

from common import cli, memory
from common.cli import UserError

log = logging.getLogger(__name__)


class Device(NamedTuple):
    """Where and in which precision a model runs."""

    torch_device: torch.device
    precision: str  # fp32, bf16, fp16
    rank: int = 0  # which of the processes that torchrun started; the first one writes
    processes: int = 1

    def autocast(self):
        """The context of a forward pass; weights that are trained stay in float32."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
        return torch.autocast(self.torch_device.type, dtype=dtype, enabled=dtype is not None)

    def describe(self) -> dict:
        """For config.json."""
        name = (
            torch.cuda.get_device_name(self.torch_device)
            if self.torch_device.type == "cuda"
            else None
        )
        threads = torch.get_num_threads()
        return {"device": str(self.torch_device), "name": name or platform.machine(),
                "precision": self.precision, "threads": threads,
                "processes": self.processes}  # fmt: skip


def choose_device(device: str, precision: str, torchrun: bool = False) -> Device:
    """Resolve `--device` and `--precision` ("auto": cuda, mps or cpu; native bf16 or fp32).

    With `torchrun`, processes that torchrun started join, each with a GPU of its own. Raises
    UserError if the device is not there, or for several processes without `torchrun`.
    """
    processes, started = cli.PROCESSES, "TORCHELASTIC_RUN_ID" in os.environ
    if processes > 1 and not (torchrun and started):
        raise UserError(
            f"WORLD_SIZE is {processes}, but only fine-tuning.py runs in several processes, and "
            "torchrun starts them. Start this step with python, and unset WORLD_SIZE."
        )
    if processes > 1 and device.startswith("cuda:"):
        raise UserError(
            f"--device {device} would put all {processes} processes on one card. Leave it out: "
            "each takes its own (CUDA_VISIBLE_DEVICES says which there are)."
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
            f"--device {device} is not to be had here ({reason}). Leave it out, or --device cpu."
        ) from None
    if chosen.type == "cpu":
        memory.keep_freed()
    precision = resolve(precision, chosen)
    if processes > 1:
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        # One may wait long for another that generates, or writes. If one ends, torchrun ends all.
        torch.distributed.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(hours=6)
        )
        atexit.register(torch.distributed.destroy_process_group)
    return Device(chosen, precision, cli.RANK, processes)


def resolve(precision: str, device: torch.device) -> str:
    """`--precision`, "auto" being bf16 where the device has it natively, else fp32."""
    native = {
        "cuda": lambda: torch.cuda.is_bf16_supported(including_emulation=False),
        "cpu": lambda: torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
    }.get(device.type, lambda: False)
    return ("bf16" if native() else "fp32") if precision == "auto" else precision


def add_up(device: Device, tensors: list[torch.Tensor]) -> None:
    """Replace each tensor by its sum over torchrun's processes."""
    if device.processes > 1:
        works = [torch.distributed.all_reduce(tensor, async_op=True) for tensor in tensors]
        for work in works:
            work.wait()


def gather(device: Device, value: dict) -> dict:
    """The dicts of torchrun's processes as one; they wait for each other here."""
    if device.processes == 1:
        return value
    found: list = [None] * device.processes
    torch.distributed.all_gather_object(found, value)
    return {key: item for part in found for key, item in part.items()}


def set_seed(value: int) -> None:
    """Seed what a new head and dropout draw from; subsets and batches have their own generators."""
    torch.manual_seed(value)


def peak_memory(device: Device) -> dict:
    """The most memory used so far: on the device for CUDA, else by the process."""
    if device.torch_device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device.torch_device) / 2**20
    else:  # in KiB, on a Mac in bytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        peak = peak / 2**10 if sys.platform == "darwin" else peak
    return {"peak_memory_mib": peak}


def free_memory(device: Device) -> int:
    """Bytes that models can still take, on the device."""
    if device.torch_device.type == "cuda":
        where = device.torch_device
        unused = torch.cuda.memory_reserved(where) - torch.cuda.memory_allocated(where)
        return torch.cuda.mem_get_info(where)[0] + unused
    return memory.available_memory()


def shrink_frozen(model, device: Device) -> None:
    """In bf16 hold frozen linear layers so, too: autocast would cast them at each pass.

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
    """The model, there; `shrink_frozen` first. Raises UserError where the device has no room."""
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
        f"({free / 1e9:.1f} GB are free). Use a smaller --model_name, --precision "
        "bf16 where the model is only read, or --device cpu."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was too little: torch says so by a RuntimeError."""
    named = ("out of memory", "allocate memory", "alloc_failed")  # the last is cuBLAS's
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(name in text for name in named)


def in_memory(run: Callable[[int], object], size: int, device: Device, together: bool = False):
    """`run(size)`, with half the size for as long as memory does not hold it; and that size.

    `together`: other processes wait within `run`, and cannot try again with this one. Raises
    UserError then, or where memory does not hold one example.
    """
    while True:
        try:
            found = run(size)
            if device.torch_device.type == "cpu":
                memory.give_back_gaps()
            return found, size
        except (RuntimeError, MemoryError) as error:  # torch's out-of-memory is a RuntimeError
            if not is_out_of_memory(error):
                raise
        # Here the exception is gone, and with it the tensors that its traceback held.
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


def get_rng(device: Device) -> dict:
    """The states of the generators that dropout draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.torch_device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device.torch_device)
    return states


def set_rng(states: dict, device: Device) -> None:
    """Go on drawing from where `get_rng` was called."""
    torch.set_rng_state(states["cpu"])
    if device.torch_device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device.torch_device)
