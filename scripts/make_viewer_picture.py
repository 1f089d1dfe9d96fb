"""Make pictures of the viewer: docs/viewer.jpg of the README, or one of every view to look at.

python scripts/make_viewer_picture.py results/CMU-1-Small-Region
python scripts/make_viewer_picture.py results/CMU-1-Small-Region --views FOLDER

`--views` writes PNG files of list, slide, probability, review, comparison (where there are two results) and
keys, in a wide and a narrow window, in light and dark colors, into a new folder. Needs Chromium and
`pip install '.[test]'`.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SIZE = {"width": 1240, "height": 780}
NARROW = {"width": 390, "height": 844}
# Center and l0 pixels per CSS pixel; where the pointer rests, in l0 pixels.
AT = (1330.0, 900.0, 1.35)
POINTER = (1214.0, 743.0)
MOST_BYTES = 300_000
COMPLETE = "Boolean(window.wsiSegScreen && wsiSegScreen.panes.every((pane) => pane.complete))"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path)
    parser.add_argument(
        "--views", type=Path, metavar="FOLDER", help="a new folder for one picture of each view"
    )
    given = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no Chromium here; on Debian: apt install chromium")
    with tempfile.TemporaryDirectory() as reviews, sync_playwright() as playwright:
        options = ("--allow-review", "--reviews", reviews) if given.views else ()
        with server(given.results, *options) as address:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            if given.views:
                given.views.mkdir(parents=True)
                take_views(browser, address, given.views)
                return
            page = browser.new_page(viewport=SIZE, device_scale_factor=1.5, reduced_motion="reduce")
            shot = take(page, address)
    save(Image.open(io.BytesIO(shot)).convert("RGB"), ROOT / "docs" / "viewer.jpg")


@contextmanager
def server(results: Path, *options: str) -> Iterator[str]:
    """Run the viewer on results and give its address."""
    command = [sys.executable, "-m", "wsi_seg.cli", "view", str(results), *options]
    command += ["--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def take(page: Page, address: str) -> bytes:
    """Open the only slide and return a screenshot, PNG."""
    open_slide(page, address, classes=0.15)
    x, y = (SIZE["width"] - 292) / 2, SIZE["height"] / 2  # the panel is 292 wide
    page.mouse.move(x + (POINTER[0] - AT[0]) / AT[2], y + (POINTER[1] - AT[1]) / AT[2])
    page.locator(".card").wait_for()
    time.sleep(0.5)
    return page.screenshot()


def open_slide(page: Page, address: str, **fragment: Any) -> None:
    """Open the first slide of the list and wait until it is drawn."""
    slide = page.request.get(f"{address}api/slides").json()[0]
    values = {"slide": slide["id"], "at": ",".join(map(str, AT)), **fragment}
    page.goto("about:blank")  # another fragment alone would not load the page
    page.goto(f"{address}#{urlencode(values, safe=',')}")
    settle(page)


def settle(page: Page) -> None:
    while not page.evaluate(COMPLETE):
        time.sleep(0.1)
    time.sleep(0.5)


def show_list(page: Page, address: str) -> None:
    page.goto(address + "#")
    page.locator(".slides li").first.wait_for()
    while not page.evaluate("[...document.images].every((one) => one.complete)"):
        time.sleep(0.1)
    time.sleep(0.5)


def show_review(page: Page, address: str) -> None:
    """Select the first region of the queue, with the name of a reviewer."""
    open_slide(page, address, classes=0)
    page.get_by_label("Reviewer").fill("Ada")
    page.get_by_label("Reviewer").press("Enter")
    for key in "nana":
        page.keyboard.press(key)
        time.sleep(0.5)
    page.keyboard.press("n")
    settle(page)


def show_keys(page: Page, address: str) -> None:
    open_slide(page, address)
    page.keyboard.press("?")
    page.get_by_role("dialog").wait_for()


def show_probability(page: Page, address: str) -> None:
    open_slide(page, address, probability=0.7, channel="tumor", classes=0)


def show_comparison(page: Page, address: str) -> None:
    """Two results side by side, where there are two."""
    slides = page.request.get(f"{address}api/slides").json()
    open_slide(page, address, **({"with": slides[1]["id"]} if len(slides) > 1 else {}))


VIEWS: dict[str, Callable[[Page, str], None]] = {
    "list": show_list,
    "slide": open_slide,
    "probability": show_probability,
    "review": show_review,
    "comparison": show_comparison,
    "keys": show_keys,
}


def take_views(browser: Browser, address: str, folder: Path) -> None:
    """Write FOLDER/VIEW-WINDOW-SCHEME.png for each."""
    for window, size in (("wide", SIZE), ("narrow", NARROW)):
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
            for name, show in VIEWS.items():
                page = context.new_page()
                show(page, address)
                path = folder / f"{name}-{window}-{scheme}.png"
                page.screenshot(path=path)
                print(path)
                page.close()
            context.close()


def save(image: Image.Image, path: Path) -> None:
    """Write a JPEG of less than `MOST_BYTES`, as good as that allows."""
    for quality in range(90, 50, -4):
        image.save(path, quality=quality, optimize=True, progressive=True)
        if path.stat().st_size < MOST_BYTES:
            print(f"{path}: {path.stat().st_size} bytes at quality {quality}")
            return
    sys.exit(f"{path}: not below {MOST_BYTES} bytes")


if __name__ == "__main__":
    main()
