"""`wsi-seg run`: the main job on one slide or many, and what it prints of plans and results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_seg.cli.options import (
    ConfigOption,
    JsonOption,
    SetOption,
    VerboseOption,
    given_settings,
    parse_settings,
    set_up_logging,
    takes_settings,
)
from wsi_seg.cli.output import say
from wsi_seg.core.allocator import keep_freed_memory
from wsi_seg.core.errors import ModelError, UsageError, WsiSegError

if TYPE_CHECKING:
    from wsi_seg.cli.progress import BatchBars
    from wsi_seg.execution.graph import Workers
    from wsi_seg.execution.settings import WorkerSettings
    from wsi_seg.inference.settings import ModelSettings
    from wsi_seg.pipeline.batch import SlideTask
    from wsi_seg.pipeline.batch_table import Row
    from wsi_seg.pipeline.inputs import SlideInput
    from wsi_seg.pipeline.models import Model
    from wsi_seg.pipeline.result import Result
    from wsi_seg.pipeline.run import Progress
    from wsi_seg.pipeline.settings import RunSettings
    from wsi_seg.pipeline.shares import Share
    from wsi_seg.planning.grid import Grid
    from wsi_seg.planning.plan import SegmentationPlan

EXIT_NOTHING_DONE = 1
EXIT_SOME_FAILED = 3
MIB = 2**20
# What the table calls otherwise than people do.
SAID = {"locked": "locked by another run, skipped"}


@takes_settings()
def run(
    context: typer.Context,
    slides: Annotated[
        list[str],
        typer.Argument(
            help="Slide files, folders of slides, patterns such as 'scans/*.svs', URLs, or a CSV table with "
            "a column slide and, where wanted, name, mpp, tissue and any other setting; its paths start in "
            "its folder, and columns called note:… are kept."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the results, or its URL.")],
    config: ConfigOption = None,
    set_: SetOption = None,
    array: Annotated[
        str | None,
        typer.Option(
            metavar="N/M",
            help="Run the N-th of M shares of the slides, N from 1, as a task of a job array; "
            "`wsi-seg merge OUTPUT` makes the tables of all one.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")] = False,
    json_: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Segment slides into OUTPUT/<slide name>/ (maps.zarr, polygons.geojson, overview.png, summary.json).

    Run it again after an interruption and it resumes where it stopped; complete results are skipped. With
    several slides OUTPUT/batch.csv has the outcome of each, and OUTPUT/failed.csv can be given as SLIDES
    again. Exit codes: 0 all done, 1 nothing done, 2 wrong usage, 3 some slides failed or are incomplete,
    130 interrupted.
    """
    keep_freed_memory()
    from wsi_seg.pipeline.batch import facts_of_models
    from wsi_seg.pipeline.inputs import find_slides
    from wsi_seg.pipeline.settings import KEYS, make_settings, read_values
    from wsi_seg.pipeline.shares import Share

    set_up_logging(verbose)
    given = given_settings(context)
    flags = {name: given.pop(name) for name in KEYS if name in given}
    values = read_values(config, {**flags, **parse_settings(set_)})
    settings = replace(make_settings(values, config), **given)  # what is left are flags alone
    found = find_slides(slides, KEYS)
    share = Share.parse(array, output) if array is not None else None
    tasks, where = _tasks(share.take(found) if share else found, values, settings)
    for warning in _unassessed(tasks):
        say(f"warning: {warning}", err=True)
    if dry_run:
        return print_plans(tasks, json_)
    for card in {task.model.facts.card.name: task.model.facts.card for task in tasks}.values():
        if card.notice or card.held_out:
            say(f"{card.name}: {'; '.join(filter(None, (card.notice, card.held_out)))}", err=True)
    if share is not None:
        share.begin(Path(output), found, facts_of_models(tasks))
        if not tasks:
            say("[]" if json_ else f"share {share}: no slides, there are {len(found)} in all")
            return 0
    one = len(slides) == len(tasks) == 1 and not tasks[0].slide.settings
    return run_tasks(tasks, output, where, as_json=json_, keep_table=not one, share=share)


