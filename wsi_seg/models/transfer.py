"""What goes to a GPU and comes back, without anybody spinning meanwhile; and how long the GPU was at work."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class CudaTransfer:
    """Copies through pinned memory: queued like any kernel, so that nobody waits for the passes before.

    Where results are fetched the thread sleeps until they are there. By default CUDA would have it ask all
    the time, and take a core from reading and writing.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    def to_device(self, array: NDArray[Any], like: Any = None) -> Tensor:
        """Return an array as a tensor on the device; see `stitch.Transfer`."""
        pixels = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        return pixels.pin_memory().to(self._device, non_blocking=True)

    def to_host(self, arrays: Sequence[Any]) -> list[NDArray[Any]]:
        """Return tensors of the device as arrays; see `stitch.Transfer`."""
        copies = [torch.empty(a.shape, dtype=a.dtype, pin_memory=True) for a in arrays]
        for copy, array in zip(copies, arrays, strict=True):
            copy.copy_(array, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))
        done.synchronize()
        return [copy.numpy() for copy in copies]


class CudaClock:
    """How long a GPU was at work on what was queued within `running`."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._lock = threading.Lock()
        self._pairs: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time what is queued meanwhile; one thread at a time."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(self._device)
        start.record(stream)
        yield
        end.record(stream)
        with self._lock:
            self._pairs.append((start, end))

    def seconds(self) -> float:
        """Return the seconds of what ended since this was last asked, other processes' turns included."""
        total = 0.0
        with self._lock:
            while self._pairs and self._pairs[0][1].query():  # type: ignore[no-untyped-call]
                start, end = self._pairs.popleft()
                total += start.elapsed_time(end) / 1000
        return total
