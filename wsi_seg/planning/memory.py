"""Estimates of the memory of a run, before it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from wsi_seg.core.geometry import Scale, Size
from wsi_seg.planning.grid import Grid
from wsi_seg.planning.stitch_settings import StitchSettings
from wsi_seg.slides.slide import SOURCE_SIDE

# Resident memory of the interpreter with torch and the readers loaded, without any work; measured with
# benchmarks/memory.py, and a tenth more, as what stages leave behind stays with the process.
BASE_BYTES = 950 * 2**20
READER_CACHE_BYTES = 48 * 2**20
# Level pixels while they are read and reduced, in bytes each: RGB, its part inside the slide and Pillow's
# copy; other readers than our own add RGBA, what lies behind it, and copies of both.
READ_BYTES = {"tiff": 10}
READ_BYTES_OTHERS = 22
# Memory of a forward pass in that of its activations: the rest is what libraries take for themselves, and
# what lies between arrays of many sizes and fits none; 1.3 to 2.1 were seen for tiles of 896² to 1536².
SLACK = 2.2
# Where a forward pass was measured in a process of its own, the rest is in that already, but for other sizes.
MEASURED_SLACK = 1.25
# Forward passes at a time take no more than this together, if one alone does not: passes over large tiles use
# several cores well, and need not be many.
PASSES_BYTES = 2 * 2**30
# OpenVINO keeps memory of its own for each layer: 2.8 to 3.6 times as much, measured with `bcss-demo`.
OPENVINO_SLACK = 4.0


@dataclass(frozen=True, slots=True)
class WorkShape:
    """Sizes of the pieces of work, which decide the memory that it takes."""

    grid: Grid
    block: int
    """Side in map pixels."""
    batch: int
    workers: int
    """Blocks in flight."""
    passes: int = 1
    """Forward passes at a time."""


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """Sizes that decide the memory of a model."""

    channels: int
    weights_bytes: int
    """As stored."""
    activation_bytes: float
    """Most bytes of activations that are alive at once, per input pixel."""
    device: str
    precision: str
    tta: bool
    measured: bool = False
    """The activations were measured as memory of a process."""


@dataclass(frozen=True, slots=True)
class SourceMemory:
    """Sizes that decide the memory of reading."""

    map_size: Size
    """Of the whole map."""
    scale: Scale
    """Pixels of the level that is read per map pixel."""
    reader: str


def project_memory(shape: WorkShape, stitch: StitchSettings, model: ModelMemory, source: SourceMemory) -> int:
    """Return an upper estimate of the bytes that one process holds.

    Args:
        shape: tile, block, batch and blocks in flight.
        stitch: how tiles become maps.
        model: the network.
        source: what is read.
    """
    block = _read_bytes(shape, source) + _map_bytes(shape, stitch, model) + _tile_bytes(shape, stitch, model)
    weights = 2 * model.weights_bytes * (2 if model.precision == "float32" else 1)
    forward = shape.passes * _forward_bytes(shape, model)
    return math.ceil(BASE_BYTES + weights + forward + shape.workers * block)


def passes_at_a_time(grid: Grid, batch: int, model: ModelMemory, most: int) -> int:
    """Return how many forward passes at a time are worth their memory, 1 … `most`."""
    one = _forward_bytes(WorkShape(grid, grid.tile, batch, 1), model)
    return max(1, min(most, int(PASSES_BYTES // one)))


def _forward_bytes(shape: WorkShape, model: ModelMemory) -> float:
    """Return what one forward pass takes."""
    tile_pixels = shape.grid.tile**2 * shape.batch
    if model.device.startswith("cuda"):
        return tile_pixels * 3  # the rest is the device's own memory
    slack = MEASURED_SLACK if model.measured else SLACK
    slack = OPENVINO_SLACK if model.device == "openvino" else slack
    # When the network is done there are its logits and their softmax.
    return tile_pixels * slack * max(model.activation_bytes, 2 * model.channels * 4)


def _tile_bytes(shape: WorkShape, stitch: StitchSettings, model: ModelMemory) -> float:
    """Return what a block's last prediction takes while it is stitched."""
    used = (shape.grid.tile - 2 * stitch.margin) ** 2 * shape.batch
    # The probabilities, their product with the mask, and half as much for sums and indices; with test-time
    # augmentation also the sum and the turned copy of a prediction.
    maps_in_flight = 4.5 if model.tta else 2.5
    # Predictions and their inputs that wait for the block.
    waiting = shape.passes * (used * model.channels * 4 + shape.grid.tile**2 * shape.batch * 3)
    return used * model.channels * 4 * maps_in_flight + waiting


def _read_bytes(shape: WorkShape, source: SourceMemory) -> float:
    """Return what reading a block takes: its pixels, and the level pixels of the panel being reduced."""
    longest = max(source.map_size.width, source.map_size.height)
    reach = min(shape.block, longest) + shape.grid.tile - shape.grid.stride
    panel = 1.0
    for scale in (source.scale.x, source.scale.y):
        panel *= reach if source.scale == Scale(1, 1) else min(reach * scale, 2 * SOURCE_SIDE) + 2 * scale + 2
    each = READ_BYTES.get(source.reader, READ_BYTES_OTHERS)
    return reach * reach * 3 + panel * each + READER_CACHE_BYTES


def _map_bytes(shape: WorkShape, stitch: StitchSettings, model: ModelMemory) -> float:
    """Return what the maps of a block take while they are made and written."""
    area = shape.block**2
    item = 4 if stitch.probability_dtype == "float32" else 1
    stored = (model.channels if stitch.stored is None else len(stitch.stored)) + stitch.uncertainty
    maps = area * (1 + 1 + 1) * 2 + area * stored * item * 2 / stitch.probability_downsample**2
    canvas = 0 if stitch.blend == "crop" else area * 4 * (2 * model.channels + 2)
    canvas += area * 4 * 4 if stitch.uncertainty else 0  # entropy, and what it is summed from
    return maps + canvas
