"""The shards of the maps' arrays, made and read piece by piece in the thread that asks.

A shard is a file: its inner chunks, each compressed by zstd, one after the other; then, for each of them in C
order, its offset and number of bytes, both 2^64 - 1 where it holds nothing but 0; then the CRC-32C of that
index (https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/). zarr makes and reads the same
files, but takes the cores two to three times as long, which is what a GPU waits for; its pipeline in Rust
(zarrs) is as quick as this, and writes shards in place, of which a killed run leaves halves. See
`benchmarks/codecs.py`. What `zarr.json` says of an array is written here as well: a slide has two dozen of
them, and zarr would take half a second of each start.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.errors import OutputError

# The file of a group or an array that says what it is.
NODE = "zarr.json"

# Higher levels take longer and save nothing worth it.
ZSTD_LEVEL = 1

# Offset and number of bytes of a chunk that is not there.
MISSING = 2**64 - 1

CRC_BYTES = 4
PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class ShardedArray:
    """An array in a folder of shards. Threads may share it as long as no two write one shard."""

    folder: Path
    """Of the array, with its `zarr.json`."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """One byte, or little-endian."""
    shard: tuple[int, ...]
    """Shape of a shard; a multiple of `chunk`. Those at the array's end may reach beyond it."""
    chunk: tuple[int, ...]

    @classmethod
    def open(cls, folder: Path) -> ShardedArray:
        """Open an array that `create` has made.

        Raises:
            OutputError: there is none, or it is damaged or laid out in another way.
        """
        path = folder / NODE
        try:
            found = json.loads(path.read_bytes())
            shard = found["chunk_grid"]["configuration"]["chunk_shape"]
            chunk = found["codecs"][0]["configuration"]["chunk_shape"]
            dtype = np.dtype(found["data_type"]).newbyteorder("<")
            array = cls(folder, tuple(found["shape"]), dtype, tuple(shard), tuple(chunk))
            if not all(type(n) is int and n > 0 for n in (*array.shape, *shard, *chunk)):
                raise ValueError("a side is no whole number above 0")
            if found | {"attributes": {}} != array._document(found["dimension_names"]):
                raise ValueError("its values are not laid out as wsi_seg does")
        except OSError as error:
            raise OutputError(f"{path}: cannot be read ({error.strerror or error})") from error
        except (IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise OutputError(f"{path}: this part of the maps is damaged ({error})") from error
        return array

    def create(self, names: Sequence[str]) -> None:
        """Make the folder, in which all values are 0.

        Args:
            names: of the axes.

        Raises:
            OSError: it cannot be written.
        """
        write_node(self.folder, self._document(names))

    def _document(self, names: Sequence[str]) -> dict[str, Any]:
        """Return what `zarr.json` says: https://zarr-specs.readthedocs.io/en/latest/v3/core/."""
        little: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
        sharding = {
            "chunk_shape": list(self.chunk),
            "codecs": [
                {"name": "bytes"} if self.dtype.itemsize == 1 else little,
                {"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}},
            ],
            "index_codecs": [little, {"name": "crc32c"}],
            "index_location": "end",
        }
        return {
            "shape": list(self.shape),
            "data_type": self.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.shard)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": self.dtype.type(0).item(),
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            "attributes": {},
            "dimension_names": list(names),
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        """Return a copy of a part, 0 where there is no shard.

        Args:
            key: whole numbers, slices without a step, and at most one `...`.

        Raises:
            IndexError: a whole number is outside.
            OutputError: a shard is damaged or cannot be read.
        """
        bounds, kept = _bounds(key, self.shape)
        out = np.zeros([end - begin for begin, end in bounds], self.dtype)
        if out.size:
            for index in _cells(bounds, self.shard):
                self._read_shard(index, bounds, out)
        return out.reshape([length for length, keep in zip(out.shape, kept, strict=True) if keep])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return all of it; NumPy asks for it. It is a copy, whatever `copy` says."""
        return self[...].astype(dtype or self.dtype, copy=False)

    def _read_shard(self, index: tuple[int, ...], bounds: list[tuple[int, int]], out: NDArray[Any]) -> None:
        """Copy what lies within `bounds` of one shard to `out`."""
        path = self._path(index)
        corner = [i * side for i, side in zip(index, self.shard, strict=True)]
        here = [
            (max(begin - at, 0), min(end - at, side))
            for (begin, end), at, side in zip(bounds, corner, self.shard, strict=True)
        ]
        try:
            with path.open("rb") as file:
                places = self._index(file)
                for cell in _cells(here, self.chunk):
                    offset, size = places[cell].tolist()
                    if offset == MISSING:
                        continue
                    file.seek(offset)
                    values = self._decode(file.read(size))
                    source, target = [], []
                    for i, side, at, (begin, end) in zip(cell, self.chunk, corner, bounds, strict=True):
                        start = at + i * side
                        first, last = max(start, begin), min(start + side, end)
                        source.append(slice(first - start, last - start))
                        target.append(slice(first - begin, last - begin))
                    out[tuple(target)] = values[tuple(source)]
        except FileNotFoundError:
            return
        except (ValueError, imagecodecs.ZstdError) as error:
            raise OutputError(f"{path}: this part of the maps is damaged ({error})") from error
        except OSError as error:
            raise OutputError(f"{path}: cannot be read ({error.strerror or error})") from error

    def _index(self, file: BinaryIO) -> NDArray[np.uint64]:
        """Return offset and bytes of each chunk: (chunks along each axis …, 2)."""
        shape = (*_grid(self.shard, self.chunk), 2)
        size = 8 * math.prod(shape)
        if file.seek(0, 2) < size + CRC_BYTES:
            raise ValueError("it is cut short")
        file.seek(-size - CRC_BYTES, 2)
        end = file.read(size + CRC_BYTES)
        if google_crc32c.value(end[:size]) != int.from_bytes(end[size:], "little"):
            raise ValueError("its index has another checksum")
        return np.frombuffer(end[:size], "<u8").reshape(shape)

    def _decode(self, data: bytes) -> NDArray[Any]:
        # No more than this is unpacked, whatever a damaged file says of its size.
        size = math.prod(self.chunk) * self.dtype.itemsize
        return np.frombuffer(imagecodecs.zstd_decode(data, out=size), self.dtype).reshape(self.chunk)

    def write_shard(self, index: tuple[int, ...], values: NDArray[Any]) -> None:
        """Write one shard whole or not at all, or remove it where there is nothing but 0.

        Args:
            index: of the shard along each axis.
            values: all of it that lies within the array, of the array's type.

        Raises:
            OSError: it cannot be written.
        """
        path, data = self._path(index), encode_shard(values, self.shard, self.chunk)
        if data is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
        try:
            aside.write_bytes(data)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def _path(self, index: tuple[int, ...]) -> Path:
        return self.folder.joinpath("c", *map(str, index))


def write_node(folder: Path, document: dict[str, Any]) -> None:
    """Make the folder of a group or an array with its `zarr.json`; OSError where it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NODE).write_bytes(json.dumps(document, indent=2).encode())


def encode_shard(values: NDArray[Any], shard: tuple[int, ...], chunk: tuple[int, ...]) -> bytes | None:
    """Return the bytes of a shard, None where all values are 0; the same values give the same bytes.

    Args:
        values: none below 0; may be smaller than the shard along each axis, which is then filled up with 0.
        shard: its shape, a multiple of `chunk`.
        chunk: shape of an inner chunk.
    """
    grid = _grid(shard, chunk)
    places = np.full((*grid, 2), MISSING, "<u8")
    parts, offset = [], 0
    for cell in np.ndindex(grid):
        part = values[tuple(slice(i * side, (i + 1) * side) for i, side in zip(cell, chunk, strict=True))]
        if not part.size or not part.max() > 0:
            continue
        if part.shape != chunk:
            part = np.pad(part, [(0, side - n) for side, n in zip(chunk, part.shape, strict=True)])
        data = imagecodecs.zstd_encode(part.tobytes(), level=ZSTD_LEVEL)
        places[cell] = offset, len(data)
        parts.append(data)
        offset += len(data)
    if not parts:
        return None
    index = places.tobytes()
    return b"".join([*parts, index, google_crc32c.value(index).to_bytes(CRC_BYTES, "little")])


def _grid(shard: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(side // part for side, part in zip(shard, chunk, strict=True))


def _cells(bounds: list[tuple[int, int]], sides: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Yield the cells of a grid that a box (begin, end along each axis) touches, in C order."""
    ranges = (range(begin // side, -(-end // side)) for (begin, end), side in zip(bounds, sides, strict=True))
    return product(*ranges)


def _bounds(key: Any, shape: tuple[int, ...]) -> tuple[list[tuple[int, int]], list[bool]]:
    """Return where a key begins and ends along each axis, and which axes stay."""
    keys = key if isinstance(key, tuple) else (key,)
    given = sum(part is not Ellipsis for part in keys)
    if given > len(shape):
        raise IndexError(f"{given} indices for {len(shape)} axes")
    at = next((i for i, part in enumerate(keys) if part is Ellipsis), len(keys))
    whole = (slice(None),) * (len(shape) - given)
    bounds, kept = [], []
    for part, length in zip((*keys[:at], *whole, *keys[at + 1 :]), shape, strict=True):
        kept.append(isinstance(part, slice))
        if isinstance(part, slice):
            begin, end, step = part.indices(length)
            if step != 1:
                raise IndexError("slices with a step are not supported")
        else:
            begin = int(part) + (length if part < 0 else 0)
            end = begin + 1
            if not 0 <= begin < length:
                raise IndexError(f"index {part} is outside of an axis of {length}")
        bounds.append((begin, max(begin, end)))
    return bounds, kept
