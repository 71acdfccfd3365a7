"""Training in several processes, which divide weights, gradients and optimizer (FSDP2).

All must run equally many passes while the model trains; within `scoring` they need not.
"""

from contextlib import contextmanager

import torch

from common.device import Device, shrink_frozen, to_device
from common.models import families
from common.training.losses import IGNORED


def shard(model, device: Device) -> None:
    """Divide the model in place, on the device. Make the optimizer after that.

    Each layer is a part, and the rest is one (its head may share the embeddings' weights). Weights
    and gradients, which are sums over the processes, are in float32; layers compute in the device's
    precision.
    """
    from torch.distributed import fsdp
    from torch.distributed.device_mesh import init_device_mesh

    shrink_frozen(model, device)
    mesh = init_device_mesh(device.torch_device.type, (device.processes,))
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(device.precision)
    policy = fsdp.MixedPrecisionPolicy(
        param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    layers = families.encoder_of(model).get_submodule(families.of(model.config).layers)
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
    """`function(model, batch)`, which may call parts of the model without the model itself."""
    return model.run_sharded(function, batch) if is_sharded(model) else function(model, batch)


def idle(example: dict) -> dict:
    """The example without labels, for a process that has no example in a forward pass."""
    labels = example["labels"]
    return example | {"labels": IGNORED if isinstance(labels, int) else [IGNORED] * len(labels)}


@contextmanager
def scoring(model, device: Device):
    """The model on the device in eval mode; a sharded one is whole in each process meanwhile.

    All must enter it, outside of inference mode, whose tensors no later training could use.
    """
    model.eval()
    if not is_sharded(model):
        yield to_device(model, device)
        return
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    run(lambda *_: None, model, {})  # the first of all forward passes must be the whole model's
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield model
    finally:
        model.reset_iter_state()  # divides all parts again, also after an exception
        for part in parts:
            part.set_reshard_after_forward(part is not model, recurse=False)
