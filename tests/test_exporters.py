"""Every format of `wsi-seg export`: whole or nothing, where its readers expect it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from typer.testing import CliRunner

from tests.made.exports import MadeResult, make_exported
from wsi_seg.annotations.reading import read_annotations
from wsi_seg.cli import app
from wsi_seg.exporters.table import FORMATS
from wsi_seg.pipeline.export import export_source
from wsi_seg.regions.settings import RegionSettings, TraceSettings
from wsi_seg.testing.exporters import CHECKS

SETTINGS = RegionSettings(groups=("tumor",), trace=TraceSettings(min_area_um2=10, min_hole_um2=10))
# Regions as exact as the map is.
EXACT = ("--set", "min_area_um2=10", "--set", "min_hole_um2=10", "--set", "tolerance_um=0.05")


@pytest.fixture(scope="module", params=["plain", "odd", "bounds"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MadeResult:
    return make_exported(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> MadeResult:
    return make_exported("odd", tmp_path_factory.mktemp("contract"))


def export(made: MadeResult, *arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", str(made.folder), *map(str, arguments), *EXACT])


def landmark_error(found: list[shapely.Geometry], made: MadeResult) -> float:
    """Return by how many l0 pixels an edge of the regions, or of a hole, lies away from the landmarks'."""
    assert len(found) == len(made.landmarks_l0)
    errors = []
    for landmark in made.landmarks_l0:
        (match,) = (shape for shape in found if shapely.intersection(shape, landmark).area > 0)
        (match,) = shapely.get_parts(match)
        assert len(match.interiors) == len(landmark.interiors)
        for ring, truth in zip(
            (match.exterior, *match.interiors), (landmark.exterior, *landmark.interiors), strict=True
        ):
            errors.append(np.abs(np.subtract(ring.bounds, truth.bounds)).max())
    return float(max(errors))


@pytest.mark.parametrize("origin", ["bounds", "level0"])
def test_geojson_lies_on_the_landmarks(made: MadeResult, origin: str, tmp_path: Path) -> None:
    done = export(made, "-o", tmp_path / "a.geojson", "--origin", origin)
    assert done.exit_code == 0, done.output
    found = read_annotations(tmp_path / "a.geojson")
    assert found.subtracted_l0 == (made.origin_l0 if origin == "bounds" else (0, 0))
    assert landmark_error(list(found.in_l0(None, "level0").geometries), made) <= 0.1


def test_formats_are_listed_and_unknown_ones_refused(made: MadeResult, tmp_path: Path) -> None:
    listed = export(made, "--to", "list")
    assert listed.exit_code == 0 and set(FORMATS) <= set(listed.output.split())
    refused = export(made, "--to", "shapefile", "-o", tmp_path / "a.shp")
    assert refused.exit_code == 2 and "geojson" in refused.output and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: Any, name: str, odd: MadeResult, tmp_path: Path) -> None:
    if FORMATS[name].extra == "spatialdata":
        pytest.importorskip("spatialdata", reason="needs the extra spatialdata, which takes an older Dask")
    check(name, export_source(odd.folder, SETTINGS), tmp_path)


def test_a_name_that_does_not_fit_is_refused(odd: MadeResult, tmp_path: Path) -> None:
    refused = export(odd, "--to", "asap", "-o", tmp_path / "a.docx")
    assert refused.exit_code == 2 and ".xml" in refused.output and not list(tmp_path.iterdir())
