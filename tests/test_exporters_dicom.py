"""DICOM exports as pydicom, highdicom, wsidicom and dciodvfy read them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely import Polygon
from typer.testing import CliRunner

from tests.made.exports import MadeResult
from tests.made.landmarks import darkness_model
from tests.test_exporters import export, landmark_error, made  # noqa: F401 (a fixture)
from wsi_seg.annotations.reading import read_annotations
from wsi_seg.cli import app
from wsi_seg.core.concepts import concept_of
from wsi_seg.core.errors import SlideError
from wsi_seg.exporters.keyholes import keyhole
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RegionSettings, RunSettings
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.results.files import MAPS

highdicom = pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from highdicom.ann import annread  # noqa: E402
from highdicom.pm import ParametricMap  # noqa: E402
from highdicom.seg import segread  # noqa: E402
from pydicom import Dataset, dcmread  # noqa: E402

from wsi_seg.exporters import dicom_tiles  # noqa: E402
from wsi_seg.exporters.dicom_slide import code_of, referenced_slide  # noqa: E402
from wsi_seg.pipeline.export import export_source  # noqa: E402

TILE = 512
# What dciodvfy of 2022 says of every label map: it knows neither that class of 2024 nor its segment 0.
UNKNOWN_TO_DCIODVFY = {
    "Error - Information Object Not found",
    "Error - SegmentNumber not monotonically increasing from one by one - have SegmentSequence item number 1 "
    "(from one) with SegmentNumber of 0",
}
# It says so of any annotations in pixels, which have no such attribute.
WRONGLY_FOUND_IN_2D = {
    "Error - Only valid for AnnotationCoordinateType of 3D - attribute <CommonZCoordinateValue> = <>"
}


@dataclass(frozen=True)
class Exports:
    """Files of one result."""

    made: MadeResult
    segmentation: Path
    maps: Path
    annotations: Path


@pytest.fixture(scope="module")
def exports(made: MadeResult, tmp_path_factory: pytest.TempPathFactory) -> Exports:  # noqa: F811
    return export_all(made, tmp_path_factory.mktemp("dicom"))


def export_all(made: MadeResult, folder: Path) -> Exports:  # noqa: F811
    paths = [folder / name for name in ("a.dicom-seg", "a.dicom-pm", "a.dcm")]
    for kind, path in zip(("seg", "pm", "ann"), paths, strict=True):
        done = export(made, "--to", f"dicom-{kind}", "-o", path, "--groups", "tumor")
        assert done.exit_code == 0, done.output
    return Exports(made, *paths)


def total_matrix(image: Dataset) -> NDArray[np.integer]:
    """Put the tiles of an image together by what it says of each, without highdicom."""
    rows, columns = image.TotalPixelMatrixRows, image.TotalPixelMatrixColumns
    across, down = -(-columns // TILE), -(-rows // TILE)
    tiles = image.pixel_array.reshape(-1, TILE, TILE)
    if image.DimensionOrganizationType == "TILED_FULL":
        corners = [(y * TILE, x * TILE) for y in range(down) for x in range(across)]
    else:
        places = [item.PlanePositionSlideSequence[0] for item in image.PerFrameFunctionalGroupsSequence]
        corners = [
            (p.RowPositionInTotalImagePixelMatrix - 1, p.ColumnPositionInTotalImagePixelMatrix - 1)
            for p in places
        ]
        for place, (y, x) in zip(places, corners, strict=True):
            position = [place.XOffsetInSlideCoordinateSystem, place.YOffsetInSlideCoordinateSystem]
            assert np.allclose(position, center_mm(image, x, y), atol=1e-9)
    whole = np.full((down * TILE, across * TILE), 9999, np.int64)
    for tile, (y, x) in zip(tiles, corners, strict=True):
        whole[y : y + TILE, x : x + TILE] = tile
    return whole[:rows, :columns]


def center_mm(image: Dataset, column: float, row: float) -> NDArray[np.float64]:
    """Return x and y of a pixel's center in the slide coordinate system (PS3.3, C.7.6.21.1)."""
    origin = image.TotalPixelMatrixOriginSequence[0]
    row_spacing, column_spacing = (
        image.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    )
    cosines = np.array(image.ImageOrientationSlide, float)
    first = np.array([origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem], float)
    return first + column * column_spacing * cosines[:2] + row * row_spacing * cosines[3:5]


