"""Copies to a GPU and back, without busy waiting; and the time that the GPU was at work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsi_seg.inference.stitch import Transfer


class CudaTransfer(Transfer):
    """Copies through pinned memory: queued like any kernel, so that nobody waits for the passes before.

    Where results are fetched the thread sleeps until they are there. By default CUDA would have it ask all
    the time, and take a core from reading and writing.
    """

    def __init__(self, device: str) -> None:
        self._device = device

    def to_device(self, array: NDArray[Any], like: Any = None, /) -> Tensor:
        """Return an array as a tensor on the device."""
        pixels = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        return pixels.pin_memory().to(self._device, non_blocking=True)

    def to_host(self, arrays: Sequence[Any], /) -> list[NDArray[Any]]:
        """Return tensors of the device as arrays."""
        copies = [torch.empty(a.shape, dtype=a.dtype, pin_memory=True) for a in arrays]
        for copy, array in zip(copies, arrays, strict=True):
            copy.copy_(array, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))
        done.synchronize()
        return [copy.numpy() for copy in copies]


class CudaClock:
    """Time that a GPU was at work on what a thread queued within `running`."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._of_thread = threading.local()

    def begin(self) -> None:
        """Forget what this thread has queued so far."""
        self._of_thread.pairs = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time what is queued meanwhile."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        stream = torch.cuda.current_stream(self._device)
        start.record(stream)
        yield
        end.record(stream)
        self._of_thread.pairs.append((start, end))

    def seconds(self) -> Callable[[], float]:
        """Return a function that waits for what this thread has queued since `begin`, and gives its seconds.

        Turns of other processes on the device are included.
        """
        pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]] = self._of_thread.pairs

        def elapsed() -> float:
            for _, end in pairs:
                end.synchronize()
            return float(sum(start.elapsed_time(end) for start, end in pairs)) / 1000

        return elapsed
