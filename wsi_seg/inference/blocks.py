"""Segment one block: read, cut tiles, predict, stitch. A pure function of slide, block and predictor."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.errors import ModelError
from wsi_seg.core.geometry import Box
from wsi_seg.core.threads import InOrder, Signal, cancellation, raise_if_cancelled
from wsi_seg.inference.stitch import PLAIN_TRANSFER, Stitcher, Transfer, new_stitcher
from wsi_seg.planning.grid import Block, Grid, Tile
from wsi_seg.planning.plan import needed_tiles
from wsi_seg.planning.stitch_settings import StitchSettings
from wsi_seg.slides.slide import MapFrame, Slide
from wsi_seg.slides.tolerant import OTHER_LEVEL, UNREADABLE, Fault, Read, read_strictly
from wsi_seg.tissue.domain import NO_STAIN, StainSums, sampled, stain_sums
from wsi_seg.tissue.mask import TissueMask

Array = TypeVar("Array")

# What the time of a block goes into. `read` is file access and decoding, `predict` the network with softmax,
# summed over passes at a time; on a GPU, the network with the copy of tiles to it, as the GPU's clock says.
# `wait` is for the next of them to end, and on a GPU for all that is computed there.
STAGES = ("read", "resample", "wait", "predict", "stitch", "write", "contours")


class Predictor(Protocol):
    """A network, or anything that stands in for one."""

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> Any:
        """Return float32 probabilities (N, C, H - 2 margin, W - 2 margin) of RGB tiles uint8 (N, H, W, 3).

        What lies within `margin` pixels of a tile's border is left out: it is seen, but nobody needs its
        classes, or the network does not predict it (`Grid.margin`). The result may be an array of any library
        that follows the array API, on any device.
        """
        ...


class Prediction(NamedTuple):
    """The output of a predictor for one batch, and the time that it took."""

    probabilities: Any
    seconds: float
    """Of the call; on a GPU, to queue the work."""
    device_seconds: Callable[[], float] | None = None
    """Returns how long a GPU was at work on it, once it has ended; None elsewhere."""


class ForwardPool:
    """Threads that run a network: a few forward passes at a time, over all blocks of a process.

    A network on a CPU that works on one tile with all cores leaves some of them waiting after every layer.
    So there are as many passes at a time as cores, on one core each, and as what is done besides them takes
    a core from one pass only, nothing waits for it. On a GPU there is one pass at a time.
    """

    def __init__(self, predictor: Predictor, passes: int) -> None:
        """Start the threads.

        Args:
            predictor: one with an attribute `passes` may be called so often at a time, and its method
                `share(passes)`, called in each thread, leaves cores to the others; else it is called by one
                thread at a time.
            passes: at most at a time.
        """
        self.predictor = predictor
        self.passes = max(1, min(passes, getattr(predictor, "passes", 1)))
        self._threads = ThreadPoolExecutor(self.passes, "forward", initializer=self._share_cores)

    def predict(self, batches: Iterable[NDArray[np.uint8]], margin: int) -> Generator[Prediction]:
        """Yield the predictions of a block's batches in order; closing the iterator cancels what is pending.

        Args:
            batches: uint8 (N, H, W, 3); taken one more than passes run, so that none idles meanwhile.
            margin: see `Predictor`.

        Raises:
            Interrupted: the caller's work is cancelled, see `cancellable`; no further pass begins.
        """
        self._share_cores()  # as the thread of the block stitches meanwhile
        cancelled = cancellation()
        with InOrder[Prediction](self.passes) as predictions:
            for batch in batches:
                yield from predictions.put(
                    self._threads.submit(predict, self.predictor, batch, margin, cancelled)
                )
            yield from predictions.rest()

    def _share_cores(self) -> None:
        """Leave cores to the passes, from now on in this thread."""
        share = getattr(self.predictor, "share", None)
        if share is not None:
            share(self.passes)

    def close(self) -> None:
        """End the threads, and let the predictor have all cores again."""
        self._threads.shutdown(cancel_futures=True)
        unshare = getattr(self.predictor, "unshare", None)
        if unshare is not None:
            unshare()


def predict(
    predictor: Predictor, batch: NDArray[np.uint8], margin: int, cancelled: Signal | None = None
) -> Prediction:
    """Return the timed prediction of one batch; Interrupted where it is cancelled before it begins."""
    raise_if_cancelled(cancelled)
    start = time.perf_counter()
    probabilities = predictor(batch, margin=margin)
    seconds = time.perf_counter() - start
    return Prediction(probabilities, seconds, getattr(predictor, "device_seconds", lambda: None)())


def without_margin(maps: Array, margin: int) -> Array:
    """Return a view of (…, H, W) maps, of any array library, without `margin` pixels on each side."""
    height, width = maps.shape[-2:]  # type: ignore[attr-defined]
    return maps[..., margin : height - margin, margin : width - margin]  # type: ignore[index,no-any-return]


@dataclass(frozen=True, slots=True)
class BlockSettings:
    """Settings that all blocks of a plan share."""

    frame: MapFrame
    stitch: StitchSettings
    codes: tuple[int, ...]
    """Label value of each output channel."""
    level: int
    """Slide level to read from."""
    batch: int
    """Tiles per forward pass; a last, smaller batch is filled up, so that shapes never change."""
    passes: int = 1
    """Forward passes at a time in one process, at most."""
    stain: bool = False
    """Count stain, for comparison with the training data."""


@dataclass(frozen=True)
class BlockMaps:
    """The finished arrays of one block."""

    labels: NDArray[np.uint8]
    """(h, w) class codes, 0: not analyzed."""
    tissue: NDArray[np.bool_]
    """(h, w), without what could not be read"""
    probabilities: NDArray[Any]
    """(C, ⌈h/d⌉, ⌈w/d⌉) uint8 or float32; C + 1 where the uncertainty is stored too"""
    tiles: int
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time per stage of `STAGES`, but for `write` and `contours`."""
    coverage: NDArray[np.uint8] | None = None
    """(h, w): `faults.OTHER_LEVEL`, `faults.UNREADABLE`, or 0; None where it is 0 all over."""
    faults: tuple[Fault, ...] = ()
    """Pixels that the tiles of the block could not be given; they may lie beyond the block."""
    stain: StainSums = NO_STAIN
    """Of the pixels in `tissue`; of none where it was not asked for."""


