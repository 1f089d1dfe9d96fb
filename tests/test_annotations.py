"""Drawn regions, one rule for all commands: which of a file count, and what a run analyzes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image
from typer.testing import CliRunner

from tests.made.datasets import feature
from wsi_seg.annotations.reading import read_annotations
from wsi_seg.cli import app
from wsi_seg.core.errors import MaskError
from wsi_seg.maps.maps import Maps

MPP, MODEL_MPP = 0.4, 0.5
HOLED = shapely.Point(90, 70).buffer(60).difference(shapely.box(60.3, 50.2, 101.7, 92.9))
INSIDE, APART = shapely.box(70.4, 20.6, 120.2, 43.1), shapely.box(170.3, 20.8, 230.9, 61.4)
MISSING = shapely.box(180, 100, 230, 140)
LINE = {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}


def geometry(shape: shapely.Geometry) -> dict[str, Any]:
    return json.loads(shapely.to_geojson(shape))  # type: ignore[no-any-return]


def collection(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "GeometryCollection", "geometries": list(parts)}


def of(name: str | None, part: dict[str, Any], **properties: Any) -> dict[str, Any]:
    made = feature([], name)
    return {**made, "geometry": part, "properties": {**made["properties"], **properties}}


def write(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def tissue_of(results: Path) -> np.ndarray:
    return np.asarray(Maps.open(results / "maps.zarr").tissue[:, :]).astype(bool)


def centers_in(shape: shapely.Geometry, like: np.ndarray) -> np.ndarray:
    y, x = (np.mgrid[: like.shape[0], : like.shape[1]] + 0.5) * (MODEL_MPP / MPP)
    return shapely.contains_xy(shape, x, y)


def test_a_run_analyzes_what_is_drawn_to_a_map_pixel(tiny_model: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(60, 200, (160, 240, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "s.png")
    drawn = [
        of("Region*", geometry(HOLED)),
        of("Ignore*", geometry(INSIDE)),
        of(None, collection(LINE, collection(geometry(APART)))),
        of(None, geometry(MISSING), objectType="tmaCore", isMissing=True),
    ]
    roi = write(tmp_path / "roi.geojson", {"type": "FeatureCollection", "features": drawn})
    run = ("run", tmp_path / "s.png", "-o", tmp_path / "out", "--model", tiny_model, "--mpp", MPP,
           "--tissue", roi, "--set", "block=64", "--set", "tile=64", "--set", "overlap=0")  # fmt: skip
    done = call(*run)
    assert done.exit_code == 0, done.output
    results = tmp_path / "out" / "s"
    tissue = tissue_of(results)
    expected = centers_in(HOLED.difference(INSIDE).union(APART), tissue)
    np.testing.assert_array_equal(tissue, expected)
    np.testing.assert_array_equal(np.asarray(Maps.open(results / "maps.zarr").labels[:, :]) > 0, expected)
    summary = json.loads((results / "summary.json").read_text())
    assert summary["tissue_area_mm2"] == pytest.approx(expected.sum() * MODEL_MPP**2 / 1e6, abs=1e-6)
    # Naming a class to ignore adds to the default, and is another run.
    ignoring = call(*run, "--ignored-classes", "unclassified")
    assert ignoring.exit_code == 1 and "--overwrite" in ignoring.output
    assert call(*run, "--ignored-classes", "unclassified", "--overwrite").exit_code == 0
    np.testing.assert_array_equal(tissue_of(results), centers_in(HOLED.difference(INSIDE), tissue))
    nothing = call(*run, "--ignored-classes", "Unclassified,Region*", "--overwrite")
    assert nothing.exit_code == 1 and "roi.geojson: all of its areas are of ignored classes" in nothing.output


SQUARE = geometry(shapely.box(0, 0, 10, 10))
OPEN = {"type": "Polygon", "coordinates": [SQUARE["coordinates"][0][:-1]]}


@pytest.mark.parametrize(
    ("document", "area"),
    [
        (SQUARE, 100),
        (OPEN, 100),
        (collection(SQUARE, geometry(shapely.box(5, 0, 15, 10)), LINE), 150),
        ([of("a", SQUARE), of("b", collection(geometry(shapely.box(20, 0, 30, 10))))], 200),
        ([{"type": "FeatureCollection", "features": [of("a", SQUARE)]}, of("a", LINE)], 100),
        ([of("a", SQUARE), of("a", SQUARE, objectType="tmaCore", isMissing=True)], 100),
        ([of("a", SQUARE), of("a", collection())], 100),
    ],
)
def test_every_polygon_counts_however_it_is_wrapped(document: Any, area: float, tmp_path: Path) -> None:
    items = read_annotations(write(tmp_path / "a.geojson", document)).items
    assert sum(item.geometry.area for item in items) == area


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([of("a", SQUARE, isMissing=True)], "found 1 × missing TMA core"),
        (of("a", collection(LINE)), "found 1 × GeometryCollection"),
        ([[SQUARE], 3], "neither a FeatureCollection, a Feature, a geometry nor a list of them"),
        (of("a", {"type": "Polygon"}), "polygon 1 has a damaged geometry"),
        (of("a", {"type": "MultiPolygon", "coordinates": 3}), "polygon 1 has a damaged geometry"),
    ],
)
def test_files_without_a_polygon(document: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=message):
        read_annotations(write(tmp_path / "a.geojson", document))
