"""OpenVINO in place of torch on the CPU: how much faster, and how many labels are the same."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.card import ModelCard
from wsi_seg.core.geometry import Box
from wsi_seg.inference.models.predictor import NetworkPredictor
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.sample import sample_slide
from wsi_seg.slides.slide import map_frame, read_region

ROUNDS = 5
MOST_TILES = 6
SAME_LABELS = 0.999
"""Share of labels from which on OpenVINO is recommended."""


@dataclass(frozen=True, slots=True)
class Trial:
    """OpenVINO next to torch, with the same number format and one forward pass at a time."""

    tile: int
    """Side of the network's input in pixels."""
    tiles: int
    """Of the packaged slide, whose labels were compared."""
    time_ratio: float
    """Seconds of OpenVINO in those of torch, the median over rounds."""
    same_labels: float
    """Share of pixels with the same label."""

    @property
    def recommended(self) -> bool:
        """OpenVINO is faster, and hardly a label changes."""
        return self.time_ratio < 1 and self.same_labels >= SAME_LABELS


def sample_tiles(card: ModelCard, tile: int) -> NDArray[np.uint8]:
    """Return tiles of the packaged slide at the resolution of a model, uint8 (N, tile, tile, 3), N ≤ 6.

    They lie side by side from the slide's corner. One that is larger than the slide is white beyond it.
    """
    with open_slide(sample_slide()) as slide:
        frame = map_frame(slide.info, card.mpp)
        columns, rows = (max(1, side // tile) for side in (frame.size.width, frame.size.height))
        corners = [(x * tile, y * tile) for y in range(rows) for x in range(columns)]
        step = -(-len(corners) // MOST_TILES)
        return np.stack([read_region(slide, frame, Box.at(x, y, tile, tile)) for x, y in corners[::step]])


def try_openvino(torch: NetworkPredictor, openvino: NetworkPredictor, tile: int) -> Trial:
    """Compare two predictors of one model, of which the second computes by OpenVINO.

    They take turns, after a first call of each, so that both meet the same noise of the machine.

    Raises:
        ModelError: OpenVINO cannot convert the network, or memory does not suffice.
    """
    tiles = sample_tiles(torch.card, tile)
    batches = [np.repeat(one[None], torch.card.batch or 1, axis=0) for one in tiles]
    same = [float((torch(one).argmax(1) == openvino(one).argmax(1)).float().mean()) for one in batches]
    ratios = []
    for _ in range(ROUNDS):
        seconds = []
        for predictor in (torch, openvino):
            start = time.perf_counter()
            predictor.logits(batches[0])
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[1] / seconds[0])
    return Trial(tile, len(tiles), round(statistics.median(ratios), 4), round(statistics.mean(same), 6))
