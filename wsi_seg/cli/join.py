"""`wsi-seg join`: cells that other programs found, counted by region and by distance to a border."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from wsi_seg.cli.options import (
    given_settings,
    local_path,
    output_option,
    settings_of,
    takes_options,
    takes_settings,
)
from wsi_seg.cli.output import say


@dataclass(frozen=True, slots=True)
class JoinOptions:
    """Arguments and flags of `wsi-seg join`, besides the settings of regions."""

    result: Annotated[
        Path, typer.Argument(help="Results folder of one slide, or with --mpp a file of regions.")
    ]
    cells: Annotated[
        Path,
        typer.Argument(help="Cells: GeoJSON, GeoParquet, or a table with x and y; of polygons the centroid."),
    ]
    output: Annotated[Path, output_option("CSV to write, one row for each region.")]
    distances: Annotated[
        Path | None,
        typer.Option(
            help="CSV to write, one row for each distance to the border and class.",
            parser=local_path,
            metavar="PATH",
        ),
    ] = None
    border: Annotated[str, typer.Option(help="Class of regions whose border that is.")] = "Tumor"
    bin_um: Annotated[float, typer.Option(min=0.1, help="Width of a bin of distances in µm.")] = 50.0
    reach_um: Annotated[
        float, typer.Option(min=0.1, help="Distance in µm that bins reach to on both sides.")
    ] = 500.0
    class_column: Annotated[
        str | None, typer.Option(help="Column of the class of cells; by default class, class_name, label, …")
    ] = None
    origin: Annotated[
        Literal["bounds", "level0"] | None,
        typer.Option(
            help="Start of the cells' positions, where their file does not say it; by default bounds for "
            "GeoJSON, as QuPath counts, else level0."
        ),
    ] = None
    mpp: Annotated[
        float | None, typer.Option(min=0.001, help="Microns per pixel of the slide of a file of regions.")
    ] = None


@takes_settings("groups", "classes", "threshold", "min_area_um2", "min_hole_um2", "tolerance_um", "source")
@takes_options(JoinOptions)
def join(context: typer.Context, options: JoinOptions) -> int:
    """Count cells of other programs in each region, and by distance to the tumor's border."""
    from wsi_seg.pipeline.export import card_of
    from wsi_seg.pipeline.join import (
        JoinSettings,
        cells_in_um,
        regions_of,
        write_distances,
        write_region_counts,
    )

    given = given_settings(context)
    if "classes" in given:
        given.setdefault("groups", [])
    settings = replace(settings_of(given).regions, origin="level0")
    if options.result.is_dir():
        settings = settings.of_model(card_of(options.result))
    choices = JoinSettings(
        options.class_column, options.origin, options.border, options.bin_um, options.reach_um
    )
    regions = regions_of(options.result, settings, options.mpp, options.bin_um)
    cells, xy_um = cells_in_um(options.cells, regions, choices)
    outside = write_region_counts(options.output, regions, cells, xy_um)
    say(f"{len(xy_um)} cells, {outside} of them in none of {len(regions.names)} regions → {options.output}")
    if options.distances is not None:
        left_out = write_distances(options.distances, regions, cells, xy_um, choices)
        say(f"distances to {options.border}, without {left_out} cells off the tissue → {options.distances}")
    return 0
