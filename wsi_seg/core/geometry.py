"""Sizes, boxes and scales, and the three frames in which positions are given.

Frames are never mixed; every variable that holds a position names its frame:

- ``l0``   level-0 pixels of the slide as the reader numbers them.
- ``map``  pixels of the output map: the model's resolution, origin at l0 (0, 0),
           size ceil(l0 size × slide mpp / model mpp).
- ``um``   micrometers.

Pixel i covers the half-open interval [i, i + 1); its center is at i + 0.5.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

# Positions closer than this to a whole pixel count as whole (1e-6 of a pixel is far below any reader).
WHOLE_TOLERANCE = 1e-6
# Coordinates beyond this, in l0 pixels, belong to no slide.
MOST_L0 = 1e8

Origin = Literal["bounds", "level0"]
"""Start of the coordinates in a file with outlines: the slide's bounds, as in QuPath, or l0 (0, 0)."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in whole pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width} × {self.height}"


@dataclass(frozen=True, slots=True)
class Scale:
    """A factor for each axis, such as microns per pixel or l0 pixels per map pixel."""

    x: float
    y: float

    def __mul__(self, other: Scale) -> Scale:
        return Scale(self.x * other.x, self.y * other.y)

    def __truediv__(self, other: Scale) -> Scale:
        return Scale(self.x / other.x, self.y / other.y)


@dataclass(frozen=True, slots=True)
class RealBox:
    """A box with fractional edges: [x0, x1) × [y0, y1)."""

    x0: float
    y0: float
    x1: float
    y1: float

    def outward(self, margin: int = 0) -> Box:
        """Return the smallest whole-pixel box that covers this one, grown by `margin` pixels."""
        return Box(
            math.floor(self.x0 + WHOLE_TOLERANCE) - margin,
            math.floor(self.y0 + WHOLE_TOLERANCE) - margin,
            math.ceil(self.x1 - WHOLE_TOLERANCE) + margin,
            math.ceil(self.y1 - WHOLE_TOLERANCE) + margin,
        )


@dataclass(frozen=True, slots=True)
class Box:
    """A box of whole pixels: columns x0 … x1 - 1, rows y0 … y1 - 1."""

    x0: int
    y0: int
    x1: int
    y1: int

    @classmethod
    def at(cls, x: int, y: int, width: int, height: int) -> Box:
        """Return the box of this width and height whose top left pixel is (x, y)."""
        return cls(x, y, x + width, y + height)

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def slices(self) -> tuple[slice, slice]:
        """(row, column) slices of this box in an array that holds the whole frame."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def empty(self) -> bool:
        return self.width <= 0 or self.height <= 0

    def scaled(self, scale: Scale) -> RealBox:
        """Return the same box in a frame whose pixels are `scale` times smaller."""
        return RealBox(self.x0 * scale.x, self.y0 * scale.y, self.x1 * scale.x, self.y1 * scale.y)

    def grown(self, margin: int) -> Box:
        """Return the box with `margin` pixels more on each side."""
        return Box(self.x0 - margin, self.y0 - margin, self.x1 + margin, self.y1 + margin)

    def aligned(self, step: int) -> Box:
        """Return the smallest box that covers this one and whose edges are multiples of `step`."""
        return Box(
            self.x0 // step * step,
            self.y0 // step * step,
            -(-self.x1 // step) * step,
            -(-self.y1 // step) * step,
        )

    def shifted(self, dx: int, dy: int) -> Box:
        """Return the box moved by (dx, dy)."""
        return Box(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)

    def intersect(self, other: Box) -> Box:
        """Return the common part; it is `empty` when the two do not meet."""
        return Box(
            max(self.x0, other.x0),
            max(self.y0, other.y0),
            min(self.x1, other.x1),
            min(self.y1, other.y1),
        )

    def within(self, other: Box) -> tuple[slice, slice]:
        """Return (row, column) slices of this box in an array that holds `other`."""
        return (
            slice(self.y0 - other.y0, self.y1 - other.y0),
            slice(self.x0 - other.x0, self.x1 - other.x0),
        )
