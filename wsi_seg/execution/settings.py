"""The settings of where blocks are computed; they change no byte of the results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from wsi_seg.core.settings import CONFIG, absolute_path, checked, setting
from wsi_seg.planning.settings import DEFAULT_THREADS

SLURM = "slurm"
SCHEDULERS = ("threads", "synchronous", SLURM)


@checked
@dataclass(frozen=True, slots=True, config=CONFIG)
class WorkerSettings:
    """Where blocks are computed. It changes no byte of the results."""

    title: ClassVar = "Workers"

    scheduler: str = setting(
        "threads",
        "threads, synchronous (one block after another), slurm, or tcp://HOST:PORT of a Dask scheduler.",
        scope="run",
    )
    processes: int | None = setting(
        None,
        "Worker processes; null: this process alone, or as many as keep the GPUs of --gpus busy. SLURM: "
        "workers to request; null: one.",
        key="workers",
        short="-w",
        scope="run",
        ge=1,
    )
    threads: int = DEFAULT_THREADS
    """Blocks in flight in each process; `RunSettings.for_workers` takes them from the plan."""
    gpus: tuple[int, ...] | Literal["all"] = setting(
        (),
        "CUDA devices of this machine, numbered as those that are visible, each with one process or more.",
        metavar="all|0,1",
        scope="run",
    )
    cluster: Annotated[Path | None, AfterValidator(absolute_path)] = setting(
        None,
        "YAML file with the arguments of dask-jobqueue's SLURMCluster, as configs/slurm.yaml.",
        scope="run",
    )

    reason: str = ""
    """Reason for the number of processes, where that was worked out."""

    @property
    def count(self) -> int:
        """Worker processes: as many as are asked for; else one for each GPU, or this process alone."""
        return self.processes or max(1, len(self.devices))

    @property
    def devices(self) -> tuple[int, ...]:
        """CUDA devices of this machine to use; `all` are those that this process sees."""
        if self.gpus != "all":
            return self.gpus
        from wsi_seg.inference.models.devices import cuda_devices

        return cuda_devices()

    @property
    def elsewhere(self) -> bool:
        """True where blocks are computed on other machines, or by workers started elsewhere."""
        return "://" in self.scheduler or self.scheduler == SLURM

    @property
    def here(self) -> bool:
        """True where blocks are computed in this process."""
        return self.scheduler in ("threads", "synchronous") and not self.gpus and self.count == 1
