"""Limits of the server: work done at a time, and work that waits."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from wsi_seg.viewer.responses import Refused

Value = TypeVar("Value")

# Requests worked on at a time; more threads than cores, for some wait for the disk.
THREADS = min(8, max(4, os.cpu_count() or 1))
# Requests that may wait for those. A browser asks for a screen of tiles at once, and several may look.
MOST_WAITING = 256


class ThreadLimiter:
    """Does blocking work in a bounded number of threads, and refuses what would wait too long."""

    def __init__(self, threads: int = THREADS, most_waiting: int = MOST_WAITING) -> None:
        self._limiter = anyio.CapacityLimiter(threads)
        self._most = threads + most_waiting
        self._present = 0  # the event loop alone changes it

    async def run(self, function: Callable[[], Value]) -> Value:
        """Return what `function` returns, called in a thread.

        Raises:
            Refused: 503, too much waits already.
        """
        if self._present >= self._most:
            raise Refused(503, "the server is busy; ask again in a moment")
        self._present += 1
        try:
            return await anyio.to_thread.run_sync(function, limiter=self._limiter)
        finally:
            self._present -= 1
