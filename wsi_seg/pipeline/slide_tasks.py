"""The tasks of one slide, with their keys in Dask's graph: its blocks, and the shards of its pyramids."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from itertools import groupby
from pathlib import Path

from wsi_seg.core.geometry import Box
from wsi_seg.execution.tasks import BlockRecord, BlockTask, PredictorRecipe, ShardTask, SlideRecipe
from wsi_seg.inference.blocks import BlockSettings
from wsi_seg.maps.maps import Maps
from wsi_seg.planning.map_layout import Kind, ShardRef
from wsi_seg.planning.plan import SegmentationPlan
from wsi_seg.slides.local_copies import SlideCache
from wsi_seg.tissue.mask import TissueMask


class SlideTasks:
    """The tasks that carry out a plan and fill one store: blocks, and the pyramids over them."""

    def __init__(
        self, plan: SegmentationPlan, store: Path, cache: SlideCache | None, *, stain: bool = False
    ) -> None:
        """Make no task yet.

        `store` is the folder of the maps. Workers fetch a remote slide as a whole to `cache`; without one,
        they read it piece by piece. With `stain` they count it, see `BlockSettings`.
        """
        self.plan, self.stain = plan, stain
        self.store_path = str(store.absolute())
        # Slides may be the same but for their names, so the store is in the key of each task.
        self.token = hashlib.sha256(f"{plan.key} {self.store_path}".encode()).hexdigest()[:16]
        slide = plan.slide
        self.slide = SlideRecipe(slide.path, slide.reader, slide.mpp, slide.fingerprint, cache, slide.series)

    def blocks(
        self, tissue: TissueMask, predictor: PredictorRecipe, done: Sequence[BlockRecord]
    ) -> list[tuple[str, BlockTask]]:
        """Return the tasks that fill level 0 of the maps, but for the blocks in `done`."""
        plan, finished = self.plan, {(record.ix, record.iy) for record in done}
        settings = BlockSettings(
            plan.frame, plan.stitch, plan.codes, plan.level, plan.batch, plan.passes, self.stain
        )
        tasks = []
        for _, row in groupby((planned.block for planned in plan.blocks), key=lambda block: block.iy):
            blocks = list(row)
            # First of the whole row: a large drawing is not searched for each of its blocks.
            first, last = blocks[0].box, blocks[-1].box
            of_row = tissue.crop(plan.frame.to_l0(Box(first.x0, first.y0, last.x1, last.y1)))
            for block in blocks:
                if (block.ix, block.iy) in finished:
                    continue
                task = BlockTask(
                    block=block,
                    tissue=of_row.crop(plan.frame.to_l0(block.box)),
                    slide=self.slide,
                    predictor=predictor,
                    settings=settings,
                    maps_path=self.store_path,
                )
                tasks.append((self._block_key(block.ix, block.iy), task))
        return tasks

    def pyramids(self, kinds: Container[Kind]) -> tuple[list[tuple[str, ShardTask]], dict[str, list[str]]]:
        """Return the tasks that build what no block has written, finer levels first.

        Also the keys of what each waits for: the blocks below it, or the shards that are built of these.
        """
        maps = Maps.open(Path(self.store_path))
        tasks: list[tuple[str, ShardTask]] = []
        after: dict[str, list[str]] = {}
        for level in range(maps.layout.block_levels, maps.level_count):
            lowest = level == maps.layout.block_levels
            below: dict[tuple[int, int], set[tuple[int, int]]] = {}
            for block in (planned.block for planned in self.plan.blocks):
                side = 0 if lowest else level - 1
                place = (block.ix >> level, block.iy >> level)
                below.setdefault(place, set()).add((block.ix >> side, block.iy >> side))
            for shard in maps.pyramid_shards(level):
                places = sorted(below.get((shard.ix, shard.iy), ()))
                if shard.kind not in kinds or not places:
                    continue
                key = self._shard_key(shard)
                tasks.append((key, ShardTask(self.store_path, shard)))
                after[key] = [
                    self._block_key(ix, iy)
                    if lowest
                    else self._shard_key(ShardRef(shard.kind, level - 1, ix, iy))
                    for ix, iy in places
                ]
        return tasks, after

    def _block_key(self, ix: int, iy: int) -> str:
        return f"block-{self.token}-{iy}-{ix}"

    def _shard_key(self, shard: ShardRef) -> str:
        return f"shard-{self.token}-{shard.kind}-{shard.level}-{shard.iy}-{shard.ix}"