def _tasks(
    inputs: Sequence[SlideInput], values: Mapping[str, Any], settings: RunSettings
) -> tuple[list[SlideTask], WorkerSettings]:
    """Return what to do with each slide, and where; each model is looked up once.

    `values` are the settings as given, for slides of which a table says more.
    """
    from wsi_seg.execution.workers import check_gpus
    from wsi_seg.pipeline.batch import SlideTask
    from wsi_seg.pipeline.finders import load_finders
    from wsi_seg.pipeline.gpu_workers import share_gpus
    from wsi_seg.pipeline.models import cuda_devices, load_model

    gpus = cuda_devices() if settings.workers.gpus else ()
    where = settings.for_workers(gpus).workers
    check_gpus(where.devices, gpus)
    models: dict[ModelSettings, Model] = {}
    finders: set[tuple[str, str | None]] = set()
    chosen = []
    for slide in inputs:
        own = _with_own_settings(settings, values, slide)
        asked = own.model
        try:
            if asked not in models:
                models[asked] = load_model(**asdict(asked), workers=where)
            own.traced(models[asked].facts.card)
            if (own.tissue, own.qc) not in finders:
                load_finders(own)  # what is wrong with them is said before any slide is run
                finders.add((own.tissue, own.qc))
        except (UsageError, ModelError) as error:
            raise type(error)(f"{slide.where}: {error}" if slide.settings else str(error)) from error
        chosen.append((slide, models[asked], own))
    if where.devices and models:
        settings = replace(settings, workers=share_gpus(settings, models, where.devices))
        if settings.workers.reason:
            say(f"workers: {settings.workers.count}; {settings.workers.reason}", err=True)
    tasks = [
        SlideTask(slide, model, replace(own, workers=settings.workers).for_workers(gpus))
        for slide, model, own in chosen
    ]
    return tasks, settings.for_workers(gpus).workers


def _unassessed(tasks: Sequence[SlideTask]) -> list[str]:
    """Return a line for each model and choice of classes that has one which the model does not assess."""
    from wsi_seg.core.assessed import unassessed_warning

    cards = ((task.model.facts.card, task.settings.regions.resolve(task.model.facts.card)) for task in tasks)
    return list(dict.fromkeys(filter(None, (unassessed_warning(card, groups) for card, groups in cards))))


def _with_own_settings(settings: RunSettings, values: Mapping[str, Any], slide: SlideInput) -> RunSettings:
    """Return the settings of one slide: those in its row of a table win over flags."""
    from wsi_seg.pipeline.settings import KEYS, make_settings

    if not slide.settings:
        return settings
    for declared in KEYS.values():
        if declared.scope == "run" and declared.name in slide.settings:
            raise UsageError(
                f"{slide.where}: {declared.name} holds for the whole run; give it as {declared.flag}"
            )
    own = make_settings({**values, **slide.settings}, slide.where)
    return replace(own, overwrite=settings.overwrite, verify=settings.verify)


def run_tasks(
    tasks: Sequence[SlideTask],
    out: str,
    workers: WorkerSettings,
    *,
    as_json: bool,
    keep_table: bool,
    share: Share | None = None,
) -> int:
    """Run slides and print their outcome; return the exit code."""
    from wsi_seg.cli.progress import BatchBars
    from wsi_seg.pipeline.batch import Batch

    with BatchBars(len(tasks)) as bars:
        printing = _Printing(bars, as_json)
        batch = Batch(tasks, out, workers, keep_table=keep_table, share=share)
        rows = batch.run(printing)
    if as_json:
        say(json.dumps([printing.as_json(row) for row in rows], indent=2))
    elif len(rows) > 1:
        say(describe_all([row.status for row in rows], out, share))
    code = exit_code([row.status for row in rows])
    one = code == EXIT_NOTHING_DONE and len(rows) == len(printing.errors) == 1
    return printing.errors[0].exit_code if one else code