def segment_block(
    slide: Slide,
    block: Block,
    tissue: TissueMask,
    predictor: Predictor,
    settings: BlockSettings,
    pool: ForwardPool | None = None,
    read: Read = read_strictly,
) -> BlockMaps:
    """Segment one block of the map.

    Args:
        slide: an open slide of this thread.
        block: pixels to fill.
        tissue: mask of at least the block's part of the slide.
        predictor: gives (N, C, H, W) probabilities for uint8 (N, H, W, 3) tiles.
        settings: frame, grid, blending, codes, batch.
        pool: threads that call the predictor; None: it is called in this one.
        read: reads pixels; one that reads around faults leaves what cannot be read out of the tissue.

    Raises:
        Interrupted: the work of this thread is cancelled, see `cancellable`.
        SlideError: the pixels cannot be read, where `read` says so.
        ModelError: the predictor's output has other channels or another size than expected.
    """
    seconds = dict.fromkeys(STAGES, 0.0)
    analyzed = tissue.sample(settings.frame, block.box)
    tiles = needed_tiles(block, tissue, settings.frame, settings.stitch)
    inputs, faults, stain = _read_tiles(slide, block, analyzed, tiles, settings, read, seconds)
    coverage = _coverage(faults, block, analyzed)
    if coverage is not None:
        analyzed &= coverage != UNREADABLE
    transfer = _TimedTransfer(getattr(predictor, "transfer", PLAIN_TRANSFER), seconds)
    stitcher = new_stitcher(settings.stitch, block.box, analyzed, len(settings.codes), transfer)
    margin = settings.stitch.margin
    if pool is None:
        predictions = (predict(predictor, batch, margin) for batch in inputs)
    else:
        predictions = pool.predict(inputs, margin)
    with closing(predictions):
        on_device = _stitch(tiles, predictions, stitcher, settings, seconds)
    with _timed(seconds, "stitch"):
        waited = seconds["wait"]
        channel, probabilities = stitcher.finish()
        seconds["stitch"] -= seconds["wait"] - waited
        in_order = settings.codes == tuple(range(1, len(settings.codes) + 1))
        labels = channel if in_order else np.array((0, *settings.codes), np.uint8)[channel]
    # All of it has ended by now: the maps are there.
    seconds["predict"] += sum(taken() for taken in on_device)
    return BlockMaps(labels, analyzed, probabilities, len(tiles), seconds, coverage, faults, stain)


def _read_tiles(
    slide: Slide,
    block: Block,
    analyzed: NDArray[np.bool_],
    tiles: list[Tile],
    settings: BlockSettings,
    read: Read,
    seconds: dict[str, float],
) -> tuple[Iterator[NDArray[np.uint8]], tuple[Fault, ...], StainSums]:
    """Read the pixels of a block's tiles.

    Returns:
        The tiles in batches, the faults that they meet, and the stain of the block where that is asked for.
        What cannot be read is white and counts as unstained.
    """
    if not tiles:
        return iter(()), (), NO_STAIN
    box_map, stain = _cover([tile.input for tile in tiles]), NO_STAIN
    with _timed(seconds, "resample"):
        reading = read(_TimedSlide(slide, seconds), settings.frame, box_map, settings.level)
        region = reflected(reading.region, box_map, settings.frame, settings.stitch.grid)
        if settings.stain:
            seen_map = block.box.intersect(box_map)  # all that is analyzed lies in it
            tissue = sampled(seen_map, analyzed, block.box)
            stain = stain_sums(sampled(seen_map, region, box_map)[tissue])
    seconds["resample"] -= seconds["read"]
    faults = tuple(f for f in reading.faults if any(_meet(f.box_map, tile.input) for tile in tiles))
    inputs = (_stack(region, box_map, group, settings.batch) for group in _groups(tiles, settings.batch))
    return inputs, faults, stain


