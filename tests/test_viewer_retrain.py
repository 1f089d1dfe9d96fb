"""Retraining that is started from the browser: what is asked for, what is refused, and what it runs."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.made.datasets import make_reviews
from tests.viewer_server import client, ended
from wsi_seg.core.errors import OutputError
from wsi_seg.core.geometry import Scale
from wsi_seg.inference.models.registry import model_hash
from wsi_seg.inference.settings import ModelSettings
from wsi_seg.pipeline.inputs import find_slides
from wsi_seg.pipeline.rerun import settings_texts, write_table
from wsi_seg.pipeline.settings import KEYS, RegionSettings, RunSettings, make_settings
from wsi_seg.pipeline.summary import settings_json
from wsi_seg.planning.settings import PlanSettings
from wsi_seg.regions.settings import TraceSettings
from wsi_seg.results.claims import claimed
from wsi_seg.training.progress import TrainingProgress, claim_of, read_progress

ASK = {"model": "mine", "name": "better", "steps": 2, "whose": "slides", "held_out": ["slide-1.tiff"]}


@pytest.fixture(autouse=True)
def _interruptible() -> Iterator[None]:
    """A background job of a shell ignores Ctrl-C, and so would what it starts; the real server does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def home(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four reviewed slides, and an installed model."""
    monkeypatch.setenv("WSI_SEG_MODELS", str(tmp_path / "installed"))
    shutil.copytree(tiny_model, tmp_path / "installed" / "mine")
    make_reviews(tmp_path / "made")
    return tmp_path / "made"


@pytest.fixture
def asking(home: Path) -> Iterator[TestClient]:
    places = {"runs": home / "slides", "reviews": home / "results-review"}
    with client(home / "results", **places) as asking:
        yield asking


def refusal(asking: TestClient, status: int, **change: Any) -> str:
    answer = asking.post("/api/retrain", json={**ASK, **change})
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"])


def test_the_options_are_the_reviewed_slides_and_models_that_can_be_trained(
    asking: TestClient, home: Path
) -> None:
    options = asking.get("/api/retrain/options").json()
    assert [one["slides"] for one in options["slides"]] == [f"slide-{i}.tiff" for i in range(4)]
    assert [one["names"] for one in options["slides"]] == [f"slide-{i}" for i in range(4)]
    assert not any(one["known"] for one in options["slides"])
    assert [one["name"] for one in options["models"]] == ["bcss-demo", "mine"]
    assert (options["model"], options["name"], options["job"]) == (None, "retrained-1", None)
    (home / "results" / "retrained-1").mkdir()
    (home / "results-models" / "retrained-2").mkdir(parents=True)
    manifest = home / "results" / "slide-2" / "manifest.json"
    stated = json.loads(manifest.read_text())
    stated["model"]["digest"] = model_hash(home.parent / "installed" / "mine")
    manifest.write_text(json.dumps(stated))
    with claimed(claim_of(home / "results-models" / "retrained-2")):  # as by a server that was killed
        options = asking.get("/api/retrain/options").json()
    assert (options["model"], options["name"], options["elsewhere"]) == (
        "mine",
        "retrained-3",
        ["retrained-2"],
    )
    assert asking.get("/api/retrain/options").json()["elsewhere"] == []


def test_what_cannot_be_retrained_is_refused_in_one_line(asking: TestClient, home: Path) -> None:
    assert "no model 'theirs'" in refusal(asking, 400, model="theirs")
    for name in ("", ".", "..", "a/b", "../up", ".hidden", "a b", "-o", "x" * 65, "ä"):
        assert "no name for a model" in refusal(asking, 400, name=name)
    assert "no reviewed slide or patient 'slide-1'" in refusal(asking, 400, held_out=["slide-1"])
    assert "steps" in refusal(asking, 400, steps=0)
    assert "bcss-demo: is there already" in refusal(asking, 409, name="bcss-demo")
    for folder in (home / "results" / "taken", home / "results-models" / "taken"):
        folder.mkdir(parents=True)
        assert f"{folder}: is there already" in refusal(asking, 409, name="taken")
        folder.rmdir()
    for journal in (home / "results-review").rglob("*.jsonl"):
        journal.unlink()
    assert "nothing is reviewed yet" in refusal(asking, 409, held_out=[])
    assert asking.get("/api/retrain/options").json()["slides"] == []
    answer = asking.post("/api/retrain/run", json={"name": "mine"})
    assert answer.status_code == 400 and "was trained here" in answer.json()["error"]


def test_nothing_is_written_into_the_results_of_one_slide(home: Path) -> None:
    """The page may be opened on one slide; its model goes where those of the others go."""
    before = sorted((home / "results" / "slide-0").rglob("*"))
    with client(
        home / "results" / "slide-0", runs=home / "slides", reviews=home / "results-review"
    ) as asking:
        run = {"slide": "slide-0.tiff", "model": "mine", "groups": ["tumor"], "threshold": 0.5}
        answer = asking.post("/api/run", json=run)
        assert answer.status_code == 409 and "folder of all results" in answer.json()["error"]
        started = asking.post("/api/retrain", json={**ASK, "held_out": []})
        assert started.status_code == 202, started.text
        job = f"/api/retrain/{started.json()['job']}"
        made = home / "results-models" / "better"
        assert str(made) in asking.get(job).json()["command"]
        while asking.get(job).json()["state"] == "running" and not made.exists():
            time.sleep(0.1)
        assert made.exists()
        asking.delete(job)
        ended(asking, job)
    assert sorted((home / "results" / "slide-0").rglob("*")) == before
    assert not list((home / "results").glob("*-models"))


def test_a_training_that_fails_says_why_and_one_runs_at_a_time(asking: TestClient, home: Path) -> None:
    everybody = [f"slide-{i}.tiff" for i in range(4)]
    first = asking.post("/api/retrain", json={**ASK, "held_out": everybody})
    assert first.status_code == 202, first.text
    assert "on its way" in refusal(asking, 409)
    run = {"slide": "slide-0.tiff", "model": "mine", "groups": ["tumor"], "threshold": 0.5}
    assert asking.post("/api/run", json=run).status_code == 409
    job = first.json()["job"]
    assert asking.get(f"/api/run/{job}").status_code == 404  # it is no run
    state = ended(asking, f"/api/retrain/{job}")
    assert (state["state"], state["step"], state["steps"]) == ("failed", 0, 2)
    assert state["message"].startswith("--held-out: nobody is left to train on")
    assert not (home / "results-models").exists()
    second = asking.post("/api/retrain", json=ASK).json()["job"]
    assert asking.get("/api/retrain/options").json()["job"] == second
    told = asking.delete(f"/api/retrain/{second}").json()
    assert told["stopping"] or told["state"] == "stopped", told
    stopped = ended(asking, f"/api/retrain/{second}")
    assert stopped["state"] == "stopped" and stopped["comparison"] is None
    assert "'--patients=(.+)'" in stopped["command"] and stopped["command"].endswith(" --resume")


def test_the_log_says_how_far_a_training_is(tmp_path: Path) -> None:
    assert read_progress(tmp_path) == TrainingProgress(0)
    (tmp_path / "log").mkdir()
    table = tmp_path / "log" / "metrics.csv"
    table.write_text(
        "epoch,loss,step,validation_dice,validation_loss\n0,0.5,0,,\n0,0.25,1,,\n0,,1,0.75,0.3\n0,0.2,1"
    )
    assert read_progress(tmp_path) == TrainingProgress(2, 0.25, 0.3, 0.75)


SETTINGS = RunSettings(
    mpp=Scale(0.31, 0.31),
    reader="tiff",
    tissue="none",
    ignored_classes=("Artifact", "Unclassified"),
    keep_artifacts=True,
    strict=True,
    plan=PlanSettings(tile=256, overlap=0, blend="gaussian", probabilities=("tumor",), uncertainty=True),
    regions=RegionSettings(("tumor", "stroma"), trace=TraceSettings(threshold=0.4, min_area_um2=50.0)),
    formats=("csv",),
    model=ModelSettings(tta=True),
)


def test_settings_of_results_come_back_by_a_table(tmp_path: Path) -> None:
    manifest = json.loads(json.dumps({"settings": settings_json(SETTINGS), "plan": {"tta": True}}))
    texts = settings_texts(manifest, tmp_path)
    write_table(
        tmp_path / "slides.csv", [{"slide": "/a/one.svs", "name": "x/one", **texts}, {"slide": "/b.svs"}]
    )
    first, second = find_slides([str(tmp_path / "slides.csv")], KEYS)
    assert (first.path, first.name, second.settings) == ("/a/one.svs", "x/one", {})
    again = make_settings(first.settings)
    assert again == dataclasses.replace(SETTINGS, formats=())
    plain = json.loads(json.dumps({"settings": settings_json(RunSettings()), "plan": {"tta": False}}))
    assert settings_texts(plain, tmp_path) == {}


def test_settings_that_no_table_holds_are_said(tmp_path: Path) -> None:
    odd = settings_json(dataclasses.replace(SETTINGS, mpp=Scale(0.3, 0.31)))
    with pytest.raises(OutputError, match=r"0.3 and 0.31 µm/px"):
        settings_texts({"settings": odd, "plan": {"tta": False}}, tmp_path)
    with pytest.raises(OutputError, match="cannot be repeated"):
        settings_texts({"settings": {}, "plan": {"tta": False}}, tmp_path)
