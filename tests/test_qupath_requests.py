"""Files of the scripts for QuPath, runs in processes of their own, and bad requests."""

from __future__ import annotations

import io
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from wsi_seg import __version__
from wsi_seg.cli import app
from wsi_seg.core.errors import OutputError, UsageError, WsiSegError
from wsi_seg.core.system import machine, started_at
from wsi_seg.pipeline.qupath import runs
from wsi_seg.pipeline.qupath.regions import finished_results
from wsi_seg.pipeline.qupath.requests import answer_request, parse_request
from wsi_seg.pipeline.qupath.runs import BackgroundRun
from wsi_seg.pipeline.qupath.scripts import SCRIPTS, groovy

NAMES = [name for name, _, _ in SCRIPTS]
# A run that waits to be stopped, as wsi-seg run does.
WAITS = """
import sys, time
try:
    print("started", *sys.argv[1:], flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit("error: interrupted; run the same command again to resume")
"""


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


# --- scripts ----------------------------------------------------------------------------------------------


def test_scripts_are_written_and_start_with_their_version(tmp_path: Path) -> None:
    written = call("qupath", tmp_path / "a b" / "c")
    assert written.exit_code == 0, written.output
    for number, name in enumerate(NAMES, start=1):
        text = (tmp_path / "a b" / "c" / name).read_text(encoding="ascii")
        assert text.startswith(f"// wsi-seg {__version__}, script {number} of 3: ")
        assert str(tmp_path / "a b" / "c" / name) in written.output
    assert len(list((tmp_path / "a b" / "c").iterdir())) == 3


def test_a_script_is_replaced_unless_it_was_edited(tmp_path: Path) -> None:
    assert call("qupath", tmp_path).exit_code == 0
    assert call("qupath", tmp_path, "--output", tmp_path / "other").exit_code == 0
    assert str(tmp_path / "other") in (tmp_path / NAMES[1]).read_text()
    edited = (tmp_path / NAMES[1]).read_text().replace("replace: false", "replace: true")
    (tmp_path / NAMES[1]).write_text(edited)
    refused = call("qupath", tmp_path)
    assert refused.exit_code == 1 and f"{tmp_path / NAMES[1]}: was edited" in refused.output
    assert (tmp_path / NAMES[1]).read_text() == edited
    assert str(tmp_path / "other") in (tmp_path / NAMES[0]).read_text()  # nor the others, half and half


