"""Crops of a training run: chosen, cut and augmented, always the same for one key."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Generator

from wsi_seg.core.card import CardClass, ModelCard
from wsi_seg.core.errors import DataError
from wsi_seg.datasets.bcss import BcssRegions
from wsi_seg.datasets.region import IGNORED, ArrayRegion
from wsi_seg.tissue.stain import STAINS
from wsi_seg.training import sampling
from wsi_seg.training.augment import Appearance, Geometry, blank_ground
from wsi_seg.training.config import AugmentationConfig, LossConfig, TrainConfig
from wsi_seg.training.crops import CropBatch, TrainingCrops, ValidationCrops, collate, training_loader
from wsi_seg.training.data import class_weights, count_targets
from wsi_seg.training.sampling import BalancedCrops, EachRegion, EpochSampler, Source, cut

OFF = AugmentationConfig(
    flip=False, angle=0, scale=0, elastic=0, stain=0, color=0, blur=0, chroma=0, jpeg=0, blank=0
)
CLASSES = tuple(CardClass(code=i + 1, name=f"class{i}", color=(i, i, i)) for i in range(4))


def region_of(target: np.ndarray, name: str = "made", label: int | None = None) -> ArrayRegion:
    """A region whose red channel tells its target."""
    image = np.zeros((*target.shape, 3), np.uint8)
    image[..., 0] = np.clip(target, 0, None) * 50
    return ArrayRegion(name, name, image, target.astype(np.int16), 0.5, label=label)


def source_of(*targets: np.ndarray, weight: float = 1.0, name: str = "made") -> Source:
    return Source(name, weight, tuple(region_of(t, f"{name}{i}") for i, t in enumerate(targets)))


def blobs(height: int, width: int) -> np.ndarray:
    return np.kron(np.random.default_rng(1).integers(0, 3, (height // 16, width // 16)), np.ones((16, 16)))


def config_with(augmentation: AugmentationConfig = OFF, **changes) -> TrainConfig:
    values = {
        "model": ModelCard(name="m", classes=CLASSES, groups=(), tile=32),
        "datasets": (BcssRegions(name="made", folder=Path("made")),),
        "crop": 32,
        "batch": 2,
        "steps_per_epoch": 4,
        "augmentation": augmentation,
    }
    return TrainConfig(**(values | changes))


def crops_of(
    source: BalancedCrops | EachRegion, count: int, config: TrainConfig
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (H, W, 3) and targets (H, W) of the first crops."""
    crops = TrainingCrops(source, config)
    items = [crops[0, i] for i in range(count)]
    return [(b.images[0].permute(1, 2, 0).numpy(), b.targets[0].numpy()) for b in items]


# --- which crops --------------------------------------------------------------------------------------


def test_crops_keep_image_and_targets_together():
    for image, target in crops_of(BalancedCrops([source_of(blobs(96, 160))]), 30, config_with(crop=64)):
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        assert np.array_equal(image[..., 0], target * 50)


def test_one_key_is_one_crop_and_another_is_another():
    config = config_with(AugmentationConfig(angle=20, elastic=2))
    crops = TrainingCrops(BalancedCrops([source_of(blobs(96, 96))]), config)
    seen = set()
    for key in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        torch.manual_seed(7 * key[0])  # what others draw does not matter
        one, again = crops[key], crops[key]
        assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
        seen.add(one.images.numpy().tobytes())
    assert len(seen) == 4
    other = TrainingCrops(BalancedCrops([source_of(blobs(96, 96))]), config.model_copy(update={"seed": 1}))
    assert other[0, 0].images.numpy().tobytes() not in seen


def test_rare_classes_and_light_data_sets_get_their_share():
    rare = np.zeros((128, 128))
    rare[60:68, 60:68] = 1
    source = BalancedCrops([source_of(rare, weight=3), source_of(np.full((128, 128), 2), weight=1)])
    targets = [target for _, target in crops_of(source, 400, config_with())]
    assert np.mean([(t == 2).any() for t in targets]) == pytest.approx(0.25, abs=0.08)
    assert np.mean([(t == 1).any() for t in targets if not (t == 2).any()]) > 0.4  # of 0.4 % of the pixels


def test_every_region_is_seen_once_in_an_epoch():
    regions = [np.full((32, 32), i % 4) for i in range(7)]
    source = EachRegion([source_of(*regions[:3]), source_of(*regions[3:])])
    sampler = EpochSampler(len(source.regions), 0)
    orders = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert all(key[0] == epoch for key in keys)
        orders.append([index for _, index in keys])
        assert sorted(orders[-1]) == list(range(7))
    assert orders[0] != orders[1] != orders[2]
    random = np.random.default_rng(0)
    assert [source.choose(random, i, 32)[0].name for i in range(3)] == ["made0", "made1", "made2"]


