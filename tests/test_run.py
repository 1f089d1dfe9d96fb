"""The main job through its Python API: what it leaves behind, and that nothing changes its bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaozarrs
from ome_zarr_models import open_ome_zarr
from PIL import Image
from scipy.ndimage import binary_dilation

import wsi_seg.execution.tasks
import wsi_seg.pipeline.run
import wsi_seg.pipeline.tracing
from tests.made.progress import StopAfter
from wsi_seg.core.errors import Interrupted, OutputError, SlideError, UsageError
from wsi_seg.core.geometry import Box, Scale
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.execution.tasks import BlockRecord, BlockTask, killed_block
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.models import Model, load_model
from wsi_seg.pipeline.result import Result
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RegionSettings, RunSettings
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.results.files import JOURNAL, MAPS, POLYGONS
from wsi_seg.testing.geojson import assert_geojson

SETTINGS = RunSettings(plan=PlanSettings(block=512, overlap=32))


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return load_model(str(tiny_model), "cpu", "float32")


@pytest.fixture(scope="module")
def quiet(made_svs: Path, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The undisturbed run that others are compared with."""
    return segment_slide(made_svs, tmp_path_factory.mktemp("quiet"), model, SETTINGS)


def tree_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def run_again(made_svs: Path, out: Path, model: Model, settings: RunSettings = SETTINGS) -> Result:
    return segment_slide(made_svs, out, model, settings)


def test_results_are_whole_and_valid(quiet: Result) -> None:
    assert quiet.status == "done"
    names = {path.name for path in quiet.folder.iterdir()}
    pictures_and_pages = {"overview.png", "report.html", "thumbnail.jpg"}
    assert names == {"maps.zarr", "polygons.geojson", "summary.json", "manifest.json", *pictures_and_pages}
    assert [p.name for p in quiet.folder.parent.iterdir()] == ["made"]
    yaozarrs.validate_zarr_store(str(quiet.folder / MAPS))
    open_ome_zarr(str(quiet.folder / MAPS))
    assert_geojson(quiet.folder / POLYGONS)


def test_summary_agrees_with_the_maps(quiet: Result) -> None:
    maps = Maps.open(quiet.folder / MAPS)
    labels, tissue = np.asarray(maps.labels[:]), np.asarray(maps.tissue[:])
    assert np.array_equal(labels > 0, tissue > 0)
    mm2 = 0.5**2 / 1e6
    assert quiet.summary["tissue_area_mm2"] == pytest.approx(np.count_nonzero(tissue) * mm2, abs=1e-6)
    for tissue_class in maps.classes:
        area = np.count_nonzero(labels == tissue_class.code) * mm2
        assert quiet.summary["class_area_mm2"].get(tissue_class.name, 0) == pytest.approx(area, abs=1e-6)
    features = json.loads((quiet.folder / POLYGONS).read_text())["features"]
    assert len(features) == quiet.summary["regions"]["tumor"]["count"] > 0
    assert len(quiet.summary["class_area_mm2"]) > 1


def test_manifest_says_what_was_done(quiet: Result, model: Model, made_svs: Path) -> None:
    manifest = json.loads((quiet.folder / "manifest.json").read_text())
    assert manifest["slide"]["path"] == str(made_svs)
    assert manifest["slide"]["mpp"] == {"x": 0.25, "y": 0.25}
    assert manifest["slide"]["mpp_source"] == "openslide"
    assert manifest["slide"]["reader"] == "tiff"
    assert manifest["model"]["digest"] == model.facts.digest
    assert manifest["settings"]["plan"]["block"] == 512
    assert manifest["faults"] == []
    assert manifest["versions"]["torch"]


def test_every_scheduler_gives_the_same_bytes(
    quiet: Result, made_svs: Path, model: Model, tmp_path: Path
) -> None:
    from distributed import LocalCluster

    expected = tree_hash(quiet.folder / MAPS)
    alone = run_again(
        made_svs, tmp_path / "one", model, replace(SETTINGS, workers=WorkerSettings("synchronous"))
    )
    assert tree_hash(alone.folder / MAPS) == expected
    local = {"processes": False, "protocol": "tcp", "dashboard_address": None}  # test_cluster has processes
    with LocalCluster(n_workers=1, threads_per_worker=2, **local) as cluster:
        settings = replace(SETTINGS, workers=WorkerSettings(cluster.scheduler_address))
        far = run_again(made_svs, tmp_path / "far", model, settings)
    assert tree_hash(far.folder / MAPS) == expected
    assert (far.folder / POLYGONS).read_bytes() == (quiet.folder / POLYGONS).read_bytes()
    for result, most in ((alone, 1), (quiet, 2), (far, 4)):
        assert result.summary["tasks_in_flight"] == {"peak": most, "limit": most}


