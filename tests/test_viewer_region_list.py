"""Table of regions in the viewer: sorted, filtered and paged by the server; the way from one to the next."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from starlette.testclient import TestClient

from tests.made.landmarks import darkness_model, exact_settings, landmark_slide
from tests.viewer_server import client, only_id
from wsi_seg.core.geometry import Scale
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.results.region_files import RegionGroup, Regions
from wsi_seg.viewer.region_list import SORTS, RegionQuery, list_regions, region_neighbors

MEASURED = {"area": "Area µm^2", "probability": "Mean probability", "uncertainty": "Mean uncertainty"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    slide = landmark_slide(folder / "made.svs")
    settings = exact_settings(groups=("tumor", "stroma"))
    return Path(segment_slide(slide, folder / "out", darkness_model(), settings).folder)


@pytest.fixture(scope="module")
def asking(results: Path) -> TestClient:
    return client(results.parent)


@pytest.fixture(scope="module")
def base(asking: TestClient) -> str:
    return f"/api/slides/{only_id(asking)}/regions"


def features_of(results: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((results / "polygons.geojson").read_text())["features"]
    return found


def sort_key(feature: dict[str, Any], name: str, index: int) -> Any:
    if name == "number":
        return index
    if name == "class":
        return feature["properties"]["classification"]["name"].casefold()
    return feature["properties"]["measurements"][MEASURED[name]]


@pytest.mark.parametrize("sort", SORTS)
def test_rows_are_those_of_the_geojson_in_every_order(
    asking: TestClient, base: str, results: Path, sort: str
) -> None:
    features = features_of(results)
    name, reverse = sort.removeprefix("-"), sort.startswith("-")
    assert len(features) > 5 and {sort_key(one, "class", 0) for one in features} == {"tumor", "stroma"}
    by_area = sorted(enumerate(features), key=lambda one: -sort_key(one[1], "area", 0))
    expected = sorted(by_area, key=lambda one: sort_key(one[1], name, one[0]), reverse=reverse)
    answer = asking.get(f"{base}/list?sort={sort}").json()
    assert answer["total"] == len(features)
    keys = [sort_key(features[row["index"]], name, row["index"]) for row in answer["rows"]]
    assert keys == [sort_key(feature, name, i) for i, feature in expected]
    for row in answer["rows"]:
        measured = features[row["index"]]["properties"]["measurements"]
        assert row["area_um2"] == measured["Area µm^2"]
        assert row["mean_probability"] == measured["Mean probability"]
        assert row["mean_uncertainty"] == measured["Mean uncertainty"]
        assert row["group"] == sort_key(features[row["index"]], "class", 0)


def test_the_table_is_filtered_and_paged(asking: TestClient, base: str, results: Path) -> None:
    features = features_of(results)
    tumor = [i for i, one in enumerate(features) if one["properties"]["classification"]["name"] == "Tumor"]
    answer = asking.get(f"{base}/list?group=tumor&sort=number").json()
    assert [row["index"] for row in answer["rows"]] == tumor and answer["total"] == len(tumor)
    areas = sorted(one["properties"]["measurements"]["Area µm^2"] for one in features)
    least = areas[len(areas) // 2]
    kept = asking.get(f"{base}/list?area={least}").json()
    assert sorted(row["area_um2"] for row in kept["rows"]) == areas[len(areas) // 2 :]
    pages = [asking.get(f"{base}/list?offset={at}&limit=2").json() for at in range(0, len(features), 2)]
    assert {page["total"] for page in pages} == {len(features)}
    together = [row for page in pages for row in page["rows"]]
    assert together == asking.get(f"{base}/list").json()["rows"]
    assert asking.get(f"{base}/list?group=nothing").json() == {"total": 0, "rows": []}
    for wrong in ("sort=size", "area=-1", "area=x", "limit=0", "limit=1001", "offset=-1", "area=nan"):
        refused = asking.get(f"{base}/list?{wrong}")
        assert refused.status_code == 400 and wrong.partition("=")[0] in refused.json()["error"]


def test_neighbors_lead_through_the_table(asking: TestClient, base: str) -> None:
    order = [row["index"] for row in asking.get(f"{base}/list?group=tumor").json()["rows"]]
    passed, place = [order[0]], asking.get(f"{base}/{order[0]}/neighbors?group=tumor").json()
    assert place == {"previous": None, "next": order[1], "position": 1, "total": len(order)}
    while place["next"] is not None:
        passed.append(place["next"])
        place = asking.get(f"{base}/{place['next']}/neighbors?group=tumor").json()
    assert passed == order and place["previous"] == order[-2]
    other = next(i for i in range(len(order) + 1) if i not in order)
    assert asking.get(f"{base}/{other}/neighbors?group=tumor").json()["position"] is None
    assert asking.get(f"{base}/100000/neighbors").status_code == 404


def test_regions_that_another_program_drew_have_their_area(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out" / "made"
    shutil.copytree(results, copy)
    features = features_of(results)
    for one in features[1:]:
        del one["properties"]["measurements"]
    (copy / "polygons.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    asking = client(copy.parent)
    rows = asking.get(f"/api/slides/{only_id(asking)}/regions/list?sort=-probability").json()["rows"]
    assert rows[0]["index"] == 0 and all("mean_probability" not in row for row in rows[1:])
    before = client(results.parent)
    measured = before.get(f"/api/slides/{only_id(before)}/regions/list").json()["rows"]
    areas = {row["index"]: row["area_um2"] for row in rows}
    assert areas == pytest.approx({row["index"]: row["area_um2"] for row in measured}, rel=1e-3)


def test_a_hundred_thousand_regions_are_listed_at_once() -> None:
    count = 100_000
    rng = np.random.default_rng(3)
    corner, side = rng.uniform(0, 1e5, (count, 2)), rng.uniform(5, 200, count)
    x, y = corner.T
    shapes = shapely.box(x, y, x + side, y + side)
    texts = tuple(
        f'{{"measurements":{{"Area µm^2":{area:.2f},"Mean probability":{value:.3f}}}}}'
        for area, value in zip(side**2, rng.uniform(0.5, 1, count), strict=True)
    )
    groups = (RegionGroup("tumor", "Tumor", (200, 0, 0)), RegionGroup("stroma", "Stroma", (0, 200, 0)))
    numbers = rng.integers(0, 2, count).astype(np.int32)
    regions = Regions(shapes, shapely.bounds(shapes), numbers, groups, tuple(map(str, range(count))), texts)
    mpp = Scale(0.5, 0.5)
    list_regions(regions, mpp, RegionQuery(), 0, 100)  # reads all measurements, for the table and the queue
    start = time.process_time()
    for sort in ("-area", "class", "-probability"):
        page = list_regions(regions, mpp, RegionQuery("tumor", 100.0, sort), 40_000, 100)
        assert len(page["rows"]) == 100
        region_neighbors(regions, mpp, RegionQuery("tumor", 100.0, sort), page["rows"][5]["index"])
    assert time.process_time() - start < 6 * 0.25  # six answers; about 0.03 s each
