"""Outlines in the viewer: what is where, how much of it is sent, and outlines at another threshold."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from starlette.testclient import TestClient

from tests.made.pyramids import write_pyramid
from tests.made.results import make_results
from tests.viewer_server import client, only_id
from wsi_seg.core.errors import OutputError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.core.lru import LRUCache
from wsi_seg.maps.maps import Maps
from wsi_seg.regions.polygons import TraceSettings
from wsi_seg.results import region_files as regions
from wsi_seg.results.files import MAPS
from wsi_seg.results.region_files import read_regions
from wsi_seg.viewer.query import View
from wsi_seg.viewer.screen_outlines import Outlines, piece_bytes, power_of_two_below, ring_texts
from wsi_seg.viewer.state import Places, ViewerState
from wsi_seg.viewer.threshold import trace_view

SIZE = Size(1400, 1100)
WHOLE = "box=-50,-50,1500,1200"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a slide with smooth dark blobs, some with holes, at 0.25 of 0.5 µm/px."""
    folder = tmp_path_factory.mktemp("regions")
    noise = np.random.default_rng(2).standard_normal((SIZE.height // 50, SIZE.width // 50))
    enlarged = Image.fromarray(noise.astype(np.float32)).resize(
        (SIZE.width, SIZE.height), Image.Resampling.BICUBIC
    )
    smooth = np.asarray(enlarged)
    gray = np.clip(130 + 90 * smooth, 0, 255).astype(np.uint8)
    write_pyramid(folder / "blobs.tiff", np.repeat(gray[..., None], 3, -1), Scale(0.25, 0.25))
    trace = TraceSettings(min_area_um2=0, min_hole_um2=0, tolerance_um=0.1)
    return make_results(folder / "blobs.tiff", folder / "out", trace=trace)


@pytest.fixture(scope="module")
def asking(results: Path) -> TestClient:
    return client(results.parent)


@pytest.fixture(scope="module")
def base(asking: TestClient) -> str:
    return f"/api/slides/{only_id(asking)}"


@pytest.fixture(scope="module")
def written(results: Path) -> list[Any]:
    """The shapes of polygons.geojson; this slide has no bounds, so they are in l0 pixels."""
    document = json.loads((results / "polygons.geojson").read_text())
    return [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in document["features"]]


def shape_of(rings: list[list[float]]) -> Any:
    """Return the area of rings filled by even-odd."""
    area = shapely.Polygon()
    for ring in rings:
        area = area.symmetric_difference(shapely.Polygon(np.reshape(ring, (-1, 2))).buffer(0))
    return area


def test_outlines_are_those_of_the_file(asking: TestClient, base: str, written: list[Any]) -> None:
    shown = asking.get(f"{base}/regions?{WHOLE}&scale=0.25").json()
    assert shown["hidden"] == 0 and [one["i"] for one in shown["regions"]] == list(range(len(written)))
    assert len(written) > 5 and any(len(shape.interiors) for shape in written)
    assert shown["groups"] == [{"name": "tumor", "label": "Tumor", "color": "#c80000"}]
    for one, shape in zip(shown["regions"], written, strict=True):
        assert len(one["rings"]) == 1 + len(shape.interiors)
        assert shape_of(one["rings"]).symmetric_difference(shape).area < 0.003 * shape.area


@pytest.mark.parametrize("scale", [1.0, 3.0, 16.0])
def test_simplified_outlines_stay_within_a_screen_pixel(
    asking: TestClient, base: str, written: list[Any], scale: float
) -> None:
    for one in asking.get(f"{base}/regions?{WHOLE}&scale={scale}").json()["regions"]:
        outer = shapely.LinearRing(np.reshape(one["rings"][0], (-1, 2)))
        true = written[one["i"]].exterior
        assert shapely.hausdorff_distance(outer, true, densify=0.2) < scale


def test_coarse_views_send_little_and_count_what_they_hide(
    asking: TestClient, base: str, written: list[Any]
) -> None:
    fine = asking.get(f"{base}/regions?{WHOLE}&scale=0.5")
    coarse = asking.get(f"{base}/regions?{WHOLE}&scale=200")
    sides = [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in (shape.bounds for shape in written)]
    hidden = sum(side < 200 for side in sides)
    assert 0 < hidden < len(written)
    assert coarse.json()["hidden"] == hidden and len(coarse.json()["regions"]) == len(written) - hidden
    assert len(coarse.content) < len(fine.content) / 10


def test_only_what_meets_the_box_is_sent(asking: TestClient, base: str, written: list[Any]) -> None:
    box = (200, 150, 420, 390)
    sent = {one["i"] for one in asking.get(f"{base}/regions?box=200,150,420,390&scale=1").json()["regions"]}
    met = {i for i, shape in enumerate(written) if shapely.box(*shape.bounds).intersects(shapely.box(*box))}
    assert sent == met and 0 < len(met) < len(written)


def test_the_region_at_a_place_with_its_measurements(
    asking: TestClient, base: str, written: list[Any], results: Path
) -> None:
    features = json.loads((results / "polygons.geojson").read_text())["features"]
    for i, shape in enumerate(written):
        point = shapely.point_on_surface(shape)
        found = asking.get(f"{base}/regions/at?x={point.x}&y={point.y}").json()
        assert found["index"] == i and found["id"] == features[i]["id"]
        measured = features[i]["properties"]["measurements"]
        assert found["area_um2"] == measured["Area µm^2"]
        assert found["mean_probability"] == measured["Mean probability"]
        assert found["bbox"] == pytest.approx(shape.bounds, abs=0.01)
        assert asking.get(f"{base}/regions/{i}").json() == found
    hole = next(shapely.Polygon(shape.interiors[0]) for shape in written if len(shape.interiors))
    point = shapely.point_on_surface(hole)
    inside = [i for i, shape in enumerate(written) if shape.contains(point)]
    answer = asking.get(f"{base}/regions/at?x={point.x}&y={point.y}")
    assert answer.status_code == (200 if inside else 404)
    assert asking.get(f"{base}/regions/at?x=-5&y=-5").json() == {"error": "no region there"}
    assert asking.get(f"{base}/regions/{len(written)}").status_code == 404


def test_contours_at_the_runs_threshold_are_its_regions(
    asking: TestClient, base: str, written: list[Any]
) -> None:
    shown = asking.get(f"{base}/contours?channel=tumor&threshold=0.5&{WHOLE}&scale=0.25").json()
    assert shown["hidden"] == 0
    traced = shapely.union_all([shape_of(one["rings"]) for one in shown["regions"]])
    true = shapely.union_all(written)
    assert traced.symmetric_difference(true).area < 0.01 * true.area
    assert len(shown["regions"]) == len(written)


def test_contours_follow_the_threshold(asking: TestClient, base: str, results: Path) -> None:
    probabilities = np.asarray(Maps.open(results / MAPS).probabilities[0]) / 255
    areas = []
    for threshold in (0.3, 0.45, 0.6, 0.75):
        query = f"channel=tumor&threshold={threshold}&{WHOLE}&scale=0.5"
        shown = asking.get(f"{base}/contours?{query}").json()
        area = sum(shape_of(one["rings"]).area for one in shown["regions"])
        expected = np.count_nonzero(probabilities >= threshold) * 4.0**2
        assert area == pytest.approx(expected, rel=0.03)
        areas.append(area)
    assert areas == sorted(areas, reverse=True) and areas[-1] < areas[0] / 2


def test_contours_of_a_view_are_those_of_the_whole_inside_it(asking: TestClient, base: str) -> None:
    box = shapely.box(500, 400, 700, 600)
    inside = []
    for query in ("box=500,400,700,600", WHOLE):
        shown = asking.get(f"{base}/contours?channel=tumor&threshold=0.5&{query}&scale=0.25").json()
        inside.append(
            shapely.union_all([shape_of(one["rings"]) for one in shown["regions"]]).intersection(box)
        )
    assert inside[0].area > 1000 and inside[0].symmetric_difference(inside[1]).area < 0.01 * inside[1].area


def test_small_regions_are_left_out_but_not_those_that_the_box_cuts(results: Path) -> None:
    state = ViewerState(Places(results.parent))
    result = state.open(state.folders.all()[0])
    source, frame, (_, channels) = result.source, result.facts.frame, result.choose("tumor", "group")
    every = Box(0, 0, 350, 275)  # of the probabilities, each 4 × 4 l0 pixels
    whole = trace_view(source, frame, channels, every, 2, TraceSettings(min_area_um2=0, min_hole_um2=0))
    largest = max(whole, key=shapely.area)
    large = TraceSettings(min_area_um2=0.9 * largest.area * 0.25**2, min_hole_um2=0)
    inside = [
        s for s in whole if s.bounds[0] > 4 and s.bounds[1] > 4 and s.bounds[2] < 1396 and s.bounds[3] < 1096
    ]
    kept = trace_view(source, frame, channels, every, 2, large)
    assert not any(
        shape.equals(small) for shape in kept for small in inside if small.area < 0.9 * largest.area
    )
    assert any(small.area < 0.9 * largest.area for small in inside)
    x, y = (int(value / 4) for value in shapely.point_on_surface(largest).coords[0])
    (part,) = trace_view(source, frame, channels, Box(x - 2, y - 2, x + 2, y + 2), 2, large)
    assert part.area <= 16 * 16 and part.intersects(largest)


def test_coarse_contours_come_from_a_coarse_level(asking: TestClient, base: str) -> None:
    fine, coarse = (
        asking.get(f"{base}/contours?channel=tumor&threshold=0.5&{WHOLE}&scale={scale}").json()
        for scale in (0.25, 16)
    )
    areas = [sum(shape_of(r["rings"]).area for r in one["regions"]) for one in (fine, coarse)]
    assert areas[1] == pytest.approx(areas[0], rel=0.1)


def test_the_file_can_be_downloaded(asking: TestClient, base: str, results: Path) -> None:
    answer = asking.get(f"{base}/polygons.geojson")
    assert answer.content == (results / "polygons.geojson").read_bytes()
    assert answer.headers["content-disposition"] == 'attachment; filename="blobs.geojson"'


def test_compressed_regions_are_the_same(results: Path, tmp_path: Path) -> None:
    plain = read_regions(results / "polygons.geojson")
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress((results / "polygons.geojson").read_bytes()))
    packed = read_regions(tmp_path / "a.geojson.gz")
    assert shapely.equals_exact(plain.shapes, packed.shapes).all()
    assert (plain.properties, plain.ids) == (packed.properties, packed.ids)


# In small pieces features are cut anywhere.
@pytest.mark.parametrize("piece", [regions.PIECE, 7, 300])
def test_all_kinds_of_polygons_are_read_in_order(
    tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regions, "PIECE", piece)
    monkeypatch.setattr(regions, "BATCH", 2)
    holed = shapely.box(0, 0, 50, 50).difference(shapely.box(10, 10, 20, 20))
    parts = shapely.MultiPolygon([shapely.box(100, 0, 110, 10), holed.buffer(0)])
    shapes = [
        shapely.box(5, 70, 9, 80),
        parts,
        holed,
        shapely.MultiPolygon([holed]),
        shapely.box(1, 90, 2, 91),
    ]
    name = ',{"type":"Feature","geometry":{[]} µ³ "'
    features = [
        {
            "type": "Feature",
            "id": str(i),
            "geometry": json.loads(shapely.to_geojson(shape)),
            "properties": {"name": name, "classification": {"name": "Tumor", "color": [200, 0, 0]}},
        }
        for i, shape in enumerate(shapes)
    ]
    document = {"wsi_seg": {"subtracted_l0": [7, -3]}, "features": features}
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    (tmp_path / "a.geojson").write_text(text, encoding="utf-8")
    read = read_regions(tmp_path / "a.geojson")
    assert [read.describe(i)["name"] for i in range(5)] == [name] * 5 and read.ids == tuple("01234")
    for i, (got, shape) in enumerate(zip(read.shapes, shapes, strict=True)):
        assert read.bounds[i].tolist() == list(got.bounds)
        moved = shapely.transform(shape, lambda xy: xy + np.array([7, -3]))
        assert got.symmetric_difference(moved).area == 0
    assert read.at(107 + 5, 2) == 1 and read.at(8, 87.5) == 4


def test_regions_that_qupath_saved_again_are_shown(
    results: Path, tmp_path: Path, asking: TestClient, base: str
) -> None:
    out = shutil.copytree(results.parent, tmp_path / "out")
    path = out / results.name / "polygons.geojson"
    path.write_text(json.dumps(json.loads(path.read_text())["features"], indent=2))
    again = client(out)
    asked = f"/regions?{WHOLE}&scale=1"
    shown = again.get(f"/api/slides/{only_id(again)}{asked}").json()
    assert shown == asking.get(f"{base}{asked}").json() and len(shown["regions"]) > 5


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"type":"FeatureCollection","wsi_seg":{"subtracted_l0":[0,0]},"features":[',
        '{"type":"FeatureCollection","wsi_seg":{"subtracted_l0":[0,1e999]},"features":[]}',
        '{"type":"FeatureCollection","wsi_seg":{"subtracted_l0":[0,0]},"features":[{"geometry":null}]}',
        '{"wsi_seg":{"subtracted_l0":[0,0]},"features":[]} and more',
        '{"wsi_seg":{"subtracted_l0":[0,0]},"features":[' + "[" * 100_000,
        '{"wsi_seg":{"subtracted_l0":[0,0]},"features":[]',
    ],
)
def test_damaged_files_are_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.geojson"
    path.write_text(text)
    with pytest.raises(OutputError, match=r"bad\.geojson"):
        read_regions(path)


