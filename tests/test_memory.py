"""What memory this process can have: of the device, of its control groups."""

import subprocess
import sys

import pytest

from common import memory
from common.cli import ROOT
from common.memory import available_memory

MIB = 2**20
UNLIMITED = 2**63 - 4096  # as version 1 says it


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")


@pytest.fixture
def machine(tmp_path):
    """A device with 1000 MiB free, and no control groups yet."""
    write(tmp_path, "proc/meminfo", f"MemTotal: 1 kB\nMemAvailable:  {1000 * 1024} kB")
    return tmp_path


def v2(root, group, limit, used, stat="anon 1"):
    folder = f"sys/fs/cgroup/{group}"
    write(root, f"{folder}/memory.max", limit)
    write(root, f"{folder}/memory.current", used)
    write(root, f"{folder}/memory.stat", stat)


def v1(root, group, limit, used, stat="active_file 5"):
    folder = f"sys/fs/cgroup/memory/{group}"
    write(root, f"{folder}/memory.limit_in_bytes", limit)
    write(root, f"{folder}/memory.usage_in_bytes", used)
    write(root, f"{folder}/memory.stat", stat)


def test_without_groups_it_is_what_the_device_has(machine):
    assert available_memory(machine) == 1000 * MIB
    write(machine, "proc/self/cgroup", "0::/")
    assert available_memory(machine) == 1000 * MIB


def test_limit_of_a_nested_group_less_its_usage(machine):
    write(machine, "proc/self/cgroup", "0::/slurm/job_7/step_0")
    v2(machine, "slurm/job_7", 500 * MIB, 200 * MIB)
    v2(machine, "slurm/job_7/step_0", "max", 150 * MIB)
    v2(machine, "slurm/job_8", 10 * MIB, 10 * MIB)  # another's
    assert available_memory(machine) == 300 * MIB
    v2(machine, "slurm/job_7/step_0", 160 * MIB, 150 * MIB)  # the nearest limit counts
    assert available_memory(machine) == 10 * MIB
    v2(machine, "slurm/job_7/step_0", 100 * MIB, 150 * MIB)
    assert available_memory(machine) == 0


def test_a_limit_above_what_is_free_changes_nothing(machine):
    write(machine, "proc/self/cgroup", "0::/job")
    v2(machine, "job", 9000 * MIB, 200 * MIB)
    assert available_memory(machine) == 1000 * MIB


def test_version_1_beside_version_2(machine):
    lines = ["9:name=systemd:/x", "5:cpu,cpuacct:/other", "4:memory:/slurm/job_7", "0::/y"]
    write(machine, "proc/self/cgroup", "\n".join(lines))
    v1(machine, "", UNLIMITED, 900 * MIB)
    v1(machine, "slurm/job_7", 500 * MIB, 100 * MIB)
    v1(machine, "other", MIB, 0)
    assert available_memory(machine) == 400 * MIB


def test_cached_pages_of_files_are_free(machine):
    stat = f"anon 7\nactive_file {20 * MIB}\ninactive_file {30 * MIB}"
    write(machine, "proc/self/cgroup", "0::/job")
    v2(machine, "job", 500 * MIB, 400 * MIB, stat)
    assert available_memory(machine) == 150 * MIB
    write(machine, "proc/self/cgroup", "4:memory:/job\n0::/")
    stat = f"inactive_file 1\ntotal_active_file {20 * MIB}\ntotal_inactive_file {40 * MIB}"
    v1(machine, "job", 500 * MIB, 400 * MIB, stat)
    assert available_memory(machine) == 160 * MIB
    (machine / "sys/fs/cgroup/memory/job/memory.stat").unlink()
    assert available_memory(machine) == 100 * MIB


def test_inside_a_container_the_path_outside_is_passed_over(machine):
    write(machine, "proc/self/cgroup", "0::/../../docker/4f2a")
    v2(machine, "", 300 * MIB, 100 * MIB)
    assert available_memory(machine) == 200 * MIB


def test_elsewhere_it_is_all_the_device_has(tmp_path):
    assert 2**26 < available_memory(tmp_path) < 2**50


def test_of_this_machine_it_is_plausible():
    assert 2**26 < available_memory() < 2**50


GAPS = """
import ctypes, numpy, os, sys
from common import memory

memory.keep_freed()
memory.GAPS = int(sys.argv[1]) * 2**20
kept = [numpy.ones(2**19) for _ in range(100)][::5]  # 4 MiB each, four of five freed

def held():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

before = held()
memory.give_back_gaps()
print(before - held())
"""


@pytest.mark.parametrize(("gaps", "given_back"), [(100, True), (1000, False)])
def test_gaps_between_blocks_are_given_back(gaps, given_back):
    """Where there is more of them than is used, and than may be."""
    if not memory._of_glibc("mallinfo2"):
        pytest.skip("another C library")
    done = subprocess.run([sys.executable, "-c", GAPS, str(gaps)],
                          cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    assert (int(done.stdout) > 200) == given_back
