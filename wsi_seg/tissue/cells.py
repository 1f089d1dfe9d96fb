"""Values of a slide on a grid of cells, laid over it in the l0 frame.

Cell (i, j) covers l0 [i · l0_per_cell.x, (i + 1) · l0_per_cell.x) × [j · l0_per_cell.y, (j + 1) ·
l0_per_cell.y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.geometry import Box, RealBox, Scale
from wsi_seg.slides.slide import MapFrame


@dataclass(frozen=True, eq=False)
class Cells:
    """Values of some cells; those beyond them are 0."""

    values: NDArray[Any]
    """(h, w)"""
    l0_per_cell: Scale
    """l0 pixels per cell."""
    origin: tuple[int, int] = (0, 0)
    """Column and row, in the grid of the whole slide, of `values[0, 0]`."""

    @property
    def extent(self) -> Box:
        """The cells that have values."""
        return Box.at(*self.origin, self.values.shape[1], self.values.shape[0])

    def touching(self, box_l0: RealBox) -> NDArray[Any]:
        """Return the values of the cells that meet a box."""
        rows, columns = self._meeting(box_l0).within(self.extent)
        found: NDArray[Any] = self.values[rows, columns]
        return found

    def crop(self, box_l0: RealBox) -> Cells:
        """Return the part that answers for this box as the whole does."""
        cells = self._meeting(box_l0)
        return Cells(np.ascontiguousarray(self.touching(box_l0)), self.l0_per_cell, (cells.x0, cells.y0))

    def sample(self, frame: MapFrame, box_map: Box) -> NDArray[Any]:
        """Return the value under the center of each map pixel of a box, (box_map.height, box_map.width)."""
        height, width = self.values.shape
        columns = _cell_of_center(box_map.x0, box_map.x1, frame.l0_per_map.x / self.l0_per_cell.x)
        rows = _cell_of_center(box_map.y0, box_map.y1, frame.l0_per_map.y / self.l0_per_cell.y)
        columns -= self.origin[0]
        rows -= self.origin[1]
        # A rim of cells with 0 stands for all that lies outside.
        padded = np.pad(self.values, 1)
        taken: NDArray[Any] = padded.take(np.clip(columns, -1, width) + 1, axis=1)
        return taken.take(np.clip(rows, -1, height) + 1, axis=0)

    def _meeting(self, box_l0: RealBox) -> Box:
        """Return the cells that meet the box, as far as there are values; never with negative sides."""
        found = in_cells(box_l0, self.l0_per_cell).outward().intersect(self.extent)
        return Box.at(*self.origin, 0, 0) if found.empty else found


def in_cells(box_l0: RealBox, l0_per_cell: Scale) -> RealBox:
    """Return a box in units of cells."""
    return RealBox(
        box_l0.x0 / l0_per_cell.x,
        box_l0.y0 / l0_per_cell.y,
        box_l0.x1 / l0_per_cell.x,
        box_l0.y1 / l0_per_cell.y,
    )


def _cell_of_center(start_map: int, stop_map: int, cells_per_map: float) -> NDArray[np.int64]:
    centers = (np.arange(start_map, stop_map, dtype=np.float64) + 0.5) * cells_per_map
    return np.floor(centers).astype(np.int64)
