"""Devices, and the number formats that they compute in."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from wsi_seg.core.errors import NoDeviceError, UsageError
from wsi_seg.core.gpus import cores_near, given_gpus
from wsi_seg.core.system import own_cores
from wsi_seg.inference.models.openvino import DEVICE, check_openvino

Precision = Literal["float32", "bf16", "fp16"]


def resolve_device(name: str) -> str:
    """Return the device that `name` stands for: "cpu", "openvino" or "cuda:N".

    Args:
        name: "auto" (the first CUDA device, else the CPU), "cpu", "openvino" (the CPU by way of OpenVINO),
            "cuda" or "cuda:N".

    Raises:
        UsageError: the name is unknown.
        NoDeviceError: there is no such device.
        MissingExtraError: OpenVINO is not installed.
    """
    if name == DEVICE:
        check_openvino()
        return name
    count = cuda_count()
    if name == "auto":
        return "cuda:0" if count else "cpu"
    if name == "cpu":
        return name
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdecimal()) or name.endswith(":"):
        raise UsageError(f"unknown device {name!r}; use auto, cpu, openvino, cuda or cuda:N")
    index = int(number or 0)
    if index >= count:
        there = f"CUDA devices here: {count}" if count else "no CUDA device is available"
        raise NoDeviceError(f"device {name!r}: {there}")
    return f"cuda:{index}"


def cuda_count() -> int:
    """Return how many devices CUDA counts in this process."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cuda_devices() -> tuple[int, ...]:
    """Return the numbers of the CUDA devices that this process was given, see `core.gpus.given_gpus`."""
    return tuple(range(len(given_gpus(os.environ, cuda_count()))))


def memory_of(index: int) -> int:
    """Return the bytes of memory of a CUDA device; of the first where CUDA does not count this one."""
    first = 0 if index >= cuda_count() else index  # such as a second part of a GPU: they are of one size
    return int(torch.cuda.get_device_properties(first).total_memory)


def cores_of(index: int) -> set[int]:
    """Return the cores of this process that are near a CUDA device; all where that is not known.

    Args:
        index: number of the device among those that CUDA counts in this process.
    """
    if index >= cuda_count():  # such as a second part of a GPU, of which CUDA shows one at a time
        return own_cores()
    found: Any = torch.cuda.get_device_properties(index)  # PyTorch's types lack these
    address = f"{found.pci_domain_id:04x}:{found.pci_bus_id:02x}:{found.pci_device_id:02x}.0"
    return cores_near(address, own_cores())


def device_elsewhere(name: str, precision: str) -> tuple[str, Precision]:
    """Return the device and precision of workers on other machines, which cannot be looked at from here.

    Raises:
        UsageError: a choice was left open that only the machine itself could make, or is unknown.
    """
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and (kind != "cuda" or not number.isdecimal())):
        raise UsageError(
            f"device {name!r}: what workers on other machines have is unknown here; "
            "give --device cuda or --device cpu"
        )
    if precision == "auto":
        return ("cpu", resolve_precision("auto", "cpu")) if kind == "cpu" else (f"cuda:{number or 0}", "fp16")
    if precision not in get_args(Precision):
        raise UsageError(
            f"unknown precision {precision!r}; use one of auto, {', '.join(get_args(Precision))}"
        )
    return "cpu" if kind == "cpu" else f"cuda:{number or 0}", cast("Precision", precision)


def resolve_precision(name: str, device: str) -> Precision:
    """Return the number format of the forward pass: "float32", "bf16" or "fp16".

    Args:
        name: one of these, or "auto": bf16 where the device computes it in hardware, else float32.
        device: from `resolve_device`.

    Raises:
        UsageError: the name is unknown, or the device does not offer this precision.
    """
    cuda = device.startswith("cuda")
    if name == "auto":
        return "bf16" if (_cuda_has_bf16(device) if cuda else _cpu_has_bf16()) else "float32"
    if name not in get_args(Precision):
        raise UsageError(f"unknown precision {name!r}; use one of auto, {', '.join(get_args(Precision))}")
    if name == "fp16" and not cuda:
        raise UsageError(f"precision 'fp16' needs a CUDA device, not {device!r}; use bf16 or float32")
    return cast(Precision, name)


def _cuda_has_bf16(device: str) -> bool:
    # bfloat16 came to the tensor cores with compute capability 8.0; before, it is emulated.
    return torch.cuda.get_device_capability(device)[0] >= 8


def _cpu_has_bf16() -> bool:
    """Return True if the CPU multiplies bfloat16 in hardware; False where that is unknown."""
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
