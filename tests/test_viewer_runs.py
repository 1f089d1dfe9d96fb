"""Runs that are started from the browser, as the server has them."""

from __future__ import annotations

import dataclasses
import io
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.dicom_heads import WHOLE_SLIDE, write_dicom
from tests.made.pyramids import make_landmark_slide
from tests.made.results import make_results
from tests.viewer_server import client, ended, only_id
from wsi_seg.core.folders import models_folder
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.pipeline.settings import make_settings
from wsi_seg.viewer.folders import ResultEntry, ResultFolders
from wsi_seg.viewer.jobs import Command, JobSlot
from wsi_seg.viewer.presets import PRESETS
from wsi_seg.viewer.runs import RunChoice, Runs

MARKS = (Box(200, 200, 500, 420), Box(800, 620, 1100, 900))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "marks.tiff"
    return make_landmark_slide(path, Size(1300, 1000), Scale(0.25, 0.25), MARKS)


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A background job of a shell ignores Ctrl-C, and so would what it starts; the real server does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def runs(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A server that may run the slides of a folder."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "slides" / "day one").mkdir(parents=True)
    shutil.copy(slide, folder / "slides" / "day one" / "marks.tiff")
    write_dicom(folder / "slides" / "series" / "1.dcm", WHOLE_SLIDE)
    (folder / "slides" / "notes.txt").touch()
    (folder / "private.tiff").touch()
    (folder / "slides" / "link.tiff").symlink_to(folder / "private.tiff")
    (folder / "slides" / "up").symlink_to(folder)
    (folder / "out").mkdir()
    with client(folder / "out", runs=folder / "slides") as asking:
        yield asking


ASK = {"slide": "day one/marks.tiff", "model": "bcss-demo", "groups": ["tumor", "stroma"], "threshold": 0.4}


def test_the_options_are_the_slides_and_models_that_are_there(
    runs: TestClient, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSI_SEG_MODELS", str(tmp_path / "models"))
    options = runs.get("/api/run/options").json()
    assert options["slides"] == ["day one/marks.tiff", "series"]
    assert [model["name"] for model in options["models"]] == ["bcss-demo"]
    assert "tumor" in options["models"][0]["groups"] and "clinical" in options["models"][0]["notice"]
    assert runs.get("/api").json()["allow_run"] is True
    installed = shutil.copytree(tiny_model, models_folder() / "mine")
    assert [m["name"] for m in runs.get("/api/run/options").json()["models"]] == ["bcss-demo", "mine"]
    (installed / "card.json").write_text("{")  # damaged: the bundled ones run all the same
    assert [m["name"] for m in runs.get("/api/run/options").json()["models"]] == ["bcss-demo"]


def test_what_is_known_of_a_slide_before_it_is_run(slide: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "slides", tmp_path / "out"
    folder.mkdir()
    shutil.copy(slide, folder / "marks.tiff")
    Image.new("RGB", (300, 200), "white").save(folder / "plain.png")
    (folder / "broken.svs").write_bytes(b"no slide")
    make_results(folder / "marks.tiff", out)
    asking = client(out, runs=folder)

    def known(name: str) -> dict[str, Any]:
        found: dict[str, Any] = asking.get("/api/run/slide", params={"slide": name}).json()
        return found

    marks, plain, broken = known("marks.tiff"), known("plain.png"), known("broken.svs")
    assert marks["mpp"] is not None and marks["problem"] is None
    results = marks["results"]
    assert (results["id"], results["status"]) == (only_id(asking), "done") and results["regions"] >= 1
    assert (plain["mpp"], plain["problem"], plain["results"]) == (None, None, None)
    assert "broken.svs" in broken["problem"]
    assert asking.get("/api/run/slide", params={"slide": "../out"}).status_code == 400
    assert asking.get("/api/run/slide").status_code == 400
    (out / "marks" / "summary.json").write_text("{")  # it can be replaced all the same
    with client(out, runs=folder) as asking:
        assert known("marks.tiff")["results"]["status"] == "damaged"


def test_choices_of_the_dialog_become_flags(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    def start(arguments: list[str]) -> Command:
        started.append(arguments)
        return Command(subprocess.Popen(["true"]), io.BytesIO(), io.BytesIO())

    monkeypatch.setattr(Command, "started", start)
    runs = Runs(tmp_path / "out", slide.parent, JobSlot())
    plain = RunChoice(slide.name, "bcss-demo", ("tumor",), 0.5, "standard", None, False)
    for choice in (plain, dataclasses.replace(plain, preset="quick look", mpp=0.2528, overwrite=True)):
        runs.start(choice).command.process.wait()
    usual = [
        "run",
        str(slide),
        f"--output={tmp_path}/out",
        "--model=bcss-demo",
        "--groups=tumor",
        "--threshold=0.5",
    ]
    assert started[0] == [*usual, "--json"]
    more = {"--overlap=0", "--probabilities=groups", "--mpp=0.2528", "--overwrite"}
    assert set(started[1]) == {*started[0], *more}
    # Each preset is what the command line takes, and its words are those of the documentation.
    for preset in PRESETS.values():
        make_settings(dict(preset.settings))
        assert len(preset.flags) == len(preset.meanings) == len(preset.settings)
    assert PRESETS["full"].flags == ["--tta", "--uncertainty"]


def test_a_run_that_ends_while_it_is_looked_at_is_no_error(
    runs: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gone = ResultEntry("0" * 16, "marks", tmp_path / ".marks.partial", True, "1-1r", 0.0)
    monkeypatch.setattr(ResultFolders, "at", lambda _, folders: [gone for _ in folders])  # renamed since
    job = runs.post("/api/run", json=ASK).json()["job"]
    told = runs.get(f"/api/run/{job}").json()
    assert told["state"] == "running" and told["blocks_total"] == 0 and told["result"] == gone.id
    runs.delete(f"/api/run/{job}")
    assert ended(runs, f"/api/run/{job}")["state"] == "stopped"


def test_a_run_is_started_stopped_and_taken_up_again(runs: TestClient) -> None:
    assert runs.get("/api/slides").json() == []
    first = runs.post("/api/run", json=ASK)
    assert first.status_code == 202
    job = first.json()["job"]
    assert runs.post("/api/run", json=ASK).status_code == 409
    assert runs.get(f"/api/run/{job}").json()["state"] == "running"
    assert runs.get("/api/run/options").json()["job"] == job
    told = runs.delete(f"/api/run/{job}").json()
    assert told["stopping"] or told["state"] == "stopped", told  # a process that just starts ends at once
    stopped = ended(runs, f"/api/run/{job}")
    assert stopped["state"] == "stopped", stopped
    assert runs.get("/api/run/options").json()["job"] is None
    second = runs.post("/api/run", json=ASK).json()["job"]
    assert runs.get(f"/api/run/{job}").status_code == 404
    state = ended(runs, f"/api/run/{second}")
    assert (state["state"], "marks: no tissue was found" in state["message"]) == ("done", True), state
    facts = runs.get(f"/api/slides/{state['result']}").json()
    assert (facts["name"], facts["status"], facts["threshold"]) == ("marks", "done", 0.4)
    assert [one["name"] for one in facts["groups"] if one["traced"]] == ["tumor", "stroma"]


def test_a_run_that_fails_says_why(runs: TestClient) -> None:
    job = runs.post("/api/run", json={**ASK, "slide": "series"}).json()["job"]
    state = ended(runs, f"/api/run/{job}")
    assert state["state"] == "failed" and "series" in state["message"] and state["result"] is None


def test_ending_the_server_ends_its_run(slide: Path, tmp_path: Path) -> None:
    before = _children()
    with client(tmp_path / "out", runs=slide.parent) as asking:
        asking.post("/api/run", json={**ASK, "slide": "marks.tiff"})
        children = _children() - before
        assert children
    assert not children & _children()


def _children() -> set[int]:
    return {child.pid for child in psutil.Process(os.getpid()).children() if child.status() != "zombie"}
