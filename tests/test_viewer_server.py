"""The viewer's server on results as they come: on their way, moved, damaged; the command; runs it starts."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from tests.made.progress import StopAfter
from tests.made.pyramids import make_landmark_slide
from tests.made.results import make_results
from tests.viewer_server import client, only_id, picture, whole_level
from wsi_seg.cli import app
from wsi_seg.core.errors import Interrupted
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.results.claims import claimed
from wsi_seg.viewer import server
from wsi_seg.viewer.security import is_loopback

MARKS = (Box(200, 200, 500, 420), Box(800, 620, 1100, 900))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "marks.tiff"
    return make_landmark_slide(path, Size(1300, 1000), Scale(0.25, 0.25), MARKS)


@pytest.fixture(scope="module")
def finished(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OUT with one result; tests copy it."""
    return make_results(slide, tmp_path_factory.mktemp("finished") / "out").parent


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_a_run_can_be_watched_and_keeps_its_address(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make_results(slide, tmp_path, progress=StopAfter(3))
    asking = client(tmp_path)
    (line,) = asking.get("/api/slides").json()
    base = f"/api/slides/{line['id']}"
    assert line["status"] == "interrupted" and line["name"] == "marks" and line["has_slide"]
    with claimed(tmp_path / ".marks.claim"):
        progress = asking.get(f"{base}/progress").json()
    assert progress["status"] == "running"
    assert asking.get(base).json()["status"] == "interrupted"
    assert 3 <= progress["blocks_done"] < progress["blocks_total"] == 6
    assert 0 < progress["tiles_done"] < progress["tiles_total"]
    facts = asking.get(base).json()
    assert [one["name"] for one in facts["classes"]] == ["tumor", "stroma"] and facts["regions"] == 0
    for zoom in (11, 9):
        layer = whole_level(asking, f"{base}/layers/classes", zoom, ".png")[..., 3] > 0
        assert 0.2 < layer.mean() < 0.9
    answer = asking.get(f"{base}/layers/probability/9/0_0.png?channel=tumor")
    assert answer.headers["cache-control"] == "no-store"
    view = "box=0,0,1300,1000&scale=1"
    assert asking.get(f"{base}/regions?{view}").json() == {"groups": [], "regions": [], "hidden": 0}
    contours = asking.get(f"{base}/contours?{view}&channel=tumor&threshold=0.5").json()
    assert 1 <= len(contours["regions"]) <= 2
    make_results(slide, tmp_path)
    assert asking.get(base).json()["status"] == "done"  # at once; the list may be a second old
    assert [(one["id"], one["status"]) for one in asking.get("/api/slides").json()] == [(line["id"], "done")]
    assert whole_level(asking, f"{base}/layers/classes", 9, ".png")[..., 3].all()
    assert len(asking.get(f"{base}/regions?{view}").json()["regions"]) == 2


def test_a_run_that_has_not_begun_to_write_says_so(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        make_results(slide, tmp_path / "begun", progress=StopAfter(1))
    partial = tmp_path / "out" / ".marks.partial"
    partial.mkdir(parents=True)
    shutil.copy(tmp_path / "begun" / ".marks.partial" / "plan.json", partial)
    asking = client(tmp_path / "out")
    base = f"/api/slides/{only_id(asking)}"
    assert asking.get(base).json()["progress"]["blocks_done"] == 0
    assert asking.get(f"{base}/layers/classes/9/0_0.png").status_code == 404


def test_results_in_folders_have_ids_that_stay(out: Path) -> None:
    (out / "batch one" / "late").mkdir(parents=True)
    shutil.copytree(out / "marks", out / "batch one" / "late" / "marks")
    (out / "notes").mkdir()
    first, again = client(out).get("/api/slides").json(), client(out).get("/api/slides").json()
    assert first == again and len({one["id"] for one in first}) == 2
    assert {(one["name"], one["folder"]) for one in first} == {("marks", ""), ("marks", "batch one/late")}
    assert all(one["id"].isalnum() for one in first)
    alone = client(out / "marks").get("/api/slides").json()
    assert [one["name"] for one in alone] == ["marks"]


def test_the_list_and_the_details_say_what_the_summary_says(out: Path) -> None:
    summary = json.loads((out / "marks" / "summary.json").read_text())
    asking = client(out)
    (line,) = asking.get("/api/slides").json()
    assert line["tissue_mm2"] == summary["tissue_area_mm2"]
    assert {one["name"]: one["mm2"] for one in line["areas"]} == summary["group_area_mm2"]
    facts = asking.get(f"/api/slides/{line['id']}").json()
    assert {one["name"]: one["mm2"] for one in facts["classes"]} == summary["class_area_mm2"]
    (traced,) = (one for one in facts["groups"] if one["traced"])
    assert traced["count"] == summary["regions"]["tumor"]["count"] == facts["regions"] == 2
    assert facts["threshold"] == 0.5 and facts["mpp"] == [pytest.approx(0.25), pytest.approx(0.25)]
    assert facts["notice"] == line["notice"] == "for tests only"


@pytest.mark.parametrize("name", ["manifest.json", "summary.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 1}', "null"])
def test_a_damaged_result_is_named_and_the_others_are_shown(out: Path, name: str, content: str) -> None:
    shutil.copytree(out / "marks", out / "bad")
    (out / "bad" / name).write_text(content)
    asking = client(out)
    bad, good = asking.get("/api/slides").json()
    assert good["status"] == "done"
    if name == "manifest.json" or content in ("", "{", "[]", "null"):
        assert bad["status"] == "damaged" and name in bad["error"]
        answer = asking.get(f"/api/slides/{bad['id']}")
        assert answer.status_code == 500 and name in answer.json()["error"]


def test_failed_blocks_make_a_result_incomplete(out: Path) -> None:
    path = out / "marks" / "summary.json"
    path.write_text(path.read_text().replace('"complete"', '"incomplete"'))
    assert client(out).get("/api/slides").json()[0]["status"] == "incomplete"


def test_without_the_slide_the_rest_is_shown(out: Path, slide: Path, tmp_path: Path) -> None:
    _move_slide(out, tmp_path / "gone" / "marks.tiff")
    asking = client(out)
    base = f"/api/slides/{only_id(asking)}"
    facts = asking.get(base).json()
    assert not facts["has_slide"] and "--slides" in facts["slide_problem"]
    answer = asking.get(f"{base}/tiles/9/0_0.jpg")
    assert answer.status_code == 404 and "--slides" in answer.json()["error"]
    assert picture(asking, f"{base}/layers/classes/9/0_0.png")[..., 3].all()
    assert max(picture(asking, f"{base}/thumbnail.jpg").shape) == 384  # of overview.png


def test_a_moved_slide_is_found_by_its_name_if_it_is_the_same(out: Path, slide: Path, tmp_path: Path) -> None:
    _move_slide(out, tmp_path / "gone" / "marks.tiff")
    (tmp_path / "new" / "deep").mkdir(parents=True)
    other = make_landmark_slide(
        tmp_path / "new" / "marks.tiff", Size(1300, 1000), Scale(0.25, 0.25), MARKS[:1]
    )
    asking = client(out, slides=tmp_path / "new")
    problem = asking.get(f"/api/slides/{only_id(asking)}").json()["slide_problem"]
    assert str(other) in problem and "another slide" in problem
    shutil.copy(slide, tmp_path / "new" / "deep" / "marks.tiff")
    asking = client(out, slides=tmp_path / "new")
    base = f"/api/slides/{only_id(asking)}"
    assert asking.get(base).json()["has_slide"]
    assert (picture(asking, f"{base}/tiles/11/1_1.jpg", "L") < 50).any()


def _move_slide(out: Path, to: Path) -> None:
    path = out / "marks" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["slide"]["path"] = str(to)
    path.write_text(json.dumps(manifest))


def test_only_results_of_one_slide_are_compared(out: Path, tmp_path: Path) -> None:
    shutil.copytree(out / "marks", out / "again" / "marks")
    other = make_landmark_slide(tmp_path / "other.tiff", Size(1300, 1000), Scale(0.25, 0.25), MARKS[:1])
    make_results(other, out)
    asking = client(out)
    ids: dict[str, list[str]] = {}
    for one in asking.get("/api/slides").json():
        ids.setdefault(one["name"], []).append(one["id"])
    a, b = ids["marks"]
    both = asking.get(f"/api/compare?a={a}&b={b}").json()
    assert (both["a"]["id"], both["b"]["id"], both["same"]) == (a, b, True)
    assert asking.get(f"/api/compare?a={a}&b={ids['other'][0]}").status_code == 409
    assert asking.get(f"/api/compare?a={a}").status_code == 400
    assert asking.get(f"/api/compare?a={a}&b=nothing").status_code == 404


def test_unknown_addresses_answer_in_json(out: Path) -> None:
    asking = client(out)
    for url in ("/nothing", "/api/slides/nothing", "/api/slides/nothing/tiles/0/0_0.jpg", "/"):
        answer = asking.get(url)
        assert answer.status_code == 404 and list(answer.json()) == ["error"]
    assert asking.get("/api").json()["allow_run"] is False
    base = f"/api/slides/{only_id(asking)}"
    assert asking.get(f"{base}/layers/nothing/0/0_0.png").status_code == 404
    assert asking.get(f"{base}/layers/uncertainty/0/0_0.png").status_code == 404
    assert asking.head("/api/slides").status_code == 200


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page in place of the one that the build makes."""
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>viewer</title>")
    monkeypatch.setattr(server, "STATIC", folder)
    return folder


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["view", *map(str, arguments), "--no-browser"])
    assert result.exit_code in (1, 2), result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ") and result.stdout == ""
    return line


def test_bad_arguments_get_one_clear_line(out: Path, page: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no such folder" in refused(tmp_path / "absent")
    line = refused(tmp_path / "empty")
    assert "no results" in line and "wsi-seg run" in line and "--allow-run" in line
    assert "--slides" in refused(out, "--slides", tmp_path / "absent")
    assert "--allow-run" in refused(out, "--allow-run", tmp_path / "absent")
    assert "192.0.2.1" in refused(out, "--host", "192.0.2.1", "--port", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(out, "--port", port)
        assert str(port) in line and "--port" in line


def test_a_missing_page_says_why(out: Path, page: Path) -> None:
    (page / "index.html").unlink()
    assert "page is missing" in refused(out)
    (page / "MISSING.txt").write_text("no network at build time;\nbuild it again")
    assert "no network at build time; build it again" in refused(out)


MAIN = (
    "import signal, sys\nfrom pathlib import Path\nfrom wsi_seg.viewer import server\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "server.STATIC = Path(sys.argv.pop(1))\nfrom wsi_seg.cli import main\nmain()"
)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_command_serves_until_it_is_interrupted(out: Path, page: Path, host: str) -> None:
    command = [
        sys.executable,
        "-c",
        MAIN,
        str(page),
        "view",
        str(out),
        "--port",
        "0",
        "--no-browser",
        "--host",
        host,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = httpx.URL(process.stdout.readline().strip())
        assert is_loopback(host) != ("token" in url.params)
        with httpx.Client(base_url=url.copy_with(host="127.0.0.1", query=None), timeout=20) as browser:
            # More connections on which nothing is asked than a server takes: they are in nobody's way.
            idle = [socket.create_connection(("127.0.0.1", url.port or 0)) for _ in range(530)]
            assert browser.get("/api/slides").status_code == (200 if is_loopback(host) else 401)
            for one in idle:
                one.close()
            assert "<title>viewer" in browser.get("/", params=url.params).text
            assert browser.get("/api/slides").json()[0]["name"] == "marks"
            assert "server" not in browser.get("/").headers
            assert browser.get("/api/slides", headers={"Host": "evil.example"}).status_code == 403
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert errors == ""
