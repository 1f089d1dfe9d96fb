"""The data of a training run: loaded, divided, counted and checked before the first epoch starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.classes import canonical_name
from wsi_seg.core.errors import DataError
from wsi_seg.datasets.region import AnnotatedRegion
from wsi_seg.datasets.split import Parts
from wsi_seg.training.config import TrainConfig
from wsi_seg.training.sampling import POSITION_STEP, BalancedCrops, CropSource, EachRegion, Source

NOTHING_HELD_OUT = "no validation or test data: how good the model is on other images is not known"


@dataclass(frozen=True, slots=True)
class TrainingData:
    """The parts of every data set, in the order of the configuration."""

    names: tuple[str, ...]
    parts: tuple[Parts, ...]
    sources: tuple[Source, ...]
    """Regions to train on."""
    crops: CropSource
    crops_per_epoch: int
    """On each device where the configuration gives steps; else on all together."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences that a user must know before the training starts."""
        return (*(note for parts in self.parts for note in parts.notes), describe_parts(self.parts))

    @property
    def regions(self) -> tuple[AnnotatedRegion, ...]:
        """Regions that are trained on."""
        return tuple(region for source in self.sources for region in source.regions)

    @property
    def validation(self) -> tuple[AnnotatedRegion, ...]:
        return tuple(region for part in self.parts for region in part.validation)

    def listing(self) -> list[dict[str, Any]]:
        """Return which region is used for what, as JSON data."""
        return [
            {
                "dataset": name,
                "part": part,
                "region": region.name,
                "group": region.group,
                "patient": region.patient,
                "files": [str(path) for path in region.files],
            }
            for name, parts in zip(self.names, self.parts, strict=True)
            for part in ("training", "validation", "test")
            for region in getattr(parts, part)
        ]


def load_data(config: TrainConfig) -> TrainingData:
    """Load all data sets and check that every class can be learned.

    Raises:
        DataError: see `Dataset.parts`; nothing is left to train on; a class has no training pixel although
            `allow_missing_classes` is false; a data set has no image labels although the model has; an epoch
            would be shorter than a batch; nothing is known of the validation part; a patient or file of one
            data set's training part is held out by another.
    """
    parts = tuple(dataset.parts(config.data_dir, config.scheme) for dataset in config.datasets)
    _check_apart(config, parts)
    _check_validation(config, parts)
    sources = tuple(
        Source(dataset.name, dataset.weight, part.training)
        for dataset, part in zip(config.datasets, parts, strict=True)
        if dataset.weight > 0 and part.training
    )
    if not sources:
        raise DataError("no region is left to train on; the splits put all into validation and test")
    for source in sources:
        if config.model.image_labels and all(region.label is None for region in source.regions):
            raise DataError(
                f"{source.name}: the model has image labels ({', '.join(config.model.image_labels)}) but no "
                "image of this data set has one"
            )
    if not config.allow_missing_classes:
        _check_classes(config, sources)
    crops = EachRegion(sources) if config.sampling == "regions" else BalancedCrops(sources)
    length = sum(len(source.regions) for source in sources)
    if config.steps_per_epoch is not None:
        length = config.steps_per_epoch * config.batch
    if length < config.batch:
        raise DataError(f"an epoch has {length} crops, fewer than a batch of {config.batch}; lower batch")
    names = tuple(dataset.name for dataset in config.datasets)
    return TrainingData(names, parts, sources, crops, length)


def describe_parts(parts: Iterable[Parts]) -> str:
    """Return one line on how much is trained on and held out, and that nothing is where that is so."""
    regions = {p: [r for one in parts for r in one.of(p)] for p in ("training", "validation", "test")}
    counts = ", ".join(f"{of_patients(found)} for {part}" for part, found in regions.items() if found)
    if regions["validation"] or regions["test"]:
        return counts
    return f"{counts}; {NOTHING_HELD_OUT}"


