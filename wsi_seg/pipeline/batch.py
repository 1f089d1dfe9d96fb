"""Many slides: a few at a time, on shared workers, so that the tail of one does not leave them idle.

Each slide is on its own: whatever goes wrong with one, foreseen or not, is said in its row, and the others
continue. That is decided in one place, `Batch._end`, from what the slide's thread raised.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from wsi_seg.core.errors import (
    ClaimedError,
    ClusterError,
    DeviceError,
    DeviceMemoryError,
    Interrupted,
    OutputError,
    SlideError,
    WsiSegError,
)
from wsi_seg.core.logs import SlideLog, slide_log
from wsi_seg.core.storage import is_remote
from wsi_seg.execution.graph import RESUME, SynchronousExecutor, Workers
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.execution.tasks import BlockRecord
from wsi_seg.execution.workers import open_workers
from wsi_seg.pipeline.batch_table import BatchTable, Row
from wsi_seg.pipeline.inputs import SlideInput
from wsi_seg.pipeline.models import Model
from wsi_seg.pipeline.result import Result
from wsi_seg.pipeline.run import Progress, segment_slide
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.pipeline.shares import Share
from wsi_seg.planning.plan import NO_TISSUE, SegmentationPlan
from wsi_seg.results.files import BATCH, FAILED, LOGS, REPORT, short_name, unlike_notice
from wsi_seg.results.folder import ResultsFolder
from wsi_seg.results.pages.batch import SAME_AS, model_facts, write_batch_page
from wsi_seg.results.upload import local_folder, upload_files

# Slides at a time: one whose blocks are computed, and one that is opened, planned or traced.
AT_ONCE = 2
# With many workers more are needed to keep them busy; each takes some memory of the driver.
MOST_AT_ONCE = 8
UNKNOWN_AT_ONCE = 4

# Stages in which a slide may turn out not to be one that can be run.
BEFORE_BLOCKS = ("plan", "blocks")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlideTask:
    """One slide to run, and how."""

    slide: SlideInput
    model: Model
    settings: RunSettings


def refuse(slide: SlideInput) -> None:
    """Raise SlideError for a slide that is known not to be one that can be run."""
    if slide.refusal:
        raise SlideError(slide.refusal)


class BatchProgress(Protocol):
    """Observer of a batch; the command line draws two bars from it."""

    def workers_started(self, workers: Workers) -> None:
        """Blocks can be computed from now on."""

    def slide_started(self, row: Row) -> Progress:
        """Return the observer of this slide."""

    def slide_ended(self, row: Row, result: Result | None, error: BaseException | None) -> None:
        """A slide came to its end, as its row says."""


class Batch:
    """Slides in progress, and the table of their outcomes."""

    def __init__(
        self,
        tasks: Sequence[SlideTask],
        out: str | Path,
        workers: WorkerSettings,
        *,
        keep_table: bool = True,
        share: Share | None = None,
    ) -> None:
        """Make a batch; with `keep_table` it writes `batch.csv` and `failed.csv`.

        Where `out` is a URL, logs stay where the results are built. A `share` has tables of its own.
        """
        self.rows = [Row(task.slide) for task in tasks]
        self._tasks = list(tasks)
        self._out, self._settings = out, workers
        self._local = local_folder(out, tasks[0].settings.staging)
        self._share = share
        self._table = BatchTable(self._local / share.folder if share else self._local, self.rows)
        self._keep_table = keep_table

    def run(self, progress: BatchProgress) -> list[Row]:
        """Run all slides.

        Returns:
            The outcome of each, in the order of the tasks.

        Raises:
            Interrupted: Ctrl-C; the tables say how far each slide came.
            OutputError: the disk is full, or the folder of all results is that of a slide.
            ClusterError, UsageError: the workers are gone, or cannot be had.
        """
        ResultsFolder(self._local, LOGS).check_place()  # before logs are put there
        at_once = self._at_once()
        with open_workers(
            self._settings, shared_threads=self._settings.threads if at_once > 1 else None
        ) as workers:
            progress.workers_started(workers)
            self._skip_links(progress)
            try:
                for group in self._by_model():
                    self._run_group(group, at_once, workers, progress)
                # The others may have finished meanwhile what they had locked.
                self._run_group(self._locked(), 1, workers, progress, last=True)
            finally:
                self._write_table()
        return self.rows

    def _at_once(self) -> int:
        bounded = any(task.settings.plan.max_memory is not None for task in self._tasks)
        if self._settings.here:
            # Two slides in one process would take more than one was planned to.
            return 1 if bounded else min(AT_ONCE, len(self._tasks))
        processes = 0 if "://" in self._settings.scheduler else self._settings.count
        return min(len(self._tasks), max(AT_ONCE, min(processes or UNKNOWN_AT_ONCE, MOST_AT_ONCE)))

    def _skip_links(self, progress: BatchProgress) -> None:
        """Enter links to files that are run themselves."""
        for row in self.rows:
            if row.slide.same_as:
                row.status, row.reason = "skipped", f"{SAME_AS}{row.slide.same_as}"
                progress.slide_ended(row, None, None)

    def _by_model(self) -> Iterator[list[int]]:
        """Yield the numbers of the slides of each model, as workers keep one network loaded."""
        numbers = [number for number, task in enumerate(self._tasks) if not task.slide.same_as]
        models = list(dict.fromkeys(task.model.predictor for task in self._tasks))
        for model in models:
            yield [number for number in numbers if self._tasks[number].model.predictor == model]

    def _locked(self) -> list[int]:
        return [number for number, row in enumerate(self.rows) if row.status == "locked"]

    def _run_group(
        self,
        numbers: Sequence[int],
        at_once: int,
        workers: Workers,
        progress: BatchProgress,
        *,
        last: bool = False,
    ) -> None:
        todo = iter(numbers)
        # One slide at a time needs no thread besides this one, and those of the workers.
        with ThreadPoolExecutor(at_once, "slide") if at_once > 1 else SynchronousExecutor() as pool:
            running: dict[Future[Result], int] = {}
            try:
                while True:
                    for number in itertools.islice(todo, at_once - len(running)):
                        running[pool.submit(self._run_slide, number, workers, progress)] = number
                    if not running:
                        return
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        self._end(future, running.pop(future), progress, last=last)
            except KeyboardInterrupt:
                raise Interrupted(RESUME) from None
            finally:
                if running:  # the batch ends here, whatever for
                    self._stop(workers, running, progress)

    def _run_slide(self, number: int, workers: Workers, progress: BatchProgress) -> Result:
        """Run one slide in a thread of its own."""
        task, row = self._tasks[number], self.rows[number]
        row.status, row.log = "running", log_file(self._local, task.slide.name)
        start = time.perf_counter()
        watch = progress.slide_started(row)
        try:
            with slide_log(row.log) as log:
                try:
                    refuse(task.slide)
                    result = segment_slide(
                        task.slide.path,
                        self._out,
                        task.model,
                        task.settings,
                        _Logging(watch, log),
                        name=task.slide.name,
                        workers=workers,
                    )
                except WsiSegError as error:
                    logger.error("%s", error)
                    raise
            _enter_facts(row, result.summary)
            return result
        finally:
            row.seconds = time.perf_counter() - start

    def _end(
        self, future: Future[Result], number: int, progress: BatchProgress, *, last: bool = False
    ) -> None:
        """Enter the end of a slide into its row; raise what ends the whole batch.

        A slide that another run has locked has not come to its end before the `last` look at it.
        """
        row, error = self.rows[number], future.exception()
        result = future.result() if error is None else None
        if result is not None:
            _enter(row, result)
        elif isinstance(error, Interrupted | KeyboardInterrupt):
            row.status = "interrupted"
        else:
            assert error is not None
            row.status = "locked" if isinstance(error, ClaimedError) else "failed"
            row.reason = self._reason(row, error)
        if error is not None and _ends_all(error):
            raise error
        if row.status != "locked" or last:
            progress.slide_ended(row, result, error)
        if self._keep_table:
            self._table.changed()

    def _reason(self, row: Row, error: BaseException) -> str:
        """Return one line; what nobody foresaw goes into the slide's log with all that Python knows of it."""
        if isinstance(error, WsiSegError):
            return str(error)
        reason = unforeseen(error)
        if row.log is None:
            return reason
        try:
            with slide_log(row.log) as log:
                log.begin()
                logger.error("%s", reason, exc_info=error)
        except OutputError as refused:
            return f"{reason} ({refused})"
        return reason

    def _stop(self, workers: Workers, running: dict[Future[Result], int], progress: BatchProgress) -> None:
        """End the slides that still run, each at its next forward pass."""
        workers.stop()
        wait(running)
        for future, number in running.items():
            row = self.rows[number]
            if future.exception() is None:
                _enter(row, future.result())
            else:
                row.status = "interrupted"
            error = future.exception()
            progress.slide_ended(row, None if error else future.result(), error)

    def _write_table(self) -> None:
        if self._share is not None:
            self._table.write()
        elif self._keep_table:
            write_batch_page(self._local, self._table.write(), models=facts_of_models(self._tasks))
            if is_remote(self._out):
                upload_files(self._local, (BATCH, FAILED, REPORT), str(self._out))


