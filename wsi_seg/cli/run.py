"""`wsi-seg run`: the main job on one slide or many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_seg.cli.options import (
    ClassesOption,
    ConfigOption,
    GroupsOption,
    IgnoredClassesOption,
    JsonOption,
    MppOption,
    SeriesOption,
    SetOption,
    ThresholdOption,
    VerboseOption,
    names,
    parse_settings,
    set_up_logging,
)
from wsi_seg.cli.output import say
from wsi_seg.core.allocator import keep_freed_memory
from wsi_seg.core.errors import ModelError, UsageError

if TYPE_CHECKING:
    from wsi_seg.execution.settings import WorkerSettings
    from wsi_seg.pipeline.batch import SlideTask
    from wsi_seg.pipeline.config import RunConfig
    from wsi_seg.pipeline.inputs import SlideInput

# Settings of the whole run, which a table cannot give slide by slide.
OF_THE_RUN = (
    "scheduler", "workers", "threads", "gpus", "cluster", "max_memory", "device", "cache", "cache_size",
    "staging",
)  # fmt: skip


def run(
    slides: Annotated[
        list[str],
        typer.Argument(
            help="Slide files, folders of slides, patterns such as 'scans/*.svs', URLs, or a CSV table with "
            "a column slide and, where wanted, name, mpp, tissue and any other setting; its paths start in "
            "its folder, and columns called note:… are kept."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the results, or its URL.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Bundled name, folder, hf://owner/name, or .pth with a card."),
    ] = None,
    config: ConfigOption = None,
    mpp: MppOption = None,
    series: SeriesOption = None,
    tissue: Annotated[
        str | None, typer.Option(help="otsu, none, or a QuPath GeoJSON of the regions to analyze.")
    ] = None,
    ignored_classes: IgnoredClassesOption = None,
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
    workers: Annotated[
        int | None, typer.Option("--workers", "-w", help="Worker processes; on SLURM, workers to ask for.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Blocks in flight in each process.")] = None,
    gpus: Annotated[
        str | None,
        typer.Option(metavar="all|0,1", help="GPUs of this machine, each with a worker process or more."),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Memory to stay below, such as 2GB or 1500MB.")
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="threads, synchronous, slurm, or tcp://host:port of a Dask scheduler."),
    ] = None,
    cluster: Annotated[
        Path | None, typer.Option(help="YAML file of a SLURM cluster, as configs/slurm.yaml.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail a slide of which any part cannot be read.")
    ] = False,
    cache: Annotated[
        str | None, typer.Option(metavar="DIR", help="Fetch slides behind URLs whole, and keep them here.")
    ] = None,
    cache_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most that --cache may take, such as 50GB.")
    ] = None,
    staging: Annotated[
        str | None, typer.Option(metavar="DIR", help="Local folder where results for a URL are built.")
    ] = None,
    set_: SetOption = None,
    allow_upsampling: Annotated[
        bool, typer.Option("--allow-upsampling", help="Accept slides much coarser than the model.")
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace results of the same slide with other settings, models or versions."
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Compare all bytes of a slide with its results' record before skipping."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan; write nothing.")] = False,
    json_: JsonOption = False,
    verbose: VerboseOption = False,
) -> int:
    """Segment slides into OUTPUT/<slide name>/ (maps.zarr, polygons.geojson, overview.png, summary.json).

    Run it again after an interruption and it goes on where it stopped; what is whole is skipped. With several
    slides OUTPUT/batch.csv says what became of each, and OUTPUT/failed.csv can be given as SLIDES again.
    Exit codes: 0 all done, 1 nothing done, 2 wrong usage, 3 some slides failed or are not whole, 130
    interrupted.
    """
    keep_freed_memory()
    from wsi_seg.cli.batch import print_plans, run_tasks
    from wsi_seg.pipeline.config import RunConfig, read_run_config
    from wsi_seg.pipeline.inputs import find_slides

    set_up_logging(verbose)
    flags: dict[str, Any] = {
        "model": model, "mpp": mpp, "series": series, "tissue": tissue,
        "ignored_classes": names(ignored_classes), "groups": names(groups), "classes": names(classes),
        "threshold": threshold, "device": device, "precision": precision, "workers": workers,
        "threads": threads, "gpus": _gpus(gpus), "scheduler": scheduler, "cluster": cluster,
        "max_memory": max_memory, "strict": strict or None, "allow_upsampling": allow_upsampling or None,
        "cache": cache, "cache_size": cache_size, "staging": staging,
        "tta": tta or None, "uncertainty": uncertainty or None, **parse_settings(set_),
    }  # fmt: skip
    resolved = read_run_config(config, flags)
    inputs = find_slides(slides, RunConfig.model_fields)
    tasks, where = _tasks(inputs, resolved, overwrite, verify)
    if dry_run:
        return print_plans(tasks, json_)
    for card in dict.fromkeys(task.model.facts.card.name for task in tasks):
        facts = next(t.model.facts.card for t in tasks if t.model.facts.card.name == card)
        if facts.notice or facts.held_out:
            say(f"{card}: {'; '.join(filter(None, (facts.notice, facts.held_out)))}", err=True)
    one = len(slides) == len(tasks) == 1 and not tasks[0].slide.settings
    return run_tasks(tasks, output, where, as_json=json_, keep_table=not one)


def _gpus(text: str | None) -> str | list[str] | None:
    return text if text in (None, "all") else names(text)


def _tasks(
    inputs: list[SlideInput], config: RunConfig, overwrite: bool, verify: bool
) -> tuple[list[SlideTask], WorkerSettings]:
    """Return what to do with each slide, and where; each model is looked up once."""
    from wsi_seg.execution.workers import check_gpus
    from wsi_seg.pipeline.batch import SlideTask
    from wsi_seg.pipeline.run import Model, cuda_devices, load_model

    gpus = cuda_devices() if config.gpus else ()
    where = config.worker_settings(gpus)
    check_gpus(where.gpus, gpus)
    models: dict[tuple[object, ...], Model] = {}
    tasks = []
    for slide in inputs:
        own = _with_own_settings(config, slide)
        key = (own.model, own.device, own.precision, own.tta)
        settings = own.run_settings(overwrite, gpus, verify=verify)
        try:
            if key not in models:
                models[key] = load_model(own.model, own.device, own.precision, tta=own.tta, workers=where)
            settings.regions.resolve(models[key].facts.card)
        except (UsageError, ModelError) as error:
            raise type(error)(f"{slide.where}: {error}" if slide.settings else str(error)) from error
        tasks.append(SlideTask(slide, models[key], settings))
    return tasks, where


def _with_own_settings(config: RunConfig, slide: SlideInput) -> RunConfig:
    """Return the settings of one slide: what a table says of it alone wins over flags."""
    from wsi_seg.core.yaml_config import validated

    if not slide.settings:
        return config
    for key in OF_THE_RUN:
        if key in slide.settings:
            raise UsageError(
                f"{slide.where}: {key} holds for the whole run; give it as --{key.replace('_', '-')}"
            )
    return validated(type(config), {**config.model_dump(), **slide.settings}, slide.where)
