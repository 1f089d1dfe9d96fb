"""Blocks and shards as tasks that any worker can run: recipes in, a small record out, no pixels in between.

A task carries paths and names, never an open handle or weights. The slide is opened once per thread and
the predictor once per process; both are reopened only when a task asks for others.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.errors import ClusterError, SlideError
from wsi_seg.core.geometry import Scale
from wsi_seg.core.logs import captured
from wsi_seg.core.lru import LRUCache
from wsi_seg.core.system import peak_memory_bytes
from wsi_seg.inference.blocks import BlockMaps, BlockSettings, ForwardPool, Predictor, segment_block
from wsi_seg.inference.failures import device_errors
from wsi_seg.maps.maps import Maps
from wsi_seg.planning.grid import Block
from wsi_seg.planning.map_layout import ShardRef
from wsi_seg.regions.block_contours import ContourRecipe
from wsi_seg.slides.local_copies import SlideCache
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import Slide
from wsi_seg.slides.tolerant import OTHER_LEVEL, UNREADABLE, read_strictly, read_tolerantly
from wsi_seg.tissue.domain import NO_STAIN, StainSums
from wsi_seg.tissue.mask import TissueMask

# Slides that a thread keeps open; blocks of this many at a time may take turns.
OPEN_SLIDES = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlideRecipe:
    """Recipe to open a slide."""

    path: str
    reader: str
    mpp: Scale | None
    fingerprint: str = ""
    """Of the slide when it was planned: another file under the same name is opened again."""
    cache: SlideCache | None = None
    """Where a slide behind a URL is fetched as a whole; None: it is read piece by piece."""
    series: int | None = None
    """Number of the image in the file; None: as `open_slide` chooses."""


@dataclass(frozen=True, slots=True)
class PredictorRecipe:
    """Recipe of a predictor: a function `module:attribute` and its keyword arguments."""

    factory: str
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class BlockTask:
    """All that a worker needs to fill one block of one store."""

    block: Block
    tissue: TissueMask
    """The block's part of the mask."""
    slide: SlideRecipe
    predictor: PredictorRecipe
    settings: BlockSettings
    maps_path: str
    contours: ContourRecipe | None = None
    """Left besides the maps; None: of no group."""
    stage: ClassVar = "blocks"

    def run(self) -> BlockRecord:
        """See `run_block`."""
        return run_block(self)


@dataclass(frozen=True, slots=True)
class ShardTask:
    """All that a worker needs to build one shard of a pyramid."""

    maps_path: str
    shard: ShardRef
    stage: ClassVar = "pyramids"

    def run(self) -> None:
        """Build it, see `Maps.build_shard`."""
        _maps(self.maps_path).build_shard(self.shard)


class SlideTask(Protocol):
    """One task of the graph of a slide: a recipe that any worker can carry out."""

    @property
    def maps_path(self) -> str:
        """Store of the slide's maps, absolute."""

    @property
    def stage(self) -> str:
        """Stage of the run that it belongs to, see `pipeline.stages`."""

    def run(self) -> Any:
        """Do it and return a small record; running it again gives the same bytes."""


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """Outcome of one block."""

    ix: int
    iy: int
    tiles: int
    counts: dict[int, int] = field(default_factory=dict)
    """Map pixels per class code, 0 (not analyzed) left out."""
    tissue_pixels: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    other_level_pixels: int = 0
    """Map pixels of tissue that were read from another level than was meant."""
    unread_pixels: int = 0
    """Map pixels of tissue that could not be read; they are "not analyzed"."""
    error: str | None = None
    """Reason why the block was not analyzed as it should, wholly or in part."""
    peak_memory: int = 0
    """Largest resident memory, in bytes, of the process that did it, so far."""
    log: tuple[dict[str, Any], ...] = ()
    """Log lines of the block, see `logs.captured`."""
    lane: str = ""
    """Host, process and thread that did it, separated by colons; "" where nothing was timed."""
    written: bool = True
    """The block's shards are there; if not, nothing of it was analyzed."""
    stain: StainSums = NO_STAIN
    """Of the analyzed pixels; of none where the model's card says nothing of its training data."""
    artifacts: dict[int, int] = field(default_factory=dict)
    """Map pixels per code of artifacts, in tissue."""
    fewer_tiles: int = 0
    """Tiles at a time that its device had memory for, where these were fewer than planned; else 0."""


@dataclass(frozen=True, slots=True)
class Done:
    """Outcome of a task of a slide."""

    stage: str
    record: Any
    """See its `run`."""


def run_task(task: SlideTask) -> Done:
    """Carry out a task of a slide."""
    return Done(task.stage, task.run())


