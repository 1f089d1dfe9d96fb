"""The whole loop in headless Chromium: review, edit, reload, export, retrain, run again, and look at both."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.cli import app
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


@pytest.mark.long
def test_a_reviewed_slide_trains_a_model_whose_map_is_seen_next_to_the_old_one(
    browser: Browser, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "slides").mkdir()
    for seed, name in enumerate(NAMES):
        make_slide(
            tmp_path / "slides" / f"{name}.svs", SlideSpec(Size(1024, 1024), mpp=0.5, tissue=0.6, seed=seed)
        )
    old, new, model = tmp_path / "old", tmp_path / "old-better", tmp_path / "better"
    run = (
        "run",
        tmp_path / "slides",
        "--device",
        "cpu",
        "--precision",
        "float32",
        "--set",
        "min_area_um2=100",
    )
    call(*run, "-o", old, "--model", tiny_model)
    features = json.loads((old / "one" / "polygons.geojson").read_text())["features"]
    assert len(features) > len(VERDICTS)

    with viewer_page.server(old, "--allow-review") as address:
        context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
        with viewer_page.tab(context, address) as viewer:
            viewer.open(viewer.identity("one"))
            viewer.page.get_by_label("Reviewer").wait_for()
            shown = review(viewer, regions=len(features))
            viewer.page.reload()
            viewer.page.get_by_label("Reviewer").wait_for()
            progress(viewer, shown)
            viewer.settle()
        context.close()

    exported = tmp_path / "review.geojson"
    call("review", "export", old / "one", "-o", exported)
    kept = [one["properties"] for one in json.loads(exported.read_text())["features"]]
    verdicts = Counter(one["metadata"]["verdict"] for one in kept)
    assert verdicts["rejected"] == VERDICTS.count("x") and verdicts["accepted"] >= VERDICTS.count("a")
    assert verdicts["redrawn"] == 1 and verdicts["reviewed-area"] == 1
    assert verdicts["relabeled"] == 1
    assert {one["metadata"]["reviewer"] for one in kept} == {"Ada"}

    call("train", "--from", tiny_model, "--reviews", old, "-o", model, "--epochs", 1, "--steps", 2)
    call(*run, "-o", new, "--model", model)

    with viewer_page.server(tmp_path, "--slides", tmp_path / "slides") as address:
        context = browser.new_context(viewport={"width": 1200, "height": 700}, reduced_motion="reduce")
        with viewer_page.tab(context, address) as viewer:
            first, second = (viewer.identity("one", folder) for folder in ("old", "old-better"))
            viewer.open(first, **{"with": second})
            assert viewer.page.evaluate("wsiSegScreen.panes.length") == 2
            assert viewer.view(0) == viewer.view(1)
        context.close()
