"""The image of a file that is the slide, its levels, and files that are no brightfield slide."""

from __future__ import annotations

import csv
import json
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from typer.testing import CliRunner, Result

from tests.made.pyramids import area_mean
from wsi_seg.cli import app
from wsi_seg.core.geometry import Box, Size
from wsi_seg.datasets.mask_files import MaskReader
from wsi_seg.slides.readers import READERS, open_slide
from wsi_seg.slides.readers.base import make_levels

SIDE = 512
HALF_MICRON = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
TILED = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None}
SLIDE_READERS = ("tiff", "openslide", "tiffslide")


def tissue(height: int = SIDE, width: int = SIDE) -> NDArray[np.uint8]:
    """Return white glass with a purple, uneven square a quarter of its size in the upper left."""
    pixels = np.full((height, width, 3), 245, np.uint8)
    noise = np.random.default_rng(3).integers(-20, 20, (height // 2, width // 2, 1))
    pixels[: height // 2, : width // 2] = noise + np.array([150, 80, 160])
    return pixels


def macro(height: int, width: int) -> NDArray[np.uint8]:
    """Return a picture of glass with a blue label, which counts as tissue if it is taken for a level."""
    pixels = np.full((height, width, 3), 244, np.uint8)
    pixels[:, width // 2 :] = (60, 90, 200)
    return pixels


def write_pages(path: Path, pages: Sequence[NDArray[Any]], **options: Any) -> Path:
    """Write tiled pages, all but the first flagged as reduced."""
    with tifffile.TiffWriter(path) as writer:
        for number, page in enumerate(pages):
            writer.write(page, subfiletype=1 if number else 0, **{**TILED, **HALF_MICRON, **options})
    return path


def write_macro_first(path: Path) -> Path:
    """Write an OME-TIFF whose first image is a macro and whose second is the slide, with a level."""
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(macro(128, 384), **{**TILED, "metadata": {"axes": "YXS", "Name": "macro"}})
        physical = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        writer.write(
            tissue(), subifds=1, **{**TILED, "metadata": {"axes": "YXS", "Name": "scan", **physical}}
        )
        writer.write(area_mean(tissue(), 2), subfiletype=1, **TILED)
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def info(path: Path, *options: object) -> dict[str, Any]:
    result = call("info", path, "--json", *options)
    assert result.exit_code == 0, result.output
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


def sizes(facts: dict[str, Any]) -> list[tuple[int, int]]:
    return [(level["size"]["width"], level["size"]["height"]) for level in facts["levels"]]


def refusal(*arguments: object) -> str:
    """Return the one line with which a command fails."""
    result = call(*arguments)
    assert result.exit_code == 1, result.output
    *notices, line = [line for line in result.stderr.splitlines() if not line.startswith("  log: ")]
    assert line.startswith("error: ") and not any("error" in notice for notice in notices), result.stderr
    return line


def plan(path: Path, model: Path, *options: object) -> dict[str, Any]:
    result = call("run", path, "-o", path.parent / "out", "-m", model, "--dry-run", "--json", *options)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)[0]
    return found


# --- levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", SLIDE_READERS)
def test_a_macro_among_the_levels_is_no_source_of_tissue(
    reader: str, tmp_path: Path, tiny_model: Path
) -> None:
    """The 40 × 37 px page is 12.8 times as small in x and 13.8 times in y."""
    levels = [tissue(), area_mean(tissue(), 2)]
    good = write_pages(tmp_path / "good.tif", levels)
    bad = write_pages(tmp_path / "bad.tif", [*levels, macro(37, 40)])
    option = ("--set", f"reader={reader}")
    with_macro, without = plan(bad, tiny_model, *option), plan(good, tiny_model, *option)
    assert sizes(with_macro["slide"]) == sizes(without["slide"]) == [(512, 512), (256, 256)]
    assert with_macro["tissue_digest"] == without["tissue_digest"]
    assert len(with_macro["slide"]["left_out"]) == 1 and "40 × 37 px" in with_macro["slide"]["left_out"][0]
    assert without["slide"]["left_out"] == []
    text = call("info", bad, "--reader", reader).stdout
    assert "left out     image 1, 40 × 37 px" in text


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_a_gray_level_of_an_rgb_slide_is_refused(reader: str, tmp_path: Path) -> None:
    path = tmp_path / "gray_level.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(tissue(), **{**TILED, **HALF_MICRON})
        gray = area_mean(tissue(), 2)[..., 0].copy()
        writer.write(gray, subfiletype=1, **{**TILED, **HALF_MICRON, "photometric": "minisblack"})
    result = call("info", path, "--reader", reader)
    assert result.exit_code == 1 and "page 1 (256 × 256 px)" in result.stderr and "gray" in result.stderr


def test_levels_that_a_reader_does_not_see_are_named(tmp_path: Path) -> None:
    path = tmp_path / "unflagged.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in (tissue(), area_mean(tissue(), 2)):
            writer.write(page, **{**TILED, **HALF_MICRON})
    with open_slide(path, reader="openslide") as slide:
        levels = [str(level.size) for level in slide.info.levels]
        assert ("page 1, 256 × 256 px" in slide.info.left_out) == ("256 × 256" not in levels)
    seen = call("info", path, "--reader", "openslide").stdout
    assert "256 × 256 px" in seen, seen


def test_openslide_reads_the_levels_after_one_that_is_left_out(tmp_path: Path) -> None:
    levels = [tissue(), area_mean(tissue(), 2), macro(200, 160), area_mean(tissue(), 4)]
    path = write_pages(tmp_path / "between.tif", levels)
    for reader in ("tiff", "openslide"):
        with open_slide(path, reader=reader) as slide:
            assert [level.size.width for level in slide.info.levels] == [512, 256, 128]
            for level, stored in ((1, levels[1]), (2, levels[3])):
                whole = Box(0, 0, stored.shape[1], stored.shape[0])
                assert np.array_equal(slide.read_level(level, whole), stored)


def test_a_macro_wider_than_the_slide_is_not_level_0(tmp_path: Path) -> None:
    tall = tissue(1024, 256)
    path = write_pages(tmp_path / "tall.tif", [tall, area_mean(tall, 2), macro(128, 640)])
    facts = info(path)
    assert sizes(facts) == [(256, 1024), (128, 512)]
    assert "640 × 128 px" in " ".join(facts["left_out"])
    for reader in ("tiff", "openslide"):
        assert "OpenSlide takes another image" in refusal("info", path, "--reader", reader)


@given(
    base=st.tuples(st.integers(300, 200_000), st.integers(300, 200_000)),
    factors=st.lists(st.floats(1.3, 4.5), min_size=1, max_size=4),
    rounding=st.sampled_from([np.floor, np.ceil, np.round]),
)
def test_levels_that_were_rounded_are_levels(
    base: tuple[int, int], factors: list[float], rounding: Callable[[Any], Any]
) -> None:
    steps = np.cumprod([1.0, *factors])
    listed = [tuple(int(max(1, rounding(side / step))) for side in base) for step in steps]
    listed = [size for size in listed if min(size) > 20]
    pyramid = make_levels([(w, h) for w, h in listed])
    assert pyramid.stored == tuple(range(len(listed))) and not pyramid.left_out


def test_levels_of_no_size_or_of_the_same_size_are_none() -> None:
    pyramid = make_levels(
        [(1000, 800), (500, 400), (500, 400), (0, 0), (250, 0), (1, 1), (1, 1), (2000, 1600)]
    )
    assert [level.size for level in pyramid.levels] == [Size(1000, 800), Size(500, 400), Size(1, 1)]
    assert pyramid.stored == (0, 1, 5) and len(pyramid.left_out) == 5


# --- images ---------------------------------------------------------------------------------------


def test_the_largest_image_is_the_slide_and_another_can_be_asked_for(tmp_path: Path) -> None:
    path = write_macro_first(tmp_path / "both.ome.tif")
    facts, first = info(path), info(path, "--series", 0)
    assert (sizes(facts), facts["series"]) == ([(512, 512), (256, 256)], 1)
    assert facts["left_out"] == ["image 0 (macro), 384 × 128 px"]
    assert (facts["mpp"], facts["mpp_source"]) == ({"x": 0.5, "y": 0.5}, "ome-xml")
    assert (sizes(first), first["series"]) == ([(384, 128)], 0)
    assert first["left_out"] == ["image 1 (scan), 512 × 512 px"]
    assert first["fingerprint"] != facts["fingerprint"]
    assert "has no image 2; it holds 2 images" in refusal("info", path, "--series", 2)
    assert "sees only the first image" in refusal("info", path, "--reader", "openslide")
    with open_slide(path) as slide:
        for level, stored in enumerate((tissue(), area_mean(tissue(), 2))):
            assert np.array_equal(slide.read_level(level, Box(0, 0, *stored.shape[1::-1])), stored)


def test_a_run_takes_the_series_from_a_flag_a_setting_or_a_table(tmp_path: Path, tiny_model: Path) -> None:
    path = write_macro_first(tmp_path / "both.ome.tif")
    out, common = tmp_path / "results", ("-m", tiny_model, "--mpp", "0.5")
    assert plan(path, tiny_model, *common[2:])["slide"]["series"] == 1
    table = tmp_path / "table.csv"
    table.write_text("slide,name,series\nboth.ome.tif,scan,1\nboth.ome.tif,macro,0\n")
    result = call("run", table, "-o", out, *common)
    assert result.exit_code == 0, result.output
    manifests = [json.loads((out / name / "manifest.json").read_text()) for name in ("scan", "macro")]
    assert [manifest["slide"]["size"]["width"] for manifest in manifests] == [512, 384]
    summary = json.loads((out / "scan" / "summary.json").read_text())
    assert summary["tissue_area_mm2"] == pytest.approx((SIDE / 2 * 0.5e-3) ** 2, rel=0.3)
    table.write_text("slide,name\nboth.ome.tif,macro\n")
    for options, code in ((("--series", 0), 0), (("--set", "series=1"), 1)):
        result = call("run", table, "-o", out, *common, *options)
        assert result.exit_code == code, result.output
    assert "--overwrite" in result.stderr


def test_a_thumbnail_before_the_slide_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "thumb.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(area_mean(tissue(), 4), photometric="rgb", metadata=None)
        writer.write(tissue(), **TILED, **HALF_MICRON)
    facts = info(path)
    assert sizes(facts) == [(SIDE, SIDE)] and facts["mpp"] == {"x": 0.5, "y": 0.5}
    assert facts["left_out"] == ["image 0, 128 × 128 px"]


def test_the_other_images_of_a_scanner_and_more_planes_are_named(sample_svs: Path, tmp_path: Path) -> None:
    facts = info(sample_svs)
    assert facts["left_out"] == ["label, 387 × 463 px", "macro, 1280 × 431 px", "thumbnail, 574 × 768 px"]
    assert "holds one slide; leave out --series" in refusal("info", sample_svs, "--series", 1)
    path = tmp_path / "planes.tif"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(3):
            writer.write(tissue(), **TILED)
    assert info(path)["left_out"] == ["2 more of 512 × 512 px"]
    assert "does not read one of 3 planes" in refusal("info", path, "--reader", "tiffslide")


# --- pixels ---------------------------------------------------------------------------------------


def save(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **{**TILED, **HALF_MICRON, **options})
    return path


def save_channels(path: Path, kind: type[np.generic] = np.uint8) -> Path:
    channels = np.moveaxis(tissue().astype(kind), 2, 0)
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(channels, **{**TILED, "photometric": "minisblack", "metadata": {"axes": "CYX"}})
    return path


def save_qptiff(path: Path) -> Path:
    """Write fluorescence as Akoya scanners do: pages of one gray channel each, and a thumbnail in RGB."""
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for step in (1, 2):
            for channel in range(3):
                page = np.ascontiguousarray(tissue()[::step, ::step, channel])
                options = {**TILED, "photometric": "minisblack", "software": "PerkinElmer-QPI"}
                writer.write(page, subfiletype=step - 1, **options)
            if step == 1:
                writer.write(
                    area_mean(tissue(), 4), photometric="rgb", software="PerkinElmer-QPI", metadata=None
                )
    return path


def save_png16(path: Path) -> Path:
    """Write RGB of 12 bits in 16, which Pillow would cut to its nearly black high bytes."""
    path.write_bytes(imagecodecs.png_encode(tissue().astype(np.uint16) * 16))
    return path


NO_SLIDES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "gray.tif": (lambda path: save(path, tissue()[..., 0], photometric="minisblack"), "one gray channel is"),
    "white0.tif": (
        lambda path: save(path, tissue()[..., 0], photometric="miniswhite"),
        "one gray channel is",
    ),
    "three.tif": (
        lambda path: save(path, tissue(), photometric="minisblack", planarconfig="contig"),
        "3 gray",
    ),
    "deep.tif": (lambda path: save(path, tissue().astype(np.uint16) * 257), "16-bit RGB"),
    "twelve.tif": (lambda path: save(path, tissue().astype(np.uint16) * 16), "16-bit RGB"),
    "float.tif": (lambda path: save(path, tissue().astype(np.float32) / 255), "32-bit float RGB"),
    "gray16.tif": (
        lambda path: save(path, tissue()[..., 0].astype(np.uint16), photometric="minisblack", tile=None),
        "16-bit gray",
    ),
    "strips16.tif": (lambda path: save(path, tissue().astype(np.uint16) * 16, tile=None), "16-bit RGB"),
    "five.tif": (
        lambda path: save(path, np.dstack([tissue(), tissue()[..., :2]]), extrasamples=[0, 0]),
        "5 channels of kind RGB",
    ),
    "fluorescence.ome.tif": (save_channels, "3 gray channels, as of fluorescence"),
    "fluorescence16.ome.tif": (partial(save_channels, kind=np.uint16), "16-bit gray"),
    "fluorescence.qptiff": (save_qptiff, "3 gray channels, as of fluorescence"),
    "mirrored.tif": (lambda path: save(path, tissue(), extratags=[(274, 3, 1, 2, True)]), "orientation 2"),
    "deep.png": (save_png16, "16 bits"),
}


@pytest.mark.parametrize("name", NO_SLIDES)
def test_what_is_no_brightfield_slide_is_refused_whatever_the_reader(
    name: str, tmp_path: Path, tiny_model: Path
) -> None:
    make, reason = NO_SLIDES[name]
    path = make(tmp_path / name)
    line = refusal("run", path, "-o", tmp_path / "out", "-m", tiny_model)
    assert f"error: {path}: " in line and reason in line
    assert not (tmp_path / "out" / path.stem).exists()
    for reader in READERS if path.suffix != ".png" else ("image",):
        assert refusal("info", path, "--reader", reader) == line


def test_gray_pictures_are_read_as_plain_images(tmp_path: Path) -> None:
    """As a model for ultrasound needs them."""
    gray = np.ascontiguousarray(tissue(128, 128)[..., 1])
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray).save(tmp_path / "gray.tif")
    save(tmp_path / "white0.tif", 255 - gray, tile=None, photometric="miniswhite")
    for path in sorted(tmp_path.iterdir()):
        with open_slide(path) as slide:
            assert slide.info.reader == "image"
            pixels = slide.read_level(0, Box(0, 0, 128, 128))
        assert np.array_equal(pixels, np.repeat(gray[..., None], 3, axis=2))
    assert "use the reader image" in refusal("info", tmp_path / "gray.tif", "--reader", "tiffslide")


@pytest.mark.parametrize("kind", ["unspecified", "unassalpha", "assocalpha"])
@pytest.mark.parametrize("layout", [{}, {"tile": None}], ids=["tiled", "strips"])
def test_a_fourth_channel_without_content_hides_nothing(
    kind: str, layout: dict[str, Any], tmp_path: Path
) -> None:
    empty = np.zeros((SIDE, SIDE, 1), np.uint8)
    path = save(tmp_path / "four.tif", np.dstack([tissue(), empty]), extrasamples=[kind], **layout)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_level(0, Box(0, 0, SIDE, SIDE)), tissue())
    other = "image" if layout else "openslide"
    assert "empty fourth channel" in refusal("info", path, "--reader", other)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_transparent_parts_are_white_in_every_reader(kind: str, tmp_path: Path) -> None:
    opaque = np.full((SIDE, SIDE, 1), 255, np.uint8)
    opaque[:, 100:300] = 0
    pixels = np.where(opaque > 0, tissue(), 0).astype(np.uint8)
    path = save(tmp_path / "part.tif", np.dstack([pixels, opaque]), extrasamples=[kind])
    Image.fromarray(np.dstack([pixels, opaque])).save(tmp_path / "part.png")
    for file, reader in ((path, "openslide"), (path, "tiffslide"), (tmp_path / "part.png", "image")):
        with open_slide(file, reader=reader) as slide:
            read = slide.read_level(0, Box(0, 0, SIDE, SIDE))
        assert np.array_equal(read, np.where(opaque > 0, tissue(), 255))


