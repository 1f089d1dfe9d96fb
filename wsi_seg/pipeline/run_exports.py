"""Formats that a run writes besides its own files: as tasks of its graph, or added to results that are kept.

They lie in RESULTS/exports/<format>/<slide><ending> and count positions from where each format's programs do.
The manifest lists them first and they are written then, so that all that is there is known to be ours.
"""

from __future__ import annotations

import uuid
from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import ClassVar

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import ClaimedError, FormatLimitError, UsageError
from wsi_seg.core.files import writing
from wsi_seg.execution.graph import TaskSet, Workers
from wsi_seg.execution.tasks import run_task
from wsi_seg.execution.workers import open_workers
from wsi_seg.exporters.source import ExportSource
from wsi_seg.exporters.table import FormatChoice, choose_format
from wsi_seg.maps.maps import Maps
from wsi_seg.maps.resampling import check_picture_mpp
from wsi_seg.pipeline.export import export_source
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.regions.block_contours import TracedBlocks
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.results.claims import claimed
from wsi_seg.results.files import EXPORTS, MAPS, short_name
from wsi_seg.results.folder import ResultsFolder
from wsi_seg.slides.slide import MapFrame, SlideInfo


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """Outcome of an `ExportTask`."""

    path: str
    """Below the folder of the results, with `/`."""
    left_out: str
    """The format, and why it cannot hold these results; "" where it does."""


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
    blocks: TracedBlocks | None
    """That hold the contours of the regions, where the run that leaves them is not at its end."""
    stage: ClassVar = "exports"

    @property
    def maps_path(self) -> str:
        """Store of the maps."""
        return str(Path(self.results) / MAPS)

    def run(self) -> ExportRecord:
        """Write the format.

        Raises:
            Interrupted: the run is cancelled, see `cancellable`.
            WsiSegError: as the format says.
        """
        form, path = self.choice.form, Path(self.results) / self.path
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        regions = replace(self.regions, origin=form.origin)
        maps = Maps.open(Path(self.maps_path))
        source = ExportSource(self.slide, self.frame, self.card, maps, regions, self.choice.mpp, self.blocks)
        try:
            form.load()(source, path)
        except FormatLimitError as error:
            return ExportRecord(self.path, f"no {self.choice.text}: {str(error).removeprefix(f'{path}: ')}")
        return ExportRecord(self.path, "")


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


def export_tasks(
    choices: Mapping[str, FormatChoice],
    slide: SlideInfo,
    frame: MapFrame,
    card: ModelCard,
    regions: RegionSettings,
    results: Path,
    maps: Sequence[str] = (),
    blocks: TracedBlocks | None = None,
) -> tuple[list[tuple[str, ExportTask]], dict[str, list[str]]]:
    """Return the tasks that write formats, with their keys, and what each waits for.

    They come one after another, as each takes memory of its own. A format that cannot hold the results of
    this slide is left out: they are whole without it.

    Args:
        choices: from `export_paths`.
        slide: of the results.
        frame: of the results.
        card: of the model.
        regions: to write.
        results: their folder.
        maps: keys of the tasks that make the maps.
        blocks: that hold the contours of the regions by then.
    """
    place = str(results.absolute())
    tasks = [
        (
            f"export-{choice.name}-{uuid.uuid4().hex}",
            ExportTask(choice, place, path, slide, frame, card, regions, blocks),
        )
        for path, choice in choices.items()
    ]
    keys = [key for key, _ in tasks]
    return tasks, {key: [before] for before, key in pairwise(keys)} | {key: [*maps] for key in keys[:1]}


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
        removed = _remove_unfinished(folder)
        return "; ".join(filter(None, (*folder.left_out(choices), removed)))
    with claimed(folder.claim), ExitStack() as stack:
        missing = {path: choices[path] for path in folder.lacking(choices)}  # others may have added some
        source = export_source(folder.final, settings.regions)
        check_exports(missing.values(), source.slide, source.frame.mpp)
        removed = _remove_begun(folder, missing)
        folder.add_files(list(missing))
        workers = workers or stack.enter_context(open_workers(settings.workers))
        records: list[ExportRecord] = []
        of = (source.slide, source.frame, source.card, source.settings)
        tasks, after = export_tasks(missing, *of, folder.final)
        workers.execute(TaskSet(run_task, tasks, lambda done: records.append(done.record), after))
        left_out = {record.path: record.left_out for record in records if record.left_out}
        if left_out:
            folder.leave_out(left_out)
    added = ", ".join(choice.text for path, choice in missing.items() if path not in left_out)
    return "; ".join(filter(None, (f"added {added}" if added else "", *folder.left_out(choices), removed)))


def _remove_unfinished(folder: ResultsFolder) -> str:
    """Do `_remove_begun`, unless there is nothing to remove or another run is at work on these results."""
    if not folder.unfinished():
        return ""
    try:
        with claimed(folder.claim):
            return _remove_begun(folder)
    except ClaimedError:
        return ""


def _remove_begun(folder: ResultsFolder, written_now: Container[str] = ()) -> str:
    """Remove what a killed run has begun to add; return a note on what is not written again now."""
    names = folder.unfinished()
    if names:
        folder.remove_unfinished(names)
    gone = ", ".join(name for name in names if name not in written_now)
    return f"no longer listed, as it is missing (interrupted or removed): {gone}" if gone else ""
