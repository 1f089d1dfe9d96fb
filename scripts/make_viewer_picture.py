"""Make the README's picture of the viewer from the demo's results: docs/viewer.jpg.

python scripts/make_viewer_picture.py results/CMU-1-Small-Region

Needs Chromium and `pip install '.[test]'`.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SIZE = {"width": 1240, "height": 780}
# Center and l0 pixels per CSS pixel; where the pointer rests, in l0 pixels.
AT = (1330.0, 900.0, 1.35)
POINTER = (1214.0, 743.0)
MOST_BYTES = 300_000


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or len(sys.argv) != 2:
        sys.exit(__doc__ if chromium else "no Chromium here; on Debian: apt install chromium")
    command = [sys.executable, "-m", "wsi_seg.cli", "view", sys.argv[1], "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                page = browser.new_page(viewport=SIZE, device_scale_factor=1.5, reduced_motion="reduce")
                shot = take(page, address)
        finally:
            server.terminate()
    save(Image.open(io.BytesIO(shot)).convert("RGB"), ROOT / "docs" / "viewer.jpg")


def take(page: Page, address: str) -> bytes:
    """Open the only slide and return a screenshot, PNG."""
    (slide,) = page.request.get(f"{address}api/slides").json()
    fragment = {"slide": slide["id"], "at": ",".join(map(str, AT)), "classes": 0.15}
    page.goto(f"{address}#{urlencode(fragment, safe=',')}")
    complete = "Boolean(window.wsiSegScreen && wsiSegScreen.panes.every((pane) => pane.complete))"
    while not page.evaluate(complete):
        time.sleep(0.1)
    x, y = (SIZE["width"] - 292) / 2, SIZE["height"] / 2  # the panel is 292 wide
    page.mouse.move(x + (POINTER[0] - AT[0]) / AT[2], y + (POINTER[1] - AT[1]) / AT[2])
    page.locator(".card").wait_for()
    time.sleep(0.5)
    return page.screenshot()


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
