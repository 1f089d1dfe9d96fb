"""Starting workers: threads here, processes of this machine, one for each GPU, or jobs of a SLURM cluster."""

from __future__ import annotations

import logging
import os
from typing import Any

from wsi_seg.errors import ClusterError, MissingExtraError, UsageError
from wsi_seg.graph import LocalWorkers, Workers
from wsi_seg.settings import SCHEDULERS, SLURM, WorkerSettings
from wsi_seg.yaml_config import read_yaml

START_SECONDS = 120
START_TRIES = 3
# Processes of this machine are only ever ended by what they do: a block that ended one is then tried alone.
LOCAL_CONFIG = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.worker-saturation": "inf",  # the driver bounds what is in flight
    "distributed.worker.memory.terminate": False,  # by `max_memory`, not by killing a worker
    "distributed.worker.memory.pause": False,
    "distributed.admin.large-graph-warning-threshold": "1GB",
}

logger = logging.getLogger(__name__)


def open_workers(settings: WorkerSettings, *, together: int | None = None) -> Workers:
    """Start workers, or connect to those of a running scheduler; a context manager ends them.

    Args:
        settings: which, and how many.
        together: threads that several slides share, where all is done in this process.

    Raises:
        UsageError: there is no such scheduler, none answers, or settings contradict each other.
        ClusterError: worker processes do not start.
        MissingExtraError: an optional package is needed for it.
    """
    scheduler, many = settings.scheduler, settings.processes > 1
    if scheduler not in SCHEDULERS and "://" not in scheduler:
        raise UsageError(f"unknown scheduler {scheduler!r}; use {', '.join(SCHEDULERS)} or tcp://HOST:PORT")
    if settings.cluster is not None and scheduler != SLURM:
        raise UsageError(f"a cluster file ({settings.cluster}) goes with --scheduler {SLURM}")
    if "://" in scheduler or scheduler == SLURM:
        if settings.gpus:
            raise UsageError(f"--gpus is for this machine; the workers of {scheduler} have GPUs of their own")
        return _on_slurm(settings) if scheduler == SLURM else _at(scheduler)
    if scheduler == "threads" and (many or settings.gpus):
        return _on_this_machine(settings)
    if many or settings.gpus:
        raise UsageError(f"scheduler {scheduler!r} has one process; leave out --workers and --gpus")
    return LocalWorkers(together=together, synchronous=scheduler == "synchronous")


def _at(address: str) -> Workers:
    from wsi_seg.cluster import connect

    return connect(address)


def _on_this_machine(settings: WorkerSettings) -> Workers:
    """Start processes of this machine, each of which is started anew when it dies."""
    import dask.config
    import distributed  # noqa: F401 - it adds its own settings first

    reason = ""
    with dask.config.set(LOCAL_CONFIG):
        for _ in range(START_TRIES):
            try:
                return _started(settings)
            except (RuntimeError, OSError, TimeoutError) as error:  # one died while it started
                reason = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
                logger.warning("worker processes did not start: %s", reason)
    raise ClusterError(
        f"{settings.processes} worker processes did not start in {START_TRIES} attempts ({reason}); try fewer"
    )


def _started(settings: WorkerSettings) -> Workers:
    from distributed import Client, SpecCluster

    from wsi_seg.cluster import Cluster

    workers = dict(enumerate(_workers(settings)))
    cluster = SpecCluster(scheduler=_scheduler(), workers=workers, silence_logs="ERROR")
    try:
        client = Client(cluster, set_as_default=False, timeout=f"{START_SECONDS}s")
        client.wait_for_workers(settings.processes, timeout=START_SECONDS)
    except (RuntimeError, OSError, TimeoutError):
        cluster.close()
        raise
    return Cluster(client, cluster.close)


def _scheduler() -> dict[str, Any]:
    from distributed import Scheduler

    options = {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}
    return {"cls": Scheduler, "options": options}


def _workers(settings: WorkerSettings) -> list[dict[str, Any]]:
    from distributed import Nanny

    options = {"host": "127.0.0.1", "nthreads": settings.threads, "memory_limit": 0, "dashboard": False}
    shares = [{"CUDA_VISIBLE_DEVICES": str(gpu)} for gpu in settings.gpus] or [{}] * settings.processes
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // settings.processes))} if not settings.gpus else {}
    given = {name: value for name, value in os.environ.items() if name in threads}
    return [{"cls": Nanny, "options": {**options, "env": {**threads, **given, **share}}} for share in shares]


def _on_slurm(settings: WorkerSettings) -> Workers:
    """Ask SLURM for jobs that hold workers, as a YAML file or Dask's own configuration describes them."""
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise MissingExtraError(
            "--scheduler slurm needs dask-jobqueue; install it with: pip install 'wsi-seg[slurm]'"
        ) from error
    from distributed import Client

    from wsi_seg.cluster import Cluster

    options = read_yaml(settings.cluster) if settings.cluster is not None else {}
    try:
        cluster = SLURMCluster(**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{settings.cluster or 'jobqueue.slurm'}: {error}") from error
    try:
        cluster.scale(settings.processes)
        client = Client(cluster, set_as_default=False)
    except (OSError, RuntimeError) as error:
        cluster.close()
        raise UsageError(f"SLURM takes no jobs: {error}") from error
    return Cluster(client, cluster.close)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
