"""The main job: one slide in, one results folder out. The whole direction of the package on one page.

slide ──open──▶ plan ──blocks──▶ Dask graph ──▶ OME-Zarr maps ──trace──▶ polygons ──▶ GeoJSON
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from wsi_seg.card import WEIGHTS_NAME, read_card
from wsi_seg.classes import ClassGroup
from wsi_seg.errors import WsiSegError
from wsi_seg.exporters.geojson import write_geojson
from wsi_seg.exporters.overview import outline_tolerance, write_overview
from wsi_seg.jobs import BlockRecord, PredictorRecipe, load_predictor
from wsi_seg.maps import Maps, create_maps, remove_partial_files
from wsi_seg.models.registry import find_model, model_hash
from wsi_seg.outlines import GroupOutlines, keep_outlines
from wsi_seg.plan import ModelFacts, SegmentationPlan, plan_segmentation
from wsi_seg.polygons import iter_regions
from wsi_seg.readers import open_slide
from wsi_seg.report import RunFacts, manifest, run_key, summarise
from wsi_seg.results import MANIFEST, MAPS, OVERVIEW, POLYGONS, SUMMARY, ResultsFolder, write_json
from wsi_seg.segment import Execution, build_pyramids, segment_blocks
from wsi_seg.settings import RunSettings
from wsi_seg.slide import Slide
from wsi_seg.tissue import TissueMask, find_tissue

if TYPE_CHECKING:
    from wsi_seg.models.calibrate import Calibration
    from wsi_seg.models.predictor import Predictor

PREDICTOR = "wsi_seg.models.predictor:load_predictor"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Model:
    """A model as a run needs it: facts for the plan, a recipe for the workers."""

    facts: ModelFacts
    predictor: PredictorRecipe


@dataclass(frozen=True, slots=True)
class SlideResult:
    """What became of one slide."""

    slide: str
    status: Literal["done", "skipped", "incomplete"]
    folder: Path
    summary: dict[str, Any]


class Progress(Protocol):
    """Told what happens; the command line draws a bar from it."""

    def start(self, plan: SegmentationPlan, tiles_done: int) -> None: ...

    def block_done(self, record: BlockRecord) -> None: ...

    def stage(self, name: str) -> None: ...


def load_model(reference: str, device: str = "auto", precision: str = "auto", *, tta: bool = False) -> Model:
    """Find a model and read its card; the weights are loaded by the workers.

    Args:
        reference: bundled name, model folder, `hf://owner/name[@revision]`, or `.pth` file with a card.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto` (bf16 where the device computes it in hardware), `float32`, `bf16` or `fp16`.
        tta: average the predictions of the eight flips and turns of each tile; eight times the time.

    Raises:
        ModelError: there is no such model, or its card is wrong.
        UsageError: the device or precision is unknown or not available.
    """
    from wsi_seg.models.calibrate import Calibration
    from wsi_seg.models.predictor import activations_of, resolve_device, resolve_precision

    folder = find_model(reference)
    where = resolve_device(device)
    number = resolve_precision(precision, where)
    size = (folder / WEIGHTS_NAME).stat().st_size
    digest = model_hash(folder)
    batches = Calibration(digest, where, number, tta).best_batches()
    facts = ModelFacts(
        read_card(folder),
        digest,
        size,
        0 if where.startswith("cuda") else activations_of(folder, digest, number),
        where,
        number,
        tta,
        batches=tuple(sorted(batches.items())),
    )
    reference = str(folder.absolute())
    arguments = (("reference", reference), ("device", where), ("precision", number), ("tta", tta))
    return Model(facts, PredictorRecipe(PREDICTOR, arguments))


def calibration(model: Model) -> Calibration:
    """Return where the speed of a model on its device is kept."""
    from wsi_seg.models.calibrate import Calibration

    facts = model.facts
    return Calibration(facts.digest, facts.device, facts.precision, facts.tta)


def open_predictor(model: Model) -> Predictor:
    """Load the network of a model into this process, or return it where it is loaded already."""
    from wsi_seg.models.predictor import Predictor

    predictor = load_predictor(model.predictor)
    if not isinstance(predictor, Predictor):
        raise TypeError(f"{model.predictor.factory} makes no network of torch")
    return predictor


def prepare(slide: Slide, model: Model, settings: RunSettings) -> tuple[TissueMask, SegmentationPlan]:
    """Find tissue and plan; nothing is written."""
    tissue = find_tissue(slide, settings.tissue, origin=settings.regions.origin)
    return tissue, plan_segmentation(slide.info, tissue, model.facts, settings.plan)


def segment_slide(
    path: str | Path,
    out: Path,
    model: Model,
    settings: RunSettings,
    progress: Progress | None = None,
) -> SlideResult:
    """Do the whole job on one slide.

    Args:
        path: slide file, folder of a DICOM series, or URL.
        out: folder that gets a folder named after the slide.
        model: from `load_model`.
        settings: see `RunSettings`.
        progress: told what happens.

    Returns:
        The result; `skipped` when whole results of the same slide, model and settings are there.

    Raises:
        WsiSegError: one of its subclasses, with one line that says what is wrong and the way out.
    """
    groups = settings.regions.resolve(model.facts.card)
    with open_slide(path, reader=settings.reader, mpp=settings.mpp) as slide:
        run = _SlideRun(path, slide, out, model, settings, groups, progress or _Silent())
        if run.folder.holds(run.key, settings.overwrite):
            return SlideResult(str(path), "skipped", run.folder.final, run.folder.read_summary())
        try:
            run.fill_maps()
            run.trace_regions()
            summary = run.finish()
        except WsiSegError:
            run.folder.discard_if_nothing_done()
            raise
    failed = any(record.error for record in run.records)
    return SlideResult(str(path), "incomplete" if failed else "done", run.folder.final, summary)


def _results_name(path: str | Path, slide: Slide) -> str:
    """Name results after the slide file, or after the folder of a DICOM series, whose files are numbered."""
    return Path(path).absolute().name if Path(path).is_dir() else slide.info.name


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
        path: str | Path,
        slide: Slide,
        out: Path,
        model: Model,
        settings: RunSettings,
        groups: tuple[ClassGroup, ...],
        progress: Progress,
    ) -> None:
        self.started = datetime.now(UTC)
        self.seconds: dict[str, float] = {}
        self.slide, self.model, self.groups = slide, model, groups
        self.progress = progress
        self.folder = ResultsFolder(out, _results_name(path, slide))
        if settings.plan.batch is None and not settings.overwrite:
            # A calibration since then must not make another run of this one.
            settings = replace(settings, plan=replace(settings.plan, batch=self.folder.earlier_batch()))
        self.settings = settings
        with self._timed("plan"):
            self.tissue, self.plan = prepare(slide, model, settings)
        self.key = run_key(self.plan, groups, settings)
        self.store = self.folder.partial / MAPS
        self.records: list[BlockRecord] = []
        self.regions: dict[ClassGroup, GroupOutlines] = {}
        self.blocks_before = 0
        self.written: dict[str, Any] = {}

    def fill_maps(self) -> None:
        """Predict the blocks that an earlier run has not finished, then the pyramids."""
        done = self.folder.begin(self.plan, self.key, self.settings.overwrite)
        if self.store.exists():
            remove_partial_files(self.store)
        else:
            create_maps(self.store, self.plan.layout)
        self.records = list(done)
        self.blocks_before = len(done)
        self.progress.start(self.plan, sum(record.tiles for record in done))
        execution = Execution(self.plan, self.store, self.settings.scheduler)
        with self._timed("blocks"):
            segment_blocks(execution, self.tissue, self.model.predictor, done, self._block_done)
        with self._timed("pyramids"):
            build_pyramids(execution)

    def _block_done(self, record: BlockRecord) -> None:
        self.folder.record(record)
        self.records.append(record)
        self.progress.block_done(record)

    def trace_regions(self) -> None:
        """Trace the regions and write what people look at."""
        maps = Maps.open(self.store)
        regions = iter_regions(maps, self.groups, self.settings.regions.trace)
        with self._timed("polygons"):
            written = write_geojson(
                keep_outlines(regions, self.regions, outline_tolerance(self.plan.frame)),
                self.folder.partial / POLYGONS,
                slide=self.slide.info,
                frame=self.plan.frame,
                origin=self.settings.regions.origin,
                compress_large=True,
            )
        self.written = {"polygons": written.path.name, "regions_too_thin_to_write": written.vanished}
        with self._timed("overview"):
            write_overview(
                self.folder.partial / OVERVIEW,
                self.slide,
                list(self.regions.values()),
                frame=self.plan.frame,
                maps=maps,
                notice=self.model.facts.card.notice,
            )

    def finish(self) -> dict[str, Any]:
        """Write summary and manifest, and rename the results into place."""
        facts = RunFacts(
            self.plan,
            self.model.facts,
            self.settings,
            self.groups,
            self.records,
            self.blocks_before,
            self.seconds,
            self.started,
            self._forward_seconds(),
        )
        summary = {**summarise(facts, self.regions), **self.written}
        write_json(self.folder.partial / SUMMARY, summary)
        write_json(self.folder.partial / MANIFEST, manifest(facts, self.key))
        self.folder.finish()
        return summary

    def _forward_seconds(self) -> float | None:
        """Return the time of the network alone for one tile, measured now where no earlier run did.

        None where another process or something else than a network predicts, and where nothing was predicted.
        """
        plan = self.plan
        predicted = any(record.tiles for record in self.records[self.blocks_before :])
        if "://" in self.settings.scheduler or self.model.predictor.factory != PREDICTOR or not predicted:
            return None
        from wsi_seg.models.calibrate import measure

        kept = calibration(self.model)
        known = kept.seconds_per_tile(plan.stitch.grid.tile, plan.batch)
        if known is not None:
            return known
        predictor = open_predictor(self.model)
        # Once is enough right after a run of the same shape, and nobody likes to wait for it.
        timing = measure(predictor, plan.stitch.grid.tile, plan.batch, warm=True, repeats=1)
        try:
            kept.add([timing])
        except OSError as error:
            logger.warning("%s: the measured speed cannot be kept (%s)", kept.path, error.strerror)
        return timing.seconds_per_tile

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        self.progress.stage(stage)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = time.perf_counter() - start
