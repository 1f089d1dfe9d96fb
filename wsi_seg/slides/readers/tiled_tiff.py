"""Tiled pyramids in JPEG, JPEG 2000 and lossless TIFF, read several times faster than through OpenSlide.

Facts about the slide come from OpenSlide, so they are the same; tifffile tells where the tiles are, and
imagecodecs decodes them. Files whose pixels might come out differently are refused, and `open_slide`
leaves them to OpenSlide. A slide behind a URL is read tile by tile, see `wsi_seg.slides.readers.remote`.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import IO

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.core.storage import Piece, is_remote
from wsi_seg.slides.readers.base import ONLY_IMAGE, FileImage, LevelReader, make_levels
from wsi_seg.slides.readers.openslide import OTHER_IMAGE, OpenSlideInfo, load_associated, read_openslide_info
from wsi_seg.slides.readers.remote import CACHE_HINT, HASHED_BYTES, Head, open_head
from wsi_seg.slides.readers.tiff import TIFF_ERRORS, check_whole
from wsi_seg.slides.readers.tiff_codecs import CODEC_ERRORS, is_subsampled
from wsi_seg.slides.readers.tiff_levels import VENDORS, NotUnderstoodError, TiledLevel, find_levels
from wsi_seg.slides.slide import SlideInfo

# Decoded tiles that a handle keeps, so that neighboring reads do not decode their common tiles again;
# OpenSlide's own default.
CACHE_BYTES = 32 * 2**20

# Stored bytes that are fetched in one go, and kept, where the file is remote. Blocks share tiles: with
# nothing kept, a run on the slide of tests/test_remote.py took 5.98 MB in 74 requests, not 4.38 MB in 50.
FETCH_BYTES = 32 * 2**20

# A coarser level of a remote file that is smaller is fetched whole once any of it is read: finding tissue and
# drawing the overview read all of it, in hundreds of small boxes.
WHOLE_LEVEL_BYTES = 8 * 2**20


class TiledTiffReader(LevelReader):
    """A tiled TIFF that is understood in full; one file descriptor, and no lock between handles."""

    def __init__(self, path: str, mpp: Scale | None = None, image: FileImage = ONLY_IMAGE) -> None:
        head = open_head(path) if is_remote(path) else None
        facts = read_openslide_info(path if head is None else head.local, mpp, image)
        try:
            if not image.is_of((facts.info.size.width, facts.info.size.height)):
                raise NotUnderstoodError(OTHER_IMAGE)
            if head is None:
                self._tiled = _find_tiles(path, facts.info)
            else:
                self._tiled = _find_tiles(head.open(), replace(facts.info, path=path))
                facts = _remote_facts(head, facts, self._tiled, mpp, image)
        except NotUnderstoodError as reason:
            raise SlideError(
                f"{path}: the reader tiff cannot open this file: {reason}; leave the reader out"
            ) from reason
        pyramid = make_levels([(level.size.width, level.size.height) for level in self._tiled])
        self._tiled = tuple(self._tiled[number] for number in pyramid.stored)
        left_out = (*facts.info.left_out, *(f"{size} px, {why}" for size, why in pyramid.left_out))
        info = replace(facts.info, reader="tiff", levels=pyramid.levels, left_out=left_out)
        super().__init__(info, facts.about)
        tiles = [level.tile for level in self._tiled]
        self._blank = np.empty((max(t.height for t in tiles), max(t.width for t in tiles), 3), np.uint8)
        self._blank[...] = facts.background
        self._tile = lru_cache(max(1, CACHE_BYTES // self._blank.nbytes))(self._read_tile)
        self._file = None if head else Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed in _release
        self._head = head
        self._fetched: OrderedDict[Piece, bytes] = OrderedDict()

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        tiled = self._tiled[level]
        if self._head is not None and level and tiled.counts.sum() <= WHOLE_LEVEL_BYTES:
            self._head.fetch(tiled.pieces)
        out = np.empty((box.height, box.width, 3), np.uint8)
        for group in _groups(tiled, box):
            self._fetch([piece for index in group if (piece := tiled.piece(index))])
            for index in group:
                place = tiled.place(index)
                part = place.intersect(box)
                try:
                    pixels = self._tile(level, index)
                except (*CODEC_ERRORS, OSError) as error:
                    raise self._unreadable(level, part, error, tiled.tile) from error
                out[part.within(box)] = pixels[part.within(place)]
        return out

    def _read_tile(self, level: int, index: int) -> NDArray[np.uint8]:
        """Return one tile as stored, uint8 RGB of the tile's full size; blank where it is missing."""
        tiled = self._tiled[level]
        piece = tiled.piece(index)
        if piece is None:
            return self._blank[: tiled.tile.height, : tiled.tile.width]
        start, stop = piece
        data = self._fetched[piece] if self._file is None else _read_at(self._file, start, stop - start)
        if len(data) != stop - start:
            raise OSError(f"the file ends within a tile, after {len(data)} of its {stop - start} bytes")
        return tiled.decode(data)

    def _fetch(self, pieces: Sequence[Piece]) -> None:
        """Fetch the tiles of a remote file that are read next, neighbors together and several at a time."""
        if self._head is None:
            return
        missing = [piece for piece in pieces if piece not in self._fetched]
        self._fetched.update(zip(missing, self._head.read_pieces(missing), strict=True))
        for piece in pieces:
            self._fetched.move_to_end(piece)
        size = sum(map(len, self._fetched.values()))
        while size > FETCH_BYTES and len(self._fetched) > len(pieces):
            size -= len(self._fetched.popitem(last=False)[1])

    def _load_associated(self, name: str, size: Size) -> Image.Image:
        if self._head is not None:
            raise SlideError(f"{self._info.path}: its {name} is not read behind a URL; {CACHE_HINT}")
        return load_associated(self._info.path, name)

    def _release(self) -> None:
        self._tile.cache_clear()
        self._fetched.clear()
        if self._file is not None:
            self._file.close()


