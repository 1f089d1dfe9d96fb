"""Results from Python: arrays that lie on the slide, tables of regions and classes, runs that are stopped."""

from __future__ import annotations

import importlib.util
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr

from tests.made.exports import MadeResult, make_exported
from tests.made.landmarks import darkness_model
from tests.made.progress import StopAfter
from tests.test_exporters import export, landmark_error
from wsi_seg import (
    Box,
    PlanSettings,
    RegionSettings,
    Result,
    RunSettings,
    open_result,
    open_slide,
    read_region,
    segment_slide,
)
from wsi_seg.core.errors import Interrupted, MissingExtraError, OutputError, UsageError
from wsi_seg.pipeline import result as results
from wsi_seg.results.files import JOURNAL, files_below

TUMOR, STROMA = 1, 2


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> MadeResult:
    return make_exported("odd", tmp_path_factory.mktemp("odd"))


@pytest.fixture(scope="module")
def bounds(tmp_path_factory: pytest.TempPathFactory) -> MadeResult:
    return make_exported("bounds", tmp_path_factory.mktemp("bounds"))


@pytest.fixture(params=["odd", "bounds"])
def made(request: pytest.FixtureRequest) -> MadeResult:
    found: MadeResult = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def result(made: MadeResult) -> Result:
    return open_result(made.folder)


@pytest.mark.parametrize("mpp", [None, 0.7, 2.0, 9.3])
@pytest.mark.parametrize("corner", [-90.5, 95.25])
def test_arrays_lie_on_the_image(mpp: float | None, corner: float, made: MadeResult, result: Result) -> None:
    dx, dy = made.origin_l0
    box_l0 = (corner + dx, corner + dy, 1100.5 + dx, 800.75 + dy)  # beyond the slide, where it has no bounds
    frame = result.frame(mpp)
    part = frame.to_map(results._box(box_l0))
    with open_slide(result.slide.path) as slide:
        dark = 1 - read_region(slide, frame, part)[..., 0] / 255
    labels = result.labels(box_l0=box_l0, mpp=mpp)
    tumor = result.probabilities("tumor", box_l0=box_l0, mpp=frame.mpp)
    assert labels.shape == tumor.shape == dark.shape == (part.height, part.width)
    assert (labels.dtype, tumor.dtype) == (np.uint8, np.float32)
    # Probabilities are stored at 1 µm/px: at an edge they are half a pixel less sharp than the image.
    assert np.abs(tumor - dark).mean() < 0.02 and np.abs((labels == TUMOR) - dark).mean() < 0.1
    there = frame.box.within(part)
    beyond = np.ones(labels.shape, bool)
    beyond[max(0, there[0].start) : there[0].stop, max(0, there[1].start) : there[1].stop] = False
    assert not labels[beyond].any() and not tumor[beyond].any() and (labels[~beyond] > 0).mean() > 0.95


def test_whole_arrays_are_those_that_are_stored(result: Result) -> None:
    maps = result.maps
    assert np.array_equal(result.labels(), np.asarray(maps.labels))
    assert np.array_equal(result.labels("tissue"), np.asarray(maps.tissue))
    values = result.probabilities()
    stored = np.asarray(maps.probabilities)[:, : values.shape[1], : values.shape[2]]
    assert np.allclose(values, stored / 255, atol=1e-6)
    assert np.array_equal(result.probabilities("stroma"), values[1])
    level = maps.level_count - 1
    lazy, stored = result.dask_array("probabilities", level), maps.array("probabilities", level)
    assert lazy.dtype == np.uint8 and lazy.chunksize == (*stored.shape[:1], *stored.shard[1:])
    assert np.array_equal(lazy[1, 5:50, 7:].compute(), stored[1, 5:50, 7:])
    group = zarr.open_group(maps.path, mode="r")
    assert np.array_equal(group["labels/classes/0"], result.dask_array().compute())