@pytest.mark.parametrize("blend", ["crop", "gaussian"])
def test_block_size_does_not_change_a_pixel(made_svs: Path, model: Model, tmp_path: Path, blend: Any) -> None:
    arrays = []
    for block in (512, 2048):
        settings = RunSettings(plan=PlanSettings(block=block, overlap=32, blend=blend, uncertainty=True))
        maps = Maps.open(run_again(made_svs, tmp_path / f"{blend}{block}", model, settings).folder / MAPS)
        arrays.append([np.asarray(a[:]) for a in (maps.labels, maps.probabilities, maps.tissue)])
    assert arrays[0][0].any()
    for one, other in zip(*arrays, strict=True):
        assert np.array_equal(one, other)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    quiet: Result, made_svs: Path, model: Model, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match="same command"):
        segment_slide(made_svs, tmp_path, model, SETTINGS, StopAfter(3))
    partial = tmp_path / ".made.partial"
    assert not (tmp_path / "made").exists()
    done = (partial / JOURNAL).read_text().splitlines()
    assert len(done) >= 3
    with (partial / JOURNAL).open("a") as journal:
        journal.write('{"ix": 0, "iy"')  # a line cut short by a power loss
    watcher = StopAfter(-1)
    result = segment_slide(made_svs, tmp_path, model, SETTINGS, watcher)
    assert watcher.tiles_done == sum(json.loads(line)["tiles"] for line in done) > 0
    assert not partial.exists()
    assert tree_hash(result.folder / MAPS) == tree_hash(quiet.folder / MAPS)
    assert (result.folder / POLYGONS).read_bytes() == (quiet.folder / POLYGONS).read_bytes()
    for key in ("class_area_mm2", "tissue_area_mm2", "tiles", "blocks", "regions"):
        assert result.summary[key] == quiet.summary[key]


def test_whole_results_are_skipped_and_never_mixed(
    quiet: Result, made_svs: Path, model: Model, tmp_path: Path
) -> None:
    first = shutil.copytree(quiet.folder, tmp_path / "made")
    before = tree_hash(first)
    again = run_again(made_svs, tmp_path, model)
    assert again.status == "skipped"
    assert again.summary == quiet.summary
    other = replace(SETTINGS, regions=RegionSettings(groups=("other",)))
    with pytest.raises(OutputError, match="--overwrite"):
        run_again(made_svs, tmp_path, model, other)
    assert tree_hash(first) == before
    replaced = run_again(made_svs, tmp_path, model, replace(other, overwrite=True))
    assert replaced.status == "done"
    assert list(replaced.summary["regions"]) == ["other"]
    assert [p.name for p in tmp_path.iterdir()] == ["made"]


