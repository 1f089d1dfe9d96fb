"""Whole slides with QuPath annotations: what is read where, by whom, and what is wrong."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import Polygon

from tests.made.datasets import corners, feature, write_features
from tests.made.pyramids import make_landmark_slide
from tests.made.slides import SlideSpec, make_slide
from wsi_seg.annotations.rasterize import fill_edges, polygon_edges
from wsi_seg.core.classes import BCSS, IGNORED_CODES
from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.datasets import slide_region
from wsi_seg.datasets.areas import annotated_boxes
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.region import IGNORED, not_class
from wsi_seg.datasets.slide_region import MOST_OPEN, SlideRegion
from wsi_seg.datasets.slides import AnnotatedSlides

SCHEME = LabelScheme(BCSS, 0.5, ignored_codes=IGNORED_CODES)
SIZE_L0 = Size(400, 300)


def write_slide(folder: Path, *features: dict[str, object], name: str = "one", mpp: float = 0.25) -> Path:
    """Write a slide, black in l0 (100, 60) … (180, 140) and white elsewhere, and its annotations."""
    path = make_landmark_slide(folder / f"{name}.tiff", SIZE_L0, Scale(mpp, mpp), [Box(100, 60, 180, 140)])
    write_features(folder / f"{name}.geojson", list(features))
    return path


def drawn(box: Box, name: str | None = "Tumor") -> dict[str, object]:
    return feature(corners(box), name)


def load(folder: Path, scheme: LabelScheme = SCHEME, **values) -> tuple[SlideRegion, ...]:
    dataset = AnnotatedSlides(name="made", folder=folder, **{"margin": 0, **values})
    return dataset.parts(Path(), scheme).training  # type: ignore[return-value]


def read(region: SlideRegion) -> tuple[np.ndarray, np.ndarray]:
    return region.read(Box(0, 0, region.size.width, region.size.height))


# --- what is where ------------------------------------------------------------------------------------


def test_an_annotation_lies_where_it_was_drawn(tmp_path: Path) -> None:
    path = write_slide(tmp_path, drawn(Box(100, 60, 180, 140)))
    (region,) = load(tmp_path, margin=10)
    image, target = read(region)
    assert region.box_map == Box(40, 20, 100, 80) and region.name == "one_x40_y20"
    assert (region.group, region.label) == ("one", None)
    assert region.files == (path, tmp_path / "one.geojson")
    np.testing.assert_array_equal(target == 0, (image == 0).all(axis=2))
    np.testing.assert_array_equal(target == IGNORED, (image == 255).all(axis=2))
    assert (target == 0).sum() == 40 * 40


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), min_size=3, max_size=9, unique=True),
    st.sampled_from([0.25, 0.31, 0.5, 1.0]),
    st.sampled_from([0.25, 0.2528]),
)
def test_targets_equal_pixel_by_pixel(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]], mpp: float, slide_mpp: float
) -> None:
    polygon = shapely.make_valid(Polygon(points), method="structure", keep_collapsed=False)
    if polygon.buffer(-3).is_empty:  # too thin to hold a pixel for sure
        return
    folder = tmp_path_factory.mktemp("slide")
    write_slide(folder, feature([*map(list, points), list(points[0])], "Stroma"), mpp=slide_mpp)
    regions = load(folder, LabelScheme(BCSS, mpp), margin=5)
    total = 0
    for region in regions:
        _, target = read(region)
        box = region.box_map
        y, x = np.mgrid[box.y0 : box.y1, box.x0 : box.x1] + 0.5
        scale = region.frame.l0_per_map
        expected = shapely.contains_xy(polygon, x * scale.x, y * scale.y)
        near = shapely.dwithin(polygon.boundary, shapely.points(x * scale.x, y * scale.y), 1e-6)
        np.testing.assert_array_equal((target == 1)[~near], expected[~near])
        total += int((target == 1).sum())
    assert total * scale.x * scale.y == pytest.approx(polygon.area, abs=polygon.length * scale.x + 2)


def test_the_smaller_annotation_wins_and_holes_are_empty(tmp_path: Path) -> None:
    ring = drawn(Box(0, 0, 200, 200), "Stroma")
    ring["geometry"]["coordinates"].append(corners(Box(20, 20, 60, 60))[::-1])  # type: ignore[index]
    inner, ignored = drawn(Box(100, 100, 140, 140), "Tumor"), drawn(Box(110, 110, 120, 120), "Ignore*")
    write_slide(tmp_path, ignored, inner, ring)
    (region,) = load(tmp_path)
    expected = np.full((100, 100), 1)
    expected[10:30, 10:30] = IGNORED
    expected[50:70, 50:70] = 0
    expected[55:60, 55:60] = IGNORED
    np.testing.assert_array_equal(read(region)[1], expected)


def test_apart_annotations_are_regions_of_their_own(tmp_path: Path) -> None:
    near = [drawn(Box(0, 0, 40, 40)), drawn(Box(60, 0, 100, 40), "Stroma")]
    write_slide(tmp_path, *near, drawn(Box(300, 200, 340, 280), "Necrosis"))
    assert [r.box_map for r in load(tmp_path)] == [
        Box(0, 0, 20, 20), Box(150, 100, 170, 140), Box(30, 0, 50, 20),
    ]  # fmt: skip
    # With a margin the first two meet, and the region ends with the slide.
    assert [r.box_map for r in load(tmp_path, margin=8)] == [Box(0, 0, 58, 28), Box(142, 92, 178, 148)]
    assert {r.group for r in load(tmp_path)} == {"one"}


@pytest.mark.parametrize(("origin", "moved"), [("bounds", True), ("level0", False)])
def test_positions_count_from_the_bounds(origin: str, moved: bool, tmp_path: Path) -> None:
    bounds = Box(512, 256, 1536, 1280)
    make_slide(tmp_path / "one.scn", SlideSpec(Size(2048, 1536), 0.5, bounds=bounds))
    write_features(tmp_path / "one.geojson", [drawn(Box(100, 100, 200, 300))])
    (region,) = load(tmp_path, origin=origin)
    assert region.box_map == (Box(612, 356, 712, 556) if moved else Box(100, 100, 200, 300))
    # What the file itself says counts more.
    document = json.loads((tmp_path / "one.geojson").read_text())
    (tmp_path / "one.geojson").write_text(json.dumps({**document, "wsi_seg": {"subtracted_l0": [10, 20]}}))
    (region,) = load(tmp_path, origin=origin)
    assert region.box_map == Box(110, 120, 210, 320)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("Tumor", {}, 0),
        ("tumour", {}, 0),
        ("Immune cells", {}, 2),
        ("Necrosis", {}, 3),
        ("Blood vessel", {}, 17),
        ("exclude", {}, None),
        ("Carcinoma", {"class_names": {"carcinoma": "tumor"}}, 0),
        ("Tumor", {"class_names": {"Tumor": "dcis"}}, 19),
        ("Tumor", {"known_class": "tumor"}, 0),
        ("Anything", {"known_class": "tumor"}, not_class(0)),
        ("Stroma", {"known_class": "tumor"}, not_class(0)),
        ("Ignore*", {"ignored_classes": ("Necrosis",)}, None),
        ("Region*", {"ignored_classes": ("Necrosis",)}, None),
        ("Necrosis", {"ignored_classes": ("necrosis",)}, None),
        ("Region*", {"class_names": {"Region*": "tumor"}}, 0),
        (None, {"ignored_classes": ("Unclassified",)}, None),
        (None, {"class_names": {"Unclassified": "tumor"}}, 0),
    ],
)
def test_classes_by_name(
    name: str | None, values: dict[str, object], expected: int | None, tmp_path: Path
) -> None:
    write_slide(tmp_path, drawn(Box(0, 0, 40, 40), name), drawn(Box(200, 200, 240, 240), "Stroma"))
    first = load(tmp_path, **values)[0]
    if expected is None:  # of an ignored code, so no region
        assert first.box_map == Box(100, 100, 120, 120)
    else:
        assert set(np.unique(read(first)[1])) == {expected}


def test_annotations_in_a_folder_of_their_own_and_some_slides_only(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_slide(tmp_path, drawn(Box(0, 0, 40, 40)), name=name)
        packed = gzip.compress((tmp_path / f"{name}.geojson").read_bytes())
        (tmp_path / "drawn").mkdir(exist_ok=True)
        (tmp_path / "drawn" / f"{name}.geojson.gz").write_bytes(packed)
        (tmp_path / f"{name}.geojson").unlink()
    (tmp_path / "notes.txt").write_text("no slide")
    assert [r.group for r in load(tmp_path, annotations="drawn")] == ["a", "b"]
    assert [r.group for r in load(tmp_path, annotations="drawn", slides="b*")] == ["b"]


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    write_slide(tmp_path, drawn(Box(100, 60, 180, 140)))
    for name in ("._one.tiff", "._one.geojson", "._two.geojson"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7AppleDouble")
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "._1.dcm").write_bytes(b"\0\5\x16\7AppleDouble")
    (region,) = load(tmp_path)
    assert region.files == (tmp_path / "one.tiff", tmp_path / "one.geojson")


def test_slides_of_a_tcga_patient_go_together(tmp_path: Path) -> None:
    for name in ("TCGA-A1-A0SK-DX1", "TCGA-A1-A0SK-DX2"):
        write_slide(tmp_path, drawn(Box(0, 0, 40, 40)), name=name)
    assert [r.group for r in load(tmp_path)] == ["TCGA-A1-A0SK"] * 2


# --- boxes --------------------------------------------------------------------------------------------

CORNERS = st.tuples(*[st.floats(-10, 110)] * 4).filter(
    lambda b: abs(b[2] - b[0]) > 1 and abs(b[3] - b[1]) > 1
)


@settings(max_examples=200, deadline=None)
@given(st.lists(CORNERS, min_size=1, max_size=8), st.integers(0, 9), st.sampled_from([7, 30, 1000]))
def test_boxes_hold_all_that_is_drawn(found: list[tuple[float, ...]], margin: int, longest: int) -> None:
    polygons = [
        shapely.box(*(min(b[i], b[i + 2]) for i in (0, 1)), *(max(b[i], b[i + 2]) for i in (0, 1)))
        for b in found
    ]
    whole = Box(0, 0, 100, 100)
    boxes = annotated_boxes(polygons, whole, margin, longest)
    times = np.zeros((100, 100), int)
    for box in boxes:
        assert box.intersect(whole) == box and not box.empty and max(box.width, box.height) <= longest
        times[box.within(whole)] += 1
    assert times.max(initial=0) <= 1
    annotated = fill_edges(polygon_edges(polygons, [1] * len(polygons)), whole) > 0
    assert (times[annotated] == 1).all()


def test_parts_without_annotation_are_left_out() -> None:
    line = shapely.LineString([(0, 0), (1000, 1000)]).buffer(2)
    boxes = annotated_boxes([line], Box(0, 0, 1000, 1000), 0, 100)
    assert 10 <= len(boxes) <= 28 and all(abs(box.x0 - box.y0) <= 100 for box in boxes)


# --- reading ------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process ids that opened a slide to read from; what was open before is forgotten."""
    pids: list[int] = []
    original = slide_region.open_slide_of

    def open_slide_of(recipe):
        pids.append(os.getpid())
        return original(recipe)

    monkeypatch.setattr(slide_region, "open_slide_of", open_slide_of)
    monkeypatch.setattr(slide_region, "_open_slides", slide_region._OpenSlides())
    return pids


