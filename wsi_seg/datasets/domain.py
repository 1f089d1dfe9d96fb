"""Look of training data, measured on their regions for the card of a model; see `wsi_seg.tissue.domain`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wsi_seg.core.card import Domain
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.region import AnnotatedRegion
from wsi_seg.tissue.domain import LEAST_STAINED, LEAST_TILE, STEP, TILE_UM, StainSums, fit_domain, stain_sums

# Tiles of a region that are read at most: of larger ones every second, third, … tile stands for the others.
MOST_TILES = 1000


def measure_domain(regions: Iterable[AnnotatedRegion], mpp: float) -> Domain | None:
    """Measure what training data look like.

    Args:
        regions: to train on, at the model's resolution.
        mpp: of the model.

    Returns:
        For the card of the model. None where fewer than three patients have stained tissue: how much patients
        differ is then not known. Where patients are unknown, images stand for them.

    Raises:
        SlideError: the pixels cannot be read.
    """
    by_patient: dict[str, list[StainSums]] = {}
    side = max(LEAST_TILE, round(TILE_UM / mpp))
    for region in regions:
        by_patient.setdefault(region.group, []).extend(_stained_tiles(region, side))
    return fit_domain(list(by_patient.values()))


def _stained_tiles(region: AnnotatedRegion, side: int) -> Iterator[StainSums]:
    """Yield the stain of tiles of which enough is stained; what a region's edge cuts in half is left out."""
    whole = Box(0, 0, region.size.width, region.size.height)
    corners = [(x, y) for y in range(0, whole.height, side) for x in range(0, whole.width, side)]
    for x, y in corners[:: -(-len(corners) // MOST_TILES)]:
        tile = Box.at(x, y, side, side).intersect(whole)
        if 2 * tile.width * tile.height < side * side:
            continue
        pixels = region.read(tile)[0][STEP // 2 :: STEP, STEP // 2 :: STEP]
        stain = stain_sums(pixels)
        if stain.pixels >= LEAST_STAINED * pixels.shape[0] * pixels.shape[1]:
            yield stain
