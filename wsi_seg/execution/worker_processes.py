"""Dask workers as processes of this machine: each is started anew when it dies, and ends with its driver.

A worker process reads what it needs to know from its standard input, which stays open as long as the driver
lives: its end, also by a SIGKILL, ends the worker. It is a Python of its own that runs this file and imports
no `__main__`, so a script needs no guard to use workers; it takes the driver's module search path.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO

LOOK_SECONDS = 0.1
# A worker that ends so often in a row before it has reached the scheduler is not started again.
MOST_FAILED_STARTS = 10
CLOSE_SECONDS = 10.0
CONNECTED = "connected to the scheduler"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerStart:
    """What a worker process is told when it starts."""

    scheduler: str
    threads: int
    name: str
    path: list[str]
    """`sys.path` of the driver."""


class WorkerProcesses:
    """As many worker processes as there are environments, kept alive until `close`."""

    def __init__(self, scheduler: str, environments: Sequence[Mapping[str, str]], *, threads: int) -> None:
        """Start the processes; they connect on their own.

        Args:
            scheduler: address of the scheduler.
            environments: of each process, beside what this one has.
            threads: jobs at a time in each.
        """
        self._places = [
            _Place(WorkerStart(scheduler, threads, str(number), sys.path), {**os.environ, **environment})
            for number, environment in enumerate(environments)
        ]
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="worker processes", daemon=True)
        self._thread.start()

    def failure(self) -> str | None:
        """Return why no worker is left and none will be started, if that is so."""
        if all(place.given_up for place in self._places):
            return self._places[0].reason
        return None

    def _watch(self) -> None:
        while not self._closing.wait(LOOK_SECONDS):
            for place in self._places:
                place.look()

    def close(self) -> None:
        """End the processes."""
        self._closing.set()
        self._thread.join()
        for place in self._places:
            place.close()
        deadline = time.monotonic() + CLOSE_SECONDS
        for place in self._places:
            place.wait(max(0.0, deadline - time.monotonic()))


class _Place:
    """One process at a time."""

    def __init__(self, start: WorkerStart, environment: Mapping[str, str]) -> None:
        self._message, self._environment = start, environment
        self._failed_starts = 0
        self.reason = ""
        self._process, self._log = self._start()

    @property
    def given_up(self) -> bool:
        return self._failed_starts >= MOST_FAILED_STARTS

    def _start(self) -> tuple[subprocess.Popen[str], IO[str]]:
        log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed in look
        process = subprocess.Popen(
            [sys.executable, "-P", __file__],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=self._environment,
            text=True,
        )
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended already, which `look` sees
            process.stdin.write(json.dumps(asdict(self._message)) + "\n")
            process.stdin.flush()
        return process, log

    def look(self) -> None:
        """Start another process where the last one has ended."""
        code = self._process.poll()
        if code is None or self.given_up:
            return
        self.reason, connected = self._end(code)
        self._failed_starts = 0 if connected else self._failed_starts + 1
        level = logging.WARNING if connected else logging.INFO
        logger.log(level, "worker process %d ended: %s", self._process.pid, self.reason)
        if self.given_up:
            logger.warning("worker %s is not started again: %s", self._message.name, self.reason)
        else:
            self._process, self._log = self._start()

    def _end(self, code: int) -> tuple[str, bool]:
        """Return why the process ended, in a line, and whether it had reached the scheduler."""
        self.close()
        with self._log as log:
            log.seek(0)
            lines = [line.strip() for line in log if line.strip()]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        said = [line for line in lines if line != CONNECTED]
        errors = [line for line in said if "Error" in line]  # a traceback may go on after it
        return f"{how}; {(errors or said)[-1]}" if said else how, CONNECTED in lines

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _serve(start: WorkerStart) -> None:
    from distributed import Worker

    async def serve() -> None:
        async with Worker(
            start.scheduler,
            nthreads=start.threads,
            name=start.name,
            host="127.0.0.1",
            memory_limit=0,  # `max_memory` bounds it, by the plan
            dashboard=False,
        ) as worker:
            print(CONNECTED, flush=True)
            await worker.finished()

    asyncio.run(serve())


def _end_with_input() -> None:
    """End this process, whatever it does, when its standard input ends."""
    sys.stdin.read()
    os._exit(0)


def stay_near_gpu() -> None:
    """Keep to those of this process's cores that are next to its GPU, where dask-cuda can name them."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if gpu.isdecimal() and importlib.util.find_spec("dask_cuda") is not None:
        near = importlib.import_module("dask_cuda.utils").get_cpu_affinity(int(gpu))
        cores = os.sched_getaffinity(0).intersection(near)  # none that a scheduler has not given us
        if cores:
            os.sched_setaffinity(0, cores)


def main() -> None:
    """Be a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the driver decides
    start = WorkerStart(**json.loads(sys.stdin.readline()))
    sys.path[:] = start.path  # from here on there are other modules than the standard library's
    from wsi_seg.core.allocator import keep_freed_memory

    keep_freed_memory()
    stay_near_gpu()
    threading.Thread(target=_end_with_input, name="driver", daemon=True).start()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    _serve(start)


if __name__ == "__main__":
    main()
