"""Glass within tissue gets a class of its own; classes that were hardly seen take no part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wsi_seg.core.card import CardClass, ModelCard
from wsi_seg.core.errors import DataError
from wsi_seg.datasets.bcss import BcssRegions
from wsi_seg.datasets.region import IGNORED, ArrayRegion, not_class
from wsi_seg.datasets.split import Parts
from wsi_seg.training.assessed import assessed_channels, card_of_data, not_assessed, trained_pixels
from wsi_seg.training.augment import curved_area
from wsi_seg.training.config import TrainConfig
from wsi_seg.training.crops import CropBatch, blank_target
from wsi_seg.training.data import TrainingData
from wsi_seg.training.glass import glass_of
from wsi_seg.training.sampling import BalancedCrops, Source
from wsi_seg.training.task import SegmentationTask

TUMOR, STROMA, FAT, BACKGROUND = range(4)
NAMES = ("tumor", "stroma", "fat", "background")
CLASSES = tuple(CardClass(code=i + 1, name=name, color=(i, i, i)) for i, name in enumerate(NAMES))
SIDE = 160


def made_config(**changes) -> TrainConfig:
    values = {
        "model": ModelCard(name="made", classes=CLASSES, groups=(), mpp=0.5),
        "datasets": (BcssRegions(name="made", folder=Path("made"), mpp=0.5),),
        "steps_per_epoch": 1,
        "glass": {"class_name": "background", "wide_classes": ["fat"]},
    }
    return TrainConfig(**(values | changes))


def disc(y: int, x: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


# Radii at 0.5 µm/px: a fat cell and a lumen as wide, a cleft, a speck.
CELL, WIDE, LUMEN, CLEFT, SPECK = (
    disc(*place) for place in ((40, 40, 20), (40, 120, 20), (120, 40, 8), (120, 120, 6), (70, 80, 1))
)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Return an image and targets: white holes in tissue that is tumor above and stroma below."""
    image = np.full((SIDE, SIDE, 3), (190, 110, 160), np.uint8)
    image[CELL | WIDE | LUMEN | CLEFT | SPECK] = 240
    target = np.full((SIDE, SIDE), TUMOR, np.int16)
    target[SIDE // 2 :] = STROMA
    target[CELL | CLEFT] = FAT
    return image, target


def test_narrow_bright_ground_is_glass_and_wide_is_fat_or_unknown():
    image, target = scene()
    before = target.copy()
    out = glass_of(made_config()).relabeled(image, target)
    assert np.array_equal(target, before)
    inner = {"cell": disc(40, 40, 16), "wide": disc(40, 120, 16), "lumen": disc(120, 40, 6)}
    assert (out[inner["cell"]] == FAT).all() and (out[inner["wide"]] == IGNORED).all()
    assert (out[inner["lumen"]] == BACKGROUND).all()
    # A cleft that the annotation calls fat is none: glass, and nothing certain on its border.
    assert (out[disc(120, 120, 4)] == BACKGROUND).all() and not (out[CLEFT] == FAT).any()
    assert (out[SPECK] == TUMOR).all()
    tissue = image[..., 0] == 190
    changed = (out != target) & tissue
    assert changed.mean() < 0.02  # rims


def test_glass_replaces_partial_labels_but_not_ignored_ground():
    image, target = scene()
    glass = glass_of(made_config())
    inner = disc(120, 40, 6)
    assert (glass.relabeled(image, np.full_like(target, not_class(TUMOR)))[inner] == BACKGROUND).all()
    assert (glass.relabeled(image, np.full_like(target, IGNORED)) == IGNORED).all()
    dark = np.full_like(image, 100)
    assert glass.relabeled(dark, target) is target


def test_pasted_glass_gets_the_class():
    assert blank_target(made_config()) == BACKGROUND
    area = curved_area(64, 0.25, torch.Generator().manual_seed(3))
    assert 0.2 < float(area.float().mean()) < 0.3
    with pytest.raises(ValueError, match="glass or blank_excludes, not both"):
        made_config(blank_excludes="tumor")
    with pytest.raises(ValueError, match="class 'glas' is none of the model's classes"):
        made_config(glass={"class_name": "glas"})


def made_data(target: np.ndarray, image: np.ndarray | None = None) -> TrainingData:
    image = np.zeros((*target.shape, 3), np.uint8) if image is None else image
    region = ArrayRegion("made", "made", image, target, 0.5, files=(Path("made.png"),))
    source = Source("made", 1.0, (region,))
    parts = Parts((region,), (), (), ())
    return TrainingData(("made",), (parts,), (source,), BalancedCrops([source]), 8)


def test_training_pixels_are_counted_with_glass_in_them():
    image, target = scene()
    config = made_config()
    pixels = trained_pixels(made_data(target, image), config)
    out = glass_of(config).relabeled(image, target)
    assert pixels == {name: int((out == i).sum()) for i, name in enumerate(NAMES)}
    plain = trained_pixels(made_data(target, image), made_config(glass=None))
    assert plain == {name: int((target == i).sum()) for i, name in enumerate(NAMES)}


def test_classes_with_few_pixels_are_not_assessed():
    target = np.full((64, 64), TUMOR, np.int16)
    target[:, 32:] = STROMA
    target[:3, :3] = FAT
    config = made_config(glass=None, assessed_pixels=10)
    pixels = trained_pixels(made_data(target), config)
    channels = assessed_channels(pixels, config)
    assert channels == (TUMOR, STROMA)
    card = card_of_data(made_data(target), config)
    assert card.assessed == ("tumor", "stroma") and card.trained_pixels == pixels
    (line,) = not_assessed(card, config)
    assert line == "not assessed, with fewer than 10 training pixels: fat (9 pixels), 1 class without any"
    all_of_them = made_config(glass=None, assessed_pixels=0)
    assert assessed_channels(pixels, all_of_them) is None
    assert not_assessed(card_of_data(made_data(target), all_of_them), all_of_them) == ()
    only = {"tumor": 500, "stroma": 0, "fat": 0, "background": 0}
    assert assessed_channels(only, config) is None  # taught by what is not tumor alone
    with pytest.raises(DataError, match="no class has 1000 training pixels, the most is 500; add data"):
        assessed_channels(only, made_config(glass=None))


def test_channels_that_are_not_assessed_take_no_part():
    """The loss is that of a network without them, and their logits get no gradient."""
    config = made_config(glass=None)
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 4, 8, 8, generator=random, requires_grad=True)
    targets = torch.randint(-1, 4, (2, 8, 8), generator=random)
    targets[0, :2] = not_class(BACKGROUND)
    targets[1, :2] = not_class(STROMA)
    batch = CropBatch(torch.empty(0), targets, torch.full((2,), -1))
    network = torch.nn.Module()
    network.encoder = torch.nn.Identity()
    kept = (TUMOR, BACKGROUND)
    task = SegmentationTask(network, config, None, 1, kept)
    loss = sum(v for k, v in task._terms(*_pair(task, logits, batch)).items() if k != "logits")
    loss.backward()
    assert logits.grad[:, [STROMA, FAT]].abs().max() == 0 < logits.grad[:, list(kept)].abs().max()
    remapped = torch.full_like(targets, IGNORED)
    for new, old in enumerate(kept):
        remapped[targets == old] = new
        remapped[targets == not_class(old)] = not_class(new)
    small = SegmentationTask(network, config, None, 1)
    terms = small._terms(logits[:, list(kept)].detach(), None, batch._replace(targets=remapped))
    assert float(loss.detach()) == pytest.approx(float(terms["cross_entropy"] + terms["dice"]))


def _pair(task, logits, batch):
    logits, batch = task._assessed(logits, batch)
    return logits, None, batch