def facts_of_models(tasks: Sequence[SlideTask]) -> list[dict[str, str]]:
    """Return what the page of a batch says of the models of its slides."""
    cards = {task.model.facts.digest: task.model.facts.card for task in tasks}
    return [model_facts(card.model_dump()) for card in cards.values()]


def _ends_all(error: BaseException) -> bool:
    """Return whether no other slide would fare better."""
    if isinstance(error, OutputError):
        return error.disk_is_full
    if isinstance(error, DeviceError):  # of this process, which CUDA refuses from then on
        return not isinstance(error, DeviceMemoryError)
    return isinstance(error, Interrupted | KeyboardInterrupt | ClusterError)


def unforeseen(error: BaseException) -> str:
    """Return one line about an error that is none of ours."""
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"


def log_file(out: Path, name: str) -> Path:
    """Return the log of the slide of a name, which may hold folders, in an output folder."""
    place = out / LOGS / name
    return place.with_name(f"{short_name(place.name)}.jsonl")


def _enter(row: Row, result: Result) -> None:
    row.status, row.folder = result.status, result.folder
    notes = (result.note, "" if row.facts["tissue_mm2"] else NO_TISSUE, unlike_notice(result.summary))
    row.reason = "; ".join(filter(None, notes))


def _enter_facts(row: Row, summary: Mapping[str, Any]) -> None:
    mpp = summary["mpp"]
    row.facts = {
        "tissue_mm2": summary["tissue_area_mm2"],
        "unread_mm2": summary["coverage"]["unread_mm2"],
        "other_level_mm2": summary["coverage"]["other_level_mm2"],
        **_artifact_facts(summary.get("artifacts")),
        "mpp": mpp[0] if mpp[0] == mpp[1] else f"{mpp[0]} × {mpp[1]}",
        "mpp_source": summary["mpp_source"],
        "reader": summary["reader"],
    }
    row.areas_mm2 = summary["class_area_mm2"]


