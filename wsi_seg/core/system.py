"""What the operating system says of this process and of others on its machine."""

from __future__ import annotations

import os
import platform
import re
import resource
import socket
from pathlib import Path

_PROC = Path("/proc")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = _PROC / "self" / "status"
    if status.exists():
        # On Linux ru_maxrss may still hold the size of the process that started this one; VmHWM does not.
        kib = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
        if kib is not None:
            return int(kib[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def machine() -> str:
    """Return a name of the place where process ids count: host, boot and, in a container, its namespace."""
    boot = _PROC / "sys" / "kernel" / "random" / "boot_id"
    parts = [socket.gethostname(), boot.read_text(encoding="utf-8").strip() if boot.exists() else ""]
    namespace = _PROC / "self" / "ns" / "pid"
    if namespace.is_symlink():
        parts.append(str(namespace.readlink()))
    return " ".join(parts)


def started_at(pid: int) -> str:
    """Return when a process of this machine started, in the kernel's ticks; "" if it does not run.

    With it a process is told from a later one that got the same number. Where there is no /proc it is
    "running" for all that run.
    """
    if not (_PROC / "self" / "stat").exists():
        return "running" if _runs(pid) else ""
    try:
        fields = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    # The name in brackets may hold spaces; the state is the first field after it, the start time the 20th.
    state, *rest = fields.rpartition(")")[2].split()
    return "" if state in "ZX" else rest[18]


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
