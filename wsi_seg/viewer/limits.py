"""What bounds the server: work done at a time, work that waits, and bytes that are kept."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

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


class Kept(Generic[Value]):
    """The values that were used last, as many as their weights allow; for any number of threads."""

    def __init__(
        self,
        most: int,
        weight: Callable[[Value], int] = lambda _: 1,
        let_go: Callable[[Value], None] = lambda _: None,
    ) -> None:
        """Make an empty store.

        Args:
            most: sum of the weights, at most.
            weight: of a value, such as its bytes.
            let_go: told of each value that is dropped.
        """
        self._most, self._weight, self._let_go = most, weight, let_go
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._lock = threading.Lock()
        self.held = 0
        """Sum of the weights."""

    def get(self, key: Hashable) -> Value | None:
        """Return the value of a key, None where it is not held."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Hashable, value: Value) -> None:
        """Keep a value, and drop those that were used longest ago; one that is too heavy is not kept."""
        dropped = []
        with self._lock:
            old = self._values.pop(key, None)
            if old is not None:
                self.held -= self._weight(old)
                dropped.append(old)
            self._values[key] = value
            self.held += self._weight(value)
            while self.held > self._most:
                _, oldest = self._values.popitem(last=False)
                self.held -= self._weight(oldest)
                dropped.append(oldest)
        for one in dropped:
            if one is not value:
                self._let_go(one)

    def get_or_make(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made where it is not held."""
        value = self.get(key)
        if value is None:
            value = make()
            self.put(key, value)
        return value
