"""Contours that blocks leave: joined, they are those of the whole map, whatever the blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from wsi_seg.core.classes import BCSS, ClassGroup, TissueClass
from wsi_seg.core.errors import OutputError
from wsi_seg.core.geometry import Size
from wsi_seg.planning.grid import cut_blocks
from wsi_seg.regions.block_contours import ContourRecipe, TracedBlocks
from wsi_seg.regions.polygons import iter_regions
from wsi_seg.regions.settings import TraceSettings

GROUPS = (ClassGroup("one", (1,), (1, 1, 1)), ClassGroup("two", (2, 3), (2, 2, 2)))


class ArrayMaps:
    """Maps in memory."""

    classes: tuple[TissueClass, ...] = BCSS[:4]
    mpp = 0.5
    uncertainty = None

    def __init__(self, labels: NDArray[np.uint8], probabilities: NDArray[Any], downsample: int) -> None:
        self.labels, self.probabilities, self.probability_downsample = labels, probabilities, downsample

    @property
    def channels(self) -> tuple[ClassGroup, ...]:
        return tuple(c.alone for c in self.classes)


@st.composite
def some_maps(draw: st.DrawFn) -> ArrayMaps:
    """Smooth noise of some classes, with pixels that were not analyzed; probabilities of either type."""
    height, width = draw(st.integers(1, 48)), draw(st.integers(1, 48))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    noise = ndimage.gaussian_filter(random.random((height, width)), draw(st.sampled_from([0, 1, 3])))
    labels = np.digitize(noise, np.quantile(noise, [0.2, 0.5, 0.7, 0.9])).astype(np.uint8)
    downsample = draw(st.sampled_from([1, 2, 4]))
    small = random.random((4, -(-height // downsample), -(-width // downsample))).astype(np.float32)
    smooth = ndimage.gaussian_filter(small, (0, 1, 1))
    if draw(st.booleans()):
        return ArrayMaps(labels, smooth, downsample)
    return ArrayMaps(labels, (smooth * 255).astype(np.uint8), downsample)


def blocks_of(
    maps: ArrayMaps, side: int, folder: Path, chosen: TraceSettings, lost: float = 0.0
) -> TracedBlocks:
    """Clear some blocks of the maps, as if they were not planned, and write the files of most others."""
    height, width = maps.labels.shape
    recipe, ds = ContourRecipe(str(folder), GROUPS, chosen), maps.probability_downsample
    random, places = np.random.default_rng(0), list[tuple[int, int]]()
    for block in cut_blocks(Size(width, height), side):
        box = block.box
        small = (slice(None), slice(box.y0 // ds, -(-box.y1 // ds)), slice(box.x0 // ds, -(-box.x1 // ds)))
        if random.random() < 0.25:
            maps.labels[box.slices] = maps.probabilities[small] = 0
            continue
        places.append((block.ix, block.iy))
        if random.random() >= lost:
            recipe.write(maps, block, maps.labels[box.slices], maps.probabilities[small])
    return TracedBlocks(str(folder), side, tuple(places))


@settings(max_examples=20, deadline=None)
@given(
    maps=some_maps(),
    blocks=st.integers(1, 12),
    inner=st.sampled_from([3, 1024]),
    least=st.sampled_from([0.0, 3.0, 40.0]),
    tolerance=st.sampled_from([0.0, 1.0, 4.0]),
    source=st.sampled_from(["labels", "probabilities"]),
)
def test_regions_of_blocks_are_those_of_the_whole_map(
    maps: ArrayMaps, blocks: int, inner: int, least: float, tolerance: float, source: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    chosen = TraceSettings(0.5, least, least, tolerance, source)
    folder = tmp_path_factory.mktemp("blocks") / "contours"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsi_seg.regions.block_contours.BLOCK", inner)
        traced = blocks_of(maps, blocks * maps.probability_downsample, folder, chosen, lost=0.2)
        found = [*iter_regions(maps, GROUPS, chosen, traced)]
    assert found == [*iter_regions(maps, GROUPS, chosen)]


def test_the_maps_are_not_read_for_contours_that_blocks_have_left(tmp_path: Path) -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[5:60, 8:50], labels[20:30, 20:30] = 1, 2
    maps, chosen = (
        ArrayMaps(labels, np.zeros((4, 64, 64), np.uint8), 1),
        TraceSettings(0.5, 0, 0, 0, "labels"),
    )
    expected = [*iter_regions(maps, GROUPS, chosen)]
    recipe = ContourRecipe(str(tmp_path / "contours"), GROUPS, chosen)
    blocks = [*cut_blocks(Size(64, 64), 16)]
    for block in blocks:
        recipe.write(maps, block, labels[block.box.slices], maps.probabilities[:, :16, :16])
    traced = TracedBlocks(recipe.folder, 16, tuple((block.ix, block.iy) for block in blocks))
    emptied = ArrayMaps(np.zeros_like(labels), maps.probabilities, 1)
    found = [*iter_regions(emptied, GROUPS, chosen, traced)]
    assert [region.polygon for region in found] == [region.polygon for region in expected]
    assert len(found) == 2

    first = Path(recipe.folder) / "0-0.npz"
    before = first.read_bytes()
    recipe.write(maps, blocks[0], labels[:16, :16], maps.probabilities[:, :16, :16])
    assert first.read_bytes() == before
    first.write_bytes(before[: len(before) // 2])
    with pytest.raises(
        OutputError, match=r"^.*0-0\.npz: is damaged \(.*\); remove it and run again to resume$"
    ):
        [*iter_regions(maps, GROUPS, chosen, traced)]
    first.unlink()
    assert [*iter_regions(maps, GROUPS, chosen, traced)] == expected
    others = (ClassGroup("both", (1, 2), (3, 3, 3)), *GROUPS)  # of the first no block has left anything
    assert [*iter_regions(maps, others, chosen, traced)] == [*iter_regions(maps, others, chosen)]
