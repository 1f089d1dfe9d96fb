"""Outlines as a screen needs them: only what it shows, as fine as its pixels, and kept for the next look.

`scale` is l0 pixels per screen pixel throughout. Outlines are simplified for powers of two of it, so that
zooming a little asks for nothing new. Vertices that are left out lie within half a screen pixel of what
stays; where a ring begins, that can add up to a little more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.core.classes import hex_code
from wsi_seg.core.lru import LRUCache
from wsi_seg.results.region_files import RegionGroup, Regions
from wsi_seg.viewer.query import View

# Regions in one answer; the largest are shown.
MOST_SHOWN = 100_000
CACHE_BYTES = 192 * 2**20
BATCH = 2000
# Of a text in the cache, besides its characters.
PIECE_BYTES = 300


class Outlines:
    """Answers for views of one result."""

    def __init__(self, regions: Regions, cache: LRUCache[str], name: str) -> None:
        """Answer from `regions`; the JSON text of each region and scale is held in `cache` under `name`."""
        self.regions, self._cache, self._name = regions, cache, name
        self._extent = np.max(regions.bounds[:, 2:] - regions.bounds[:, :2], axis=1, initial=0.0)

    def show(self, view: View) -> str:
        """Return the outlines of a view as JSON text: `groups`, `regions`, and how many are `hidden`.

        A region without a side of one screen pixel is hidden, and so are its holes without one.
        """
        scale = power_of_two_below(view.scale)
        found = self.regions.in_box(view.box_l0)
        large = found[self._extent[found] >= view.scale]
        if len(large) > MOST_SHOWN:
            order = np.argsort(self._extent[large], kind="stable")[-MOST_SHOWN:]
            large = np.sort(large[order])
        return answer(self.regions.groups, self._pieces(large, scale), len(found) - len(large))

    def _pieces(self, wanted: NDArray[np.intp], scale: float) -> list[str]:
        held = {i: self._cache.get((self._name, scale, i)) for i in wanted.tolist()}
        missing = [i for i, piece in held.items() if piece is None]
        groups = self.regions.group[missing].tolist()
        for i, group, text in zip(missing, groups, self._rings(missing, scale), strict=True):
            held[i] = piece = f'{{"i":{i},"g":{group},"rings":[{text}]}}'
            self._cache.put((self._name, scale, i), piece)
        return [piece for piece in held.values() if piece is not None]

    def _rings(self, wanted: list[int], scale: float) -> Iterator[str]:
        for start in range(0, len(wanted), BATCH):  # so that few shapes are held as objects
            yield from ring_texts(self.regions.shapes[wanted[start : start + BATCH]], scale)


def piece_bytes(piece: str) -> int:
    """Return about how many bytes a text takes in the cache."""
    return len(piece) + PIECE_BYTES


def power_of_two_below(scale: float) -> float:
    """Return the largest power of two that is at most `scale`."""
    return float(2.0 ** math.floor(math.log2(scale)))


def answer(groups: Sequence[RegionGroup], pieces: Sequence[str], hidden: int) -> str:
    """Return the JSON text of one answer."""
    named = json.dumps([group_json(group) for group in groups], ensure_ascii=False, separators=(",", ":"))
    return f'{{"groups":{named},"regions":[{",".join(pieces)}],"hidden":{hidden}}}'


def group_json(group: RegionGroup) -> dict[str, Any]:
    """Return a group as the browser sees it."""
    return {"name": group.name, "label": group.label, "color": hex_code(group.color)}


def ring_texts(shapes: NDArray[np.object_], scale: float) -> list[str]:
    """Return the rings of each shape as JSON text, `[x,y,x,y,…],[…]`, without the vertex that closes them.

    Args:
        shapes: (n,) polygons in l0 pixels.
        scale: a power of two; see above; positions are rounded to about a tenth of it.
    """
    # A quarter of the time, as an outline may cross itself here; what would vanish is done with care.
    simple = np.asarray(shapely.simplify(shapes, scale / 2, preserve_topology=False), object)
    gone = shapely.is_empty(simple)
    simple[gone] = shapely.simplify(shapes[gone], scale / 2, preserve_topology=True)
    parts, shape_of_part = shapely.get_parts(simple, return_index=True)
    outer = np.asarray(shapely.get_exterior_ring(parts), object)
    rings, part_of_ring = shapely.get_rings(parts, return_index=True)
    is_outer = np.isin(np.arange(len(rings)), np.searchsorted(part_of_ring, np.arange(len(outer))))
    x0, y0, x1, y1 = shapely.bounds(rings).reshape(-1, 4).T
    shown = is_outer | (np.maximum(x1 - x0, y1 - y0) >= scale)
    rings, owner = rings[shown], shape_of_part[part_of_ring[shown]]
    xy, ring_of = shapely.get_coordinates(rings, return_index=True)
    digits = max(0, round(-math.log10(scale / 10)))
    rounded: NDArray[Any] = np.round(xy, digits)
    if digits == 0:
        rounded = rounded.astype(np.int64)
    ends = np.searchsorted(ring_of, np.arange(len(rings)), side="right")
    flat, start = rounded.ravel().tolist(), 0
    texts: list[list[str]] = [[] for _ in range(len(shapes))]
    for end, shape in zip(ends.tolist(), owner.tolist(), strict=True):
        # str of a list is JSON here, and quicker: numbers are finite.
        texts[shape].append(str(flat[2 * start : 2 * (end - 1)]).replace(" ", ""))
        start = end
    return [",".join(one) for one in texts]
