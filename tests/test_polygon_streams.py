"""Large maps: polygons come while the map is read, in little memory, and as if all were traced at once."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from tests.made.slides import half_tissue
from wsi_seg.annotations.rasterize import fill_edges, polygon_edges, strip_runs
from wsi_seg.cli import app
from wsi_seg.core.classes import BCSS, BCSS_GROUPS, ClassGroup, TissueClass
from wsi_seg.core.errors import OutputError
from wsi_seg.core.geometry import Box, Size
from wsi_seg.maps.maps import Maps, create_maps
from wsi_seg.planning.grid import cut_blocks
from wsi_seg.planning.map_layout import MapLayout
from wsi_seg.regions.contours import stream_contours, trace_contours
from wsi_seg.regions.group_outlines import GroupOutlines, note_outline
from wsi_seg.regions.polygons import TraceSettings, simplify_together, trace
from wsi_seg.regions.rings import RingLimits
from wsi_seg.regions.spool import PolygonSpool
from wsi_seg.testing.geojson import assert_geojson


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.uint8]:
    """Noise and blobs, with holes in islands in holes."""
    shape = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    noise = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random(shape)
    smooth = ndimage.gaussian_filter(noise, draw(st.sampled_from([0, 0.8, 1.5, 3])))
    return (smooth >= np.quantile(smooth, draw(st.sampled_from([0.2, 0.5, 0.8])))).astype(np.uint8)


def canonical(polygons: Any) -> list[bytes]:
    return sorted(shapely.to_wkb(shapely.normalize(np.asarray(polygons, dtype=object))))


# --- contours ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(masks(), st.integers(1, 30), st.sampled_from([0, 1, 4, 20, 300]), st.sampled_from([0, 1, 4, 20, 300]))
def test_limits_act_the_same_whatever_the_block(
    mask: NDArray[np.uint8], block: int, outer: int, hole: int
) -> None:
    limits = RingLimits(outer, hole)
    whole = trace_contours(mask, 1, block=100, limits=limits)
    assert canonical(trace_contours(mask, 1, block=block, limits=limits)) == canonical(whole)


@settings(max_examples=25, deadline=None)
@given(masks(), st.integers(1, 12), st.floats(0, 9))
def test_polygons_of_different_batches_are_further_apart_than_the_reach(
    mask: NDArray[np.uint8], block: int, reach: float
) -> None:
    batches = [shapely.union_all(b) for b in stream_contours(mask, 1, block=block, reach=reach) if len(b)]
    for i, batch in enumerate(batches):
        assert all(batch.distance(other) > reach for other in batches[i + 1 :])


def test_polygons_come_as_soon_as_they_are_whole() -> None:
    mask = np.zeros((96, 40), np.uint8)
    mask[4:8, 4:8] = 1  # whole in the first row of blocks
    mask[10:14, 30:34] = mask[14:70, 31] = 1  # whole in the third
    mask[40:44, 4:8] = 1  # whole in the second
    batches = list(stream_contours(mask, 1, block=32))
    assert [[round(p.bounds[1]) for p in batch] for batch in batches] == [[4], [40], [10]]
    # What lies inside something that goes on has to wait for it.
    mask[2, 2:12] = mask[2:70, 2] = mask[2:70, 11] = 1
    assert [len(batch) for batch in stream_contours(mask, 1, block=32)] == [0, 0, 4]


def test_polygons_do_not_wait_for_those_whose_box_alone_is_near() -> None:
    mask = np.zeros((96, 40), np.uint8)
    mask[20:70, 30:32] = 1  # whole in the third row of blocks
    mask[6, 12:28] = mask[6:24, 27] = 1  # an angle, near that
    mask[18:22, 8:14] = 1  # reaches into the box of the angle, and is far from it
    batches = [sorted(round(p.bounds[1]) for p in b) for b in stream_contours(mask, 1, block=32, reach=3)]
    assert batches == [[18], [], [6, 20]]


def test_vertices_stand_where_an_outline_turns() -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:25, 7:31] = 1
    (polygon,) = trace_contours(mask, 1, block=8)
    assert len(polygon.exterior.coords) == 9  # four sides, four corners cut off
    step = np.tile(np.arange(40), (30, 1)) >= np.arange(30)[:, None] + 2  # a slope has none on its way
    (polygon,) = trace_contours(step.astype(np.uint8), 1, block=8)
    assert len(polygon.exterior.coords) <= 8
    np.testing.assert_array_equal(fill_edges(polygon_edges([polygon], [1]), Box(0, 0, 40, 30)) > 0, step)


# --- simplification ---------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(masks(), st.floats(0.2, 20))
def test_simplified_as_if_all_were_one_geometry(mask: NDArray[np.uint8], tolerance: float) -> None:
    polygons = np.array(trace_contours(mask, 1), dtype=object)
    together = shapely.simplify(shapely.multipolygons(polygons), tolerance, preserve_topology=True)
    assert canonical(simplify_together(polygons, tolerance)) == canonical(shapely.get_parts(together))


@dataclass(frozen=True)
class LabelMaps:
    """Maps in memory whose probabilities are 0 or 1."""

    labels: NDArray[np.uint8]
    mpp: float = 0.5
    classes: tuple[TissueClass, ...] = BCSS[:2]
    probability_downsample: int = 1
    uncertainty: None = None

    @property
    def channels(self) -> tuple[ClassGroup, ...]:
        return tuple(c.alone for c in self.classes)

    @property
    def probabilities(self) -> NDArray[np.uint8]:
        return np.stack([(self.labels == c.code) * np.uint8(255) for c in self.classes])


@pytest.mark.parametrize("source", ["labels", "probabilities"])
def test_regions_do_not_depend_on_the_block(source: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(4).random((160, 150)), 2)
    maps = LabelMaps(np.where(noise > np.quantile(noise, 0.6), 1, 2).astype(np.uint8))
    chosen = TraceSettings(0.5, 0, 0, 6.0, source)  # wider than the gaps
    whole = trace(maps, BCSS_GROUPS[:2], chosen)
    assert len(whole) > 50
    for block, together in ((8, 1), (20, 3000)):
        monkeypatch.setattr("wsi_seg.regions.polygons.stream_contours", partial(stream_contours, block=block))
        monkeypatch.setattr("wsi_seg.regions.polygons.WINDOW", together)
        monkeypatch.setattr("wsi_seg.regions.spool.IN_MEMORY", together)
        assert trace(maps, BCSS_GROUPS[:2], chosen) == whole


def test_simplified_the_same_whatever_the_batch(data_dir: Path) -> None:
    path = min(data_dir.glob("bcss_masks/**/*.png"), key=lambda p: p.stat().st_size)
    mask = (np.asarray(Image.open(path)) == 2).astype(np.uint8)
    parts = []
    for block in (200, 10_000):
        batches = stream_contours(mask, 1, block=block, reach=2 * 3)
        parts.append([p for b in batches for p in simplify_together(shapely.normalize(b), 3)])
    assert canonical(parts[0]) == canonical(parts[1]) and len(parts[0]) > 20


# --- measurements -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(masks(), st.integers(1, 70), st.integers(-5, 40), st.integers(1, 30))
def test_a_strip_is_filled_as_its_boxes(mask: NDArray[np.uint8], side: int, y0: int, height: int) -> None:
    polygons = simplify_together(np.array(trace_contours(mask, 1), dtype=object), 1.3)
    edges = polygon_edges(polygons, np.arange(1, len(polygons) + 1))
    strip = Box(3, y0, 3 + mask.shape[1], y0 + height)
    found = np.zeros((strip.height, strip.width), np.int32)
    for runs in strip_runs(edges, strip, side):
        assert runs.box.width <= side and runs.start[0] == 0 and (runs.lengths > 0).all()
        ids = np.repeat(runs.ids, runs.lengths)
        found[runs.box.within(strip)] = ids.reshape(runs.box.height, runs.box.width)
    np.testing.assert_array_equal(found, fill_edges(edges, strip))


# --- large files through the command line -----------------------------------------------------------------


def call(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*geojson*")}


@pytest.fixture(scope="module")
def png(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of which the left half is tissue-colored."""
    return half_tissue(tmp_path_factory.mktemp("png") / "small.png")


