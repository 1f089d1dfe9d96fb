"""`wsi-seg view`: results in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.output import say
from wsi_seg.cli.review import ReviewsOption
from wsi_seg.core.errors import UsageError

# Fixed, so that addresses of views stay good.
PORT = 8642


def view(
    out: Annotated[Path, typer.Argument(help="Folder with results: OUT of wsi-seg run, or of one slide.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes any that is free.")] = PORT,
    host: Annotated[
        str, typer.Option(help="Address to bind to; any but this machine's own needs the printed token.")
    ] = "127.0.0.1",
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    slides: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where slides are now, if they were moved.")
    ] = None,
    allow_run: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Let the browser start runs on slides of this folder."),
    ] = None,
    allow_review: Annotated[
        bool, typer.Option("--allow-review", help="Let the browser accept, reject and correct regions.")
    ] = False,
    reviews: ReviewsOption = None,
    no_labels: Annotated[
        bool,
        typer.Option("--no-labels", help="Never show label and macro of a slide, which may name a patient."),
    ] = False,
) -> int:
    """Show slides, classes, probabilities and regions in the browser; Ctrl-C ends it.

    Results are only read; reviews are kept next to them. Nothing is loaded from the network.
    """
    from wsi_seg.review.places import review_folder
    from wsi_seg.viewer.server import Address, serve
    from wsi_seg.viewer.state import Places

    if reviews is not None and not allow_review:
        raise UsageError(f"--reviews {reviews}: needs --allow-review")
    folder = review_folder(out, reviews) if allow_review else None
    if folder is not None:
        say(f"reviews are kept in {folder}", err=True)
    serve(
        Places(out, slides=slides, runs=allow_run, reviews=folder, labels=not no_labels),
        Address(host, port),
        say,
        browser=not no_browser,
    )
    return 0
