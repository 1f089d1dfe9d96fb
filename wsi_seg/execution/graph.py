"""Doing tasks, on Dask's graph: on threads of this process or one by one; in others, see `cluster`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from dask.base import compute
from dask.delayed import delayed
from dask.local import SynchronousExecutor as SynchronousExecutor
from dask.local import get_sync
from dask.threaded import get as get_threaded

from wsi_seg.core.errors import Interrupted
from wsi_seg.core.threads import cancellable
from wsi_seg.execution.tasks import hold_forward_pools, release_forward_pools

Task = TypeVar("Task")
Result = TypeVar("Result")

GO_ON = "interrupted; run the same command again to resume"


@dataclass(frozen=True, slots=True)
class Flight:
    """Tasks that are handed out and not back yet, of all slides that share the workers."""

    tasks: int
    """The most at a time, so far."""
    limit: int
    """Their limit, the highest so far."""


class Workers(AbstractContextManager["Workers"], ABC):
    """Where tasks are done. Several slides may share one, each from a thread of its own."""

    @property
    @abstractmethod
    def flight(self) -> Flight:
        """Tasks in flight so far, and their limit."""

    @property
    def dashboard(self) -> str | None:
        """Address of a page that shows the workers at work, if there is one that answers."""
        return None

    @abstractmethod
    def execute(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[tuple[str, Task]],
        *,
        threads: int,
        on_result: Callable[[Result], None],
        on_killed: Callable[[Task], Result] | None = None,
    ) -> None:
        """Run `function` once for each task and hand every result to `on_result` as it comes.

        Args:
            function: importable, idempotent; takes a task and returns a small record.
            tasks: (key, task) pairs; keys are unique and the same for the same work.
            threads: tasks at a time in one process.
            on_result: called in the caller's thread, in the order of completion.
            on_killed: makes the result of a task that ends each process that tries it.

        Raises:
            Interrupted: Ctrl-C, or `stop`; running tasks were cancelled and have ended.
            ClusterError: the workers are gone.
            WsiSegError: whatever a task raised.
        """

    def call(self, function: Callable[[Task], Result], key: str, task: Task) -> Result:
        """Do one task, which takes no device, while the caller waits; see `execute`."""
        results: list[Result] = []
        self.execute(function, [(key, task)], threads=1, on_result=results.append)
        return results[0]

    @abstractmethod
    def stop(self) -> None:
        """Make all that executes, in other threads, end with Interrupted; for good."""

    @abstractmethod
    def close(self) -> None:
        """Release the workers."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LocalWorkers(Workers):
    """Threads of this process."""

    def __init__(self, *, together: int | None = None, synchronous: bool = False) -> None:
        """Make the workers.

        Args:
            together: threads that all callers share; None: each call of `execute` has its own.
            synchronous: no threads: one task after another in the caller's, for debugging.
        """
        self._synchronous = synchronous
        self._shared = ThreadPoolExecutor(together, "block") if together and not synchronous else None
        self._stopped = threading.Event()
        self._running: set[_Running] = set()
        self._together, self._limit = together, 0
        self._busy, self._lock = _Busy(), threading.Lock()
        hold_forward_pools()

    @property
    def flight(self) -> Flight:
        """See `Workers.flight`; here a task is in flight while a thread is at it."""
        return Flight(self._busy.peak, self._limit)

    def execute(
        self,
        function: Callable[[Task], Result],
        tasks: Sequence[tuple[str, Task]],
        *,
        threads: int,
        on_result: Callable[[Result], None],
        on_killed: Callable[[Task], Result] | None = None,
    ) -> None:
        """See `Workers.execute`."""
        with self._watched(1 if self._synchronous else threads) as running:
            graph = [
                delayed(running.call, name="task", pure=False, traverse=False)(
                    function, task, dask_key_name=key
                )
                for key, task in tasks
            ]
            if self._synchronous:
                self._compute(graph, on_result, scheduler=get_sync)
            elif self._shared is not None:
                self._compute(graph, on_result, scheduler=get_threaded, pool=self._shared)
            else:
                with ThreadPoolExecutor(threads, "block") as pool:
                    self._compute(graph, on_result, scheduler=get_threaded, pool=pool)

    def call(self, function: Callable[[Task], Result], key: str, task: Task) -> Result:
        """See `Workers.call`; it is done in the caller's thread, next to the blocks of other slides."""
        with self._watched(0) as running, cancellable(running.cancelled):
            return function(task)

    @staticmethod
    def _compute(nodes: list[Any], on_result: Callable[[Any], None], **how: Any) -> None:
        def finished(key: str, result: Any, graph: Any, state: Any, worker: Any) -> None:
            on_result(result)

        # Schedulers are given as functions: for the name of one, Dask first imports `distributed`, for 0.2 s.
        # (start, start_state, pretask, posttask, finish), as dask.callbacks.Callback has them. As a context
        # manager that would be called for what other threads compute, too.
        callback = (None, None, None, finished, None)
        compute(*nodes, optimize_graph=False, callbacks=[callback], **how)

    @contextmanager
    def _watched(self, threads: int) -> Iterator[_Running]:
        """Whatever ends the block early, no task of it goes on behind its back."""
        running = _Running(threads, self._busy)
        with self._lock:
            self._running.add(running)
            own = sum(one.threads for one in tuple(self._running))
            self._limit = max(self._limit, own if self._shared is None else self._together or 0)
        try:
            if self._stopped.is_set():
                raise Interrupted(GO_ON)
            yield running
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted(GO_ON) from None
        finally:
            running.end()
            self._running.discard(running)

    def stop(self) -> None:
        """See `Workers.stop`."""
        self._stopped.set()
        for running in tuple(self._running):
            running.cancelled.set()

    def close(self) -> None:
        """End the threads."""
        if self._shared is not None:
            self._shared.shutdown(cancel_futures=True)
        release_forward_pools()


class _Busy:
    """Counts the threads that are at a task, over all callers."""

    def __init__(self) -> None:
        self.peak = 0
        self._now = 0
        self._lock = threading.Lock()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.peak = max(self.peak, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


class _Running:
    """The tasks of one call of `execute`, which may be cancelled."""

    def __init__(self, threads: int, busy: _Busy) -> None:
        self.threads = threads
        self.cancelled = threading.Event()
        self._busy = busy
        self._active = 0
        self._changed = threading.Condition()

    def call(self, function: Callable[[Task], Result], task: Task) -> Result:
        with self._changed:
            self._active += 1
        try:
            with cancellable(self.cancelled), self._busy.one_more():
                return function(task)
        finally:
            with self._changed:
                self._active -= 1
                self._changed.notify_all()

    def end(self) -> None:
        """Stop, and wait until nothing runs."""
        self.cancelled.set()
        with self._changed:
            self._changed.wait_for(lambda: self._active == 0)