def test_regions_lie_on_the_landmarks_and_measure_them(made: MadeResult, result: Result) -> None:
    found = result.regions()
    assert landmark_error(list(found.geometry), made) <= 0.5
    assert found.attrs["wsi_seg"]["unit"] == "l0" and found.attrs["wsi_seg"]["subtracted_l0"] == [0, 0]
    assert found.crs is None and set(found["class"]) == {"Tumor"} and sorted(found["holes"]) == [0, 0, 1]
    in_um = result.regions(RegionSettings(groups=("tumor",), trace=result.run_regions.trace), unit="um")
    assert np.allclose(in_um.area, in_um.area_um2, atol=0.01)
    assert np.allclose(in_um.total_bounds, found.total_bounds * np.tile([made.mpp.x, made.mpp.y], 2))
    for region in found.itertuples():
        inside = result.labels(box_l0=region.geometry.bounds) == TUMOR
        whole = region.geometry.area / region.geometry.envelope.area
        assert inside.mean() == pytest.approx(whole, abs=0.03)
    nothing = result.regions(RegionSettings(groups=("tumor",), trace={"min_area_um2": 1e9}))
    assert len(nothing) == 0 and list(nothing) == list(found) and (nothing.dtypes == found.dtypes).all()


def test_tables_are_those_of_the_export(made: MadeResult, result: Result, tmp_path: Path) -> None:
    assert export(made, "--to", "csv", "-o", tmp_path / "command.csv", "--groups", "tumor").exit_code == 0
    assert result.export("csv", tmp_path / "a.csv").content == "3 regions"
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "command.csv").read_bytes()
    rows = pd.read_csv(tmp_path / "a.csv")
    found = pd.DataFrame(result.regions().drop(columns="geometry"))
    pd.testing.assert_frame_equal(found, rows, check_dtype=False)
    areas = result.areas().set_index("class").area_mm2
    for name, area in result.summary["class_area_mm2"].items():
        assert areas[name] == pytest.approx(area, abs=1e-6)
    result.export("geojson", tmp_path / "a.geojson")  # as the run has written them, bounds subtracted
    assert (tmp_path / "a.geojson").read_bytes() == (made.folder / "polygons.geojson").read_bytes()


def test_spatialdata_is_that_of_the_export(made: MadeResult, result: Result) -> None:
    if importlib.util.find_spec("spatialdata") is None:
        with pytest.raises(MissingExtraError, match=r"pip install 'wsi-seg\[spatialdata\]'"):
            result.to_spatialdata()
        return
    store = result.to_spatialdata()
    assert landmark_error(list(store["regions"].geometry), made) <= 0.5
    classes = store["classes"]
    if result.maps.level_count > 1:
        (classes,) = classes["scale0"].values()
    assert np.array_equal(classes.compute(), result.labels())


def test_results_say_what_they_are(made: MadeResult, result: Result) -> None:
    assert (result.status, result.folder, result.kept) == ("done", made.folder, True)
    assert result.slide.size.width >= made.size.width and result.slide.mpp == pytest.approx(made.mpp)
    assert result.model.name == "darkness" and result.frame() == result.frame(0.5)
    assert result.summary["regions"]["tumor"]["count"] == 3


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda r: r.labels("cells"), "no labels 'cells'; there are classes, tissue, coverage$"),
        (lambda r: r.labels("artifacts"), "no labels 'artifacts'"),
        (lambda r: r.labels(mpp=0.05), "mpp 0.05: finer than the slide; use 0.2"),
        (lambda r: r.labels(mpp=float("nan")), "mpp nan"),
        (
            lambda r: r.labels(mpp=1e300),
            "mpp 1e\\+300: a pixel would be larger than the slide; use .* or less",
        ),
        (lambda r: r.probabilities(mpp=1e9), "mpp 1e\\+09: a pixel would be larger than the slide"),
        (lambda r: r.probabilities(mpp=float("inf")), "mpp inf"),
        (lambda r: r.labels(box_l0=Box(5, 5, 5, 9)), "is empty"),
        (lambda r: r.labels(box_l0="abcd"), "four numbers"),
        (lambda r: r.labels(box_l0=5), "four numbers"),
        (lambda r: r.labels(box_l0=(5, 5, float("nan"), 9)), "four numbers"),
        (lambda r: r.labels(box_l0=(1, 2, 3)), "four numbers"),
        (lambda r: r.probabilities("necrosis"), "unknown class or group 'necrosis'.* tumor, stroma"),
        (lambda r: r.uncertainty(), "no uncertainty was stored"),
        (lambda r: r.dask_array("cells"), "level 0 of 'cells'"),
        (lambda r: r.dask_array("classes", 9), "level 9 of 'classes'; there are levels 0 to 0"),
        (lambda r: r.regions(unit="mm"), "must be l0 or um"),
        (lambda r: r.export("docx", "a.docx"), "no format 'docx'"),
    ],
)
def test_what_cannot_be_read_is_said(ask: Any, said: str, odd: MadeResult) -> None:
    with pytest.raises(UsageError, match=said):
        ask(open_result(odd.folder))


