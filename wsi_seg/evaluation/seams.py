"""How much tiling changes the result: the stitched map against one forward pass over the whole region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Box, RealBox, Scale
from wsi_seg.inference.blocks import BlockSettings, Predictor, reflected, segment_block
from wsi_seg.inference.stitch import to_numpy
from wsi_seg.planning.grid import INPUT_MULTIPLE, Block, Grid
from wsi_seg.planning.stitch_settings import StitchSettings
from wsi_seg.slides.slide import Slide, read_region
from wsi_seg.tissue.mask import TissueMask


@dataclass(frozen=True, slots=True)
class SeamReport:
    """Stitched tiles against one forward pass, over the same pixels."""

    box_map: Box
    equal_labels: float
    """Share of pixels with the same most probable class, 0 … 1."""
    mean_difference: float
    """Mean absolute difference of probabilities over pixels and classes."""
    largest_difference: float


def measure_seams(
    slide: Slide, predictor: Predictor, settings: BlockSettings, box_map: Box, context: int = 512
) -> SeamReport:
    """Compare the stitched prediction of a region with that of one undivided image.

    The undivided image reaches `context` pixels beyond the region on each side, so that its own border does
    not count. Along axes that the grid does not cut it is the map and its reflection, as the tiles are. It
    starts at the phase of the network at which tiles start, or would differ for that reason alone.

    Args:
        slide: an open slide.
        predictor: must take images of any size that is a multiple of 32.
        settings: grid and blending under test.
        box_map: the region; it is widened to multiples of 32 pixels.
        context: pixels around it, besides the margin of the network; a multiple of 32.

    Raises:
        UsageError: the network takes tiles of one size only; or the grid's tiles do not start at multiples
            of 32, so no undivided image matches them.
    """
    grid = settings.stitch.grid
    if grid.multiple == grid.tile:
        raise UsageError(
            f"the network takes tiles of {grid.tile} px only, so no undivided image can be compared"
        )
    if any(part % INPUT_MULTIPLE for part in (grid.stride, grid.halo, context)):
        raise UsageError(
            f"overlap {grid.overlap} and tile {grid.tile} do not start tiles at multiples of "
            f"{INPUT_MULTIPLE}; use an overlap that is a multiple of 64"
        )
    box = box_map.aligned(INPUT_MULTIPLE)
    whole_map = _undivided(grid, box.grown(context + -(-grid.margin // INPUT_MULTIPLE) * INPUT_MULTIPLE))
    image = read_region(slide, settings.frame, whole_map, settings.level)
    image = reflected(image, whole_map, settings.frame, grid)
    predicted = whole_map.grown(-grid.margin)
    whole = to_numpy(predictor(image[None], margin=grid.margin)[0])[(slice(None), *box.within(predicted))]
    stitch = StitchSettings(grid, settings.stitch.blend, 1, "float32")
    everywhere = TissueMask(np.ones((1, 1), bool), _one_cell(slide), "none")
    one = BlockSettings(settings.frame, stitch, settings.codes, settings.level, settings.batch)
    maps = segment_block(slide, Block(0, 0, box), everywhere, predictor, one)
    inside = maps.labels > 0
    labels = np.array(settings.codes, np.uint8)[whole.argmax(axis=0)]
    difference = np.abs(whole - maps.probabilities)[:, inside]
    return SeamReport(
        box_map=box,
        equal_labels=float((labels == maps.labels)[inside].mean()),
        mean_difference=float(difference.mean()),
        largest_difference=float(difference.max()),
    )


def _undivided(grid: Grid, box_map: Box) -> Box:
    """Return the box, as long as the grid's tiles along axes that are not cut."""
    width, height = grid.whole
    margin = grid.margin
    x0, x1 = (box_map.x0, box_map.x1) if width is None else (-margin, width + margin)
    y0, y1 = (box_map.y0, box_map.y1) if height is None else (-margin, height + margin)
    return Box(x0, y0, x1, y1)


def _one_cell(slide: Slide) -> Scale:
    return Scale(float(slide.info.size.width), float(slide.info.size.height))


def densest_region(tissue: TissueMask, settings: BlockSettings, side: int) -> Box:
    """Return the box of at most side × side map pixels, out of a grid of such boxes, with most tissue."""
    frame = settings.frame
    width, height = min(side, frame.size.width), min(side, frame.size.height)
    best, most = Box.at(0, 0, width, height), -1
    for y in range(0, frame.size.height - height + 1, max(1, height // 2)):
        for x in range(0, frame.size.width - width + 1, max(1, width // 2)):
            box = Box.at(x, y, width, height)
            l0: RealBox = frame.to_l0(box)
            cells = int(np.count_nonzero(tissue.crop(l0).mask))
            if cells > most:
                best, most = box, cells
    return best
