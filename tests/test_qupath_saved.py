"""GeoJSON as QuPath and its users save it: each form means the same to view, evaluate, train and run."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from tests.made.datasets import corners
from tests.made.pyramids import make_landmark_slide
from wsi_seg.annotations.points import read_cells
from wsi_seg.annotations.reading import read_annotations
from wsi_seg.core.classes import BCSS, BCSS_GROUPS, IGNORED_CODES
from wsi_seg.core.errors import MaskError, OutputError
from wsi_seg.core.files import SMALL_TEXT
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.region import IGNORED
from wsi_seg.datasets.slides import AnnotatedSlides
from wsi_seg.evaluation.truth import TruthFile, open_truth
from wsi_seg.results.region_files import MEASURED
from wsi_seg.results.saved_regions import open_regions
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import map_frame
from wsi_seg.tissue.mask import find_tissue

SIZE = Size(160, 120)
SCHEME = LabelScheme(BCSS, 0.5, ignored_codes=IGNORED_CODES)
TUMOR, IGNORED_BOX, STROMA = Box(20, 20, 80, 80), Box(30, 30, 50, 50), Box(100, 20, 140, 60)
ID = "8f2c6a34-93a6-5d1e-9c0b-2f8f3a1a0c01"


def polygon(box: Box) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": [corners(box)]}


def saved(
    geometry: dict[str, Any] | None, label: str | None, color: list[int] | None = None, **more: Any
) -> dict[str, Any]:
    """Return a feature as QuPath 0.5 to 0.8 write it."""
    classified = {"classification": {"name": label, "color": color or [1, 2, 3]}} if label else {}
    properties = {"objectType": "annotation", **classified, **more}
    return {"type": "Feature", "id": ID, "geometry": geometry, "properties": properties}


# Our region, kept with id, name and metadata; areas that were drawn next to it and in it.
OURS = saved(
    polygon(TUMOR),
    "Tumor",
    [200, 0, 0],
    name="Tumor 1",
    measurements={"Area µm^2": 900.0, "Mean probability": 0.75, "Perimeter µm": float("nan")},
    metadata={"group": "tumor", "codes": "1 19 20"},
)
DRAWN = [OURS, saved(polygon(IGNORED_BOX), "Ignore*"), saved(polygon(STROMA), "Stroma", [150, 200, 150])]
EXTRA = [
    saved({"type": "Point", "coordinates": [5, 5]}, "Tumor"),
    saved({"type": "MultiPoint", "coordinates": [[5, 5], [6, 6]]}, None),
    saved({"type": "LineString", "coordinates": [[0, 0], [150, 110]]}, None),
    saved(polygon(Box(0, 90, 30, 110)), None, objectType="tmaCore", isMissing=True),
    saved(None, "Tumor"),
]


def collection(features: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": features}


def each(change: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Return the drawn features, each with a change."""
    copies: list[dict[str, Any]] = json.loads(json.dumps(DRAWN))
    for feature in copies:
        change(feature["properties"])
    return copies


def old_color(properties: dict[str, Any]) -> None:
    """Write classes and measurements as QuPath 0.3 and older did."""
    red, green, blue = properties["classification"].pop("color")
    properties["classification"]["colorRGB"] = (red << 16 | green << 8 | blue) - 2**24
    known = properties.get("measurements", {})
    properties["measurements"] = [{"name": name, "value": value} for name, value in known.items()]


def new_names(properties: dict[str, Any]) -> None:
    """Write classes as a list of their parts too, as later versions do."""
    properties["classification"]["names"] = [properties["classification"]["name"]]


