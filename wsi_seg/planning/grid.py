"""The global tile grid and the blocks that own map pixels. All boxes are in the map frame.

The grid is anchored at map (0, 0) and does not know about blocks, so a tile on a block border has the
same input for both blocks and results do not depend on how the map was cut.

Along an axis on which the map is no longer than a tile, it is not cut at all: the network sees the map's own
length, filled up by reflection to a multiple that it takes. A small image is so predicted in one forward pass
over just this image, not inside a white square.

A network of convolutions without padding predicts less than it sees: each tile's `margin` is seen only. Where
an axis is not cut, the map is grown by it, by reflection.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Box, Size

# Networks halve their input up to five times: its sides are multiples of this, and tiles that start at
# multiples of it are seen at one phase.
INPUT_MULTIPLE = 32


@dataclass(frozen=True, slots=True)
class Tile:
    """One network input."""

    ix: int
    iy: int
    core: Box
    """The pixels that this tile owns in the grid: stride × stride, or a whole axis of the map."""
    input: Box
    """The pixels that the network sees: the core, with a halo on each side along axes that are cut, and with
    the margin along others."""
    predicted: Box
    """The pixels that the network predicts: the input without the margin of the grid."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Square tiles of side `tile` whose neighbors share `overlap` pixels.

    The halo of overlap / 2 pixels on each side is a multiple of 32 by default settings, so that a
    network with an output stride of 32 sees every tile at the same phase.
    """

    tile: int
    overlap: int
    whole: tuple[int | None, int | None] = (None, None)
    """Width and height of what tiles predict along axes that are not cut, see `fitted`; None: they are."""
    margin: int = 0
    """Pixels at each side of the input that the network sees and does not predict."""
    multiple: int = INPUT_MULTIPLE
    """The sides of an input are multiples of this; equal to `tile` for a network that takes one size only."""

    def __post_init__(self) -> None:
        if self.tile <= 0 or self.tile % self.multiple:
            raise UsageError(f"tile size {self.tile} must be a positive multiple of {self.multiple}")
        # Neighbors share at least what is not predicted, and half of what is at most.
        least, most = 2 * self.margin, self.tile // 2 + self.margin
        if self.overlap % 2 or self.overlap >= self.tile or not least <= self.overlap <= most:
            half = (
                "half the tile" if self.margin == 0 else "half of what the network predicts and its margins"
            )
            raise UsageError(f"overlap {self.overlap} must be even and between {least} and {half} ({most})")

    @property
    def stride(self) -> int:
        return self.tile - self.overlap

    @property
    def halo(self) -> int:
        return self.overlap // 2

    @property
    def cut(self) -> bool:
        """True where both axes are cut into tiles that overlap."""
        return self.whole == (None, None)

    @property
    def step(self) -> Size:
        """Width and height of a tile's core."""
        return Size(self.whole[0] or self.stride, self.whole[1] or self.stride)

    @property
    def input_size(self) -> Size:
        """Width and height of what the network sees."""
        width, height = (self.tile if whole is None else whole + 2 * self.margin for whole in self.whole)
        return Size(width, height)

    def fitted(self, map_size: Size, multiple: int = 1) -> Grid:
        """Return the grid for a map: axes no longer than what a tile predicts are not cut.

        Args:
            map_size: of the whole map.
            multiple: of which the sides of what a tile predicts are to be multiples.
        """
        whole_x, whole_y = (self._whole(side, multiple) for side in (map_size.width, map_size.height))
        return replace(self, whole=(whole_x, whole_y))

    def _whole(self, side: int, multiple: int) -> int | None:
        """Return the least length that holds the side and that the network takes; None if it takes none."""
        predicted = (whole - 2 * self.margin for whole in range(self.multiple, self.tile + 1, self.multiple))
        return next((length for length in predicted if length >= side and length % multiple == 0), None)

    def tile_at(self, ix: int, iy: int) -> Tile:
        core = Box.at(ix * self.step.width, iy * self.step.height, self.step.width, self.step.height)
        predicted = self._grown(core)
        return Tile(ix, iy, core, predicted.grown(self.margin), predicted)

    def tiles_with_core_in(self, box: Box) -> Iterator[Tile]:
        """Yield, row by row, the tiles whose core meets `box`."""
        if box.empty:
            return
        for iy in range(box.y0 // self.step.height, -(-box.y1 // self.step.height)):
            for ix in range(box.x0 // self.step.width, -(-box.x1 // self.step.width)):
                yield self.tile_at(ix, iy)

    def tiles_predicting(self, box: Box) -> Iterator[Tile]:
        """Yield, row by row, the tiles of which the predicted pixels meet `box`."""
        yield from self.tiles_with_core_in(self._grown(box))

    def _grown(self, box: Box) -> Box:
        """Return the box grown as a core is to what a tile predicts."""
        x, y = (self.halo - self.margin if whole is None else 0 for whole in self.whole)
        return Box(box.x0 - x, box.y0 - y, box.x1 + x, box.y1 + y)


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