def to_l0(made: MadeResult, xy_mm: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: F811
    """Return l0 pixels of the made frame of reference, in which the far corner of level 0 is the origin."""
    x = made.size.width - xy_mm[:, 1] * 1000 / made.mpp.x
    y = made.size.height - xy_mm[:, 0] * 1000 / made.mpp.y
    return np.stack([x, y], axis=1)


def rectangles(made: MadeResult, image: Dataset, inside: NDArray[np.bool_]) -> list[Polygon]:  # noqa: F811
    """Return the connected parts of an image and their holes as rectangles in l0 pixels."""

    def boxes(mask: NDArray[np.bool_]) -> list[Polygon]:
        found = scipy.ndimage.find_objects(scipy.ndimage.label(mask)[0])
        corners_mm = [
            [center_mm(image, x.start - 0.5, y.start - 0.5), center_mm(image, x.stop - 0.5, y.stop - 0.5)]
            for y, x in found
        ]
        return [shapely.box(*to_l0(made, np.array(pair)).ravel()) for pair in corners_mm]

    _, *holes = sorted(boxes(~inside), key=lambda box: -box.area)
    return [
        Polygon(box.exterior, [hole.exterior.coords for hole in holes if box.contains(hole)])
        for box in boxes(inside)
    ]


def test_segmentation_lies_on_the_landmarks(exports: Exports) -> None:
    maps = Maps.open(exports.made.folder / MAPS)
    files = sorted(exports.segmentation.iterdir())
    assert [file.name for file in files] == [f"level_{i}.dcm" for i in range(maps.level_count)]
    images = [dcmread(file) for file in files]
    for level, (file, image) in enumerate(zip(files, images, strict=True)):
        matrix = total_matrix(image)
        assert np.array_equal(matrix, maps.array("classes", level)[...])
        assert np.array_equal(segread(file).get_total_pixel_matrix(combine_segments=True), matrix)
        assert landmark_error(rectangles(exports.made, image, matrix == 1), exports.made) <= 0.01
    assert (
        len({image.PyramidUID for image in images}) == len({image.SeriesInstanceUID for image in images}) == 1
    )
    assert len({image.SOPInstanceUID for image in images}) == len(images)
    background, tumor, stroma = images[0].SegmentSequence
    assert [s.SegmentNumber for s in (background, tumor, stroma)] == [0, 1, 2]
    assert tumor.SegmentedPropertyTypeCodeSequence[0].CodeValue == "108369006"
    assert stroma.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == "99WSISEG"
    assert tumor.SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "darkness"
    color = highdicom.color.CIELabColor.from_dicom_value(tumor.RecommendedDisplayCIELabValue).to_rgb()
    assert np.abs(np.subtract(color, (200, 0, 0))).max() <= 2


def test_parametric_maps_lie_on_the_landmarks(exports: Exports) -> None:
    maps = Maps.open(exports.made.folder / MAPS)
    names = sorted(file.name for file in exports.maps.iterdir())
    assert names == [
        f"{channel}_{level}.dcm"
        for channel in ("001_tumor", "002_stroma")
        for level in range(maps.level_count)
    ]
    for level in range(maps.level_count):
        file = exports.maps / f"001_tumor_{level}.dcm"
        image, stored = dcmread(file), maps.array("probabilities", level)[0]
        matrix = total_matrix(image)
        assert np.array_equal(matrix, stored)
        real = ParametricMap.from_file(file).get_total_pixel_matrix(apply_real_world_transform=True)
        assert np.allclose(real, stored / 255, atol=1e-6)
        # Pixels of coarser levels are up to 8 l0 pixels wide, and edges may lie in the middle of one.
        error = landmark_error(rectangles(exports.made, image, matrix >= 128), exports.made)
        assert error <= (0.01 if level == 0 else 4.01)


def annotated(exports: Exports) -> list[Polygon]:
    """Return the regions in l0 pixels, as wsidicom reads them."""
    graphical = pytest.importorskip("wsidicom.graphical_annotations", reason="wsidicom is not installed")
    (instance,) = graphical.AnnotationInstance.open([exports.annotations])
    rings = [
        np.array([(point.x, point.y) for point in annotation.geometry.points])
        for group in instance.groups
        for annotation in group.annotations
    ]
    if instance.coordinate_type == "volume":
        rings = [to_l0(exports.made, ring) for ring in rings]
    return [shapely.make_valid(Polygon(ring), method="structure", keep_collapsed=False) for ring in rings]


def test_annotations_lie_on_the_landmarks(exports: Exports) -> None:
    shapes = annotated(exports)
    assert landmark_error(shapes, exports.made) <= 0.1
    (group,) = annread(exports.annotations).AnnotationGroupSequence
    assert (group.graphic_type.value, group.label) == ("POLYGON", "tumor")
    assert group.algorithm_identification.name == "darkness"
    area, probability = (m.get_values(group.NumberOfAnnotations) for m in group.MeasurementsSequence)
    um2 = np.array([shape.area for shape in shapes]) * exports.made.mpp.x * exports.made.mpp.y
    assert np.allclose(area, um2, rtol=1e-3) and np.all(probability > 0.9)


def test_all_of_a_slide_shares_study_and_frame_of_reference(exports: Exports) -> None:
    files = [exports.annotations, *exports.segmentation.iterdir(), *exports.maps.iterdir()]
    images = [dcmread(file, stop_before_pixels=True) for file in files]
    assert len({(i.StudyInstanceUID, i.FrameOfReferenceUID, i.ContainerIdentifier) for i in images}) == 1
    for image in images:  # there is no image to refer to
        assert not {"SourceImageSequence", "ReferencedImageSequence", "ReferencedSeriesSequence"} & set(
            image.dir()
        )


def dciodvfy(file: Path) -> tuple[set[str], set[str]]:
    """Return the errors and warnings of dciodvfy, but those that the patient is unknown."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("no dciodvfy here; on Debian: apt install dicom3tools")
    done = subprocess.run([program, str(file)], capture_output=True, text=True, timeout=60, errors="replace")
    lines = (done.stdout + done.stderr).splitlines()
    assert any(line.strip() for line in lines)
    warnings = {line for line in lines if line.startswith("Warning") and "DICOMDIR" not in line}
    return {line for line in lines if line.startswith(("Error", "Abort"))}, warnings


def test_dciodvfy_finds_no_errors(exports: Exports) -> None:
    errors, warnings = dciodvfy(exports.annotations)
    # highdicom adds the specimen, which only an extended class of annotations has.
    rest = {w for w in warnings if "not present in standard DICOM IOD" not in w and "99WSISEG" not in w}
    assert (errors, rest) == (set(), set())
    for file in exports.maps.iterdir():
        errors, warnings = dciodvfy(file)
        assert errors == set()
        assert all("<QUANTITY>" in w or "99WSISEG" in w for w in warnings)
    for file in exports.segmentation.iterdir():
        assert dciodvfy(file)[0] == UNKNOWN_TO_DCIODVFY


@pytest.fixture(scope="module")
def dicom_exports(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """All of a real DICOM slide; what is dark on it stands for tumor."""
    folder = tmp_path_factory.mktemp("dicom_slide")
    slide = shutil.copytree(data_dir / "slides" / "CMU-1-Small-Region-dicom", folder / "slide")
    run_settings = RunSettings(
        tissue="none",
        plan=PlanSettings(block=1024, tile=256, overlap=16, probability_downsample=2),
        regions=RegionSettings(groups=("tumor",)),
    )
    done = segment_slide(slide, folder / "out", darkness_model(1.996, 256), run_settings)
    info = export_source(Path(done.folder), run_settings.regions).slide
    assert info.mpp is not None
    return export_all(MadeResult(Path(done.folder), (0, 0), info.mpp, info.size), folder)


def test_references_to_a_dicom_slide(dicom_exports: Exports, data_dir: Path) -> None:
    slides = (data_dir / "slides" / "CMU-1-Small-Region-dicom").iterdir()
    (level_0,) = (s for s in map(dcmread, slides) if s.ImageType[2] == "VOLUME")
    segmentation = dcmread(dicom_exports.segmentation / "level_0.dcm")
    parametric = dcmread(dicom_exports.maps / "001_tumor_0.dcm")
    annotations = dcmread(dicom_exports.annotations)
    for image in (segmentation, parametric, annotations):
        assert image.StudyInstanceUID == level_0.StudyInstanceUID
        (series,) = image.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == level_0.SeriesInstanceUID
        (instance,) = series.ReferencedInstanceSequence
        assert instance.ReferencedSOPInstanceUID == level_0.SOPInstanceUID
    for image, downsample in ((segmentation, 4), (parametric, 8)):
        assert image.FrameOfReferenceUID == level_0.FrameOfReferenceUID
        # The corner of its fourth pixel is that of a pixel of level 0.
        corner = center_mm(image, 3 - 0.5, 3 - 0.5)
        assert np.allclose(corner, center_mm(level_0, 3 * downsample - 0.5, 3 * downsample - 0.5), atol=1e-8)
    assert annotations.AnnotationCoordinateType == "2D" and annotations.PixelOriginInterpretation == "VOLUME"
    assert annotations.ReferencedImageSequence[0].ReferencedSOPInstanceUID == level_0.SOPInstanceUID


def test_dciodvfy_finds_no_errors_in_references(dicom_exports: Exports) -> None:
    assert dciodvfy(dicom_exports.maps / "001_tumor_0.dcm")[0] == set()
    assert dciodvfy(dicom_exports.segmentation / "level_0.dcm")[0] == UNKNOWN_TO_DCIODVFY
    assert dciodvfy(dicom_exports.annotations)[0] == WRONGLY_FOUND_IN_2D
    (group,) = dcmread(dicom_exports.annotations).AnnotationGroupSequence
    assert "CommonZCoordinateValue" not in group


def test_annotations_of_a_dicom_slide_are_those_of_geojson(dicom_exports: Exports, tmp_path: Path) -> None:
    done = export(dicom_exports.made, "-o", tmp_path / "a.geojson", "--groups", "tumor")
    assert done.exit_code == 0, done.output
    read = read_annotations(tmp_path / "a.geojson").in_l0(None, "level0").geometries
    expected = [part for shape in read for part in shapely.get_parts(shape)]
    found = annotated(dicom_exports)
    assert len(found) == len(expected) > 3 and max(len(part.interiors) for part in expected) > 1
    for shape, truth in zip(found, expected, strict=True):
        assert shape.symmetric_difference(truth).area < 1e-3
        assert np.abs(np.subtract(shape.bounds, truth.bounds)).max() < 0.01


def test_a_dicom_slide_that_is_gone_or_another_is_named(
    dicom_exports: Exports, tmp_path: Path, data_dir: Path
) -> None:
    info = export_source(dicom_exports.made.folder, RegionSettings(groups=("tumor",))).slide
    with pytest.raises(SlideError, match=r"gone\.dcm: the DICOM slide is gone"):
        referenced_slide(replace(info, path=str(tmp_path / "gone.dcm")))
    with pytest.raises(SlideError, match="has no image of 1 × 1 px any more"):
        referenced_slide(replace(info, size=replace(info.size, width=1, height=1)))
    damaged = shutil.copy(info.path, tmp_path / "damaged.dcm")
    whole = Path(damaged).read_bytes()
    Path(damaged).write_bytes(whole[:1200])
    with pytest.raises(SlideError, match=r"damaged\.dcm"):
        referenced_slide(replace(info, path=str(damaged)))
    Path(damaged).write_bytes(b"x" * 600)
    with pytest.raises(SlideError, match=r"damaged\.dcm: damaged DICOM file"):
        referenced_slide(replace(info, path=str(damaged)))


def test_tables_of_offsets_for_large_files(
    exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicom_tiles, "BASIC_TABLE_MOST", 0)
    done = export(exports.made, "--to", "dicom-seg", "-o", tmp_path / "a.dicom-seg")
    assert done.exit_code == 0, done.output
    large, small = tmp_path / "a.dicom-seg" / "level_0.dcm", exports.segmentation / "level_0.dcm"
    image = dcmread(large)
    assert len(image.ExtendedOffsetTable) == len(image.ExtendedOffsetTableLengths) == 8 * image.NumberOfFrames
    assert np.array_equal(image.pixel_array, dcmread(small).pixel_array)
    lazy = segread(large, lazy_frame_retrieval=True)
    assert np.array_equal(lazy.get_total_pixel_matrix(combine_segments=True), total_matrix(image))


def test_what_is_there_stays_and_nothing_is_left_half_written(
    made: MadeResult,  # noqa: F811
    tmp_path: Path,
) -> None:
    taken = tmp_path / "a.dicom-seg"
    taken.mkdir()
    refused = export(made, "--to", "dicom-seg", "-o", taken)
    assert refused.exit_code == 1 and f"{taken}: already exists" in refused.output
    assert not list(taken.iterdir())
    none = ["--set", "min_area_um2=1e9", "--groups", "tumor", "--to", "dicom-ann"]
    nothing = CliRunner().invoke(app, ["export", str(made.folder), "-o", str(tmp_path / "a.dcm"), *none])
    assert nothing.exit_code == 2 and "there are no regions of tumor" in nothing.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.dicom-seg"]


def test_names_too_long_for_a_code_have_an_attribute_of_their_own() -> None:
    code = highdicom.sr.CodedConcept.from_code(code_of(concept_of("lymphocytic_infiltrate")))
    assert code.LongCodeValue == "lymphocytic_infiltrate" and "CodeValue" not in code


def shoelace(ring: NDArray[np.float64]) -> float:
    x, y = ring.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def with_holes(outline: Polygon, holes: list[Polygon]) -> Polygon:
    shape = shapely.difference(outline, shapely.union_all(holes))
    largest: Polygon = max(shapely.get_parts(shape), key=lambda part: part.area)
    return shapely.orient_polygons(largest)


def check_keyhole(polygon: Polygon) -> None:
    ring = keyhole(polygon)
    assert shoelace(ring) == pytest.approx(polygon.area, rel=1e-9)
    again = shapely.make_valid(Polygon(ring), method="structure", keep_collapsed=False)
    assert again.symmetric_difference(polygon).area == pytest.approx(0, abs=1e-6 * polygon.area)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(*[st.integers(1, 18)] * 2, *[st.integers(1, 5)] * 2), max_size=12))
def test_keyholes_keep_the_area(holes: list[tuple[int, int, int, int]]) -> None:
    boxes = [shapely.box(x, y, min(x + w, 19), min(y + h, 19)) for x, y, w, h in holes]
    check_keyhole(with_holes(shapely.box(0, 0, 20, 20), boxes))


HOLES: dict[str, Callable[[], list[Polygon]]] = {
    "one behind the other": lambda: [shapely.Point(x, 10).buffer(1) for x in (3, 8, 13, 18)],
    "touching the outline": lambda: [Polygon([(0, 10), (4, 8), (4, 12)])],
    "touching each other": lambda: [shapely.box(3, 3, 6, 6), shapely.box(6, 6, 9, 9)],
    "one around the other": lambda: [shapely.Point(10, 10).buffer(8).difference(shapely.box(5, 9, 20, 11))],
}


@pytest.mark.parametrize("name", HOLES)
def test_keyholes_of_close_holes(name: str) -> None:
    check_keyhole(with_holes(shapely.box(0, 0, 20, 20), HOLES[name]()))
