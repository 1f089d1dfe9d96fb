"""`wsi-seg check-seams`: what tiling costs in accuracy, on any slide."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from wsi_seg.cli.options import (
    ConfigOption,
    JsonOption,
    SetOption,
    given_settings,
    settings_of,
    takes_settings,
)
from wsi_seg.cli.output import say


@takes_settings("model", "mpp")
def check_seams(
    context: typer.Context,
    slide: Annotated[str, typer.Argument(help="Slide file, folder of a DICOM series, or URL.")],
    config: ConfigOption = None,
    side: Annotated[int, typer.Option(help="Side of the compared region in map pixels.")] = 1024,
    precision: Annotated[
        str, typer.Option(help="float32 shows tiling alone; bf16 adds its own rounding.")
    ] = "float32",
    set_: SetOption = None,
    json_: JsonOption = False,
) -> int:
    """Compare the stitched map with one forward pass over the region with most tissue."""
    from wsi_seg.evaluation.seams import densest_region, measure_seams
    from wsi_seg.inference.blocks import BlockSettings
    from wsi_seg.inference.models.predictor import load_predictor
    from wsi_seg.pipeline.models import load_model
    from wsi_seg.pipeline.run import prepare

    settings = settings_of({"precision": precision, **given_settings(context)}, config, set_)
    chosen = load_model(**dataclasses.asdict(settings.model))
    settings = settings.for_workers()
    predictor = load_predictor(**dict(chosen.predictor.arguments))
    with settings.open_slide(slide) as opened:
        tissue, plan = prepare(opened, chosen, settings)
        block = BlockSettings(plan.frame, plan.stitch, plan.codes, plan.level, plan.batch)
        report = measure_seams(opened, predictor, block, densest_region(tissue, block, side))
    grid = plan.stitch.grid
    if json_:
        say(json.dumps({"tile": grid.tile, "overlap": grid.overlap, **dataclasses.asdict(report)}, indent=2))
        return 0
    say(
        f"{slide}: tiles of {grid.tile} px, overlap {grid.overlap}, blend {plan.stitch.blend}, "
        f"{plan.precision}: "
        f"{100 * report.equal_labels:.3f} % of labels equal one undivided forward pass "
        f"({report.box_map.width} × {report.box_map.height} px); probabilities differ by "
        f"{report.mean_difference:.2e} on average, {report.largest_difference:.3f} at most"
    )
    return 0