def test_a_tile_as_large_as_the_crop_is_seen_whole():
    target = blobs(32, 32)
    ((image, seen),) = crops_of(EachRegion([source_of(target)]), 1, config_with())
    assert np.array_equal(seen, target) and np.array_equal(image[..., 0], target * 50)


@pytest.mark.parametrize("center", [(0, 0), (95, 5), (40, 200), (48, 80)])
def test_crops_are_moved_inside_where_they_fit(center):
    region = region_of(blobs(96, 160))
    image, target = cut(region, center, 64)
    assert image.shape == (64, 64, 3) and (target != IGNORED).all()
    y, x = np.clip(center[0] - 32, 0, 32), np.clip(center[1] - 32, 0, 96)
    assert np.array_equal(target, region.target[y : y + 64, x : x + 64])


def test_a_region_smaller_than_a_crop_goes_on_as_in_a_mirror():
    target = np.arange(20 * 24).reshape(20, 24) % 4
    ((image, seen),) = crops_of(BalancedCrops([source_of(target)]), 1, config_with(crop=64))
    assert np.array_equal(seen[22:42, 20:44], target) and np.array_equal(image[..., 0], seen * 50)
    assert np.array_equal(seen[2:22, 20:44], target[::-1]) and np.array_equal(
        seen[22:42, 44:64], target[:, :3:-1]
    )


def test_nothing_but_ignored_ground():
    with pytest.raises(DataError, match="'empty': its annotations hold nothing but ignored ground"):
        BalancedCrops([source_of(np.full((64, 64), IGNORED), name="empty")])
    between = np.full((64, 64), IGNORED)
    between[17:19, 30:33] = 1  # no coarse pixel is in it
    ((_, seen),) = crops_of(BalancedCrops([source_of(between)]), 1, config_with(crop=64))
    assert (seen == 1).any()


def test_validation_covers_every_pixel_once():
    target = blobs(96, 80)
    crops = ValidationCrops([region_of(target, label=1)], 32)
    items = [crops[i] for i in range(len(crops))]
    assert len(items) == 9 and all(item.labels.tolist() == [1] for item in items)
    seen = torch.cat([item.targets for item in items])
    assert int((seen != IGNORED).sum()) == target.size
    for value in range(3):
        assert int((seen == value).sum()) == (target == value).sum()


def test_two_views_show_one_place_in_two_ways():
    config = config_with(OFF.model_copy(update={"color": 0.5}), loss=LossConfig(consistency=1))
    loader = training_loader(BalancedCrops([source_of(blobs(96, 96))]), config, 8)
    batches: list[CropBatch] = list(loader)
    assert len(batches) == 4
    for batch in batches:
        assert batch.images.shape == (4, 3, 32, 32) and batch.labels.tolist() == [-1] * 4
        assert torch.equal(*batch.targets.chunk(2))
        assert not torch.equal(*batch.images.chunk(2))


def test_batches_from_worker_processes_are_the_same():
    source = BalancedCrops([source_of(blobs(96, 96))])
    config = config_with(AugmentationConfig())
    here = list(training_loader(source, config, 4))
    there = list(training_loader(source, config.model_copy(update={"loader_workers": 1}), 4))
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_collating_keeps_views_apart():
    items = [
        CropBatch(torch.full((2, 1), i), torch.full((2, 1), i), torch.tensor([i, i + 10])) for i in range(3)
    ]
    assert collate(items).labels.tolist() == [0, 1, 2, 10, 11, 12]


def test_balanced_weights_are_median_frequency_over_frequency():
    target = np.repeat([0, 0, 0, 0, 1, 1, 2, 2], 8)[:, None].repeat(64, 1)
    source = source_of(target)
    assert count_targets(source.regions, 4, 1).tolist() == [32 * 64, 16 * 64, 16 * 64, 0]

    class Data:
        sources = (source,)

    weights = class_weights(Data, config_with(loss=LossConfig(class_weights="balanced")))
    assert weights.tolist() == [0.5, 1, 1, 1]
    table = class_weights(Data, config_with(loss=LossConfig(class_weights={"class2": 3})))
    assert table.tolist() == [1, 1, 3, 1]
    assert class_weights(Data, config_with()) is None


# --- geometry -----------------------------------------------------------------------------------------


