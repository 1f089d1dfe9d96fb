"""Runs that are started, watched and stopped in the viewer, in headless Chromium."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.card import read_card
from wsi_seg.core.geometry import Size
from wsi_seg.inference.models.registry import model_hash

pytest.importorskip("playwright", reason="no playwright: pip install 'wsi-seg[test]'")

from playwright.sync_api import Browser, BrowserContext

from tests import viewer_page
from tests.viewer_page import Viewer


@dataclass(frozen=True)
class Runs:
    """Where results go, and the server that may run two slides."""

    out: Path
    address: str
    digest: str
    """Of the installed model."""


@pytest.fixture(scope="module")
def runs(chromium: str, quick_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder, out = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("out")
    models = tmp_path_factory.mktemp("installed")
    shutil.copytree(quick_model, models / "quick")
    read_card(quick_model).model_copy(update={"mpp": 1.0}).write(models / "quick")  # as far.svs has it
    make_slide(folder / "tiny.svs", SlideSpec(Size(700, 600), 0.5, tissue=1.0))
    made_far_apart(folder / "far.svs")
    Image.new("RGB", (64, 64), "white").save(folder / "plain.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WSI_SEG_MODELS", str(models))
        with viewer_page.server(out, "--allow-run", folder) as address:
            yield Runs(out, address, model_hash(models / "quick"))


def made_far_apart(path: Path) -> None:
    """Make a long slide, of many more tiles that hold tissue than a test waits for."""
    drawing = Image.new("RGB", (2048, 2048), (245, 245, 245))
    ImageDraw.Draw(drawing).rectangle((200, 100, 800, 500), fill=(180, 90, 150))
    texture = path.with_suffix(".png")
    drawing.save(texture)
    make_slide(path, SlideSpec(Size(32 * 2048, 600), 1.0, tissue=1.0, texture=texture))
    texture.unlink()


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1100, "height": 760}, reduced_motion="reduce")
    context.new_page()  # keeps the window, whose own parts Chromium makes again for the first tab of each
    yield context
    context.close()


@pytest.fixture
def viewer(context: BrowserContext, runs: Runs) -> Iterator[Viewer]:
    with viewer_page.tab(context, runs.address) as viewer:
        yield viewer


def test_a_run_is_started_watched_and_looked_at(viewer: Viewer, runs: Runs) -> None:
    page = viewer.page
    page.goto(viewer.address)
    page.get_by_role("button", name="Segment a slide").click()
    assert page.get_by_label("Slide").inner_text().split() == ["far.svs", "plain.png", "tiny.svs"]
    assert "quick" in page.get_by_label("Model").inner_text().split()
    assert "not for clinical use" in page.get_by_role("dialog").inner_text()
    page.get_by_label("Slide").select_option("tiny.svs")
    page.get_by_label("Model").select_option("quick")
    page.get_by_role("checkbox", name="Other").check()
    page.get_by_label("Preset").select_option("quick look")
    assert "--overlap 0 Overlap of neighboring tiles" in page.get_by_role("dialog").inner_text()
    page.wait_for_selector("input[placeholder^='0.5, as the slide says']")
    page.get_by_label("µm/px").fill("0.4")
    page.get_by_role("button", name="Start").click()
    page.get_by_role("link", name="Look at it").click(timeout=60_000)
    viewer.settle()
    assert page.inner_text("h1") == "tiny"
    manifest = json.loads((runs.out / "tiny" / "manifest.json").read_text())
    assert manifest["settings"]["regions"]["groups"] == ["tumor", "other"]
    assert manifest["model"]["digest"] == runs.digest  # and not that of the bundled one
    assert manifest["settings"]["plan"]["overlap"] == 0
    assert manifest["slide"]["mpp"] == {"x": 0.4, "y": 0.4}  # and not the slide's 0.5
    page.get_by_role("link", name="All slides").click()
    page.get_by_role("button", name="Segment a slide").click()
    page.get_by_label("Slide").select_option("tiny.svs")
    page.get_by_text("There are results of this slide (tiny ").wait_for()
    page.get_by_label("Model").select_option("quick")
    page.get_by_role("button", name="Start").click()  # other settings, and nothing says to replace them
    refused = page.locator(".run [role=status]", has_text="--overwrite")
    refused.wait_for(timeout=60_000)
    assert refused.inner_text().startswith(str(runs.out / "tiny"))
    assert json.loads((runs.out / "tiny" / "manifest.json").read_text()) == manifest
    page.get_by_label("Replace the results").check()
    page.get_by_role("button", name="Start").click()
    page.get_by_role("link", name="Look at it").wait_for(timeout=60_000)
    new = json.loads((runs.out / "tiny" / "manifest.json").read_text())
    assert new["settings"]["plan"]["overlap"] != 0 and new["slide"]["mpp"] == {"x": 0.5, "y": 0.5}
    page.get_by_label("Slide").select_option("plain.png")
    page.get_by_text("The slide does not say it: type the microns per pixel").wait_for()
    assert not page.get_by_label("Replace the results").is_visible()


def test_a_run_is_watched_stopped_and_goes_on(viewer: Viewer, runs: Runs) -> None:
    page, out = viewer.page, runs.out

    def blocks() -> list[str]:
        return (out / ".far.partial" / "blocks.jsonl").read_text().splitlines()

    def start() -> None:
        page.get_by_label("Slide").select_option("far.svs")
        page.get_by_label("Model").select_option("quick")
        page.get_by_role("button", name="Start").click()

    page.goto(viewer.address)
    page.get_by_role("button", name="Segment a slide").click()
    start()
    page.get_by_role("link", name="Watch").click(timeout=60_000)
    text = "document.querySelector('.panel .progress').textContent"
    viewer.until(f"window.wsiSegScreen && /^running: [1-9][0-9]* of [0-9]+ blocks/.test({text})", 60)
    total = int(re.search(r"of (\d+) blocks", page.evaluate(text))[1])
    pictures = []
    for percent in ("0", "100"):
        page.get_by_label("Class map opacity").fill(percent)
        viewer.settle()
        pictures.append(viewer.picture())
    assert np.abs(pictures[0] - pictures[1]).max() > 50
    page.get_by_role("link", name="All slides").click()
    page.get_by_role("button", name="Segment a slide").click()
    assert page.get_by_role("button", name="Start").is_disabled()
    page.get_by_role("button", name="Stop").click()
    ended = page.locator(".run [role=status]", has_text="run the same command again to resume")
    ended.wait_for(timeout=30_000)
    kept = blocks()
    assert 1 <= len(kept) < total and not (out / ".far.claim").exists()
    page.locator("a.slide", has_text=f"interrupted: {len(kept)} of {total} blocks").wait_for()
    start()
    resumed = re.compile(r"^[1-9]\d* of \d+ tiles")  # those of the blocks that were kept count
    page.locator(".run [role=status]", has_text=resumed).wait_for(timeout=60_000)
    while len(blocks()) == len(kept):
        page.wait_for_timeout(100)
    page.get_by_role("button", name="Stop").click()
    ended.wait_for(timeout=30_000)
    assert blocks()[: len(kept)] == kept and len(kept) < len(blocks()) < total
