"""Cores, memory and start of processes, as the operating system has them."""

from __future__ import annotations

import os
import re
import resource
import socket
from pathlib import Path

import psutil

_PROC = Path("/proc")


def own_cores() -> set[int]:
    """Return the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(own_cores())


def usable_memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use: of the machine, or of its control group (v2).

    Args:
        root: of the file system that has `proc` and `sys`.
    """
    limits = [psutil.virtual_memory().total]
    try:
        groups = (root / "proc" / "self" / "cgroup").read_text(encoding="utf-8")
    except OSError:  # no Linux
        return limits[0]
    found = re.search(r"^0::/(.*)$", groups, re.MULTILINE)
    folder = Path("sys", "fs", "cgroup")
    place = folder / found[1] if found else folder
    for group in (place, *place.parents):  # the least of its own and of those around it
        path = root / group / "memory.max"
        if path.is_file() and (text := path.read_text(encoding="utf-8").strip()).isdecimal():
            limits.append(int(text))
    return min(limits)


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far, in bytes; psutil does not tell it."""
    status = _PROC / "self" / "status"
    if status.exists():
        # On Linux ru_maxrss may still hold the size of the process that started this one; VmHWM does not.
        kib = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
        if kib is not None:
            return int(kib[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if psutil.MACOS else peak * 1024


def machine() -> str:
    """Return a name of the place where process ids count: host, boot and, in a container, its namespace."""
    boot = _PROC / "sys" / "kernel" / "random" / "boot_id"
    parts = [socket.gethostname(), boot.read_text(encoding="utf-8").strip() if boot.exists() else ""]
    namespace = _PROC / "self" / "ns" / "pid"
    if namespace.is_symlink():
        parts.append(str(namespace.readlink()))
    return " ".join(parts)


def started_at(pid: int) -> str:
    """Return when a process of this machine started, in seconds after its boot; "" if it does not run.

    It distinguishes a process from a later one with the same number. Outside Linux, where setting the clock
    would change it, it is "running" for all that run.
    """
    if not psutil.LINUX:
        return "running" if psutil.pid_exists(pid) else ""
    boot = psutil.boot_time()  # the clock may be set between two calls of this function, not within one
    try:
        process = psutil.Process(pid)
        gone = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return "" if gone else f"{process.create_time() - boot:.2f}"
    except psutil.NoSuchProcess:
        return ""
