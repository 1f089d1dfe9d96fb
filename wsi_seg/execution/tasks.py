"""One block as a job that any worker can run: recipes in, a small record out, no pixels in between.

A job carries paths and names, never an open handle or weights. The slide is opened once per thread and
the predictor once per process; both are reopened only when a job asks for others.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsi_seg.core.errors import Interrupted, SlideError
from wsi_seg.core.geometry import Scale
from wsi_seg.core.logs import captured
from wsi_seg.core.system import peak_memory_bytes
from wsi_seg.inference.blocks import BlockMaps, BlockSettings, Predictor, segment_block
from wsi_seg.inference.forward_pool import ForwardPasses
from wsi_seg.maps.maps import Maps
from wsi_seg.planning.grid import Block
from wsi_seg.slides.local_copies import SlideCache
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import Slide
from wsi_seg.slides.tolerant import OTHER_LEVEL, UNREADABLE, Read, read_strictly, read_tolerantly
from wsi_seg.tissue.mask import TissueMask

# Slides that a thread keeps open; blocks of this many at a time may take turns.
OPEN_SLIDES = 4

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlideRecipe:
    """How to open a slide again."""

    path: str
    reader: str
    mpp: Scale | None
    fingerprint: str = ""
    """Of the slide when it was planned: another file under the same name is opened anew."""
    cache: SlideCache | None = None
    """Where a slide behind a URL is fetched as a whole; None: it is read piece by piece."""
    series: int | None = None
    """Number of the image in the file; None: as `open_slide` chooses."""


@dataclass(frozen=True, slots=True)
class PredictorRecipe:
    """How to make a predictor: a function `module:attribute` and its keyword arguments."""

    factory: str
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class BlockJob:
    """All that a worker needs to fill one block of one store."""

    block: Block
    tissue: TissueMask
    """The block's part of the mask."""
    slide: SlideRecipe
    predictor: PredictorRecipe
    settings: BlockSettings
    maps_path: str


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """What became of one block."""

    ix: int
    iy: int
    tiles: int
    counts: dict[int, int] = field(default_factory=dict)
    """Map pixels per class code, 0 (not analysed) left out."""
    tissue_pixels: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    other_level_pixels: int = 0
    """Map pixels of tissue that were read from another level than was meant."""
    unread_pixels: int = 0
    """Map pixels of tissue that could not be read; they are "not analysed"."""
    error: str | None = None
    """Why the block could not be analysed as it should, wholly or in part."""
    peak_memory: int = 0
    """Largest resident memory, in bytes, of the process that did it, so far."""
    log: tuple[dict[str, Any], ...] = ()
    """What was logged meanwhile, see `logs.captured`."""

    lane: str = ""
    """Host, process and thread that did it, parted by colons; "" where nothing was timed."""
    written: bool = True
    """Whether the block's shards are there; if not, nothing of it was analysed."""


class _Current(threading.local):
    """What this thread's job looks at to know whether to stop."""

    stop: threading.Event | None = None


_current = _Current()


@contextmanager
def stoppable(stop: threading.Event) -> Iterator[None]:
    """Let the jobs that this thread does end before their next forward pass once `stop` is set.

    Raises:
        Interrupted: it is set already.
    """
    if stop.is_set():
        raise Interrupted("interrupted")
    before, _current.stop = _current.stop, stop
    try:
        yield
    finally:
        _current.stop = before


def end_if_told() -> None:
    """Raise Interrupted where this thread's job is to end, see `stoppable`."""
    if _current.stop is not None and _current.stop.is_set():
        raise Interrupted("interrupted")


def run_block(job: BlockJob) -> BlockRecord:
    """Segment one block and write it as one shard of each map. Running it again gives the same bytes.

    After a read error the slide is opened anew and read again; what still cannot be read is read from another
    level, or left out ("not analysed"), as the record and the coverage layer say. Where not even that is
    possible, nothing is written and the record says why.

    Raises:
        Interrupted: the run is to stop, see `stoppable`.
        ModelError, OutputError: nothing that another block would be spared of.
    """
    block = job.block
    with captured() as log:
        try:
            maps = _segment_with_retry(job)
        except SlideError as error:
            return failed_block(job, str(error))
        start = time.perf_counter()
        _maps_cache.get(job.maps_path).write_block(
            block,
            labels=maps.labels,
            tissue=maps.tissue,
            probabilities=maps.probabilities,
            coverage=maps.coverage,
        )
    counts = Image.fromarray(maps.labels).histogram()  # a fifth of the time of np.bincount
    coverage = np.bincount([0] if maps.coverage is None else maps.coverage.ravel(), minlength=UNREADABLE + 1)
    return BlockRecord(
        ix=block.ix,
        iy=block.iy,
        tiles=maps.tiles,
        counts={code: count for code, count in enumerate(counts) if code and count},
        tissue_pixels=int(np.count_nonzero(maps.tissue)),
        seconds={**maps.seconds, "write": time.perf_counter() - start},
        other_level_pixels=int(coverage[OTHER_LEVEL]),
        unread_pixels=int(coverage[UNREADABLE]),
        error=maps.faults[0].reason if maps.faults else None,
        peak_memory=peak_memory_bytes(),
        log=tuple(log),
        lane=f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}",
    )


