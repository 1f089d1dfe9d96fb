"""Classes that a model does not assess: said everywhere instead of an area or a score of nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.made.landmarks import darkness_model
from tests.made.pyramids import write_pyramid
from tests.made.results import SMALL_BLOCKS
from wsi_seg.cli import app
from wsi_seg.cli.evaluate import describe
from wsi_seg.cli.models import _described
from wsi_seg.cli.run import _describe_result, _unassessed
from wsi_seg.core.assessed import describe_unassessed, unassessed_warning
from wsi_seg.core.card import CardClass, CardGroup, ModelCard
from wsi_seg.core.classes import BCSS, BCSS_GROUPS
from wsi_seg.core.geometry import Box, Scale
from wsi_seg.evaluation.html import render_report
from wsi_seg.evaluation.rows import Rows
from wsi_seg.evaluation.section import ImageTally, Section
from wsi_seg.evaluation.tables import section_table
from wsi_seg.evaluation.tally import PredictedBlock, tally_block
from wsi_seg.pipeline.batch import SlideTask
from wsi_seg.pipeline.inputs import SlideInput
from wsi_seg.pipeline.models import Model
from wsi_seg.pipeline.result import Result
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RegionSettings, RunSettings
from wsi_seg.results.pages.check import check_page

PARTLY = ModelCard(name="partly", assessed=("tumor", "stroma", "plasma_cells"))


def test_groups_are_not_assessed_in_part_or_whole() -> None:
    assert describe_unassessed(ModelCard(name="all")) is None
    found = describe_unassessed(PARTLY)
    assert found is not None
    assert found["groups"] == ["necrosis", "other"]
    assert found["in_part"] == {"tumor": ["tumor"], "inflammatory": ["plasma_cells"]}
    assert found["classes"] == [c.name for c in BCSS if c.name not in ("tumor", "stroma", "plasma_cells")]


def test_the_warning_names_what_is_asked_for_in_vain() -> None:
    assert not unassessed_warning(ModelCard(name="all"), BCSS_GROUPS)
    assert not unassessed_warning(PARTLY, BCSS_GROUPS[:3])
    assert unassessed_warning(PARTLY, BCSS_GROUPS).startswith("partly: does not assess necrosis, other, for")


def test_models_are_listed_with_what_they_assess() -> None:
    assert "\n    assessed: tumor, stroma, plasma_cells; not assessed, for lack of" in _described(PARTLY)
    assert "assessed" not in _described(ModelCard(name="all"))


def half_blind(traced: tuple[str, ...] | None = None) -> Model:
    """The stand-in, with a group of a class that it does not assess and one of which it assesses a part."""
    model = darkness_model(tile=128)
    card = model.facts.card.model_copy(
        update={
            "groups": (
                CardGroup(name="dark", codes=(1,), color=(200, 0, 0)),
                CardGroup(name="light", codes=(2,), color=(150, 200, 150)),
                CardGroup(name="both", codes=(1, 2), color=(9, 9, 9)),
            ),
            "assessed": ("tumor",),
            "traced": traced,
        }
    )
    return replace(model, facts=replace(model.facts, card=card))


SETTINGS = RunSettings(
    tissue="none", plan=SMALL_BLOCKS, regions=RegionSettings(("dark", "light"), ("stroma",))
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    pixels = np.full((260, 300, 3), (60, 20, 50), np.uint8)
    slide = write_pyramid(tmp_path_factory.mktemp("slide") / "dark.tif", pixels, Scale(0.5, 0.5), (1,))
    return segment_slide(slide, tmp_path_factory.mktemp("out"), half_blind(), SETTINGS)


def test_the_summary_says_it_instead_of_an_area(result: Result) -> None:
    summary = result.summary
    assert summary["group_area_mm2"]["dark"] > 0 and summary["group_area_mm2"]["light"] is None
    assert summary["not_assessed"] == {
        "classes": ["stroma"],
        "groups": ["light"],
        "in_part": {"both": ["tumor"]},
    }
    assert [r.get("assessed", True) for r in summary["regions"].values()] == [True, False, False]


def test_report_and_terminal_say_it(result: Result) -> None:
    page = Path(result.folder) / "report.html"
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert check_page(page) == []
    assert "Not assessed, for lack of training data: stroma. Assessed in part: both (tumor only)." in text
    assert text.count('<td colspan="4">not assessed</td>') == 2
    assert "<dt>regions of Light</dt><dd>not assessed</dd>" in text
    assert "light not assessed, stroma not assessed; " in _describe_result(result)


def test_the_commands_warn_once_when_it_is_asked_for(result: Result, tmp_path: Path) -> None:
    default = replace(SETTINGS, regions=RegionSettings())
    asked = [(half_blind(("light",)), default), (half_blind(("dark",)), default), (half_blind(), SETTINGS)]
    tasks = [SlideTask(SlideInput("x.svs", "x"), *one) for one in (*asked, asked[0])]
    lines = _unassessed(tasks)
    assert [line.split(",")[0] for line in lines] == [
        "darkness: does not assess light", "darkness: does not assess light"
    ]  # fmt: skip
    assert lines[1].startswith("darkness: does not assess light, stroma")
    exported = CliRunner().invoke(
        app, ["export", str(result.folder), "--classes", "stroma", "-o", str(tmp_path / "x.geojson")]
    )
    assert exported.exit_code == 0
    assert "warning: darkness: does not assess stroma, for lack of training data" in exported.output


def test_the_viewer_knows_it(result: Result) -> None:
    from wsi_seg.viewer.folders import ResultEntry
    from wsi_seg.viewer.result_info import read_result_info

    folder = Path(result.folder)
    facts = read_result_info(ResultEntry("id", folder.name, folder, False, 0.0, "1"))
    assert facts.unassessed == {2}
    assert facts.area("light", "group_area_mm2") is None


def evaluated(card: ModelCard) -> dict[str, Any]:
    """Evaluate truth of rows 0, 1 and 2, of which 2 is always called 0, on three patients."""
    rows = Rows.of_card(card)
    by_group, images = {}, []
    for number in range(3):
        target = np.random.default_rng(number).integers(0, 3, (20, 20)).astype(np.int16)
        channels = np.where(target == 2, 0, target).astype(np.uint8)
        channels[:3] = 1
        probabilities = (channels == np.arange(4)[:, None, None]).astype(np.float32)
        block = PredictedBlock(Box(0, 0, 20, 20), target, channels, probabilities)
        tallies = tuple(tally_block(block, one) for one in rows)
        by_group[f"p{number}"] = tallies
        images.append(ImageTally(f"i{number}", f"p{number}", tuple(t.counts for t in tallies)))
    section = Section("data", rows, by_group, tuple(images), 3, "", (), patients_known=True)
    return section_table(section, ())


FOUR = ModelCard(
    name="four",
    classes=tuple(CardClass(code=c.code, name=c.name, color=c.color) for c in BCSS[:4]),
    groups=(
        CardGroup(name="seen", codes=(1, 2), color=(1, 1, 1)),
        CardGroup(name="unseen", codes=(3,), color=(2, 2, 2)),
    ),
)


def test_means_leave_it_out_and_tables_list_it() -> None:
    everything = evaluated(FOUR)
    table = evaluated(FOUR.model_copy(update={"assessed": ("tumor", "stroma")}))
    rows = {row["name"]: row for row in table["classes"]}
    assert [name for name, row in rows.items() if "assessed" in row] == [c.name for c in BCSS[2:4]]
    unseen = rows["lymphocytic_infiltrate"]
    assert (
        unseen["pixels"] > 0
        and unseen["dice"] is unseen["roc_auc"] is unseen["dice_mean_over_images"] is None
    )
    dice = [rows[name]["dice"] for name in ("tumor", "stroma")]
    assert table["overall"]["macro_dice"] == pytest.approx(np.mean(dice), abs=1e-4)
    assert table["overall"]["macro_roc_auc"] == pytest.approx(
        np.mean([rows[name]["roc_auc"] for name in ("tumor", "stroma")]), abs=1e-4
    )
    assert everything["overall"]["macro_dice"] == pytest.approx(np.mean([*dice, 0]), abs=1e-4)
    assert table["overall"]["pixel_accuracy"] == everything["overall"]["pixel_accuracy"]
    assert table["overall"]["micro_recall"] > everything["overall"]["micro_recall"]
    low, high = table["overall_intervals"]["macro_dice"]
    assert low <= table["overall"]["macro_dice"] <= high
    assert "lymphocytic_infiltrate" not in table["per_group"][0]["classes"]
    assert "lymphocytic_infiltrate" not in table["per_image"][0]["classes"]
    groups = {row["name"]: row for row in table["class_groups"]["classes"]}
    assert groups["unseen"]["assessed"] is False and groups["unseen"]["dice"] is None
    assert "assessed" not in json.dumps(everything)


def test_reports_of_an_evaluation_say_it() -> None:
    table = evaluated(FOUR.model_copy(update={"assessed": ("tumor", "stroma")}))
    sentence = table["missing"][0]
    assert sentence.startswith("Not assessed by the model, for lack of training data")
    assert "lymphocytic infiltrate, necrosis or debris." in sentence
    share = sum(row["share"] for row in table["classes"][2:])
    assert f"{100 * share:.1f} % of the known pixels" in sentence
    text = describe({"name": "four"}, table)
    line = next(line for line in text.splitlines() if line.strip().startswith("lymphocytic"))
    assert line.endswith(" not assessed")
    metrics = {
        "model": {"name": "four", "version": "1", "mpp": 0.5, "digest": "0", "notice": "",
                  "training_data": ""},
        "data": {}, "results": [table], "started": "now", "seconds": 1, "command": None, "versions": {},
    }  # fmt: skip
    page = render_report(metrics, [])
    assert page.count('<td colspan="8">not assessed</td>') == 2  # the class and the group with pixels
