"""`wsi-seg calibrate`: how fast a model runs here, by tile and batch size."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from wsi_seg.cli.options import (
    JsonOption,
    VerboseOption,
    given_settings,
    set_up_logging,
    settings_of,
    takes_settings,
)
from wsi_seg.cli.output import say
from wsi_seg.core.allocator import keep_freed_memory
from wsi_seg.core.errors import OutputError


@takes_settings("device", "precision")
def calibrate(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Bundled name, folder, hf://owner/name, or .pth with a card.")
    ] = "bcss-demo",
    tile: Annotated[
        list[int] | None, typer.Option(help="Side of the network's input; repeatable. Default: the card's.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Tiles at once; repeatable.")] = None,
    json_: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Time the forward pass alone and keep the result: later runs take the fastest batch for their tile.

    The tile is never changed by it, as that would change results: set it with --set tile=….
    """
    from wsi_seg.core.errors import UsageError
    from wsi_seg.inference.models.calibrate import Timing, machine, measure_shapes
    from wsi_seg.pipeline.models import calibration, load_model, open_predictor
    from wsi_seg.planning.plan import affordable_passes, choose_grid

    keep_freed_memory()  # as a run does
    set_up_logging(verbose)
    chosen = load_model(**{**asdict(settings_of(given_settings(context)).model), "reference": model})
    grids = {side: choose_grid(chosen.facts.card, side) for side in tile or [chosen.facts.card.tile]}
    fixed = chosen.facts.card.batch
    if fixed is not None and set(batch or ()) - {fixed}:
        raise UsageError(f"--batch: the network of {chosen.facts.card.name!r} takes {fixed} tiles at a time")
    usual = [1, 2, 4, 8, 16] if chosen.facts.device.startswith("cuda") else [1, 2]
    sizes = batch or ([fixed] if fixed else usual)
    kept = calibration(chosen)
    timings: list[Timing] = []
    if not json_:
        say(f"{chosen.facts.card.name} on {machine(chosen.facts.device)}, {chosen.facts.precision}")
        say(f"{'tile':>6} {'overlap':>8} {'batch':>6} {'ms a tile':>10} {'useful Mpx/s':>13}")

    def passes(side: int, batch: int) -> int:
        return affordable_passes(chosen.facts, grids[side], batch)

    for timing in measure_shapes(open_predictor(chosen), list(grids), sizes, passes):
        timings.append(timing)
        grid = grids[timing.tile]
        if not json_:
            useful = grid.stride**2 / timing.seconds_per_tile / 1e6
            say(
                f"{timing.tile:>6} {grid.overlap:>8} {timing.batch:>6} "
                f"{timing.seconds_per_tile * 1000:>10.1f} {useful:>13.2f}"
            )
    try:
        kept.add(timings)
    except OutputError as error:
        raise UsageError(f"{error}; set XDG_CACHE_HOME") from error
    if json_:
        say(json.dumps({"kept_in": str(kept.path), "timings": [asdict(t) for t in timings]}))
    else:
        best = ", ".join(f"{b} for tiles of {t} px" for t, b in kept.best_batches().items())
        say(f"fastest batch: {best}; kept in {kept.path}")
    return 0