def test_a_png_that_is_transparent_throughout_shows_what_it_holds(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([tissue(), np.zeros((SIDE, SIDE), np.uint8)])).save(tmp_path / "hidden.png")
    with open_slide(tmp_path / "hidden.png") as slide:
        assert np.array_equal(slide.read_level(0, Box(0, 0, SIDE, SIDE)), tissue())


def test_a_slide_without_tissue_is_news(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, pixels in (("blank", np.full_like(tissue(), 245)), ("tissue", tissue())):
        save(tmp_path / f"{name}.tif", pixels)
    out = tmp_path / "out"
    command = ("run", tmp_path / "blank.tif", tmp_path / "tissue.tif", "-o", out, "-m", tiny_model)
    for status in ("done", "skipped"):
        result = call(*command)
        assert result.exit_code == 0, result.output
        with (out / "batch.csv").open() as file:
            rows = {row["name"]: row for row in csv.DictReader(file)}
        assert "no tissue was found" in rows["blank"]["reason"] and rows["tissue"]["reason"] == ""
        assert rows["blank"]["status"] == rows["tissue"]["status"] == status
    warnings = {name: json.loads((out / name / "summary.json").read_text())["warnings"] for name in rows}
    assert "no tissue was found" in warnings["blank"][0] and warnings["tissue"] == []
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]  # on the terminal
    assert len(said) == 1 and said[0].startswith("blank: no tissue was found")


