"""`wsi-seg qupath`: scripts for QuPath, and the requests that they make."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.options import local_path
from wsi_seg.cli.output import say
from wsi_seg.core.errors import UsageError


def qupath(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="SCRIPT_DIR", help="Folder to write the scripts to.", parser=local_path),
    ] = None,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="Folder for the results; by default wsi_seg in the folder of the QuPath project.",
        ),
    ] = "",
    host: Annotated[
        str, typer.Option(metavar="HOST", help="Computer to run on, by ssh; by default that of QuPath.")
    ] = "",
    program: Annotated[
        str, typer.Option(metavar="COMMAND", help="wsi-seg there, where it is not this one.")
    ] = "",
    path_map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HERE=THERE",
            help="Folder of slides as QuPath has it, and as HOST has it; repeatable.",
        ),
    ] = None,
    config: Annotated[
        str, typer.Option("--config", "-c", help="YAML file of settings of the runs, where they run.")
    ] = "",
    request: Annotated[
        bool, typer.Option("--request", help="Answer a request of the scripts: JSON on stdin and stdout.")
    ] = False,
) -> int:
    """Write three scripts for QuPath: run on its image, import the results, import those of a project.

    A script that is there already is replaced unless it was edited.
    """
    if request:
        return _answer()
    if folder is None:
        raise UsageError("qupath: give the folder to write the scripts to")
    from wsi_seg.pipeline.qupath.scripts import ScriptSettings, write_scripts

    settings = ScriptSettings.parse(output, host, program, path_map or (), config)
    for path in write_scripts(folder, settings):
        say(str(path))
    say("Open them in QuPath with Automate → Script editor, or drag them onto its window; then Run.")
    return 0


def _answer() -> int:
    from wsi_seg.pipeline.qupath.requests import answer_request, parse_request

    # A process that starts with SIGINT ignored hands that on, and its runs could not be stopped.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    request = parse_request(sys.stdin.buffer.read())
    answer_request(request, sys.stdout.buffer, lambda line: say(f"warning: {line}", err=True))
    sys.stdout.buffer.flush()
    return 0
