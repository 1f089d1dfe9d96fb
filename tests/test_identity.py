"""Results that are skipped, resumed, replaced and refused: they are known by slide, settings and software."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

import wsi_seg
from tests.made.pyramids import write_pyramid
from wsi_seg.cli import app
from wsi_seg.core.errors import Interrupted
from wsi_seg.core.geometry import Scale
from wsi_seg.results.claims import Owner
from wsi_seg.results.folder import ResultsFolder
from wsi_seg.slides.identity import Content, compare_content, content_hash, stamp_slide


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refused(result: Any, *words: str, code: int = 1) -> None:
    """One line on stderr with these words, and this exit code."""
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A slide of two levels, the smaller of which alone is in its fingerprint."""
    pixels = np.random.default_rng(5).integers(90, 200, (256, 256, 3), np.uint8)
    pixels[..., 1] //= 2
    return write_pyramid(tmp_path_factory.mktemp("made") / "s.tif", pixels, Scale(0.5, 0.5)).read_bytes()


def damaged(slide: bytes, folder: Path) -> bytes:
    """Return the slide with a tile of level 0 that cannot be read."""
    (folder / "whole.tif").write_bytes(slide)
    with tifffile.TiffFile(folder / "whole.tif") as tiff:
        offsets = tiff.series[0].levels[0].pages[0].dataoffsets
    (folder / "whole.tif").unlink()
    at = offsets[len(offsets) // 2]
    return slide[:at] + bytes(16) + slide[at + 16 :]


@pytest.fixture
def how(tiny_model: Path) -> tuple[object, ...]:
    return ("--model", tiny_model, "--precision", "float32", "--mpp", 0.5, "--set", "overlap=0")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three small pictures of different content."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, seed in (("p.png", 1), ("q.png", 2), ("r.png", 3)):
        pixels = np.random.default_rng(seed).integers(60, 200, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def table(folder: Path, *rows: tuple[str, str]) -> Path:
    path = folder / "slides.csv"
    path.write_text("slide,name\n" + "".join(f"{slide},{name}\n" for slide, name in rows))
    return path


# --- the slide ------------------------------------------------------------------------------------


def test_a_repaired_slide_is_not_taken_for_the_damaged_one(
    good: bytes, how: tuple[object, ...], tmp_path: Path
) -> None:
    slide, out = tmp_path / "s.tif", tmp_path / "out"
    slide.write_bytes(damaged(good, tmp_path))
    for attempt in ("first", "again"):
        result = call("run", slide, "-o", out, *how)
        assert result.exit_code == 3, result.output  # its tiles came from another level, then and now
        assert "another level" in result.stdout
        assert ("skipped" in result.stdout) == (attempt == "again")
    before = tree(out / "s")
    slide.write_bytes(good)
    refused(call("run", slide, "-o", out, *how), str(out / "s"), "before its content changed", "--overwrite")
    assert tree(out / "s") == before
    assert call("run", slide, "-o", out, *how, "--overwrite").exit_code == 0
    manifest = json.loads((out / "s" / "manifest.json").read_text())
    assert manifest["content"]["sha256"] == hashlib.sha256(good).hexdigest()

    # Copies and restored backups have the same bytes, and are not run again.
    copy = tmp_path / "copy" / "s.tif"
    copy.parent.mkdir()
    copy.write_bytes(good)
    for same in (copy, slide):
        os.utime(same, (1, 1))
        for way in ((), ("--verify",)):
            result = call("run", same, "-o", out, *how, *way)
            assert result.exit_code == 0 and "skipped, whole results" in result.stdout, result.output

    # What hides from the filesystem is found by all bytes.
    times = copy.stat()
    recorded = [["", times.st_size, f"{times.st_mtime_ns} {times.st_ino}"]]
    manifest["content"]["files"] = recorded
    (out / "s" / "manifest.json").write_text(json.dumps(manifest))
    with copy.open("r+b") as file:
        file.write(damaged(good, tmp_path))
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert call("run", copy, "-o", out, *how).exit_code == 0
    refused(call("run", copy, "-o", out, *how, "--verify"), "before its content changed")
    del manifest["content"]
    (out / "s" / "manifest.json").write_text(json.dumps(manifest))
    refused(call("run", slide, "-o", out, *how, "--verify"), "no hash of the whole slide", "--overwrite")


def test_all_files_of_a_slide_make_its_content(tmp_path: Path) -> None:
    slide, folder = tmp_path / "m.mrxs", tmp_path / "m"
    folder.mkdir()
    for path in (slide, folder / "Slidedat.ini", folder / "Data0.dat", folder / ".DS_Store"):
        path.write_text(path.name)
    before = Content(stamp_slide(slide), content_hash(slide))
    assert [file.name for file in before.files] == ["", "Data0.dat", "Slidedat.ini"]
    assert Content.from_json(json.loads(json.dumps(before.to_json()))) == before

    copied = tmp_path / "copied.mrxs"  # and renamed
    shutil.copy(slide, copied)
    shutil.copytree(folder, tmp_path / "copied")
    now = stamp_slide(copied)
    assert now != before.files
    assert compare_content(copied, now, before) == "same"
    assert compare_content(copied, now, Content(before.files)) == "unknown"
    (tmp_path / "copied" / "Data0.dat").write_text("Data1.dat")
    assert compare_content(copied, stamp_slide(copied), before) == "changed"
    (tmp_path / "copied" / "Data1.dat").write_text("")
    assert compare_content(copied, stamp_slide(copied), before) == "changed"


# --- an unfinished run ----------------------------------------------------------------------------


@pytest.fixture
def unfinished(
    good: bytes, how: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[object, ...]:
    """The command of a run that was interrupted when its blocks were done; the slide is `s.tif`."""

    def interrupted(*_: Any, **__: Any) -> Any:
        raise Interrupted("interrupted")

    (tmp_path / "s.tif").write_bytes(good)
    command = ("run", tmp_path / "s.tif", "-o", tmp_path / "out", *how)
    with monkeypatch.context() as patch:
        patch.setattr("wsi_seg.pipeline.tracing.write_part", interrupted)
        assert call(*command).exit_code == 130
    return command


def test_an_unfinished_run_is_resumed_by_the_same_software_alone(
    unfinished: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, made = tree(tmp_path / "out" / ".s.partial"), wsi_seg.__version__
    with monkeypatch.context() as patch:
        patch.setattr(wsi_seg, "__version__", "9.9.9")
        refused(call(*unfinished), f"unfinished run of wsi-seg {made}", "is wsi-seg 9.9.9", "--overwrite")
    assert tree(tmp_path / "out" / ".s.partial") == before
    os.utime(tmp_path / "s.tif", (1, 1))  # a restored backup
    again = call(*unfinished, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)[0]["summary"]["worker_seconds"] == {}  # no block was run again


def test_an_unfinished_run_is_not_mixed_with_a_slide_that_changed(
    unfinished: tuple[object, ...], good: bytes, tmp_path: Path
) -> None:
    content = tmp_path / "out" / ".s.partial" / "content.json"
    assert json.loads(content.read_text())["sha256"] == hashlib.sha256(good).hexdigest()
    (tmp_path / "s.tif").write_bytes(damaged(good, tmp_path))
    refused(call(*unfinished), "unfinished run", "before its content changed", "--overwrite")
    plain = json.loads(content.read_text())
    content.write_text(json.dumps({**plain, "sha256": None}))  # as when the run ended before it was known
    refused(call(*unfinished), "unfinished run", "no hash", "--overwrite")
    assert call(*unfinished, "--overwrite").exit_code == 3


def test_a_slide_that_changes_while_it_is_run_fails(
    good: bytes, how: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide = tmp_path / "s.tif"
    slide.write_bytes(good)
    real = wsi_seg.pipeline.tracing.write_overview

    def changing(*arguments: Any, **more: Any) -> Any:
        os.utime(slide, (1, 1))
        return real(*arguments, **more)

    monkeypatch.setattr("wsi_seg.pipeline.tracing.write_overview", changing)
    refused(call("run", slide, "-o", tmp_path / "out", *how), "s.tif", "changed while it was run")
    assert not (tmp_path / "out" / "s").exists()


# --- the software ---------------------------------------------------------------------------------


def test_results_of_another_version_are_kept_and_named(
    good: bytes, how: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, out = tmp_path / "s.tif", tmp_path / "out"
    slide.write_bytes(good)
    assert call("run", slide, "-o", out, *how).exit_code == 0
    before = tree(out / "s")
    refused(call("run", slide, "-o", out, *how, "--set", "reader=openslide"), "(reader)", "--overwrite")
    refused(call("run", slide, "-o", out, *how, "--threshold", 0.7), "(regions.trace.threshold)")

    monkeypatch.setattr("wsi_seg.pipeline.run_inputs.package_version", lambda name: "9.9.9")
    with monkeypatch.context() as patch:
        patch.setattr("wsi_seg.slides.readers.open_slide", lambda *_, **__: pytest.fail("opened"))
        kept = call("run", slide, "-o", out, *how)
    assert kept.exit_code == 0, kept.output
    assert "skipped" in kept.stdout and "--overwrite" in kept.stdout
    assert f"made by wsi-seg {wsi_seg.__version__} with torch" in kept.stdout
    assert f"this is wsi-seg {wsi_seg.__version__} with torch 9.9.9" in kept.stdout
    # Opened, as the time of change is another, it is still known.
    os.utime(slide, (1, 1))
    (row,) = json.loads(call("run", slide, "-o", out, *how, "--json").stdout)
    assert row["status"] == "skipped" and "torch 9.9.9" in row["reason"]
    refused(call("run", slide, "-o", out, *how, "--threshold", 0.7), "(regions.trace.threshold)")
    assert tree(out / "s") == before
    assert call("run", slide, "-o", out, *how, "--overwrite").exit_code == 0
    manifest = json.loads((out / "s" / "manifest.json").read_text())
    assert manifest["made_with"]["torch"] == "9.9.9"
    # Results from before versions were recorded are kept, too.
    del manifest["made_with"], manifest["content"]
    (out / "s" / "manifest.json").write_text(json.dumps(manifest))
    kept = call("run", slide, "-o", out, *how)
    assert kept.exit_code == 0 and "made by an earlier wsi-seg" in kept.stdout, kept.output


# --- the place ------------------------------------------------------------------------------------


def test_no_results_are_put_within_or_around_those_of_another_slide(
    pictures: Path, how: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    both = table(pictures, ("p.png", "p"), ("q.png", "p/q"))
    refused(call("run", both, "-o", out, *how, "--overwrite"), "'p'", "'p/q'", code=2)
    assert not out.exists()

    assert call("run", table(pictures, ("q.png", "p/q")), "-o", out, *how).exit_code == 0
    before = tree(out / "p")
    for way in ((), ("--overwrite",)):
        refused(call("run", pictures / "p.png", "-o", out, *how, *way), str(out / "p"), "holds no results")
        assert tree(out / "p") == before

    assert call("run", pictures / "r.png", "-o", out, *how).exit_code == 0
    before = tree(out / "r")
    inner = table(pictures, ("q.png", "r/x/q"))
    for place, words in ((out, inner), (out / "r", pictures / "q.png")):
        refused(call("run", words, "-o", place, *how), str(out / "r"), "no others are put within")
    assert tree(out / "r") == before


def test_only_results_of_the_same_slide_are_overwritten_and_nothing_else(
    pictures: Path, how: tuple[object, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = ("run", pictures / "p.png", "-o", out, *how, "--overwrite")
    assert call(*command).exit_code == 0
    before = tree(out / "p")
    other = table(pictures, ("q.png", "p"))
    refused(call("run", other, "-o", out, *how, "--overwrite"), "another slide", str(pictures / "p.png"))
    for mine in ("thesis.txt", "maps.zarr/labels/mine/zarr.json", "maps.zarr/notes", "q/manifest.json"):
        (out / "p" / mine).parent.mkdir(parents=True, exist_ok=True)
        (out / "p" / mine).write_text("mine")
        refused(call(*command), str(out / "p"), mine, "move that elsewhere")
        assert tree(out / "p") == {**before, mine: b"mine"}
        (out / "p" / mine).unlink()
    for folder in (ResultsFolder(out, "p")._old, ResultsFolder(out, "p").partial):
        folder.mkdir()
        (folder / "thesis.txt").write_text("mine")
        refused(call(*command), str(folder), "thesis.txt")
        assert tree(folder) == {"thesis.txt": b"mine"}
        shutil.rmtree(folder)
    assert tree(out / "p") == before
    (out / "p" / ".DS_Store").write_text("of a file browser")
    shutil.copy(pictures / "q.png", pictures / "p.png")  # the same slide, mended
    assert call(*command).exit_code == 0
    assert sorted(path.name for path in out.iterdir()) == ["logs", "p"]


def test_a_claim_that_was_lost_after_the_blocks_puts_nothing_into_place(
    pictures: Path, how: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ("run", pictures / "p.png", "-o", out, *how)
    real = wsi_seg.pipeline.run.write_slide_page

    def overtaken(*arguments: Any) -> Any:
        other = Owner(machine="far away", pid=7)
        plain = {"machine": other.machine, "pid": 7, "started": other.started, "token": other.token}
        (out / ".p.claim").write_text(json.dumps(plain))
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("wsi_seg.pipeline.run.write_slide_page", overtaken)
        refused(call(*command), ".p.claim", "another one took its place (process 7 on far)")
    assert not (out / "p").exists()
    (out / ".p.claim").unlink()
    again = call(*command)  # the results were whole, and are put into place
    assert again.exit_code == 0 and "skipped" in again.stdout, again.output
    assert (out / "p" / "manifest.json").is_file()
