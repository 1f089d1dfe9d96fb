"""GPUs that a scheduler gave to this process: their entries in a mask, and the cores near each.

Sources: CUDA C++ Programming Guide, "CUDA Environment Variables" (CUDA_VISIBLE_DEVICES); NVIDIA's MIG User
Guide, "CUDA Device Enumeration"; sbatch(1) and srun(1), "Output environment variables".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from wsi_seg.core.errors import UsageError

CUDA_DEVICES = "CUDA_VISIBLE_DEVICES"
# ROCm's name for the same; it goes before CUDA's there.
HIP_DEVICES = "HIP_VISIBLE_DEVICES"
# Numbers that SLURM gives to the GPUs of a step and of a job, on the whole node.
SLURM_DEVICES = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
# SLURM numbers GPUs by their place on the PCI bus; CUDA does where this says so.
CUDA_ORDER, PCI_ORDER = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
# Variable of a worker process with the cores that it keeps to.
CORES = "WSI_SEG_CORES"
# An entry of a mask: a number, the UUID of a GPU or of a part of one, or the beginning of a UUID.
ENTRY = re.compile(r"\+?\d|GPU-|MIG-")
PART = "MIG-"


def valid_entries(mask: str) -> tuple[str, ...]:
    """Return the entries of a mask as CUDA reads it: up to the first that is no device, none if one repeats.

    Args:
        mask: value of `CUDA_VISIBLE_DEVICES`, such as "2,3", "GPU-8932f937,GPU-d72c8a12" or "MIG-0b1c…".
    """
    entries = tuple(itertools.takewhile(ENTRY.match, (entry.strip() for entry in mask.split(","))))
    return entries if len(set(entries)) == len(entries) else ()


def given_gpus(environment: Mapping[str, str], count: int) -> tuple[str, ...]:
    """Return the mask entry of each GPU that this process was given, in the order of their numbers.

    Args:
        environment: of this process.
        count: devices that CUDA counts in it.

    Returns:
        Entries of `CUDA_VISIBLE_DEVICES`, verbatim, no more than CUDA finds; of parts of GPUs (MIG) all, as
        CUDA counts one at most in a process. Without a mask the numbers of SLURM where more GPUs are visible
        than it gave, as on nodes whose cgroups leave devices alone; else 0, 1, ….
    """
    mask = environment.get(CUDA_DEVICES)
    if mask is not None:
        entries = valid_entries(mask)
        parts = bool(entries) and entries[0].startswith(PART)
        return entries if parts and count else entries[:count]
    own = slurm_mask(environment, count)
    return tuple(map(str, range(count))) if own is None else valid_entries(own[1])


def slurm_mask(environment: Mapping[str, str], count: int) -> tuple[str, str] | None:
    """Return SLURM's list of GPUs, and the variable that has it, where it names fewer than CUDA counts."""
    for name in SLURM_DEVICES:
        entries = environment.get(name, "").split(",")
        if all(map(str.isdecimal, entries)):
            return (name, environment[name]) if len(entries) < count else None
    return None


def environment_of_one(environment: Mapping[str, str], index: int, count: int) -> dict[str, str]:
    """Return what the environment of a process has, besides this one's, that sees a single GPU.

    Args:
        environment: of this process.
        index: number of the GPU among those given to this process, from 0.
        count: devices that CUDA counts here; without a mask, and where there is no CUDA, any index will do.

    Raises:
        UsageError: the mask of this process has fewer devices.
    """
    own = {CUDA_DEVICES: str(index)}
    if CUDA_DEVICES in environment:
        own = {CUDA_DEVICES: _entry(CUDA_DEVICES, environment[CUDA_DEVICES], index)}
    elif slurm := slurm_mask(environment, count):
        own = {CUDA_DEVICES: _entry(*slurm, index), CUDA_ORDER: PCI_ORDER}
    if environment.get(HIP_DEVICES):
        own[HIP_DEVICES] = _entry(HIP_DEVICES, environment[HIP_DEVICES], index)
    return own


def _entry(variable: str, mask: str, index: int) -> str:
    entries = valid_entries(mask)
    if not 0 <= index < len(entries):
        raise UsageError(
            f"{variable}={mask!r}: names no device number {index}; correct it, or give other --gpus"
        )
    return entries[index]


def cores_near(pci_address: str, given: set[int], sys: Path = Path("/sys")) -> set[int]:
    """Return those of the given cores that are next to a device, as Linux names them; all where it does not.

    Args:
        pci_address: such as "0000:3b:00.0".
        given: numbers of the cores that this process may use.
        sys: where sysfs is mounted.
    """
    path = sys / "bus" / "pci" / "devices" / pci_address.lower() / "local_cpulist"
    try:
        near = parse_cores(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no Linux, a virtual machine without it, or a bus that is hidden
        return given
    return (given & near) or given


def parse_cores(text: str) -> set[int]:
    """Return the numbers of a list of cores as Linux writes it, such as "0-3,8"; ValueError if it is none."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def format_cores(cores: set[int]) -> str:
    """Return a list of cores that `parse_cores` reads."""
    return ",".join(map(str, sorted(cores)))
