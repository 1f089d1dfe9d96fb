"""The fast TIFF reader against OpenSlide: the same pixels and facts, or a refusal that says why."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from tests.made.pyramids import area_mean, write_pyramid
from tests.made.slides import SlideSpec, make_slide
from wsi_seg.cli import app
from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import Slide
from wsi_seg.testing.readers import CHECKS, Opener

RGB = NDArray[np.uint8]
TILE = (64, 80)
SIZE = Size(1056, 808)  # edge tiles that reach beyond the levels; whole factors, so that OpenSlide is exact


def picture(size: Size) -> RGB:
    coarse = np.random.default_rng(1).integers(0, 255, (size.height // 16, size.width // 16, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size.width, size.height), Image.Resampling.BICUBIC))


def write_levels(path: Path, *, sub: bool = False, **options: Any) -> Path:
    """Write a generic tiled pyramid of three levels as separate pages, or below the first page."""
    pixels = picture(SIZE)
    with tifffile.TiffWriter(path) as writer:
        for level, factor in enumerate((1, 2, 4)):
            writer.write(
                area_mean(pixels, factor),
                tile=TILE,
                subfiletype=1 if level else 0,
                subifds=2 if sub and level == 0 else None,
                resolution=(4e4 / factor, 4e4 / factor),
                resolutionunit="CENTIMETER",
                metadata=None,
                **{"photometric": "rgb", **options},
            )
    return path


def write_ycbcr_jpeg2000(path: Path) -> Path:
    """Write an Aperio slide of compression 33003: JPEG 2000 whose channels are luma and chroma."""

    def tiles() -> Iterator[bytes]:
        full = np.pad(picture(SIZE), ((0, 56), (0, 64), (0, 0)))
        for y in range(0, SIZE.height, 96):
            for x in range(0, SIZE.width, 112):
                buffer = io.BytesIO()
                ycbcr = np.asarray(Image.fromarray(full[y : y + 96, x : x + 112]).convert("YCbCr"))
                Image.fromarray(ycbcr).save(
                    buffer, "JPEG2000", no_jp2=True, irreversible=True, quality_layers=[10], mct=0
                )
                yield buffer.getvalue()

    with tifffile.TiffWriter(path) as writer:
        writer.write(
            tiles(),
            shape=(SIZE.height, SIZE.width, 3),
            dtype=np.uint8,
            tile=(96, 112),
            photometric="rgb",
            compression=33003,
            description=f"Aperio made \r\n{SIZE.width}x{SIZE.height}|AppMag = 40|MPP = 0.25",
            metadata=None,
        )
    return path


def write_philips(path: Path) -> Path:
    """Write a Philips slide: all pages are padded to whole tiles, and XML tells the true factors."""
    size, factors = Size(960, 768), (1, 2, 4)
    pixels = picture(size)
    with tifffile.TiffWriter(path) as writer:
        for level, factor in enumerate(factors):
            reduced = area_mean(pixels, factor)
            pad = [(0, -reduced.shape[0] % 128), (0, -reduced.shape[1] % 128), (0, 0)]
            writer.write(
                np.pad(reduced, pad, constant_values=99),
                tile=(128, 128),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                subfiletype=1 if level else 0,
                software="Philips DP v1.0",
                description=None if level else philips_xml(factors),
                metadata=None,
            )
    return path


def philips_xml(factors: Sequence[int]) -> str:
    def attribute(name: str, value: str) -> str:
        return f'<Attribute Name="{name}" Group="0x301D" Element="0x1" PMSVR="IString">{value}</Attribute>'

    def spacing(factor: int) -> str:
        return attribute("DICOM_PIXEL_SPACING", f"&quot;{factor * 25e-5}&quot; &quot;{factor * 25e-5}&quot;")

    levels = "".join(
        f'<DataObject ObjectType="PixelDataRepresentation">{spacing(factor)}</DataObject>'
        for factor in factors
    )
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        '<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array><DataObject ObjectType="DPScannedImage">'
        + attribute("PIM_DP_IMAGE_TYPE", "WSI")
        + spacing(1)
        + f'<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{levels}</Array></Attribute>'
        "</DataObject></Array></Attribute></DataObject>"
    )


MAKERS: dict[str, Callable[[Path], Path]] = {
    "svs": lambda path: make_slide(path, SlideSpec(Size(2320, 2208), tissue=0.7)),
    "svs-odd": lambda path: make_slide(path, SlideSpec(Size(2311, 2205), tissue=0.7)),
    "jpeg2000": lambda path: make_slide(path, SlideSpec(Size(1030, 700), codec="jpeg2000", tissue=1)),
    "jpeg2000-ycbcr": write_ycbcr_jpeg2000,
    "philips": write_philips,
    "jpeg-rgb": partial(write_levels, compression="jpeg", compressionargs={"outcolorspace": "RGB"}),
    "jpeg-444": partial(write_levels, compression="jpeg", photometric="ycbcr", subsampling=(1, 1)),
    "jpeg-420": partial(write_levels, compression="jpeg", photometric="ycbcr", subsampling=(2, 2)),
    "deflate": partial(write_levels, compression="deflate", predictor=True),
    "lzw": partial(write_levels, compression="lzw"),
    "plain": write_levels,
    "subifds": partial(write_levels, sub=True, compression="jpeg", photometric="ycbcr", subsampling=(2, 2)),
    "odd": lambda path: write_pyramid(path, picture(SIZE)[:779, :1003], Scale(0.25, 0.26), (1, 2, 4)),
}
KINDS = ("sample", *MAKERS)
# The libraries' JPEG and JPEG 2000 decoders are the same and give the same bytes; where channels are turned
# from YCbCr to RGB afterwards, OpenSlide and Pillow round differently.
TOLERANCE = {"jpeg2000-ycbcr": 1}
# OpenSlide interpolates where a level's factor is no whole number, and sees no SubIFDs.
INEXACT = ("odd", "svs-odd", "subifds")


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory, sample_svs: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tiffs")
    made = {kind: maker(folder / f"{kind}.tif") for kind, maker in MAKERS.items()}
    return {"sample": sample_svs, **made}


@pytest.fixture(scope="module")
def pairs(slides: dict[str, Path]) -> Iterator[dict[str, tuple[Slide, Slide]]]:
    """Each slide, opened by this reader and by OpenSlide."""
    opened = {
        kind: (open_slide(path, reader="tiff"), open_slide(path, reader="openslide"))
        for kind, path in slides.items()
    }
    yield opened
    for pair in opened.values():
        for slide in pair:
            slide.close()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_contract(check: Callable[[Opener], None], kind: str, slides: dict[str, Path]) -> None:
    check(partial(open_slide, slides[kind], reader="tiff"))


# --- as OpenSlide ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_facts_are_those_of_openslide(kind: str, pairs: dict[str, tuple[Slide, Slide]]) -> None:
    ours, theirs = (slide.info for slide in pairs[kind])
    assert ours.reader == "tiff"
    if kind == "subifds":
        assert len(theirs.levels) == 1 and ours.levels[0] == theirs.levels[0]
        ours = replace(ours, levels=theirs.levels)
    assert replace(ours, reader="openslide") == theirs


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in INEXACT])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_box_has_the_pixels_of_openslide(
    kind: str, pairs: dict[str, tuple[Slide, Slide]], data: st.DataObject
) -> None:
    ours, theirs = pairs[kind]
    level = data.draw(st.integers(0, len(ours.info.levels) - 1))
    size = ours.info.levels[level].size
    x, y = (data.draw(st.integers(-90, side + 30)) for side in (size.width, size.height))
    box = Box.at(x, y, data.draw(st.integers(1, 400)), data.draw(st.integers(1, 400)))
    step = theirs.info.levels[level].downsample
    assert step.x.is_integer() and step.y.is_integer()
    difference = np.abs(ours.read_level(level, box).astype(int) - theirs.read_level(level, box))
    assert difference.max() <= TOLERANCE.get(kind, 0)


@pytest.mark.parametrize("kind", INEXACT)
def test_levels_hold_the_stored_pixels(kind: str, slides: dict[str, Path]) -> None:
    with open_slide(slides[kind]) as slide, tifffile.TiffFile(slides[kind]) as tiff:
        assert slide.info.reader == "tiff"
        assert len(slide.info.levels) == len(tiff.series[0].levels) > 1
        for index, level in enumerate(slide.info.levels):
            whole = Box(0, 0, level.size.width, level.size.height)
            assert np.array_equal(slide.read_level(index, whole), tiff.series[0].levels[index].asarray())


@pytest.mark.parametrize("kind", ["plain", "deflate", "jpeg-420", "philips"])
def test_missing_tiles_are_white(kind: str, slides: dict[str, Path], tmp_path: Path) -> None:
    path = patch_count(slides[kind], tmp_path / "missing.tif", page=1, tile=2, count=0)
    with open_slide(path) as ours, open_slide(path, reader="openslide") as theirs:
        assert ours.info.reader == "tiff"
        box = Box(0, 0, 400, 300)
        assert np.array_equal(ours.read_level(1, box), theirs.read_level(1, box))
        whole = 128 if kind == "philips" else TILE[1]
        assert (ours.read_level(1, Box.at(2 * whole, 0, whole, TILE[0])) == 255).all()


def patch_count(path: Path, out: Path, *, page: int, tile: int, count: int | None) -> Path:
    """Copy a file with another byte count of one tile, half of it where `count` is None."""
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[page].aspage().tags["TileByteCounts"]
        code = {3: "H", 4: "I", 16: "Q"}[int(tag.dtype)]
        at = tag.valueoffset + struct.calcsize(code) * tile
        old = tiff.pages[page].aspage().databytecounts[tile]
        struct.pack_into(tiff.byteorder + code, content, at, old // 2 if count is None else count)
    out.write_bytes(content)
    return out


# --- what is left to OpenSlide ---------------------------------------------------------------------


def planes(path: Path) -> Path:
    pixels = np.ascontiguousarray(picture(SIZE).transpose(2, 0, 1))
    tifffile.imwrite(path, pixels, tile=TILE, photometric="rgb", planarconfig="separate", metadata=None)
    return path


def twins(path: Path) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for _ in range(2):
            writer.write(picture(SIZE), tile=TILE, photometric="rgb", metadata=None)
    return path


def scanner_of_another_kind(path: Path) -> Path:
    return make_slide(path, SlideSpec(Size(2048, 1536), bounds=Box(512, 256, 1400, 1300)))


def holes(path: Path) -> Path:
    whole = make_slide(path.with_name("whole.svs"), SlideSpec(Size(2311, 2205)))
    return patch_count(whole, path, page=0, tile=2, count=0)


def float_differences(path: Path) -> Path:
    write_levels(path, compression="deflate", predictor=True)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages.first.tags["Predictor"].overwrite(3)
    return path


def subsampled(path: Path) -> Path:
    """Change the heads of JPEG 2000 tiles so that they announce chroma of half the width."""
    content = write_ycbcr_jpeg2000(path).read_bytes()
    head = b"\x00\x03\x07\x01\x01\x07\x01\x01\x07\x01\x01"  # three channels of 8 bit at full size
    assert head in content
    path.write_bytes(content.replace(head, b"\x00\x03\x07\x01\x01\x07\x02\x01\x07\x02\x01"))
    return path


@pytest.mark.parametrize(
    ("maker", "reason"),
    [
        (planes, "its 3 channels"),
        (twins, "2 pages have the 1056 × 808 px"),
        (partial(write_levels, compression="zstd"), "ZSTD"),
        (partial(write_levels, compression="deflate", photometric="ycbcr", subsampling=(1, 1)), "YCBCR"),
        (float_differences, "DEFLATE"),
        (scanner_of_another_kind, "not leica"),
        (holes, "tiles are missing"),
        (subsampled, "subsampled"),
    ],
)
def test_what_is_not_understood_is_left_to_openslide(
    maker: Callable[[Path], Path], reason: str, tmp_path: Path
) -> None:
    path = maker(tmp_path / "other.tif")
    with pytest.raises(SlideError, match=reason) as error:
        open_slide(path, reader="tiff")
    message = str(error.value)
    assert message.startswith(f"{path}: the reader tiff cannot open this file: ") and "\n" not in message
    if maker is not subsampled:  # OpenSlide tries a tile of it, and these are not real
        with open_slide(path) as slide:
            assert slide.info.reader == "openslide"


def test_the_command_line_says_why_and_which(sample_svs: Path, data_dir: Path) -> None:
    dicom = next((data_dir / "slides" / "CMU-1-Small-Region-dicom").glob("*.dcm"))
    refused = CliRunner().invoke(app, ["info", str(dicom), "--reader", "tiff"])
    assert refused.exit_code == 1
    assert f"error: {dicom}: the reader tiff cannot open this file: it knows slides of" in refused.stderr
    assert "reader       tiff (aperio)" in CliRunner().invoke(app, ["info", str(sample_svs)]).stdout


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "damage"),
    [
        *((kind, "cut") for kind in ("svs", "jpeg2000", "deflate", "lzw", "plain")),
        *((kind, "zeros") for kind in ("svs", "jpeg2000", "deflate", "lzw")),
    ],
)
def test_a_bad_tile_is_named_and_the_rest_stays_readable(
    kind: str, damage: str, slides: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "bad.tif"
    if damage == "cut":
        patch_count(slides[kind], path, page=0, tile=1, count=None)
    else:
        with tifffile.TiffFile(slides[kind]) as tiff:
            at, count = (
                values[1] for values in (tiff.pages.first.dataoffsets, tiff.pages.first.databytecounts)
            )
        content = bytearray(slides[kind].read_bytes())
        content[at : at + count] = bytes(count)
        path.write_bytes(content)
    with open_slide(path) as slide, open_slide(slides[kind]) as whole:
        assert slide.info.reader == "tiff"
        width, height = (256, 256) if kind in ("svs", "jpeg2000") else (TILE[1], TILE[0])
        expected = f"cannot read level 0, columns {width}–{2 * width}, rows 5–{height}: "
        good = Box.at(2 * width, 10, 200, 300)
        for _ in range(2):
            with pytest.raises(SlideError, match=expected) as error:
                slide.read_level(0, Box(3, 5, 600, 500))
            assert str(path) in str(error.value) and "\n" not in str(error.value)
            assert np.array_equal(slide.read_level(0, good), whole.read_level(0, good))


def test_a_file_that_became_shorter(slides: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "short.tif"
    path.write_bytes(slides["plain"].read_bytes())
    with open_slide(path) as slide:
        os.truncate(path, 30_000)
        with pytest.raises(SlideError, match="the file ends within a tile"):
            slide.read_level(0, Box(0, 0, 500, 500))


# --- economy --------------------------------------------------------------------------------------


def test_each_tile_is_read_once(slides: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    pread = os.pread

    def counted(descriptor: int, count: int, offset: int) -> bytes:
        reads.append(offset)
        return pread(descriptor, count, offset)

    monkeypatch.setattr(os, "pread", counted)
    with open_slide(slides["svs"]) as slide:
        slide.read_level(0, Box(10, 10, 700, 500))  # 3 × 2 tiles
        assert len(reads) == len(set(reads)) == 6
        slide.read_level(0, Box(300, 200, 760, 300))  # the same ones again
        assert len(reads) == 6
        slide.read_level(0, Box(300, 200, 770, 300))  # and 1 × 2 more
        assert len(reads) == 8


def test_memory_is_bounded(slides: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsi_seg.slides.readers.tiled_tiff.CACHE_BYTES", 2 * 256 * 256 * 3)
    with open_slide(slides["svs"]) as slide:
        slide.read_level(0, Box(0, 0, 2000, 2000))
        assert slide._tile.cache_info().currsize == 2  # type: ignore[attr-defined]


def test_threads_read_what_one_thread_reads(slides: dict[str, Path]) -> None:
    boxes = [Box.at(37 * i, 29 * i, 300, 300) for i in range(24)]
    with open_slide(slides["svs"]) as slide:
        expected = [slide.read_level(0, box) for box in boxes]
    with open_slide(slides["svs"]) as shared, ThreadPoolExecutor(6) as pool:
        found = list(pool.map(partial(shared.read_level, 0), boxes))
    assert all(map(np.array_equal, found, expected))


def test_reading_needs_neither_torch_nor_dask(sample_svs: Path) -> None:
    code = (
        "import sys; from wsi_seg.slides.readers import open_slide; slide = open_slide(sys.argv[1]); "
        "print(slide.info.reader, [name for name in ('torch', 'dask', 'zarr') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(sample_svs)], capture_output=True, text=True)
    assert done.stdout.strip() == "tiff []"
