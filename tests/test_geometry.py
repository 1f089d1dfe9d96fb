from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wsi_seg.core.geometry import Box, RealBox, Scale

position = st.integers(-1000, 1000)
boxes = st.builds(Box.at, position, position, st.integers(1, 300), st.integers(1, 300))


@given(boxes, boxes)
def test_intersect_is_the_common_pixels(a: Box, b: Box) -> None:
    def pixels(box: Box) -> set[tuple[str, int]]:
        return {("x", x) for x in range(box.x0, box.x1)} | {("y", y) for y in range(box.y0, box.y1)}

    common = a.intersect(b)
    if common.empty:
        assert min(a.x1, b.x1) <= max(a.x0, b.x0) or min(a.y1, b.y1) <= max(a.y0, b.y0)
    else:
        assert pixels(common) == pixels(a) & pixels(b)


@given(boxes, st.integers(0, 20))
def test_within_addresses_the_box_in_an_array_of_a_larger_one(box: Box, margin: int) -> None:
    outer = box.grown(margin)
    y, x = np.mgrid[outer.y0 : outer.y1, outer.x0 : outer.x1]
    part = box.within(outer)
    assert (x[part].min(), x[part].max() + 1) == (box.x0, box.x1)
    assert (y[part].min(), y[part].max() + 1) == (box.y0, box.y1)


@given(boxes, st.floats(0.1, 40), st.floats(0.1, 40), st.integers(0, 5))
def test_outward_covers_and_is_smallest(box: Box, sx: float, sy: float, margin: int) -> None:
    real = box.scaled(Scale(sx, sy))
    cover = real.outward()
    assert cover.x0 <= real.x0 + 1e-6 < cover.x0 + 1
    assert cover.y0 <= real.y0 + 1e-6 < cover.y0 + 1
    assert cover.x1 - 1 < real.x1 - 1e-6 <= cover.x1
    assert cover.y1 - 1 < real.y1 - 1e-6 <= cover.y1
    assert real.outward(margin) == cover.grown(margin)


def test_outward_takes_rounding_noise_for_whole() -> None:
    assert RealBox(2.9999999, 3.0000001, 6.9999999, 7.0000001).outward() == Box(3, 3, 7, 7)
    assert RealBox(2.99, 3.01, 6.99, 7.01).outward() == Box(2, 3, 7, 8)


@given(boxes, position, position)
def test_shifted(box: Box, dx: int, dy: int) -> None:
    moved = box.shifted(dx, dy)
    assert (moved.width, moved.height) == (box.width, box.height)
    assert moved.shifted(-dx, -dy) == box
    assert (moved.x0 - box.x0, moved.y0 - box.y0) == (dx, dy)


def test_scales() -> None:
    assert Scale(0.5, 0.6) / Scale(0.25, 0.2) == Scale(2, 0.6 / 0.2)
    assert Scale(2, 3) * Scale(4, 5) == Scale(8, 15)
    assert Box(0, 0, 0, 5).empty and Box(0, 0, 5, -1).empty and not Box(0, 0, 1, 1).empty


@given(st.integers(-99, 99), st.integers(1, 99), st.integers(1, 40))
def test_aligned_boxes_are_the_smallest_that_cover(x: int, width: int, step: int) -> None:
    wide = Box(x, 0, x + width, 1).aligned(step)
    assert wide.x0 % step == wide.x1 % step == 0
    assert wide.x0 <= x < wide.x0 + step and wide.x1 - step < x + width <= wide.x1
