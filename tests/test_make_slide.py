from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from scripts.make_slide import main
from tests.made.slides import (
    BLANK,
    HALF,
    PERIOD,
    TILE,
    SlideSpec,
    TileSource,
    encode_tile,
    level_sizes,
    make_slide,
    tissue_mask,
)
from tests.made.tissue import tissue_texture
from tests.processes import peak_memory
from wsi_seg import find_tissue
from wsi_seg.core.geometry import Box, Size
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import read_thumbnail


def test_openslide_takes_it_for_an_aperio_slide(tmp_path: Path) -> None:
    path = make_slide(tmp_path / "made.svs", SlideSpec(Size(5000, 3001), mpp=0.5))
    with openslide.OpenSlide(path) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert slide.properties["openslide.mpp-x"] == "0.5"
        assert slide.properties["openslide.objective-power"] == "20"
        assert slide.level_dimensions == ((5000, 3001), (1250, 750))
        assert slide.associated_images["thumbnail"].width == 1024


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000"])
def test_colors_survive_the_codec(codec: str, tmp_path: Path) -> None:
    rgb = np.zeros((2048, 2048, 3), np.uint8)
    rgb[...] = (200, 60, 130)
    Image.fromarray(rgb).save(tmp_path / "flat.png")
    spec = SlideSpec(Size(600, 600), tissue=1, codec=codec, texture=tmp_path / "flat.png")
    path = make_slide(tmp_path / "flat.svs", spec)
    for reader in ("openslide", "tiffslide"):
        with open_slide(path, reader=reader) as slide:
            pixels = slide.read_level(0, Box(40, 40, 560, 560)).reshape(-1, 3).mean(axis=0)
            assert pixels == pytest.approx((200, 60, 130), abs=3)


def test_levels_show_the_same_tissue(tmp_path: Path) -> None:
    path = make_slide(tmp_path / "made.svs", SlideSpec(Size(9000, 4321), seed=3))
    with open_slide(path) as slide:
        sizes = [level.size for level in slide.info.levels]
        assert sizes == [Size(9000, 4321), Size(2250, 1080), Size(562, 270)]
        finest = Image.fromarray(slide.read_level(0, Box(1600, 960, 6400, 4160)))
        for level, factor in ((1, 4), (2, 16)):
            reduced = np.asarray(finest.reduce(factor)).astype(int)
            box = Box(1600 // factor, 960 // factor, 6400 // factor, 4160 // factor)
            same = np.abs(slide.read_level(level, box) - reduced).mean()
            assert same < 6  # compressed twice
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                assert np.abs(slide.read_level(level, box.shifted(dx, dy)) - reduced).mean() > 1.3 * same


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 1.0])
def test_tissue_has_the_asked_share(share: float, tmp_path: Path) -> None:
    mask = tissue_mask(Size(64, 48), share, seed=1)
    assert mask.shape == (48, 64)
    assert mask.mean() == pytest.approx(share, abs=1e-3)
    path = make_slide(tmp_path / "made.svs", SlideSpec(Size(4096, 4096), tissue=share))
    with open_slide(path) as slide:
        thumbnail, _ = read_thumbnail(slide, 256)
    blank = (np.abs(thumbnail.astype(int) - BLANK) <= 3).all(axis=2)
    # The texture itself has some empty glass.
    assert share * 0.6 <= 1 - blank.mean() <= share + 0.03


def test_seed_decides_where_the_tissue_is(tmp_path: Path) -> None:
    masks = [tissue_mask(Size(40, 40), 0.4, seed) for seed in (0, 0, 1)]
    assert np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[0], masks[2])
    one, two = (make_slide(tmp_path / name, SlideSpec(Size(3000, 2000))) for name in ("1.svs", "2.svs"))
    assert one.read_bytes() == two.read_bytes()


def test_a_quarter_is_mirrored_on_all_sides() -> None:
    quarter = np.random.default_rng(0).integers(0, 256, (HALF, HALF, 3), np.uint8)
    source = TileSource(quarter, np.ones((20, 20), bool), "jpeg")
    whole = np.pad(quarter, ((0, HALF), (0, HALF), (0, 0)), mode="symmetric")
    for row, column in ((0, 0), (1, 9), (15, 8), (7, 17)):
        y, x = row % PERIOD * TILE, column % PERIOD * TILE
        assert np.array_equal(source.pixels(0, row, column), whole[y : y + TILE, x : x + TILE])


