"""Tracing: masks come back exactly, blocks leave no trace, regions are measured right."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import zarr
from contourpy import contour_generator
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.rasterize import fill_edges, polygon_edges
from wsi_seg.core.classes import BCSS, BCSS_GROUPS, ClassGroup, TissueClass
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Box
from wsi_seg.maps.fields import ChannelSum
from wsi_seg.regions.contours import FLOAT_GAP, RingLimits, trace_contours
from wsi_seg.regions.polygons import Region, TraceSettings, simplify_together, trace

TUMOR, STROMA = BCSS_GROUPS[:2]
EVERYTHING = TraceSettings(min_area_um2=0, min_hole_um2=0, tolerance_um=0)


@dataclass(frozen=True)
class ArrayMaps:
    """Maps in memory."""

    labels: Any
    probabilities: Any
    probability_downsample: int = 1
    mpp: float = 0.5
    classes: tuple[TissueClass, ...] = BCSS
    uncertainty: ChannelSum | None = None

    @property
    def channels(self) -> tuple[ClassGroup, ...]:
        return tuple(c.alone for c in self.classes)


def maps_of(labels: NDArray[Any], ds: int = 1, dtype: Any = np.uint8, mpp: float = 0.5) -> ArrayMaps:
    """Return maps in which a probability is the share of a class among the labels below it."""
    height, width = labels.shape
    rows, columns = -(-height // ds), -(-width // ds)
    padded = np.zeros((rows * ds, columns * ds), np.uint8)
    padded[:height, :width] = labels
    tiles = padded.reshape(rows, ds, columns, ds)
    shares = np.stack([(tiles == c.code).mean((1, 3)) for c in BCSS])
    full = 255 if dtype == np.uint8 else 1
    values = np.rint(shares * full) if dtype == np.uint8 else shares
    return ArrayMaps(labels.astype(np.uint8), values.astype(dtype), ds, mpp)


def smooth_noise(seed: int, shape: tuple[int, int], sigma: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).random(shape)
    smooth = ndimage.gaussian_filter(noise, sigma) if sigma else noise
    low, high = smooth.min(), smooth.max()
    return np.rint(255 * (smooth - low) / max(high - low, 1e-9)).astype(np.uint8)


@st.composite
def fields(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Noise and blobs: holes, islands, touching corners, all of it on the border too."""
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    return smooth_noise(draw(st.integers(0, 2**32 - 1)), shape, draw(st.sampled_from([0, 0, 0.7, 2.0, 5.0])))


def fill(polygons: list[Polygon], shape: tuple[int, ...]) -> NDArray[np.int32]:
    edges = polygon_edges(polygons, np.arange(1, len(polygons) + 1))
    return fill_edges(edges, Box(0, 0, shape[1], shape[0]))


def canonical(polygons: list[Polygon]) -> list[bytes]:
    return sorted(shapely.to_wkb(shapely.normalize(np.asarray(polygons, dtype=object))))


# --- contours ---------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(fields(), st.integers(1, 255), st.integers(1, 45))
def test_contours_give_the_mask_back_whatever_the_block(
    field: NDArray[np.uint8], threshold: int, block: int
) -> None:
    mask = field >= threshold
    for values, level in ((field, threshold), (field / 255, threshold / 255), (mask.astype(np.uint8), 1)):
        whole = trace_contours(values, level, block=64)
        assert canonical(trace_contours(values, level, block=block)) == canonical(whole)
        assert all(polygon.is_valid for polygon in whole)
        ids = fill(whole, field.shape)
        np.testing.assert_array_equal(ids > 0, mask)
        assert ids.max() <= len(whole)  # ids add up where polygons overlap
        assert {*np.unique(ids)} - {0} == {*range(1, len(whole) + 1)}


@settings(max_examples=60, deadline=None)
@given(fields(), st.integers(1, 255))
def test_polygons_neither_overlap_nor_touch(field: NDArray[np.uint8], threshold: int) -> None:
    polygons = trace_contours(field, threshold)
    together = MultiPolygon(polygons)
    assert together.is_valid
    assert shapely.union_all(polygons).area == pytest.approx(together.area)
    assert len(shapely.get_parts(shapely.union_all(polygons))) == len(polygons)


def test_contours_interpolate_between_pixel_centers() -> None:
    field = np.tile(np.array([0, 0, 100, 200, 200], np.uint8), (6, 1))
    (polygon,) = trace_contours(field, 151)  # crosses 150.5, half a step below
    assert polygon.bounds == pytest.approx((2.5 + 50.5 / 100, 0, 5, 6))
    (polygon,) = trace_contours(field / 255, 0.6)
    assert polygon.bounds == pytest.approx((2.5 + 53 / 100, 0, 5, 6))


