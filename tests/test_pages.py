"""report.html of a slide and of a batch: what they say, that they hold all they show, how they print."""

from __future__ import annotations

import base64
import io
import json
import multiprocessing
import re
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pypdf import PdfReader
from typer.testing import CliRunner

from tests.made.pages import Reader
from tests.processes import peak_memory
from wsi_seg.cli import app
from wsi_seg.core.classes import BCSS
from wsi_seg.core.errors import OutputError
from wsi_seg.exporters.overview import Overview
from wsi_seg.regions.group_outlines import size_histogram
from wsi_seg.results.files import REPORT, THUMBNAIL
from wsi_seg.results.pages.batch import write_batch_page
from wsi_seg.results.pages.check import check_page
from wsi_seg.results.pages.numbers import duration_text, mm2_text
from wsi_seg.results.pages.pdf import PROGRAMS, print_page
from wsi_seg.results.pages.slide import LEAST_DRAWN, histogram_columns, write_slide_page

TEMPLATES = Path(__file__).resolve().parent.parent / "wsi_seg" / "results" / "pages"
HOSTILE = "<img src=x onerror=alert(1)>&\"'{{7*7}}"
CHROMIUM = next(filter(None, map(shutil.which, PROGRAMS)), None)
MODEL = {"name": "tiny", "version": "1", "notice": "untrained", "held_out": ""}


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def hostile_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a card that tries to be more than text."""
    folder = tmp_path_factory.mktemp("hostile") / "model"
    shutil.copytree(tiny_model, folder)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    card |= {
        "notice": f"untrained {HOSTILE}",
        "description": HOSTILE,
        "training_data": "http://example.org/x",
    }
    card["classes"][1]["name"] = HOSTILE
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def results(hostile_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run through the command line on a picture with a hostile name."""
    pixels = np.full((200, 300, 3), 245, np.uint8)
    coarse = np.random.default_rng(1).integers(80, 200, (10, 8, 3)).astype(np.uint8)
    pixels[:, :160] = coarse.repeat(20, axis=0).repeat(20, axis=1)
    pixels[:, :160, 1] //= 2
    slide = tmp_path_factory.mktemp("secret") / f"{HOSTILE}.png"
    Image.fromarray(pixels).save(slide)
    out = tmp_path_factory.mktemp("out")
    done = call("run", slide, "-o", out, "-m", hostile_model, "--mpp", 0.5, "--precision", "float32",
                "--groups", "tumor,other", "--set", "source=labels", "--set", "min_area_um2=0")  # fmt: skip
    assert done.exit_code == 0, done.output
    return out / HOSTILE


def record(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return tuple(
        json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) for n in ("summary", "manifest")
    )


def test_a_run_writes_a_page_that_says_what_was_found(results: Path) -> None:
    summary, manifest = record(results)
    page = Reader(results / REPORT)
    for mm2 in (summary["tissue_area_mm2"], *summary["class_area_mm2"].values()):
        assert mm2_text(mm2) in page.words
    assert f"{summary['regions']['tumor']['count']:,}" in page.words
    for words in (
        "0.5 µm/px, given by the user", "300 × 200 px, 0.15 × 0.1 mm", "found by thresholding color (Otsu)",
        "For research only: this program is no medical device", "blocks with tissue were analyzed",
        "traced from labels", f"torch {manifest['versions']['torch']}", manifest["model"]["digest"],
        "none in the card", "limited by", f"untrained {HOSTILE}",
    ):  # fmt: skip
        assert words in page.text, words
    assert str(Path(manifest["slide"]["path"]).parent) not in page.text  # folders may name patients
    jpeg = next(v for v in page.values("src")).removeprefix("data:image/jpeg;base64,")
    assert Image.open(io.BytesIO(base64.b64decode(jpeg))).size == (1200, 800)
    assert max(Image.open(results / THUMBNAIL).size) == 160


