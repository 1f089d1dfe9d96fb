from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.made.memory_slides import ArraySlide
from tests.made.pyramids import area_mean, make_landmark_slide, write_pyramid
from wsi_seg.core.errors import MppMissingError, SlideError, UsageError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.slides import slide as slide_module
from wsi_seg.slides.mpp import resolve_mpp
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import (
    Level,
    MapFrame,
    Slide,
    SlideInfo,
    default_name,
    level_downsample,
    map_frame,
    pick_level,
    read_region,
    read_thumbnail,
    require_mpp,
    source_box,
    upsampling,
)

quick = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# Slide mpp on x and y, and the mpp that is asked for.
RESOLUTIONS = [
    (Scale(0.2528, 0.2528), 0.5),
    (Scale(0.499, 0.499), 0.5),
    (Scale(0.25, 0.25), 0.5),
    (Scale(0.23, 0.23), 0.7),
    (Scale(0.25, 0.26), 0.5),
    (Scale(0.5, 0.5), 0.25),
    (Scale(0.2528, 0.2528), 2.0),
]
SIZE = Size(1211, 907)  # which no level divides
MARK = 24


def corners(size: Size) -> list[tuple[int, int]]:
    """Top left corners of marks: near the origin, in the middle, and at the right and bottom edges."""
    right, bottom = size.width - MARK - 9, size.height - MARK - 9
    return [(13, 11), (right, 17), (19, bottom), (right, bottom), (601, 470), (right, 470), (800, bottom)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("landmarks")


@cache
def landmark_slide(folder: Path, mpp: Scale, factors: tuple[int, ...]) -> Path:
    marks = [Box.at(x, y, MARK, MARK) for x, y in corners(SIZE)]
    name = f"{mpp.x:g}-{mpp.y:g}-{len(factors)}.tiff"
    return make_landmark_slide(folder / name, SIZE, mpp, marks, factors)


def center_of_darkness(pixels: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the x and y of the dark mark's center of mass in pixels of the array."""
    weight = 255.0 - pixels.mean(axis=2)
    assert weight.sum() > 0, "no mark in this region"
    y, x = np.indices(weight.shape) + 0.5
    return float((x * weight).sum() / weight.sum()), float((y * weight).sum() / weight.sum())


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
@pytest.mark.parametrize("factors", [(1,), (1, 2, 4), (1, 4)])
@pytest.mark.parametrize(("mpp", "asked"), RESOLUTIONS)
def test_landmarks_come_out_where_the_frame_says(
    reader: str, factors: tuple[int, ...], mpp: Scale, asked: float, folder: Path
) -> None:
    with open_slide(landmark_slide(folder, mpp, factors), reader=reader) as slide:
        frame = map_frame(slide.info, asked)
        for x, y in corners(SIZE):
            expected_x = (x + MARK / 2) / (asked / mpp.x)
            expected_y = (y + MARK / 2) / (asked / mpp.y)
            half = math.ceil(MARK / min(frame.l0_per_map.x, frame.l0_per_map.y))
            # Off the middle and not aligned to anything.
            box = Box.at(
                math.floor(expected_x) - half - 1, math.floor(expected_y) - half + 2, 2 * half, 2 * half
            )
            found_x, found_y = center_of_darkness(read_region(slide, frame, box))
            assert box.x0 + found_x == pytest.approx(expected_x, abs=0.25)
            assert box.y0 + found_y == pytest.approx(expected_y, abs=0.25)


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
@quick
@given(mpp_x=st.floats(0.1, 1), ratio=st.floats(0.9, 1.1), asked=st.floats(0.2, 3))
def test_landmarks_at_any_scale(reader: str, mpp_x: float, ratio: float, asked: float, folder: Path) -> None:
    path = landmark_slide(folder, Scale(0.25, 0.25), (1, 2, 4))
    mpp = Scale(mpp_x, mpp_x * ratio)
    with open_slide(path, reader=reader, mpp=mpp) as slide:
        frame = map_frame(slide.info, asked)
        x, y = corners(SIZE)[3]
        expected_x, expected_y = (x + MARK / 2) * mpp.x / asked, (y + MARK / 2) * mpp.y / asked
        half = math.ceil(MARK / min(frame.l0_per_map.x, frame.l0_per_map.y))
        box = Box.at(math.floor(expected_x) - half, math.floor(expected_y) - half, 2 * half + 1, 2 * half + 1)
        found_x, found_y = center_of_darkness(read_region(slide, frame, box))
        assert box.x0 + found_x == pytest.approx(expected_x, abs=0.5)
        assert box.y0 + found_y == pytest.approx(expected_y, abs=0.5)


# --- same bytes -----------------------------------------------------------------------------------


@cache
def noise_slide(folder: Path) -> Path:
    rng = np.random.default_rng(4)
    pixels = rng.integers(0, 255, (SIZE.height, SIZE.width, 3), dtype=np.uint8)
    return write_pyramid(folder / "noise.tiff", pixels, Scale(0.25, 0.25))


@cache
def whole_map(path: Path, reader: str, mpp: Scale, asked: float) -> tuple[NDArray[np.uint8], Box]:
    with open_slide(path, reader=reader, mpp=mpp) as slide:
        frame = map_frame(slide.info, asked)
        box = frame.box.grown(40)
        return read_region(slide, frame, box), box


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
@pytest.mark.parametrize(("mpp", "asked"), RESOLUTIONS)
@quick
@given(data=st.data())
def test_a_map_pixel_has_the_same_bytes_whatever_the_box(
    reader: str, mpp: Scale, asked: float, folder: Path, data: st.DataObject
) -> None:
    path = noise_slide(folder)
    whole, whole_box = whole_map(path, reader, mpp, asked)
    x = data.draw(st.integers(whole_box.x0, whole_box.x1 - 1))
    y = data.draw(st.integers(whole_box.y0, whole_box.y1 - 1))
    width, height = data.draw(st.integers(1, 200)), data.draw(st.integers(1, 200))
    box = Box.at(x, y, width, height).intersect(whole_box)
    with open_slide(path, reader=reader, mpp=mpp) as slide:
        pixels = read_region(slide, map_frame(slide.info, asked), box)
    assert np.array_equal(pixels, whole[box.within(whole_box)])


# --- resampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize("mpp", [0.25, 0.25 * (1 + 5e-8)])
def test_whole_factors_are_the_exact_area_mean(factor: int, mpp: float) -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (12 * 70, 12 * 60, 3), dtype=np.uint8)
    slide = ArraySlide(pixels, mpp)
    frame = map_frame(slide.info, 0.25 * factor)
    found, expected = read_region(slide, frame, frame.box), area_mean(pixels, factor)
    assert found.shape == expected.shape
    # Pillow divides by multiplying, which is exact for powers of two.
    assert np.abs(found.astype(int) - expected).max() <= (1 if factor == 3 else 0)


def test_a_whole_factor_on_each_axis() -> None:
    pixels = np.random.default_rng(5).integers(0, 256, (300, 800, 3), dtype=np.uint8)
    slide = ArraySlide(pixels, Scale(0.25, 0.5))
    frame = map_frame(slide.info, 1.0)
    mean = np.floor(pixels.reshape(150, 2, 200, 4, 3).mean(axis=(1, 3)) + 0.5).astype(np.uint8)
    assert np.array_equal(read_region(slide, frame, frame.box), mean)
    part = Box(30, 70, 90, 100)
    assert np.array_equal(read_region(slide, frame, part), mean[part.within(frame.box)])


def test_equal_resolution_is_copied() -> None:
    pixels = np.random.default_rng(6).integers(0, 256, (90, 80, 3), dtype=np.uint8)
    slide = ArraySlide(pixels, 0.5)
    frame = map_frame(slide.info, 0.5)
    box = Box(3, 4, 200, 300)
    assert np.array_equal(read_region(slide, frame, box)[:86, :77], pixels[4:, 3:])


@quick
@given(mpp_x=st.floats(0.2, 0.6), mpp_y=st.floats(0.2, 0.6), asked=st.floats(0.4, 2))
def test_a_ramp_stays_a_ramp(mpp_x: float, mpp_y: float, asked: float) -> None:
    """A linear picture resampled is the same line at the pixel centers; any shift would show."""
    x, y = np.meshgrid(np.arange(500) + 0.5, np.arange(400) + 0.5)
    pixels = np.stack([x * 0.5, y * 0.6, x * 0.2 + y * 0.3], axis=2)
    slide = ArraySlide(np.floor(pixels + 0.5).astype(np.uint8), Scale(mpp_x, mpp_y))
    frame = map_frame(slide.info, asked)
    reach = 2 * max(1.0, frame.l0_per_map.x, frame.l0_per_map.y) + 1
    found = read_region(slide, frame, frame.box).astype(float)
    center_x = (np.arange(frame.size.width) + 0.5) * frame.l0_per_map.x
    center_y = (np.arange(frame.size.height) + 0.5) * frame.l0_per_map.y
    inside = np.ix_(
        (center_y > reach) & (center_y < 400 - reach), (center_x > reach) & (center_x < 500 - reach)
    )
    x, y = np.meshgrid(center_x, center_y)
    expected = np.stack([x * 0.5, y * 0.6, x * 0.2 + y * 0.3], axis=2)
    assert np.abs(found - expected)[inside].max(initial=0) <= 1.5


# --- policy ---------------------------------------------------------------------------------------


QUARTER = Scale(0.25, 0.25)


def info(downsamples: list[Scale], mpp: Scale | None = QUARTER, size: int = 40_000) -> SlideInfo:
    levels = tuple(Level(Size(int(size / d.x), int(size / d.y)), d) for d in downsamples)
    source = "user" if mpp else "missing"
    return SlideInfo("s.svs", "s", "none", "none", Size(size, size), levels, mpp, source, None, "0")


@given(
    steps=st.lists(st.floats(1.2, 8), max_size=4),
    mpp=st.floats(0.1, 1),
    ratio=st.floats(0.8, 1.25),
    asked=st.floats(0.1, 10),
)
def test_the_level_is_never_coarser_than_asked(
    steps: list[float], mpp: float, ratio: float, asked: float
) -> None:
    downsamples = [Scale(1, 1)]
    for step in steps:
        downsamples.append(Scale(downsamples[-1].x * step, downsamples[-1].y * step))
    slide_info = info(downsamples, Scale(mpp, mpp * ratio))
    frame = map_frame(slide_info, asked)
    level = pick_level(slide_info, frame)

    def fits(index: int) -> bool:
        step = downsamples[index]
        return max(step.x * mpp, step.y * mpp * ratio) <= asked * 1.01

    assert level == max((index for index in range(len(downsamples)) if fits(index)), default=0)


def test_level_within_one_percent_counts_as_fine_enough() -> None:
    four = [Scale(1, 1), Scale(4, 4), Scale(16, 16)]
    assert pick_level(info(four), map_frame(info(four), 1.0)) == 1
    assert (
        pick_level(info(four, Scale(0.2524, 0.2524)), map_frame(info(four, Scale(0.2524, 0.2524)), 1.0)) == 1
    )
    assert (
        pick_level(info(four, Scale(0.2528, 0.2528)), map_frame(info(four, Scale(0.2528, 0.2528)), 1.0)) == 0
    )
    assert pick_level(info(four, Scale(0.24, 0.26)), map_frame(info(four, Scale(0.24, 0.26)), 1.0)) == 0


def test_upsampling_is_told() -> None:
    assert upsampling(map_frame(info([Scale(1, 1)], Scale(0.5, 0.5)), 0.25)) == 2
    assert upsampling(map_frame(info([Scale(1, 1)], Scale(0.25, 0.5)), 0.25)) == 2
    assert upsampling(map_frame(info([Scale(1, 1)], Scale(0.25, 0.25)), 0.5)) == 0.5


def test_map_size_covers_the_slide() -> None:
    frame = map_frame(info([Scale(1, 1)], Scale(0.2528, 0.2528), 10_001), 0.5)
    assert frame.size == Size(math.ceil(10_001 * 0.2528 / 0.5), math.ceil(10_001 * 0.2528 / 0.5))
    # Single-precision TIFF tags must not add a column that holds nothing.
    noisy = Scale(0.25 * (1 + 6e-8), 0.25 * (1 - 6e-8))
    assert map_frame(info([Scale(1, 1)], noisy, 100_000), 0.5).size == Size(50_000, 50_000)
    assert map_frame(info([Scale(1, 1)], size=1), 2.0).size == Size(1, 1)


def test_frames_agree() -> None:
    slide_info = info([Scale(1, 1), Scale(4, 4)], Scale(0.2, 0.25))
    frame = map_frame(slide_info, 1.0)
    box = Box(10, 20, 30, 50)
    assert (frame.to_l0(box).x0, frame.to_l0(box).y1) == (50, 200)
    assert (source_box(slide_info, frame, 1, box).x0, source_box(slide_info, frame, 1, box).y1) == (12.5, 50)


@pytest.mark.parametrize(
    ("base", "level", "expected"),
    [
        ((2223, 999), (555, 249), (4, 4)),
        ((1811, 1357), (452, 339), (4, 4)),
        ((300, 300), (200, 100), (1.5, 3)),
    ],
)
def test_level_downsample_takes_out_rounding(
    base: tuple[int, int], level: tuple[int, int], expected: tuple[float, float]
) -> None:
    assert level_downsample(Size(*base), Size(*level)) == Scale(*expected)


def properties(**parts: str) -> dict[str, str]:
    names = {"mpp_x": "openslide.mpp-x", "mpp_y": "openslide.mpp-y", "power": "openslide.objective-power"}
    tags = {"unit": "tiff.ResolutionUnit", "x": "tiff.XResolution", "y": "tiff.YResolution"}
    return {(names | tags)[key]: value for key, value in parts.items()}


def test_mpp_policy_takes_the_best_source_there_is() -> None:
    power = {"power": "20"}
    tags = power | {"unit": "centimeter", "x": "40000", "y": "20000"}
    own = tags | {"mpp_x": "0.2528", "mpp_y": "0.253"}
    assert resolve_mpp(Scale(0.3, 0.4), properties(**own)) == (Scale(0.3, 0.4), "user")
    assert resolve_mpp(None, properties(**own)) == (Scale(0.2528, 0.253), "openslide")
    assert resolve_mpp(None, properties(**tags)) == (Scale(0.25, 0.5), "tiff-resolution")
    assert resolve_mpp(None, properties(**power)) == (Scale(0.5, 0.5), "objective-power (estimated)")
    assert resolve_mpp(None, properties(power="40"))[0] == Scale(0.25, 0.25)
    assert resolve_mpp(None, properties(power="13")) == (None, "missing")
    assert resolve_mpp(None, {}) == (None, "missing")


@pytest.mark.parametrize("bad", ["0", "-1", "nan", "inf", "0.25 um", "", "352.8", "0.0001"])
def test_implausible_mpp_counts_as_absent(bad: str) -> None:
    both = properties(mpp_x=bad, mpp_y="0.25", power="40")
    assert resolve_mpp(None, both) == (Scale(0.25, 0.25), "objective-power (estimated)")


def test_screen_resolution_is_no_mpp() -> None:
    for unit, dots in (
        ("inch", "72"),
        ("inch", "96"),
        ("centimeter", "28.3"),
        ("inch", "300"),
        ("none", "1"),
    ):
        assert resolve_mpp(None, properties(unit=unit, x=dots, y=dots)) == (None, "missing")
    assert resolve_mpp(None, properties(unit="INCH", x="50800", y="101600"))[0] == Scale(0.5, 0.25)


@pytest.mark.parametrize("bad", [Scale(0, 1), Scale(1, -1), Scale(math.nan, 1), Scale(math.inf, 1)])
def test_bad_mpp_of_the_user_is_refused(bad: Scale) -> None:
    with pytest.raises(UsageError):
        resolve_mpp(bad, {})


def test_missing_mpp_asks_for_it() -> None:
    with pytest.raises(MppMissingError, match=r"s\.svs.*--mpp"):
        require_mpp(info([Scale(1, 1)], None))
    with pytest.raises(MppMissingError):
        map_frame(info([Scale(1, 1)], None), 0.5)


def test_default_name() -> None:
    assert default_name("/a/b/TCGA-1.svs") == "TCGA-1"
    assert default_name("https://host/dir/x.y.tiff") == "x.y"
    assert default_name("/a/series/") == "series"


# --- thumbnails -----------------------------------------------------------------------------------


def test_thumbnail_shows_the_slide_in_place(folder: Path) -> None:
    with open_slide(landmark_slide(folder, Scale(0.25, 0.25), (1, 2, 4))) as slide:
        thumbnail, l0_per_pixel = read_thumbnail(slide, 500)
    assert thumbnail.shape == (round(SIZE.height * 500 / SIZE.width), 500, 3)
    assert l0_per_pixel.x == pytest.approx(SIZE.width / 500)
    for x, y in corners(SIZE):
        part = thumbnail[
            int((y - 12) / l0_per_pixel.y) : int((y + MARK + 12) / l0_per_pixel.y) + 1,
            int((x - 12) / l0_per_pixel.x) : int((x + MARK + 12) / l0_per_pixel.x) + 1,
        ]
        found_x, found_y = center_of_darkness(part)
        assert int((x - 12) / l0_per_pixel.x) + found_x == pytest.approx((x + 12) / l0_per_pixel.x, abs=0.3)
        assert int((y - 12) / l0_per_pixel.y) + found_y == pytest.approx((y + 12) / l0_per_pixel.y, abs=0.3)


def test_thumbnail_of_a_small_slide_is_the_slide() -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (90, 80, 3), dtype=np.uint8)
    thumbnail, l0_per_pixel = read_thumbnail(ArraySlide(pixels), 500)
    assert np.array_equal(thumbnail, pixels) and l0_per_pixel == Scale(1, 1)


