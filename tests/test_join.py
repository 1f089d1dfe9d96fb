"""Cells joined with regions, against counting one by one."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from typer.testing import CliRunner, Result

from wsi_seg.annotations.points import read_cells
from wsi_seg.annotations.reading import read_annotations
from wsi_seg.cli import app
from wsi_seg.core.errors import MaskError, UsageError
from wsi_seg.regions import joining
from wsi_seg.regions.joining import (
    areas_of_bins,
    border_distances,
    border_pieces,
    count_inside,
    distance_edges,
)

HOLED = shapely.box(100, 100, 500, 400).difference(shapely.box(200, 200, 300, 300))
REGIONS = [
    ("Tumor", HOLED),
    ("Stroma", shapely.box(600, 100, 900, 700)),
    ("Tumor", shapely.box(50, 600, 150, 700)),
]
CLASSES = ("lymphocyte", "neoplastic")


def made_cells(count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.uniform(0, 1000, (count, 2)), rng.integers(0, 2, count).astype(np.int32)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "POINTS", 37)
    monkeypatch.setattr(joining, "EDGES", 3)


def test_counts_are_those_of_counting_one_by_one(small_batches: None) -> None:
    xy, codes = made_cells()
    shapes = np.array([shape for _, shape in REGIONS], dtype=object)
    counts, none = count_inside(shapes, xy, codes, 2)
    inside = np.array([[shape.intersects(shapely.Point(point)) for point in xy] for shape in shapes])
    for code in range(2):
        assert counts[:, code].tolist() == (inside & (codes == code)).sum(axis=1).tolist()
        assert none[code] == (~inside.any(axis=0) & (codes == code)).sum()


def test_distances_are_those_to_the_whole_outline(small_batches: None) -> None:
    xy, _ = made_cells()
    circle = shapely.Point(700, 700).buffer(150)
    shapes = np.array([HOLED, circle], dtype=object)
    outline = shapely.union_all(shapely.boundary(shapes))
    inside = np.array([any(shape.contains(shapely.Point(point)) for shape in shapes) for point in xy])
    expected = shapely.distance(shapely.points(xy), outline) * np.where(inside, -1, 1)
    np.testing.assert_allclose(border_distances(shapes, xy), expected)
    pieces = border_pieces(shapes)
    assert max(shapely.get_num_coordinates(pieces)) <= 4
    assert shapely.union_all(pieces).equals(outline)


def test_areas_of_bins_are_those_of_bands() -> None:
    edges = distance_edges(50, 120)
    assert edges.tolist() == [-np.inf, -150, -100, -50, 0, 50, 100, 150, np.inf]
    y, x = np.mgrid[:500, :500] * 2 + 1.0  # centers of pixels of 2 µm
    inside = np.hypot(x - 500, y - 500) < 200
    areas = areas_of_bins(inside, x < 500, 2.0, edges)
    radii = np.clip(200 + edges[1:-1], 0, None)
    half_discs = np.diff(np.concatenate([[0], np.pi * radii**2 / 2]))
    np.testing.assert_allclose(areas[:-1], half_discs, rtol=0.05)
    assert areas.sum() == 500 * 1000


def written(path: Path, xy: np.ndarray, names: list[str]) -> Path:
    """Write cells as the end of the name says."""
    if path.suffix == ".csv":
        pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "class": names}).to_csv(path, index=False)
    elif path.suffix == ".tsv":
        columns = {"Centroid X µm": xy[:, 0] / 2, "Centroid Y µm": xy[:, 1] / 2, "Classification": names}
        pd.DataFrame(columns).to_csv(path, index=False, sep="\t")
    elif path.suffix == ".parquet":
        cells = shapely.buffer(shapely.points(xy), 3)
        geopandas.GeoDataFrame({"class_name": names}, geometry=cells).to_parquet(path)
    else:
        features = [
            {"type": "Feature", "geometry": {"type": "Point", "coordinates": point},
             "properties": {"objectType": "detection", "classification": {"name": name}}}
            for point, name in zip(xy.tolist(), names, strict=True)
        ]  # fmt: skip
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def regions_file(path: Path) -> Path:
    frame = geopandas.GeoDataFrame({"class": [n for n, _ in REGIONS]}, geometry=[s for _, s in REGIONS])
    frame.to_parquet(path)
    return path


def joined(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["join", *map(str, arguments)])


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.geojson"])
def test_join_counts_cells_of_every_format(name: str, tmp_path: Path) -> None:
    xy, codes = made_cells()
    names = [CLASSES[code] for code in codes]
    cells = written(tmp_path / name, xy, names)
    regions = regions_file(tmp_path / "regions.parquet")
    out, bins = tmp_path / "out.csv", tmp_path / "bins.csv"
    done = joined(
        regions, cells, "--mpp", 0.5, "-o", out, "--distances", bins, "--bin-um", 20, "--reach-um", 60
    )
    assert done.exit_code == 0, done.output
    table, distances = pd.read_csv(out), pd.read_csv(bins)
    inside = np.array([shapely.intersects(shape, shapely.points(xy)) for _, shape in REGIONS])
    assert table["class"].tolist() == ["Tumor", "Stroma", "Tumor"]
    assert table["cells"].tolist() == inside.sum(axis=1).tolist()
    assert table["cells_lymphocyte"].tolist() == (inside & (codes == 0)).sum(axis=1).tolist()
    assert table["area_mm2"].tolist() == [round(shape.area / 4e6, 9) for _, shape in REGIONS]
    np.testing.assert_allclose(
        table["per_mm2_lymphocyte"], table["cells_lymphocyte"] / table["area_mm2"], atol=1e-3
    )
    assert done.output.startswith(f"400 cells, {(~inside.any(axis=0)).sum()} of them in none of 3 regions")

    # In the bins, only what lies in a region counts; half a pixel at their edges may be on the other side.
    assert distances["cells"].sum() == pytest.approx(inside.any(axis=0).sum(), abs=3)
    tumor = distances[distances["to_um"] <= 0]
    assert tumor["cells"].sum() == pytest.approx((inside[0] | inside[2]).sum(), abs=2)
    area = distances.drop_duplicates(["from_um", "to_um"])["area_mm2"].sum()
    assert area == pytest.approx(table["area_mm2"].sum(), rel=0.01)


def test_geoparquet_is_read_as_regions(tmp_path: Path) -> None:
    found = read_annotations(regions_file(tmp_path / "a.parquet"))
    assert [item.name for item in found.items] == [name for name, _ in REGIONS]
    assert all(item.geometry.equals(shape) for item, (_, shape) in zip(found.items, REGIONS, strict=True))


def test_bad_cells_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,class\n1,2,a\n1,b,a\n")
    with pytest.raises(MaskError, match=r"a\.csv: row 3: '1', 'b' is no position"):
        read_cells(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("left,top\n1,2\n")
    with pytest.raises(MaskError, match=r"no columns of positions .* it has left, top"):
        read_cells(tmp_path / "b.csv")
    with pytest.raises(UsageError, match="no column 'kind'; it has x, y, class"):
        read_cells(tmp_path / "a.csv", "kind")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 damaged PAR1")
    with pytest.raises(MaskError, match=r"c\.parquet: damaged GeoParquet"):
        read_cells(tmp_path / "c.parquet")
    (tmp_path / "d.csv").write_text("x,y\n")
    with pytest.raises(MaskError, match="holds no cells"):
        read_cells(tmp_path / "d.csv")
    (tmp_path / "e.csv").write_text("x,y\nnan,1\n")
    with pytest.raises(MaskError, match="row 2: the position is not finite"):
        read_cells(tmp_path / "e.csv")
    with pytest.raises(UsageError, match="cells come from files that end with"):
        read_cells(tmp_path / "a.docx")
    with pytest.raises(MaskError, match=r"missing\.csv: cannot be read"):
        read_cells(tmp_path / "missing.csv")


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    cells = written(tmp_path / "a.csv", *(made_cells()[0], ["a"] * 400))
    regions = regions_file(tmp_path / "regions.parquet")
    out = tmp_path / "out.csv"
    assert "needs --mpp" in joined(regions, cells, "-o", out).output
    bins = ("--distances", tmp_path / "bins.csv", "--border", "necrosis")
    refused = joined(regions, cells, "--mpp", 0.5, "-o", out, *bins)
    assert refused.exit_code == 2 and "there are Stroma, Tumor" in refused.output
    assert not (tmp_path / "bins.csv").exists()
