"""Crops as the network takes them: chosen, cut, augmented and put into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, not_class
from wsi_seg.training.augment import Appearance, Geometry, blank_ground
from wsi_seg.training.config import TrainConfig
from wsi_seg.training.glass import Glass, glass_of
from wsi_seg.training.sampling import CropSource, EpochSampler, GridCrops, Key, cut


class CropBatch(NamedTuple):
    """Batch of one step. With two views the second half shows the places of the first again."""

    images: Tensor
    """uint8 (V · N, 3, H, W)"""
    targets: Tensor
    """int64 (V · N, H, W), see `wsi_seg.datasets.region`"""
    labels: Tensor
    """int64 (V · N,): image label, -1 where there is none"""


class TrainingCrops(Dataset[CropBatch]):
    """Augmented crops by (epoch, index); the same key gives the same crop, on every machine and worker."""

    def __init__(self, source: CropSource, config: TrainConfig) -> None:
        self._source = source
        self._config = config
        self._geometry = Geometry(config.augmentation, config.crop)
        self._views = 2 if config.loss.consistency else 1
        self._blank = blank_target(config)
        self._glass = glass_of(config)

    def __getitem__(self, key: Key) -> CropBatch:
        seeds = np.random.SeedSequence((self._config.seed, *key))
        torch_seed, numpy_seed = seeds.generate_state(2).tolist()
        random = Generator().manual_seed(torch_seed)
        side = self._geometry.source_side
        region, center = self._source.choose(np.random.default_rng(numpy_seed), key[1], side)
        crop, truth = cut(region, center, side)
        if self._glass is not None:
            truth = self._glass.relabeled(crop, truth)
        pixels, target = self._geometry(crop, truth, random)
        blank = self._config.augmentation.blank
        curved = self._glass is not None
        image, target = blank_ground(pixels.float() / 255, target, blank, self._blank, random, curved)
        look = Appearance(self._config.augmentation, random)
        images = look(image.expand(self._views, -1, -1, -1))
        label = -1 if region.label is None else region.label
        return CropBatch(
            (images * 255 + 0.5).to(torch.uint8),
            target.expand(self._views, -1, -1),
            torch.full((self._views,), label),
        )


class ValidationCrops(Dataset[CropBatch]):
    """The crops of `GridCrops`, as they are but for glass."""

    def __init__(self, regions: Sequence[AnnotatedRegion], side: int, glass: Glass | None = None) -> None:
        self._crops = GridCrops(regions, side)
        self._glass = glass

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, index: int) -> CropBatch:
        image, target, label = self._crops[index]
        if self._glass is not None:
            target = self._glass.relabeled(image, target)
        return CropBatch(
            torch.from_numpy(image).permute(2, 0, 1)[None],
            torch.from_numpy(target.astype(np.int64))[None],
            torch.tensor([label]),
        )


def collate(items: Sequence[CropBatch]) -> CropBatch:
    """Join crops (V, …) into a batch (V · N, …): first all first views, then all second ones."""
    return CropBatch(*(torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*items, strict=True)))


def training_loader(source: CropSource, config: TrainConfig, length: int) -> DataLoader[CropBatch]:
    """Return the batches of an epoch of `length` crops."""
    return DataLoader(
        TrainingCrops(source, config),
        batch_size=config.batch,
        sampler=EpochSampler(length, config.seed),
        collate_fn=collate,
        num_workers=config.loader_workers,
        persistent_workers=config.loader_workers > 0,
        multiprocessing_context="spawn" if config.loader_workers else None,
    )


def validation_loader(regions: Sequence[AnnotatedRegion], config: TrainConfig) -> DataLoader[CropBatch]:
    """Return the batches of all validation regions."""
    crops = ValidationCrops(regions, config.crop, glass_of(config))
    return DataLoader(crops, batch_size=config.batch, collate_fn=collate)


def blank_target(config: TrainConfig) -> int:
    """Return the target of blank glass."""
    if config.glass is not None:
        return config.channel_of(config.glass.class_name)
    if config.blank_excludes is None:
        return IGNORED
    return not_class(config.channel_of(config.blank_excludes))