def test_regions_are_counted_by_their_area(results: Path) -> None:
    summary, _ = record(results)
    features = json.loads((results / "polygons.geojson").read_text(encoding="utf-8"))["features"]
    areas = [
        f["properties"]["measurements"]["Area µm^2"]
        for f in features
        if f["properties"]["name"][:5] == "Tumor"
    ]
    regions = summary["regions"]["tumor"]
    assert regions["count"] == len(areas) == sum(regions["sizes"]["counts"]) > 1
    assert regions["median_area_um2"] == pytest.approx(np.median(areas), abs=0.011)
    assert regions["largest_area_um2"] == max(areas)
    assert regions["area_mm2"] == pytest.approx(sum(areas) / 1e6, abs=1e-6)
    bars = [a for tag, a in Reader(results / REPORT).elements if a.get("role") == "img"]
    assert len(bars) == sum(r["count"] >= LEAST_DRAWN for r in summary["regions"].values())


def test_a_page_asks_for_nothing_and_runs_nothing(results: Path) -> None:
    page = Reader(results / REPORT)
    assert check_page(results / REPORT) == []
    assert all(value.startswith("data:image/jpeg;base64,") for value in page.values("src"))
    assert page.values("href", "srcset", "data", "poster", "action") == []
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "http://example.org/x" in page.text  # as text it may stand there
    assert "49" not in page.words
    policy = next(
        a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and policy.startswith("default-src 'none'")


def test_validate_knows_the_page_and_the_files(results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    _, manifest = record(copy)
    assert set(manifest["files"]) == {path.name for path in copy.iterdir()}
    good = call("validate", copy)
    assert good.exit_code == 0 and f"{copy / REPORT}: ok" in good.stdout
    assert call("validate", copy / REPORT).exit_code == 0
    (copy / THUMBNAIL).unlink()
    page = (copy / REPORT).read_text(encoding="utf-8")
    (copy / REPORT).write_text(page.replace("</main>", '<script src="http://x/y.js"></script></main>'))
    bad = call("validate", copy)
    assert bad.exit_code == 1
    assert "lists thumbnail.jpg, which is missing" in bad.stdout
    assert "an element <script>" in bad.stdout and "fetches 'http://x/y.js'" in bad.stdout


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ('<img src="x.png" alt="a">', "src on <img> fetches 'x.png'"),
        ('<img src="data:image/png;base64,AA">', "a picture without a text"),
        ('<a href="https://example.org">x</a>', "leads out of its folder"),
        ('<a href="javascript:alert(1)">x</a>', "leads out of its folder"),
        ('<a href="//example.org">x</a>', "leads out of its folder"),
        ('<p onclick="x()">x</p>', "onclick on <p> runs a script"),
        ('<p style="background: url(x.png)">x</p>', "the style of <p> fetches something"),
        ("<style>@import 'x.css'</style>", "the style sheet fetches something"),
        ('<meta http-equiv="refresh" content="0; url=http://x">', "an element <meta>"),
        ("<table><tr><td>1</td></tr></table>", "a table without a header"),
        ("<h3>deep</h3>", "a rank of headings is skipped"),
        ("<h1>again</h1>", "not one heading of the first rank"),
    ],
)
def test_faults_of_a_page_are_found(tmp_path: Path, broken: str, problem: str) -> None:
    page = tmp_path / "page.html"
    good = '<html lang="en"><head><title>t</title></head><body><h1>t</h1>{}</body></html>'
    page.write_text(good.format(""))
    assert check_page(page) == []
    page.write_text(good.format(broken))
    (found,) = check_page(page)
    assert problem in found
    page.write_text(good.format("").replace(' lang="en"', "").replace("<title>t", "<title>"))
    assert [p.split(": ")[-1] for p in check_page(page)] == ["no language is given", "no title"]


