"""`wsi-seg run`: the main job on one or more slides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_seg.cli.allocator import keep_freed_memory
from wsi_seg.cli.imports import quick_imports
from wsi_seg.cli.options import (
    ClassesOption,
    ConfigOption,
    GroupsOption,
    JsonOption,
    MppOption,
    SetOption,
    ThresholdOption,
    VerboseOption,
    names,
    parse_settings,
    set_up_logging,
)
from wsi_seg.errors import Interrupted, WsiSegError

if TYPE_CHECKING:
    from wsi_seg.plan import SegmentationPlan
    from wsi_seg.run import Model, SlideResult
    from wsi_seg.settings import RunSettings

EXIT_NOTHING_DONE = 1
EXIT_SOME_FAILED = 3


def run(
    slides: Annotated[list[str], typer.Argument(help="Slide files, folders of a DICOM series, or URLs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Bundled name, folder, hf://owner/name, or .pth with a card."),
    ] = None,
    config: ConfigOption = None,
    mpp: MppOption = None,
    tissue: Annotated[
        str | None, typer.Option(help="otsu, none, or a QuPath GeoJSON of the regions to analyse.")
    ] = None,
    groups: GroupsOption = None,
    classes: ClassesOption = None,
    threshold: ThresholdOption = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, openvino, cuda, cuda:1, …")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, float32, bf16, or fp16 (GPU).")] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Average the predictions of the eight flips and turns of a tile.")
    ] = False,
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Store the entropy of the probabilities as a channel.")
    ] = False,
    workers: Annotated[int | None, typer.Option("--workers", "-w", help="Blocks in flight.")] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory to stay below, such as 2GB or 1500MB.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="threads, synchronous, or tcp://host:port of a Dask scheduler.")
    ] = None,
    set_: SetOption = None,
    allow_upsampling: Annotated[
        bool, typer.Option("--allow-upsampling", help="Accept slides much coarser than the model.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results of other settings, slides or models.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")] = False,
    json_: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Segment slides into OUTPUT/<slide name>/ (maps.zarr, polygons.geojson, overview.png, summary.json).

    Run it again after an interruption and it goes on where it stopped; what is whole is skipped.
    Exit codes: 0 all done, 1 nothing done, 2 wrong usage, 3 some slides failed, 130 interrupted.
    """
    keep_freed_memory()
    with quick_imports():
        from wsi_seg.config import read_run_config
        from wsi_seg.run import load_model

    set_up_logging(verbose)
    flags: dict[str, Any] = {
        "model": model, "mpp": mpp, "tissue": tissue, "groups": names(groups), "classes": names(classes),
        "threshold": threshold, "device": device, "precision": precision, "workers": workers,
        "scheduler": scheduler, "max_memory": max_memory, "allow_upsampling": allow_upsampling or None,
        "tta": tta or None, "uncertainty": uncertainty or None, **parse_settings(set_),
    }  # fmt: skip
    resolved = read_run_config(config, flags)
    with quick_imports():  # of PyTorch
        chosen = load_model(resolved.model, resolved.device, resolved.precision, tta=resolved.tta)
    settings = resolved.run_settings(overwrite)
    settings.regions.resolve(chosen.facts.card)
    if dry_run:
        return _print_plans(slides, chosen, settings, json_)
    card = chosen.facts.card
    if card.notice or card.held_out:
        typer.echo(f"{card.name}: {'; '.join(filter(None, (card.notice, card.held_out)))}", err=True)
    return _run_all(slides, output, chosen, settings, json_)


def _print_plans(slides: Sequence[str], model: Model, settings: RunSettings, as_json: bool) -> int:
    from wsi_seg.readers import open_slide
    from wsi_seg.run import prepare

    plans = []
    for path in slides:
        with open_slide(path, reader=settings.reader, mpp=settings.mpp) as slide:
            plans.append(prepare(slide, model, settings)[1])
    if as_json:
        typer.echo(json.dumps([plan.to_json() for plan in plans], indent=2))
    else:
        for plan in plans:
            typer.echo(_describe_plan(plan))
    return 0


