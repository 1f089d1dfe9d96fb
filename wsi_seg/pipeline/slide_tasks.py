"""The tasks of one slide, with their keys in Dask's graph and what each waits for.

blocks ──▶ shards of the pyramids ──▶ picture ──▶ overview
       └─▶ regions of each group, of the contours of blocks ──▶ file of all regions, overview
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.geometry import Box
from wsi_seg.execution.tasks import BlockRecord, BlockTask, PredictorRecipe, ShardTask, SlideRecipe, SlideTask
from wsi_seg.inference.blocks import BlockSettings
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.tracing import JoinTask, OverviewTask, PictureTask, TraceTask
from wsi_seg.planning.map_layout import ShardRef
from wsi_seg.planning.plan import SegmentationPlan
from wsi_seg.regions.block_contours import ContourRecipe, TracedBlocks
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.results.files import CONTOURS, OVERVIEW, POLYGONS, TRACED
from wsi_seg.slides.local_copies import SlideCache
from wsi_seg.tissue.mask import TissueMask


class SlideTasks:
    """The tasks that carry out a plan, fill one store and trace its regions."""

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
        self,
        tissue: TissueMask,
        predictor: PredictorRecipe,
        done: Sequence[BlockRecord],
        contours: ContourRecipe | None = None,
    ) -> list[tuple[str, BlockTask]]:
        """Return the tasks that fill level 0 of the maps, but for the blocks in `done`; see `BlockTask`."""
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
                    contours=contours,
                )
                tasks.append((self._block_key(block.ix, block.iy), task))
        return tasks

    def contours(self, groups: Sequence[ClassGroup], settings: RegionSettings) -> ContourRecipe:
        """Return the recipe of what blocks leave for `regions`."""
        return ContourRecipe(self.traced_blocks.folder, tuple(dict.fromkeys(groups)), settings.trace)

    @property
    def traced_blocks(self) -> TracedBlocks:
        """Blocks of the plan, with the contours that they have left once they are done."""
        folder = str(Path(self.store_path).parent / CONTOURS)
        return TracedBlocks(folder, self.plan.layout.block, self._places)

    def pyramids(self) -> tuple[list[tuple[str, ShardTask]], dict[str, list[str]]]:
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
                if not places:
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

    def regions(
        self,
        run: str,
        groups: Sequence[ClassGroup],
        settings: RegionSettings,
        notice: str,
        title: str,
        shards: Sequence[str],
    ) -> tuple[list[tuple[str, SlideTask]], dict[str, list[str]]]:
        """Return the tasks that trace the regions and draw the slide, and what each waits for.

        Args:
            run: text that tells runs with other groups or settings apart, for the keys.
            groups: to trace.
            settings: of the tracing.
            notice: put under the picture.
            title: put above it.
            shards: keys of the tasks of `pyramids`.
        """
        plan, results, name = self.plan, Path(self.store_path).parent, f"{self.token}-{run}"
        parts = {str(results / TRACED / str(n)): group for n, group in enumerate(dict.fromkeys(groups))}
        keys = {part: f"trace-{name}-{n}" for n, part in enumerate(parts)}
        of_slide = (plan.slide, plan.frame, self.store_path)
        tasks: list[tuple[str, SlideTask]] = []
        after: dict[str, list[str]] = {}
        of_name: dict[str, tuple[str, ...]] = {}
        blocks = self.traced_blocks
        for part, group in parts.items():
            before = of_name.get(group.name, ())
            task = TraceTask(*of_slide, group, settings.trace, settings.origin, blocks, part, before)
            tasks.append((keys[part], task))
            after[keys[part]] = [*self.block_keys, *(keys[other] for other in before)]
            of_name[group.name] = (*before, part)
        traced = [*keys.values()]
        join, paint, draw = f"join-{name}", f"picture-{name}", f"overview-{name}"
        file, picture, overview = (
            str(results / one) for one in (POLYGONS, f"{TRACED}/picture.npz", OVERVIEW)
        )
        tasks += [
            (join, JoinTask(*of_slide, settings.origin, tuple(parts), file)),
            (paint, PictureTask(self.slide, plan.frame, self.store_path, picture, title)),
            (draw, OverviewTask(self.store_path, picture, tuple(parts.items()), overview, notice)),
        ]
        after |= {join: traced, paint: [*self.block_keys, *shards], draw: [*traced, paint]}
        return tasks, after

    @property
    def block_keys(self) -> list[str]:
        """Keys of the tasks of all blocks of the plan."""
        return [self._block_key(*place) for place in self._places]

    @property
    def _places(self) -> tuple[tuple[int, int], ...]:
        return tuple((planned.block.ix, planned.block.iy) for planned in self.plan.blocks)

    def _block_key(self, ix: int, iy: int) -> str:
        return f"block-{self.token}-{iy}-{ix}"

    def _shard_key(self, shard: ShardRef) -> str:
        return f"shard-{self.token}-{shard.kind}-{shard.level}-{shard.iy}-{shard.ix}"
