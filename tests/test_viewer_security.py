"""Attacks on the viewer's server: what each tries, and that it gets nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.made.landmarks import darkness_model
from tests.made.pyramids import write_pyramid
from tests.made.results import make_results, renamed
from tests.viewer_server import LOCAL, client, only_id
from wsi_seg.core.geometry import Scale
from wsi_seg.core.lru import LRUCache
from wsi_seg.inference.models.registry import BUNDLED
from wsi_seg.viewer.limits import ThreadLimiter
from wsi_seg.viewer.responses import Refused
from wsi_seg.viewer.security import MOST_BODY, Access

SECRET = "a secret of this machine"
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a secret next to OUT, a slide and its results, and a page."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "secret.txt").write_text(SECRET)
    (folder / "static").mkdir()
    (folder / "static" / "index.html").write_text("<!doctype html><title>page</title>")
    pixels = np.full((300, 400, 3), 240, np.uint8)
    pixels[100:200, 100:200] = 30
    write_pyramid(folder / "slide.tiff", pixels, Scale(0.5, 0.5), (1, 2))
    make_results(folder / "slide.tiff", folder / "out")
    return folder


@pytest.fixture(scope="module")
def asking(home: Path) -> TestClient:
    places = {"runs": home / "out", "reviews": home / "out-review"}
    return client(home / "out", static=home / "static", **places)


def encodings(path: str) -> Iterator[str]:
    """Yield ways to write a path that leads elsewhere."""
    yield path
    yield quote(path, safe="")
    yield quote(quote(path, safe=""), safe="")
    yield path.replace("..", "%2e%2e")
    yield path.replace("/", "%2f")
    yield path.replace("..", "%2E%2E").replace("/", "%2F")
    yield path.replace("/", "\\")
    yield path.replace("/", "%5c")
    yield path.replace("..", "%c0%ae%c0%ae")  # overlong UTF-8
    yield path.replace("..", "．．")  # full-width dots
    yield path.replace("../", "....//")
    yield path + "%00.jpg"


@pytest.mark.parametrize(
    "before",
    ["/static/", "/", "/api/slides/", "/api/slides/{id}/", "/api/slides/{id}/layers/", "/api/run/",
     "/api/slides/{id}/tiles/0/", "/api/slides/{id}/regions/"],
)  # fmt: skip
def test_no_spelling_of_a_path_leads_out(asking: TestClient, home: Path, before: str) -> None:
    before = before.replace("{id}", only_id(asking))
    for target in ("../secret.txt", "../../secret.txt", "../../../etc/passwd", str(home / "secret.txt"),
                   "/etc/passwd", "../out/slide/manifest.json"):  # fmt: skip
        for spelled in encodings(target):
            # As it is, past the client's own tidying of paths.
            answer = raw(asking, (before + spelled).encode())
            assert answer.status in (400, 403, 404), (before, spelled, answer.status)
            assert SECRET.encode() not in answer.body and b"root:" not in answer.body
            assert b"fingerprint" not in answer.body


class Answer:
    """Response of the application to a request that no client would write."""

    def __init__(self) -> None:
        self.status, self.body = 0, b""
        self.headers: dict[str, str] = {}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode(): value.decode() for key, value in message["headers"]}
        else:
            self.body += message.get("body", b"")


def raw(asking: TestClient, target: bytes, method: str = "GET", **headers: str) -> Answer:
    """Ask with this very target, percent-decoded once as servers do."""
    from urllib.parse import unquote

    path, _, query = target.partition(b"?")
    sent = {"host": "127.0.0.1:8642", **headers}
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": unquote(path.decode("latin-1"), errors="replace"), "raw_path": path, "query_string": query,
        "root_path": "", "headers": [(k.lower().encode(), v.encode("latin-1")) for k, v in sent.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8642),
    }  # fmt: skip
    answer = Answer()

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def ask() -> None:
        await asking.app(scope, receive, answer.send)

    anyio.run(ask)
    return answer


def test_symbolic_links_are_not_followed(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(home / "out", out)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(home / "out" / "slide", elsewhere / "slide")
    (out / "linked").symlink_to(elsewhere / "slide")
    (out / "up").symlink_to(tmp_path)
    asking = client(out)
    assert [one["name"] for one in asking.get("/api/slides").json()] == ["slide"]
    base = f"/api/slides/{only_id(asking)}"
    for name in ("polygons.geojson", "overview.png", "report.html"):
        (out / "slide" / name).unlink()
        (out / "slide" / name).symlink_to(home / "secret.txt")
    assert asking.get(f"{base}/polygons.geojson").status_code == 404
    assert asking.get(f"{base}/report.html").status_code == 404
    assert asking.get(f"{base}/regions?box=0,0,9,9&scale=1").json()["regions"] == []
    assert SECRET not in asking.get(f"{base}/thumbnail.jpg").text


@pytest.mark.parametrize("name", ["manifest.json", "summary.json", "maps.zarr", "maps.zarr/0/zarr.json"])
def test_links_in_place_of_files_of_a_result_are_refused(home: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(home / "out", tmp_path / "out")
    place = tmp_path / "out" / "slide" / name
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    asking = client(tmp_path / "out")
    for one in asking.get("/api/slides").json():
        base = f"/api/slides/{one['id']}"
        for path in ("/layers/classes/9/0_0.png", "/layers/probability/9/0_0.png?channel=tumor"):
            answer = asking.get(base + path)
            assert answer.status_code in (404, 500) and set(answer.json()) == {"error"}


def test_a_manifest_cannot_make_the_server_read_or_fetch_other_things(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "out", tmp_path / "out")
    manifest = tmp_path / "out" / "slide" / "manifest.json"
    stated = json.loads(manifest.read_text())
    other = np.zeros((300, 400, 3), np.uint8)
    write_pyramid(tmp_path / "private.tiff", other, Scale(0.5, 0.5), (1, 2))
    os.mkfifo(tmp_path / "pipe")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/slide.tiff"
        for path in (
            tmp_path / "private.tiff",
            home / "secret.txt",
            tmp_path / "pipe",
            "/dev/zero",
            url,
            "\0",
        ):
            stated["slide"]["path"] = str(path)
            manifest.write_text(json.dumps(stated))
            asking = client(tmp_path / "out")
            base = f"/api/slides/{only_id(asking)}"
            facts = asking.get(base).json()
            assert not facts["has_slide"] and facts["slide_problem"], path
            answer = asking.get(f"{base}/tiles/9/0_0.jpg")
            assert answer.status_code == 404 and SECRET not in answer.text
        listening.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listening.accept()


def test_hostile_names_are_text_in_json(tmp_path: Path) -> None:
    pixels = np.full((200, 300, 3), 240, np.uint8)
    pixels[50:150, 50:150] = 20
    name = "<script>alert('x')</script>\"&\n; filename=evil.exe".replace("/", "_")
    write_pyramid(tmp_path / "slide.tiff", pixels, Scale(0.5, 0.5), (1,))
    results = make_results(tmp_path / "slide.tiff", tmp_path / "out", renamed(darkness_model(), HOSTILE))
    results.rename(results.with_name(name))
    asking = client(tmp_path / "out")
    listed = asking.get("/api/slides")
    assert listed.headers["content-type"] == "application/json"
    assert listed.json()[0]["name"] == name
    base = f"/api/slides/{listed.json()[0]['id']}"
    facts = asking.get(base).json()
    assert facts["classes"][0]["name"] == HOSTILE == facts["groups"][0]["name"]
    region = asking.get(f"{base}/regions/0")
    assert region.headers["content-type"] == "application/json" and region.json()["group"] == HOSTILE
    assert asking.get(f"{base}/layers/probability/8/0_0.png", params={"channel": HOSTILE}).status_code == 200
    refused = asking.get(f"{base}/layers/probability/8/0_0.png", params={"channel": HOSTILE + "x"})
    assert refused.status_code == 404 and refused.headers["content-type"] == "application/json"
    download = asking.get(f"{base}/polygons.geojson")
    assert download.headers["content-disposition"].startswith("attachment; filename*=utf-8''%3Cscript%3E")
    assert "\n" not in download.headers["content-disposition"]
    for answer in (listed, region, refused, download):
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_report_may_run_and_load_nothing(home: Path, tmp_path: Path) -> None:
    """Results come from anywhere, and a page in them is shown from the server's own address."""
    out = tmp_path / "out"
    shutil.copytree(home / "out", out)
    (out / "slide" / "report.html").write_text("<script>fetch('/api/slides')</script>")
    asking = client(out)
    base = f"/api/slides/{only_id(asking)}"
    answer = asking.get(f"{base}/report.html")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"].split("; ")
    assert policy[:2] == ["sandbox", "default-src 'none'"]  # neither scripts, nor the origin of this server
    assert not any(part.startswith(("script-src", "connect-src")) for part in policy)
    assert (
        asking.get(base)
        .headers["content-security-policy"]
        .startswith("default-src 'none'; script-src 'self'")
    )
    assert asking.get(base).json()["report"] is True


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8642", "127.0.0.1.evil.example", "localhost.evil.example",
     "127.0.0.1@evil.example", "evil.example/127.0.0.1", "169.254.169.254", "10.0.0.1:8642", "", "[::1",
     "localhost:port", "localhost:99999", "LOCALHOST.", "127.0.0.1:8642", "localhost:9000", "[::1]:8642"],
)  # fmt: skip
def test_only_names_of_this_machine_are_answered(asking: TestClient, host: str) -> None:
    own = host in ("127.0.0.1:8642", "localhost:9000", "[::1]:8642", "LOCALHOST.")
    answer = raw(asking, b"/api/slides", host=host)
    assert answer.status == (200 if own else 403)
    assert own or set(json.loads(answer.body)) == {"error"}


