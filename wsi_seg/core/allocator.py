"""Settings of glibc's allocator that save a run a fifth of its core-seconds, for more memory.

On two cores (Intel Xeon with AMX) a slide of 8192² with 12 tiles took 42.1 core-seconds and 3181 MiB with
them, 54.6 and 2456 MiB without: benchmarks/allocator.py. One or two of the three settings alone save little.
"""

from __future__ import annotations

import ctypes
import platform

# Parameters of mallopt(3) in glibc's malloc.h, and what they are set to.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
SETTINGS = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1))


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what comes next, and share it between threads.

    Every tile needs the same large arrays again. By default each goes back to the system when it is freed,
    and the system clears every page of the next one. A single arena, as otherwise each thread would keep
    memory of its own. For programs only: a library does not set the allocator of its host. Other C libraries
    than glibc are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in SETTINGS:
        mallopt(parameter, value)
