"""Reading around what cannot be read: one corrupt tile of a slide costs its own pixels and no others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.geometry import Box, RealBox, Size
from wsi_seg.slides.slide import WHITE, MapFrame, Pixels, UnreadableError, is_exact, read_region, source_box

# Values of the coverage layer; 0 says nothing against a pixel.
OTHER_LEVEL = 1
UNREADABLE = 2

# Level pixels that are given up at least, where the reader does not know the stored tiles of a level, and
# where other levels are damaged too.
CELL = Size(32, 32)


@dataclass(frozen=True, slots=True)
class Fault:
    """Map pixels that could not be read from the level that was meant."""

    box_map: Box
    level: int | None
    """Level that was read instead; None where none could be, and the pixels are white."""
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """Pixels of a box, and what is wrong with them."""

    region: NDArray[np.uint8]
    """RGB (h, w, 3)"""
    faults: tuple[Fault, ...] = ()


Read = Callable[[Pixels, MapFrame, Box, int], Reading]
"""Reads a box of map pixels from a level, as `slide.read_region` does."""


def read_strictly(slide: Pixels, frame: MapFrame, box_map: Box, level: int) -> Reading:
    """Read as `slide.read_region` does; SlideError where a pixel cannot be read."""
    return Reading(read_region(slide, frame, box_map, level))


def read_tolerantly(slide: Pixels, frame: MapFrame, box_map: Box, level: int) -> Reading:
    """Read what can be read, and say where and why the rest comes from another level or is white.

    Raises:
        SlideError: the slide was closed.
    """
    tolerant = TolerantPixels(slide)
    region = read_region(tolerant, frame, box_map, level)
    exact = is_exact(slide.info, frame, level)
    # Where it is resampled, a map pixel takes half of its weight's support from its neighbors.
    margin = 0.0 if exact else 0.5
    one_map = source_box(slide.info, frame, level, Box(0, 0, 1, 1))
    faults = []
    for lost in tolerant.lost:
        box = RealBox(
            lost.box_level.x0 / one_map.x1 - margin,
            lost.box_level.y0 / one_map.y1 - margin,
            lost.box_level.x1 / one_map.x1 + margin,
            lost.box_level.y1 / one_map.y1 + margin,
        )
        part = box.outward().intersect(box_map)
        if not part.empty:
            faults.append(Fault(part, lost.other, lost.reason))
    return Reading(region, tuple(faults))


@dataclass(frozen=True, slots=True)
class LostPart:
    """Pixels of a level that could not be read."""

    box_level: Box
    other: int | None
    """Level that was read instead; None where none could be."""
    reason: str


class TolerantPixels:
    """The pixels of a slide, where damaged parts come from another level or are of one gray value.

    Readers stay usable after an error (`testing.readers.check_damage`), so nothing is opened again here.
    """

    def __init__(self, slide: Pixels, fill: int = WHITE) -> None:
        """Wrap an open slide, which stays the caller's; `fill` is the gray value of what no level shows."""
        self.info = slide.info
        self.lost: list[LostPart] = []
        """Parts that could not be read so far."""
        self._slide, self._fill = slide, fill

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Read whole pixels of one level; see `wsi_seg.slides.slide.Pixels.read_level`.

        Raises:
            SlideError: the slide was closed.
        """
        out = np.full((max(0, box.height), max(0, box.width), 3), WHITE, np.uint8)
        todo = [box]
        while todo:
            part = todo.pop()
            try:
                out[part.within(box)] = self._slide.read_level(level, part)
            except UnreadableError as error:
                unreadable = error.box_level.intersect(part)
                if unreadable != part.intersect(_whole(self.info.levels[level].size)):
                    todo += _around(part, unreadable)
                    out[unreadable.within(box)] = self._replace(level, unreadable, str(error))
                elif pieces := _quarters(unreadable, error.tile or CELL):
                    todo += pieces
                else:
                    out[unreadable.within(box)] = self._replace(level, unreadable, str(error))
        return out

    def _replace(self, level: int, box_level: Box, reason: str) -> NDArray[np.uint8]:
        """Return a part of a level from the next best level that shows it, cell by cell if need be."""
        meant = self.info.levels[level]
        frame = MapFrame(1.0, meant.size, meant.downsample)
        for other in (*range(level + 1, len(self.info.levels)), *range(level - 1, -1, -1)):
            try:
                pixels = read_region(self._slide, frame, box_level, other)
            except UnreadableError:
                continue
            self.lost.append(LostPart(box_level, other, reason))
            return pixels
        pixels = np.full((box_level.height, box_level.width, 3), self._fill, np.uint8)
        parts = _quarters(box_level, CELL) if len(self.info.levels) > 1 else []
        for part in parts:
            pixels[part.within(box_level)] = self._replace(level, part, reason)
        if not parts:
            self.lost.append(LostPart(box_level, None, reason))
        return pixels


def _whole(size: Size) -> Box:
    return Box(0, 0, size.width, size.height)


def _around(box: Box, hole: Box) -> list[Box]:
    """Return the up to four boxes that `box` consists of without `hole`, which lies in it."""
    parts = (
        Box(box.x0, box.y0, box.x1, hole.y0),
        Box(box.x0, hole.y0, hole.x0, hole.y1),
        Box(hole.x1, hole.y0, box.x1, hole.y1),
        Box(box.x0, hole.y1, box.x1, box.y1),
    )
    return [part for part in parts if not part.empty]


def _quarters(box: Box, cell: Size) -> list[Box]:
    """Return the two to four parts of a box, cut along the grid of cells; none where it lies in one cell."""
    parts = [
        Box(x0, y0, x1, y1)
        for y0, y1 in _halves(box.y0, box.y1, cell.height)
        for x0, x1 in _halves(box.x0, box.x1, cell.width)
    ]
    return parts if len(parts) > 1 else []


def _halves(start: int, stop: int, cell: int) -> Iterator[tuple[int, int]]:
    first, last = start // cell, math.ceil(stop / cell)
    if last - first < 2:
        yield start, stop
        return
    middle = (first + last) // 2 * cell
    yield start, middle
    yield middle, stop
