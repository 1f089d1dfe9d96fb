"""Scenarios for the scripts of QuPath: slides, results and images, and what answers the scripts meanwhile."""

from __future__ import annotations

import io
import json
import os
import shutil
import socketserver
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.made.exports import BOUNDS, MadeResult, make_exported
from wsi_seg.core.errors import WsiSegError
from wsi_seg.pipeline.qupath import requests
from wsi_seg.pipeline.qupath.runs import BackgroundRun, RunState
from wsi_seg.pipeline.qupath.scripts import SCRIPTS, ScriptSettings, write_scripts
from wsi_seg.results.files import MANIFEST, POLYGONS, SUMMARY

HERE = Path(__file__).resolve().parent.parent
STAND_INS = HERE / "qupath_stand_ins"
RUN, IMPORT, IMPORT_PROJECT = (name for name, _, _ in SCRIPTS)
CROPPED = [BOUNDS.width, BOUNDS.height]
WHOLE = [BOUNDS.x1 + 256, BOUNDS.y1 + 256]
ODD_TEXTS = ("C:\\users\\unit", "it's $HOME", "\\", "\\\\u0041", "ü 𝄞 \t", '"${1 + 1}"', "'''", "\\u")
ODD_NAME = 'it\'s a "slide" ü µ $HOME'
OWN = {
    "type": "Feature",
    "id": "00000000-0000-4000-8000-000000000000",
    "geometry": {"type": "Polygon", "coordinates": [[[10, 20], [110, 20], [110, 90], [10, 90], [10, 20]]]},
    "properties": {"objectType": "annotation", "name": "größer als 5 µm"},
}
EARLIER = {**OWN, "properties": {**OWN["properties"], "metadata": {"group": "tumor", "codes": "1"}}}  # type: ignore[dict-item]
POINT = {**OWN, "geometry": {"type": "Point", "coordinates": [1, 2]}}


@dataclass
class Backend:
    """The package itself answers the scripts; only the processes of runs are made up."""

    socket: Path
    states: dict[str, list[RunState]] = field(default_factory=dict)
    """By the name of results: what is said of its run, one after another, the last for ever."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    started: list[tuple[str, list[str]]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)

    def answer(self, text: bytes) -> tuple[int, str, bytes]:
        answer, warnings = io.BytesIO(), list[str]()
        try:
            self.asked.append(json.loads(text))
            requests.answer_request(requests.parse_request(text), answer, warnings.append)
        except WsiSegError as error:
            return error.exit_code, f"warning: a line before\nerror: {error}\n", b""
        return 0, "".join(f"warning: {line}\n" for line in warnings), answer.getvalue()

    def fake_runs(self) -> type:
        backend = self

        class FakeRun(BackgroundRun):
            def start(self, words: Any) -> None:
                backend.started.append((self.results.name, list(words)))

            def stop(self, *, hard: bool = False) -> None:
                backend.stopped.append(self.results.name)
                backend.states[self.results.name] = [RunState("stopped", 3, 10, "interrupted")]

            def state(self) -> RunState:
                states = backend.states.get(self.results.name)
                if not states:
                    return super().state()
                return states.pop(0) if len(states) > 1 else states[0]

        return FakeRun


@dataclass
class Outcomes:
    """Outcomes of all scenarios."""

    made: MadeResult
    out: Path
    backend: Backend
    of: dict[str, dict[str, Any]]

    def said(self, name: str) -> list[str]:
        assert self.of[name]["problem"] is None, self.of[name]["problem"]
        return [f"{kind}: {text}" for kind, text in self.of[name]["messages"]]

    def asked(self, slide: str) -> list[dict[str, Any]]:
        return [request for request in self.backend.asked if Path(request["slides"][0]).stem == slide]


class Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        code, said, content = self.server.backend.answer(self.rfile.read())  # type: ignore[attr-defined]
        self.wfile.write(json.dumps([code, said]).encode() + b"\n" + content)


def uri(path: Path) -> str:
    return path.as_uri()


class Stage:
    """Slides, results and scripts of the scenarios."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made = make_exported("bounds", folder)
        self.slide = folder / "bounds.scn"
        self.out = self.made.folder.parent
        self.client = (sys.executable, "-I", "-S", str(HERE / "qupath_client.py"), str(folder / "socket"))
        write_scripts(folder / "scripts", ScriptSettings(self.client, str(self.out)))
        odd = ScriptSettings(ODD_TEXTS, options=ODD_TEXTS, folders=tuple((text, text) for text in ODD_TEXTS))
        write_scripts(folder / "odd", odd)

    def copy(self, name: str, **changes: Any) -> Path:
        """Make a slide and results of another name, with changes of what the manifest says of the slide."""
        slide = self.folder / f"{name}.scn"
        os.link(self.slide, slide)
        results = self.out / name
        results.mkdir()
        for file in (MANIFEST, POLYGONS, SUMMARY):
            shutil.copy(self.made.folder / file, results / file)
        record = json.loads((results / MANIFEST).read_text())
        record["slide"] |= changes
        (results / MANIFEST).write_text(json.dumps(record))
        return slide

    def slide_only(self, name: str) -> Path:
        slide = self.folder / f"{name}.scn"
        os.link(self.slide, slide)
        return slide

    def scenario(self, script: str, **settings: Any) -> dict[str, Any]:
        """Return a scenario of a script, some of whose settings were edited."""
        return {"script": str(self.folder / "scripts" / script), "settings": settings, "windows": True}


def shown(slide: Path, size: list[int] = CROPPED, **more: Any) -> dict[str, Any]:
    return {"uris": [uri(slide)], "size": size, **more}


