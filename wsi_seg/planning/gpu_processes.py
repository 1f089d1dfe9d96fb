"""How many processes share a GPU: as many as keep it busy, within its memory, the cores, and their memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Seconds of a core for a megapixel of the map, besides the network: decoding, compression, pyramids, polygons
# and picture of a slide at the map's resolution with 21 classes (`benchmarks/results/beside.json`).
CORE_SECONDS = 0.045
# Cores that one process keeps busy, as Python does one thing at a time: 1.7 of two were seen without a
# network (`beside.json`), 1.3 each with eight processes on 16 cores (`throughput_gpu.json`).
CORES_PER_PROCESS = 2
# Device memory of a process without any network: what CUDA and its libraries take.
CONTEXT_BYTES = 600 * 2**20
# Share of a device's memory that processes may plan with.
MEMORY_SHARE = 0.9
# float32 arrays on the device for each class and input pixel of a pass: logits, softmax, what is stitched.
PROBABILITIES = 3
# Device memory in that of arrays, as PyTorch keeps freed pieces of many sizes: with it eight processes are
# reckoned to take 29 GiB; 28 were seen (`throughput_gpu.json`).
SLACK = 1.6
# Memory of this machine for a process, which has CUDA's libraries and blocks of several slides in it.
PROCESS_BYTES = 3 * 2**30


@dataclass(frozen=True, slots=True)
class GpuWork:
    """Cost of a tile, and memory of a process."""

    network_seconds: float
    """Of the device, for a tile."""
    core_seconds: float
    """Of one core, for a tile."""
    device_bytes: float
    """Of the device's memory, for a process."""


@dataclass(frozen=True, slots=True)
class GpuMachine:
    """GPUs, cores and memory that processes share."""

    gpus: int
    gpu_bytes: int
    """Memory of the smallest of them."""
    cores: int
    memory_bytes: int
    """Of the machine, or what this run may take of it."""


@dataclass(frozen=True, slots=True)
class GpuProcesses:
    """How many processes each GPU gets, and why."""

    each: int
    why: str


def gpu_work(
    network_seconds: float,
    stride: int,
    pass_pixels: int,
    channels: int,
    activation_bytes: float,
    weights_bytes: int,
) -> GpuWork:
    """Return what a tile costs and a process takes.

    Args:
        network_seconds: of the forward pass of a tile alone, as measured on the device.
        stride: side of what is new of a tile, in map pixels.
        pass_pixels: input pixels of a forward pass.
        channels: classes of the network.
        activation_bytes: most bytes of activations alive at once, per input pixel.
        weights_bytes: of the network.
    """
    held = SLACK * pass_pixels * (activation_bytes + 4 * channels * PROBABILITIES)
    return GpuWork(network_seconds, CORE_SECONDS * stride**2 / 1e6, CONTEXT_BYTES + weights_bytes + held)


def gpu_processes(work: GpuWork, machine: GpuMachine) -> GpuProcesses:
    """Return how many processes each GPU gets: one at least, and no more than are of use.

    The network's time a tile and that of the cores say how many cores keep a GPU busy. A process keeps
    `CORES_PER_PROCESS` of them busy; more processes than that only take memory.
    """
    busy = work.core_seconds / work.network_seconds
    gib = f"{machine.gpu_bytes / 2**30:.0f} GiB"
    memory = f"{PROCESS_BYTES / 2**30:.0f} of {machine.memory_bytes / 2**30:.0f} GiB of memory"
    bounds = {
        "they keep it busy": math.ceil(busy / CORES_PER_PROCESS),
        f"there are {machine.cores} cores": math.ceil(machine.cores / machine.gpus / CORES_PER_PROCESS),
        f"a process takes {work.device_bytes / 2**30:.1f} of its {gib}": int(
            MEMORY_SHARE * machine.gpu_bytes // work.device_bytes
        ),
        f"a process takes {memory}": machine.memory_bytes // PROCESS_BYTES // machine.gpus,
    }
    limit = min(bounds, key=bounds.__getitem__)
    each = max(1, bounds[limit])
    times = (
        f"a tile takes the network {1e3 * work.network_seconds:.2g} ms and a core "
        f"{1e3 * work.core_seconds:.2g} ms, so {busy:.2g} cores keep a GPU busy"
    )
    return GpuProcesses(each, f"{times}; {each} for each GPU, as {limit}")
