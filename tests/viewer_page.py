"""The viewer's page in headless Chromium, for tests: a server, a browser, and what they show."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page

REPOSITORY = Path(__file__).resolve().parent.parent
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
)  # fmt: skip


# Slide, layers and outlines are drawn in full, and no spring moves.
STILL = """(() => {
  const screen = window.wsiSegScreen;
  const rests = ({ viewport }) => Math.abs(viewport.getZoom(true) / viewport.getZoom() - 1) < 1e-5;
  return Boolean(screen && screen.panes.every((pane) => pane.complete && rests(pane.viewer)));
})()"""


# Shows another place without loading the page again.
GO = """(place) => {
  delete window.wsiSegScreen; // it is there again with the new place
  history.replaceState(null, "", place);
  dispatchEvent(new HashChangeEvent("hashchange"));
}"""
# What was asked for a moment ago, which the page collects for 60 ms, is under way.
UNDER_WAY = "() => new Promise((done) => { setTimeout(done, 65); })"
FRAMES = "() => new Promise((done) => { requestAnimationFrame(() => requestAnimationFrame(done)); })"


@contextmanager
def server(*arguments: str | Path) -> Iterator[str]:
    """Run `wsi-seg view` with these arguments and give its address."""
    command = [
        sys.executable,
        "-m",
        "wsi_seg.cli",
        "view",
        *map(str, arguments),
        "--no-browser",
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().strip()
        assert line.startswith("http://127.0.0.1:"), line
        yield line
    finally:
        process.terminate()
        process.wait(20)


class Viewer:
    """One tab that shows the viewer."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.problems: list[str] = []
        self.foreign: list[str] = []
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self._on_request)

    def _on_console(self, message: Any) -> None:
        # What OpenSeadragon says of a tile that came after its layer was taken off, as by a click meanwhile.
        late = message.type == "warning" and message.text.startswith("Ignoring tile")
        if message.type in ("error", "warning") and not late:
            self.problems.append(f"{message.text} ({message.location.get('url')})")

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith((self.address, "blob:", "data:", "about:")):
            self.foreign.append(request.url)

    def slides(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.get("slides")
        return rows

    def get(self, path: str) -> Any:
        response = self.page.request.get(f"{self.address}api/{path}")
        assert response.ok, f"{path}: {response.status} {response.text()}"
        return response.json()

    def identity(self, name: str, folder: str | None = None) -> str:
        return next(
            row["id"] for row in self.slides() if row["name"] == name and folder in (None, row["folder"])
        )

    def open(self, identity: str, **fragment: Any) -> None:
        place = f"#{urlencode({'slide': identity, **fragment}, safe=',')}"
        if self.page.url.startswith(self.address):
            self.page.evaluate(GO, place)
        else:
            self.page.goto(self.address + place)
        self.settle()

    def settle(self) -> None:
        """Wait until all that is to be seen is there, and nothing moves."""
        self.page.evaluate(UNDER_WAY)
        self.until(STILL)
        self.page.evaluate(FRAMES)  # in which what has come may ask for more
        self.until(STILL)

    def until(self, expression: str, seconds: float = 20) -> None:
        # Not page.wait_for_function: it evaluates a string in the page, which our policy forbids.
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def view(self, pane: int = 0) -> dict[str, float]:
        view: dict[str, float] = self.page.evaluate(f"wsiSegScreen.panes[{pane}].view()")
        return view

    def picture(self) -> NDArray[np.float64]:
        """Return the first pane as it is on the screen, without what lies over it, (h, w, 3)."""
        hidden = ".toolbar, .where, .scalebar, .card, .navigator, .cross, #message"
        self.page.evaluate(
            f"document.querySelectorAll('{hidden}').forEach((e) => {{ e.style.visibility = 'hidden'; }})"
        )
        clip = self.page.locator(".stage").first.bounding_box()
        shot = self.page.screenshot(clip=clip, animations="allow", caret="initial")
        self.page.evaluate(
            f"document.querySelectorAll('{hidden}').forEach((e) => {{ e.style.visibility = ''; }})"
        )
        return np.asarray(Image.open(BytesIO(shot)).convert("RGB"), np.float64)

    def outlines(self) -> NDArray[np.bool_]:
        """Return which pixels of the first pane hold outlines: those that differ when they are hidden."""
        with_lines = self.picture()
        self.page.evaluate("wsiSegScreen.panes[0].outlines.canvas.style.visibility = 'hidden'")
        without = self.picture()
        self.page.evaluate("wsiSegScreen.panes[0].outlines.canvas.style.visibility = ''")
        return np.asarray(np.abs(with_lines - without).sum(axis=2) > 90)

    def to_screen(self, x: float, y: float) -> tuple[float, float]:
        """Return where an l0 position is on the page, for the mouse."""
        left, top = self.page.evaluate(f"wsiSegScreen.panes[0].toCss([{x}, {y}])")
        box = self.page.locator(".stage").first.bounding_box()
        assert box is not None
        return box["x"] + left, box["y"] + top


@contextmanager
def tab(context: BrowserContext, address: str) -> Iterator[Viewer]:
    """Open a tab, and check at the end that nothing went wrong in it meanwhile."""
    viewer = Viewer(context.new_page(), address)
    yield viewer
    assert viewer.problems == [], f"errors in the browser's console: {viewer.problems}"
    assert viewer.foreign == [], "the page asks other servers"
    viewer.page.close()


def launch(playwright: Any, executable: str) -> Browser:
    browser: Browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
    return browser


def features(path: Path, offset: tuple[float, float] = (0, 0)) -> list[tuple[dict[str, Any], Any]]:
    """Return properties and l0 geometry of a GeoJSON; `offset` is what had been subtracted."""
    found = json.loads(path.read_text(encoding="utf-8"))["features"]
    return [
        (one["properties"], shapely.affinity.translate(shapely.geometry.shape(one["geometry"]), *offset))
        for one in found
    ]


def assert_drawn(drawn: NDArray[np.bool_], shapes: list[Any], view: dict[str, float]) -> None:
    """Check that lines are drawn along the outlines of `shapes` (l0) within a screen pixel, only there."""
    height, width = drawn.shape
    lines = shapely.union_all([shape.boundary for shape in shapes])
    corner, scale = np.array([view["x"], view["y"]]), view["scale"]
    lines = shapely.transform(lines, lambda xy: (xy - corner) / scale)
    lines = shapely.intersection(lines, shapely.box(2, 2, width - 2, height - 2))
    assert lines.length > 200, "nothing to compare in this view"
    shapely.prepare(lines)
    y, x = np.nonzero(drawn)
    centers = shapely.points(x + 0.5, y + 0.5)
    inner = (x > 4) & (y > 4) & (x < width - 5) & (y < height - 5)
    # A line is 1.5 pixels wide, its casing 1 on each side: what they touch is within 1.75 + √½ of the middle.
    far = inner & ~shapely.dwithin(centers, lines, 1 + 1.75 + 0.71)
    assert far.sum() == 0, f"{far.sum()} of {len(x)} pixels away from any outline"
    middles = shapely.line_interpolate_point(lines, np.arange(0, lines.length, 1.0))
    tree = shapely.STRtree(centers)
    _, distance = tree.query_nearest(middles, return_distance=True, all_matches=False)
    # Where lines lie on each other a pixel may be too pale to count.
    missed = np.mean(distance > 1 + 0.71)
    assert missed < 0.002, f"{missed:.1%} of the outlines is not drawn"


def edges(picture: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the sides of a dark rectangle are on the screen, at its middle: x0, y0, x1, y1."""
    x0, y0, x1, y1 = place
    column, row = (
        line.mean(axis=1) for line in (picture[:, int((x0 + x1) / 2)], picture[int((y0 + y1) / 2)])
    )
    return np.array([_edge(line, at) for line, at in zip((row, column) * 2, place, strict=True)])


def _edge(line: NDArray[np.float64], near: float, reach: int = 6) -> float:
    start = max(0, round(near) - reach)
    part = line[start : round(near) + reach]
    part = part - 0.5 * (part.min() + part.max())
    (crossings,) = np.nonzero(np.diff(np.sign(part)))
    assert len(crossings) == 1, f"no edge at {near:.1f}"
    i = int(crossings[0])
    return float(start + i + 0.5 + part[i] / (part[i] - part[i + 1]))
