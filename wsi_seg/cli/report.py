"""`wsi-seg report`: the report of finished results, to be read or filed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wsi_seg.cli.options import output_option
from wsi_seg.cli.output import say
from wsi_seg.cli.review import ReviewsOption


def report(
    results: Annotated[
        str, typer.Argument(help="Results folder of one slide, OUT/<slide name>, or of a batch, OUT.")
    ],
    form: Annotated[
        Literal["html", "pdf"] | None,
        typer.Option(
            "--format",
            help="Format; pdf needs Chromium or Chrome on the search path. By default that of --output, "
            "else html.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        output_option("File to write; by default RESULTS/report.html or report.pdf."),
    ] = None,
    reviews: ReviewsOption = None,
) -> int:
    """Write the report of finished results again, as HTML or as PDF; the slide itself is not read.

    It says how many regions were reviewed, where a review was begun.
    """
    from wsi_seg.pipeline.report import write_report
    from wsi_seg.review.progress import describe_review

    named_pdf = output is not None and output.suffix.lower() == ".pdf"
    form = form or ("pdf" if named_pdf else "html")
    path = write_report(results, form, output, lambda folder: describe_review(folder, reviews))
    say(f"report → {path}")
    return 0
