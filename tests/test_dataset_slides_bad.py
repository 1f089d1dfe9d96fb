"""Bad slides and annotations: one line that names the file, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.made.datasets import corners, feature, write_features
from tests.made.pyramids import make_landmark_slide
from wsi_seg.core.classes import BCSS
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.slides import AnnotatedSlides

BOX = Box(10, 10, 50, 50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_landmark_slide(tmp_path / "one.tiff", Size(400, 300), Scale(0.25, 0.25), [])
    write_features(tmp_path / "one.geojson", [feature(corners(BOX), "Tumor")])
    return tmp_path


def fault(folder: Path, **values) -> str:
    with pytest.raises(DataError) as caught:
        AnnotatedSlides(name="made", folder=folder, **values).parts(Path(), LabelScheme(BCSS, 0.5))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_slide_without_annotations(folder: Path) -> None:
    (folder / "one.geojson").unlink()
    expected = f"{folder}/one.geojson, .annotations, .xml or .json"
    assert fault(folder) == f"{folder}/one.tiff: has no annotations; expected {expected}"
    (folder / "drawn").mkdir()
    assert f"expected {folder}/drawn/one.geojson" in fault(folder, annotations="drawn")


def test_annotations_without_a_slide(folder: Path) -> None:
    (folder / "one.tiff").rename(folder / "two.tiff")
    assert fault(folder).startswith(f"{folder}/one.geojson: annotations without a slide; there is no")


def test_two_files_of_annotations(folder: Path) -> None:
    (folder / "one.geojson.gz").write_bytes(b"")
    assert fault(folder) == f"{folder}/one.geojson.gz: one.geojson is there too; remove one of them"


def test_no_slides(folder: Path) -> None:
    assert fault(folder, slides="*.svs").startswith(f"{folder}: no slides at *.svs; set data_dir and folder")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Carcinoma", "polygon 2 is of class 'Carcinoma', which the model does not have (tumor, stroma, "),
        (None, "polygon 2 has no class; give it one, or put Unclassified into ignored_classes"),
    ],
)
def test_classes_that_the_model_does_not_have(name: str | None, message: str, folder: Path) -> None:
    write_features(folder / "one.geojson", [feature(corners(BOX), n) for n in ("Tumor", name)])
    assert fault(folder).startswith(f"{folder}/one.geojson: {message}")


def test_nothing_but_ignored_classes(folder: Path) -> None:
    write_features(folder / "one.geojson", [feature(corners(BOX), "Region*")])
    assert fault(folder) == f"{folder}/one.geojson: all of its annotations are of ignored classes"


@pytest.mark.parametrize("box", [Box(390, 10, 420, 40), Box(10, 310, 40, 340), Box(-9, 10, 50, 40)])
def test_a_polygon_outside_its_slide(box: Box, folder: Path) -> None:
    write_features(folder / "one.geojson", [feature(corners(b), "Tumor") for b in (BOX, box)])
    message = fault(folder)
    assert message.startswith(
        f"{folder}/one.geojson: polygon 2 lies outside its image {folder}/one.tiff of 400×300"
    )
    # What is ignored may lie anywhere.
    write_features(folder / "one.geojson", [feature(corners(BOX), "Tumor"), feature(corners(box), "Ignore*")])
    assert AnnotatedSlides(name="made", folder=folder).parts(Path(), LabelScheme(BCSS, 0.5)).training


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ('{"type": "FeatureCollection", "features": []}', "no polygon with an area (found nothing drawn)"),
        ("{}", "neither a FeatureCollection, a Feature, a geometry nor a list of them"),
    ],
)
def test_damaged_annotations(text: str, message: str, folder: Path) -> None:
    (folder / "one.geojson").write_text(text)
    assert fault(folder).startswith(f"{folder}/one.geojson: ") and message in fault(folder)


def test_a_polygon_without_area(folder: Path) -> None:
    flat = feature([[0.0, 0.0], [4.0, 4.0], [0.0, 0.0]], "Tumor")
    write_features(folder / "one.geojson", [feature(corners(BOX), "Tumor"), flat])
    assert fault(folder).startswith(f"{folder}/one.geojson: polygon 2 has no area (fewer than three points?)")


def test_annotations_without_a_pixel(folder: Path) -> None:
    write_features(folder / "one.geojson", [feature([[0.0, 0.0], [0.5, 0], [0.5, 200], [0.0, 0.0]], "Tumor")])
    assert fault(folder) == f"{folder}/one.geojson: its annotations hold no pixel of 0.5 µm"


def test_a_damaged_slide(folder: Path) -> None:
    (folder / "one.tiff").write_bytes((folder / "one.tiff").read_bytes()[:200])
    assert str(folder / "one.tiff") in fault(folder)


def test_a_slide_without_resolution(folder: Path) -> None:
    pixels = np.zeros((300, 400, 3), np.uint8)
    tifffile.imwrite(folder / "one.tiff", pixels, tile=(64, 64), photometric="rgb", resolutionunit="NONE")
    assert fault(folder) == (
        f"{folder}/one.tiff: the slide does not say its microns per pixel; set mpp in the data set made"
    )
    dataset = AnnotatedSlides(name="made", folder=folder, mpp=0.25, margin=0)
    (region,) = dataset.parts(Path(), LabelScheme(BCSS, 0.5)).training
    assert region.size == Size(20, 20) and (region.read(Box(0, 0, 20, 20))[0] == 0).all()