def run_block(task: BlockTask) -> BlockRecord:
    """Segment one block and write it as one shard of each map. Running it again gives the same bytes.

    After a read error the slide is opened again and read again; what still cannot be read is read from
    another level, or left out ("not analyzed"), as the record and the coverage layer say. Where not even that
    is possible, nothing is written and the record says why.

    Raises:
        Interrupted: the run is canceled, see `cancellable`.
        DeviceError: the device of this process fails; another may do the block.
        ModelError, OutputError: another block would meet the same.
    """
    block = task.block
    maps: BlockMaps
    with captured() as log, device_errors():
        predictor = load_predictor(task.predictor)
        pool = _forward_pool(predictor, task.settings.passes)
        for read in (read_strictly, read_tolerantly):
            try:
                slide = slide_of(task.slide)
                maps = segment_block(slide, block, task.tissue, predictor, task.settings, pool, read)
                break
            except SlideError as error:
                if read is read_tolerantly:
                    return failed_block(task, str(error))
                logger.warning("block (%d, %d): %s; reading it again", block.ix, block.iy, error)
                _caches.slides.drop(task.slide)
        fewer_tiles = _fewer_tiles(predictor, task)
        start = time.perf_counter()
        artifacts = task.tissue.sample_artifacts(task.settings.frame, block.box)
        store = _maps(task.maps_path)
        store.write_block(
            block,
            labels=maps.labels,
            tissue=maps.tissue,
            probabilities=maps.probabilities,
            coverage=maps.coverage,
            artifacts=artifacts,
        )
        written = time.perf_counter()
        if task.contours is not None:
            task.contours.write(store, block, maps.labels, maps.probabilities)
    coverage = np.bincount([0] if maps.coverage is None else maps.coverage.ravel(), minlength=UNREADABLE + 1)
    return BlockRecord(
        ix=block.ix,
        iy=block.iy,
        tiles=maps.tiles,
        counts=_counts(maps.labels),
        artifacts={} if artifacts is None else _counts(artifacts),
        tissue_pixels=int(np.count_nonzero(maps.tissue)),
        seconds={**maps.seconds, "write": written - start, "contours": time.perf_counter() - written},
        other_level_pixels=int(coverage[OTHER_LEVEL]),
        unread_pixels=int(coverage[UNREADABLE]),
        error=maps.faults[0].reason if maps.faults else None,
        peak_memory=peak_memory_bytes(),
        log=tuple(log),
        lane=f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}",
        stain=maps.stain,
        fewer_tiles=fewer_tiles,
    )


def _fewer_tiles(predictor: Predictor, task: BlockTask) -> int:
    """Return how many tiles at a time fit into the device's memory, where fewer than planned; else 0."""
    most: int = getattr(predictor, "most_tiles", task.settings.batch)
    if most >= task.settings.batch:
        return 0
    logger.warning(
        "block (%d, %d): %d tiles at a time, not %d, for lack of device memory",
        task.block.ix, task.block.iy, most, task.settings.batch,
    )  # fmt: skip
    return most


def _counts(codes: NDArray[np.uint8]) -> dict[int, int]:
    """Return the pixels of each code but 0."""
    counts = Image.fromarray(codes).histogram()  # a fifth of the time of np.bincount
    return {code: count for code, count in enumerate(counts) if code and count}


def failed_block(task: BlockTask, reason: str) -> BlockRecord:
    """Return the record of a block for which nothing could be written."""
    tissue = task.tissue.sample(task.settings.frame, task.block.box)
    return BlockRecord(
        task.block.ix,
        task.block.iy,
        0,
        unread_pixels=int(np.count_nonzero(tissue)),
        error=reason,
        written=False,
    )


def killed_block(task: BlockTask) -> BlockRecord:
    """Return the record of a block that ended every process that tried it."""
    return failed_block(task, f"{task.slide.path}: each worker that tried this block died")


def killed_task(task: SlideTask) -> Done:
    """Return the outcome of a block that ended every process that tried it.

    Raises:
        ClusterError: it is no block, and without it the results are not whole.
    """
    if isinstance(task, BlockTask):
        return Done(task.stage, killed_block(task))
    raise ClusterError(f"{task.maps_path}: each worker that made its {task.stage} died; run it again")


class _ThreadCaches(threading.local):
    """The slides that this thread has open and the stores that it writes to, of the few in work at a time."""

    def __init__(self) -> None:
        self.slides: LRUCache[Slide] = LRUCache(OPEN_SLIDES, on_evict=lambda slide: slide.close())
        self.maps: LRUCache[Maps] = LRUCache(OPEN_SLIDES)


_caches = _ThreadCaches()
_predictors: dict[PredictorRecipe, Predictor] = {}
_forward_pools: dict[int, ForwardPool] = {}
_holders = 0
_predictor_lock = threading.Lock()


def slide_of(recipe: SlideRecipe) -> Slide:
    """Return the slide of a recipe, which this thread opens, or has opened for an earlier task.

    Raises:
        SlideError: it cannot be opened.
    """
    return _caches.slides.get_or_make(
        recipe,
        lambda: open_slide(
            recipe.path, reader=recipe.reader, mpp=recipe.mpp, series=recipe.series, cache=recipe.cache
        ),
    )


def _maps(path: str) -> Maps:
    return _caches.maps.get_or_make(path, lambda: Maps.open(Path(path)))


def load_predictor(recipe: PredictorRecipe) -> Predictor:
    """Return the predictor of a recipe; the last one that this process made is kept."""
    with _predictor_lock:
        if recipe not in _predictors:
            _predictors.clear()
            _predictors[recipe] = resolve_name(recipe.factory)(**dict(recipe.arguments))
        return _predictors[recipe]


def _forward_pool(predictor: Predictor, passes: int) -> ForwardPool:
    """Return the threads that predict; only those of the last predictor are kept.

    Others may still be at work for a block; they end with it, as nothing else holds them.
    """
    with _predictor_lock:
        if any(pool.predictor is not predictor for pool in _forward_pools.values()):
            _forward_pools.clear()
        if passes not in _forward_pools:
            _forward_pools[passes] = ForwardPool(predictor, passes)
        return _forward_pools[passes]


def hold_forward_pools() -> None:
    """Keep the threads that predict until `release_forward_pools`, for whoever does tasks in this process."""
    global _holders
    with _predictor_lock:
        _holders += 1


def release_forward_pools() -> None:
    """End the threads that predict, once nobody does tasks in this process any more."""
    global _holders
    with _predictor_lock:
        _holders -= 1
        while not _holders and _forward_pools:
            _forward_pools.popitem()[1].close()
