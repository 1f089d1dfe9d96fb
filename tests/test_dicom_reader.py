"""DICOM slides through wsidicom: files that OpenSlide refuses, and series of a DICOMweb server."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import openslide
import pytest
from numpy.typing import NDArray
from PIL import Image

pytest.importorskip("wsidicom", reason="needs the extra dicom")

from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from tests.dicomweb_server import Service, dicomweb_server
from tests.made.dicom_slides import SERIES, STUDY, write_slide
from tests.made.pyramids import area_mean
from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.slides import dicomweb
from wsi_seg.slides.identity import stamp_slide
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import Slide, default_name
from wsi_seg.testing.readers import CHECKS, Opener

SIZE = Size(301, 203)
WHOLE = Box(0, 0, SIZE.width, SIZE.height)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    coarse = np.random.default_rng(5).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIZE.width, SIZE.height), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, pixels: NDArray[np.uint8]) -> Path:
    """Level 0 of a slide in JPEG-LS."""
    return write_slide(tmp_path_factory.mktemp("jpegls"), pixels)


@pytest.fixture(scope="module")
def served(slide: Path) -> Iterator[tuple[str, Service]]:
    with dicomweb_server(slide.parent) as found:
        yield found


@pytest.fixture
def server(served: tuple[str, Service]) -> Iterator[tuple[str, Service]]:
    """The server without faults."""
    service = served[1]
    kept = dict(vars(service))
    service.requests.clear()
    service.authorizations.clear()
    yield served
    for name, value in kept.items():
        setattr(service, name, value)


def copied(slide: Path, folder: Path) -> Path:
    for path in slide.parent.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder / slide.name


def one_line(call: Callable[[], object], where: str | Path) -> str:
    with pytest.raises(SlideError) as error:
        call()
    message = str(error.value)
    assert message.startswith(f"{where}: ") and "\n" not in message and len(message) < 400
    return message


def read_all(opened: Slide) -> list[NDArray[np.uint8]]:
    return [
        opened.read_level(number, Box(0, 0, level.size.width, level.size.height))
        for number, level in enumerate(opened.info.levels)
    ]


def open_and_read(path: str | Path) -> list[NDArray[np.uint8]]:
    with open_slide(path) as opened:
        return read_all(opened)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Callable[[Opener], None], slide: Path) -> None:
    check(partial(open_slide, slide))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract_of_a_server(check: Callable[[Opener], None], server: tuple[str, Service]) -> None:
    check(partial(open_slide, server[0]))


def test_a_slide_that_openslide_refuses_has_the_pixels_that_were_stored(
    slide: Path, pixels: NDArray[np.uint8]
) -> None:
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(slide)
    with open_slide(slide) as opened, open_slide(slide.parent) as by_folder:
        info = opened.info
        assert (info.reader, info.vendor, info.size) == ("wsidicom", "dicom", SIZE)
        assert (info.mpp, info.mpp_source) == (Scale(0.5, 0.5), "dicom")
        assert info.left_out == ("label, 90 × 50 px",)
        assert by_folder.info.fingerprint == info.fingerprint
        for factor, found in zip((1, 2), read_all(opened), strict=True):
            assert np.array_equal(found, area_mean(pixels, factor))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, JPEGBaseline8Bit])
def test_pixels_are_those_of_openslide(syntax: str, tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = write_slide(tmp_path, pixels, syntax)
    with open_slide(path) as one, open_slide(path, reader="wsidicom") as other:
        assert (one.info.reader, other.info.reader) == ("openslide", "wsidicom")
        assert one.info.levels == other.info.levels
        assert one.info.left_out == other.info.left_out
        assert all(map(np.array_equal, read_all(one), read_all(other)))


def test_real_slides(data_dir: Path) -> None:
    """Of the sample series the pixels are OpenSlide's; JPEG-LS files hold those of their original."""
    series = data_dir / "slides" / "CMU-1-Small-Region-dicom"
    with open_slide(series) as one, open_slide(series, reader="wsidicom") as other:
        assert one.info.left_out == other.info.left_out
        assert all(map(np.array_equal, read_all(one), read_all(other)))
    with open_slide(data_dir / "dicom_highdicom" / "sm_image_numbers.dcm") as plain:
        assert plain.info.reader == "openslide"
    for name in ("sm_image_jpegls.dcm", "sm_image_jpegls_nobot.dcm"):
        (found,) = open_and_read(data_dir / "dicom_highdicom" / name)
        original = dcmread(data_dir / "dicom_highdicom" / "sm_image.dcm")
        first = np.frombuffer(original.PixelData, np.uint8).reshape(-1, original.Rows, original.Columns, 3)[0]
        part = found[: original.Rows, : original.Columns]
        assert np.array_equal(part, first[: part.shape[0], : part.shape[1]])


