"""Artifacts found by a network: labels of their own, left out of all areas, or marked alone."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaozarrs
from ome_zarr_models import open_ome_zarr
from PIL import Image

from tests.conftest import small_model
from tests.made.memory_slides import ArraySlide
from tests.made.progress import StopAfter
from tests.made.slides import SlideSpec, make_slide
from tests.test_finders import finder
from tests.test_run import tree_hash
from tests.viewer_server import client, only_id, whole_level
from wsi_seg.cli import app
from wsi_seg.core.card import read_card
from wsi_seg.core.errors import Interrupted, ModelError, OutputError, UsageError
from wsi_seg.core.geometry import Size
from wsi_seg.inference.models.registry import model_hash
from wsi_seg.inference.settings import ModelSettings
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.finders import Finders, load_finders, tissue_of
from wsi_seg.pipeline.models import Model, load_model
from wsi_seg.pipeline.result import Result
from wsi_seg.pipeline.run import prepare, segment_slide
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.planning.settings import PlanSettings
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.results.files import MAPS

PLAN = PlanSettings(block=256, overlap=32)
NAMES = ("clean", "fold", "pen", "blur")
MPP = 2.0


@pytest.fixture(scope="module")
def small_svs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of 1536 × 1024 pixels at 0.25 µm/px: six blocks of the map, half of it tissue."""
    path = tmp_path_factory.mktemp("slides") / "small.svs"
    make_slide(path, SlideSpec(size=Size(1536, 1024), mpp=0.25, tissue=0.5, seed=3))
    return path


