"""The tasks of one slide, with their keys in Dask's graph: its blocks, and the shards of its pyramids."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Sequence
from itertools import groupby
from pathlib import Path

from wsi_seg.core.geometry import Box
from wsi_seg.execution.tasks import BlockRecord, BlockTask, PredictorRecipe, SlideRecipe
from wsi_seg.inference.blocks import BlockSettings
from wsi_seg.maps.maps import Maps
from wsi_seg.planning.map_layout import Kind, ShardRef
from wsi_seg.planning.plan import SegmentationPlan
from wsi_seg.slides.local_copies import SlideCache
from wsi_seg.tissue.mask import TissueMask


class SlideTasks:
    """The tasks that carry out a plan and fill one store."""

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
        """Return the tasks of `run_block` that fill level 0 of the maps, but for the blocks in `done`."""
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
                tasks.append((f"block-{self.token}-{block.iy}-{block.ix}", task))
        return tasks

    def shards(self, level: int, kinds: Container[Kind]) -> list[tuple[str, tuple[str, ShardRef]]]:
        """Return the tasks of `build_shard` for one level of the maps' pyramids that no block has written."""
        filled = {(p.block.ix >> level, p.block.iy >> level) for p in self.plan.blocks}
        return [
            (f"shard-{self.token}-{s.kind}-{s.level}-{s.iy}-{s.ix}", (self.store_path, s))
            for s in Maps.open(Path(self.store_path)).pyramid_shards(level)
            if s.kind in kinds and (s.ix, s.iy) in filled
        ]


def build_shard(task: tuple[str, ShardRef]) -> None:
    """Build one shard of a pyramid; see `Maps.build_shard` for what it raises."""
    path, shard = task
    Maps.open(Path(path)).build_shard(shard)
