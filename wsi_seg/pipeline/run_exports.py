"""Formats that a run writes besides its own files: as tasks at its end, or added to results that are kept.

They lie in RESULTS/exports/<format>/<slide><ending> and count positions from where each format's programs do.
The manifest lists them first and they are written then, so that all that is there is known to be ours.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import FormatLimitError, UsageError
from wsi_seg.core.files import writing
from wsi_seg.execution.graph import Workers
from wsi_seg.execution.workers import open_workers
from wsi_seg.exporters.source import ExportSource
from wsi_seg.exporters.table import FormatChoice, choose_format
from wsi_seg.maps.maps import Maps
from wsi_seg.maps.resampling import check_picture_mpp
from wsi_seg.pipeline.export import export_source
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.results.claims import claimed
from wsi_seg.results.files import EXPORTS, MAPS, short_name
from wsi_seg.results.folder import ResultsFolder
from wsi_seg.slides.slide import MapFrame, SlideInfo


@dataclass(frozen=True, slots=True)
class ExportTask:
    """All that a worker needs to write one format."""

    choice: FormatChoice
    results: str
    """Folder of the results, absolute."""
    path: str
    """Below that folder, with `/`."""
    slide: SlideInfo
    frame: MapFrame
    card: ModelCard
    regions: RegionSettings


def export_maps(task: ExportTask) -> str:
    """Write one format, and return "", or the reason why it cannot hold these results.

    Raises:
        Interrupted: the run is cancelled, see `cancellable`.
        WsiSegError: as the format says.
    """
    form, results = task.choice.form, Path(task.results)
    path = results / task.path
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    regions = replace(task.regions, origin=form.origin)
    maps = Maps.open(results / MAPS)
    source = ExportSource(task.slide, task.frame, task.card, maps, regions, task.choice.mpp)
    try:
        form.load()(source, path)
    except FormatLimitError as error:
        return str(error).removeprefix(f"{path}: ")
    return ""


def export_paths(settings: RunSettings, name: str) -> dict[str, FormatChoice]:
    """Return the formats of a run by where they lie in the results folder of this name, as paths with `/`."""
    slide = short_name(PurePosixPath(name).name)
    choices = (choose_format(text) for text in settings.formats)
    return {f"{EXPORTS}/{choice.path(slide)}": choice for choice in choices}


def check_exports(choices: Iterable[FormatChoice], slide: SlideInfo, map_mpp: float) -> None:
    """Refuse a resolution that there is no picture of, before anything is written.

    Raises:
        UsageError: it is finer than the slide, or coarser than all of it.
    """
    for choice in choices:
        if choice.mpp is not None:
            try:
                check_picture_mpp(slide, map_mpp, choice.mpp)
            except UsageError as error:
                raise UsageError(f"{slide.path}: format {choice.text}: {error}") from error


def write_exports(
    workers: Workers, choices: Mapping[str, FormatChoice], source: ExportSource, results: Path
) -> dict[str, str]:
    """Write formats one after another, as each takes memory of its own.

    A format that cannot hold the results of this slide is left out: they are whole without it.

    Args:
        workers: that write them.
        choices: from `export_paths`.
        source: the results; its maps are opened again where they are read.
        results: their folder.

    Returns:
        What is left out, by path: its format and the reason.

    Raises:
        Interrupted: the run is cancelled.
        WsiSegError: as the format says.
    """
    place, left_out = str(results.absolute()), dict[str, str]()
    for path, choice in choices.items():
        task = ExportTask(choice, place, path, source.slide, source.frame, source.card, source.settings)
        reason = workers.call(export_maps, f"export-{choice.name}-{uuid.uuid4().hex}", task)
        if reason:
            left_out[path] = f"no {choice.text}: {reason}"
    return left_out


def add_exports(folder: ResultsFolder, settings: RunSettings, workers: Workers | None) -> str:
    """Write the formats that kept results lack, and return a note on what was added and left out.

    Args:
        folder: of whole results.
        settings: of the run that keeps them.
        workers: that write them; None: started for this, as the settings say.

    Raises:
        ClaimedError: another run is at work on these results.
        OutputError: the results are behind a URL, or cannot be written.
        UsageError: a resolution does not fit the slide.
        WsiSegError: as the format says.
    """
    choices = export_paths(settings, folder.name)
    if not folder.lacking(choices):
        return ""
    with claimed(folder.claim), ExitStack() as stack:
        missing = {path: choices[path] for path in folder.lacking(choices)}  # others may have added some
        source = export_source(folder.final, settings.regions)
        check_exports(missing.values(), source.slide, source.frame.mpp)
        folder.add_files(list(missing))
        workers = workers or stack.enter_context(open_workers(settings.workers))
        left_out = write_exports(workers, missing, source, folder.final)
        if left_out:
            folder.forget_files(list(left_out))
    added = ", ".join(choice.text for path, choice in missing.items() if path not in left_out)
    return "; ".join(filter(None, (f"added {added}" if added else "", *left_out.values())))
