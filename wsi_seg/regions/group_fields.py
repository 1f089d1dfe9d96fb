"""The field whose contours are the outlines of a group: of a whole map, or of one block of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.classes import ClassGroup, TissueClass, find_channels, not_stored
from wsi_seg.core.errors import UsageError
from wsi_seg.maps.fields import FULL, ChannelSum, Unknown
from wsi_seg.regions.contours import ContourLevel, contour_level
from wsi_seg.regions.rings import RingLimits
from wsi_seg.regions.settings import TraceSettings


class MapArrays(Protocol):
    """The maps of one slide, as far as tracing needs them; arrays may be NumPy or Zarr."""

    @property
    def mpp(self) -> float:
        """Microns per map pixel."""

    @property
    def classes(self) -> tuple[TissueClass, ...]:
        """Classes of the labels."""

    @property
    def channels(self) -> tuple[ClassGroup, ...]:
        """Content of each probability channel: a class, the sum of several, or something else."""

    @property
    def labels(self) -> Any:
        """uint8 (y, x): class codes at full map resolution, 0 = not analyzed."""

    @property
    def probabilities(self) -> Any:
        """(c, y, x): uint8 (value / 255) or float32; pixel i covers map pixels [ds * i, ds * (i + 1)). Only
        asked for where there are `channels`.
        """

    @property
    def probability_downsample(self) -> int:
        """Map pixels per probability pixel, the `ds` above; the last pixel may be only partly inside."""

    @property
    def uncertainty(self) -> ChannelSum | None:
        """Uncertainty in the frame of the probabilities; None where it was not stored."""


@dataclass(frozen=True, slots=True)
class _GroupLabels:
    """1 where the label belongs to the group, else 0."""

    labels: Any
    codes: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.labels.shape)

    def __getitem__(self, key: tuple[slice, slice], /) -> NDArray[np.uint8]:
        labels: NDArray[np.uint8] = np.asarray(self.labels[key])
        inside = np.zeros(labels.shape, bool)
        for code in self.codes:  # a group has few, and comparing is quicker than a table
            inside |= labels == code
        return inside.view(np.uint8)


def group_probability(maps: MapArrays, group: ClassGroup, settings: TraceSettings) -> ChannelSum:
    """Return the probability of a group, which is unknown where the labels are traced and it is not stored.

    Raises:
        UsageError: the maps have no class of the group, or its probability is traced and not stored.
    """
    codes = {c.code for c in maps.classes}.intersection(group.codes)
    if not codes:
        names = ", ".join(c.name for c in maps.classes)
        raise UsageError(f"group {group.name!r} has no class of these maps; they hold {names}")
    channels = find_channels((channel.codes for channel in maps.channels), codes)
    downsample = maps.probability_downsample
    if channels is not None:
        return ChannelSum(maps.probabilities, channels, downsample)
    if settings.source == "probabilities":
        raise UsageError(f"{not_stored(group.name, maps.channels)}, or trace labels (--source labels)")
    height, width = (-(-side // downsample) for side in maps.labels.shape)
    return ChannelSum(Unknown((1, height, width)), (0,), downsample)


@dataclass(frozen=True, slots=True)
class TracedField:
    """The field of a group, and the level of the contours that are its outlines."""

    field: ChannelSum | _GroupLabels
    """Of the whole map."""
    level: ContourLevel
    scale: int
    """Map pixels per field pixel."""
    extent: tuple[float, float]
    """Width and height of the map in field pixels."""

    def of_block(self, labels: NDArray[np.uint8], probabilities: NDArray[Any]) -> NDArray[Any]:
        """Return the values in one block of the maps, whose arrays are in memory."""
        if isinstance(self.field, ChannelSum):
            return replace(self.field, probabilities=probabilities)[:, :]
        return replace(self.field, labels=labels)[:, :]


def traced_field(maps: MapArrays, group: ClassGroup, settings: TraceSettings) -> TracedField:
    """Return the field of a group in maps; UsageError as `group_probability` raises it."""
    probability = group_probability(maps, group, settings)
    height, width = maps.labels.shape
    field: ChannelSum | _GroupLabels
    if settings.source == "labels":
        field, threshold, scale = _GroupLabels(maps.labels, group.codes), 1.0, 1
    else:
        field, scale = probability, maps.probability_downsample
        # A hair less, so that 0.6 of 255 means 153 whatever its floating-point product.
        threshold = settings.threshold * (FULL - 1e-9 if probability.dtype == np.uint8 else 1)
    um2_per_pixel = (maps.mpp * scale) ** 2
    limits = RingLimits(settings.min_area_um2 / um2_per_pixel, settings.min_hole_um2 / um2_per_pixel)
    extent = (width / scale, height / scale)
    return TracedField(field, contour_level(field, threshold, extent, limits), scale, extent)
