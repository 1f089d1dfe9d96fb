"""The scripts for QuPath, run by Groovy against stand-ins for QuPath, and what `wsi-seg` answers them.

QuPath itself is not at hand: the stand-ins of tests/qupath_stand_ins have the signatures of its public API.
All scripts run in one process of Java, which asks this one, in the place of `wsi-seg`, through a socket.
"""

from __future__ import annotations

import json
import os
import shutil
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import shapely

from tests.made.exports import BOUNDS
from tests.made.qupath import (
    EARLIER,
    HERE,
    ODD_TEXTS,
    OWN,
    STAND_INS,
    Backend,
    Handler,
    Outcomes,
    Stage,
    host_scenarios,
    import_scenarios,
    project_scenarios,
    run_scenarios,
)
from tests.test_exporters import landmark_error
from wsi_seg import __version__
from wsi_seg.pipeline.qupath import requests

# Of the model that made the results.
NOTICE = "model darkness: for tests only"


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcomes]:
    if shutil.which("groovy") is None:
        pytest.skip("needs Groovy (Debian's package groovy) to run the scripts of QuPath")
    stage = Stage(tmp_path_factory.mktemp("q"))
    backend = Backend(stage.folder / "socket")
    scenarios = {
        **import_scenarios(stage),
        **host_scenarios(stage),
        **run_scenarios(stage, backend),
        **project_scenarios(stage, backend),
    }
    shutil.copytree(stage.out / "c", stage.folder / "p" / "wsi_seg" / "c")
    (stage.folder / "scenarios.json").write_text(json.dumps(scenarios))
    ssh = stage.folder / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(
        '#!/bin/sh\n[ "$1 $2 $3" = "-T -o BatchMode=yes" ] || exit 9\nshift 3\n'
        '[ "$1" = lab ] || { echo "ssh: no route to $1" >&2; exit 255; }\nexec sh -c "$2"\n'
    )
    ssh.chmod(0o755)
    patch = pytest.MonkeyPatch()
    patch.setattr(requests, "BackgroundRun", backend.fake_runs())
    with socketserver.ThreadingUnixStreamServer(str(backend.socket), Handler) as server:
        server.backend = backend  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            ["groovy", "-cp", str(STAND_INS), str(STAND_INS / "run_scenarios.groovy"),
             str(stage.folder / "scenarios.json"), str(stage.folder / "outcomes.json")],
            env={**os.environ, "PATH": f"{ssh.parent}{os.pathsep}{os.environ['PATH']}",
                 "JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        server.shutdown()
    patch.undo()
    assert done.returncode == 0, done.stderr
    of = json.loads((stage.folder / "outcomes.json").read_text())
    yield Outcomes(stage.made, stage.out, backend, of)


def regions_of(found: Outcomes, name: str, image: int = 0) -> list[dict[str, Any]]:
    return [f for f in found.of[name]["objects"][image] if f["properties"].get("metadata")]


@pytest.mark.parametrize(
    "name", ["cropped", "whole", "saved again", "saved again, whole", "odd name", "host"]
)
def test_regions_are_imported_where_qupath_shows_the_slide(name: str, outcomes: Outcomes) -> None:
    assert outcomes.said(name) == [f"plain: Imported 3 regions.\n{NOTICE}\nSave the image to keep them."]
    found = regions_of(outcomes, name)
    shapes = [shapely.from_geojson(json.dumps(feature["geometry"])) for feature in found]
    dx, dy = (0, 0) if "whole" in name else (BOUNDS.x0, BOUNDS.y0)
    moved = [shapely.affinity.translate(shape, dx, dy) for shape in shapes]
    assert landmark_error(moved, outcomes.made) <= 0.1
    properties = found[0]["properties"]
    assert properties["classification"] == {"name": "Tumor", "color": [200, 0, 0]}
    assert {"Area µm^2", "Perimeter µm"} <= set(properties["measurements"])
    assert len({feature["id"] for feature in found}) == 3


def test_what_people_must_know_about_results_is_said(outcomes: Outcomes) -> None:
    (said,) = outcomes.said("unlike")
    _, incomplete, unlike, notice, _ = said.splitlines()
    assert "INCOMPLETE" in incomplete and unlike == "unlike it"
    assert notice == "model darkness: not for clinical use"


def test_only_regions_of_an_earlier_import_are_replaced(outcomes: Outcomes) -> None:
    assert OWN in outcomes.of["cropped"]["objects"][0]
    question = (
        "question: This image already has 1 region of wsi-seg. "
        "Replace them? What you changed in them would be lost."
    )
    assert outcomes.said("no") == [question]
    assert outcomes.of["no"]["objects"][0] == [OWN, EARLIER]
    assert outcomes.said("yes")[0] == question
    assert outcomes.of["yes"]["objects"][0][0] == OWN and len(regions_of(outcomes, "yes")) == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("another size", "QuPath shows an image of 768 × 1024 px, but this slide has"),
        ("rotated", "This image is a rotated copy of"),
        ("other", "holds results of another slide of this name, /scans/other.scn, and not of"),
        ("new", "has no finished results of new; run wsi-seg on this image first"),
        ("nothing open", "No image is open. Open a slide"),
        ("two files", "is not a single file on this computer"),
        ("no file", "is not a single file on this computer: [https://omero/image/1]"),
        ("no output", "Open the image in a project: results go to the folder of the project"),
        ("not installed", "/no/wsi-seg was not found on this computer"),
        ("host without folder", 'next to "output", which folder of lab gets the results'),
        ("host without program", "no-such-wsi-seg was not found on lab. Write its whole path"),
        ("host that is down", "nowhere cannot be reached: ssh: no route to nowhere. In a terminal"),
        ("host without slide", "bounds.scn: no such file"),
        ("no project", "No project is open"),
    ],
)
def test_what_is_wrong_is_one_message(name: str, said: str, outcomes: Outcomes) -> None:
    (message,) = outcomes.said(name)
    assert message.startswith("error: ") and said in message and "\n" not in message
    assert not any(outcomes.of[name]["objects"])
    if name == "host without slide":
        assert message.endswith("(on lab)")