def _artifact_facts(artifacts: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the columns of artifacts: mm² of all, and of each class; none where they were not looked for."""
    if artifacts is None:
        return {}
    areas = artifacts["area_mm2"]
    return {
        "qc_mm2": round(sum(areas.values()), 6),
        **{f"qc_{name}_mm2": area for name, area in areas.items()},
    }


class _Logging:
    """Passes on what happens to a slide, and writes what its blocks logged into its log."""

    def __init__(self, progress: Progress, log: SlideLog) -> None:
        self._progress, self._log = progress, log

    def start(self, plan: SegmentationPlan, tiles_done: int) -> None:
        for warning in plan.warnings:
            logger.warning("%s: %s", plan.slide.name, warning)
        if tiles_done:
            logger.info("%s: resuming after %d tiles of an earlier run", plan.slide.name, tiles_done)
        self._progress.start(plan, tiles_done)

    def block_done(self, record: BlockRecord) -> None:
        self._log.begin()
        for line in record.log:
            self._log.write(line)
        if record.error:
            logger.warning("block (%d, %d): %s", record.ix, record.iy, record.error)
        self._progress.block_done(record)

    def stage(self, name: str) -> None:
        logger.info("%s", name)
        if name not in BEFORE_BLOCKS:
            self._log.begin()
        self._progress.stage(name)