def test_nan_counts_as_outside() -> None:
    field = np.where(ring_with_island() > 0, 0.9, np.nan)
    polygons = trace_contours(field, 0.5, block=16)
    assert all(polygon.is_valid for polygon in polygons)
    np.testing.assert_array_equal(fill(polygons, field.shape) > 0, field > 0)


def test_a_full_field_reaches_its_edges() -> None:
    (polygon,) = trace_contours(np.full((30, 20), 255, np.uint8), 128, block=7)
    assert polygon.bounds == (0, 0, 20, 30)
    assert polygon.area == pytest.approx(600, abs=0.51)  # an eighth of a pixel is cut off each corner


def test_the_last_pixels_may_be_partly_inside() -> None:
    field = np.ones((3, 4), np.uint8)
    (polygon,) = trace_contours(field, 1, extent=(3.25, 2.5))
    assert polygon.bounds == (0, 0, 3.25, 2.5) and polygon.is_valid
    with pytest.raises(ValueError, match="extent"):
        trace_contours(field, 1, extent=(2.9, 3))


def ring_with_island(noise_px: int = 1) -> NDArray[np.uint8]:
    """Return a 60² ring (side 48) with a 24² hole, in it an 8² island with a pinhole."""
    mask = np.zeros((60, 60), np.uint8)
    mask[6:54, 6:54] = 1
    mask[18:42, 18:42] = 0
    mask[26:34, 26:34] = 1
    mask[29 : 29 + noise_px, 29 : 29 + noise_px] = 0
    return mask


def test_holes_and_islands_keep_their_area() -> None:
    outer, island = sorted(trace_contours(ring_with_island(), 1, block=16), key=lambda p: -p.area)
    assert len(outer.interiors) == len(island.interiors) == 1
    assert outer.area == pytest.approx(48**2 - 24**2)  # corners cut outside equal corners cut inside
    assert island.area == pytest.approx(8**2 - 1, abs=0.51)


@pytest.mark.parametrize("block", [8, 64])
@pytest.mark.parametrize(
    ("limits", "areas_and_holes"),
    [
        (RingLimits(), [(1728, 1), (63, 1)]),
        (RingLimits(hole=2), [(1728, 1), (63.5, 0)]),  # the pinhole is filled
        (RingLimits(outer=100), [(1728, 1)]),  # the island goes, and its pinhole is no hole in a hole
        (RingLimits(hole=1000), [(2303.5, 0)]),  # the hole is filled, and the island with it
        (RingLimits(outer=3000), []),
    ],
)
def test_small_rings_are_left_out(
    block: int, limits: RingLimits, areas_and_holes: list[tuple[float, int]]
) -> None:
    polygons = sorted(
        trace_contours(ring_with_island(), 1, block=block, limits=limits), key=lambda p: -p.area
    )
    assert [len(p.interiors) for p in polygons] == [holes for _, holes in areas_and_holes]
    assert [p.area for p in polygons] == pytest.approx([area for area, _ in areas_and_holes], abs=0.51)
    assert all(p.is_valid for p in polygons)


class CountingField:
    """A field that counts how often each pixel is read, and the largest read."""

    def __init__(self, values: NDArray[Any]) -> None:
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.reads = np.zeros(values.shape, int)
        self.largest = 0

    def __getitem__(self, key: tuple[slice, slice], /) -> NDArray[Any]:
        self.reads[key] += 1
        self.largest = max(self.largest, self.values[key].size)
        return self.values[key]


def test_every_pixel_is_read_once_block_by_block() -> None:
    field = CountingField(smooth_noise(1, (70, 100), 3))
    trace_contours(field, 128, block=32)
    assert (field.reads == 1).all() and field.largest == 32 * 32


def test_nothing_to_trace() -> None:
    assert trace_contours(np.zeros((5, 5), np.uint8), 1) == []
    assert trace_contours(np.full((5, 5), np.nan), 0.5) == []
    with pytest.raises(ValueError, match="threshold"):
        trace_contours(np.zeros((5, 5)), 0)


