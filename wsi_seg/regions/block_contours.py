"""Contours traced block by block, each as soon as the block is there, and joined when all are.

A block leaves in a file the contours between its own pixels, and its outermost pixels; it needs none of its
neighbors for that. The cells between blocks, one pixel wide, are traced of the outermost pixels when all is
joined, which so takes the time of reading these files and not of reading the maps. Of a block without a file,
as where nothing could be written of it, or a group that is not in it, the maps are traced.

After the last block of a map of 8192² with 8,000 outlines of labels 0.7 core-seconds are left of 1.9; both
ways take as much in all. Tracing the maps took 5.5 of 10.6 core-seconds of the regions of a slide of 30,000²
by labels, and 0.8 of 1.9 by probabilities.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import atomic_path, reading, writing
from wsi_seg.core.geometry import Box
from wsi_seg.core.threads import map_ahead
from wsi_seg.planning.grid import Block
from wsi_seg.regions.contours import BLOCK, ContourLevel, ContourRow, polygons_of_rows
from wsi_seg.regions.group_fields import MapArrays, TracedField, traced_field
from wsi_seg.regions.rings import Lines, concatenate, join, large_enough, without_straight
from wsi_seg.regions.settings import TraceSettings

# In place of the arrays of a group of which a block has nothing.
EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class BlockContours:
    """Contours between the pixels of one block of a field."""

    rings: Lines
    others: Lines
    """Those that end on the block's border."""
    top: NDArray[Any]
    """Values of the first row of pixels, (w,)."""
    bottom: NDArray[Any]
    left: NDArray[Any]
    """Values of the first column of pixels, (h,)."""
    right: NDArray[Any]

    @property
    def sides(self) -> dict[str, NDArray[Any]]:
        """Outermost pixels by the name of their side."""
        return {side: getattr(self, side) for side in ("top", "bottom", "left", "right")}


