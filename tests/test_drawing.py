"""Painting polygons into targets, against a pixel-by-pixel oracle."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.drawing import Drawing
from wsi_seg.annotations.rasterize import fill_edges, polygon_edges
from wsi_seg.core.geometry import Box

# Positions that never fall on a pixel center, where GEOS and the half-open rule differ.
OFF_CENTER = st.integers(-40, 240).map(lambda i: i / 10 + 0.013)
BOXES = st.builds(Box.at, st.integers(-6, 8), st.integers(-6, 8), st.integers(1, 24), st.integers(1, 24))


@st.composite
def shapes(draw: st.DrawFn) -> Polygon | MultiPolygon:
    points = draw(st.lists(st.tuples(OFF_CENTER, OFF_CENTER), min_size=3, max_size=8, unique=True))
    solid = shapely.make_valid(Polygon(points), method="structure", keep_collapsed=False)
    x, y = draw(OFF_CENTER), draw(OFF_CENTER)
    return solid.difference(shapely.box(x, y, x + 4.1, y + 3.3))


def oracle(polygons: list[Polygon | MultiPolygon], values: list[int], box: Box, ground: int) -> np.ndarray:
    """Ask for each pixel which is the smallest polygon that holds its center."""
    out = np.full((box.height, box.width), ground)
    y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1] + 0.5
    smallest = np.full(out.shape, np.inf)
    for polygon, value in zip(polygons, values, strict=True):
        wins = shapely.contains_xy(polygon, x, y) & (polygon.area <= smallest)
        out[wins], smallest[wins] = value, polygon.area
    return out


def clear_of_edges(polygons: list[Polygon | MultiPolygon], box: Box) -> np.ndarray:
    """Tell for each pixel whether its center lies on no edge, where rounding decides on which side it is."""
    y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1] + 0.5
    edges = [shapely.distance(polygon.boundary, shapely.points(x, y)) for polygon in polygons]
    return np.all([distance > 1e-9 for distance in [np.ones(x.shape), *edges]], axis=0)


@settings(max_examples=150, deadline=None)
@given(st.lists(shapes(), max_size=5), BOXES, st.integers(1, 5), st.integers(-1, 3))
def test_painting_equals_pixel_by_pixel(
    polygons: list[Polygon | MultiPolygon], box: Box, step: int, ground: int
) -> None:
    values = list(range(10, 10 + len(polygons)))
    painted = Drawing.of(polygons, values).paint(box, step, ground=ground)
    assert painted.dtype == np.int16
    inner = (slice(step // 2, None, step),) * 2
    expected, clear = oracle(polygons, values, box, ground)[inner], clear_of_edges(polygons, box)[inner]
    np.testing.assert_array_equal(painted[clear], expected[clear])


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=3, max_size=8, unique=True),
    BOXES,
    st.integers(1, 7),
)
def test_filling_in_steps_equals_filling_all(points: list[tuple[int, int]], box: Box, step: int) -> None:
    # Half pixels: edges that run through pixel centers must fall on the same side.
    polygon = shapely.make_valid(Polygon(np.array(points) / 2), method="structure", keep_collapsed=False)
    edges = polygon_edges([polygon], [3])
    whole = fill_edges(edges, box)
    np.testing.assert_array_equal(fill_edges(edges, box, step), whole[step // 2 :: step, step // 2 :: step])


def test_of_equal_polygons_the_later_wins() -> None:
    square = shapely.box(2, 1, 6, 4)
    drawing = Drawing.of([square, square.buffer(2), square], [1, 2, 3])
    assert (drawing.paint(Box(2, 1, 6, 4), ground=0) == 3).all()
