"""Where the tiles of a TIFF pyramid lie in the file, and which pyramids are understood in full.

What is not understood is refused with a reason; such files are left to OpenSlide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import tifffile
from numpy.typing import NDArray

from wsi_seg.core.geometry import Box, Size
from wsi_seg.core.storage import Piece
from wsi_seg.slides.readers.tiff_codecs import Decoder, find_decoder
from wsi_seg.slides.slide import SlideInfo

VENDORS = ("aperio", "generic-tiff", "philips")
TOP_LEFT = 1


class NotUnderstoodError(Exception):
    """Reason why a file is left to another reader; never leaves this package."""


@dataclass(frozen=True, slots=True)
class TiledLevel:
    """Where one level's tiles are and how they are decoded."""

    size: Size
    """Size of the level in its own pixels, padding left out."""
    tile: Size
    """Size of a stored tile; those on the right and bottom edges are stored in full size too."""
    columns: int
    """Tiles in a row."""
    offsets: NDArray[np.uint64]
    """Offset in the file of each tile, row by row."""
    counts: NDArray[np.uint64]
    """Bytes of each tile; 0 where it is missing."""
    decode: Decoder

    def tiles_of(self, box: Box) -> Iterator[int]:
        """Yield the index of each tile that meets a box of this level, row by row."""
        for row in range(box.y0 // self.tile.height, -(-box.y1 // self.tile.height)):
            for column in range(box.x0 // self.tile.width, -(-box.x1 // self.tile.width)):
                yield row * self.columns + column

    @property
    def pieces(self) -> list[Piece]:
        """Where all stored tiles lie in the file."""
        return [piece for index in range(len(self.counts)) if (piece := self.piece(index))]

    def piece(self, index: int) -> Piece | None:
        """Return where a tile lies in the file, None where it is missing."""
        start, count = int(self.offsets[index]), int(self.counts[index])
        return (start, start + count) if count else None

    def place(self, index: int) -> Box:
        """Return the pixels of this level that a tile holds, padding included."""
        row, column = divmod(index, self.columns)
        return Box.at(column * self.tile.width, row * self.tile.height, self.tile.width, self.tile.height)


def find_levels(tiff: tifffile.TiffFile, info: SlideInfo) -> tuple[TiledLevel, ...]:
    """Return the stored tiles of each level that OpenSlide lists in `info`.

    Where OpenSlide sees level 0 alone because the others are its SubIFDs, as OME-TIFF has them, these follow.

    Raises:
        NotUnderstoodError: the pixels might come out otherwise than from OpenSlide.
    """
    sizes = [level.size for level in info.levels]
    pages = _padded_pages(tiff, sizes) if info.vendor == "philips" else _pages_of_size(tiff, sizes)
    if info.vendor == "generic-tiff" and len(pages) == 1:
        pages += _reduced_pages(pages[0])
        sizes += [_size(page) for page in pages[1:]]
    levels = tuple(_read_level(page, size) for page, size in zip(pages, sizes, strict=True))
    if info.vendor == "aperio" and len(levels) > 1 and any((level.counts == 0).any() for level in levels):
        raise NotUnderstoodError("tiles are missing, which OpenSlide fills from finer levels")
    return levels


def _padded_pages(tiff: tifffile.TiffFile, sizes: Sequence[Size]) -> list[tifffile.TiffPage]:
    """Return all tiled pages: those of Philips are padded to whole tiles, and in order."""
    pages = _tiled_pages(tiff)
    if len(pages) != len(sizes) or not all(map(_covers, pages, sizes)):
        raise NotUnderstoodError("its pages do not fit the levels that OpenSlide finds")
    return pages


def _tiled_pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    pages = [page.aspage() for page in tiff.pages]
    return [page for page in pages if page.is_tiled]


def _covers(page: tifffile.TiffPage, size: Size) -> bool:
    return bool(page.imagewidth >= size.width and page.imagelength >= size.height)


def _pages_of_size(tiff: tifffile.TiffFile, sizes: Sequence[Size]) -> list[tifffile.TiffPage]:
    tiled = _tiled_pages(tiff)
    pages = []
    for size in sizes:
        fitting = [page for page in tiled if _size(page) == size]
        if len(fitting) != 1:
            raise NotUnderstoodError(
                f"{len(fitting)} pages have the {size.width} × {size.height} px of a level"
            )
        pages += fitting
    return pages


def _reduced_pages(first: tifffile.TiffPage) -> list[tifffile.TiffPage]:
    """Return the pyramid below a page, finest first."""
    inner = [page.aspage() for page in first.pages or ()]
    sizes = [_size(page) for page in (first, *inner)]
    if not all(page.is_tiled and page.is_reduced for page in inner):
        raise NotUnderstoodError("its SubIFDs are not all tiled levels")
    if any(a.width <= b.width or a.height <= b.height for a, b in pairwise(sizes)):
        raise NotUnderstoodError("its SubIFDs do not become smaller one by one")
    return inner


def _size(page: tifffile.TiffPage) -> Size:
    return Size(page.imagewidth, page.imagelength)


def _read_level(page: tifffile.TiffPage, size: Size) -> TiledLevel:
    _refuse_layout(page)
    tile = Size(page.tilewidth, page.tilelength)
    columns, rows = -(-page.imagewidth // tile.width), -(-page.imagelength // tile.height)
    offsets = np.asarray(page.dataoffsets, np.uint64)
    counts = np.asarray(page.databytecounts, np.uint64)
    if not len(offsets) == len(counts) == columns * rows:
        raise NotUnderstoodError(f"a level of {columns} × {rows} tiles lists {len(offsets)}")
    decode = find_decoder(page)
    if isinstance(decode, str):
        raise NotUnderstoodError(decode)
    return TiledLevel(size, tile, columns, offsets, counts, decode)


def _refuse_layout(page: tifffile.TiffPage) -> None:
    orientation = page.tags.valueof("Orientation", default=TOP_LEFT)
    if page.dtype != np.uint8 or page.bitspersample != 8:
        raise NotUnderstoodError(f"pixels are of {page.bitspersample} bit, not 8")
    if page.samplesperpixel != 3 or page.planarconfig != tifffile.PLANARCONFIG.CONTIG:
        raise NotUnderstoodError(f"its {page.samplesperpixel} channels are not those of plain RGB")
    if page.imagedepth != 1 or int(page.fillorder) != 1 or orientation != TOP_LEFT:
        raise NotUnderstoodError("its pixels are stored in an unusual order")
