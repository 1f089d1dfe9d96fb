from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from shapely import Polygon
from typer.testing import CliRunner

from tests.made.datasets import feature, write_features
from tests.made.memory_slides import ArraySlide
from wsi_seg.cli import app
from wsi_seg.core.errors import MaskError, UsageError
from wsi_seg.core.geometry import Box, RealBox, Scale, Size
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import MapFrame, Slide, map_frame, read_thumbnail
from wsi_seg.tissue.mask import TissueMask, find_tissue
from wsi_seg.tissue.stain import find_ink, measure, otsu_threshold

MPP = 2.0  # synthetic slides: 2 µm per l0 pixel, cells of 4 × 4 px
GLASS = (243, 242, 244)


@pytest.fixture(scope="module")
def sample(sample_svs: Path) -> Iterator[Slide]:
    with open_slide(sample_svs) as slide:
        yield slide


@pytest.fixture(scope="module")
def texture(sample: Slide) -> np.ndarray:
    """Real tissue without glass at 2 µm per pixel: 160 × 80."""
    pixels = read_thumbnail(sample, 742)[0]
    return np.ascontiguousarray(pixels[440:600, 225:305])


def glass(height: int = 800, width: int = 1000, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 2.0, (height, width, 3))
    return np.clip(np.array(GLASS) + noise, 0, 255).astype(np.uint8)


