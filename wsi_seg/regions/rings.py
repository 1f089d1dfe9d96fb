"""Contour lines in bulk: joined to rings, filtered, thinned and nested into polygons.

Lines lie one after the other in one array, for a Python object for each would cost more than the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components


@dataclass(frozen=True, slots=True)
class RingLimits:
    """Rings that are too small to be kept, in field px²."""

    outer: float = 0.0
    hole: float = 0.0


@dataclass(frozen=True, slots=True)
class Lines:
    """Contour lines: line i has the vertices offsets[i] … offsets[i + 1] - 1."""

    xy: NDArray[np.float64]
    """(n, 2) positions."""
    edge: NDArray[np.int64]
    """(n,) number of the grid edge that each vertex lies on."""
    offsets: NDArray[np.int64]
    """(lines + 1,)"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Vertices of each line, (lines,)."""
        return np.diff(self.offsets)

    def pick(self, chosen: NDArray[np.bool_]) -> Lines:
        """Return the lines of which `chosen` (lines,) is true."""
        if chosen.all():
            return self
        return self.keep(np.repeat(chosen, self.lengths), self.lengths[chosen])

    def keep(self, vertices: NDArray[np.bool_], lengths: NDArray[np.int64]) -> Lines:
        """Return lines of these `lengths` made of the vertices (n,) of which `vertices` is true."""
        return Lines(self.xy[vertices], self.edge[vertices], np.concatenate([[0], np.cumsum(lengths)]))

    def bounds(self) -> NDArray[np.float64]:
        """Return (lines, 4): x0, y0, x1, y1."""
        if len(self) == 0:
            return np.empty((0, 4))
        begin = self.offsets[:-1]
        ends = (np.minimum.reduceat(self.xy, begin), np.maximum.reduceat(self.xy, begin))
        return np.concatenate(ends, axis=1)


NO_LINES = Lines(np.empty((0, 2)), np.empty(0, np.int64), np.zeros(1, np.int64))


def concatenate(parts: Sequence[Lines]) -> Lines:
    """Return all lines as one."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return NO_LINES
    starts = np.cumsum([0] + [len(part.edge) for part in parts])
    return Lines(
        np.concatenate([part.xy for part in parts]),
        np.concatenate([part.edge for part in parts]),
        np.concatenate(
            [*(part.offsets[:-1] + at for part, at in zip(parts, starts, strict=False)), starts[-1:]]
        ),
    )


def chains(following: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Order links so that each chain of them, open or a ring, lies in one piece.

    Args:
        following: (n,), n > 0; number of the link after each one, -1 for none. No two have the same one.

    Returns:
        Order (n,); offsets (chains + 1,) in that order, where an open chain begins with its first link; and
        which chains are rings (chains,).
    """
    count = len(following)
    links = np.flatnonzero(following >= 0)
    chain_of = connected(count, links, following[links])
    before = np.full(count, -1)
    before[following[links]] = links
    first, last = (np.empty(chain_of.max() + 1, np.intp) for _ in range(2))
    first[chain_of[::-1]] = np.arange(count)[::-1]  # the last one written, the smallest, stays
    last[:] = before[first]
    heads, tails = np.flatnonzero(before < 0), np.flatnonzero(following < 0)
    is_ring = np.ones(len(first), bool)
    is_ring[chain_of[heads]] = False
    first[chain_of[heads]], last[chain_of[tails]] = heads, tails
    # All chains one after the other are one path.
    path = following.copy()
    path[last] = np.append(first[1:], -1)
    steps = np.flatnonzero(path >= 0)
    graph = csr_array((np.ones(len(steps)), path[steps], np.append(0, np.cumsum(path >= 0))), (count, count))
    order = breadth_first_order(graph, first[0], return_predecessors=False)
    return np.asarray(order, np.intp), np.append(0, np.cumsum(np.bincount(chain_of))), is_ring


def join(lines: Lines) -> tuple[Lines, Lines]:
    """Join lines, each of which ends on the grid edge where at most one other begins.

    Returns:
        Rings (no vertex twice), and longer lines of which both ends are still open.
    """
    first, last = lines.offsets[:-1], lines.offsets[1:]
    starting = {edge: line for line, edge in enumerate(lines.edge[first].tolist())}
    following = [starting.get(edge, -1) for edge in lines.edge[last - 1].tolist()]
    is_head = np.ones(len(lines), bool)
    is_head[[line for line in following if line >= 0]] = False
    order: list[int] = []
    starts: list[int] = []
    done = [False] * len(following)
    # What begins at an open end is followed to its other end; what is left then are rings.
    for begin in [*np.flatnonzero(is_head).tolist(), *np.flatnonzero(~is_head).tolist()]:
        if done[begin]:
            continue
        starts.append(len(order))
        line = begin
        while line >= 0 and not done[line]:
            done[line] = True
            order.append(line)
            line = following[line]
    # A line begins with the vertex that the line before it ended with.
    begins = first[order] + ~is_head[order]
    lengths = last[order] - begins
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    take = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], lengths)
    joined = Lines(lines.xy[take], lines.edge[take], offsets[[*starts, len(order)]])
    is_open = is_head[np.asarray(order, np.intp)[starts]]
    return joined.pick(~is_open), joined.pick(is_open)


