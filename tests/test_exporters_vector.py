"""Regions for other programs than QuPath, read back as their users do."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from pyarrow import parquet
from typer.testing import CliRunner

from tests.made.exports import MadeResult
from tests.test_exporters import export, landmark_error, made
from wsi_seg.annotations.annotation import HOLE_OF, SUBTRACTED
from wsi_seg.annotations.reading import read_annotations
from wsi_seg.cli import app
from wsi_seg.core.errors import MaskError
from wsi_seg.core.geometry import Scale
from wsi_seg.exporters.xml_stream import xml_file
from wsi_seg.maps.maps import Maps

__all__ = ["made"]  # the fixture

NO_SPATIALDATA = "needs the extra spatialdata, which takes an older Dask than the other tests run with"

# Columns, and the measurements of GeoJSON that they hold.
MEASURED = {
    "area_um2": "Area µm^2",
    "perimeter_um": "Perimeter µm",
    "mean_probability": "Mean probability",
    "share_tumor": "Share tumor",
}


@pytest.mark.parametrize("origin", ["bounds", "level0", None])
def test_rows_are_the_regions_of_the_geojson(made: MadeResult, origin: str | None, tmp_path: Path) -> None:
    asked = ("--origin", origin) if origin else ()
    assert export(made, "--to", "csv", "-o", tmp_path / "a.csv", *asked).exit_code == 0
    assert export(made, "-o", tmp_path / "a.geojson", "--origin", "level0").exit_code == 0
    table = pd.read_csv(tmp_path / "a.csv")
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    expected = [feature["properties"] for feature in features]
    assert table["name"].tolist() == [properties["name"] for properties in expected]
    assert set(table["class"]) == {"Tumor"} and set(table["group"]) == {"tumor"}
    for column, name in MEASURED.items():
        assert table[column].tolist() == [properties["measurements"][name] for properties in expected]
    assert table["share_stroma"].tolist() == [
        properties["measurements"].get("Share stroma", 0) for properties in expected
    ]

    shapes = list(read_annotations(tmp_path / "a.geojson").geometries)
    counted_from = made.origin_l0 if origin == "bounds" else (0, 0)
    assert set(table["origin_x_l0"]) == {counted_from[0]} and set(table["origin_y_l0"]) == {counted_from[1]}
    boxes = table[["xmin_l0", "ymin_l0", "xmax_l0", "ymax_l0"]].to_numpy()
    boxes += counted_from * 2
    np.testing.assert_allclose(boxes, [shape.bounds for shape in shapes], atol=0.011)
    centers = table[["centroid_x_l0", "centroid_y_l0"]].to_numpy()
    np.testing.assert_allclose(
        centers + counted_from, [shape.centroid.coords[0] for shape in shapes], atol=0.011
    )
    np.testing.assert_allclose(
        table[["centroid_x_um", "centroid_y_um"]], centers * (made.mpp.x, made.mpp.y), atol=0.01
    )
    assert table["holes"].tolist() == [len(shape.interiors) for shape in shapes]
    truth = [landmark.bounds for landmark in sorted(made.landmarks_l0, key=lambda s: s.bounds[1])]
    assert np.abs(boxes[np.argsort(boxes[:, 1])] - truth).max() <= 0.5


def test_classes_have_the_areas_of_the_summary(made: MadeResult, tmp_path: Path) -> None:
    assert export(made, "--to", "csv-classes", "-o", tmp_path / "a.csv").exit_code == 0
    table = pd.read_csv(tmp_path / "a.csv").set_index("class")
    summary = json.loads((made.folder / "summary.json").read_text())
    assert table["area_mm2"].round(6).to_dict() == summary["class_area_mm2"]
    labels = np.asarray(Maps.open(made.folder / "maps.zarr").labels[:])
    for row in table.itertuples():
        assert row.pixels == (labels == row.code).sum() and row.share == row.pixels / (labels > 0).sum()
    assert table["share"].sum() == pytest.approx(1) and table.loc["tumor", "color"] == "#c80000"


@pytest.mark.parametrize("origin", ["bounds", "level0", None])
@pytest.mark.parametrize("name", ["asap", "imagescope"])
def test_xml_lies_on_the_landmarks(name: str, origin: str | None, made: MadeResult, tmp_path: Path) -> None:
    asked = ("--origin", origin) if origin else ()
    done = export(made, "--to", name, "-o", tmp_path / "a.xml", *asked)
    assert done.exit_code == 0 and done.output.startswith("3 regions"), done.output
    found = read_annotations(tmp_path / "a.xml", strict=True)
    assert found.subtracted_l0 == (made.origin_l0 if origin == "bounds" else (0, 0))
    shapes = list(found.in_l0(None, "level0").geometries)
    assert landmark_error(shapes, made) <= 0.1 and {item.name for item in found.items} == {"Tumor"}
    # Positions as plain numbers, without our reader.
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    points = [(float(p.get("X", "")), float(p.get("Y", ""))) for p in root.iter() if p.get("X")]
    whole = shapely.MultiPolygon(made.landmarks_l0).bounds
    counted_from = np.array(made.origin_l0 if origin == "bounds" else (0, 0))
    np.testing.assert_allclose(np.min(points, axis=0) + counted_from, whole[:2], atol=0.5)
    np.testing.assert_allclose(np.max(points, axis=0) + counted_from, whole[2:], atol=0.5)


def structure(root: ElementTree.Element, path: str = "") -> dict[str, set[str]]:
    """Return the attributes of each kind of element, by its path."""
    found = {path + "/" + root.tag: set(root.keys())}
    for child in root:
        for name, keys in structure(child, path + "/" + root.tag).items():
            found.setdefault(name, set()).update(keys)
    return found


@pytest.mark.parametrize(
    "name, real, own",
    [
        ("asap", "camelyon16_asap/tumor_076.xml", {"Attribute": {HOLE_OF, SUBTRACTED}}),
        ("imagescope", "wsi_handling/TCGA-EJ-5519-01Z-00-DX1.xml", {}),
    ],
)
def test_xml_is_built_as_real_files_are(
    name: str, real: str, own: dict[str, set[str]], made: MadeResult, data_dir: Path, tmp_path: Path
) -> None:
    assert export(made, "--to", name, "-o", tmp_path / "a.xml").exit_code == 0
    ours = ElementTree.parse(tmp_path / "a.xml").getroot()
    theirs = ElementTree.parse(data_dir / "annotations" / real).getroot()
    found, expected = structure(ours), structure(theirs)
    more = {path: found.pop(path) for path in found.keys() - expected.keys()}
    assert found == expected
    assert {path.rsplit("/", 1)[-1]: keys for path, keys in more.items()} == own


def test_asap_has_groups_for_classes_and_for_holes(made: MadeResult, tmp_path: Path) -> None:
    done = export(made, "--to", "asap", "-o", tmp_path / "a.xml", "--groups", "tumor,stroma")
    assert done.exit_code == 0, done.output
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    groups = {group.get("Name"): group for group in root.findall("AnnotationGroups/Group")}
    assert list(groups) == ["Tumor", "Tumor hole", "Stroma", "Stroma hole"]
    assert groups["Tumor hole"].get("PartOfGroup") == "Tumor" and groups["Tumor"].get("Color") == "#c80000"
    items = root.findall("Annotations/Annotation")
    assert {item.get("PartOfGroup") for item in items} == set(groups)
    (hole,) = (item for item in items if item.get("PartOfGroup") == "Tumor hole")
    assert hole.get("Name") == "Tumor 2 hole 1"


def test_imagescope_has_layers_with_areas_and_colors(made: MadeResult, tmp_path: Path) -> None:
    done = export(made, "--to", "imagescope", "-o", tmp_path / "a.xml", "--groups", "tumor,stroma")
    assert done.exit_code == 0, done.output
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    tumor, stroma = root.findall("Annotation")
    red, green, blue = (150, 200, 150)
    assert (tumor.get("Name"), tumor.get("LineColor")) == ("Tumor", "200")
    assert (stroma.get("Name"), stroma.get("LineColor")) == ("Stroma", str(red + (green << 8) + (blue << 16)))
    assert float(root.get("MicronsPerPixel", "")) ** 2 == pytest.approx(made.mpp.x * made.mpp.y, rel=1e-4)
    for region in root.findall("Annotation/Regions/Region"):
        ring = [(float(v.get("X", "")), float(v.get("Y", ""))) for v in region.findall("Vertices/Vertex")]
        area = shapely.Polygon(ring).area
        assert float(region.get("Area", "")) == pytest.approx(area, abs=0.06)
        assert float(region.get("AreaMicrons", "")) == pytest.approx(area * made.mpp.x * made.mpp.y, abs=0.06)


@pytest.mark.parametrize("value", ["", "1", "1 2 3", "a b", "nan 0"])
def test_what_was_subtracted_is_checked(value: str, tmp_path: Path) -> None:
    attributes = f'<Attributes><Attribute subtracted_l0="{value}"/></Attributes>'
    groups = f'<AnnotationGroups><Group Name="T" PartOfGroup="None">{attributes}</Group></AnnotationGroups>'
    (tmp_path / "a.xml").write_text(f"<ASAP_Annotations>{groups}</ASAP_Annotations>")
    with pytest.raises(MaskError, match=r"a\.xml: subtracted_l0 is"):
        read_annotations(tmp_path / "a.xml")


def test_names_that_xml_cannot_hold_are_written_without_them(tmp_path: Path) -> None:
    with xml_file(tmp_path / "a.xml") as xml, xml.element("a", name='\x01<&"\ud800é'):
        xml.empty("b")
    assert ElementTree.parse(tmp_path / "a.xml").getroot().get("name") == '\ufffd<&"\ufffdé'


@pytest.mark.parametrize("origin", ["bounds", "level0", None])
def test_geoparquet_lies_on_the_landmarks(made: MadeResult, origin: str | None, tmp_path: Path) -> None:
    asked = ("--origin", origin) if origin else ()
    done = export(made, "--to", "geoparquet", "-o", tmp_path / "a.parquet", *asked)
    assert done.exit_code == 0 and done.output.startswith("3 regions"), done.output
    frame = geopandas.read_parquet(tmp_path / "a.parquet")
    told = json.loads(parquet.read_metadata(tmp_path / "a.parquet").metadata[b"wsi_seg"])
    counted_from = made.origin_l0 if origin == "bounds" else (0, 0)
    assert (told["origin"], told["unit"]) == (origin or "level0", "pixel")
    assert tuple(told["subtracted_l0"]) == counted_from and told["mpp"] == [made.mpp.x, made.mpp.y]
    assert frame.crs is None and frame.geometry.is_valid.all()
    moved = frame.geometry.translate(*counted_from)
    assert landmark_error(list(moved), made) <= 0.1
    np.testing.assert_allclose(frame["area_um2"], frame.geometry.area * made.mpp.x * made.mpp.y, atol=0.01)


def test_geoparquet_has_the_columns_of_the_table(made: MadeResult, tmp_path: Path) -> None:
    for name, file in (("geoparquet", "a.parquet"), ("csv", "a.csv")):
        assert export(made, "--to", name, "-o", tmp_path / file).exit_code == 0
    table = pd.read_csv(tmp_path / "a.csv")
    frame = geopandas.read_parquet(tmp_path / "a.parquet")
    edges = ["xmin_l0", "ymin_l0", "xmax_l0", "ymax_l0"]
    pd.testing.assert_frame_equal(
        pd.DataFrame(frame.drop(columns="geometry")), table.drop(columns=edges), check_dtype=False
    )
    np.testing.assert_allclose(frame.bounds, table[edges], atol=0.011)
    x0, y0, x1, y1 = table[edges].iloc[-1]
    near = geopandas.read_parquet(tmp_path / "a.parquet", bbox=(x0 + 1, y0 + 1, x1 - 1, y1 - 1))
    assert near["name"].tolist() == [table["name"].iloc[-1]]


def test_geoparquet_comes_in_row_groups(
    made: MadeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_seg.exporters.geoparquet.ROW_GROUP", 2)
    assert export(made, "--to", "geoparquet", "-o", tmp_path / "a.parquet").exit_code == 0
    assert parquet.read_metadata(tmp_path / "a.parquet").num_row_groups == 2
    whole = json.loads(parquet.read_metadata(tmp_path / "a.parquet").metadata[b"geo"])["columns"]["geometry"]
    frame = geopandas.read_parquet(tmp_path / "a.parquet")
    assert len(frame) == 3 and whole["bbox"] == frame.total_bounds.tolist()
    export_none(made, "geoparquet", tmp_path / "none.parquet")
    assert geopandas.read_parquet(tmp_path / "none.parquet").empty


@pytest.mark.parametrize("origin", ["bounds", "level0", None])
def test_spatialdata_lies_on_the_landmarks(made: MadeResult, origin: str | None, tmp_path: Path) -> None:
    spatialdata = pytest.importorskip(
        "spatialdata", reason="needs the extra spatialdata, which takes an older Dask"
    )
    asked = ("--origin", origin) if origin else ()
    done = export(made, "--to", "spatialdata", "-o", tmp_path / "a.zarr", *asked)
    assert done.exit_code == 0 and done.output.startswith("3 regions"), done.output
    store = spatialdata.read_zarr(tmp_path / "a.zarr")
    counted_from = made.origin_l0 if origin == "bounds" else (0, 0)
    assert store.attrs["wsi_seg"]["subtracted_l0"] == list(counted_from)

    in_px = spatialdata.transform(store["regions"], to_coordinate_system="global").geometry
    assert landmark_error(list(in_px.translate(*counted_from)), made) <= 0.1
    in_um = spatialdata.transform(store["regions"], to_coordinate_system="um").geometry
    table = store["measurements"].to_df()
    np.testing.assert_allclose(in_um.area, table["area_um2"], atol=0.01)
    assert list(store["measurements"].obs["class"]) == ["Tumor"] * 3
    assert list(store["measurements"].obs["id"]) == list(store["regions"].index)

    l0_per_map = Scale(0.5 / made.mpp.x, 0.5 / made.mpp.y)
    names = store["class_names"].obs.set_index("class")["code"]
    for system, unit in (("global", (1, 1)), ("um", (made.mpp.x, made.mpp.y))):
        extent = spatialdata.get_extent(store["classes"], coordinate_system=system)
        assert extent["x"][0] == pytest.approx(-counted_from[0] * unit[0])
        for landmark in made.landmarks_l0:
            x0, y0, x1, y1 = np.subtract(landmark.bounds, counted_from * 2) * (unit * 2)
            found = spatialdata.bounding_box_query(
                store["classes"], axes=("x", "y"), min_coordinate=[x0, y0], max_coordinate=[x1, y1],
                target_coordinate_system=system,
            )  # fmt: skip
            inside = np.asarray(found["scale0"]["image"] if hasattr(found, "children") else found)
            whole = (x1 - x0) * (y1 - y0) / unit[0] / unit[1] / l0_per_map.x / l0_per_map.y
            assert inside.size == pytest.approx(whole, rel=0.02)
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert (edge == names["tumor"]).mean() > 0.99


def test_spatialdata_replaces_nothing(made: MadeResult, tmp_path: Path) -> None:
    pytest.importorskip("spatialdata", reason=NO_SPATIALDATA)
    export_none(made, "spatialdata", tmp_path / "a.zarr")
    again = export(made, "--to", "spatialdata", "-o", tmp_path / "a.zarr")
    assert again.exit_code != 0 and "already exists" in again.output
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def export_none(made: MadeResult, name: str, path: Path) -> None:
    """Export none of the regions."""
    arguments = ["export", str(made.folder), "--to", name, "-o", str(path), "--min-area-um2", "1e9"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and done.output.startswith("0 regions"), done.output


def test_xml_without_regions_has_the_classes(made: MadeResult, tmp_path: Path) -> None:
    for name, place in (("asap", "AnnotationGroups/Group"), ("imagescope", "Annotation")):
        export_none(made, name, tmp_path / "a.xml")
        (item,) = ElementTree.parse(tmp_path / "a.xml").getroot().findall(place)
        assert item.get("Name") == "Tumor"
        assert read_annotations(tmp_path / "a.xml", may_be_empty=True).items == ()


def test_a_table_without_regions_has_the_same_columns(made: MadeResult, tmp_path: Path) -> None:
    assert export(made, "--to", "csv", "-o", tmp_path / "some.csv").exit_code == 0
    export_none(made, "csv", tmp_path / "none.csv")
    some, none = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("some", "none"))
    assert list(some.columns) == list(none.columns) and none.empty
    assert pd.concat([some, none])["holes"].sum() == 1


@pytest.mark.parametrize("origin", ["bounds", "level0"])
def test_cells_are_joined_with_results(made: MadeResult, origin: str, tmp_path: Path) -> None:
    dx, dy = made.origin_l0 if origin == "level0" else (0, 0)
    points = [(110, 130), (250, 240), (600, 300), (500, 640), (870, 670), (900, 20)]  # the second in the hole
    rows = "".join(f"{x + dx},{y + dy},cell\n" for x, y in points)
    (tmp_path / "cells.csv").write_text("x,y,class\n" + rows)
    arguments = ["join", str(made.folder), str(tmp_path / "cells.csv"), "-o", str(tmp_path / "a.csv")]
    more = ["--origin", origin, "--min-area-um2", "10", "--min-hole-um2", "10", "--bin-um", "10"]
    done = CliRunner().invoke(app, [*arguments, *more, "--distances", str(tmp_path / "bins.csv")])
    assert done.exit_code == 0 and done.output.startswith("6 cells, 2 of them in none of 3 regions"), (
        done.output
    )
    table = pd.read_csv(tmp_path / "a.csv").sort_values("area_mm2")
    assert table["cells"].tolist() == [2, 1, 1] and set(table["class"]) == {"Tumor"}
    bins = pd.read_csv(tmp_path / "bins.csv")
    assert bins[bins["to_um"] <= 0]["cells"].sum() == 4 and bins["cells"].sum() == 6
    tumor = sum(shape.area for shape in made.landmarks_l0) * made.mpp.x * made.mpp.y / 1e6
    assert bins[bins["to_um"] <= 0]["area_mm2"].sum() == pytest.approx(tumor, rel=0.02)
