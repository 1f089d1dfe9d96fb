"""The Deep Zoom grid of a slide, on which its tiles and those of all layers are cut.

At level `max_zoom` a pixel is one l0 pixel; on each level below it is twice as wide and high, so level 0 has
a single one. The grid is anchored at l0 (0, 0), and a pixel of level z covers exactly
2^(max_zoom - z) l0 pixels a side, also where the last one reaches beyond the slide.
"""

from __future__ import annotations

from dataclasses import dataclass

from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.slides.slide import MapFrame
from wsi_seg.viewer.responses import Refused

TILE = 512


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """The grid of one slide."""

    size: Size
    """Of the slide in l0 pixels."""
    tile: int = TILE

    @property
    def max_zoom(self) -> int:
        return (max(self.size.width, self.size.height) - 1).bit_length()

    def l0_per_pixel(self, zoom: int) -> int:
        """Return l0 pixels per pixel of a level."""
        return 1 << (self.max_zoom - zoom)

    def frame(self, zoom: int) -> MapFrame:
        """Return a level as a frame that slides can be read in; its mpp is not used."""
        factor = self.l0_per_pixel(zoom)
        size = Size(-(-self.size.width // factor), -(-self.size.height // factor))
        return MapFrame(1.0, size, Scale(float(factor), float(factor)))

    def box(self, zoom: int, column: int, row: int) -> Box:
        """Return the pixels of one tile in the frame of its level.

        Raises:
            Refused: 404, there is no such tile.
        """
        if 0 <= zoom <= self.max_zoom:
            whole = self.frame(zoom).box
            box = Box.at(column * self.tile, row * self.tile, self.tile, self.tile).intersect(whole)
            if not box.empty:
                return box
        raise Refused(404, f"no tile {column}, {row} on level {zoom}; levels are 0 to {self.max_zoom}")
