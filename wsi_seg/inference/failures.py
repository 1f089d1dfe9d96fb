"""Failures of a device, told from those of a program by what CUDA, ROCm and their libraries say."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from wsi_seg.core.errors import DeviceError, DeviceMemoryError
from wsi_seg.core.gpus import CUDA_DEVICES

# In capitals only the runtime and its libraries name themselves so; PyTorch's own messages say "cuda".
DEVICE = re.compile(r"\b(CUDA|HIP|cuDNN|NVML)\b|\b(CUDNN|CUBLAS|CUSOLVER|HIPBLAS)_STATUS")
NO_MEMORY = "out of memory"


@contextmanager
def device_errors() -> Iterator[None]:
    """Make one line of what a device raises, which may come from any call that waits for it.

    After most of these errors, as "uncorrectable ECC error" or "unspecified launch failure", CUDA refuses
    all further work of the process.

    Raises:
        DeviceError: the device is lost, broken, or refuses more work.
        DeviceMemoryError: it has not enough memory.
    """
    try:
        yield
    except RuntimeError as error:
        if not DEVICE.search(str(error)):
            raise
        reason = f"{_gpu()}: {str(error).splitlines()[0].rstrip('.')}"
        if NO_MEMORY in reason:
            raise DeviceMemoryError(reason) from error
        raise DeviceError(reason) from error


def _gpu() -> str:
    mask = os.environ.get(CUDA_DEVICES)
    return f"GPU {mask} of {socket.gethostname()}" if mask else f"a GPU of {socket.gethostname()}"
