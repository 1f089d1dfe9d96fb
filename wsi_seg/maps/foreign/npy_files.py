"""NumPy `.npy` files, of which only the boxes asked for are mapped into memory."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.errors import MapError
from wsi_seg.core.files import reading
from wsi_seg.maps.foreign.stored import StoredMap

# Side of the boxes that are read at a time.
SIDE = 512

# Versions of the format; 3.0 is for names of fields, which maps do not have.
READ_HEADER = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True, slots=True)
class MappedArray:
    """Plain values in a file, mapped for each box again: pages of a lasting map count as memory."""

    path: Path
    offset: int
    """Bytes before the first value."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    order: str = "C"
    """`C` or `F`."""

    def mapped(self) -> NDArray[Any]:
        """Return all of it, mapped; OSError or ValueError where the file is too short."""
        order: Any = self.order
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order)

    def __getitem__(self, key: tuple[slice, ...], /) -> NDArray[Any]:
        return np.array(self.mapped()[key])


def open_npy(path: Path) -> StoredMap:
    """Open a `.npy` file, which says neither axes nor resolution.

    Raises:
        MapError: it is damaged, too short, or holds pickled objects.
    """
    with reading(path, MapError), path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            version = np.lib.format.read_magic(file)
            read = READ_HEADER.get(version)
            if read is None:
                raise ValueError(f"version {version[0]}.{version[1]} of the format")
            shape, fortran, dtype = read(file)
        except (ValueError, EOFError, SyntaxError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise MapError(f"{path}: its header cannot be read ({reason:.200})") from error
        offset = file.tell()
    if dtype.hasobject:
        raise MapError(f"{path}: holds pickled Python objects, which are not loaded; save numbers")
    if offset + math.prod(shape) * dtype.itemsize > size:
        raise MapError(
            f"{path}: claims {' × '.join(map(str, shape))} values of type {dtype}, but has {size} bytes"
        )
    array = MappedArray(path, offset, shape, dtype, "F" if fortran else "C")
    return StoredMap(str(path), array, tuple(min(length, SIDE) for length in shape), axes=None)