def test_without_windows_a_problem_ends_the_script(outcomes: Outcomes) -> None:
    assert "has no finished results of new" in outcomes.of["command line"]["problem"]
    assert outcomes.of["command line"]["messages"] == []


def test_a_run_on_selected_annotations_is_followed_and_imported(outcomes: Outcomes) -> None:
    said = outcomes.said("run parts")
    assert said[0].startswith("window: wsi-seg: ") and said[1] == "closed: "
    assert (
        said[2] == f"plain: The run is finished. Imported 3 regions.\n{NOTICE}\nSave the image to keep them."
    )
    labels, progress = outcomes.of["run parts"]["labels"], outcomes.of["run parts"]["progress"]
    assert labels == [
        "Starting...",
        "Running, 3 of 10 tiles",
        "All tiles are done. Tracing the regions...",
        "Writing the results...",
        "Finished.",
    ]
    assert progress == [0.3, 1, -1, -1]
    started = [words for name, words in outcomes.backend.started if name == "parts"]
    (words,) = started
    slide = outcomes.asked("parts")[0]["slides"][0]
    assert words[:4] == ["run", slide, f"--output={outcomes.out}", "--model=m"]
    tissue = json.loads(Path(words[4].removeprefix("--tissue=")).read_text())
    assert tissue["wsi_seg"] == {"subtracted_l0": [BOUNDS.x0, BOUNDS.y0]}
    assert [feature["properties"]["name"] for feature in tissue["features"]] == ["größer als 5 µm"]
    assert len(words) == 5
    assert len(regions_of(outcomes, "run parts")) == 3


def test_a_run_can_be_stopped(outcomes: Outcomes) -> None:
    assert outcomes.backend.stopped == ["stop"]
    assert outcomes.said("run stop")[-1] == "plain: Stopped, 3 of 10 tiles. Run this script again to resume."
    assert outcomes.of["run stop"]["objects"] == [[]]


def test_a_run_goes_on_when_its_window_is_closed(outcomes: Outcomes) -> None:
    assert [request["action"] for request in outcomes.asked("close")] == ["start"]
    assert [said.partition(":")[0] for said in outcomes.said("run close")] == ["window", "closed"]


def test_results_of_other_settings_are_replaced_only_after_a_question(outcomes: Outcomes) -> None:
    kinds = [said.partition(":")[0] for said in outcomes.said("run again")]
    assert kinds == ["window", "closed", "question", "window", "closed", "plain"]
    started = [words for name, words in outcomes.backend.started if name == "again"]
    assert ["--overwrite" in words for words in started] == [False, True]


def test_the_reason_of_a_failed_run_is_shown(outcomes: Outcomes) -> None:
    assert outcomes.said("run failed")[-1] == "error: The run failed: no mpp; give them with --mpp"


def test_runs_are_not_started_for_a_whole_project(outcomes: Outcomes) -> None:
    assert "one run at a time" in outcomes.of["run for project"]["problem"]
    assert [name for name, _ in outcomes.backend.started].count("parts") == 1


def test_a_project_gets_the_regions_of_its_slides(outcomes: Outcomes) -> None:
    project = outcomes.of["project"]
    counts = [len(objects) for objects in project["objects"][1:]]
    #                 a  unfinished  remote  b  c  d  deep  moved  going  broke
    assert counts == [3, 0, 0, 0, 1, 3, 3, 0, 0, 0]
    assert [i for i, saved in enumerate(project["saved"]) if saved] == [0, 6]
    (said,) = outcomes.said("project")
    assert said.startswith(
        "plain: Regions were imported into 3 of 10 images.\n1 run still going.\n1 image without finished"
    )
    assert "moved: the image was moved\n" in said and "broke: the run failed: no mpp\n" in said
    assert "remote: not a single file" in said and "b: " in said and "of another slide of this name" in said
    assert said.endswith(f"Warnings:\n3 images: {NOTICE}\nd: The image is open and not saved yet.")
    assert 'c: has 1 region of an earlier import; set "replace" to true' in said


def test_regions_of_an_earlier_import_are_replaced_where_settings_say_so(outcomes: Outcomes) -> None:
    (said,) = outcomes.said("default output")
    assert said == f"plain: Regions were imported into 1 of 1 image.\n\nWarnings:\nc: {NOTICE}"
    assert [len(objects) for objects in outcomes.of["default output"]["objects"][1:]] == [3]


def test_settings_are_read_as_they_were_written(outcomes: Outcomes) -> None:
    written = outcomes.of["literals"]["written"]
    assert written["program"] == written["options"] == list(ODD_TEXTS)
    assert written["folders"] == {text: text for text in ODD_TEXTS}
    assert outcomes.of["cropped"]["written"] == {
        "program": [sys.executable, "-I", "-S", str(HERE / "qupath_client.py"), str(outcomes.backend.socket)],
        "host": "",
        "output": str(outcomes.out),
        "options": [],
        "folders": {},
        "replace": False,
    }


def test_requests_say_which_version_wrote_the_scripts(outcomes: Outcomes) -> None:
    assert {request["version"] for request in outcomes.backend.asked} == {__version__}
