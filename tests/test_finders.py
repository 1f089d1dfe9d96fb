"""Tissue found by a network at low power, before the slide is planned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import small_model
from tests.made.memory_slides import ArraySlide, area_mean
from wsi_seg.cli import app
from wsi_seg.core.card import CardClass, CardGroup, ModelCard, Task, read_card
from wsi_seg.core.errors import ModelError, UsageError
from wsi_seg.core.geometry import Box, Scale
from wsi_seg.execution.tasks import PredictorRecipe
from wsi_seg.inference.models.registry import model_hash
from wsi_seg.pipeline.finders import Finders, is_model, load_finders, tissue_of
from wsi_seg.pipeline.models import Model, load_model
from wsi_seg.pipeline.run import prepare, segment_slide
from wsi_seg.pipeline.run_inputs import RunInputs
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.planning.plan import ModelFacts
from wsi_seg.planning.settings import PlanSettings

PLAN = PlanSettings(block=512, overlap=32)


def finder(
    *names: str, task: Task = "tissue", mpp: float = 2.0, predictor: str = "darkness", tile: int = 64
) -> Model:
    """A model whose network is a stand-in, with these classes."""
    classes = tuple(CardClass(code=i + 1, name=n, color=(20 * i, 90, 160)) for i, n in enumerate(names))
    card = ModelCard(name="finder", task=task, classes=classes, groups=(), mpp=mpp, tile=tile, overlap=32)
    recipe = PredictorRecipe(f"tests.made.predictors:{predictor}")
    return Model(ModelFacts(card, "f" * 64, 0), recipe)


@pytest.fixture(scope="module")
def dark_spots() -> ArraySlide:
    """900 × 700 px at 0.5 µm/px: white, with dark areas that end at odd places."""
    pixels = np.full((700, 900, 3), 240, np.uint8)
    pixels[101:333, 57:411] = 60
    pixels[500:700, 640:900] = 40
    return ArraySlide(pixels, 0.5, downsamples=(1, 2))


@pytest.fixture(scope="module")
def tissue_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that finds tissue, untrained."""
    folder = small_model(tmp_path_factory.mktemp("finders") / "net", "tu-test_resnet", 4)
    card = read_card(folder)
    group = CardGroup(name="Tissue", codes=(1, 2), color=(0, 0, 0))
    card.model_copy(update={"task": "tissue", "mpp": 4.0, "groups": (group,)}).write(folder)
    return folder


def test_each_cell_says_what_the_network_says_at_its_center(dark_spots: ArraySlide) -> None:
    found = tissue_of(dark_spots, RunSettings(), Finders(finder("tissue", "rest")))
    # 2 µm/px: four pixels of level 0 a side; cells of 8 µm are four of these, and tell of the third.
    seen = area_mean(dark_spots.levels[0], 4).mean(axis=2) < 127.5
    rows, columns = (np.minimum(np.arange(2, n + 2, 4), n - 1) for n in seen.shape)
    assert np.array_equal(found.mask, seen[np.ix_(rows, columns)])
    assert found.l0_per_cell == Scale(16, 16)
    assert found.source == "model finder (ffffffffffff)"
    assert 0.15 < found.mask.mean() < 0.35


def test_the_cells_do_not_depend_on_blocks(dark_spots: ArraySlide, monkeypatch: pytest.MonkeyPatch) -> None:
    finders = Finders(
        finder("tissue", "rest", mpp=3.0)
    )  # cells of three pixels, which do not end with blocks
    whole = tissue_of(dark_spots, RunSettings(), finders)
    monkeypatch.setattr("wsi_seg.planning.plan.BLOCK_TARGET", 64)
    assert np.array_equal(tissue_of(dark_spots, RunSettings(), finders).mask, whole.mask)
    assert whole.l0_per_cell == Scale(18, 18) and whole.mask.any()


def test_only_what_the_network_calls_tissue_is_planned(dark_spots: ArraySlide) -> None:
    model = finder("dark", "rest", task="segmentation", mpp=0.5, tile=128)
    finders = Finders(finder("tissue", "rest"))
    tissue, plan = prepare(dark_spots, model, RunSettings(plan=PlanSettings(block=64, overlap=0)), finders)
    assert plan.tissue_source == tissue.source
    assert {(p.block.ix, p.block.iy) for p in plan.blocks} == {
        (x, y)
        for x in range(15)
        for y in range(11)
        if tissue.any_in(Box.at(64 * x, 64 * y, 64, 64).scaled(Scale(1, 1)))
    }
    other, _ = prepare(dark_spots, model, RunSettings(), Finders(finder("rest", "tissue")))
    assert not (other.mask & tissue.mask).any()
    assert other.digest() != tissue.digest()


@pytest.mark.parametrize(
    ("reference", "model"),
    [
        ("otsu", False),
        ("none", False),
        ("drawn.geojson", False),
        ("missing.json", False),
        ("bcss-demo", True),
        ("hf://owner/name", True),
        ("no-such-name", True),
        ("missing/folder", True),
        ("weights.pth", True),
    ],
)
def test_a_model_is_told_from_a_method_and_a_file(reference: str, model: bool) -> None:
    assert is_model(reference) is model


def test_what_is_no_finder_is_refused(tissue_folder: Path, tiny_model: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, type[Exception], str]] = [
        ("no-such", UsageError, r"unknown tissue method 'no-such'; use otsu, none,.*: no such model"),
        (str(tmp_path), ModelError, "tissue: .* lacks card.json"),
        (str(tiny_model), UsageError, "a model for segmentation .*where one for tissue is needed"),
    ]
    for reference, error, message in cases:
        with pytest.raises(error, match=message):
            load_finders(RunSettings(tissue=reference))
    unnamed = small_model(tmp_path / "unnamed", "tu-test_resnet", 4)
    read_card(unnamed).model_copy(update={"task": "tissue"}).write(unnamed)
    with pytest.raises(ModelError, match=r"names no class or group 'tissue'.*the model has"):
        load_finders(RunSettings(tissue=str(unnamed)))
    found = load_finders(RunSettings(tissue=str(tissue_folder))).tissue
    assert found is not None and found.facts.digest == model_hash(tissue_folder)


def test_a_run_says_which_network_found_the_tissue(
    made_svs: Path, tiny_model: Path, tissue_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(str(tiny_model), "cpu", "float32")
    settings = RunSettings(tissue=str(tissue_folder), plan=PLAN)
    result = segment_slide(made_svs, tmp_path, model, settings)
    source = f"model tiny ({model_hash(tissue_folder)[:12]})"
    assert result.summary["tissue_source"] == source
    assert f"found by the {source}" in (result.folder / "report.html").read_text()
    manifest = json.loads((result.folder / "manifest.json").read_text())
    assert manifest["finders"]["tissue"]["digest"] == model_hash(tissue_folder)
    assert manifest["plan"]["tissue_source"] == source
    assert segment_slide(made_svs, tmp_path, model, settings).status == "skipped"

    facts, found = model.facts, load_finders(settings).facts
    inputs = RunInputs(made_svs, facts, settings, found)
    assert inputs.key(inputs.versions) == manifest["request"]
    changed = {"tissue": replace(found["tissue"], digest="0" * 64)}
    assert RunInputs(made_svs, facts, settings, changed).key(inputs.versions) != manifest["request"]

    asked = ["run", str(made_svs), "-o", str(tmp_path), "-m", str(tiny_model), "--dry-run"]
    with pytest.raises(SystemExit) as ended:
        app([*asked, "--tissue", str(tissue_folder), "--block", "512", "--overlap", "32"])
    assert not ended.value.code
    assert source in capsys.readouterr().out
