"""Work on threads: done ahead of whoever uses its results, and cancelled where its run is to end."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from wsi_seg.core.errors import Interrupted
from wsi_seg.core.system import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

# NumPy and the codecs let other threads run, Python does not: more threads than these wait for each other.
MOST_THREADS = 8


class InOrder(AbstractContextManager["InOrder[Result]"], Generic[Result]):
    """Results of submitted work in the order of submission, with a bounded number of them pending.

    On exit, work that has not started is cancelled, and what runs is waited for.
    """

    def __init__(self, most: int) -> None:
        """Make an empty window of at most `most` pending futures."""
        self._most = most
        self._pending: deque[Future[Result]] = deque()

    def put(self, future: Future[Result]) -> Iterator[Result]:
        """Add a future; yield the first result, once it is there, where more than `most` are pending."""
        self._pending.append(future)
        if len(self._pending) > self._most:
            yield self._pending.popleft().result()

    def rest(self) -> Iterator[Result]:
        """Yield all results that are left."""
        while self._pending:
            yield self._pending.popleft().result()

    def __exit__(self, *error: object) -> None:
        for future in self._pending:
            future.cancel()
        wait(self._pending)


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield `function(item)` of each item, in their order, while threads work on the next few.

    Args:
        function: called in other threads, several at a time.
        items: taken in the caller's thread, no more than one for each thread ahead of what was yielded.
    """
    threads = min(usable_cores(), MOST_THREADS)
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, "ahead") as pool, InOrder[Result](threads) as results:
        for item in items:
            yield from results.put(pool.submit(function, item))
        yield from results.rest()


class Signal(Protocol):
    """A flag that another thread may set, such as `threading.Event`."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class AnySignal:
    """Set as soon as one of several signals is."""

    signals: tuple[Signal, ...]

    def is_set(self) -> bool:
        return any(signal.is_set() for signal in self.signals)


class _Current(threading.local):
    """Thread-local cancellation token."""

    cancelled: Signal | None = None


_current = _Current()


@contextmanager
def cancellable(cancelled: Signal) -> Iterator[None]:
    """Let work in this thread raise Interrupted at its next `raise_if_cancelled` once the signal is set.

    Raises:
        Interrupted: it is set already.
    """
    before, _current.cancelled = _current.cancelled, cancelled
    try:
        raise_if_cancelled(cancelled)
        yield
    finally:
        _current.cancelled = before


def cancellation() -> Signal | None:
    """Return the signal that cancels this thread's work, to be handed to other threads; None without one."""
    return _current.cancelled


def raise_if_cancelled(cancelled: Signal | None) -> None:
    """Raise Interrupted if the signal is set."""
    if cancelled is not None and cancelled.is_set():
        raise Interrupted("interrupted")


def until_cancelled(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items; raises Interrupted once this thread's work is cancelled, see `cancellable`."""
    for item in items:
        raise_if_cancelled(cancellation())
        yield item
