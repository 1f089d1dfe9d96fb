"""`wsi-seg calibrate`: how fast a model runs here, by tile and batch size."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from wsi_seg.inference.models.calibrate import Timing
    from wsi_seg.inference.models.openvino_trial import Trial
    from wsi_seg.pipeline.models import Model
    from wsi_seg.planning.grid import Grid


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
    openvino: Annotated[
        bool,
        typer.Option("--openvino", help="Compare with OpenVINO: time, and labels on the packaged slide."),
    ] = False,
    json_: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Time the forward pass alone and keep the result: later runs take the fastest batch for their tile.

    The tile and the device are never changed by it, as that would change results: set them with --set tile=…
    and --device.
    """
    from wsi_seg.core.errors import UsageError
    from wsi_seg.pipeline.models import calibration, load_model
    from wsi_seg.planning.plan import choose_grid

    keep_freed_memory()  # as a run does
    set_up_logging(verbose)
    asked = replace(settings_of(given_settings(context)).model, reference=model)
    chosen = load_model(**asdict(asked))
    if openvino and chosen.facts.device != "cpu":
        raise UsageError(
            f"--openvino: OpenVINO is compared with the CPU, not {chosen.facts.device}; use --device cpu"
        )
    same = replace(asked, device="openvino", precision=chosen.facts.precision)
    other = load_model(**asdict(same)) if openvino else None
    grids = {side: choose_grid(chosen.facts.card, side) for side in tile or [chosen.facts.card.tile]}
    fixed = chosen.facts.card.batch
    if fixed is not None and set(batch or ()) - {fixed}:
        raise UsageError(f"--batch: the network of {chosen.facts.card.name!r} takes {fixed} tiles at a time")
    usual = [1, 2, 4, 8, 16] if chosen.facts.device.startswith("cuda") else [1, 2]
    kept = calibration(chosen)
    timings = time_shapes(chosen, grids, batch or ([fixed] if fixed else usual), quiet=json_)
    try:
        kept.add(timings)
    except OutputError as error:
        raise UsageError(f"{error}; set XDG_CACHE_HOME") from error
    if not json_:
        best = ", ".join(f"{b} for tiles of {t} px" for t, b in kept.best_batches().items())
        say(f"fastest batch: {best}; kept in {kept.path}")
    trials = try_other(chosen, other, list(grids), quiet=json_) if other else []
    if json_:
        found = {"kept_in": str(kept.path), "timings": [asdict(t) for t in timings]}
        say(json.dumps(found | ({"openvino": [asdict(t) for t in trials]} if openvino else {})))
    return 0


def time_shapes(
    chosen: Model, grids: Mapping[int, Grid], sizes: Sequence[int], *, quiet: bool
) -> list[Timing]:
    """Time tiles of each grid in batches of each size, and say each time unless `quiet`."""
    from wsi_seg.inference.models.calibrate import machine, measure_shapes
    from wsi_seg.pipeline.models import open_predictor
    from wsi_seg.planning.plan import affordable_passes

    if not quiet:
        say(f"{chosen.facts.card.name} on {machine(chosen.facts.device)}, {chosen.facts.precision}")
        say(f"{'tile':>6} {'overlap':>8} {'batch':>6} {'ms a tile':>10} {'useful Mpx/s':>13}")

    def passes(side: int, batch: int) -> int:
        return affordable_passes(chosen.facts, grids[side], batch)

    timings = []
    for timing in measure_shapes(open_predictor(chosen), list(grids), sizes, passes):
        timings.append(timing)
        grid = grids[timing.tile]
        if not quiet:
            useful = grid.stride**2 / timing.seconds_per_tile / 1e6
            say(
                f"{timing.tile:>6} {grid.overlap:>8} {timing.batch:>6} "
                f"{timing.seconds_per_tile * 1000:>10.1f} {useful:>13.2f}"
            )
    return timings


def try_other(chosen: Model, other: Model, tiles: Sequence[int], *, quiet: bool) -> list[Trial]:
    """Try a model by OpenVINO, `other`, next to the same by torch, and say what comes of it unless `quiet`.

    Raises:
        ModelError: OpenVINO cannot convert the network.
    """
    from wsi_seg.inference.models.openvino_trial import try_openvino
    from wsi_seg.pipeline.models import open_predictor

    trials = []
    for tile in tiles:
        trial = try_openvino(open_predictor(chosen), open_predictor(other), tile)
        trials.append(trial)
        if not quiet:
            say(
                f"OpenVINO, tiles of {tile} px: {trial.time_ratio:.2f} of the time, the same label on "
                f"{trial.same_labels:.2%} of pixels; "
                + ("use --device openvino" if trial.recommended else "keep --device cpu")
            )
    return trials
