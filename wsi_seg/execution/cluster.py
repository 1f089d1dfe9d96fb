"""Tasks in other processes, by Dask's distributed scheduler: of this machine, of SLURM, or at an address.

No pixels travel: a task names files, and its result is a small record. How many tasks are in flight,
for all slides together, is bounded by the driver and not by Dask's own queuing (`worker-saturation`): a
scheduler at an address has its own configuration, and a task whose process died is retried with nothing else
in flight. Over 506 blocks behind a slow writer at most 8 of 8 allowed tasks are in flight, and memory is
level (`benchmarks/results/flight.json`).
"""

from __future__ import annotations

import itertools
import json
import logging
import queue
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, Generic, cast
from urllib.request import ProxyHandler, build_opener

from distributed import CancelledError, Client, Future, KilledWorker

from wsi_seg.core.errors import ClusterError, Interrupted, UsageError
from wsi_seg.core.threads import cancellation
from wsi_seg.execution.device_failures import DeviceFailure, FailedWorkers, with_device_failure
from wsi_seg.execution.graph import RESUME, Flight, Result, Task, TaskSet, Workers
from wsi_seg.execution.in_flight import POLL_SECONDS, Ended, InFlightLimiter

if TYPE_CHECKING:
    from wsi_seg.execution.slurm import SlurmJobs

# Tasks in flight per worker thread: one that runs and one that waits.
IN_FLIGHT_PER_THREAD = 2
# Retries of a task that fails for reasons outside of it, such as an unreachable filesystem.
RETRIES = 2
# Attempts at a task that kills its process: one among others, which may have been the cause, the rest alone.
ATTEMPTS = 3
# What a key gets with each device that failed.
AGAIN = "-again"
NO_WORKERS_SECONDS = 600.0
DASHBOARD_SECONDS = 3.0
CONNECT_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Cluster(Workers):
    """Workers of a Dask scheduler; see `graph.Workers`."""

    def __init__(self, client: Client, started: ExitStack, jobs: SlurmJobs | None = None) -> None:
        """Take over a connected client; `started` is closed with this cluster, the client included.

        Where `jobs` hold the workers, lost ones are asked for again.
        """
        self._client, self._started, self._jobs = client, started, jobs
        self._limiter = InFlightLimiter()
        self._callers = itertools.count()
        self._address = client.scheduler.address if client.scheduler else "?"
        self._next_poll = 0.0
        self._failed = FailedWorkers(client, replaced=jobs is not None)
        with ExitStack() as failed:
            failed.callback(self.close)
            self._poll_workers()
            failed.pop_all()
        logger.info("%d worker threads", self._limiter.limit // IN_FLIGHT_PER_THREAD)

    @property
    def flight(self) -> Flight:
        """See `Workers.flight`; the limit falls and rises with the workers."""
        return Flight(self._limiter.peak, self._limiter.highest_limit)

    @property
    def dashboard(self) -> str | None:
        """See `graph.Workers.dashboard`; a scheduler has it where bokeh is installed."""
        try:
            link = self._client.dashboard_link
        except KeyError:  # it serves no pages at all
            return None
        return link if link and _has_plots(link) else None

    def execute(self, work: TaskSet[Task, Result]) -> None:
        """See `graph.Workers.execute`."""
        waiting, number = _Waiting(work.tasks, work.after), next(self._callers)
        try:
            while waiting.ready:
                killed: list[tuple[str, Task]] = []
                with closing(self._completed(work.function, waiting, number)) as completed:
                    for key, task, future in completed:
                        if _killed(future):
                            killed.append((key, task))
                            continue
                        result = self._result(future)
                        if isinstance(result, DeviceFailure):
                            self._failed.end(result)
                            self._next_poll = 0.0
                            waiting.put_back(key, result)
                        else:
                            work.on_result(result)
                            waiting.note_done(key)
                for key, task in killed:
                    work.on_result(self._retry_isolated(work, key, task))
                    waiting.note_done(key)
        except KeyboardInterrupt:
            raise Interrupted(RESUME) from None

    def _completed(
        self, function: Callable[[Task], Any], waiting: _Waiting[Task], number: int
    ) -> Generator[tuple[str, Task, Future[Any]], None, None]:
        """Submit tasks that are ready as the limit allows; yield each with its future as it ends.

        `number` is that of the caller: of tasks that are alike, those of earlier callers are submitted first.
        """
        in_flight: dict[Any, tuple[str, Task, Future[Any]]] = {}
        # Dask's `as_completed` has no timeout for a single result: without workers it waits forever.
        done: Ended = queue.SimpleQueue()
        try:
            while waiting.ready or in_flight:
                while waiting.ready:
                    first = waiting.goes_first(waiting.ready[0][0])
                    if not self._limiter.acquire(done, (not first, number), wait=not in_flight):
                        break
                    key, task = waiting.ready.popleft()
                    future = self._client.submit(
                        with_device_failure,
                        function,
                        task,
                        key=key,
                        retries=RETRIES,
                        priority=int(first),
                    )
                    in_flight[key] = key, task, future
                    future.add_done_callback(done.put)
                try:
                    ended = done.get(timeout=POLL_SECONDS if in_flight else 0)
                except queue.Empty:
                    ended = None
                if ended is not None:
                    self._limiter.release()
                    yield in_flight.pop(ended.key)
                self._poll_workers()
        finally:
            futures = [future for *_, future in in_flight.values()]
            if futures and self._client.status == "running":
                self._client.cancel(futures)
            self._limiter.leave(done, len(futures))

    def _retry_isolated(self, work: TaskSet[Task, Result], key: str, task: Task) -> Result:
        """Retry a task whose process died, with nothing else in flight that could be the cause."""
        with self._limiter.exclusive():
            for attempt in range(1, ATTEMPTS):
                logger.warning("%s: its worker died; trying it alone", key)
                alone = _Waiting([(f"{key}-alone-{attempt}", task)], {})
                with closing(self._completed(work.function, alone, next(self._callers))) as completed:
                    *_, future = next(completed)
                    if not _killed(future):
                        result = self._result(future)
                        if isinstance(result, DeviceFailure):
                            self._failed.end(result)
                            continue
                        return cast("Result", result)
        if work.on_killed is None:
            raise ClusterError(f"{key}: each of {ATTEMPTS} workers that tried it died")
        return work.on_killed(task)

    def _poll_workers(self) -> None:
        """Count the workers every few seconds; wait for some where there are none.

        Raises:
            Interrupted: by `stop`, or the caller's work is cancelled.
            ClusterError: the scheduler is gone, or no worker comes although no job waits for its turn.
        """
        self._raise_if_stopped()
        if time.monotonic() < self._next_poll:
            return
        deadline = time.monotonic() + NO_WORKERS_SECONDS
        threads = self._count_threads()
        if not threads:
            logger.warning("the Dask scheduler at %s has no workers; waiting for some", self._address)
        pending = ""
        while not threads:
            if self._jobs is not None and self._jobs.pending:
                deadline = time.monotonic() + NO_WORKERS_SECONDS  # a queue may take hours
                if self._jobs.pending != pending:
                    pending = self._jobs.pending
                    logger.warning("the jobs wait in the queue of SLURM (%s)", pending)
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the Dask scheduler at {self._address} had no workers for {NO_WORKERS_SECONDS:.0f} s; "
                    "start some and run the same command again to resume"
                )
            time.sleep(POLL_SECONDS / 4)
            self._raise_if_stopped()
            threads = self._count_threads()
        self._limiter.set_limit(threads * IN_FLIGHT_PER_THREAD)
        self._next_poll = time.monotonic() + POLL_SECONDS

    def _raise_if_stopped(self) -> None:
        cancelled = cancellation()
        if cancelled is not None and cancelled.is_set():
            raise Interrupted(RESUME)
        self._limiter.raise_if_closed()

    def _count_threads(self) -> int:
        try:
            threads: int = sum(self._client.nthreads().values())
        except (OSError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"the Dask scheduler at {self._address} is gone ({error}); "
                "run the same command again to resume"
            ) from error
        if self._jobs is not None:
            self._jobs.keep(connected=threads > 0)
        return threads

    def _result(self, future: Future[Any]) -> Any:
        try:
            return future.result()
        except CancelledError as error:
            raise ClusterError(
                f"the Dask scheduler at {self._address} dropped the work; "
                "run the same command again to resume"
            ) from error

    def stop(self) -> None:
        """See `Workers.stop`."""
        self._limiter.close()

    def close(self) -> None:
        """Disconnect, and end what was started."""
        self._started.close()


