"""Jobs of the browser: the command line's own, in processes of their own, one at a time."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Literal, TypeVar

from wsi_seg.viewer.responses import Refused

# A stopped job may finish the batch it is at; after so many seconds it is ended.
PATIENCE_SECONDS = 20.0
MOST_OUTPUT = 2**20
MOST_MESSAGE = 500

State = Literal["running", "done", "failed", "stopped"]


@dataclass(frozen=True)
class Command:
    """A command of this program that was started, and files that receive what it prints."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    messages: IO[bytes]

    @classmethod
    def started(cls, arguments: Sequence[str]) -> Command:
        """Start `wsi-seg` with these arguments, so that a signal reaches it with its children."""
        output, messages = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - in close
        process = subprocess.Popen(
            [sys.executable, "-m", "wsi_seg.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=messages,
            start_new_session=True,
        )
        return cls(process, output, messages)

    def printed(self) -> bytes:
        """Return the last of what it has printed on standard output."""
        return _read(self.output)

    def signal(self, number: int) -> None:
        """Send a signal to it and its children, as a terminal does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        self.output.close()
        self.messages.close()


@dataclass
class Job(ABC):
    """One command that the browser has started."""

    command: Command
    id: str = field(default_factory=lambda: secrets.token_hex(8), kw_only=True)
    stopped_at: float | None = field(default=None, kw_only=True)

    @property
    def state(self) -> State:
        if self.command.process.poll() is None:
            return "running"
        if self.succeeded():
            return "done"
        return "failed" if self.stopped_at is None else "stopped"

    @property
    def stopping(self) -> bool:
        return self.stopped_at is not None and self.state == "running"

    @abstractmethod
    def succeeded(self) -> bool:
        """Tell whether the command, which has ended, has done what it was started for."""

    def message(self) -> str:
        """Return the error of a command that failed, else what it said last."""
        lines = _read(self.command.messages).decode("utf-8", "replace").replace("\r", "\n").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        said = errors or [line for line in lines if line.strip()]
        return said[-1].strip()[:MOST_MESSAGE] if said else ""


J = TypeVar("J", bound=Job)


class JobSlot:
    """Place of the one job that a server has at a time; the last one stays until another is started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: Job | None = None

    def start(self, launch: Callable[[], J]) -> J:
        """Start a job by `launch`; raises Refused, 409, while one runs, and what `launch` raises."""
        with self._lock:
            if self._job is not None and self._job.state == "running":
                raise Refused(409, "a run or a training is on its way; wait for it or stop it")
            job = launch()
            self._forget()
            self._job = job
            return job

    def under_way(self, kind: type[Job]) -> str | None:
        """Return the id of the job of a kind that is on its way, None where there is none."""
        job = self._job
        return job.id if isinstance(job, kind) and job.state == "running" else None

    def last(self, kind: type[J]) -> J | None:
        """Return the last job, also one that has ended, where it is of a kind."""
        job = self._job
        return job if isinstance(job, kind) else None

    def get(self, identity: str, kind: type[J]) -> J:
        """Return the job of an id.

        Raises:
            Refused: 404, there is none of this kind, or another was started since.
        """
        job = self._job
        if not isinstance(job, kind) or job.id != identity:
            raise Refused(404, "no such job")
        if job.stopped_at is not None and time.monotonic() - job.stopped_at > PATIENCE_SECONDS:
            job.command.signal(signal.SIGTERM)
        return job

    def stop(self, job: Job) -> None:
        """Ask a job to stop, as Ctrl-C does: what is finished is kept, and it can be resumed."""
        if job.state == "running" and job.stopped_at is None:
            job.stopped_at = time.monotonic()
            job.command.signal(signal.SIGINT)

    def close(self) -> None:
        """Stop what runs and wait for it."""
        with self._lock:
            if self._job is None:
                return
            self.stop(self._job)
            command = self._job.command
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    command.process.wait(PATIENCE_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    command.signal(number)
            command.process.wait()
            self._forget()

    def _forget(self) -> None:
        if self._job is not None:
            self._job.command.close()
            self._job = None


def _read(file: IO[bytes]) -> bytes:
    # At a place, for the position in the file is that of the process that writes.
    return os.pread(file.fileno(), MOST_OUTPUT, max(0, os.fstat(file.fileno()).st_size - MOST_OUTPUT))