def failed_block(job: BlockJob, reason: str) -> BlockRecord:
    """Return the record of a block for which nothing could be written."""
    tissue = job.tissue.sample(job.settings.frame, job.block.box)
    return BlockRecord(
        job.block.ix,
        job.block.iy,
        0,
        unread_pixels=int(np.count_nonzero(tissue)),
        error=reason,
        written=False,
    )


def killed_block(job: BlockJob) -> BlockRecord:
    """Return the record of a block that ended every process that tried it."""
    return failed_block(job, f"{job.slide.path}: each worker that tried this block died")


def _segment_with_retry(job: BlockJob) -> BlockMaps:
    passes = _passes(load_predictor(job.predictor), job.settings.passes)
    try:
        return _segment(_slide_cache.get(job.slide), passes, job, read_strictly)
    except SlideError as error:
        logger.warning("block (%d, %d): %s; reading it again", job.block.ix, job.block.iy, error)
    _slide_cache.forget(job.slide)
    return _segment(_slide_cache.get(job.slide), passes, job, read_tolerantly)


def _segment(slide: Slide, passes: ForwardPasses, job: BlockJob, read: Read) -> BlockMaps:
    run = passes.of_block(job.settings.stitch.margin, _current.stop)
    return segment_block(slide, job.block, job.tissue, passes.predictor, job.settings, run, read)


class _SlideCache(threading.local):
    """The slides that this thread has open: one for each of the few that are worked on at a time."""

    def __init__(self) -> None:
        self._slides: OrderedDict[SlideRecipe, Slide] = OrderedDict()

    def get(self, recipe: SlideRecipe) -> Slide:
        if recipe not in self._slides:
            self._slides[recipe] = open_slide(
                recipe.path,
                reader=recipe.reader,
                mpp=recipe.mpp,
                series=recipe.series,
                cache=recipe.cache,
            )
            while len(self._slides) > OPEN_SLIDES:
                self._slides.popitem(last=False)[1].close()
        self._slides.move_to_end(recipe)
        return self._slides[recipe]

    def forget(self, recipe: SlideRecipe) -> None:
        if recipe in self._slides:
            self._slides.pop(recipe).close()


class _MapsCache(threading.local):
    """The stores that this thread writes to."""

    def __init__(self) -> None:
        self._maps: OrderedDict[str, Maps] = OrderedDict()

    def get(self, path: str) -> Maps:
        if path not in self._maps:
            self._maps[path] = Maps.open(Path(path))
            while len(self._maps) > OPEN_SLIDES:
                self._maps.popitem(last=False)
        self._maps.move_to_end(path)
        return self._maps[path]


_slide_cache = _SlideCache()
_maps_cache = _MapsCache()
_predictors: dict[PredictorRecipe, Predictor] = {}
_forward: dict[int, ForwardPasses] = {}
_users = 0
_predictor_lock = threading.Lock()


def slide_of(recipe: SlideRecipe) -> Slide:
    """Return the slide of a recipe, which this thread opens, or has opened for an earlier job.

    Raises:
        SlideError: it cannot be opened.
    """
    return _slide_cache.get(recipe)


def load_predictor(recipe: PredictorRecipe) -> Predictor:
    """Return the predictor of a recipe; the last one that this process made is kept."""
    with _predictor_lock:
        if recipe not in _predictors:
            _predictors.clear()
            module, _, attribute = recipe.factory.partition(":")
            factory = getattr(importlib.import_module(module), attribute)
            _predictors[recipe] = factory(**dict(recipe.arguments))
        return _predictors[recipe]


def _passes(predictor: Predictor, passes: int) -> ForwardPasses:
    """Return the threads that predict; only those of the last predictor are kept.

    Others may still be at work for a block; they end with it, as nothing else holds them.
    """
    with _predictor_lock:
        if any(forward.predictor is not predictor for forward in _forward.values()):
            _forward.clear()
        if passes not in _forward:
            _forward[passes] = ForwardPasses(predictor, passes)
        return _forward[passes]


def open_passes() -> None:
    """Keep the threads that predict, for whoever does jobs in this process, until `end_passes`."""
    global _users
    with _predictor_lock:
        _users += 1


def end_passes() -> None:
    """End the threads that predict, once nobody does jobs in this process any more."""
    global _users
    with _predictor_lock:
        _users -= 1
        while not _users and _forward:
            _forward.popitem()[1].close()