# --- bad files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["level1.dcm", "level2.dcm"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.6, 0.97])
def test_truncated(name: str, share: float, slide: Path, tmp_path: Path) -> None:
    """Either file of the series is cut: never does a level go missing without a word."""
    path = copied(slide, tmp_path)
    content = (slide.parent / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    one_line(lambda: open_and_read(path), path)


def test_a_damaged_frame_spoils_no_other(slide: Path, tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = copied(slide, tmp_path)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"\xff\xd8\xff\xf7")  # start of the last frame
    content[at : at + 40] = bytes(40)
    path.write_bytes(content)
    good, bad = Box(0, 0, 64, 64), Box(256, 192, 301, 203)
    with open_slide(path) as opened:
        for _ in range(2):
            assert "cannot read level 0, columns 256–301" in one_line(lambda: opened.read_level(0, bad), path)
            assert np.array_equal(opened.read_level(0, good), pixels[:64, :64])


def changed(slide: Path, folder: Path, **values: object) -> Path:
    path = copied(slide, folder)
    content = dcmread(path)
    for name, value in values.items():
        setattr(content, name, value)
    content.save_as(path)
    return path


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"TotalPixelMatrixColumns": 2**32 - 1, "TotalPixelMatrixRows": 2**32 - 1}, "which no slide has"),
        ({"Rows": 65_535, "Columns": 65_535}, "which no slide has"),
        ({"Rows": 0}, "lacks Rows"),
        ({"Rows": 32, "Columns": 32}, "does not match tile size"),
        ({"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2"}, "not 8-bit RGB"),
        ({"SharedFunctionalGroupsSequence": None}, ""),
        ({"NumberOfFrames": 2}, ""),
    ],
)
def test_claims_that_are_not_true(values: dict[str, object], said: str, slide: Path, tmp_path: Path) -> None:
    path = changed(slide, tmp_path, **values)
    assert said in one_line(lambda: open_and_read(path), path)


def untold(path: Path, *, frame_type: bool) -> None:
    """Remove the ImageType of a file, or all of it but a part; its frames may say the same."""
    head = dcmread(path)
    item = Dataset()
    item.FrameType = head.ImageType
    if frame_type:
        head.SharedFunctionalGroupsSequence[0].WholeSlideMicroscopyImageFrameTypeSequence = [item]
    head.ImageType = ["DERIVED", "PRIMARY"] if path.name == "level2.dcm" else None
    head.save_as(path)


@pytest.mark.parametrize("frame_type", [True, False])
def test_files_that_do_not_say_of_what_kind_they_are(frame_type: bool, slide: Path, tmp_path: Path) -> None:
    path = copied(slide, tmp_path)
    for file in tmp_path.iterdir():
        if frame_type or file.name != "label.dcm":
            untold(file, frame_type=frame_type)
    reason = "FrameType says so" if frame_type else "px are in tiles"
    with open_slide(path) as opened, open_slide(slide) as stated:
        assert not stated.info.assumed
        for line, name in zip(opened.info.assumed, ("level1.dcm", "level2.dcm"), strict=True):
            assert line.startswith(f"{name} is a level of the slide: ") and line.endswith(reason)
        assert opened.info == replace(stated.info, path=str(path), assumed=opened.info.assumed)
        assert all(map(np.array_equal, read_all(opened), read_all(stated)))


def test_an_image_of_one_tile_may_be_a_label(slide: Path, tmp_path: Path) -> None:
    path = copied(slide, tmp_path)
    label = dcmread(tmp_path / "label.dcm")
    del label.ImageType
    label.Rows = label.Columns = 128
    label.save_as(tmp_path / "label.dcm")
    with open_slide(path) as opened:
        assert opened.info.left_out == ("90 × 50 px, which does not say of what kind it is (ImageType)",)
        assert not opened.info.assumed
    for level in tmp_path.glob("level*.dcm"):
        level.unlink()
    message = one_line(lambda: open_slide(tmp_path), tmp_path / "label.dcm")
    assert "label.dcm does not say of what kind it is (ImageType, FrameType)" in message
    assert r"dcmodify -i" in message and r"PRIMARY\VOLUME" in message


