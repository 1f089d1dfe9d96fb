"""One block as a job that any worker can run: recipes in, a small record out, no pixels in between.

A job carries paths and names, never an open handle or weights. The slide is opened once per thread and
the predictor once per process; both are reopened only when a job asks for others.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsi_seg.blocks import BlockMaps, BlockSettings, Predictor, segment_block
from wsi_seg.errors import Interrupted, SlideError
from wsi_seg.geometry import Scale
from wsi_seg.maps import Maps
from wsi_seg.readers import open_slide
from wsi_seg.slide import Slide
from wsi_seg.slide_cache import SlideCache
from wsi_seg.tiling import Block
from wsi_seg.tissue import TissueMask


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
    error: str | None = None
    """Why the block could not be analysed; its pixels then stay 0."""


_stopping = threading.Event()
_device_lock = threading.Lock()


def request_stop() -> None:
    """Make the running jobs of this process end before their next batch."""
    _stopping.set()


def allow_start() -> None:
    """Take back `request_stop`, before a new run."""
    _stopping.clear()


def run_block(job: BlockJob) -> BlockRecord:
    """Segment one block and write it as one shard of each map. Running it again gives the same bytes.

    A read error is retried once on a freshly opened slide; if it stays, the block is recorded as failed
    and its pixels stay "not analysed".

    Raises:
        Interrupted: `request_stop` was called.
        ModelError, OutputError: nothing that another block would be spared of.
    """
    block = job.block
    try:
        maps = _segment_with_retry(job)
    except SlideError as error:
        return BlockRecord(block.ix, block.iy, 0, error=str(error))
    start = time.perf_counter()
    _maps_cache.get(job.maps_path).write_block(
        block, labels=maps.labels, tissue=maps.tissue, probabilities=maps.probabilities
    )
    counts = np.bincount(maps.labels.ravel(), minlength=256)
    seconds = {**maps.seconds, "write": time.perf_counter() - start}
    return BlockRecord(
        ix=block.ix,
        iy=block.iy,
        tiles=maps.tiles,
        counts={code: int(counts[code]) for code in np.flatnonzero(counts).tolist() if code},
        tissue_pixels=int(np.count_nonzero(maps.tissue)),
        seconds=seconds,
    )


def _segment_with_retry(job: BlockJob) -> BlockMaps:
    predictor = load_predictor(job.predictor)
    try:
        return _segment(_slide_cache.get(job.slide), predictor, job)
    except SlideError:
        _slide_cache.forget()
        return _segment(_slide_cache.get(job.slide), predictor, job)


def _segment(slide: Slide, predictor: Predictor, job: BlockJob) -> BlockMaps:
    return segment_block(slide, job.block, job.tissue, predictor, job.settings, _turn)


@contextmanager
def _turn() -> Iterator[None]:
    """Wait for the device of this process, for one forward pass; end there where the run is to stop."""
    with _device_lock:
        if _stopping.is_set():
            raise Interrupted("interrupted")
        yield


class _SlideCache(threading.local):
    """The slide that this thread has open."""

    def __init__(self) -> None:
        self._recipe: SlideRecipe | None = None
        self._slide: Slide | None = None

    def get(self, recipe: SlideRecipe) -> Slide:
        if self._slide is None or recipe != self._recipe:
            self.forget()
            self._slide = open_slide(recipe.path, reader=recipe.reader, mpp=recipe.mpp, cache=recipe.cache)
            self._recipe = recipe
        return self._slide

    def forget(self) -> None:
        if self._slide is not None:
            self._slide.close()
        self._slide = None


class _MapsCache(threading.local):
    """The store that this thread writes to."""

    def __init__(self) -> None:
        self._path = ""
        self._maps: Maps | None = None

    def get(self, path: str) -> Maps:
        if self._maps is None or path != self._path:
            self._maps, self._path = Maps.open(Path(path), mode="r+"), path
        return self._maps


_slide_cache = _SlideCache()
_maps_cache = _MapsCache()
_predictors: dict[PredictorRecipe, Predictor] = {}
_predictor_lock = threading.Lock()


def load_predictor(recipe: PredictorRecipe) -> Predictor:
    """Return the predictor of a recipe; the last one that this process made is kept."""
    with _predictor_lock:
        if recipe not in _predictors:
            _predictors.clear()
            module, _, attribute = recipe.factory.partition(":")
            factory = getattr(importlib.import_module(module), attribute)
            _predictors[recipe] = factory(**dict(recipe.arguments))
        return _predictors[recipe]
