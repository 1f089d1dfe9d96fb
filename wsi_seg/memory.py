"""How much memory a run will need, before it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wsi_seg.geometry import Scale, Size
from wsi_seg.stitch import StitchSettings
from wsi_seg.tiling import Grid

# Resident memory of the interpreter with torch, zarr and the readers loaded, and of a reader's own tile
# cache; measured with benchmarks/memory.py.
BASE_BYTES = 950 * 2**20
READER_CACHE_BYTES = 64 * 2**20
# Bytes of live activations per input pixel of one tile in the widest part of a U-Net, by precision.
ACTIVATION_BYTES = {"float32": 1000, "bf16": 600, "fp16": 600}


@dataclass(frozen=True, slots=True)
class WorkShape:
    """How the work is cut, which decides the memory that it takes."""

    grid: Grid
    block: int
    """Side in map pixels."""
    batch: int
    workers: int
    """Blocks in flight."""


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What decides the memory of a model."""

    channels: int
    weights_bytes: int
    """As stored."""
    device: str
    precision: str
    tta: bool


def project_memory(
    shape: WorkShape, stitch: StitchSettings, model: ModelMemory, map_size: Size, scale: Scale
) -> int:
    """Return an upper estimate of the bytes that one process holds.

    Args:
        shape: tile, block, batch and blocks in flight.
        stitch: how tiles become maps.
        model: the network.
        map_size: of the whole map.
        scale: pixels of the level that is read per map pixel.
    """
    blocks = shape.workers * (_block_bytes(shape, stitch, model, map_size, scale) + READER_CACHE_BYTES)
    weights = 2 * model.weights_bytes * (2 if model.precision == "float32" else 1)
    return math.ceil(BASE_BYTES + weights + _forward_bytes(shape, model) + blocks)


def _forward_bytes(shape: WorkShape, model: ModelMemory) -> float:
    tile_pixels = shape.grid.tile**2 * shape.batch
    if model.device.startswith("cuda"):
        return tile_pixels * model.channels * 4  # the rest is the device's own memory
    # With test-time augmentation there are also the sum and the turned copy of a prediction.
    maps_in_flight = 6 if model.tta else 4
    return tile_pixels * (ACTIVATION_BYTES[model.precision] + model.channels * 4 * maps_in_flight)


def _block_bytes(
    shape: WorkShape, stitch: StitchSettings, model: ModelMemory, map_size: Size, scale: Scale
) -> float:
    area = shape.block**2
    reach = min(shape.block, max(map_size.width, map_size.height)) + shape.grid.overlap + 128
    source = reach * reach * scale.x * scale.y * (4 + 4 + 3 + 3 + 3)  # RGBA, its copy, RGB, copies
    item = 4 if stitch.probability_dtype == "float32" else 1
    stored = model.channels + stitch.uncertainty
    maps = area * (1 + 1 + 1) * 2 + area * stored * item * 2 / stitch.probability_downsample**2
    canvas = 0 if stitch.blend == "crop" else area * 4 * (2 * model.channels + 2)
    canvas += area * 4 * 4 if stitch.uncertainty else 0  # entropy, and what it is summed from
    return source + reach * reach * 3 + maps + canvas
