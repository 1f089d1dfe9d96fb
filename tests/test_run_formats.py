"""Formats that a run writes besides: as `wsi-seg export` does, added to kept results, whole or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.made.landmarks import darkness_model
from tests.made.progress import StopAfter
from tests.made.slides import SlideSpec, make_slide
from tests.servers import BUCKET, s3_server
from wsi_seg.cli import app
from wsi_seg.core.errors import ClaimedError, Interrupted, OutputError, UsageError
from wsi_seg.core.geometry import Size
from wsi_seg.exporters.table import FORMATS
from wsi_seg.pipeline.result import Result
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.run_exports import export_paths
from wsi_seg.pipeline.settings import RunSettings, make_settings
from wsi_seg.planning.settings import PlanSettings
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.results.claims import claimed

MODEL = darkness_model()
PLAIN = RunSettings(
    plan=PlanSettings(block=512, tile=256, overlap=16), regions=RegionSettings(groups=("tumor", "stroma"))
)
FORMATS_ASKED = ("asap", "csv", "imagescope", "png@4", "tiff-mask", "ozx")
ASKED = replace(PLAIN, formats=FORMATS_ASKED)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slide")
    return make_slide(folder / "case 1.a.svs", SlideSpec(Size(768, 512), mpp=0.5, tissue=0.5))


@pytest.fixture(scope="module")
def plain(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(slide, tmp_path_factory.mktemp("plain"), PLAIN)


def run(slide: Path, out: Path | str, settings: RunSettings = ASKED) -> Result:
    return segment_slide(slide, out, MODEL, settings)


def exports(result: Result) -> dict[str, bytes]:
    """Return the files below `exports` by name."""
    folder = Path(result.folder) / "exports"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def listed(result: Result) -> list[str]:
    files = json.loads((Path(result.folder) / "manifest.json").read_text())["files"]
    return [name.removeprefix("exports/") for name in files if name.startswith("exports/")]


def test_a_run_writes_what_export_writes_and_the_manifest_lists_it(
    slide: Path, plain: Result, tmp_path: Path
) -> None:
    result = run(slide, tmp_path / "out")
    found = exports(result)
    assert (
        sorted(found)
        == listed(result)
        == sorted(f"{name}/case 1.a{FORMATS[name.partition('@')[0]].ending}" for name in FORMATS_ASKED)
    )
    assert "exports" in result.summary["seconds"]  # which is 0 where the picture is done last
    for name in FORMATS_ASKED:
        form, _, mpp = name.partition("@")
        path = tmp_path / f"by_hand{FORMATS[form].ending}"
        arguments = ["export", str(plain.folder), "--to", form, "-o", str(path), "--groups", "tumor,stroma"]
        assert CliRunner().invoke(app, [*arguments, *(["--mpp", mpp] if mpp else [])]).exit_code == 0
        if form != "ozx":  # which holds times
            assert path.read_bytes() == found[f"{name}/case 1.a{FORMATS[form].ending}"], name


def test_kept_results_get_the_formats_that_they_lack(slide: Path, tmp_path: Path) -> None:
    first = run(slide, tmp_path, PLAIN)
    maps = (Path(first.folder) / "summary.json").stat().st_mtime_ns
    more = run(slide, tmp_path, replace(PLAIN, formats=("csv", "png")))
    assert more.status == "skipped" and more.note == "added csv, png"
    assert listed(more) == sorted(exports(more)) == ["csv/case 1.a.csv", "png/case 1.a.png"]
    again = run(slide, tmp_path, replace(PLAIN, formats=("png", "csv")))
    assert (again.status, again.note) == ("skipped", "") and exports(again) == exports(more)
    fewer = run(slide, tmp_path, PLAIN)
    assert (fewer.status, fewer.note) == ("skipped", "") and exports(fewer) == exports(more)
    assert (Path(first.folder) / "summary.json").stat().st_mtime_ns == maps
    (Path(first.folder) / "exports/csv/case 1.a.csv").unlink()  # as a kill leaves it
    assert run(slide, tmp_path, replace(PLAIN, formats=("csv",))).note == "added csv"
    assert exports(fewer) == exports(more)


def test_formats_wait_for_another_run_on_the_same_results(slide: Path, tmp_path: Path) -> None:
    run(slide, tmp_path, PLAIN)
    with claimed(tmp_path / ".case 1.a.claim"), pytest.raises(ClaimedError):
        run(slide, tmp_path)


def test_only_what_a_run_has_made_is_replaced(slide: Path, tmp_path: Path) -> None:
    result = run(slide, tmp_path, replace(PLAIN, formats=("csv", "asap")))
    replaced = run(slide, tmp_path, replace(PLAIN, formats=("png",), overwrite=True))
    assert replaced.status == "done" and list(exports(replaced)) == ["png/case 1.a.png"]
    own = Path(result.folder) / "exports/csv/case 1.a.csv"
    own.parent.mkdir()
    own.write_text("mine")
    with pytest.raises(OutputError, match=r"case 1\.a\.csv: is to be written, but no run has made it"):
        run(slide, tmp_path, replace(PLAIN, formats=("csv",)))
    with pytest.raises(OutputError, match=r"also holds exports/csv/case 1\.a\.csv, which no run has written"):
        run(slide, tmp_path, replace(PLAIN, formats=("csv",), overwrite=True))
    assert own.read_text() == "mine" and listed(result) == ["png/case 1.a.png"]


def test_a_format_that_cannot_hold_a_slide_is_left_out(tmp_path: Path) -> None:
    blank = make_slide(tmp_path / "blank.svs", SlideSpec(Size(512, 512), mpp=0.5, tissue=0.0))
    settings = replace(PLAIN, formats=("csv", "dicom-ann"))
    result = run(blank, tmp_path, settings)
    assert result.status == "done" and list(exports(result)) == listed(result) == ["csv/blank.csv"]
    assert result.note.startswith("no dicom-ann: there are no regions of tumor, stroma")
    more = run(blank, tmp_path, replace(settings, formats=("asap", "dicom-ann")))
    assert more.status == "skipped" and more.note.startswith("added asap; no dicom-ann: there are no regions")
    assert sorted(exports(more)) == listed(more) == ["asap/blank.xml", "csv/blank.csv"]
    # It is recorded, and not tried again; results of before that was recorded are tried once.
    path = Path(result.folder) / "manifest.json"
    record = json.loads(path.read_text())
    (reason,) = record["formats_left_out"].values()
    again = run(blank, tmp_path, replace(settings, formats=("dicom-ann", "csv")))
    assert again.note == reason == more.note.removeprefix("added asap; ")
    assert json.loads(path.read_text()) == record
    for unlike in ({}, "text", [1], None, {"exports/dicom-ann/blank.dcm": 1}):
        path.write_text(json.dumps({**record, "formats_left_out": unlike}))
        assert run(blank, tmp_path, settings).note == reason
        assert json.loads(path.read_text()) == record
    hostile = {"exports/dicom-ann/blank.dcm": "two\nlines " + "and more " * 1000}
    path.write_text(json.dumps({**record, "formats_left_out": hostile}))
    note = run(blank, tmp_path, settings).note
    assert note.startswith("two lines and more") and len(note) <= 500


def killed(result: Result, *names: str) -> Path:
    """Leave what a kill leaves while formats are added: they are listed, and there are parts of them."""
    folder = Path(result.folder)
    record = json.loads((folder / "manifest.json").read_text())
    exports = [f"exports/{name}" for name in names]
    (folder / "manifest.json").write_text(json.dumps({**record, "files": [*record["files"], *exports]}))
    for name in exports:
        part = folder / name
        part.parent.mkdir(parents=True)
        part.with_name(f"{part.name}.tmp").write_text("half")
        inner = part.with_name(f".{part.name}.{'0' * 32}.tmp")
        inner.mkdir()
        (inner / "a").write_text("half")
        part.with_name("mine.tmp").write_text("mine")
    return folder


def test_parts_of_formats_that_a_kill_has_left_are_removed(slide: Path, tmp_path: Path) -> None:
    result = run(slide, tmp_path, replace(PLAIN, formats=("png",)))
    folder = killed(result, "csv/case 1.a.csv", "asap/case 1.a.xml")
    with claimed(tmp_path / ".case 1.a.claim"):  # by the run that is at it
        assert run(slide, tmp_path, PLAIN).note == "" and len(exports(result)) == 7
    more = run(slide, tmp_path, replace(PLAIN, formats=("csv",)))
    assert "added csv; no longer listed" in more.note and "exports/asap/case 1.a.xml" in more.note
    assert {"asap/mine.tmp", "csv/mine.tmp", *listed(result)} == set(exports(result))
    assert listed(result) == ["csv/case 1.a.csv", "png/case 1.a.png"]
    killed(result, "imagescope/case 1.a.xml")
    assert "exports/imagescope/case 1.a.xml" in run(slide, tmp_path, PLAIN).note
    assert listed(result) == ["csv/case 1.a.csv", "png/case 1.a.png"]
    assert run(slide, tmp_path, PLAIN).note == ""
    assert sorted(p.name for p in (folder / "exports/imagescope").iterdir()) == ["mine.tmp"]


def test_nothing_is_removed_through_a_link_or_elsewhere(slide: Path, tmp_path: Path) -> None:
    result = run(slide, tmp_path / "out", PLAIN)
    (tmp_path / "elsewhere" / "csv").mkdir(parents=True)
    theirs = tmp_path / "elsewhere" / "csv" / "a.csv.tmp"
    theirs.write_text("mine")
    path = Path(result.folder) / "manifest.json"
    record = json.loads(path.read_text())
    for name in ("", ".", "exports", "exports/a", "exports/../../elsewhere/csv/a.csv", str(theirs)[:-4],
                 "exports/../a.csv", "exports/a/b/a.csv", "maps.zarr/c/zarr.json", 7, None):  # fmt: skip
        path.write_text(json.dumps({**record, "files": [*record["files"], name]}))
        assert run(slide, tmp_path / "out", PLAIN).note == ""
    for name in ("exports/\ud800/a.csv", "exports/a\0/a.csv"):  # no name of a file
        path.write_text(json.dumps({**record, "files": [*record["files"], name]}))
        assert "no longer listed" in run(slide, tmp_path / "out", PLAIN).note
        assert json.loads(path.read_text()) == record
    path.write_text(json.dumps({**record, "maps_key": "\ud800", "files": [*record["files"], "exports/a/b"]}))
    assert "no longer listed" in run(slide, tmp_path / "out", PLAIN).note
    (Path(result.folder) / "exports").symlink_to(tmp_path / "elsewhere")
    path.write_text(json.dumps({**record, "files": [*record["files"], "exports/csv/a.csv"]}))
    with pytest.raises(OutputError, match="exports: is a link"):
        run(slide, tmp_path / "out", PLAIN)
    assert theirs.read_text() == "mine"


def test_nothing_is_written_through_a_link(slide: Path, tmp_path: Path) -> None:
    result = run(slide, tmp_path / "out", PLAIN)
    (tmp_path / "elsewhere").mkdir()
    (Path(result.folder) / "exports").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="exports: is a link, and nothing is written elsewhere"):
        run(slide, tmp_path / "out", replace(PLAIN, formats=("csv",)))
    assert not list((tmp_path / "elsewhere").iterdir()) and not listed(result)


class StopAt(StopAfter):
    """Ctrl-C at the end of a stage."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def stage(self, name: str) -> None:
        if name == "exports":  # a part of an earlier attempt
            (self.folder / "exports/csv").mkdir(parents=True, exist_ok=True)
            (self.folder / "exports/csv/case 1.a.csv").write_text("of other maps")
            raise KeyboardInterrupt


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupted_run_writes_them_when_it_goes_on(
    overwrite: bool, slide: Path, plain: Result, tmp_path: Path
) -> None:
    with pytest.raises((KeyboardInterrupt, Interrupted)):
        segment_slide(slide, tmp_path, MODEL, ASKED, StopAt(tmp_path / ".case 1.a.partial"))
    result = run(slide, tmp_path, replace(PLAIN, formats=("csv",), overwrite=overwrite))
    assert result.status == "done" and list(exports(result)) == ["csv/case 1.a.csv"]
    assert b"of other maps" not in exports(result)["csv/case 1.a.csv"]


