"""Many slides through the command line: tables, exit codes, what is skipped, and what costs only itself."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import wsi_seg.pipeline.run
from tests.made.slides import SlideSpec, make_slide
from wsi_seg.cli import app
from wsi_seg.core.geometry import Size
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.models import load_model
from wsi_seg.pipeline.run_inputs import RunInputs
from wsi_seg.pipeline.settings import RunSettings, make_settings
from wsi_seg.planning.plan import ModelFacts
from wsi_seg.results.claims import claimed
from wsi_seg.results.folder import ResultsFolder
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import Slide

MAIN = "from wsi_seg.cli import main; main()"


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def by_name(path: Path) -> dict[str, dict[str, str]]:
    rows = read_csv(path)
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row for row in rows}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two good slides, one of them in a folder below, and one that is none."""
    folder = tmp_path_factory.mktemp("scans")
    for name, seed in (("a.svs", 1), ("deep/b.svs", 2)):
        (folder / name).parent.mkdir(exist_ok=True)
        make_slide(folder / name, SlideSpec(size=Size(512, 512), mpp=0.5, tissue=0.6, seed=seed))
    (folder / "broken.svs").write_bytes(b"II*\0 and then nothing that a TIFF would hold" * 10)
    return folder


@pytest.fixture
def arguments(tiny_model: Path) -> tuple[object, ...]:
    return ("--model", tiny_model, "--precision", "float32", "--set", "min_area_um2=0")


def test_one_bad_slide_costs_only_itself(
    slides: Path, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = call("run", slides, "-o", tmp_path, *arguments)
    assert result.exit_code == 3, result.output
    assert "3 slides: 2 done, 1 failed" in result.stdout
    assert len([line for line in result.stderr.splitlines() if line.startswith("error: ")]) == 1
    rows = by_name(tmp_path / "batch.csv")
    assert {name: row["status"] for name, row in rows.items()} == {
        "a": "done", "deep/b": "done", "broken": "failed",
    }  # fmt: skip
    assert "broken.svs" in rows["broken"]["reason"]
    for name in ("a", "deep/b"):
        row, folder = rows[name], tmp_path / name
        summary = json.loads((folder / "summary.json").read_text())
        assert row["folder"] == name and float(row["seconds"]) > 0
        assert (float(row["mpp"]), row["mpp_source"], row["reader"]) == (0.5, "openslide", "tiff")
        assert float(row["tissue_mm2"]) == summary["tissue_area_mm2"] > 0
        for tissue_class, area in summary["class_area_mm2"].items():
            assert float(row[f"{tissue_class}_mm2"]) == area
        log = [json.loads(line) for line in (tmp_path / "logs" / f"{name}.jsonl").read_text().splitlines()]
        assert {"blocks", "polygons"} <= {line["message"] for line in log}
    failed = read_csv(tmp_path / "failed.csv")
    assert [row["slide"] for row in failed] == [str(slides / "broken.svs")]

    # Again: what is whole is not even opened.
    opened = []
    monkeypatch.setattr(
        "wsi_seg.slides.readers.open_slide",
        lambda path, **how: opened.append(str(path)) or open_slide(path, **how),
    )
    again = call("run", slides, "-o", tmp_path, *arguments)
    assert again.exit_code == 3
    assert opened == [str(slides / "broken.svs")]
    statuses = {name: row["status"] for name, row in by_name(tmp_path / "batch.csv").items()}
    assert statuses == {"a": "skipped", "deep/b": "skipped", "broken": "failed"}
    assert by_name(tmp_path / "batch.csv")["a"]["tissue_mm2"] == rows["a"]["tissue_mm2"]


def test_failed_slides_can_be_fed_back_in(
    arguments: tuple[object, ...], slides: Path, tmp_path: Path
) -> None:
    (tmp_path / "a.svs").write_bytes((slides / "a.svs").read_bytes())
    (tmp_path / "b.svs").write_bytes(b"no slide yet")
    (tmp_path / "t.csv").write_text("slide,name,mpp\na.svs,,\nb.svs,second/b,0.4\n")
    out = tmp_path / "out"
    assert call("run", tmp_path / "t.csv", "-o", out, *arguments).exit_code == 3
    (tmp_path / "b.svs").write_bytes((slides / "a.svs").read_bytes())
    again = call("run", out / "failed.csv", "-o", out, *arguments)
    assert again.exit_code == 0, again.output
    assert not (out / "failed.csv").exists()
    rows = by_name(out / "batch.csv")  # the whole batch, not only what was done now
    assert {name: row["status"] for name, row in rows.items()} == {"a": "done", "second/b": "done"}
    assert (float(rows["second/b"]["mpp"]), rows["second/b"]["mpp_source"]) == (0.4, "user")


def test_a_table_sets_what_differs_between_slides(
    arguments: tuple[object, ...], slides: Path, tmp_path: Path
) -> None:
    table = tmp_path / "t.csv"
    table.write_text(
        f"slide,name,groups,threshold\n{slides / 'a.svs'},one,other,0.7\n{slides / 'a.svs'},,,\n"
    )
    assert "given twice" in call("run", table, "-o", tmp_path / "out", *arguments).stderr
    table.write_text(f'slide,name,groups,threshold\n{slides / "a.svs"},one,"tumor,other",0.7\n')
    result = call("run", table, "-o", tmp_path / "out", *arguments, "--threshold", 0.4, "--json")
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert list(row["summary"]["regions"]) == ["tumor", "other"]
    manifest = json.loads((tmp_path / "out" / "one" / "manifest.json").read_text())
    assert manifest["settings"]["regions"]["trace"]["threshold"] == 0.7  # more particular than a flag


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("treshold", "0.5", ("threshold",)),
        ("mpp", "-1", ("mpp",)),
        ("workers", "2", ("workers", "--workers")),
        ("model", "no-such-model", ("no-such-model",)),
    ],
)
def test_a_wrong_cell_is_refused_before_anything_is_done(
    slides: Path, tmp_path: Path, column: str, value: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "t.csv").write_text(f"slide,{column}\n{slides / 'a.svs'},{value}\n")
    result = call("run", tmp_path / "t.csv", "-o", tmp_path / "out")
    assert result.exit_code in (1, 2), result.output
    assert all(word in result.stderr for word in words)
    assert not (tmp_path / "out").exists()