def worst_case(folder: Path, overview: Overview) -> Path:
    """Write a page of everything at its longest, from the record of a real run."""
    summary, manifest = record(folder)
    rng = np.random.default_rng(0)
    sizes = {"edges_um2": [s * 10.0**p for p in range(3, 9) for s in (1, 2, 5)], "counts": [9999] * 17}
    names = {c.name: c for c in BCSS}
    group = {"count": 123_456, "area_mm2": 123.456, "median_area_um2": 4567.8, "largest_area_um2": 9.9e7}
    summary |= {
        "class_area_mm2": {name: float(rng.uniform(1, 99)) for name in names},
        "regions": {name: {**group, "sizes": sizes} for name in names},
    }
    card = manifest["model"]["card"]
    card["classes"] = [{"name": c.name, "code": c.code, "color": c.color} for c in BCSS]
    card |= dict.fromkeys(("description", "training_data", "held_out", "notice", "license"), "word " * 600)
    manifest["warnings"] = ["a long warning about the slide " * 20] * 9
    fault = {"iy": 7, "reason": "no JPEG " * 40, "unread_pixels": 9, "written": True}
    manifest["faults"] = [{**fault, "ix": i} for i in range(500)]
    lost = {"analyzed_share": 0.5, "unread_mm2": 123.456, "other_level_mm2": 1.23456}
    summary |= {"name": "name-of-a-slide-" * 15, "blocks": 600, "status": "incomplete", "coverage": lost}
    return write_slide_page(folder, summary, manifest, overview)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to print with; apt-get install chromium")
@pytest.mark.parametrize("size", [None, (2000, 1500), (300, 2000)], ids=["as run", "worst", "worst, narrow"])
def test_a_page_prints_on_two_sides_of_a4(
    results: Path, tmp_path: Path, size: tuple[int, int] | None
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    for path in results.glob("*.*"):
        if path.is_file():
            shutil.copy(path, folder)
    if size is not None:
        noise = np.random.default_rng(0).integers(0, 256, (size[1] // 10, size[0] // 10, 3), np.uint8)
        worst_case(folder, Overview(Image.fromarray(noise).resize(size), 0.5))
        assert check_page(folder / REPORT) == []
    print_page(tmp_path / "page.pdf", lambda page: shutil.copy(folder / REPORT, page))
    pages = PdfReader(tmp_path / "page.pdf").pages
    assert len(pages) == 2
    width, height = (float(side) / 72 * 25.4 for side in pages[0].mediabox[2:])
    assert (width, height) == pytest.approx((210, 297), abs=0.5)
    first, second = (" ".join(page.extract_text().split()) for page in pages)
    assert "no medical device" in first and "Area per class" in first and "Coverage" in first
    assert "Model" in second and "Versions" in second and "The whole record is in manifest.json" in second


def batch_rows(out: Path, count: int) -> list[dict[str, Any]]:
    """Return rows as in batch.csv, with folders that hold a small picture and a page."""
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 160, 3), np.uint8)).save(jpeg, "JPEG")
    rows = []
    for i in range(count):
        name = f"slide {i}"
        (out / name).mkdir(parents=True)
        (out / name / THUMBNAIL).write_bytes(jpeg.getvalue())
        (out / name / REPORT).touch()
        rows.append({
            "slide": f"/data/{name}.svs", "name": name, "status": "done", "reason": "", "seconds": 61.0,
            "tissue_mm2": 2.0, "mpp": 0.25, "reader": "tiff", "folder": name, "tumor_mm2": 0.5,
            "fat_mm2": 1.5,
        })  # fmt: skip
    return rows


