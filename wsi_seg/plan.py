"""The plan of one slide: everything that will be done, as frozen data, before anything is done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, replace
from typing import Any

from wsi_seg.card import ModelCard
from wsi_seg.errors import SlideError, UsageError
from wsi_seg.layout import MapLayout, ProbabilityDtype, output_bytes
from wsi_seg.slide import MapFrame, SlideInfo, map_frame, pick_level, upsampling
from wsi_seg.stitch import Blend, StitchSettings
from wsi_seg.tiling import Block, Grid, Tile, cut_blocks
from wsi_seg.tissue import TissueMask

# A block is a whole number of strides nearest to this many map pixels: no tile is then predicted twice.
BLOCK_TARGET = 2048
# Share of a tile that overlaps its neighbours where the card does not say: with a U-Net of five halvings
# and tiles of 1024 px the stitched labels then equal an undivided forward pass on more than 99.9 % of
# pixels (`wsi-seg check-seams`). Kept to multiples of 64, so that all tiles have one phase of the network.
DEFAULT_OVERLAP_SHARE = 3 / 8
# Stretching level-0 pixels by more than this needs --allow-upsampling.
UPSAMPLING_LIMIT = 1.25

# Resident memory of the interpreter with torch, zarr and the readers loaded, and of a reader's own tile
# cache; measured with benchmarks/memory.py.
BASE_BYTES = 950 * 2**20
READER_CACHE_BYTES = 64 * 2**20
# Bytes of live activations per input pixel of one tile in the widest part of a U-Net, by precision.
ACTIVATION_BYTES = {"float32": 1000, "bf16": 600, "fp16": 600}


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """What a user may choose; None means: take it from the model card or work it out."""

    tile: int | None = None
    overlap: int | None = None
    block: int | None = None
    blend: Blend = "crop"
    batch: int | None = None
    """Tiles per forward pass; None: what was measured to be fastest, else 1."""
    workers: int = 2
    probability_downsample: int = 4
    probability_dtype: ProbabilityDtype = "uint8"
    uncertainty: bool = False
    """Store the uncertainty as one more channel after the probabilities."""
    allow_upsampling: bool = False


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What planning needs to know about a model."""

    card: ModelCard
    digest: str
    """Hash of weights and card."""
    weights_bytes: int
    device: str = "cpu"
    """Where it runs: `cpu` or `cuda:N`."""
    precision: str = "float32"
    """`float32`, `bf16` or `fp16`."""
    tta: bool = False
    """Test-time augmentation: the mean prediction of the eight flips and turns of a tile."""
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
    workers: int
    tissue_source: str
    tissue_digest: str
    blocks: tuple[PlannedBlock, ...]
    """Blocks with tissue, row by row."""
    blocks_in_map: int
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
            self.frame,
            self.level,
            self.model_digest,
            self.stitch,
            self.layout.block,
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
    warnings = resolution_warnings(info, frame, settings.allow_upsampling)
    grid = choose_grid(card, settings.tile, settings.overlap)
    batch = settings.batch or dict(model.batches).get(grid.tile, 1)
    stitch = StitchSettings(
        grid,
        settings.blend,
        settings.probability_downsample,
        settings.probability_dtype,
        settings.uncertainty,
    )
    side = _choose_block(grid, settings)
    layout = MapLayout(
        name=info.name,
        map_size=frame.size,
        mpp=frame.mpp,
        block=side,
        probability_downsample=stitch.probability_downsample,
        probability_dtype=stitch.probability_dtype,
        classes=card.tissue_classes,
        uncertainty=stitch.uncertainty,
    )
    planned, total = _plan_blocks(frame, side, tissue, stitch)
    level = pick_level(info, frame)
    return SegmentationPlan(
        slide=info,
        frame=frame,
        level=level,
        model=card.name,
        model_digest=model.digest,
        codes=card.codes,
        stitch=stitch,
        layout=layout,
        batch=batch,
        device=model.device,
        precision=model.precision,
        tta=model.tta,
        workers=settings.workers,
        tissue_source=tissue.source,
        tissue_digest=tissue.digest(),
        blocks=planned,
        blocks_in_map=total,
        projected_memory_bytes=_project_memory(
            info, frame, level, model, side, stitch, replace(settings, batch=batch)
        ),
        projected_output_bytes=output_bytes(layout, len(planned) / max(1, total)),
        warnings=warnings,
    )