def test_dry_run_lists_slides_and_says_which_cannot_be_run(
    slides: Path, arguments: tuple[object, ...], tmp_path: Path
) -> None:
    result = call("run", slides, "-o", tmp_path / "out", *arguments, "--dry-run")
    assert result.exit_code == 3
    assert "2 of 3 slides can be run" in result.stdout and "deep/b" in result.stdout
    assert "broken.svs" in result.stderr
    assert not (tmp_path / "out").exists()


def test_what_nobody_foresaw_fails_one_slide_and_is_in_its_log(
    slides: Path, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = wsi_seg.pipeline.tracing.write_overview

    def failing(path: Path, *rest: Any, **more: Any) -> Any:
        if path.parent.name == ".a.partial":
            raise ZeroDivisionError("nobody\nforesaw this")
        return real(path, *rest, **more)

    monkeypatch.setattr(wsi_seg.pipeline.tracing, "write_overview", failing)
    result = call("run", slides / "a.svs", slides / "deep", "-o", tmp_path, *arguments)
    assert result.exit_code == 3, result.output
    rows = by_name(tmp_path / "batch.csv")
    assert rows["a"]["reason"] == "unexpected ZeroDivisionError: nobody foresaw this"
    assert rows["b"]["status"] == "done"
    log = tmp_path / "logs" / "a.jsonl"
    assert f"log: {log}" in result.stderr
    assert "failing" in json.loads(log.read_text().splitlines()[-1])["traceback"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tiny slides, which are done in no time."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate("abc"):
        pixels = np.random.default_rng(seed).integers(60, 200, (96, 128, 3), np.uint8)
        tifffile.imwrite(folder / f"{name}.tif", pixels, photometric="rgb", tile=(64, 64))
    return folder


@pytest.fixture
def quick(arguments: tuple[object, ...]) -> tuple[object, ...]:
    return (*arguments, "--mpp", 0.5, "--tissue", "none")


def test_a_long_name_costs_nothing_and_one_that_no_folder_can_have_one_slide(
    pictures: Path, quick: tuple[object, ...], tmp_path: Path
) -> None:
    long, longer = "n" * 248, "é" * 128
    table = tmp_path / "t.csv"
    rows = (f"{pictures / 'a.tif'},{long}a", f"{pictures / 'b.tif'},{longer}", f"{pictures / 'c.tif'},c")
    table.write_text("slide,name\n" + "\n".join(rows) + "\n", encoding="utf-8")
    out = tmp_path / "out"
    with claimed(ResultsFolder(out, f"{long}b").claim):  # another name with the same beginning
        result = call("run", table, "-o", out, *quick)
    assert result.exit_code == 3, result.output
    statuses = {name: row["status"] for name, row in by_name(out / "batch.csv").items()}
    assert statuses == {f"{long}a": "done", longer: "failed", "c": "done"}
    assert result.stderr.count("error: ") == 1 and "a name of 256 bytes" in result.stderr
    assert (out / f"{long}a" / "manifest.json").is_file() and len(list((out / "logs").iterdir())) == 2
    assert "2 skipped, 1 failed" in call("run", table, "-o", out, *quick).stdout


def test_what_nobody_foresaw_and_cannot_even_be_logged_fails_one_slide(
    pictures: Path, quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = wsi_seg.pipeline.run.tissue_of

    def failing(slide: Slide, *rest: Any, **more: Any) -> Any:
        if slide.info.name == "a":
            raise ZeroDivisionError("nobody foresaw this")
        return real(slide, *rest, **more)

    monkeypatch.setattr(wsi_seg.pipeline.run, "tissue_of", failing)
    (tmp_path / "logs" / "a.jsonl").mkdir(parents=True)
    # What people do to a table with a spreadsheet: Latin-1, cells beyond the header, words for numbers.
    (tmp_path / "batch.csv").write_bytes("slide,name,seconds\nä.svs,ä,n/a,more\n".encode("latin-1"))
    result = call("run", pictures, "-o", tmp_path, *quick)
    assert result.exit_code == 3, result.output
    rows = by_name(tmp_path / "batch.csv")
    assert {rows[name]["status"] for name in "bc"} == {"done"}
    assert rows["a"]["reason"].startswith("unexpected ZeroDivisionError: nobody foresaw this (")
    assert "cannot write the log" in rows["a"]["reason"] and len(rows) == 4
    plans = call("run", pictures, "-o", tmp_path / "none", *quick, "--dry-run")
    assert plans.exit_code == 3 and "2 of 3 slides can be run" in plans.stdout
    assert plans.stderr == f"error: {pictures / 'a.tif'}: unexpected ZeroDivisionError: nobody foresaw this\n"


def test_a_batch_that_ends_before_its_time_leaves_no_slide_running(
    pictures: Path, quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("wsi_seg.cli.run"), "_describe_result", lambda _: 1 / 0)
    result = call("run", pictures, "-o", tmp_path, *quick)
    assert isinstance(result.exception, ZeroDivisionError)
    assert "running" not in {row["status"] for row in by_name(tmp_path / "batch.csv").values()}


def test_a_terminal_without_the_characters_costs_no_slide(
    pictures: Path, quick: tuple[object, ...], tmp_path: Path
) -> None:
    (tmp_path / "样本").mkdir()
    shutil.copy(pictures / "a.tif", tmp_path / "样本" / "样.tif")
    in_latin_1 = CliRunner(charset="iso8859-1")
    arguments = ["run", str(tmp_path / "样本"), "-o", str(tmp_path / "out"), *map(str, quick)]
    result = in_latin_1.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert r"\u6837" in result.stdout and r"\u2192" in result.stdout
    shown = in_latin_1.invoke(app, [*arguments, "--json"])
    assert json.loads(shown.stdout)[0]["folder"] == str(tmp_path / "out" / "样")
    assert in_latin_1.invoke(app, ["run", "--help"]).exit_code == 0


def test_a_name_that_the_locale_lacks_costs_one_slide(
    pictures: Path, quick: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the encoding of file names in a locale such as en_US."""
    monkeypatch.setattr(os, "fsencode", lambda name: os.fspath(name).encode("iso8859-1"))
    table = tmp_path / "t.csv"
    table.write_text(f"slide,name\n{pictures / 'a.tif'},样\n{pictures / 'b.tif'},ü\n", encoding="utf-8")
    result = call("run", table, "-o", tmp_path / "out", *quick)
    assert result.exit_code == 3, result.output
    rows = by_name(tmp_path / "out" / "batch.csv")
    assert {name: row["status"] for name, row in rows.items()} == {"样": "failed", "ü": "done"}
    assert result.stderr.count("error: ") == 1
    assert "iso8859-1, lacks a character of this name" in result.stderr.replace("latin-1", "iso8859-1")
    mojibake = tmp_path / "æ\x96.tif"  # as the name of a file in UTF-8 is read in such a locale
    shutil.copy(pictures / "a.tif", mojibake)
    assert call("run", mojibake, "-o", tmp_path / "out", *quick).exit_code == 0


def test_a_file_whose_name_is_no_text_costs_one_slide(
    pictures: Path, quick: tuple[object, ...], tmp_path: Path
) -> None:
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(pictures / "a.tif", os.fsencode(scans) + b"/pr\xfcf.tif")
    shutil.copy(pictures / "b.tif", scans / "b.tif")
    result = call("run", scans, "-o", tmp_path / "named", *quick)
    assert result.exit_code == 3, result.output
    rows = by_name(tmp_path / "named" / "batch.csv")
    assert {name: row["status"] for name, row in rows.items()} == {"b": "done", "pr\\xfcf": "failed"}
    assert "is not UTF-8" in rows["pr\\xfcf"]["reason"]
    assert call("run", scans, "-o", tmp_path / "dry", "--dry-run", *quick).exit_code == 3


@pytest.mark.parametrize(("broken", "code"), [("pipe", 0), ("full disk", 1)])
def test_output_that_nobody_takes_ends_no_batch(
    pictures: Path,
    quick: tuple[object, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    broken: str,
    code: int,
) -> None:
    if broken == "pipe":
        reading, writing = os.pipe()
        os.close(reading)
    else:
        writing = os.open("/dev/full", os.O_WRONLY)
    with os.fdopen(writing, "w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as ended:
            app(["run", str(pictures), "-o", str(tmp_path), *map(str, quick)])
    assert ended.value.code == code
    assert {row["status"] for row in read_csv(tmp_path / "batch.csv")} == {"done"}
    said = capfd.readouterr().err
    assert said.count("error: stdout: cannot be written") == code and "Traceback" not in said


def test_a_slide_that_another_run_is_at_is_left_to_it(
    slides: Path, arguments: tuple[object, ...], tmp_path: Path
) -> None:
    both = ("run", slides / "a.svs", slides / "deep", "-o", tmp_path, *arguments)
    with claimed(tmp_path / ".a.claim"):
        result = call(*both)
        assert result.exit_code == 0, result.output
        assert "2 slides: 1 done, 1 locked by another run, skipped" in result.stdout
        rows = by_name(tmp_path / "batch.csv")
        assert (rows["a"]["status"], rows["b"]["status"]) == ("locked", "done")
        assert f"process {os.getpid()}" in rows["a"]["reason"]
        assert result.stdout.count("a.svs: locked") == 1  # though it was looked at twice
        assert "error: " not in result.stderr and not (tmp_path / "failed.csv").exists()
        alone = call("run", slides / "a.svs", "-o", tmp_path, *arguments)
        assert alone.exit_code == 0 and "a.svs: locked by another run, skipped" in alone.stdout
        with claimed(tmp_path / ".b.claim"):
            all_locked = call(*both, "--overwrite")
            assert all_locked.exit_code == 0 and "2 locked by another run, skipped" in all_locked.stdout
            rows = json.loads(call(*both, "--overwrite", "--json").stdout)
            assert [row["status"] for row in rows] == ["locked", "locked"]
        failed = call("run", slides / "a.svs", slides / "broken.svs", "-o", tmp_path, *arguments)
        assert failed.exit_code == 1  # nothing done, and something failed
    (tmp_path / "batch.csv").unlink()
    assert call(*both).exit_code == 0
    assert {row["status"] for row in read_csv(tmp_path / "batch.csv")} == {"done", "skipped"}


@pytest.mark.long
def test_two_drivers_by_mistake_share_the_work_and_corrupt_nothing(
    slides: Path, arguments: tuple[object, ...], quick_model: Path, tmp_path: Path
) -> None:
    arguments = ("--model", quick_model, *arguments[2:])
    scans = tmp_path / "scans"
    scans.mkdir()
    for number in range(4):
        os.link(slides / "a.svs", scans / f"s{number}.svs")
    quiet, out = tmp_path / "quiet", tmp_path / "out"
    command = [sys.executable, "-c", MAIN, "run", str(scans), *map(str, arguments), "-o"]
    both = [
        subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=240)
        assert process.returncode in (0, 3), errors
    assert call(*command[3:], quiet).exit_code == 0
    rows = by_name(out / "batch.csv")
    assert set(rows) == {"s0", "s1", "s2", "s3"}
    for name in rows:
        for kind in ("classes", "probabilities"):
            one, other = (np.asarray(Maps.open(o / name / "maps.zarr").array(kind)[:]) for o in (out, quiet))
            assert np.array_equal(one, other)
        assert (out / name / "polygons.geojson").read_bytes() == (
            quiet / name / "polygons.geojson"
        ).read_bytes()
    assert not list(out.glob(".*.partial")) and not list(out.glob(".*.claim"))


def test_finished_slides_are_skipped_unopened(
    slides: Path, arguments: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    scans = tmp_path / "scans"
    scans.mkdir()
    os.link(slides / "a.svs", scans / "s0.svs")
    assert call("run", scans, "-o", out, *arguments).exit_code == 0
    for number in range(1, 40):
        os.link(slides / "a.svs", scans / f"s{number}.svs")
    manifest = json.loads((out / "s0" / "manifest.json").read_text())
    # Of each name, as its own run would have written it.
    task = _task_of(arguments)
    assert _inputs_key(scans / "s0.svs", *task) == manifest["request"]
    for number in range(1, 40):
        shutil.copytree(out / "s0", out / f"s{number}")
        own = {**manifest, "request": _inputs_key(scans / f"s{number}.svs", *task)}
        (out / f"s{number}" / "manifest.json").write_text(json.dumps(own))
    os.link(slides / "a.svs", scans / "s40.svs")
    opened: list[str] = []

    def opening(path: str | Path, *arguments: Any, **settings: Any) -> Slide:
        opened.append(Path(path).name)
        return open_slide(path, *arguments, **settings)

    monkeypatch.setattr("wsi_seg.slides.readers.open_slide", opening)
    result = call("run", scans, "-o", out, *arguments)
    assert result.exit_code == 0, result.output
    assert "41 slides: 40 skipped, 1 done" in result.stdout
    assert set(opened) == {"s40.svs"}


def test_a_request_knows_every_file_that_decides_the_results(
    slides: Path, arguments: tuple[object, ...], tmp_path: Path, data_dir: Path
) -> None:
    facts, settings = _task_of(arguments)
    mask = tmp_path / "regions"  # of any name
    mask.write_text("{}")
    drawn = replace(settings, tissue=str(mask))
    before = _inputs_key(slides / "a.svs", facts, drawn)
    assert before not in (None, _inputs_key(slides / "a.svs", facts, settings))
    assert _inputs_key(slides / "a.svs", facts, replace(drawn, workers=WorkerSettings(processes=7))) == before
    mask.write_text("{ }")
    assert _inputs_key(slides / "a.svs", facts, drawn) != before
    series = tmp_path / "series"
    shutil.copytree(data_dir / "slides" / "CMU-1-Small-Region-dicom", series)
    one, *_, other = sorted(series.iterdir())
    before = _inputs_key(one, facts, settings)
    other.write_bytes(other.read_bytes() + b"more")
    assert _inputs_key(one, facts, settings) != before
    assert _inputs_key(tmp_path / "none.svs", facts, settings) is None
    assert _inputs_key("https://x.org/a.svs", facts, settings) is None


def _inputs_key(path: str | Path, facts: ModelFacts, settings: RunSettings) -> str | None:
    inputs = RunInputs(path, facts, settings)
    return inputs.key(inputs.versions)


def _task_of(arguments: tuple[object, ...]) -> tuple[Any, Any]:
    settings = make_settings({"min_area_um2": 0})
    return load_model(str(arguments[1]), precision="float32").facts, settings.for_workers()
