"""Reports that people file: names, digits, lost areas, outliers, phones, and `wsi-seg report`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pypdf import PdfReader
from typer.testing import CliRunner

from tests.made.pages import Reader
from tests.made.results import SMALL_BLOCKS, darkness_model
from tests.made.reviews import verdict_on
from wsi_seg.cli import app
from wsi_seg.core.errors import OutputError
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.results.files import MANIFEST, REPORT, REPORT_PDF, SUMMARY, check_own
from wsi_seg.results.pages.batch import write_batch_page
from wsi_seg.results.pages.check import check_page
from wsi_seg.results.pages.distribution import LEAST_SLIDES, Measured, columns, distribution
from wsi_seg.results.pages.names import shown_file, without_path
from wsi_seg.results.pages.numbers import median_text, mm2_text, percent_text, region_area_text
from wsi_seg.results.pages.pdf import PROGRAMS, print_page
from wsi_seg.results.pages.slide import draw_slide_page, picture_of_page
from wsi_seg.review.progress import describe_review
from wsi_seg.review.results import open_reviewed
from wsi_seg.review.store import ReviewStore

CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; apt-get install chromium")
MODEL = {"name": "tiny", "version": "7", "notice": "a demonstration", "held_out": "Dice 0.5"}
PHONE = {"width": 360, "height": 780}


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results that a table calls case 7/HE, of a file named after a patient."""
    folder = tmp_path_factory.mktemp("reports")
    pixels = np.full((200, 300, 3), 245, np.uint8)
    pixels[40:160, 40:260] = np.random.default_rng(1).integers(0, 255, (6, 11, 1)).repeat(20, 0).repeat(20, 1)
    Image.fromarray(pixels).save(folder / "DOE-JANE.png")
    settings = RunSettings(tissue="none", mpp=0.5, plan=SMALL_BLOCKS)
    result = segment_slide(
        folder / "DOE-JANE.png", folder / "out", darkness_model(), settings, name="case 7/HE"
    )
    return Path(result.folder)


