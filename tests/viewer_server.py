"""Requests to the viewer's server and their responses, for its tests."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from wsi_seg.viewer.app import create_app
from wsi_seg.viewer.security import Access
from wsi_seg.viewer.state import Places

LOCAL = "http://127.0.0.1:8642"


def client(out: Path, access: Access | None = None, **places: Path) -> TestClient:
    """Return a client of a server on `out`, as a browser on this machine is one."""
    app = create_app(Places(out, **places), access)
    return TestClient(app, base_url=LOCAL, raise_server_exceptions=False, follow_redirects=False)


def only_id(asking: TestClient) -> str:
    """Return the id of the only result."""
    (one,) = asking.get("/api/slides").json()
    return str(one["id"])


def ended(asking: TestClient, job: str) -> dict[str, Any]:
    """Return the last state of a run or a training, by its address, once it has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        state: dict[str, Any] = asking.get(job).json()
        if state["state"] != "running":
            return state
        time.sleep(0.1)
    raise AssertionError(f"{job} does not end")


def picture(asking: TestClient, url: str, mode: str = "RGBA") -> NDArray[Any]:
    """Return the pixels of a picture, uint8 (h, w, bands of `mode`)."""
    answer = asking.get(url)
    assert answer.status_code == 200, (url, answer.text)
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert(mode))


def whole_level(asking: TestClient, base: str, zoom: int, ending: str, mode: str = "RGBA") -> NDArray[Any]:
    """Return all tiles of one Deep Zoom level put together."""
    facts = asking.get("/".join(base.split("/")[:4])).json()
    factor = 2 ** (facts["max_zoom"] - zoom)
    width, height = (-(-side // factor) for side in facts["size"])
    rows = [
        np.hstack([picture(asking, f"{base}/{zoom}/{x}_{y}{ending}", mode) for x in range(-(-width // 512))])
        for y in range(-(-height // 512))
    ]
    level = np.vstack(rows)
    assert level.shape[:2] == (height, width)
    return level
