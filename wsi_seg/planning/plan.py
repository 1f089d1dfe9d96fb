"""The plan of one slide: everything that will be done, as frozen data, before anything is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Size
from wsi_seg.planning.grid import Block, Grid, Tile, cut_blocks
from wsi_seg.planning.map_layout import MapLayout, output_bytes
from wsi_seg.planning.memory import ModelMemory, SourceMemory, WorkShape, passes_at_a_time, project_memory
from wsi_seg.planning.resolution import resolution_warnings
from wsi_seg.planning.settings import DEFAULT_THREADS, GPU_THREADS, PlanSettings
from wsi_seg.planning.stitch_settings import StitchSettings
from wsi_seg.planning.stored import stored_groups, stored_outputs
from wsi_seg.slides.slide import MapFrame, SlideInfo, map_frame, pick_level
from wsi_seg.tissue.mask import TissueMask

# A block is a whole number of strides nearest to this many map pixels: no tile is then predicted twice.
BLOCK_TARGET = 2048
# Share of a tile that overlaps its neighbors where the card does not say: with a U-Net of five halvings
# and tiles of 1024 px the stitched labels then equal an undivided forward pass on more than 99.9 % of
# pixels (`wsi-seg check-seams`). Kept to multiples of 64, so that all tiles have one phase of the network.
DEFAULT_OVERLAP_SHARE = 3 / 8
# Warning of a plan without work, and the reason in the row of a slide that was done without any.
NO_TISSUE = (
    "no tissue was found, so nothing is analyzed; give regions with --tissue FILE.geojson, or take the whole "
    "slide with --tissue none"
)
# Below a ceiling of memory tiles get smaller by this many pixels at a time, down to the least.
TILE_STEP = 128
LEAST_TILE = 256


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Properties of a model that planning needs."""

    card: ModelCard
    digest: str
    """Hash of weights and card."""
    weights_bytes: int
    activation_bytes: float = 0
    """Most bytes of activations that are alive at once in a forward pass on the CPU, per input pixel."""
    measured: bool = False
    """These are what a forward pass took of the system, and not the sum of its arrays."""
    device: str = "cpu"
    """Where it runs: `cpu`, `openvino` (the CPU too) or `cuda:N`."""
    precision: str = "float32"
    """`float32`, `bf16` or `fp16`."""
    tta: bool = False
    """Test-time augmentation: the mean prediction of the eight flips and turns of a tile."""
    passes: int = 1
    """Forward passes at a time that the device does best with."""
    pass_pixels: int = 0
    """Input pixels that a forward pass should have, where nothing was measured; at least one tile."""
    batches: tuple[tuple[int, int], ...] = ()
    """(tile, batch) that were measured to be fastest on this device."""


@dataclass(frozen=True, slots=True)
class PlannedBlock:
    """A block that holds tissue."""

    block: Block
    tiles: int
    """Tiles predicted for it."""


