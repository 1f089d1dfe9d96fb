"""The viewer where something is wrong or changes: bad pixels, and results that are replaced meanwhile."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from starlette.testclient import TestClient

from tests.made.progress import StopAfter
from tests.made.pyramids import make_landmark_slide
from tests.made.results import make_results
from tests.viewer_server import client, only_id, picture, whole_level
from wsi_seg.core.errors import Interrupted
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.maps.maps import FAULTS
from wsi_seg.pipeline.export import export_regions
from wsi_seg.pipeline.settings import RegionSettings
from wsi_seg.regions.polygons import TraceSettings
from wsi_seg.results.files import JOURNAL
from wsi_seg.viewer import layer_routes
from wsi_seg.viewer import state as viewer_state

SIZE = Size(1300, 1000)
MARKS = (Box(200, 200, 500, 420), Box(800, 620, 1100, 900))
BAD = Box(640, 320, 704, 384)  # the pixels of one stored tile
VIEW = "box=0,0,1300,1000&scale=1"
UNREADABLE = FAULTS[1].color


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide of a single level, of which one stored tile is no image any more."""
    path = make_landmark_slide(
        tmp_path_factory.mktemp("slide") / "marks.tiff", SIZE, Scale(0.25, 0.25), MARKS, (1,)
    )
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages[0].dataoffsets[BAD.y0 // 64 * -(-SIZE.width // 64) + BAD.x0 // 64]  # type: ignore[union-attr]
    # Stored tiles with the same pixels have bytes of their own, so this hits one place alone.
    with path.open("r+b") as file:
        file.seek(place)
        file.write(bytes(16))
    return path


@pytest.fixture(scope="module")
def stopped(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An OUT with a run that was stopped once all of its six blocks were done."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.raises(Interrupted):
        make_results(slide, out, progress=StopAfter(6))
    return out


@pytest.fixture(scope="module")
def finished(slide: Path, stopped: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    shutil.copytree(stopped, out)
    make_results(slide, out)
    return out


def far_from_bad(shape: tuple[int, ...], zoom_factor: float, margin: float) -> np.ndarray[Any, Any]:
    """Return which pixels of a picture of the slide are at least `margin` l0 pixels from the bad tile."""
    y, x = ((np.arange(n) + 0.5) * zoom_factor for n in shape[:2])
    near_x = (x > BAD.x0 - margin) & (x < BAD.x1 + margin)
    near_y = (y > BAD.y0 - margin) & (y < BAD.y1 + margin)
    return ~(near_y[:, None] & near_x[None, :])


def test_a_live_view_shows_blocks_that_were_read_in_part(stopped: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    asking = client(out)
    base = f"/api/slides/{only_id(asking)}"
    facts = asking.get(base).json()
    shown = whole_level(asking, f"{base}/layers/classes", facts["max_zoom"], ".png")[..., 3] > 0
    assert shown[far_from_bad(shown.shape, 1, 260)].all() and 0 < np.count_nonzero(~shown) < 0.06 * shown.size
    assert facts["progress"]["blocks_done"] == 6 and facts["progress"]["blocks_failed"] == 0
    coverage = whole_level(asking, f"{base}/layers/coverage", facts["max_zoom"], ".png")
    assert np.array_equal(coverage[..., 3] > 0, ~shown)  # what is missing is said to be unreadable
    assert {tuple(color) for color in coverage[~shown][:, :3].tolist()} == {UNREADABLE}

    journal = out / ".marks.partial" / JOURNAL
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:  # as if nothing of the first block had been written
        line["written"] = (line["ix"], line["iy"]) != (0, 0)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    asking = client(out)
    assert asking.get(f"{base}/progress").json()["blocks_failed"] == 1
    tile = picture(asking, f"{base}/layers/coverage/{facts['max_zoom']}/0_0.png")
    assert (tile[:500, :500] == (*UNREADABLE, 255)).all()
    assert not picture(asking, f"{base}/layers/classes/{facts['max_zoom']}/0_0.png")[:500, :500, 3].any()

    with journal.open("ab") as file:
        file.write(b'{"error": "\xff"}\n')
    refused = asking.get(f"{base}/progress")
    assert str(journal) in refused.json()["error"] and "is damaged" in refused.json()["error"]


def test_the_coverage_of_a_result_has_a_layer_and_a_legend(finished: Path) -> None:
    asking = client(finished)
    base = f"/api/slides/{only_id(asking)}"
    facts = asking.get(base).json()
    assert facts["status"] == "incomplete" and "coverage" in facts["layers"]
    other, unread = facts["coverage"]["legend"]
    assert (other["name"], other["color"], other["mm2"]) == ("read_at_other_level", "#ffa000", 0)
    assert (unread["name"], unread["color"]) == ("unreadable", "#ff00ff")
    level = whole_level(asking, f"{base}/layers/coverage", facts["max_zoom"], ".png")
    area = np.count_nonzero((level == (*UNREADABLE, 255)).all(-1)) * 0.25**2 / 1e6
    assert (
        area == pytest.approx(unread["mm2"], rel=0.01)
        and area == np.count_nonzero(level[..., 3]) * 0.25**2 / 1e6
    )
    answer = asking.get(f"{base}/layers/coverage/9/0_0.png?v={facts['version']}")
    assert "immutable" in answer.headers["cache-control"]


def test_one_bad_place_costs_a_slide_little_of_its_pictures(finished: Path) -> None:
    asking = client(finished)
    base = f"/api/slides/{only_id(asking)}"
    tile = f"{base}/tiles/11/1_0.jpg"
    seen = picture(asking, tile, "RGB").astype(int)
    gray = np.abs(seen - 128).max(-1) < 6
    assert gray[BAD.y0 : BAD.y1, BAD.x0 - 512 : BAD.x1 - 512].mean() > 0.9
    assert (
        np.count_nonzero(gray) < 4 * 128**2 and (seen[~gray].min(-1) > 200).mean() > 0.95
    )  # the rest is white
    small = picture(asking, f"{base}/thumbnail.jpg", "RGB").astype(int)
    assert 0 < np.mean(np.abs(small - 128).max(-1) < 6) < 0.02
    expected = np.full(small.shape[:2], 255)
    for mark in MARKS:
        box = [round(value * small.shape[1] / SIZE.width) for value in (mark.y0, mark.y1, mark.x0, mark.x1)]
        expected[box[0] : box[1], box[2] : box[3]] = 0
    assert (np.abs(small.mean(-1) - expected) < 40).mean() > 0.95
    # What is perhaps only unreadable now is soon asked for again; all else is kept.
    assert asking.get(tile).headers["cache-control"] == "private, max-age=60"
    assert asking.get(f"{base}/tiles/11/0_0.jpg").headers["cache-control"] == "private, no-cache"


def replace_results(out: Path, new: Path) -> None:
    """Put other results in the place of those in OUT, as a run does at its end."""
    (out / "marks").rename(out / ".marks.old")
    new.rename(out / "marks")
    shutil.rmtree(out / ".marks.old")


@pytest.fixture
def two(finished: Path, slide: Path, tmp_path: Path) -> tuple[Path, Path]:
    """An OUT with results that hold two regions, and other results of the same slide that hold none."""
    out = Path(shutil.copytree(finished, tmp_path / "out"))
    new = make_results(slide, tmp_path / "new", trace=TraceSettings(min_area_um2=1e6))
    return out, new


def counts(asking: TestClient, base: str) -> tuple[int, int]:
    """Return how many regions the numbers and the outlines of a result hold."""
    shown = asking.get(f"{base}/regions?{VIEW}").json()["regions"]
    return asking.get(base).json()["regions"], len(shown)


def test_results_that_are_replaced_are_not_mixed_with_the_old(two: tuple[Path, Path]) -> None:
    out, new = two
    asking = client(out)
    base = f"/api/slides/{only_id(asking)}"
    old = asking.get(base)
    version = old.json()["version"]
    paths = (
        "", "/progress", "/same", "/tiles/9/0_0.jpg", "/layers/classes/9/0_0.png",
        "/layers/coverage/9/0_0.png", "/layers/probability/9/0_0.png?channel=tumor", f"/regions?{VIEW}",
        "/regions/0", "/regions/at?x=300&y=300", f"/contours?channel=tumor&threshold=0.3&{VIEW}",
        "/polygons.geojson",
    )  # fmt: skip
    urls = [f"{base}{path}{'&' if '?' in path else '?'}v={version}" for path in paths]
    answers = {url: asking.get(url) for url in urls}
    assert {answer.status_code for answer in answers.values()} == {200}
    assert counts(asking, base) == (2, 2)
    assert asking.get(base, headers={"If-None-Match": old.headers["etag"]}).status_code == 304
    replace_results(out, new)
    assert counts(asking, base) == (0, 0)  # at once
    for url in urls:
        refused = asking.get(url)
        assert refused.status_code == 409 and "replaced" in refused.json()["error"], url
    renewed = asking.get(base, headers={"If-None-Match": old.headers["etag"]})
    assert renewed.status_code == 200 and renewed.json()["version"] != version
    assert asking.get(f"{base}/progress").json()["version"] == renewed.json()["version"]
    tag = answers[urls[4]].headers["etag"]
    assert asking.get(f"{base}/layers/classes/9/0_0.png", headers={"If-None-Match": tag}).status_code == 200
    thumbnail = asking.get(f"{base}/thumbnail.jpg?v={version}")  # a list may ask for it as a run ends
    assert thumbnail.status_code == 200 and "immutable" not in thumbnail.headers["cache-control"]


def test_results_that_are_replaced_while_they_are_read_are_not_kept(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, new = two
    asking = client(out)
    base = f"/api/slides/{only_id(asking)}"
    read = viewer_state.open_regions

    def read_late(*arguments: Any) -> Any:
        monkeypatch.setattr(viewer_state, "open_regions", read)
        replace_results(out, new)
        return read(*arguments)

    monkeypatch.setattr(viewer_state, "open_regions", read_late)
    assert asking.get(f"{base}/regions?{VIEW}").status_code == 409
    assert counts(asking, base) == (0, 0)


def test_a_thumbnail_is_there_when_a_run_ends_while_it_is_drawn(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, new = two
    asking = client(out)
    draw = layer_routes.thumbnail

    def draw_late(slide: Any) -> bytes:
        replace_results(out, new)
        return draw(slide)

    monkeypatch.setattr(layer_routes, "thumbnail", draw_late)
    assert asking.get(f"/api/slides/{only_id(asking)}/thumbnail.jpg").status_code == 200


def test_regions_at_another_threshold_can_be_downloaded(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    asking = client(finished)
    base = f"/api/slides/{only_id(asking)}/polygons.geojson"
    as_run = asking.get(base)
    assert as_run.content == (finished / "marks" / "polygons.geojson").read_bytes()
    answer = asking.get(f"{base}?channel=stroma&threshold=0.3")
    assert answer.headers["content-disposition"] == 'attachment; filename="marks_stroma_0.3.geojson"'
    assert not list(tmp_path.iterdir())  # what was written to be sent is gone
    settings = RegionSettings(("stroma",), trace=TraceSettings(threshold=0.3))
    export_regions(finished / "marks", settings, tmp_path / "expected.geojson")
    assert answer.content == (tmp_path / "expected.geojson").read_bytes() != as_run.content
    assert asking.get(f"{base}?channel=stroma&threshold=0").status_code == 400
    assert asking.get(f"{base}?channel=nothing&threshold=0.5").status_code == 404
