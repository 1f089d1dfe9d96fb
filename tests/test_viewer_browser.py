"""The viewer as a user has it: a real server and headless Chromium over made slides with known landmarks."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray
from PIL import Image
from scipy.signal import fftconvolve

from tests.made.landmarks import RECTANGLES, SIZE, darkness_model, exact_settings, landmark_slide
from wsi_seg.core.geometry import Box
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.regions.polygons import trace
from wsi_seg.slides.readers import open_slide
from wsi_seg.viewer.palette import scale_table

pytest.importorskip("playwright", reason="no playwright: pip install 'wsi-seg[test]'")

from playwright.sync_api import Browser, BrowserContext, Page

from tests import viewer_page
from tests.viewer_page import Viewer, assert_drawn, edges, features

BOUNDS = Box(512, 256, 512 + SIZE.width, 256 + SIZE.height)
HOSTILE = "<img src=x onerror=window.hacked=1>"


@dataclass(frozen=True)
class Results:
    """Where the results of the made slides are, and the server over them."""

    out: Path
    address: str


@pytest.fixture(scope="module")
def results(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    folder, out = tmp_path_factory.mktemp("slides"), tmp_path_factory.mktemp("out")
    made = landmark_slide(folder / "made.svs")
    bounds = landmark_slide(folder / "bounds.scn", bounds=BOUNDS)
    model = darkness_model()
    segment_slide(made, out / "first", model, exact_settings())
    segment_slide(made, out / "second", model, exact_settings(0.3, ("tumor", "stroma")))
    segment_slide(bounds, out, model, exact_settings())
    shutil.copytree(out / "bounds", out / HOSTILE)
    with viewer_page.server(out) as address:
        yield Results(out, address)


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One for all, so that the page and its tiles come from the browser's cache."""
    context = browser.new_context(
        viewport={"width": 1100, "height": 760}, accept_downloads=True, reduced_motion="reduce"
    )
    context.new_page()  # keeps the window, whose own parts Chromium makes again for the first tab of each
    yield context
    context.close()


@pytest.fixture
def viewer(context: BrowserContext, results: Results) -> Iterator[Viewer]:
    with viewer_page.tab(context, results.address) as viewer:
        yield viewer


# Screen pixels for each pixel of a tile.
TILE_ZOOM = "({ tile }) => tile.size.x / tile.sourceBounds.width"


def stored(results: Results, folder: str) -> list[tuple[dict[str, Any], Any]]:
    path = results.out / folder
    offset = json.loads((path / "manifest.json").read_text())["origin_subtracted_l0"]
    return features(path / "polygons.geojson", offset)


def test_the_list_shows_slides_with_thumbnails_and_areas(viewer: Viewer, results: Results) -> None:
    page = viewer.page
    page.goto(viewer.address)
    cards = page.locator("a.slide")
    cards.first.wait_for()
    assert cards.count() >= 4
    summary = json.loads((results.out / "first" / "made" / "summary.json").read_text())
    card = cards.filter(has_text="first")
    assert f"{summary['group_area_mm2']['tumor']:.2f} mm²" in card.inner_text()
    assert card.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 50
    assert page.evaluate("window.hacked") is None
    assert HOSTILE in page.inner_text(".slides")
    card.click()
    viewer.settle()
    assert page.inner_text("h1") == "made"


@pytest.mark.parametrize("name", ["first/made", "bounds"])
def test_slide_class_map_and_outlines_lie_on_the_landmarks(
    viewer: Viewer, results: Results, name: str
) -> None:
    origin = np.array([BOUNDS.x0, BOUNDS.y0] * 2) if name == "bounds" else np.zeros(4)
    shapes = [shape for _, shape in stored(results, name)]
    identity = viewer.identity(name.rpartition("/")[2])
    for scale, chosen in ((2.37, RECTANGLES), (1.0, RECTANGLES[4:5]), (0.5, RECTANGLES[:1])):
        x0, y0, x1, y1 = np.mean(chosen, axis=0) + origin
        viewer.open(identity, at=f"{(x0 + x1) / 2:.2f},{(y0 + y1) / 2:.2f},{scale}", classes=0)
        view = viewer.view()
        assert_drawn(viewer.outlines(), shapes, view)
        viewer.page.keyboard.press("o")
        viewer.settle()
        slide = viewer.picture()
        viewer.page.get_by_label("Class map opacity").fill("100")
        viewer.settle()
        classes = viewer.picture()
        for rectangle in chosen:
            place = (rectangle + origin - [view["x"], view["y"]] * 2) / view["scale"]
            np.testing.assert_allclose(edges(slide, place), place, atol=1, err_msg="slide")
            np.testing.assert_allclose(edges(classes, place), place, atol=1, err_msg="class map")
            np.testing.assert_allclose(edges(slide, place), edges(classes, place), atol=1)