SQUARE = "[[[0,0],[0,1],[1,1],[0,0]]]"


def one_feature(coordinates: str = SQUARE, properties: str = "", kind: str = "Polygon") -> str:
    properties = properties or '{"classification":{"name":"x","color":[1,2,3]}}'
    return (
        '{"wsi_seg":{"subtracted_l0":[0,0]},"features":[{"type":"Feature","id":"a","geometry":'
        f'{{"type":"{kind}","coordinates":{coordinates}}},"properties":{properties}}}]}}'
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"coordinates": text}
        for text in (
            "", "[]", "[[]]", "[[[]]]", "[[[0,0]]]", SQUARE[:-1], SQUARE[1:], f"[{SQUARE}]",
            "[[[0,0],[0,1],[1,1],[0,2]]]", "[[[0,0],[0,0],[0,0]]]", "[[[0,0],[0,1,5],[1,1],[0,0]]]",
            "[[[0,0],[0],[1,1],[0,0]]]", "[[[0,0],[0,NaN],[1,1],[0,0]]]", "[[[0,0],[0,1e999],[1,1],[0,0]]]",
            "[[[0,0],[0,1-1],[1,1],[0,0]]]", "[[[0,0],[,1],[1,1],[0,0]]]", "[[[0,0][0,1],[1,1],[0,0]]]",
            "[[[0,0],,[0,1],[1,1],[0,0]]]", '[[[0,0],["0",1],[1,1],[0,0]]]', "[[0,0],[0,1],[1,1],[0,0]]",
        )
    ]
    + [
        {"kind": "MultiPolygon"},
        {"kind": "MultiPolygon", "coordinates": f"[{SQUARE}],[{SQUARE}]"},
        {"kind": "Point", "coordinates": "[0,0]"},
        {"properties": "null"},
        {"properties": "{}"},
        {"properties": '{"classification":{"name":"x"}}'},
        {"properties": "[" * 100_000},
        {"properties": '{"a":1}},{"type":"Feature",'},
    ],
)  # fmt: skip
def test_damaged_features_are_named(tmp_path: Path, bad: dict[str, str]) -> None:
    path = tmp_path / "bad.geojson"
    path.write_text(one_feature())
    assert len(read_regions(path).ids) == 1
    path.write_text(one_feature(**bad))
    with pytest.raises(OutputError, match=r"bad\.geojson: is no GeoJSON of wsi_seg, or damaged \(.+\)"):
        read_regions(path)


