"""Starting workers: threads here, processes of this machine, some with a GPU, or jobs of a SLURM cluster."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import ExitStack

from wsi_seg.core.errors import MissingExtraError, UsageError
from wsi_seg.core.gpus import CORES, CUDA_DEVICES, CUDA_ORDER, environment_of_one, format_cores
from wsi_seg.core.system import usable_cores
from wsi_seg.core.yaml_config import read_yaml
from wsi_seg.execution.graph import LocalWorkers, Workers
from wsi_seg.execution.settings import SCHEDULERS, SLURM, WorkerSettings


def open_workers(settings: WorkerSettings, *, shared_threads: int | None = None) -> Workers:
    """Start workers, or connect to those of a running scheduler; a context manager ends them.

    Args:
        settings: which, and how many.
        shared_threads: threads that several slides share, where all is done in this process.

    Raises:
        UsageError: there is no such scheduler, none answers, or settings contradict each other.
        ClusterError: worker processes do not start.
        MissingExtraError: an optional package is needed for it.
    """
    scheduler, many = settings.scheduler, settings.count > 1
    if scheduler not in SCHEDULERS and "://" not in scheduler:
        raise UsageError(f"unknown scheduler {scheduler!r}; use {', '.join(SCHEDULERS)} or tcp://HOST:PORT")
    if settings.cluster is not None and scheduler != SLURM:
        raise UsageError(f"a cluster file ({settings.cluster}) goes with --scheduler {SLURM}")
    if settings.elsewhere:
        if settings.gpus:
            raise UsageError(f"--gpus is for this machine; the workers of {scheduler} have GPUs of their own")
        return _on_slurm(settings) if scheduler == SLURM else _connect(scheduler)
    if scheduler == "threads" and (many or settings.gpus):
        return _on_this_machine(settings)
    if many or settings.gpus:
        raise UsageError(f"scheduler {scheduler!r} has one process; leave out --workers and --gpus")
    return LocalWorkers(shared_threads=shared_threads, synchronous=scheduler == "synchronous")


def _connect(address: str) -> Workers:
    from wsi_seg.execution.cluster import connect

    return connect(address)


def _on_this_machine(settings: WorkerSettings) -> Workers:
    """Start processes of this machine, each of which is restarted when it dies."""
    from wsi_seg.execution.worker_processes import WorkerProcesses

    with ExitStack() as started:
        processes = WorkerProcesses(_environments(settings), threads=settings.threads)
        started.callback(processes.close)
        from wsi_seg.execution.cluster import connect  # which takes its time, while the processes start

        return connect(processes.wait(), started.pop_all())


def _environments(settings: WorkerSettings) -> list[dict[str, str]]:
    """Return what the environment of each process has besides the driver's."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // settings.count))
    shared: dict[str, str] = {"OMP_NUM_THREADS": threads}
    if not settings.gpus:
        return [shared] * settings.count
    each = {gpu: {**shared, **_one_gpu(gpu)} for gpu in settings.devices}
    gpus = itertools.islice(itertools.cycle(settings.devices), settings.count)
    return [each[gpu] for gpu in gpus]


def _one_gpu(index: int) -> dict[str, str]:
    """Return the environment in which a process sees one of this process's GPUs alone, with cores near it."""
    from wsi_seg.inference.models.devices import cores_of, cuda_count

    own = environment_of_one(os.environ, index, cuda_count())
    counted = int(own[CUDA_DEVICES]) if CUDA_ORDER in own else index
    return {**own, CORES: format_cores(cores_of(counted))}


def check_gpus(chosen: Sequence[int], visible: Sequence[int]) -> None:
    """Check a choice of GPUs against those that this process sees.

    Raises:
        UsageError: there is no such GPU, or one is named twice.
    """
    said = ",".join(map(str, chosen))
    if not set(chosen) <= set(visible):
        there = ",".join(map(str, visible))
        listed = os.environ.get(CUDA_DEVICES)
        counted = "" if listed is None else f", numbered as in {CUDA_DEVICES}={listed}"
        raise UsageError(f"gpus {said}: this machine has {there}{counted}")
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"gpus {said}: one is named twice; name it once, and give --workers to share it")


def _on_slurm(settings: WorkerSettings) -> Workers:
    """Ask SLURM for jobs that hold workers, as a YAML file or Dask's own configuration describes them."""
    try:
        from dask_jobqueue.slurm import SLURMCluster
    except ImportError as error:
        raise MissingExtraError(
            "--scheduler slurm needs dask-jobqueue; install it with: pip install 'wsi-seg[slurm]'"
        ) from error
    import dask.config
    from distributed import Client

    from wsi_seg.execution.cluster import Cluster
    from wsi_seg.execution.slurm import SlurmJobs

    options = read_yaml(settings.cluster) if settings.cluster is not None else {}
    preload = ("--preload", "wsi_seg.execution.worker_processes")
    more = options.get("worker_extra_args") or dask.config.get("jobqueue.slurm.worker-extra-args", None) or ()
    options["worker_extra_args"] = [*more, *preload]
    with ExitStack() as started:
        try:
            cluster = SLURMCluster(**options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{settings.cluster or 'jobqueue.slurm'}: {error}") from error
        started.callback(cluster.close)
        jobs = SlurmJobs(cluster, settings.count)
        client = Client(cluster, set_as_default=False)
        started.callback(client.close)
        return Cluster(client, started.pop_all(), jobs)