def test_a_dicom_series_and_its_outlines_are_in_place(
    viewer: Viewer, results: Results, data_dir: Path
) -> None:
    series = data_dir / "slides" / "CMU-1-Small-Region-dicom"
    settings = RunSettings(tissue="none", plan=PlanSettings(block=4096))
    result = segment_slide(series, results.out, darkness_model(2.0, tile=1024), settings)
    shapes = [shape for _, shape in features(result.folder / "polygons.geojson")]
    with open_slide(series) as slide:
        size = slide.info.size
        whole = Image.fromarray(slide.read_level(0, Box(0, 0, size.width, size.height)))
    maps = Maps.open(result.folder / "maps.zarr")
    palette = np.zeros((256, 3), np.uint8)
    for one in maps.classes:
        palette[one.code] = one.color
    classes = Image.fromarray(palette[np.asarray(maps.labels[:])])
    identity = viewer.identity(series.name)
    l0_per_map = viewer.get(f"slides/{identity}")["map"]["l0_per_map"]
    for scale in (3.3, 0.5):
        viewer.open(identity, at=f"1200,900,{scale}", classes=0)
        view = viewer.view()
        assert_drawn(viewer.outlines(), shapes, view)
        viewer.page.keyboard.press("o")
        viewer.settle()
        picture = viewer.picture()[200:-200, 200:-200]
        x, y = view["x"] + 200 * scale, view["y"] + 200 * scale
        box = (x, y, x + picture.shape[1] * scale, y + picture.shape[0] * scale)
        expected = whole.resize(picture.shape[1::-1], Image.Resampling.BILINEAR, box=box)
        assert np.abs(shift(picture, np.asarray(expected, np.float64))).max() <= 1
        viewer.page.get_by_label("Class map opacity").fill("100")
        viewer.settle()
        picture = viewer.picture()[200:-200, 200:-200]
        box_map = np.array(box) / (l0_per_map * 2)
        expected = classes.resize(picture.shape[1::-1], Image.Resampling.NEAREST, box=tuple(box_map))
        assert np.abs(shift(picture, np.asarray(expected, np.float64))).max() <= 1


def shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return by how many pixels, y and x, `a` is shifted against `b`: the place of their best correlation."""
    a, b = (image.mean(axis=2) - image.mean() for image in (a, b))
    match = fftconvolve(a, b[::-1, ::-1], mode="same")
    return np.array(np.unravel_index(match.argmax(), match.shape)) - np.array(match.shape) // 2


def test_pan_zoom_keyboard_and_the_address(viewer: Viewer) -> None:
    page = viewer.page
    viewer.open(viewer.identity("made", "first"))
    home = viewer.view()
    assert home["x"] <= 0 and home["x"] + home["width"] * home["scale"] >= SIZE.width
    page.mouse.move(400, 400)
    page.mouse.down()
    page.mouse.move(300, 350, steps=4)
    page.wait_for_timeout(200)  # a quick release would be a throw
    page.mouse.move(300, 351)
    page.mouse.up()
    viewer.settle()
    dragged = viewer.view()
    assert (dragged["x"] - home["x"]) / home["scale"] == pytest.approx(100, abs=2)
    assert (dragged["y"] - home["y"]) / home["scale"] == pytest.approx(49, abs=2)
    page.mouse.wheel(0, -300)
    viewer.until(f"wsiSegScreen.panes[0].view().scale < {0.9 * dragged['scale']}")
    viewer.settle()
    zoomed = viewer.view()
    for view in (dragged, zoomed):  # what is under the pointer stays there
        at = view["x"] + 300 * view["scale"], view["y"] + 351 * view["scale"]
        assert at == pytest.approx(
            (dragged["x"] + 300 * dragged["scale"], dragged["y"] + 351 * dragged["scale"]),
            abs=2 * dragged["scale"],
        )
    for key, axis, sign in (("ArrowRight", "x", 1), ("ArrowUp", "y", -1)):
        before = viewer.view()[axis]
        page.keyboard.press(key)
        viewer.settle()
        assert sign * (viewer.view()[axis] - before) > 10
    page.keyboard.press("+")
    viewer.settle()
    assert viewer.view()["scale"] < zoomed["scale"]
    page.keyboard.press("l")
    page.get_by_label("Stroma").first.uncheck()
    viewer.until("location.hash.includes('off=')")
    before = viewer.view()
    page.reload()
    viewer.settle()
    assert viewer.view() == pytest.approx(before, abs=0.01)
    assert page.get_by_label("Class map opacity").input_value() == "0"
    assert not page.get_by_label("Stroma").first.is_checked()
    page.keyboard.press("0")
    viewer.settle()
    assert viewer.view() == pytest.approx(home, abs=1)
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()


def test_hover_says_what_the_geojson_says_and_a_click_zooms(viewer: Viewer, results: Results) -> None:
    page = viewer.page
    viewer.open(viewer.identity("bounds"))
    plain = viewer.outlines()
    for properties, shape in stored(results, "bounds")[:4]:
        x, y = shape.representative_point().coords[0]
        page.mouse.move(*viewer.to_screen(x, y))
        card = page.locator(".card")
        area = properties["measurements"]["Area µm^2"]
        text = f"{float(f'{area:.3g}'):g} µm²"
        viewer.until(f"document.querySelector('.card').innerText.includes('{text}')")
        lines = card.inner_text().splitlines()
        assert lines[0] == properties["classification"]["name"]
        assert lines[2] == f"mean probability {100 * properties['measurements']['Mean probability']:.0f} %"
    viewer.settle()
    assert viewer.outlines().sum() > 1.05 * plain.sum()  # drawn heavily, the last alone
    page.mouse.move(5, 400)
    viewer.until("document.querySelector('.card').hidden")
    viewer.settle()
    np.testing.assert_array_equal(viewer.outlines(), plain)
    before = viewer.view()["scale"]
    page.mouse.click(*viewer.to_screen(x, y))
    viewer.until(f"wsiSegScreen.panes[0].view().scale < {0.9 * before}")
    viewer.settle()
    view, (x0, y0, x1, y1) = viewer.view(), shape.bounds
    assert view["x"] < x0 and x1 < view["x"] + view["width"] * view["scale"] < x1 + 2000
    assert view["y"] < y0 and y1 < view["y"] + view["height"] * view["scale"] < y1 + 2000
    assert max((x1 - x0) / view["width"], (y1 - y0) / view["height"]) / view["scale"] > 0.4
    page.mouse.move(5, 400)
    viewer.until("document.querySelector('.card').hidden")
    page.evaluate("wsiSegScreen.panes[0].moveToBox([100, 100, 102, 102])")  # of a speck
    viewer.settle()
    power = page.get_by_role("status", name="Magnification", exact=True)
    assert power.inner_text() == "40×"


def test_a_turned_slide_has_everything_in_its_place(viewer: Viewer, results: Results) -> None:
    page = viewer.page
    viewer.open(viewer.identity("made", "first"), classes=0)
    (properties, shape), *_ = found = stored(results, "first/made")
    inside = shape.representative_point().coords[0]
    for turn in (90, 180):
        page.keyboard.press("r")
        viewer.settle()
        view = viewer.view()
        assert view["turn"] == turn
        # Turned back, it is the slide in its own frame.
        assert_drawn(np.rot90(viewer.outlines(), turn // 90), [one for _, one in found], view)
        page.keyboard.press("o")
        viewer.settle()
        found_hidden = f"wsiSegScreen.panes[0].outlines.find({', '.join(map(str, inside))})"
        assert page.evaluate(found_hidden) is None
        slide = np.rot90(viewer.picture(), turn // 90)
        for rectangle in RECTANGLES:
            place = (np.array(rectangle) - [view["x"], view["y"]] * 2) / view["scale"]
            np.testing.assert_allclose(edges(slide, place), place, atol=1)
        page.keyboard.press("o")
        viewer.settle()
        x, y = inside
        page.mouse.move(*viewer.to_screen(x, y))
        text = f"{float(format(properties['measurements']['Area µm^2'], '.3g')):g} µm²"
        viewer.until(f"document.querySelector('.card').innerText.includes('{text}')")
        assert page.locator(".where").inner_text().startswith(f"x {int(x)}")
    page.keyboard.press("R")
    viewer.until("location.hash.includes('turn=90')")
    page.reload()
    viewer.settle()
    before = viewer.view()
    assert before["turn"] == 90
    page.keyboard.press("ArrowRight")  # on the screen: up along the slide
    viewer.settle()
    assert viewer.view()["y"] < before["y"] - 10 and viewer.view()["x"] == pytest.approx(before["x"], abs=1)
    page.keyboard.press("z")
    viewer.until("!location.hash.includes('turn=')")
    page.get_by_role("button", name="Magnification 20×").click()
    viewer.settle()
    assert viewer.view()["scale"] == pytest.approx(2) and viewer.view()["turn"] == 0
    drawn = f"wsiSegScreen.panes[0].viewer.world.getItemAt(0).getTilesToDraw().map({TILE_ZOOM})"
    assert set(page.evaluate(drawn)) == {1.0}  # pixel by pixel
    page.keyboard.press(".")
    viewer.settle()
    assert viewer.view()["scale"] == pytest.approx(1)
    assert page.locator("output.power").inner_text() == "40×"
    page.keyboard.press("h")
    viewer.until("getComputedStyle(document.querySelector('.navigator')).display === 'none'")


def test_ruler_and_area_by_mouse_and_by_keys(viewer: Viewer) -> None:
    page, keys = viewer.page, viewer.page.keyboard
    viewer.open(viewer.identity("made", "first"), at="1024,800,2", turn=270)
    keys.press("q")
    page.mouse.move(*viewer.to_screen(900, 600))
    page.mouse.down()
    page.mouse.move(*viewer.to_screen(1300, 900), steps=3)
    page.mouse.up()
    page.locator("#message", has_text="Length 125 µm").wait_for()  # 500 px of 0.25 µm
    keys.press("Q")
    for corner in ((900, 600), (1300, 600), (1300, 900)):
        page.mouse.click(*viewer.to_screen(*corner))
    keys.press("Enter")
    page.locator("#message", has_text="Area 3750 µm², outline 300 µm").wait_for()
    keys.press("q")
    keys.press("Space")
    page.evaluate("wsiSegScreen.panes[0].moveTo([1104, 800, 2], true)")
    keys.press("Space")
    page.locator("#message", has_text="Length 20 µm").wait_for()
    assert page.evaluate("wsiSegScreen.measure.done.length") == 3
    keys.press("Space")
    keys.press("Escape")  # what is drawn, then the tool
    assert page.evaluate("[wsiSegScreen.measure.tool, wsiSegScreen.measure.draft.length]") == ["ruler", 0]
    keys.press("Escape")
    assert page.evaluate("wsiSegScreen.measure.tool") is None
    assert page.get_by_role("button", name="Ruler").get_attribute("aria-pressed") == "false"
    page.get_by_role("button", name="Remove all measurements").click()
    assert page.evaluate("wsiSegScreen.measure.done.length") == 0


def test_the_slide_alone_can_be_brighter_or_gray(viewer: Viewer) -> None:
    viewer.open(viewer.identity("made", "first"), classes=0, outlines=0)
    scanned = viewer.picture()
    viewer.page.get_by_label("Gray", exact=True).check()
    viewer.page.get_by_label("Brightness of the slide").fill("60")
    viewer.settle()
    changed = viewer.picture()
    inside = np.s_[300:400, 300:500]
    assert np.ptp(scanned[inside], axis=2).min() > 20 and np.ptp(changed[inside], axis=2).max() <= 2
    gray = scanned[inside] @ [0.2126, 0.7152, 0.0722]
    np.testing.assert_allclose(changed[inside][..., 0], 0.6 * gray, atol=4)
    viewer.page.get_by_label("Class map opacity").fill("100")
    viewer.settle()
    assert np.ptp(viewer.picture()[inside], axis=2).min() > 40  # layers keep their colors
    viewer.until("location.hash.includes('gray=1') && location.hash.includes('brightness=60')")
    viewer.page.get_by_role("button", name="As scanned").click()
    viewer.page.get_by_label("Class map opacity").fill("0")
    viewer.settle()
    np.testing.assert_array_equal(viewer.picture(), scanned)


def test_classes_can_be_hidden(viewer: Viewer) -> None:
    page = viewer.page
    viewer.open(viewer.identity("made", "first"), classes=1)
    x0, y0, x1, y1 = RECTANGLES[0]
    view = viewer.view()
    column, row = (
        round((middle - view[axis]) / view["scale"])
        for middle, axis in (((x0 + x1) / 2, "x"), ((y0 + y1) / 2, "y"))
    )
    np.testing.assert_allclose(viewer.picture()[row, column], [200, 0, 0], atol=3)
    assert viewer.outlines().any()
    page.get_by_label("Tumor").first.uncheck()
    viewer.settle()
    viewer.until("wsiSegScreen.panes[0].outlines.count === 0")
    np.testing.assert_allclose(viewer.picture()[row, column], [84, 40, 92], atol=12)
    assert not viewer.outlines().any()
    viewer.until("location.hash.includes('off=1')")
    page.get_by_label("Color-blind-safe colors").check()
    page.get_by_label("Tumor").first.check()
    viewer.settle()
    safe = viewer.get(f"slides/{viewer.identity('made', 'first')}")["groups"][0]["safe_color"]
    expected = [int(safe[i : i + 2], 16) for i in (1, 3, 5)]
    np.testing.assert_allclose(viewer.picture()[row, column], expected, atol=3)
    page.get_by_label("Color-blind-safe colors").uncheck()
    only = page.get_by_role("button", name="Only Tumor").first
    only.focus()
    page.keyboard.press("Enter")
    viewer.until("location.hash.includes('off=')")
    viewer.settle()
    off = page.evaluate("new URLSearchParams(location.hash.slice(1)).get('off')").split(",")
    assert off and "1" not in off
    np.testing.assert_allclose(viewer.picture()[row, column], [200, 0, 0], atol=3)
    page.keyboard.press("Enter")
    viewer.until("!location.hash.includes('off=')")
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Report and settings").click()
    opened.value.wait_for_load_state()
    assert "made" in opened.value.title()
    opened.value.close()


def test_the_threshold_moves_outlines(viewer: Viewer, results: Results) -> None:
    viewer.open(viewer.identity("made", "first"), classes=0, at="1024,900,1.3")
    viewer.page.get_by_label("Probability threshold of outlines").fill("0.3")
    viewer.settle()
    viewer.until("wsiSegScreen.panes[0].outlines.content.sources.length === 2")
    viewer.settle()
    maps = Maps.open(results.out / "first" / "made" / "maps.zarr")
    settings = exact_settings(0.3).regions
    regions = trace(maps, settings.resolve(darkness_model().facts.card), settings.trace)
    shapes = [shapely.affinity.scale(r.polygon, 2, 2, origin=(0, 0)) for r in regions]
    assert_drawn(viewer.outlines(), shapes, viewer.view())
    with viewer.page.expect_download() as download:
        viewer.page.get_by_role("link", name="GeoJSON Tumor ≥ 0.30").click()
    saved = [shape for _, shape in features(Path(download.value.path()))]
    assert [shape.area for shape in saved] == pytest.approx([shape.area for shape in shapes], rel=1e-3)
    assert viewer.page.get_by_role("link", name="GeoJSON as run").is_visible()
    viewer.until("location.hash.includes('threshold=0.3')")
    viewer.page.get_by_role("button", name="As the run traced them").click()
    viewer.settle()
    assert_drawn(viewer.outlines(), [shape for _, shape in stored(results, "first/made")], viewer.view())


def test_results_that_are_replaced_are_shown_anew(viewer: Viewer, results: Results) -> None:
    first, other = results.out / "first" / "made", results.out / "second" / "made"
    asked: list[str] = []
    viewer.page.on("request", lambda request: asked.append(request.url.removeprefix(viewer.address)))
    viewer.open(viewer.identity("made", "first"))
    assert not [url for url in asked if url.startswith("api/slides?")]  # the list is not fetched for a slide
    label = viewer.page.locator(".panel label", has_text="Regions (")
    before = label.text_content()
    moved = results.out / ".moved"
    first.rename(moved)
    shutil.copytree(other, first)
    (first / "manifest.json").touch()
    viewer.page.evaluate("void wsiSegScreen.look()")
    viewer.page.locator("#message", has_text="The results of made were replaced").wait_for()
    viewer.settle()
    assert label.text_content() != before
    shutil.rmtree(first)
    moved.rename(first)
    (first / "manifest.json").touch()  # as it was, for the other tests
    viewer.problems.clear()  # what was asked for just before was refused


def test_a_long_list_has_pages(viewer: Viewer) -> None:
    rows = [
        {"id": f"{i}", "name": f"slide {i}", "folder": "", "status": "damaged", "error": "x", "areas": []}
        for i in range(130)
    ]

    def answer(route: Any) -> None:
        query = parse_qs(urlsplit(route.request.url).query)
        found = [row for row in rows if query.get("find", [""])[0] in str(row["name"])]
        start, limit = (int(query.get(name, ["0"])[0]) for name in ("offset", "limit"))
        page = found[start : start + limit]
        route.fulfill(json=page, headers={"X-Total-Count": str(len(found))})

    page = viewer.page
    page.route("**/api/slides?*", answer)
    page.goto(viewer.address)
    names = page.locator(".slide strong")
    page.get_by_text("1–60 of 130").wait_for()
    assert names.all_text_contents() == [f"slide {i}" for i in range(60)]
    assert page.get_by_role("button", name="Previous results").is_disabled()
    page.get_by_role("button", name="Next results").click()
    page.get_by_role("button", name="Next results").click()
    page.get_by_text("121–130 of 130").wait_for()
    assert page.get_by_role("button", name="Next results").is_disabled() and names.count() == 10
    page.reload()
    page.get_by_text("121–130 of 130").wait_for()
    page.get_by_label("Find results").fill("slide 12")
    page.get_by_text("1–11 of 11").wait_for()
    assert names.count() == 11 and page.evaluate("location.hash") == "#find=slide+12"
    page.unroute("**/api/slides?*")
    page.evaluate(viewer_page.GO, "#")
    viewer.until("document.querySelector('[type=search]').value === ''")
    page.get_by_label("Order", exact=True).select_option("-regions")
    page.get_by_label("Status", exact=True).select_option("done")
    page.get_by_label("Segmented by").focus()
    page.locator("option", has_text="darkness 1").wait_for(state="attached")
    page.get_by_label("Segmented by").select_option("darkness 1")
    page.get_by_label("To", exact=True).fill("2020-01-01")
    page.get_by_text("No result fits").wait_for()
    page.get_by_label("To", exact=True).fill("")
    page.get_by_label("Regions, at least").fill("2")
    viewer.until("location.hash.includes('regions=2')")
    viewer.until(
        """(() => {
          const count = (one) => Number(/ · (\\d+) region/.exec(one.innerText)?.[1]);
          const counts = [...document.querySelectorAll("a.slide")].map(count);
          return counts.length > 1 && counts.every((n, i) => n >= 2 && !(n > counts[i - 1]));
        })()"""
    )
    shown = page.locator("a.slide")
    ids = shown.evaluate_all("(all) => all.map((a) => new URLSearchParams(a.hash.slice(1)).get('slide'))")
    shown.first.click()
    viewer.settle()
    page.keyboard.press("PageDown")
    viewer.until(f"window.wsiSegScreen?.slide.id === '{ids[1]}'")
    viewer.settle()
    page.get_by_role("button", name="Previous slide").click()
    viewer.until(f"window.wsiSegScreen?.slide.id === '{ids[0]}'")
    viewer.settle()
    page.keyboard.press("PageUp")
    page.get_by_text("This is the first slide of the list.").wait_for()
    page.get_by_role("link", name="All slides").click()
    page.get_by_label("Regions, at least").wait_for()
    assert page.get_by_label("Regions, at least").input_value() == "2"


def test_two_runs_move_together(viewer: Viewer) -> None:
    page = viewer.page
    viewer.open(viewer.identity("made", "first"))
    page.get_by_label("Compare with").select_option(label="second / made")
    viewer.until("window.wsiSegScreen.panes.length === 2")
    viewer.settle()
    home = viewer.view()
    page.mouse.move(560, 400)
    page.mouse.wheel(0, -400)
    viewer.until(f"wsiSegScreen.panes[0].view().scale < {0.9 * home['scale']}")
    viewer.settle()
    assert viewer.view(0) == pytest.approx(viewer.view(1), abs=0.05)
    assert page.locator(".pane").first.locator(".cross").is_visible()
    page.keyboard.press("r")  # both are turned
    viewer.settle()
    assert viewer.view(0)["turn"] == viewer.view(1)["turn"] == 90
    assert viewer.view(0) == pytest.approx(viewer.view(1), abs=0.05)
    viewer.until("location.hash.includes('with=') && location.hash.includes('at=')")
    address = page.evaluate("location.href")
    page.goto(address.replace(viewer.identity("made", "second"), viewer.identity("bounds")))
    page.locator("#app").get_by_role("alert").wait_for()
    viewer.problems.clear()  # the refusal of another slide is one


# The user edits the address just before ..., of which the page hears only afterwards.
EDITS = {
    "the view is remembered": "(to) => { location.hash = to; wsiSegScreen.save(); }",
    "a run is known to have ended": """(to) => {
      const read = Response.prototype.text;
      Response.prototype.text = async function text() {
        const said = await read.call(this);
        Response.prototype.text = read;
        location.hash = to;
        return said;
      };
      wsiSegScreen.slide.version = 'older';
      return wsiSegScreen.look();
    }""",
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_address_that_the_user_edits_is_not_written_over(viewer: Viewer, edit: str) -> None:
    viewer.open(viewer.identity("made", "first"))
    edited = f"#slide={viewer.identity('bounds')}"
    viewer.page.evaluate(edit, edited)
    viewer.until("document.title.startsWith('bounds')")
    viewer.settle()
    assert viewer.page.evaluate("location.hash").startswith(edited)


def test_what_can_be_taken_away(viewer: Viewer, results: Results, tmp_path: Path) -> None:
    page = viewer.page
    viewer.open(viewer.identity("made", "first"))
    with page.expect_download() as download:
        page.get_by_role("link", name="GeoJSON").click()
    written = results.out / "first" / "made" / "polygons.geojson"
    assert Path(download.value.path()).read_bytes() == written.read_bytes()
    shown, saved = viewer.picture(), saved_picture(page)
    height, width = shown.shape[:2]
    assert saved.shape[1] == width and saved.shape[0] > height
    view = viewer.view()
    x, y = (int(-view[axis] / view["scale"]) + 3 for axis in ("x", "y"))
    slide = np.s_[y : y + int(1590 / view["scale"]), x : x + int(2040 / view["scale"])]
    assert np.abs(saved[:height][slide] - shown[slide]).mean() < 1
    page.keyboard.press("r")
    viewer.settle()
    lines, shown = viewer.outlines(), viewer.picture()
    assert lines.sum() > 500
    assert np.abs(saved_picture(page)[:height][lines] - shown[lines]).mean() < 0.5


def saved_picture(page: Page) -> NDArray[np.float64]:
    """Return what the button Picture saves, (h, w, 3)."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Picture").click()
    assert download.value.suggested_filename == "made.png"
    return np.asarray(Image.open(download.value.path()).convert("RGB"), np.float64)


