"""`wsi-seg export`: other classes, threshold or tolerance from finished maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.options import ConfigOption, SetOption, given_settings, settings_of, takes_settings
from wsi_seg.cli.output import say


@takes_settings(
    "groups", "classes", "threshold", "min_area_um2", "min_hole_um2", "tolerance_um", "source", "origin"
)
def export(
    context: typer.Context,
    results: Annotated[Path, typer.Argument(help="Results folder of one slide, OUT/<slide name>.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="GeoJSON file (.geojson or .geojson.gz); by default RESULTS/<classes>_<threshold>.geojson, "
            "with .gz where it is large.",
        ),
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> int:
    """Write polygons again from finished maps; the network does not run and the run's files stay."""
    from wsi_seg.core.assessed import unassessed_warning
    from wsi_seg.pipeline.export import card_of, export_regions

    given = given_settings(context)
    if "classes" in given:
        given.setdefault("groups", [])
    settings = settings_of(given, config, set_).regions
    card = card_of(results)
    settings = settings.of_model(card)
    warning = unassessed_warning(card, settings.resolve(card))
    if warning:
        say(f"warning: {warning}", err=True)
    what = "+".join((*(settings.groups or ()), *settings.classes))
    path = output or results / f"{what}_{settings.trace.threshold:g}.geojson"
    summary = export_regions(results, settings, path, compress_large=output is None)
    say(f"{summary.count} regions → {summary.path}")
    return 0