def import_scenarios(stage: Stage) -> dict[str, dict[str, Any]]:
    odd, other = (
        stage.copy(ODD_NAME),
        stage.copy("other", fingerprint="quickhash1:0", path="/scans/other.scn"),
    )
    saved, unlike = stage.copy("saved"), stage.copy("unlike")
    summary = json.loads((stage.out / "unlike" / SUMMARY).read_text())
    summary |= {"status": "incomplete", "notice": "not for clinical use", "domain": {"notice": "unlike it"}}
    (stage.out / "unlike" / SUMMARY).write_text(json.dumps(summary))
    document = json.loads((stage.out / "saved" / POLYGONS).read_text())
    (stage.out / "saved" / POLYGONS).write_text(json.dumps(document["features"], indent=2))
    new = stage.slide_only("new")
    one = stage.scenario(IMPORT)
    return {
        "cropped": {**one, "image": shown(stage.slide, objects=[OWN])},
        "whole": {**one, "image": shown(stage.slide, WHOLE)},
        "saved again": {**one, "image": shown(saved)},
        "saved again, whole": {**one, "image": shown(saved, WHOLE)},
        "odd name": {**one, "image": shown(odd)},
        "another size": {**one, "image": shown(stage.slide, [768, 1024])},
        "rotated": {**one, "image": shown(stage.slide, rotated=True)},
        "other": {**one, "image": shown(other)},
        "new": {**one, "image": shown(new)},
        "unlike": {**one, "image": shown(unlike)},
        "no": {**one, "image": shown(stage.slide, objects=[OWN, EARLIER]), "answers": [False]},
        "yes": {**one, "image": shown(stage.slide, objects=[OWN, EARLIER]), "answers": [True]},
        "nothing open": one,
        "two files": {**one, "image": {"uris": ["file:/a.tif", "file:/b.tif"], "size": [1, 1]}},
        "no file": {**one, "image": {"uris": ["https://omero/image/1"], "size": [1, 1]}},
        "no output": {**stage.scenario(IMPORT, output=""), "image": shown(stage.slide)},
        "not installed": {**stage.scenario(IMPORT, program=["/no/wsi-seg"]), "image": shown(stage.slide)},
        "literals": {**one, "script": str(stage.folder / "odd" / IMPORT)},
        "command line": {**one, "windows": False, "image": shown(new)},
    }  # fmt: skip


def host_scenarios(stage: Stage) -> dict[str, dict[str, Any]]:
    there = stage.folder / "there"
    there.mkdir()
    os.link(stage.slide, there / "bounds.scn")
    program = [" ".join(f"'{word}'" for word in stage.client)]
    mapped = {"/Volumes/My slides/": f"{there}/", "C:\\Scans": str(there)}
    image = {"uris": ["file:/Volumes/My%20slides/bounds.scn"], "size": CROPPED}

    def scenario(host: str, **settings: Any) -> dict[str, Any]:
        edited = {"program": program, "host": host, "folders": mapped, **settings}
        return {**stage.scenario(IMPORT, **edited), "image": image}

    return {
        "host": scenario("lab"),
        "host without folder": scenario("lab", output=""),
        "host without program": scenario("lab", program=["no-such-wsi-seg"]),
        "host that is down": scenario("nowhere"),
        "host without slide": scenario("lab", folders={}),
    }


def run_scenarios(stage: Stage, backend: Backend) -> dict[str, dict[str, Any]]:
    running = [RunState("running"), RunState("running", 3, 10), RunState("running", 10, 10)]
    scenarios = {}
    for name, states, more in (
        ("parts", [*running, running[0], RunState("done")], {"objects": [{**OWN, "selected": True}, POINT]}),
        ("stop", running[:2], {}),
        ("close", running[:2], {}),
        ("again", [RunState("failed", message="holds other results; pass --overwrite to replace them"),
                   RunState("running"), RunState("done")], {}),
        ("failed", [running[0], RunState("failed", message="no mpp; give them with --mpp")], {}),
    ):  # fmt: skip
        backend.states[name] = states
        press = {"stop": "Stop", "close": "Close"}.get(name)
        scenarios[f"run {name}"] = {
            **stage.scenario(RUN, options=["--model=m"]),
            "press": press,
            "answers": [True],
            "image": shown(stage.copy(name), **more),
        }
    scenarios["run for project"] = {**scenarios["run parts"], "batch": True}
    return scenarios


def project_scenarios(stage: Stage, backend: Backend) -> dict[str, dict[str, Any]]:
    entries = [
        shown(stage.copy("a"), name="a"),
        shown(stage.slide_only("unfinished"), name="unfinished"),
        {"uris": ["https://omero/1"], "size": [1, 1], "name": "remote"},
        shown(stage.copy("b", fingerprint="quickhash1:1"), name="b"),
        shown(stage.copy("c"), name="c", objects=[EARLIER]),
        shown(stage.copy("d"), name="d", shown=True),
        shown(stage.slide_only("deep"), name="deep"),
        shown(stage.copy("moved"), name="moved", moved=True),
        shown(stage.slide_only("going"), name="going"),
        shown(stage.slide_only("broke"), name="broke"),
    ]
    backend.states |= {"going": [RunState("running")], "broke": [RunState("failed", message="no mpp")]}
    deep = stage.out / "batch" / "deep"
    shutil.copytree(stage.out / "a", deep)
    project = {"path": str(stage.folder / "project.qpproj"), "images": entries}
    elsewhere = {"path": str(stage.folder / "p" / "project.qpproj"), "images": entries[4:5]}
    return {
        "project": {**stage.scenario(IMPORT_PROJECT), "project": project},
        "no project": stage.scenario(IMPORT_PROJECT),
        "default output": {**stage.scenario(IMPORT_PROJECT, output="", replace=True), "project": elsewhere},
    }
