"""GeoJSON for QuPath: written to the letter, checked strictly, read back."""

from __future__ import annotations

import copy
import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.reading import read_annotations
from wsi_seg.core.classes import BCSS_GROUPS, ClassGroup
from wsi_seg.core.errors import MaskError, OutputError, UsageError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.exporters.geojson import GeoJSONSummary, write_geojson
from wsi_seg.regions.polygons import Region
from wsi_seg.slides.slide import Level, MapFrame, SlideInfo, map_frame
from wsi_seg.testing.geojson import assert_geojson, check_geojson

TUMOR, STROMA = BCSS_GROUPS[:2]
SLIDE = SlideInfo(
    path="/slides/a.mrxs",
    name="a",
    reader="openslide",
    vendor="mirax",
    size=Size(40_000, 30_000),
    levels=(Level(Size(40_000, 30_000), Scale(1, 1)),),
    mpp=Scale(0.25, 0.2),
    mpp_source="openslide",
    bounds=Box(1000, 2000, 39_000, 29_000),
    fingerprint="0123abcd",
)
FRAME = map_frame(SLIDE, 0.5)  # 2 and 2.5 l0 pixels per map pixel
RING = shapely.box(1000, 2000, 1100, 2100).difference(shapely.box(1020, 2020, 1080, 2080))


def region(polygon: Polygon = RING, group: ClassGroup = TUMOR, **values: Any) -> Region:
    given = {"mean_probability": 0.87654, "shares": {"tumor": 0.75, "stroma": 0.25}, **values}
    return Region(polygon, group, polygon.area * 0.25, polygon.length * 0.5, **given)


def write(path: Path, *regions: Region, slide: SlideInfo = SLIDE, **options: Any) -> GeoJSONSummary:
    return write_geojson(regions, path, slide=slide, frame=FRAME, **options)


def load(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    document: dict[str, Any] = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    return document


def test_a_feature_has_all_that_qupath_wants_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    summary = write(path, region(), region(shapely.box(0, 0, 10, 10), STROMA))
    assert (summary.count, summary.counts, summary.vanished) == (2, {"tumor": 1, "stroma": 1}, 0)
    assert_geojson(path)
    feature, second = load(path)["features"]
    assert feature["properties"] == {
        "objectType": "annotation",
        "name": "Tumor 1",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
        "measurements": {
            "Area µm^2": 1600.0,
            "Perimeter µm": 320.0,
            "Mean probability": 0.8765,
            "Share tumor": 0.75,
            "Share stroma": 0.25,
        },
        "metadata": {"group": "tumor", "codes": "1 19 20"},
    }
    assert second["properties"]["classification"]["name"] == "Stroma"
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("slide", "options", "subtracted"),
    [
        (SLIDE, {}, (1000, 2000)),
        (SLIDE, {"origin": "bounds"}, (1000, 2000)),
        (SLIDE, {"origin": "level0"}, (0, 0)),
        (dataclasses.replace(SLIDE, bounds=None), {}, (0, 0)),
    ],
)
def test_positions_are_l0_less_the_bounds(
    tmp_path: Path, slide: SlideInfo, options: dict[str, str], subtracted: tuple[float, float]
) -> None:
    path = tmp_path / "a.geojson"
    assert write(path, region(), slide=slide, **options).subtracted_l0 == subtracted
    document = load(path)
    written = shapely.from_geojson(json.dumps(document["features"][0]["geometry"]))
    in_l0 = shapely.transform(RING, lambda xy: xy * [2, 2.5])
    assert shapely.transform(written, lambda xy: xy + subtracted).equals(in_l0)  # hole kept
    assert document["wsi_seg"]["subtracted_l0"] == list(subtracted)
    assert document["wsi_seg"]["mpp"] == [0.25, 0.2]
    annotations = read_annotations(path)
    assert annotations.subtracted_l0 == subtracted
    assert [item.name for item in annotations.items] == ["Tumor"]
    assert annotations.items[0].geometry.equals(written)