def test_targets_need_no_pixels(tmp_path: Path, opened: list[int]) -> None:
    path = write_slide(tmp_path, drawn(Box(0, 0, 40, 40)))
    (region,) = load(tmp_path)
    path.unlink()
    assert (region.coarse_targets(4) == 0).all() and opened == []
    with pytest.raises(SlideError, match=r"one\.tiff: no such file"):
        read(region)


def test_a_slide_is_opened_once_by_a_thread_and_not_by_the_pickle(tmp_path: Path, opened: list[int]) -> None:
    write_slide(tmp_path, drawn(Box(0, 0, 40, 40)), drawn(Box(100, 100, 140, 140)))
    one, other = load(tmp_path)
    expected = read(one)[0]
    sent = pickle.loads(pickle.dumps(one))
    assert np.array_equal(read(sent)[0], expected) and read(other) is not None
    assert len(opened) == 1
    with ThreadPoolExecutor(1) as pool:
        assert all(np.array_equal(p, expected) for p, _ in pool.map(read, [one] * 3))
    assert len(opened) == 2


def test_a_forked_process_opens_the_slide_itself(tmp_path: Path, opened: list[int]) -> None:
    write_slide(tmp_path, drawn(Box(0, 0, 40, 40)))
    (region,) = load(tmp_path)
    expected = read(region)[0]
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        same = np.array_equal(read(region)[0], expected)
        answers.put((same, opened[1:] == [os.getpid()]))

    process = context.Process(target=child)
    process.start()
    process.join(60)
    assert process.exitcode == 0 and answers.get() == (True, True)
    assert np.array_equal(read(region)[0], expected) and opened == [os.getpid()]


def test_few_slides_stay_open(tmp_path: Path, opened: list[int]) -> None:
    for number in range(MOST_OPEN + 1):
        write_slide(tmp_path, drawn(Box(0, 0, 40, 40)), name=f"s{number}")
    regions = load(tmp_path)
    for region in (*regions[:-1], regions[0], regions[-1]):
        read(region)
    assert len(opened) == MOST_OPEN + 1
    read(regions[0])  # used of late, so still open
    assert len(opened) == MOST_OPEN + 1
    read(regions[1])
    assert len(opened) == MOST_OPEN + 2


def test_a_slide_that_failed_is_opened_anew(tmp_path: Path, opened: list[int]) -> None:
    path = write_slide(tmp_path, drawn(Box(0, 0, 40, 40)))
    (region,) = load(tmp_path)
    read(region)
    slide_region._open_slides.get(region.recipe).close()
    with pytest.raises(SlideError, match="the slide was closed"):
        read(region)
    assert read(region) is not None and len(opened) == 2
    assert path.exists()
