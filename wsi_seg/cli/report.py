"""`wsi-seg report`: the report of finished results, to be read or filed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wsi_seg.cli.output import say


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
        typer.Option("--output", "-o", help="File to write; by default RESULTS/report.html or report.pdf."),
    ] = None,
) -> int:
    """Write the report of finished results again, as HTML or as PDF; the slide itself is not read."""
    from wsi_seg.pipeline.report import write_report

    named_pdf = output is not None and output.suffix.lower() == ".pdf"
    say(f"report → {write_report(results, form or ('pdf' if named_pdf else 'html'), output)}")
    return 0