def filled(texture: np.ndarray, height: int, width: int) -> np.ndarray:
    both = np.concatenate([texture, texture[:, ::-1]], axis=1)
    both = np.concatenate([both, both[::-1]], axis=0)
    repeats = (-(-height // both.shape[0]), -(-width // both.shape[1]), 1)
    return np.tile(both, repeats)[:height, :width]


def with_tissue(texture: np.ndarray, *boxes: Box) -> np.ndarray:
    pixels = glass()
    for box in boxes:
        pixels[box.y0 : box.y1, box.x0 : box.x1] = filled(texture, box.height, box.width)
    return pixels


def share_in(mask: TissueMask, box_l0: Box) -> float:
    """Share of the cells inside the box that are tissue."""
    inner = Box(*(round(v / mask.l0_per_cell.x) for v in (box_l0.x0, box_l0.y0, box_l0.x1, box_l0.y1)))
    return float(mask.mask[inner.y0 : inner.y1, inner.x0 : inner.x1].mean())


def stroke(pixels: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """Draw an antialiased pen circle, 100 µm wide, with uneven ink."""
    size = (pixels.shape[1], pixels.shape[0])
    ink = Image.new("L", (size[0] * 2, size[1] * 2), 0)
    ImageDraw.Draw(ink).ellipse((300, 200, 1700, 1400), outline=255, width=100)
    alpha = np.asarray(ink.resize(size, Image.Resampling.BOX), np.float32)[..., None] / 255
    alpha = alpha * np.random.default_rng(1).uniform(0.8, 1.0, (*alpha.shape[:2], 1))
    return (pixels * (1 - alpha) + np.array(color) * alpha).astype(np.uint8)


# --- what counts as tissue ---------------------------------------------------------------------------


def test_a_blank_slide_has_none() -> None:
    tinted = np.clip(glass().astype(int) - (0, 4, 22), 0, 255).astype(np.uint8)
    shaded = (glass() * np.linspace(0.82, 1.0, 1000)[None, :, None]).astype(np.uint8)
    for pixels in (glass(), tinted, shaded, np.full((300, 400, 3), 255, np.uint8)):
        assert not find_tissue(ArraySlide(pixels, MPP)).mask.any()


YELLOWED, AMBER, BLUISH = (238, 229, 205), (215, 190, 140), (205, 225, 238)


@pytest.mark.parametrize("color", [YELLOWED, AMBER, BLUISH])
def test_tissue_under_glass_of_any_color_is_found_alone(
    texture: np.ndarray, color: tuple[int, int, int]
) -> None:
    tint, clear = np.array(color) / GLASS, with_tissue(texture, Box(400, 300, 600, 500))

    def found(pixels: np.ndarray) -> np.ndarray:
        return find_tissue(ArraySlide(pixels.astype(np.uint8), MPP)).mask

    bubble = clear * tint
    bubble[40:80, 40:80] = 244  # air, which shows the glass without its color
    assert (found(bubble) == found(clear)).mean() > 0.99
    assert not found(glass() * tint).any()
    assert found(filled(texture, 400, 400) * tint).mean() > 0.99


def test_a_run_leaves_yellowed_glass_out(texture: np.ndarray, tiny_model: Path, tmp_path: Path) -> None:
    pixels = with_tissue(texture, Box(400, 300, 440, 340))[200:440, 300:540]
    for name, picture in (("clear", pixels), ("yellowed", pixels * (np.array(YELLOWED) / GLASS))):
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / f"{name}.png")
    slides = [str(tmp_path / "clear.png"), str(tmp_path / "yellowed.png")]
    how = ["--model", str(tiny_model), "--mpp", str(MPP), "--allow-upsampling", "--dry-run", "--json"]
    result = CliRunner().invoke(app, ["run", *slides, "-o", str(tmp_path / "out"), *how])
    clear, yellowed = (plan["tiles"] for plan in json.loads(result.stdout))
    assert 0 < yellowed <= clear + 2


def test_a_slide_full_of_tissue_is_all_tissue(texture: np.ndarray) -> None:
    assert find_tissue(ArraySlide(filled(texture, 800, 1000), MPP)).mask.mean() > 0.99


def test_a_region_without_any_glass_is_all_tissue(data_dir: Path) -> None:
    for path in (path for name in ("bcss", "bcss_tumour") for path in (data_dir / name).glob("rgbs/*.png")):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert find_tissue(ArraySlide(pixels, 0.25)).mask.mean() > 0.97


def test_half_and_half_ends_at_the_edge(texture: np.ndarray) -> None:
    mask = find_tissue(ArraySlide(with_tissue(texture, Box(0, 0, 500, 800)), MPP)).mask
    # 500 px are 125 cells; one cell of margin and one of smoothing beyond.
    assert mask[:, :124].mean() > 0.99
    assert not mask[:, 129:].any()


def test_the_sample_slide(sample: Slide) -> None:
    mask = find_tissue(sample)
    assert 0.35 < mask.mask.mean() < 0.55
    assert mask.mask[100:, 55:80].mean() > 0.97  # solid tissue
    assert not mask.mask[:60, :30].any()  # empty glass
    assert mask.area_um2(sample.info.mpp) == pytest.approx(
        mask.mask.mean() * 2220 * 2967 * 0.499**2, rel=1e-3
    )


def test_the_sample_slide_scanned_differently(sample: Slide) -> None:
    pixels = read_thumbnail(sample, 1484)[0]
    reference = find_tissue(ArraySlide(pixels, 1.0)).mask
    dim = (pixels * 0.85).astype(np.uint8)
    tinted = (pixels * np.array([1.0, 0.97, 0.93])).astype(np.uint8)
    pale = (255 - (255 - pixels.astype(int)) * 0.6).astype(np.uint8)
    for other in (dim, tinted, pale):
        assert (find_tissue(ArraySlide(other, 1.0)).mask == reference).mean() > 0.96


@pytest.mark.parametrize(
    "color",
    [(25, 60, 160), (70, 110, 200), (20, 120, 70), (60, 180, 60), (35, 35, 40), (215, 30, 45)],
    ids=["blue", "pale-blue", "green", "bright-green", "black", "red"],
)
def test_pen_is_no_tissue(texture: np.ndarray, color: tuple[int, int, int]) -> None:
    island = Box(400, 300, 600, 500)
    drawn = find_tissue(ArraySlide(stroke(with_tissue(texture, island), color), MPP))
    clean = find_tissue(ArraySlide(with_tissue(texture, island), MPP))
    assert share_in(drawn, island) > 0.99
    assert np.count_nonzero(drawn.mask & ~clean.mask) < 0.01 * np.count_nonzero(clean.mask)


def test_pen_over_tissue_leaves_the_rest(texture: np.ndarray) -> None:
    drawn = find_tissue(ArraySlide(stroke(filled(texture, 800, 1000), (25, 60, 160)), MPP))
    assert 0.6 < drawn.mask.mean() < 0.9
    assert drawn.mask[90:110, 110:140].all()  # inside the circle


def test_ink_is_not_seen_in_real_tissue(sample: Slide, data_dir: Path) -> None:
    for pixels in (
        read_thumbnail(sample, 186)[0],
        *(np.asarray(Image.open(p).convert("RGB").reduce(32)) for p in data_dir.glob("bcss*/rgbs/*.png")),
    ):
        assert not find_ink(measure(pixels), 8.0).any()


def test_scanner_black_is_no_tissue(texture: np.ndarray) -> None:
    island = Box(400, 300, 700, 600)
    pixels = with_tissue(texture, island)
    noise = np.random.default_rng(2).integers(0, 9, pixels.shape, dtype=np.uint8)
    noise += np.array([4, 2, 24], np.uint8)  # the sensor's dark signal has a color
    pixels[:, :120] = noise[:, :120]
    pixels[700:] = noise[700:]
    mask = find_tissue(ArraySlide(pixels, MPP))
    assert share_in(mask, island) > 0.99
    assert not mask.mask[:, :90].any() and not mask.mask[160:].any()


def test_dust_and_shadows_are_no_tissue() -> None:
    pixels = glass()
    pixels[200:260, 300:700] = (150, 149, 151)  # a gray fibre
    pixels[500:506, 500:506] = (200, 80, 160)  # a colored speck of 12 µm
    assert not find_tissue(ArraySlide(pixels, MPP)).mask.any()


def test_fat_cells_and_lumina_stay_inside(texture: np.ndarray) -> None:
    island = Box(200, 200, 800, 600)
    pixels = with_tissue(texture, island)
    for y in range(220, 560, 48):  # empty circles 80 µm wide with 16 µm of tissue between
        for x in range(220, 760, 48):
            erase_circle(pixels, x + 20, y + 20, 20)
    assert share_in(find_tissue(ArraySlide(pixels, MPP)), island) > 0.99


def erase_circle(pixels: np.ndarray, x: int, y: int, radius: int) -> None:
    rows, columns = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    pixels[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = GLASS


def test_gaps_in_loose_tissue_are_closed(texture: np.ndarray) -> None:
    pixels = with_tissue(texture, Box(0, 0, 1000, 400))
    for x in range(30, 960, 50):  # 40 µm wide, open to the border of the slide and to the glass
        pixels[:, x : x + 20] = GLASS
    mask = find_tissue(ArraySlide(pixels, MPP))
    assert share_in(mask, Box(0, 0, 1000, 360)) > 0.99
    assert mask.mask[0].all()


def test_large_holes_stay_open(texture: np.ndarray) -> None:
    pixels = with_tissue(texture, Box(100, 100, 900, 700))
    pixels[250:550, 300:700] = GLASS
    mask = find_tissue(ArraySlide(pixels, MPP))
    assert share_in(mask, Box(320, 270, 680, 530)) == 0


def test_glass_beside_tissue_in_a_small_picture_is_no_hole(texture: np.ndarray) -> None:
    pixels = glass(150, 200)
    pixels[:, :100] = filled(texture, 150, 100)
    assert 0.45 < find_tissue(ArraySlide(pixels, MPP)).mask.mean() < 0.62


def test_a_slide_without_mpp_still_has_tissue(texture: np.ndarray) -> None:
    mask = find_tissue(ArraySlide(with_tissue(texture, Box(0, 0, 500, 800)), None))
    assert 0.45 < mask.mask.mean() < 0.55


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (3, 5), (127, 129)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    for method in ("otsu", "none"):
        mask = find_tissue(ArraySlide(np.full((*size, 3), 240, np.uint8), 0.5), method)
        assert mask.mask.shape[0] * mask.l0_per_cell.y == pytest.approx(size[0])
        assert mask.mask.shape[1] * mask.l0_per_cell.x == pytest.approx(size[1])


def test_otsu_splits_two_heaps_between_them() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.1, 0.02, 500), rng.normal(0.7, 0.05, 300)]).astype(np.float32)
    assert 0.15 < otsu_threshold(values) < 0.58
    assert otsu_threshold(np.empty(0, np.float32)) == 0
    assert np.isfinite(otsu_threshold(np.full(9, 0.3, np.float32)))