def exit_code(statuses: Sequence[str]) -> int:
    """Return the exit code of a batch whose slides ended with these statuses."""
    if all(status in ("done", "skipped", "locked") for status in statuses):
        return 0
    some = any(status in ("done", "skipped", "incomplete") for status in statuses)
    return EXIT_SOME_FAILED if some else EXIT_NOTHING_DONE


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

    def slide_ended(self, row: Row, result: Result | None, error: BaseException | None) -> None:
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
                from wsi_seg.results.bottleneck import describe

                say(f"  {describe(result.summary['bottleneck'])}")

    def as_json(self, row: Row) -> dict[str, Any]:
        plain: dict[str, Any] = {"slide": row.slide.path, "status": row.status}
        if row.reason:
            plain["reason"] = row.reason
        if row.folder is not None:
            plain |= {"folder": str(row.folder), "summary": self._summaries[row.slide.name]}
        return plain


def describe_all(statuses: Sequence[str], out: str, share: Share | None = None) -> str:
    """Return a line on the statuses of the slides of a batch, and where its tables are."""
    from wsi_seg.results.files import BATCH, FAILED

    counts = Counter(statuses)
    out = f"{out}/{share.folder}" if share else out
    order = sorted(counts, key=lambda status: (status in SAID, -counts[status]))
    said = ", ".join(f"{counts[status]} {SAID.get(status, status)}" for status in order)
    again = f"; to try the failed ones again: wsi-seg run {out}/{FAILED} …" if counts["failed"] else ""
    return f"{len(statuses)} slides: {said}; see {out}/{BATCH}{again}"


def _describe_result(result: Result) -> str:
    from wsi_seg.results.files import unlike_notice

    note, summary = f" ({result.note})" if result.note else "", result.summary
    marked = unlike_notice(summary)
    unlike = f"\n  WARNING: {marked}" if marked else ""
    if result.kept:
        whole = "INCOMPLETE" if result.status == "incomplete" else "whole"
        return f"{result.slide_path}: skipped, {whole} results are in {result.folder}{note}{unlike}"
    regions = ", ".join(
        f"{r['count']} {name} regions of {r['area_mm2']:.3f} mm²"
        if r.get("assessed", True)
        else f"{name} not assessed"
        for name, r in summary["regions"].items()
    )
    qc = summary["artifacts"]
    left_out = "left out" if qc and qc["excluded"] else "marked"
    artifacts = f", {sum(qc['area_mm2'].values()):.3f} mm² of artifacts {left_out}" if qc else ""
    coverage = summary["coverage"]
    said = (("unread_mm2", "cannot be read"), ("other_level_mm2", "were read from another level"))
    parts = [f"{coverage[key]:.3f} mm² {words}" for key, words in said if coverage[key]]
    if result.status == "incomplete":
        lost = f"; INCOMPLETE: {', '.join(parts) or result.note}, see manifest.json"
    else:
        lost = f"; {result.note}" if result.note else ""
    rate = summary["tiles_per_second"]
    return (
        f"{result.slide_path}: {regions}; {summary['tissue_area_mm2']:.3f} mm² of tissue{artifacts}, "
        f"{summary['tiles']} tiles"
        f"{f' at {rate:.1f}/s' if rate else ''}{lost} → {result.folder}{unlike}"
    )


def print_plans(tasks: Sequence[SlideTask], as_json: bool) -> int:
    """Print what would be done with each slide; return the exit code."""
    from wsi_seg.pipeline.batch import unforeseen

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
    from wsi_seg.pipeline.batch import refuse
    from wsi_seg.pipeline.run import prepare

    refuse(task.slide)
    with task.settings.open_slide(task.slide.path) as slide:
        return prepare(slide, task.model, task.settings)[1]


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
        f"  tissue    {plan.tissue_source}",
        *([f"  artifacts {plan.artifacts_source}"] if plan.artifacts_source else []),
        f"  blocks    {len(plan.blocks)} with tissue of {plan.blocks_in_map}, {plan.layout.block} px a side, "
        f"{plan.threads} in flight",
        f"  memory    at most {plan.projected_memory_bytes / MIB:.0f} MiB"
        f"{f', of {plan.max_memory_bytes / MIB:.0f} allowed' if plan.max_memory_bytes else ''}",
        f"  output    at most {plan.projected_output_bytes / MIB:.0f} MiB before compression"
        f"{', with uncertainty' if plan.layout.uncertainty else ''}",
        *(f"  warning   {warning}" for warning in plan.warnings),
    ]
    return "\n".join(lines)
