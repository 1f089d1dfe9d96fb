"""Reviews from the browser: verdicts, queue, undo, edits of outlines, attacks on the routes that write."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from starlette.testclient import TestClient
from typer.testing import CliRunner

from tests.made.pyramids import write_pyramid
from tests.made.results import make_results
from tests.viewer_server import LOCAL, client, only_id
from wsi_seg.cli import app
from wsi_seg.core.geometry import Scale
from wsi_seg.regions.polygons import TraceSettings
from wsi_seg.review.entries import MOST_CORNERS
from wsi_seg.viewer.security import MOST_BODY, MOST_REVIEW_BODY

# x0, y0, x1, y1 of dark rectangles, which are tumor; larger ones first.
DARK = ((20, 20, 180, 140), (220, 30, 330, 120), (40, 190, 110, 260), (250, 200, 290, 240))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reviewed")
    pixels = np.full((300, 400, 3), 240, np.uint8)
    for shade, (x0, y0, x1, y1) in zip((30, 60, 90, 110), DARK, strict=True):
        pixels[y0:y1, x0:x1] = shade
    write_pyramid(folder / "slide.tiff", pixels, Scale(0.5, 0.5), (1, 2))
    make_results(folder / "slide.tiff", folder / "out", trace=TraceSettings(min_area_um2=100))
    return folder / "out"


class Reviewing:
    """A browser that reviews the only result."""

    def __init__(self, out: Path, reviews: Path) -> None:
        self.http: TestClient = client(out, reviews=reviews)
        self.id = only_id(self.http)
        self.version = self.http.get(f"/api/slides/{self.id}").json()["version"]
        self.base = f"/api/slides/{self.id}/review"

    def show(self) -> Any:
        return self.http.get(self.base).json()

    def post(self, code: int = 201, **body: Any) -> Any:
        answer = self.http.post(f"{self.base}?v={self.version}", json={"reviewer": "Ada", **body})
        assert answer.status_code == code, answer.text
        return answer.json()

    def undo(self, *entries: str, code: int = 201, reviewer: str = "Ada") -> Any:
        answer = self.http.post(f"{self.base}/undo", json={"reviewer": reviewer, "entries": list(entries)})
        assert answer.status_code == code, answer.text
        return answer.json()

    def edit(self, code: int = 200, **body: Any) -> Any:
        answer = self.http.post(f"{self.base}/edit", json=body)
        assert answer.status_code == code, answer.text
        return answer.json()

    def queue(self, **query: Any) -> list[int]:
        found: list[int] = []
        while len(found) < 20:
            after = {"after": found[-1]} if found else {}
            index = self.http.get(f"{self.base}/next", params={**query, **after}).json()["index"]
            if index is None:
                return found
            found.append(index)
        raise AssertionError(f"the queue goes round: {found}")


@pytest.fixture
def ada(out: Path, tmp_path: Path) -> Reviewing:
    return Reviewing(out, tmp_path / "reviews")


def square(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    return dict(shapely.geometry.mapping(shapely.box(x0, y0, x1, y1)))


def boxes(ada: Reviewing) -> list[list[float]]:
    count = ada.show()["progress"]["regions"]
    return [ada.http.get(f"/api/slides/{ada.id}/regions/{i}").json()["bbox"] for i in range(count)]


def test_without_permission_there_is_no_review(out: Path) -> None:
    reading = client(out)
    assert reading.get("/api").json()["allow_review"] is False
    for path in ("", "/next"):
        assert reading.get(f"/api/slides/{only_id(reading)}/review{path}").status_code == 404
    assert reading.post(f"/api/slides/{only_id(reading)}/review", json={}).status_code in (404, 405)


def test_a_folder_for_reviews_needs_the_permission(out: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["view", str(out), "--reviews", str(tmp_path / "r")])
    assert done.exit_code == 2 and "needs --allow-review" in done.output
    done = CliRunner().invoke(app, ["view", str(out), "--allow-review", "--reviews", str(out / "slide")])
    assert done.exit_code == 2 and "lies in the results of a slide" in done.output


def test_verdicts_are_shown_and_taken_back(ada: Reviewing, out: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert ada.http.get("/api").json()["allow_review"] is True
    assert ada.show()["progress"] == {
        "regions": 4, "reviewed": 0, "disputed": 0, "not_carried": 0, "reviewers": [],
    }  # fmt: skip
    accepted = ada.post(verdict="accepted", index=0, comment="fine")
    assert accepted["regions"]["0"]["class_name"] == "tumor" and accepted["progress"]["reviewed"] == 1
    relabeled = ada.post(verdict="relabeled", index=0, class_name="Stroma")
    assert relabeled["regions"]["0"] == {
        "verdict": "relabeled", "class_name": "stroma", "reviewer": "Ada", "comment": "", "disputed": False,
        "entry": relabeled["entries"][0], "geometry": None, "iou": 1.0, "bbox": boxes(ada)[0],
        "at": [100.0, 80.0],
    }  # fmt: skip
    undone = ada.undo(*relabeled["entries"])
    assert undone["regions"]["0"]["verdict"] == "accepted" and undone["regions"]["0"]["comment"] == "fine"
    redone = ada.undo(*undone["entries"])
    assert redone["regions"]["0"]["verdict"] == "relabeled"
    ada.post(verdict="rejected", index=1)
    assert ada.undo(*accepted["entries"])["regions"] == {}, "superseded already"
    # All of it is there for the next server, and nothing was written into the results.
    shown = Reviewing(out, tmp_path / "reviews").show()
    assert {i: one["verdict"] for i, one in shown["regions"].items()} == {"0": "relabeled", "1": "rejected"}
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_the_queue_has_all_regions_once_and_leaves_out_what_has_a_verdict(ada: Reviewing) -> None:
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes(ada)]
    by_size = ada.queue(order="size")
    assert [areas[i] for i in by_size] == sorted(areas, reverse=True)
    probability = [
        ada.http.get(f"/api/slides/{ada.id}/regions/{i}").json()["mean_probability"] for i in range(4)
    ]
    assert ada.queue(order="threshold") == sorted(range(4), key=lambda i: abs(probability[i] - 0.5))
    assert sorted(ada.queue(order="uncertainty")) == sorted(ada.queue(order="class")) == [0, 1, 2, 3]
    assert ada.queue(order="size", group="stroma") == []
    ada.post(verdict="accepted", index=by_size[1])
    assert ada.queue(order="size") == [by_size[0], *by_size[2:]]
    assert ada.queue(order="size", all="1") == by_size
    back = ada.http.get(
        f"{ada.base}/next", params={"order": "size", "after": by_size[2], "step": "-1"}
    ).json()
    assert back == {"index": by_size[0], "place": 1, "total": 4, "bbox": boxes(ada)[by_size[0]]}


def test_drawn_regions_and_areas(ada: Reviewing) -> None:
    drawn = ada.post(verdict="added", geometry=square(350, 200, 390, 240), class_name="stroma")
    (one,) = drawn["drawn"]
    assert one["class_name"] == "stroma" and drawn["progress"]["reviewed"] == 0
    moved = ada.post(verdict="redrawn", region=one["region"], geometry=square(350, 210, 390, 250))
    assert [d["verdict"] for d in moved["drawn"]] == ["redrawn"] and moved["drawn"][0][
        "class_name"
    ] == "stroma"
    for judged in ({"verdict": "relabeled", "class_name": "tumor"}, {"verdict": "accepted"}):
        # An added region that is judged stays where it is.
        (kept,) = ada.post(**judged, region=one["region"], reviewer="Bob")["drawn"]
        assert (kept["verdict"], kept["reviewer"]) == ("redrawn", "Bob")
        assert shapely.geometry.shape(kept["geometry"]).bounds == (350, 210, 390, 250)
    other = ada.post(verdict="added", geometry=square(200, 150, 240, 190), class_name="stroma")
    (name,) = {d["region"] for d in other["drawn"]} - {one["region"]}
    for verdict in ("accepted", "rejected"):
        shown = ada.post(verdict=verdict, region=name, reviewer="Bob")["drawn"]
        (kept,) = [d for d in shown if d["region"] == name]
        assert kept["verdict"] == verdict and shapely.geometry.shape(kept["geometry"]).area == 1600
    redrawn = ada.post(verdict="redrawn", index=2, geometry=square(30, 180, 120, 270))
    assert redrawn["regions"]["2"]["geometry"]["type"] == "Polygon"
    area = ada.post(verdict="reviewed-area", geometry=square(0, 0, 400, 150), accept_rest=True)
    # The two regions in the upper half had no verdict.
    upper = [str(i) for i, (_, y0, _, _) in enumerate(boxes(ada)) if y0 < 150]
    assert sorted(area["regions"]) == sorted(upper) and len(area["areas"]) == 1 and len(area["entries"]) == 3
    gone = ada.undo(*area["entries"])
    assert gone["areas"] == [] and gone["regions"] == dict.fromkeys(upper)


def test_two_reviewers_are_disputed_and_take_back_only_their_own(ada: Reviewing) -> None:
    first = ada.post(verdict="accepted", index=3)
    second = ada.post(verdict="rejected", index=3, reviewer="Bob")
    assert second["regions"]["3"]["disputed"] and second["progress"]["reviewers"] == ["Ada", "Bob"]
    assert "only its reviewer" in ada.undo(*first["entries"], code=409, reviewer="Bob")["error"]
    assert ada.undo(*second["entries"], reviewer="Bob")["regions"]["3"]["verdict"] == "accepted"


def test_an_area_of_a_second_reviewer_agrees_with_what_stands_there(ada: Reviewing) -> None:
    """Else two who agree on a region that one of them judged by itself would differ about it."""
    ada.post(verdict="accepted", index=0)
    ada.post(verdict="rejected", index=1)
    everything = square(0, 0, 400, 300)
    area: dict[str, Any] = {"verdict": "reviewed-area", "geometry": everything, "accept_rest": True}
    assert len(ada.post(**area)["entries"]) == 1 + 2
    found = ada.post(**area, reviewer="Bob")
    assert len(found["entries"]) == 1 + 3  # not the rejected one
    assert len(ada.post(**area, reviewer="Bob")["entries"]) == 1


def test_a_corrected_outline_and_a_corrected_class_stay_when_the_other_is_judged(ada: Reviewing) -> None:
    ada.post(verdict="relabeled", index=0, class_name="stroma")
    less = square(30, 30, 150, 120)
    redrawn = ada.post(verdict="redrawn", index=0, geometry=less)["regions"]["0"]
    assert redrawn["class_name"] == "stroma"  # as she had said before

    def stands(**body: Any) -> tuple[str, str, str, float]:
        one = ada.post(index=0, **body)["regions"]["0"]
        area = 0.0 if one["geometry"] is None else shapely.geometry.shape(one["geometry"]).area
        return one["verdict"], one["class_name"], one["reviewer"], area

    # Who accepts or relabels it sees the outline that was redrawn, and means that one.
    assert stands(verdict="accepted", reviewer="Bob") == ("redrawn", "stroma", "Bob", 120 * 90)
    assert stands(verdict="relabeled", class_name="tumor") == ("redrawn", "tumor", "Ada", 120 * 90)
    assert stands(verdict="rejected")[0] == "rejected"
    assert stands(verdict="accepted")[:2] == ("accepted", "tumor")  # that of the results, after a rejection


def test_what_others_say_is_told_by_the_count_of_entries(ada: Reviewing) -> None:
    first = ada.post(verdict="accepted", index=0)
    assert (first["before"], first["count"]) == (0, 1)
    other = ada.post(verdict="rejected", index=1, reviewer="Bob")
    assert (other["before"], other["count"]) == (1, 2)
    assert ada.http.get(ada.base, params={"count": 2}).json() == {"count": 2}
    assert set(ada.http.get(ada.base, params={"count": 1}).json()["regions"]) == {"0", "1"}
    assert ada.http.get(ada.base, params={"count": "x"}).status_code == 400


def test_the_sign_of_a_verdict_lies_in_its_region(ada: Reviewing) -> None:
    crescent = shapely.box(20, 20, 180, 140) - shapely.box(20, 30, 170, 130)
    drawn = dict(shapely.geometry.mapping(crescent))
    shown = ada.post(verdict="redrawn", index=0, geometry=drawn)["regions"]["0"]
    assert crescent.contains(shapely.Point(shown["at"]))
    assert not crescent.contains(crescent.centroid)
    assert shapely.box(*DARK[1]).contains(
        shapely.Point(ada.post(verdict="accepted", index=1)["regions"]["1"]["at"])
    )


def test_outlines_are_edited(ada: Reviewing) -> None:
    whole = ada.http.get(f"{ada.base}/outline", params={"index": 0, "v": ada.version}).json()
    assert shapely.geometry.shape(whole["geometry"]).bounds == tuple(whole["bbox"])
    base = square(100, 100, 200, 200)

    def area(**body: Any) -> list[float]:
        parts = ada.edit(**body)["parts"]
        return [shapely.geometry.shape(part).area for part in parts]

    (more,) = area(action="add", geometry=base, line=[[200, 150], [240, 150]], radius=10)
    assert more == pytest.approx(10_000 + 40 * 20 + np.pi * 50, rel=2e-3)
    (less,) = area(action="erase", geometry=base, line=[[150, 150]], radius=10)
    assert less == pytest.approx(10_000 - np.pi * 100, rel=2e-3)
    assert area(action="erase", geometry=base, other=square(140, 140, 160, 160)) == [9600]
    assert area(action="add", geometry=base, other=square(200, 100, 250, 200)) == [15_000]
    # A dot near the corner of the slide: a quarter of a circle, two strips and a square are on it.
    dot = np.pi * 50**2 / 4 + 2 * 5 * 50 + 25
    assert area(action="add", line=[[5, 5]], radius=50) == [pytest.approx(dot, rel=0.03)]
    assert area(action="split", geometry=base, line=[[130, 50], [130, 250]]) == [7000, 3000]
    for body, said in (
        ({"action": "split", "geometry": base, "line": [[0, 0], [9, 9]]}, "does not divide"),
        ({"action": "split", "geometry": base}, "needs a geometry and a line"),
        ({"action": "erase", "geometry": base, "other": square(0, 0, 300, 300)}, "no area"),
        ({"action": "erase", "line": [[5, 5]]}, "needs a geometry"),
        ({"action": "add", "geometry": base}, "either other or a line"),
        ({"action": "add", "line": [[5, 5]], "radius": 0}, "radius"),
        ({"action": "add", "line": [[0, 0]] * 6000}, "line"),
    ):
        assert said in ada.edit(code=400, **body)["error"], body


# --- attacks ---------------------------------------------------------------------------------------------


def test_only_this_origin_writes(ada: Reviewing, tmp_path: Path) -> None:
    body = json.dumps({"verdict": "accepted", "index": 0, "reviewer": "Eve"})
    url, kind = f"{ada.base}?v={ada.version}", {"Content-Type": "application/json"}
    for headers, code in (
        ({**kind, "Origin": "http://evil.example"}, 403), ({**kind, "Origin": "null"}, 403),
        ({**kind, "Origin": "http://127.0.0.1:1"}, 403), ({**kind, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**kind, "Host": "evil.example"}, 403), ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ):  # fmt: skip
        for path in (url, f"{ada.base}/undo", f"{ada.base}/edit"):
            assert ada.http.post(path, content=body, headers=headers).status_code == code, (path, headers)
    for method in ("PUT", "PATCH", "DELETE"):
        assert ada.http.request(method, ada.base).status_code == 405
    assert not (tmp_path / "reviews").exists()
    own = ada.http.post(url, content=body, headers={**kind, "Origin": LOCAL, "Sec-Fetch-Site": "same-origin"})
    assert own.status_code == 201


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"verdict": "accepted"}, 400), ({"verdict": "accepted", "index": 9}, 404),
        ({"verdict": "accepted", "index": -1}, 400), ({"verdict": "accepted", "index": "0"}, 400),
        ({"verdict": "accepted", "index": 0, "region": "x"}, 400),
        ({"verdict": "accepted", "region": "x"}, 404),
        ({"verdict": "accepted", "region": "../../etc/passwd"}, 404), ({"verdict": "fine", "index": 0}, 400),
        ({"verdict": "revoked", "index": 0}, 400), ({"verdict": "relabeled", "index": 0}, 400),
        ({"verdict": "relabeled", "index": 0, "class_name": "moon"}, 400),
        ({"verdict": "accepted", "index": 0, "class_name": "stroma"}, 400),
        ({"verdict": "accepted", "index": 0, "slide": "other"}, 400),
        ({"verdict": "accepted", "index": 0, "geometry": square(0, 0, 9, 9)}, 400),
        ({"verdict": "redrawn", "index": 0}, 400),
        ({"verdict": "added", "geometry": square(0, 0, 9, 9)}, 400),
        ({"verdict": "added", "class_name": "tumor", "index": 0, "geometry": square(0, 0, 9, 9)}, 400),
        ({"verdict": "redrawn", "index": 0, "geometry": {"type": "Polygon", "coordinates": "x"}}, 400),
        ({"verdict": "redrawn", "index": 0, "geometry": {"type": "Point", "coordinates": [1, 1]}}, 400),
        ({"verdict": "redrawn", "index": 0, "geometry": square(-50, -50, -9, -9)}, 400),
        ({"verdict": "accepted", "index": 0, "reviewer": ""}, 400),
        ({"verdict": "accepted", "index": 0, "reviewer": "a\nb"}, 400),
        ({"verdict": "accepted", "index": 0, "reviewer": "x" * 101}, 400),
        ({"verdict": "accepted", "index": 0, "comment": "x" * 2001}, 400),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_and_nothing_is_written(
    ada: Reviewing, tmp_path: Path, body: dict[str, Any], code: int
) -> None:
    said = ada.post(code=code, **body)
    assert set(said) == {"error"} and len(said["error"]) < 300
    assert not (tmp_path / "reviews").exists()


def test_large_and_tangled_outlines_are_refused(ada: Reviewing, tmp_path: Path) -> None:
    assert MOST_BODY < MOST_REVIEW_BODY
    turn = np.linspace(0, 2 * np.pi, MOST_CORNERS)
    around = np.column_stack([200 + 90 * np.cos(turn), 150 + 90 * np.sin(turn)]).round(1)

    def polygon(points: Any) -> dict[str, Any]:
        xy = np.asarray(points).tolist()
        return {"type": "Polygon", "coordinates": [[*xy, xy[0]]]}

    drawn: dict[str, Any] = {"verdict": "redrawn", "index": 0}
    assert "corners, at most" in ada.post(code=400, **drawn, geometry=polygon(around))["error"]
    tangle = np.random.default_rng(1).uniform(0, 300, (4000, 2)).round(1)
    assert "cross" in ada.post(code=400, **drawn, geometry=polygon(tangle))["error"]
    million = b'{"geometry": [' + b"[1.5,2.5]," * 10**5 + b"]}"
    json_kind = {"Content-Type": "application/json"}
    url = f"{ada.base}?v={ada.version}"
    assert ada.http.post(url, content=million * 9, headers=json_kind).status_code == 413
    nested = b'{"geometry": ' + b"[" * 500_000
    assert ada.http.post(url, content=nested, headers=json_kind).status_code == 400
    assert not (tmp_path / "reviews").exists()
    bow = polygon([[10, 10], [100, 100], [10, 100], [100, 10]])
    crossed = ada.post(**drawn, geometry=bow)["regions"]["0"]["geometry"]
    assert shapely.geometry.shape(crossed).area == pytest.approx(90 * 90 / 2)


def test_a_region_of_many_corners_is_edited_as_others(ada: Reviewing) -> None:
    """A tumor of 5 mm² has 40,000 corners, and nobody can draw it coarser."""
    x = np.arange(0.0, 400.0, 0.01)
    ragged = np.column_stack([x, 150 + np.round(20 * np.sin(x), 2)])
    ring = [*ragged.tolist(), [399.99, 300.0], [0.0, 300.0], ragged[0].tolist()]
    region = {"type": "Polygon", "coordinates": [ring]}
    assert len(ring) > 40_000
    (less,) = ada.edit(action="erase", geometry=region, line=[[200.0, 250.0]], radius=10.0)["parts"]
    areas = [shapely.geometry.shape(one).area for one in (region, less)]
    assert areas[0] - areas[1] == pytest.approx(np.pi * 10**2, rel=0.05)
    assert ada.post(verdict="redrawn", index=0, geometry=less)["regions"]["0"]["verdict"] == "redrawn"


def test_a_stroke_to_and_fro_is_painted_and_a_tangle_is_refused(ada: Reviewing) -> None:
    walk = np.cumsum(np.random.default_rng(0).normal(0, 2, (4000, 2)), axis=0)
    line = (np.clip(walk, -90, 90) + 150).round(2)
    begun = time.process_time()
    (part,) = ada.edit(action="add", line=line.tolist(), radius=24)["parts"]
    assert time.process_time() - begun < 5  # a minute and more, where all of it was surrounded at once
    painted = shapely.union_all(shapely.buffer(shapely.points(line), 24))
    assert shapely.geometry.shape(part).symmetric_difference(painted).area < 0.02 * painted.area
    anywhere = np.random.default_rng(0).uniform(0, 300, (4000, 2)).round(2).tolist()
    whole = square(0, 0, 300, 300)
    combs = [shapely.box(10, y, 290, y + 0.5) for y in range(0, 290)]
    across = [shapely.affinity.rotate(one, 90, origin=(150, 150)) for one in combs]
    comb, other = (dict(shapely.geometry.mapping(shapely.MultiPolygon(one))) for one in (combs, across))
    for body in (
        {"action": "add", "line": anywhere, "radius": 0.5},
        {"action": "split", "geometry": whole, "line": anywhere},
        {"action": "erase", "geometry": comb, "other": other},
    ):
        begun = time.process_time()
        assert "too often" in ada.edit(code=400, **body)["error"]
        assert time.process_time() - begun < 5
    for far in (1e300, "NaN", "1e999"):
        content = json.dumps({"action": "add", "line": [[5, "FAR"], [9, 9]]}).replace('"FAR"', str(far))
        answer = ada.http.post(
            f"{ada.base}/edit", content=content, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 400, answer.text


def test_names_are_text_and_lead_nowhere(ada: Reviewing, tmp_path: Path) -> None:
    hostile = "../../../<img src=x onerror=alert(1)> \\ %2e%2e"
    shown = ada.post(verdict="accepted", index=0, reviewer=hostile, comment="../x\n\0")
    assert shown["regions"]["0"]["reviewer"] == hostile
    files = [path for path in (tmp_path / "reviews").rglob("*") if path.is_file()]
    assert len(files) == 1 and {path.parent.parent for path in files} == {tmp_path / "reviews"}
    assert [path.name for path in tmp_path.iterdir()] == ["reviews"]


def test_no_verdict_lands_on_results_that_were_replaced(ada: Reviewing) -> None:
    body = {"verdict": "accepted", "index": 0, "reviewer": "Ada"}
    assert ada.http.post(ada.base, json=body).status_code == 400
    assert ada.http.post(f"{ada.base}?v=another", json=body).status_code == 409
    assert ada.undo("0" * 32, code=404) == {"error": "no such entry in the review of this slide"}
    assert ada.show()["regions"] == {}


def test_two_servers_write_at_once(out: Path, tmp_path: Path) -> None:
    servers = [Reviewing(out, tmp_path / "reviews") for _ in range(2)]

    def work(server: Reviewing, name: str) -> None:
        for index in range(4):
            server.post(verdict="accepted", index=index, reviewer=name)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(servers, "AB", strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [
        line for path in (tmp_path / "reviews").rglob("*.jsonl") for line in path.read_bytes().splitlines()
    ]
    assert len({json.loads(line)["entry"] for line in lines}) == 8
    for server in servers:
        assert server.show()["progress"] == {
            "regions": 4, "reviewed": 4, "disputed": 0, "not_carried": 0, "reviewers": ["A", "B"],
        }  # fmt: skip


def test_a_full_disk_is_said_and_nothing_is_acknowledged(
    ada: Reviewing, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada.post(verdict="accepted", index=0)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert "No space left" in ada.post(code=500, verdict="rejected", index=1)["error"]
    assert list(ada.show()["regions"]) == ["0"]
    assert list(ada.post(verdict="rejected", index=2)["regions"]) == ["2"]


def test_bodies_without_an_end_are_refused(ada: Reviewing) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(MOST_REVIEW_BODY // 4096 + 2):
            yield b" " * 4096

    kind = {"Content-Type": "application/json"}
    assert ada.http.post(f"{ada.base}?v=x", content=endless(), headers=kind).status_code == 413
    assert ada.http.post(f"{ada.base}/undo", content=endless(), headers=kind).status_code == 413