def test_arrays_that_fill_the_memory_are_refused(odd: MadeResult, monkeypatch: pytest.MonkeyPatch) -> None:
    result = open_result(odd.folder)
    monkeypatch.setattr(results, "MOST_BYTES", 50_000)
    with pytest.raises(UsageError, match="give box_l0 or a coarser mpp"):
        result.labels()
    assert result.labels(mpp=4).any()


def test_what_holds_no_results_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"holds no finished results .* such as results/slide"):
        open_result(tmp_path)
    with pytest.raises(OutputError, match="download the folder"):
        open_result("s3://bucket/results/slide")
    with pytest.raises(OutputError, match=r"cannot be read \(File name too long"):
        open_result("x" * 300)


class _Cancelling(StopAfter):
    """Sets an event, in another thread, once so many blocks are done."""

    def __init__(self, blocks: int, cancel: threading.Event) -> None:
        super().__init__(blocks)
        self._cancel = cancel

    def stop(self) -> None:
        thread = threading.Thread(target=self._cancel.set)
        thread.start()
        thread.join()


class _Raising(StopAfter):
    def stop(self) -> None:
        raise Interrupted("that is enough")


SETTINGS = RunSettings(
    tissue="none",
    plan=PlanSettings(block=128, tile=128, overlap=16, probability_downsample=2),
    regions=RegionSettings(groups=("tumor",)),
)


@pytest.fixture(scope="module")
def quiet(odd: MadeResult, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run that nobody stops."""
    slide = open_result(odd.folder).slide.path
    return segment_slide(slide, tmp_path_factory.mktemp("quiet"), darkness_model(0.5, 128), SETTINGS)


@pytest.mark.parametrize("way", ["event", "callback"])
def test_a_run_that_is_cancelled_resumes_with_the_same_bytes(way: str, quiet: Result, tmp_path: Path) -> None:
    model, cancel = darkness_model(0.5, 128), threading.Event()
    watcher = _Cancelling(2, cancel) if way == "event" else _Raising(2)
    with pytest.raises(Interrupted, match="to resume"):
        segment_slide(quiet.slide.path, tmp_path, model, SETTINGS, watcher, cancel=cancel)
    partial = tmp_path / ".odd.partial"
    blocks = len(partial.joinpath(JOURNAL).read_text().splitlines())
    assert not (tmp_path / "odd").exists() and 2 <= blocks < quiet.summary["blocks"]
    again = StopAfter()
    resumed = segment_slide(quiet.slide.path, tmp_path, model, SETTINGS, again, cancel=threading.Event())
    assert resumed.status == "done" and again.tiles_done and not partial.exists()
    names = [name for name in files_below(Path(quiet.folder)) if name.startswith(("maps.zarr", "polygons"))]
    assert len(names) > 10
    for name in names:
        assert (Path(resumed.folder) / name).read_bytes() == (Path(quiet.folder) / name).read_bytes(), name


def test_a_run_that_is_cancelled_before_it_begins_leaves_nothing(quiet: Result, tmp_path: Path) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Interrupted):
        segment_slide(quiet.slide.path, tmp_path / "out", darkness_model(0.5, 128), SETTINGS, cancel=cancel)
    assert not (tmp_path / "out").exists()
