"""Processes that are measured: one at a time, with the memory of all their children."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

LOCK = "WSI_SEG_BENCH_LOCK"
PERIOD = 0.1  # seconds between two looks at the memory
RESERVE = 3 * 2**29  # bytes that are left to the rest of the machine


@contextmanager
def alone() -> Iterator[None]:
    """Hold a lock on the file that $WSI_SEG_BENCH_LOCK names, as flock(1) does; nothing where it is unset.

    Programs that respect it then do not run at the same time.
    """
    path = os.environ.get(LOCK)
    if not path:
        yield
        return
    with Path(path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class OutOfMemory(Exception):
    """A process was ended before it took the memory of the whole machine."""

    def __init__(self, seconds: float, peak: int) -> None:
        super().__init__(f"ran out of memory after {seconds:.0f} s, at {peak / 2**20:.0f} MiB")
        self.seconds, self.peak = seconds, peak


def watch(command: Sequence[str | Path], log: Path) -> tuple[float, float, list[tuple[float, int]]]:
    """Run a command and return the times of its start and end, and its memory over time in bytes.

    Raises:
        OutOfMemory: it was ended because the machine had less than RESERVE left.
        SystemExit: the command failed.
    """
    with log.open("w") as file:
        start = time.time()
        process = psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        memory = []
        while process.poll() is None:
            memory.append((time.time(), resident(process)))
            if psutil.virtual_memory().available < RESERVE:
                end_all(process)
                raise OutOfMemory(time.time() - start, max(size for _, size in memory))
            time.sleep(PERIOD)
        end = time.time()
    if process.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise SystemExit(f"{command[0]} {command[1]} failed with exit code {process.returncode}:\n{tail}")
    return start, end, memory


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and its children; nothing for one that has ended."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def resident(process: psutil.Process) -> int:
    """Return the resident bytes of a process and its children."""
    total = 0
    for one in family(process):
        with suppress(psutil.NoSuchProcess):
            total += one.memory_info().rss
    return total


def end_all(process: psutil.Popen) -> None:
    """End a process and its children, and wait until their memory is free."""
    members = family(process)
    for one in members:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(members)
    process.wait()