def test_a_file_of_others_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / NAMES[2]).write_bytes(b"\xffprint 1")
    refused = call("qupath", tmp_path)
    assert refused.exit_code == 1 and "is no script of wsi-seg" in refused.output
    assert [path.name for path in tmp_path.iterdir()] == [NAMES[2]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give the folder to write the scripts to"),
        (["x", "--host", "lab"], "--host lab: give the folder of lab that gets the results with --output"),
        (["x", "--host", "-oProxyCommand=x", "-o", "/r"], "no name of a computer"),
        (["x", "--path-map", "/mnt/slides"], "write it as HERE=THERE"),
    ],
)
def test_wrong_usage(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = call("qupath", *arguments)
    assert refused.exit_code == 2 and said in refused.output and not list(tmp_path.iterdir())


def test_scripts_say_where_wsi_seg_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "wsi-seg"
    program.parent.mkdir()
    program.touch(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert call("qupath", tmp_path / "own").exit_code == 0
    assert f"program: [{groovy(str(program))}]," in (tmp_path / "own" / NAMES[0]).read_text()
    monkeypatch.setattr(sys, "argv", ["python -m wsi_seg.cli"])
    assert call("qupath", tmp_path / "module").exit_code == 0
    assert "'-m', 'wsi_seg.cli']" in (tmp_path / "module" / NAMES[0]).read_text()
    host = (
        "--host",
        "lab",
        "-o",
        "/r",
        "--program",
        "conda run -n x wsi-seg",
        "--path-map",
        "C:\\a=/b",
        "-c",
        "r.yaml",
    )
    assert call("qupath", tmp_path / "host", *host).exit_code == 0
    text = (tmp_path / "host" / NAMES[0]).read_text()
    for line in (
        "program: ['conda run -n x wsi-seg']",
        "host: 'lab'",
        "folders: ['C:\\\\a': '/b']",
        "'--config=r.yaml'",
    ):
        assert line in text


# --- runs -------------------------------------------------------------------------------------------------


def wait_for(run: BackgroundRun, *states: str) -> runs.RunState:
    end = time.monotonic() + 60
    while (state := run.state()).state not in states:
        assert time.monotonic() < end, state
        time.sleep(0.05)
    return state


def test_a_run_is_followed_and_stopped_by_whoever_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PROGRAM", (sys.executable, "-c", WAITS))
    assert BackgroundRun(tmp_path, "a").state() == runs.RunState("none")
    heeded = signal.signal(signal.SIGINT, signal.default_int_handler)  # as the command does; else a test
    try:  # run that was started by `&` hands on that Ctrl-C is ignored
        BackgroundRun(tmp_path, "a").start(["run", "x y.svs"])
    finally:
        signal.signal(signal.SIGINT, heeded)
    pid = json.loads((tmp_path / "logs" / "a.qupath.json").read_text())["pid"]
    while "started run x y.svs" not in BackgroundRun(tmp_path, "a").log.read_text():
        time.sleep(0.02)
    assert BackgroundRun(tmp_path, "a").state().state == "running"
    BackgroundRun(tmp_path, "a").start(["run", "again"])  # it is on its way
    assert json.loads((tmp_path / "logs" / "a.qupath.json").read_text())["pid"] == pid
    BackgroundRun(tmp_path, "a").stop()
    stopped = wait_for(BackgroundRun(tmp_path, "a"), "stopped", "failed")
    assert stopped == runs.RunState("stopped", message="interrupted; run the same command again to resume")
    BackgroundRun(tmp_path, "a").stop()  # nothing to stop any more
    assert started_at(pid) == ""


def test_why_a_run_failed_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = BackgroundRun(tmp_path, "deep/a")
    run.start(["info", str(tmp_path / "none.svs")])
    failed = wait_for(run, "failed")
    assert failed.message.startswith(f"{tmp_path / 'none.svs'}: no such file")
    monkeypatch.setattr(
        runs, "PROGRAM", (sys.executable, "-c", "print('last words'); import os; os._exit(9)")
    )
    run.start(["run"])
    assert wait_for(run, "failed").message == f"{run.log}: the run ended without results after 'last words'"


def test_a_run_of_somebody_else_is_seen_and_left_alone(tmp_path: Path) -> None:
    claim = BackgroundRun(tmp_path, "a").results.claim
    claim.write_text(json.dumps({"machine": "elsewhere", "pid": 1, "started": "1", "token": ""}))
    assert BackgroundRun(tmp_path, "a").state().state == "running"
    with pytest.raises(OutputError, match=r"was started elsewhere \(process 1 on elsewhere\); stop it there"):
        BackgroundRun(tmp_path, "a").stop()
    claim.unlink()
    record = tmp_path / "logs" / "a.qupath.json"
    record.parent.mkdir()
    # Another process has the number by now, and must not be stopped.
    record.write_text(json.dumps({"machine": machine(), "pid": 1, "started": "0.00", "token": ""}))
    BackgroundRun(tmp_path, "a").stop()
    assert BackgroundRun(tmp_path, "a").state().state == "failed"


def test_progress_comes_from_plan_and_journal(tmp_path: Path) -> None:
    run = BackgroundRun(tmp_path, "a")
    run.results.partial.mkdir()
    (run.results.partial / "plan.json").write_text(json.dumps({"blocks": [[0, 0, 3], [1, 0, 4]]}))
    assert run.state().to_json() == {
        "state": "stopped",
        "tiles_done": 0,
        "tiles_total": 7,
        "message": "the run was interrupted; start it again to resume it",
    }
    (run.results.partial / "plan.json").write_text("{}")
    with pytest.raises(OutputError, match=r"plan\.json: is damaged"):
        run.state()


# --- requests ---------------------------------------------------------------------------------------------


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    path = tmp_path / "s.png"
    Image.fromarray(np.full((30, 40, 3), 200, np.uint8)).save(path)
    return path


def ask(slide: Path, **more: Any) -> Any:
    request = {
        "version": __version__,
        "output": str(slide.parent / "out"),
        "slides": [str(slide)],
    }
    answer = io.BytesIO()
    answer_request(parse_request(json.dumps({**request, **more}).encode()), answer, print)
    return json.loads(answer.getvalue())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            {"version": "0.0.1"},
            f"the scripts in QuPath are of wsi-seg 0.0.1, and this is {__version__}; write them",
        ),
        ({"action": "format"}, "request of QuPath: action"),
        ({"command": "rm"}, "request of QuPath: command: Extra inputs"),
        ({"slides": []}, "request of QuPath: slides"),
        ({"slides": ["a", "b"]}, "start: takes one slide, got 2"),
        ({}, "start: needs the size of the image in QuPath"),
        ({"size": [40, 31]}, "QuPath shows an image of 40 × 31 px, but this slide has 40 × 30 px;"),
        ({"size": [40, 30], "output": "s3://bucket/out"}, "go to a folder, not to a URL"),
        ({"size": [40, 30], "tissue": "{"}, "annotations of QuPath: not JSON"),
    ],
)
def test_a_bad_request_is_refused_and_nothing_is_written(
    more: dict[str, Any], said: str, slide: Path
) -> None:
    with pytest.raises(WsiSegError) as refused:
        ask(slide, **{"action": "start", **more})
    assert said in str(refused.value)
    assert [path.name for path in slide.parent.iterdir()] == ["s.png"]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"3"])
