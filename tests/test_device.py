"""Memory that a process can have, the faster precision, and what a GPU cannot hold."""

import pytest
import torch

from common import device
from common.cli import UserError
from common.device import Device, available_memory, choose_device, to_device

MIB = 2**20
CPU = Device(torch.device("cpu"), "fp32")


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


@pytest.mark.parametrize(
    ("limit", "used"),
    [("memory.max", "anon"), ("memory/memory.limit_in_bytes", "total_rss")],
)
def test_available_memory_is_limited_by_the_container(tmp_path, limit, used):
    """Minus what its processes hold; the pages of files can be dropped."""
    write(tmp_path, "proc/meminfo", f"MemTotal: 1 kB\nMemAvailable:  {1000 * 1024} kB")
    assert available_memory(tmp_path) == 1000 * MIB
    folder = (tmp_path / "sys/fs/cgroup" / limit).parent
    write(folder, "memory.stat", f"{used} {100 * MIB}\nfile {900 * MIB}")
    for text, free in ((9000 * MIB, 1000), (500 * MIB, 400), (50 * MIB, 0), ("max", 1000)):
        write(tmp_path, f"sys/fs/cgroup/{limit}", text)
        assert available_memory(tmp_path) == free * MIB


def test_available_memory_of_this_machine_and_of_one_that_is_not_linux(tmp_path):
    assert 2**26 < available_memory() < 2**50
    assert 2**26 < available_memory(tmp_path) < 2**50


@pytest.mark.parametrize(
    ("avx", "amx", "times", "chosen", "reason"),
    [
        (True, False, 2.2, "bf16", "bf16 is 2.2 times as fast as fp32 here"),
        (False, True, 1.21, "bf16", "bf16 is 1.2 times as fast as fp32 here"),
        (True, False, 1.2, "fp32", "bf16 is 1.2 times as fast as fp32 here"),
        (True, True, 0.53, "fp32", "bf16 is 0.5 times as fast as fp32 here"),
        (False, False, None, "fp32", "no bf16 instructions"),
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
    with pytest.raises(UserError, match="cpu has no room for the model's 0.0 GB. .*--device cpu"):
        to_device(model, CPU)
    monkeypatch.setattr(model, "to", lambda *_: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        to_device(model, CPU)
