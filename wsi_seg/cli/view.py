"""`wsi-seg view`: results in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.output import say

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
) -> int:
    """Show slides, classes, probabilities and regions in the browser; Ctrl-C ends it.

    Results are only read. Nothing is loaded from the network.
    """
    from wsi_seg.viewer.server import Address, serve
    from wsi_seg.viewer.state import Places

    serve(
        Places(out, slides=slides, runs=allow_run),
        Address(host, port),
        say,
        browser=not no_browser,
    )
    return 0
