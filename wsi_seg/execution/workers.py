"""Starting workers: threads here, processes of this machine, some with a GPU, or jobs of a SLURM cluster."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack

from wsi_seg.core.errors import MissingExtraError, UsageError
from wsi_seg.core.system import usable_cores
from wsi_seg.core.yaml_config import read_yaml
from wsi_seg.execution.graph import LocalWorkers, Workers
from wsi_seg.execution.settings import SCHEDULERS, SLURM, WorkerSettings

CUDA_DEVICES = "CUDA_VISIBLE_DEVICES"
# ROCm's name for the same; it goes before CUDA's there.
HIP_DEVICES = "HIP_VISIBLE_DEVICES"
# An entry of these lists: a number, the UUID of a GPU or of a part of one, or the beginning of a UUID.
DEVICE_ENTRY = re.compile(r"\+?\d|GPU-|MIG-")


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
    scheduler, many = settings.scheduler, settings.processes > 1
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
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // settings.processes))
    shared: dict[str, str] = {"OMP_NUM_THREADS": threads}
    if not settings.gpus:
        return [shared] * settings.processes
    gpus = itertools.islice(itertools.cycle(settings.devices), settings.processes)
    return [{**shared, **_one_device(gpu)} for gpu in gpus]


def _one_device(index: int) -> dict[str, str]:
    """Return the environment in which a process sees one of this process's devices alone."""
    own = {CUDA_DEVICES: visible_device(os.environ.get(CUDA_DEVICES), index)}
    if os.environ.get(HIP_DEVICES):
        own[HIP_DEVICES] = visible_device(os.environ[HIP_DEVICES], index)
    return own


def visible_device(parent: str | None, index: int) -> str:
    """Return the `CUDA_VISIBLE_DEVICES` of a process that is to see one device alone.

    Args:
        parent: that of this process, such as a scheduler has set it; None: all devices are visible.
        index: number of the device among those visible to this process, from 0.

    Returns:
        The parent's entry, verbatim: a number, a GPU's UUID or a MIG name.

    Raises:
        UsageError: the parent's list has fewer devices.
    """
    if parent is None:
        return str(index)
    entries = [entry.strip() for entry in parent.split(",")]
    # As CUDA reads it: up to the first entry that is no device (such as -1); a repeated one leaves nothing.
    visible = list(itertools.takewhile(DEVICE_ENTRY.match, entries))
    if len(set(visible)) < len(visible) or not 0 <= index < len(visible):
        raise UsageError(
            f"{CUDA_DEVICES}={parent!r}: names no device number {index}; correct it, or give other --gpus"
        )
    return visible[index]


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
    from distributed import Client

    from wsi_seg.execution.cluster import Cluster
    from wsi_seg.execution.slurm import SlurmJobs

    options = read_yaml(settings.cluster) if settings.cluster is not None else {}
    with ExitStack() as started:
        try:
            cluster = SLURMCluster(**options)
        except (TypeError, ValueError) as error:
            raise UsageError(f"{settings.cluster or 'jobqueue.slurm'}: {error}") from error
        started.callback(cluster.close)
        jobs = SlurmJobs(cluster, settings.processes)
        client = Client(cluster, set_as_default=False)
        started.callback(client.close)
        return Cluster(client, started.pop_all(), jobs)
