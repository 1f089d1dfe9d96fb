"""The whole loop in headless Chromium: review, edit, reload, export, retrain, run again, and look at both."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.cli import app
from wsi_seg.core.card import read_card
from wsi_seg.core.geometry import Size

pytest.importorskip("playwright", reason="no playwright: pip install 'wsi-seg[test]'")

from playwright.sync_api import Browser

from tests import viewer_page
from tests.viewer_page import Viewer

NAMES = ("one", "two")
# Keys of the verdicts of ten regions.
VERDICTS = "aaxa2axa1x"


def call(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def progress(viewer: Viewer, text: str) -> None:
    begin = f"document.querySelector('.review [role=status]').textContent.startsWith({json.dumps(text)})"
    viewer.until(begin)


def review(viewer: Viewer, *, regions: int) -> str:
    """Give ten verdicts by keys, change an outline with the brush, and mark all in sight as looked at.

    Returns the progress that the page shows then: what is in sight without a verdict counts, too.
    """
    page, keys = viewer.page, viewer.page.keyboard
    page.get_by_label("Reviewer").fill("Ada")
    page.get_by_label("Reviewer").press("Enter")
    for done, key in enumerate(VERDICTS, 1):
        keys.press("n")
        viewer.settle()
        keys.press(key)
        progress(viewer, f"{done} of {regions} reviewed")
    keys.press("n")
    viewer.settle()
    keys.press("b")
    box = page.locator(".stage").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 350, y, steps=8)  # out of the region, which fills less of the view
    page.mouse.up()
    keys.press("Enter")
    progress(viewer, f"{len(VERDICTS) + 1} of {regions} reviewed")
    viewer.until("!wsiSegScreen.reviewing.drawing && !wsiSegScreen.reviewing.busy")
    keys.press("g")
    viewer.until("wsiSegScreen.reviewing.review.areas.length === 1")
    viewer.settle()
    return str(page.evaluate("document.querySelector('.review [role=status]').textContent"))


def retrain(viewer: Viewer) -> None:
    """Retrain by the button on the slide screen, run the new model by the next one; wait for both maps."""
    page = viewer.page
    page.get_by_role("button", name="Retrain …").click()
    dialog = page.get_by_role("dialog", name="Retrain")
    assert dialog.get_by_label("Old model").input_value() == "tiny"  # which made these results
    assert "1 reviewed slide in this folder" in dialog.inner_text()
    dialog.get_by_label("Steps, at most").fill("2")
    dialog.get_by_label("New model").fill("better")
    dialog.get_by_role("button", name="Start").click()
    dialog.get_by_text("step 1 of 2").or_(dialog.get_by_text("step 2 of 2")).wait_for(timeout=60_000)
    dialog.get_by_text("Whether the new model is better cannot be told.").wait_for(timeout=60_000)
    dialog.get_by_role("button", name="Run the new model on these slides").click()
    viewer.until("window.wsiSegScreen && wsiSegScreen.panes.length === 2", 60)
    viewer.settle()


@pytest.mark.long
def test_a_reviewed_slide_trains_a_model_whose_map_is_seen_next_to_the_old_one(
    browser: Browser, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSI_SEG_MODELS", str(tmp_path / "installed"))
    shutil.copytree(tiny_model, tmp_path / "installed" / "tiny")
    slides, out = tmp_path / "slides", tmp_path / "results"
    slides.mkdir()
    for seed, name in enumerate(NAMES):
        make_slide(slides / f"{name}.svs", SlideSpec(Size(1024, 1024), mpp=0.5, tissue=0.6, seed=seed))
    call("run", slides, "-o", out, "--model", "tiny", "--device", "cpu", "--set", "min_area_um2=100")
    features = json.loads((out / "one" / "polygons.geojson").read_text())["features"]
    assert len(features) > len(VERDICTS)

    with viewer_page.server(out, "--allow-review", "--allow-run", slides) as address:
        context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
        with viewer_page.tab(context, address) as viewer:
            viewer.open(viewer.identity("one"))
            viewer.page.get_by_label("Reviewer").wait_for()
            shown = review(viewer, regions=len(features))
            viewer.page.reload()
            viewer.page.get_by_label("Reviewer").wait_for()
            progress(viewer, shown)
            viewer.settle()
            retrain(viewer)
            assert viewer.view(0) == viewer.view(1)
            names = [one.inner_text() for one in viewer.page.locator(".panename").all()]
            assert names == ["one", "better / one"]
        context.close()

    exported = tmp_path / "review.geojson"
    call("review", "export", out / "one", "-o", exported)
    kept = [one["properties"] for one in json.loads(exported.read_text())["features"]]
    verdicts = Counter(one["metadata"]["verdict"] for one in kept)
    assert verdicts["rejected"] == VERDICTS.count("x") and verdicts["accepted"] >= VERDICTS.count("a")
    assert verdicts["redrawn"] == 1 and verdicts["reviewed-area"] == 1
    assert verdicts["relabeled"] == 1
    assert {one["metadata"]["reviewer"] for one in kept} == {"Ada"}

    # The new model is next to the results, and its map was made as the old one.
    card = read_card(tmp_path / "results-models" / "better")
    assert card.metrics["comparison"]["verdict"] == "cannot be told"
    old, new = (
        json.loads((out / place / "manifest.json").read_text())["settings"] for place in ("one", "better/one")
    )
    assert new["regions"] == old["regions"] and new["regions"]["trace"]["min_area_um2"] == 100
    assert not (out / "better" / "two").exists()  # nobody reviewed it
