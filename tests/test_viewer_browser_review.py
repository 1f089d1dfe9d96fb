"""Reviewing in headless Chromium: by keys alone, by mouse, and what of it is on the disk afterward."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from tests.made.landmarks import RECTANGLES, darkness_model, exact_settings, landmark_slide
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.review.results import open_reviewed
from wsi_seg.review.state import ReviewState, fold
from wsi_seg.review.store import ReviewStore

pytest.importorskip("playwright", reason="no playwright: pip install 'wsi-seg[test]'")

from playwright.sync_api import Browser, BrowserContext

from tests import viewer_page
from tests.viewer_page import Viewer

REVIEWER = "Ada <b>../x</b>"


@dataclass(frozen=True)
class Reviewed:
    """Results, their reviews, and the server over both."""

    results: Path
    reviews: Path
    address: str

    def state(self) -> ReviewState:
        return fold(ReviewStore(self.reviews).read(open_reviewed(self.results).slide).entries)


@pytest.fixture(scope="module")
def reviewed(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reviewed]:
    folder = tmp_path_factory.mktemp("review")
    slide = landmark_slide(folder / "made.svs")
    segment_slide(slide, folder / "out", darkness_model(), exact_settings())
    with viewer_page.server(folder / "out", "--allow-review", "--reviews", folder / "reviews") as address:
        yield Reviewed(folder / "out" / "made", folder / "reviews", address)


@pytest.fixture(scope="module")
def context(browser: Browser) -> Iterator[BrowserContext]:
    """One for all, so that the page and its tiles come from the browser's cache."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    context.new_page()  # keeps the window, whose own parts Chromium makes again for the first tab of each
    yield context
    context.close()


@pytest.fixture
def viewer(context: BrowserContext, reviewed: Reviewed) -> Iterator[Viewer]:
    with viewer_page.tab(context, reviewed.address) as viewer:
        viewer.open(viewer.identity("made"))
        viewer.page.get_by_label("Reviewer").wait_for()
        yield viewer
        viewer.page.evaluate("localStorage.clear()")


def said(viewer: Viewer, text: str) -> None:
    """Wait until the selected region is described so."""
    viewer.until(f"document.querySelector('.review .said').textContent.includes({json.dumps(text)})")


def progress(viewer: Viewer, text: str) -> None:
    viewer.until(
        f"document.querySelector('.review [role=status]').textContent.startsWith({json.dumps(text)})"
    )


def drag(viewer: Viewer, *places: tuple[float, float]) -> None:
    mouse, (first, *rest) = viewer.page.mouse, [viewer.to_screen(*place) for place in places]
    mouse.move(*first)
    mouse.down()
    for place in rest:
        mouse.move(*place, steps=4)
    mouse.up()


def area_of(geometry: Any) -> float:
    return float(shapely.area(geometry))


def test_a_review_by_keys_alone_is_on_the_disk(viewer: Viewer, reviewed: Reviewed) -> None:
    page, keys = viewer.page, viewer.page.keyboard
    keys.press("n")
    said(viewer, "no verdict yet")
    keys.press("a")  # without a name there is no verdict, and the name is asked for
    viewer.until("document.activeElement.id === 'reviewer'")
    keys.type(REVIEWER)
    keys.press("Enter")
    keys.press("c")
    keys.type("looks fine: 1, 2, n")  # keys within a text are letters
    keys.press("Enter")
    keys.press("a")
    said(viewer, f"accepted by {REVIEWER} (looks fine: 1, 2, n)")
    keys.press("n")
    said(viewer, "no verdict yet")
    keys.press("x")
    said(viewer, "rejected by")
    keys.press("u")
    said(viewer, "no verdict yet")
    keys.press("y")
    said(viewer, "rejected by")
    keys.press("n")
    said(viewer, "no verdict yet")
    keys.press("2")
    said(viewer, "relabeled as Stroma by")
    progress(viewer, f"3 of {len(RECTANGLES)} reviewed")
    viewer.settle()
    found = [decision.final for decision in reviewed.state().decisions.values()]
    assert [(one.verdict, one.class_name, one.reviewer) for one in found] == [
        ("accepted", "tumor", REVIEWER), ("rejected", None, REVIEWER), ("relabeled", "stroma", REVIEWER),
    ]  # fmt: skip
    assert page.evaluate("document.querySelectorAll('.panel b').length") == 0
    page.reload()
    page.get_by_label("Reviewer").wait_for()
    progress(viewer, f"3 of {len(RECTANGLES)} reviewed")
    assert page.get_by_label("Reviewer").input_value() == REVIEWER
    viewer.settle()