def test_they_are_uploaded_and_not_added_to_what_is_at_a_url(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(PLAIN, formats=("csv",), staging=str(tmp_path / "staging"))
    out = f"s3://{BUCKET}/out"
    with s3_server(monkeypatch):
        assert run(slide, out, settings).status == "done"
        assert run(slide, out, settings).status == "skipped"
        with pytest.raises(OutputError, match=r"^s3://.*case 1\.a: these results lack exports/asap"):
            run(slide, out, replace(settings, formats=("csv", "asap")))
        assert run(slide, out, replace(settings, formats=("asap",), overwrite=True)).status == "done"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("shapefile", "no format 'shapefile'; there are geojson"),
        ("csv@2", "the format csv takes no µm/px; png, tiff-mask do"),
        ("png@", "'png@': write the µm/px as a number, such as png@2"),
        ("png@-1", "such as png@2"),
        ("png@nan", "such as png@2"),
        ("", "no format ''"),
    ],
)
def test_formats_that_there_are_not_are_refused_before_the_run(asked: str, said: str) -> None:
    with pytest.raises(UsageError, match="formats: ") as error:
        make_settings({"formats": [asked]})
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("mpp", "said"), [("0.01", "finer than the slide"), ("1e9", "larger than the slide")]
)
def test_a_resolution_that_does_not_fit_the_slide_is_refused_before_the_run(
    mpp: str, said: str, slide: Path, plain: Result, tmp_path: Path
) -> None:
    settings = replace(PLAIN, formats=("csv", f"png@{mpp}"))
    for out in (tmp_path / "out", Path(plain.folder).parent):
        with pytest.raises(UsageError, match=rf"case 1\.a\.svs: format png@{mpp}: mpp .*{said}"):
            run(slide, out, settings)
    assert not (tmp_path / "out").exists()
    assert not exports(plain) and not listed(plain)


def test_a_library_that_is_missing_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "csv", replace(FORMATS["csv"], function="no_such_module:a", extra="geo"))
    with pytest.raises(UsageError, match=r"formats: this format needs no_such_module.*wsi-seg\[geo\]"):
        make_settings({"formats": "csv"})


def test_a_long_name_leaves_room_for_endings() -> None:
    (path,) = export_paths(make_settings({"formats": "csv"}), "folder/" + "ä" * 127)
    assert len(path.rpartition("/")[2].encode()) < 255 - 40
