"""The viewer with many results, many connections, and many visits."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.made.pyramids import make_landmark_slide
from tests.made.results import make_results
from tests.viewer_server import client
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.viewer import connections, slides
from wsi_seg.viewer import state as viewer_state

COUNT = 150


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many results of one slide, of which only what is listed is there; the last is of another slide."""
    folder = tmp_path_factory.mktemp("many")
    kept = []
    for name, mark in (("one", Box(20, 20, 90, 90)), ("other", Box(100, 20, 150, 90))):
        slide = make_landmark_slide(folder / f"{name}.tiff", Size(300, 200), Scale(0.5, 0.5), [mark], (1,))
        made = make_results(slide, folder / "made")
        kept.append([(made / file).read_bytes() for file in ("manifest.json", "summary.json")])
    for i in range(COUNT):
        place = folder / "out" / ("night" if i % 10 == 0 else "day") / f"slide{i:03d}"
        place.mkdir(parents=True)
        for file, content in zip(("manifest.json", "summary.json"), kept[i == COUNT - 1], strict=True):
            (place / file).write_bytes(content)
    return folder / "out"


class Calls:
    """Counts the calls of a function."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        self.count, self._function = 0, getattr(module, name)
        monkeypatch.setattr(module, name, self)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.count += 1
        return self._function(*arguments, **named)


def test_the_list_is_read_once_for_each_version(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Calls(monkeypatch, viewer_state, "read_result_info")
    opened = Calls(monkeypatch, slides, "reopen_slide")
    asking = client(out)
    first = asking.get("/api/slides")
    assert len(first.json()) == read.count == COUNT and first.headers["x-total-count"] == str(COUNT)
    assert {one["status"] for one in first.json()} == {"done"} and all(
        one["has_slide"] for one in first.json()
    )
    again = asking.get("/api/slides", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and not again.content
    assert (read.count, opened.count) == (COUNT, 0)  # no slide is opened for the list
    manifest = out / "day" / "slide007" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    changed = next(one["id"] for one in first.json() if one["name"] == "slide007")
    assert asking.get(f"/api/slides/{changed}/progress").status_code == 200  # which looks at the folder
    renewed = asking.get("/api/slides", headers={"If-None-Match": first.headers["etag"]})
    assert renewed.status_code == 200 and read.count <= COUNT + 2


def test_the_list_has_pages_and_can_be_searched(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = client(out).get("/api/slides").json()
    read = Calls(monkeypatch, viewer_state, "read_result_info")
    asking = client(out)
    page = asking.get("/api/slides?limit=20&offset=140")
    assert [one["name"] for one in page.json()] == [f"slide{i:03d}" for i in range(140, 150)]
    assert page.headers["x-total-count"] == str(COUNT) and read.count == 10
    found = asking.get("/api/slides?find=NIGHT/slide01&limit=20")
    assert [one["name"] for one in found.json()] == ["slide010"] and found.headers["x-total-count"] == "1"
    assert asking.get("/api/slides?find=nothing").json() == []
    for wrong in ("limit=0", "limit=x", "offset=-1"):
        assert asking.get(f"/api/slides?{wrong}").status_code == 400
    same = asking.get(f"/api/slides/{every[0]['id']}/same").json()
    assert [one["id"] for one in same] == [one["id"] for one in every[1:-1]]  # the last is of another slide
    assert set(same[0]) == {"id", "name", "folder"}


def test_the_list_is_filtered_and_sorted(out: Path) -> None:
    damaged = out / "day" / "slide003" / "summary.json"
    kept = damaged.read_text()
    damaged.write_text(kept[:40])
    older = out / "day" / "slide005" / "manifest.json"
    said = json.loads(older.read_text())
    older.write_text(json.dumps({**said, "finished": "2020-02-03T04:05:06+00:00"}))
    many = out / "night" / "slide010" / "summary.json"
    many.write_text(many.read_text().replace('"count": 1', '"count": 7'))
    asking = client(out)

    def names(query: str) -> list[str]:
        answer = asking.get(f"/api/slides?{query}")
        listed = [one["name"] for one in answer.json()]
        assert answer.headers["x-total-count"] == str(len(listed))
        return listed

    assert names("regions=2") == ["slide010"]
    assert names("sort=-regions")[0] == "slide010" and names("sort=-regions")[-1] == "slide003"
    assert names("since=1580600000&until=1580800000") == ["slide005"] == names("sort=date")[:1]
    assert names("status=damaged") == ["slide003"] and len(names("status=done")) == COUNT - 1
    assert len(names("model=darkness+1&find=night")) == COUNT // 10 and names("model=darkness+2") == []
    assert names("sort=-name&find=slide00")[:2] == ["slide009", "slide008"]
    assert asking.get("/api/models").json() == ["darkness 1"]
    ids = {one["name"]: one["id"] for one in asking.get("/api/slides").json()}
    assert asking.get(f"/api/slides/{ids['slide004']}/neighbors?find=slide00").json() == {
        # In the list by name, folders do not count; slide000 comes first, and a damaged one is passed over.
        "previous": ids["slide002"], "next": ids["slide005"], "position": 4, "total": 9,
    }  # fmt: skip
    alone = asking.get(f"/api/slides/{ids['slide010']}/neighbors?regions=2").json()
    assert (alone["previous"], alone["next"], alone["position"]) == (None, None, 1)
    for wrong in ("status=odd", "sort=size", "since=x", "regions=-1"):
        assert asking.get(f"/api/slides?{wrong}").status_code == 400
    damaged.write_text(kept)


def test_what_the_page_loads_may_be_kept_for_good(out: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text('<script src="static/main.js" type="module"></script>')
    (page / "main.js").write_text("// one")
    asking = client(out, static=page)
    html = asking.get("/")
    assert html.headers["cache-control"] == "no-cache" and html.headers["content-type"].startswith(
        "text/html"
    )
    (path,) = re.findall(r'"(static/\w+/main\.js)"', html.text)
    script = asking.get(f"/{path}")
    assert (
        script.text == "// one" and script.headers["cache-control"] == "private, max-age=31536000, immutable"
    )
    plain = asking.get("/static/main.js")
    assert plain.text == "// one" and plain.headers["cache-control"] == "private, no-cache"
    tag = {"If-None-Match": plain.headers["etag"]}
    assert asking.get("/static/main.js", headers=tag).status_code == 304
    other = Path(tmp_path / "other")
    page.rename(other)
    (other / "main.js").write_text("// two")
    assert path not in client(out, static=other).get("/").text
    assert client(out, static=other).get(f"/{path}").status_code == 404


# --- connections --------------------------------------------------------------------------------------------


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server with small limits: three connections, 0.4 s for a request to come, and to read an answer."""
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 0.4)
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.4)

    def quick(_: Request) -> Response:
        return PlainTextResponse("here")

    def slow(_: Request) -> Response:
        time.sleep(0.8)
        return PlainTextResponse("late")

    def large(_: Request) -> Response:
        return PlainTextResponse("x" * 2**24)

    app = Starlette(routes=[Route("/", quick), Route("/slow", slow), Route("/large", large)])
    config = uvicorn.Config(
        app, http=connections.BoundedConnection, limit_concurrency=4, log_level="critical", lifespan="off"
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        thread.join(10)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def is_closed(one: socket.socket) -> bool:
    """Wait until the server closes a connection on which it says nothing; raise where it does not in 5 s."""
    try:
        return one.recv(1) == b""
    except ConnectionResetError:
        return True


def test_idle_connections_make_room(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 60)
    with ExitStack() as stack:
        browser = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=5))
        assert browser.get("/").text == "here"
        idle = [stack.enter_context(connect(port)) for _ in range(12)]
        assert all(is_closed(one) for one in idle[:9])  # and, idle longest, that of the browser
        assert [browser.get("/").status_code for _ in range(3)] == [200, 200, 200]


def test_a_request_has_to_come_in_time_and_may_be_answered_late(port: int) -> None:
    with connect(port) as asks, connect(port) as silent, connect(port) as drips:
        asks.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        start = time.monotonic()
        drips.sendall(b"GET / HTTP/1.1\r\n")
        with pytest.raises(OSError):
            while time.monotonic() - start < 5:
                drips.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - start > 0.3 and is_closed(silent)
        answer = b""
        while not answer.endswith(b"late"):
            part = asks.recv(4096)
            assert part, answer
            answer += part


def test_a_client_that_does_not_read_is_given_up(port: int) -> None:
    with connect(port) as asks:
        asks.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(1.0)
        got = 0
        while part := asks.recv(2**20):
            got += len(part)
        assert got < 2**23  # what was in buffers
    with connect(port) as asks:
        asks.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        got = 0
        while part := asks.recv(2**20):
            got += len(part)
        assert got > 2**24
