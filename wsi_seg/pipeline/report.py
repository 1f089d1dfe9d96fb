"""The report of finished results, of a slide or a batch, written again as HTML or as PDF."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import UndefinedError

from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.core.storage import is_remote
from wsi_seg.pipeline.batch_table import read_rows
from wsi_seg.results.files import (
    BATCH,
    MANIFEST,
    REPORT,
    REPORT_PDF,
    SUMMARY,
    as_summary,
    read_json,
    read_record,
    refuse_results,
)
from wsi_seg.results.pages.batch import model_facts, write_batch_page
from wsi_seg.results.pages.pdf import find_browser, print_page
from wsi_seg.results.pages.slide import draw_slide_page, picture_of_page

ReportFormat = Literal["html", "pdf"]


def write_report(
    results: Path | str,
    form: ReportFormat = "html",
    path: Path | None = None,
    describe_review: Callable[[Path], str] | None = None,
) -> Path:
    """Write the report of finished results; its figures are those of the run, its layout is today's.

    Args:
        results: folder of a slide's results, or of a batch with batch.csv.
        form: `html`, or `pdf`, which is printed by an installed Chromium or Chrome.
        path: file to write; None: report.html or report.pdf in `results`.
        describe_review: says how far the review of `results` is, "" where there is none.

    Returns:
        The file.

    Raises:
        UsageError: `results` is a URL, or the name of `path` is that of another format or file of results.
        MissingExtraError: no browser is there to print a PDF.
        OutputError: there are no results, they are damaged, or `path` cannot be written.
    """
    if is_remote(results):
        raise UsageError(f"{results}: results at a URL are not read; download the folder and give that")
    results = Path(results)
    if not results.is_dir():
        raise OutputError(f"{results}: no such folder")
    path = path or results / (REPORT_PDF if form == "pdf" else REPORT)
    ending = path.suffix.lower()
    if ending in (".html", ".pdf") and ending != f".{form}":
        raise UsageError(f"{path}: is named as {ending[1:]}, to be written as {form}; name it .{form}")
    refuse_results(path, REPORT)
    if form == "pdf":
        find_browser()
    # Addresses are relative, and a PDF would hold them in full.
    links = form == "html" and path.absolute().parent == results.absolute()
    try:
        write = _page_writer(results, describe_review(results) if describe_review else "", links=links)
        return write(path) if form == "html" else print_page(path, write)
    except (AttributeError, KeyError, TypeError, ValueError, UndefinedError) as error:
        # Parts of the records that somebody has edited, or of an earlier version.
        raise OutputError(
            f"{results}: its records lack what a report shows ({error}); run wsi-seg run --overwrite again"
        ) from error


def _page_writer(results: Path, reviewed: str, *, links: bool) -> Callable[[Path], Path]:
    """Return a function that writes the page into a file."""
    if (results / MANIFEST).is_file():
        manifest = read_record(results / MANIFEST)
        summary = as_summary(read_json(results / SUMMARY), results / SUMMARY)
        summary.setdefault("name", results.absolute().name)
        picture = picture_of_page(results / REPORT)
        if picture is None:
            raise OutputError(
                f"{results / REPORT}: holds no picture of the slide; run wsi-seg run --overwrite again"
            )
        return lambda path: draw_slide_page(path, summary, manifest, picture, reviewed)
    if (results / BATCH).is_file():
        rows = read_rows(results / BATCH)
        models = _models(results, rows)
        return lambda path: write_batch_page(
            results, rows, models=models, reviewed=reviewed, path=path, links=links
        )
    raise OutputError(
        f"{results}: holds neither {MANIFEST} of a slide's results nor {BATCH} of a batch; name such a folder"
    )


def _models(results: Path, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return what the page says of the models that made the results of a batch."""
    manifests = (results / str(row["folder"]) / MANIFEST for row in rows if row.get("folder"))
    found: dict[str, dict[str, str]] = {}
    for manifest in manifests:
        if manifest.is_file():
            model = read_record(manifest).get("model", {})
            found.setdefault(str(model.get("digest")), model_facts(model.get("card", {})))
    return list(found.values())
