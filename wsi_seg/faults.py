"""Reading around what cannot be read: one corrupt tile of a slide costs its own pixels and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.errors import SlideError
from wsi_seg.geometry import Box
from wsi_seg.slide import CELL, WHITE, MapFrame, Pixels, Slide, read_region

# Values of the coverage layer; 0 says nothing against a pixel.
OTHER_LEVEL = 1
UNREADABLE = 2


@dataclass(frozen=True, slots=True)
class Fault:
    """Map pixels that could not be read from the level that was meant."""

    box_map: Box
    level: int | None
    """Level that was read instead; None where none could be, and the pixels are white."""
    reason: str


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read of a slide."""

    region: NDArray[np.uint8]
    """RGB (h, w, 3)"""
    faults: tuple[Fault, ...] = ()


Read = Callable[[Pixels, MapFrame, Box, int], Reading]
"""Reads a box of map pixels from a level, as `slide.read_region` does."""


def read_strictly(slide: Pixels, frame: MapFrame, box_map: Box, level: int) -> Reading:
    """Read as `slide.read_region` does; SlideError where a pixel cannot be read."""
    return Reading(read_region(slide, frame, box_map, level))


class CarefulReader:
    """Reads what can be read, cell by cell where it must, and says where and why the rest could not be.

    After each error the slide is opened anew, as some libraries answer nothing else once they have failed.
    """

    def __init__(self, reopen: Callable[[], Slide], cell: int = CELL) -> None:
        """Make a reader.

        Args:
            reopen: returns the slide, freshly opened; raises SlideError where it cannot be opened.
            cell: side, in map pixels, of the squares that are read wholly or not at all.
        """
        self._reopen = reopen
        self._cell = cell
        self._faults: list[Fault] = []

    def __call__(self, slide: Pixels, frame: MapFrame, box_map: Box, level: int) -> Reading:
        """Read a box; SlideError only where the slide cannot be opened any more."""
        self._faults = []
        region = np.full((box_map.height, box_map.width, 3), WHITE, np.uint8)
        todo = [box_map]
        while todo:
            box = todo.pop()
            try:
                region[box.within(box_map)] = read_region(slide, frame, box, level)
            except SlideError as error:
                slide = self._reopen()
                parts = list(_quarters(box, self._cell))
                if len(parts) > 1:
                    todo += parts
                else:
                    region[box.within(box_map)] = self._elsewhere(frame, box, level, str(error))
        return Reading(region, tuple(self._faults))

    def _elsewhere(self, frame: MapFrame, box: Box, level: int, reason: str) -> NDArray[np.uint8] | int:
        """Return a cell from the next best level, or white."""
        slide = self._reopen()
        count = len(slide.info.levels)
        for other in (*range(level + 1, count), *range(level - 1, -1, -1)):
            try:
                cell = read_region(slide, frame, box, other)
            except SlideError:
                slide = self._reopen()
            else:
                self._faults.append(Fault(box, other, reason))
                return cell
        self._faults.append(Fault(box, None, reason))
        return WHITE


def _quarters(box: Box, cell: int) -> Iterator[Box]:
    """Yield the up to four parts of a box, cut along the grid of cells; one cell stays whole."""
    for y0, y1 in _halves(box.y0, box.y1, cell):
        for x0, x1 in _halves(box.x0, box.x1, cell):
            yield Box(x0, y0, x1, y1)


def _halves(start: int, stop: int, cell: int) -> Iterator[tuple[int, int]]:
    first, last = start // cell, -(-stop // cell)
    if last - first < 2:
        yield start, stop
        return
    middle = (first + last) // 2 * cell
    yield start, middle
    yield middle, stop
