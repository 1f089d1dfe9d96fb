"""The places of tasks in flight on a Dask scheduler, which slides share."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from wsi_seg.core.errors import Interrupted
from wsi_seg.execution.graph import RESUME

if TYPE_CHECKING:
    from distributed import Future

# Longest wait for a place at a time.
POLL_SECONDS = 2.0

Ended: TypeAlias = "queue.SimpleQueue[Future[Any] | None]"
"""Futures of a caller that have ended; None: there is a place for its next task."""
Rank: TypeAlias = tuple[bool, int]
"""Of a caller's next task, the lowest first: False for a task that goes first, then the caller's number."""


class InFlightLimiter:
    """A bound on the tasks in flight, over all slides; a place that is free goes to the lowest rank."""

    def __init__(self) -> None:
        self.limit = self.highest_limit = self.peak = 0
        self._count = 0
        self._wanted: dict[Ended, Rank] = {}
        """Callers that found no place, and the rank of their next task."""
        self._exclusive: int | None = None
        """Thread that has all places for itself."""
        self._closed = False
        self._changed = threading.Condition()

    def set_limit(self, limit: int) -> None:
        with self._changed:
            self.limit, self.highest_limit = limit, max(self.highest_limit, limit)
            self._offer()

    def acquire(self, caller: Ended, rank: Rank, *, wait: bool) -> bool:
        """Take a place; return whether there was one, where asked to wait within some seconds.

        A caller that got none is sent None once there is one for it.
        """
        with self._changed:
            self._wanted[caller] = rank
            if wait:
                self._changed.wait_for(lambda: self._free(caller) or self._closed, POLL_SECONDS)
            self.raise_if_closed()
            if not self._free(caller):
                return False
            del self._wanted[caller]
            self._count += 1
            self.peak = max(self.peak, self._count)
            return True

    def release(self, places: int = 1) -> None:
        with self._changed:
            self._count -= places
            self._offer()

    def leave(self, caller: Ended, places: int) -> None:
        """Give back places; the caller wants none any more."""
        with self._changed:
            self._wanted.pop(caller, None)
            self._count -= places
            self._offer()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Wait until nothing is in flight; then only this thread may take places."""
        with self._changed:
            self._changed.wait_for(lambda: self._exclusive is None or self._closed)
            self.raise_if_closed()
            self._exclusive = threading.get_ident()
            self._changed.wait_for(lambda: self._count == 0 or self._closed)
        try:
            self.raise_if_closed()
            yield
        finally:
            with self._changed:
                self._exclusive = None
                self._offer()

    def close(self) -> None:
        """Let nobody take or wait for a place any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def raise_if_closed(self) -> None:
        if self._closed:
            raise Interrupted(RESUME)

    def _free(self, caller: Ended) -> bool:
        if self._exclusive is None:
            goes_first = caller is self._lowest()
        else:
            goes_first = self._exclusive == threading.get_ident()
        return goes_first and self._count < self.limit

    def _lowest(self) -> Ended:
        return min(self._wanted, key=self._wanted.__getitem__)

    def _offer(self) -> None:
        """Wake those who wait for a place."""
        self._changed.notify_all()
        if self._wanted:
            self._lowest().put(None)