# --- orientation ----------------------------------------------------------------------------------

# How an upright picture is stored for each orientation of TIFF 6.0 and EXIF.
STORED: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
def test_images_and_masks_are_upright(orientation: int, tmp_path: Path) -> None:
    upright = tissue(96, 160)
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    stored.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    stored.save(tmp_path / "a.tif", tiffinfo={274: orientation})
    for name in ("a.png", "a.jpg", "a.tif"):
        assert sizes(info(tmp_path / name)) == [(160, 96)]
        with open_slide(tmp_path / name) as slide:
            read = slide.read_level(0, Box(0, 0, 160, 96)).astype(int)
        assert np.abs(read - upright).mean() < 2
    mask = (upright[..., 1] < 200).astype(np.uint8)
    Image.fromarray(np.ascontiguousarray(STORED[orientation](mask))).save(tmp_path / "mask.png", exif=exif)
    codes = MaskReader("masks").codes(tmp_path / "mask.png", tmp_path / "a.png", Size(160, 96))
    assert np.array_equal(codes, mask)


def test_exif_after_the_pixels_is_found_and_other_pngs_are_not_decoded_to_open_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(tissue(96, 160)).save(tmp_path / "plain.png")
    end = (tmp_path / "plain.png").read_bytes().rindex(b"IEND") - 4
    block = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    content = (tmp_path / "plain.png").read_bytes()
    (tmp_path / "late.png").write_bytes(content[:end] + chunk + content[end:])
    assert sizes(info(tmp_path / "late.png")) == [(96, 160)]
    monkeypatch.setattr(PngImageFile, "load", None)
    assert sizes(info(tmp_path / "plain.png")) == [(160, 96)]


