"""Doing jobs in other processes, on Dask's distributed scheduler: of this machine, or of a cluster.

No pixels travel: a job names files, and what comes back is a small record. How many tasks are in flight is
bounded here, in the driver, for all slides together: the scheduler would hand them all out at once.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any, TypeVar, cast
from urllib.request import ProxyHandler, build_opener

from distributed import CancelledError, Client, KilledWorker

from wsi_seg.core.errors import ClusterError, Interrupted, UsageError
from wsi_seg.execution.graph import GO_ON, Flight, Workers

Job = TypeVar("Job")
Result = TypeVar("Result")

# Tasks in flight per worker thread: one that runs and one that waits.
IN_FLIGHT_PER_THREAD = 2
# What fails for reasons outside of it, such as a filesystem that is away, is tried again so often.
RETRIES = 2
# A job that ends its process is tried so often: once among others, which may have been the cause, then alone.
TRIES = 3
# Seconds between two looks at the workers, and without any until the run gives up.
LOOK_SECONDS = 2.0
PATIENCE_SECONDS = 600.0
DASHBOARD_SECONDS = 3.0
CONNECT_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Cluster(Workers):
    """Workers of a Dask scheduler; see `graph.Workers`."""

    def __init__(
        self, client: Client, close: Callable[[], Any], failure: Callable[[], str | None] = lambda: None
    ) -> None:
        """Take over a connected client.

        Args:
            client: of the scheduler.
            close: ends it, and what was started for this cluster.
            failure: returns why no worker will ever come again, if that is so.
        """
        self._client, self._close, self._failure = client, close, failure
        self._gate = _Gate()
        self._stopped = threading.Event()
        self._address = client.scheduler.address if client.scheduler else "?"
        self._look()
        logger.info("%d worker threads", self._gate.limit // IN_FLIGHT_PER_THREAD)

    @property
    def flight(self) -> Flight:
        """See `Workers.flight`; the limit falls and rises with the workers."""
        return Flight(self._gate.peak, self._gate.highest_limit)

    @property
    def dashboard(self) -> str | None:
        """See `graph.Workers.dashboard`; a scheduler has it where bokeh is installed."""
        try:
            link = self._client.dashboard_link
        except KeyError:  # it serves no pages at all
            return None
        return link if link and _has_plots(link) else None

    def execute(
        self,
        function: Callable[[Job], Result],
        jobs: Sequence[tuple[str, Job]],
        *,
        threads: int,
        on_result: Callable[[Result], None],
        on_killed: Callable[[Job], Result] | None = None,
    ) -> None:
        """See `graph.Workers.execute`; `threads` was settled when the workers started."""
        killed: list[tuple[str, Job]] = []
        batch = _Batch(self._client, function, deque(jobs), self._gate)
        try:
            for pair, future in self._finished(batch):
                if future.status == "error" and isinstance(future.exception(), KilledWorker):
                    killed.append(pair)
                else:
                    on_result(self._result(future))
            for pair in killed:
                on_result(self._alone(function, pair, on_killed))
        except KeyboardInterrupt:
            raise Interrupted(GO_ON) from None
        finally:
            batch.cancel()

    def _finished(self, batch: _Batch) -> Iterator[tuple[tuple[str, Any], Any]]:
        """Keep jobs in flight as long as there are any; yield those that end."""
        looked = time.monotonic()
        while batch.submit():
            ended = batch.next(timeout=LOOK_SECONDS)
            if ended is not None:
                yield ended
            if self._stopped.is_set():
                raise Interrupted(GO_ON)
            if time.monotonic() - looked > LOOK_SECONDS:
                self._look()
                looked = time.monotonic()

    def _look(self) -> None:
        """Count the workers; wait for some where there are none.

        Raises:
            ClusterError: the scheduler is gone, or no worker comes.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        warned = False
        while True:
            try:
                threads = sum(self._client.nthreads().values())
            except (OSError, TimeoutError, ValueError) as error:
                raise ClusterError(
                    f"the Dask scheduler at {self._address} is gone ({error}); "
                    "run the same command again to go on"
                ) from error
            if threads or self._stopped.is_set():
                self._gate.set_limit(threads * IN_FLIGHT_PER_THREAD)
                return
            reason = self._failure()
            if reason is not None:
                raise ClusterError(
                    f"the worker processes end as they start ({reason}); run the same command again to go on"
                )
            if not warned:
                logger.warning("the Dask scheduler at %s has no workers; waiting for some", self._address)
                warned = True
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the Dask scheduler at {self._address} had no workers for {PATIENCE_SECONDS:.0f} s; "
                    "start some and run the same command again to go on"
                )
            self._stopped.wait(LOOK_SECONDS / 4)

    def _alone(
        self,
        function: Callable[[Job], Result],
        pair: tuple[str, Job],
        on_killed: Callable[[Job], Result] | None,
    ) -> Result:
        """Try a job again whose process died, with nothing else in flight that could be the cause."""
        key, job = pair
        with self._gate.alone(self._stopped):
            for attempt in range(1, TRIES):
                logger.warning("%s: its worker died; trying it alone", key)
                batch = _Batch(self._client, function, deque([(f"{key}-alone-{attempt}", job)]), None)
                try:
                    _, future = next(self._finished(batch))
                    if not (future.status == "error" and isinstance(future.exception(), KilledWorker)):
                        return cast("Result", self._result(future))
                finally:
                    batch.cancel()
        if on_killed is None:
            raise ClusterError(f"{key}: each of {TRIES} workers that tried it died")
        return on_killed(job)

    def _result(self, future: Any) -> Any:
        try:
            return future.result()
        except CancelledError as error:
            raise ClusterError(
                f"the Dask scheduler at {self._address} dropped the work; run the same command again to go on"
            ) from error

    def stop(self) -> None:
        """See `graph.Workers.stop`."""
        self._stopped.set()
        self._gate.open()

    def close(self) -> None:
        """Disconnect, and end what was started."""
        self._close()


