"""Shares of a batch as tasks of a job array have them, and their tables made one."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from wsi_seg.cli import app
from wsi_seg.core.errors import UsageError
from wsi_seg.pipeline.inputs import SlideInput
from wsi_seg.pipeline.shares import Share, merge_shares

SLIDES = ("a", "b", "c", "d", "e")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of four pictures, and of `b`, which is none."""
    folder = tmp_path_factory.mktemp("scans")
    for number, name in enumerate(SLIDES):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    (folder / "b.png").write_bytes(b"no picture")
    table = folder / "slides.csv"
    table.write_text("\n".join(["slide", *(f"{name}.png" for name in reversed(SLIDES))]))
    return table


def run(scans: object, out: Path, model: Path, share: str, *more: object) -> Any:
    settings = ("--mpp", 0.5, "--tissue", "none", "--set", "tile=64", "--set", "block=64")
    return call("run", scans, "-o", out, "--model", model, *settings, "--array", share, *more)


@pytest.fixture(scope="module")
def shared(scans: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of share 1 of 2, which has the slides a, c and e."""
    out = tmp_path_factory.mktemp("out")
    result = run(scans, out, tiny_model, "1/2")
    assert result.exit_code == 0, result.output
    assert f"3 slides: 3 done; see {out}/shares/1-of-2/batch.csv" in result.output
    return out


def test_shares_have_each_slide_once_whatever_their_order() -> None:
    slides = [SlideInput(f"/scans/{number}.svs", str(number)) for number in range(23)]
    for count in (1, 2, 7, 23, 40):
        shares = [Share(count, number + 1).take(slides) for number in range(count)]
        assert sorted(slide.path for share in shares for slide in share) == sorted(s.path for s in slides)
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        assert [Share(count, number + 1).take(slides[::-1]) for number in range(count)] == shares


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "a/b", "-1/8", "3/8/9", "", "1/0", "\u0663/8"])
def test_what_is_no_share_is_refused(text: str, scans: Path, tiny_model: Path, tmp_path: Path) -> None:
    result = run(scans, tmp_path / "out", tiny_model, text)
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert f"--array {text}: no share N/M with N from 1 to M" in result.stderr
    assert not (tmp_path / "out").exists()


def test_shares_are_of_a_folder() -> None:
    with pytest.raises(UsageError, match=r"s3://bucket/out must be a folder"):
        Share.parse("1/2", "s3://bucket/out")


def test_a_share_runs_its_slides_and_merge_says_what_is_missing(shared: Path) -> None:
    assert [path.name for path in sorted(shared.glob("*/summary.json"))] == ["summary.json"] * 3
    assert not (shared / "batch.csv").exists()
    result = call("merge", shared)
    assert result.exit_code == 3
    assert result.stderr == "error: shares 2 of 2 have not run; run them, then merge again\n"
    assert list(rows(shared / "batch.csv")) == ["a", "c", "e"]


def test_merged_tables_are_those_of_one_run(
    shared: Path, scans: Path, tiny_model: Path, tmp_path: Path
) -> None:
    result = run(scans, shared, tiny_model, "2/2")
    assert result.exit_code == 3 and (shared / "shares" / "2-of-2" / "failed.csv").is_file()
    result = call("merge", shared)
    assert result.exit_code == 3 and "5 slides: 4 done, 1 failed" in result.output
    assert result.stderr == ""
    found = rows(shared / "batch.csv")
    assert sorted(found) == list(SLIDES) and found["d"]["status"] == "done"
    assert list(rows(shared / "failed.csv")) == ["b"]
    page = (shared / "report.html").read_text("utf-8")
    assert all(f"{name}.png" in page or f">{name}<" in page for name in SLIDES) and "untrained" in page
    # Finished slides are skipped, whoever runs them.
    again = run(scans, shared, tiny_model, "1/1", "--json")
    assert again.exit_code == 3
    assert [row["status"] for row in json.loads(again.stdout)] == ["skipped", "failed", *["skipped"] * 3]


def test_a_later_run_of_a_failed_slide_stays_after_another_merge(tmp_path: Path) -> None:
    slides = [SlideInput("/a.svs", "a"), SlideInput("/b.svs", "b")]
    share = Share(1, 1)
    share.begin(tmp_path, slides, [])
    table = tmp_path / share.folder / "batch.csv"
    table.write_text("slide,name,status\n/a.svs,a,done\n/b.svs,b,failed\n")
    (table.parent / "failed.csv").write_text("slide,name,reason\n/b.svs,b,dark\n")
    merged = merge_shares(tmp_path)
    assert [row["status"] for row in merged.rows] == ["done", "failed"]
    assert rows(tmp_path / "failed.csv")["b"]["reason"] == "dark"
    # As a run of failed.csv would leave it.
    (tmp_path / "batch.csv").write_text("slide,name,status\n/a.svs,a,done\n/b.svs,b,incomplete\n")
    assert [row["status"] for row in merge_shares(tmp_path).rows] == ["done", "incomplete"]
    # The share itself, run again, has the last word.
    table.write_text("slide,name,status\n/a.svs,a,skipped\n/b.svs,b,done\n")
    os.utime(table, ns=(1, table.stat().st_mtime_ns + 1))
    (table.parent / "failed.csv").unlink()
    assert [row["status"] for row in merge_shares(tmp_path).rows] == ["skipped", "done"]
    assert not (tmp_path / "failed.csv").exists()
    assert call("merge", tmp_path).exit_code == 0


def test_shares_of_different_lists_are_told_apart(tmp_path: Path) -> None:
    """A slide came into the folder while the array ran: the shares do not have each slide once."""
    slides = [SlideInput(f"/{name}.svs", name) for name in "abc"]
    for number in (1, 2, 3):
        Share(3, number).begin(tmp_path, slides[:2] if number == 3 else slides, [])
    merged = merge_shares(tmp_path)
    assert merged.unlike == [Share(3, 3)] and merged.missing == []
    result = call("merge", tmp_path)
    assert result.exit_code == 3
    assert "shares 3 of 3 were cut from another list of slides" in result.stderr


def test_an_empty_share_is_no_error(scans: Path, tiny_model: Path, tmp_path: Path) -> None:
    result = run(scans, tmp_path, tiny_model, "6/6")
    assert result.exit_code == 0 and result.stdout == "share 6 of 6: no slides, there are 5 in all\n"
    assert json.loads(run(scans, tmp_path, tiny_model, "6/6", "--json").stdout) == []
    assert "shares 1, 2, 3, 4, 5 of 6 have not run" in call("merge", tmp_path).stderr


def test_merge_without_shares_is_refused(tmp_path: Path) -> None:
    result = call("merge", tmp_path)
    assert result.exit_code == 2 and "holds no shares/N-of-M" in result.stderr
    (tmp_path / "shares" / "1-of-1").mkdir(parents=True)
    (tmp_path / "shares" / "1-of-1" / "share.json").write_text("[")
    result = call("merge", tmp_path)
    assert result.exit_code == 1 and "share.json: is damaged" in result.stderr
    assert not (tmp_path / "batch.csv").exists()