@pytest.mark.parametrize("blur", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_contours_are_those_of_contourpy(kind: Any, blur: float) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(8).random((90, 120)), blur)
    field = np.pad((noise - noise.min()) / np.ptp(noise), 1)
    level = float(np.median(field))
    if kind == np.uint8:
        field, level = field * 255, np.floor(level * 255) + 0.5  # half a step below a whole number
    field = field.astype(kind)
    field[abs(field - level) <= FLOAT_GAP] = 0  # where floats would be moved away from the level
    x, y = np.arange(field.shape[1]) + 0.5, np.arange(field.shape[0]) + 0.5
    generator = contour_generator(x, y, field, fill_type="OuterOffset")
    expected = [
        Polygon(points[first:last], [points[a:b] for a, b in pairwise(holes)])
        for points, (first, last, *more) in zip(*generator.filled(level, np.inf), strict=True)
        for holes in [(last, *more)]
    ]
    found = trace_contours(field, level, block=32)
    assert len(found) == len(expected) > 3
    assert sorted(len(p.interiors) for p in found) == sorted(len(p.interiors) for p in expected)
    areas = (np.sort(shapely.area(polygons)) for polygons in (found, expected))
    np.testing.assert_allclose(*areas, rtol=1e-9)


def test_real_masks_come_back_exactly(data_dir: Path) -> None:
    path = min(data_dir.glob("bcss_masks/**/*.png"), key=lambda p: p.stat().st_size)
    labels = np.asarray(Image.open(path))
    for code in np.unique(labels[labels > 0]):
        mask = (labels == code).astype(np.uint8)
        polygons = trace_contours(mask, 1, block=700)
        np.testing.assert_array_equal(fill(polygons, mask.shape) > 0, mask > 0)
        assert canonical(polygons) == canonical(trace_contours(mask, 1, block=10_000))


# --- regions ----------------------------------------------------------------------------------------------


def label_blobs(seed: int, shape: tuple[int, int], sigma: float = 4) -> NDArray[np.uint8]:
    """Labels 0 … 4 in blobs; 1, 2 and 4 most."""
    noise = smooth_noise(seed, shape, sigma)
    return np.choose(noise // 52, [1, 2, 4, 3, 0]).astype(np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ds=st.sampled_from([1, 2, 4]),
    threshold=st.sampled_from([0.3, 0.5, 0.6, 1.0]),
)
def test_regions_equal_the_group_probability_mask(dtype: Any, seed: int, ds: int, threshold: float) -> None:
    labels = label_blobs(seed, (41, 53))
    maps = maps_of(labels, ds, dtype)
    group = ClassGroup("both", (1, 3), (1, 2, 3))
    total = maps.probabilities[[0, 2]].sum(0, dtype=np.uint16 if dtype == np.uint8 else np.float32)
    regions = trace(maps, [group], TraceSettings(threshold, 0, 0, 0))
    coarse = [shapely.transform(r.polygon, lambda xy: xy / ds) for r in regions]
    # Pixels that are only partly on the map have their center elsewhere.
    rows, columns = labels.shape[0] // ds, labels.shape[1] // ds
    mask = total / (255 if dtype == np.uint8 else 1) >= threshold - 1e-7
    np.testing.assert_array_equal((fill(coarse, total.shape) > 0)[:rows, :columns], mask[:rows, :columns])
    for region in regions:
        assert region.polygon.within(shapely.box(0, 0, labels.shape[1], labels.shape[0]).buffer(1e-9))


def test_regions_of_labels_equal_the_labels() -> None:
    labels = label_blobs(3, (80, 90))
    regions = trace(maps_of(labels, 4), [TUMOR], TraceSettings(0.5, 0, 0, 0, "labels"))
    np.testing.assert_array_equal(fill([r.polygon for r in regions], labels.shape) > 0, labels == 1)


def inside(polygon: Polygon, shape: tuple[int, ...], ds: int = 1) -> NDArray[np.bool_]:
    y, x = (np.mgrid[: shape[0], : shape[1]] + 0.5) * ds
    # A hair to the right and down, so that centers on a left or upper edge count and others do not.
    return shapely.contains_xy(polygon, x + 1e-7, y + 1e-10)


