"""Jobs of a SLURM cluster, each of which holds Dask workers; a job that is lost is asked for again.

dask-jobqueue submits jobs and cancels them at the end, but does not replace those that are lost: it notices
that a worker is gone, not that a job was cancelled before its worker connected or had several workers, and
submits no other before `scale` is called again. So SLURM is asked now and then which jobs it still has.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from typing import Any

from dask_jobqueue.slurm import SLURMCluster
from distributed import Status

from wsi_seg.core.errors import ClusterError, UsageError

# Between two looks at the queue; administrators ask for few.
LOOK_SECONDS = 30.0
ANSWER_SECONDS = 20.0
# Looks that find jobs gone, without any worker between them, after which it is said that jobs fail.
LOST_LOOKS = 3
PENDING = "PD"

logger = logging.getLogger(__name__)


class SlurmJobs:
    """The jobs of a `SLURMCluster`, as many as were asked for."""

    def __init__(self, cluster: SLURMCluster, workers: int) -> None:
        """Submit jobs for a number of workers.

        Raises:
            UsageError: `sbatch` is not there or takes none, with what it says.
        """
        self.pending = ""
        """Reason why SLURM has started no job yet, as it names it; "" where it has, or none is queued."""
        self._cluster, self._workers = cluster, workers
        self._looking = threading.Lock()
        self._next_look = time.monotonic() + LOOK_SECONDS
        self._looks_without_workers = 0
        try:
            cluster.sync(self._submit)
        except (OSError, RuntimeError) as error:
            raise UsageError(f"SLURM takes no jobs: {_said(error)}") from error

    def keep(self, *, connected: bool) -> None:
        """Ask for jobs again that are gone; it is looked for them every `LOOK_SECONDS`.

        Args:
            connected: there are workers.

        Raises:
            ClusterError: jobs end before their workers connect, several times in succession.
        """
        if connected:
            self._looks_without_workers = 0
        if time.monotonic() < self._next_look or not self._looking.acquire(blocking=False):
            return
        try:
            lost = self._cluster.sync(self._replace_lost)
        except (OSError, RuntimeError, TimeoutError) as error:
            logger.warning("SLURM does not answer, so lost jobs are not asked for again: %s", _said(error))
            lost = []
        finally:
            self._next_look = time.monotonic() + LOOK_SECONDS
            self._looking.release()
        if not lost:
            return
        names = ", ".join(lost)
        logger.warning("SLURM jobs %s are gone; others are asked for", names)
        self._looks_without_workers += not connected
        if self._looks_without_workers > LOST_LOOKS:
            raise ClusterError(
                f"SLURM jobs end before their workers connect, the last ones {names}; read what they wrote "
                "(slurm-JOB.out, or log_directory of the cluster file), and run again to resume"
            )

    async def _submit(self) -> None:
        # The first one alone: what `scale` meets is only logged.
        self._cluster.worker_spec.update(self._cluster.new_worker_spec())
        try:
            await self._cluster
        finally:
            self._fail_unsubmitted()
        self._cluster.scale(self._workers)

    async def _replace_lost(self) -> list[str]:
        """Return the numbers of the jobs that SLURM has no more, after others have been asked for."""
        before = {name: job.job_id for name, job in self._cluster.workers.items()}
        queued = await _queued()
        own = [queued[number] for number in before.values() if number in queued]
        waiting = [reason for state, reason in own if state == PENDING]
        self.pending = waiting[0] if waiting and len(waiting) == len(own) else ""
        lost = {name: str(number) for name, number in before.items() if number not in queued}
        self._fail_unsubmitted()
        if lost:
            await self._cluster.scale_down(list(lost))
        # Others in the place of these, and of those whose workers Dask has missed for some seconds.
        self._cluster.scale(self._workers)
        return list(lost.values())

    def _fail_unsubmitted(self) -> None:
        """Mark jobs that sbatch refused: Dask's cluster does not close with one that never started."""
        for job in self._cluster.workers.values():
            if job.job_id is None:
                job.status = Status.failed


async def _queued() -> dict[str, tuple[str, str]]:
    """Return the state of each job of this user that has not ended, and the reason for it, by its number.

    Raises:
        OSError, RuntimeError, TimeoutError: SLURM does not say.
    """
    command = ("squeue", "--noheader", f"--user={os.getuid()}", "--format=%i %t %r")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    try:
        out, error = await asyncio.wait_for(process.communicate(), ANSWER_SECONDS)
    except TimeoutError:
        process.kill()
        raise TimeoutError(f"squeue has not answered for {ANSWER_SECONDS:g} s") from None
    if process.returncode:
        raise RuntimeError(error.decode(errors="replace"))
    lines = (line.split(maxsplit=2) for line in out.decode(errors="replace").splitlines())
    return {number: (state, reason) for number, state, reason in lines}


def _said(error: Any) -> str:
    """Return one line; of dask-jobqueue's, which quotes a whole command, what that wrote to stderr."""
    text = str(error)
    return " ".join((text.partition("stderr:\n")[2].strip() or text).split())