def test_every_control_has_a_name_and_is_reached_by_tab(viewer: Viewer) -> None:
    page = viewer.page
    for fragment in ({}, {"threshold": 0.4}):
        viewer.open(viewer.identity("made", "first"), **fragment)
        controls = page.locator(CONTROLS)
        count = controls.count()
        assert count > 15
        names = [controls.nth(i).evaluate(ACCESSIBLE_NAME) for i in range(count)]
        assert all(names), names
        page.evaluate("document.activeElement.blur()")
        reached = set()
        for _ in range(count + 6):
            page.keyboard.press("Tab")
            reached.add(page.evaluate(f"({ACCESSIBLE_NAME})(document.activeElement)"))
        assert set(names) - reached == set(), "not reached by Tab"
    assert page.evaluate("document.documentElement.lang") == "en"


CONTROLS = ", ".join(
    (
        "button:enabled:visible",
        "a[href]:visible",
        "input:enabled:visible",
        "select:visible",
        "[role=application]",
    )
)
ACCESSIBLE_NAME = """(e) => {
  const labels = [...(e.labels ?? [])].map((label) => label.innerText).join(' ');
  return (e.getAttribute('aria-label') || labels || e.innerText || e.title || '').trim();
}"""


def test_contrast_of_texts_and_of_both_palettes(viewer: Viewer) -> None:
    page = viewer.page
    page.goto(viewer.address)
    page.locator("a.slide").first.wait_for()
    found = page.evaluate(CONTRASTS)
    viewer.open(viewer.identity("made", "second"))
    page.keyboard.press("?")
    found += page.evaluate(CONTRASTS)
    assert len(found) > 40
    assert [line for line in found if line["ratio"] < 4.5] == []
    page.keyboard.press("Escape")
    for checked in (False, True):
        page.get_by_label("Color-blind-safe colors").set_checked(checked)
        viewer.settle()
        borders = page.evaluate(BORDERS)
        assert len(borders) >= 2
        for border in borders:
            assert contrast(border, "rgb(255, 255, 255)") >= 3, border
        assert len(set(borders)) == len(borders)


