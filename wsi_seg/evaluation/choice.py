"""Choice of the regions of a data set to evaluate, and of the classes that their annotations know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wsi_seg.core.errors import DataError
from wsi_seg.datasets.base import Dataset
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, not_class
from wsi_seg.datasets.split import Part, Parts
from wsi_seg.evaluation.config import EvaluateConfig

PartChoice = Part | Literal["all"]


@dataclass(frozen=True, slots=True)
class Choice:
    """Regions whose annotations tell the same."""

    name: str
    regions: tuple[AnnotatedRegion, ...]
    known: int | None
    """None: they tell all classes apart. A channel: they tell this class from everything else."""
    notes: tuple[str, ...]


def choose_regions(data: EvaluateConfig, scheme: LabelScheme, part: PartChoice) -> list[Choice]:
    """Load all data sets and return what is to be evaluated.

    Raises:
        DataError: see `Dataset.parts`; or the part of all of them is empty.
    """
    found = [choice for dataset in data.datasets for choice in _choices(dataset, data, scheme, part)]
    if not found:
        names = ", ".join(dataset.name for dataset in data.datasets)
        raise DataError(
            f"{names}: no region is in the {part} part; choose another with --part, or split one off with "
            "split: {test: 0.2}"
        )
    return found


def _choices(
    dataset: Dataset, data: EvaluateConfig, scheme: LabelScheme, part: PartChoice
) -> Iterator[Choice]:
    parts = dataset.parts(data.data_dir, scheme)
    regions, note = choose_part(dataset, parts, part)
    known = None if dataset.known_class is None else scheme.channel(dataset.known_class, dataset.name)
    by_known = divide_by_truth(regions, known)
    for channel, alike in by_known.items():
        name = dataset.name if channel is None or len(by_known) == 1 else _named(dataset, scheme, channel)
        notes = [*parts.notes, *([note] if note else [])]
        if dataset.split.by == "columns" and part in ("validation", "test"):
            notes.append(
                "The split is by columns: other parts of the same images are for training, which makes these "
                "figures optimistic."
            )
        if channel is not None:
            notes.append(
                f"The annotations tell {scheme.classes[channel].name} from everything else and no more; so "
                "do the tables."
            )
        yield Choice(name, tuple(alike), channel, tuple(notes))


def _named(dataset: Dataset, scheme: LabelScheme, channel: int) -> str:
    return f"{dataset.name}: {scheme.classes[channel].name}"


def choose_part(dataset: Dataset, parts: Parts, part: PartChoice) -> tuple[tuple[AnnotatedRegion, ...], str]:
    """Return the regions of a part and a sentence on how they were chosen, "" where nothing is to be said."""
    everything = (*parts.training, *parts.validation, *parts.test)
    if part == "all" or (part == "test" and not parts.test and dataset.weight == 0):
        return everything, "All of it; whether the model saw any of it in training is not known here."
    if part == "training":
        return parts.training, "The training part: what a model remembers, not what it does on other images."
    return parts.of(part), ""


def divide_by_truth(
    regions: Sequence[AnnotatedRegion], known: int | None
) -> dict[int | None, list[AnnotatedRegion]]:
    """Return the regions by the class that their annotations tell from everything else; None: all classes.

    `known` is the only channel that is known, as far as the configuration says one.
    """
    if known is not None:
        return {known: list(regions)} if regions else {}
    partial = {region.name: _partly_known(region) for region in regions}
    channels = sorted(set(partial.values()) - {None}, key=str)
    divided: dict[int | None, list[AnnotatedRegion]] = {}
    for region in regions:
        channel = partial[region.name]
        if channel is None and channels:
            # All of it may be of a class that other images of the data set tell from everything else.
            present = set(np.unique(region.coarse_targets(1)).tolist()) - {IGNORED}
            channel = next((c for c in channels if present <= {c}), None)
        divided.setdefault(channel, []).append(region)
    return divided


def _partly_known(region: AnnotatedRegion) -> int | None:
    """Return the channel of which some pixel is only known not to be it."""
    lowest = int(region.coarse_targets(1).min(initial=IGNORED))
    return None if lowest == IGNORED else not_class(lowest)  # which is its own inverse