def _read_at(file: IO[bytes], offset: int, count: int) -> bytes:
    """Return up to `count` bytes from `offset` of a local file; fewer where it ends."""
    # Room is made for all that is asked for, and a damaged file may say any number.
    left = os.fstat(file.fileno()).st_size - offset
    # Reads at a place leave no file position behind that another thread could move.
    return os.pread(file.fileno(), min(count, left), offset) if left > 0 else b""


def _remote_facts(
    head: Head, facts: OpenSlideInfo, tiled: tuple[TiledLevel, ...], mpp: Scale | None, image: FileImage
) -> OpenSlideInfo:
    """Return the facts that OpenSlide would tell of a local copy, its hash of the smallest level included."""
    if not facts.smallest_kept:
        raise NotUnderstoodError(
            "the smallest level, of which OpenSlide makes its hash, is none of the slide's"
        )
    smallest = tiled[len(facts.info.levels) - 1]
    if smallest.counts.sum() <= HASHED_BYTES:
        head.fetch(smallest.pieces)
        facts = read_openslide_info(head.local, mpp, image)
    return replace(facts, info=head.describe(facts.info))


def why_not(path: str, image: FileImage = ONLY_IMAGE) -> str | None:
    """Return why this reader cannot open a file that OpenSlide opens, None when it can.

    Raises:
        SlideError: a remote file cannot be read.
    """
    try:
        TiledTiffReader(path, image=image).close()
    except SlideError as error:
        if is_remote(path) and not isinstance(error.__cause__, NotUnderstoodError):
            raise
        return str(error)
    return None


def _groups(tiled: TiledLevel, box: Box) -> Iterator[list[int]]:
    """Yield the tiles that meet a box of the level, in groups of bounded size in the file."""
    group: list[int] = []
    size = 0
    for index in tiled.tiles_of(box):
        count = int(tiled.counts[index])
        if group and size + count > FETCH_BYTES:
            yield group
            group, size = [], 0
        group.append(index)
        size += count
    yield group


def _find_tiles(source: str | IO[bytes], info: SlideInfo) -> tuple[TiledLevel, ...]:
    if info.vendor not in VENDORS:
        raise NotUnderstoodError(f"it knows slides of {', '.join(VENDORS)}, not {info.vendor}")
    try:
        with tifffile.TiffFile(source) as tiff:
            check_whole(info.path, tiff)
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