def of_patients(regions: Sequence[AnnotatedRegion]) -> str:
    """Return how many images and patients there are, such as "3 images of 1 patient"."""
    images = len({region.files[0] for region in regions})
    patients = {region.patient for region in regions}
    counted = f"{images} image{'s' * (images != 1)} of "
    if None in patients:
        return counted + "unknown patients"
    return counted + f"{len(patients)} patient{'s' * (len(patients) != 1)}"


def _check_apart(config: TrainConfig, parts: Sequence[Parts]) -> None:
    """Refuse a patient or a file that one data set trains on and another one holds out."""
    trained: dict[str, str] = {}
    for dataset, part in zip(config.datasets, parts, strict=True):
        if dataset.weight > 0:
            trained |= {key: dataset.name for region in part.training for key in _identity(region)}
    for dataset, part in zip(config.datasets, parts, strict=True):
        held_out = (*part.validation, *part.test, *(part.training if dataset.weight == 0 else ()))
        for key in (key for region in held_out for key in _identity(region)):
            if trained.get(key, dataset.name) != dataset.name:
                raise DataError(
                    f"{dataset.name}: {key} is held out here, but {trained[key]} trains on it; hold it out "
                    "of both, or of neither"
                )


def _check_validation(config: TrainConfig, parts: Sequence[Parts]) -> None:
    """Refuse a validation part of which nothing is known: its loss would be 0 in each epoch."""
    held_out = [region for part in parts for region in part.validation]
    if held_out and not any(region.is_labeled or region.label is not None for region in held_out):
        names = ", ".join(d.name for d, part in zip(config.datasets, parts, strict=True) if part.validation)
        raise DataError(f"{names}: the validation part has no pixel of a known class; choose another one")


def _identity(region: AnnotatedRegion) -> tuple[str, ...]:
    file = str(region.files[0].resolve())
    return (file,) if region.patient is None else (file, f"patient {region.patient}")


def class_weights(data: TrainingData, config: TrainConfig) -> NDArray[np.float32] | None:
    """Return the weight (C,) of a pixel by its class; None: all are equal.

    "balanced" is median frequency balancing (Eigen & Fergus 2015, doi:10.1109/ICCV.2015.304) over the
    training pixels; a class without any keeps weight 1.
    """
    table = config.loss.class_weights
    if table == "equal":
        return None
    weights = np.ones(len(config.model.classes), np.float32)
    if isinstance(table, dict):
        for name, weight in table.items():
            weights[config.channel_of(name)] = weight
        return weights
    counts = count_targets((r for s in data.sources for r in s.regions), len(weights), POSITION_STEP)
    seen = counts > 0
    weights[seen] = np.median(counts[seen]) / counts[seen]
    return weights


def count_targets(regions: Iterable[AnnotatedRegion], channels: int, step: int) -> NDArray[np.int64]:
    """Count the pixels of each channel, (channels,), looking at every `step`-th row and column."""
    counts = np.zeros(channels, np.int64)
    for region in regions:
        targets = region.coarse_targets(step)
        counts += np.bincount(targets[targets >= 0], minlength=channels)
    return counts


def _check_classes(config: TrainConfig, sources: Sequence[Source]) -> None:
    channels = len(config.model.classes)
    regions = [region for source in sources for region in source.regions]
    ignored = set(config.ignored_codes)
    needed = np.array([c.code not in ignored for c in config.model.classes])
    # Partial labels teach what a class is not as well.
    for name in {d.known_class for d in config.datasets if d.known_class is not None}:
        needed &= np.array([canonical_name(c.name) != canonical_name(name) for c in config.model.classes])
    missing = needed & (count_targets(regions, channels, POSITION_STEP) == 0)
    if missing.any():
        missing &= count_targets(regions, channels, 1) == 0
    names = [c.name for c, absent in zip(config.model.classes, missing, strict=True) if absent]
    if names:
        raise DataError(
            f"no training pixel of class {', '.join(names)}; leave such classes out of the model, add data, "
            "or set allow_missing_classes: true"
        )
