"""Tiles of the viewer: the slide and its layers on one grid, at their true places."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from tests.made.landmarks import LIGHT, darkness_model, landmark_slide
from tests.made.pyramids import make_landmark_slide, write_pyramid
from tests.made.results import SMALL_BLOCKS, make_results
from tests.viewer_server import client, only_id, picture, whole_level
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.core.lru import LRUCache
from wsi_seg.inference.models.registry import list_models
from wsi_seg.maps.maps import Maps
from wsi_seg.planning.map_layout import Kind, MapLayout
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.results.files import MAPS
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.sample import sample_slide
from wsi_seg.tissue.stain import STAINS
from wsi_seg.viewer.grid import DeepZoom
from wsi_seg.viewer.palette import safe_colors, scale_table
from wsi_seg.viewer.pictures import value_tile
from wsi_seg.viewer.responses import Refused
from wsi_seg.viewer.sources import CLASSES, Channels, LiveMaps, StoredMaps

# No multiple of a tile, of 2^z or of a map pixel.
SIZE = Size(1611, 1203)
MARKS = (Box(300, 301, 717, 503), Box(1003, 700, 1403, 1003), Box(80, 900, 107, 1100))
# 0.2528 to 0.5 µm/px is no whole factor, and x and y differ.
MPP = Scale(0.2528, 0.2471)


@dataclass(frozen=True)
class Shown:
    """A result that is served."""

    asking: TestClient
    base: str
    folder: Path


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("tiles")
    slide = make_landmark_slide(folder / "marks.tiff", SIZE, MPP, MARKS)
    plan = PlanSettings(tile=128, block=256, overlap=32, probability_downsample=2, uncertainty=True)
    results = make_results(slide, folder / "out", plan=plan)
    asking = client(folder / "out")
    return Shown(asking, f"/api/slides/{only_id(asking)}", results)


@given(width=st.integers(1, 200_000), height=st.integers(1, 200_000), data=st.data())
def test_the_grid_is_that_of_deep_zoom(width: int, height: int, data: st.DataObject) -> None:
    grid = DeepZoom(Size(width, height))
    assert grid.max_zoom == math.ceil(math.log2(max(width, height)))
    zoom = data.draw(st.integers(0, grid.max_zoom))
    size = grid.frame(zoom).size
    factor = 2 ** (grid.max_zoom - zoom)
    assert (size.width, size.height) == (math.ceil(width / factor), math.ceil(height / factor))
    columns, rows = math.ceil(size.width / 512), math.ceil(size.height / 512)
    last = grid.box(zoom, columns - 1, rows - 1)
    assert (last.x1, last.y1) == (size.width, size.height) and not last.empty
    for column, row in ((columns, 0), (0, rows), (-1, 0)):
        with pytest.raises(Refused):
            grid.box(zoom, column, row)


def test_slide_tiles_are_the_means_of_their_pixels(shown: Shown) -> None:
    full = np.full((SIZE.height, SIZE.width, 3), 255.0)
    for mark in MARKS:
        full[mark.y0 : mark.y1, mark.x0 : mark.x1] = 0
    for zoom, factor in ((11, 1), (10, 2), (9, 4), (7, 16)):
        tiles = whole_level(shown.asking, f"{shown.base}/tiles", zoom, ".jpg", "RGB").astype(float)
        height, width = SIZE.height // factor, SIZE.width // factor
        means = full[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
        difference = np.abs(tiles[:height, :width] - means.mean((1, 3)))
        # JPEG rings next to black on white; a shift by half a pixel would make whole edges differ.
        assert difference.mean() < 1.0, (zoom, difference.mean())
        assert np.mean(difference > 60) < 1e-3, zoom


def test_layers_lie_on_the_slide_within_one_pixel(shown: Shown) -> None:
    for zoom in (11, 10, 9, 8):
        factor = 2 ** (11 - zoom)
        slide = whole_level(shown.asking, f"{shown.base}/tiles", zoom, ".jpg", "L") < 128
        classes = whole_level(shown.asking, f"{shown.base}/layers/classes", zoom, ".png?codes=1")[..., 3] > 0
        scaled = whole_level(shown.asking, f"{shown.base}/layers/probability", zoom, ".png?channel=tumor")
        for name, layer in (("classes", classes), ("probability", values_of(scaled) >= 128)):
            for mark in MARKS:
                # A map pixel is nearly two l0 pixels wide, a stored probability nearly four.
                off = max(1.0, (2 if name == "classes" else 4) / factor)
                for got, seen in zip(_edges(layer, mark, factor), _edges(slide, mark, factor), strict=True):
                    assert abs(got - seen) <= off, (zoom, name, mark)
        assert np.mean(classes != slide) < 0.02


def _edges(mask: np.ndarray, mark: Box, factor: int) -> tuple[float, ...]:
    """Return left, top, right and bottom of what is set around a mark, in pixels of the level."""
    near = Box(mark.x0 - 60, mark.y0 - 60, mark.x1 + 60, mark.y1 + 60)
    y0, x0 = max(0, near.y0 // factor), max(0, near.x0 // factor)
    ys, xs = np.nonzero(mask[y0 : near.y1 // factor, x0 : near.x1 // factor])
    return x0 + xs.min(), y0 + ys.min(), x0 + xs.max() + 1, y0 + ys.max() + 1


def test_labels_are_those_under_the_pixels_centers(shown: Shown) -> None:
    maps = Maps.open(shown.folder / MAPS)
    labels = np.asarray(maps.labels[:])
    facts = shown.asking.get(shown.base).json()
    x_scale, y_scale = facts["map"]["l0_per_map"]
    assert (x_scale, y_scale) == (pytest.approx(0.5 / MPP.x), pytest.approx(0.5 / MPP.y))
    layer = whole_level(shown.asking, f"{shown.base}/layers/classes", facts["max_zoom"], ".png")
    columns = ((np.arange(SIZE.width) + 0.5) / x_scale).astype(int)
    rows = ((np.arange(SIZE.height) + 0.5) / y_scale).astype(int)
    expected = labels[np.ix_(rows, columns)]
    colors = {one["code"]: tuple(bytes.fromhex(one["color"][1:])) for one in facts["classes"]}
    for code, color in colors.items():
        assert np.array_equal((layer == (*color, 255)).all(-1), expected == code)
    assert set(np.unique(expected)) == {1, 2}


def test_codes_and_palette_choose_what_is_drawn(shown: Shown) -> None:
    tile = f"{shown.base}/layers/classes/9/0_0.png"
    both, one = picture(shown.asking, tile), picture(shown.asking, f"{tile}?codes=1")
    assert both[..., 3].min() == 255 and 0 < np.mean(one[..., 3] > 0) < 0.5
    assert not picture(shown.asking, f"{tile}?codes=")[..., 3].any()
    safe = picture(shown.asking, f"{tile}?codes=1&palette=safe")
    shown_safe = {tuple(color) for color in safe[safe[..., 3] > 0][:, :3].tolist()}
    facts = shown.asking.get(shown.base).json()
    assert shown_safe == {tuple(bytes.fromhex(facts["classes"][0]["safe_color"][1:]))}
    assert shown_safe != {(200, 0, 0)}


def values_of(layer: np.ndarray) -> np.ndarray:
    """Return the place of each color on the scale, 0 … 255; 0 where a layer is transparent."""
    scale = scale_table().astype(int) @ (65536, 256, 1)
    packed = layer[..., :3].astype(int) @ (65536, 256, 1)
    order = np.argsort(scale)
    place = order[np.searchsorted(scale, packed, sorter=order).clip(max=255)]
    assert np.array_equal(scale[place], packed), "a color that is not on the scale"
    return np.where(layer[..., 3] > 0, place, 0)


def test_probability_is_a_place_on_the_color_scale(shown: Shown) -> None:
    stored = np.asarray(Maps.open(shown.folder / MAPS).probabilities[0])
    layer = whole_level(shown.asking, f"{shown.base}/layers/probability", 11, ".png?channel=tumor")
    assert (layer[..., 3] == 255).all()
    values = values_of(layer)
    facts = shown.asking.get(shown.base).json()
    x_scale, y_scale = (2 * factor for factor in facts["map"]["l0_per_map"])
    inner = np.s_[20:-20, 20:-20]
    columns = ((np.arange(SIZE.width) + 0.5) / x_scale).astype(int)
    rows = ((np.arange(SIZE.height) + 0.5) / y_scale).astype(int)
    nearest = stored[np.ix_(rows, columns)].astype(int)
    # Away from edges linear and nearest are the same.
    flat = np.array([[abs(nearest[y + dy, x + dx] - nearest[y, x]) for dy in (-4, 4) for dx in (-4, 4)]
                     for y, x in ((400, 500), (850, 1200), (50, 50))])  # fmt: skip
    assert not flat.any()
    for y, x in ((400, 500), (850, 1200), (50, 50)):
        assert values[y, x] == max(1, nearest[y, x])
    assert np.mean(np.abs(values[inner] - nearest[inner]) > 128) < 0.01


def test_uncertainty_and_tissue(shown: Shown) -> None:
    assert picture(shown.asking, f"{shown.base}/layers/tissue/9/0_0.png")[..., 3].min() == 255
    layer = values_of(picture(shown.asking, f"{shown.base}/layers/uncertainty/9/0_0.png"))
    # Certain inside black and white, uncertain where a map pixel holds some of both.
    assert layer[100, 100] < 128 and layer.max() > 128
    assert "uncertainty" in shown.asking.get(shown.base).json()["layers"]


@dataclass(frozen=True)
class HalfAnalyzed:
    """Maps of 64 × 48 pixels of which the left 32 columns were analyzed; see `MapSource`."""

    probability: int

    @property
    def layout(self) -> MapLayout:
        return MapLayout("half", Size(64, 48), 0.5, 64, 4, "uint8", ())

    def downsamples(self, kind: Kind) -> tuple[int, ...]:
        return (4, 8) if kind == "probabilities" else (1, 2)

    def read(self, what: Channels, downsample: int, box_level: Box) -> np.ndarray:
        value = self.probability if what.kind == "probabilities" else 1
        columns = (np.arange(box_level.x0, box_level.x1) + 0.5) * downsample
        row = np.where((columns > 0) & (columns < 32), value, 0).astype(np.uint8)
        return np.tile(row, (box_level.height, 1))


@pytest.mark.parametrize("value", [0, 3, 200])
def test_what_was_not_analyzed_is_transparent_and_darkens_nothing(value: int) -> None:
    for factor in (0.5, 1.0, 4.0, 8.0):
        box = Box(0, 0, round(64 / factor), round(48 / factor))
        made = value_tile(HalfAnalyzed(value), Channels("probabilities", (0,)), Scale(factor, factor), box)
        tile = np.asarray(Image.open(io.BytesIO(made)).convert("RGBA"))
        left, right = tile[:, : round(32 / factor)], tile[:, round(32 / factor) :]
        assert (left[..., 3] == 255).all() and not right[..., 3].any()
        assert (values_of(left) == max(1, value)).all()


def test_each_step_of_the_color_scale_is_lighter(shown: Shown) -> None:
    table = scale_table()
    lightness = np.array([lab(tuple(color))[0] for color in table.tolist()])
    steps = np.diff(lightness)
    assert steps.min() > 0 and lightness[0] < 16 and lightness[-1] > 90
    # Even: a quarter of the scale is a quarter of the lightness, also for color-blind eyes.
    even = np.linspace(lightness[0], lightness[-1], 256)
    assert np.abs(lightness - even).max() < 3
    assert np.diff([seen_lab(tuple(color))[0] for color in table[::3].tolist()]).min() > 0
    points = [tuple(bytes.fromhex(color[1:])) for color in shown.asking.get(shown.base).json()["scale"]]
    assert [tuple(table[round(i)]) for i in np.linspace(0, 255, len(points))] == points


def test_a_browser_may_keep_tiles_of_a_version_for_good(shown: Shown) -> None:
    version = shown.asking.get(shown.base).json()["version"]
    tile = f"{shown.base}/tiles/9/0_0.jpg"
    assert "immutable" in shown.asking.get(f"{tile}?v={version}").headers["cache-control"]
    assert shown.asking.get(f"{tile}?v=older").status_code == 409  # what the page shows was replaced
    first = shown.asking.get(tile)
    assert first.headers["cache-control"] == "private, no-cache"
    again = shown.asking.get(tile, headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content


def test_a_slide_with_bounds_is_not_shifted(tmp_path: Path) -> None:
    slide = landmark_slide(tmp_path / "bounds.scn", bounds=Box(520, 260, 2568, 1860))
    make_results(slide, tmp_path / "out", plan=PlanSettings(tile=256, block=1024, overlap=16))
    asking = client(tmp_path / "out")
    base = f"/api/slides/{only_id(asking)}"
    facts = asking.get(base).json()
    assert facts["bounds"] == [520, 260, 2048, 1600] and facts["origin_offset"] == [520, 260]
    level = facts["max_zoom"] - 2
    slide_level = whole_level(asking, f"{base}/tiles", level, ".jpg", "L")
    tumor = whole_level(asking, f"{base}/layers/classes", level, ".png?codes=1")[..., 3] > 0
    assert np.mean((slide_level < np.mean(LIGHT) / 1.4) != tumor) < 0.01 and tumor.mean() > 0.05
    # The first rectangle of the texture, at (160, 200) of the scanned region: 680, 460 in l0.
    assert tumor[(260 + 290) // 4, (520 + 290) // 4] and not tumor[(260 + 150) // 4, (520 + 110) // 4]
    region = asking.get(f"{base}/regions/at?x={520 + 290}&y={260 + 290}").json()
    assert region["bbox"] == pytest.approx([520 + 160, 260 + 200, 520 + 420, 260 + 380], abs=4)


def test_dicom_tiles_and_layers_agree(data_dir: Path, tmp_path: Path) -> None:
    folder = data_dir / "slides" / "CMU-1-Small-Region-dicom"
    if not folder.is_dir():
        pytest.skip(f"no DICOM series at {folder}")
    plan = PlanSettings(tile=256, block=1024, overlap=16)
    make_results(folder, tmp_path / "out", darkness_model(2.0), plan=plan)
    asking = client(tmp_path / "out")
    base = f"/api/slides/{only_id(asking)}"
    facts = asking.get(base).json()
    assert facts["has_slide"] and facts["size"] == [2220, 2967]
    dark = whole_level(asking, f"{base}/tiles", facts["max_zoom"] - 2, ".jpg", "RGB").mean(-1)
    tumor = whole_level(asking, f"{base}/layers/classes", facts["max_zoom"] - 2, ".png?codes=1")[..., 3] > 0
    assert dark[tumor].mean() < dark[~tumor].mean() - 40


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_run_shows_its_finished_blocks_as_the_pyramids_will(shown: Shown, data: st.DataObject) -> None:
    maps = Maps.open(shown.folder / MAPS)
    stored = StoredMaps(maps)
    every = {(ix, iy) for ix in range(4) for iy in range(3)}
    done = frozenset(data.draw(st.sets(st.sampled_from(sorted(every)))))
    live = LiveMaps(maps, lambda: done, frozenset, LRUCache(2**20, lambda array: array.nbytes), "run")
    what = data.draw(st.sampled_from([CLASSES, Channels("probabilities", (0,))]))
    downsample = data.draw(st.sampled_from(live.downsamples(what.kind)[:2]))
    side = 256 // downsample
    x, y = data.draw(st.integers(-40, 400)), data.draw(st.integers(-40, 300))
    box = Box.at(x, y, data.draw(st.integers(1, 300)), data.draw(st.integers(1, 300)))
    expected = stored.read(what, downsample, box)
    for iy in range(-1, 8):
        for ix in range(-1, 8):
            part = Box.at(ix * side, iy * side, side, side).intersect(box)
            if (ix, iy) not in done and not part.empty:
                expected[part.within(box)] = 0
    assert np.array_equal(live.read(what, downsample, box), expected)


def test_values_at_the_maps_border_do_not_fade(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "dark.tiff", np.zeros((300, 410, 3), np.uint8), Scale(0.5, 0.5), (1,))
    make_results(tmp_path / "dark.tiff", tmp_path / "out", darkness_model(), plan=SMALL_BLOCKS)
    asking = client(tmp_path / "out")
    base = f"/api/slides/{only_id(asking)}/layers/probability"
    for zoom in (9, 8, 7):
        assert values_of(picture(asking, f"{base}/{zoom}/0_0.png?channel=tumor")).min() == 255


def test_a_thumbnail_is_small_and_of_the_slide(shown: Shown) -> None:
    small = picture(shown.asking, f"{shown.base}/thumbnail.jpg", "L")
    assert max(small.shape) == 384
    whole = Image.fromarray(whole_level(shown.asking, f"{shown.base}/tiles", 9, ".jpg", "L"))
    resized = np.asarray(whole.resize(small.shape[::-1]))
    assert np.abs(resized.astype(int) - small).mean() < 5


# Machado, Oliveira and Fernandes (2009), deuteranopia at severity 1, on linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
# sRGB to XYZ over the white of D65.
XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / [[0.95047], [1.0], [1.08883]]
# Pale stains, as of other laboratories than that of the packaged slide.
PALE = {"eosin": (225, 175, 205), "hematoxylin": (120, 80, 150)}


def lab(color: tuple[float, ...], seen: np.ndarray | None = None) -> np.ndarray:
    """Return CIELAB of an sRGB color, by default as most people see it."""
    share = np.array(color) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = XYZ @ (linear if seen is None else np.clip(seen @ linear, 0, 1))
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def seen_lab(color: tuple[float, ...]) -> np.ndarray:
    """Return CIELAB of a color as a deuteranope sees it."""
    return lab(color, DEUTERANOPIA)


def measured_stains() -> dict[str, tuple[float, ...]]:
    """Return the mean color of the packaged slide's pixels that hold more of one stain than of the other."""
    with open_slide(sample_slide()) as slide:
        size = slide.info.size
        pixels = (
            slide.read_level(0, Box(0, 0, size.width, size.height))[::3, ::3].reshape(-1, 3).astype(float)
        )
    glass = np.percentile(pixels, 99, axis=0)
    density = np.log10(glass / np.maximum(pixels, 1)).clip(0)
    stains = np.array(STAINS) / np.linalg.norm(STAINS, axis=1, keepdims=True)
    hematoxylin, eosin, _ = (density @ np.linalg.inv(stains)).T
    tissue = density.max(axis=1) > 0.15
    held = {"hematoxylin": hematoxylin > eosin, "eosin": eosin > hematoxylin}
    return {name: tuple(pixels[tissue & mask].mean(axis=0)) for name, mask in held.items()}


def test_groups_of_the_bundled_model_stay_apart_for_color_blind_eyes() -> None:
    measured = measured_stains()
    assert [np.argmin(color) for color in measured.values()] == [1, 1], measured  # both absorb green the most
    stains = [*measured.values(), *PALE.values()]
    for card in list_models():
        safe = safe_colors((*card.tissue_classes, *card.class_groups))
        own = [one.color for one in card.class_groups]
        chosen = [safe[one.name] for one in card.class_groups]
        pairs = [*combinations(own, 2), *combinations(chosen, 2), *product(chosen, stains)]
        least = min(float(np.linalg.norm(seen_lab(a) - seen_lab(b))) for a, b in pairs)
        assert least >= 20, (card.name, least)  # CIE76
