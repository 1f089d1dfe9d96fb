"""Boxes (c, y, x) of an array of any layout, decoded in whole chunks of which the last ones are kept.

Files are chunked as their writers liked: in strips as wide as the map, or with all channels of a pixel
together. Tracing reads squares of one channel, so each chunk would be decoded many times without a cache.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.errors import MapError
from wsi_seg.core.lru import LRUCache
from wsi_seg.maps.foreign.stored import StoredMap

# Decoded pieces that are kept, in bytes: more than a row of blocks of a label map 60,000 pixels wide.
CACHE_BYTES = 2**28

# Smaller chunks are read several at a time: pixels of a piece.
LEAST_PIXELS = 2**18

Convert = Callable[[NDArray[Any]], NDArray[Any]]


class Pixels:
    """A stored map as channels, rows and columns, converted as it is decoded; for any number of threads."""

    def __init__(self, stored: StoredMap, axes: str, dtype: Any, convert: Convert) -> None:
        """Make a view; nothing is read.

        Args:
            stored: the array.
            axes: a letter for each of its axes: y, x, at most one c; others have the length 1.
            dtype: of what `convert` returns.
            convert: called once with each decoded piece; returns as many values.
        """
        self._stored, self._convert = stored, convert
        self._from = [axes.index(axis) if axis in axes else None for axis in "cyx"]
        lengths = [1 if at is None else int(stored.array.shape[at]) for at in self._from]
        self.shape = (lengths[0], lengths[1], lengths[2])
        self.dtype = np.dtype(dtype)
        self._piece = self._piece_shape()
        self._kept: LRUCache[NDArray[Any]] = LRUCache(CACHE_BYTES, weight=lambda piece: piece.nbytes)

    def _piece_shape(self) -> tuple[int, int, int]:
        """Return how much is decoded at once: a chunk, or several small ones."""
        c, y, x = (
            1 if at is None else min(self._stored.chunks[at], length)
            for at, length in zip(self._from, self.shape, strict=True)
        )
        while y * x < LEAST_PIXELS and (y < self.shape[1] or x < self.shape[2]):
            if x < self.shape[2] and (x <= y or y >= self.shape[1]):
                x *= 2
            else:
                y *= 2
        return c, y, x

    def __getitem__(self, box: tuple[slice, slice, slice], /) -> NDArray[Any]:
        """Return a copy of a box, (c, y, x).

        Args:
            box: slices within the shape, without steps.

        Raises:
            MapError: the file is damaged there, or holds what the map must not hold.
        """
        wanted = [range(length)[part] for part, length in zip(box, self.shape, strict=True)]
        out = np.empty([len(part) for part in wanted], self.dtype)
        if not out.size:
            return out
        steps = [
            range(part.start // side, (part.stop - 1) // side + 1)
            for part, side in zip(wanted, self._piece, strict=True)
        ]
        for index in itertools.product(*steps):
            piece = self._kept.get(index)
            if piece is None:
                piece = self._read(index)
                self._kept.put(index, piece)
            start = [i * side for i, side in zip(index, self._piece, strict=True)]
            sides = [
                (max(w.start, at), min(w.stop, at + n))
                for w, at, n in zip(wanted, start, piece.shape, strict=True)
            ]
            target = tuple(slice(a - w.start, b - w.start) for (a, b), w in zip(sides, wanted, strict=True))
            source = tuple(slice(a - at, b - at) for (a, b), at in zip(sides, start, strict=True))
            out[target] = piece[source]
        return out

    def _read(self, index: Sequence[int]) -> NDArray[Any]:
        """Read and convert the piece of this number along each axis."""
        key = [slice(0, 1)] * len(self._stored.array.shape)
        for at, i, side, length in zip(self._from, index, self._piece, self.shape, strict=True):
            if at is not None:
                key[at] = slice(i * side, min((i + 1) * side, length))
        try:
            found = np.asarray(self._stored.array[tuple(key)])
        except self._stored.errors as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise MapError(f"{self._stored.path}: is damaged ({reason:.200})") from error
        expected = tuple(part.stop - part.start for part in key)
        if found.shape != expected:
            raise MapError(f"{self._stored.path}: is damaged (a box of {found.shape}, not {expected} values)")
        there = [at for at in self._from if at is not None]
        others = [at for at in range(found.ndim) if at not in there]
        found = found.transpose([*others, *there]).reshape([found.shape[at] for at in there])
        return np.ascontiguousarray(self._convert(found if len(there) == 3 else found[None]))
