"""The main job: one slide in, one results folder out. The whole direction of the package on one page.

slide ──open──▶ plan ──▶ Dask graph: blocks ──▶ OME-Zarr maps ──▶ polygons ──▶ GeoJSON, picture, exports
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.errors import SlideError, WsiSegError
from wsi_seg.core.threads import cancellable, cancellation, raise_if_cancelled
from wsi_seg.execution.graph import Flight, TaskSet, Workers
from wsi_seg.execution.tasks import BlockRecord, Done, SlideTask, killed_task, run_task
from wsi_seg.execution.workers import open_workers
from wsi_seg.exporters.overview import Overview
from wsi_seg.exporters.table import choose_format
from wsi_seg.maps.maps import Maps, create_maps, remove_partial_files
from wsi_seg.pipeline.finders import Finders, load_finders, tissue_of
from wsi_seg.pipeline.models import Model, load_model
from wsi_seg.pipeline.result import Result, faults, status_of
from wsi_seg.pipeline.run_exports import ExportRecord, add_exports, check_exports, export_paths, export_tasks
from wsi_seg.pipeline.run_inputs import RunInputs
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.pipeline.slide_tasks import SlideTasks
from wsi_seg.pipeline.stages import Stages
from wsi_seg.pipeline.summary import FinishedRun, manifest, result_versions, run_key, summarize
from wsi_seg.pipeline.tracing import RegionFile, TracedGroup
from wsi_seg.planning.plan import SegmentationPlan, plan_segmentation
from wsi_seg.results.claims import Claim, claimed
from wsi_seg.results.files import LEFT_OUT, MANIFEST, MAPS, SUMMARY, write_json
from wsi_seg.results.folder import ResultsFolder, results_name
from wsi_seg.results.pages.slide import write_slide_page
from wsi_seg.results.upload import results_folder
from wsi_seg.slides.slide import Slide
from wsi_seg.slides.tolerant import UNREADABLE
from wsi_seg.tissue.mask import TissueMask

if TYPE_CHECKING:
    from wsi_seg.inference.models.own import Network

logger = logging.getLogger(__name__)


class Progress(Protocol):
    """Observer of a run; the command line draws a bar from it.

    Its methods are called in the thread that runs the slide. Any of them may raise `Interrupted` to stop the
    run, which then can be resumed.
    """

    def start(self, plan: SegmentationPlan, tiles_done: int) -> None:
        """Note the plan, and how many of its `tiles` an earlier, interrupted run has done."""

    def block_done(self, record: BlockRecord) -> None:
        """Note a block that has ended, and its `tiles`."""

    def stage(self, name: str) -> None:
        """Note the stage that begins: "plan", or one of `stages.STAGES`."""


def prepare(
    slide: Slide, model: Model, settings: RunSettings, finders: Finders | None = None
) -> tuple[TissueMask, SegmentationPlan]:
    """Find tissue and plan; nothing is written.

    Args:
        slide: an open slide.
        model: from `load_model`.
        settings: of the run.
        finders: networks that look for tissue first; None: those that the settings name.

    Raises:
        UsageError: a format at a resolution that does not fit the slide.
        WsiSegError: as `tissue_of` and `plan_segmentation` say.
    """
    tissue = tissue_of(slide, settings, finders or load_finders(settings))
    plan = plan_segmentation(slide.info, tissue, model.facts, settings.plan)
    check_exports(map(choose_format, settings.formats), plan.slide, plan.frame.mpp)
    return tissue, plan


def segment_slide(
    path: str | Path,
    out: Path | str,
    model: Model | Network | str | None = None,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
    *,
    cancel: threading.Event | None = None,
    name: str | None = None,
    workers: Workers | None = None,
) -> Result:
    """Segment one slide: find tissue, predict, trace regions, and write a folder of results.

    Run again after an interruption, it resumes, and the results have the same bytes as those of a run that
    was not interrupted.

    Args:
        path: slide file, folder of a DICOM series, or URL.
        out: folder, or URL of one, that gets a folder named after the slide.
        model: from `load_model`; or a name, folder or network of your own, which is then loaded as the
            settings say; None: the model that they name.
        settings: see `RunSettings`; None: the defaults.
        progress: notified of what happens.
        cancel: set from any thread, the event stops the run at its next forward pass.
        name: of the results, which may hold folders; by default that of the slide file.
        workers: shared with other slides; None: started for this one, as the settings say.

    Returns:
        The result; `skipped` when whole results of the same slide, model and settings are there.

    Raises:
        Interrupted: `cancel` was set, or Ctrl-C; finished blocks are kept for a next call.
        ClaimedError: another run is at work on these results.
        WsiSegError: one of its subclasses, with one line that says what is wrong and the way out.
    """
    settings = settings or RunSettings()
    with nullcontext() if cancel is None else cancellable(cancel):
        if not isinstance(model, Model):
            how = settings.model
            reference = how.reference if model is None else model
            model = load_model(reference, how.device, how.precision, tta=how.tta, workers=settings.workers)
        return _segment(path, out, model, settings, progress or _Silent(), name, workers)


def _segment(
    path: str | Path,
    out: Path | str,
    model: Model,
    settings: RunSettings,
    progress: Progress,
    name: str | None,
    workers: Workers | None,
) -> Result:
    # The record names what is traced.
    settings = replace(settings, regions=settings.regions.of_model(model.facts.card))
    groups = settings.traced(model.facts.card)
    folder = results_folder(out, name or results_name(path), settings.staging)
    finders = load_finders(settings)
    inputs = RunInputs(path, model.facts, settings, finders.facts)
    unopened = not settings.overwrite and not settings.verify
    note = folder.kept_by_inputs(inputs.key, inputs.versions) if unopened else None
    if note is not None:
        return _skipped(path, folder, settings, note, workers)
    with ExitStack() as stack:
        stack.callback(folder.remove_empty)
        slide = stack.enter_context(settings.open_slide(path))
        run = _SlideRun(slide, folder, model, settings, groups, progress, inputs, finders)
        note = folder.kept(run.expected)
        if note is None:
            folder.check_place()
            claim = stack.enter_context(claimed(folder.claim))
            folder.recover(run.expected, claim.confirm)
            note = folder.kept(run.expected)  # the owner of the claim before may have made them meanwhile
        if note is None:
            workers = workers or stack.enter_context(open_workers(settings.workers))
            summary = run.do_stages(workers, claim)
            notes = "; ".join(filter(None, (faults(summary), *run.left_out.values())))
            return Result(str(path), status_of(summary, "done"), folder.place, summary, note=notes)
    return _skipped(path, folder, settings, note, workers)


def _skipped(
    path: str | Path, folder: ResultsFolder, settings: RunSettings, note: str, workers: Workers | None
) -> Result:
    """Return the result of whole results that are kept; formats that they lack are added to them."""
    summary = folder.read_summary()
    status, why = status_of(summary, "skipped"), faults(summary)
    if settings.strict and status == "incomplete":
        raise SlideError(
            f"{path}: the results in {folder.place} are incomplete, as {why}; "
            "repair the slide, or leave out --strict"
        )
    added = add_exports(folder, settings, workers)
    notes = "; ".join(filter(None, (why, note, added)))
    return Result(str(path), status, folder.place, summary, True, notes)


class _Silent:
    """Progress that nobody watches."""

    def start(self, plan: SegmentationPlan, tiles_done: int) -> None:
        return None

    def block_done(self, record: BlockRecord) -> None:
        return None

    def stage(self, name: str) -> None:
        return None


class _SlideRun:
    """One slide on its way through the stages."""

    def __init__(
        self,
        slide: Slide,
        folder: ResultsFolder,
        model: Model,
        settings: RunSettings,
        groups: tuple[ClassGroup, ...],
        progress: Progress,
        inputs: RunInputs,
        finders: Finders,
    ) -> None:
        self.started, self.versions = datetime.now(UTC), result_versions()
        self.seconds: dict[str, float] = {}
        self.slide, self.model, self.groups = slide, model, groups
        self.progress = progress
        self.folder = folder
        if settings.plan.batch is None and not settings.overwrite:
            # A calibration since then must not make another run of this one.
            settings = replace(settings, plan=replace(settings.plan, batch=self.folder.earlier_batch()))
        self.settings = settings
        with self._timed("plan"):
            self.tissue, self.plan = prepare(slide, model, settings, finders)
        self.inputs, self.finders = inputs, finders
        self.expected = inputs.expected(
            slide.info, lambda versions: run_key(self.plan, groups, settings, versions)
        )
        self.store = self.folder.partial / MAPS
        compared = model.facts.card.domain is not None
        self.tasks = SlideTasks(self.plan, self.store, self.settings.cache, stain=compared)
        self.records: list[BlockRecord] = []
        self.blocks_before = 0
        self.traced: list[TracedGroup] = []
        self.left_out: dict[str, str] = {}
        self.flight = Flight(0, 0)

    def do_stages(self, workers: Workers, claim: Claim) -> dict[str, Any]:
        """Make the results, resuming an interrupted run, and return their summary."""
        before = self.folder.begin(self.plan, self.expected)
        record_hash = partial(self.folder.record_content, self.expected)
        try:
            with self.inputs.hashing(self.folder.known_hash(), record_hash) as full_hash:
                self.execute(before, workers, claim)
                return self.finish(full_hash, claim)
        except WsiSegError:
            self.folder.discard_if_nothing_done()
            raise

    def execute(self, before: list[BlockRecord], workers: Workers, claim: Claim) -> None:
        """Predict the blocks that an earlier run has not finished, and make all else of the maps."""
        done = [record for record in before if record.written]
        if self.store.exists():
            remove_partial_files(self.store)
        else:
            create_maps(self.store, self.plan.layout)
        self._mark(before, fault=0)  # those that failed are tried again
        self.records = list(done)
        self.blocks_before = len(done)
        self.progress.start(self.plan, sum(record.tiles for record in done))
        tasks, after = self._graph(done)
        stages = Stages((task.stage for _, task in tasks), self.seconds, self._begin_stage)

        def ended(done: Done) -> None:
            claim.check()
            self._note(done.record)
            stages.one_ended(done.stage)

        workers.execute(TaskSet(run_task, tasks, ended, after, self.plan.threads, killed_task))
        self.flight = workers.flight
        claim.check()

    def _graph(self, done: Sequence[BlockRecord]) -> tuple[list[tuple[str, SlideTask]], dict[str, list[str]]]:
        """Return all tasks that are left, and what each waits for."""
        card, regions = self.model.facts.card, self.settings.regions
        contours = self.tasks.contours(self.groups, regions)
        blocks = self.tasks.blocks(self.tissue, self.model.predictor, done, contours)
        if blocks:
            self.folder.discard_traced()
        self.folder.discard_exports()
        shards, of_shards = self.tasks.pyramids()
        pyramids = [key for key, _ in shards]
        traced, of_traced = self.tasks.regions(
            self.expected.key[:16], self.groups, regions, card.notice, self.folder.name, pyramids
        )
        exports, of_exports = export_tasks(
            export_paths(self.settings, self.folder.name),
            self.plan.slide,
            self.plan.frame,
            card,
            regions,
            self.folder.partial,
            [*self.tasks.block_keys, *pyramids],
            self.tasks.traced_blocks,
        )
        return [*blocks, *shards, *traced, *exports], of_shards | of_traced | of_exports

    def _note(self, record: Any) -> None:
        """Note the record of a task that has ended."""
        match record:
            case BlockRecord():
                self._block_done(record)
            case TracedGroup():
                self.traced.append(record)
            case RegionFile():
                self.polygons = record.name
            case Overview():
                self.overview = record
            case ExportRecord(path, why) if why:
                self.left_out[path] = why

    def _block_done(self, record: BlockRecord) -> None:
        if record.error and self.settings.strict:
            raise SlideError(f"{record.error} (a strict run takes no damaged slide)")
        if not record.written:
            self._mark([record], fault=UNREADABLE)
        self.folder.record(record)
        self.records.append(record)
        self.progress.block_done(record)

    def _mark(self, records: Sequence[BlockRecord], *, fault: int) -> None:
        """Record in the coverage layer the tissue of blocks for which nothing was written."""
        failed = {(record.ix, record.iy) for record in records if not record.written}
        maps = Maps.open(self.store) if failed else None
        for planned in self.plan.blocks:
            block = planned.block
            if maps is not None and (block.ix, block.iy) in failed:
                tissue = self.tissue.sample(self.plan.frame, block.box)
                maps.write_coverage(block, tissue * np.uint8(fault))

    def finish(self, full_hash: Callable[[], str | None], claim: Claim) -> dict[str, Any]:
        """Write summary, report and manifest, and rename the results into place.

        Raises:
            SlideError: the slide's files are not those of the beginning any more.
        """
        sha256 = full_hash()
        self.inputs.check_unchanged(self.expected)
        facts = FinishedRun(
            self.plan,
            self.model.facts,
            self.settings,
            self.groups,
            self.records,
            self.blocks_before,
            self.seconds,
            self.started,
            self.versions,
            self.flight,
            self.inputs.key(self.expected.versions),
            self.expected.versions,
            self.expected.content(sha256),
            self.finders.facts,
        )
        summary = {
            "name": self.folder.name,
            **summarize(facts, {traced.outlines.group: traced.outlines for traced in self.traced}),
            "polygons": self.polygons,
            "regions_too_thin_to_write": sum(traced.vanished for traced in self.traced),
        }
        record = manifest(facts, self.expected.key)
        write_json(self.folder.partial / SUMMARY, summary)
        write_slide_page(self.folder.partial, summary, record, self.overview)
        record |= {LEFT_OUT: self.left_out, "files": self.folder.files()}
        write_json(self.folder.partial / MANIFEST, record)
        self.folder.finish(claim.confirm)
        return summary

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self._begin_stage(stage)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = time.perf_counter() - start

    def _begin_stage(self, name: str) -> None:
        raise_if_cancelled(cancellation())
        self.progress.stage(name)
