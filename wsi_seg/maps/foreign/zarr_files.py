"""Zarr stores of formats 2 and 3, in a folder or a zip file, read by zarr.

Of a store from anywhere nothing is followed out of its folder, and nothing but plain files is opened in it: a
link may lead to other people's files, and a pipe or a device has no end.
"""

from __future__ import annotations

import asyncio
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr
from zarr.storage import LocalStore, ZipStore

from wsi_seg.core.errors import MapError
from wsi_seg.maps.foreign.ome_zarr import Image, describe_image, image_of_array
from wsi_seg.maps.foreign.stored import StoredMap

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

# What zarr and its codecs raise on damaged stores: its own errors are ValueErrors, those of codecs
# RuntimeErrors.
ZARR_ERRORS = (
    OSError, ValueError, LookupError, TypeError, RuntimeError, ArithmeticError, AttributeError, EOFError,
    AssertionError, zlib.error, zipfile.BadZipFile, struct.error,
)  # fmt: skip

# Largest file that is read at once; those of shards are larger, and read in parts.
MOST_FILE_BYTES = 2**29

# Longest list of names in a message.
NAMED = 10


class _PlainFiles(LocalStore):
    """A folder in which links and all that is no plain file are refused."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        await asyncio.to_thread(self._check, key, byte_range is None)
        return await super().get(key, prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        ranges = list(key_ranges)
        for key, byte_range in ranges:
            await asyncio.to_thread(self._check, key, byte_range is None)
        return await super().get_partial_values(prototype, ranges)

    def _check(self, key: str, whole: bool) -> None:
        path = self.root
        for part in Path(key).parts:
            path = path / part
            try:
                status = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                return
            if stat.S_ISLNK(status.st_mode):
                raise MapError(f"{path}: is a link, which is not followed; copy the store (cp -rL)")
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise MapError(f"{path}: is no plain file")
        if whole and stat.S_ISREG(status.st_mode) and status.st_size > MOST_FILE_BYTES:
            raise MapError(f"{path}: a chunk of {status.st_size:,} bytes is too large to be read at once")


def open_zarr(path: Path, inner: str | None) -> StoredMap:
    """Open an array, or the finest level of an OME-Zarr image, in a folder or zip file; see `open_map`."""
    name = str(path) if inner is None else f"{path}/{inner}"
    if inner is not None and (inner.startswith("/") or not {"..", "."}.isdisjoint(inner.split("/"))):
        raise MapError(f"{name}: {inner!r} leads out of the store; give the path of an array in it")
    try:
        if path.is_dir():
            root, place = _root_of(path, inner or "")
            store: Any = _PlainFiles(root, read_only=True)
        else:
            place = (inner or "").strip("/")
            _check_zip(path)
            store = ZipStore(path, mode="r")
        return _open(name, store, place)
    except ZARR_ERRORS as error:
        raise MapError(f"{name}: no Zarr array that can be read ({_reason(error)})") from error


def _root_of(path: Path, inner: str) -> tuple[Path, str]:
    """Return the outermost Zarr group around a folder, where metadata may lie, and the place in it."""
    folder, parts = path.resolve(), [part for part in inner.split("/") if part]
    while _is_node(folder.parent):
        folder, parts = folder.parent, [folder.name, *parts]
    return folder, "/".join(parts)


def _is_node(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def _check_zip(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        for item in file.infolist():
            if item.file_size > MOST_FILE_BYTES:
                raise MapError(f"{path}: {item.filename} claims {item.file_size:,} bytes")


def _open(name: str, store: Any, place: str) -> StoredMap:
    node = zarr.open(store, path=place, mode="r")
    if isinstance(node, zarr.Group):
        image = describe_image(store, place, node.attrs.asdict(), name)
        if image is None:
            names = [f"{key}/" if isinstance(item, zarr.Group) else key for key, item in node.members()]
            more = ", …" if len(names) > NAMED else ""
            raise MapError(
                f"{name}: a Zarr group that is no OME-Zarr image; choose an array in it with --array: "
                f"{', '.join(sorted(names)[:NAMED]) or 'there is none'}{more}"
            )
        node = zarr.open(store, path=image.array, mode="r")
        if not isinstance(node, zarr.Array):
            raise MapError(f"{name}: its metadata name {image.array!r} as a level, which is no array")
    else:
        image = image_of_array(store, place, name)
    return _stored(name, node, image or Image(place))


def _stored(name: str, array: zarr.Array[Any], image: Image) -> StoredMap:
    axes = image.axes or _named_axes(array)
    if axes is not None and len(axes) != array.ndim:
        raise MapError(f"{name}: its metadata name {len(axes)} axes, but it has {array.ndim}")
    return StoredMap(
        name,
        array,
        tuple(array.chunks),
        axes,
        image.mpp,
        "missing" if image.mpp is None else "ome-zarr",
        image.corner_um,
        image.values,
        image.channels,
        ZARR_ERRORS,
    )


def _named_axes(array: zarr.Array[Any]) -> str | None:
    """Return the axes as the array names them: by Zarr 3, or as xarray does in Zarr 2."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        return None
    axes = "".join(str(name)[0].lower() for name in names)
    return axes if axes.count("y") == axes.count("x") == 1 and axes.count("c") <= 1 else None


def _reason(error: Exception) -> str:
    return f"{' '.join(str(error).split()) or type(error).__name__:.200}"