class _Batch:
    """The jobs of one call of `execute`: those to do and those in flight."""

    def __init__(
        self, client: Client, function: Callable[[Any], Any], todo: deque[tuple[str, Any]], gate: _Gate | None
    ) -> None:
        self._client, self._function, self._todo, self._gate = client, function, todo, gate
        self._flying: dict[str, tuple[tuple[str, Any], Any]] = {}
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def submit(self) -> bool:
        """Submit what the gate lets through; return whether anything is left to wait for."""
        # With nothing of its own in flight a batch waits for its turn, but not for ever: see `stop`.
        while self._todo and (self._gate is None or self._gate.enter(None if self._flying else LOOK_SECONDS)):
            key, job = self._todo.popleft()
            future = self._client.submit(self._function, job, key=key, retries=RETRIES, pure=True)
            self._flying[key] = (key, job), future
            future.add_done_callback(self._done.put)
        return bool(self._todo or self._flying)

    def next(self, timeout: float) -> tuple[tuple[str, Any], Any] | None:
        """Return a job that ended and its future; None where none does in time."""
        if not self._flying:
            return None
        try:
            future = self._done.get(timeout=timeout)
        except queue.Empty:
            return None
        pair, _ = self._flying.pop(future.key)
        if self._gate is not None:
            self._gate.leave()
        return pair, future

    def cancel(self) -> None:
        """Give up what is still in flight."""
        futures = [future for _, future in self._flying.values()]
        self._flying.clear()
        if futures and self._client.status == "running":
            self._client.cancel(futures)
        for _ in futures:
            if self._gate is not None:
                self._gate.leave()


class _Gate:
    """Lets a bounded number of tasks into flight, over all slides."""

    def __init__(self) -> None:
        self.limit = self.highest_limit = 0
        self.peak = 0
        self._inside = 0
        self._reserved = False
        self._open = False
        self._changed = threading.Condition()

    def set_limit(self, limit: int) -> None:
        with self._changed:
            self.limit = limit
            self.highest_limit = max(self.highest_limit, limit)
            self._changed.notify_all()

    def enter(self, timeout: float | None) -> bool:
        """Take a place; None for `timeout` does not wait. Return whether there was one."""
        with self._changed:
            if timeout is not None:
                self._changed.wait_for(lambda: self._free() or self._open, timeout)
            if not self._free():
                return False
            self._inside += 1
            self.peak = max(self.peak, self._inside)
            return True

    def leave(self) -> None:
        with self._changed:
            self._inside -= 1
            self._changed.notify_all()

    @contextmanager
    def alone(self, stopped: threading.Event) -> Iterator[None]:
        """Wait until nothing is in flight, and keep it so."""
        with self._changed:
            self._changed.wait_for(lambda: not self._reserved or self._open)
            self._reserved = True
            self._changed.wait_for(lambda: self._inside == 0 or self._open)
        try:
            if stopped.is_set():
                raise Interrupted(GO_ON)
            yield
        finally:
            with self._changed:
                self._reserved = False
                self._changed.notify_all()

    def open(self) -> None:
        """Let nobody wait any more, as all is to end."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def _free(self) -> bool:
        return self._inside < self.limit and not self._reserved


def _has_plots(dashboard: str) -> bool:
    """Ask a scheduler for the list of its plots, which is empty without bokeh."""
    url = f"{dashboard.removesuffix('/status')}/individual-plots.json"
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=DASHBOARD_SECONDS) as answer:
            return bool(json.load(answer))
    except (OSError, HTTPException, ValueError):  # it does not answer here, or something else does
        return False


def connect(address: str) -> Cluster:
    """Connect to a running Dask scheduler.

    Raises:
        UsageError: none answers.
    """
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {address} ({error})") from error
    return Cluster(client, client.close)