def test_an_unfinished_run_of_other_settings_is_not_mixed(
    made_svs: Path, model: Model, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        segment_slide(made_svs, tmp_path, model, SETTINGS, StopAfter(1))
    other = replace(SETTINGS, plan=replace(SETTINGS.plan, overlap=0))
    with pytest.raises(OutputError, match="unfinished run with other settings"):
        run_again(made_svs, tmp_path, model, other)
    assert run_again(made_svs, tmp_path, model, replace(other, overwrite=True)).status == "done"


def test_a_foreign_folder_is_left_alone(made_svs: Path, model: Model, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds no results of wsi-seg"):
        run_again(made_svs, tmp_path, model)
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    with pytest.raises(OutputError, match="holds no results of wsi-seg"):
        run_again(made_svs, tmp_path, model, replace(SETTINGS, overwrite=True))
    assert (tmp_path / "made" / "thesis.txt").read_text() == "mine"


def test_a_block_that_failed_is_tried_again_and_leaves_no_trace(
    quiet: Result, made_svs: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failed = wsi_seg.execution.tasks.run_block, []

    def failing(job: BlockTask) -> BlockRecord:
        if job.tissue.sample(job.settings.frame, job.block.box).any() and not failed:
            failed.append(job.block)
            return killed_block(job)
        return real(job)

    def interrupted(*_: Any, **__: Any) -> Any:
        raise Interrupted("interrupted")

    with monkeypatch.context() as patch:
        patch.setattr(wsi_seg.execution.tasks, "run_block", failing)
        patch.setattr(wsi_seg.pipeline.tracing, "write_part", interrupted)
        with pytest.raises(Interrupted):
            run_again(made_svs, tmp_path, model)
    (block,) = failed
    coverage = Maps.open(tmp_path / ".made.partial" / MAPS).array("coverage")
    assert np.count_nonzero(coverage[:]) == np.count_nonzero(coverage[block.box.within(Box(0, 0, 0, 0))]) > 0
    result = run_again(made_svs, tmp_path, model)
    assert result.status == "done" and result.summary["blocks_failed"] == 0
    assert tree_hash(result.folder / MAPS) == tree_hash(quiet.folder / MAPS)


def damage(slide: Path, target: Path, level: int = 0) -> None:
    """Copy a slide and make one tile of a level no JPEG any more, the one at a place with tissue.

    Tiles of a made slide share their bytes, so this hits several places.
    """
    content = bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as tiff:
        page = tiff.series[0].levels[level].pages[0]
        across = -(-page.imagewidth // page.tilewidth)
        down = -(-page.imagelength // page.tilelength)
        hit = page.dataoffsets[across * int(down * 0.2) + int(across * 0.375)]
    content[hit : hit + 16] = bytes(16)
    target.parent.mkdir(exist_ok=True, parents=True)
    target.write_bytes(content)


def test_a_corrupt_tile_is_read_from_another_level(
    quiet: Result, made_svs: Path, model: Model, tmp_path: Path
) -> None:
    damage(made_svs, tmp_path / "made.svs")
    result = run_again(tmp_path / "made.svs", tmp_path / "out", model)
    assert (result.status, result.note) == ("incomplete", "parts of the slide were read from another level")
    coverage, tissue = (
        np.asarray(Maps.open(result.folder / MAPS).array(kind)[:]) for kind in ("coverage", "tissue")
    )
    assert set(np.unique(coverage)) == {0, 1}
    assert np.array_equal(tissue, np.asarray(Maps.open(quiet.folder / MAPS).tissue[:]))
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert sum(f["other_level_pixels"] for f in manifest["faults"]) == np.count_nonzero(coverage)
    assert all(f["unread_pixels"] == 0 and "made.svs" in f["reason"] for f in manifest["faults"])
    assert result.summary["coverage"]["other_level_mm2"] > 0
    yaozarrs.validate_zarr_store(str(result.folder / MAPS))


def test_what_no_level_holds_is_left_out_and_nothing_else(
    quiet: Result, made_svs: Path, model: Model, tmp_path: Path
) -> None:
    with tifffile.TiffFile(made_svs) as tiff:
        levels = len(tiff.series[0].levels)
    damaged = tmp_path / "made.svs"
    damage(made_svs, damaged)
    for level in range(1, levels):
        damage(damaged, damaged, level)
    result = run_again(damaged, tmp_path / "out", model)
    assert result.status == "incomplete"
    assert run_again(damaged, tmp_path / "out", model).status == "incomplete"  # and stays so
    good, bad = Maps.open(quiet.folder / MAPS), Maps.open(result.folder / MAPS)
    coverage = np.asarray(bad.array("coverage")[:])
    unread = coverage == 2
    assert unread.any()
    tissue, all_tissue = np.asarray(bad.tissue[:]) > 0, np.asarray(good.tissue[:]) > 0
    assert not (tissue & unread).any()
    # What low power does not show either counts as tissue, so that none is left out without a word.
    assert not (all_tissue & ~tissue & ~unread).any()
    assert not np.asarray(bad.labels[:])[unread].any()
    # A tile of 128 pixels sees no further than its own side.
    far = ~binary_dilation(coverage > 0, iterations=128)
    assert np.array_equal(
        np.asarray(bad.labels[:])[far & all_tissue], np.asarray(good.labels[:])[far & all_tissue]
    )
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert sum(f["unread_pixels"] for f in manifest["faults"]) == np.count_nonzero(unread)
    assert result.summary["coverage"]["analyzed_share"] == pytest.approx(
        np.count_nonzero(tissue) / np.count_nonzero(tissue | unread), abs=1e-6
    )
    with pytest.raises(SlideError, match=r"made\.svs.*strict"):
        run_again(damaged, tmp_path / "strict", model, replace(SETTINGS, strict=True))
    assert not (tmp_path / "strict" / "made").exists()


def test_a_blank_slide_ends_well(model: Model, tmp_path: Path) -> None:
    Image.new("RGB", (700, 500), (244, 243, 245)).save(tmp_path / "blank.png")
    settings = replace(SETTINGS, mpp=_mpp(0.5))
    result = run_again(tmp_path / "blank.png", tmp_path / "out", model, settings)
    assert result.status == "done"
    assert result.summary["tiles"] == 0
    assert result.summary["tissue_area_mm2"] == 0
    assert json.loads((result.folder / POLYGONS).read_text())["features"] == []
    yaozarrs.validate_zarr_store(str(result.folder / MAPS))


def test_a_slide_too_coarse_for_the_model_is_refused(model: Model, made_svs: Path, tmp_path: Path) -> None:
    coarse = replace(SETTINGS, mpp=_mpp(1.0))
    with pytest.raises(SlideError, match=r"2\.00× coarser .* --allow-upsampling"):
        run_again(made_svs, tmp_path, model, coarse)
    assert not list(tmp_path.iterdir())


def test_unknown_groups_are_named_before_anything_happens(
    made_svs: Path, model: Model, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="unknown group 'tumr'; did you mean tumor"):
        run_again(made_svs, tmp_path, model, replace(SETTINGS, regions=RegionSettings(groups=("tumr",))))
    assert not list(tmp_path.iterdir())


def _mpp(value: float) -> Scale:
    return Scale(value, value)


def test_another_slide_under_the_same_name_is_opened_anew(model: Model, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    settings = replace(SETTINGS, mpp=Scale(0.5, 0.5), tissue="none")
    labels = []
    for out in ("one", "two"):
        Image.fromarray(random.integers(0, 256, (96, 96, 3), np.uint8)).save(tmp_path / "slide.png")
        folder = segment_slide(tmp_path / "slide.png", tmp_path / out, model, settings).folder
        labels.append(np.asarray(Maps.open(folder / MAPS).labels[:]))
    assert not np.array_equal(*labels)