def test_what_is_no_request_is_refused(text: bytes) -> None:
    with pytest.raises(UsageError, match="no request of a script in QuPath"):
        parse_request(text)


def test_the_command_reads_a_request_and_says_errors(slide: Path) -> None:
    request = {"version": __version__, "action": "status", "output": "~", "slides": [str(slide)]}
    answered = CliRunner().invoke(app, ["qupath", "--request"], input=json.dumps(request))
    assert answered.exit_code == 0
    assert json.loads(answered.stdout)["runs"][0]["state"] == "none"
    refused = CliRunner().invoke(app, ["qupath", "--request"], input="{}")
    assert refused.exit_code == 2 and refused.stderr.startswith("error: no request of a script in QuPath")


def test_states_of_many_slides_are_said_one_by_one(slide: Path) -> None:
    damaged = BackgroundRun(slide.parent / "out", "bad").results.partial
    damaged.mkdir(parents=True)
    (damaged / "plan.json").write_text("[]")
    found = ask(slide, action="status", slides=[str(slide), str(slide.parent / "bad.png")])["runs"]
    assert [one["state"] for one in found] == ["none", "failed"]
    assert found[0]["slide"] == str(slide) and "plan.json" in found[1]["message"]


def test_the_same_annotations_are_one_file(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PROGRAM", (sys.executable, "-S", "-c", "print('error: no')"))
    drawn = {"type": "Feature", "geometry": None, "properties": {"name": "ü"}}
    for _ in range(2):
        ask(slide, action="start", size=[40, 30], tissue=json.dumps([drawn]))
        wait_for(BackgroundRun(slide.parent / "out", "s"), "failed")
    (kept,) = (slide.parent / "out" / "logs").glob("*.geojson")
    assert json.loads(kept.read_text())["features"] == [drawn]
    kept.write_text("mine")
    with pytest.raises(OutputError, match="is there with another content"):
        ask(slide, action="start", size=[40, 30], tissue=json.dumps([drawn]))
    assert kept.read_text() == "mine"


def test_results_are_found_at_any_depth_but_not_in_each_other(tmp_path: Path) -> None:
    for folder in ("a", "b/c", "a/inner", ".d.partial"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "manifest.json").touch()
    assert list(finished_results(tmp_path)) == [tmp_path / "a", tmp_path / "b" / "c"]
    assert list(finished_results(tmp_path / "none")) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--program", "it's"], "--program it's: No closing quotation"),
        (["--program", " "], "--program: names no program"),
        (["--config", "none.yaml"], "--config none.yaml: no such file on this computer"),
    ],
)
def test_what_no_run_could_start_with_is_refused(given: list[str], said: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["qupath", str(tmp_path / "scripts"), *given])
    assert result.exit_code == 2 and said in result.stderr and not (tmp_path / "scripts").exists()


def test_a_folder_of_many_slides_is_no_slide(slide: Path) -> None:
    for name in ("1.svs", "2.svs"):
        (slide.parent / name).touch()
    with pytest.raises(UsageError, match="holds 2 slides; ask for one of them"):
        ask(slide, action="start", slides=[str(slide.parent)], size=[300, 200])


def test_folders_that_cannot_be_are_said(slide: Path) -> None:
    with pytest.raises(UsageError, match="~nobody-is-called-so/out: there is no such home folder"):
        ask(slide, action="status", output="~nobody-is-called-so/out")
    (run,) = ask(slide, action="status", output="x" * 300)["runs"]
    assert run["state"] == "failed" and "cannot be read (File name too long)" in run["message"]
