"""Slides through TiffSlide: TIFF-family files, local or by URL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tiffslide
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.errors import SlideError
from wsi_seg.geometry import Box, Scale
from wsi_seg.readers.base import LevelReader, make_levels, over, read_bounds, sampled_fingerprint
from wsi_seg.readers.remote import CACHE_HINT, open_head
from wsi_seg.readers.tiff import TIFF_ERRORS, check_whole
from wsi_seg.remote import is_remote
from wsi_seg.remote_errors import reason_of, storage_errors
from wsi_seg.slide import WHITE, SlideInfo, default_name, resolve_mpp

if TYPE_CHECKING:
    import zarr

PHOTOMETRICS = ("RGB", "YCBCR", "MINISBLACK")


class TiffSlideReader(LevelReader):
    """A slide that TiffSlide reads; gives exactly the stored pixels of every level."""

    def __init__(self, path: str, mpp: Scale | None = None) -> None:
        self._handle = _open(path)
        try:
            check_whole(path, self._handle.ts_tifffile)
            properties = {
                key: str(value) for key, value in self._handle.properties.items() if value is not None
            }
            _check_pixels(path, self._handle)
            info = _describe(path, self._handle, properties, mpp)
            self._scanned = _scanned_regions(self._handle)
        except _errors() as error:
            self._handle.close()
            raise SlideError(f"{path}: damaged or unsupported TIFF: {reason_of(error)}") from error
        except SlideError:
            self._handle.close()
            raise
        super().__init__(info)

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        try:
            stored = self._read_stored(level, box)
        except _errors() as error:
            raise self._unreadable(level, box, error) from error
        pixels = _to_rgb(stored)
        if self._scanned is None:
            return pixels
        out = np.full(pixels.shape, WHITE, np.uint8)
        for region in self._scanned[level]:
            part = region.intersect(box)
            if not part.empty:
                out[part.within(box)] = pixels[part.within(box)]
        return out

    def _read_stored(self, level: int, box: Box) -> NDArray[Any]:
        location = (self._locate(level, 0, box.x0), self._locate(level, 1, box.y0))
        stored = self._handle.read_region(location, level, (box.width, box.height), as_array=True)
        return np.asarray(stored)

    def _locate(self, level: int, axis: int, position: int) -> int:
        """Return a level-0 position that TiffSlide, which divides and truncates, maps to `position`."""
        step = self._handle.level_downsamples[level]
        location = int(position * step)
        while int(location / step) < position:
            location += 1
        return location

    def _release(self) -> None:
        self._handle.close()


def _open(path: str) -> tiffslide.TiffSlide:
    try:
        return tiffslide.TiffSlide(open_head(path).file.open() if is_remote(path) else path)
    except FileNotFoundError as error:
        raise SlideError(f"{path}: no such file") from error
    except _errors() as error:
        hint = f"; {CACHE_HINT}" if is_remote(path) else ""
        raise SlideError(f"{path}: cannot be opened as a TIFF: {reason_of(error)}{hint}") from error


def _errors() -> tuple[type[BaseException], ...]:
    """Return what tifffile, its codecs, zarr and the network raise on bad data."""
    return (*TIFF_ERRORS, *storage_errors())


def _check_pixels(path: str, handle: tiffslide.TiffSlide) -> None:
    page = handle.ts_tifffile.pages.first
    photometric = getattr(page.photometric, "name", str(page.photometric))
    channels = page.samplesperpixel
    if page.dtype != np.uint8 or channels not in (1, 3, 4) or photometric not in PHOTOMETRICS:
        raise SlideError(
            f"{path}: {channels} channels of {page.dtype} ({photometric}) are not a brightfield slide; "
            "8-bit RGB or grey is needed"
        )


def _describe(
    path: str, handle: tiffslide.TiffSlide, properties: Mapping[str, str], mpp: Scale | None
) -> SlideInfo:
    resolved, source = resolve_mpp(mpp, properties, prefix="tiffslide")
    levels = make_levels(handle.level_dimensions)
    return SlideInfo(
        path=path,
        name=default_name(path),
        reader="tiffslide",
        vendor=properties.get("tiffslide.vendor", "generic-tiff"),
        size=levels[0].size,
        levels=levels,
        mpp=resolved,
        mpp_source=source,
        bounds=read_bounds(properties, "tiffslide"),
        fingerprint=_fingerprint(handle),
    )


def _fingerprint(handle: tiffslide.TiffSlide) -> str:
    file = handle.ts_tifffile.filehandle

    def read_at(offset: int, count: int) -> bytes:
        file.seek(offset)
        return bytes(file.read(count))

    return sampled_fingerprint(file.size, read_at)


def _scanned_regions(handle: tiffslide.TiffSlide) -> list[list[Box]] | None:
    """Return the regions of each level that hold pixels, or None where all of it does.

    Between them TiffSlide gives black.
    """
    composition = handle.properties.get("tiffslide.series-composition")
    if composition is None:
        return None
    group = handle.zarr_group
    regions: list[list[Box]] = []
    for level in range(handle.level_count):
        boxes = []
        for series, offsets in composition["located_series"].items():
            height, width = cast("zarr.Array[Any]", group[f"{series}/{level}"]).shape[:2]
            y, x = offsets[level][:2]
            boxes.append(Box.at(x, y, width, height))
        regions.append(boxes)
    return regions


def _to_rgb(stored: NDArray[Any]) -> NDArray[np.uint8]:
    if stored.shape[2] == 1:
        return np.repeat(stored, 3, axis=2)
    if stored.shape[2] == 4:
        return over(Image.fromarray(np.ascontiguousarray(stored)))
    return np.ascontiguousarray(stored)
