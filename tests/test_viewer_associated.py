"""Pictures that are stored with a slide: read by every reader, and shown by the viewer where asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from starlette.testclient import TestClient

from tests.made.landmarks import darkness_model
from tests.made.results import make_results
from tests.viewer_server import client, only_id, picture
from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.slides.readers import base as reader_base
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.readers.base import LevelReader
from wsi_seg.viewer.app import create_app
from wsi_seg.viewer.state import Places

LABEL, MACRO, THUMBNAIL = [387, 463], [1280, 431], [574, 768]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, sample_svs: Path) -> Path:
    folder = tmp_path_factory.mktemp("associated")
    slide = shutil.copyfile(sample_svs, folder / "real.svs")
    make_results(
        slide, folder / "out", darkness_model(2.0), plan=PlanSettings(tile=256, block=1024, overlap=16)
    )
    return folder


@pytest.fixture(scope="module")
def asking(home: Path) -> TestClient:
    return client(home / "out")


def test_readers_give_what_openslide_gives(sample_svs: Path) -> None:
    with openslide.OpenSlide(sample_svs) as handle:
        expected = {
            name: np.asarray(image.convert("RGB")) for name, image in handle.associated_images.items()
        }
    assert set(expected) == {"label", "macro", "thumbnail"}
    for reader in ("tiff", "openslide", "tiffslide"):
        with open_slide(sample_svs, reader=reader) as slide:
            assert isinstance(slide, LevelReader)
            assert {one.name for one in slide.about.associated} == set(expected)
            for name, pixels in expected.items():
                ours = slide.read_associated(name, 10_000)
                assert ours.shape == pixels.shape
                # JPEG decoders differ by a few gray values.
                assert np.abs(ours.astype(int) - pixels).mean() < 1, (reader, name)


def test_a_picture_too_large_is_not_decoded(sample_svs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_base, "MOST_ASSOCIATED_PIXELS", LABEL[0] * LABEL[1])
    for reader in ("tiff", "openslide", "tiffslide"):
        with open_slide(sample_svs, reader=reader) as slide:
            assert isinstance(slide, LevelReader)
            assert slide.read_associated("label", 50).shape == (50, 42, 3)
            monkeypatch.setattr(type(slide), "_load_associated", None)
            with pytest.raises(SlideError, match="its macro, of 1280 × 431 px, is larger than") as error:
                slide.read_associated("macro", 50)
            assert str(error.value).startswith(f"{sample_svs}: ")


def test_a_damaged_label_costs_nothing_else(sample_svs: Path, tmp_path: Path) -> None:
    copy = shutil.copyfile(sample_svs, tmp_path / "damaged.svs")
    with tifffile.TiffFile(copy) as tiff:
        page = next(series for series in tiff.series if series.name == "Label").keyframe
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    with copy.open("r+b") as file:
        for offset, count in places:
            file.seek(offset)
            file.write(b"\xff" * count)
    for reader in ("tiff", "openslide", "tiffslide"):
        with open_slide(copy, reader=reader) as slide:
            assert isinstance(slide, LevelReader)
            with pytest.raises(SlideError) as error:
                slide.read_associated("label", 50)
            assert str(error.value).startswith(f"{copy}: ") and "\n" not in str(error.value)
            assert slide.read_associated("macro", 50).shape == (17, 50, 3)
            assert slide.read_level(0, Box(900, 900, 910, 910)).shape == (10, 10, 3)


def test_the_viewer_lists_pictures_and_sends_one_at_a_time(asking: TestClient) -> None:
    base = f"/api/slides/{only_id(asking)}/associated"
    listed = asking.get(base)
    assert listed.headers["cache-control"] == "no-store"
    assert listed.json() == {
        "labels": True,
        "images": [
            {"name": "label", "size": LABEL, "shows_label": True},
            {"name": "macro", "size": MACRO, "shows_label": True},
            {"name": "thumbnail", "size": THUMBNAIL, "shows_label": False},
        ],
    }
    for name, (width, height) in (("label", LABEL), ("macro", MACRO), ("thumbnail", THUMBNAIL)):
        answer = asking.get(f"{base}/{name}.jpg")
        assert answer.headers["content-type"] == "image/jpeg"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        shown = picture(asking, f"{base}/{name}.jpg", "RGB")
        factor = min(1.0, 1024 / max(width, height))
        assert shown.shape[:2] == (round(height * factor), round(width * factor))
        assert np.ptp(shown) > 50


def test_other_names_and_other_sites_get_nothing(asking: TestClient, home: Path) -> None:
    base = f"/api/slides/{only_id(asking)}/associated"
    for name in ("other", "..%2flabel", "%2e%2e%2fthumbnail", "label%00", "Label", "x" * 300):
        answer = asking.get(f"{base}/{name}.jpg")
        assert answer.status_code == 404 and answer.headers["content-type"] == "application/json", name
    foreign = {"Sec-Fetch-Site": "cross-site"}
    assert asking.get(f"{base}/label.jpg", headers=foreign).status_code == 403
    assert asking.get(f"{base}/label.jpg?v=older").status_code == 409


def test_a_server_without_labels_sends_none(home: Path) -> None:
    app = create_app(Places(home / "out", labels=False))
    asking = TestClient(app, base_url="http://127.0.0.1:8642", raise_server_exceptions=False)
    base = f"/api/slides/{only_id(asking)}/associated"
    listed = asking.get(base).json()
    assert [one["name"] for one in listed["images"]] == ["thumbnail"] and listed["labels"] is False
    for name in ("label", "macro", "anything"):
        refused = asking.get(f"{base}/{name}.jpg")
        assert refused.status_code == 403 and "--no-labels" in refused.json()["error"]
    assert asking.get(f"{base}/thumbnail.jpg").status_code == 200


def test_without_the_slide_it_says_so(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "out", tmp_path / "out")
    real = home / "real.svs"
    asking = client(tmp_path / "out")
    base = f"/api/slides/{only_id(asking)}/associated"
    kept = real.rename(home / "elsewhere.svs")
    try:
        gone = asking.get(base)
        assert gone.status_code == 404 and "the slide is not there" in gone.json()["error"]
        assert asking.get(f"{base}/label.jpg").status_code == 404
    finally:
        kept.rename(real)