def test_a_label_in_tiles_is_no_level(slide: Path, tmp_path: Path) -> None:
    path = copied(slide, tmp_path)
    untold(tmp_path / "label.dcm", frame_type=False)
    with open_slide(path) as opened, open_slide(slide) as stated:
        assert opened.info.levels == stated.info.levels
        assert not opened.info.assumed and opened.info.left_out[0].startswith(
            "90 × 50 px, which does not say"
        )


@pytest.mark.parametrize("frame_type", [True, False])
def test_a_real_file_without_image_type(frame_type: bool, data_dir: Path, tmp_path: Path) -> None:
    series = data_dir / "slides" / "CMU-1-Small-Region-dicom"
    for file in series.iterdir():
        head = dcmread(file)
        del head.ImageType
        if not frame_type:
            del head.SharedFunctionalGroupsSequence[0].WholeSlideMicroscopyImageFrameTypeSequence
        head.save_as(tmp_path / file.name)
    with open_slide(series, reader="wsidicom") as stated, open_slide(tmp_path) as opened:
        assert opened.info.reader == "wsidicom" and opened.info.fingerprint == stated.info.fingerprint
        assert len(opened.info.assumed) == 1 and len(opened.info.left_out) == len(stated.info.left_out)
        assert all(map(np.array_equal, read_all(opened), read_all(stated)))


