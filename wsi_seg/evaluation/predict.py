"""Predict annotated regions exactly as `wsi-seg run` predicts slides: the same grid, blocks and stitching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.card import ModelCard
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, Place
from wsi_seg.evaluation.metrics import NO_ROW
from wsi_seg.evaluation.tally import PredictedBlock
from wsi_seg.inference.blocks import BlockSettings, Predictor, reflected, segment_block
from wsi_seg.inference.stitch import to_numpy
from wsi_seg.planning.grid import Block, Grid, cut_blocks
from wsi_seg.planning.plan import choose_grid
from wsi_seg.planning.stitch_settings import StitchSettings
from wsi_seg.slides.slide import MapFrame, pick_level, read_region
from wsi_seg.tissue.mask import find_tissue

# A block is a whole number of strides nearest to this many map pixels; the result does not depend on it.
# float32 probabilities of 21 classes take 140 MB at 1280 px a side.
BLOCK_TARGET = 1024


class Classifier(Protocol):
    """A predictor that knows classes of whole images too."""

    def classify(self, tiles: NDArray[np.uint8], /) -> Any:
        """Return float32 probabilities (N, L) of RGB tiles uint8 (N, H, W, 3)."""


def predict_region(
    region: AnnotatedRegion, predictor: Predictor, card: ModelCard, batch: int = 1
) -> Iterator[PredictedBlock]:
    """Predict a region block by block; blocks without any known target are left out.

    Args:
        region: at the model's resolution.
        predictor: of the model, or one that stands in for it.
        card: its tile, overlap and classes.
        batch: tiles per forward pass.

    Raises:
        SlideError: the pixels cannot be read.
        ModelError: the predictor's output has another shape than its card says.
    """
    channel_of = np.full(256, NO_ROW, np.uint8)
    channel_of[list(card.codes)] = np.arange(len(card.codes))
    place = region.place()
    grid = choose_grid(card).fitted(place.frame.size)
    with place.slide as slide:
        level = pick_level(slide.info, place.frame)
        settings = BlockSettings(
            place.frame, StitchSettings(grid, "crop", 1, "float32"), card.codes, level, batch
        )
        everywhere = find_tissue(slide, "none")
        for block in _blocks_of(place, grid):
            inside = block.box.shifted(-place.box_map.x0, -place.box_map.y0)
            target = region.part(inside).coarse_targets(1)
            if (target == IGNORED).all():
                continue
            maps = segment_block(slide, block, everywhere, predictor, settings)
            yield PredictedBlock(inside, target, channel_of[maps.labels], maps.probabilities)


def _blocks_of(place: Place, grid: Grid) -> Iterator[Block]:
    """Yield the parts of the slide's blocks that lie in the region, row by row."""
    side = max(1, round(BLOCK_TARGET / grid.stride)) * grid.stride
    for block in cut_blocks(place.frame.size, side):
        inside = block.box.intersect(place.box_map)
        if not inside.empty:
            yield Block(block.ix, block.iy, inside)


def classify_region(
    region: AnnotatedRegion, classifier: Classifier, card: ModelCard, batch: int = 1
) -> NDArray[np.float64]:
    """Return the probabilities (L,) of the card's image labels: the mean over the region's tiles.

    Args, Raises:
        as `predict_region`.
    """
    place = region.place()
    grid = choose_grid(card).fitted(place.frame.size)
    tiles = list(grid.tiles_with_core_in(place.box_map))
    total = np.zeros(len(card.image_labels))
    with place.slide as slide:
        for start in range(0, len(tiles), batch):
            boxes = [tile.input for tile in tiles[start : start + batch]]
            read = ((read_region(slide, place.frame, box), box) for box in boxes)
            group = [reflected(pixels, box, place.frame, grid) for pixels, box in read]
            total += to_numpy(classifier.classify(np.stack(group))).sum(axis=0, dtype=np.float64)
    return total / len(tiles)


def picture_of(region: AnnotatedRegion, step: int, size: Size) -> NDArray[np.uint8]:
    """Return a region's image at 1 / step of its resolution; raises SlideError."""
    place = region.place()
    with place.slide:
        return read_small(place, step, size)


def read_small(place: Place, step: int, size: Size) -> NDArray[np.uint8]:
    """Return the place's image at 1 / step of the map's resolution, read as slides are."""
    frame = place.frame
    coarse = MapFrame(frame.mpp * step, frame.size, frame.l0_per_map * Scale(step, step))
    box = Box.at(place.box_map.x0 // step, place.box_map.y0 // step, size.width, size.height)
    return read_region(place.slide, coarse, box)


class Canvas:
    """A small copy of a large label map: every `step`-th pixel of both axes, the first at step // 2."""

    def __init__(self, box: Box, step: int, fill: int) -> None:
        self._box, self._step = box, step
        shape = tuple(len(range(step // 2, side, step)) for side in (box.height, box.width))
        self.pixels: NDArray[np.int16] = np.full(shape, fill, np.int16)

    def put(self, box: Box, values: NDArray[Any]) -> None:
        """Copy the pixels of a part (h, w) that lies at `box`."""
        part = box.intersect(self._box)
        values = values[part.within(box)]
        row, y = self._first(part.y0 - self._box.y0)
        column, x = self._first(part.x0 - self._box.x0)
        picked = values[y :: self._step, x :: self._step]
        self.pixels[row : row + picked.shape[0], column : column + picked.shape[1]] = picked

    def _first(self, start: int) -> tuple[int, int]:
        """Return the first sample at or after `start`, and how many pixels after."""
        index = max(0, -(-(start - self._step // 2) // self._step))
        return index, index * self._step + self._step // 2 - start