def test_damaged_exif_turns_nothing(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a description"
    block = exif.tobytes()
    for name, damaged in (
        ("cut", block[:16]),
        ("type", block.replace(b"\x01\x12\x00\x03", b"\x01\x12\x00\x07")),
    ):
        assert damaged != block
        Image.fromarray(tissue(96, 160)).save(tmp_path / f"{name}.jpg", exif=damaged)
        assert sizes(info(tmp_path / f"{name}.jpg")) == [(160, 96)]


def test_resolution_of_a_picture_on_its_side(tmp_path: Path) -> None:
    path = tmp_path / "side.tif"
    save(path, tissue(96, 160), tile=None, resolution=(2e4, 4e4), extratags=[(274, 3, 1, 6, True)])
    facts = info(path)
    assert sizes(facts) == [(96, 160)] and facts["mpp"] == {"x": 0.25, "y": 0.5}


# --- microns per pixel ----------------------------------------------------------------------------


@pytest.mark.parametrize("reader", SLIDE_READERS)
@pytest.mark.parametrize(
    ("unit", "size"),
    [
        (None, 0.25),
        ("µm", 0.25),
        ("mm", 0.00025),
        ("nm", 250),
        ("m", 2.5e-7),
        ("cm", 2.5e-5),
        ("pixel", 0.25),
    ],
)
def test_ome_xml_tells_the_pixel_size_in_any_unit(
    reader: str, unit: str | None, size: float, tmp_path: Path
) -> None:
    path = tmp_path / "slide.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": 2 * size}
    if unit is not None:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(tissue(128, 128), **{**TILED, "metadata": metadata})
    facts = info(path, "--reader", reader)
    if unit == "pixel":
        assert (facts["mpp"], facts["mpp_source"]) == (None, "missing")
    else:
        assert facts["mpp"] == pytest.approx({"x": 0.25, "y": 0.5}) and facts["mpp_source"] == "ome-xml"