def test_every_action_has_a_name_and_a_key(viewer: Viewer) -> None:
    names = viewer.page.locator(".review button").evaluate_all("(all) => all.map((one) => one.ariaLabel)")
    assert len(names) >= 18 and all(name and "(" in name for name in names), names
    assert len(set(names)) == len(names)
    fields = viewer.page.locator(".review input, .review select")
    assert all(fields.nth(i).evaluate("(one) => one.labels.length > 0 || Boolean(one.ariaLabel)")
               for i in range(fields.count()))  # fmt: skip
    viewer.page.keyboard.press("?")
    help_ = viewer.page.locator("dialog.help").inner_text()
    for key in ("accept, reject", "brush", "all in sight is reviewed", "undo, redo"):
        assert key in help_


def test_regions_are_selected_drawn_and_edited_with_the_mouse(viewer: Viewer, reviewed: Reviewed) -> None:
    page, keys = viewer.page, viewer.page.keyboard
    page.get_by_label("Reviewer").fill("Bob")
    x0, y0, x1, y1 = RECTANGLES[4]
    viewer.open(viewer.identity("made"), at=f"{(x0 + x1) / 2},{(y0 + y1) / 2},1")
    page.get_by_label("Reviewer").wait_for()
    scale = viewer.view()["scale"]
    page.mouse.click(*viewer.to_screen((x0 + x1) / 2, (y0 + y1) / 2))
    said(viewer, "Region")
    assert viewer.view()["scale"] == pytest.approx(scale), "a click selects and does not zoom"
    # The brush paints 60 px to the right of the region; Enter stores it.
    page.get_by_label("Radius of the brush, screen pixels").fill("20")
    keys.press("b")
    drag(viewer, (x1, y0 + 100), (x1 + 60, y0 + 100))
    keys.press("Enter")  # while the stroke may be under way: it is not lost
    viewer.until("!wsiSegScreen.reviewing.drawing && !wsiSegScreen.reviewing.busy")
    (redrawn,) = [d.final for d in reviewed.state().decisions.values() if d.final.verdict == "redrawn"]
    assert redrawn.geometry is not None and redrawn.reviewer == "Bob"
    painted = area_of(redrawn.geometry) - (x1 - x0) * (y1 - y0)
    assert painted == pytest.approx(60 * 40 + 3.14 * 200, rel=0.1)
    # A polygon of class stroma, closed and stored by Enter, and taken back.
    keys.press("2")
    keys.press("d")
    for place in ((x0 - 150, y0), (x0 - 50, y0), (x0 - 50, y0 + 100)):
        page.mouse.click(*viewer.to_screen(*place))
    keys.press("Enter")
    viewer.until("wsiSegScreen.reviewing.tools.draft.geometry !== null")
    keys.press("Enter")
    viewer.until("wsiSegScreen.reviewing.review.drawn.length === 1")
    (added,) = [d.final for d in reviewed.state().decisions.values() if d.final.verdict == "added"]
    assert added.class_name == "stroma" and area_of(added.geometry) == pytest.approx(5000, rel=0.03)
    keys.press("u")
    viewer.until("wsiSegScreen.reviewing.review.drawn.length === 0")
    # A reviewed box accepts what has no verdict in it.
    keys.press("w")
    drag(viewer, (x0 - 60, y0 - 60), (x1 + 100, y1 + 60))
    viewer.until("wsiSegScreen.reviewing.review.areas.length === 1")
    (box,) = reviewed.state().areas
    assert area_of(box.geometry) == pytest.approx((x1 - x0 + 160) * (y1 - y0 + 120), rel=0.02)
    viewer.settle()
    # Two regions merged are two entries and one step back.
    (x2, y2), decisions = np.mean(np.reshape(RECTANGLES[2], (2, 2)), axis=0), reviewed.state().decisions
    page.mouse.click(*viewer.to_screen((x0 + x1) / 2, (y0 + y1) / 2))
    said(viewer, "Region")
    page.evaluate(f"wsiSegScreen.panes[0].moveTo([{x2}, {y2}, 1], true)")
    viewer.settle()
    steps = page.evaluate("wsiSegScreen.reviewing.review.done.length")
    keys.press("m")
    viewer.until(f"wsiSegScreen.reviewing.review.done.length === {steps + 1} && !wsiSegScreen.reviewing.busy")
    merged = reviewed.state().decisions
    assert sum(merged[key].final.entry != one.final.entry for key, one in decisions.items()) >= 1
    keys.press("u")
    viewer.until(f"wsiSegScreen.reviewing.review.done.length === {steps} && !wsiSegScreen.reviewing.busy")
    back = reviewed.state().decisions
    assert {key: one.final.verdict for key, one in back.items()} == {
        key: one.final.verdict for key, one in decisions.items()
    }