@dataclass(frozen=True, slots=True)
class SegmentationPlan:
    """All that `execute` will do to one slide."""

    slide: SlideInfo
    frame: MapFrame
    level: int
    """Slide level that is read."""
    model: str
    model_digest: str
    codes: tuple[int, ...]
    stitch: StitchSettings
    layout: MapLayout
    """Blocks, shards and levels of the maps."""
    batch: int
    device: str
    precision: str
    tta: bool
    threads: int
    """Blocks in flight in one process."""
    passes: int
    """Forward passes at a time in one process."""
    tissue_source: str
    tissue_digest: str
    artifacts_source: str | None
    """None: they were not looked for."""
    blocks: tuple[PlannedBlock, ...]
    """Blocks with tissue, row by row."""
    blocks_in_map: int
    max_memory_bytes: int | None
    """Ceiling that the projection was to stay below."""
    projected_memory_bytes: int
    """Upper estimate of the resident memory of one process."""
    projected_output_bytes: int
    """Upper estimate of the maps on disk, as if nothing compressed."""
    warnings: tuple[str, ...]

    @property
    def tiles(self) -> int:
        return sum(planned.tiles for planned in self.blocks)

    @property
    def key(self) -> str:
        """Hash of all that decides the bytes of the maps; where and how fast they are made is left out."""
        parts = (
            self.slide.fingerprint,
            self.slide.reader,
            self.frame,
            self.level,
            self.model_digest,
            self.stitch.key,
            self.layout.block,
            self.layout.block_levels,
            self.batch,
            self.device.split(":")[0],
            self.precision,
            self.tta,
            self.tissue_digest,
        )
        text = json.dumps([_plain(part) for part in parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON data; blocks are listed as [ix, iy, tiles]."""
        plain = {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}
        plain["blocks"] = [[p.block.ix, p.block.iy, p.tiles] for p in self.blocks]
        return {"key": self.key, "tiles": self.tiles, **plain}


def plan_segmentation(
    info: SlideInfo, tissue: TissueMask, model: ModelFacts, settings: PlanSettings
) -> SegmentationPlan:
    """Plan the segmentation of one slide.

    Raises:
        MppMissingError: the slide has no microns per pixel.
        SlideError: the slide is much coarser than the model's resolution.
        UsageError: tile, overlap, block, blend or downsampling do not fit together.
    """
    card = model.card
    frame = map_frame(info, card.mpp)
    warnings = (*info.assumed, *resolution_warnings(info, frame, settings.allow_upsampling))
    level = pick_level(info, frame)
    scale = frame.l0_per_map / info.levels[level].downsample
    source = SourceMemory(frame.size, scale, info.reader)
    shape, projected = _choose_shape(model, settings, source)
    grid, side = shape.grid, shape.block
    if settings.tile is None and grid.tile != card.tile:
        warnings += (
            f"the tile is {grid.tile} px, not {card.tile} as the model's card says, to stay below "
            f"{_megabytes(settings.max_memory or 0)} MB; a few labels near the borders of tiles may differ",
        )
    stitch = _stitch_settings(grid, settings, frame.size, card)
    layout = replace(
        _map_layout(info, tissue, frame, card, side, stitch),
        stored=stored_groups(settings.probabilities, card),
    )
    planned, total = _plan_blocks(frame, side, tissue, stitch)
    if not planned:
        warnings += (NO_TISSUE,)
    return SegmentationPlan(
        slide=info,
        frame=frame,
        level=level,
        model=card.name,
        model_digest=model.digest,
        codes=card.codes,
        stitch=stitch,
        layout=layout,
        batch=shape.batch,
        device=model.device,
        precision=model.precision,
        tta=model.tta,
        threads=shape.workers,
        passes=shape.passes,
        tissue_source=tissue.source,
        tissue_digest=tissue.digest(),
        artifacts_source=None if tissue.artifacts is None else tissue.artifacts.source,
        blocks=planned,
        blocks_in_map=total,
        max_memory_bytes=settings.max_memory,
        projected_memory_bytes=projected,
        projected_output_bytes=output_bytes(layout, len(planned) / max(1, total)),
        warnings=warnings,
    )


def _stitch_settings(grid: Grid, settings: PlanSettings, map_size: Size, card: ModelCard) -> StitchSettings:
    assessed = card.assessed if settings.uncertainty else None  # of no use to anything else
    stored = stored_outputs(stored_groups(settings.probabilities, card), card)
    return StitchSettings(
        grid.fitted(map_size, settings.probability_downsample),
        settings.blend,
        settings.probability_downsample,
        settings.probability_dtype,
        settings.uncertainty,
        None if assessed is None else len(assessed),
        stored,
    )


def _map_layout(
    info: SlideInfo, tissue: TissueMask, frame: MapFrame, card: ModelCard, block: int, stitch: StitchSettings
) -> MapLayout:
    return MapLayout(
        name=info.name,
        map_size=frame.size,
        mpp=frame.mpp,
        block=block,
        probability_downsample=stitch.probability_downsample,
        probability_dtype=stitch.probability_dtype,
        classes=card.tissue_classes,
        uncertainty=stitch.uncertainty,
        artifacts=() if tissue.artifacts is None else tissue.artifacts.classes,
    )


def _choose_shape(model: ModelFacts, settings: PlanSettings, source: SourceMemory) -> tuple[WorkShape, int]:
    """Return the first shape of the work that fits below the ceiling, and its projected bytes.

    Raises:
        UsageError: none does; names the least ceiling that would do.
    """
    least = None
    for shape in _shapes(model, settings):
        stitch = _stitch_settings(shape.grid, settings, source.map_size, model.card)
        projected = project_memory(shape, stitch, _model_memory(model), source)
        if settings.max_memory is None or projected <= settings.max_memory:
            return shape, projected
        least = projected if least is None else min(least, projected)
    assert least is not None and settings.max_memory is not None
    fixed = [n for n in ("tile", "overlap", "block", "batch", "threads") if getattr(settings, n) is not None]
    raise UsageError(
        f"max_memory {_megabytes(settings.max_memory)} MB is too little for this slide and model: the least "
        f"that works is {_megabytes(least)}MB"
        + (f", or less without a fixed {', '.join(fixed)}" if fixed else "")
    )


def _shapes(model: ModelFacts, settings: PlanSettings) -> Iterator[WorkShape]:
    """Yield the shapes that the work may take, from the best to the one with the least memory.

    First fewer blocks in flight, then smaller blocks, fewer forward passes at a time, smaller batches, and
    last a smaller tile, as only that changes what the network sees. What the user has set stays.
    """
    usual = GPU_THREADS if model.device.startswith("cuda") else DEFAULT_THREADS
    for grid in _grids(model.card, settings):
        fixed = _fixed_batch(model.card, settings)
        batch = fixed or dict(model.batches).get(grid.tile) or usual_batch(grid, model)
        for size in (batch,) if fixed else sorted({batch, 1}, reverse=True):
            for passes in range(affordable_passes(model, grid, size), 0, -1):
                for side in _blocks(grid, settings):
                    for workers in (settings.threads,) if settings.threads else range(usual, 0, -1):
                        yield WorkShape(grid, side, size, workers, passes)


def _fixed_batch(card: ModelCard, settings: PlanSettings) -> int | None:
    if card.batch is not None and settings.batch not in (None, card.batch):
        raise UsageError(
            f"batch {settings.batch}: the network of {card.name!r} takes {card.batch} tiles at a time"
        )
    return card.batch or settings.batch


def affordable_passes(model: ModelFacts, grid: Grid, batch: int) -> int:
    """Return how many forward passes at a time are worth their memory, where no ceiling asks for fewer."""
    return passes_at_a_time(grid, batch, _model_memory(model), model.passes)


def usual_batch(grid: Grid, model: ModelFacts) -> int:
    """Return the tiles of a forward pass where nothing was measured or asked for."""
    return max(1, model.pass_pixels // grid.tile**2)


def _grids(card: ModelCard, settings: PlanSettings) -> Iterator[Grid]:
    grid = choose_grid(card, settings.tile, settings.overlap)
    yield grid
    if settings.tile is None and settings.overlap is None and settings.max_memory is not None:
        step = math.lcm(TILE_STEP, card.input_multiple)
        for tile in range(grid.tile - step, max(LEAST_TILE, 2 * card.output.margin + step) - 1, -step):
            overlap = max(min(grid.overlap, tile // 128 * 64), 2 * card.output.margin)
            yield replace(grid, tile=tile, overlap=overlap)


def _blocks(grid: Grid, settings: PlanSettings) -> Iterator[int]:
    side = _choose_block(grid, settings)
    yield side
    if settings.block is None and settings.max_memory is not None:
        yield from range(side - grid.stride, 0, -grid.stride)


def _model_memory(model: ModelFacts) -> ModelMemory:
    return ModelMemory(
        len(model.card.codes),
        model.weights_bytes,
        model.activation_bytes,
        model.device,
        model.precision,
        model.tta,
        model.measured,
    )


def _megabytes(size: int) -> int:
    return math.ceil(size / 1e6)


def needed_tiles(block: Block, tissue: TissueMask, frame: MapFrame, stitch: StitchSettings) -> list[Tile]:
    """Return the tiles, in grid order, whose prediction some pixel of the block that is analyzed needs."""
    cropped = stitch.blend == "crop"
    grid = stitch.grid
    tiles = grid.tiles_with_core_in(block.box) if cropped else grid.tiles_predicting(block.box)
    return [
        tile
        for tile in tiles
        if tissue.any_left_in(frame.to_l0((tile.core if cropped else tile.predicted).intersect(block.box)))
    ]


def choose_grid(card: ModelCard, tile: int | None = None, overlap: int | None = None) -> Grid:
    """Return the grid of a model: what is asked for, else what its card says, else the default overlap.

    Raises:
        UsageError: the network does not take this tile, or predicts too little of it for this overlap.
    """
    side = tile or card.tile
    if card.input_multiple == card.tile != side:
        raise UsageError(f"tile {side}: the network of {card.name!r} takes tiles of {card.tile} px only")
    if overlap is None and side == card.tile:
        overlap = card.overlap
    if overlap is None:
        overlap = max(int(side * DEFAULT_OVERLAP_SHARE) // 64 * 64, 2 * card.output.margin)
    return Grid(side, overlap, margin=card.output.margin, multiple=card.input_multiple)


def _choose_block(grid: Grid, settings: PlanSettings) -> int:
    if settings.block is None:
        return max(1, round(BLOCK_TARGET / grid.stride)) * grid.stride
    if settings.block < 64 or settings.block % 16 or settings.block % settings.probability_downsample:
        raise UsageError(
            f"block {settings.block} must be a multiple of 16 and of probability_downsample "
            f"({settings.probability_downsample}), at least 64; the default is {BLOCK_TARGET}-like"
        )
    return settings.block


def _plan_blocks(
    frame: MapFrame, side: int, tissue: TissueMask, stitch: StitchSettings
) -> tuple[tuple[PlannedBlock, ...], int]:
    planned = []
    total = 0
    for block in cut_blocks(frame.size, side):
        total += 1
        if tissue.any_in(frame.to_l0(block.box)):
            tiles = len(needed_tiles(block, tissue, frame, stitch))
            planned.append(PlannedBlock(block, tiles))
    return tuple(planned), total


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
