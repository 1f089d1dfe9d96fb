"""Choice of the crops of a training run; crop (epoch, index) is always the same, so a run can be resumed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, Pixels, Targets

POSITION_STEP = 8  # crop centers are drawn from every 8th pixel, to keep their table small

Key = tuple[int, int]
"""Epoch and index of a crop in it."""


@dataclass(frozen=True, slots=True)
class Source:
    """The training regions of one data set."""

    name: str
    weight: float
    regions: tuple[AnnotatedRegion, ...]


class CropSource(ABC):
    """Chooses a region and a center for each crop."""

    @abstractmethod
    def choose(
        self, random: np.random.Generator, index: int, side: int
    ) -> tuple[AnnotatedRegion, tuple[int, int]]:
        """Return a region and (row, column) of the crop's center in it."""


class BalancedCrops(CropSource):
    """Random crops, balanced over data sets and the classes in them.

    Every crop draws a data set by its weight, then one of the targets found in that data set, then a
    pixel of that target for its center: rare classes are seen as often as common ones.

    Raises:
        DataError: a data set has no labeled pixel to train on.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = [_Positions(source) for source in sources]
        weights = np.array([source.weight for source in sources])
        self._weights = weights / weights.sum()

    def choose(
        self, random: np.random.Generator, index: int, side: int
    ) -> tuple[AnnotatedRegion, tuple[int, int]]:
        source = self._sources[random.choice(len(self._sources), p=self._weights)]
        region, center = source.draw(random)
        jitter = random.integers(-side // 4, side // 4 + 1, 2)
        return region, (int(center[0] + jitter[0]), int(center[1] + jitter[1]))


class EachRegion(CropSource):
    """Every region once in each epoch, in random order given by the index; its crop lies anywhere in it."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.regions = [region for source in sources for region in source.regions]

    def choose(
        self, random: np.random.Generator, index: int, side: int
    ) -> tuple[AnnotatedRegion, tuple[int, int]]:
        region = self.regions[index % len(self.regions)]
        free_y, free_x = max(0, region.size.height - side), max(0, region.size.width - side)
        start_y = int(random.integers(free_y + 1)) if free_y else (region.size.height - side) // 2
        start_x = int(random.integers(free_x + 1)) if free_x else (region.size.width - side) // 2
        return region, (start_y + side // 2, start_x + side // 2)


class _Positions:
    """(row, column) of coarse pixels of one data set, by target; of fine ones where there are none."""

    def __init__(self, source: Source) -> None:
        self._holders: dict[int, list[tuple[AnnotatedRegion, NDArray[np.int32]]]] = {}
        for region in source.regions:
            step, coarse = POSITION_STEP, region.coarse_targets(POSITION_STEP)
            if (coarse == IGNORED).all():  # annotations that lie between the coarse pixels
                step, coarse = 1, region.coarse_targets(1)
            for target in np.unique(coarse).tolist():
                if target != IGNORED:
                    at = np.argwhere(coarse == target) * step + step // 2
                    self._holders.setdefault(target, []).append((region, at.astype(np.int32)))
        if not self._holders:
            raise DataError(f"data set {source.name!r}: its annotations hold nothing but ignored ground")
        self._targets = sorted(self._holders)

    def draw(self, random: np.random.Generator) -> tuple[AnnotatedRegion, NDArray[np.int32]]:
        holders = self._holders[self._targets[random.integers(len(self._targets))]]
        counts = np.array([len(at) for _, at in holders], np.float64)
        region, at = holders[random.choice(len(holders), p=counts / counts.sum())]
        return region, at[random.integers(len(at))]


def cut(region: AnnotatedRegion, center: tuple[int, int], side: int) -> tuple[Pixels, Targets]:
    """Cut side × side pixels, moved inside the region where they fit.

    A smaller region is continued by mirroring, targets too: it was cut out of tissue that goes on, and white
    around it would look like glass.
    """
    height, width = region.size.height, region.size.width
    y = int(np.clip(center[0] - side // 2, 0, max(0, height - side)))
    x = int(np.clip(center[1] - side // 2, 0, max(0, width - side)))
    image, target = region.read(Box(x, y, min(width, x + side), min(height, y + side)))
    missing = [(n // 2, n - n // 2) for n in (side - target.shape[0], side - target.shape[1])]
    if missing == [(0, 0), (0, 0)]:
        return image, target
    return np.pad(image, (*missing, (0, 0)), mode="symmetric"), np.pad(target, missing, mode="symmetric")


class EpochSampler(Sampler[Key]):
    """The keys of one epoch's crops in a random order; each process of a distributed run gets its share.

    Lightning calls `set_epoch` at the start of each epoch.
    """

    def __init__(self, length: int, seed: int) -> None:
        self._length, self._seed, self._epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __iter__(self) -> Iterator[Key]:
        rank, world = _rank(), _world()
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._length)
        for index in order[rank::world][: len(self)].tolist():
            yield self._epoch, index

    def __len__(self) -> int:
        return self._length // _world()


class GridCrops(Sized):
    """The crops that validation sees: regions cut edge to edge, in order."""

    def __init__(self, regions: Sequence[AnnotatedRegion], side: int) -> None:
        self._places = [
            (region, Box.at(x, y, side, side))
            for region in regions
            for y in range(0, region.size.height, side)
            for x in range(0, region.size.width, side)
        ]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Pixels, Targets, int]:
        """Return uint8 (side, side, 3), int16 (side, side) and the image label, -1 for none."""
        region, box = self._places[index]
        image, target = region.read(box)
        return image, target, -1 if region.label is None else region.label


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _rank() -> int:
    return torch.distributed.get_rank() if _distributed() else 0


def _world() -> int:
    return torch.distributed.get_world_size() if _distributed() else 1