def records(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    summary, manifest = (json.loads((folder / name).read_text("utf-8")) for name in (SUMMARY, MANIFEST))
    return summary, manifest


def batch_rows(out: Path, count: int = 12) -> list[dict[str, Any]]:
    """Return rows as in batch.csv of slides whose files are named after patients."""
    rows: list[dict[str, Any]] = []
    for i in range(count):
        name = f"case {i}"
        (out / name).mkdir(parents=True)
        (out / name / REPORT).touch()
        rows.append({
            "slide": f"/ward/DOE-{i}.svs", "name": name, "status": "done", "seconds": 61.0,
            "tissue_mm2": 20.0 + i, "unread_mm2": 0.0, "other_level_mm2": 0.0, "qc_mm2": 0.1, "folder": name,
            "tumor_mm2": (20.0 + i) * (0.9 if i == 3 else 0.2 + i / 1000), "note:x_mm2": "9",
        })  # fmt: skip
    if count > 6:
        rows[5] |= {"status": "incomplete", "unread_mm2": "3.21", "other_level_mm2": 0.5}
        rows[6] |= {"reason": "unlike the training data (stain); results may be wrong"}
    bad = {"slide": "/ward/DOE-99.svs", "name": "case 99", "status": "failed"}
    rows.append({**bad, "reason": "/ward/DOE-99.svs: not TIFF; see DOE-99.svs"})
    rows.append({**bad, "slide": "/ward/l.svs", "name": "link", "reason": "the same file as /ward/DOE-1.svs"})
    return rows


def test_digits_end_where_the_map_does() -> None:
    assert mm2_text(0.0123456, 1e-6) == "0.0123"
    assert mm2_text(0.0123456, 16e-6) == "0.0123"
    assert mm2_text(0.000424, 16e-6) == "0.0004" and mm2_text(0.000424, 225e-6) == "below 0.001"
    assert mm2_text(1234.56) == "1,235" and mm2_text(0) == "0" and mm2_text(None) == ""
    shares = {0.0: "0 %", 0.0001: "below 0.1 %", 0.5: "50.0 %", 0.9999: "above 99.9 %", 1.0: "100.0 %"}
    assert {share: percent_text(share, 1e6) for share in shares} == shares
    assert [percent_text(share, 50) for share in (0.004, 0.123, 1.004)] == ["below 1 %", "12 %", "100 %"]
    areas = {
        1988.58: "1,990 µm²",
        11836.38: "0.0118 mm²",
        9999.9: "0.0100 mm²",
        5.0: "5.00 µm²",
        0.0: "0 µm²",
    }
    assert {um2: region_area_text(um2) for um2 in areas} == areas
    assert [median_text(1988.58, n) for n in (2, 8, 100)] == ["", "2,000 µm²", "1,990 µm²"]


def test_a_page_calls_a_slide_as_its_results_are_called(named: Path) -> None:
    content = (named / REPORT).read_text(encoding="utf-8")
    assert "<h1>case 7/HE</h1>" in content and "<title>case 7/HE: segmentation report</title>" in content
    assert "DOE-" not in content and ">file</th>" not in content
    assert records(named)[0]["name"] == "case 7/HE"


def test_names_of_files_are_shown_where_results_are_named_after_them() -> None:
    assert shown_file("/ward/a.svs", "x/a") == shown_file("/ward/a.svs", "a.svs") == "a.svs"
    assert shown_file("s3://b/a.svs?key=1", "a") == "a.svs" and shown_file("/ward/DOE.svs", "case 1") == ""
    assert without_path("/ward/a.svs: bad", "/ward/a.svs", "a") == "a.svs: bad"
    said = "/ward/DOE.svs: DOE.svs has no level 12; the slide DOE.svs2 has"
    assert without_path(said, "/ward/DOE.svs", "P") == "P: P has no level 12; the slide DOE.svs2 has"
    assert without_path("level 12 of 3", "/ward/12", "P") == "level 12 of 3"


def test_lost_tissue_is_said_in_mm2(named: Path, tmp_path: Path) -> None:
    summary, manifest = records(named)
    picture = picture_of_page(named / REPORT)
    assert picture is not None and "lost" not in Reader(named / REPORT).text
    lost = {"analyzed_share": 0.75, "unread_mm2": 0.00512, "other_level_mm2": 0.000213}
    summary |= {"status": "incomplete", "coverage": lost}
    path = manifest["slide"]["path"]
    fault = {"ix": 0, "iy": 1, "unread_pixels": 9, "written": True, "reason": f"{path}: no JPEG"}
    manifest |= {"faults": [fault], "warnings": [f"{path}: of {i}" for i in range(5)]}
    page = draw_slide_page(tmp_path / "page.html", summary, manifest, picture)
    text = Reader(page).text
    assert "incomplete: 0.00512 mm² of tissue could not be read, 0.000213 mm² were read from" in text
    assert "lost: could not be read 0.00512 25.0 %" in text and "0, 1 case 7/HE: no JPEG" in text
    assert "Warning: case 7/HE: of 2" in text and "Warnings left out here, in manifest.json: 2." in text
    assert b"DOE-" not in page.read_bytes() and check_page(page) == []
    nothing = {"tissue_area_mm2": 0.0, "class_area_mm2": {}, "coverage": {**lost, "analyzed_share": 0.0}}
    text = Reader(draw_slide_page(page, summary | nothing, manifest, picture)).text
    assert "Nothing was analyzed: the tissue could not be read." in text and "no tissue" not in text


def test_a_batch_page_names_outliers_and_no_file(tmp_path: Path) -> None:
    page = write_batch_page(tmp_path, batch_rows(tmp_path), models=[MODEL, dict(MODEL)])
    reader = Reader(page)
    text = reader.text
    assert check_page(page) == [] and "DOE" not in text and "/ward" not in text
    assert "case 99: not TIFF; see case 99" in text and "the same file as case 1" in text
    assert text.count("Model tiny, version 7. Held-out scores: Dice 0.5.") == 1
    assert "1 slide is unlike the training data" in text
    assert "tissue lost: could not be read 3.21 mm²" in text
    labels = ("tissue analyzed", "tumor", "artifacts", "tissue not read")
    _, *found = re.split(rf"({'|'.join(labels)}) slides by", text[: text.index("Slides Areas")])
    plots = dict(zip(found[::2], found[1::2], strict=True))
    assert tuple(plots) == labels  # a note of the user's is no class
    assert "Outliers: case 3 (90.0 %)" in plots["tumor"] and "Outliers" not in plots["tissue analyzed"]
    assert "Outliers: case 5 (11.4 %)" in plots["tissue not read"]
    assert reader.values("href")[:2] == ["case%203/report.html", "case%205/report.html"]
    bare = write_batch_page(tmp_path, batch_rows(tmp_path / "b", 3), path=tmp_path / "x.html", links=False)
    assert not {"a", "figure"} & {tag for tag, _ in Reader(bare).elements}
    assert f"Drawn for at least {LEAST_SLIDES} slides" in Reader(bare).text


@pytest.mark.parametrize("largest", [0.013, 0.5, 1.0, 7.0, 10.0, 99.9, 100.0, 1234.5])
def test_bins_are_round_and_hold_every_value(largest: float) -> None:
    values = [*np.random.default_rng(0).uniform(0, largest, 200).tolist(), 0.0, largest]
    drawn = columns(values)
    written = [c["edge"] for c in drawn["columns"]]
    step = float(drawn["last_edge"].replace(",", "")) / len(written)
    every = 1 if len(drawn["last_edge"]) <= 4 else 2  # longer ones have no room
    edges = [step * i for i in range(len(written) + 1)]
    assert written == [f"{edge:,.6g}" if i % every == 0 else "" for i, edge in enumerate(edges[:-1])]
    counts = [int(c["text"] or 0) for c in drawn["columns"]]
    assert sum(counts) == len(values) and 5 <= len(counts) <= 10
    assert edges[-2] < largest <= edges[-1]
    assert [c["share"] for c in drawn["columns"]] == pytest.approx([n / max(counts) for n in counts])


def test_outliers_need_slides_and_a_range() -> None:
    def of(values: list[float]) -> Any:
        slides = [Measured(str(i), None, value) for i, value in enumerate(values)]
        return distribution("x", slides, unit="%", text=str, least_range=1.0)

    assert of([1.0] * (LEAST_SLIDES - 1)) is None and of([0.0] * 20) is None
    assert of([5.0] * 20 + [6.4, 3.6])["outliers"] == []  # within 1.5 of the least range
    assert [o["name"] for o in of([5.0] * 20 + [6.6, 90.0])["outliers"]] == ["21", "20"]
    assert of([5.0] * 60 + [50.0] * 12)["more"] == 4


def test_a_report_is_written_again_with_the_same_figures(named: Path, tmp_path: Path) -> None:
    folder = tmp_path / "HE"
    shutil.copytree(named, folder)
    before = (folder / REPORT).read_bytes()
    (folder / REPORT).write_bytes(before.replace(b"Segmentation report", b"An older page"))
    done = call("report", folder)
    assert done.exit_code == 0 and str(folder / REPORT) in done.stdout, done.output
    assert (folder / REPORT).read_bytes() == before
    done = call("report", folder, "-o", tmp_path / "copy.html")
    assert done.exit_code == 0 and (tmp_path / "copy.html").read_bytes() == before


def test_a_report_says_how_far_the_review_is(named: Path, tmp_path: Path) -> None:
    reviewed = open_reviewed(named)
    assert describe_review(named) == "" and describe_review(named, tmp_path) == ""
    entry = verdict_on(reviewed.regions, 0, slide=reviewed.slide.fingerprint)
    ReviewStore(tmp_path / "review").append(reviewed.slide, [entry])
    page = tmp_path / "page.html"
    done = call("report", named, "-o", page, "--reviews", tmp_path / "review")
    assert done.exit_code == 0, done.output
    assert f"1 of {len(reviewed.regions.ids)} regions reviewed" in Reader(page).text
    assert "no such folder of reviews" in call("report", named, "--reviews", tmp_path / "none").stderr
    batch = write_batch_page(tmp_path, batch_rows(tmp_path, 1), reviewed="37 of 120 regions reviewed")
    assert "3 slides · 37 of 120 regions reviewed" in Reader(batch).text


def test_a_slide_counts_once_in_how_far_the_review_is(named: Path, tmp_path: Path) -> None:
    """Results of a retrained model lie below those that were reviewed."""
    shutil.copytree(named, tmp_path / "out" / "HE")
    reviewed = open_reviewed(named)
    entry = verdict_on(reviewed.regions, 0, slide=reviewed.slide.fingerprint, model=reviewed.model)
    ReviewStore(tmp_path / "out-review").append(reviewed.slide, [entry])
    said = f"1 of {len(reviewed.regions.ids)} regions reviewed"
    assert describe_review(tmp_path / "out") == said
    below = tmp_path / "out" / "A" / "HE"
    shutil.copytree(named, below)
    manifest = json.loads((below / MANIFEST).read_text(encoding="utf-8"))
    manifest["model"]["digest"] = "0" * 64
    (below / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert describe_review(tmp_path / "out") == said


def test_reports_that_cannot_be_written_say_why(
    named: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "HE"
    shutil.copytree(named, folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    cases = {
        (tmp_path,): "holds neither manifest.json of a slide's results nor batch.csv",
        (tmp_path / "none",): "no such folder",
        ("s3://bucket/out",): "download the folder",
        (folder, "-o", "x.pdf", "--format", "html"): "name it .html",
        (folder, "--format", "pdf"): "PDF needs Chromium or Chrome",
        (folder, "-o", tmp_path / "no" / "x.html"): "cannot be written",
        (folder, "-o", folder / SUMMARY): "summary.json: is a file of results",
    }
    for arguments, words in cases.items():
        done = call("report", *arguments)
        assert done.exit_code in (1, 2) and words in done.stderr, done.output
        assert done.stderr.count("\n") == 1
    summary, _ = records(folder)
    (folder / SUMMARY).write_text(json.dumps({**summary, "bottleneck": 3}), encoding="utf-8")
    assert "its records lack what a report shows" in call("report", folder).stderr
    (folder / REPORT).write_text("<p>other</p>", encoding="utf-8")
    assert "holds no picture of the slide" in call("report", folder).stderr
    assert not [path for path in folder.iterdir() if "tmp" in path.name or path.name == REPORT_PDF]


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import time; time.sleep(60)", "printed nothing in 0.5 s and was stopped"),
        ("print('cannot open display')", "printed no PDF, exit code 0: cannot open display"),
        ("raise SystemExit('no sandbox')", "printed no PDF, exit code 1: no sandbox"),
    ],
)
def test_a_browser_that_prints_nothing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, words: str
) -> None:
    browser = tmp_path / "bin" / "chromium"
    browser.parent.mkdir()
    browser.write_text(f"#!{sys.executable} -S\n{program}\n")
    browser.chmod(0o755)
    monkeypatch.setenv("PATH", str(browser.parent))
    (tmp_path / "page.pdf").write_text("of before")
    seconds = 0.5 if "sleep" in program else 60
    with pytest.raises(OutputError, match=words):
        print_page(tmp_path / "page.pdf", lambda page: page.write_text("<p>x"), most_seconds=seconds)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "page.pdf"]
    assert (tmp_path / "page.pdf").read_text() == "of before"


