"""`wsi-seg export`: finished results in other formats, or with other regions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.options import (
    ConfigOption,
    SetOption,
    given_settings,
    output_option,
    settings_of,
    takes_settings,
)
from wsi_seg.cli.output import say


@takes_settings(
    "groups", "classes", "threshold", "min_area_um2", "min_hole_um2", "tolerance_um", "source", "origin"
)
def export(
    context: typer.Context,
    results: Annotated[Path, typer.Argument(help="Results folder of one slide, OUT/<slide name>.")],
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="Format to write; `list` names them.")
    ] = "geojson",
    output: Annotated[
        Path | None,
        output_option(
            "File or folder to write; by default RESULTS/<classes>_<threshold> of regions, or "
            "RESULTS/maps, and the format's ending; of GeoJSON with .gz where it is large."
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            help="Microns per pixel of label maps (png, tiff-mask); by default as the maps have them, of a "
            "png as often doubled as it takes for readers of PNG."
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> int:
    """Write finished results in another format, or with other regions; the run's files stay."""
    from wsi_seg.core.assessed import unassessed_warning
    from wsi_seg.exporters.table import FORMATS, find_format
    from wsi_seg.pipeline.export import card_of, export_regions, export_result

    if to == "list":
        for name, form in FORMATS.items():
            needs = f" (pip install 'wsi-seg[{form.extra}]')" if form.extra else ""
            say(f"{name:14} {form.about}{needs}")
        return 0
    form = find_format(to)
    form.check_mpp(to, mpp)
    given = given_settings(context)
    if "classes" in given:
        given.setdefault("groups", [])
    settings = settings_of(given, config, set_, {"origin": form.origin}).regions
    card = card_of(results)
    settings = settings.of_model(card)
    name = "maps"
    if form.holds == "regions":
        warning = unassessed_warning(card, settings.resolve(card))
        if warning:
            say(f"warning: {warning}", err=True)
        what = "+".join((*(settings.groups or ()), *settings.classes))
        name = f"{what}_{settings.trace.threshold:g}"
    path = output or results / f"{name}{form.ending}"
    if to == "geojson":
        summary = export_regions(results, settings, path, compress_large=output is None)
        say(f"{summary.count} regions → {summary.path}")
        return 0
    exported = export_result(results, to, path, settings, mpp=mpp)
    say(f"{exported.content} → {exported.path}")
    return 0