def test_what_is_drawn_on_a_turned_slide_lies_where_it_was_drawn(viewer: Viewer, reviewed: Reviewed) -> None:
    page, keys = viewer.page, viewer.page.keyboard
    page.get_by_label("Reviewer").fill("Cleo")
    x0, y0, x1, y1 = RECTANGLES[2]
    viewer.open(viewer.identity("made"), at=f"{(x0 + x1) / 2},{(y0 + y1) / 2},1.5", turn=90)
    page.get_by_label("Reviewer").wait_for()
    corners = [(x0 + 40, y1 + 60), (x0 + 200, y1 + 60), (x0 + 200, y1 + 160)]
    keys.press("d")
    for place in corners:
        page.mouse.click(*viewer.to_screen(*place))
    keys.press("Enter")
    viewer.until("wsiSegScreen.reviewing.tools.draft.geometry !== null")
    keys.press("Enter")
    viewer.until("wsiSegScreen.reviewing.review.drawn.length === 1 && !wsiSegScreen.reviewing.busy")
    (added,) = [d.final for d in reviewed.state().decisions.values() if d.final.verdict == "added"]
    drawn = np.asarray(shapely.get_coordinates(added.geometry))[:-1]
    assert np.abs(drawn[:, None] - np.array(corners)).max(axis=2).min(axis=0).max() < 1.5  # a screen pixel
    # A click on it selects it, and a cut through its middle gives two parts in one step.
    page.mouse.click(*viewer.to_screen(x0 + 170, y1 + 80))
    said(viewer, "Added region")
    keys.press("s")
    drag(viewer, (x0 + 150, y1 + 40), (x0 + 150, y1 + 180))
    viewer.until("wsiSegScreen.reviewing.parts.length === 1 && !wsiSegScreen.reviewing.busy")
    steps = page.evaluate("wsiSegScreen.reviewing.review.done.length")
    keys.press("Enter")
    viewer.until(f"wsiSegScreen.reviewing.review.done.length === {steps + 1} && !wsiSegScreen.reviewing.busy")
    parts = [d.final.geometry for d in reviewed.state().decisions.values() if d.final.reviewer == "Cleo"]
    assert len(parts) == 2 and sum(map(area_of, parts)) == pytest.approx(area_of(added.geometry), rel=0.01)
    assert sorted(shapely.bounds(part)[0] for part in parts)[1] == pytest.approx(x0 + 150, abs=2)
    keys.press("u")
    viewer.until(f"wsiSegScreen.reviewing.review.done.length === {steps} && !wsiSegScreen.reviewing.busy")
    (whole,) = [d.final for d in reviewed.state().decisions.values() if d.final.reviewer == "Cleo"]
    assert area_of(whole.geometry) == pytest.approx(area_of(added.geometry))
    keys.press("u")
    viewer.until("wsiSegScreen.reviewing.review.drawn.length === 0 && !wsiSegScreen.reviewing.busy")


def other_tab(browser: Browser, reviewed: Reviewed, name: str) -> Any:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    page = Viewer(context.new_page(), reviewed.address)
    page.open(page.identity("made"))
    page.page.get_by_label("Reviewer").fill(name)
    page.page.get_by_label("Reviewer").press("Enter")
    return page


