"""GPUs that a scheduler gave: masks, cores near them, and how many processes share one."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from wsi_seg.cli import app
from wsi_seg.core.errors import UsageError
from wsi_seg.core.gpus import cores_near, environment_of_one, format_cores, given_gpus, parse_cores
from wsi_seg.core.system import usable_memory
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.planning.gpu_processes import (
    CORE_SECONDS,
    CORES_PER_PROCESS,
    MEMORY_SHARE,
    PROCESS_BYTES,
    GpuMachine,
    GpuWork,
    gpu_processes,
    gpu_work,
)

GIB = 2**30
RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
MIG = "MIG-GPU-5fe9e1a1-24d0-5a4e-9d7e-5d1c3b1c2f10/1/0"
MASK, STEP, JOB = "CUDA_VISIBLE_DEVICES", "SLURM_STEP_GPUS", "SLURM_JOB_GPUS"


@pytest.mark.parametrize(
    ("environment", "count", "entries"),
    [
        ({}, 2, ("0", "1")),
        ({MASK: "2,3"}, 2, ("2", "3")),
        ({MASK: " 7 , 5"}, 2, ("7", "5")),
        ({MASK: "GPU-8932f937,GPU-d72c 8a12"}, 2, ("GPU-8932f937", "GPU-d72c 8a12")),
        ({MASK: f"{MIG},MIG-0b1c"}, 1, (MIG, "MIG-0b1c")),  # of parts, CUDA counts one in a process
        ({MASK: f"{MIG},MIG-0b1c"}, 0, ()),  # there is no driver
        ({MASK: "1,-1,2"}, 1, ("1",)),
        ({MASK: "0,9,1"}, 1, ("0",)),  # CUDA stops at 9, of two
        ({MASK: ""}, 0, ()),
        ({MASK: "NoDevFiles"}, 0, ()),
        ({MASK: "0,0"}, 0, ()),
        # A node that shows a job its own GPUs alone, numbered from 0, and one that shows all.
        ({JOB: "2,3"}, 2, ("0", "1")),
        ({JOB: "2,3"}, 4, ("2", "3")),
        ({JOB: "2,3", STEP: "3"}, 4, ("3",)),
        ({JOB: "2,3", MASK: "0,1"}, 4, ("0", "1")),
        ({JOB: ""}, 4, ("0", "1", "2", "3")),
    ],
)
def test_gpus_are_those_that_were_given(
    environment: dict[str, str], count: int, entries: tuple[str, ...]
) -> None:
    assert given_gpus(environment, count) == entries
    for index, entry in enumerate(entries):
        own = environment_of_one(environment, index, count)
        assert own.pop(MASK) == entry
        assert own == ({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if MASK not in environment and count == 4 and
                       environment.get(JOB) else {})  # fmt: skip


@pytest.mark.parametrize(
    ("parent", "index"), [("", 0), ("-1", 0), ("2,3", 2), ("1,-1,2", 1), ("0,0", 0), ("NoDevFiles", 0)]
)
def test_what_the_mask_does_not_show_is_refused(parent: str, index: int) -> None:
    with pytest.raises(UsageError, match=f"CUDA_VISIBLE_DEVICES='{parent}'.*{index}"):
        environment_of_one({MASK: parent}, index, 4)
    with pytest.raises(UsageError, match="SLURM_STEP_GPUS='3': names no device number 1"):
        environment_of_one({STEP: "3"}, 1, 4)


def test_of_rocm_both_masks_are_narrowed() -> None:
    own = environment_of_one({MASK: "6,7", "HIP_VISIBLE_DEVICES": "4,5"}, 1, 2)
    assert own == {MASK: "7", "HIP_VISIBLE_DEVICES": "5"}


def test_cores_near_a_gpu_are_those_that_linux_names(tmp_path: Path) -> None:
    devices = tmp_path / "bus" / "pci" / "devices"
    for address, cores in (("0000:3b:00.0", "0-3,8\n"), ("0000:86:00.0", "64-79\n"), ("0001:00:00.0", "\n")):
        (devices / address).mkdir(parents=True)
        (devices / address / "local_cpulist").write_text(cores)
    own = {1, 2, 3, 4, 8, 9}
    assert cores_near("0000:3B:00.0", own, tmp_path) == {1, 2, 3, 8}
    # None of its cores were given to this process; Linux names none; there is no such device.
    for address in ("0000:86:00.0", "0001:00:00.0", "0000:99:00.0"):
        assert cores_near(address, own, tmp_path) == own
    (devices / "0000:3b:00.0" / "local_cpulist").write_text("a few")
    assert cores_near("0000:3b:00.0", own, tmp_path) == own


@given(st.sets(st.integers(0, 999)))
def test_lists_of_cores_are_read_as_written(cores: set[int]) -> None:
    assert parse_cores(format_cores(cores)) == cores


def test_memory_is_that_of_the_tightest_control_group(tmp_path: Path) -> None:
    everything = usable_memory(tmp_path)
    assert everything > GIB / 2
    job = tmp_path / "sys" / "fs" / "cgroup" / "slurm" / "job_5" / "step_0"
    job.mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/slurm/job_5/step_0\n")
    (job / "memory.max").write_text("max\n")
    assert usable_memory(tmp_path) == everything
    (job.parent / "memory.max").write_text("268435456\n")
    assert usable_memory(tmp_path) == 2**28


# The U-Net with ResNet-34 on an H100, in batches of 16 tiles of 512², without overlap.
SMALL = gpu_work(0.00076, 512, 2**22, 21, 227, 100 * 2**20)
NODE = GpuMachine(gpus=1, gpu_bytes=80 * GIB, cores=16, memory_bytes=126 * GIB)


@pytest.mark.parametrize(
    ("work", "machine", "each", "why"),
    [
        (SMALL, NODE, 8, "8 for each GPU, as they keep it busy"),
        (SMALL, GpuMachine(4, 80 * GIB, 16, 126 * GIB), 2, "there are 16 cores"),
        (SMALL, GpuMachine(1, 80 * GIB, 12, 512 * GIB), 6, "6 for each GPU, as there are 12 cores"),
        (SMALL, GpuMachine(1, 12 * GIB, 16, 126 * GIB), 2, "of its 12 GiB"),
        (SMALL, GpuMachine(1, 80 * GIB, 16, 8 * GIB), 2, "3 of 8 GiB of memory"),
        (GpuWork(0.02, 0.015, 9 * GIB), NODE, 1, "0.75 cores keep a GPU busy; 1 for each GPU"),
        (GpuWork(0.001, 0.015, 90 * GIB), NODE, 1, "1 for each GPU"),
    ],
)
def test_processes_are_as_many_as_keep_a_gpu_busy(
    work: GpuWork, machine: GpuMachine, each: int, why: str
) -> None:
    found = gpu_processes(work, machine)
    assert (found.each, why in found.why) == (each, True), found.why


def test_core_time_of_a_tile_is_the_measured_one() -> None:
    rows = json.loads((RESULTS / "beside.json").read_text(encoding="utf-8"))["rows"]
    usual = [
        row["core_ms_a_tile"]
        for row in rows
        if (row.get("model"), row.get("stored")) in ((None, None), ("fitted", "all"))
    ]
    tile = 512**2 / 1e6  # megapixels of the benchmarks' model, without overlap
    # The same machine took from 10.1 to 13.8 ms within two hours, in the same proportion to other work.
    assert pytest.approx(median(usual) / 1e3 / tile, rel=0.35) == CORE_SECONDS


WORKS = st.builds(GpuWork, st.floats(1e-5, 10), st.floats(1e-4, 1), st.floats(0.6 * GIB, 100 * GIB))
MACHINES = st.builds(
    GpuMachine,
    st.integers(1, 16),
    st.integers(4 * GIB, 200 * GIB),
    st.integers(1, 256),
    st.integers(2 * GIB, 2048 * GIB),
)


@given(WORKS, MACHINES)
def test_processes_are_within_cores_and_memory_and_all_of_use(work: GpuWork, machine: GpuMachine) -> None:
    each = gpu_processes(work, machine).each
    assert each >= 1
    if each > 1:
        assert each * work.device_bytes <= MEMORY_SHARE * machine.gpu_bytes
        assert each * machine.gpus * PROCESS_BYTES <= machine.memory_bytes
        assert (each - 1) * CORES_PER_PROCESS * machine.gpus < machine.cores
        assert (each - 1) * CORES_PER_PROCESS * work.network_seconds < work.core_seconds


@given(WORKS, MACHINES, st.integers(1, 64), st.floats(1, 100))
def test_more_cores_never_lead_to_fewer_processes_and_slower_networks_never_to_more(
    work: GpuWork, machine: GpuMachine, cores: int, times: float
) -> None:
    each = gpu_processes(work, machine).each
    larger = GpuMachine(machine.gpus, machine.gpu_bytes, machine.cores + cores, machine.memory_bytes)
    assert gpu_processes(work, larger).each >= each
    slower = GpuWork(work.network_seconds * times, work.core_seconds, work.device_bytes)
    assert gpu_processes(slower, machine).each <= each


def test_gpus_that_are_no_numbers_are_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    for asked in ("GPU-5f2c", "0,x"):
        command = ["run", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--gpus", asked]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 2
        assert result.stderr == f"error: settings: gpus: must be all|0,1 (got {asked!r})\n"
        with pytest.raises(UsageError, match=rf"^gpus: must be all\|0,1 \(got '{asked}'\)$"):
            WorkerSettings(gpus=asked)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
