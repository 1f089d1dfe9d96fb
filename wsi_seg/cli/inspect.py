"""Commands that only look: `info`, `validate`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.options import JsonOption, given_settings, settings_of, takes_settings
from wsi_seg.cli.output import say
from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import reading


@takes_settings("mpp", "reader", "series")
def info(
    context: typer.Context,
    slide: Annotated[str, typer.Argument(help="Slide file, folder of a DICOM series, or URL.")],
    json_: JsonOption = False,
) -> int:
    """Show what a slide says about itself: size, levels, microns per pixel, bounds, and what is left out."""
    with settings_of(given_settings(context)).open_slide(slide) as opened:
        facts = opened.info
    if json_:
        say(json.dumps(dataclasses.asdict(facts), indent=2))
        return 0
    microns = f"{facts.mpp.x:g} × {facts.mpp.y:g} µm/px" if facts.mpp else "unknown, pass --mpp"
    bounds = facts.bounds
    lines = [
        f"{facts.path}",
        f"  reader       {facts.reader} ({facts.vendor})",
        f"  size         {facts.size.width} × {facts.size.height} px",
        f"  mpp          {microns} ({facts.mpp_source})",
        f"  bounds       {f'x {bounds.x0}…{bounds.x1}, y {bounds.y0}…{bounds.y1}' if bounds else 'none'}",
        f"  fingerprint  {facts.fingerprint}",
        *(
            f"  level {i}      {level.size.width} × {level.size.height} px, downsample {level.downsample.x:g}"
            for i, level in enumerate(facts.levels)
        ),
        f"  series       {facts.series}",
        *(f"  left out     {what}" for what in facts.left_out),
    ]
    say("\n".join(lines))
    return 0


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
