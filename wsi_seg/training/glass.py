"""Glass that shows through tissue, found by its brightness and given a class of its own.

Annotations give clefts, lumens and retraction gaps the class of the tissue around them, or call them fat. A
network that learns so paints glass as tissue. Fat cells are as bright, and wider.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsi_seg.datasets.region import IGNORED, Pixels, Targets
from wsi_seg.training.config import TrainConfig

# Standard deviation of the smoothing before brightness is judged, micrometers.
SMOOTHING_UM = 0.5

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Glass:
    """Rule by which pixels become glass, in pixels of the model."""

    channel: int
    """Output channel of glass."""
    brightness: float
    narrow: float
    wide: float
    """Radii."""
    wide_channels: tuple[int, ...]
    """Classes that stay what they are where glass would be wide."""
    smoothing: float

    def relabeled(self, image: Pixels, target: Targets) -> Targets:
        """Return the targets with glass in them.

        Bright ground narrower than `narrow` stays as annotated. Up to `wide` it is glass, whatever the
        annotation, unless that is ignored. Wider ground may be glass or a fat cell: it keeps the classes of
        `wide_channels`; of any other class it is ignored. So is ground of `wide_channels` away from it.

        Args:
            image: uint8 RGB (h, w, 3).
            target: int16 (h, w), see `wsi_seg.datasets.region`; left as it is.
        """
        darkest = ndimage.gaussian_filter(image.min(axis=-1).astype(np.float32), self.smoothing)
        bright = darkest >= self.brightness
        if not bright.any():
            return target
        seen = _opened(bright, self.narrow)
        wide = _opened(seen, self.wide, self.narrow)
        fat = np.isin(target, self.wide_channels)
        glass = (seen | (bright & fat)) & ~wide & (target != IGNORED)
        unclear = (wide & ~fat) | (fat & ~wide & ~glass & ~_around(wide, self.wide / 2))
        out = np.where(glass, np.int16(self.channel), target)
        return np.where(unclear, np.int16(IGNORED), out)


def glass_of(config: TrainConfig) -> Glass | None:
    """Return the rule of a configuration; None where it has none."""
    if config.glass is None:
        return None
    mpp, glass = config.model.mpp, config.glass
    return Glass(
        config.channel_of(glass.class_name),
        glass.brightness,
        glass.narrow / mpp,
        glass.wide / mpp,
        tuple(config.channel_of(name) for name in glass.wide_classes),
        SMOOTHING_UM / mpp,
    )


def _opened(mask: Mask, radius: float, slack: float = 0.0) -> Mask:
    """Return the part of a mask that discs of this radius inside it cover, and `slack` pixels around them."""
    return mask & _around(ndimage.distance_transform_edt(mask) > radius, radius + slack)


def _around(mask: Mask, distance: float) -> Mask:
    """Return the pixels in a mask or at most this far from it."""
    if not mask.any():
        return mask
    near: Mask = ndimage.distance_transform_edt(~mask) <= distance
    return near
