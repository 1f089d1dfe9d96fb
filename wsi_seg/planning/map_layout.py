"""The levels, blocks and shards of a slide's maps; plain arithmetic, free of zarr."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wsi_seg.core.classes import RGB, ClassGroup, TissueClass, find_channels
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Size
from wsi_seg.planning.settings import ProbabilityDtype

Kind = Literal["probabilities", "classes", "tissue", "coverage", "artifacts"]

# The channel after those of the classes, where it is stored.
UNCERTAINTY = ClassGroup("uncertainty", (), (255, 255, 255))

# Longest side, in pixels, of the coarsest label level: one screen.
COARSEST_SIDE = 512

# Sides of the inner chunks, in pixels: what a viewer reads at once.
LABEL_CHUNK = 1024
PROBABILITY_CHUNK = 512


@dataclass(frozen=True, slots=True)
class MapLayout:
    """Content and layout of a store; plain data that can be written as JSON."""

    name: str
    map_size: Size
    mpp: float
    """Microns per full-resolution map pixel."""
    block: int
    """Side of a block in full-resolution map pixels."""
    probability_downsample: int
    """Full-resolution map pixels per probability pixel: 1, 2, 4, 8, …; divides `block`."""
    probability_dtype: ProbabilityDtype
    """`uint8` stands for value / 255."""
    classes: tuple[TissueClass, ...]
    uncertainty: bool = False
    """One more channel holds the uncertainty, see `stitch.StitchSettings`."""
    artifacts: tuple[TissueClass, ...] = ()
    """Classes of artifacts; empty: the store has no such labels."""
    stored: tuple[ClassGroup, ...] | None = None
    """Class or group of each of the first probability channels; None: one for each class."""

    def __post_init__(self) -> None:
        sides = (self.map_size.width, self.map_size.height)
        if not all(isinstance(side, int) and side >= 1 for side in sides):  # inf would be halved forever
            raise UsageError(f"a map of {self.map_size} px holds nothing")
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise UsageError(f"{self.mpp} is no number of microns per pixel")
        ds = self.probability_downsample
        if ds < 1 or ds & (ds - 1):
            raise UsageError(f"probability downsample {ds} must be 1, 2, 4, 8, …")
        if self.block < 1 or self.block % ds:
            raise UsageError(f"block {self.block} must be a multiple of the probability downsample {ds}")
        if self.probability_dtype not in ("uint8", "float32"):
            raise UsageError(f"probabilities are stored as uint8 or float32, not {self.probability_dtype!r}")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The pyramids of the store."""
        image: tuple[Kind, ...] = ("probabilities",) if self.channels else ()
        return (*image, "classes", "tissue", "coverage", *(("artifacts",) if self.artifacts else ()))

    @property
    def channels(self) -> tuple[ClassGroup, ...]:
        """Content of each probability channel: a class or group, then the uncertainty where it is stored."""
        stored = self.stored
        if stored is None:
            stored = tuple(c.alone for c in self.classes)
        return (*stored, UNCERTAINTY) if self.uncertainty else stored

    def find_channels(self, codes: Iterable[int]) -> tuple[int, ...] | None:
        """Return the channels that add up to the probability of some classes; None: it is not stored."""
        return find_channels((channel.codes for channel in self.channels), codes)

    @property
    def level_count(self) -> int:
        """Levels of each pyramid."""
        return level_count(self.map_size)

    def downsample(self, kind: Kind, level: int) -> int:
        """Return full-resolution map pixels per pixel of this level."""
        return (self.probability_downsample if kind == "probabilities" else 1) << level

    @property
    def block_levels(self) -> int:
        """Levels of which a block is one shard, from level 0 on; the others are built from them.

        With level 1 a block has done three quarters of the work of its pyramid without reading anything; with
        more of them the files would be many and small.
        """
        halves = (self.block // self.probability_downsample) % 2 == 0
        return min(self.level_count, 2 if halves else 1)

    def shard_side(self, kind: Kind, level: int) -> int:
        """Return the side of a shard in pixels of its own level."""
        side = self.block // self.downsample(kind, 0)
        return side >> level if level < self.block_levels else side

    def chunk_side(self, kind: Kind, level: int) -> int:
        """Return the side of an inner chunk: the largest divisor of the shard's side that is small enough."""
        side = self.shard_side(kind, level)
        most = PROBABILITY_CHUNK if kind == "probabilities" else LABEL_CHUNK
        return next(d for d in range(min(side, most), 0, -1) if side % d == 0)

    def size(self, kind: Kind, level: int) -> Size:
        return level_size(self.map_size, self.downsample(kind, level))

    def to_json(self) -> dict[str, Any]:
        plain = dataclasses.asdict(self)
        unused = {"artifacts": not self.artifacts, "stored": self.stored is None}
        return {key: value for key, value in plain.items() if not unused.get(key)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> MapLayout:
        """Return the layout of which `data` is the JSON.

        Raises:
            KeyError, TypeError, ValueError: something is missing or of the wrong type.
            UsageError: a value is wrong.
        """
        named: dict[str, Any] = {
            "classes": _classes(data["classes"]),
            "artifacts": _classes(data.get("artifacts", ())),
        }
        if data.get("stored") is not None:
            named["stored"] = tuple(
                ClassGroup(g["name"], tuple(g["codes"]), _rgb(g["color"])) for g in data["stored"]
            )
        return cls(**{**data, **named, "map_size": Size(**data["map_size"])})


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One shard of one pyramid level; plain data."""

    kind: Kind
    level: int
    ix: int
    iy: int


def output_bytes(layout: MapLayout, analyzed_fraction: float = 1.0) -> int:
    """Return an upper estimate of the store's bytes: as if nothing compressed. Of a slide without faults,
    whose coverage layer is empty.

    Args:
        layout: of the store.
        analyzed_fraction: share of the blocks that are analyzed; others take no room.
    """
    channels, item = len(layout.channels), np.dtype(layout.probability_dtype).itemsize
    values = 0
    for level in range(layout.level_count):
        labels, image = layout.size("classes", level), layout.size("probabilities", level)
        values += (
            2 + bool(layout.artifacts)
        ) * labels.width * labels.height + channels * item * image.width * image.height
    # Shard indices take 16 bytes for each inner chunk of up to 1 MB; metadata a few kB a level.
    return int(values * analyzed_fraction * 1.001) + layout.level_count * 16_384


def _classes(data: Iterable[dict[str, Any]]) -> tuple[TissueClass, ...]:
    return tuple(TissueClass(c["code"], c["name"], _rgb(c["color"])) for c in data)


def _rgb(color: Sequence[int]) -> RGB:
    red, green, blue = color
    return red, green, blue


def level_count(size: Size) -> int:
    """Return how many levels it takes to halve `size` until its longer side is at most `COARSEST_SIDE`."""
    side, count = max(size.width, size.height), 1
    while side > COARSEST_SIDE:
        side = -(-side // 2)
        count += 1
    return count


def level_size(size: Size, downsample: int) -> Size:
    """Return `size` at 1 / `downsample`; a pixel that is only partly inside counts."""
    return Size(-(-size.width // downsample), -(-size.height // downsample))