RETRAIN = {"model": "bcss-demo", "name": "new", "steps": 1}
START = {"slide": "slide.tiff", "model": "bcss-demo", "groups": ["tumor"], "threshold": 0.5}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "null"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": LOCAL, "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_pages_of_other_sites_get_nothing(asking: TestClient, headers: dict[str, str]) -> None:
    for method, path, body in (
        ("POST", "/api/run", START),
        ("DELETE", "/api/run/x", None),
        ("GET", "/api/slides", None),
        ("POST", "/api/retrain", RETRAIN),
        ("POST", "/api/retrain/run", {"name": "new"}),
        ("DELETE", "/api/retrain/x", None),
        ("GET", "/api/retrain/options", None),
    ):
        answer = asking.request(method, path, headers=headers, json=body)
        assert answer.status_code == 403, (method, headers)
    # But a link to the page may stand anywhere.
    assert asking.get("/", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


def test_forms_cannot_start_a_run(asking: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        for path, body in (
            ("/api/run", START),
            ("/api/retrain", RETRAIN),
            ("/api/retrain/run", {"name": "a"}),
        ):
            answer = asking.post(path, content=json.dumps(body), headers={"Content-Type": kind})
            assert answer.status_code == 415


@pytest.mark.parametrize(
    "change",
    [
        {"slide": "../slide.tiff"},
        {"slide": "/etc/passwd"},
        {"slide": "--output=/tmp"},
        {"slide": "http://evil.example/a.svs"},
        {"model": "/tmp/model"},
        {"model": "hf://evil/model"},
        {"model": "../bcss-demo"},
        {"groups": []},
        {"groups": ["--set"]},
        {"groups": ["tumor,stroma"]},
        {"groups": "tumor"},
        {"threshold": 0},
        {"threshold": "0.5; rm -rf"},
        {"threshold": float("nan")},
        {"threshold": 1e300},
        {"preset": "--overwrite"},
        {"mpp": 0},
        {"mpp": -0.25},
        {"mpp": float("inf")},
        {"mpp": "0.25 --overwrite"},
        {"overwrite": "yes"},
        {"more": 1},
        {"slide": "x" * 5000},
        {"slide": None},
    ],
)
def test_runs_take_only_what_is_in_their_tables(asking: TestClient, change: dict[str, Any]) -> None:
    answer = asking.post(
        "/api/run", content=json.dumps({**START, **change}), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 400 and set(answer.json()) == {"error"}
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "/tmp/model"},
        {"model": "hf://evil/model"},
        {"model": "../bcss-demo"},
        {"model": "os:system"},
        {"name": "../new"},
        {"name": "new/../../up"},
        {"name": "/tmp/new"},
        {"name": "--resume"},
        {"name": "new\n"},
        {"name": "new\0"},
        {"name": "．．"},
        {"name": "x" * 5000},
        {"name": None},
        {"steps": 0},
        {"steps": 1.5},
        {"steps": 10**9},
        {"whose": "(a+)+$"},
        {"held_out": "all"},
        {"held_out": ["a"] * 1001},
        {"more": 1},
    ],
)
def test_trainings_take_only_what_is_in_their_tables(
    asking: TestClient, home: Path, change: dict[str, Any]
) -> None:
    before = sorted(path.name for path in home.iterdir())
    for path, body in (("/api/retrain", RETRAIN), ("/api/retrain/run", {"name": "new"})):
        answer = asking.post(
            path, content=json.dumps({**body, **change}), headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400 and set(answer.json()) == {"error"}
        assert "\n" not in answer.json()["error"]
    assert sorted(path.name for path in home.iterdir()) == before


def test_a_link_in_place_of_a_trained_model_is_not_followed(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(home / "out", out)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(BUNDLED / "bcss-demo", elsewhere)
    models = tmp_path / "out-models"
    (models / "file").mkdir(parents=True)
    (models / "file" / "card.json").symlink_to(elsewhere / "card.json")
    (models / "folder").symlink_to(elsewhere)
    asking = client(out, runs=out, reviews=tmp_path / "out-review")
    assert [one["name"] for one in asking.get("/api/run/options").json()["models"]] == ["bcss-demo"]
    for name in ("file", "folder"):
        answer = asking.post("/api/retrain/run", json={"name": name})
        assert answer.status_code == 400, answer.text
        assert asking.post("/api/retrain", json={**RETRAIN, "name": name}).status_code == 409


@pytest.mark.parametrize("allowed", [(), ("runs",), ("reviews",)])
def test_nothing_can_be_changed_without_what_allows_it(home: Path, allowed: tuple[str, ...]) -> None:
    reading = client(home / "out", static=home / "static", **dict.fromkeys(allowed, home / "out"))
    closed = [("POST", "/api/retrain"), ("POST", "/api/retrain/run"), ("GET", "/api/retrain/options")]
    if "runs" not in allowed:
        closed += [("POST", "/api/run"), ("GET", "/api/run/options"), ("DELETE", "/api/run/x")]
    for method, path in closed:
        assert reading.request(method, path, json=START).status_code == 404
    base = f"/api/slides/{only_id(reading)}"
    for method in ("PUT", "PATCH", "POST", "DELETE", "TRACE", "CONNECT", "OPTIONS", "EVIL"):
        assert reading.request(method, base).status_code == 405


def test_oversized_requests_are_refused(asking: TestClient) -> None:
    json_kind = {"Content-Type": "application/json"}
    assert asking.post("/api/run", content=b"x" * (MOST_BODY + 1), headers=json_kind).status_code == 413

    def endless() -> Iterator[bytes]:  # without a Content-Length
        for _ in range(100):
            yield b" " * 4096

    assert asking.post("/api/run", content=endless(), headers=json_kind).status_code == 413
    lying = raw(asking, b"/api/run", "POST", **{"content-length": "9" * 5000})
    assert lying.status == 413
    assert raw(asking, b"/api/run", "POST", **{"content-length": "-1"}).status == 413
    assert raw(asking, b"/api/slides?" + b"a" * 5000).status == 414
    nested = asking.post("/api/run", content=b"[" * 60_000, headers=json_kind)
    assert nested.status_code == 400


@pytest.mark.parametrize(
    "query",
    [
        "regions", "regions?box=0,0,9,9", "regions?scale=1", "regions?box=0,0,9&scale=1",
        "regions?box=9,9,0,0&scale=1",
        "regions?box=0,0,nan,9&scale=1", "regions?box=0,0,inf,9&scale=1", "regions?box=0,0,1e99,9&scale=1",
        "regions?box=0,0,9,9&scale=0", "regions?box=0,0,9,9&scale=-1", "regions?box=0,0,9,9&scale=nan",
        "regions?box=0,0,1e7,1e7&scale=0.01", "regions?box=0,0,9,9&scale=" + "1" * 1000,
        "contours?box=0,0,9,9&scale=1&channel=tumor&threshold=0",
        "contours?box=0,0,9,9&scale=1&threshold=0.5",
        "contours?box=0,0,9,9&scale=1&channel=tumor&threshold=nan", "contours?channel=tumor&threshold=0.5",
        "contours?box=0,0,9,9&scale=1&channel=tumor&threshold=0.5&kind=other",
        "regions/at?x=nan&y=1", "regions/at?x=1", "regions/-1", "regions/1e3", "regions/%D9%A3",
        "layers/classes/9/0_0.png?codes=1,x", "layers/classes/9/0_0.png?codes=0",
        "layers/classes/9/0_0.png?codes=256",
        "layers/classes/9/0_0.png?codes=" + "1," * 300, "layers/classes/9/0_0.png?palette=evil",
        "layers/probability/9/0_0.png", "layers/classes/9/-1_0.png",
        "layers/classes/99999999999999999999/0_0.png",
        "layers/classes/9/%D9%A0_0.png", "tiles/9/0_0.jpg%00",
    ],
)  # fmt: skip
def test_numbers_are_bounded(asking: TestClient, query: str) -> None:
    answer = raw(asking, f"/api/slides/{only_id(asking)}/{query}".encode())
    assert answer.status in (400, 404), answer.status
    assert set(json.loads(answer.body)) == {"error"} and len(answer.body) < 300


def test_tiles_that_are_not_there_are_not_made(asking: TestClient) -> None:
    base = f"/api/slides/{only_id(asking)}"
    for place in ("9/1_0", "9/0_1", "10/0_0", "8/1_1", "999999/0_0", "0/1_0"):
        for url in (f"{base}/tiles/{place}.jpg", f"{base}/layers/classes/{place}.png"):
            assert asking.get(url).status_code == 404, url


class TestToken:
    """A server that others can reach."""

    token = "t" * 43
    access = Access("192.0.2.7", token, cookie="wsi_seg_8642", names=frozenset({"lab"}))

    @pytest.fixture
    def far(self, home: Path) -> TestClient:
        return client(home / "out", self.access, static=home / "static")

    def test_nothing_without_it(self, far: TestClient) -> None:
        for path in ("/", "/api", "/api/slides", "/static/index.html", f"/api/slides?token={self.token}"):
            assert far.get(path).status_code == 401, path
        for wrong in ("", "t" * 42, "t" * 44, "T" * 43, "ü" * 43, "\udcff"):
            assert far.get("/", params={"token": wrong.encode("utf-8", "surrogateescape")}).status_code == 401
            header = {"Authorization": f"Bearer {wrong}".encode("utf-8", "surrogateescape")}
            assert far.get("/api/slides", headers=header).status_code == 401
        assert far.get("/api/slides", headers={"Cookie": "wsi_seg_8642=wrong"}).status_code == 401

    def test_the_address_gives_a_cookie_that_scripts_cannot_read(self, far: TestClient) -> None:
        page = far.get(f"/?token={self.token}")
        assert page.status_code == 200
        cookie = page.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
        assert far.get("/api/slides").status_code == 200  # with the cookie
        bearer = {"Authorization": f"Bearer {self.token}"}
        far.cookies.clear()
        assert far.get("/api/slides").status_code == 401
        assert far.get("/api/slides", headers=bearer).status_code == 200

    def test_own_names_and_addresses_but_no_others(self, far: TestClient) -> None:
        for host, status in (
            ("192.0.2.7:80", 200), ("lab:8642", 200), ("10.1.2.3", 200), ("localhost", 200),
            ("evil.example", 403), ("lab.evil.example", 403), ("192.0.2.7.evil.example", 403),
        ):  # fmt: skip
            answer = raw(far, b"/api/slides", host=host, authorization=f"Bearer {self.token}")
            assert answer.status == status, host

    def test_a_local_server_answers_without_one(self, asking: TestClient) -> None:
        answer = asking.get("/")
        assert answer.status_code == 200 and "set-cookie" not in answer.headers


def test_every_answer_says_what_a_page_may_do(asking: TestClient) -> None:
    base = f"/api/slides/{only_id(asking)}"
    for url in (
        "/",
        "/static/index.html",
        "/api/slides",
        f"{base}/tiles/9/0_0.jpg",
        "/nowhere",
        f"{base}/regions",
    ):
        headers = asking.get(url).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers
    assert raw(asking, b"/api/slides", host="evil.example").headers["x-content-type-options"] == "nosniff"


def test_a_fault_of_the_server_tells_nothing(asking: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError(SECRET)

    base = f"/api/slides/{only_id(asking)}"
    monkeypatch.setattr("wsi_seg.viewer.app.describe_result", fail)
    answer = asking.get(base)
    assert answer.status_code == 500 and "ZeroDivisionError" in answer.json()["error"]
    assert SECRET not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_work_is_bounded_and_what_would_wait_too_long_is_refused() -> None:
    workers = ThreadLimiter(threads=2, most_waiting=3)
    going, most, lock, free = 0, 0, threading.Lock(), threading.Event()

    def work() -> None:
        nonlocal going, most
        with lock:
            going += 1
            most = max(most, going)
        free.wait(10)
        with lock:
            going -= 1

    refused = []

    async def one() -> None:
        try:
            await workers.run(work)
        except Refused as error:
            refused.append(error.status)

    async def crowd() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(9):
                group.start_soon(one)
            await anyio.sleep(0.2)
            free.set()

    anyio.run(crowd)
    assert most == 2 and refused == [503] * 4


def test_caches_stay_within_their_bytes_and_drop_values() -> None:
    gone: list[bytes] = []
    kept: LRUCache[bytes] = LRUCache(100, len, gone.append)
    for i in range(20):
        kept.put(i, bytes([i]) * 30)
        kept.get(0)
        assert kept.held <= 100
    assert kept.get(0) is not None and kept.get(19) is not None and kept.get(5) is None
    assert len(gone) == 17
    kept.put("large", b"x" * 101)
    assert kept.get("large") is None and kept.held <= 100
    kept.put("last", b"x" * 10)
    kept.drop("last")
    kept.drop("last")
    assert kept.get("last") is None and kept.held == 0 and gone.count(b"x" * 10) == 1
