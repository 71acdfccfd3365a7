"""Memory that a process can have, the faster precision, and what a GPU cannot hold."""

import pytest
import torch

from common import device
from common.cli import UserError
from common.device import Device, available_memory, check_training_memory, resolve, to_device

MIB = 2**20
UNLIMITED = 2**63 - 4096  # as version 1 says it
CPU = Device(torch.device("cpu"), "fp32")


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path):
    """A machine with 1000 MiB free, a process that holds 10 of it, and no control groups yet."""
    write(tmp_path, "proc/meminfo", f"MemTotal: 1 kB\nMemAvailable:  {1000 * 1024} kB")
    write(tmp_path, "proc/self/statm", f"99999 {10 * MIB // device.os.sysconf('SC_PAGE_SIZE')} 7")
    return tmp_path


def test_without_groups_it_is_what_the_machine_has(machine, tmp_path):
    assert available_memory(machine) == 1000 * MIB
    write(machine, "proc/self/cgroup", "0::/")
    assert available_memory(machine) == 1000 * MIB
    assert 2**26 < available_memory(tmp_path / "no Linux") < 2**50
    assert 2**26 < available_memory() < 2**50


@pytest.mark.parametrize("version", (1, 2))
def test_the_lowest_limit_of_its_groups_minus_what_it_holds(machine, version):
    line, file = {
        1: ("9:name=systemd:/x\n4:memory:", "memory/{}memory.limit_in_bytes"),
        2: ("0::", "{}memory.max"),
    }[version]
    write(machine, "proc/self/cgroup", f"{line}/slurm/job_7/step_0")

    def limit(group, value):
        write(machine, f"sys/fs/cgroup/{file.format(group)}", value)

    limit("", UNLIMITED if version == 1 else "max")
    limit("slurm/job_8/", MIB)  # another's
    limit("slurm/job_7/", 9000 * MIB)
    assert available_memory(machine) == 1000 * MIB
    limit("slurm/job_7/", 500 * MIB)
    assert available_memory(machine) == 490 * MIB
    limit("slurm/job_7/step_0/", 160 * MIB)
    assert available_memory(machine) == 150 * MIB
    limit("slurm/job_7/step_0/", MIB)
    assert available_memory(machine) == 0


def test_inside_a_container_the_path_outside_is_skipped(machine):
    write(machine, "proc/self/cgroup", "0::/../../docker/4f2a")
    write(machine, "sys/fs/cgroup/memory.max", 300 * MIB)
    assert available_memory(machine) == 290 * MIB


@pytest.mark.parametrize(
    ("avx", "amx", "times", "chosen", "reason"),
    [
        (True, False, 2.2, "bf16", "2.2 times as fast as fp32 here"),
        (False, True, 1.21, "bf16", "1.2 times as fast as fp32 here"),
        (True, False, 1.2, "fp32", "bf16 would be 1.2 times as fast here"),
        (True, True, 0.53, "fp32", "bf16 would be 0.5 times as fast here"),
        (False, False, None, "fp32", "no bf16 instructions"),
    ],
)
def test_auto_is_the_faster_precision(monkeypatch, caplog, avx, amx, times, chosen, reason):
    """On a CPU as one product says, measured once, where it has bf16 at all; logged with reason."""
    measured = []
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(device, "bf16_speedup", lambda: measured.append(times) or times)
    device._faster.cache_clear()
    with caplog.at_level("INFO"):
        assert [resolve("auto", CPU.torch_device) for _ in range(2)] == [chosen] * 2
    device._faster.cache_clear()
    assert measured == [times] * (times is not None)
    assert f"precision: {chosen} (" in caplog.messages[0] and reason in caplog.messages[0]
    for given in ("fp32", "bf16", "fp16"):
        assert resolve(given, CPU.torch_device) == given


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
    with pytest.raises(UserError, match="cpu has no room for the model's 0.0 GB .*--device cpu"):
        to_device(model, CPU)
    monkeypatch.setattr(model, "to", lambda *_: (_ for _ in ()).throw(RuntimeError("other")))
    with pytest.raises(RuntimeError, match="other"):
        to_device(model, CPU)


@pytest.mark.parametrize(
    ("frozen", "precision", "processes", "needed"),
    [
        (0, "bf16", 1, 16.0),  # weights, gradients and two moments of 1e9 parameters
        (0, "fp32", 2, 10.0),  # scored: 12 GB shared, and the whole model, 4 GB
        (0, "bf16", 2, 8.0),  # 2 GB in 16 bits: less than to train
        (0, "bf16", 12, 3.0),  # scored
        (7e9, "bf16", 1, 30.0),  # frozen weights are held in bf16
        (7e9, "fp32", 1, 44.0),
    ],
)
def test_a_gpu_that_cannot_hold_the_training(
    monkeypatch, caplog, frozen, precision, processes, needed
):
    sizes = (1000, int(frozen / 10**6))
    model = torch.nn.ModuleList(
        torch.nn.Linear(10**6, n, bias=False, device="meta") for n in sizes if n
    )
    for layer in model[1:]:
        layer.requires_grad_(False)
    gpu = Device(torch.device("cuda"), precision, 0, processes)
    check_training_memory(model, CPU)  # no GPU, no limit
    monkeypatch.setattr(device, "free_memory", lambda _: needed * 1e9)
    with caplog.at_level("INFO"):
        check_training_memory(model, gpu, processes > 1)
    assert f"need {needed:.1f} GB" in caplog.text
    monkeypatch.setattr(device, "free_memory", lambda _: needed * 1e9 - 1e8)
    with pytest.raises(UserError, match=f"needs {needed:.1f} GB.*--nproc_per_node {2 * processes}"):
        check_training_memory(model, gpu, processes > 1)