def test_large_files_are_compressed(
    png: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("run", png, "-o", tmp_path, "--model", tiny_model, "--mpp", 0.5, "--precision", "float32",
              "--set", "min_area_um2=0", "--json")  # fmt: skip
    small = json.loads(call(*common).stdout)[0]["summary"]
    results = tmp_path / "small"
    plain = (results / "polygons.geojson").read_bytes()
    assert small["polygons"] == "polygons.geojson" and names(results) == {"polygons.geojson"}

    monkeypatch.setattr("wsi_seg.exporters.geojson.COMPRESS_ABOVE", len(plain) - 1)
    large = json.loads(call(*common, "--overwrite").stdout)[0]["summary"]
    assert large["polygons"] == "polygons.geojson.gz" and names(results) == {"polygons.geojson.gz"}
    assert large["regions"] == small["regions"] and small["regions"]["tumor"]["count"] > 0
    assert gzip.decompress((results / "polygons.geojson.gz").read_bytes()) == plain
    assert "polygons.geojson.gz: ok" in call("validate", results).stdout
    assert_geojson(results / "polygons.geojson.gz")
    assert "skipped" in call(*common[:-1]).stdout
    monkeypatch.setattr("wsi_seg.exporters.geojson.COMPRESS_ABOVE", len(plain))
    call(*common, "--overwrite")
    assert names(results) == {"polygons.geojson"}


def test_exports_leave_one_file(
    png: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call("run", png, "-o", tmp_path, "--model", tiny_model, "--mpp", 0.5, "--set", "min_area_um2=0")
    results = tmp_path / "small"
    export = ("export", results, "--set", "min_area_um2=0", "--threshold", 0.4)
    assert "tumor_0.4.geojson\n" in call(*export).stdout
    monkeypatch.setattr("wsi_seg.exporters.geojson.COMPRESS_ABOVE", 0)
    assert "tumor_0.4.geojson.gz\n" in call(*export).stdout
    assert names(results) == {"polygons.geojson", "tumor_0.4.geojson.gz"}  # the run's own file stays
    call("validate", results)
    call(*export, "-o", tmp_path / "named.geojson")  # a name that was given is kept
    assert_geojson(tmp_path / "named.geojson")
    monkeypatch.undo()
    call(*export)
    assert names(results) == {"polygons.geojson", "tumor_0.4.geojson"}


def test_outlines_are_noted_as_regions_are_written() -> None:
    mask = np.zeros((90, 50), np.uint8)
    mask[5:40, 5:40], mask[50:80, 5:30] = 1, 2
    maps, groups, chosen = LabelMaps(mask), BCSS_GROUPS[:2], TraceSettings(0.5, 0, 0, 0)
    regions = trace(maps, groups, chosen)
    noted: dict[Any, GroupOutlines] = {}
    for region in regions:
        note_outline(region, noted, 2.0)
    assert list(noted) == list(groups) and [known.count for known in noted.values()] == [1, 1]
    ((outline,),) = noted[BCSS_GROUPS[1]].polygons()
    assert len(outline.exterior.coords) == 5
    assert outline.hausdorff_distance(regions[1].polygon) <= 2
    assert noted[BCSS_GROUPS[1]].area_um2 == regions[1].area_um2


# --- spool ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_memory", [100, 10**6])
def test_a_spool_gives_polygons_back_bit_by_bit_in_any_order(
    in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsi_seg.regions.spool.IN_MEMORY", in_memory)
    random = np.random.default_rng(3)
    sides = random.random((50, 2))
    polygons = np.asarray(shapely.box(0.1, 0.2, *(sides + 1).T), object)
    polygons[7] = (
        shapely.Point(0, 0).buffer(1 / 3).difference(shapely.box(0, 0, 0.1, 0.1))
    )  # by far the largest
    large = len(shapely.to_wkb(polygons[7]))
    order = random.permutation(50)
    with PolygonSpool() as spool:
        for part in (polygons[:20], polygons[:0], polygons[20:]):
            spool.add(part)
        lots = [*spool.read(order, 300)]
    assert shapely.to_wkb(np.concatenate(lots)).tolist() == shapely.to_wkb(polygons[order]).tolist()
    sizes = [sum(map(len, shapely.to_wkb(lot).tolist())) for lot in lots]
    assert len(lots) > 10 and sorted(sizes)[-2] <= 400 and max(sizes) <= large + 300


def test_without_room_for_a_temporary_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("wsi_seg.regions.spool.IN_MEMORY", 100)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    mask = np.zeros((90, 50), np.uint8)
    mask[5:40, 5:40] = mask[50:80, 5:30] = 1
    with pytest.raises(OutputError, match=r"^outlines of regions: no temporary file .*No such file.*TMPDIR$"):
        trace(LabelMaps(mask), BCSS_GROUPS[:1], TraceSettings(0.5, 0, 0, 0))


# --- memory -----------------------------------------------------------------------------------------------

# One arena of memory, which gives back what is freed, so that a peak varies by 3 MB and not by 25 (glibc).
STEADY = os.environ | {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
}

EXPORT = """
import os
import sys

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # how many threads hold a block at the peak is chance

from pathlib import Path
from wsi_seg.core.classes import BCSS_GROUPS
from wsi_seg.exporters.geojson import write_geojson
from wsi_seg.core.geometry import Scale
from wsi_seg.maps.maps import Maps
from wsi_seg.regions import polygons, spool
from wsi_seg.regions.polygons import TraceSettings, iter_regions
from wsi_seg.core.system import peak_memory_bytes
from wsi_seg.slides.slide import Level, SlideInfo, map_frame

path = Path(sys.argv[1])
maps = Maps.open(path)
size = maps.layout.map_size
slide = SlideInfo("made", "made", "image", None, size, (Level(size, Scale(1, 1)),), Scale(0.5, 0.5), "image",
                  None, "00")
settings = TraceSettings(min_area_um2=0, min_hole_um2=0, source="labels")
polygons.WINDOW = spool.IN_MEMORY = 2**18
before = peak_memory_bytes()
regions = iter_regions(maps, BCSS_GROUPS[:1], settings)
done = write_geojson(regions, path / "a.geojson", slide=slide, frame=map_frame(slide, 0.5))
print(done.count, peak_memory_bytes() - before)
"""


def store_of_blobs(path: Path, height: int, *, block: int = 1024) -> Path:
    """Write maps of 2048 pixels across, with a region in every 32² pixels."""
    y, x = np.mgrid[:block, :block] % 32 - 15.5
    labels = np.where(x**2 + y**2 + 40 * np.sin(x) < 120, 1, 2).astype(np.uint8)
    layout = MapLayout("blobs", Size(2048, height), 0.5, block, 8, "uint8", BCSS[:2])
    create_maps(path, layout)
    maps = Maps.open(path)
    tumor = (labels == 1).reshape(block // 8, 8, block // 8, 8).mean((1, 3))
    probabilities = np.rint(255 * np.stack([tumor, 1 - tumor])).astype(np.uint8)
    for part in cut_blocks(layout.map_size, block):
        maps.write_block(part, labels=labels, tissue=labels > 0, probabilities=probabilities)
    return path


@pytest.mark.long
def test_memory_is_not_that_of_the_regions(tmp_path: Path) -> None:
    peaks = []
    for height in (4096, 14_336):
        store = store_of_blobs(tmp_path / f"{height}.zarr", height)
        done = subprocess.run(
            [sys.executable, "-c", EXPORT, store], env=STEADY, check=True, capture_output=True, text=True
        )
        count, peak = map(int, done.stdout.split())
        assert count == 64 * height // 32
        peaks.append(peak)
    grown = (peaks[1] - peaks[0]) / (64 * (14_336 - 4096) / 32)
    assert grown < 400, peaks  # bytes for each further region, which has 1,000 as a polygon