def test_a_batch_page_lists_failures_first_and_links_to_each_slide(tmp_path: Path) -> None:
    rows = batch_rows(tmp_path, 3)
    odd = "javascript:alert(1)?a#b&c%20<d>"
    (tmp_path / "slide 2").rename(tmp_path / odd)
    rows[2] |= {"folder": str(tmp_path / odd), "name": HOSTILE, "status": "incomplete", "tumor_mm2": "0.25"}
    blank = dict.fromkeys(rows[0], "")
    rows.append({**blank, "slide": f"/x/{HOSTILE}.svs", "status": "failed", "reason": f"no mpp {HOSTILE}"})
    page_path = write_batch_page(tmp_path, rows, models=[MODEL])
    assert page_path == tmp_path / REPORT and check_page(page_path) == []
    page = Reader(page_path)
    order = [
        page.text.index(word) for word in (f"no mpp {HOSTILE}", "incomplete 1 min 1 s", "slide 0", "slide 1")
    ]
    assert order == sorted(order)
    links = page.values("href")
    assert links == ["javascript%3Aalert%281%29%3Fa%23b%26c%2520%3Cd%3E/report.html", "slide%200/report.html",
                     "slide%201/report.html"]  # fmt: skip
    assert len(page.values("src")) == 3
    assert "all 3 min 3 s 6.00 4.50 1.25 The table is in batch.csv" in page.text
    assert "untrained" in page.text and HOSTILE in page.text
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"]


def test_a_batch_page_of_a_thousand_slides_is_bounded(tmp_path: Path) -> None:
    rows = batch_rows(tmp_path, 1000)
    # In a process of its own: threads that other tests left in this one allocate too.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(write_batch_page, tmp_path, rows[:2]).result()  # loads the template
        peak = pool.submit(peak_memory, write_batch_page, tmp_path, rows).result()
    page = tmp_path / REPORT
    assert page.stat().st_size > 8 * 2**20 > 4 * peak
    assert page.read_text(encoding="utf-8").count("<img ") == 1000


def test_an_empty_batch_and_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    assert "No slide was asked for." in Reader(write_batch_page(tmp_path, [])).text
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        write_batch_page(tmp_path / "file", [])


def luminance(color: str) -> float:
    """Return the relative luminance of #rrggbb as WCAG 2 defines it."""
    values = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_from_what_is_behind_it() -> None:
    css = (TEMPLATES / "base.html.j2").read_text(encoding="utf-8")
    colors = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", css)) | {"paper": "#ffffff"}
    behind = dict.fromkeys(("ink", "gray", "accent", "bad", "doubt", "good"), ("paper", "tint"))
    behind["ink"] = ("paper", "tint", "notice", "alarm")
    for text, papers in behind.items():
        for paper in papers:
            light, dark = sorted((luminance(colors[text]), luminance(colors[paper])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, paper)


@given(st.lists(st.floats(1e-3, 1e10), max_size=40))
def test_every_area_is_in_one_bin(areas: list[float]) -> None:
    histogram = size_histogram(areas)
    edges, counts = histogram.edges_um2, histogram.counts
    assert len(edges) == (len(counts) + 1 if areas else 0)
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        assert count == sum(low <= area < high for area in areas)
        assert 1.9 < high / low < 2.6
    assert sum(counts) == len(areas)
    if areas:
        assert counts[0] and counts[-1]
        drawing = histogram_columns(edges, counts)
        columns = drawing["columns"]
        assert [c["share"] * max(counts) for c in columns] == pytest.approx(counts)
        assert any(c["edge"] for c in columns) or drawing["last_edge"]
        texts = [int(c["text"].replace(",", "")) if c["text"] else None for c in columns]
        assert max(counts) in texts
        assert all(text in (None, count) for text, count in zip(texts, counts, strict=True))


def test_numbers_are_written_as_people_do() -> None:
    times = {
        0.123: "0.12 s",
        9.94: "9.9 s",
        59.4: "59 s",
        59.6: "1 min",
        200: "3 min 20 s",
        7500: "2 h 5 min",
    }
    assert {s: duration_text(s) for s in times} == times
    areas = {0: "0", 0.00001234: "0.000012", 0.01234: "0.0123", 0.5: "0.500", 12.34: "12.3", 1234.5: "1,234"}
    assert {a: mm2_text(a) for a in areas} == areas
    assert duration_text(None) == mm2_text(None) == ""