def _describe_plan(plan: SegmentationPlan) -> str:
    mib = 2**20
    grid = plan.stitch.grid
    lines = [
        f"{plan.slide.name}",
        f"  slide     {plan.slide.size.width} × {plan.slide.size.height} px, {plan.slide.reader}, "
        f"{plan.slide.vendor}, mpp from {plan.slide.mpp_source}",
        f"  map       {plan.frame.size.width} × {plan.frame.size.height} px at {plan.frame.mpp:g} µm/px, "
        f"from level {plan.level}",
        f"  model     {plan.model} on {plan.device}, {plan.precision}"
        f"{', test-time augmentation: eight views of each tile' if plan.tta else ''}",
        f"  tiles     {plan.tiles} of {grid.tile} px, overlap {grid.overlap}, blend {plan.stitch.blend}, "
        f"batch {plan.batch}",
        f"  blocks    {len(plan.blocks)} with tissue of {plan.blocks_in_map}, {plan.layout.block} px a side, "
        f"{plan.workers} in flight",
        f"  memory    at most {plan.projected_memory_bytes / mib:.0f} MiB"
        f"{f', of {plan.max_memory_bytes / mib:.0f} allowed' if plan.max_memory_bytes else ''}",
        f"  output    at most {plan.projected_output_bytes / mib:.0f} MiB before compression"
        f"{', with uncertainty' if plan.layout.uncertainty else ''}",
        *(f"  warning   {warning}" for warning in plan.warnings),
    ]
    return "\n".join(lines)


def _run_all(slides: Sequence[str], output: Path, model: Model, settings: RunSettings, as_json: bool) -> int:
    from wsi_seg.bottleneck import describe
    from wsi_seg.cli.progress import BarProgress
    from wsi_seg.run import segment_slide

    results: list[SlideResult] = []
    failures: list[tuple[str, WsiSegError]] = []
    for path in slides:
        try:
            with BarProgress(Path(path).name) as progress:
                results.append(segment_slide(path, output, model, settings, progress))
        except Interrupted:
            raise
        except WsiSegError as error:
            typer.echo(f"error: {error}", err=True)
            failures.append((path, error))
        else:
            if not as_json:
                typer.echo(_describe_result(results[-1]))
                if results[-1].status != "skipped":
                    typer.echo(f"  {describe(results[-1].summary['bottleneck'])}")
    if as_json:
        typer.echo(json.dumps(_as_json(results, failures), indent=2, ensure_ascii=False))
    if not results:
        return failures[0][1].exit_code if len(failures) == 1 else EXIT_NOTHING_DONE
    whole = not failures and all(result.status != "incomplete" for result in results)
    return 0 if whole else EXIT_SOME_FAILED


def _as_json(
    results: Sequence[SlideResult], failures: Sequence[tuple[str, WsiSegError]]
) -> list[dict[str, Any]]:
    done = [
        {"slide": r.slide, "status": r.status, "folder": str(r.folder), "summary": r.summary} for r in results
    ]
    return [*done, *({"slide": path, "status": "failed", "reason": str(error)} for path, error in failures)]


def _describe_result(result: SlideResult) -> str:
    if result.status == "skipped":
        return f"{result.slide}: skipped, whole results are in {result.folder}"
    summary = result.summary
    regions = ", ".join(
        f"{r['count']} {name} regions of {r['area_mm2']:.3f} mm²" for name, r in summary["regions"].items()
    )
    failed = (
        f"; {summary['blocks_failed']} blocks FAILED, see manifest.json" if summary["blocks_failed"] else ""
    )
    rate = summary["tiles_per_second"]
    return (
        f"{result.slide}: {regions}; {summary['tissue_area_mm2']:.3f} mm² of tissue, {summary['tiles']} tiles"
        f"{f' at {rate:.1f}/s' if rate else ''}{failed} → {result.folder}"
    )
