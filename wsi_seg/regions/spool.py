"""Polygons in a temporary file, read in another order than they came in: a map may hold more than memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Self

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import reason_of

# What stays in memory, some 150,000 small outlines: few results ever need the file.
IN_MEMORY = 32 * 2**20


class PolygonSpool:
    """Polygons as WKB, which gives back the same bits; memory holds 8 bytes of each, and `IN_MEMORY` of all.

    The file is without a name, in the system's folder of temporary files (TMPDIR), and gone when closed.
    """

    def __init__(self) -> None:
        """Begin without polygons."""
        self._file = SpooledTemporaryFile[bytes](IN_MEMORY)
        self._lengths = array("q")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, polygons: NDArray[np.object_]) -> None:
        """Add (n,) polygons; OutputError where the file cannot be written."""
        texts: list[bytes] = shapely.to_wkb(polygons, byte_order=1).tolist()
        with _temporary():
            self._file.writelines(texts)
        self._lengths.extend(map(len, texts))

    def read(self, order: NDArray[np.intp], most_bytes: int) -> Iterator[NDArray[np.object_]]:
        """Yield the polygons of these numbers, which count from 0 as they were added, some at a time.

        Args:
            order: (n,) numbers.
            most_bytes: of WKB that are yielded together, where a polygon has not more by itself.

        Raises:
            OutputError: the file cannot be read.
        """
        lengths = np.array(self._lengths, np.int64)
        starts = np.cumsum(lengths) - lengths
        filled = np.cumsum(lengths[order]) // most_bytes
        for numbers in np.split(order, np.flatnonzero(np.diff(filled)) + 1):
            yield self._polygons(starts[numbers].tolist(), lengths[numbers].tolist())

    def _polygons(self, starts: list[int], lengths: list[int]) -> NDArray[np.object_]:
        texts = np.empty(len(starts), object)
        with _temporary():
            for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
                self._file.seek(start)
                texts[i] = self._file.read(length)
        return np.asarray(shapely.from_wkb(texts), object)


@contextmanager
def _temporary() -> Iterator[None]:
    """Report a refusal of the operating system in one line."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"outlines of regions: no temporary file of them can be kept ({reason_of(error)}); name a folder "
            "with room in the environment variable TMPDIR",
            error.errno,
        ) from error
