"""Memory that a process can have, the faster precision, and what a GPU cannot hold."""

import psutil
import pytest
import torch

from common import device
from common.cli import UserError
from common.device import Device, choose_device, to_device

MIB = 2**20
CPU = Device(torch.device("cpu"), "fp32")


@pytest.mark.parametrize("limit", ["memory.max", "slurm/job_7/memory.max", "slurm/memory.max"])
def test_available_memory_is_limited_by_each_group(tmp_path, monkeypatch, limit):
    """Minus what its processes hold; the pages of files can be dropped."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    machine = psutil.virtual_memory()._replace(available=1000 * MIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/a\n0::/slurm/job_7\n")
    assert device.available_memory(tmp_path) == 1000 * MIB
    file = tmp_path / "sys" / "fs" / "cgroup" / limit
    file.parent.mkdir(parents=True)
    file.with_name("memory.stat").write_text(f"anon {100 * MIB}\nfile {900 * MIB}\n")
    for text, free in ((9000 * MIB, 1000), (500 * MIB, 400), (50 * MIB, 0), ("max", 1000)):
        file.write_text(f"{text}\n")
        assert device.available_memory(tmp_path) == free * MIB


@pytest.mark.parametrize(
    ("avx", "amx", "times", "chosen", "reason"),
    [
        (True, False, 2.2, "bf16", "bf16 is 2.2 times as fast as fp32 here"),
        (False, True, 1.21, "bf16", "bf16 is 1.2 times as fast as fp32 here"),
        (True, False, 1.2, "fp32", "bf16 is 1.2 times as fast as fp32 here"),
        (True, True, 0.53, "fp32", "bf16 is 0.5 times as fast as fp32 here"),
        (False, False, None, "fp32", "no bf16 instructions here"),
    ],
)
def test_auto_is_the_faster_precision(monkeypatch, caplog, avx, amx, times, chosen, reason):
    """On a CPU as one product says, measured once, where it has bf16 at all; logged with reason."""
    measured = []
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(device, "bf16_speedup", lambda: measured.append(times) or times)
    device.faster_precision.cache_clear()
    with caplog.at_level("INFO"):
        assert [choose_device("cpu", "auto").precision for _ in range(2)] == [chosen] * 2
    device.faster_precision.cache_clear()
    assert measured == [times] * (times is not None)
    assert f"precision: {chosen} (" in caplog.messages[0] and reason in caplog.messages[0]
    for given in ("fp32", "bf16", "fp16"):
        assert choose_device("cpu", given).precision == given


def test_the_measured_product_leaves_threads_and_generators_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    assert 0.05 < device.bf16_speedup() < 50
    assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(threads)


def test_a_device_without_room_for_the_model(monkeypatch):
    model = torch.nn.Linear(2, 2)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(model, "to", full)
    with pytest.raises(UserError, match="cpu has too little memory. .*--device cpu"):
        to_device(model, CPU)
    monkeypatch.setattr(model, "to", lambda *_: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        to_device(model, CPU)
