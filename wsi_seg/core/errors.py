"""Every error that wsi_seg raises on purpose, each with the exit code of the command line.

A message is one line that names the file, the bad value and the way out.
"""

from __future__ import annotations

import errno


class WsiSegError(Exception):
    """Root of all errors of this package; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(WsiSegError):
    """A value given by the user (flag, config key, class name) is wrong."""

    exit_code = 2


class FormatLimitError(UsageError):
    """A format cannot hold these results, however they are written."""


class SlideError(WsiSegError):
    """A slide cannot be opened or read, or lacks what is needed."""


class MppMissingError(SlideError):
    """The slide does not say its microns per pixel and the user did not either."""


class ModelError(WsiSegError):
    """A model folder, card or checkpoint is missing, damaged or does not fit."""


class DeviceError(ModelError):
    """A device is lost, broken, or in a state that only a new process ends."""

    way_out = "run the same command again to resume"

    def __init__(self, reason: str) -> None:
        self.reason = reason.removesuffix(f"; {self.way_out}")
        """Failure without the way out, which the message has, too."""
        super().__init__(f"{self.reason}; {self.way_out}")


class DeviceMemoryError(DeviceError):
    """A device has not enough memory, not even for one tile at a time."""

    way_out = "use smaller tiles (--set tile=…), or fewer --workers on each GPU"


class NoDeviceError(UsageError, DeviceError):
    """There is no such device."""

    way_out = "use auto or cpu"


class OutputError(WsiSegError):
    """Results cannot be written, or the folder belongs to another run."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno
        """Reason that the operating system gave, where it refused."""

    @property
    def disk_is_full(self) -> bool:
        """Return True if nothing else can be written there either."""
        return self.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class ClaimedError(OutputError):
    """Another process is at work on the same results, or in the same folder of a training."""


class DataError(WsiSegError):
    """Training or evaluation data are missing or inconsistent."""


class MapError(WsiSegError):
    """A map of other software cannot be read, or does not say enough."""


class MaskError(DataError):
    """A file with drawn regions cannot be used."""


class ClusterError(WsiSegError):
    """The workers that were to do the job are gone."""


class MissingExtraError(WsiSegError):
    """An optional dependency is needed; the message carries the install command."""


class Interrupted(WsiSegError):
    """The user stopped the run; finished blocks are kept for the next one."""

    exit_code = 130
