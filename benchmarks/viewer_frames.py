"""The viewer's frame times in headless Chromium over a slide with very many regions.

    python benchmarks/viewer_frames.py [--regions 100000] [--output FILE]

Makes a slide of 32,768 × 32,768 pixels and results whose GeoJSON holds the regions (outlines of 8 to 40
vertices, evenly spread), then pans by dragging and zooms by the wheel at three scales, and reports the times
between frames as the page's requestAnimationFrame sees them, and how long slide, layers and outlines took
to be whole again after the last move. Reviewing is on: regions are clicked, rejected and undone, each timed
from the mouse or key to the frame that shows it. Needs Chromium and `pip install '.[test]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from playwright.sync_api import Page, sync_playwright

from tests.made.landmarks import darkness_model
from tests.made.slides import SlideSpec, make_slide
from tests.viewer_page import Viewer, launch, server
from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.geometry import Size
from wsi_seg.exporters.geojson import write_geojson
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RegionSettings, RunSettings
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.regions.polygons import Region
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import map_frame

SIDE = 32_768
GROUPS = (ClassGroup("tumor", (1,), (200, 0, 0)), ClassGroup("stroma", (2,), (150, 200, 150)))
# l0 px per screen px at which all in sight is marked as reviewed: some thousand regions.
MARKED = 5.0
# Positions of clicks on the screen, in columns and rows of made regions from the middle.
CLICKS = [(column, row) for row in range(-2, 3) for column in range(-2, 3)]
# Gives the time from the next release of the button, or press of a key, to the end of the frame in which
# `what` holds.
REACT = """(what) => new Promise((resolve, reject) => {
  setTimeout(() => reject(new Error(`never true: ${what}`)), 30000);
  const holds = new Function(`return ${what}`);
  const started = (event) => {
    removeEventListener("pointerup", started, true); removeEventListener("keydown", started, true);
    const step = () => {
      if (holds()) setTimeout(() => resolve(performance.now() - event.timeStamp));
      else requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  };
  addEventListener("pointerup", started, true); addEventListener("keydown", started, true);
})"""
# Collects the times between frames until it is asked for them.
RECORD = """() => {
  const times = []; let last = performance.now(), on = true;
  const step = (now) => { times.push(now - last); last = now; if (on) requestAnimationFrame(step); };
  requestAnimationFrame(step);
  window.frames_ = () => { on = false; return times.slice(2); };
}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--regions", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium here; on Debian: apt install chromium")
    with tempfile.TemporaryDirectory() as scratch:
        count = make_results(Path(scratch), arguments.regions)
        options = ("--allow-review", "--reviews", Path(scratch) / "reviews")
        with server(Path(scratch) / "out", *options) as address, sync_playwright() as playwright:
            browser = launch(playwright, chromium)
            page = browser.new_page(viewport={"width": 1600, "height": 1000})
            viewer = Viewer(page, address)
            result = {"regions": count, **measure(viewer), "review": review(viewer)}
            result["browser"] = browser.version
    result["cpus"], result["machine"] = os.cpu_count(), platform.machine()
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n", encoding="utf-8")


def make_results(scratch: Path, regions: int) -> int:
    """Segment a made slide with a stand-in, put made regions in place of its own, and return their number."""
    slide_path = make_slide(scratch / "many.svs", SlideSpec(Size(SIDE, SIDE), 0.25, tissue=0.8))
    settings = RunSettings(
        tissue="none", plan=PlanSettings(block=2048), regions=RegionSettings(groups=("tumor", "stroma"))
    )
    folder = segment_slide(slide_path, scratch / "out", darkness_model(8.0), settings).folder
    with open_slide(slide_path) as slide:
        frame = map_frame(slide.info, 0.5)
        made = made_regions(regions, SIDE / 2)
        done = write_geojson(
            made, folder / "polygons.geojson", slide=slide.info, frame=frame, compress_large=True
        )
    return done.count


