"""Sharded Zarr arrays of the maps, read and written by tensorstore.

A shard is one file: its inner chunks, each compressed by zstd, then their index and its checksum
(https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/). It is written under a temporary
name and renamed: a killed run leaves whole shards, and temporary files for `remove_partial_files`.
tensorstore is imported on first use, which takes 0.2 s: plans and empty maps need none.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.errors import OutputError
from wsi_seg.core.system import usable_cores

if TYPE_CHECKING:
    import tensorstore

# The file of a group or an array that says what it is.
NODE = "zarr.json"

# Higher levels take longer and save nothing worth it.
ZSTD_LEVEL = 1

# End of the temporary names that tensorstore writes under.
PARTIAL = ".__lock"


def array_document(
    shape: Sequence[int], dtype: str, *, shard: Sequence[int], chunk: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
    """Return the `zarr.json` of an array (https://zarr-specs.readthedocs.io/en/latest/v3/core/).

    Args:
        shape: of the array, in values.
        dtype: name of a NumPy type, such as `uint8`; values are stored little-endian.
        shard: shape of a shard, a multiple of `chunk`. Shards at the array's end may reach beyond it.
        chunk: shape of an inner chunk.
        names: of the axes.
    """
    little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": list(chunk),
        "codecs": [
            {"name": "bytes"} if np.dtype(dtype).itemsize == 1 else little,
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
        ],
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    return {
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shard)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": np.dtype(dtype).type(0).item(),
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {},
        "dimension_names": list(names),
        "zarr_format": 3,
        "node_type": "array",
        "storage_transformers": [],
    }


def write_node(folder: Path, document: dict[str, Any]) -> None:
    """Make the folder of a group or an array with its `zarr.json`; OSError where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NODE).write_bytes(json.dumps(document, indent=2).encode())


@dataclass(frozen=True, slots=True)
class ShardedArray:
    """An array in a folder of shards. Threads may share it as long as no two write one shard."""

    folder: Path
    """Of the array, with its `zarr.json`."""
    shard: tuple[int, ...]
    """Shape of a shard; those at the array's end may reach beyond it."""
    _store: tensorstore.TensorStore

    @classmethod
    def open(cls, folder: Path, document: dict[str, Any]) -> ShardedArray:
        """Open an array that has been made by `write_node`.

        Args:
            folder: of the array.
            document: content of its `zarr.json`, by `array_document`; inner chunks may have another shape.

        Raises:
            OutputError: there is none, it is damaged, or another array.
        """
        import tensorstore

        sharding = document["codecs"][0]
        inner = {key: value for key, value in sharding["configuration"].items() if key != "chunk_shape"}
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{folder}/"},
            "metadata": document | {"codecs": [sharding | {"configuration": inner}]},
        }
        try:
            store = tensorstore.open(spec, open=True, context=_context()).result()
        except ValueError as error:
            path, text = folder / NODE, _without_details(error)
            code = errno.ENOENT if text.startswith("NOT_FOUND") else _os_error_code(error)
            if code is not None:
                raise OutputError(f"{path}: cannot be read ({os.strerror(code)})") from error
            reason = text.rpartition(" driver: ")[2].partition(" {")[0]
            raise OutputError(f"{path}: this part of the maps is damaged ({reason})") from error
        return cls(folder, tuple(document["chunk_grid"]["configuration"]["chunk_shape"]), store)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._store.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._store.dtype.numpy_dtype

    @property
    def ndim(self) -> int:
        return self._store.ndim

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Return a copy of a part, 0 where there is no shard.

        Args:
            key: whole numbers, slices without a step, and at most one `...`.

        Raises:
            IndexError: a whole number is outside.
            OutputError: a shard is damaged or cannot be read.
        """
        part = self._store[_selection(key, self.shape)]
        try:
            return np.asarray(part.read().result())
        except ValueError as error:
            # … in local file "<folder>/c/0/1": <reason>
            named = re.search(r'/(c(?:/\d+)*)": (?!.*/c(?:/\d+)*": )(.*)', _without_details(error))
            path, reason = (self.folder / named[1], named[2]) if named else (self.folder, str(error))
            code = _os_error_code(error)
            if code is not None:
                raise OutputError(f"{path}: cannot be read ({os.strerror(code)})") from error
            raise OutputError(f"{path}: this part of the maps is damaged ({reason})") from error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all of it; NumPy asks for it. It is a copy, whatever `copy` says."""
        return self[...].astype(dtype or self.dtype, copy=False)

    def write_shard(self, index: tuple[int, ...], values: NDArray[Any]) -> None:
        """Write one shard whole or not at all, or remove it where there is nothing but 0.

        The same values give the same bytes. Planes of 0 alone, along the first of three axes, cost nothing.

        Args:
            index: of the shard along each axis.
            values: all of it that lies within the array, of the array's type.

        Raises:
            OSError: it cannot be written.
        """
        box = zip(index, self.shard, self.shape, strict=True)
        part = self._store[tuple(slice(i * side, min((i + 1) * side, n)) for i, side, n in box)]
        if values.ndim == 3:
            used = planes_in_use(values)
            if len(used) < len(values):
                # What is written in part would be added to a file of before.
                self.folder.joinpath("c", *map(str, index)).unlink(missing_ok=True)
                if not len(used):
                    return
                part, values = part[used + part.origin[0]], values[used]
        try:
            part.write(values, can_reference_source_data_indefinitely=True).result()
        except ValueError as error:
            code = _os_error_code(error)
            if code is None:
                raise OSError(_without_details(error)) from error
            raise OSError(code, os.strerror(code), str(self.folder)) from error


def planes_in_use(values: NDArray[Any]) -> NDArray[np.intp]:
    """Return which of (c, y, x) planes hold anything but 0."""
    return np.flatnonzero([plane.any() for plane in values])


@cache
def _context() -> tensorstore.Context:
    """Return what all arrays share: as many threads as there are cores, and no cache."""
    import tensorstore

    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "data_copy_concurrency": {"limit": usable_cores()},
            # Each shard has one writer. With the default, "os", a shard written over the longer leftover of a
            # killed writer keeps its end and is damaged (0.1.86); without locks each has a name of its own.
            "file_io_locking": {"mode": "none"},
            "file_io_sync": False,
        }
    )


def _os_error_code(error: ValueError) -> int | None:
    """Return the `errno` that tensorstore names in an error, None where the file system is not to blame."""
    found = re.search(r"\[os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


def _without_details(error: ValueError) -> str:
    """Return the message of an error without the specification that tensorstore appends in brackets."""
    return re.sub(r" \[\w+='.*", "", str(error), flags=re.DOTALL)


def _selection(key: Any, shape: tuple[int, ...]) -> tuple[int | slice, ...]:
    """Return a NumPy key with bounds within `shape`, one part for each axis."""
    keys = key if isinstance(key, tuple) else (key,)
    at = next((i for i, part in enumerate(keys) if part is Ellipsis), len(keys))
    missing = len(shape) - len(keys[:at] + keys[at + 1 :])
    if missing < 0:
        raise IndexError(f"{len(shape) - missing} indices for {len(shape)} axes")
    parts: list[int | slice] = []
    for part, length in zip((*keys[:at], *[slice(None)] * missing, *keys[at + 1 :]), shape, strict=True):
        found = range(length)[part]
        if isinstance(found, range):
            if found.step != 1:
                raise IndexError("slices with a step are not supported")
            found = slice(found.start, max(found.start, found.stop))
        parts.append(found)
    return tuple(parts)