def pretty(document: Any) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def zipped(data: bytes, *others: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one.geojson", data)
        for name in others:
            archive.writestr(name, "{}")
    return packed.getvalue()


MULTI = {"type": "MultiPolygon", "coordinates": [[corners(TUMOR)]]}
OPEN = {"type": "Polygon", "coordinates": [corners(TUMOR)[:-1]]}
IN_COLLECTION = {"type": "GeometryCollection", "geometries": [polygon(TUMOR), EXTRA[0]["geometry"]]}
SEVERAL = [collection(DRAWN[:1]), collection(DRAWN[1:])]
FORMS: dict[str, bytes] = {
    "compact": json.dumps(collection(DRAWN), separators=(",", ":")).encode(),
    "pretty": pretty(collection(DRAWN)),
    "bare list": pretty(DRAWN),
    "several collections": pretty(SEVERAL),
    "other order": pretty(collection(DRAWN[::-1])),
    "extra objects": pretty(collection([*EXTRA, *DRAWN])),
    "locked": pretty(collection(each(lambda p: p.update(isLocked=True, color=[9, 9, 9])))),
    "detections": pretty(collection(each(lambda p: p.update(objectType="detection")))),
    "TMA cores": pretty(collection(each(lambda p: p.update(objectType="tmaCore", isMissing=False)))),
    "names": pretty(collection(each(new_names))),
    "QuPath 0.3": pretty(collection(each(old_color))),
    "MultiPolygon": pretty(collection([{**OURS, "geometry": MULTI}, *DRAWN[1:]])),
    "GeometryCollection": pretty(collection([{**OURS, "geometry": IN_COLLECTION}, *DRAWN[1:]])),
    "unclosed": pretty(collection([{**OURS, "geometry": OPEN}, *DRAWN[1:]])),
    "UTF-8 with a mark": b"\xef\xbb\xbf" + pretty(collection(DRAWN)),
    "gzip": gzip.compress(pretty(collection(DRAWN))),
    "zip": zipped(pretty(collection(DRAWN))),
    "zip of macOS": zipped(pretty(collection(DRAWN)), "__MACOSX/._one.geojson", ".DS_Store"),
}  # fmt: skip


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_landmark_slide(tmp_path_factory.mktemp("s") / "one.tiff", SIZE, Scale(0.5, 0.5), [TUMOR])


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "one.geojson"
    path.write_bytes(FORMS[request.param])
    return path


def expected(ignored: int, tumor: int = 0, stroma: int = 1) -> np.ndarray:
    target = np.full((SIZE.height, SIZE.width), IGNORED)
    target[STROMA.slices], target[TUMOR.slices] = stroma, tumor
    target[IGNORED_BOX.slices] = ignored
    return target


def test_it_is_the_truth_of_evaluate(form: Path, slide: Path) -> None:
    with open_slide(slide) as opened:
        truth = open_truth(TruthFile(form), opened.info, map_frame(opened.info, 0.5), SCHEME)
    np.testing.assert_array_equal(truth.read(Box(0, 0, SIZE.width, SIZE.height)), expected(IGNORED))


def test_it_teaches_in_train(form: Path, slide: Path) -> None:
    shutil.copy(slide, form.parent / "one.tiff")
    dataset = AnnotatedSlides(name="saved", folder=form.parent, margin=200)
    (region,) = dataset.parts(Path(), SCHEME).training
    _, target = region.read(Box(0, 0, SIZE.width, SIZE.height))
    np.testing.assert_array_equal(target, expected(IGNORED))


def test_it_is_analyzed_by_run(form: Path, slide: Path) -> None:
    with open_slide(slide) as opened:
        tissue = find_tissue(opened, str(form))
        found = tissue.sample(map_frame(opened.info, 0.5), Box(0, 0, SIZE.width, SIZE.height))
    np.testing.assert_array_equal(found, expected(IGNORED) != IGNORED)


def test_it_is_shown_by_view(form: Path) -> None:
    regions = open_regions(form, None, BCSS_GROUPS)
    assert {group.name: (group.label, group.color) for group in regions.groups} == {
        "tumor": ("Tumor", (200, 0, 0)),
        "stroma": ("Stroma", (150, 200, 150)),
    }
    boxes = {
        regions.groups[group].name: shape for group, shape in zip(regions.group, regions.shapes, strict=True)
    }
    assert boxes["tumor"].equals(shapely.box(20, 20, 80, 80)) and boxes["stroma"].equals(
        shapely.box(100, 20, 140, 60)
    )
    known = regions.describe(list(regions.group).index([g.name for g in regions.groups].index("tumor")))
    assert (known["id"], known["name"], known["group"]) == (ID, "Tumor 1", "tumor")
    assert known["measurements"] == {"Area µm^2": 900.0, "Mean probability": 0.75}
    assert known[MEASURED["Area µm^2"]] == 900.0


def test_positions_without_our_member_count_from_the_bounds(tmp_path: Path, slide: Path) -> None:
    path = tmp_path / "a.geojson"
    path.write_bytes(FORMS["pretty"])
    bounds = Box(1000, 500, 1160, 620)
    assert open_regions(path, bounds).bounds[0].tolist() == [1020, 520, 1080, 580]
    assert read_annotations(path).in_l0(bounds, "bounds").items[0].geometry.bounds == (1020, 520, 1080, 580)
    with open_slide(slide) as opened:
        info = replace(opened.info, size=Size(1300, 700), bounds=bounds)
        truth = open_truth(TruthFile(path), info, map_frame(info, 0.5), SCHEME)
    np.testing.assert_array_equal(truth.read(bounds), expected(IGNORED))
    # Pretty-printed by another program than QuPath, it still says what was subtracted.
    path.write_bytes(pretty({**collection(DRAWN), "wsi_seg": {"subtracted_l0": [7, 0]}}))
    assert open_regions(path, bounds).bounds[0].tolist() == [27, 20, 87, 80]


def test_a_corrected_class_wins_over_our_metadata(tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    corrected = [
        saved(polygon(TUMOR), "Stroma", metadata={"group": "tumor", "codes": "1"}),
        saved(polygon(STROMA), None),
        saved(polygon(STROMA), "Gland"),
    ]
    path.write_bytes(pretty(corrected))
    groups = open_regions(path, None, BCSS_GROUPS).groups
    assert [(group.name, group.label, group.color) for group in groups] == [
        ("stroma", "Stroma", (1, 2, 3)),
        ("Unclassified", "Unclassified", (150, 150, 150)),
        ("Gland", "Gland", (1, 2, 3)),
    ]


def test_cells_of_qupath_may_be_zipped(tmp_path: Path) -> None:
    cells = [saved(polygon(Box(x, 0, x + 2, 2)), "Positive", objectType="cell") for x in (0, 10)]
    (tmp_path / "cells.zip").write_bytes(zipped(pretty(cells)))
    assert read_cells(tmp_path / "cells.zip").xy.tolist() == [[1, 1], [11, 1]]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zipped(b"{}", "two.geojson"), "a ZIP archive of 2 files, not of one"),
        (zipped(FORMS["pretty"])[:-30], "damaged ZIP file"),
        (b"", "not JSON|no JSON"),
        (b'{"type": "Topology"}', "neither a FeatureCollection"),
        (pretty([saved({"type": "Polygon"}, "Tumor")]), "damaged geometry"),
    ],
)
def test_what_cannot_be_read_is_one_line(data: bytes, said: str, tmp_path: Path) -> None:
    refused(data, said, tmp_path / "bad.geojson")


def test_what_unpacks_to_too_much_is_one_line(tmp_path: Path) -> None:
    refused(zipped(b"[" + b" " * SMALL_TEXT + b"]"), "unpack to more than", tmp_path / "bad.geojson")


def refused(data: bytes, said: str, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(OutputError, match=rf"bad\.geojson.*({said})"):
        open_regions(path, None)
    with pytest.raises(MaskError, match=rf"bad\.geojson.*({said})"):
        read_annotations(path)