def test_pixel_size_of_plain_images_with_ome_xml_or_from_imagej(tmp_path: Path) -> None:
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    tifffile.imwrite(tmp_path / "a.ome.tif", tissue(64, 64), photometric="rgb", metadata=metadata)
    tifffile.imwrite(
        tmp_path / "b.tif", tissue(64, 64), imagej=True, resolution=(4, 4), metadata={"unit": "um"}
    )
    assert info(tmp_path / "a.ome.tif")["mpp_source"] == "ome-xml"
    assert info(tmp_path / "b.tif")["mpp_source"] == "imagej"
    for name in ("a.ome.tif", "b.tif"):
        for reader in ("image", "tiffslide"):
            assert info(tmp_path / name, "--reader", reader)["mpp"] == {"x": 0.25, "y": 0.25}


# --- strips ---------------------------------------------------------------------------------------


def test_strips_have_one_limit_whatever_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flat = save(tmp_path / "flat.tif", tissue(), tile=None)
    deep = write_pages(tmp_path / "deep.tif", [tissue(), area_mean(tissue(), 2)], tile=None)
    assert [info(path)["reader"] for path in (flat, deep)] == ["image", "tiffslide"]
    for path, reader in ((flat, "image"), (flat, "tiffslide"), (deep, "tiffslide")):
        with open_slide(path, reader=reader) as slide:
            assert np.array_equal(slide.read_level(0, Box(0, 0, SIDE, SIDE)), tissue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", SIDE * SIDE // 2 - 1)
    for path in (flat, deep):
        line = refusal("info", path)
        assert "stored in strips is too large for a plain image" in line and "tiled, pyramidal TIFF" in line
        assert all(refusal("info", path, "--reader", reader) == line for reader in READERS)
    save(tmp_path / "tiled.tif", tissue())
    assert info(tmp_path / "tiled.tif")["reader"] == "tiff"


def test_the_library_of_openslide_has_its_fixes_of_4_0_1() -> None:
    """Two CVEs, and the colors and microns per pixel of DICOM."""
    assert tuple(map(int, openslide.__library_version__.split("."))) >= (4, 0, 1)
