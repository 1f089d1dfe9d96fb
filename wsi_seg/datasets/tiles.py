"""Tiles of one larger image, recognized by their names and by their borders.

Names: a stem in common next to numbers of x and y, or of row and column.

Borders: of tiles cut edge to edge, the last column of one continues in the first column of the next; of tiles
that overlap, and of copies, a whole column or row occurs in both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

# A number of one axis; and sizes that stand next to it, such as QuPath's [x=512,y=0,w=256,h=256].
ACROSS = r"x(?:min|start|pos|off|0)?|cols?|column|c"
DOWN = r"y(?:min|start|pos|off|0)?|rows?|r"
AXIS = rf"(?:{ACROSS}|{DOWN}|w|h|d|width|height|size)[-_=]?\d+"
COORDINATES = re.compile(rf"(?<![A-Za-z0-9])(?:{AXIS})+(?![0-9])", re.I)

# A border continues where its details correlate by more than chance: of n pixels, unrelated borders correlate
# by 1 / sqrt(n) (standard deviation; 4.8 of these was the most in 56,000 pairs of unrelated H&E borders),
# those of neighbors by 0.5 to 0.9.
LEAST_CORRELATION = 0.5
LEAST_DEVIATIONS = 7.0
# Gray levels of root mean square change from pixel to pixel; less says nothing.
LEAST_DETAIL = 2.0
# Distinct gray levels of a column or row whose copy says something.
LEAST_LEVELS = 24
AT_ONCE = 1024

Gray = NDArray[np.float32]


def parent_name(name: str) -> str | None:
    """Return a tile's name without its numbers of both axes; None where it has none."""
    path = PurePosixPath(name)
    found = " ".join(COORDINATES.findall(path.name)).lower()
    if not all(re.search(rf"(?<![a-z])(?:{axis})[-_=]?\d", found) for axis in (ACROSS, DOWN)):
        return None
    stem = COORDINATES.sub("", path.name)
    return (path.parent / (re.sub(r"[_=,;\s\[\]()]+", "_", stem).strip("_-") or "tiles")).as_posix()


def bordering(images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[int, int]]:
    """Yield pairs of images, by number, that are parts of one: copies, overlapping, or edge to edge.

    Args:
        images: uint8 RGB (h, w, 3), of any sizes.
    """
    yield from _sharing(images)
    for axis in (0, 1):
        yield from _continuing(images, axis)


def _sharing(images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[int, int]]:
    """Yield pairs of which one holds the first column or row of the other somewhere."""
    for axis in (0, 1):
        first: dict[bytes, int] = {}
        for number, image in enumerate(images):
            line = np.ascontiguousarray(image.take(0, axis=axis))
            if len(np.unique(line)) >= LEAST_LEVELS:
                first.setdefault(line.tobytes(), number)
                yield first[line.tobytes()], number
        lengths = {len(line) for line in first}
        for number, image in enumerate(images):
            lines = np.ascontiguousarray(np.moveaxis(image, axis, 0))
            if lines[0].nbytes in lengths:
                yield from ((first[b], number) for line in lines if (b := line.tobytes()) in first)


def _continuing(images: Sequence[NDArray[np.uint8]], axis: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of which the second continues the first along an axis."""
    by_length: dict[int, list[int]] = {}
    for number, image in enumerate(images):
        by_length.setdefault(image.shape[1 - axis], []).append(number)
    for length, numbers in by_length.items():
        least = max(LEAST_CORRELATION, LEAST_DEVIATIONS / np.sqrt(length))
        if least >= 1:
            continue
        ends = _details([np.take(images[number], -1, axis=axis) for number in numbers])
        starts = _details([np.take(images[number], 0, axis=axis) for number in numbers])
        for begin in range(0, len(numbers), AT_ONCE):
            for i, j in np.argwhere(ends[begin : begin + AT_ONCE] @ starts.T > least).tolist():
                yield numbers[begin + i], numbers[j]


def _details(lines: Sequence[NDArray[np.uint8]]) -> Gray:
    """Return (n, length - 1) changes along each line, of norm 1; zeros where there is next to none."""
    changes = np.diff(np.stack(lines).astype(np.float32).mean(axis=2), axis=1)
    changes -= changes.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(changes, axis=1, keepdims=True)
    plain = norms < LEAST_DETAIL * np.sqrt(changes.shape[1])
    scaled: Gray = np.where(plain, 0, changes / np.where(plain, 1, norms))
    return scaled