IDLE = "!wsiSegScreen.reviewing.busy"


def test_verdicts_of_others_are_seen_without_loading_the_page(
    viewer: Viewer, browser: Browser, reviewed: Reviewed
) -> None:
    """Two people at once: what one has said is on the other's screen, and both have the same progress."""
    viewer.page.get_by_label("Reviewer").fill("Dan")
    viewer.page.get_by_label("Reviewer").press("Enter")
    other = other_tab(browser, reviewed, "Eve")

    def judge(one: Viewer, index: int, key: str) -> None:
        choose = f"() => wsiSegScreen.reviewing.select({{index: {index}}}, 'tumor')"
        one.page.evaluate(f"wsiSegScreen.reviewing.attempt({choose})")
        one.until(f"wsiSegScreen.reviewing.selected?.target.index === {index}")
        one.page.keyboard.press(key)
        one.until(f"{IDLE} && wsiSegScreen.reviewing.review.reviewer === "
                  f"wsiSegScreen.reviewing.review.verdicts.get({index})?.reviewer")  # fmt: skip

    judge(other, 5, "x")
    judge(viewer, 4, "a")  # its answer says that there was something before
    viewer.until("wsiSegScreen.reviewing.review.verdicts.get(5)?.reviewer === 'Eve'")
    # Who only looks sees it a few seconds later.
    other.until("wsiSegScreen.reviewing.review.verdicts.get(4)?.reviewer === 'Dan'")
    counts = [
        one.page.locator(".review [role=status]").first.inner_text().split(",")[0] for one in (viewer, other)
    ]
    assert counts[0] == counts[1]
    for one in (viewer, other):
        one.page.keyboard.press("u")
        one.until(IDLE)
    assert other.problems == []
    other.page.context.close()


def test_what_is_drawn_is_not_lost_and_is_undone_by_steps(viewer: Viewer, reviewed: Reviewed) -> None:
    page, keys = viewer.page, viewer.page.keyboard
    page.get_by_label("Reviewer").fill("Fay")
    page.get_by_label("Reviewer").press("Enter")
    x0, y0, x1, y1 = RECTANGLES[4]
    viewer.open(viewer.identity("made"), at=f"{(x0 + x1) / 2},{(y0 + y1) / 2},1")
    page.get_by_label("Reviewer").wait_for()
    keys.press("t")
    said(viewer, "Region")
    keys.press("b")
    keys.press("n")  # nothing was changed, so nothing is lost
    viewer.until(f"{IDLE} && !wsiSegScreen.reviewing.drawing")
    viewer.open(viewer.identity("made"), at=f"{(x0 + x1) / 2},{(y0 + y1) / 2},1")
    viewer.settle()
    keys.press("t")
    viewer.until(f"{IDLE} && wsiSegScreen.reviewing.selected !== null")
    keys.press("b")
    area = "JSON.stringify(wsiSegScreen.reviewing.tools.draft.geometry)"
    shapes = [page.evaluate(area)]
    stored = len(reviewed.state().decisions)
    for step in (1, 2):
        drag(viewer, (x1, y0 + 60 * step), (x1 + 60, y0 + 60 * step))
        viewer.until(f"{IDLE} && wsiSegScreen.reviewing.before.length === {step}")
        shapes.append(page.evaluate(area))
    assert len(set(shapes)) == 3
    for key in ("n", "p", "a", "x", "PageDown", "w", "Delete", "All slides"):
        if key == "All slides":
            page.get_by_role("link", name=key).click()
        else:
            keys.press(key)
        viewer.until(IDLE)
        viewer.until("document.getElementById('message').textContent.startsWith('The outline is not saved')")
        page.evaluate("document.getElementById('message').textContent = ''")
        assert page.evaluate(area) == shapes[2], key
    for key, shape in (("u", shapes[1]), ("u", shapes[0]), ("y", shapes[1]), ("y", shapes[2])):
        keys.press(key)
        viewer.until(IDLE)
        assert page.evaluate(area) == shape, key
    assert len(reviewed.state().decisions) == stored, "undo took back a verdict and not the stroke"
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.evaluate("setTimeout(() => location.reload(), 0)")
    viewer.until("wsiSegScreen.reviewing.drawing")
    page.wait_for_timeout(300)
    assert asked == ["beforeunload"] and page.evaluate(area) == shapes[2]
    keys.press("Escape")
    viewer.until("!wsiSegScreen.reviewing.drawing")