def made_regions(count: int, side: float) -> Iterator[Region]:
    """Yield star-shaped regions on a grid over a map of `side` pixels at 0.5 µm."""
    rng = np.random.default_rng(0)
    columns = int(np.ceil(np.sqrt(count)))
    cell = side / columns
    for number in range(count):
        corners = int(rng.integers(8, 41))
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        radii = cell * rng.uniform(0.15, 0.45) * rng.uniform(0.7, 1.0, corners)
        center = (np.array([number % columns, number // columns]) + 0.5) * cell
        polygon = shapely.Polygon(
            center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        )
        yield Region(polygon, GROUPS[number % 5 == 0], polygon.area / 4, polygon.length / 2, 0.8, {})


def measure(viewer: Viewer) -> dict[str, Any]:
    """Open the slide and measure panning and zooming at three scales."""
    started = time.perf_counter()
    viewer.open(viewer.identity("many"), classes=0.3)
    result: dict[str, Any] = {"seconds_to_first_view": round(time.perf_counter() - started, 2)}
    for scale in (34.0, 8.0, 1.0):
        viewer.open(viewer.identity("many"), at=f"{SIDE / 2},{SIDE / 2},{scale}", classes=0.3)
        shown = viewer.page.evaluate("wsiSegScreen.panes[0].outlines.count")
        result[f"{scale:g} l0 px per screen px"] = {
            "regions_shown": shown,
            "pan_ms": frames(viewer, pan),
            "zoom_ms": frames(viewer, zoom),
        }
        # What slide and class map alone take here.
        viewer.open(viewer.identity("many"), at=f"{SIDE / 2},{SIDE / 2},{scale}", classes=0.3, outlines=0)
        result[f"{scale:g} l0 px per screen px"]["pan_ms_without_outlines"] = frames(viewer, pan)
    return result


def review(viewer: Viewer) -> dict[str, Any]:
    """Select, reject and undo, before and after all that is in sight at once was marked as reviewed."""
    result: dict[str, Any] = {}
    viewer.page.get_by_label("Reviewer").fill("Ada")
    viewer.page.keyboard.press("Enter")
    for scale in (8.0, 1.0):
        result[f"{scale:g} l0 px per screen px"] = reactions(viewer, scale)
    viewer.open(viewer.identity("many"), at=f"{SIDE / 2},{SIDE / 2},{MARKED:g}", classes=0.3)
    viewer.until("!wsiSegScreen.reviewing.busy")
    started = time.perf_counter()
    viewer.page.keyboard.press("g")
    viewer.until("wsiSegScreen.reviewing.review.areas.length === 1 && !wsiSegScreen.reviewing.busy", 120)
    result["seconds_to_mark_all_in_sight"] = round(time.perf_counter() - started, 2)
    result["regions_reviewed"] = viewer.page.evaluate("wsiSegScreen.reviewing.review.progress.reviewed")
    result[f"{MARKED:g} l0 px per screen px, all reviewed"] = reactions(viewer, MARKED) | {
        "pan_ms": frames(viewer, pan)
    }
    return result


def reactions(viewer: Viewer, scale: float) -> dict[str, Any]:
    """Return quantiles of the times from the mouse or key to the frame that shows what it did."""
    times: dict[str, list[float]] = {"select_ms": [], "reject_ms": [], "undo_ms": []}
    viewer.open(viewer.identity("many"), at=f"{SIDE / 2},{SIDE / 2},{scale}", classes=0.3)
    viewer.until("wsiSegScreen.reviewing && !wsiSegScreen.reviewing.busy")
    done = "!wsiSegScreen.reviewing.busy && wsiSegScreen.reviewing"
    cell = SIDE / int(
        np.ceil(np.sqrt(viewer.page.evaluate("wsiSegScreen.reviewing.review.progress.regions")))
    )
    middle = (np.floor(SIDE / 2 / cell) + 0.5) * cell
    for column, row in CLICKS:
        viewer.page.wait_for_timeout(400)  # two clicks in quick succession are a double click
        place = viewer.to_screen(middle + column * cell, middle + row * cell)
        before = viewer.page.evaluate("wsiSegScreen.reviewing.selected?.target.index ?? null")
        times["select_ms"].append(
            reaction(
                viewer.page,
                f"{done}.selected && wsiSegScreen.reviewing.selected.target.index !== {json.dumps(before)}",
                lambda place=place: viewer.page.mouse.click(*place),
            )
        )
        number = len(viewer.page.evaluate("wsiSegScreen.reviewing.review.done"))
        for name, key, expected in (("reject_ms", "x", number + 1), ("undo_ms", "u", number)):
            shown = f"{done}.review.done.length === {expected}"
            times[name].append(reaction(viewer.page, shown, lambda key=key: viewer.page.keyboard.press(key)))
    return {name: quantiles(np.array(values)) for name, values in times.items()}


def reaction(page: Page, shown: str, act: Callable[[], None]) -> float:
    """Return the milliseconds from what `act` does to the frame in which `shown` holds."""
    page.evaluate("(what) => { window.reaction_ = (" + REACT + ")(what); }", shown)
    act()
    return float(page.evaluate("reaction_"))


def quantiles(times: NDArray[np.float64]) -> dict[str, float]:
    return {
        "p50": round(float(np.median(times)), 1),
        "p95": round(float(np.quantile(times, 0.95)), 1),
        "max": round(float(times.max()), 1),
    }


def pan(page: Page) -> None:
    page.mouse.move(900, 600)
    page.mouse.down()
    for step in range(60):
        page.mouse.move(900 - 8 * step, 600 - 3 * step)
        page.wait_for_timeout(16)
    page.mouse.up()


def zoom(page: Page) -> None:
    page.mouse.move(700, 500)
    for delta in [-100] * 4 + [100] * 4:
        page.mouse.wheel(0, delta)
        page.wait_for_timeout(150)


def frames(viewer: Viewer, act: Callable[[Page], None]) -> dict[str, float]:
    """Return quantiles of the times between frames during `act`, and how long the picture lagged."""
    viewer.settle()
    viewer.page.evaluate(RECORD)
    act(viewer.page)
    stopped = time.perf_counter()
    times = np.array(viewer.page.evaluate("frames_()"))
    viewer.settle()
    return {
        **quantiles(times),
        "frames": len(times),
        "whole_after_ms": round(1000 * (time.perf_counter() - stopped)),
    }


if __name__ == "__main__":
    main()