@pytest.mark.parametrize("source", ["probabilities", "labels"])
def test_measurements_equal_brute_force(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LABEL_BLOCK", "PROBABILITY_BLOCK"):  # several blocks
        monkeypatch.setattr(f"wsi_seg.regions.measurements.{name}", 32)
    labels = label_blobs(5, (110, 90))
    labels[40:80, 20:70] = ring_with_island()[10:50, 5:55] + 1  # with a hole
    maps = maps_of(labels, ds=2, mpp=0.7)
    names = {c.code: c.name for c in BCSS}
    regions = trace(maps, [TUMOR, STROMA], TraceSettings(0.4, 15, 15, 0.5, source))
    assert len(regions) > 4 and any(r.polygon.interiors for r in regions)
    for region in regions:
        polygon = region.polygon
        assert region.area_um2 == pytest.approx(polygon.area * 0.49)
        assert region.perimeter_um == pytest.approx(polygon.length * 0.7)
        codes = labels[inside(polygon, labels.shape)]
        analyzed = codes[codes > 0]
        expected = {names[c]: (analyzed == c).mean() for c in np.unique(analyzed).tolist()}
        assert region.shares == pytest.approx(expected)
        channels = [c - 1 for c in region.group.codes]
        total = maps.probabilities[channels].sum(0, dtype=int) / 255
        mean = total[inside(polygon, total.shape, ds=2)].mean()
        assert region.mean_probability == pytest.approx(mean)
        assert region.mean_uncertainty is None


def with_uncertainty(maps: ArrayMaps) -> ArrayMaps:
    """Return the maps with one more channel of noise, the uncertainty."""
    noise = np.random.default_rng(1).integers(0, 256, (1, *maps.probabilities.shape[1:]), np.uint8)
    values = np.concatenate([maps.probabilities, noise])
    field = ChannelSum(values, (len(BCSS),), maps.probability_downsample)
    return replace(maps, probabilities=values, uncertainty=field)


@pytest.mark.parametrize("source", ["probabilities", "labels"])
def test_uncertainty_is_measured_and_changes_nothing_else(
    source: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LABEL_BLOCK", "PROBABILITY_BLOCK"):  # several blocks
        monkeypatch.setattr(f"wsi_seg.regions.measurements.{name}", 32)
    plain = maps_of(label_blobs(5, (110, 90)), ds=2)
    maps, settings = with_uncertainty(plain), TraceSettings(0.4, 15, 15, 0.5, source)
    regions = trace(maps, BCSS_GROUPS, settings)
    assert len(regions) > 4
    for region in regions:
        where = inside(region.polygon, maps.probabilities.shape[1:], ds=2)
        assert region.mean_uncertainty == pytest.approx(maps.probabilities[-1][where].mean() / 255)
    assert [replace(r, mean_uncertainty=None) for r in regions] == trace(plain, BCSS_GROUPS, settings)


def test_a_region_without_any_pixel_center_is_measured_where_it_lies() -> None:
    labels = np.zeros((16, 16), np.uint8)
    labels[5, 6] = 3
    maps = maps_of(labels, ds=8)
    maps.probabilities[2, 0, 0] = 51
    (region,) = trace(maps, [ClassGroup("three", (3,), (0, 0, 0))], TraceSettings(0.5, 0, 0, 0, "labels"))
    assert region.mean_probability == pytest.approx(0.2)
    assert region.shares == {"lymphocytic_infiltrate": 1.0}
    more = with_uncertainty(maps)
    (region,) = trace(more, [ClassGroup("three", (3,), (0, 0, 0))], TraceSettings(0.5, 0, 0, 0, "labels"))
    assert region.mean_uncertainty == pytest.approx(more.probabilities[-1, 0, 0] / 255)


def test_not_analyzed_ground_has_no_share() -> None:
    maps = maps_of(np.ones((20, 20), np.uint8))
    maps.labels[:] = 0
    (region,) = trace(maps, [TUMOR], EVERYTHING)
    assert region.shares == {} and region.mean_probability == 1.0
    maps.labels[:5] = 1
    maps.labels[5:10, :10] = 2  # half as much
    (region,) = trace(maps, [TUMOR], EVERYTHING)
    assert region.shares == pytest.approx({"tumor": 2 / 3, "stroma": 1 / 3}, abs=0.01)


def test_small_regions_and_holes_in_um2() -> None:
    labels = np.where(ring_with_island(4) > 0, 1, 2).astype(np.uint8)  # areas 1728, 64 and 16 px²
    maps = maps_of(labels, mpp=0.5)  # 432, 16 and 4 µm²

    def found(area: float, hole: float) -> list[tuple[float, int]]:
        regions = trace(maps, [TUMOR], TraceSettings(0.5, area, hole, 0))
        return [(round(r.area_um2), len(r.polygon.interiors)) for r in regions]

    assert found(0, 0) == [(432, 1), (12, 1)]
    assert found(11, 0) == [(432, 1), (12, 1)]
    assert found(12.5, 0) == [(432, 1)]  # the island's ring is large enough, what is left of it is not
    assert found(0, 5) == [(432, 1), (16, 0)]
    assert found(0, 200) == [(576, 0)]


def test_defaults_leave_specks_out() -> None:
    noise = (np.random.default_rng(0).random((200, 200)) < 0.2).astype(np.uint8)
    assert trace(maps_of(noise), [TUMOR]) == []


def test_simplified_outlines_stay_within_the_tolerance() -> None:
    maps = maps_of(label_blobs(7, (200, 220), 6))

    def polygons(tolerance: float) -> list[Polygon]:
        return [r.polygon for r in trace(maps, [TUMOR], TraceSettings(0.5, 0, 0, tolerance))]

    exact, simple = polygons(0), polygons(1.0)
    assert len(exact) == len(simple)
    assert shapely.get_num_coordinates(simple).sum() < 0.4 * shapely.get_num_coordinates(exact).sum()
    for a, b in zip(exact, simple, strict=True):
        assert b.is_valid and len(a.interiors) == len(b.interiors)
        assert shapely.hausdorff_distance(a.boundary, b.boundary, densify=0.1) <= 2.0 * 1.001  # 1 µm
    assert MultiPolygon(list(simple)).is_valid


@settings(max_examples=40, deadline=None)
@given(fields(), st.integers(1, 255), st.floats(0.1, 30))
def test_simplified_regions_stay_valid_and_apart(
    field: NDArray[np.uint8], threshold: int, tolerance: float
) -> None:
    polygons = np.array(trace_contours(field, threshold), dtype=object)
    simple = simplify_together(polygons, tolerance)
    assert len(simple) == len(polygons) and MultiPolygon(list(simple)).is_valid


def test_an_invalid_simplification_is_tried_again_with_less(monkeypatch: pytest.MonkeyPatch) -> None:
    polygons = np.array([shapely.Point(0, 0).buffer(10), shapely.Point(25, 0).buffer(10)], dtype=object)
    simplify, tried = shapely.simplify, []

    def failing(geometry: MultiPolygon, tolerance: float, **options: Any) -> MultiPolygon:
        tried.append(tolerance)
        overlapping = MultiPolygon([polygons[0], polygons[0]])
        return overlapping if tolerance > worst else simplify(geometry, tolerance, **options)

    monkeypatch.setattr(shapely, "simplify", failing)
    worst = 1.0
    assert MultiPolygon(list(simplify_together(polygons, 4.0))).is_valid and tried == [4, 2, 1]
    worst = 0.0
    assert list(simplify_together(polygons, 4.0)) == list(polygons)


def test_regions_come_in_the_same_order_from_arrays_and_zarr() -> None:
    maps = maps_of(label_blobs(11, (150, 130)), 2)
    stored = ArrayMaps(
        zarr.array(maps.labels, chunks=(64, 64)), zarr.array(maps.probabilities, chunks=(1, 32, 32)), 2
    )
    expected = trace(maps, BCSS_GROUPS[:4], EVERYTHING)
    assert trace(stored, BCSS_GROUPS[:4], EVERYTHING) == expected
    for group in BCSS_GROUPS[:4]:
        tops = [(r.polygon.bounds[1], r.polygon.bounds[0]) for r in expected if r.group == group]
        assert tops == sorted(tops) and tops
    assert [r.group for r in expected] == sorted((r.group for r in expected), key=BCSS_GROUPS.index)


def test_a_group_twice_is_traced_once() -> None:
    maps = maps_of(np.ones((50, 50), np.uint8), mpp=1)
    assert len(trace(maps, [TUMOR, TUMOR])) == 1


def test_sums_of_channels_do_not_overflow() -> None:
    maps = maps_of(np.ones((50, 50), np.uint8), mpp=1)
    maps.probabilities[18] = 200  # angioinvasion, of the tumor group: 255 + 200 in all
    regions: list[Region] = trace(maps, [TUMOR])
    assert [r.mean_probability for r in regions] == [1.0]


def test_a_group_that_the_maps_do_not_have() -> None:
    maps = ArrayMaps(np.zeros((4, 4), np.uint8), np.zeros((2, 4, 4), np.uint8), classes=BCSS[:2])
    with pytest.raises(UsageError, match=r"'necrosis'.*tumor, stroma"):
        trace(maps, [TUMOR, BCSS_GROUPS[3]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0},
        {"threshold": 1.01},
        {"threshold": float("nan")},
        {"min_area_um2": -1},
        {"min_hole_um2": float("inf")},
        {"tolerance_um": -0.1},
        {"source": "pixels"},
    ],
)
def test_settings_name_the_wrong_value(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        TraceSettings(**wrong)
