from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from tests.made.pyramids import area_mean, write_pyramid
from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.errors import SlideError, UsageError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.slides.readers import READERS, open_slide
from wsi_seg.testing.readers import CHECKS, Opener

Maker = Callable[[], Path]


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory, sample_svs: Path) -> dict[str, Path]:
    """One slide of every kind that can be made here."""
    folder = tmp_path_factory.mktemp("slides")
    rng = np.random.default_rng(1)
    # Smooth, so that a shift by a part of a pixel shows as a small difference.
    coarse = Image.fromarray(rng.integers(0, 255, (45, 50, 3), dtype=np.uint8))
    odd = np.asarray(coarse.resize((1003, 779), Image.Resampling.BICUBIC))
    Image.fromarray(odd).save(folder / "plain.png")
    Image.fromarray(odd).save(folder / "plain.jpg")
    Image.fromarray(odd).save(folder / "plain.tif", compression="tiff_deflate")
    with tifffile.TiffWriter(folder / "coded.tif") as writer:  # tiles in PNG, which OpenSlide cannot read
        for factor in (1, 2):
            writer.write(
                area_mean(odd, factor),
                tile=(64, 64),
                photometric="rgb",
                compression="png",
                subfiletype=factor - 1,
                metadata=None,
            )
    return {
        "sample": sample_svs,
        "odd": write_pyramid(folder / "odd.tiff", odd, Scale(0.25, 0.26), (1, 2, 4)),
        "svs": make_slide(folder / "made.svs", SlideSpec(Size(2311, 2205))),
        "jp2": make_slide(folder / "made_jp2.svs", SlideSpec(Size(1030, 700), codec="jpeg2000", tissue=1)),
        "scn": make_slide(folder / "b.scn", SlideSpec(Size(4096, 3072), bounds=Box(512, 256, 2816, 2560))),
        "png": folder / "plain.png",
        "jpg": folder / "plain.jpg",
        "tif": folder / "plain.tif",
        "coded": folder / "coded.tif",
    }


CASES = [
    *(("tiff", kind) for kind in ("sample", "odd", "svs", "jp2")),  # more of them in test_tiled_tiff.py
    *(("openslide", kind) for kind in ("sample", "odd", "svs", "jp2", "scn")),
    *(("tiffslide", kind) for kind in ("sample", "odd", "svs", "jp2", "scn", "coded")),
    *(("image", kind) for kind in ("png", "jpg", "tif")),
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("reader", "kind"), CASES)
def test_contract(check: Callable[[Opener], None], reader: str, kind: str, slides: dict[str, Path]) -> None:
    check(partial(open_slide, slides[kind], reader=reader))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_dicom(check: Callable[[Opener], None], data_dir: Path) -> None:
    check(partial(open_slide, data_dir / "slides" / "CMU-1-Small-Region-dicom"))


@pytest.mark.parametrize(
    ("kind", "reader", "vendor"),
    [
        ("sample", "tiff", "aperio"),
        ("svs", "tiff", "aperio"),
        ("jp2", "tiff", "aperio"),
        ("odd", "tiff", "generic-tiff"),
        ("scn", "openslide", "leica"),
        ("coded", "tiffslide", "generic-tiff"),
        ("png", "image", "png"),
        ("jpg", "image", "jpeg"),
        ("tif", "image", "tiff"),
    ],
)
def test_reader_is_chosen_by_content(kind: str, reader: str, vendor: str, slides: dict[str, Path]) -> None:
    with open_slide(slides[kind]) as slide:
        assert (slide.info.reader, slide.info.vendor) == (reader, vendor)


def test_every_reader_in_the_table_is_tested() -> None:
    elsewhere = {"wsidicom"}  # in test_dicom_reader.py
    assert {reader for reader, _ in CASES} | elsewhere == set(READERS)


# --- exact pixels ---------------------------------------------------------------------------------


