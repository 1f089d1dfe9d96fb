"""Tables and folders as people have them, through the command line: nothing is lost, nothing is changed."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from tests.dicom_heads import CT, DIRECTORY, WHOLE_SLIDE, write_dicom
from tests.viewer_server import client, only_id
from wsi_seg.cli import app
from wsi_seg.pipeline.inputs import find_slides
from wsi_seg.pipeline.settings import make_settings, read_values
from wsi_seg.viewer.jobs import JobSlot
from wsi_seg.viewer.runs import Runs

REGION = [[[20, 20], [200, 20], [200, 200], [20, 200], [20, 20]]]
SIDE = 256


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(result: Any, code: int, *words: str) -> None:
    """One line on stderr with these words, this exit code, and no traceback."""
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.output
    for word in words:
        assert word in lines[0]


def by_name(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["name"]: row for row in rows} if len({row["name"] for row in rows}) == len(rows) else {}


def write_slide(path: Path, *, mpp: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(1).integers(80, 200, (SIDE, SIDE, 3), np.uint8)
    pixels[..., 1] //= 2
    options: dict[str, Any] = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"} if mpp else {}
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb", metadata=None, **options)
    return path


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    return write_slide(tmp_path / "scans" / "a.tif")


# --- what cannot be run is named ------------------------------------------------------------------


def test_what_is_found_and_cannot_be_run_has_a_row_a_line_and_an_exit_code(
    tmp_path: Path, tiny_model: Path
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    write_slide(scans / "a.tif")
    write_slide(scans / "case" / "he.tif")
    write_dicom(scans / "case" / "ct.dcm", CT)
    write_dicom(scans / "case" / "DICOMDIR", DIRECTORY)
    (scans / "gone.svs").symlink_to("/nowhere/gone.svs")
    (scans / "unmounted").symlink_to("/nowhere/folder")
    (scans / "back").symlink_to("..")
    (scans / "b.isyntax").write_bytes(b"no reader takes this")
    (scans / "notes.txt").write_text("no slide")
    (scans / "._a.tif").write_bytes(b"\0\5\x16\7AppleDouble")
    write_slide(scans / "lost+found" / "c.tif")
    arguments = ("run", scans, "-o", out, "--model", tiny_model)
    planned = call(*arguments, "--dry-run")
    done = call(*arguments)
    for result in (planned, done):
        assert result.exit_code == 3, result.output
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 4, result.stderr
        text = "\n".join(lines)
        assert "gone.svs: a link to /nowhere/gone.svs, which does not exist" in text
        assert "unmounted: a link to /nowhere/folder, which does not exist" in text
        assert f"ct.dcm: DICOM, but no whole-slide image (SOP class {CT})" in text
        assert "b.isyntax: not a slide or image that can be read" in text
    rows = by_name(out / "batch.csv")
    status = {name: row["status"] for name, row in rows.items()}
    assert status == {
        "a": "done", "case/he": "done", "b": "failed", "gone": "failed", "unmounted": "failed",
        "case/ct": "failed",
    }  # fmt: skip
    assert set(by_name(out / "failed.csv")) == {"b", "gone", "unmounted", "case/ct"}
    assert set(Runs(out, scans, JobSlot()).slides()) == {"a.tif", "case/he.tif"}  # as the browser offers them
    (out / "a" / "._polygons.geojson").write_bytes(b"\0\5\x16\7AppleDouble")
    assert call("validate", out).exit_code == 0


def test_a_folder_that_cannot_be_read_costs_itself_alone(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    write_slide(scans / "a.tif")
    locked = scans / "locked"
    write_slide(locked / "b.tif")
    # root may read everything, whatever the permissions of a folder
    listed = Path.iterdir

    def iterdir(folder: Path) -> Any:
        if folder == locked:
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", iterdir)
        result = call("run", scans, "-o", out, "--model", tiny_model)
        assert result.exit_code == 3, result.output
        assert f"error: {locked}: no permission to read it" in result.stderr
        alone = call("run", locked, "-o", out, "--model", tiny_model)
        assert alone.exit_code == 1, alone.output
        refused(alone, 1, "no permission to read it")
    rows = by_name(out / "batch.csv")
    assert {name: row["status"] for name, row in rows.items()} == {"a": "done", "locked": "failed"}
    again = call("run", out / "failed.csv", "-o", out, "--model", tiny_model, "--dry-run", "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)[0]["slide"]["path"] == str(locked / "b.tif")


def test_files_next_to_a_dicom_series_are_slides_too(tmp_path: Path) -> None:
    def names(word: object) -> dict[str, str]:
        return {s.name: str(Path(s.path).relative_to(tmp_path)) for s in find_slides([str(word)])}

    for name in ("1.dcm", "2", "3.dcm"):
        write_dicom(tmp_path / "case" / name, WHOLE_SLIDE)
    write_slide(tmp_path / "case" / "he.tif")
    write_slide(tmp_path / "case" / "deep" / "b.tif")
    write_dicom(tmp_path / "case" / "report.dcm", CT)
    write_dicom(tmp_path / "ct" / "1.dcm", CT)
    write_dicom(tmp_path / "ct" / "2.dcm", CT)
    inside = {"case": "case", "deep/b": "case/deep/b.tif", "he": "case/he.tif", "report": "case/report.dcm"}
    assert names(tmp_path / "case") == inside
    assert set(names(tmp_path).values()) == {*inside.values(), "ct"}
    assert set(names(tmp_path / "*").values()) == {*inside.values(), "ct"}
    assert names(tmp_path / "case" / "*.dcm") == {"case": "case", "report": "case/report.dcm"}


def test_rows_of_one_slide_under_two_names_are_both_run(
    slide: Path, tmp_path: Path, tiny_model: Path
) -> None:
    table, out = tmp_path / "t.csv", tmp_path / "out"
    table.write_text(
        "slide,name,threshold,note:patient\n"
        "scans/a.tif,one,0.5,P 1\nscans/a.tif,two,0.3,no\nscans/b.tif,b,,\n"
    )
    result = call("run", table, "-o", out, "--model", tiny_model)
    assert result.exit_code == 3, result.output
    rows = by_name(out / "batch.csv")
    assert [rows[n]["status"] for n in ("one", "two", "b")] == ["done", "done", "failed"]
    assert [rows[n]["note:patient"] for n in ("one", "two", "b")] == ["P 1", "no", ""]
    thresholds = [
        json.loads((out / n / "manifest.json").read_text())["settings"]["regions"]["trace"]["threshold"]
        for n in ("one", "two")
    ]
    assert thresholds == [0.5, 0.3]


# --- cells are text -------------------------------------------------------------------------------

ODD = ("no.geojson", "case: 1.geojson", "case 1 #2.geojson", "[1] a.geojson", "2024-05-01", "12", "off", "~")


def test_cells_are_text_of_their_setting_and_paths_start_at_the_table(
    slide: Path, tmp_path: Path, tiny_model: Path
) -> None:
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": REGION}}
    for name in ODD:
        file = tmp_path / "rois" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    table = tmp_path / "t.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("slide", "name", "tissue", "tta", "groups", "mpp", "tile", ""))
        names = ("no", "off", "12", "2024-05-01", "1e5", "null", "001", "y")
        cells = [("yes", "tumor", "", "128"), ("off", "tumor,other", "0.5", "")]
        for number, (name, roi) in enumerate(zip(names, ODD, strict=True)):
            writer.writerow(("scans/a.tif", name, f"rois/{roi}", *cells[number % 2], ""))
        writer.writerow([""] * 8)
    arguments = ("run", table, "-o", tmp_path / "out", "--model", tiny_model, "--dry-run")
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    plans = json.loads(result.stdout)
    assert [plan["tta"] for plan in plans] == [True, False] * 4
    assert plans[0]["stitch"]["grid"]["tile"] == 128
    assert [plan["slide"]["mpp_source"] == "user" for plan in plans] == [False, True] * 4
    text = call(*arguments).stdout
    assert [line.split()[-1] for line in text.splitlines()[1:-1]] == list(names)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slide,tissue\nscans/a.tif,no\n", ("t.csv, line 2: tissue 'no'", "otsu")),
        ("slide,tissue\nscans/a.tif,12\n", ("t.csv, line 2: tissue '12'",)),
        ("slide,tissue\nscans/a.tif,roi.geojson\n", ("lies next to the slide", "write 'scans/roi.geojson'")),
        ("slide,patient_id\nscans/a.tif,P1\n", ("t.csv: column 'patient_id'", "'note:patient_id'")),
        ("slide,treshold\nscans/a.tif,\n", ("t.csv: column 'treshold'", "'threshold'")),
        ("slide,mpp,mpp\nscans/a.tif,1,2\n", ("column 'mpp' is there twice",)),
        ('slide,mpp\nscans/a.tif,"0,5"\n', ("t.csv, line 2: mpp", "'0,5'")),
        ("slide,mpp\nscans/a.tif,inf\n", ("t.csv, line 2: mpp", "finite")),
        ("slide,mpp\nscans/a.tif,nan\n", ("t.csv, line 2: mpp", "finite")),
        ("slide,tta\nscans/a.tif,maybe\n", ("t.csv, line 2: tta", "'maybe'")),
        ("slide,workers\nscans/a.tif,2\n", ("t.csv, line 2: workers", "--workers")),
        ("slide,groups\nscans/a.tif,tumor;stroma\n", ("t.csv, line 2: ", "tumor;stroma")),
        ("slide,model\nscans/a.tif,12\n", ("t.csv, line 2: 12", "no such model")),
        ('slide,name\nscans/a.tif,"x\ny"\n', ("'x\\ny' is no name",)),
        ("slide,name\n", ("t.csv: names no slide below its first line",)),
        ("slide;name;mpp\nscans/a.tif;one;0,5\n", ("separated by ';'", "CSV UTF-8")),
        ("sep=;\nslide;name\nscans/a.tif;one\n", ("separated by ';'",)),
        ("slide,name,\nscans/a.tif,one,two\n", ("'two' is in a column without a name",)),
    ],
)
def test_a_table_that_means_nothing_is_one_line(
    text: str, words: tuple[str, ...], slide: Path, tmp_path: Path, tiny_model: Path
) -> None:
    (slide.parent / "roi.geojson").write_text("{}")
    table = tmp_path / "t.csv"
    table.write_text(text)
    arguments = ("run", table, "-o", tmp_path / "out", "--model", tiny_model)
    refused(call(*arguments, "--dry-run"), 1 if "such model" in words[-1] else 2, *words)
    refused(call(*arguments), 1 if "such model" in words[-1] else 2, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        ("slide,name\na.tif,ö\n".encode("utf-16"), "t.csv", "UTF-16; save it as CSV UTF-8"),
        ("slide,name\na.tif,ö\n".encode("latin-1"), "t.csv", "no CSV table in UTF-8 (line 2); save it as"),
        (b"PK\3\4", "t.xlsx", "save this one as CSV UTF-8"),
    ],
)
def test_a_table_of_another_program_is_one_line(data: bytes, name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    refused(call("run", tmp_path / name, "-o", tmp_path / "out"), 2, name, words)


def test_a_table_without_an_end_is_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    refused(call("run", tmp_path / "t.csv", "-o", tmp_path / "out"), 2, "t.csv", "is no plain file")


def test_set_and_configurations_read_text_as_text(slide: Path, tmp_path: Path, tiny_model: Path) -> None:
    arguments = ("run", slide, "-o", tmp_path / "out", "--model", tiny_model, "--dry-run")
    for more in (("--set", "tissue=no"), ("--tissue", "no"), ("--set", "tissue=2024-05-01")):
        refused(call(*arguments, *more), 2, f"unknown tissue method {more[1].split('=')[-1]!r}")
    config = tmp_path / "run.yaml"
    config.write_text("tissue: off\ntta: yes\ngroups: tumor, other\nthreshold: 3e-1\n")
    refused(call(*arguments, "-c", config), 2, "unknown tissue method 'off'")
    plan = json.loads(
        call(*arguments, "-c", config, "--set", "tissue=none", "--set", "tile=128", "--json").stdout
    )
    assert plan[0]["tta"] is True and plan[0]["stitch"]["grid"]["tile"] == 128
    resolved = make_settings(read_values(config, {"classes": "a,b", "gpus": "all"}))
    regions = resolved.regions
    assert (regions.groups, regions.classes, resolved.workers.gpus) == (("tumor", "other"), ("a", "b"), "all")
    assert regions.trace.threshold == 0.3
    config.write_text("tissue: 12\n")
    refused(call(*arguments, "-c", config), 2, "tissue: ", "(got 12); put it in quotes")


# --- paths are absolute ---------------------------------------------------------------------------


def test_results_of_a_relative_path_are_shown_from_any_folder(
    slide: Path,
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = tmp_path / "link.tif"
    link.symlink_to(slide)
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": REGION}}
    (tmp_path / "roi.geojson").write_text(json.dumps(feature))
    monkeypatch.chdir(tmp_path)
    result = call("run", "link.tif", "scans", "-o", "out", "--model", tiny_model, "--tissue", "roi.geojson",
                  "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = [(one["slide"], one["status"], one.get("reason", "")) for one in json.loads(result.stdout)]
    assert rows == [(str(link), "done", ""), (str(slide), "skipped", f"the same file as {link}")]
    with (tmp_path / "out" / "batch.csv").open(newline="") as file:
        assert [(row["slide"], row["status"]) for row in csv.DictReader(file)] == [row[:2] for row in rows]
    monkeypatch.chdir("/")
    manifest = json.loads((tmp_path / "out" / "link" / "manifest.json").read_text())
    assert manifest["slide"]["path"] == str(link)
    assert str(tmp_path / "roi.geojson") in json.dumps(manifest)
    asking = client(tmp_path / "out")
    facts = asking.get(f"/api/slides/{only_id(asking)}").json()
    assert facts["has_slide"], facts["slide_problem"]


def test_paths_of_a_configuration_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = make_settings({"cache": "c", "staging": "s", "cluster": "x.yaml", "tissue": "r.json"})
    assert settings.cache is not None and settings.cache.folder == str(tmp_path / "c")
    assert settings.staging == str(tmp_path / "s")
    assert settings.workers.cluster == tmp_path / "x.yaml" and settings.tissue == str(tmp_path / "r.json")
    assert make_settings({"tissue": "otsu"}).tissue == "otsu"