@dataclass(frozen=True, slots=True)
class ContourRecipe:
    """Groups whose contours each block leaves, and where."""

    folder: str
    """Absolute; it is made where it is missing."""
    groups: tuple[ClassGroup, ...]
    settings: TraceSettings

    def write(
        self, maps: MapArrays, block: Block, labels: NDArray[np.uint8], probabilities: NDArray[Any]
    ) -> None:
        """Write the file of a block; the same values give the same bytes.

        Args:
            maps: all of them; nothing is read.
            block: of the maps.
            labels: uint8 (h, w), its class codes.
            probabilities: (channels, ceil(h / ds), ceil(w / ds)), as they are stored.

        Raises:
            UsageError: the maps have no class of a group.
            OutputError: the file cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {}
        for name, group in {_name(group): group for group in self.groups}.items():
            traced = traced_field(maps, group, self.settings)
            values = traced.of_block(labels, probabilities)
            corner = block.box.x0 // traced.scale, block.box.y0 // traced.scale
            found = contours_in_block(values, corner, traced.level)
            parts: dict[str, NDArray[Any]] = {EMPTY: np.zeros(0)}
            if len(found.rings) or any(side.any() for side in found.sides.values()):
                parts = {
                    "rings": found.rings.xy, "ends": found.rings.offsets, "xy": found.others.xy,
                    "edge": found.others.edge, "offsets": found.others.offsets, **found.sides,
                }  # fmt: skip
            arrays |= {f"{name}.{part}": array for part, array in parts.items()}
        path = _path(self.folder, block.ix, block.iy)
        with writing(path):
            path.parent.mkdir(exist_ok=True)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class TracedBlocks:
    """The blocks of a map, whose contours are in files."""

    folder: str
    """See `ContourRecipe`."""
    side: int
    """Of a block, in map pixels."""
    blocks: tuple[tuple[int, int], ...]
    """(ix, iy) of each, row by row; the map is 0 in others."""

    def polygons(self, group: ClassGroup, traced: TracedField, reach: float) -> Iterator[NDArray[np.object_]]:
        """Yield what `stream_contours` does of the field of a group, which was traced by a `ContourRecipe`.

        Raises:
            OutputError: a file is damaged or cannot be read.
        """
        return polygons_of_rows(self._rows(_name(group), traced), traced.level.limits, reach)

    def _rows(self, name: str, traced: TracedField) -> Iterator[ContourRow]:
        """Yield the contours of each row of blocks, with those between it and the row above."""
        (height, width), side = traced.field.shape, self.side // traced.scale
        loaded = map_ahead(lambda place: self._load(*place, name, traced, side), self.blocks)
        level, above = traced.level, np.zeros(width, traced.field.dtype)
        for iy, y0 in enumerate(range(0, height, side)):
            y1 = min(y0 + side, height)
            row = {ix: found for ix, of in self.blocks if of == iy and (found := next(loaded)) is not None}
            first, last = np.zeros_like(above), np.zeros_like(above)
            for ix, found in row.items():
                first[ix * side : (ix + 1) * side] = found.top
                last[ix * side : (ix + 1) * side] = found.bottom
            between = [level.lines(_strip(above, first), 0, y0), *_beside(row, side, (y0, y1), level)]
            if y1 == height:
                between.append(level.lines(_strip(last, np.zeros_like(last)), 0, height))
            rings = [*(found.rings for found in row.values()), *(rings for rings, _ in between)]
            others = [*(found.others for found in row.values()), *(lines for _, lines in between)]
            border = level.y[y1] if y1 < height else math.inf
            yield ContourRow(concatenate(rings), concatenate(others), border)
            above = last

    def _load(self, ix: int, iy: int, name: str, traced: TracedField, side: int) -> BlockContours | None:
        """Return the contours of a block; None where its field is 0 all over."""
        path = _path(self.folder, ix, iy)
        parts = _read(path, f"{name}.") if path.is_file() else {}
        if not parts:
            height, width = traced.field.shape
            box = Box.at(ix * side, iy * side, side, side).intersect(Box(0, 0, width, height))
            return contours_in_block(traced.field[box.slices], (box.x0, box.y0), traced.level)
        if EMPTY in parts:
            return None
        xy = parts.pop("rings")
        rings = Lines(xy, np.zeros(len(xy), np.int64), parts.pop("ends"))  # nothing is joined to them
        others = Lines(parts.pop("xy"), parts.pop("edge"), parts.pop("offsets"))
        return BlockContours(rings, others, **parts)


def contours_in_block(values: NDArray[Any], corner: tuple[int, int], level: ContourLevel) -> BlockContours:
    """Return the contours in a block of a field.

    Args:
        values: (h, w) of its pixels.
        corner: field pixel, x and y, that they begin at.
        level: of the whole field.
    """
    height, width = values.shape
    parts = [
        level.lines(values[y : y + BLOCK + 1, x : x + BLOCK + 1], corner[0] + x + 1, corner[1] + y + 1)
        for y in range(0, height - 1, BLOCK)
        for x in range(0, width - 1, BLOCK)
    ]
    joined, others = join(concatenate([lines for _, lines in parts]))
    rings = [*(rings for rings, _ in parts), without_straight(large_enough(joined, level.limits))]
    return BlockContours(concatenate(rings), others, values[0], values[-1], values[:, 0], values[:, -1])


def _beside(
    row: dict[int, BlockContours], side: int, rows: tuple[int, int], level: ContourLevel
) -> Iterator[tuple[Lines, Lines]]:
    """Yield the lines between the blocks of one row, of pixels from `rows[0]` to before `rows[1]`."""
    height, width = rows[1] - rows[0], len(level.x) - 2
    if height == 1 or not row:
        return
    dtype = next(iter(row.values())).left.dtype
    for ix in sorted({n + end for n in row for end in (0, 1)}):
        left, right = row.get(ix - 1), row.get(ix)
        nodes = np.zeros((height, 2), dtype)
        if left is not None:
            nodes[:, 0] = left.right
        if right is not None:
            nodes[:, 1] = right.left
        yield level.lines(nodes, min(ix * side, width), rows[0] + 1)


def _strip(upper: NDArray[Any], lower: NDArray[Any]) -> NDArray[Any]:
    """Return two rows of nodes, with those of the rim at their ends."""
    return np.pad(np.stack([upper, lower]), ((0, 0), (1, 1)))


def _read(path: Path, start: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file whose names have this start, without it."""
    with reading(path, OutputError):
        try:
            with np.load(path) as file:
                return {key.removeprefix(start): file[key] for key in file.files if key.startswith(start)}
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise OutputError(f"{path}: is damaged ({error}); remove it and run again to resume") from error


def _name(group: ClassGroup) -> str:
    """Return what tells the field of a group from others."""
    return "-".join(map(str, sorted({*group.codes})))


def _path(folder: str, ix: int, iy: int) -> Path:
    return Path(folder) / f"{iy}-{ix}.npz"