def _groups(tiles: list[Tile], batch: int) -> list[list[Tile]]:
    return [tiles[start : start + batch] for start in range(0, len(tiles), batch)]


def _stitch(
    tiles: list[Tile],
    predictions: Iterator[Prediction],
    stitcher: Stitcher,
    settings: BlockSettings,
    seconds: dict[str, float],
) -> list[Callable[[], float]]:
    """Stitch predictions as they come; return what says how long a GPU was at work on each."""
    on_device: list[Callable[[], float]] = []
    for group in _groups(tiles, settings.batch):
        start = time.perf_counter()
        probabilities, spent, device_seconds = next(predictions)
        seconds["wait"] += max(0.0, time.perf_counter() - start - spent)
        seconds["predict"] += 0.0 if device_seconds else spent
        on_device += [device_seconds] if device_seconds else []
        _check_shape(probabilities, settings, settings.stitch.margin)
        with _timed(seconds, "stitch"):
            for tile, one in zip(group, probabilities, strict=False):
                stitcher.add(tile, one)
        del probabilities, one  # not kept while the next ones are made
    return on_device


class _TimedSlide:
    """A slide whose reads are timed apart from the resampling around them."""

    def __init__(self, slide: Slide, seconds: dict[str, float]) -> None:
        self._slide, self._seconds = slide, seconds
        self.info = slide.info

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        with _timed(self._seconds, "read"):
            return self._slide.read_level(level, box)


class _TimedTransfer(Transfer):
    """A transfer whose waiting for the device is timed apart from the stitching around it."""

    def __init__(self, transfer: Transfer, seconds: dict[str, float]) -> None:
        self._transfer, self._seconds = transfer, seconds

    def to_device(self, array: NDArray[Any], like: Any, /) -> Any:
        return self._transfer.to_device(array, like)

    def to_host(self, arrays: Sequence[Any], /) -> list[NDArray[Any]]:
        with _timed(self._seconds, "wait"):
            return self._transfer.to_host(arrays)


def _meet(one: Box, other: Box) -> bool:
    return not one.intersect(other).empty


def _coverage(faults: tuple[Fault, ...], block: Block, tissue: NDArray[np.bool_]) -> NDArray[np.uint8] | None:
    """Return what the faults mean for the tissue of a block; None where nothing."""
    coverage = np.zeros(tissue.shape, np.uint8)
    for fault in faults:
        part = fault.box_map.intersect(block.box)
        if not part.empty:
            coverage[part.within(block.box)] = UNREADABLE if fault.level is None else OTHER_LEVEL
    coverage *= tissue
    return coverage if coverage.any() else None


def _cover(boxes: list[Box]) -> Box:
    return Box(
        min(box.x0 for box in boxes),
        min(box.y0 for box in boxes),
        max(box.x1 for box in boxes),
        max(box.y1 for box in boxes),
    )


def reflected(pixels: NDArray[np.uint8], box_map: Box, frame: MapFrame, grid: Grid) -> NDArray[np.uint8]:
    """Fill pixels beyond the map by reflection, along axes that the grid does not cut.

    Args:
        pixels: uint8 RGB (h, w, 3), read at `box_map`.
        box_map: of the pixels; meets the map.
        frame: of the map.
        grid: as fitted to it.

    Returns:
        uint8 (h, w, 3); along the axes that are cut as it was.
    """
    height, width = pixels.shape[:2]
    size = frame.size
    left, right = _beyond(box_map.x0, width, size.width) if grid.whole[0] is not None else (0, 0)
    top, bottom = _beyond(box_map.y0, height, size.height) if grid.whole[1] is not None else (0, 0)
    if left == right == top == bottom == 0:
        return pixels
    inside = pixels[top : height - bottom, left : width - right]
    return np.pad(inside, ((top, bottom), (left, right), (0, 0)), "reflect")


def _beyond(start: int, length: int, side: int) -> tuple[int, int]:
    """Return how many of the pixels from `start` on lie before and after an axis of the map."""
    return max(0, -start), max(0, start + length - side)


def _stack(region: NDArray[np.uint8], region_map: Box, tiles: list[Tile], batch: int) -> NDArray[np.uint8]:
    """Cut tiles out of a region; fill up to `batch` with zeros so that the network sees one shape."""
    out = np.zeros((batch, tiles[0].input.height, tiles[0].input.width, 3), np.uint8)
    for row, tile in enumerate(tiles):
        out[row] = region[tile.input.within(region_map)]
    return out


def _check_shape(probabilities: Any, settings: BlockSettings, margin: int) -> None:
    size = settings.stitch.grid.input_size
    expected = (settings.batch, len(settings.codes), size.height - 2 * margin, size.width - 2 * margin)
    if tuple(probabilities.shape) != expected:
        raise ModelError(
            f"the model returned an array of shape {tuple(probabilities.shape)}, expected {expected} "
            "(batch, classes of the card, tile height, tile width)"
        )


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - start
