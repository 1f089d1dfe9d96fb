"""Carry out a plan: the jobs of all blocks, then of all pyramid levels, through the Dask graph."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from wsi_seg.core.geometry import Box
from wsi_seg.execution.graph import Workers
from wsi_seg.execution.tasks import (
    BlockJob,
    BlockRecord,
    PredictorRecipe,
    SlideRecipe,
    killed_block,
    run_block,
)
from wsi_seg.inference.blocks import BlockSettings
from wsi_seg.maps.maps import Maps
from wsi_seg.planning.map_layout import KINDS, Kind, ShardRef
from wsi_seg.planning.plan import SegmentationPlan
from wsi_seg.slides.local_copies import SlideCache
from wsi_seg.tissue.mask import TissueMask


@dataclass(frozen=True, slots=True)
class Execution:
    """Where a plan is carried out, and into which store."""

    plan: SegmentationPlan
    store: Path
    workers: Workers
    cache: SlideCache | None = None
    """Where the workers fetch a remote slide as a whole, if they do."""

    @property
    def store_path(self) -> str:
        return str(self.store.absolute())

    @property
    def token(self) -> str:
        """Tells tasks of this store from those of another, whose slide may be the same but for its name."""
        return hashlib.sha256(f"{self.plan.key} {self.store_path}".encode()).hexdigest()[:16]


def segment_blocks(
    execution: Execution,
    tissue: TissueMask,
    predictor: PredictorRecipe,
    done: Sequence[BlockRecord],
    on_record: Callable[[BlockRecord], None],
) -> None:
    """Fill level 0 of the maps, one task a block; blocks in `done` are left as they are.

    Raises:
        Interrupted, ModelError, OutputError: see `jobs.run_block`.
    """
    finished = {(record.ix, record.iy) for record in done}
    jobs = [
        (key, job)
        for key, job in _block_jobs(execution, tissue, predictor)
        if (job.block.ix, job.block.iy) not in finished
    ]
    execution.workers.execute(
        run_block, jobs, threads=execution.plan.threads, on_result=on_record, on_killed=killed_block
    )


def slide_recipe(execution: Execution) -> SlideRecipe:
    """Return how workers open the slide of a plan."""
    slide = execution.plan.slide
    return SlideRecipe(slide.path, slide.reader, slide.mpp, slide.fingerprint, execution.cache, slide.series)


def _block_jobs(
    execution: Execution, tissue: TissueMask, predictor: PredictorRecipe
) -> Iterator[tuple[str, BlockJob]]:
    plan, token = execution.plan, execution.token
    slide = slide_recipe(execution)
    settings = BlockSettings(plan.frame, plan.stitch, plan.codes, plan.level, plan.batch, plan.passes)
    for _, row in groupby((planned.block for planned in plan.blocks), key=lambda block: block.iy):
        blocks = list(row)
        # First of the whole row: a large drawing is not searched for each of its blocks.
        first, last = blocks[0].box, blocks[-1].box
        of_row = tissue.crop(plan.frame.to_l0(Box(first.x0, first.y0, last.x1, last.y1)))
        for block in blocks:
            yield (
                f"block-{token}-{block.iy}-{block.ix}",
                BlockJob(
                    block=block,
                    tissue=of_row.crop(plan.frame.to_l0(block.box)),
                    slide=slide,
                    predictor=predictor,
                    settings=settings,
                    maps_path=execution.store_path,
                ),
            )


def build_pyramids(execution: Execution, kinds: Container[Kind] = KINDS) -> None:
    """Build the levels of maps that no block has written, one by one, a task for each shard.

    Raises:
        Interrupted, OutputError: see `maps.Maps.build_shard`.
    """
    plan, token = execution.plan, execution.token
    maps = Maps.open(execution.store)
    for level in range(maps.layout.block_levels, maps.level_count):
        filled = {(p.block.ix >> level, p.block.iy >> level) for p in plan.blocks}
        jobs = [
            (f"shard-{token}-{s.kind}-{s.level}-{s.iy}-{s.ix}", (execution.store_path, s))
            for s in maps.pyramid_shards(level)
            if s.kind in kinds and (s.ix, s.iy) in filled
        ]
        execution.workers.execute(_build_shard, jobs, threads=plan.threads, on_result=lambda _: None)


def _build_shard(job: tuple[str, ShardRef]) -> None:
    path, shard = job
    Maps.open(Path(path)).build_shard(shard)
