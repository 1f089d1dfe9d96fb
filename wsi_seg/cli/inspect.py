"""Commands about slides: `info` of one, and `readers` of all formats."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.cli.options import JsonOption, given_settings, settings_of, takes_settings
from wsi_seg.cli.output import say

if TYPE_CHECKING:
    from wsi_seg.slides.about import SlideAbout
    from wsi_seg.slides.slide import SlideInfo


@takes_settings("mpp", "reader", "series")
def info(
    context: typer.Context,
    slide: Annotated[str, typer.Argument(help="Slide file, folder of a DICOM series, or URL.")],
    json_: JsonOption = False,
) -> int:
    """Show what a slide says about itself: scanner, stain, µm/px, levels, bounds, and what is left out."""
    from wsi_seg.slides.readers.base import NOTHING_STATED, LevelReader

    with settings_of(given_settings(context)).open_slide(slide) as opened:
        facts = opened.info
        about = opened.about if isinstance(opened, LevelReader) else NOTHING_STATED
    if json_:
        say(json.dumps({**dataclasses.asdict(facts), **dataclasses.asdict(about)}, indent=2))
        return 0
    say("\n".join([facts.path, *(f"  {name:<12} {value}" for name, value in _lines(facts, about))]))
    return 0


def _lines(facts: SlideInfo, about: SlideAbout) -> list[tuple[str, str]]:
    scanner, bounds = about.scanner, facts.bounds
    device = [part for part in (scanner.vendor, scanner.model, scanner.device) if part]
    stain = f"{about.stain.name} (from its {about.stain.source})" if about.stain else "not stated"
    microns = f"{facts.mpp.x:g} × {facts.mpp.y:g} µm/px" if facts.mpp else "unknown, pass --mpp"
    series = f"{facts.series}, of {about.images} image(s) in the file"
    known = {f"{one.name}, {one.size} px" for one in about.associated}
    return [
        ("reader", f"{facts.reader} ({facts.vendor})"),
        ("scanner", ", ".join(device) or "not stated"),
        ("stain", stain),
        ("objective", f"{about.objective_power:g}×" if about.objective_power else "not stated"),
        ("size", f"{facts.size.width} × {facts.size.height} px"),
        ("mpp", f"{microns} ({facts.mpp_source})"),
        ("bounds", f"x {bounds.x0}…{bounds.x1}, y {bounds.y0}…{bounds.y1}" if bounds else "none"),
        ("fingerprint", facts.fingerprint),
        *(
            (f"level {i}", f"{level.size.width} × {level.size.height} px, downsample {level.downsample.x:g}")
            for i, level in enumerate(facts.levels)
        ),
        ("series", f"DICOM {about.series_uid}" if about.series_uid else series),
        *([("scenes", str(about.scenes))] if about.scenes > 1 else []),
        *(("associated", f"{one.name}, {one.size} px (never exported)") for one in about.associated),
        *(("left out", what) for what in facts.left_out if what not in known),
        *(("assumed", what) for what in facts.assumed),
    ]


def readers(json_: JsonOption = False) -> int:
    """List slide formats, the readers that take them, and what is installed here."""
    from wsi_seg.slides.readers.catalog import READER_FACTS, SLIDE_FORMATS

    if json_:
        listed = [
            {
                "name": facts.name, "installed": facts.installed, "versions": facts.versions(),
                "install": facts.install, "urls": facts.urls,
            }
            for facts in READER_FACTS
        ]  # fmt: skip
        formats = [dataclasses.asdict(one) for one in SLIDE_FORMATS]
        say(json.dumps({"readers": listed, "formats": formats}, indent=2))
        return 0
    here = {facts.name: facts.installed for facts in READER_FACTS}
    marks = {True: "yes", False: "missing"}
    rows = [("format", *here)] + [
        (
            f"{one.name} ({' '.join(one.endings)})" if one.endings else one.name,
            *(marks[here[name]] if name in one.readers else "–" for name in here),
        )
        for one in SLIDE_FORMATS
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    for facts in READER_FACTS:
        found = ", ".join(f"{name} {number}" for name, number in facts.versions().items() if number)
        missing = f"not installed: {facts.install}" if facts.install else found
        lines.append(f"{facts.name:<10} {missing}; URLs: {facts.urls}")
    say("\n".join([*lines[: len(rows)], "", *lines[len(rows) :]]))
    return 0