@needs_chromium
def test_a_report_is_filed_as_pdf(named: Path, tmp_path: Path) -> None:
    folder = tmp_path / "HE"
    shutil.copytree(named, folder)
    done = call("report", folder, "--format", "pdf")
    assert done.exit_code == 0 and str(folder / REPORT_PDF) in done.stdout, done.output
    pdf = PdfReader(folder / REPORT_PDF)
    text = " ".join(" ".join(page.extract_text() for page in pdf.pages).split())
    assert len(pdf.pages) == 2 and "case 7/HE" in text and "no medical device" in text
    assert pdf.metadata is not None and pdf.metadata.title == "case 7/HE: segmentation report"
    content = (folder / REPORT_PDF).read_bytes()
    assert "DOE" not in text and str(tmp_path) not in text
    assert b"DOE-JANE" not in content and b"file://" not in content and str(tmp_path).encode() not in content
    check_own(folder)  # an overwriting run may replace the folder
    assert not [path.name for path in folder.iterdir() if "tmp" in path.name]


@needs_chromium
def test_a_phone_shows_pages_without_scrolling_sideways(named: Path, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    from tests import viewer_page

    rows = batch_rows(tmp_path)
    rows[0] |= {"name": "long-name-" * 20, "reason": "r" * 200}
    rows[1] |= {"tissue_mm2": 1590}
    pages = [named / REPORT, write_batch_page(tmp_path, rows)]
    with sync_playwright() as playwright:
        browser = viewer_page.launch(playwright, str(CHROMIUM))
        tab = browser.new_page(viewport=PHONE)
        for page in pages:
            tab.goto(page.as_uri())
            assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], page
            beyond = (
                "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 361)"
            )
            assert tab.evaluate(f"{beyond}.map(e => e.tagName)") == [], page
            edges = "[...document.querySelectorAll('.histogram div:not(.end) span')]"
            after = "e.parentElement.nextElementSibling.querySelector('span').textContent"
            reach = f"e.scrollWidth > e.clientWidth + 1 && {after}"
            assert tab.evaluate(f"{edges}.filter(e => {reach}).map(e => e.textContent)") == [], page
        browser.close()
