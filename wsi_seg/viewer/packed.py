"""Polygons packed into few arrays, which take less memory than objects and are read in bulk from text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

Starts = NDArray[np.int64]

NUMBERS = b"0123456789.-+eE"
SPACE = b" \t\r\n"
# What may stand next to each other once vertices are `v`; that the depth is right is checked next to it.
PAIRS = {ord(a) << 8 | ord(b) for a, b in ("[[", "[v", "v,", "v]", ",v", ",[", "]]", "],")}
# Brackets around a vertex: those of its MultiPolygon, its polygon and its ring.
DEPTH = 3


@dataclass(frozen=True, eq=False)
class Packed:
    """Polygons of any number of parts and holes.

    Each array of starts has one entry more, where the last one ends.
    """

    xy: NDArray[np.float64]
    """(v, 2) vertices."""
    ring: Starts
    """First vertex of each ring."""
    polygon: Starts
    """First ring of each polygon, its outline."""
    shape: Starts
    """First polygon of each of the n shapes."""
    bounds: NDArray[np.float64]
    """x0, y0, x1, y1 of each shape, (n, 4)."""

    @classmethod
    def joined(cls, parts: Sequence[Packed], shift: tuple[float, float] = (0.0, 0.0)) -> Packed:
        """Return the shapes of all parts in one, moved by x and y."""
        xy = np.concatenate([np.empty((0, 2)), *(part.xy for part in parts)])
        bounds = np.concatenate([np.empty((0, 4)), *(part.bounds for part in parts)])
        xy += shift
        bounds += shift * 2
        ring, polygon = _joined([part.ring for part in parts]), _joined([part.polygon for part in parts])
        return cls(xy, ring, polygon, _joined([part.shape for part in parts]), bounds)

    def shapes(self, indices: NDArray[np.intp]) -> NDArray[np.object_]:
        """Return these shapes as MultiPolygons."""
        polygons, shape = _taken(self.shape, indices)
        rings, polygon = _taken(self.polygon, polygons)
        vertices, ring = _taken(self.ring, rings)
        kind = shapely.GeometryType.MULTIPOLYGON
        return np.asarray(shapely.from_ragged_array(kind, self.xy[vertices], (ring, polygon, shape)), object)


def pack(coordinates: Sequence[str]) -> Packed:
    """Return the shapes of these GeoJSON coordinates, each of a MultiPolygon.

    Raises:
        ValueError: a text is no such coordinates, holds a ring that is not closed, or is empty.
    """
    text = ",".join(coordinates).encode()
    xy = np.fromstring(text.translate(None, b"[]"), sep=",")
    marks = np.frombuffer(text.translate(None, NUMBERS + SPACE).replace(b"[,]", b"v"), np.uint8)
    opens, closes, vertices = (marks == ord(mark) for mark in "[]v")
    depth = np.cumsum(opens.astype(np.int64) - closes)
    shapes, polygons, rings = (np.flatnonzero(opens & (depth == level)) for level in range(1, DEPTH + 1))
    pairs = np.flatnonzero(np.bincount(marks[:-1].astype(np.int64) << 8 | marks[1:]))
    if (
        not set(pairs.tolist()) <= PAIRS
        or (depth.min(), depth.max(), depth[-1], depth[vertices].min()) != (0, DEPTH, 0, DEPTH)
        or len(shapes) != len(coordinates)
        or len(xy) != 2 * np.count_nonzero(vertices)
        or not np.isfinite(xy).all()
    ):
        raise ValueError("coordinates are not those of polygons")
    xy = xy.reshape(-1, 2)
    ring = _starts(np.flatnonzero(vertices), rings)
    if np.diff(ring).min() < 4 or (xy[ring[:-1]] != xy[ring[1:] - 1]).any():
        raise ValueError("a ring is not closed, or has no area")
    polygon, shape = _starts(rings, polygons), _starts(polygons, shapes)
    first = ring[polygon[shape[:-1]]]
    bounds = np.hstack([np.minimum.reduceat(xy, first), np.maximum.reduceat(xy, first)])
    return Packed(xy, ring, polygon, shape, bounds)


def _starts(inner: NDArray[np.intp], outer: NDArray[np.intp]) -> Starts:
    """Return how many of the places `inner` lie before each of `outer`, and their number."""
    return np.append(np.searchsorted(inner, outer), len(inner)).astype(np.int64)


def _joined(parts: Sequence[Starts]) -> Starts:
    before = np.cumsum([0, *(part[-1] for part in parts)])
    moved = [part[:-1] + start for part, start in zip(parts, before[:-1].tolist(), strict=True)]
    return np.concatenate([*moved, before[-1:]]).astype(np.int64)


def _taken(starts: Starts, indices: NDArray[np.intp]) -> tuple[NDArray[np.intp], Starts]:
    """Return the members of some out of what `starts` parts, and the starts of those among them."""
    first, counts = starts[indices], starts[indices + 1] - starts[indices]
    inner = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return np.arange(inner[-1]) + np.repeat(first - inner[:-1], counts), inner
