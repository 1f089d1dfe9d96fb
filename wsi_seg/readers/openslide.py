"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, Philips, Ventana, Trestle, generic tiled TIFF, DICOM."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from wsi_seg.errors import SlideError
from wsi_seg.geometry import Box, Scale, Size
from wsi_seg.readers.base import LevelReader, file_fingerprint, make_levels, over, parse_colour, read_bounds
from wsi_seg.slide import SlideInfo, default_name, resolve_mpp

# OpenSlide places a read by a level-0 location divided by its own, averaged downsample. Where that is no
# whole number, most level pixels lie between two locations and OpenSlide interpolates. Such levels are read
# in cells of this many level pixels, each from the location nearest to its corner, so that a pixel comes out
# the same whatever box it is read with; it is then off by at most half a level-0 pixel.
CELL = 256


class OpenSlideReader(LevelReader):
    """A slide that OpenSlide reads; reopens the file after a read error, which spoils OpenSlide's handle."""

    def __init__(self, path: str, mpp: Scale | None = None) -> None:
        self._handle: openslide.OpenSlide | None = _open(path)
        self._steps = [float(step) for step in self._handle.level_downsamples]
        info, self._background = _facts(path, self._handle, mpp)
        super().__init__(info)

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        try:
            if self._handle is None:
                self._handle = openslide.OpenSlide(self._info.path)
            if self._steps[level].is_integer():
                return self._read_at(self._handle, level, box)
            return self._read_cells(self._handle, level, box)
        except (openslide.OpenSlideError, OSError) as error:
            self._release()
            raise self._unreadable(level, box, error) from error

    def _read_at(self, handle: openslide.OpenSlide, level: int, box: Box) -> NDArray[np.uint8]:
        step = self._steps[level]
        location_l0 = (round(box.x0 * step), round(box.y0 * step))
        return over(handle.read_region(location_l0, level, (box.width, box.height)), self._background)

    def _read_cells(self, handle: openslide.OpenSlide, level: int, box: Box) -> NDArray[np.uint8]:
        out = np.empty((box.height, box.width, 3), np.uint8)
        for y in range(box.y0 // CELL * CELL, box.y1, CELL):
            for x in range(box.x0 // CELL * CELL, box.x1, CELL):
                part = Box.at(x, y, CELL, CELL).intersect(box)
                from_corner = Box(x, y, part.x1, part.y1)
                out[part.within(box)] = self._read_at(handle, level, from_corner)[part.within(from_corner)]
        return out

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


def read_facts(path: str, mpp: Scale | None = None) -> tuple[SlideInfo, tuple[int, int, int]]:
    """Return what OpenSlide says about a slide, and the RGB that it shows where nothing was scanned.

    Raises:
        SlideError: OpenSlide does not open the file.
    """
    with _open(path) as handle:
        return _facts(path, handle, mpp)


def _open(path: str) -> openslide.OpenSlide:
    try:
        return openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise SlideError(f"{path}: OpenSlide does not know this format") from error
    except openslide.OpenSlideError as error:
        raise SlideError(f"{path}: damaged or incomplete slide; OpenSlide says: {error}") from error


def _facts(
    path: str, handle: openslide.OpenSlide, mpp: Scale | None
) -> tuple[SlideInfo, tuple[int, int, int]]:
    properties = dict(handle.properties)
    resolved, source = resolve_mpp(mpp, properties)
    levels = make_levels(handle.level_dimensions)
    info = SlideInfo(
        path=path,
        name=default_name(path),
        reader="openslide",
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        size=Size(*handle.dimensions),
        levels=levels,
        mpp=resolved,
        mpp_source=source,
        bounds=read_bounds(properties, "openslide"),
        fingerprint=_fingerprint(path, properties),
    )
    return info, parse_colour(properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR))


def _fingerprint(path: str, properties: Mapping[str, str]) -> str:
    quickhash = properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
    if quickhash:
        return f"quickhash1:{quickhash}"
    with Path(path).open("rb") as file:
        return file_fingerprint(file)