def turned(config: AugmentationConfig, side: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    geometry = Geometry(config, side)
    image, target = cut(region_of(blobs(256, 256)), (128, 128), geometry.source_side)
    pixels, labels = geometry(image, target, Generator().manual_seed(seed))
    return pixels.permute(1, 2, 0).numpy(), labels.numpy()


@pytest.mark.parametrize(
    "change", [{"scale": 0.3}, {"angle": 30.0}, {"angle": 180.0}, {"elastic": 3.0}, {"flip": True}]
)
def test_geometry_moves_image_and_targets_alike(change):
    different = False
    for seed in range(6):
        image, labels = turned(OFF.model_copy(update=change), seed=seed)
        assert image.shape == (64, 64, 3) and labels.shape == (64, 64)
        assert (labels != IGNORED).all()  # the source is large enough to turn in
        agree = np.abs(image[..., 0].astype(int) - labels * 50) <= 25
        assert agree.mean() > 0.9  # all but the blurred borders
        plain, _ = turned(OFF)
        different |= not np.array_equal(image, plain)
    assert different


def test_flips_and_turns_reach_all_eight_orientations():
    seen = {turned(OFF.model_copy(update={"flip": True}), seed=seed)[1].tobytes() for seed in range(80)}
    assert len(seen) == 8


def test_elastic_deformation_is_as_strong_as_asked():
    geometry = Geometry(OFF.model_copy(update={"elastic": 4.0}), 128)
    side = geometry.source_side
    columns = np.tile(np.arange(side), (side, 1))
    image = np.zeros((side, side, 3), np.uint8)
    shifts = []
    for seed in range(20):
        _, labels = geometry(image, columns.astype(np.int16), Generator().manual_seed(seed))
        plain = columns[(side - 128) // 2 :][:128, (side - 128) // 2 :][:, :128]
        inside = labels.numpy() != IGNORED
        shifts.append((labels.numpy() - plain)[inside])
    assert 2 < np.concatenate(shifts).std() < 5


# --- appearance ---------------------------------------------------------------------------------------


def images(n: int = 3, side: int = 16) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=Generator().manual_seed(0)) * 0.9 + 0.05


def look(config: AugmentationConfig, seed: int = 3) -> Appearance:
    return Appearance(config, Generator().manual_seed(seed))


def test_no_augmentation_changes_nothing():
    assert torch.equal(look(OFF)(images()), images())


@pytest.mark.parametrize("name", ["stain", "color", "blur", "chroma", "jpeg"])
def test_each_change_is_bounded_repeatable_and_keeps_its_input(name):
    config = OFF.model_copy(update={name: 0.9})
    given = images()
    out = look(config)(given)
    assert torch.equal(out, look(config)(given)) and not torch.equal(out, given)
    assert out.shape == given.shape and float(out.min()) >= 0 and float(out.max()) <= 1
    assert torch.equal(given, images())


def test_coarse_color_keeps_the_luma():
    given = images() * 0.4 + 0.3  # far from black and white, so that nothing is clipped
    out = look(OFF.model_copy(update={"chroma": 1.0}))(given)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    assert torch.allclose((out * weights).sum(1), (given * weights).sum(1), atol=1e-5)
    assert float((out - out.mean(1, keepdim=True)).var()) < float((given - given.mean(1, keepdim=True)).var())


def test_blank_ground_is_white_and_labeled_so():
    for seed in range(8):
        given, target = images(1)[0], torch.ones(16, 16, dtype=torch.int64)
        image, labels = blank_ground(given, target, 1.0, -5, Generator().manual_seed(seed))
        blank = labels == -5
        assert 0 < float(blank.float().mean()) <= 0.6
        assert float(image.permute(1, 2, 0)[blank].min()) > 0.8
        assert torch.equal(image.permute(1, 2, 0)[~blank], given.permute(1, 2, 0)[~blank])
        assert bool((target == 1).all()) and torch.equal(given, images(1)[0])
    same = blank_ground(given, target, 0.0, -5, Generator().manual_seed(0))
    assert torch.equal(same[0], given) and torch.equal(same[1], target)


def test_stains_are_scaled_in_optical_density():
    given = images(1, 4)
    out = look(OFF.model_copy(update={"stain": 0.4}), 7)(given)
    draw = look(OFF, 7)
    gain = (1 + 0.4 * (2 * draw._uniform(1, 3) - 1))[0].double().numpy()
    offset = (0.04 * (2 * draw._uniform(1, 3) - 1))[0].double().numpy()
    stains = np.array(STAINS)
    for y in range(4):
        for x in range(4):
            density = -np.log(given[0, :, y, x].double().numpy())
            amounts = np.linalg.solve(stains.T, density) * gain + offset
            expected = np.clip(np.exp(-np.clip(stains.T @ amounts, 0, None)), 0, 1)
            assert out[0, :, y, x].numpy() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_devices_share_an_epoch_out_without_overlap(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(world):
        monkeypatch.setattr(sampling, "_rank", lambda rank=rank: rank)
        monkeypatch.setattr(sampling, "_world", lambda: world)
        sampler = EpochSampler(20, seed=3)
        sampler.set_epoch(4)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler) == 20 // world
    everything = [key for share in shares for key in share]
    assert len(set(everything)) == len(everything)
    # All devices do as many steps, so fewer than one crop for each is left to the next epoch's order.
    assert 20 - len(everything) < world
    assert {epoch for epoch, _ in everything} == {4}
