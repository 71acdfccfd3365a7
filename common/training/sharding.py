"""A model whose weights, gradients and optimizer are divided among torchrun's processes (FSDP2).

A layer's weights are gathered for as long as it computes. So while they train, all processes must
run equally many forward and backward passes; within `scoring` they need not.
"""

import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

from common.cli import UserError
from common.device import Device, to_device
from common.models import families
from common.training.losses import IGNORED


def shard(model, device: Device) -> None:
    """Divide the model in place, and bring it to the device. The optimizer is made after that.

    Each layer is a part; what is left (embeddings, last norm and head, which may share weights) is
    one more. Gradients are sums over the processes. They and the optimizer stay in float32; what
    computes is gathered in the device's precision. Raises UserError for a model that leaves out
    layers by chance: not all processes would leave out the same.
    """
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    if getattr(model.config, "layerdrop", 0):
        raise UserError(
            "the model's config.json has a layerdrop above 0: layers left out by chance. Under "
            "torchrun that is not possible. Set it to 0 there."
        )
    mesh = init_device_mesh(device.torch_device.type, (device.processes,))
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(device.precision)
    policy = fsdp.MixedPrecisionPolicy(
        param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    layers = whole.base_model.get_submodule(families.of(model.config).layers)
    for part in (*layers, model):
        fsdp.fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=part is not model)
        part.set_gradient_divide_factor(1.0)  # else the gradients are means
        part.set_force_sum_reduction_for_comms(True)  # gloo knows no sum with a factor
    model.run_sharded = lambda function, batch: function(model, batch)
    fsdp.register_fsdp_forward_method(model, "run_sharded")


def is_sharded(model) -> bool:
    """Whether `shard` has divided it."""
    return hasattr(model, "run_sharded")


def run(function, model, batch: dict):
    """`function(model, batch)`, which may call the model's parts without the model itself."""
    return model.run_sharded(function, batch) if is_sharded(model) else function(model, batch)


def idle(example: dict) -> dict:
    """The example with all labels ignored, for a process that has none in a forward pass."""
    return example | {"labels": [IGNORED] * len(example["labels"])}


@contextmanager
def scoring(model, device: Device):
    """The model on the device in eval mode; a divided one is whole in each process meanwhile.

    Within, processes need not do the same, nor equally often. To be entered by all of them, and
    outside of inference mode, whose tensors no later training could use.
    """
    model.eval()
    if not is_sharded(model):
        yield to_device(model, device)
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    run(lambda *_: None, model, {})  # of all forward passes the first must be the whole model's
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield model
    finally:
        model.reset_iter_state()  # divides all parts again, also after an exception
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)


def gathered(model, names) -> dict[str, torch.Tensor]:
    """`{name: whole tensor}` on the CPU of the first process, {} in the others: all must call it.

    Weights that share their memory do so here, too.
    """
    own = dict(model.named_parameters(remove_duplicate=False))
    state, whole, rank = model.state_dict(), {}, torch.distributed.get_rank()
    for name in names:
        key = id(own.get(name, state[name]))
        if key not in whole:
            tensor = getattr(state[name], "full_tensor", lambda t=state[name]: t)()
            whole[key] = None if rank else tensor.cpu()
    return {} if rank else {name: whole[id(own.get(name, state[name]))] for name in names}


def divided(model, weights: dict[str, torch.Tensor]) -> dict:
    """Each process's part of whole tensors, which all have: what `load_state_dict` takes."""
    from torch.distributed.tensor import distribute_tensor

    state = model.state_dict()
    return {
        name: distribute_tensor(whole, state[name].device_mesh, state[name].placements,
                                src_data_rank=None)
        for name, whole in weights.items()
    }  # fmt: skip


def save(folder: Path, trainer) -> None:
    """Weights that are trained, and the optimizer: each process writes its part into `folder`."""
    import torch.distributed.checkpoint as dcp

    with _plain_errors(folder):
        dcp.save(_state(trainer), checkpoint_id=folder)


def load(folder: Path, trainer) -> None:
    """Take up what `save` left, whatever the number of processes was, or is."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint import state_dict as parts

    state = _state(trainer)
    with _plain_errors(folder), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # so it is
        dcp.load(state, checkpoint_id=folder)
    parts.set_state_dict(
        trainer.model, trainer.optimizer, model_state_dict=state["model"],
        optim_state_dict=state["optimizer"], options=parts.StateDictOptions(strict=False),
    )  # fmt: skip


@contextmanager
def _plain_errors(folder: Path):
    """The error behind a CheckpointException, which all processes raise and is no Exception."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        cause, _ = next(iter(error.failures.values()))
        if isinstance(cause, OSError):
            cause.filename = cause.filename or str(folder)
        raise cause from None


def _state(trainer) -> dict:
    from torch.distributed.checkpoint import state_dict as parts

    options = parts.StateDictOptions(ignore_frozen_params=True)
    model, optimizer = parts.get_state_dict(trainer.model, trainer.optimizer, options=options)
    return {"model": model, "optimizer": optimizer}