def needed_tiles(block: Block, tissue: TissueMask, frame: MapFrame, stitch: StitchSettings) -> list[Tile]:
    """Return the tiles, in grid order, whose prediction some tissue pixel of the block needs."""
    cropped = stitch.blend == "crop"
    grid = stitch.grid
    tiles = grid.tiles_with_core_in(block.box) if cropped else grid.tiles_with_input_in(block.box)
    return [
        tile
        for tile in tiles
        if tissue.any_in(frame.to_l0((tile.core if cropped else tile.input).intersect(block.box)))
    ]


def resolution_warnings(info: SlideInfo, frame: MapFrame, allowed: bool) -> tuple[str, ...]:
    """Return what to say about the resolution; SlideError where it is too coarse and not `allowed`."""
    warnings = []
    if info.mpp_estimated and info.mpp is not None:
        warnings.append(
            f"microns per pixel estimated from the objective power ({info.mpp.x:g}); "
            "give --mpp if you know better"
        )
    factor = upsampling(frame)
    if factor > UPSAMPLING_LIMIT and not allowed:
        raise SlideError(
            f"{info.path}: at {frame.mpp * factor:.3g} µm/px the slide is {factor:.2f}× coarser than "
            f"the model's {frame.mpp:g} µm/px; choose another model, or pass --allow-upsampling to stretch it"
        )
    if factor > 1.01:
        warnings.append(f"the slide is {factor:.2f}× coarser than the model's resolution and is stretched")
    return tuple(warnings)


def choose_grid(card: ModelCard, tile: int | None = None, overlap: int | None = None) -> Grid:
    """Return the grid of a model: what is asked for, else what its card says, else the default overlap."""
    side = tile or card.tile
    if overlap is None and side == card.tile:
        overlap = card.overlap
    if overlap is None:
        overlap = int(side * DEFAULT_OVERLAP_SHARE) // 64 * 64
    return Grid(side, overlap)


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


def _project_memory(
    info: SlideInfo,
    frame: MapFrame,
    level: int,
    model: ModelFacts,
    side: int,
    stitch: StitchSettings,
    settings: PlanSettings,
) -> int:
    """Sum of what one process holds: itself, the network, one forward pass, and the blocks in flight."""
    channels = len(model.card.codes)
    reach = min(side, max(frame.size.width, frame.size.height)) + stitch.grid.overlap + 128
    scale = frame.l0_per_map / info.levels[level].downsample
    source = reach * reach * scale.x * scale.y * (4 + 4 + 3 + 3 + 3)  # RGBA, its copy, RGB, copies
    item = 4 if stitch.probability_dtype == "float32" else 1
    stored = channels + stitch.uncertainty
    maps = side * side * (1 + 1 + 1) * 2 + side * side * stored * item * 2 / stitch.probability_downsample**2
    canvas = 0 if stitch.blend == "crop" else side * side * 4 * (2 * channels + 2)
    canvas += side * side * 4 * 4 if stitch.uncertainty else 0  # entropy, and what it is summed from
    per_block = source + reach * reach * 3 + maps + canvas
    tile_pixels = stitch.grid.tile**2 * (settings.batch or 1)
    # With test-time augmentation there are also the sum and the turned copy of a prediction.
    maps_in_flight = 6 if model.tta else 4
    forward = tile_pixels * (ACTIVATION_BYTES[model.precision] + channels * 4 * maps_in_flight)
    weights = 2 * model.weights_bytes * (2 if model.precision == "float32" else 1)
    if model.device != "cpu":
        forward = tile_pixels * channels * 4  # the rest is the device's own memory
    return math.ceil(BASE_BYTES + weights + forward + settings.workers * (per_block + READER_CACHE_BYTES))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
