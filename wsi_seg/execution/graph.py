"""Tasks and where they run: `LocalWorkers`, threads of this process; `cluster.Cluster`, other processes."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from dask.base import compute
from dask.delayed import delayed
from dask.local import SynchronousExecutor as SynchronousExecutor
from dask.local import get_sync
from dask.threaded import get as get_threaded

from wsi_seg.core.errors import Interrupted
from wsi_seg.core.threads import AnySignal, cancellable, cancellation, raise_if_cancelled
from wsi_seg.execution.tasks import hold_forward_pools, release_forward_pools

Task = TypeVar("Task")
Result = TypeVar("Result")

RESUME = "interrupted; run the same command again to resume"
# How often a task that waits for a place looks whether its caller's work is cancelled.
LOOK_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Flight:
    """Tasks in flight (submitted and not completed), of all slides that share the workers."""

    tasks: int
    """The most at a time, so far."""
    limit: int
    """The highest limit, so far."""


@dataclass(frozen=True, slots=True)
class TaskSet(Generic[Task, Result]):
    """Tasks for one function, what they wait for, and the receiver of their results."""

    function: Callable[[Task], Result]
    """Importable and idempotent; takes a task and returns a small record."""
    tasks: Sequence[tuple[str, Task]]
    """(key, task) pairs; keys are unique and the same for the same work."""
    on_result: Callable[[Result], None]
    """Called in the caller's thread with each result, in the order of completion."""
    after: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Keys of tasks that wait, and of those they wait for, which come before them in `tasks`; the key of no
    task is that of one which is done. Tasks named here go before others, also of other callers."""
    threads: int = 1
    """Tasks at a time in this process; other processes have their number of threads."""
    on_killed: Callable[[Task], Result] | None = None
    """Makes the result of a task that kills each process that tries it; None: that is an error."""


class Workers(AbstractContextManager["Workers"], ABC):
    """Where tasks run. Several slides may share one, each from a thread of its own."""

    @property
    @abstractmethod
    def flight(self) -> Flight:
        """Return how many tasks have been in flight."""

    @property
    def dashboard(self) -> str | None:
        """Address of a page that shows the workers at work, if there is one that answers."""
        return None

    @abstractmethod
    def execute(self, work: TaskSet[Task, Result]) -> None:
        """Run every task once.

        Raises:
            Interrupted: Ctrl-C, `stop`, or the caller's work is cancelled, see `core.threads.cancellable`;
                running tasks were cancelled and have ended.
            ClusterError: the workers are gone.
            WsiSegError: raised by a task.
        """

    @abstractmethod
    def stop(self) -> None:
        """Make all that executes, in other threads, end with Interrupted; for good."""

    @abstractmethod
    def close(self) -> None:
        """Release the workers."""

    def __exit__(self, *error: object) -> None:
        self.close()


class LocalWorkers(Workers):
    """Threads of this process."""

    def __init__(self, *, shared_threads: int | None = None, synchronous: bool = False) -> None:
        """Make the workers.

        Args:
            shared_threads: tasks at a time of all callers together, the earliest caller's first; those that
                go first are not counted. None: each call of `execute` has its own threads alone.
            synchronous: run one task after another in the caller's thread, for debugging.
        """
        self._synchronous = synchronous
        self._shared_threads, self._limit = None if synchronous else shared_threads, 0
        self._stopped = threading.Event()
        self._running: list[_RunningTasks] = []
        self._peak = 0
        self._changed = threading.Condition()
        hold_forward_pools()

    @property
    def flight(self) -> Flight:
        """See `Workers.flight`; here a task is in flight while a thread runs it."""
        return Flight(self._peak, self._limit)

    def execute(self, work: TaskSet[Task, Result]) -> None:
        """See `Workers.execute`."""
        with self._running_tasks(1 if self._synchronous else work.threads) as running:
            run = delayed(partial(self._run, running, work.function), name="task", pure=False, traverse=False)
            made: dict[str, Any] = {}
            for key, task in work.tasks:
                below = (made[other] for other in work.after.get(key, ()) if other in made)
                made[key] = run(key in work.after, task, *below, dask_key_name=key)
            tasks = list(made.values())
            if self._synchronous:
                self._compute(tasks, work.on_result, scheduler=get_sync)
            else:
                with ThreadPoolExecutor(work.threads, "block") as pool:
                    try:
                        self._compute(tasks, work.on_result, scheduler=get_threaded, pool=pool)
                    finally:
                        running.ended.set()  # before the pool waits for what still runs

    def _run(
        self,
        running: _RunningTasks,
        function: Callable[[Task], Result],
        goes_first: bool,
        task: Task,
        *done: Any,
    ) -> Result:
        """Run a task once those it waits for are done, and there is a place for it."""
        counted = self._shared_threads is None or not goes_first
        with self._place(running) if counted else nullcontext(), cancellable(running.cancelled):
            return function(task)

    @contextmanager
    def _place(self, running: _RunningTasks) -> Iterator[None]:
        """Take a place among the tasks of all callers, once there is one."""
        with self._changed:
            running.waiting += 1
            try:
                while not self._place_for(running):
                    raise_if_cancelled(running.cancelled)
                    self._changed.wait(LOOK_SECONDS)  # nobody says when a caller's work is cancelled
            finally:
                running.waiting -= 1
                self._changed.notify_all()
            running.active += 1
            self._peak = max(self._peak, sum(one.active for one in self._running))
        try:
            yield
        finally:
            with self._changed:
                running.active -= 1
                self._changed.notify_all()

    def _place_for(self, running: _RunningTasks) -> bool:
        if self._shared_threads is None:
            return True
        earlier = self._running[: self._running.index(running)]
        taken = sum(one.active for one in self._running)
        return taken < self._shared_threads and not any(one.waiting for one in earlier)

    @staticmethod
    def _compute(tasks: list[Any], on_result: Callable[[Any], None], **how: Any) -> None:
        def finished(key: str, result: Any, graph: Any, state: Any, worker: Any) -> None:
            on_result(result)

        # Schedulers are given as functions: for the name of one, Dask first imports `distributed`, for 0.2 s.
        # (start, start_state, pretask, posttask, finish), as dask.callbacks.Callback has them. As a context
        # manager that would be called for what other threads compute, too.
        callback = (None, None, None, finished, None)
        compute(*tasks, optimize_graph=False, callbacks=[callback], **how)

    @contextmanager
    def _running_tasks(self, threads: int) -> Iterator[_RunningTasks]:
        """Give a call of `execute` its place among others."""
        running = _RunningTasks(threads)
        with self._changed:
            self._running.append(running)
            own = sum(one.threads for one in self._running)
            self._limit = max(self._limit, self._shared_threads or own)
        try:
            if self._stopped.is_set() or running.cancelled.is_set():
                raise Interrupted(RESUME)
            yield running
        except (KeyboardInterrupt, Interrupted):
            raise Interrupted(RESUME) from None
        finally:
            with self._changed:
                self._running.remove(running)

    def stop(self) -> None:
        """See `Workers.stop`."""
        self._stopped.set()
        with self._changed:
            for running in self._running:
                running.ended.set()

    def close(self) -> None:
        """End the threads that predict."""
        release_forward_pools()


class _RunningTasks:
    """The tasks of one call of `execute`, which can be cancelled."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.ended = threading.Event()
        outer = cancellation()
        self.cancelled = AnySignal((self.ended,) if outer is None else (self.ended, outer))
        self.waiting = 0
        """Threads that wait for a place."""
        self.active = 0
        """Threads that have one."""
