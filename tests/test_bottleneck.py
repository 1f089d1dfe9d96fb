"""What a run says its time went into."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from wsi_seg.blocks import STAGES
from wsi_seg.bottleneck import SERIAL, bottleneck, describe
from wsi_seg.cli import app
from wsi_seg.models.calibrate import Calibration, Timing
from wsi_seg.run import load_model

WALL = {"plan": 1.0, "blocks": 90.0, "pyramids": 2.0, "polygons": 4.0, "overview": 3.0}


def test_shares_and_efficiency_add_up() -> None:
    report = bottleneck(WALL, {"predict": 81.0, "read": 18.0}, tiles=100, forward_seconds=0.8)
    assert report["wall_seconds"] == 100
    assert report["busy_share"]["predict"] == 0.9 and report["busy_share"]["read"] == 0.2
    assert set(report["busy_share"]) == set(STAGES) and set(report["serial_share"]) == set(SERIAL)
    assert report["serial_share"]["polygons"] == 0.04
    assert report["forward_only_seconds"] == 80 and report["efficiency"] == 0.8
    assert "80% of the speed of the network alone" in describe(report)


@pytest.mark.parametrize(
    ("busy", "wall", "forward", "limit"),
    [
        ({"predict": 88.0, "read": 60.0}, {}, 0.95, "predict"),  # all hides behind the network
        ({"predict": 30.0, "read": 85.0, "wait": 70.0}, {}, 0.3, "read"),
        ({"predict": 30.0, "write": 85.0, "read": 2.0}, {}, 0.3, "write"),
        ({"predict": 80.0, "read": 20.0}, {"polygons": 300.0}, 0.8, "polygons"),
        ({"predict": 88.0, "read": 2.0}, {}, None, "predict"),  # nothing else costs a tenth
    ],
)
def test_the_limit_is_what_keeps_the_device_waiting(busy, wall, forward, limit) -> None:
    assert bottleneck({**WALL, **wall}, busy, tiles=100, forward_seconds=forward)["limit"] == limit


def test_nothing_predicted_is_no_speed() -> None:
    report = bottleneck({"plan": 1.0, "blocks": 0.0}, {}, tiles=0, forward_seconds=0.5)
    assert report["efficiency"] is None and report["busy_share"]["predict"] is None
    assert describe(report).startswith("busy: plan 100%")


def test_a_run_reports_and_keeps_the_speed_of_its_network(
    tiny_model: Path, sample_svs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "out"
    command = ["run", str(sample_svs), "-o", str(out), "-m", str(tiny_model)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "of the speed of the network alone; limited by" in done.stdout
    summary = json.loads((out / sample_svs.stem / "summary.json").read_text(encoding="utf-8"))
    report = summary["bottleneck"]
    (file,) = (tmp_path / "cache" / "wsi_seg" / "calibration").iterdir()
    (kept,) = json.loads(file.read_text(encoding="utf-8"))
    expected = kept["seconds_per_tile"] * summary["tiles"]
    assert report["forward_only_seconds"] == pytest.approx(expected, abs=2e-3)
    assert report["efficiency"] == pytest.approx(expected / report["wall_seconds"], abs=2e-3)
    assert all(report["busy_share"][stage] > 0 for stage in STAGES if stage != "wait")

    # A faster batch that is found later changes neither these results nor what comes after them.
    facts = load_model(str(tiny_model)).facts
    calibration = Calibration(facts.digest, facts.device, facts.precision)
    calibration.add([Timing(kept["tile"], 2, kept["passes"], kept["seconds_per_tile"] / 2)])
    assert calibration.best_batches() == {kept["tile"]: 2}
    assert "skipped" in CliRunner().invoke(app, command).stdout
    (plan,) = json.loads(CliRunner().invoke(app, [*command, "--dry-run", "--json"]).stdout)
    assert plan["batch"] == 2


def test_the_network_is_timed_with_no_more_passes_than_the_run_had(
    tiny_model: Path, sample_svs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("wsi_seg.models.predictor.cpu_threads", lambda: 4)
    kept = []
    for most in (None, "1500MB"):
        out = tmp_path / str(most)
        command = ["run", str(sample_svs), "-o", str(out), "-m", str(tiny_model), "--set", "tile=1024"]
        command += ["--precision", "float32"]  # what it takes depends on the numbers
        done = CliRunner().invoke(app, [*command, *(["--max-memory", most] if most else [])])
        assert done.exit_code == 0, done.output
        manifest = json.loads((out / sample_svs.stem / "manifest.json").read_text(encoding="utf-8"))
        (file,) = (tmp_path / "cache" / "wsi_seg" / "calibration").iterdir()
        kept.append(json.loads(file.read_text(encoding="utf-8"))[-1]["passes"])
        assert kept[-1] == manifest["plan"]["passes"]
    assert kept[0] > kept[1]


def test_calibrate_measures_and_keeps(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command = ["calibrate", str(tiny_model), "--tile", "64", "--tile", "128", "--batch", "1", "--batch", "2"]
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exit_code == 0, done.output
    timings = json.loads(done.stdout)["timings"]
    assert {t["tile"] for t in timings} == {64, 128} and all(t["seconds_per_tile"] > 0 for t in timings)
    assert "fastest batch" in CliRunner().invoke(app, command).stdout
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    refused = CliRunner().invoke(app, command)
    assert refused.exit_code == 2 and "set XDG_CACHE_HOME" in refused.stderr