def test_thumbnail_of_no_size_is_refused() -> None:
    with pytest.raises(SlideError):
        read_thumbnail(ArraySlide(np.zeros((9, 9, 3), np.uint8)), 0)


class BlankSlide:
    """A blank slide of one level that notes the largest read."""

    def __init__(self, size: Size) -> None:
        level = Level(size, Scale(1, 1))
        self.info = SlideInfo("b", "b", "none", "none", size, (level,), Scale(0.25, 0.25), "user", None, "0")
        self.largest = 0

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        self.largest = max(self.largest, box.width * box.height)
        return np.broadcast_to(np.uint8(200), (box.height, box.width, 3))


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_thumbnail_of_a_single_level_slide_reads_in_bounded_pieces(side: int) -> None:
    slide = BlankSlide(Size(side, side // 4))
    thumbnail, _ = read_thumbnail(slide, 500)  # type: ignore[arg-type]
    assert thumbnail.shape == (125, 500, 3)
    assert (thumbnail[2:-2, 2:-2] == 200).all()
    assert slide.largest <= (2.3 * slide_module.SOURCE_SIDE) ** 2


@pytest.mark.parametrize("mpp", [5.0, 5.1])
def test_region_of_a_single_level_slide_reads_in_bounded_pieces(mpp: float) -> None:
    slide = BlankSlide(Size(50_000, 50_000))
    frame = map_frame(slide.info, mpp)
    pixels = read_region(slide, frame, Box(100, 100, 500, 400))  # type: ignore[arg-type]
    assert (pixels == 200).all()
    assert slide.largest <= (2.3 * slide_module.SOURCE_SIDE) ** 2


def test_a_whole_factor_reads_no_other_pixels() -> None:
    slide = BlankSlide(Size(5000, 5000))
    read_region(slide, map_frame(slide.info, 0.5), Box(100, 100, 612, 612))  # type: ignore[arg-type]
    assert slide.largest == 1024 * 1024


def test_read_region_can_be_told_the_level() -> None:
    pixels = np.zeros((400, 400, 3), np.uint8)
    slide: Slide = ArraySlide(pixels, 0.25, downsamples=(1, 2))
    frame = MapFrame(0.5, Size(200, 200), Scale(2, 2))
    for level in (0, 1):
        assert read_region(slide, frame, frame.box, level).shape == (200, 200, 3)


def test_hamming_is_close_to_the_area_mean_on_real_pixels(sample_svs: Path) -> None:
    with open_slide(sample_svs) as slide:
        frame = map_frame(slide.info, 1.2)
        box = Box(200, 200, 500, 500)
        found = read_region(slide, frame, box).astype(float)
        l0 = frame.to_l0(box).outward()
        source = Image.fromarray(slide.read_level(0, l0))
        factor = frame.l0_per_map.x
        # The slow way: 8 × 8 points in each map pixel.
        at = (np.arange(300 * 8) + 0.5) / 8 * factor + (200 * factor - l0.x0)
        index = np.floor(at).astype(int)
        mean = np.asarray(source)[np.ix_(index, index)].reshape(300, 8, 300, 8, 3).mean(axis=(1, 3))
        assert np.abs(found - mean).mean() < 3
