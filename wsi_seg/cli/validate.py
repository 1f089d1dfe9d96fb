"""`wsi-seg validate`: results and GeoJSON against the rules by which others read them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.output import say
from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import reading


def validate(
    path: Annotated[
        Path, typer.Argument(help="A .geojson file, a report.html, or a folder that holds some.")
    ],
) -> int:
    """Check GeoJSON against the rules by which QuPath reads it, and that results and reports are whole."""
    from wsi_seg.core.folders import walk_files
    from wsi_seg.exporters.check import check_geojson
    from wsi_seg.results.files import MANIFEST, REPORT, missing_files
    from wsi_seg.results.pages.check import check_page

    checks = {
        "*.geojson": check_geojson,
        "*.geojson.gz": check_geojson,
        REPORT: check_page,
        MANIFEST: missing_files,
    }
    if not path.exists():
        raise OutputError(f"{path}: no such file or folder")
    if path.is_dir():
        with reading(path, OutputError):
            files = list(walk_files(path))
        found = {file: check for pattern, check in checks.items() for file in files if file.match(pattern)}
    else:
        found = {path: check_page if path.suffix == ".html" else check_geojson}
    if not found:
        raise OutputError(f"{path}: no .geojson file and no report.html in this folder")
    bad = 0
    for file, check in sorted(found.items()):
        problems = check(file)
        bad += bool(problems)
        say("\n".join([f"{file}: {'ok' if not problems else f'{len(problems)} problems'}", *problems]))
    return 1 if bad else 0
