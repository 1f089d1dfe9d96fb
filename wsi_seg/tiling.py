"""The global tile grid and the blocks that own map pixels. All boxes are in the map frame.

The grid is anchored at map (0, 0) and does not know about blocks, so a tile on a block border has the
same input for both blocks and results do not depend on how the map was cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wsi_seg.errors import UsageError
from wsi_seg.geometry import Box, Size


@dataclass(frozen=True, slots=True)
class Tile:
    """One network input."""

    ix: int
    iy: int
    core: Box
    """The stride × stride pixels that this tile owns in the grid."""
    input: Box
    """The tile × tile pixels that the network sees: the core and a halo on each side."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Square tiles of side `tile` whose neighbours share `overlap` pixels.

    The halo of overlap / 2 pixels on each side is a multiple of 32 by default settings, so that a
    network with an output stride of 32 sees every tile at the same phase.
    """

    tile: int
    overlap: int

    def __post_init__(self) -> None:
        if self.tile <= 0 or self.tile % 32:
            raise UsageError(f"tile size {self.tile} must be a positive multiple of 32")
        if self.overlap < 0 or self.overlap % 2 or self.overlap > self.tile // 2:
            raise UsageError(
                f"overlap {self.overlap} must be even and between 0 and half the tile ({self.tile // 2})"
            )

    @property
    def stride(self) -> int:
        return self.tile - self.overlap

    @property
    def halo(self) -> int:
        return self.overlap // 2

    def tile_at(self, ix: int, iy: int) -> Tile:
        core = Box.at(ix * self.stride, iy * self.stride, self.stride, self.stride)
        return Tile(ix, iy, core, core.grown(self.halo))

    def tiles_with_core_in(self, box: Box) -> Iterator[Tile]:
        """Yield, row by row, the tiles whose core meets `box`."""
        if box.empty:
            return
        for iy in range(box.y0 // self.stride, -(-box.y1 // self.stride)):
            for ix in range(box.x0 // self.stride, -(-box.x1 // self.stride)):
                yield self.tile_at(ix, iy)

    def tiles_with_input_in(self, box: Box) -> Iterator[Tile]:
        """Yield, row by row, the tiles whose input meets `box`."""
        yield from self.tiles_with_core_in(box.grown(self.halo))


@dataclass(frozen=True, slots=True)
class Block:
    """A square of map pixels that one task predicts and writes as one Zarr shard."""

    ix: int
    iy: int
    box: Box
    """Map pixels of this block, clipped to the map."""


def cut_blocks(map_size: Size, side: int) -> Iterator[Block]:
    """Yield, row by row, the blocks of `side` pixels that cover a map of `map_size`."""
    whole = Box(0, 0, map_size.width, map_size.height)
    for iy in range(-(-map_size.height // side)):
        for ix in range(-(-map_size.width // side)):
            yield Block(ix, iy, Box.at(ix * side, iy * side, side, side).intersect(whole))