BORDERS = "[...document.querySelectorAll('.panel .swatch')].map((s) => getComputedStyle(s).borderTopColor)"
# Every visible text with the contrast of its color against the first ground behind it that is opaque.
CONTRASTS = """() => {
  const parse = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const weights = [0.2126, 0.7152, 0.0722];
  const light = (c) => weights.reduce((sum, weight, i) => sum + weight * linear(c[i] / 255), 0);
  const groundOf = (e) => {
    while (e && (parse(getComputedStyle(e).backgroundColor)[3] ?? 1) < 0.8) e = e.parentElement;
    return e ? parse(getComputedStyle(e).backgroundColor) : [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('#app *')) {
    const text = [...e.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join('');
    if (!text || !e.checkVisibility({ checkVisibilityCSS: true }) || e.matches(':disabled')) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(groundOf(e))];
    found.push({ text, ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) });
  }
  return found;
}"""


def contrast(one: str, other: str) -> float:
    """Return the contrast of two CSS colors `rgb(r, g, b)` as WCAG 2.2 defines it."""
    values = []
    for color in (one, other):
        rgb = np.array([int(v) for v in color[4:-1].split(",")]) / 255
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        values.append(float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)
    return max(values) / min(values)


def test_filters_are_folded_away_on_phones(browser: Browser, results: Results) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    with viewer_page.tab(context, results.address) as viewer:
        page = viewer.page
        page.goto(f"{results.address}#sort=-name")
        fold = page.get_by_role("button", name="Filters")
        fold.wait_for()
        assert fold.inner_text() == "Filters (1)" and not page.get_by_label("Status").is_visible()
        row = page.locator(".filters").bounding_box()
        assert row is not None and row["height"] < 60 and row["width"] <= 390
        fold.click()
        assert fold.get_attribute("aria-expanded") == "true"
        page.get_by_label("Status").select_option("interrupted")
        assert fold.inner_text() == "Filters (2)"
        page.get_by_text("No result fits").wait_for()
        fold.click()
        assert not page.get_by_label("Order").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_touch_pinches_and_taps(browser: Browser, results: Results) -> None:
    context = browser.new_context(viewport={"width": 420, "height": 800}, has_touch=True, is_mobile=True)
    viewer = Viewer(context.new_page(), results.address)
    viewer.open(viewer.identity("made", "first"))
    before = viewer.view()
    session = context.new_cdp_session(viewer.page)
    for kind, apart in (("touchStart", 40), ("touchMove", 60), ("touchMove", 90), ("touchMove", 120)):
        points = [{"x": 200 - apart, "y": 200, "id": 1}, {"x": 200 + apart, "y": 200, "id": 2}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        viewer.page.wait_for_timeout(50)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    viewer.settle()
    pinched = viewer.view()
    assert before["scale"] / pinched["scale"] == pytest.approx(3, rel=0.25)
    viewer.page.keyboard.press("0")
    viewer.settle()
    x0, y0, x1, y1 = RECTANGLES[4]
    viewer.page.touchscreen.tap(*viewer.to_screen((x0 + x1) / 2, (y0 + y1) / 2))
    viewer.until("wsiSegScreen.panes[0].view().scale < 3")
    context.close()


def test_the_table_of_regions_by_keys_alone(viewer: Viewer, results: Results) -> None:
    page, keys = viewer.page, viewer.page.keyboard
    identity = viewer.identity("made", "second")
    viewer.open(identity)
    keys.press("T")
    table = page.get_by_role("complementary", name="Table of regions")
    table.locator("tbody tr").first.wait_for()
    viewer.settle()
    rows = viewer.get(f"slides/{identity}/regions/list")["rows"]
    assert table.locator("tbody button").all_inner_texts() == [str(row["index"] + 1) for row in rows]
    assert table.get_by_role("status").inner_text() == f"1–{len(rows)} of {len(rows)}"
    assert table.locator("[aria-sort=descending]").inner_text().startswith("Area")
    table.locator("tbody button").first.focus()
    keys.press("ArrowDown")
    view = viewer.view()
    assert page.evaluate("document.activeElement.innerText") == str(rows[1]["index"] + 1)
    assert rows[1]["group"] in page.evaluate("document.activeElement.ariaLabel").lower()
    assert viewer.view() == view, "arrow keys in the table do not move the slide"
    keys.press("Enter")
    viewer.until(f"wsiSegScreen.state.marked === {rows[1]['index']}")
    viewer.settle()
    bbox = viewer.get(f"slides/{identity}/regions/{rows[1]['index']}")["bbox"]
    view = viewer.view()
    middle = (view["x"] + view["width"] * view["scale"] / 2, view["y"] + view["height"] * view["scale"] / 2)
    assert middle == pytest.approx(((bbox[0] + bbox[2]) / 2, (bbox[1] + bbox[3]) / 2), abs=2 * view["scale"])
    assert table.locator("tr[aria-current=true] button").inner_text() == str(rows[1]["index"] + 1)
    marked = viewer.picture()
    page.evaluate("wsiSegScreen.update({ marked: null })")
    viewer.settle()
    dark = (marked < 60).all(axis=2) & ~(viewer.picture() < 60).all(axis=2)
    assert dark.sum() > 200, "the mark of the region is drawn"
    page.evaluate(f"wsiSegScreen.update({{ marked: {rows[1]['index']} }})")
    for key, expected in (("N", rows[2]), ("P", rows[1]), ("P", rows[0])):
        keys.press(key)
        viewer.until(f"wsiSegScreen.state.marked === {expected['index']}")
    keys.press("P")
    page.locator("#message", has_text="first region of the table").wait_for()
    viewer.until(f"location.hash.includes('region={rows[0]['index']}')")
    page.reload()
    viewer.settle()
    table.locator("tr[aria-current=true]").wait_for()
    keys.press("T")
    viewer.until("!location.hash.includes('table=')")
    assert not table.is_visible()


def test_the_table_of_regions_is_sorted_and_filtered(viewer: Viewer, results: Results) -> None:
    page = viewer.page
    identity = viewer.identity("made", "second")
    viewer.open(identity, table="group=tumor")
    table = page.get_by_role("complementary", name="Table of regions")
    numbers = table.locator("tbody button")
    numbers.first.wait_for()

    def shows(query: str) -> None:
        rows = viewer.get(f"slides/{identity}/regions/list?{query}")["rows"]
        wanted = json.dumps([str(row["index"] + 1) for row in rows])
        texts = (
            "JSON.stringify([...document.querySelectorAll('.regions tbody button')].map((b) => b.innerText))"
        )
        viewer.until(f"{texts} === JSON.stringify({wanted})")

    shows("group=tumor")
    table.get_by_label("Class of the regions").select_option("")
    shows("")
    table.get_by_role("button", name="Sort by mean probability").click()
    shows("sort=-probability")
    table.get_by_role("button", name="Sort by mean probability").click()
    shows("sort=probability")
    assert table.locator("[aria-sort=ascending]").count() == 1
    rows = viewer.get(f"slides/{identity}/regions/list")["rows"]
    least = rows[len(rows) // 2]["area_um2"]
    table.get_by_label("Least area, µm²").fill(str(least))
    shows(f"sort=probability&area={least}")
    page.keyboard.press("0")  # typed into the field: the view stays
    page.keyboard.press("Backspace")
    before = viewer.view()
    page.get_by_role("checkbox", name="Regions (").uncheck()
    numbers.last.click()
    viewer.until("wsiSegScreen.state.marked !== null && wsiSegScreen.state.outlines")
    viewer.settle()
    assert viewer.view() != before


def test_the_color_scale_and_its_bar(viewer: Viewer, results: Results) -> None:
    page = viewer.page
    identity = viewer.identity("made", "first")
    viewer.open(identity, classes=0, outlines=0)
    bar = page.get_by_role("img", name="Color scale, Probability of Tumor")
    assert not bar.is_visible()
    page.get_by_label("Probability opacity").fill("100")
    viewer.settle()
    assert bar.is_visible()
    assert "0 %" in page.locator(".scale").first.inner_text()
    assert "100 %" in page.locator(".scale").first.inner_text()
    scale = viewer.get(f"slides/{identity}")["scale"]
    low, high = ([int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in (scale[0], scale[-1]))
    box = bar.bounding_box()
    assert box is not None
    shot = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("RGB")
    ends = np.asarray(shot)[shot.height // 2, [4, shot.width - 5]]
    np.testing.assert_allclose(ends, [low, high], atol=12)
    shown = viewer.picture()
    x0, y0, x1, y1 = RECTANGLES[0]
    left, top = viewer.to_screen((x0 + x1) / 2, (y0 + y1) / 2)
    stage = page.locator(".stage").first.bounding_box()
    assert stage is not None
    inside = shown[round(top - stage["y"]), round(left - stage["x"])]
    maps = Maps.open(results.out / "first" / "made" / "maps.zarr")
    value = maps.probabilities[0, int((y0 + y1) / 2 / 2), int((x0 + x1) / 2 / 2)]  # 0.5 over 0.25 µm/px
    np.testing.assert_allclose(inside, scale_table()[int(np.asarray(value))], atol=3)


def test_outlines_have_a_casing_that_is_seen_on_dark_tissue(viewer: Viewer, results: Results) -> None:
    x0, y0, _, y1 = RECTANGLES[0]
    viewer.open(viewer.identity("made", "first"), at=f"{x0},{(y0 + y1) / 2},0.5", classes=0)
    picture = viewer.picture()
    row = picture[picture.shape[0] // 2].min(axis=1)
    edge = picture.shape[1] // 2
    near = row[edge - 8 : edge + 9]
    # Light ground, casing, line, casing, dark tissue: on the dark side white comes before the tissue.
    line = int(near.argmin()) if near.min() < 100 else 8
    assert near[line:].max() > 230, near
    assert near[-1] < 130, near


def test_labels_are_fetched_only_when_asked_for(viewer: Viewer, results: Results, sample_svs: Path) -> None:
    page = viewer.page
    settings = RunSettings(tissue="none", plan=PlanSettings(block=4096))
    segment_slide(sample_svs, results.out, darkness_model(2.0, tile=1024), settings)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    viewer.open(viewer.identity(sample_svs.stem))
    page.get_by_role("button", name="Stored images").click()
    thumbnail = page.get_by_alt_text("Thumbnail of")
    thumbnail.wait_for()
    assert thumbnail.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 574
    assert not [url for url in asked if "label.jpg" in url or "macro.jpg" in url]
    assert "not kept by the browser" in page.locator(".associated").inner_text()
    page.get_by_role("button", name="Show the label").click()
    label = page.get_by_alt_text("Label of")
    assert label.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 387
    assert len([url for url in asked if "label.jpg" in url]) == 1
    page.get_by_role("button", name="Hide the label").click()
    assert label.count() == 0
