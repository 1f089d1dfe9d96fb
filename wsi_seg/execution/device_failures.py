"""Tasks whose worker has a device that fails: a result that says so, and not an error that Dask retries."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from distributed import Client, get_worker

from wsi_seg.core.errors import ClusterError, DeviceError
from wsi_seg.execution.graph import Result, Task

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeviceFailure:
    """The result of a task that another worker must do."""

    worker: str
    """Address of the one whose device failed."""
    reason: str
    way_out: str


def with_device_failure(function: Callable[[Task], Result], task: Task) -> Result | DeviceFailure:
    """Return what a task returns, or that the device of this worker does not go on."""
    try:
        return function(task)
    except DeviceError as error:
        return DeviceFailure(get_worker().address, error.reason, error.way_out)


class FailedWorkers:
    """The workers whose devices failed; each is ended once, and its tasks are done by others."""

    def __init__(self, client: Client, *, replaced: bool) -> None:
        """Take a connected client; `replaced`: others come for those that end, if only later."""
        self._client, self._replaced = client, replaced
        self._addresses: set[str] = set()
        self._ending = threading.Lock()

    def end(self, failure: DeviceFailure) -> None:
        """End a worker.

        Raises:
            ClusterError: there are no others.
        """
        with self._ending:
            if failure.worker not in self._addresses:
                self._addresses.add(failure.worker)
                if not self._replaced and not self._client.nthreads().keys() - self._addresses:
                    raise ClusterError(f"{failure.reason}; no other worker is left; {failure.way_out}")
                logger.warning("%s: its worker ends, and others do its blocks", failure.reason)
                self._client.retire_workers([failure.worker])
