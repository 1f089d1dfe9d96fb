"""The bundled model on real slides: what the README promises of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from wsi_seg.cli import app
from wsi_seg.core.geometry import Box
from wsi_seg.evaluation.seams import measure_seams
from wsi_seg.inference.blocks import BlockSettings
from wsi_seg.inference.models.predictor import load_predictor
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.models import load_model
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.planning.plan import PlanSettings, choose_grid
from wsi_seg.planning.stitch_settings import StitchSettings
from wsi_seg.results.files import MAPS, POLYGONS
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import map_frame
from wsi_seg.testing.geojson import assert_geojson
from wsi_seg.tissue.mask import find_tissue


@pytest.fixture(scope="module")
def demo(sample_svs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of the demo's command."""
    out = tmp_path_factory.mktemp("demo")
    result = CliRunner().invoke(app, ["run", str(sample_svs), "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "demonstration, not for clinical use" in result.stderr
    return out / "CMU-1-Small-Region"


def test_the_demo_finds_regions(demo: Path) -> None:
    assert_geojson(demo / POLYGONS)
    features = json.loads((demo / POLYGONS).read_text())["features"]
    assert features
    assert {f["properties"]["classification"]["name"] for f in features} == {"Tumor"}
    summary = json.loads((demo / "summary.json").read_text())
    assert 0.5 < summary["tissue_area_mm2"] < 0.9
    assert summary["peak_memory_mib"] > 0


@pytest.mark.long
def test_stitched_labels_equal_an_undivided_forward_pass(sample_svs: Path) -> None:
    predictor = load_predictor("bcss-demo", "cpu", "float32")
    with open_slide(sample_svs) as slide:
        frame = map_frame(slide.info, predictor.card.mpp)
        stitch = StitchSettings(choose_grid(predictor.card))
        settings = BlockSettings(frame, stitch, predictor.card.codes, 0, 1)
        seam = stitch.grid.stride  # between the first and the second tile of a row
        box = Box.at(seam - 240, seam - 160, 384, 384)
        assert find_tissue(slide).crop(frame.to_l0(box)).mask.mean() > 0.9
        report = measure_seams(slide, predictor, settings, box)
    assert report.equal_labels >= 0.999


# Large tiles side by side: a third of the work, where the two results are cut alike.
QUICK = RunSettings(plan=PlanSettings(tile=1120, overlap=0))


def labels_of(slide: Path, out: Path, precision: str = "auto") -> np.ndarray:
    """Labels uint8 (H, W) of a slide in a number format."""
    result = segment_slide(slide, out, load_model("bcss-demo", "cpu", precision), QUICK)
    return np.asarray(Maps.open(Path(result.folder) / MAPS).labels[:])


@pytest.fixture(scope="module")
def labels(sample_svs: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Labels of the packaged slide."""
    return labels_of(sample_svs, tmp_path_factory.mktemp("labels"))


def test_dicom_and_svs_of_one_region_agree(labels: np.ndarray, data_dir: Path, tmp_path: Path) -> None:
    # The series was encoded again, with color at half the resolution.
    other = labels_of(data_dir / "slides" / "CMU-1-Small-Region-dicom", tmp_path)
    assert labels.shape == other.shape
    assert (labels == other).mean() >= 0.99


@pytest.mark.long
def test_bfloat16_and_float32_agree(sample_svs: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if load_model("bcss-demo", "cpu").facts.precision != "bf16":
        pytest.skip("this processor has no bfloat16 arithmetic, and imitating it takes minutes")
    labels = request.getfixturevalue("labels")
    assert (labels == labels_of(sample_svs, tmp_path, "float32")).mean() >= 0.998
