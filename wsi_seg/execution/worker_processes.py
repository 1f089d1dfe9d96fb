"""A Dask scheduler and worker processes on this machine; Dask's Nanny restarts those that die.

They belong to one process, which runs this file. A Nanny inside the driver would start workers by
`multiprocessing`, which imports the driver's `__main__` again: every script that segments slides would need
an `if __name__ == "__main__"`. The process ends when its standard input does, even if the driver was killed;
the workers watch a pipe of the same kind, and end with it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TextIO

from wsi_seg.core.allocator import keep_freed_memory
from wsi_seg.core.errors import ClusterError
from wsi_seg.core.gpus import CORES, CUDA_DEVICES, environment_of_one, parse_cores, valid_entries
from wsi_seg.core.system import own_cores

# Nanny does not retry a worker that dies before its first connection, so all are started again.
START_ATTEMPTS = 5
START_SECONDS = 120.0
CLOSE_SECONDS = 10.0
HOST = "127.0.0.1"
ERROR = re.compile(r"[\w.]*Error\b")
SIGNAL = re.compile(r"signal (\d+)")
PLACE_IN_JOB = re.compile(r"-\d+-(\d+)$")
# The worker processes of this machine only ever die of their tasks; the first death isolates a task.
CONFIG = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": "inf",  # the driver bounds the tasks in flight
}

logger = logging.getLogger(__name__)


class WorkerProcesses:
    """A scheduler and one worker process for each environment; they run until `close`."""

    def __init__(self, environments: Sequence[Mapping[str, str]], *, threads: int) -> None:
        """Start the processes; `wait` for them before anything else.

        Args:
            environments: variables of each worker, in addition to those of this process.
            threads: tasks at a time in each worker.
        """
        self._count = len(environments)
        self._start = {"environments": list(environments), "threads": threads}
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - see close
        self._process = self._popen()
        self._ends: threading.Thread | None = None

    def wait(self) -> str:
        """Return the scheduler's address once all workers have connected.

        Raises:
            ClusterError: they did not start.
        """
        for attempt in range(START_ATTEMPTS):
            if attempt:
                self._process = self._popen()
            assert self._process.stdout is not None
            address = self._process.stdout.readline().strip()
            if address:
                self._ends = threading.Thread(target=_log_ends, args=(self._process.stdout,), daemon=True)
                self._ends.start()
                return address
            reason = self._end()
        raise ClusterError(
            f"{self._count} worker processes did not start ({reason}); try fewer, or without --workers"
        )

    def _popen(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # tasks import what the driver does
            text=True,
            start_new_session=True,  # Ctrl-C is for the driver, which stops the workers
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already
            process.stdin.write(json.dumps(self._start) + "\n")
            process.stdin.flush()
        return process

    def _end(self) -> str:
        """End the processes; return how the first of them ended, and the first error that was printed."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            code = self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        if self._ends is not None:
            self._ends.join()
        self._process.stdout.close()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        errors = [line for line in lines if ERROR.match(line)]  # the first is the cause of the others
        return f"{how}; {(errors or lines[-1:])[0]}" if lines else how

    def close(self) -> None:
        """End the processes."""
        self._end()
        self._log.close()


def _log_ends(lines: TextIO) -> None:
    """Log how worker processes end, with the name of a signal, until there is nothing left to read."""
    names = {str(number.value): number.name for number in signal.Signals}
    for line in lines:
        logger.warning(SIGNAL.sub(lambda found: f"signal {names.get(found[1], found[1])}", line.strip()))


def dask_setup(worker: Any) -> None:
    """Prepare a worker process of this machine or of a SLURM job; Dask calls this as a preload."""
    keep_freed_memory()
    keep_to_cores(os.environ.get(CORES))
    take_gpu(str(worker.name))


def take_gpu(name: str) -> None:
    """Leave this process, where it is one of several workers of a SLURM job, one of the job's GPUs, in turn.

    Args:
        name: of the worker, which dask-jobqueue ends with numbers of the job and of the worker in it.
    """
    place = PLACE_IN_JOB.search(name)
    gpus = valid_entries(os.environ.get(CUDA_DEVICES, ""))
    if place is not None and len(gpus) > 1:
        os.environ.update(environment_of_one(os.environ, int(place[1]) % len(gpus), len(gpus)))


def keep_to_cores(listed: str | None) -> None:
    """Keep this thread, and those that it starts, to the cores of a list, of those that it may use.

    Args:
        listed: such as "0-3,8"; None: all stay.
    """
    cores = own_cores() & parse_cores(listed) if listed else set()
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def _exit_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


async def _serve(environments: Sequence[Mapping[str, str]], threads: int, output: TextIO) -> None:
    """Run the scheduler and the workers.

    Writes the scheduler's address once all have connected, then a line for each worker process that ends.
    """
    from distributed import Nanny, Scheduler

    async with Scheduler(host=HOST, port=0, dashboard_address=f"{HOST}:0") as scheduler:
        nannies = [
            Nanny(
                scheduler.address,
                name=str(number),
                nthreads=threads,
                host=HOST,
                env=environment,
                memory_limit=0,  # `max_memory` bounds it, by the plan
                dashboard=False,
                preload=["wsi_seg.execution.worker_processes"],
                death_timeout=START_SECONDS,
                silence_logs="ERROR",
            )
            for number, environment in enumerate(environments)
        ]
        await asyncio.gather(*nannies)
        print(scheduler.address, file=output, flush=True)
        ends = logging.StreamHandler(output)
        ends.addFilter(lambda record: record.getMessage().startswith("Worker process"))
        logging.getLogger("distributed.nanny").addHandler(ends)
        # A Nanny closes where it cannot restart its worker; the last one ends the scheduler, and so the run.
        await asyncio.gather(*(nanny.finished() for nanny in nannies))


def main() -> None:
    """Read what to start from standard input, and run it until that ends."""
    import dask.config

    start = json.loads(sys.stdin.readline())
    threading.Thread(target=_exit_with_input, name="driver", daemon=True).start()
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what tasks print goes into the log; nobody reads the output after the address
    with dask.config.set(CONFIG):
        asyncio.run(_serve(start["environments"], start["threads"], output))


if __name__ == "__main__":
    main()
