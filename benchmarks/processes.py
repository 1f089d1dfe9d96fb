"""Processes that are measured: one at a time, with the memory of all their children."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

LOCK = "WSI_SEG_BENCH_LOCK"
PERIOD = 0.1  # seconds between two looks at the memory


@contextmanager
def alone() -> Iterator[None]:
    """Hold a lock on the file that $WSI_SEG_BENCH_LOCK names, as flock(1) does; nothing where it is unset.

    Programmes that respect it then do not run at the same time.
    """
    path = os.environ.get(LOCK)
    if not path:
        yield
        return
    with Path(path).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def watch(command: Sequence[str | Path], log: Path) -> tuple[float, float, list[tuple[float, int]]]:
    """Run a command and return the times of its start and end, and its memory over time in bytes.

    Raises:
        SystemExit: the command failed.
    """
    with log.open("w") as file:
        start = time.time()
        process = psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        memory = []
        while process.poll() is None:
            memory.append((time.time(), resident(process)))
            time.sleep(PERIOD)
        end = time.time()
    if process.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise SystemExit(f"{command[0]} {command[1]} failed with exit code {process.returncode}:\n{tail}")
    return start, end, memory


def resident(process: psutil.Process) -> int:
    """Return the resident bytes of a process and its children; of one that has ended, 0."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for one in family:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total