def test_the_made_tissue_compresses_as_scanned_tissue() -> None:
    """Tiles of three regions of BCSS at 0.25 µm/px, encoded alike, have 0.19 bytes a pixel (0.17 to 0.22)."""
    image = tissue_texture(1024, 0.25, seed=1)
    assert np.array_equal(image[:9], tissue_texture(1024, 0.25, seed=1)[:9])
    tiles = [image[y : y + TILE, x : x + TILE] for y in range(0, 1024, TILE) for x in range(0, 1024, TILE)]
    sizes = np.array([len(encode_tile(np.ascontiguousarray(tile), "jpeg")) for tile in tiles]) / TILE**2
    assert 0.13 <= sizes.mean() <= 0.24
    assert sizes.max() > 1.3 * sizes.min()
    colors = image.reshape(-1, 3).mean(axis=0)
    assert colors[1] < colors[0] and colors[1] < colors[2]  # pink and purple


def test_a_slide_of_made_tissue(tmp_path: Path) -> None:
    path = make_slide(tmp_path / "made.svs", SlideSpec(Size(1024, 768), mpp=1.0, tissue=1, texture="tissue"))
    with open_slide(path) as slide:
        shown = slide.read_level(0, Box(0, 0, 1024, 768)).astype(int)
        assert np.abs(shown - tissue_texture(HALF, 1.0)[:768, :1024]).mean() < 12
        assert find_tissue(slide).mask.mean() > 0.5


def test_bounds(tmp_path: Path) -> None:
    bounds = Box(1000, 500, 3500, 2600)
    path = make_slide(tmp_path / "made.scn", SlideSpec(Size(5000, 4000), tissue=1, bounds=bounds))
    for reader in ("openslide", "tiffslide"):
        with open_slide(path, reader=reader) as slide:
            assert slide.info.size == Size(5000, 4000)
            assert slide.info.bounds == bounds
            around = slide.read_level(0, bounds.grown(8))
            around[8:-8, 8:-8] = 255
            assert (around == 255).all()
            assert (slide.read_level(0, bounds) < 230).any(axis=2).mean() > 0.5


def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    specs = [SlideSpec(Size(side, side), tissue=0.02) for side in (1024, 4096, 16_384)]
    # In a process of its own: threads that other tests left in this one allocate too.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        paths = [tmp_path / "made.svs"] * len(specs)
        _, small, large = pool.map(peak_memory, [make_slide] * len(specs), paths, specs)
    assert large < small * 1.3


def test_level_sizes() -> None:
    assert [size.width for size in level_sizes(Size(100_000, 100_000))] == [100_000, 25_000, 6250, 1562]
    assert level_sizes(Size(TILE, TILE)) == [Size(TILE, TILE)]


@pytest.mark.parametrize(
    "spec",
    [
        SlideSpec(Size(0, 10)),
        SlideSpec(Size(10, 10), tissue=1.5),
        SlideSpec(Size(10, 10), mpp=0),
        SlideSpec(Size(10, 10), codec="png"),
        SlideSpec(Size(10, 10), bounds=Box(5, 5, 20, 20)),
    ],
)
def test_bad_specs_are_refused(spec: SlideSpec, tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        make_slide(tmp_path / "made.svs", spec)
    assert not (tmp_path / "made.svs").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made.svs"
    main(
        [
            str(path),
            "--size",
            "900",
            "700",
            "--mpp",
            "0.3",
            "--tissue",
            "1",
            "--codec",
            "jpeg2000",
            "--seed",
            "4",
        ]
    )
    assert "900 × 700 px" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([str(tmp_path / "other.svs"), "--texture", "nowhere.png"])
    assert "nowhere.png is no file; give sample, tissue, or an image file" in capsys.readouterr().err
    assert not (tmp_path / "other.svs").exists()
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_svs
        assert "MPP = 0.3" in tiff.pages.first.description
        assert tiff.pages.first.compression.name == "APERIO_JP2000_RGB"