def test_ids_name_slide_class_and_geometry(tmp_path: Path) -> None:
    def ids(*regions: Region, slide: SlideInfo = SLIDE) -> list[str]:
        write(tmp_path / "a.geojson", *regions, slide=slide)
        return [f["id"] for f in load(tmp_path / "a.geojson")["features"]]

    other = region(shapely.box(0, 0, 10, 10))
    (first,) = ids(region())
    assert ids(other, region())[1] == first  # not by position in the file
    assert ids(region(mean_probability=0.1)) == [first]
    assert ids(region(group=STROMA)) != [first] != ids(other)
    assert ids(region(), slide=dataclasses.replace(SLIDE, fingerprint="ffff")) != [first]
    assert ids(region(), slide=dataclasses.replace(SLIDE, path="/elsewhere/a.mrxs")) == [first]


def test_coordinates_are_on_the_grid_of_qupath(tmp_path: Path) -> None:
    circle = shapely.Point(700.123456, 900.98765).buffer(33.3, quad_segs=50)
    write(tmp_path / "a.geojson", region(circle))
    xy = np.array(load(tmp_path / "a.geojson")["features"][0]["geometry"]["coordinates"][0])
    np.testing.assert_array_equal(xy, np.round(xy, 2))
    assert len(xy) > 100
    assert max(len(text) for text in (tmp_path / "a.geojson").read_text().split("[")[10:60]) < 20


def test_what_has_no_area_left_is_counted_not_written(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    sliver = Polygon([(0, 0), (100, 0), (100, 0.001)])
    outside = shapely.box(20_001, 5, 20_010, 9)
    summary = write(path, region(sliver), region(outside), region())
    assert (summary.count, summary.vanished) == (1, 2)
    assert_geojson(path)


def test_polygons_that_break_on_the_grid_stay_valid(tmp_path: Path) -> None:
    neck = Polygon([(0, 0), (10, 0), (10, 10), (5.001, 10), (5.001, 20), (10, 20), (10, 30), (0, 30), (0, 20),
                    (5, 20), (5, 10), (0, 10)])  # fmt: skip
    bow = Polygon([(100, 100), (110, 110), (110, 100), (100, 110)])
    write(tmp_path / "a.geojson", region(neck), region(bow))
    assert_geojson(tmp_path / "a.geojson")
    first, second = read_annotations(tmp_path / "a.geojson").items
    assert isinstance(first.geometry, MultiPolygon) and len(first.geometry.geoms) == 2
    assert second.geometry.area == pytest.approx(bow.convex_hull.area * 2 * 2.5 / 2)


def test_regions_end_with_the_slide(tmp_path: Path) -> None:
    slide = dataclasses.replace(SLIDE, size=Size(39_999, 30_000), bounds=None)
    frame = map_frame(slide, 0.5)
    assert frame.size == Size(20_000, 12_000)  # the last column reaches to 40,000
    edge = region(shapely.box(19_990, 100, 20_000, 110))
    write_geojson([edge], tmp_path / "a.geojson", slide=slide, frame=frame)
    (item,) = read_annotations(tmp_path / "a.geojson").items
    assert item.geometry.bounds == (39_980, 250, 39_999, 275)


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "a.geojson", region(mean_probability=float("nan"), shares={}))
    assert load(tmp_path / "a.geojson")["features"][0]["properties"]["measurements"].keys() == {
        "Area µm^2",
        "Perimeter µm",
    }
    assert_geojson(tmp_path / "a.geojson")


def test_gzip_is_the_same_document_and_always_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "a.geojson", region())
    write(tmp_path / "a.geojson.gz", region())
    write(tmp_path / "b.geojson.gz", region())
    assert_geojson(tmp_path / "a.geojson.gz")
    assert load(tmp_path / "a.geojson") == load(tmp_path / "a.geojson.gz")
    data = (tmp_path / "a.geojson.gz").read_bytes()
    assert data == (tmp_path / "b.geojson.gz").read_bytes()
    assert data[3:8] == bytes(5)  # the gzip header names neither a file nor a time
    packed, plain = (read_annotations(tmp_path / name) for name in ("a.geojson.gz", "a.geojson"))
    assert [(i.geometry, i.name) for i in packed.items] == [(i.geometry, i.name) for i in plain.items]
    assert packed.subtracted_l0 == plain.subtracted_l0


