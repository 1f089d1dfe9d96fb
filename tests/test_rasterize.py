"""Rasterizing against the pixel-by-pixel answer of GEOS."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.rasterize import fill_edges, polygon_edges
from wsi_seg.core.geometry import Box

# Corners whose edges never meet a pixel center, where GEOS and the half-open rule may differ.
X = st.integers(-40, 240).map(lambda i: i / 10 + math.pi / 100)
Y = st.integers(-40, 240).map(lambda i: i / 10 + math.e / 100)


def oracle(polygon: Polygon | MultiPolygon, box: Box) -> np.ndarray:
    y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1] + 0.5
    return shapely.contains_xy(polygon, x, y)


def mask_of(shapes: list[Polygon | MultiPolygon], box: Box) -> np.ndarray:
    """Return the pixels whose center lies in any of the shapes."""
    return fill_edges(polygon_edges(shapes, np.ones(len(shapes), int)), box) > 0


@st.composite
def shapes(draw: st.DrawFn) -> Polygon | MultiPolygon:
    """Any polygon, often in several parts and with holes."""
    points = draw(st.lists(st.tuples(X, Y), min_size=3, max_size=12, unique=True))
    solid = shapely.make_valid(Polygon(points), method="structure", keep_collapsed=False)
    x, y = draw(X), draw(Y)
    return solid.difference(shapely.box(x, y, x + 4.1, y + 3.3))


BOXES = st.builds(Box.at, st.integers(-6, 8), st.integers(-6, 8), st.integers(1, 24), st.integers(1, 24))


@settings(max_examples=150, deadline=None)
@given(shapes(), BOXES)
def test_equals_pixel_by_pixel(shape: Polygon | MultiPolygon, box: Box) -> None:
    mask = mask_of([shape], box)
    assert mask.shape == (box.height, box.width)
    np.testing.assert_array_equal(mask, oracle(shape, box))


@settings(max_examples=100, deadline=None)
@given(st.lists(shapes(), min_size=1, max_size=4), BOXES)
def test_overlapping_polygons_make_one_mask(several: list[Polygon | MultiPolygon], box: Box) -> None:
    expected = np.any([oracle(shape, box) for shape in several], axis=0)
    np.testing.assert_array_equal(mask_of(several, box), expected)


def test_ids_of_a_polygon_in_the_hole_of_another() -> None:
    center = shapely.Point(30, 20)
    ring, island = center.buffer(15).difference(center.buffer(9)), center.buffer(5)
    box = Box(8, -3, 50, 41)
    ids = fill_edges(polygon_edges([ring, island], [900, 7]), box)
    np.testing.assert_array_equal(ids, 900 * oracle(ring, box) + 7 * oracle(island, box))
    assert {*np.unique(ids)} == {0, 7, 900}


@pytest.mark.parametrize("exterior_cw", [False, True])
def test_direction_of_rings_does_not_matter(exterior_cw: bool) -> None:
    ring = shapely.Point(10, 10).buffer(8).difference(shapely.Point(10, 10).buffer(4))
    turned = shapely.orient_polygons(ring, exterior_cw=exterior_cw)
    np.testing.assert_array_equal(mask_of([turned], Box(0, 0, 20, 20)), oracle(ring, Box(0, 0, 20, 20)))


def test_neighbors_share_no_pixel_and_leave_none_out() -> None:
    # All borders run through pixel centers.
    xs = [0.5, 2.5, 3.5, 9.5]
    cells = [shapely.box(a, c, b, d) for a, b in pairwise(xs) for c, d in pairwise(xs)]
    triangles = [
        Polygon([(9.5, 0.5), (20.5, 0.5), (9.5, 9.5)]),
        Polygon([(20.5, 0.5), (20.5, 9.5), (9.5, 9.5)]),
    ]
    polygons = [*cells, *triangles]
    total = sum(mask_of([polygon], Box(0, 0, 24, 12)).astype(int) for polygon in polygons)
    expected = np.zeros((12, 24), int)
    expected[:9, :20] = 1  # centers 0.5 … 8.5 and 0.5 … 19.5: left and upper edge in, right and lower out
    np.testing.assert_array_equal(total, expected)


def test_a_part_of_a_raster_equals_the_raster() -> None:
    polygon = shapely.Point(40.2, 33.3).buffer(25.5).difference(shapely.box(30, 30, 47, 36))
    edges = polygon_edges([polygon], [5])
    whole = Box(0, 0, 80, 70)
    expected = fill_edges(edges, whole)
    for part in (Box(0, 0, 40, 70), Box(40, 10, 41, 60), Box(64, 0, 80, 70), Box(33, 31, 45, 35)):
        np.testing.assert_array_equal(fill_edges(edges, part), expected[part.within(whole)])


def test_shrunk_edges_fill_the_coarser_frame() -> None:
    polygon = shapely.Point(41, 37).buffer(30)
    coarse = shapely.transform(polygon, lambda xy: xy / 4)
    np.testing.assert_array_equal(
        fill_edges(polygon_edges([polygon], [1]).shrunk(4), Box(0, 0, 20, 20)) > 0,
        oracle(coarse, Box(0, 0, 20, 20)),
    )


def test_nothing_to_fill() -> None:
    assert not mask_of([], Box(0, 0, 3, 2)).any()
    assert not mask_of([shapely.box(5, 5, 9, 9)], Box(0, 0, 3, 2)).any()
    assert mask_of([shapely.box(0, 0, 9, 9)], Box(3, 3, 3, 5)).shape == (2, 0)
