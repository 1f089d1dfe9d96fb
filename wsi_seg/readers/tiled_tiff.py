"""Tiled pyramids in JPEG, JPEG 2000 and lossless TIFF, read several times faster than through OpenSlide.

Facts about the slide come from OpenSlide, so they are the same; tifffile tells where the tiles are, and
imagecodecs decodes them. Files whose pixels might come out differently are refused, and `choose_reader`
leaves them to OpenSlide.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_seg.errors import SlideError
from wsi_seg.geometry import Box, Scale
from wsi_seg.readers.base import LevelReader, make_levels
from wsi_seg.readers.openslide import read_facts
from wsi_seg.readers.tiff import TIFF_ERRORS, check_whole
from wsi_seg.readers.tiff_codecs import CODEC_ERRORS, is_subsampled
from wsi_seg.readers.tiff_levels import VENDORS, NotUnderstoodError, TiledLevel, find_levels
from wsi_seg.slide import SlideInfo

# Decoded tiles that a handle keeps, so that neighbouring reads do not decode their common tiles again;
# OpenSlide's own default.
CACHE_BYTES = 32 * 2**20


class TiledTiffReader(LevelReader):
    """A tiled TIFF that is understood in full; one file descriptor, and no lock between handles."""

    def __init__(self, path: str, mpp: Scale | None = None) -> None:
        facts, background = read_facts(path, mpp)
        try:
            self._tiled = _find_tiles(path, facts)
        except NotUnderstoodError as reason:
            raise SlideError(
                f"{path}: the reader tiff cannot open this file: {reason}; use the reader openslide"
            ) from reason
        levels = make_levels([(level.size.width, level.size.height) for level in self._tiled])
        super().__init__(replace(facts, reader="tiff", levels=levels))
        tiles = [level.tile for level in self._tiled]
        self._blank = np.empty((max(t.height for t in tiles), max(t.width for t in tiles), 3), np.uint8)
        self._blank[...] = background
        self._tile = lru_cache(max(1, CACHE_BYTES // self._blank.nbytes))(self._read_tile)
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed in _release

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        tiled = self._tiled[level]
        width, height = tiled.tile.width, tiled.tile.height
        out = np.empty((box.height, box.width, 3), np.uint8)
        for row in range(box.y0 // height, -(-box.y1 // height)):
            for column in range(box.x0 // width, -(-box.x1 // width)):
                place = Box.at(column * width, row * height, width, height)
                part = place.intersect(box)
                try:
                    pixels = self._tile(level, row * tiled.columns + column)
                except (*CODEC_ERRORS, OSError) as error:
                    raise self._unreadable(level, part, error) from error
                out[part.within(box)] = pixels[part.within(place)]
        return out

    def _read_tile(self, level: int, index: int) -> NDArray[np.uint8]:
        """Return one tile as stored, uint8 RGB of the tile's full size; blank where it is missing."""
        tiled = self._tiled[level]
        count = int(tiled.counts[index])
        if count == 0:
            return self._blank[: tiled.tile.height, : tiled.tile.width]
        # Reads at a place leave no file position behind that another thread could move.
        data = os.pread(self._file.fileno(), count, int(tiled.offsets[index]))
        if len(data) != count:
            raise OSError(f"the file ends within a tile, after {len(data)} of its {count} bytes")
        return tiled.decode(data)

    def _release(self) -> None:
        self._tile.cache_clear()
        self._file.close()


def why_not(path: str) -> str | None:
    """Return why this reader cannot open a file that OpenSlide opens, None when it can."""
    try:
        TiledTiffReader(path).close()
    except SlideError as error:
        return str(error)
    return None


def _find_tiles(path: str, info: SlideInfo) -> tuple[TiledLevel, ...]:
    if info.vendor not in VENDORS:
        raise NotUnderstoodError(f"it knows slides of {', '.join(VENDORS)}, not {info.vendor}")
    try:
        with tifffile.TiffFile(path) as tiff:
            check_whole(path, tiff)
            levels = find_levels(tiff, info)
            _refuse_subsampled(tiff, levels)
    except TIFF_ERRORS as error:
        raise NotUnderstoodError(" ".join(str(error).split())) from error
    return levels


def _refuse_subsampled(tiff: tifffile.TiffFile, levels: tuple[TiledLevel, ...]) -> None:
    for level in levels:
        stored = np.flatnonzero(level.counts)
        if len(stored):
            tiff.filehandle.seek(int(level.offsets[stored[0]]))
            if is_subsampled(tiff.filehandle.read(min(64, int(level.counts[stored[0]])))):
                raise NotUnderstoodError("JPEG 2000 with subsampled channels is not decoded by imagecodecs")