def test_a_server_has_to_say_of_what_kind_an_image_is(
    server: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, service = server
    monkeypatch.delattr(next(iter(service.instances.values())), "ImageType")
    assert "fetch the series as files" in one_line(lambda: open_slide(url), url)


def test_attributes_that_break_the_standard(
    slide: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """A value that is too long is read without a warning; one of an unknown kind is damage."""
    path = copied(slide, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"Made Scanners ", b"Made\\Scanner12"))
    open_and_read(path)
    at = content.index(b"\x08\x00\x04\x01LO") + 4  # what a code means
    path.write_bytes(content[:at] + b"L\xa9" + content[at + 2 :])
    assert "damaged or unsupported DICOM slide" in one_line(lambda: open_and_read(path), path)
    assert not recwarn.list


def test_two_files_of_one_instance(slide: Path, tmp_path: Path) -> None:
    path = copied(slide, tmp_path)
    (tmp_path / "copy.dcm").write_bytes(path.read_bytes())
    assert "copy.dcm and level1.dcm are the same instance" in one_line(lambda: open_and_read(path), path)


def test_without_the_package(slide: Path) -> None:
    url = f"https://localhost/studies/{STUDY}/series/{SERIES}"
    code = (
        "import sys; sys.modules['wsidicom'] = None\n"
        "from wsi_seg.slides.readers import open_slide\n"
        f"for place in ({str(slide)!r}, {url!r}):\n"
        "    try: open_slide(place)\n"
        "    except Exception as error: print(f'{type(error).__name__} {error}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        f"SlideError {place}: needs the reader wsidicom, which is not installed; "
        "install it with: pip install 'wsi-seg[dicom]'"
        for place in (slide, url)
    ]


# --- DICOMweb -------------------------------------------------------------------------------------


@pytest.mark.parametrize("announce", [True, False])
def test_a_server_gives_the_pixels_of_the_files(
    announce: bool, server: tuple[str, Service], slide: Path
) -> None:
    url, service = server
    service.announce = announce
    with open_slide(url) as far, open_slide(slide) as near:
        assert far.info.name == default_name(url) == SERIES
        assert far.info.fingerprint == near.info.fingerprint
        assert (far.info.size, far.info.mpp, far.info.levels) == (
            near.info.size,
            near.info.mpp,
            near.info.levels,
        )
        assert far.info.left_out == near.info.left_out
        assert all(map(np.array_equal, read_all(far), read_all(near)))
        service.requests.clear()
        far.read_level(0, Box(10, 70, 20, 80))  # decoded before
        assert not service.requests
    assert [(stamp.name, stamp.size) for stamp in stamp_slide(url)] == [(url, 3)]


def test_exports_refer_to_the_instances_of_a_server(server: tuple[str, Service], slide: Path) -> None:
    pytest.importorskip("highdicom", reason="needs the extra dicom")
    from wsi_seg.exporters.dicom_slide import referenced_slide

    with open_slide(server[0]) as far, open_slide(slide) as near:
        found, expected = referenced_slide(far.info), referenced_slide(near.info)
    assert found.is_dicom and found.header.SOPInstanceUID == expected.header.SOPInstanceUID
    assert (found.spacing_mm, found.corner_mm, found.cosines) == (
        expected.spacing_mm, expected.corner_mm, expected.cosines,
    )  # fmt: skip


def test_neighboring_frames_come_in_one_request(server: tuple[str, Service]) -> None:
    url, service = server
    with open_slide(url) as opened:
        service.requests.clear()
        opened.read_level(0, WHOLE)
    assert len(service.requests) == 1 and service.requests[0].endswith(",19,20")


def test_the_syntax_in_which_frames_are_asked_for(slide: Path) -> None:
    from wsi_seg.slides.readers.dicom_instances import requested_syntaxes

    head = dcmread(slide, stop_before_pixels=True)
    assert JPEGBaseline8Bit not in requested_syntaxes(head)
    head.LossyImageCompression, head.LossyImageCompressionMethod = "01", ["ISO_15444_1", "ISO_10918_1"]
    assert requested_syntaxes(head)[0] == JPEGBaseline8Bit
    head.PhotometricInterpretation = "YBR_RCT"
    assert requested_syntaxes(head)[0] == "1.2.840.10008.1.2.4.90"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"status": 401}, "no permission (status 401); are credentials for it in the environment?"),
        ({"status": 403}, "no permission (status 403)"),
        ({"status": 404}, "the server has no such series (status 404)"),
        ({"status": 500}, "the server refuses (status 500)"),
        ({"status": 503}, "the server is busy (status 503, 3 times); try again later"),
        ({"silent_seconds": 1.0}, "the server does not answer within 0.1 s"),
        ({"body": b"<html>log in</html>"}, "the server sent no DICOM metadata"),
        ({"body": b'[{"00080018": 7}]'}, "the server sent no DICOM metadata"),
        ({"body": b"[]"}, "the server has no such series, or nothing in it"),
    ],
)
def test_faults_of_a_server(
    fault: dict[str, object], said: str, server: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, service = server
    monkeypatch.setattr(dicomweb, "READ_SECONDS", 0.1)
    monkeypatch.setattr(dicomweb, "PAUSE_MILLISECONDS", 1)
    for name, value in fault.items():
        setattr(service, name, value)
    assert said in one_line(lambda: open_slide(url), url)


def test_faults_while_frames_are_read(server: tuple[str, Service], monkeypatch: pytest.MonkeyPatch) -> None:
    url, service = server
    monkeypatch.setattr(dicomweb, "PAUSE_MILLISECONDS", 1)
    with open_slide(url) as opened:
        service.status = 401
        assert "no permission (status 401)" in one_line(lambda: opened.read_level(0, WHOLE), url)
        service.status, service.cut_frames = None, True
        assert "cannot read level 0" in one_line(lambda: opened.read_level(0, WHOLE), url)
        service.cut_frames = False
        assert opened.read_level(0, WHOLE).shape == (203, 301, 3)


def test_nobody_answers() -> None:
    url = f"http://127.0.0.1:1/studies/{STUDY}/series/{SERIES}"
    assert "cannot be reached; is the address right" in one_line(lambda: open_slide(url), url)


def test_credentials_go_to_their_host_alone(
    server: tuple[str, Service], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, service = server
    (tmp_path / "netrc").write_text("machine 127.0.0.1\nlogin me\npassword secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    open_slide(url).close()
    assert service.authorizations == {"Basic bWU6c2VjcmV0"}
    service.authorizations.clear()
    monkeypatch.setenv(dicomweb.TOKEN_VARIABLE, "abc")
    for host, expected in (("elsewhere.org", "Basic bWU6c2VjcmV0"), ("127.0.0.1", "Bearer abc")):
        service.authorizations.clear()
        monkeypatch.setenv(dicomweb.HOST_VARIABLE, host)
        open_slide(url).close()
        assert service.authorizations == {expected}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "dicomweb://host/studies/1.2",
            "no DICOMweb series; give dicomweb://HOST/BASE/studies/UID/series/UID",
        ),
        ("dicomweb://host", "no DICOMweb series"),
    ],
)
def test_addresses_that_are_none(url: str, said: str) -> None:
    assert said in one_line(lambda: open_slide(url), url)


def test_addresses() -> None:
    for scheme, base in itertools.product(("https", "dicomweb"), ("host", "host:8443/a/b")):
        found = dicomweb.parse_series(f"{scheme}://{base}/studies/1.2/series/3.4/")
        assert found is not None
        assert (found.base, found.study, found.series) == (f"https://{base}", "1.2", "3.4")
    assert dicomweb.parse_series("https://host/slides/a.svs") is None
    with pytest.raises(SlideError, match="a DICOMweb series is one slide, read by wsidicom; leave out"):
        open_slide(f"https://host/studies/{STUDY}/series/{SERIES}", reader="tiff")