def test_files_that_cannot_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bad.geojson"
    for data in (b"\xff", gzip.compress(one_feature().encode())[:-9], one_feature().encode("utf-16")):
        path.write_bytes(data)
        with pytest.raises(OutputError, match=r"bad\.geojson"):
            read_regions(path)
    with pytest.raises(OutputError, match=r"none\.geojson: cannot be read"):
        read_regions(tmp_path / "none.geojson")
    path.write_bytes(gzip.compress(one_feature().encode()))
    monkeypatch.setattr(regions, "MOST_TEXT", 100)
    with pytest.raises(OutputError, match="holds more than"):
        read_regions(path)


def write_many(path: Path, count: int) -> None:
    """Write so many regions of 40 vertices, in rows, as the exporter does."""
    angles = np.linspace(0, 2 * np.pi, 41)
    side = math.ceil(math.sqrt(count))
    with path.open("w") as file:
        file.write('{"type":"FeatureCollection","wsi_seg":{"subtracted_l0":[0.0,0.0]},"features":[')
        for i in range(count):
            radius = 20 + 15 * np.cos(angles * (3 + i % 4)) ** 2
            xy = np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1)
            xy = np.round(xy + np.array([100 * (i % side) + 50, 100 * (i // side) + 50]), 2)
            xy[-1] = xy[0]
            feature = {
                "type": "Feature",
                "id": str(i),
                "geometry": {"type": "Polygon", "coordinates": [xy.tolist()]},
                "properties": {
                    "name": f"Tumor {i}",
                    "classification": {"name": "Tumor", "color": [200, 0, 0]},
                    "measurements": {"Area µm^2": 1.0},
                    "metadata": {"group": "tumor"},
                },
            }
            file.write(("," if i else "") + json.dumps(feature, separators=(",", ":")))
        file.write("]}")


def test_many_regions_are_shown_within_bounded_memory(tmp_path: Path) -> None:
    write_many(tmp_path / "many.geojson", 10_000)
    cache: LRUCache[str] = LRUCache(2**20, piece_bytes)
    outlines = Outlines(read_regions(tmp_path / "many.geojson"), cache, "many")
    whole = outlines.show(View((0, 0, 10_000, 10_000), 8.0))
    assert len(json.loads(whole)["regions"]) == 10_000
    assert cache.held <= 2**20
    # A screen of 1,000 px, moved by a quarter of its width: hundreds of regions.
    assert outlines.show(View((0, 0, 10_000, 10_000), 8.0)) == whole
    for step in range(20):
        x = 250.0 * step
        assert len(json.loads(outlines.show(View((x, 0, x + 2000, 2000), 2.0)))["regions"]) >= 400
    assert cache.held <= 2**20


@given(st.floats(1e-3, 1e6))
def test_scales_are_rounded_down_to_powers_of_two(scale: float) -> None:
    power = power_of_two_below(scale)
    assert power <= scale < 2 * power and math.log2(power).is_integer()


def test_parts_and_holes_become_rings_and_small_holes_go() -> None:
    frame = shapely.Polygon(
        shapely.box(0, 0, 100, 100).exterior,
        [shapely.box(10, 10, 60, 60).exterior, shapely.box(80, 80, 81, 81).exterior],
    )
    both = shapely.MultiPolygon([frame, shapely.box(200, 0, 230, 30)])
    texts = ring_texts(np.array([both, shapely.box(5, 5, 9, 9)], object), 2.0)
    rings = [json.loads(f"[{text}]") for text in texts]
    assert [len(one) for one in rings] == [3, 1]
    assert [len(ring) for ring in rings[0]] == [8, 8, 8]
    assert [shape_of(one).area for one in rings] == [100 * 100 - 50 * 50 + 30 * 30, 16]
    assert ring_texts(np.empty(0, object), 1.0) == []
