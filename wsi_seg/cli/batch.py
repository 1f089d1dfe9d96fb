"""What `wsi-seg run` prints: plans, what became of each slide, and of all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from wsi_seg.cli.output import say
from wsi_seg.cli.progress import BatchBars
from wsi_seg.core.errors import WsiSegError
from wsi_seg.execution.graph import Workers
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.pipeline.batch import Batch, SlideTask, refuse, unforeseen
from wsi_seg.pipeline.batch_table import Row
from wsi_seg.pipeline.run import Progress, SlideResult, prepare
from wsi_seg.planning.grid import Grid
from wsi_seg.planning.plan import SegmentationPlan
from wsi_seg.results.bottleneck import describe
from wsi_seg.results.folder import BATCH, FAILED
from wsi_seg.slides.readers import open_slide

EXIT_NOTHING_DONE = 1
EXIT_SOME_FAILED = 3
MIB = 2**20
# What the table calls otherwise than people do.
SAID = {"locked": "locked by another run, skipped"}


def run_tasks(
    tasks: Sequence[SlideTask], out: str, workers: WorkerSettings, *, as_json: bool, keep_table: bool
) -> int:
    """Run slides and print what became of them; return the exit code."""
    with BatchBars(len(tasks)) as bars:
        printing = _Printing(bars, as_json)
        batch = Batch(tasks, out, workers, keep_table=keep_table)
        rows = batch.run(printing)
    if as_json:
        say(json.dumps([printing.as_json(row) for row in rows], indent=2))
    elif len(rows) > 1:
        say(_describe_all(rows, out))
    return _exit_code(rows, printing.errors)


def _exit_code(rows: Sequence[Row], errors: Sequence[WsiSegError]) -> int:
    if all(row.status in ("done", "skipped", "locked") for row in rows):
        return 0
    if any(row.status in ("done", "skipped", "incomplete") for row in rows):
        return EXIT_SOME_FAILED
    return errors[0].exit_code if len(rows) == len(errors) == 1 else EXIT_NOTHING_DONE


class _Printing:
    """Prints each slide as it comes to its end, and keeps what JSON is to hold."""

    def __init__(self, bars: BatchBars, as_json: bool) -> None:
        self.errors: list[WsiSegError] = []
        self._bars, self._as_json = bars, as_json
        self._summaries: dict[str, dict[str, Any]] = {}

    def workers_started(self, workers: Workers) -> None:
        if workers.dashboard is not None:
            say(f"Dask dashboard of the workers: {workers.dashboard}", err=True)

    def slide_started(self, row: Row) -> Progress:
        return self._bars.slide(row.slide.name)

    def slide_ended(self, row: Row, result: SlideResult | None, error: BaseException | None) -> None:
        self._bars.slide_ended(row.slide.name)
        if isinstance(error, WsiSegError) and row.status != "locked":
            self.errors.append(error)
        if result is not None:
            self._summaries[row.slide.name] = result.summary
        if row.status == "locked":
            if not self._as_json:
                say(f"{row.slide.path}: {SAID['locked']} ({row.reason})")
        elif row.status == "failed":
            say(f"error: {row.reason}", err=True)
            if row.log is not None and row.log.exists():
                say(f"  log: {row.log}", err=True)
        elif row.slide.same_as and not self._as_json:
            say(f"{row.slide.path}: {row.status}, {row.reason}")
        elif result is not None and not self._as_json:
            say(_describe_result(result))
            if not result.kept and result.summary.get("bottleneck"):
                say(f"  {describe(result.summary['bottleneck'])}")

    def as_json(self, row: Row) -> dict[str, Any]:
        plain: dict[str, Any] = {"slide": row.slide.path, "status": row.status}
        if row.reason:
            plain["reason"] = row.reason
        if row.folder is not None:
            plain |= {"folder": str(row.folder), "summary": self._summaries[row.slide.name]}
        return plain


def _describe_all(rows: Sequence[Row], out: str) -> str:
    counts = Counter(row.status for row in rows)
    order = sorted(counts, key=lambda status: (status in SAID, -counts[status]))
    said = ", ".join(f"{counts[status]} {SAID.get(status, status)}" for status in order)
    again = f"; to try the failed ones again: wsi-seg run {out}/{FAILED} …" if counts["failed"] else ""
    return f"{len(rows)} slides: {said}; see {out}/{BATCH}{again}"


def _describe_result(result: SlideResult) -> str:
    note = f" ({result.note})" if result.note else ""
    if result.kept:
        whole = "INCOMPLETE" if result.status == "incomplete" else "whole"
        return f"{result.slide}: skipped, {whole} results are in {result.folder}{note}"
    summary = result.summary
    regions = ", ".join(
        f"{r['count']} {name} regions of {r['area_mm2']:.3f} mm²" for name, r in summary["regions"].items()
    )
    coverage = summary["coverage"]
    said = (("unread_mm2", "cannot be read"), ("other_level_mm2", "were read from another level"))
    parts = [f"{coverage[key]:.3f} mm² {words}" for key, words in said if coverage[key]]
    lost = f"; INCOMPLETE: {', '.join(parts) or result.note}, see manifest.json" if result.note else ""
    rate = summary["tiles_per_second"]
    return (
        f"{result.slide}: {regions}; {summary['tissue_area_mm2']:.3f} mm² of tissue, {summary['tiles']} tiles"
        f"{f' at {rate:.1f}/s' if rate else ''}{lost} → {result.folder}"
    )


def print_plans(tasks: Sequence[SlideTask], as_json: bool) -> int:
    """Print what would be done with each slide; return the exit code."""
    plans: list[SegmentationPlan] = []
    failed = 0
    with ThreadPoolExecutor(1, "plan") as pool:
        for task in tasks:
            if task.slide.same_as:
                say(f"{task.slide.path}: skipped, the same file as {task.slide.same_as}", err=as_json)
                continue
            # As in a batch, what goes wrong with a slide, foreseen or not, is looked at and costs it alone.
            future = pool.submit(_plan, task)
            error = future.exception()
            if error is not None:
                if len(tasks) == 1 or isinstance(error, KeyboardInterrupt):
                    raise error
                foreseen = isinstance(error, WsiSegError)
                say(f"error: {error if foreseen else f'{task.slide.path}: {unforeseen(error)}'}", err=True)
                failed += 1
                continue
            plans.append(future.result())
            if not as_json:
                one = len(tasks) == 1
                text = _describe_plan(plans[-1]) if one else _plan_row(task, plans[-1], len(plans))
                if not say(text):
                    return 0  # nobody reads it
    if as_json:
        say(json.dumps([plan.to_json() for plan in plans], indent=2))
    elif len(tasks) > 1:
        tiles = sum(plan.tiles for plan in plans)
        output = sum(plan.projected_output_bytes for plan in plans)
        say(
            f"{len(plans)} of {len(tasks)} slides can be run: {tiles} tiles, "
            f"at most {output / MIB:.0f} MiB of output"
        )
    return (EXIT_SOME_FAILED if plans else EXIT_NOTHING_DONE) if failed else 0


def _plan(task: SlideTask) -> SegmentationPlan:
    how = task.settings
    refuse(task.slide)
    with open_slide(
        task.slide.path, reader=how.reader, mpp=how.mpp, series=how.series, cache=how.cache
    ) as slide:
        return prepare(slide, task.model, how)[1]


def _plan_row(task: SlideTask, plan: SegmentationPlan, number: int) -> str:
    row = (
        f"{plan.slide.mpp.x if plan.slide.mpp else 0:>7.4f} "
        f"{plan.slide.size.width:>8} {plan.slide.size.height:>8} "
        f"{plan.tiles:>7} {len(plan.blocks):>7} {plan.projected_memory_bytes / MIB:>8.0f} "
        f"{plan.projected_output_bytes / MIB:>8.0f}  {plan.slide.reader:<9}  {task.slide.name}"
    )
    head = "  µm/px    width   height   tiles  blocks      MiB  out MiB  reader     name"
    warnings = [f"          warning: {warning}" for warning in plan.warnings]
    return "\n".join([*([head] if number == 1 else []), row, *warnings])


def _tile_text(grid: Grid) -> str:
    """Describe tiles: of one size with an overlap, or along axes that are not cut as long as the map."""
    if grid.cut:
        return f"{grid.tile} px, overlap {grid.overlap}"
    axes = [name for name, side in zip(("width", "height"), grid.whole, strict=True) if side is not None]
    size = grid.input_size
    cut = f", overlap {grid.overlap}" if len(axes) == 1 else ""
    return f"{size.width} × {size.height} px{cut}, the {' and '.join(axes)} of the map padded by reflection"


def _describe_plan(plan: SegmentationPlan) -> str:
    grid = plan.stitch.grid
    lines = [
        f"{plan.slide.name}",
        f"  slide     {plan.slide.size.width} × {plan.slide.size.height} px, {plan.slide.reader}, "
        f"{plan.slide.vendor}, mpp from {plan.slide.mpp_source}",
        f"  map       {plan.frame.size.width} × {plan.frame.size.height} px at {plan.frame.mpp:g} µm/px, "
        f"from level {plan.level}",
        f"  model     {plan.model} on {plan.device}, {plan.precision}"
        f"{', test-time augmentation: eight views of each tile' if plan.tta else ''}",
        f"  tiles     {plan.tiles} of {_tile_text(grid)}, blend {plan.stitch.blend}, batch {plan.batch}",
        f"  blocks    {len(plan.blocks)} with tissue of {plan.blocks_in_map}, {plan.layout.block} px a side, "
        f"{plan.threads} in flight",
        f"  memory    at most {plan.projected_memory_bytes / MIB:.0f} MiB"
        f"{f', of {plan.max_memory_bytes / MIB:.0f} allowed' if plan.max_memory_bytes else ''}",
        f"  output    at most {plan.projected_output_bytes / MIB:.0f} MiB before compression"
        f"{', with uncertainty' if plan.layout.uncertainty else ''}",
        *(f"  warning   {warning}" for warning in plan.warnings),
    ]
    return "\n".join(lines)
