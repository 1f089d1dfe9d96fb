"""`wsi-seg export`: other classes, threshold or tolerance from finished maps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.options import (
    ClassesOption,
    ConfigOption,
    GroupsOption,
    SetOption,
    ThresholdOption,
    names,
    parse_settings,
)
from wsi_seg.cli.output import say


def export(
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
    groups: GroupsOption = None,
    classes: ClassesOption = None,
    threshold: ThresholdOption = None,
    set_: SetOption = None,
) -> int:
    """Write polygons again from finished maps; the network does not run and the run's files stay."""
    from wsi_seg.pipeline.config import read_run_config
    from wsi_seg.pipeline.export import card_of, export_regions

    asked = {"groups": names(groups), "classes": names(classes), "threshold": threshold}
    if classes is not None and groups is None:
        asked["groups"] = []
    settings = read_run_config(config, {**asked, **parse_settings(set_)}).region_settings()
    settings = settings.of_model(card_of(results))
    what = "+".join((*(settings.groups or ()), *settings.classes))
    path = output or results / f"{what}_{settings.trace.threshold:g}.geojson"
    summary = export_regions(results, settings, path, compress_large=output is None)
    say(f"{summary.count} regions → {summary.path}")
    return 0
