"""The only home of dask: run one task per job, on threads, one by one, or on a distributed scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, TypeVar

from dask.base import compute
from dask.callbacks import Callback
from dask.delayed import delayed

from wsi_seg.errors import Interrupted, MissingExtraError, UsageError
from wsi_seg.jobs import allow_start, request_stop

Job = TypeVar("Job")
Result = TypeVar("Result")

LOCAL_SCHEDULERS = ("threads", "synchronous")

# Tasks in flight per worker thread of a cluster: one that runs and one that waits.
IN_FLIGHT_PER_THREAD = 2
RETRIES = 2


def execute(
    function: Callable[[Job], Result],
    jobs: Sequence[tuple[str, Job]],
    *,
    scheduler: str = "threads",
    workers: int = 2,
    on_result: Callable[[Result], None],
) -> None:
    """Run `function` once for each job and hand every result to `on_result` as it comes.

    Args:
        function: importable, idempotent; takes a job and returns a small record.
        jobs: (key, job) pairs; keys are unique and the same for the same work.
        scheduler: `threads`, `synchronous` (for debugging), or the address of a running Dask scheduler
            such as `tcp://host:8786`.
        workers: threads of the `threads` scheduler.
        on_result: called in this thread, in the order of completion.

    Raises:
        Interrupted: Ctrl-C; running jobs were told to stop.
        UsageError: the scheduler is unknown or cannot be reached.
        WsiSegError: whatever a job raised.
    """
    allow_start()
    try:
        if scheduler in LOCAL_SCHEDULERS:
            _execute_here(function, jobs, scheduler, workers, on_result)
        elif "://" in scheduler:
            _execute_distributed(function, jobs, scheduler, on_result)
        else:
            raise UsageError(
                f"unknown scheduler {scheduler!r}; use {', '.join(LOCAL_SCHEDULERS)} or tcp://HOST:PORT"
            )
    except KeyboardInterrupt:
        raise Interrupted("interrupted; run the same command again to go on from here") from None
    finally:
        # Whatever ended the run early, no job goes on behind its back.
        request_stop()


def _execute_here(
    function: Callable[[Job], Result],
    jobs: Sequence[tuple[str, Job]],
    scheduler: str,
    workers: int,
    on_result: Callable[[Result], None],
) -> None:
    tasks = [delayed(function, pure=True, traverse=False)(job, dask_key_name=key) for key, job in jobs]

    def finished(key: str, result: Any, graph: Any, state: Any, worker: Any) -> None:
        on_result(result)

    with Callback(posttask=finished):
        compute(*tasks, scheduler=scheduler, num_workers=workers, optimize_graph=False)


def _execute_distributed(
    function: Callable[[Job], Result],
    jobs: Sequence[tuple[str, Job]],
    address: str,
    on_result: Callable[[Result], None],
) -> None:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise MissingExtraError(
            "a Dask scheduler needs distributed; install it with: pip install 'wsi-seg[distributed]'"
        ) from error
    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {address} ({error})") from error
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UsageError(f"the Dask scheduler at {address} has no workers; start some first")
        todo = iter(jobs)

        def submit(pair: tuple[str, Job]) -> Any:
            return client.submit(function, pair[1], key=pair[0], retries=RETRIES, pure=True)

        first = [submit(pair) for pair in islice(todo, threads * IN_FLIGHT_PER_THREAD)]
        flight = as_completed(first, loop=client.loop)
        for future in flight:
            on_result(future.result())
            future.release()
            for pair in islice(todo, 1):
                flight.add(submit(pair))