# --- questions to a mask -----------------------------------------------------------------------------


def random_mask(seed: int) -> tuple[TissueMask, MapFrame]:
    rng = np.random.default_rng(seed)
    size = Size(int(rng.integers(50, 4000)), int(rng.integers(50, 4000)))
    height, width = int(rng.integers(1, 40)), int(rng.integers(1, 40))
    mask = rng.random((height, width)) < rng.choice([0.02, 0.3, 0.9])
    pixels = ArraySlide(np.zeros((1, 1, 3), np.uint8), Scale(0.2528, 0.2531)).info
    info = type(pixels)(**{**{n: getattr(pixels, n) for n in pixels.__slots__}, "size": size})
    frame = map_frame(info, float(rng.choice([0.2528, 0.5, 1.7])))
    return TissueMask(mask, Scale(size.width / width, size.height / height), "test"), frame


def random_box(rng: np.random.Generator, frame: MapFrame) -> Box:
    x, y = (
        int(rng.integers(-20, frame.size.width + 20)),
        int(rng.integers(-20, frame.size.height + 20)),
    )
    return Box.at(x, y, int(rng.integers(1, 200)), int(rng.integers(1, 200)))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sample_any_in_and_crop_agree(seed: int) -> None:
    tissue, frame = random_mask(seed)
    box = random_box(np.random.default_rng(seed + 1), frame)
    box_l0 = frame.to_l0(box)
    sampled = tissue.sample(frame, box)
    assert sampled.shape == (box.height, box.width)
    if sampled.any():
        assert tissue.any_in(box_l0)
    part = pickle.loads(pickle.dumps(tissue.crop(box_l0)))
    np.testing.assert_array_equal(part.sample(frame, box), sampled)
    inner = Box(box.x0 + box.width // 3, box.y0, box.x1, box.y0 + max(1, box.height // 2))
    assert part.any_in(frame.to_l0(inner)) == tissue.any_in(frame.to_l0(inner))
    assert part.mask.size <= tissue.mask.size


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sample_is_the_cell_under_each_center(seed: int) -> None:
    tissue, frame = random_mask(seed)
    box = random_box(np.random.default_rng(seed + 1), frame)
    sampled = tissue.sample(frame, box)
    rng = np.random.default_rng(seed + 2)
    for _ in range(30):
        row, column = int(rng.integers(box.height)), int(rng.integers(box.width))
        x = (box.x0 + column + 0.5) * frame.l0_per_map.x / tissue.l0_per_cell.x
        y = (box.y0 + row + 0.5) * frame.l0_per_map.y / tissue.l0_per_cell.y
        inside = 0 <= x < tissue.mask.shape[1] and 0 <= y < tissue.mask.shape[0]
        assert sampled[row, column] == (inside and tissue.mask[int(y), int(x)])


def test_none_is_the_whole_slide_and_no_more() -> None:
    slide = ArraySlide(np.zeros((101, 203, 3), np.uint8), 0.5)
    mask, frame = find_tissue(slide, "none"), map_frame(slide.info, 0.7)
    sampled = mask.sample(frame, frame.box.grown(5))
    # The last map column is only partly on the slide; its center decides.
    assert sampled.sum() == round(203 / 1.4) * round(101 / 1.4)
    assert mask.area_um2(Scale(0.5, 0.5)) == pytest.approx(203 * 101 * 0.25)
    assert mask.any_in(RealBox(-5, -5, 1, 1)) and not mask.any_in(RealBox(-5, -5, 0, 0))


def test_digest_tells_masks_apart() -> None:
    base = TissueMask(np.zeros((4, 6), bool), Scale(8, 8), "otsu")
    other = base.mask.copy()
    other[2, 3] = True
    same = TissueMask(base.mask.copy(), Scale(8, 8), "file")
    assert base.digest() == same.digest()
    others = [
        TissueMask(other, Scale(8, 8), "otsu"),
        TissueMask(np.zeros((6, 4), bool), Scale(8, 8), "otsu"),
        TissueMask(base.mask, Scale(8, 9), "otsu"),
        TissueMask(base.mask, Scale(8, 8), "otsu", (1, 0)),
    ]
    assert len({m.digest() for m in (base, *others)}) == 5


def test_the_same_slide_gives_the_same_mask(sample: Slide, sample_svs: Path) -> None:
    with open_slide(sample_svs) as again:
        assert find_tissue(again).digest() == find_tissue(sample).digest()


# --- drawn regions -----------------------------------------------------------------------------------


def write_regions(path: Path, *rings: list[tuple[float, float]], **members: object) -> Path:
    features = [
        {
            "type": "Feature",
            "id": f"{index:08d}-0000-4000-8000-000000000000",
            "geometry": {"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
            "properties": {"objectType": "annotation"},
        }
        for index, ring in enumerate(rings)
    ]
    document = json.dumps({"type": "FeatureCollection", "features": features, **members}).encode()
    path.write_bytes(gzip.compress(document) if path.suffix == ".gz" else document)
    return path


def rectangle(x0: float, y0: float, x1: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


BOUNDS = Box(200, 120, 900, 700)


@pytest.mark.parametrize(
    ("bounds", "origin", "members", "offset"),
    [
        (None, "bounds", {}, (0, 0)),
        (BOUNDS, "bounds", {}, (200, 120)),
        (BOUNDS, "level0", {}, (0, 0)),
        (BOUNDS, "level0", {"wsi_seg": {"subtracted_l0": [200, 120]}}, (200, 120)),
        (BOUNDS, "bounds", {"wsi_seg": {"subtracted_l0": [0, 0]}}, (0, 0)),
    ],
)
def test_drawn_regions_land_where_they_were_drawn(
    tmp_path: Path, bounds: Box | None, origin: str, members: dict, offset: tuple[int, int]
) -> None:
    slide = ArraySlide(glass(), 0.5, bounds=bounds)
    path = write_regions(tmp_path / "roi.geojson", rectangle(80, 40, 400, 240), **members)
    mask = find_tissue(slide, str(path), origin=origin)
    frame = map_frame(slide.info, 0.5)
    rows, columns = np.nonzero(mask.sample(frame, frame.box))
    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    dx, dy = offset
    assert found == (80 + dx, 40 + dy, 400 + dx, 240 + dy)
    assert mask.area_um2(Scale(0.5, 0.5)) == pytest.approx(320 * 200 * 0.25)
    assert mask.source == str(path)
    assert not mask.any_in(RealBox(0, 0, 80 + dx - 16, 40 + dy - 16))  # a cell away


# Never on a pixel center, where GEOS and the half-open rule may differ.
POSITIONS = st.integers(-300, 1900).map(lambda i: i / 10 + 0.0137)
SHAPES = st.lists(
    st.tuples(
        st.lists(
            st.tuples(*[st.integers(-300, 1900).map(lambda i: i / 10 + 0.0137)] * 2), min_size=3, max_size=9
        ),
        st.tuples(*[st.integers(-100, 1500).map(lambda i: i / 10 + 0.0291)] * 2),
        st.sampled_from(["Ignore*", "Tumor", None]),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=80, deadline=None)
@given(SHAPES, st.sampled_from([0.5, 0.83, 2.7]), st.integers(0, 2**32 - 1))
def test_drawn_regions_are_exact_to_a_map_pixel(
    tmp_path_factory: pytest.TempPathFactory, drawn: list, mpp: float, seed: int
) -> None:
    """Whole or in parts they are what GEOS says of each pixel center, and planning misses no pixel."""
    slide = ArraySlide(np.zeros((117, 161, 3), np.uint8), Scale(0.5, 0.47))
    frame = map_frame(slide.info, mpp)
    whole = frame.box.grown(3)
    y, x = np.mgrid[whole.y0 : whole.y1, whole.x0 : whole.x1] + 0.5
    x, y = x * frame.l0_per_map.x, y * frame.l0_per_map.y
    expected, smallest = np.zeros(x.shape, bool), np.full(x.shape, np.inf)
    features = []
    for ring, (x0, y0), name in drawn:
        solid = shapely.make_valid(Polygon(ring), method="structure", keep_collapsed=False)
        holed = solid.difference(shapely.box(x0, y0, x0 + 23.3, y0 + 31.7))
        features.append(feature([], name) | {"geometry": json.loads(shapely.to_geojson(holed))})
        wins = shapely.contains_xy(holed, x, y) & (holed.area <= smallest)
        expected[wins], smallest[wins] = name != "Ignore*", holed.area
    expected &= (x > 0) & (x < 161) & (y > 0) & (y < 117)
    path = tmp_path_factory.getbasetemp() / "drawn.geojson"
    write_features(path, features)
    try:
        mask = find_tissue(slide, str(path))
    except MaskError:  # nothing but ignored, degenerate or outside
        assert not expected.any()
        return
    np.testing.assert_array_equal(mask.sample(frame, whole), expected)
    rng = np.random.default_rng(seed)
    for _ in range(4):
        x0, y0 = int(rng.integers(frame.size.width)), int(rng.integers(frame.size.height))
        box = Box.at(x0, y0, int(rng.integers(1, 60)), int(rng.integers(1, 60))).intersect(frame.box)
        part = pickle.loads(pickle.dumps(mask.crop(frame.to_l0(box))))
        np.testing.assert_array_equal(part.sample(frame, box), expected[box.within(whole)])
        pixel = Box.at(x0, y0, 1, 1)
        assert part.any_in(frame.to_l0(pixel)) == mask.any_in(frame.to_l0(pixel))
        assert mask.any_in(frame.to_l0(pixel)) or not expected[pixel.within(whole)].any()
    for row, column in np.argwhere(expected)[:: max(1, int(expected.sum()) // 50)].tolist():
        assert mask.any_in(frame.to_l0(Box.at(whole.x0 + column, whole.y0 + row, 1, 1)))


def test_thin_regions_are_planned_though_no_cell_center_lies_in_them(tmp_path: Path) -> None:
    slide = ArraySlide(glass(), 0.5)  # cells of 16 px
    path = write_regions(tmp_path / "roi.geojson", rectangle(100, 49, 700, 51), rectangle(33, 200, 34, 700))
    mask, frame = find_tissue(slide, str(path)), map_frame(slide.info, 0.5)
    assert mask.sample(frame, frame.box).sum() == 600 * 2 + 500
    for box in (Box(400, 49, 401, 50), Box(33, 300, 34, 301)):
        assert mask.any_in(frame.to_l0(box))
    assert not mask.any_in(frame.to_l0(Box(400, 100, 500, 200)))


def test_the_digest_depends_on_where_regions_end_within_a_cell(tmp_path: Path) -> None:
    slide = ArraySlide(glass(), 0.5)
    paths = [write_regions(tmp_path / f"{x}.geojson", rectangle(33, 33, x, 90)) for x in (75, 76)]
    one, other = (find_tissue(slide, str(path)) for path in paths)
    assert np.array_equal(one.mask, other.mask) and one.digest() != other.digest()
    again = write_regions(tmp_path / "again.geojson", rectangle(33, 33, 75, 90))
    assert find_tissue(slide, str(again)).digest() == one.digest()


def test_overlapping_regions_count_once_and_gzip_is_read(tmp_path: Path) -> None:
    slide = ArraySlide(glass(), 0.5)
    path = write_regions(
        tmp_path / "roi.geojson.gz", rectangle(0, 0, 400, 400), rectangle(200, 200, 600, 600)
    )
    mask = find_tissue(slide, str(path))
    assert mask.area_um2(Scale(1, 1)) == pytest.approx(400 * 400 * 2 - 200 * 200)


def test_regions_are_cut_at_the_slide(tmp_path: Path) -> None:
    slide = ArraySlide(glass(), 0.5)
    path = write_regions(tmp_path / "roi.geojson", rectangle(-500, -500, 100, 80))
    assert find_tissue(slide, str(path)).area_um2(Scale(1, 1)) == pytest.approx(100 * 80)


@pytest.mark.parametrize("bounds", [None, BOUNDS])
def test_regions_beside_the_slide_are_refused(tmp_path: Path, bounds: Box | None) -> None:
    slide = ArraySlide(glass(), 0.5, bounds=bounds)
    path = write_regions(tmp_path / "roi.geojson", rectangle(5000, 5000, 6000, 6000))
    with pytest.raises(MaskError, match=r"roi\.geojson: .*outside the slide"):
        find_tissue(slide, str(path))


def test_a_file_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    slide = ArraySlide(glass(), 0.5)
    (tmp_path / "notes.txt").write_text("not a mask")
    for path in (tmp_path / "notes.txt", tmp_path / "absent.geojson"):
        with pytest.raises(MaskError, match=path.name):
            find_tissue(slide, str(path))


def test_an_unknown_method_says_what_is_allowed() -> None:
    with pytest.raises(UsageError, match=r"'ostu'.*otsu, none or .*GeoJSON"):
        find_tissue(ArraySlide(glass(10, 10), 0.5), "ostu")