def signed_areas(rings: Lines) -> NDArray[np.float64]:
    """Return the area of each ring, negative for holes (shoelace formula)."""
    if len(rings) == 0:
        return np.empty(0)
    begin = rings.offsets[:-1]
    # Relative to each ring's first vertex: far from the origin digits would cancel, and the edge that
    # closes the ring adds nothing.
    x, y = (rings.xy - np.repeat(rings.xy[begin], np.diff(rings.offsets), axis=0)).T
    cross = np.zeros(len(x))
    cross[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
    cross[rings.offsets[1:] - 1] = 0.0
    areas: NDArray[np.float64] = np.add.reduceat(cross, begin) / 2
    return areas


def large_enough(rings: Lines, limits: RingLimits) -> Lines:
    """Return the rings that are not too small."""
    areas = signed_areas(rings)
    return rings.pick(np.where(areas > 0, areas >= limits.outer, -areas >= limits.hole))


def without_straight(rings: Lines) -> Lines:
    """Return the rings without vertices on a straight line between their neighbors.

    They are most vertices of a ring around whole numbers, and would only cost time and memory.
    """
    if len(rings) == 0:
        return rings
    first, last = rings.offsets[:-1], rings.offsets[1:] - 1
    to_next = np.empty_like(rings.xy)
    to_next[:-1] = rings.xy[1:] - rings.xy[:-1]
    to_next[last] = rings.xy[first] - rings.xy[last]
    from_previous = np.empty_like(to_next)
    from_previous[1:] = to_next[:-1]
    from_previous[first] = to_next[last]
    turns = from_previous[:, 0] * to_next[:, 1] != from_previous[:, 1] * to_next[:, 0]
    return rings.keep(turns, np.add.reduceat(turns, first, dtype=np.int64))


def nest(rings: Lines) -> NDArray[np.object_]:
    """Return (n,) polygons made of rings that neither cross nor touch."""
    areas = signed_areas(rings)
    ring_of = np.repeat(np.arange(len(areas)), rings.lengths)
    shapes = np.asarray(shapely.linearrings(rings.xy, indices=ring_of)) if len(areas) else np.empty(0, object)
    parent = _parents(shapes, rings.xy[rings.offsets[:-1]], np.abs(areas))
    is_outer = areas > 0
    # An outer ring directly in an outer one lies in a hole that was filled. A hole directly in a hole has
    # lost its outer ring to the limits; no polygon takes it.
    outer = np.flatnonzero(is_outer & ~((parent >= 0) & is_outer[parent]))
    polygon = np.full(len(areas) + 1, -1)  # one more: where parent is -1
    polygon[outer] = np.arange(len(outer))
    holes = np.flatnonzero(~is_outer & (polygon[parent] >= 0))
    owner = np.concatenate([polygon[outer], polygon[parent[holes]]])
    order = np.argsort(owner, kind="stable")  # each outer ring, then its holes
    parts = shapes[np.concatenate([outer, holes])[order]]
    return np.asarray(shapely.polygons(parts, indices=owner[order]), object).reshape(-1)


def _parents(
    rings: NDArray[np.object_], vertices: NDArray[np.float64], areas: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Return, for each ring, the smallest ring around it, -1 without one.

    Rings do not touch, so one vertex tells where a ring lies.
    """
    tree = shapely.STRtree(np.asarray(shapely.points(vertices)))
    around, ring = tree.query(shapely.polygons(rings), predicate="contains")
    order = np.lexsort((-areas[around], ring))
    parent = np.full(len(rings), -1, np.intp)
    parent[ring[order]] = around[order]  # the last one written, the smallest, stays
    return parent


def near_pairs(bounds: NDArray[np.float64], reach: float) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs i < j of boxes (n, 4) between which no gap, along x or y, is wider than `reach`."""
    boxes = np.asarray(shapely.box(*(bounds + np.array([-1, -1, 1, 1]) * reach / 2).T))
    one, other = shapely.STRtree(boxes).query(boxes)
    return one[one < other], other[one < other]


def are_near(
    shapes: NDArray[np.object_], one: NDArray[np.intp], other: NDArray[np.intp], reach: float
) -> NDArray[np.bool_]:
    """Return for pairs of geometries (n,), by their numbers, whether they are at most `reach` apart.

    The one with more vertices is prepared, that is, gets a tree of its edges. Without it all edges of both
    are compared, which for real outlines took 20 times as long as to trace them (`benchmarks/polygons.py`).
    """
    vertices = shapely.get_num_coordinates(shapes)
    larger = vertices[one] > vertices[other]
    base, small = np.where(larger, one, other), np.where(larger, other, one)
    shapely.prepare(shapes[np.unique(base)])
    return np.asarray(shapely.dwithin(shapes[base], shapes[small], reach))


def connected(count: int, one: NDArray[np.intp], other: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return (count,) a number for each item, from 0, equal for items that pairs (one, other) connect."""
    links = coo_array((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1], np.intp)