@pytest.fixture(scope="module")
def qc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that finds artifacts, untrained: each class wins somewhere."""
    folder = small_model(tmp_path_factory.mktemp("qc") / "qc", "tu-test_resnet", 6)
    card = read_card(folder)
    classes = tuple(one.model_copy(update={"name": n}) for one, n in zip(card.classes, NAMES, strict=True))
    update = {"name": "qc", "task": "artifacts", "mpp": MPP, "classes": classes, "groups": (), "tile": 256}
    card.model_copy(update=update).write(folder)
    return folder


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Model:
    return load_model(str(tiny_model), "cpu", "float32")


@pytest.fixture(scope="module")
def settings(qc_folder: Path) -> RunSettings:
    return RunSettings(qc=str(qc_folder), plan=PLAN, model=ModelSettings(device="cpu", precision="float32"))


@pytest.fixture(scope="module")
def plain(small_svs: Path, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return segment_slide(small_svs, tmp_path_factory.mktemp("plain"), model, RunSettings(plan=PLAN))


@pytest.fixture(scope="module")
def left_out(
    small_svs: Path, model: Model, settings: RunSettings, tmp_path_factory: pytest.TempPathFactory
) -> Result:
    return segment_slide(small_svs, tmp_path_factory.mktemp("left_out"), model, settings)


def maps_of(result: Result) -> dict[str, np.ndarray]:
    maps = Maps.open(Path(result.folder) / MAPS)
    kinds = [kind for kind in maps.layout.kinds if kind != "probabilities"]
    return {kind: np.asarray(maps.array(kind)[:]) for kind in kinds}


def test_artifacts_are_what_the_network_says_of_the_tissue(
    small_svs: Path, qc_folder: Path, left_out: Result, plain: Result, tmp_path: Path
) -> None:
    """The same network as the main one of a run is the oracle."""
    alone = load_model(str(qc_folder), "cpu", "float32")
    regions = RegionSettings(classes=("fold",))
    oracle = maps_of(segment_slide(small_svs, tmp_path, alone, RunSettings(regions=regions)))["classes"]
    found, tissue = maps_of(left_out)["artifacts"], maps_of(plain)["tissue"] > 0
    height, width = tissue.shape
    seen = oracle.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
    # Whether a pixel is tissue is sampled at its center, and that of the network's pixel may be none.
    inside = tissue & (seen > 0)
    assert np.array_equal(found[inside], np.where(seen > 1, seen, 0)[inside])
    assert inside.sum() > 0.97 * tissue.sum()
    assert len(np.unique(found)) > 2 and not found[~tissue].any()


def test_what_is_left_out_is_in_no_other_map_and_no_area(left_out: Result, plain: Result) -> None:
    found, before = maps_of(left_out), maps_of(plain)
    artifact = found["artifacts"] > 0
    assert not found["classes"][artifact].any() and not found["tissue"][artifact].any()
    assert np.array_equal(found["classes"][~artifact], before["classes"][~artifact])
    assert np.array_equal(found["tissue"] | artifact, before["tissue"])
    mm2 = 0.5**2 / 1e6
    summary = left_out.summary
    assert summary["tissue_area_mm2"] == pytest.approx(np.count_nonzero(found["tissue"]) * mm2, abs=1e-6)
    areas = {
        name: np.count_nonzero(found["artifacts"] == code) * mm2 for code, name in enumerate(NAMES[1:], 2)
    }
    assert summary["artifacts"]["area_mm2"] == pytest.approx(areas, abs=1e-6)
    assert sum(areas.values()) > 0.01
    assert summary["artifacts"]["excluded"] is True
    total = plain.summary["tissue_area_mm2"]
    assert summary["tissue_area_mm2"] + sum(areas.values()) == pytest.approx(total, abs=1e-6)
    assert sum(r["area_mm2"] for r in summary["regions"].values()) < sum(
        r["area_mm2"] for r in plain.summary["regions"].values()
    )


def test_kept_artifacts_change_nothing_else(
    small_svs: Path,
    model: Model,
    settings: RunSettings,
    left_out: Result,
    plain: Result,
    tmp_path: Path,
) -> None:
    kept = segment_slide(small_svs, tmp_path, model, replace(settings, keep_artifacts=True))
    found, before = maps_of(kept), maps_of(plain)
    assert all(np.array_equal(found[kind], values) for kind, values in before.items())
    assert np.array_equal(found["artifacts"], maps_of(left_out)["artifacts"])
    polygons = [Path(result.folder) / "polygons.geojson" for result in (kept, plain)]
    assert polygons[0].read_bytes() == polygons[1].read_bytes()
    assert kept.summary["artifacts"]["excluded"] is False
    assert "analyzed as other tissue" in (Path(kept.folder) / "report.html").read_text()


def test_the_store_is_valid_and_names_the_classes(left_out: Result, plain: Result) -> None:
    store = Path(left_out.folder) / MAPS
    yaozarrs.validate_zarr_store(str(store))
    open_ome_zarr(str(store))
    labels = json.loads((store / "labels/zarr.json").read_text())["attributes"]["ome"]["labels"]
    assert labels == ["classes", "tissue", "coverage", "artifacts"]
    values = json.loads((store / "labels/artifacts/zarr.json").read_text())["attributes"]["ome"][
        "image-label"
    ]
    assert [one["label-value"] for one in values["colors"]] == [0, 2, 3, 4]
    maps = Maps.open(store)
    coarse = [np.asarray(maps.array("artifacts", level)[:]) for level in range(maps.level_count)]
    assert coarse[-1].any() and coarse[1].shape == tuple(-(-side // 2) for side in coarse[0].shape)
    assert not (Path(plain.folder) / MAPS / "labels/artifacts").exists()


def test_an_interrupted_run_resumes_to_the_same_bytes(
    small_svs: Path, model: Model, settings: RunSettings, left_out: Result, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        segment_slide(small_svs, tmp_path, model, settings, StopAfter(3))
    watcher = StopAfter(-1)
    result = segment_slide(small_svs, tmp_path, model, settings, watcher)
    assert watcher.tiles_done
    assert tree_hash(Path(result.folder) / MAPS) == tree_hash(Path(left_out.folder) / MAPS)
    assert result.summary["artifacts"] == left_out.summary["artifacts"]
    assert segment_slide(small_svs, tmp_path, model, settings).status == "skipped"
    with pytest.raises(OutputError, match=r"another slide, model or settings.*(qc|keep_artifacts)"):
        segment_slide(small_svs, tmp_path, model, replace(settings, keep_artifacts=True))
    with pytest.raises(UsageError, match="nothing looks for artifacts without qc"):
        segment_slide(small_svs, tmp_path, model, replace(settings, keep_artifacts=True, qc=None))


def test_report_picture_and_plan_say_it(
    left_out: Result,
    plain: Result,
    small_svs: Path,
    model: Model,
    settings: RunSettings,
    qc_folder: Path,
) -> None:
    source = f"model qc ({model_hash(qc_folder)[:12]})"
    page = (Path(left_out.folder) / "report.html").read_text()
    assert f"{source.capitalize()}; left out of all areas" in page and ">fold</th>" in page
    assert "Artifacts" not in (Path(plain.folder) / "report.html").read_text()
    pictures = [
        Image.open(Path(result.folder) / "overview.png").convert("RGB") for result in (left_out, plain)
    ]
    assert np.asarray(pictures[0]).shape[1] == np.asarray(pictures[1]).shape[1]
    assert not np.array_equal(np.asarray(pictures[0])[:1000], np.asarray(pictures[1])[:1000])
    manifest = json.loads((Path(left_out.folder) / "manifest.json").read_text())
    assert manifest["plan"]["artifacts_source"] == source
    assert manifest["finders"]["artifacts"]["card"]["name"] == "qc"


def test_the_viewer_has_a_layer_of_them(left_out: Result, plain: Result) -> None:
    asking = client(Path(left_out.folder).parent)
    base = f"/api/slides/{only_id(asking)}"
    facts = asking.get(base).json()
    assert facts["layers"][-1] == "artifacts"
    areas = {one["name"]: one["mm2"] for one in facts["artifacts"]}
    assert areas == left_out.summary["artifacts"]["area_mm2"]
    layer = whole_level(asking, f"{base}/layers/artifacts", facts["max_zoom"] - 1, ".png")
    found = maps_of(left_out)["artifacts"]
    shown = layer[..., 3] > 0
    assert abs(shown.mean() - (found > 0).mean()) < 0.01
    asking = client(Path(plain.folder).parent)
    base = f"/api/slides/{only_id(asking)}"
    assert "artifacts" not in asking.get(base).json()["layers"]
    assert asking.get(f"{base}/layers/artifacts/9/0_0.png").status_code == 404


def test_a_batch_counts_them(
    small_svs: Path, tiny_model: Path, qc_folder: Path, tmp_path: Path, left_out: Result
) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(f"slide,qc\n{small_svs},{qc_folder}\n{small_svs.parent / 'none.svs'},\n")
    with pytest.raises(SystemExit):
        app(["run", str(table), "-o", str(tmp_path / "out"), "-m", str(tiny_model), "--precision", "float32",
             "--device", "cpu", "--block", "256", "--overlap", "32"])  # fmt: skip
    with (tmp_path / "out/batch.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["name"] == "small")
    areas = left_out.summary["artifacts"]["area_mm2"]
    assert {name: float(row[f"qc_{name}_mm2"]) for name in areas} == areas
    assert float(row["qc_mm2"]) == pytest.approx(sum(areas.values()), abs=2e-6)
    page = (tmp_path / "out/report.html").read_text()
    assert '<th scope="col">artifacts</th>' in page and ">qc" not in page


def test_tiles_that_are_all_artifact_are_not_predicted() -> None:
    pixels = np.full((512, 1024, 3), 60, np.uint8)
    pixels[:, 512:] = 220
    slide = ArraySlide(pixels, 0.5)
    main = finder("dark", "rest", task="segmentation", mpp=0.5, tile=64)
    finders = Finders(artifacts=finder("pen", "clean", task="artifacts"))
    settings = RunSettings(tissue="none", plan=PlanSettings(block=128, overlap=0))
    tissue, plan = prepare(slide, main, settings, finders)
    half = plan.blocks[: len(plan.blocks)]
    assert len(half) == 32 and sum(planned.tiles for planned in half) == 64
    assert {planned.tiles for planned in half if planned.block.box.x0 < 512} == {0}
    kept, more = prepare(slide, main, replace(settings, keep_artifacts=True), finders)
    assert more.tiles == 128 and more.key != plan.key and kept.digest() != tissue.digest()
    assert np.array_equal(kept.sample_artifacts(plan.frame, plan.frame.box), pixels[..., 0] == 60)


def test_what_finds_no_artifacts_is_refused(qc_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="qc: no-such: no such model"):
        load_finders(RunSettings(qc="no-such"))
    with pytest.raises(UsageError, match=r"a model for segmentation .*where one for artifacts is needed"):
        load_finders(RunSettings(qc=str(tiny_model)))
    with pytest.raises(UsageError, match=r"a model for artifacts .*where one for tissue is needed"):
        load_finders(RunSettings(tissue=str(qc_folder)))
    clean = small_model(tmp_path / "clean", "tu-test_resnet", 6)
    card = read_card(clean)
    first = (card.classes[0].model_copy(update={"name": "Tissue"}),)
    card.model_copy(update={"task": "artifacts", "classes": first, "groups": ()}).write(clean)
    with pytest.raises(ModelError, match="all classes of its card are without artifacts"):
        load_finders(RunSettings(qc=str(clean)))


def test_a_slide_without_tissue_has_no_artifacts() -> None:
    slide = ArraySlide(np.full((300, 300, 3), 240, np.uint8), 0.5)
    found = tissue_of(slide, RunSettings(), Finders(artifacts=finder("clean", "pen", task="artifacts")))
    assert found.artifacts is not None and not found.artifacts.cells.values.any()
