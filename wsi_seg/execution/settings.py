"""The settings of where blocks are computed; they change no byte of the results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SLURM = "slurm"
SCHEDULERS = ("threads", "synchronous", SLURM)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Where blocks are computed. It changes no byte of the results."""

    scheduler: str = "threads"
    """`threads` (of this process, or of `processes` others), `synchronous`, `slurm`, or the address of a Dask
    scheduler."""
    processes: int = 1
    """Worker processes; on SLURM, workers that are asked for."""
    threads: int = 2
    """Blocks in flight in each process."""
    gpus: tuple[int, ...] = ()
    """CUDA devices of this machine, as numbered among those that this process sees, each with as many of the
    processes."""
    cluster: Path | None = None
    """YAML file with the arguments of dask-jobqueue's SLURMCluster."""

    @property
    def elsewhere(self) -> bool:
        """Whether blocks are computed on other machines, or by workers that something else has started."""
        return "://" in self.scheduler or self.scheduler == SLURM

    @property
    def here(self) -> bool:
        """Whether blocks are computed in this process."""
        return self.scheduler in ("threads", "synchronous") and self.processes == 1 and not self.gpus
