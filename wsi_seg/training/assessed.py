"""Classes that a training may predict: those that it saw on enough pixels."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box, Size
from wsi_seg.datasets.domain import measure_domain
from wsi_seg.training.config import TrainConfig
from wsi_seg.training.data import TrainingData, count_targets
from wsi_seg.training.glass import glass_of

# Side of the parts in which regions are read to find glass, and how many of a data set are read at most: of
# larger ones every second, third, … part stands for its neighbors.
PART = 1024
MOST_PARTS = 64


def trained_pixels(data: TrainingData, config: TrainConfig) -> dict[str, int]:
    """Count the training pixels of each class, by name, at the model's resolution and with glass in them.

    Pixels of which only is known what they are not count for none.
    """
    classes = config.model.classes
    glass = glass_of(config)
    counts = np.zeros(len(classes), np.int64)
    for source in data.sources:
        if glass is None:
            counts += count_targets(source.regions, len(classes), 1)
            continue
        parts = [(region, box) for region in source.regions for box in _parts(region.size)]
        every = -(-len(parts) // MOST_PARTS)
        for region, box in parts[::every]:
            target = glass.relabeled(*region.read(box))
            counts += every * np.bincount(target[target >= 0], minlength=len(classes))
    return {c.name: int(count) for c, count in zip(classes, counts, strict=True)}


def _parts(size: Size) -> Iterator[Box]:
    for y in range(0, size.height, PART):
        for x in range(0, size.width, PART):
            yield Box(x, y, min(size.width, x + PART), min(size.height, y + PART))


def assessed_channels(pixels: dict[str, int], config: TrainConfig) -> tuple[int, ...] | None:
    """Return the output channels that the model may predict; None: all.

    Args:
        pixels: from `trained_pixels`.
        config: `assessed_pixels` is the least; a class named by `known_class` teaches what is not of it
            too, so where only one class would be left, all stay.

    Raises:
        DataError: no class has enough pixels.
    """
    counts = [pixels[c.name] for c in config.model.classes]
    enough = tuple(i for i, count in enumerate(counts) if count >= config.assessed_pixels)
    if not enough:
        raise DataError(
            f"no class has {config.assessed_pixels} training pixels, the most is {max(counts)}; add data, or "
            "lower assessed_pixels"
        )
    return None if len(enough) in (1, len(counts)) else enough


def card_of_data(data: TrainingData, config: TrainConfig) -> ModelCard:
    """Return the configuration's card, completed by what the data teach; raises as `assessed_channels`."""
    card, pixels = config.model, trained_pixels(data, config)
    find_channels = _kept_channels if config.keep_assessed else assessed_channels
    channels = find_channels(pixels, config)
    assessed = None if channels is None else tuple(card.classes[i].name for i in channels)
    known = {
        "traced": card.traced_names,
        "trained_pixels": pixels,
        "assessed": assessed,
        "domain": card.domain or measure_domain(data.regions, card.mpp),
    }
    return card.model_copy(update=known)


def _kept_channels(pixels: dict[str, int], config: TrainConfig) -> tuple[int, ...] | None:
    """Return the channels that are assessed by the card, or have enough pixels now; None: all."""
    earlier = config.model.assessed_channels
    if earlier is None:
        return None
    enough = {i for i, c in enumerate(config.model.classes) if pixels[c.name] >= config.assessed_pixels}
    found = tuple(sorted(enough.union(earlier)))
    return None if len(found) == len(config.model.classes) else found


def not_assessed(card: ModelCard, config: TrainConfig) -> tuple[str, ...]:
    """Return a line that names the classes that the model will not predict; none where it predicts all."""
    if card.assessed is None or card.trained_pixels is None:
        return ()
    left = {name: count for name, count in card.trained_pixels.items() if name not in card.assessed}
    seen = [f"{name} ({count} pixels)" for name, count in left.items() if count]
    unseen = len(left) - len(seen)
    some = [*seen, *([f"{unseen} class{'es' * (unseen != 1)} without any"] if unseen else [])]
    return (f"not assessed, with fewer than {config.assessed_pixels} training pixels: {', '.join(some)}",)