class _Waiting(Generic[Task]):
    """Tasks that are not submitted yet, and what they wait for, whose results they do not take."""

    def __init__(self, tasks: Sequence[tuple[str, Task]], after: Mapping[str, Sequence[str]]) -> None:
        """Take the tasks of a `TaskSet`, and what they wait for."""
        self._tasks, self._first = dict(tasks), set(after)
        self._followers: dict[str, list[str]] = {}
        self._missing: dict[str, int] = {}
        for key in self._tasks:
            below = [other for other in after.get(key, ()) if other in self._tasks]
            self._missing[key] = len(below)
            for other in below:
                self._followers.setdefault(other, []).append(key)
        self.ready = deque((key, task) for key, task in tasks if not self._missing[key])

    def goes_first(self, key: str) -> bool:
        return key in self._first

    def put_back(self, key: str, failure: DeviceFailure) -> None:
        """Let a task be the next, under another key: Dask knows a result for this one.

        Raises:
            ClusterError: it met as many devices that failed as there are attempts.
        """
        if key.count(AGAIN) + 1 == ATTEMPTS:
            raise ClusterError(f"{failure.reason}, as others before for the same task; {failure.way_out}")
        again, task = key + AGAIN, self._tasks.pop(key)
        self._tasks[again] = task
        self._followers[again] = self._followers.pop(key, [])
        if key in self._first:
            self._first.add(again)
        self.ready.appendleft((again, task))

    def note_done(self, key: str) -> None:
        """Let those that waited for this one alone be the next."""
        for follower in self._followers.pop(key, ()):
            self._missing[follower] -= 1
            if not self._missing[follower]:
                self.ready.appendleft((follower, self._tasks[follower]))


def _killed(future: Future[Any]) -> bool:
    return future.status == "error" and isinstance(future.exception(), KilledWorker)


def _has_plots(dashboard: str) -> bool:
    """Ask a scheduler for the list of its plots, which is empty without bokeh."""
    url = f"{dashboard.removesuffix('/status')}/individual-plots.json"
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=DASHBOARD_SECONDS) as answer:
            return bool(json.load(answer))
    except (OSError, HTTPException, ValueError):  # it does not answer here, or something else does
        return False


def connect(address: str, started: ExitStack | None = None) -> Cluster:
    """Connect to a running Dask scheduler; `started` is closed with the cluster, or if there is none.

    Raises:
        UsageError: none answers.
    """
    with started or ExitStack() as stack:
        try:
            client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"no Dask scheduler answers at {address} ({error})") from error
        stack.callback(client.close)
        return Cluster(client, stack.pop_all())
