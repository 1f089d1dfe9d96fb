"""Boxes of the maps at any of their levels, of finished results and of runs that fill them.

Besides the frames of `geometry` there is `level`, pixels of one level of a pyramid of the maps; its
`downsample` is the number of map pixels per level pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.geometry import Box, Size
from wsi_seg.core.lru import LRUCache
from wsi_seg.maps.fields import ChannelSum
from wsi_seg.maps.maps import Maps
from wsi_seg.maps.pyramid import halve
from wsi_seg.planning.map_layout import Kind, MapLayout, level_size
from wsi_seg.slides.tolerant import UNREADABLE


@dataclass(frozen=True, slots=True)
class Channels:
    """Layer to read: class labels, tissue, coverage, artifacts, or the sum of some probability channels."""

    kind: Kind
    numbers: tuple[int, ...] = ()
    """Probability channels that are added up."""


CLASSES = Channels("classes")
TISSUE = Channels("tissue")
COVERAGE = Channels("coverage")
ARTIFACTS = Channels("artifacts")
Places = Callable[[], frozenset[tuple[int, int]]]
"""Returns (ix, iy) of some blocks."""


class MapSource(Protocol):
    """Maps that can be read at several levels."""

    @property
    def layout(self) -> MapLayout: ...

    def downsamples(self, kind: Kind) -> tuple[int, ...]:
        """Return the downsample of each level that can be read, finest first."""

    def read(self, what: Channels, downsample: int, box_level: Box) -> NDArray[Any]:
        """Return (box.height, box.width) values of a level; 0 outside the map and where nothing is."""


def pick_downsample(source: MapSource, kind: Kind, map_per_pixel: float) -> int:
    """Return the coarsest level that is as fine as `map_per_pixel` of a drawing, else the finest."""
    levels = source.downsamples(kind)
    return max((d for d in levels if d <= map_per_pixel * (1 + 1e-9)), default=levels[0])


@dataclass(frozen=True, slots=True)
class StoredMaps:
    """The pyramids of a finished result."""

    maps: Maps

    @property
    def layout(self) -> MapLayout:
        return self.maps.layout

    def downsamples(self, kind: Kind) -> tuple[int, ...]:
        return tuple(self.layout.downsample(kind, level) for level in range(self.layout.level_count))

    def read(self, what: Channels, downsample: int, box_level: Box) -> NDArray[Any]:
        level = self.downsamples(what.kind).index(downsample)
        return _read_level(self.maps, what, level, box_level)


class LiveMaps:
    """The maps of a run: full resolution of the blocks that are finished, reduced here as pyramids are."""

    def __init__(
        self,
        maps: Maps,
        finished: Places,
        failed: Places,
        cache: LRUCache[NDArray[Any]],
        name: str,
    ) -> None:
        """Read from a store that is being filled.

        Blocks that are finished do not change any more; of those that failed nothing could be read. Reduced
        blocks are held in `cache` under `name`.
        """
        self._maps, self._cache, self._name = maps, cache, name
        self._finished, self._failed = finished, failed

    @property
    def layout(self) -> MapLayout:
        return self._maps.layout

    def downsamples(self, kind: Kind) -> tuple[int, ...]:
        side, factors = self.layout.shard_side(kind, 0), [1]
        while side % (2 * factors[-1]) == 0 and len(factors) < self.layout.level_count:
            factors.append(2 * factors[-1])
        return tuple(factor * self.layout.downsample(kind, 0) for factor in factors)

    def read(self, what: Channels, downsample: int, box_level: Box) -> NDArray[Any]:
        factor = downsample // self.layout.downsample(what.kind, 0)
        side = self.layout.shard_side(what.kind, 0) // factor
        out = np.zeros((box_level.height, box_level.width), _dtype(self.layout, what))
        if what.kind == "coverage":
            # The run marks their tissue at its end; until then the whole block is shown.
            for ix, iy in self._failed():
                part = Box.at(ix * side, iy * side, side, side).intersect(box_level)
                if not part.empty:
                    out[part.within(box_level)] = UNREADABLE
        for ix, iy in self._finished():
            place = Box.at(ix * side, iy * side, side, side)
            if place.intersect(box_level).empty:
                continue
            key = (self._name, what, factor, ix, iy)
            block = self._cache.get_or_make(key, lambda: self._reduced(what, factor, ix, iy))  # noqa: B023
            place = Box.at(place.x0, place.y0, block.shape[1], block.shape[0])
            part = place.intersect(box_level)
            if not part.empty:
                out[part.within(box_level)] = block[part.within(place)]
        return out

    def _reduced(self, what: Channels, factor: int, ix: int, iy: int) -> NDArray[Any]:
        steps = factor.bit_length() - 1
        level = min(steps, self.layout.block_levels - 1)  # the coarsest that the block has written
        side, size = self.layout.shard_side(what.kind, level), self.layout.size(what.kind, level)
        box = Box.at(ix * side, iy * side, side, side).intersect(Box(0, 0, size.width, size.height))
        values = _read_level(self._maps, what, level, box)
        for _ in range(steps - level):
            values = halve(what.kind, values)
        return values


def _dtype(layout: MapLayout, what: Channels) -> str:
    return layout.probability_dtype if what.kind == "probabilities" else "uint8"


def _read_level(maps: Maps, what: Channels, level: int, box: Box) -> NDArray[Any]:
    size: Size = level_size(maps.layout.map_size, maps.layout.downsample(what.kind, level))
    inside = box.intersect(Box(0, 0, size.width, size.height))
    out = np.zeros((box.height, box.width), _dtype(maps.layout, what))
    if not inside.empty:
        array = maps.array(what.kind, level)
        key = slice(inside.y0, inside.y1), slice(inside.x0, inside.x1)
        field = ChannelSum(array, what.numbers, 1) if what.kind == "probabilities" else array
        out[inside.within(box)] = np.asarray(field[key])
    return out