def far_boxes(size: Size) -> list[Box]:
    """Boxes along the right and bottom edges, where a wrong step has drifted the most."""
    width, height = size.width, size.height
    return [
        Box(width - 50, height - 40, width, height),
        Box(width - 60, 3, width, 33),
        Box(5, height - 45, 45, height),
        Box(width // 2, height // 2, width // 2 + 70, height // 2 + 60),
    ]


@pytest.mark.parametrize("kind", ["sample", "odd", "svs", "jp2", "coded"])
def test_tiffslide_gives_the_stored_pixels(kind: str, slides: dict[str, Path]) -> None:
    with open_slide(slides[kind], reader="tiffslide") as slide, tifffile.TiffFile(slides[kind]) as tiff:
        for index, level in enumerate(slide.info.levels):
            stored = tiff.series[0].levels[index].asarray()
            for box in far_boxes(level.size):
                assert np.array_equal(slide.read_level(index, box), stored[box.within(Box(0, 0, 0, 0))])


def test_openslide_gives_the_stored_pixels_where_its_step_is_whole(tmp_path: Path) -> None:
    pixels = np.random.default_rng(2).integers(0, 255, (1024, 1536, 3), dtype=np.uint8)
    path = write_pyramid(tmp_path / "even.tiff", pixels, Scale(0.25, 0.25), (1, 2, 8))
    with open_slide(path, reader="openslide") as slide:
        for index, level in enumerate(slide.info.levels):
            stored = tifffile.imread(path, key=index)
            for box in far_boxes(level.size):
                assert np.array_equal(slide.read_level(index, box), stored[box.within(Box(0, 0, 0, 0))])


def test_openslide_stays_within_half_a_level_0_pixel_where_its_step_is_not_whole(
    slides: dict[str, Path],
) -> None:
    path = slides["odd"]
    with open_slide(path, reader="openslide") as slide:
        for index, level in enumerate(slide.info.levels):
            stored = tifffile.imread(path, key=index).astype(float)
            slope = max(np.abs(np.diff(stored, axis=axis)).max() for axis in (0, 1))
            for box in far_boxes(level.size):
                # The last column and row may be mixed with the white beyond them.
                inner = box.intersect(Box(0, 0, level.size.width - 1, level.size.height - 1))
                error = np.abs(slide.read_level(index, inner) - stored[inner.within(Box(0, 0, 0, 0))])
                assert error.max() <= 2 * slope * 0.5 / level.downsample.x + 1 if index else error.max() == 0


def test_readers_agree_on_made_slides(slides: dict[str, Path]) -> None:
    for kind in ("svs", "jp2", "scn"):
        with (
            open_slide(slides[kind], reader="openslide") as one,
            open_slide(slides[kind], reader="tiffslide") as other,
        ):
            assert one.info.size == other.info.size
            assert one.info.mpp == other.info.mpp == Scale(0.25, 0.25)
            assert one.info.bounds == other.info.bounds
            box = Box(300, 200, 900, 800)
            assert np.abs(one.read_level(0, box).astype(int) - other.read_level(0, box)).mean() < 1


def test_image_pixels(slides: dict[str, Path]) -> None:
    with open_slide(slides["png"]) as slide:
        expected = np.asarray(Image.open(slides["png"]))
        assert np.array_equal(slide.read_level(0, Box(0, 0, 1003, 779)), expected)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_image_modes_become_rgb_over_white(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image = Image.new(mode, (20, 10))
    if mode in ("LA", "RGBA"):
        image.putalpha(0)
    image.save(path)
    with open_slide(path) as slide:
        pixels = slide.read_level(0, Box(0, 0, 20, 10))
    assert pixels.shape == (10, 20, 3)
    if mode in ("LA", "RGBA"):
        assert (pixels == 255).all()


# --- facts ----------------------------------------------------------------------------------------


def test_mpp_of_the_user_wins(sample_svs: Path) -> None:
    for asked, expected in ((0.3, Scale(0.3, 0.3)), (1, Scale(1, 1)), (Scale(0.3, 0.4), Scale(0.3, 0.4))):
        with open_slide(sample_svs, mpp=asked) as slide:
            assert (slide.info.mpp, slide.info.mpp_source) == (expected, "user")


def test_mpp_of_each_axis_and_of_an_image(slides: dict[str, Path], tmp_path: Path) -> None:
    for reader in ("tiff", "openslide", "tiffslide"):
        with open_slide(slides["odd"], reader=reader) as slide:
            assert slide.info.mpp is not None
            assert (slide.info.mpp.x, slide.info.mpp.y) == pytest.approx((0.25, 0.26), rel=1e-6)
    with open_slide(slides["png"]) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (None, "missing")
    path = tmp_path / "tagged.tif"
    tifffile.imwrite(path, np.zeros((9, 9, 3), np.uint8), resolution=(2e4, 4e4), resolutionunit="CENTIMETER")
    with open_slide(path) as slide:
        assert (slide.info.mpp, slide.info.mpp_source) == (Scale(0.5, 0.25), "tiff-resolution")


def test_resolution_of_a_screen_is_no_mpp(tmp_path: Path) -> None:
    path = tmp_path / "screen.tif"
    tifffile.imwrite(
        path, np.zeros((99, 99, 3), np.uint8), tile=(64, 64), resolution=(72, 72), resolutionunit="INCH"
    )
    for reader in ("openslide", "tiffslide"):
        with open_slide(path, reader=reader) as slide:
            assert (slide.info.mpp, slide.info.mpp_source) == (None, "missing")


def test_bounds(slides: dict[str, Path]) -> None:
    for reader in ("openslide", "tiffslide"):
        with open_slide(slides["scn"], reader=reader) as slide:
            assert slide.info.bounds == Box(512, 256, 2816, 2560)
            whole = slide.read_level(0, Box(500, 240, 540, 280))
            assert (whole[:16] == 255).all() and (whole[:, :12] == 255).all()
            assert (whole[16:, 12:] < 255).any()
        with open_slide(slides["svs"], reader=reader) as slide:
            assert slide.info.bounds is None


@pytest.mark.parametrize("reader", ["tiff", "openslide", "tiffslide"])
def test_fingerprint_follows_the_pixels_not_the_path(reader: str, tmp_path: Path, sample_svs: Path) -> None:
    copy = tmp_path / "other name.svs"
    copy.write_bytes(sample_svs.read_bytes())
    other = make_slide(tmp_path / "other.svs", SlideSpec(Size(700, 700)))
    with (
        open_slide(sample_svs, reader=reader) as a,
        open_slide(copy, reader=reader) as b,
        open_slide(other, reader=reader) as c,
    ):
        assert a.info.fingerprint == b.info.fingerprint != c.info.fingerprint
        assert b.info.name == "other name"


def test_import_is_light() -> None:
    heavy = ("openslide", "tiffslide", "tifffile", "zarr", "scipy", "PIL.TiffImagePlugin", "torch", "dask")
    code = f"import sys, wsi_seg.slides.readers; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- DICOM ----------------------------------------------------------------------------------------


def test_dicom_agrees_with_the_svs_of_the_same_region(data_dir: Path, sample_svs: Path) -> None:
    with open_slide(data_dir / "slides" / "CMU-1-Small-Region-dicom") as dicom, open_slide(sample_svs) as svs:
        assert dicom.info.vendor == "dicom"
        assert dicom.info.size == svs.info.size
        assert dicom.info.mpp is not None and svs.info.mpp is not None
        assert dicom.info.mpp.x == pytest.approx(svs.info.mpp.x, rel=0.01)
        box = Box(200, 300, 1200, 1100)
        pixels = dicom.read_level(0, box).astype(int)
        difference = np.abs(pixels - svs.read_level(0, box)).mean()
        assert difference < 4  # it was compressed a second time
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            assert np.abs(pixels - svs.read_level(0, box.shifted(dx, dy))).mean() > 1.5 * difference


def test_any_file_of_a_dicom_series_is_the_slide(data_dir: Path) -> None:
    files = sorted((data_dir / "slides" / "CMU-1-Small-Region-dicom").glob("*.dcm"))
    fingerprints = set()
    for path in files:
        with open_slide(path) as slide:
            fingerprints.add((slide.info.fingerprint, slide.info.size))
    assert len(files) == 4 and len(fingerprints) == 1


def test_folder_with_two_series_is_refused(data_dir: Path, tmp_path: Path) -> None:
    files = sorted((data_dir / "slides" / "CMU-1-Small-Region-dicom").glob("*.dcm"))
    for path in files:
        content = path.read_bytes()
        (tmp_path / path.name).write_bytes(content)
        at = content.index(b"\x20\x00\x0e\x00UI") + 8
        # The same file under another series.
        (tmp_path / f"other-{path.name}").write_bytes(content[:at] + b"9.9" + content[at + 3 :])
    with pytest.raises(SlideError, match="holds 2 DICOM series"):
        open_slide(tmp_path)


# --- bad input ------------------------------------------------------------------------------------


def one_line(error: pytest.ExceptionInfo[SlideError], path: Path) -> str:
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    return message


@pytest.mark.parametrize("reader", [None, *READERS])
def test_missing_empty_text_and_folder(reader: str | None, tmp_path: Path) -> None:
    empty, text, folder = tmp_path / "empty.svs", tmp_path / "text.svs", tmp_path / "folder"
    empty.touch()
    text.write_text("this is no slide " * 50)
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing here")
    for path in (tmp_path / "missing.svs", empty, text, folder):
        with pytest.raises(SlideError) as error:
            open_slide(path, reader=reader)
        one_line(error, path)


@pytest.mark.parametrize("reader", [None, *READERS])
@pytest.mark.parametrize("share", [0.0005, 0.05, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["sample", "odd", "svs", "coded"])
def test_truncated_tiff(
    reader: str | None, share: float, kind: str, slides: dict[str, Path], tmp_path: Path
) -> None:
    content = slides[kind].read_bytes()
    path = tmp_path / "short.tif"
    path.write_bytes(content[: max(20, int(len(content) * share))])
    with pytest.raises(SlideError) as error:
        with open_slide(path, reader=reader) as slide:
            # OpenSlide opens some of them and fails on reading.
            for index, level in enumerate(slide.info.levels):
                slide.read_level(index, Box(0, 0, level.size.width, level.size.height))
    one_line(error, path)


def test_truncated_png(slides: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "short.png"
    path.write_bytes(slides["png"].read_bytes()[:5000])
    with pytest.raises(SlideError) as error:
        with open_slide(path) as slide:
            slide.read_level(0, Box(0, 0, 9, 9))
    one_line(error, path)


def test_unknown_reader_and_bad_mpp(sample_svs: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown reader 'bioformats'; choose one of tiff, openslide"):
        open_slide(sample_svs, reader="bioformats")
    for mpp in (0, -0.5, float("nan"), Scale(0.5, 0)):
        with pytest.raises(UsageError, match="mpp must be"):
            open_slide(sample_svs, mpp=mpp)


@pytest.mark.parametrize("kind", ["sample", "odd", "svs", "scn"])
def test_pyramid_is_never_opened_as_a_flat_image(kind: str, slides: dict[str, Path]) -> None:
    with pytest.raises(SlideError, match="not a plain image"):
        open_slide(slides[kind], reader="image")


def test_16_bit_images_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((100, 100, 3), np.uint16)
    for name, options in (("tiled.tif", {"tile": (64, 64)}), ("plain.tif", {})):
        tifffile.imwrite(tmp_path / name, pixels, **options)
        with pytest.raises(SlideError, match=r"8-bit|damaged|cannot be opened"):
            open_slide(tmp_path / name, reader="tiffslide")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "gray.png")
    with pytest.raises(SlideError, match="8-bit"):
        open_slide(tmp_path / "gray.png")


def test_huge_image_is_refused_without_decoding(
    slides: dict[str, Path], monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)  # the image has 781,337
    with open_slide(slides["png"]) as slide:
        slide.read_level(0, Box(0, 0, 5, 5))
    assert not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300_000)
    with pytest.raises(SlideError, match="too large for a plain image"):
        open_slide(slides["png"])


def test_slide_is_readable_again_after_a_bad_tile(tmp_path: Path) -> None:
    path = make_slide(tmp_path / "bad.svs", SlideSpec(Size(1024, 512), tissue=1))
    with tifffile.TiffFile(path) as tiff:
        at, count = tiff.pages.first.dataoffsets[0], tiff.pages.first.databytecounts[0]
    content = bytearray(path.read_bytes())
    content[at : at + count] = b"\0" * count
    path.write_bytes(content)
    for reader in ("tiff", "openslide", "tiffslide"):
        with open_slide(path, reader=reader) as slide:
            good, bad = Box(600, 100, 700, 200), Box(10, 20, 30, 40)
            before = slide.read_level(0, good)
            for _ in range(2):
                with pytest.raises(
                    SlideError, match="cannot read level 0, columns 10–30, rows 20–40"
                ) as error:
                    slide.read_level(0, bad)
                one_line(error, path)
                assert np.array_equal(slide.read_level(0, good), before)


def test_openslide_itself_is_spoilt_by_a_bad_tile(tmp_path: Path) -> None:
    """The reason why the reader reopens; when this fails, it need not any more."""
    path = make_slide(tmp_path / "bad.svs", SlideSpec(Size(512, 512), tissue=1))
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages.first.dataoffsets[0]
    content = bytearray(path.read_bytes())
    content[at : at + 100] = b"\0" * 100
    path.write_bytes(content)
    with openslide.OpenSlide(path) as handle:
        with pytest.raises(openslide.OpenSlideError):
            handle.read_region((0, 0), 0, (9, 9))
        with pytest.raises(openslide.OpenSlideError):
            handle.read_region((300, 300), 0, (9, 9))


# --- URLs -----------------------------------------------------------------------------------------


class RangeServer(SimpleHTTPRequestHandler):
    """Serves files with `Range`, as object stores do."""

    ranges = 0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        asked = self.headers.get("Range")
        if asked is None or not path.is_file():
            super().do_GET()
            return
        type(self).ranges += 1
        size = path.stat().st_size
        first, last = asked.removeprefix("bytes=").split("-")
        start, stop = int(first), min(int(last or size - 1), size - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop}/{size}")
        self.send_header("Content-Length", str(stop - start + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        with path.open("rb") as file:
            file.seek(start)
            self.wfile.write(file.read(stop - start + 1))

    def end_headers(self) -> None:
        self.send_header("Accept-Ranges", "bytes")
        super().end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(sample_svs: Path) -> Iterator[str]:
    """Address of the folder with the sample slide."""
    pytest.importorskip("aiohttp")
    handler = partial(RangeServer, directory=str(sample_svs.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


def test_slide_by_url(server: str, sample_svs: Path) -> None:
    RangeServer.ranges = 0
    with (
        open_slide(f"{server}/{sample_svs.name}") as remote,
        open_slide(sample_svs) as local,
    ):
        assert remote.info.reader == local.info.reader == "tiff"
        assert remote.info.name == "CMU-1-Small-Region"
        assert remote.info.mpp == Scale(0.499, 0.499)
        assert remote.info.fingerprint == local.info.fingerprint
        box = Box(700, 900, 1000, 1100)
        assert np.array_equal(remote.read_level(0, box), local.read_level(0, box))
    assert RangeServer.ranges > 0


def test_url_that_is_not_there(server: str) -> None:
    for name in ("missing.svs", "NOTICE.txt"):
        with pytest.raises(SlideError) as error:
            open_slide(f"{server}/{name}")
        message = str(error.value)
        assert name in message and "\n" not in message


def test_url_without_the_package_for_it() -> None:
    code = (
        "import sys; sys.modules['aiohttp'] = None\n"
        "from wsi_seg.slides.readers import open_slide\n"
        "open_slide('http://127.0.0.1:1/slide.svs')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("wsi_seg.core.errors.SlideError: http://127.0.0.1:1/slide.svs: ")
    assert last.endswith("pip install 'wsi-seg[cloud]'")


def test_unreachable_url() -> None:
    with pytest.raises(SlideError, match=r"^http://127\.0\.0\.1:1/slide\.svs: "):
        open_slide("http://127.0.0.1:1/slide.svs")


def test_openslide_facts_that_make_no_sense_are_a_slide_error(
    sample_svs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("level 0 has stored tiles of 70000 × 70000 px")

    monkeypatch.setattr("wsi_seg.slides.readers.openslide.read_tile_sizes", fail)
    for reader in ("openslide", "tiff"):
        with pytest.raises(SlideError, match="stored tiles of 70000") as error:
            open_slide(sample_svs, reader=reader)
        assert str(error.value).startswith(f"{sample_svs}: ")
