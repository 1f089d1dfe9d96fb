"""Input of a run: files, folders, patterns, tables; no two slides share a name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from wsi_seg.core.errors import UsageError
from wsi_seg.pipeline.inputs import SlideInput, find_slides


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(*given: object) -> list[str]:
    return [slide.name for slide in find_slides([str(word) for word in given])]


def test_a_folder_is_searched_and_keeps_its_structure(tmp_path: Path) -> None:
    touch(
        tmp_path / "b.svs",
        tmp_path / "case 1" / "a.ndpi",
        tmp_path / "case 1" / "deep" / "c.tiff",
        tmp_path / "case 1" / "notes.txt",
        tmp_path / "thumbnail.png",
        tmp_path / ".trash" / "d.svs",
    )
    assert names(tmp_path) == ["b", "case 1/a", "case 1/deep/c"]


def test_a_slide_of_several_files_counts_once(tmp_path: Path, data_dir: Path) -> None:
    touch(tmp_path / "m.mrxs", tmp_path / "m" / "Data0000.dat", tmp_path / "m" / "part.tif")
    shutil.copytree(data_dir / "slides" / "CMU-1-Small-Region-dicom", tmp_path / "series")
    assert names(tmp_path) == ["m", "series"]
    assert names(tmp_path / "series") == ["series"]


def test_patterns_take_slides_only(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs", tmp_path / "b.svs", tmp_path / "a.csv", tmp_path / "x" / "c.tif")
    assert names(tmp_path / "*") == ["a", "b", "c"]
    assert names(tmp_path / "**" / "*.tif") == ["c"]
    with pytest.raises(UsageError, match="no slide matches"):
        names(tmp_path / "*.ndpi")


def test_a_file_with_the_signs_of_a_pattern_in_its_name(tmp_path: Path) -> None:
    touch(tmp_path / "a[1].svs")
    assert names(tmp_path / "a[1].svs") == ["a[1]"]


def test_slides_of_one_name_do_not_collide(tmp_path: Path) -> None:
    touch(
        tmp_path / "x" / "a.svs",
        tmp_path / "y" / "a.svs",
        tmp_path / "y" / "a.ndpi",
        tmp_path / "y" / "b.svs",
    )
    assert names(tmp_path / "x" / "a.svs", tmp_path / "y" / "a.svs") == ["x/a.svs", "y/a.svs"]
    assert names(tmp_path) == ["x/a", "y/a.ndpi", "y/a.svs", "y/b"]
    # Names that differ in case only are one on some filesystems.
    touch(tmp_path / "z" / "S.svs", tmp_path / "z" / "s.tif")
    assert names(tmp_path / "z") == ["S.svs", "s.tif"]


def test_a_slide_given_twice_is_run_once(tmp_path: Path) -> None:
    touch(tmp_path / "a.svs")
    assert names(tmp_path / "a.svs", tmp_path, tmp_path / "*.svs") == ["a"]


def test_a_table_gives_names_and_settings(tmp_path: Path) -> None:
    touch(tmp_path / "in" / "a.svs", tmp_path / "in" / "b.svs")
    table = tmp_path / "slides.csv"
    table.write_text(
        'slide,mpp,name,groups\nin/a.svs,0.25,case/one,"tumor,stroma"\nin/b.svs,,,\nhttps://x.org/c.tif,0.5,,\n',
        encoding="utf-8-sig",
    )
    assert find_slides([str(table)]) == [
        SlideInput(str(tmp_path / "in/a.svs"), "case/one", {"mpp": "0.25", "groups": "tumor,stroma"}),
        SlideInput(str(tmp_path / "in/b.svs"), "b"),
        SlideInput("https://x.org/c.tif", "c", {"mpp": "0.5"}),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path\na.svs\n", "no column 'slide'; its first line is path"),
        ("", "is empty; its first line names the columns"),
        ("slide,mpp\na.svs\n", "line 2: has 1 columns, but the first line has 2"),
        ("slide,mpp\na.svs,1,2\n", "line 2: has 3 columns, but the first line has 2"),
        ("slide,mpp\na.svs,\n,1\n", "line 3: names no slide"),
        ("slide,name\na.svs,../b\n", "'../b' is no name"),
        ("slide,name\na.svs,/b\n", "'/b' is no name"),
        ("slide,name\na.svs,x/.b\n", "'x/.b' is no name"),
        ("slide,name\na.svs,n\nb.svs,n\n", "two slides are to be named 'n'"),
        ("slide,mpp\na.svs,1\na.svs,2\n", "given twice with different settings"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, text: str, words: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(UsageError) as caught:
        find_slides([str(table)])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_folder_and_a_missing_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no slides in this folder"):
        find_slides([str(tmp_path)])
    with pytest.raises(UsageError, match=r"none\.csv: cannot be read"):
        find_slides([str(tmp_path / "none.csv")])


def test_a_name_that_is_no_text_is_refused_as_bytes_that_can_be_read(tmp_path: Path) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/slide\x85.svs")
    try:
        touch(Path(name), tmp_path / "whole.svs")
    except OSError:
        pytest.skip("this filesystem takes no such name")
    refused, whole = find_slides([str(tmp_path)])
    assert (
        refused.refusal
        == f"{tmp_path}/slide\\x85.svs: its name is not UTF-8, so no result can say it; rename it"
    )
    assert (refused.name, whole.name, whole.refusal) == ("slide\\x85", "whole", "")


def test_links_are_not_run_and_change_no_name(tmp_path: Path) -> None:
    touch(tmp_path / "one" / "a.svs")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "a.svs").symlink_to(tmp_path / "one" / "a.svs")
    found = find_slides([str(tmp_path / "one"), str(tmp_path / "two"), str(tmp_path / "one" / "a.svs")])
    assert [(slide.name, slide.same_as) for slide in found] == [
        ("a", ""), ("a.svs", str(tmp_path / "one" / "a.svs")),
    ]  # fmt: skip


def test_no_results_lie_within_those_of_another_slide(tmp_path: Path) -> None:
    scans = tmp_path / "scans"
    touch(scans / "P.tif", scans / "p" / "q.tif", scans / "p" / "q" / "r.tif", scans / "logs.svs")
    assert names(scans) == ["P.tif", "logs.svs", "p/q/r", "p/q.tif"]  # all but the innermost give way
    # A name that is given by hand stays, and the other one gives way.
    table = tmp_path / "t.csv"
    table.write_text("slide,name\nscans/P.tif,p\n")
    assert names(table, scans) == ["p", "logs.svs", "scans/p/q/r.tif", "scans/p/q.tif"]
    table.write_text("slide,name\nscans/P.tif,\nscans/p/q.tif,p/x\n")
    assert names(table) == ["P.tif", "p/x"]


@pytest.mark.parametrize(
    ("one", "two", "words"), [("p", "P/q", "within the other"), ("LOGS/x", "b", "'logs' is the batch's own")]
)
def test_names_by_hand_that_are_in_the_way_are_refused(
    tmp_path: Path, one: str, two: str, words: str
) -> None:
    (tmp_path / "t.csv").write_text(f"slide,name\na.svs,{one}\nb.svs,{two}\n")
    with pytest.raises(UsageError, match=words):
        names(tmp_path / "t.csv")