def test_verdicts_and_areas_from_before_the_page_was_loaded_are_taken_back(
    viewer: Viewer, reviewed: Reviewed
) -> None:
    """A reviewed area by mistake would teach a model that all in it is background."""
    page, keys = viewer.page, viewer.page.keyboard
    page.get_by_label("Reviewer").fill("Gil")
    page.get_by_label("Reviewer").press("Enter")
    x0, y0, x1, y1 = RECTANGLES[3]
    place = f"{(x0 + x1) / 2},{(y0 + y1) / 2},1"
    viewer.open(viewer.identity("made"), at=place)
    viewer.settle()

    def mine() -> list[str]:
        state = reviewed.state()
        entries = [*state.areas, *(one.final for one in state.decisions.values())]
        return sorted(entry.verdict for entry in entries if entry.reviewer == "Gil")

    page.get_by_label("and accept regions there").uncheck()
    keys.press("t")
    viewer.until(f"{IDLE} && wsiSegScreen.reviewing.selected !== null")
    keys.press("x")
    viewer.until(IDLE)
    keys.press("g")
    viewer.until(IDLE)
    assert mine() == ["rejected", "reviewed-area"]
    page.reload()
    page.get_by_label("Reviewer").wait_for()
    viewer.settle()
    keys.press("Delete")  # nothing is selected
    viewer.until(IDLE)
    assert mine() == ["rejected"]
    keys.press("t")
    viewer.until(f"{IDLE} && wsiSegScreen.reviewing.selected !== null")
    page.get_by_role("button", name="Take back").click()
    viewer.until(IDLE)
    assert mine() == []
    keys.press("u")
    viewer.until(IDLE)
    assert mine() == ["rejected"]
    keys.press("u")
    keys.press("u")  # nothing more
    viewer.until(IDLE)
    assert mine() == ["rejected", "reviewed-area"]
    for _ in range(2):
        keys.press("y")
        viewer.until(IDLE)
    assert mine() == []


def test_a_server_that_is_gone_is_said_in_plain_words(viewer: Viewer, reviewed: Reviewed) -> None:
    page, keys = viewer.page, viewer.page.keyboard
    page.get_by_label("Reviewer").fill("Hal")
    page.get_by_label("Reviewer").press("Enter")
    keys.press("t")
    keys.press("n")
    viewer.until(f"{IDLE} && wsiSegScreen.reviewing.selected !== null")
    page.route("**/review?*", lambda route: route.abort())
    keys.press("x")
    viewer.until("document.getElementById('message').textContent.startsWith('The server does not answer')")
    page.unroute("**/review?*")
    assert "Hal" not in reviewed.state().reviewers
    viewer.problems.clear()  # the browser has told of the request that failed


def test_the_command_that_resumes_a_training_is_shown_as_it_is_typed(viewer: Viewer) -> None:
    page, command = viewer.page, "wsi-seg train --from=mine '--held-out=A, b.tiff' --resume"
    about = {"version": "1", "allow_run": True, "allow_review": True}
    options = {"slides": [], "models": [], "model": None, "steps": 200, "name": "retrained-1", "job": "1",
               "elsewhere": ["retrained-0"]}  # fmt: skip
    job = {
        "state": "stopped", "stopping": False, "name": "m", "step": 25, "steps": 50, "loss": None,
        "validation_loss": None, "validation_dice": None, "message": "", "command": command,
        "comparison": None,
    }  # fmt: skip
    for path, value in (("", about), ("/retrain/options", options), ("/retrain/1", job)):
        page.route(f"{viewer.address}api{path}", lambda route, *, value=value: route.fulfill(json=value))
    page.reload()
    page.get_by_role("button", name="Retrain …").click()
    dialog = page.get_by_role("dialog", name="Retrain")
    code = dialog.locator("code")
    code.wait_for()
    assert "In training, started elsewhere: retrained-0." in dialog.inner_text()
    assert code.inner_text() == command