def test_no_regions_make_an_empty_collection(tmp_path: Path) -> None:
    assert write(tmp_path / "a.geojson").count == 0
    assert load(tmp_path / "a.geojson")["features"] == []
    assert_geojson(tmp_path / "a.geojson")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_text("old")

    def failing() -> Any:
        yield region()
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"a\.geojson: cannot be written \(No space left on device\)"):
        write_geojson(failing(), path, slide=SLIDE, frame=FRAME)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="No such file or directory"):
        write(tmp_path / "missing" / "a.geojson")
    with pytest.raises(OutputError, match="Not a directory"):
        write(path / "a.geojson")


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a\.json: the name must end"):
        write(tmp_path / "a.json", region())
    with pytest.raises(UsageError, match="'level1'"):
        write(tmp_path / "a.geojson", region(), origin="level1")


# --- the checker ------------------------------------------------------------------------------------------


def set_at(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that sets a member of the first feature."""

    def change(document: dict[str, Any]) -> None:
        target = document["features"][0]
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = to

    return change


def drop(*keys: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        target = document["features"][0]
        for key in keys[:-1]:
            target = target[key]
        del target[keys[-1]]

    return change


def at_top(**members: Any) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(members)


def polygon_of(*ring: Any) -> Callable[[dict[str, Any]], None]:
    return set_at("geometry", to={"type": "Polygon", "coordinates": [list(ring)]})


SQUARE = ([0, 0], [4, 0], [4, 4], [0, 4], [0, 0])
BROKEN: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no collection": (at_top(type="GeometryCollection"), "not a FeatureCollection"),
    "features": (at_top(features={}), "features is not a list"),
    "origin not recorded": (at_top(wsi_seg={}), "subtracted_l0"),
    "origin of one": (at_top(wsi_seg={"subtracted_l0": [1]}), "subtracted_l0"),
    "no feature": (set_at("type", to="feature"), "not a Feature"),
    "id missing": (drop("id"), "id None is not a UUID"),
    "id number": (set_at("id", to=17), "id 17 is not a UUID"),
    "id no UUID": (set_at("id", to="Tumor-1"), "'Tumor-1' is not a UUID"),
    "id null": (set_at("id", to=None), "null at feature.id"),
    "id twice": (lambda d: d["features"].append(copy.deepcopy(d["features"][0])), "is not unique"),
    "null deep": (set_at("properties", "metadata", "x", to=None), "null at feature.properties.metadata.x"),
    "null in a list": (set_at("properties", "classification", "color", 1, to=None), "color[1]"),
    "outside properties": (set_at("objectType", to="annotation"), "'objectType' does not belong outside"),
    "point": (set_at("geometry", to={"type": "Point", "coordinates": [1, 2]}), "'Point', not Polygon"),
    "no geometry": (drop("geometry"), "geometry is None"),
    "geometry member": (set_at("geometry", "plane", to={}), "geometry has a member 'plane'"),
    "no coordinates": (set_at("geometry", to={"type": "MultiPolygon", "coordinates": []}), "no coordinates"),
    "empty": (set_at("geometry", "coordinates", to=[]), "without a ring"),
    "no ring": (set_at("geometry", to={"type": "MultiPolygon", "coordinates": [[]]}), "without a ring"),
    "ring open": (polygon_of([0, 0], [4, 0], [4, 4], [0, 4]), "not closed"),
    "ring short": (polygon_of([0, 0], [4, 0], [0, 0]), "a ring of 3 positions"),
    "position of three": (polygon_of([0, 0, 1], [4, 0, 1], [4, 4, 1], [0, 0, 1]), "positions [x, y]"),
    "position of text": (polygon_of(["0", "0"], [4, 0], [4, 4], ["0", "0"]), "positions [x, y]"),
    "crossing": (polygon_of([0, 0], [4, 4], [4, 0], [0, 4], [0, 0]), "Self-intersection"),
    "spike": (polygon_of([0, 0], [4, 0], [4, 4], [9, 4], [4, 4], [0, 4], [0, 0]), "invalid polygon"),
    "sliver": (polygon_of([0, 0], [4, 0], [4, 0.001], [0, 0]), "no area is left"),
    "overlapping parts": (
        set_at("geometry", to={"type": "MultiPolygon", "coordinates": [[SQUARE], [SQUARE]]}),
        "invalid polygon",
    ),
    "no properties": (drop("properties"), "properties is not an object"),
    "unknown property": (set_at("properties", "colour", to=3), "unknown property 'colour'"),
    "no objectType": (drop("properties", "objectType"), "objectType is None"),
    "detection": (set_at("properties", "objectType", to="detection"), "'detection', not 'annotation'"),
    "no name": (drop("properties", "name"), "name is missing"),
    "empty name": (set_at("properties", "name", to=""), "name is missing"),
    "no classification": (drop("properties", "classification"), "classification is missing"),
    "classification text": (set_at("properties", "classification", to="Tumor"), "not an object"),
    "no class name": (drop("properties", "classification", "name"), "classification has no name"),
    "no color": (drop("properties", "classification", "color"), "color is None"),
    "color of four": (set_at("properties", "classification", "color", to=[1, 2, 3, 4]), "color is [1, 2"),
    "color above": (set_at("properties", "classification", "color", to=[1, 2, 256]), "color is [1, 2, 256]"),
    "color real": (set_at("properties", "classification", "color", to=[0.5, 0, 0]), "color is [0.5"),
    "color text": (set_at("properties", "classification", "color", to="#c80000"), "color is '#c80000'"),
    "unlocked": (set_at("properties", "isLocked", to=False), "isLocked"),
    "measurement list": (
        set_at("properties", "measurements", to=[{"name": "Area", "value": 1}]),
        "measurements is not an object",
    ),
    "measurement text": (set_at("properties", "measurements", "Area µm^2", to="12"), "is no number"),
    "measurement true": (set_at("properties", "measurements", "Area µm^2", to=True), "is no number"),
    "metadata number": (set_at("properties", "metadata", "codes", to=1), "metadata 'codes' is no text"),
    "metadata list": (set_at("properties", "metadata", to=[]), "metadata is not an object"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_every_rule_has_a_file_that_breaks_it(tmp_path: Path, case: str) -> None:
    path = tmp_path / "a.geojson"
    write(path, region())
    document = load(path)
    change, message = BROKEN[case]
    change(document)
    path.write_text(json.dumps(document, separators=(",", ":")))
    problems = check_geojson(path)
    assert any(message in problem for problem in problems), problems
    assert all(problem.startswith(f"{path}: ") and "\n" not in problem for problem in problems)
    with pytest.raises(AssertionError, match="geojson: "):
        assert_geojson(path)


def test_a_locked_multipolygon_with_little_else_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    write(path, region())
    document = load(path)
    feature = document["features"][0]
    other = [[x + 9, y] for x, y in SQUARE]
    feature["geometry"] = {"type": "MultiPolygon", "coordinates": [[SQUARE], [other]]}
    feature["properties"]["isLocked"] = True
    del feature["properties"]["measurements"], feature["properties"]["metadata"]
    path.write_text(json.dumps(document, separators=(",", ":")))
    assert check_geojson(path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"type":', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"type":"FeatureCollection","wsi_seg":{"subtracted_l0":[NaN,0]},"features":[]}', "NaN is no JSON"),
        (b'{"type": "FeatureCollection"}', "not compact"),
        (gzip.compress(b"{}", mtime=0)[:-4], "damaged gzip"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_damaged_files_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.geojson"
    path.write_bytes(content)
    problems = check_geojson(path)
    assert message in problems[0] and str(path) in problems[0]


def test_names_and_missing_files(tmp_path: Path) -> None:
    write(tmp_path / "a.geojson", region())
    (tmp_path / "a.geojson").rename(tmp_path / "a.json")
    assert "must end with" in check_geojson(tmp_path / "a.json")[0]
    assert check_geojson(tmp_path / "b.geojson") == [
        f"{tmp_path / 'b.geojson'}: cannot be read (No such file or directory)"
    ]


# --- reading annotations ----------------------------------------------------------------------------------


def feature(geometry: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": "PathAnnotationObject", "geometry": geometry, "properties": properties}


AREA = {"type": "Polygon", "coordinates": [SQUARE]}
POINT = {"type": "Point", "coordinates": [1, 2]}


@pytest.mark.parametrize(
    "document",
    [
        feature(AREA),
        [feature(AREA), feature(POINT)],
        {"type": "FeatureCollection", "features": [feature(POINT), feature(AREA)]},
        feature({"type": "MultiPolygon", "coordinates": [[SQUARE]]}),
        feature({"type": "Polygon", "coordinates": [[[x, y, 7] for x, y in SQUARE]]}),
    ],
)
@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress])
def test_all_shapes_that_qupath_writes_are_read(tmp_path: Path, document: Any, pack: Any) -> None:
    path = tmp_path / "drawn.geojson"
    path.write_bytes(pack(json.dumps(document).encode()))
    annotations = read_annotations(path)
    (item,) = annotations.items
    assert item.geometry.equals(shapely.box(0, 0, 4, 4)) and not item.geometry.has_z
    assert item.name is None and annotations.subtracted_l0 is None


@pytest.mark.parametrize(
    ("classification", "name"),
    [({"name": "Region*"}, "Region*"), ({"names": ["Tumor", "Positive"]}, "Tumor: Positive"), ({}, None)],
)
def test_names_of_classes(tmp_path: Path, classification: dict[str, Any], name: str | None) -> None:
    path = tmp_path / "drawn.geojson"
    path.write_text(json.dumps(feature(AREA, classification=classification)))
    assert read_annotations(path).items[0].name == name


def test_a_line_drawn_across_itself_encloses_both_loops(tmp_path: Path) -> None:
    path = tmp_path / "drawn.geojson"
    bow = [[0, 0], [4, 4], [4, 0], [0, 4], [0, 0]]
    path.write_text(json.dumps(feature({"type": "Polygon", "coordinates": [bow]})))
    geometry = read_annotations(path).items[0].geometry
    assert geometry.is_valid and geometry.area == 8


def test_parts_that_overlap_are_one_area(tmp_path: Path) -> None:
    path = tmp_path / "drawn.geojson"
    other = [[x + 1, y] for x, y in SQUARE]
    path.write_text(json.dumps(feature({"type": "MultiPolygon", "coordinates": [[SQUARE], [other]]})))
    geometry = read_annotations(path).items[0].geometry
    assert geometry.is_valid and geometry.equals(shapely.box(0, 0, 5, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\x89PNG\r\n\x1a\n\0\0", "not JSON"),
        (gzip.compress(b"{}", mtime=0)[:-9], "damaged gzip"),
        (b"7", "neither a FeatureCollection"),
        (b'{"type":"Topology"}', "neither a FeatureCollection"),
        (b'{"type":"FeatureCollection","features":[3]}', "neither a FeatureCollection"),
        (b'{"type":"FeatureCollection","features":[]}', "nothing drawn"),
        (json.dumps(feature(POINT)).encode(), "1 × Point"),
        (b'{"type":"Feature","geometry":null,"properties":{}}', "1 × none"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [SQUARE[:2]]})).encode(), "damaged geometry"),
        (json.dumps(feature({"type": "Polygon", "coordinates": "x"})).encode(), "damaged geometry"),
        (json.dumps(feature({"type": "Polygon", "coordinates": [SQUARE[:1] * 4]})).encode(), "no polygon"),
        (
            b'{"type":"FeatureCollection","wsi_seg":{"subtracted_l0":3},"features":[%b]}'
            % json.dumps(feature(AREA)).encode(),
            "subtracted_l0 is 3",
        ),
    ],
)  # fmt: skip
def test_files_without_usable_regions_are_one_clear_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "drawn.geojson"
    path.write_bytes(content)
    with pytest.raises(MaskError) as caught:
        read_annotations(path)
    text = str(caught.value)
    assert message in text and text.startswith(str(path)) and "\n" not in text


def test_a_missing_file_of_regions(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=r"none\.geojson: cannot be read \(No such file"):
        read_annotations(tmp_path / "none.geojson")
    with pytest.raises(MaskError, match="cannot be read"):
        read_annotations(tmp_path)


def test_the_frame_of_the_tests_is_what_they_say() -> None:
    assert isinstance(FRAME, MapFrame)
    assert FRAME.l0_per_map == Scale(2, 2.5) and FRAME.size == Size(20_000, 12_000)
